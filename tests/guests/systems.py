#!/usr/bin/python3
"""Unmodified systems from Debian's packages, each by its serial console: boot loaders, firmware, memory testers, installers.

The packages are fetched once (tools/fetch-package) and never installed; what cannot be had is skipped by name.
TRIVISOR_TEST_LONG=1 adds memtest86+'s whole passes, of several minutes each. Arguments choose tests by their names.
"""

import os
import re
import shutil
import struct
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from vmtest import (BOOT_TIMEOUT, MODE, SOURCE, UP, Failed, Skip, Tap, Vm, check, kernel_image, make_initramfs, program, scratch)

MIB = 1 << 20
SECTOR = 512
SEABIOS = "/usr/share/seabios/bios-256k.bin"
LONG = os.environ.get("TRIVISOR_TEST_LONG", "") not in ("", "0")
# What a shell types into GRUB before it reads any file: the console is the first serial port.
EARLY = "serial --unit=0 --speed=115200\nterminal_input serial\nterminal_output serial\necho early configuration read\n"


def package(name, *patterns):
    """The directory a package is unpacked to."""
    command = [os.path.join(SOURCE, "tools", "fetch-package"), name, *patterns]
    try:
        r = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    except subprocess.TimeoutExpired:
        raise Skip(f"no package {name}: not fetched within 10 minutes") from None
    if r.returncode:
        raise Skip((r.stderr.strip().splitlines() or [f"no package {name}"])[-1])
    return r.stdout.strip()


def seabios():
    if os.path.exists(SEABIOS):
        return SEABIOS
    return package("seabios", "./usr/share/seabios/*") + SEABIOS


def tool(name, remedy):
    path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if not path:
        raise Skip(f"{name} is missing (package {remedy})")
    return path


def make(*command):
    r = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    check(r.returncode == 0, f"{os.path.basename(command[0])}: {r.stderr.strip() or r.stdout.strip()}")


def plain(text):
    """Without a terminal's control sequences."""
    return re.sub(r"\x1b(\[[0-9;?=]*[A-Za-z]|\([0B]|[=>78])|[\x0e\x0f]", "", text)


def grub_image(folder, target, package_name, modules, commands=()):
    """GRUB as one file, made as grub-install makes it; it runs the commands after its early ones."""
    modules_dir = package(package_name, f"./usr/lib/grub/{target}/*") + f"/usr/lib/grub/{target}"
    mkimage = package("grub-common", "./usr/bin/grub-mkimage") + "/usr/bin/grub-mkimage"
    config, image = os.path.join(folder, f"early-{target}"), os.path.join(folder, f"grub-{target}")
    with open(config, "w", encoding="ascii") as f:
        f.write(EARLY + "".join(f"{command}\n" for command in commands))
    r = subprocess.run([mkimage, "--version"], capture_output=True, text=True, check=False)
    if r.returncode:
        raise Skip(f"grub-mkimage does not run here: {r.stderr.strip()}")
    make(mkimage, "-d", modules_dir, "-O", target, "-p", "(hd0,msdos1)/boot/grub", "-c", config, "-o", image, *modules,
         *"part_msdos ext2 fat normal serial terminal linux gzio echo ls configfile boot reboot halt test".split())
    return modules_dir, image


def put_grub(disk, modules_dir, image):
    """The boot sector, one active partition from 1 MiB on, and between them GRUB's core."""
    with open(os.path.join(modules_dir, "boot.img"), "rb") as f:
        sector = bytearray(f.read(SECTOR))
    with open(image, "rb") as f:
        core = f.read()
    check(len(core) < MIB - SECTOR, f"GRUB's core has {len(core)} bytes")
    first, count = MIB // SECTOR, (os.path.getsize(disk) - MIB) // SECTOR
    sector[446:510] = struct.pack("<B3sB3sII48x", 0x80, b"\0\2\0", 0x83, b"\xfe\xff\xff", first, count)
    with open(disk, "r+b") as f:
        f.write(sector + core)


