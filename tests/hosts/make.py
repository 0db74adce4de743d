#!/usr/bin/python3
"""Makes the host files of this folder: kinds of hosts that no test machine can be all of at once.

Facts follow public documentation, which each file names ("documented_by").

Calibration tables are modelled, not measured on such hosts, and each file says how ("calibration_modelled"):

- native: round figures of the order that such a processor has. Only ratios matter to a choice; a fleet compares them.
- bt: what calibration found on the host this was written on (docs/policy.md), times native for loops, and scaled by the
  processor's integer time for what a guest's kernel does. Hosts of 2004 to 2006 take page faults and new processes from
  Adams and Agesen's measurements of a translator instead (3.6 and 6.2 times native, less what kernel code costs anyway).
- hvm/ept, hvm/npt: loops as natively; TLB misses 1.25 times, of two-dimensional page walks (Bhargava et al.), 1.6 and more
  where the host is itself a VM; an exit about a microsecond, nine to eleven times that nested (PVM's comparison).
- hvm/shadow: Adams and Agesen's VT-x figures for page faults and forks (10.3 and 17.7 times native), AMD-V somewhat less.
- hvm/software: this project's measurement of kvm_pvm: some 1.6 million emulated instructions a second.

They serve to test decisions over a wide spread of costs; no figure of them is shown to anybody as one of a real host.
"""

import json
import os

LOOPS = ("integer", "floating", "vector", "memory", "tlb", "code")
ORDER = ("integer", "floating", "vector", "memory", "tlb", "syscall", "fault", "process", "interrupt", "port_io", "virtio", "code")
TIME = 1790000000

# ---- sources --------------------------------------------------------------------------------

ADAMS = "Adams and Agesen, A Comparison of Software and Hardware Techniques for x86 Virtualization, ASPLOS 2006"
BHARGAVA = "Bhargava et al., Accelerating Two-Dimensional Page Walks for Virtualized Systems, ASPLOS 2008"
AGESEN = "Agesen et al., The Evolution of an x86 Virtual Machine Monitor, ACM SIGOPS OSR 44(4), 2010"
PVM = "Huang et al., PVM: Efficient Shadow Paging for Deploying Secure Containers in Cloud-native Environment, SOSP 2023"
SDM = "Intel SDM vol. 3, chapters 24 to 29"
APM = "AMD APM vol. 2, chapter 15"
KVM_DOC = "Linux, Documentation/virt/kvm"
KERNEL_PARAMETERS = "Linux, Documentation/admin-guide/kernel-parameters.txt"

# ---- natively: ns of one operation ------------------------------------------------------------

P4 = dict(integer=14.0, floating=24.0, vector=3.0, memory=9.0, tlb=60.0, code=260, syscall=210, fault=1900, process=230000,
          interrupt=3600, virtio=2600)
XEON = dict(integer=4.2, floating=6.1, vector=0.45, memory=2.1, tlb=9.5, code=75, syscall=95, fault=620, process=78000, interrupt=900,
            virtio=420)
EPYC = dict(integer=4.4, floating=5.8, vector=0.4, memory=1.9, tlb=9.0, code=70, syscall=85, fault=560, process=74000, interrupt=850,
            virtio=400)
CLOUD = dict(integer=6.3, floating=8.1, vector=0.62, memory=2.8, tlb=13.2, code=108, syscall=184, fault=1820, process=240000,
             interrupt=3160, virtio=573)

# ---- modes: (how it was modelled, table) ---------------------------------------------------------


def scaled(native, loops, **events):
    table = {name: round(native[name] * factor, 4) for name, factor in zip(LOOPS, loops)}
    table.update(events)
    return table


def bt(native):
    speed = native["integer"] / 6.3
    events = dict(syscall=75, fault=730, process=43000, interrupt=970, port_io=206, virtio=15000)
    return ("bt: ratios measured on the development host, events scaled by integer speed",
            scaled(native, (1.4, 1.0, 2.3, 3.0, 1.4, 4.8), **{name: ns * speed for name, ns in events.items()}))


def bt_2006(native):
    how, table = bt(native)
    return (how + "; faults and processes after Adams and Agesen", {**table, "fault": native["fault"] * 1.6, "process": native["process"] * 4.2})


