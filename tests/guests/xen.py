#!/usr/bin/env python3
"""Xen PV guests in mode pv: stock kernels through their Xen entry, on nothing but Linux.

Packages are fetched once (tools/fetch-package) and never installed. Arguments choose tests by their names.
"""

import contextlib
import hashlib
import os
import re
import shutil
import struct
import subprocess
import sys

from vmtest import BOOT_TIMEOUT, SOURCE, UP, Skip, Tap, Vm, check, kernel_image, make_initramfs, scratch

MACH = "boot/gnumach-1.8-xen-486.gz"


def package(name, path):
    """A file of a Debian package."""
    r = subprocess.run([os.path.join(SOURCE, "tools", "fetch-package"), name, f"./{path}"], capture_output=True, text=True, timeout=600, check=False)
    if r.returncode:
        raise Skip((r.stderr.strip().splitlines() or [f"no package {name}"])[-1])
    return os.path.join(r.stdout.strip(), path)


def run(boot, expected, memory=64, vcpus=1, ends=None):
    """Boots, waits for each pattern in turn; the result if it is to end by itself."""
    with scratch() as folder, Vm(folder, {"memory_mib": memory, "vcpus": vcpus, "boot": boot}, mode="pv") as vm:
        console = vm.console()
        for pattern in expected:
            console.expect(pattern, BOOT_TIMEOUT)
        if ends is None:
            return vm.control().result("stats")
        check(vm.wait(BOOT_TIMEOUT) == ends, vm.log())
        return vm.result()


def mach():
    """GNU Mach on x86-64: all of its start, until it misses what it is to run."""
    kernel = package("gnumach-image-1.8-xen-486", MACH)
    result = run({"kernel": kernel}, [r"GNU Mach 1\.8", r"Running on xen-3\.0-x86_64", r"vm_page: page table size: \d+ entries",
                                      r"hd: No block device", r"bootstrap_create: No bootstrap code loaded"], ends=4)
    engine = result["stats"]["engine"]
    check(engine["xen_hypercalls"] > 1000 and engine["mmu_updates"] > 100 and engine["upcalls"] > 10, str(engine))
    check(result["stats"]["mode"] == "pv" and result["stats"]["variant"] == "pv/xen", str(result["stats"]))
    check(result["state"] == "crashed" and "panicked" in result["reason"], str(result))


def mach_module():
    """The same with a module, whose words it parses and which it tries to load."""
    kernel = package("gnumach-image-1.8-xen-486", MACH)
    module = os.path.join(SOURCE, "LICENSE")
    result = run({"kernel": kernel, "cmdline": "root=device:hd0", "modules": [{"path": module, "cmdline": "first $(task-create)"}]},
                 [r"module 0: first \$\(task-create\)", r"1 multiboot modules", r"Cannot load user executable module.*first"], ends=4)
    check(result["state"] == "crashed", str(result))


@contextlib.contextmanager
def linux(vcpus=1, cmdline="", **definition):
    """Debian's kernel in a domain, at its shell: the VM and its console."""
    with scratch() as folder:
        boot = {"kernel": kernel_image(), "initrd": make_initramfs(os.path.join(folder, "initrd")), "cmdline": f"console=hvc0 {cmdline}"}
        with Vm(folder, {"memory_mib": 256, "vcpus": vcpus, "boot": boot, **definition}, mode="pv") as vm:
            console = vm.console()
            console.expect(UP, BOOT_TIMEOUT)
            console.command("stty columns 500")  # a line that is wrapped comes back in pieces
            yield vm, console


# What a program would notice first of a domain that forgets pages, registers or time.
WORK = ("i=0; while [ $i -lt 40 ]; do dd if=/dev/urandom of=/tmp/a bs=64k count=4 2>/dev/null; cp /tmp/a /tmp/b; "
        "cmp /tmp/a /tmp/b || echo different; (cat /tmp/b | gzip | gunzip | cmp - /tmp/a) || echo damaged; i=$((i+1)); done; echo $i")


def linux_shell():
    """The stock kernel to user space and its shell on hvc0; programs, time, and powering off."""
    with linux() as (vm, console):
        check("Xen" in console.command("cat /sys/hypervisor/type /sys/hypervisor/version/major | tr a-z A-Z | sed s/XEN/Xen/"), "no hypervisor of Xen's kind")
        check(console.command("cat /sys/hypervisor/properties/features").strip() != "", "no features")
        check("xen" in console.command("cat /sys/devices/system/clocksource/clocksource0/current_clocksource"), "not Xen's clock")
        check(console.command(WORK, BOOT_TIMEOUT).strip() == "40", "work came out wrong")
        before = float(console.command("cut -d' ' -f1 /proc/uptime"))
        check(float(console.command("sleep 1; cut -d' ' -f1 /proc/uptime", 60)) >= before + 1, "time stands still")
        check("Call Trace" not in console.text and "BUG:" not in console.text, "the kernel complains")
        stats = vm.control().result("stats")["engine"]
        check(stats["xen_hypercalls"] > 10000 and stats["page_table_stores"] > 100 and stats["upcalls"] > 100, str(stats))
        console.type("poweroff -f\n")
        check(vm.wait(BOOT_TIMEOUT) == 0, vm.log())
        check(vm.result()["state"] == "shutdown", str(vm.result()))