class Disk:
    """What GRUB boots from: a file system with Debian's kernel, GNU Mach, Xen, memtest86+. Made when first asked for."""

    def __init__(self, folder):
        self.folder = folder
        self.made = None

    def path(self):
        if not self.made:
            self.made = self.make()
        return self.made

    def make(self):
        mke2fs = tool("mke2fs", "e2fsprogs")
        root, disk = os.path.join(self.folder, "root"), os.path.join(self.folder, "disk.raw")
        shutil.rmtree(root, ignore_errors=True)
        os.makedirs(os.path.join(root, "boot"))
        modules_dir, image = grub_image(self.folder, "i386-pc", "grub-pc-bin",
                                        ["biosdisk", "multiboot", "multiboot2", "linux16", "lsmmap", "cpuid"])
        shutil.copy(kernel_image(), os.path.join(root, "boot", "vmlinuz"))
        make_initramfs(os.path.join(root, "boot", "initrd"))
        with open(disk, "wb") as f:
            f.truncate(64 * MIB)
        mach = package("gnumach-image-1.8-486", "./boot/*") + "/boot/gnumach-1.8-486.gz"
        shutil.copy(mach, os.path.join(root, "boot", "gnumach.gz"))
        memtest = package("memtest86+", "./boot/*.bin") + "/boot/memtest86+ia32.bin"
        shutil.copy(memtest, os.path.join(root, "boot", "memtest"))
        xen = package("xen-hypervisor-4.17-amd64", "./boot/xen-4.17-amd64.gz") + "/boot/xen-4.17-amd64.gz"
        shutil.copy(xen, os.path.join(root, "boot", "xen.gz"))
        shutil.copy(installer_files("amd64")[0], os.path.join(root, "boot", "dom0"))
        make(mke2fs, "-q", "-F", "-t", "ext2", "-d", root, "-E", f"offset={MIB}", disk, "63M")
        put_grub(disk, modules_dir, image)
        return disk


class Guest:
    """One VM of a test, with its console."""

    def __init__(self, folder, boot, **more):
        name = os.path.join(folder, f"vm{time.monotonic_ns()}")
        os.mkdir(name)
        self.vm = Vm(name, {"boot": boot, "memory_mib": 256, **more})

    def __enter__(self):
        try:
            console = self.vm.console()
        except BaseException:
            self.vm.close()
            raise
        return console

    def __exit__(self, *why):
        self.vm.__exit__(*why)


def at_grub(disk, **more):
    return Guest(disk.folder, {"firmware": seabios()}, disks=[{"path": disk.path()}], **more)


def ask_grub(console, command):
    """What GRUB's shell answers; the line it echoes is made of cursor movements and left out."""
    console.type(command + "\n")
    console.expect(r"\r?\n", 30)
    start = console.at
    match = console.expect("grub> ", 60)
    return plain(console.text[start:match.start()]).replace("\r", "")


def wait_for_grub(console):
    console.expect("SeaBIOS", 30)
    console.expect("early configuration read", 60)
    console.expect("grub> ", 60)


def grub_runs_its_shell(disk):
    """GRUB's own real mode and protected mode, the BIOS's services from both: map of memory, disk, CPUID."""
    with at_grub(disk) as console:
        wait_for_grub(console)
        out = ask_grub(console, "lsmmap")
        check("base_addr = 0x100000, length = 0xf" in out and "available RAM" in out, out)
        out = ask_grub(console, "ls (hd0,msdos1)/boot/")
        check("vmlinuz" in out and "gnumach.gz" in out, out)
        out = ask_grub(console, "if cpuid -l; then echo long mode; else echo no; fi")
        check("long mode" in out, out)
        out = ask_grub(console, "nosuchcommand")
        check("can't find command" in out, out)


