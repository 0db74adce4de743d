#!/usr/bin/python3
"""Disks as a Linux guest and their host see them: formats, temporary images, caches, errors of the host, one image and two VMs."""

import contextlib
import os
import resource
import signal
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from vmtest import (BOOT_TIMEOUT, UP, Skip, Tap, Vm, check, kernel_image, make_initramfs, program, scratch, wait_until)

MIB = 1 << 20
MARK = 4096  # where the images' marks are, and how long


def qemu(*command):
    try:
        r = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    except FileNotFoundError:
        raise Skip(f"{command[0]} is missing (package qemu-utils)") from None
    check(r.returncode == 0, f"{' '.join(command)}: {r.stderr.strip()}")
    return r.stdout


def mark(text):
    return text.encode().ljust(MARK, b".")


def at_mark(path):
    with open(path, "rb") as f:
        f.seek(MARK)
        return f.read(MARK).rstrip(b".").decode(errors="replace")


def raw(folder, name, text, size=8 * MIB):
    path = os.path.join(folder, name)
    with open(path, "wb") as f:
        f.truncate(size)
        f.seek(MARK)
        f.write(mark(text))
    return path


def children(pid):
    """Of all threads of a process: pid and name."""
    found = {}
    for thread in os.listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(FileNotFoundError), open(f"/proc/{pid}/task/{thread}/children") as f:
            for child in f.read().split():
                with open(f"/proc/{child}/comm") as comm:
                    found[int(child)] = comm.read().strip()
    return found


def command_line(pid):
    with open(f"/proc/{pid}/cmdline") as f:
        return f.read().split("\0")