def hardware(native, fault=1.0, tlb=1.25, exits=1.3):
    return (f"hvm: loops as natively, TLB misses x{tlb}, faults x{fault}, exits of {exits} us",
            scaled(native, (1.0, 1.0, 1.0, 1.02, tlb, 1.0), syscall=native["syscall"] * .35, fault=native["fault"] * .35 * fault,
                   process=native["process"] * .08 * fault, interrupt=1100 * exits, port_io=1500 * exits, virtio=5200 * exits))


def shadow(native, fault, fork, exits):
    _, table = hardware(native, tlb=1.02, exits=exits)
    return (f"hvm: shadow paging after Adams and Agesen, faults x{fault}, processes x{fork}, exits of {exits} us",
            {**table, "fault": native["fault"] * fault, "process": native["process"] * fork})


EMULATOR = "this KVM cannot emulate the instruction"
SOFTWARE = ("hvm: measured under kvm_pvm on the development host",
            dict(integer=17000.0, floating=EMULATOR, vector=EMULATOR, memory=46000.0, tlb=4000.0, code=400000, syscall="swapgs cannot be executed",
                 fault=430000, process=22000000, interrupt=5000000, port_io=12000, virtio=80000))


def slow(native):
    return ("hvm: a software KVM 30 times slower than bt", {name: 30.0 * ns for name, ns in bt(native)[1].items()})


def figures(table):
    rows = {}
    for name in ORDER:
        value = table.get(name)
        if isinstance(value, str):
            rows[name] = {"cannot_execute": value}
        elif value is not None:
            rows[name] = {"ns": value, "median_ns": round(value * 1.06, 4), "rounds": 80}
    return {"time": TIME, "figures": rows}


# ---- facts --------------------------------------------------------------------------------------------

KERNEL = "Linux 6.1.0"
MODERN = "avx avx2 fma aes pclmulqdq sse4_2 popcnt movbe rdrand rdseed bmi1 bmi2 fsgsbase smep smap pcid"
BARE = dict(under_hypervisor=False, executable_memfd="yes", engines="bt hvm")
VIRTUAL = dict(under_hypervisor=True, executable_memfd="yes", engines="bt hvm")
KVM = dict(kvm_device=True, kvm_opens="yes", kvm_api_version=12, kvm_max_vcpus=1024, kvm_irqchip=True, kvm_access="root:kvm 0660",
           kvm_is_hardware=True, firmware_locked=False)
NO_KVM = dict(kvm_device=False, kvm_is_hardware=False)
INTEL = dict(cpu_vendor="GenuineIntel", cpuid_vmx=True, cpuid_svm=False, vmx=True, svm=False, module_kvm_intel=True,
             module_kvm_amd=False, module_kvm_pvm=False)
AMD = dict(cpu_vendor="AuthenticAMD", cpuid_vmx=False, cpuid_svm=True, vmx=False, svm=True, module_kvm_intel=False,
           module_kvm_amd=True, module_kvm_pvm=False)
EPT = dict(ept=True, unrestricted_guest=True, vpid=True, apicv=True, nested_virtualization=True)


def no_extension(vendor):
    return dict(cpu_vendor=vendor, cpuid_vmx=False, cpuid_svm=False, vmx=False, svm=False, module_kvm_intel=False, module_kvm_amd=False,
                module_kvm_pvm=False)


def size(cores, memory_mib, available_mib, features="", iommu_units=0, iommu_groups=0, **more):
    return dict(cores=cores, memory_mib=memory_mib, available_mib=available_mib, cpu_features=features, iommu_units=iommu_units,
                iommu_groups=iommu_groups, **more)


# ---- hosts ------------------------------------------------------------------------------------------------


