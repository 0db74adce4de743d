#!/usr/bin/python3
"""Makes the host files of this folder: kinds of hosts that no test machine can be all of at once.

Facts follow public documentation ("documented_by"). Calibration tables are modelled, not measured: native loops of the
processor's time, and for each mode factors from the papers named (shadow paging's faults from Adams and Agesen, nested
exits from PVM and vendors' documentation, a software KVM from a measurement of 1.6 million instructions a second). They
serve to test decisions over a wide spread of costs; no figure of them is shown to anybody as one of a real host.
"""
import json
import os
# Figures of a measure in ns; factors over native for loops.
def cal(cpu,kernel,native,modes,t=1790000000):
    order=["integer","floating","vector","memory","tlb","syscall","fault","process","interrupt","port_io","virtio","code"]
    def figs(d):
        out={}
        for k in order:
            v=d.get(k)
            if v is None: continue
            out[k]={"cannot_execute":v} if isinstance(v,str) else {"ns":v,"median_ns":round(v*1.06,4),"rounds":80}
        return {"time":t,"figures":out}
    return {"format":1,"key":{"cpu":cpu,"kernel":kernel,"version":"0.1.0"},"complete":True,"time":t,"seconds":5.0,
            "native":figs(native),"modes":{m:figs(d) for m,d in modes.items()}}
def scaled(native,loops,**events):
    d={k:round(native[k]*f,4) for k,f in zip(["integer","floating","vector","memory","tlb","code"],loops)}
    d.update(events); return d
def facts(**kw):
    return [{"name": k, "value": v} for k, v in kw.items()]
P4=dict(code=260,integer=14.0,floating=24.0,vector=3.0,memory=9.0,tlb=60.0,syscall=210,fault=1900,process=230000,interrupt=3600,virtio=2600)
XEON=dict(code=75,integer=4.2,floating=6.1,vector=0.45,memory=2.1,tlb=9.5,syscall=95,fault=620,process=78000,interrupt=900,virtio=420)
EPYC=dict(code=70,integer=4.4,floating=5.8,vector=0.4,memory=1.9,tlb=9.0,syscall=85,fault=560,process=74000,interrupt=850,virtio=400)
CLOUD=dict(code=108,integer=6.3,floating=8.1,vector=0.62,memory=2.8,tlb=13.2,syscall=184,fault=1820,process=240000,interrupt=3160,virtio=573)
bt=lambda n:scaled(n,(1.4,1.0,2.3,3.0,1.4,4.8),syscall=75*n["integer"]/6.3,fault=730*n["integer"]/6.3,process=43000*n["integer"]/6.3,interrupt=970*n["integer"]/6.3,port_io=206*n["integer"]/6.3,virtio=15000*n["integer"]/6.3)
hw=lambda n,fault=1.0,tlb=1.25,exit=1.3:scaled(n,(1.0,1.0,1.0,1.02,tlb,1.0),syscall=n["syscall"]*.35,fault=n["fault"]*.35*fault,process=n["process"]*.08*fault,interrupt=1100*exit,port_io=1500*exit,virtio=5200*exit)
# The paper's nanobenchmarks, over native, less what kernel code costs anyway: page faults 3.6 (BT) and 10.3 (VT-x), forks 6.2
# and 17.7 times native.
adams_bt=lambda n:{**bt(n),"fault":n["fault"]*1.6,"process":n["process"]*4.2}
adams_vt=lambda n,fault,fork,exit:{**hw(n,tlb=1.02,exit=exit),"fault":n["fault"]*fault,"process":n["process"]*fork}
adams="Adams and Agesen, A Comparison of Software and Hardware Techniques for x86 Virtualization, ASPLOS 2006"
bhargava="Bhargava et al., Accelerating Two-Dimensional Page Walks for Virtualized Systems, ASPLOS 2008"
agesen="Agesen et al., The Evolution of an x86 Virtual Machine Monitor, ACM SIGOPS OSR 44(4), 2010"
sdm="Intel SDM vol. 3, chapters 24 to 29"; apm="AMD APM vol. 2, chapter 15"; kvmdoc="Linux, Documentation/virt/kvm"; kparam="Linux, Documentation/admin-guide/kernel-parameters.txt"
pvm="Huang et al., PVM: Efficient Shadow Paging for Deploying Secure Containers in Cloud-native Environment, SOSP 2023"
bare=dict(under_hypervisor=False,executable_memfd="yes",engines="bt hvm")
virt=dict(under_hypervisor=True,executable_memfd="yes",engines="bt hvm")
kvm=dict(kvm_device=True,kvm_opens="yes",kvm_api_version=12,kvm_max_vcpus=1024,kvm_irqchip=True,kvm_access="root:kvm 0660",kvm_is_hardware=True,firmware_locked=False)
nokvm=dict(kvm_device=False,kvm_is_hardware=False)
intel=dict(cpu_vendor="GenuineIntel",cpuid_vmx=True,cpuid_svm=False,vmx=True,svm=False,module_kvm_intel=True,module_kvm_amd=False,module_kvm_pvm=False)
amd=dict(cpu_vendor="AuthenticAMD",cpuid_vmx=False,cpuid_svm=True,vmx=False,svm=True,module_kvm_intel=False,module_kvm_amd=True,module_kvm_pvm=False)
none=lambda v:dict(cpu_vendor=v,cpuid_vmx=False,cpuid_svm=False,vmx=False,svm=False,module_kvm_intel=False,module_kvm_amd=False,module_kvm_pvm=False)
modern="avx avx2 fma aes pclmulqdq sse4_2 popcnt movbe rdrand rdseed bmi1 bmi2 fsgsbase smep smap pcid"
H=[]
def host(name,kind,docs,expect,c=None,**kw):
    H.append(dict(name=name,kind=kind,documented_by=docs,expect=expect,facts=facts(**kw),calibration=c))
