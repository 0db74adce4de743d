#!/usr/bin/python3
"""Debian's virsh, unmodified, drives the daemon: host, definitions, lives of domains, consoles, what is refused."""

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lvtest import READY, TINY, Virsh, domain, uri
from vmtest import UP, Console, Daemon, Failed, Rpc, Skip, Tap, check, kernel_image, make_initramfs, program, scratch, wait_until


def write(d, name, xml):
    path = os.path.join(d.folder, name + ".xml")
    with open(path, "w") as f:
        f.write(xml)
    return path


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, command, environment):
        master, slave = pty.openpty()
        self.process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True)
        os.close(slave)
        self.fd = master
        self.text = ""

    def pump(self, seconds):
        if not select.select([self.fd], [], [], seconds)[0]:
            return True
        try:
            data = os.read(self.fd, 65536)
        except OSError:
            return False
        self.text += data.decode(errors="replace")
        return bool(data)

    def expect(self, pattern, timeout=60):
        deadline = time.monotonic() + timeout
        while not re.search(pattern, self.text):
            left = deadline - time.monotonic()
            if left <= 0 or not self.pump(left):
                raise Failed(f"{pattern!r} was not seen: {self.text[-1000:]!r}")

    def type(self, text):
        os.write(self.fd, text.encode())

    def end(self):
        deadline = time.monotonic() + 30
        while self.process.poll() is None:
            check(time.monotonic() < deadline, f"does not end: {self.text[-500:]!r}")
            self.pump(0.1)
        os.close(self.fd)
        return self.process.returncode


def host(d):
    v = Virsh(d)
    check(v("hostname") == os.uname().nodename, v("hostname"))
    check("trivisor" in v("version", "--daemon") and "9.0.0" in v("version"), v("version"))
    info = v("nodeinfo")
    check(int(re.search(r"CPU\(s\):\s+(\d+)", info)[1]) == os.cpu_count(), info)
    capabilities = ET.fromstring(v("capabilities"))
    check(capabilities.find("host/cpu/arch").text == "x86_64", "capabilities: arch")
    types = {e.get("type") for e in capabilities.findall("guest/arch/domain")}
    check({"trivisor", "qemu"} <= types, f"domain types {types}")
    usable = {m["mode"] for m in d.rpc.result("modes.list") if m["usable"]}
    check("kvm" not in types or "hvm" in usable, f"kvm is listed although hvm cannot be used: {types} {usable}")
    domcaps = ET.fromstring(v("domcapabilities"))
    check(domcaps.find("devices/disk/enum[@name='bus']/value").text == "virtio" and domcaps.find("devices/graphics/enum[@name='type']/value").text == "vnc", "")
    v.fails("domcapabilities", "--virttype", "lxc", word="lxc")
    for command in ("nodecpustats", "nodememstats", "nodecpumap", "freecell", "sysinfo", "maxvcpus", "uri"):
        check(v(command), command)
    for command in ("net-list", "pool-list", "iface-list", "nodedev-list", "nwfilter-list", "secret-list"):
        v(command)
    v.fails("net-info", "nothing", word="nothing")
    check("Bridge" not in v("net-info", "default"), "the built-in network")
    v.fails("pool-info", "default", word="default")
    # Names that tools insist on, and one that nobody serves.
    for name in ("qemu+unix:///system", "qemu+unix:///session", "trivisor+unix:///session"):
        r = subprocess.run(["virsh", "-q", "-c", uri(d, name), "list"], capture_output=True, text=True, env=v.environment)
        check(r.returncode == 0, f"{name}: {r.stderr}")
    r = subprocess.run(["virsh", "-q", "-c", uri(d, "zork+unix:///system"), "list"], capture_output=True, text=True, env=v.environment)
    check(r.returncode and "no connection driver available for zork:///system" in r.stderr, r.stderr)


