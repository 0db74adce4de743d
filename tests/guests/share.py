#!/usr/bin/python3
"""Folders of the host by virtiofs: written and read from both sides, read-only ones, links that lead out, a server that dies."""

import hashlib
import os
import signal
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from vmtest import (BOOT_TIMEOUT, BUILD, UP, Skip, Tap, Vm, check, kernel_image, make_initramfs, scratch, wait_until)

NOBODY = 65534


class Context:
    def __init__(self, folder):
        self.folder = folder
        self.initrd = make_initramfs(os.path.join(folder, "initrd"), "--module", "virtiofs")
        self.secret = os.path.join(folder, "secret")
        with open(self.secret, "w") as f:
            f.write("not for guests\n")
        os.chmod(self.secret, 0o644)

    def make(self, name):
        """A folder with something in it."""
        path = os.path.join(self.folder, name)
        os.makedirs(os.path.join(path, "deep", "deeper"))
        with open(os.path.join(path, "hello"), "w") as f:
            f.write("from the host\n")
        os.symlink(self.secret, os.path.join(path, "out"))
        os.symlink("../secret", os.path.join(path, "up"))
        return path

    def start(self, name, shares, **more):
        where = os.path.join(self.folder, "vm-" + name)
        os.mkdir(where)
        return SharingVm(where, {"memory_mib": 256, "shares": shares, "boot": {
            "kernel": kernel_image(), "initrd": self.initrd, "cmdline": "console=ttyS0"}}, **more)


class SharingVm(Vm):
    def up(self):
        self.shell = self.console()
        self.shell.expect(UP, BOOT_TIMEOUT)
        self.shell.command("stty cols 250")
        return self.shell

    def mount(self, tag, where="/mnt"):
        out = self.shell.command(f"mkdir -p {where}; mount -t virtiofs {tag} {where} && echo mounted", 60)
        check("mounted" in out, out)

    def servers(self):
        """Process ids of its virtiofsd children."""
        out = subprocess.run(["ps", "-o", "pid=,comm=", "--ppid", str(self.process.pid)], capture_output=True, text=True).stdout
        return [int(line.split()[0]) for line in out.splitlines() if "virtiofsd" in line]


def md5(path):
    with open(path, "rb") as f:
        return hashlib.md5(f.read()).hexdigest()


def both_sides_write_and_read(c):
    folder = c.make("both")
    noise = os.urandom(24 << 20)
    with open(os.path.join(folder, "noise"), "wb") as f:
        f.write(noise)
    with c.start("both", [{"path": folder, "tag": "src"}]) as vm:
        shell = vm.up()
        vm.mount("src")
        check("from the host" in shell.command("cat /mnt/hello"), "a file of the host's")
        check(hashlib.md5(noise).hexdigest() in shell.command("md5sum /mnt/noise", 120), "24 MiB of the host's")
        out = shell.command("head -c 20m /dev/urandom >/mnt/deep/made; sync; md5sum /mnt/deep/made", 120)
        check(md5(os.path.join(folder, "deep/made")) in out, "20 MiB of the guest's")
        # Names, links, modes, sizes and times, as the guest makes them.
        out = shell.command("cd /mnt/deep; mkdir a; echo x >a/b; ln a/b c; mv a/b a/d; ln -s c s; chmod 640 c; truncate -s 1000 c; "
                            "touch -d @86400 c; rm a/d; rmdir a; stat -c '%s %a %Y %h' c; cd /; ls /mnt/deep")
        check("1000 640 86400 1" in out and "a\n" not in out.split("\n", 1)[1].replace("made", ""), out)
        st = os.stat(os.path.join(folder, "deep/c"))
        check((st.st_size, st.st_mode & 0o777, int(st.st_mtime), st.st_nlink) == (1000, 0o640, 86400, 1), str(st))
        check(os.readlink(os.path.join(folder, "deep/s")) == "c", "a link")
        # What the host makes meanwhile is seen; a program can be run from there.
        with open("/bin/busybox", "rb") as source, open(os.path.join(folder, "busybox"), "wb") as target:
            target.write(source.read())
        os.chmod(os.path.join(folder, "busybox"), 0o755)
        check("ran from there" in shell.command("/mnt/busybox echo ran from there"), "a program of the folder")
        # Programs one after the other in the same pages: what a server writes to RAM must drop what was translated.
        out = shell.command("for i in 1 2 3; do echo 3 >/proc/sys/vm/drop_caches; /mnt/busybox md5sum /mnt/noise; done", 180)
        check(out.count(hashlib.md5(noise).hexdigest()) == 3, out)
        # Many files at once.
        out = shell.command("mkdir /mnt/many; for i in $(seq 1 300); do echo $i >/mnt/many/$i; done; cat /mnt/many/* | md5sum; ls /mnt/many | wc -l", 120)
        check("300" in out and len(os.listdir(os.path.join(folder, "many"))) == 300, out)
        out = shell.command("for j in 1 2 3 4; do (dd if=/mnt/noise of=/mnt/copy$j bs=64k 2>/dev/null; echo end) & done; wait", 180)
        for j in range(1, 5):
            check(md5(os.path.join(folder, f"copy{j}")) == hashlib.md5(noise).hexdigest(), f"copy {j} of four at once")
        servers = vm.servers()
        check(len(servers) == 1, f"servers: {servers}")
        shell.type("poweroff -f\n")
        check(vm.wait() == 0, "it powers off")
        wait_until("its server's end", lambda: not os.path.exists(f"/proc/{servers[0]}"))


