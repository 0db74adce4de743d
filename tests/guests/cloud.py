#!/usr/bin/python3
"""A cloud's image configures itself: Debian with its cloud-init package, from SeaBIOS and GRUB on, by the disk made for it.

The disk is debian.py's with cloud-init in it, made once and kept in the cache. Guests run through trictl over a temporary image.
"""

import os
import shutil
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import debian
import systems
from systems import seabios, tool
from vmtest import BOOT_TIMEOUT, BUILD, Failed, Skip, Tap, check, program, scratch

debian.PACKAGES += ",cloud-init"
debian.SIZE_MIB = 1536

USER_DATA = """#cloud-config
users:
  - name: kim
    lock_passwd: false
    plain_text_passwd: secret
    ssh_authorized_keys: [ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDN0c3Rpbmc kim@test]
    shell: /bin/bash
locale: C.UTF-8
ssh_genkeytypes: []
write_files:
  - path: /etc/written
    content: "by cloud-init\\n"
runcmd:
  - [sh, -c, 'echo run-$(cat /sys/class/dmi/id/product_serial)-$(hostname) >/dev/ttyS0']
final_message: "cloud-init is done"
"""
META_DATA = "instance-id: test-1\nlocal-hostname: cloudy\n"


class Run:
    """trictl run, without a daemon: a private one goes with it."""

    def __init__(self, *arguments):
        environment = dict(os.environ, PATH=BUILD + ":" + os.environ["PATH"])
        environment.pop("TRIVISOR_SOCKET", None)
        self.process = subprocess.Popen([program("trictl"), "--socket", "/nonexistent/socket", "run", *arguments], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment)
        self.text = ""

    def expect(self, word, seconds):
        deadline = time.monotonic() + seconds
        os.set_blocking(self.process.stdout.fileno(), False)
        while word not in self.text:
            check(time.monotonic() < deadline, f"{word!r} not seen:\n{self.text[-2500:]}")
            data = self.process.stdout.read()
            check(data != b"", f"the end before {word!r}:\n{self.text[-2500:]}")
            if data:
                self.text += data.decode(errors="replace")
            else:
                time.sleep(0.05)

    def type(self, text):
        self.process.stdin.write(text.encode())
        self.process.stdin.flush()

    def end(self):
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait(60)


def write(folder, name, text):
    path = os.path.join(folder, name)
    with open(path, "w") as f:
        f.write(text)
    return path


def disc(folder):
    """What trivisor-seed makes, by others' readers."""
    out = os.path.join(folder, "seed.iso")
    seed = program("trivisor-seed")
    user = write(folder, "user, data=1", USER_DATA)
    subprocess.run([seed, out, "0000-uuid", "a_b", f"user-data={user}"], check=True)
    label = subprocess.run([tool("blkid", "util-linux"), "-p", "-o", "export", out], capture_output=True, text=True, check=True).stdout
    check("LABEL=cidata" in label and "TYPE=iso9660" in label, label)

    def read(name):
        return subprocess.run([tool("osirrox", "xorriso"), "-indev", out, "-extract", "/" + name, os.path.join(folder, "x-" + name)],
                              capture_output=True, check=False).returncode == 0 and open(os.path.join(folder, "x-" + name), encoding="utf-8").read()

    if shutil.which("osirrox"):
        check(read("user-data") == USER_DATA, "user-data")
        check(read("meta-data") == "instance-id: 0000-uuid\nlocal-hostname: a-b\n", "meta-data")
        check(read("network-config") is False, "a file that nobody gave")
    for arguments, word in ((["user-data=/nonexistent"], "user-data: /nonexistent: No such file"), (["user-data=/"], "Is a directory"),
                            (["user-data=/dev/zero"], "File too large"), (["colour=/x"], "colour=/x: no file of NoCloud")):
        p = subprocess.run([seed, os.path.join(folder, "no.iso"), "u", "n", *arguments], capture_output=True, text=True)
        check(p.returncode == 1 and word in p.stderr and not os.path.exists(os.path.join(folder, "no.iso")), str(p))
    p = subprocess.run([seed, "/dev/full/x", "u", "n"], capture_output=True, text=True)
    check(p.returncode == 1 and "Not a directory" in p.stderr, str(p))


def configures_itself(folder, base):
    run = Run("--firmware", seabios(), "--memory", "512", "--mode", "bt", "--disk", f"{base},format=qcow2,snapshot=on",
              "--cloud-init", f"user-data={write(folder, 'user', USER_DATA)},meta-data={write(folder, 'meta', META_DATA)}",
              "--smbios", "system.serial=serial-7", "--smbios", "system.product=A Product", "--smbios", "oem=one", "--smbios", "oem=two words",
              "--no-reboot")
    try:
        run.expect("GRUB loads Debian", 120)
        run.expect("run-serial-7-cloudy", BOOT_TIMEOUT * 3)
        run.expect("cloud-init is done", BOOT_TIMEOUT)
        run.type("\n")
        run.expect("cloudy login: ", BOOT_TIMEOUT)
        run.type("kim\n")
        run.expect("assword:", BOOT_TIMEOUT)
        run.type("secret\n")
        run.expect("kim@cloudy", BOOT_TIMEOUT)
        run.type("cat /etc/written .ssh/authorized_keys /sys/class/dmi/id/product_name; lsblk -no LABEL,RO,FSTYPE /dev/vdb; "
                 "cloud-init status; strings=/sys/firmware/dmi/entries/11-0; ls -d $strings; echo the''-end\n")
        run.expect("the-end", BOOT_TIMEOUT)
        for word in ("by cloud-init", "kim@test", "A Product", "cidata", "status: done", "/sys/firmware/dmi/entries/11-0"):
            check(word in run.text, f"{word!r} is not in\n{run.text[-2000:]}")
    finally:
        run.end()


def refuses(folder, base):
    for arguments, word in ((["--cloud-init", "user-data=/nonexistent"], "cloud_init: user-data: /nonexistent: No such file"),
                            (["--cloud-init", "colour=blue"], "is none of user-data=FILE"), (["--smbios", "system.colour=x"], "smbios.system.colour: unknown key"),
                            (["--smbios", "x"], "neither SECTION.KEY"), (["--smbios", "oem="], "no empty texts"),
                            (["--smbios", "system.serial=" + "x" * 256], "too long")):
        run = Run("--firmware", seabios(), "--memory", "64", "--mode", "bt", *arguments)
        out = run.process.communicate(timeout=60)[0].decode()
        check(run.process.returncode in (2, 3) and word in out, f"{arguments}: {run.process.returncode} {out}")


def main():
    tap = Tap()
    with scratch() as folder:
        tap.run("makes a disc", disc, folder)
        try:
            program("trictl")
            base = debian.image()
        except (Skip, Failed) as e:
            tap.skip("Debian with cloud-init", str(e))
            tap.finish()
        tap.run("what cannot be is refused by its name", refuses, folder, base)
        tap.run("configures itself", configures_itself, folder, base)
    tap.finish()


if __name__ == "__main__":
    main()