def life(d):
    v = Virsh(d)
    path = write(d, "life", domain("life", extra="<title>a title</title><description>one\ntwo &lt;3&gt;</description>"))
    v("define", path)
    check(v("domstate", "life") == "shut off", "defined")
    listed = d.rpc.result("vm.list")
    check([vm["name"] for vm in listed] == ["life"] and listed[0]["memory_mib"] == 32, str(listed))
    uuid = v("domuuid", "life")
    check(uuid == listed[0]["uuid"], uuid)
    v("start", "life")
    check(v("domstate", "life", "--reason") == "running (booted)", v("domstate", "life", "--reason"))
    number = int(v("domid", "life"))
    check(number > 0 and v("domname", str(number)) == "life" and v("domname", uuid) == "life", "lookups")
    info = v("dominfo", "life")
    check("running" in info and "32768 KiB" in info and re.search(r"Persistent:\s+yes", info), info)
    live = ET.fromstring(v("dumpxml", "life"))
    check(live.get("id") == str(number) and live.find("description").text == "one\ntwo <3>" and live.find("title").text == "a title", ET.tostring(live))
    check(ET.fromstring(v("dumpxml", "life", "--inactive")).get("id") is None, "an id in the inactive XML")
    v.fails("start", "life", word="already active")
    v("suspend", "life")
    check(v("domstate", "life") == "paused", "paused")
    v("suspend", "life")
    v("resume", "life")
    v.fails("resume", "life", word="domain is already running")
    console = Console(d.rpc.result("vm.console", ["life"])["path"])
    console.expect(READY)
    v("reset", "life")
    console.expect(READY)
    v("reboot", "life")
    console.expect("tiny: power button")
    console.expect(READY)
    check(v("domid", "life") == str(number), "a reboot made another process")
    v("shutdown", "life")
    wait_until("shutdown", lambda: v("domstate", "life", "--reason") == "shut off (shutdown)")
    for command in ("destroy", "suspend", "shutdown", "reboot", "reset"):
        v.fails(command, "life", word="domain is not running")
    v("start", "life", "--paused")
    check(v("domstate", "life") == "paused", "started paused")
    console = Console(d.rpc.result("vm.console", ["life"])["path"])
    check(console.pump(0.3) and READY not in console.text, "a paused guest ran")
    v("resume", "life")
    console.expect(READY)
    v("destroy", "life")
    check(v("domstate", "life", "--reason") == "shut off (destroyed)", "destroyed")
    v("undefine", "life")
    check(d.rpc.result("vm.list") == [], "undefined")
    v.fails("dominfo", "life", word="failed to get domain 'life'")


def discs(d):
    """change-media: in, out and updated, in the running domain and in the stored one; the target's name stays."""
    v = Virsh(d)
    isos = []
    for name in ("one", "two"):
        isos.append(os.path.join(d.folder, f"{name}.iso"))
        with open(isos[-1], "wb") as f:
            f.write(name.encode() * 20000)
    v("define", write(d, "discs", domain("discs", devices="<disk type='file' device='cdrom'><target dev='hdc' bus='ide'/></disk>"
                                                          "<vsock model='virtio'><cid auto='no' address='9'/></vsock>")))

    def disc(*flags):
        disks = ET.fromstring(v("dumpxml", "discs", *flags)).findall("devices/disk")
        check(len(disks) == 1 and disks[0].find("target").get("dev") == "hdc", "the drive")
        source = disks[0].find("source")
        return source.get("file") if source is not None else None

    v("start", "discs")
    check(disc() is None and ET.fromstring(v("dumpxml", "discs")).find("devices/vsock/cid").get("address") == "9", v("dumpxml", "discs"))
    v("change-media", "discs", "hdc", isos[0], "--insert", "--live")
    check((disc(), disc("--inactive")) == (isos[0], None), "live alone")
    v("change-media", "discs", "hdc", isos[1], "--update", "--live", "--config")
    check((disc(), disc("--inactive")) == (isos[1], isos[1]), "both")
    v("change-media", "discs", "hdc", "--eject", "--live")
    check((disc(), disc("--inactive")) == (None, isos[1]), "out again")
    v.fails("change-media", "discs", "hdc", "/nowhere.iso", "--insert", "--live", word="No such file")
    v("destroy", "discs")
    check(disc() == isos[1], "what was stored")
    v("undefine", "discs")


def transient(d):
    v = Virsh(d)
    path = write(d, "passing", domain("passing", uuid="11111111-2222-4333-8444-555555555555"))
    v("create", path)
    check(re.search(r"Persistent:\s+no", v("dominfo", "passing")), "transient")
    v.fails("create", path, word="already active")
    v.fails("undefine", "passing", word="transient")
    # As virt-install does: first run it, then keep it.
    v("define", path)
    check(re.search(r"Persistent:\s+yes", v("dominfo", "passing")), "kept")
    v("undefine", "passing")
    check(re.search(r"Persistent:\s+no", v("dominfo", "passing")), "undefined while it runs")
    v("define", path)
    v("destroy", "passing")
    check(v("domstate", "passing") == "shut off", "a kept domain went with its end")
    v("undefine", "passing")
    v("create", path, "--paused")
    check(v("domstate", "passing") == "paused", "created paused")
    v("destroy", "passing")
    check(v("list", "--all") == "", "a transient domain stayed")


