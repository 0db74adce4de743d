#!/usr/bin/python3
"""Disks where the host really has no room left, in each way that on_error knows, and a block device of the host."""

import contextlib
import ctypes
import os
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from vmtest import BOOT_TIMEOUT, UP, Skip, Tap, Vm, check, kernel_image, make_initramfs, scratch, wait_until

MIB = 1 << 20
CLONE_NEWNS = 0x20000


def own_mounts():
    """What is mounted from here on goes with this process."""
    if os.geteuid() or ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNS):
        raise Skip("mounting takes root")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)


@contextlib.contextmanager
def booted(folder, name, disks):
    """(VM, its shell, its control socket)"""
    where = os.path.join(folder, name)
    os.mkdir(where)
    initrd = make_initramfs(os.path.join(folder, name + ".initrd"), "--module", "virtio_blk")
    with Vm(where, {"memory_mib": 192, "disks": disks, "boot": {"kernel": kernel_image(), "initrd": initrd, "cmdline": "console=ttyS0"}}) as vm:
        shell, control = vm.console(), vm.control()
        shell.expect(UP, BOOT_TIMEOUT)
        shell.expect("guest# ", 60)
        yield vm, shell, control


def fill(disk, megabytes):
    return f"dd if=/dev/zero of=/dev/{disk} bs=1M count={megabytes} oflag=direct 2>&1"


def no_room(folder):
    """A small file system with sparse images on it. Errors are reported, or the VM waits until there is room."""
    full = os.path.join(folder, "full")
    os.mkdir(full)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "none", full], check=False).returncode:
        raise Skip("no tmpfs can be mounted here")
    disks = []
    for name, on_error, image_format in (("report", "report", "raw"), ("waits", "pause_when_full", "raw"), ("image", "pause_when_full", "qcow2")):
        path = os.path.join(full, name)
        if image_format == "raw":
            with open(path, "wb") as f:
                f.truncate(32 * MIB)
        else:
            subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "32M"], check=True)
        disks.append({"path": path, "on_error": on_error, "format": image_format})
    ballast = os.path.join(full, "ballast")
    with booted(folder, "vm", disks) as (vm, shell, control):
        out = shell.command(fill("vda", 16) + "; echo state $?", 120)
        check("state 1" in out, f"a full disk took it all: {out}")
        check("No space left on device" in vm.log(), vm.log())
        check(control.result("status")["state"] == "running" and control.result("stats")["machine"]["virtio_blk0_errors"] > 0, "it goes on")
        os.truncate(disks[0]["path"], 0)
        os.truncate(disks[0]["path"], 32 * MIB)
        for number, disk in enumerate(("vdb", "vdc"), 1):
            with open(ballast, "wb") as f:
                f.write(bytes(9 * MIB))
            shell.type(fill(disk, 8) + "; echo ended '' with $?\n")
            event = control.wait_event(lambda e: e.get("state") == "paused", 120)
            check(disks[number]["path"] in event["reason"] and "No space left" in event["reason"], str(event))
            # Without help it is the same again.
            control.result("resume")
            control.wait_event(lambda e: e.get("state") == "paused", 60)
            os.unlink(ballast)
            control.result("resume")
            shell.expect(r"ended  with 0", 120)
            out = shell.command(f"dd if=/dev/{disk} bs=1M count=8 iflag=direct 2>/dev/null | tr -d '\\000' | wc -c", 60)
            check(out.split()[-1] == "0", out)
            os.truncate(disks[1]["path"], 0)
            os.truncate(disks[1]["path"], 32 * MIB)
        shell.type("poweroff -f\n")
        check(vm.wait() == 0, vm.log())


def block_device(folder):
    """A loop device stands for any: its size, writes that last, discards; the host's own use and a second VM's are refused."""
    backing = os.path.join(folder, "backing")
    with open(backing, "wb") as f:
        f.truncate(16 * MIB)
    made = subprocess.run(["losetup", "--find", "--show", backing], capture_output=True, text=True, check=False)
    if made.returncode:
        raise Skip(f"no loop device here: {made.stderr.strip()}")
    device = made.stdout.strip()
    try:
        with booted(folder, "loop", [{"path": device, "cache": "direct"}]) as (vm, shell, control):
            out = shell.command("cat /sys/block/vda/size; echo written by the guest | dd of=/dev/vda bs=4k seek=3 conv=sync,fsync 2>/dev/null; "
                                "dd if=/dev/urandom of=/tmp/r bs=1M count=4 2>/dev/null; dd if=/tmp/r of=/dev/vda bs=1M seek=8 oflag=direct 2>/dev/null; "
                                "dd if=/dev/vda bs=1M skip=8 count=4 iflag=direct 2>/dev/null | md5sum; md5sum </tmp/r", 120)
            words = out.replace("-", "").split()
            check(words[0] == str(16 * MIB // 512) and words[1] == words[2], out)
            before = os.stat(backing).st_blocks
            shell.command("blkdiscard -o 8388608 -l 4194304 /dev/vda", 60)
            wait_until("the discard", lambda: os.stat(backing).st_blocks <= before - 4 * MIB // 512)
            with contextlib.suppress(FileExistsError):
                os.mkdir(os.path.join(folder, "second"))
            with Vm(os.path.join(folder, "second"), {"boot": vm.definition["boot"], "disks": [{"path": device}]}) as second:
                check(second.wait() == 3 and device in second.result()["reason"] and "uses it" in second.result()["reason"], second.result()["reason"])
            shell.type("poweroff -f\n")
            check(vm.wait() == 0, vm.log())
        with open(backing, "rb") as f:
            f.seek(3 * 4096)
            check(f.read(20) == b"written by the guest", "on the device")
    finally:
        subprocess.run(["losetup", "--detach", device], check=False)


def main():
    tap = Tap()
    try:
        own_mounts()
    except Skip as e:
        tap.skip("disks of a full host", str(e))
        tap.finish()
        return
    for test in (no_room, block_device):
        with scratch() as folder:
            tap.run(test.__name__.replace("_", " "), test, folder)
            subprocess.run(["umount", os.path.join(folder, "full")], stderr=subprocess.DEVNULL, check=False)
    tap.finish()


if __name__ == "__main__":
    main()