def host(name, kind, documented_by, expect, cpu_model, native, modes, *facts, kernel=KERNEL):
    """A file's content. expect: variant, usable and remedy of hvm there. modes: tables by name; None: never measured."""
    merged = {}
    for part in facts:
        merged.update(part)
    merged.update(cpu_model=cpu_model, kernel=kernel)
    calibration, how = None, ["never measured"]
    if modes is not None:
        how = ["native: round figures of such a processor", *(text for text, _ in modes.values())]
        calibration = {"format": 1, "key": {"cpu": cpu_model, "kernel": kernel, "version": "0.1.0"}, "complete": True, "time": TIME,
                       "seconds": 5.0, "native": figures(native), "modes": {mode: figures(table) for mode, (_, table) in modes.items()}}
    return dict(name=name, kind=kind, documented_by=documented_by, calibration_modelled=how,
                expect=dict(zip(("variant", "usable", "remedy"), expect)),
                facts=[{"name": key, "value": value} for key, value in merged.items()], calibration=calibration)


GOLD, CASCADE = "Intel Xeon Gold 6230", "Intel Xeon Platinum 8259CL"
SERVER = size(40, 393216, 380000, MODERN + " avx512f", 4, 92, numa_nodes=2)
OLD_SHADOW = dict(ept=False, unrestricted_guest=False, vpid=False, apicv=False, nested_virtualization=False)