class Session:
    """One guest with a disk of every kind."""

    def __init__(self, folder):
        self.folder = folder
        base, over = raw(folder, "base.raw", "of the base"), os.path.join(folder, "over.qcow2")
        self.base, self.over = base, over
        qemu("qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", over)
        self.kept = os.path.join(folder, "kept.qcow2")
        qemu("qemu-img", "convert", "-O", "qcow2", raw(folder, "kept.raw", "to be kept"), self.kept)
        self.doomed = os.path.join(folder, "doomed.qcow2")
        qemu("qemu-img", "create", "-q", "-f", "qcow2", self.doomed, "16M")
        self.direct = raw(folder, "direct.raw", "past the cache")
        self.small = raw(folder, "small.raw", "to be full", 16 * MIB)
        self.shared = raw(folder, "shared.raw", "never written")
        initrd = make_initramfs(os.path.join(folder, "initrd"))
        self.vm = Vm(folder, {
            "vcpus": 2, "boot": {"kernel": kernel_image(), "initrd": initrd, "cmdline": "console=ttyS0 quiet"},
            "disks": [
                {"path": over, "format": "qcow2"},
                {"path": self.kept, "format": "qcow2", "snapshot": True},
                {"path": self.direct, "cache": "direct", "serial": "S-0815"},
                {"path": self.small, "cache": "writethrough", "on_error": "pause"},
                {"path": self.doomed, "format": "qcow2"},
                {"path": self.shared, "snapshot": True},
            ]})

    def boots(self):
        self.console = self.vm.console()
        self.control = self.vm.control()
        self.console.expect(UP, BOOT_TIMEOUT)
        self.console.expect("guest# ", 60)

    def read(self, disk):
        return self.console.command(f"dd if=/dev/{disk} bs={MARK} skip=1 count=1 iflag=direct 2>/dev/null | tr -d '.\\000'").strip()

    def write(self, disk, text, timeout=30):
        return self.console.command(f"echo {text} | tr -d '\\n' | dd of=/dev/{disk} bs={MARK} seek=1 count=1 conv=sync,fsync 2>&1 "
                                    "| grep -v records", timeout)

    def has_all_disks(self):
        texts = [self.read(f"vd{c}") for c in "abcdef"]
        check(texts == ["of the base", "to be kept", "past the cache", "to be full", "", "never written"], str(texts))
        out = self.console.command("cat /sys/block/vdc/serial; echo; cat /sys/block/vd[acd]/queue/write_cache; "
                                   "ls /sys/block/vda/mq | wc -l; cat /sys/block/vd[ce]/size")
        check(out.split() == ["S-0815", "write", "back", "write", "back", "write", "through", "2", str(16384), str(32768)], out)

    def reads_and_writes_much(self):
        """Through the page cache, past it, and to qemu-nbd: scattered buffers in both directions."""
        for disk in "aceb":
            out = self.console.command(
                f"dd if=/dev/urandom of=/tmp/data bs=64k count=100 2>/dev/null; dd if=/tmp/data of=/dev/vd{disk} bs=256k seek=1 "
                f"conv=fsync 2>/dev/null; echo 3 >/proc/sys/vm/drop_caches; dd if=/dev/vd{disk} bs=256k skip=1 count=25 2>/dev/null "
                "| md5sum; md5sum </tmp/data", 120)
            check(len(set(out.split())) == 2 and len(out.split()) == 4, f"vd{disk}: {out}")

    def discards(self):
        def used():
            return os.stat(self.direct).st_blocks * 512

        before = used()
        check(before > 6 * MIB, f"{before} bytes in use")
        out = self.console.command("blkdiscard -o 1048576 -l 4194304 /dev/vdc 2>&1; dd if=/dev/vdc bs=1M skip=1 count=4 2>/dev/null "
                                   "| tr -d '\\000' | wc -c")
        check(out.split() == ["0"], out)
        check(used() <= before - 4 * MIB, f"{before} bytes in use before, {used()} after")

    def waits_for_room(self):
        """The host cannot write: the VM pauses, with the reason, and its guest never knows once it goes on."""
        pid, no_limit = self.vm.process.pid, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (12 * MIB, resource.RLIM_INFINITY))
        self.console.type(f"dd if=/dev/zero of=/dev/vdd bs=1M seek=8 count=6 oflag=direct 2>&1 | grep -c err''or; echo end of''write\n")
        event = self.control.wait_event(lambda e: e.get("state") == "paused", 60)
        check(self.small in event["reason"] and "resume" in event["reason"], str(event))
        check("disk " + self.small in self.vm.log() and "File too large" in self.vm.log(), self.vm.log())
        resource.prlimit(pid, resource.RLIMIT_FSIZE, no_limit)
        self.control.result("resume")
        check("0" in self.console.expect(r"(\d+)\r?\nend ofwrite", 60).group(1), "the guest saw an error")

    def counts(self):
        stats = self.control.result("stats")["machine"]
        for key in ("reads", "writes", "read_bytes", "written_bytes", "read_ns", "write_ns", "flushes", "flush_ns"):
            check(stats[f"virtio_blk0_{key}"] > 0, f"{key}: {stats}")
        check(stats["virtio_blk2_discards"] > 0 and stats["virtio_blk2_discarded_bytes"] >= 4 * MIB, str(stats))
        check(stats["virtio_blk0_errors"] == 0, str(stats))

    def survives_its_server(self):
        """A qemu-nbd that is killed: errors for that disk, a line in the log, and nothing else."""
        victims = [pid for pid, name in children(self.vm.process.pid).items()
                   if name == "qemu-nbd" and self.doomed in command_line(pid)]
        check(len(victims) == 1, f"qemu-nbd of {self.doomed}: {victims}")
        os.kill(victims[0], signal.SIGKILL)
        out = self.console.command("dd if=/dev/vde bs=4k skip=99 count=1 iflag=direct 2>&1", 60)
        check("I/O error" in out, out)
        wait_until("the log", lambda: f"disk {self.doomed}: its NBD server (qemu-nbd) has gone away" in self.vm.log())
        check(self.read("vda") == "of the base", "another disk suffers")

    def is_alone(self):
        """Nobody else may write these images, not even read those that it writes."""
        folder = os.path.join(self.folder, "second")
        os.mkdir(folder)
        for path, fmt in ((self.over, "qcow2"), (self.direct, "raw"), (self.kept, "raw")):
            other = {"boot": self.vm.definition["boot"], "disks": [{"path": path, "format": fmt}]}
            with Vm(folder, other) as vm:
                if path == self.kept:  # a temporary image leaves it to others to read, not to write
                    vm.definition["disks"][0]["readonly"] = True
                check(vm.wait(60) == 3, f"{path}: it started")
                check("in use" in vm.result()["reason"] and path in vm.result()["reason"], vm.result()["reason"])

    def ends_well(self):
        self.write("vda", "into-the-overlay")
        self.write("vdb", "into-nothing")
        self.write("vdf", "into-nothing")
        check(self.read("vdb") == "into-nothing" and self.read("vdf") == "into-nothing", "a temporary image forgets")
        servers = children(self.vm.process.pid)
        check(list(servers.values()).count("qemu-nbd") == 3, f"children: {servers}")  # one was killed
        self.console.type("poweroff -f\n")
        check(self.vm.wait(60) == 0, f"exit status; its log:\n{self.vm.log()}")
        # The images are closed before the VM's process is gone.
        left = [pid for pid in servers if os.path.exists(f"/proc/{pid}/fd") and os.listdir(f"/proc/{pid}/fd")]
        check(not left, f"qemu-nbd lives on: {left}")
        qemu("qemu-img", "check", "-q", self.over)
        flat = os.path.join(self.folder, "flat.raw")
        qemu("qemu-img", "convert", "-O", "raw", self.over, flat)
        check(at_mark(flat).startswith("into-the-overlay"), at_mark(flat))
        check(at_mark(self.base) == "of the base" and at_mark(self.shared) == "never written", "a base was written")
        qemu("qemu-img", "convert", "-O", "raw", self.kept, flat)
        check(at_mark(flat) == "to be kept", at_mark(flat))