def linux_smp():
    """Two vCPUs: brought up by the guest, both at work on pages that both have, and interrupting each other."""
    with linux(vcpus=2) as (vm, console):
        check(console.command("nproc").strip() == "2", "not two processors")
        check("2 CPUs" in console.command("dmesg | grep 'Brought up'"), "the second one was not brought up")
        console.command(f"mkdir -p /run/x; ({WORK.replace('/tmp/', '/run/x/')}) >/tmp/other 2>&1 & true")
        check(console.command(WORK, BOOT_TIMEOUT).strip().splitlines()[-1] == "40", "work came out wrong")
        check(console.command("wait; cat /tmp/other", BOOT_TIMEOUT).strip().splitlines()[-1] == "40", "work came out wrong beside other work")
        lines = console.command("grep -E 'RES|CAL|TLB' /proc/interrupts")
        check(re.search(r"(RES|CAL):\s+\d+\s+[1-9]", lines), lines)
        check("Call Trace" not in console.text and "BUG:" not in console.text, "the kernel complains")


def linux_reboot():
    """A reboot builds the domain anew, in the same process."""
    with linux() as (vm, console):
        console.type("reboot -f\n")
        console.expect(UP, BOOT_TIMEOUT)
        check(console.command("echo $((6*7))").strip() == "42", "no shell after the reboot")
        check(vm.control().result("stats")["resets"] == 1, "not one reset")


def linux_panic():
    """A kernel that panics says so to the host."""
    with linux(cmdline="panic=0") as (vm, console):
        console.type("echo c >/proc/sysrq-trigger\n")
        check(vm.wait(BOOT_TIMEOUT) == 4, vm.log())
        check("panicked" in vm.result()["reason"], vm.result()["reason"])


def make_disk(folder, files):
    """A disk with a file system of these files (name: path), and nothing around it."""
    tree, disk = os.path.join(folder, "tree"), os.path.join(folder, "disk.raw")
    os.mkdir(tree)
    for name, path in files.items():
        shutil.copyfile(path, os.path.join(tree, name))
    with open(disk, "wb") as f:
        f.truncate(160 << 20)
    r = subprocess.run(["/sbin/mkfs.ext4", "-q", "-O", "^metadata_csum_seed,^orphan_file", "-d", tree, disk], capture_output=True, text=True, check=False)
    check(r.returncode == 0, f"mkfs.ext4: {r.stderr}")
    shutil.rmtree(tree)
    return disk


def md5(path):
    with open(path, "rb") as f:
        return hashlib.md5(f.read()).hexdigest()


def disks():
    """blkfront: what is read is what is there, what is written arrives, also by large requests and on two vCPUs; a read-only disk is one."""
    with scratch() as folder:
        initrd = make_initramfs(os.path.join(folder, "initrd"), "--module", "xen-blkfront")
        disk = make_disk(folder, {"kernel": kernel_image()})
        fixed = os.path.join(folder, "fixed.raw")
        with open(fixed, "wb") as f:
            f.write(os.urandom(1 << 20))
        boot = {"kernel": kernel_image(), "initrd": initrd, "cmdline": "console=hvc0"}
        definition = {"memory_mib": 256, "vcpus": 2, "boot": boot, "disks": [{"path": disk}, {"path": fixed, "readonly": True}]}
        with Vm(folder, definition, mode="pv") as vm:
            console = vm.console()
            console.expect(UP, BOOT_TIMEOUT)
            console.command("stty columns 500")  # a line that is wrapped comes back in pieces
            console.command("mkdir -p /m; mount -t ext4 /dev/xvda /m", 60)
            check(console.command("md5sum /m/kernel", 60).split()[0] == md5(kernel_image()), "the kernel's file reads otherwise")
            check(console.command("md5sum /dev/xvdb", 60).split()[0] == md5(fixed), "the second disk reads otherwise")
            check("cannot" in console.command("dd if=/dev/zero of=/dev/xvdb count=1 2>&1 || echo cannot", 60), "a read-only disk was written to")
            console.command("for i in 1 2 3 4; do dd if=/m/kernel of=/m/copy$i bs=1M 2>/dev/null & done; wait; sync", 120)
            sums = console.command("umount /m; mount -t ext4 /dev/xvda /m; md5sum /m/copy*", 120)
            check(sums.count(md5(kernel_image())) == 4, sums)
            console.command("umount /m", 60)
            console.type("poweroff -f\n")
            check(vm.wait(BOOT_TIMEOUT) == 0, vm.log())
        out = os.path.join(folder, "out")
        subprocess.run(["/sbin/debugfs", "-R", f"dump /copy3 {out}", disk], capture_output=True, check=False)
        check(md5(out) == md5(kernel_image()), "what the guest wrote is not in the disk")
        check(subprocess.run(["/sbin/e2fsck", "-fn", disk], capture_output=True, check=False).returncode == 0, "the file system is damaged")