def seabios_boot_menu(disk):
    """Opened by a key, it lists what there is: the second disk first chooses nothing bootable, so the choice shows."""
    boot = {"firmware": seabios(), "menu_ms": 60000}
    blank = os.path.join(disk.folder, "blank.raw")
    with open(blank, "wb") as f:
        f.truncate(MIB)
    with Guest(disk.folder, boot, disks=[{"path": blank}, {"path": disk.path()}]) as console:
        console.expect("Press ESC for boot menu", 30)
        console.type("\x1b")
        console.expect("Select boot device:", 30)
        first = console.expect(r"(\d)\. Virtio disk PCI:", 30).group(1)
        second = console.expect(r"(\d)\. Virtio disk PCI:", 30).group(1)
        check(int(second) == int(first) + 1, f"entries {first} and {second}")
        console.type(second)
        console.expect("early configuration read", 60)
        console.expect("grub> ", 60)
        out = ask_grub(console, "ls")
        check("(hd0,msdos1)" in out and "(hd1" in out, out)
        check("not a bootable" not in console.text, "it tried the blank disk first")
    # Nobody presses it: the first disk is tried as ever, at once when there is no menu.
    with at_grub(disk) as console:
        wait_for_grub(console)
        check("boot menu" not in console.text, "it offers a menu that nobody asked for")


def rescue_disc():
    return package("grub-rescue-pc", "./usr/lib/grub-rescue/grub-rescue-cdrom.iso") + "/usr/lib/grub-rescue/grub-rescue-cdrom.iso"


def a_cd_boots(disk):
    """GRUB's rescue disc: El Torito through SeaBIOS's driver for virtio-scsi; its files, by the BIOS's calls."""
    with Guest(disk.folder, {"firmware": seabios()}, disks=[{"path": rescue_disc(), "device": "cdrom"}]) as console:
        console.expect("SeaBIOS", 60)
        # Its menu, whose entry is for a system on a disk: either is left for the command line.
        console.expect("will be executed|Press any key", 120)
        console.type("c")
        try:
            console.expect("grub> ", 20)
        except Failed:
            console.type("c")
            console.expect("grub> ", 60)
        console.type("ls /boot/grub\n")  # a BIOS keeps 15 keys
        console.expect("i386-pc", 60)


def grub_boots_debians_kernel(disk):
    with at_grub(disk) as console:
        wait_for_grub(console)
        for command in ("linux /boot/vmlinuz console=ttyS0", "initrd /boot/initrd"):
            out = ask_grub(console, command)
            check("error" not in out, out)
        console.type("boot\n")
        console.expect("Linux version", BOOT_TIMEOUT)
        console.expect(UP, BOOT_TIMEOUT)


def grub_boots_memtest_from_real_mode(disk):
    """linux16 enters the set-up code in real mode; memtest86+ then goes to 32-bit protected mode."""
    with at_grub(disk, memory_mib=64) as console:
        wait_for_grub(console)
        out = ask_grub(console, "linux16 /boot/memtest console=ttyS0,115200")
        check("error" not in out, out)
        console.type("boot\n")
        memtest_starts(console)


def firmware_boots_ipxe(folder):
    """Through fw_cfg and our option ROM, from real mode; iPXE itself goes back and forth between the modes."""
    image = package("ipxe", "./boot/ipxe.lkrn") + "/boot/ipxe.lkrn"
    with Guest(folder, {"firmware": seabios(), "kernel": image}) as console:
        console.expect("iPXE initialising devices", 60)
        console.expect("Ctrl-B", 60)
        console.type("\x02")
        console.expect("iPXE> ", 30)
        # No more than 15 characters at once: it reads them through the BIOS, whose keyboard buffer holds those.
        console.type("show version\n")
        console.expect(r"version:string = 1\.", 30)


def xen_runs_a_paravirtual_linux(disk):
    """Xen in ring 0, and in ring 3 the installer's kernel (the cloud kernel is no dom0): faults and page tables of two systems."""
    with at_grub(disk, vcpus=2, memory_mib=768) as console:
        wait_for_grub(console)
        commands = ("multiboot2 /boot/xen.gz com1=115200,8n1 console=com1 dom0_mem=512M noreboot",
                    "module2 /boot/dom0 console=hvc0", "module2 /boot/initrd")
        for command in commands:
            out = ask_grub(console, command)
            check("error" not in out, out)
        console.type("boot\n")
        console.expect(r"\(XEN\) Xen version 4", 60)
        console.expect(r"Dom0 has maximum 2 VCPUs", 60)
        console.expect(r"Booting .*kernel on Xen", BOOT_TIMEOUT)
        console.expect(UP, BOOT_TIMEOUT)


