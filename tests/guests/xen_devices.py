#!/usr/bin/env python3
"""Disks and NICs of Xen PV guests: stock front ends against the back ends of machine/xen.

GRUB is made on the spot by Debian's grub-mkimage. Arguments choose tests by their names.
"""

import contextlib
import os
import shutil
import subprocess
import sys

from vmtest import BOOT_TIMEOUT, Skip, Tap, Vm, check, scratch

GRUB_FORMAT = "/usr/lib/grub/x86_64-xen"
GRUB_MODULES = "normal ls cat echo cmp hexdump linux ext2 part_msdos part_gpt search test configfile fat iso9660 halt reboot minicmd true".split()


def grub(folder, config=""):
    """A GRUB that is a PV kernel, with what it is to do at once."""
    if not shutil.which("grub-mkimage") or not os.path.isdir(GRUB_FORMAT):
        raise Skip("no grub-mkimage for Xen: apt-get install grub-common grub-xen-bin")
    path, early = os.path.join(folder, "grub.xen"), os.path.join(folder, "early.cfg")
    with open(early, "w", encoding="ascii") as f:
        f.write(config or "true\n")
    r = subprocess.run(["grub-mkimage", "-O", "x86_64-xen", "-o", path, "-p", "(xen/xvda)/boot/grub", "-c", early, *GRUB_MODULES],
                       capture_output=True, text=True, timeout=120, check=False)
    check(r.returncode == 0, r.stderr)
    return path


def ext4(folder, files, megabytes=16, name="disk"):
    """A disk with these files."""
    path, root = os.path.join(folder, name), os.path.join(folder, name + ".root")
    for where, content in files.items():
        os.makedirs(os.path.dirname(os.path.join(root, where)), exist_ok=True)
        with open(os.path.join(root, where), "wb") as f:
            f.write(content)
    r = subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", root, path, f"{megabytes}M"], capture_output=True, text=True, timeout=120, check=False)
    check(r.returncode == 0, r.stderr)
    return path


@contextlib.contextmanager
def grub_vm(folder, disks, **more):
    definition = {"memory_mib": 128, "boot": {"kernel": grub(folder)}, "disks": disks, **more}
    with Vm(folder, definition, mode="pv") as vm:
        console = vm.console()
        console.expect("grub> ", BOOT_TIMEOUT)
        yield vm, console


def grub_reads():
    """GRUB's shell lists a disk, reads files of it, and compares large ones."""
    big = b"".join(b"%07d\n" % i for i in range(131072))
    with scratch() as folder:
        disk = ext4(folder, {"hello": b"a file of the disk\n", "one": big, "two": big, "three": big[:-1] + b"!"})
        with grub_vm(folder, [{"path": disk}]) as (vm, console):
            console.type("ls\n")
            console.expect(r"\(xen/xvda\)", BOOT_TIMEOUT)
            console.expect("grub> ", BOOT_TIMEOUT)
            console.type("ls (xen/xvda)/\n")
            console.expect("hello", BOOT_TIMEOUT)
            console.expect("grub> ", BOOT_TIMEOUT)
            console.type("cat (xen/xvda)/hello\n")
            console.expect("a file of the disk", BOOT_TIMEOUT)
            console.expect("grub> ", BOOT_TIMEOUT)
            console.type("cmp (xen/xvda)/one (xen/xvda)/two\n")
            console.expect("The files are identical", BOOT_TIMEOUT)
            console.type("cmp (xen/xvda)/one (xen/xvda)/three\n")
            console.expect(f"differ at the offset {len(big) - 1}", BOOT_TIMEOUT)
            stats = vm.control().result("stats")["machine"]
            check(stats["xen_blk0_read_bytes"] > 2 * len(big) and stats["xen_blk0_errors"] == 0, str(stats))


def several_disks():
    """Each disk is its own; a CD-ROM is one more."""
    with scratch() as folder:
        disks = [{"path": ext4(folder, {"name": f"disk {i}\n".encode()}, name=f"disk{i}"), "device": kind}
                 for i, kind in enumerate(("disk", "cdrom", "disk"))]
        with grub_vm(folder, disks) as (_, console):
            for i, letter in enumerate("abc"):
                console.type(f"cat (xen/xvd{letter})/name\n")
                console.expect(f"disk {i}", BOOT_TIMEOUT)
                console.expect("grub> ", BOOT_TIMEOUT)


TESTS = {
    "GRUB reads a disk": grub_reads,
    "several disks": several_disks,
}


def main():
    tap = Tap()
    for name, test in TESTS.items():
        if len(sys.argv) < 2 or any(word in name for word in sys.argv[1:]):
            tap.run(name, test)
    tap.finish()


if __name__ == "__main__":
    main()
