#!/usr/bin/env python3
"""Disks and NICs of Xen PV guests: stock front ends against the back ends of machine/xen.

GRUB is made on the spot by Debian's grub-mkimage. Arguments choose tests by their names.
"""

import contextlib
import hashlib
import os
import shutil
import socket
import subprocess
import sys

from nettest import DHCP_SCRIPT, Files, free_port
from vmtest import BOOT_TIMEOUT, UP, Skip, Tap, Vm, check, kernel_image, make_initramfs, scratch, wait_until

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


@contextlib.contextmanager
def linux(folder, vcpus=1, **definition):
    """Debian's kernel with its front ends, at its shell."""
    script, initrd = os.path.join(folder, "dhcp.script"), os.path.join(folder, "initrd")
    with open(script, "w", encoding="ascii") as f:
        f.write(DHCP_SCRIPT)
    make_initramfs(initrd, "--module", "xen-blkfront", "--module", "xen-netfront", "--module", "af_packet", "--module", "ext4",
                   "--file", f"{script}:/etc/udhcpc/default.script:755")
    boot = {"kernel": kernel_image(), "initrd": initrd, "cmdline": "console=hvc0"}
    with Vm(folder, {"memory_mib": 256, "vcpus": vcpus, "boot": boot, **definition}, mode="pv") as vm:
        console = vm.console()
        console.expect(UP, BOOT_TIMEOUT)
        console.command("stty columns 500")  # a line that is wrapped comes back in pieces
        yield vm, console


def md5(data):
    return hashlib.md5(data).hexdigest()


def blkfront(vcpus):
    """What is read is what is there, and what is written arrives; flushes and discards too. A disk that is read-only is one."""
    content, fixed = os.urandom(6 << 20), os.urandom(1 << 20)
    with scratch() as folder:
        disk, other = ext4(folder, {"content": content}, 64), os.path.join(folder, "fixed")
        with open(other, "wb") as f:
            f.write(fixed)
        with linux(folder, vcpus, disks=[{"path": disk, "discard": "unmap"}, {"path": other, "readonly": True}]) as (vm, console):
            console.command("mkdir -p /m; mount -t ext4 -o discard /dev/xvda /m", 60)
            check(md5(content) in console.command("md5sum /m/content", 60), "the file reads otherwise")
            check(md5(fixed) in console.command("md5sum /dev/xvdb", 60), "the second disk reads otherwise")
            check("refused" in console.command("dd if=/dev/zero of=/dev/xvdb count=1 2>/dev/null || echo refused", 60), "a read-only disk was written to")
            console.command("for i in 1 2 3; do dd if=/m/content of=/m/copy$i bs=1M 2>/dev/null & done; wait; sync; rm /m/copy1; sync", 120)
            sums = console.command("umount /m; mount -t ext4 /dev/xvda /m; md5sum /m/copy*; umount /m", 120)
            check(sums.count(md5(content)) == 2, sums)
            stats = vm.control().result("stats")["machine"]
            check(stats["xen_blk0_flushes"] and stats["xen_blk0_discards"] and not stats["xen_blk0_errors"], str(stats))
            console.type("poweroff -f\n")
            check(vm.wait(BOOT_TIMEOUT) == 0, vm.log())
        check(subprocess.run(["e2fsck", "-fn", disk], capture_output=True, check=False).returncode == 0, "the file system is damaged")
        out = os.path.join(folder, "out")
        subprocess.run(["debugfs", "-R", f"dump /copy3 {out}", disk], capture_output=True, check=False)
        with open(out, "rb") as f:
            check(f.read() == content, "what the guest wrote is not in the disk")


def netfront():
    """DHCP, and data both ways through the user network; the address is the definition's."""
    files, port, mac, payload = Files(8 << 20), free_port(), "52:54:00:12:34:56", os.urandom(1 << 20)
    with scratch() as folder:
        nic = {"type": "user", "mac": mac, "forward": [{"host_port": port, "guest_port": 7}]}
        with linux(folder, 2, nics=[nic]) as (vm, console):
            check(mac in console.command("cat /sys/class/net/eth0/address"), "another address")
            check("lease of 10.0.2.15" in console.command("udhcpc -i eth0 -n -q -t 10 2>&1", BOOT_TIMEOUT), "no lease")
            out = console.command(f"wget -q -O - http://10.0.2.2:{files.port}/noise | md5sum", 120)
            check(files.md5 in out, f"{out}, not {files.md5}")
            console.command("(while :; do nc -l -p 7 -e cat; done >/dev/null 2>&1 &)")
            wait_until("the guest's listener", lambda: ":0007 " in console.command("cat /proc/net/tcp /proc/net/tcp6"))
            with socket.create_connection(("127.0.0.1", port), 30) as s:
                s.settimeout(60)
                got, sent = b"", 0
                while len(got) < len(payload):
                    sent += s.send(payload[sent:sent + 30000])
                    got += s.recv(65536)
            check(got == payload, "what came back is not what was sent")
            stats = vm.control().result("stats")["machine"]
            check(stats["xen_net0_rx_bytes"] > 9 << 20 and stats["xen_net0_tx_bytes"] > 1 << 20 and not stats["xen_net0_tx_errors"], str(stats))
    files.close()


def again():
    """A reboot finds the devices again; a driver that is unbound and bound anew does (blkfront does not ask for that by itself)."""
    with scratch() as folder:
        disk = ext4(folder, {"name": b"still there\n"})
        with linux(folder, disks=[{"path": disk}], nics=[{"type": "user"}]) as (_, console):
            console.type("reboot -f\n")
            console.expect(UP, BOOT_TIMEOUT)
            console.command("stty columns 500")
            out = console.command("mkdir -p /m; mount -t ext4 /dev/xvda /m; cat /m/name || dmesg | tail", 60)
            check("still there" in out, out)
            console.command("cd /sys/bus/xen/drivers/vif; echo vif-0 >unbind; echo vif-0 >bind; cd /", 60)
            wait_until("eth0", lambda: "eth0" in console.command("ls /sys/class/net"))
            check("lease of 10.0.2.15" in console.command("udhcpc -i eth0 -n -q -t 10 2>&1", BOOT_TIMEOUT), "no lease")


def refused():
    """What a domain cannot have is refused by its name."""
    for key, value in (("vsock", {"cid": 3}), ("channels", [{"name": "org.example.one"}]), ("disks", [{"path": "", "device": "cdrom"}])):
        with scratch() as folder, Vm(folder, {"memory_mib": 64, "boot": {"kernel": grub(folder)}, key: value}, mode="pv") as vm:
            check(vm.wait(BOOT_TIMEOUT) == 3, f"{key}: it started")
            check(key in vm.result()["reason"], f"{key}: {vm.result()['reason']}")


TESTS = {
    "GRUB reads a disk": grub_reads,
    "several disks": several_disks,
    "what a domain cannot have": refused,
    "blkfront": lambda: blkfront(1),
    "blkfront, two vCPUs": lambda: blkfront(2),
    "netfront": netfront,
    "front ends come again": again,
}


def main():
    tap = Tap()
    for name, test in TESTS.items():
        if len(sys.argv) < 2 or any(word in name for word in sys.argv[1:]):
            tap.run(name, test)
    tap.finish()


if __name__ == "__main__":
    main()