def grub_loads_gnu_mach(disk):
    """A Multiboot kernel: 32-bit paging, its own descriptor tables, PIC and PIT; without servers it says so and panics."""
    with at_grub(disk) as console:
        wait_for_grub(console)
        out = ask_grub(console, "multiboot /boot/gnumach.gz console=com0")
        check("error" not in out, out)
        console.type("boot\n")
        console.expect("GNU Mach 1", 60)
        console.expect(r"vm_page: DMA32: pages: \d+", 60)
        match = console.expect(r"RTC time is (\d\d\d\d)-(\d\d)", 60)
        check(int(match.group(1)) == time.gmtime().tm_year or time.gmtime().tm_yday in (1, 365, 366), match.group(0))
        console.expect("panic.*bootstrap_create: No bootstrap code", 60)


def gnu_mach_directly(folder):
    """By our own Multiboot loader, as Debian packs it: an ELF64 in a gzip file."""
    image = package("gnumach-image-1.8-486", "./boot/*") + "/boot/gnumach-1.8-486.gz"
    with Guest(folder, {"kernel": image, "cmdline": "console=com0"}, memory_mib=64) as console:
        console.expect("GNU Mach 1", 60)
        console.expect(r"biosmem: 0+100000:0+3f\w+, available", 60)
        console.expect("panic.*bootstrap_create: No bootstrap code", 60)


def xen_directly(folder):
    """Xen by our own Multiboot loader, which has no BIOS for its real-mode questions; its modules are dom0 and an initramfs."""
    image = package("xen-hypervisor-4.17-amd64", "./boot/xen-4.17-amd64.gz") + "/boot/xen-4.17-amd64.gz"
    initrd = make_initramfs(os.path.join(folder, "xen-initrd"))
    boot = {"kernel": image, "cmdline": "xen com1=115200,8n1 console=com1 dom0_mem=512M noreboot",
            "modules": [{"path": installer_files("amd64")[0], "cmdline": "dom0 console=hvc0"}, {"path": initrd}]}
    with Guest(folder, boot, memory_mib=768) as console:
        console.expect(r"\(XEN\) Bootloader: trivisor", 60)
        console.expect(r"\(XEN\) Command line: com1=115200", 60)
        console.expect(r"Booting .*kernel on Xen", BOOT_TIMEOUT)
        console.expect(UP, BOOT_TIMEOUT)


def memtest_starts(console):
    console.expect(r"Memtest86\+ v6", 60)
    console.expect(r"#\d+ +\[.*\]", 60)


def memtest(folder, bits, vcpus):
    """Into the last of its tests that walk over the memory (what follows waits for bits to fade); a whole pass if asked.

    It shows only the tests that run when it writes to the screen, every other second.
    """
    image = package("memtest86+", "./boot/*.bin") + f"/boot/memtest86+{bits}.bin"
    boot = {"kernel": image, "cmdline": "console=ttyS0,115200"}
    with Guest(folder, boot, memory_mib=64, vcpus=vcpus) as console:
        memtest_starts(console)
        if vcpus > 1:
            console.expect(rf"SMP: {vcpus}T \(PAR\)", 60)
        console.expect(r"#(9|10) +\[", 300)
        if LONG:
            console.expect(r"Pass: +1 ", 1800)
        counts = re.findall(r"Errors: +(\d+)", plain(console.text))
        check(counts, "it does not count errors")
        check(set(counts) == {"0"}, f"it found errors: {max(map(int, counts))}")


def installer_files(arch):
    where = f"/usr/lib/debian-installer/images/12/{arch}/text/debian-installer/{arch}"
    found = package(f"debian-installer-12-netboot-{arch}", f".{where}/linux", f".{where}/initrd.gz") + where
    return found + "/linux", found + "/initrd.gz"