K="Linux 6.1.0"
m="Intel Pentium 4 3.20GHz"
host("p4-2004","a 2004 processor without VT",[adams,sdm],dict(variant="hvm",usable=False,remedy="none: this processor"),
 cal(m,K,P4,{"bt":bt(P4)}),**{**bare,**none("GenuineIntel"),**nokvm},cpu_model=m,kernel=K,cores=2,memory_mib=2048,available_mib=1500,firmware_locked=False,iommu_units=0,iommu_groups=0,cpu_features="")
m="Intel Pentium 4 672 3.80GHz"
host("vtx-2005","first-generation VT-x without EPT",[adams,agesen,sdm],dict(variant="hvm/shadow",usable=True,remedy=""),
 cal(m,K,P4,{"bt":adams_bt(P4),"hvm":adams_vt(P4,9.3,16.7,2.6)}),**{**bare,**intel,**kvm,"ept":False,"unrestricted_guest":False,"vpid":False,"apicv":False,"nested_virtualization":False},cpu_model=m,kernel=K,cores=2,memory_mib=4096,available_mib=3000,iommu_units=0,iommu_groups=0,cpu_features="")
m="AMD Athlon 64 X2 5000+"
host("amdv-2006","AMD-V without NPT",[agesen,bhargava,apm],dict(variant="hvm/shadow",usable=True,remedy=""),
 cal(m,K,P4,{"bt":adams_bt(P4),"hvm":adams_vt(P4,7.0,12.0,1.7)}),**{**bare,**amd,**kvm,"npt":False,"avic":False,"nested_virtualization":False},cpu_model=m,kernel=K,cores=2,memory_mib=4096,available_mib=3000,iommu_units=0,iommu_groups=0,cpu_features="")
m="Intel Xeon Gold 6230"
ep={**bare,**intel,**kvm,"ept":True,"unrestricted_guest":True,"vpid":True,"apicv":True,"nested_virtualization":True}
host("xeon-ept-iommu","EPT server, IOMMU on",[sdm,kvmdoc,kparam],dict(variant="hvm/ept",usable=True,remedy=""),
 cal(m,K,XEON,{"bt":bt(XEON),"hvm":hw(XEON)}),**ep,cpu_model=m,kernel=K,cores=40,numa_nodes=2,memory_mib=393216,available_mib=380000,iommu_units=4,iommu_groups=92,cpu_features=modern+" avx512f")
