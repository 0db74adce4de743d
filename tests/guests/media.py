#!/usr/bin/python3
"""Discs of a CD-ROM drive come and go while a stock kernel runs, through the daemon: raw and qcow2, locked drives, the guest's eject."""

import hashlib
import os
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from vmtest import (BOOT_TIMEOUT, UP, Console, Daemon, Tap, check, kernel_image, make_initramfs, program, scratch, wait_until)


class Context:
    def __init__(self, folder, daemon):
        self.folder = folder
        self.daemon = daemon
        self.discs = {}
        for name, size in (("a", 700 * 2048), ("b", 300 * 2048)):
            data = os.urandom(size)
            path = os.path.join(folder, f"{name}.iso")
            with open(path, "wb") as f:
                f.write(data)
            self.discs[name] = (path, hashlib.md5(data).hexdigest())
        initrd = make_initramfs(os.path.join(folder, "initrd"), "--module", "virtio_scsi", "--module", "sr_mod",
                                "--file", f"{program('tests/guests/programs/eject')}:/bin/eject:755")
        started = daemon.rpc.result("vm.run", {"definition": {
            "name": "box", "memory_mib": 192, "disks": [{"device": "cdrom"}], "boot": {
                "kernel": kernel_image(), "initrd": initrd, "cmdline": "console=ttyS0"}}})
        self.shell = Console(started["console"])
        self.shell.expect(UP, BOOT_TIMEOUT)
        self.shell.command("stty cols 250")

    def change(self, name, **more):
        return self.daemon.rpc.call("vm.media_change", {"vm": "box", "path": self.discs[name][0], **more})

    def eject(self, **more):
        return self.daemon.rpc.call("vm.eject", {"vm": "box", **more})

    def disc(self):
        """The definition that it runs by, as the next daemon would find it."""
        return self.daemon.rpc.result("vm.get", {"vm": "box"})

    def reads(self, name):
        out = self.shell.command("dd if=/dev/sr0 bs=2048 2>/dev/null | md5sum; blockdev --getsize64 /dev/sr0", 60)
        check(self.discs[name][1] in out and str(os.path.getsize(self.discs[name][0])) in out, f"{out}, not {self.discs[name]}")

    def is_empty(self):
        out = self.shell.command("cat /dev/sr0 | wc -c")
        check("No medium" in out, out)


def a_drive_begins_empty(c):
    c.is_empty()
    check("error" in c.daemon.rpc.call("vm.media_change", {"vm": "box", "path": c.discs["a"][0], "drive": 1}), "a drive that is not there")


def discs_come_and_go(c):
    for name in ("a", "b", "a"):
        answer = c.change(name)
        check("result" in answer, str(answer))
        c.reads(name)
    check("result" in c.eject(), "it comes out")
    c.is_empty()
    check("result" in c.eject(), "so does nothing")


def images_with_a_server_too(c):
    path = os.path.join(c.folder, "a.qcow2")
    subprocess.run(["qemu-img", "convert", "-U", "-O", "qcow2", c.discs["a"][0], path], check=True)
    pid = c.daemon.rpc.result("vm.get", {"vm": "box"})["process"]["pid"]
    answer = c.daemon.rpc.call("vm.media_change", {"vm": "box", "path": path, "format": "qcow2"})
    check("result" in answer, str(answer))
    c.reads("a")
    check("result" in c.change("b"), "another one")
    c.reads("b")
    wait_until("its server's end", lambda: subprocess.run(["pgrep", "-f", f"qemu-nbd.*{path}"], capture_output=True).returncode != 0)
    check(os.path.exists(f"/proc/{pid}"), "the VM")


def a_disc_in_use_stays(c):
    c.shell.command("exec 3</dev/sr0")
    answer = c.change("a")
    check("locked" in answer.get("error", {}).get("message", ""), str(answer))
    answer = c.eject()
    check("locked" in answer.get("error", {}).get("message", ""), str(answer))
    c.reads("b")
    check("result" in c.change("a", force=True), "by force")
    c.shell.command("exec 3<&-")
    c.reads("a")


def the_guest_ejects(c):
    c.shell.command("exec 3</dev/sr0")
    c.shell.command("eject")
    c.reads("a")  # not while it is in use
    c.shell.command("exec 3<&-")
    check("eject:" not in c.shell.command("eject"), "now")
    c.is_empty()
    check("result" in c.change("b"), "the tray takes the next one")
    c.reads("b")


def files_that_are_none(c):
    short = os.path.join(c.folder, "short")
    with open(short, "wb") as f:
        f.write(b"x" * 600)
    for path, words in (("/nowhere/x.iso", "No such file"), (c.folder, "directory"), (short, "2048"), ("relative", "absolute")):
        answer = c.daemon.rpc.call("vm.media_change", {"vm": "box", "path": path})
        check(words in answer.get("error", {}).get("message", ""), f"{path}: {answer}")
    answer = c.daemon.rpc.call("vm.media_change", {"vm": "box", "path": c.discs["a"][0], "format": "qcow2"})
    check("qcow2" in answer.get("error", {}).get("message", ""), str(answer))
    c.reads("b")


def by_the_command_line(c):
    def trictl(*arguments):
        return subprocess.run([program("trictl"), "--socket", c.daemon.socket, *arguments], capture_output=True, text=True, timeout=60)

    r = trictl("media", "box", c.discs["a"][0])
    check(r.returncode == 0, r.stderr)
    c.reads("a")
    r = trictl("eject", "box")
    check(r.returncode == 0, r.stderr)
    c.is_empty()
    r = trictl("eject", "--drive", "3", "box")
    check(r.returncode != 0 and "no CD-ROM drive 3" in r.stderr, r.stderr)


def main():
    tap = Tap()
    with scratch() as folder, Daemon(folder) as daemon:
        context = []
        if tap.run("a stock kernel finds the drive", lambda: context.append(Context(folder, daemon))):
            for test in (a_drive_begins_empty, discs_come_and_go, images_with_a_server_too, a_disc_in_use_stays, the_guest_ejects,
                         files_that_are_none, by_the_command_line):
                tap.run(test.__name__.replace("_", " "), test, context[0])
            context[0].shell.close()
    tap.finish()


if __name__ == "__main__":
    main()