HOSTS = (
    host("p4-2004", "a 2004 processor without VT", [ADAMS, SDM], ("hvm", False, "none: this processor"), "Intel Pentium 4 3.20GHz", P4,
         {"bt": bt(P4)}, BARE, no_extension("GenuineIntel"), NO_KVM, size(2, 2048, 1500), dict(firmware_locked=False)),
    host("vtx-2005", "first-generation VT-x without EPT", [ADAMS, AGESEN, SDM], ("hvm/shadow", True, ""), "Intel Pentium 4 672 3.80GHz", P4,
         {"bt": bt_2006(P4), "hvm": shadow(P4, 9.3, 16.7, 2.6)}, BARE, INTEL, KVM, OLD_SHADOW, size(2, 4096, 3000)),
    host("amdv-2006", "AMD-V without NPT", [AGESEN, BHARGAVA, APM], ("hvm/shadow", True, ""), "AMD Athlon 64 X2 5000+", P4,
         {"bt": bt_2006(P4), "hvm": shadow(P4, 7.0, 12.0, 1.7)}, BARE, AMD, KVM,
         dict(npt=False, avic=False, nested_virtualization=False), size(2, 4096, 3000)),
    host("xeon-ept-iommu", "EPT server, IOMMU on", [SDM, KVM_DOC, KERNEL_PARAMETERS], ("hvm/ept", True, ""), GOLD, XEON,
         {"bt": bt(XEON), "hvm": hardware(XEON)}, BARE, INTEL, KVM, EPT, SERVER),
    host("xeon-ept-noiommu", "EPT server, IOMMU off", [SDM, KVM_DOC, KERNEL_PARAMETERS], ("hvm/ept", True, ""), GOLD, XEON,
         {"bt": bt(XEON), "hvm": hardware(XEON)}, BARE, INTEL, KVM, EPT, SERVER, dict(iommu_groups=0)),
    host("epyc-npt-avic", "AMD with NPT and AVIC", [APM, BHARGAVA, KVM_DOC], ("hvm/npt", True, ""), "AMD EPYC 7763", EPYC,
         {"bt": bt(EPYC), "hvm": hardware(EPYC, exits=1.0)}, BARE, AMD, KVM, dict(npt=True, avic=True, nested_virtualization=True),
         size(128, 524288, 500000, MODERN + " sha vaes", 8, 120, numa_nodes=2)),
    host("cloud-nested-intel", "cloud VM with nested virtualization", ["Google Cloud, About nested virtualization", KVM_DOC, PVM],
         ("hvm/ept", True, ""), "Intel Xeon Platinum 8175M", CLOUD, {"bt": bt(CLOUD), "hvm": hardware(CLOUD, fault=1.6, tlb=1.6, exits=9)},
         VIRTUAL, INTEL, KVM, EPT, dict(apicv=False, hypervisor="KVMKVMKVM"), size(8, 32768, 30000, MODERN)),
    host("cloud-nested-amd", "cloud VM with nested AMD-V", ["Microsoft Azure, nested virtualization on AMD", KVM_DOC, PVM], ("hvm/npt", True, ""),
         "AMD EPYC 7B13", CLOUD, {"bt": bt(CLOUD), "hvm": hardware(CLOUD, fault=1.8, tlb=1.7, exits=11)}, VIRTUAL, AMD, KVM,
         dict(npt=True, avic=False, nested_virtualization=True, hypervisor="Microsoft Hv"), size(4, 16384, 15000, MODERN)),
    host("cloud-no-nested", "cloud VM without nested virtualization", ["AWS EC2 User Guide, instance types without bare metal", KVM_DOC],
         ("hvm", False, "ask the outer hypervisor"), CASCADE, CLOUD, {"bt": bt(CLOUD)}, VIRTUAL, no_extension("GenuineIntel"), NO_KVM,
         dict(hypervisor="KVMKVMKVM", firmware_locked=False), size(4, 16384, 15000, MODERN)),
    host("pvm-host", "PVM host: a software KVM", [PVM], ("hvm/software", True, "a host with VT-x"), "AMD EPYC", CLOUD,
         {"bt": bt(CLOUD), "hvm": SOFTWARE}, VIRTUAL, no_extension("AuthenticAMD"), KVM,
         dict(module_kvm_pvm=True, kvm_is_hardware=False, hypervisor="KVMKVMKVM"), size(2, 24103, 23000, MODERN), kernel="Linux 6.18.44"),
    host("emulated-kvm", "a software KVM that executes everything, slowly", [PVM, KVM_DOC], ("hvm/software", True, "ask the outer"), "AMD EPYC",
         CLOUD, {"bt": bt(CLOUD), "hvm": slow(CLOUD)}, VIRTUAL, no_extension("AuthenticAMD"), KVM,
         dict(kvm_is_hardware=False, hypervisor="KVMKVMKVM"), size(2, 8192, 7000, MODERN)),
    host("locked-firmware", "VT-x switched off in firmware", [SDM + ", 24.7"], ("hvm", False, "firmware"), "Intel Core i5-8500", XEON,
         {"bt": bt(XEON)}, BARE, INTEL, NO_KVM, dict(vmx=False, module_kvm_intel=False, firmware_locked=True), size(6, 16384, 14000, MODERN)),
    host("container", "container without /dev/kvm", ["Docker, docker run --device", "systemd, CONTAINER_INTERFACE"],
         ("hvm", False, "--device /dev/kvm"), GOLD, XEON, {"bt": bt(XEON)}, BARE, INTEL, NO_KVM, dict(container="docker", firmware_locked=False),
         size(8, 65536, 60000, MODERN)),
    host("no-permission", "/dev/kvm not for this user", ["Debian, /lib/udev/rules.d/50-udev-default.rules: group kvm, mode 0660"],
         ("hvm", False, "group"), "Intel Core i7-9700", XEON, {"bt": bt(XEON)}, BARE, INTEL, KVM,
         dict(kvm_opens="Permission denied", kvm_api_version=None, kvm_max_vcpus=None, kvm_irqchip=None), size(8, 32768, 30000, MODERN)),
    host("noexec-memfd", "executable memory forbidden by policy", ["Linux, Documentation/admin-guide/sysctl/vm.rst: memfd_noexec"],
         ("hvm/ept", True, ""), GOLD, XEON, {"hvm": hardware(XEON)}, BARE, INTEL, KVM, EPT, dict(executable_memfd="Permission denied"),
         size(40, 393216, 380000, MODERN, 4)),
    host("never-measured", "EPT server that was never measured", [SDM, KVM_DOC], ("hvm/ept", True, ""), GOLD, None, None, BARE, INTEL, KVM, EPT,
         size(40, 393216, 380000, MODERN)),
)


def main():
    folder = os.path.dirname(os.path.abspath(__file__))
    for content in HOSTS:
        facts = ",\n  ".join(json.dumps(fact) for fact in content["facts"])
        head = json.dumps({k: v for k, v in content.items() if k not in ("facts", "calibration")}, indent=1)[:-2]
        with open(os.path.join(folder, content["name"] + ".json"), "w") as f:
            f.write(f'{head},\n "facts": [\n  {facts}\n ],\n "calibration": {json.dumps(content["calibration"])}\n}}\n')


if __name__ == "__main__":
    main()