def guests_stay_inside(c):
    """Links are the guest's to follow, in its own tree; .. ends at the top."""
    folder = c.make("inside")
    with c.start("inside", [{"path": folder}]) as vm:
        shell = vm.up()
        vm.mount("share0")
        for path in ("out", "up", "../secret", "deep/../../secret", "deep/deeper/../../../../secret"):
            out = shell.command(f"cat /mnt/{path}")
            check("not for guests" not in out and "No such file" in out, f"{path}: {out}")
        out = shell.command(f"ls /mnt/{'../' * 20}{c.secret[1:]}")
        check("No such file" in out, out)


def a_readonly_folder_stays_as_it_is(c):
    folder = c.make("ro")
    before = sorted((p, tuple(d), tuple(f)) for p, d, f in os.walk(folder)), md5(os.path.join(folder, "hello")), os.stat(folder).st_mode
    with c.start("ro", [{"path": folder, "tag": "ro", "readonly": True}, {"path": c.make("rw"), "tag": "rw"}]) as vm:
        shell = vm.up()
        vm.mount("ro")
        vm.mount("rw", "/rw")
        check("from the host" in shell.command("cat /mnt/hello"), "it can be read")
        check("deeper" in shell.command("ls -R /mnt"), "and listed")
        for command in ("echo x >/mnt/hello", "echo x >>/mnt/hello", "echo x >/mnt/new", "mkdir /mnt/d", "rm /mnt/hello", "mv /mnt/hello /mnt/h",
                        "ln /mnt/hello /mnt/l", "ln -s a /mnt/l", "chmod 0 /mnt/hello", "chown 1 /mnt/hello", "truncate -s 0 /mnt/hello",
                        "touch /mnt/hello", "rmdir /mnt/deep/deeper", "mknod /mnt/n c 1 3", "mount -o remount,rw /mnt && echo x >/mnt/hello"):
            out = shell.command(f"{command} && echo 'it 'worked")
            check("it worked" not in out and "Read-only" in out, f"{command}: {out}")
        check("fine" in shell.command("echo x >/rw/new && echo fine"), "the other one can be written")
    after = sorted((p, tuple(d), tuple(f)) for p, d, f in os.walk(folder)), md5(os.path.join(folder, "hello")), os.stat(folder).st_mode
    check(before == after, f"{before} became {after}")


def a_dead_server_harms_its_folder_only(c):
    with c.start("dead", [{"path": c.make("dead"), "tag": "one"}, {"path": c.make("alive"), "tag": "two"}]) as vm:
        shell = vm.up()
        vm.mount("one")
        vm.mount("two", "/two")
        for pid in vm.servers():
            with open(f"/proc/{pid}/cmdline", "rb") as f:
                if b"/dead" in f.read():
                    os.kill(pid, signal.SIGKILL)
        wait_until("the log's line", lambda: "virtiofsd has ended" in vm.log())
        out = shell.command("cat /mnt/hello; ls /mnt/deep; echo x >/mnt/y")
        check("not connected" in out, out)
        check("from the host" in shell.command("cat /two/hello"), "the other folder")
        # Reset: its driver finds the device again, and errors.
        control = vm.control()
        control.result("reset")
        shell.expect(UP, BOOT_TIMEOUT)
        vm.mount("two", "/two")
        check("from the host" in shell.command("cat /two/hello"), "the other folder after a reset")
        check(control.result("pause") == {} and control.result("resume") == {}, "pause and resume")
        check("from the host" in shell.command("cat /two/hello"), "after a pause")


def refusals_have_reasons(c):
    for share, words in (({"path": "/nowhere/at/all"}, "No such file"), ({"path": c.secret}, "no folder"),
                         ({"path": c.folder, "tag": "a/b"}, "no tag"), ({"path": "relative"}, "absolute")):
        where = os.path.join(c.folder, "refused")
        os.makedirs(where, exist_ok=True)
        with Vm(where, {"shares": [share], "boot": {"kernel": kernel_image()}}) as vm:
            check(vm.wait() == 3, "it does not start")
            check(words in vm.result()["reason"], vm.result()["reason"])


def a_plain_user_shares(c):
    """In a user namespace: what the guest's root makes is this user's. Without such namespaces the refusal says so."""
    if os.geteuid():
        raise Skip("this test becomes another user, which takes root")
    where = os.path.join(c.folder, "vm-plain")
    folder = os.path.join(c.folder, "plain")
    for path in (where, folder):
        os.mkdir(path)
        os.chown(path, NOBODY, NOBODY)
    if subprocess.run(["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "test", "-x", os.path.join(BUILD, "trivisor-vm")]).returncode:
        raise Skip("another user cannot reach the build directory")
    prefix = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    with SharingVm(where, {"memory_mib": 192, "shares": [{"path": folder, "tag": "mine"}], "boot": {
            "kernel": kernel_image(), "initrd": c.initrd, "cmdline": "console=ttyS0"}}, prefix=prefix) as vm:
        try:
            vm.process.wait(2)
            reason = vm.result()["reason"]
            check("user namespaces" in reason and "root" in reason, reason)
            raise Skip(reason)
        except subprocess.TimeoutExpired:
            pass
        shell = vm.up()
        vm.mount("mine")
        check("fine" in shell.command("echo by the guest >/mnt/file && cat /mnt/file && echo fine"), "a file")
        check(os.stat(os.path.join(folder, "file")).st_uid == NOBODY, "its owner")


def main():
    tap = Tap()
    with scratch(world_readable=True) as folder:
        c = Context(folder)
        for test in (both_sides_write_and_read, guests_stay_inside, a_readonly_folder_stays_as_it_is, a_dead_server_harms_its_folder_only,
                     refusals_have_reasons, a_plain_user_shares):
            tap.run(test.__name__.replace("_", " "), test, c)
    tap.finish()


if __name__ == "__main__":
    main()
