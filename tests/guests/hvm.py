#!/usr/bin/env python3
"""Mode hvm on this host's /dev/kvm: the system-test kernels, SeaBIOS, pause, crashes, refusals.

Where /dev/kvm is hardware the kernels run whole. A software KVM (module kvm_pvm) cannot execute much of what they do on
purpose (int and iret to other rings, x87, SSE); there the tests that it can execute are run by number, and the others
are skipped by name. Kernels run twice: with KVM's interrupt controllers, and with the machine's.
"""

import importlib.util
import os
import random
import re
import signal
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
from vmtest import Skip, Tap, Vm, check, program, scratch, wait_until  # noqa: E402

from systems import package  # noqa: E402

spec = importlib.util.spec_from_file_location("kernel_runner", os.path.join(HERE, "kernels", "run.py"))
kernels = importlib.util.module_from_spec(spec)
spec.loader.exec_module(kernels)
kernels.QEMU = None

SOFTWARE = os.path.exists("/sys/module/kvm_pvm")
WHY = "this KVM is software, and cannot execute what the test does"
# What a software KVM executes, by the name of the test; what is not here needs int $n in protected mode, iret to another
# ring, x87 or SSE, more instructions than it gets through, or a tick and its disarming to be quick.
EXECUTABLE = {
    "interrupts": ["PIT through the 8259", "PIT through the IOAPIC", "PIT counts", "LAPIC timer, one-shot",
                   "APIC off", "mov ss shadow"],
    "io": ["port sizes", "IOAPIC registers", "LAPIC registers"],
    "processors": ["an aligned patch", "modify, then flag", "patching in one page", "the TSC is monotonic", "INIT and SIPI again"],
    "paging": ["a page table that maps itself"],
    "smc": ["patched many times", "data in a code page", "through an alias", "mappings change under a transfer", "written, then executed"],
    "virtio": ["a doorbell is heard", "MSI-X", "masked vectors are pending", "INTx", "frames go and come"],
    "features": ["leaves hang together", "XSAVE sizes"],
}
# KVM's LAPIC has no send-illegal-vector error (ESR bit 5; SDM vol. 3, 11.5.3).
DEVIATIONS = {"interrupts": ["self-IPI"]}


def usable():
    """Why not, or None."""
    try:
        fd = os.open("/dev/kvm", os.O_RDWR)
    except OSError as e:
        return f"/dev/kvm: {e.strerror}"
    os.close(fd)
    return None


def names_of(kernel):
    with open(os.path.join(HERE, "kernels", kernel + ".c"), encoding="ascii") as f:
        return re.findall(r'\{"([^"]*)", \w+\}', f.read().rpartition("TESTS(")[2])


def run_kernel(tap, kernel, tell_skips):
    names = names_of(kernel.name)
    wanted = EXECUTABLE.get(kernel.name, []) if SOFTWARE else [n for n in names if n not in DEVIATIONS.get(kernel.name, [])]
    for name in names:
        if name not in wanted and tell_skips:
            tap.skip(f"{kernel.name}: {name}", WHY if SOFTWARE else "KVM differs from the manual here")
    if wanted:
        numbers = ",".join(str(names.index(n) + 1) for n in wanted)
        kernels.report(tap, kernel, kernels.run_here(kernel, "hvm", f"only={numbers}"))


def crash(kernel, number):
    kernels.crash(kernel, number, "hvm")


# ---- by hand -----------------------------------------------------------------------------------------------------

def seabios():
    path = "/usr/share/seabios/bios-256k.bin"
    if not os.path.exists(path):
        raise Skip("no SeaBIOS: package seabios")
    return path


def firmware_finds_its_devices():
    with scratch() as folder, Vm(folder, {"memory_mib": 64, "boot": {"firmware": seabios()}}, mode="hvm") as vm:
        console = vm.console()
        console.expect(r"SeaBIOS \(version", 90)
        console.expect(r"No bootable device", 50)
        stats = vm.control().result("stats")
        check(stats["exits"]["pio"] > 100 and stats["mode"] == "hvm", str(stats))
        # The BIOS has switched the random number device's BAR on: its queue's doorbell is the kernel's.
        check(stats["engine"]["ioeventfds"] >= 1, str(stats["engine"]))