def refused(d):
    v = Virsh(d)
    first = "aaaaaaaa-0000-4000-8000-000000000001"
    v("define", write(d, "one", domain("one", uuid=first)))
    v.fails("define", write(d, "x", domain("one", uuid=first[:-1] + "2")), word="domain 'one' already exists with uuid " + first)
    v.fails("define", write(d, "x", domain("other", uuid=first)), word="domain 'one' is already defined with uuid " + first)
    v("define", write(d, "x", domain("one", uuid=first, memory=48)))
    check("49152 KiB" in v("dominfo", "one"), "redefined")
    for xml, word in (("<domain", "(domain_definition):1:"), ("<network/>", "unexpected root element <network>, expecting <domain>"),
                      (domain("x", kind="lxc"), 'the type "lxc" is not known'),
                      ("<!DOCTYPE a [<!ENTITY b 'c'>]>" + domain("x"), "document type"),
                      (domain("x", devices="<interface type='vdpa'><source dev='/dev/x'/></interface>"), "/domain/devices/interface: "),
                      (domain("x", devices="<toaster/>"), "/domain/devices/toaster: not known"),
                      (domain("x", devices="<disk type='file' device='floppy'><source file='/a'/><target dev='fda' bus='fdc'/></disk>"), "floppy"),
                      (domain("x", extra="<cputune/>"), "/domain/cputune"), (domain("x", memory=0), "/domain/memory"),
                      (domain("a b"), "cannot be a VM's name"), (domain("x").replace("<vcpu>1", "<vcpu>400"), "/domain/vcpu")):
        text = v.fails("define", write(d, "x", xml), word=word)
        check("error" in text, text)
    v("undefine", "one")
    check(v("list", "--all") == "", "something refused was defined")


def console(d):
    v = Virsh(d)
    v("create", write(d, "con", domain("con")))
    first = Terminal([*v.command, "console", "con"], v.environment)
    first.expect(READY)
    first.type("a")
    first.expect(r"\[a\]")
    second = Terminal([*v.command, "console", "con", "--force"], v.environment)
    second.expect(READY)
    first.end()  # --force took it away
    second.type("b")
    second.expect(r"\[b\]")
    second.type("\x1d")  # ^]
    check(second.end() == 0, "the escape character")
    third = Terminal([*v.command, "console", "con"], v.environment)
    third.expect(r"\[b\]")  # the scrollback
    third.type("q")
    third.end()  # the domain has ended
    v.fails("domid", "con")
    v.fails("console", "con", word="failed to get domain")


def readonly(d):
    v, r = Virsh(d), Virsh(d, readonly=True)
    v("define", write(d, "ro", domain("ro")))
    check("ro" in r("list", "--all") and "<name>ro</name>" in r("dumpxml", "ro"), "reading")
    r.fails("start", "ro", word="read only")
    r.fails("undefine", "ro", word="read only")
    # The library says so already; the server must too.
    r.command.remove("-r")
    r.fails("start", "ro", word="read only access prevents domain_create")
    r.fails("undefine", "ro", word="read only")
    v("undefine", "ro")


def storage(d):
    """Directory pools, volumes, and their contents both ways; they outlive the daemon."""
    v, folder = Virsh(d), os.path.join(d.folder, "images")
    v("pool-define-as", "images", "dir", "--target", folder)
    v.fails("pool-start", "images", word="No such file or directory")
    v("pool-build", "images")
    v("pool-start", "images")
    v("pool-autostart", "images")
    v.fails("pool-define-as", "other", "dir", "--target", folder, word="has this directory already")
    v.fails("pool-define-as", "net", "iscsi", "--target", folder, "--source-host", "h", "--source-dev", "d", word="type dir")
    pools = d.rpc.result("pool.list")
    check([(p["name"], p["path"], p["active"], p["autostart"]) for p in pools] == [("images", folder, True, True)], str(pools))
    v("vol-create-as", "images", "a.raw", "3M", "--format", "raw")
    path = v("vol-path", "a.raw", "--pool", "images")
    check(os.path.getsize(path) == 3 << 20 and path == os.path.join(folder, "a.raw"), path)
    v.fails("vol-create-as", "images", "a.raw", "3M", "--format", "raw", word="exists already")
    v.fails("vol-create-as", "images", "b", "3M", "--format", "qcow2", word="only raw")
    v.fails("vol-create-as", "images", "../b", "3M", "--format", "raw")
    data = os.urandom(1 << 20) * 2 + b"the end"
    source, back = os.path.join(d.folder, "up"), os.path.join(d.folder, "down")
    with open(source, "wb") as f:
        f.write(data)
    v("vol-upload", "a.raw", source, "--pool", "images", "--offset", "4096")
    v("vol-download", "a.raw", back, "--pool", "images", "--offset", "4096", "--length", str(len(data)))
    with open(back, "rb") as f:
        check(f.read() == data, "what came back is not what was sent")
    v("vol-resize", "a.raw", "5M", "--pool", "images")
    v.fails("vol-resize", "a.raw", "1M", "--pool", "images", word="shrink")
    check(ET.fromstring(v("vol-dumpxml", "a.raw", "--pool", "images")).find("capacity").text == str(5 << 20), "resized")
    disk = f"<disk type='file'><source file='{path}'/><target dev='vda' bus='virtio'/></disk>"
    v("create", write(d, "user", domain("user", devices=disk)))
    v.fails("vol-delete", "a.raw", "--pool", "images", word="is a disk of the running domain 'user'")
    v("destroy", "user")
    d.kill(15)
    d.start()
    check("a.raw" in v("vol-list", "images") and "running" in v("pool-info", "images"), "a pool does not outlive the daemon")
    v("vol-delete", "a.raw", "--pool", "images")
    v.fails("pool-undefine", "images", word="still active")
    v("pool-destroy", "images")
    v.fails("vol-list", "images", word="not active")
    v("pool-delete", "images")
    v("pool-undefine", "images")
    check(v("pool-list", "--all") == "" and not os.path.exists(folder), "the pool is left")