def installer(folder, arch, first_line):
    """Its kernel and initrd to the first question (a terminal's dialog), and on to the next."""
    kernel, initrd = installer_files(arch)
    boot = {"kernel": kernel, "initrd": initrd, "cmdline": "console=ttyS0"}
    with Guest(folder, boot, memory_mib=1024) as console:
        console.expect(first_line, BOOT_TIMEOUT)
        console.expect(r"Run /init as init process", BOOT_TIMEOUT)
        console.expect(r"Select a language", BOOT_TIMEOUT)
        console.expect(r"English", 30)
        console.expect(r"<Go Back>", 30)
        # C, the first entry: then it asks where one is.
        console.type("\r")
        console.expect(r"Select your location", BOOT_TIMEOUT)


def uboot(folder, board, bits):
    image = package("u-boot-qemu", "./usr/lib/u-boot/qemu-x86*/u-boot.rom") + f"/usr/lib/u-boot/{board}/u-boot.rom"
    with Guest(folder, {"firmware": image}) as console:
        console.expect(r"U-Boot 20", 60)
        console.expect(r"DRAM: +256 MiB", 30)
        console.expect(r"stop autoboot", 60)
        console.type("\n")
        console.expect(r"\n=> ", 30)
        console.type("bdinfo\n")
        match = console.expect(r"Build +=+ *(\S+)", 30)
        check(match.group(1) == bits, match.group(0))
        console.type("crc32 100000 400000\n")
        console.expect(r"crc32 for 00100000 \.\.\. 004fffff ==> [0-9a-f]{8}", 60)


def ovmf_image():
    """Its files come together: an image for machines without flash, and code and variables for those with."""
    return package("ovmf", "./usr/share/ovmf/OVMF.fd", "./usr/share/OVMF/OVMF_*_4M.fd") + "/usr/share/ovmf/OVMF.fd"


def at_uefi_shell(console):
    console.expect(r"UEFI Interactive Shell", 120)
    # Any key but Escape, which its terminal driver takes for the first of several for a while.
    console.expect(r"any other key to continue", 60)
    console.type("\r")
    console.expect(r"Shell>", 60)


def ovmf(folder):
    """Its PEI and DXE phases, all processors started by it, to the shell."""
    image = ovmf_image()
    with Guest(folder, {"firmware": image}, vcpus=2) as console:
        at_uefi_shell(console)
        console.type("memmap\r")
        console.expect(r"Total Memory: +25\d MB", 60)


def ovmf_keeps_its_variables(folder):
    """Code and variables as flash: what the shell sets is there after a reset, and in the next VM that has the file."""
    where = os.path.dirname(os.path.dirname(ovmf_image())) + "/OVMF"
    nvram = {"path": os.path.join(folder, "ovmf-vars"), "template": f"{where}/OVMF_VARS_4M.fd"}
    boot = {"firmware": f"{where}/OVMF_CODE_4M.fd", "nvram": nvram}
    with Guest(folder, boot, vcpus=2) as console:
        at_uefi_shell(console)
        console.type("set colour green\r")
        console.expect(r"Shell>", 60)
        console.type("reset\r")
        at_uefi_shell(console)
        console.type("set colour\r")
        console.expect(r"colour(\x1b\[[0-9;]*m|\s)+=(\x1b\[[0-9;]*m|\s)+green", 60)
        console.expect(r"Shell>", 60)
        console.type("set -d colour\r")
        console.expect(r"Shell>", 60)
        console.type("set shape round\r")
        console.expect(r"Shell>", 60)
    before = os.path.getsize(nvram["template"])
    check(os.path.getsize(nvram["path"]) == before, "the file's size changed")
    del nvram["template"]
    guest = Guest(folder, boot)
    with guest as console:
        at_uefi_shell(console)
        console.type("set\r")
        shown = plain(console.text[:console.expect(r"shape(\x1b\[[0-9;]*m|\s)+=(\x1b\[[0-9;]*m|\s)+round", 60).end()])
        check("green" not in shown, "what was deleted is there again")
        console.expect(r"Shell>", 60)
        console.type("reset -s\r")
        guest.vm.wait(60)
        check(guest.vm.result()["state"] == "shutdown", str(guest.vm.result()))