def firmware_boots_a_disk():
    """SeaBIOS reads it through virtio-blk: its doorbell must wake the worker, whoever listens to it."""
    sector = bytes.fromhex("66b855000000 66e7f4 f4 ebfd").ljust(510, b"\0") + b"\x55\xaa"  # mov eax, 0x55; out 0xf4, eax
    with scratch() as folder:
        path = os.path.join(folder, "disk")
        with open(path, "wb") as f:
            f.write(sector + bytes(1 << 20))
        with Vm(folder, {"memory_mib": 64, "debug_exit": True, "boot": {"firmware": seabios()}, "disks": [{"path": path}]}, mode="hvm") as vm:
            check(vm.wait(120) == 0xab, f"{vm.result()}; {vm.log()}")


def gnu_mach_starts():
    """A real kernel by our Multiboot loader, up to where a software KVM meets its first x87 instruction."""
    image = package("gnumach-image-1.8-486", "./boot/*") + "/boot/gnumach-1.8-486.gz"
    with scratch() as folder, Vm(folder, {"memory_mib": 64, "boot": {"kernel": image, "cmdline": "console=com0"}}, mode="hvm") as vm:
        console = vm.console()
        console.expect("GNU Mach 1", 90)
        console.expect(r"vm_page: DMA32: pages: \d+", 90)
        if not SOFTWARE:
            console.expect("panic.*bootstrap_create: No bootstrap code", 90)
            return
        vm.wait(90)
        reason = vm.result()["reason"]
        check(re.search(r"cannot emulate the instruction .*\((df|d9|db|dd|9b) ", reason), f"it ended otherwise: {reason}")


def paused_and_resumed():
    """A guest that prints without end says nothing while it is paused, and goes on afterwards."""
    with scratch() as folder, Vm(folder, {"memory_mib": 64, "boot": {"firmware": seabios()}}, mode="hvm") as vm:
        console, control = vm.console(), vm.control()
        console.expect(r"SeaBIOS \(version", 90)
        for _ in range(5):
            control.result("pause")
            while console.pump(0.05) and len(console.text) != console.at:
                console.at = len(console.text)
            check(not control.result("status")["state"] == "running", "it runs")
            before = control.result("stats")["exits"]["pio"]
            check(not console.pump(0.2) or len(console.text) == console.at, "it prints while it is paused")
            check(control.result("stats")["exits"]["pio"] == before, "it runs while it is paused")
            control.result("resume")
        console.expect(r"No bootable device", 50)


def destroyed_while_it_runs():
    with scratch() as folder, Vm(folder, {"memory_mib": 64, "boot": {"firmware": seabios()}}, mode="hvm") as vm:
        wait_until("it runs", lambda: vm.control().result("status")["state"] == "running")
        vm.process.terminate()
        check(vm.wait(30) == 5, "exit status")
        check(vm.result()["state"] == "destroyed", str(vm.result()))


def told_with_bytes_and_remedy():
    if not SOFTWARE:
        raise Skip("hardware executes everything")
    kernel = next(k for k in kernels.KERNELS if k.name == "registers")
    outcome = kernels.run_here(kernel, "hvm", "only=1")
    check(outcome.end == "crashed", f"it {outcome.end}")
    check(re.search(r"cannot emulate the instruction at rip 0x[0-9a-f]+ \(cd f0 [0-9a-f ]+\) .* mode bt runs it", outcome.reason), outcome.reason)