def grub_image(folder):
    """GRUB for Xen PV domains, of Debian's modules."""
    modules = package("grub-xen-bin", "usr/lib/grub/x86_64-xen/*")
    tool = package("grub-common", "usr/bin/grub-mkimage")
    image = os.path.join(folder, "grub.xen")
    r = subprocess.run([tool, "-O", "x86_64-xen", "-d", os.path.dirname(modules), "-o", image, "-p", "(xen/xvda)/", "normal", "ls", "echo", "cat",
                        "configfile", "linux", "ext2"], capture_output=True, text=True, check=False)
    if r.returncode:
        raise Skip(f"grub-mkimage: {r.stderr.strip()}")
    return image


def unpacked_kernel(folder):
    """The ELF kernel in Debian's bzImage: GRUB does not know how to unpack LZ4."""
    with open(kernel_image(), "rb") as f:
        image = f.read()
    offset, size = struct.unpack_from("<II", image, 0x248)
    start = ((image[0x1f1] or 4) + 1) * 512 + offset
    path = os.path.join(folder, "vmlinux")
    with open(path, "wb") as f:
        r = subprocess.run(["lz4", "-dc"], input=image[start:start + size - 4], stdout=f, stderr=subprocess.PIPE, check=False)
    check(r.returncode == 0, f"lz4: {r.stderr}")
    return path


def grub():
    """GRUB's x86_64-xen image to its shell; ls shows a disk and what is in it; and from that it boots Debian's kernel."""
    with scratch() as folder:
        image = grub_image(folder)
        initrd = make_initramfs(os.path.join(folder, "initrd"), "--module", "xen-blkfront")
        config = os.path.join(folder, "grub.cfg")
        with open(config, "w") as f:
            f.write("echo found its configuration\nlinux (xen/xvda)/vmlinux console=hvc0\ninitrd (xen/xvda)/initrd\nboot\n")
        disk = make_disk(folder, {"vmlinux": unpacked_kernel(folder), "initrd": initrd, "later.cfg": config})
        with Vm(folder, {"memory_mib": 256, "boot": {"kernel": image}, "disks": [{"path": disk}]}, mode="pv") as vm:
            console = vm.console()
            console.expect(r"grub> ", BOOT_TIMEOUT)
            console.type("ls\r")
            console.expect(r"\(xen/xvda\) *\r?\n", BOOT_TIMEOUT)
            console.expect(r"grub> ", BOOT_TIMEOUT)
            console.type("ls (xen/xvda)/\r")
            console.expect(r"lost\+found/.*later\.cfg|later\.cfg.*lost\+found/", BOOT_TIMEOUT)
            console.expect(r"grub> ", BOOT_TIMEOUT)
            console.type("configfile (xen/xvda)/later.cfg\r")
            console.expect(r"found its configuration", BOOT_TIMEOUT)
            console.expect(UP, BOOT_TIMEOUT)
            check("xvda" in console.command("cat /proc/partitions"), "no disk behind GRUB")
            console.type("poweroff -f\n")
            check(vm.wait(BOOT_TIMEOUT) == 0, vm.log())


def refusals():
    """What is no PV kernel is refused with the reason, and how much memory is too little."""
    kernel = package("gnumach-image-1.8-xen-486", MACH)
    for boot, memory, words in (({"kernel": os.path.join(SOURCE, "README.md")}, 64, "no ELF file"),
                                ({"kernel": kernel}, 4, "memory"),
                                ({"firmware": kernel}, 64, "Xen's PV entry")):
        with scratch() as folder, Vm(folder, {"memory_mib": memory, "boot": boot}, mode="pv") as vm:
            check(vm.wait(BOOT_TIMEOUT) == 3, "it started")
            check(words in vm.result()["reason"], f"{boot}: {vm.result()['reason']}")


TESTS = {
    "gnumach boots": mach,
    "gnumach with a module": mach_module,
    "Debian's kernel to its shell, programs, power off": linux_shell,
    "Debian's kernel on two vCPUs": linux_smp,
    "Debian's kernel reboots": linux_reboot,
    "Debian's kernel panics": linux_panic,
    "disks": disks,
    "GRUB to its shell, ls, and Debian's kernel from a disk": grub,
    "what cannot be a domain": refusals,
}


def main():
    tap = Tap()
    for name, test in TESTS.items():
        if len(sys.argv) < 2 or any(word in name for word in sys.argv[1:]):
            tap.run(name, test)
    tap.finish()


if __name__ == "__main__":
    main()
