#!/usr/bin/python3
"""A Debian system on a qcow2 disk: SeaBIOS, GRUB, its own kernel and systemd, from the boot sector to a login and back down.

The disk is made once, from Debian's packages (mmdebstrap, which takes root), and kept in the cache; tests write to images
over it. What comes down is looked at from the host: fsck, after a shutdown and after a VM destroyed while it wrote.
"""

import fcntl
import hashlib
import inspect
import os
import shlex
import shutil
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import systems
from systems import MIB, make, seabios, tool
from vmtest import BOOT_TIMEOUT, SOURCE, Failed, Skip, Tap, Vm, check, program, scratch, wait_until

SUITE = "bookworm"
PACKAGES = "systemd-sysv,udev,dbus,libpam-systemd,initramfs-tools,linux-image-cloud-amd64,e2fsprogs,login,procps,zstd,iproute2,qemu-guest-agent,open-vm-tools"
UUID = "6d1f8b1e-5b0c-4c57-9f3e-000000000001"
SIZE_MIB = 1024
GRUB_CONFIG = f"""
serial --unit=0 --speed=115200
terminal_input serial console
terminal_output serial console
set timeout=1
menuentry 'Debian' {{
	insmod ext2
	search --no-floppy --fs-uuid --set=root {UUID}
	echo 'GRUB loads Debian'
	linux /vmlinuz root=UUID={UUID} ro console=ttyS0
	initrd /initrd.img
}}
"""
SETTINGS = {
    "etc/hostname": "disk\n",
    "etc/fstab": f"UUID={UUID} / ext4 errors=remount-ro 0 1\n",
    "boot/grub/grub.cfg": GRUB_CONFIG,
}


# ---- the image ----------------------------------------------------------------------------------------------------


def cache_dir():
    folder = os.environ.get("TRIVISOR_CACHE") or os.path.join(SOURCE, ".cache")
    os.makedirs(folder, exist_ok=True)
    return folder


def apt_settings(folder):
    """How this host's apt reaches Debian: its mirror, and its proxies and the like."""
    format_ = "deb $(REPO_URI) $(RELEASE) $(COMPONENT)"
    targets = subprocess.run(["apt-get", "indextargets", "--format", format_ + "|$(ORIGIN)", "Created-By: Packages"],
                             capture_output=True, text=True, check=False).stdout
    lines = sorted({line.split("|")[0] for line in targets.splitlines()
                    if line.endswith("|Debian") and f" {SUITE}" in line and line.split("|")[0].endswith(" main")})
    if not lines:
        raise Skip(f"apt on this host knows no mirror of Debian's {SUITE} (apt-get update)")
    sources, options = os.path.join(folder, "sources.list"), os.path.join(folder, "apt.conf")
    with open(sources, "w") as f:
        f.write("\n".join(lines) + "\n")
    dump = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=False).stdout
    with open(options, "w") as f:
        f.writelines(line + "\n" for line in dump.splitlines() if line.startswith(("Acquire::http", "Acquire::https", "Acquire::Check")))
    return sources, options


def make_root(folder, root):
    if os.geteuid():
        raise Skip("making a Debian system takes root, once; then its image is in the cache")
    sources, options = apt_settings(folder)
    without = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "locale", "man", "zoneinfo")]
    command = [tool("mmdebstrap", "mmdebstrap"), "--mode=root", "--variant=minbase", "--skip=check/empty", f"--aptopt={options}",
               *without, "--dpkgopt=force-unsafe-io", f"--include={PACKAGES}", SUITE, root, sources]
    r = subprocess.run(command, capture_output=True, text=True, timeout=1500, check=False)
    if r.returncode:
        errors = [line for line in r.stderr.splitlines() if line.startswith("E:")] or r.stderr.splitlines()[-1:]
        raise Skip(f"mmdebstrap: {' '.join(errors)[:300]}; is Debian's mirror reachable?")


def make_image(folder, image):
    root, disk = os.path.join(folder, "root"), os.path.join(folder, "disk.raw")
    make_root(folder, root)
    modules_dir, core = systems.grub_image(folder, "i386-pc", "grub-pc-bin", ["biosdisk", "search", "search_fs_uuid"])
    shutil.copytree(modules_dir, os.path.join(root, "boot", "grub", "i386-pc"))
    for path, text in SETTINGS.items():
        with open(os.path.join(root, path), "w") as f:
            f.write(text)
    make("chroot", root, "passwd", "-d", "root")
    with open(disk, "wb") as f:
        f.truncate(SIZE_MIB * MIB)
    make(tool("mke2fs", "e2fsprogs"), "-q", "-F", "-t", "ext4", "-U", UUID, "-d", root, "-E", f"offset={MIB}", disk, f"{SIZE_MIB - 1}M")
    systems.put_grub(disk, modules_dir, core)
    make(tool("qemu-img", "qemu-utils"), "convert", "-O", "qcow2", disk, image + ".new")
    os.rename(image + ".new", image)