def uefi_boots_debians_kernel(disk):
    """OVMF, GRUB as an EFI program from a FAT file system, the kernel by its EFI stub.

    Nothing is typed: OVMF's own terminal driver reads the same serial port by a timer, and takes some of the characters.
    """
    mformat, mcopy, mmd = (tool(name, "mtools") for name in ("mformat", "mcopy", "mmd"))
    firmware = ovmf_image()
    _, image = grub_image(disk.folder, "x86_64-efi", "grub-efi-amd64-bin", [],
                          ["linux (hd0)/vmlinuz console=ttyS0", "initrd (hd0)/initrd", "boot"])
    fat, initrd = os.path.join(disk.folder, "efi.raw"), os.path.join(disk.folder, "efi-initrd")
    make_initramfs(initrd)
    with open(fat, "wb") as f:
        f.truncate(64 * MIB)
    make(mformat, "-i", fat, "-F", "::")
    make(mmd, "-i", fat, "::EFI", "::EFI/BOOT")
    for source, target in ((image, "EFI/BOOT/BOOTX64.EFI"), (kernel_image(), "vmlinuz"), (initrd, "initrd")):
        make(mcopy, "-i", fat, source, f"::{target}")
    with Guest(disk.folder, {"firmware": firmware}, disks=[{"path": fat}], memory_mib=512) as console:
        console.expect("early configuration read", 120)
        console.expect(r"efi: EFI v2", BOOT_TIMEOUT)
        console.expect(UP, BOOT_TIMEOUT)


def main():
    tap = Tap()
    with scratch(world_readable=True) as folder:
        disk = Disk(folder)
        tests = [
            ("GRUB runs its shell", grub_runs_its_shell, disk),
            ("SeaBIOS's boot menu", seabios_boot_menu, disk),
            ("a CD boots", a_cd_boots, disk),
            ("GRUB boots Debian's kernel from a disk", grub_boots_debians_kernel, disk),
            ("GRUB boots memtest86+ from real mode", grub_boots_memtest_from_real_mode, disk),
            ("GRUB loads GNU Mach", grub_loads_gnu_mach, disk),
            ("GNU Mach, loaded directly", gnu_mach_directly, folder),
            ("Xen, loaded directly", xen_directly, folder),
            ("Xen runs a paravirtual Linux", xen_runs_a_paravirtual_linux, disk),
            ("iPXE, through SeaBIOS", firmware_boots_ipxe, folder),
            ("memtest86+, 64-bit, 2 processors", memtest, folder, "x64", 2),
            ("memtest86+, 32-bit", memtest, folder, "ia32", 1),
            ("Debian installer, amd64", installer, folder, "amd64", r"Linux version \S+-amd64 "),
            ("Debian installer, i386", installer, folder, "i386", r"Linux version \S+-686 "),
            ("U-Boot, 32-bit", uboot, folder, "qemu-x86", "32-bit"),
            ("U-Boot, 64-bit", uboot, folder, "qemu-x86_64", "64-bit"),
            ("OVMF", ovmf, folder),
            ("OVMF keeps its variables", ovmf_keeps_its_variables, folder),
            ("OVMF boots Debian's kernel through GRUB", uefi_boots_debians_kernel, disk),
        ]
        try:
            program("trivisor-vm")
            if MODE not in ("bt", "hvm"):
                raise Skip(f"{MODE} mode runs no unmodified system")
        except Skip as e:
            tap.skip("systems", str(e))
            tap.finish()
        for name, function, *arguments in tests:
            if len(sys.argv) > 1 and not any(word in name for word in sys.argv[1:]):
                continue
            begin = time.monotonic()
            if tap.run(name, function, *arguments):
                tap.explain(f"{time.monotonic() - begin:.1f} s")
    tap.finish()


if __name__ == "__main__":
    main()