def default_paths(d):
    """A plain user's daemon is found by URI alone; one with directories of its own leaves the default paths alone."""
    if os.geteuid():
        raise Skip("only root can become another user")
    os.chmod(d.folder, 0o755)
    home = os.path.join(d.folder, "home")
    runtime = os.path.join(home, "runtime")
    for path in (home, runtime):
        os.mkdir(path, 0o700)
        os.chown(path, 65534, 65534)
    environment = {"HOME": home, "XDG_RUNTIME_DIR": runtime, "PATH": os.environ["PATH"], "LIBVIRT_AUTOSTART": "0", "LC_ALL": "C"}

    def run(*command):
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, user=65534, group=65534, extra_groups=[], check=False)

    try:
        r = run(program("trivisord"), "--no-calibration")
    except PermissionError as e:
        raise Skip(f"another user cannot run programs of this build directory: {e}") from e
    check(r.returncode == 0, str(r))
    rpc = Rpc(runtime + "/trivisor/api.sock")
    pid = rpc.result("daemon.version")["pid"]
    try:
        r = run("virsh", "-c", "trivisor:///session", "version")
        check(r.returncode == 0 and "Running hypervisor: trivisor" in r.stdout, str(r))
        r = run("virsh", "-r", "-c", "trivisor:///session", "list")
        check(r.returncode == 0, str(r))
        other = run(program("trivisord"), "--no-calibration", "--runtime-dir", home + "/other", "--state-dir", home + "/state")
        check(other.returncode == 0, str(other))
        second = Rpc(home + "/other/api.sock")
        os.kill(second.result("daemon.version")["pid"], signal.SIGTERM)
        check(run("virsh", "-c", "trivisor:///session", "version").returncode == 0, "another daemon took the default paths")
    finally:
        os.kill(pid, signal.SIGTERM)
    wait_until("its end", lambda: not os.path.exists(runtime + "/libvirt/virttrivisord-sock"), 20)


def debian(d):
    """Debian's own kernel, from definition to a command on the console and back."""
    v = Virsh(d)
    initrd = make_initramfs(os.path.join(d.folder, "initrd"))
    boot = f"<initrd>{initrd}</initrd><cmdline>console=ttyS0</cmdline>"
    v("define", write(d, "debian", domain("debian", kernel=kernel_image(), memory=256, boot=boot)))
    v("start", "debian")
    terminal = Terminal([*v.command, "console", "debian"], v.environment)
    terminal.expect(UP, 180)
    terminal.type("uname -sr; echo 'to''gether'\n")
    terminal.expect("together", 60)
    check("Linux" in terminal.text, terminal.text[-300:])
    terminal.type("poweroff\n")
    terminal.end()
    wait_until("poweroff", lambda: v("domstate", "debian", "--reason") == "shut off (shutdown)", 60)
    v("undefine", "debian")


def main():
    tap = Tap()
    for test in (host, life, discs, transient, refused, console, readonly, storage, default_paths, debian):
        with scratch() as folder:
            def one():
                with Daemon(folder) as d:
                    test(d)
            tap.run(f"virsh: {test.__name__}", one)
    tap.finish()


main()