def rom(folder, code, fill=b"\xf4"):
    """A BIOS of 64 KiB whose first instruction is a jump to its start, where `code` is."""
    image = bytearray(fill * (65536 // len(fill)))
    image[:len(code)] = code
    image[0xfff0:0xfff5] = b"\xea\x00\x00\x00\xf0"
    path = os.path.join(folder, "rom")
    with open(path, "wb") as f:
        f.write(image)
    return path


def ends(vm, seconds, *patterns):
    """It crashes, and says one of these."""
    check(vm.wait(seconds) == 4, f"it did not crash: {vm.log()}")
    reason = vm.result()["reason"]
    check(any(re.search(p, reason) for p in patterns), reason)


def into_nowhere():
    """Reads and writes where nobody is; an instruction there."""
    #  mov ax,0xb000; mov ds,ax; mov eax,[0]; mov [4],eax; rep movsd within it; in al,0x2f0; mov al,0x55; out 0xf4
    accesses = bytes.fromhex("b800b0 8ed8 8ec0 66a10000 66a30400 31f6 bf0001 b91000 66f3a5 baf002 ec b055 e6f4")
    with scratch() as folder, Vm(folder, {"memory_mib": 64, "debug_exit": True, "boot": {"firmware": rom(folder, accesses)}}, mode="hvm") as vm:
        check(vm.wait(60) == 0xab, f"{vm.result()}")
    with scratch() as folder, Vm(folder, {"memory_mib": 64, "boot": {"firmware": rom(folder, bytes.fromhex("ea000000b0"))}}, mode="hvm") as vm:
        ends(vm, 60, r"cannot emulate the instruction at rip .*; mode bt runs it", "triple fault", "KVM internal error")


def does_nothing(code):
    """Halted for good, or spinning: it can be paused, told about, and ended."""
    with scratch() as folder, Vm(folder, {"memory_mib": 64, "boot": {"firmware": rom(folder, code)}}, mode="hvm") as vm:
        control = vm.control()
        wait_until("it runs", lambda: control.result("status")["state"] == "running")
        for _ in range(3):
            control.result("pause")
            control.result("resume")
        stats = control.result("stats")
        check(stats["variant"].startswith("hvm/") or stats["variant"] == "hvm", str(stats["variant"]))
        check(stats["boot_seconds"] is None, "there is no user space in it")
        control.result("reset")
        vm.process.terminate()
        check(vm.wait(30) == 5, vm.log())


def garbage():
    """Random bytes: whatever they do, the process ends as it says, or runs on until it is told to end."""
    seed = int.from_bytes(os.urandom(4), "little")
    Tap.explain(f"seed {seed}")
    dice = random.Random(seed)
    ended = 0
    for _ in range(12):
        with scratch() as folder, Vm(folder, {"memory_mib": 16, "on_reboot": "shutdown",
                                              "boot": {"firmware": rom(folder, dice.randbytes(4096), dice.randbytes(4096))}}, mode="hvm") as vm:
            try:
                vm.process.wait(0.5)
                ended += 1
            except subprocess.TimeoutExpired:
                vm.process.terminate()
            status = vm.wait(30)
            result = vm.result()
            check((status, result["state"]) in ((0, "shutdown"), (4, "crashed"), (5, "destroyed")), f"{status} {result}; {vm.log()}")
            check(result["reason"], str(result))
    Tap.explain(f"{ended} of 12 ended by themselves")


def signals_without_end():
    """Kicks from outside, faster than KVM_RUN gets anywhere between some of them, lose nothing."""
    with scratch() as folder, Vm(folder, {"memory_mib": 64, "boot": {"firmware": seabios()}}, mode="hvm") as vm:
        console = vm.console()
        for _ in range(3000):
            vm.process.send_signal(signal.SIGUSR2)
            console.pump(0.0005)
        console.expect(r"No bootable device", 90)
        check(vm.control().result("stats")["exits"]["signal"] > 0, "no vCPU was met by them")


def refused(prefix, *words):
    with scratch(world_readable=True) as folder:
        os.chmod(folder, 0o777)
        with Vm(folder, {"memory_mib": 64, "boot": {"kernel": kernels.KERNELS[0].file}}, prefix=prefix, mode="hvm") as vm:
            status = vm.wait(30)
            check(status == 3, f"exit status {status}; log: {vm.log()}")
            for word in words:
                check(word in vm.result()["reason"], vm.result()["reason"])


def ends_with(definition, mode, *words):
    """It does not start; the reason has these words."""
    with scratch() as folder, Vm(folder, {"memory_mib": 64, "boot": {"kernel": kernels.KERNELS[0].file}, **definition}, mode=mode) as vm:
        check(vm.wait(30) == 3, f"log: {vm.log()}")
        for word in words:
            check(word in vm.result()["reason"], vm.result()["reason"])


def passthrough_refused():
    ends_with({"passthrough": ["ffff:ff:1f.7"]}, "hvm", "no PCI device ffff:ff:1f.7", "lspci")
    ends_with({"passthrough": ["ffff:ff:1f.7"]}, "bt", "mode bt cannot give a guest devices of the host")
    devices = "/sys/bus/pci/devices"
    behind = [d for d in sorted(os.listdir(devices) if os.path.isdir(devices) else [])
              if not os.path.exists(f"{devices}/{d}/iommu_group") and not open(f"{devices}/{d}/class", encoding="ascii").read().startswith("0x06")]
    if behind:
        ends_with({"passthrough": [behind[0]]}, "hvm", "IOMMU", "iommu=on")


def without_the_device():
    test = subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False)
    if test.returncode:
        raise Skip("no mount namespaces: " + test.stderr.decode().strip())
    script = 'mount -t tmpfs none /dev && mknod /dev/null c 1 3 && exec "$@"'
    refused(["unshare", "-m", "sh", "-c", script, "sh"], "there is no /dev/kvm", "load kvm_intel")


def without_permission():
    if os.geteuid() != 0 or os.stat("/dev/kvm").st_mode & 0o006:
        raise Skip("needs root, and a /dev/kvm that not everybody may open")
    refused(["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"], "may not be opened", "group")


def main():
    tap = Tap()
    try:
        program("trivisor-vm")
    except Skip as e:
        tap.skip("mode hvm", str(e))
        tap.finish()
    reason = usable()
    if reason:
        tap.run("refused where there is no /dev/kvm", refused, [], "/dev/kvm")
        tap.skip("mode hvm", reason)
        tap.finish()
    for irqchip in ("kernel", "machine"):
        os.environ["TRIVISOR_HVM_IRQCHIP"] = irqchip
        Tap.explain(f"interrupt controllers: {irqchip}")
        for kernel in kernels.KERNELS:
            if not kernel.crashes:
                run_kernel(tap, kernel, irqchip == "kernel")
            elif irqchip == "kernel":
                for i in range(1, kernel.crashes + 1):
                    tap.run(f"{kernel.name} {i}: a triple fault is told as a crash", crash, kernel, i)
    for irqchip in ("machine", "kernel"):
        os.environ["TRIVISOR_HVM_IRQCHIP"] = irqchip
        tap.run(f"SeaBIOS finds its devices ({irqchip})", firmware_finds_its_devices)
        tap.run(f"SeaBIOS boots a disk ({irqchip})", firmware_boots_a_disk)
    tap.run("GNU Mach starts", gnu_mach_starts)
    tap.run("paused and resumed", paused_and_resumed)
    tap.run("destroyed while it runs", destroyed_while_it_runs)
    tap.run("accesses to nowhere, and code there", into_nowhere)
    tap.run("a processor that halts for good", does_nothing, b"\xfa\xf4\xeb\xfd")
    tap.run("a processor that spins", does_nothing, b"\xeb\xfe")
    tap.run("random bytes", garbage)
    tap.run("signals without end", signals_without_end)
    tap.run("what KVM cannot emulate is told, with bytes and remedy", told_with_bytes_and_remedy)
    tap.run("a device that cannot be passed through is told, with the remedy", passthrough_refused)
    tap.run("no /dev/kvm is told, with the remedy", without_the_device)
    tap.run("a /dev/kvm that may not be opened is told, with the remedy", without_permission)
    tap.finish()


if __name__ == "__main__":
    main()