def ends_with_its_vm(folder):
    """The VM's process is killed: so are its servers, and the image is whole, free and startable at once."""
    image, vm_dir = os.path.join(folder, "killed.qcow2"), os.path.join(folder, "killed")
    qemu("qemu-img", "create", "-q", "-f", "qcow2", image, "16M")
    os.mkdir(vm_dir)
    definition = {"boot": {"firmware": "/usr/share/seabios/bios-256k.bin"}, "disks": [{"path": image, "format": "qcow2"}]}
    if not os.path.exists(definition["boot"]["firmware"]):
        raise Skip("no SeaBIOS here (package seabios)")
    for _ in range(2):
        with Vm(vm_dir, definition) as vm:
            vm.console().expect("SeaBIOS", 60)
            servers = children(vm.process.pid)
            check("qemu-nbd" in servers.values(), str(servers))
            vm.process.kill()
            vm.wait()
            os.remove(vm.path("console.sock"))
    wait_until("qemu-nbd's end", lambda: not any(os.path.exists(f"/proc/{pid}") and command_line(pid)[0] for pid in servers))
    qemu("qemu-img", "check", "-q", image)


def fails_to_start(folder):
    path = raw(folder, "no.qcow2", "no image at all")
    boot = {"kernel": kernel_image()}
    cases = (
        ("not-qcow2", {"path": path, "format": "qcow2"}, ("no.qcow2", "qcow2 format")),
        ("no-image", {"path": "/nowhere/image.qcow2", "format": "qcow2"}, ("/nowhere/image.qcow2", "No such file")),
        ("no-direct", {"path": "/sys/kernel/notes", "cache": "direct", "readonly": True}, ("/sys/kernel/notes",)),
    )
    for name, disk, wanted in cases:
        vm_dir = os.path.join(folder, name)
        os.mkdir(vm_dir)
        with Vm(vm_dir, {"boot": boot, "disks": [disk]}) as vm:
            check(vm.wait(60) == 3, f"{name}: it started")
            reason = vm.result()["reason"]
            check(all(w in reason for w in wanted), f"{name}: {reason}")
            Tap.explain(f"{name}: {reason}")


def main():
    tap = Tap()
    with scratch() as folder:
        os.environ["TMPDIR"] = folder
        session = None
        try:
            program("trivisor-vm")
            session = Session(folder)
        except Skip as e:
            tap.skip("disks", str(e))
        if session:
            with session.vm:
                if tap.run("boots", session.boots):
                    for step in (session.has_all_disks, session.reads_and_writes_much, session.discards, session.waits_for_room,
                                 session.counts, session.is_alone, session.survives_its_server, session.ends_well):
                        tap.run(step.__name__.replace("_", " "), step)
            left = [name for name in os.listdir(folder) if name.startswith("vl.")]
            tap.run("no temporary image stays", lambda: check(not left, str(left)))
            tap.run("ends with its VM", ends_with_its_vm, folder)
            tap.run("fails to start", fails_to_start, folder)
    tap.finish()


if __name__ == "__main__":
    main()