host("xeon-ept-noiommu","EPT server, IOMMU off",[sdm,kvmdoc,kparam],dict(variant="hvm/ept",usable=True,remedy=""),
 cal(m,K,XEON,{"bt":bt(XEON),"hvm":hw(XEON)}),**ep,cpu_model=m,kernel=K,cores=40,numa_nodes=2,memory_mib=393216,available_mib=380000,iommu_units=4,iommu_groups=0,cpu_features=modern+" avx512f")
m="AMD EPYC 7763"
host("epyc-npt-avic","AMD with NPT and AVIC",[apm,bhargava,kvmdoc],dict(variant="hvm/npt",usable=True,remedy=""),
 cal(m,K,EPYC,{"bt":bt(EPYC),"hvm":hw(EPYC,exit=1.0)}),**{**bare,**amd,**kvm,"npt":True,"avic":True,"nested_virtualization":True},cpu_model=m,kernel=K,cores=128,numa_nodes=2,memory_mib=524288,available_mib=500000,iommu_units=8,iommu_groups=120,cpu_features=modern+" sha vaes")
m="Intel Xeon Platinum 8175M"
host("cloud-nested-intel","cloud VM with nested virtualization",["Google Cloud, About nested virtualization",kvmdoc],dict(variant="hvm/ept",usable=True,remedy=""),
 cal(m,K,CLOUD,{"bt":bt(CLOUD),"hvm":hw(CLOUD,fault=1.6,tlb=1.6,exit=9)}),**{**virt,**intel,**kvm,"ept":True,"unrestricted_guest":True,"vpid":True,"apicv":False,"nested_virtualization":True},hypervisor="KVMKVMKVM",cpu_model=m,kernel=K,cores=8,memory_mib=32768,available_mib=30000,iommu_units=0,iommu_groups=0,cpu_features=modern)
m="AMD EPYC 7B13"
host("cloud-nested-amd","cloud VM with nested AMD-V",["Microsoft Azure, nested virtualization on AMD",kvmdoc],dict(variant="hvm/npt",usable=True,remedy=""),
 cal(m,K,CLOUD,{"bt":bt(CLOUD),"hvm":hw(CLOUD,fault=1.8,tlb=1.7,exit=11)}),**{**virt,**amd,**kvm,"npt":True,"avic":False,"nested_virtualization":True},hypervisor="Microsoft Hv",cpu_model=m,kernel=K,cores=4,memory_mib=16384,available_mib=15000,iommu_units=0,iommu_groups=0,cpu_features=modern)
host("cloud-no-nested","cloud VM without nested virtualization",["AWS EC2 User Guide, instance types without bare metal",kvmdoc],dict(variant="hvm",usable=False,remedy="ask the outer hypervisor"),
 cal("Intel Xeon Platinum 8259CL",K,CLOUD,{"bt":bt(CLOUD)}),**{**virt,**none("GenuineIntel"),**nokvm},hypervisor="KVMKVMKVM",cpu_model="Intel Xeon Platinum 8259CL",kernel=K,cores=4,memory_mib=16384,available_mib=15000,firmware_locked=False,iommu_units=0,iommu_groups=0,cpu_features=modern)
m="AMD EPYC"
soft=dict(integer=6200.0,floating="KVM: internal error in the emulator",vector="KVM: internal error in the emulator",memory=26000.0,tlb=3100.0,syscall=21000,fault=190000,process=61000000,interrupt=160000,port_io=24000,virtio=410000,code=410000)
host("pvm-host","PVM host: a software KVM",[pvm],dict(variant="hvm/software",usable=True,remedy="a host with VT-x"),
 cal(m,"Linux 6.18.44",CLOUD,{"bt":bt(CLOUD),"hvm":soft}),**{**virt,**none("AuthenticAMD"),**kvm,"module_kvm_pvm":True,"kvm_is_hardware":False},hypervisor="KVMKVMKVM",cpu_model=m,kernel="Linux 6.18.44",cores=2,memory_mib=24103,available_mib=23000,iommu_units=0,iommu_groups=0,cpu_features=modern)