def image():
    """The path in the cache; made when this recipe has none there yet."""
    recipe = "".join(inspect.getsource(f) for f in (make_root, make_image, systems.grub_image, systems.put_grub))
    recipe += SUITE + PACKAGES + str(sorted(SETTINGS.items())) + str(SIZE_MIB)
    path = os.path.join(cache_dir(), f"debian-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}.qcow2")
    with open(os.path.join(cache_dir(), ".debian.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.path.exists(path):
            with scratch() as folder:
                make_image(folder, path)
    return path


# ---- the system -----------------------------------------------------------------------------------------------------


class System:
    """One VM with an image over the made one."""

    def __init__(self, folder, base, name, more_disks=(), more=None):
        self.overlay, self.vm_dir = os.path.join(folder, name + ".qcow2"), os.path.join(folder, name)
        make("qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", self.overlay)
        os.mkdir(self.vm_dir)
        self.vm = Vm(self.vm_dir, {"memory_mib": 512, "boot": {"firmware": seabios()},
                                   "disks": [{"path": self.overlay, "format": "qcow2"}, *more_disks], **(more or {})})

    def login(self):
        self.console = self.vm.console()
        self.console.expect("SeaBIOS", 60)
        self.console.expect("GRUB loads Debian", 60)
        began = time.monotonic()
        self.console.expect("disk login: ", BOOT_TIMEOUT * 2)
        Tap.explain(f"from the kernel's start to the login prompt: {time.monotonic() - began:.1f} s")
        self.console.type("root\n")
        self.console.expect(r"root@disk:~# ", BOOT_TIMEOUT)
        self.command("export TERM=dumb; bind 'set enable-bracketed-paste off'")

    def command(self, line, timeout=60):
        return systems.plain(self.console.command(line, timeout))

    def fsck(self, folder, after_power_loss):
        """What the guest's file system looks like from outside."""
        e2fsck = tool("e2fsck", "e2fsprogs")
        make("qemu-img", "check", "-q", self.overlay)
        disk, part = os.path.join(folder, "look.raw"), os.path.join(folder, "look.part")
        make("qemu-img", "convert", "-O", "raw", self.overlay, disk)
        make("dd", f"if={disk}", f"of={part}", "bs=1M", "skip=1", "conv=sparse", "status=none")
        if after_power_loss:
            # Its journal is replayed; whatever a journal cannot mend ends a preening fsck with 4 or more.
            r = subprocess.run([e2fsck, "-p", part], capture_output=True, text=True, check=False)
            check(r.returncode in (0, 1), f"e2fsck -p: {r.returncode}: {r.stdout}{r.stderr}")
            check("recovering journal" in r.stdout, f"it was not in use: {r.stdout}")
        r = subprocess.run([e2fsck, "-f", "-n", part], capture_output=True, text=True, check=False)
        check(r.returncode == 0 and "recovering" not in r.stdout, f"e2fsck -fn: {r.returncode}: {r.stdout}{r.stderr}")
        return part

    @staticmethod
    def read_file(part, path):
        return subprocess.run([tool("debugfs", "e2fsprogs"), "-R", f"cat {path}", part], capture_output=True, text=True,
                              check=False).stdout


def asks_the_agent(system):
    """Debian's own qemu-guest-agent, started by udev; its file systems freeze and thaw; the balloon has taken what it should."""
    control = system.vm.control()

    def ask(name, **arguments):
        return control.result("guest", {"command": name, "arguments": arguments}, 120)["return"]

    wait_until("the agent starts", lambda: control.result("status")["agent"], 120)
    os_info = ask("guest-get-osinfo")
    check(os_info["id"] == "debian" and os_info["version-id"] == "12", str(os_info))
    roots = [fs for fs in ask("guest-get-fsinfo") if fs["mountpoint"] == "/"]
    check(roots and roots[0]["type"] == "ext4" and roots[0]["disk"][0]["dev"].startswith("/dev/vda"), str(roots))
    check([user["user"] for user in ask("guest-get-users")] == ["root"], "users")
    check(ask("guest-fsfreeze-freeze") == 1 and ask("guest-fsfreeze-status") == "frozen", "freeze")
    system.console.type("echo x >/root/held; echo wri''tten\n")
    check(ask("guest-fsfreeze-status") == "frozen", "still")
    check(ask("guest-fsfreeze-thaw") == 1, "thaw")
    system.console.expect("written", 60)
    check("running" in system.command("systemctl is-active qemu-guest-agent; echo running"), "the agent lives on")
    wait_until("the balloon takes", lambda: control.result("balloon")["memory_kib"] == 448 * 1024, 60)


apt_outcome = Failed("the system did not come so far")


def install_a_package(folder, system):
    """By Debian's apt, from where this host's apt has its packages, through the host's network. None, or why not."""
    try:
        sources, options = apt_settings(folder)
    except Skip as e:  # of this part only
        return e
    command = system.command
    nic = command("ls /sys/class/net | grep -v lo").split()[0]
    command(f"ip link set {nic} up; ip addr add 10.0.2.15/24 dev {nic}; ip route add default via 10.0.2.2; echo nameserver 10.0.2.3 >/etc/resolv.conf")
    for source, target in ((sources, "/etc/apt/sources.list"), (options, "/etc/apt/apt.conf.d/99host")):
        with open(source) as f:
            lines = f.read().splitlines()
        command(f"rm -f {target}")
        for line in lines:
            command(f"echo {shlex.quote(line)} >>{target}")
    command("rm -f /etc/apt/sources.list.d/*")
    out = command("apt-get -q update >/tmp/apt 2>&1 || { tail -5 /tmp/apt; echo no ''mirror; }", 300)
    if "no mirror" in out:  # a proxy on this host's loopback, a name that only this host knows, certificates
        return Skip(f"apt in the guest does not reach this host's mirror: {' '.join(out.split())}")
    out = command("apt-get -q -y --no-install-recommends install hello >/tmp/apt 2>&1; tail -3 /tmp/apt; hello", 300)
    return None if "Hello, world!" in out else Failed(out)


def installs_a_package():
    if apt_outcome:
        raise apt_outcome


def boots_and_shuts_down(folder, base):
    system = System(folder, base, "whole", [{"path": systems.rescue_disc(), "device": "cdrom"}],
                    {"guest_agent": True, "current_memory_mib": 448, "nics": [{"type": "user"}]})
    with system.vm:
        system.login()
        command = system.command
        # `starting` while the last jobs run; --wait sees them end.
        out = command("systemctl is-system-running --wait", 240)
        check(out.strip() == "running", f"{out}{command('systemctl --no-pager list-units --failed', 60)}")
        check("active" == command("systemctl is-active multi-user.target").strip(), "no multi-user system")
        out = command("findmnt -n -o FSTYPE,SOURCE /; . /etc/os-release; echo $VERSION_CODENAME; dpkg-query -f x -W | wc -c")
        check("ext4" in out and "/dev/vda1" in out and SUITE in out and int(out.split()[-1]) > 50, out)
        out = command("mount -o ro /dev/sr0 /mnt; md5sum /dev/sr0 | cut -c1-32; ls /mnt/boot/grub; echo no >/dev/sr0 || echo refused", 120)
        with open(systems.rescue_disc(), "rb") as f:
            disc = hashlib.md5(f.read()).hexdigest()
        check(disc in out and "i386-pc" in out and "refused" in out, out)
        asks_the_agent(system)
        global apt_outcome
        apt_outcome = install_a_package(folder, system)
        out = command("dd if=/dev/urandom of=/root/noise bs=1M count=24 2>/dev/null; md5sum </root/noise >/root/sum; cat /root/sum", 120)
        want = out.split()[0]
        system.vm.control().result("power_button")
        system.console.expect("Power down|Powering off|reboot: Power", BOOT_TIMEOUT)
        check(system.vm.wait(120) == 0, "exit status")
    part = system.fsck(folder, False)
    check(system.read_file(part, "/root/sum").split()[:1] == [want], "what the guest wrote is not on its disk")


def survives_a_loss_of_power(folder, base):
    system = System(folder, base, "lost")
    with system.vm:
        system.login()
        check("done" in system.command("echo kept >/root/kept; sync; echo done", 60), "sync")
        # Files come and go, with and without fsync, until there is no more power.
        system.console.type("i=0; while :; do i=$((i+1)); mkdir /root/d$i; dd if=/dev/zero of=/root/d$i/f bs=64k count=40 "
                            "conv=fsync 2>/dev/null; cp -r /etc/systemd /root/d$i/; rm -rf /root/d$((i-3)); echo round''-$i; done\n")
        system.console.expect("round-5", 120)
        control = system.vm.control()
        control.call("destroy")
        check(system.vm.wait(60) in (4, 5), f"exit status; log:\n{system.vm.log()}")
    part = system.fsck(folder, True)
    check(system.read_file(part, "/root/kept") == "kept\n", "what was synced is lost")


def main():
    tap = Tap()
    try:
        program("trivisor-vm")
        began = time.monotonic()
        base = image()
        if time.monotonic() - began > 10:
            tap.explain(f"the image took {time.monotonic() - began:.0f} s to make")
    except (Skip, Failed) as e:
        tap.skip("Debian on a disk", str(e))
        tap.finish()
    with scratch() as folder:
        tap.run("boots from its disk, and shuts down by ACPI", boots_and_shuts_down, folder, base)
        tap.run("apt installs a package through the user network", installs_a_package)
        tap.run("survives a loss of power", survives_a_loss_of_power, folder, base)
    tap.finish()


if __name__ == "__main__":
    main()