slow={k:(30.0*v if isinstance(v,(int,float)) else v) for k,v in bt(CLOUD).items()}
host("emulated-kvm","a software KVM that executes everything, slowly",[pvm,kvmdoc],dict(variant="hvm/software",usable=True,remedy="ask the outer"),
 cal(m,K,CLOUD,{"bt":bt(CLOUD),"hvm":slow}),**{**virt,**none("AuthenticAMD"),**kvm,"kvm_is_hardware":False},hypervisor="KVMKVMKVM",cpu_model=m,kernel=K,cores=2,memory_mib=8192,available_mib=7000,iommu_units=0,iommu_groups=0,cpu_features=modern)
m="Intel Core i5-8500"
host("locked-firmware","VT-x switched off in firmware",[sdm+", 24.7"],dict(variant="hvm",usable=False,remedy="firmware"),
 cal(m,K,XEON,{"bt":bt(XEON)}),**{**bare,**intel,**nokvm,"vmx":False,"module_kvm_intel":False,"firmware_locked":True},cpu_model=m,kernel=K,cores=6,memory_mib=16384,available_mib=14000,iommu_units=0,iommu_groups=0,cpu_features=modern)
host("container","container without /dev/kvm",["Docker, docker run --device","systemd, CONTAINER_INTERFACE"],dict(variant="hvm",usable=False,remedy="--device /dev/kvm"),
 cal("Intel Xeon Gold 6230",K,XEON,{"bt":bt(XEON)}),**{**bare,**intel,**nokvm,"container":"docker","firmware_locked":False},cpu_model="Intel Xeon Gold 6230",kernel=K,cores=8,memory_mib=65536,available_mib=60000,iommu_units=0,iommu_groups=0,cpu_features=modern)
host("no-permission","/dev/kvm not for this user",["Debian, /lib/udev/rules.d/50-udev-default.rules: group kvm, mode 0660"],dict(variant="hvm",usable=False,remedy="group"),
 cal("Intel Core i7-9700",K,XEON,{"bt":bt(XEON)}),**{**bare,**intel,**kvm,"kvm_opens":"Permission denied","kvm_api_version":None,"kvm_max_vcpus":None,"kvm_irqchip":None},cpu_model="Intel Core i7-9700",kernel=K,cores=8,memory_mib=32768,available_mib=30000,iommu_units=0,iommu_groups=0,cpu_features=modern)
host("noexec-memfd","executable memory forbidden by policy",["Linux, Documentation/admin-guide/sysctl/vm.rst: memfd_noexec"],dict(variant="hvm/ept",usable=True,remedy=""),
 cal("Intel Xeon Gold 6230",K,XEON,{"hvm":hw(XEON)}),**{**ep,"executable_memfd":"Permission denied"},cpu_model="Intel Xeon Gold 6230",kernel=K,cores=40,memory_mib=393216,available_mib=380000,iommu_units=4,iommu_groups=0,cpu_features=modern)
host("never-measured","EPT server that was never measured",[sdm,kvmdoc],dict(variant="hvm/ept",usable=True,remedy=""),None,
 **ep,cpu_model="Intel Xeon Gold 6230",kernel=K,cores=40,memory_mib=393216,available_mib=380000,iommu_units=0,iommu_groups=0,cpu_features=modern)
def main():
    folder = os.path.dirname(os.path.abspath(__file__))
    for h in H:
        lines = ",\n  ".join(json.dumps(f) for f in h.pop("facts"))
        head = json.dumps({k: v for k, v in h.items() if k != "calibration"}, indent=1)[:-2]
        with open(os.path.join(folder, h["name"] + ".json"), "w") as f:
            f.write(f'{head},\n "facts": [\n  {lines}\n ],\n "calibration": {json.dumps(h["calibration"])}\n}}\n')


if __name__ == "__main__":
    main()
