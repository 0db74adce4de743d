#!/usr/bin/python3
"""Debian's virt-install and virt-xml, unmodified: a disk imported, a kernel installed, a definition edited."""

import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lvtest import READY, TINY, Virsh, uri
from vmtest import Console, Daemon, Skip, Tap, check, scratch, wait_until


def run(d, program, *arguments, fails=None, name="trivisor+unix:///system"):
    if not shutil.which(program):
        raise Skip(f"{program} is not installed (Debian: virtinst)")
    environment = dict(os.environ, LC_ALL="C", HOME=d.folder, XDG_CACHE_HOME=d.folder)
    r = subprocess.run([program, "--connect", uri(d, name), *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=180, env=environment)
    if fails is None:
        check(r.returncode == 0, f"{program}: {r.stderr[-2000:]}")
    else:
        check(r.returncode != 0 and fails in r.stderr, f"{program}: {r.returncode}: {r.stderr[-2000:]}")
    return r.stdout


BARE = ("--network", "none", "--graphics", "none", "--osinfo", "linux2022", "--noautoconsole")


def kernel(d):
    # As a session's user: the system's installer wants /var/lib/libvirt/boot.
    run(d, "virt-install", "--name", "inst", "--memory", "64", "--disk", "none", "--install", f"kernel={TINY},initrd={TINY},kernel_args=a=b", "--transient", *BARE,
        name="trivisor+unix:///session")
    check(d.rpc.result("vm.list")[0]["transient"], "not transient")
    Console(d.rpc.result("vm.console", ["inst"])["path"]).expect(READY)
    Virsh(d)("destroy", "inst")


def boot_option(d):
    """A guest that boots its kernel each time, kept: created first, then defined while it runs."""
    run(d, "virt-install", "--name", "boot", "--memory", "64", "--vcpus", "2", "--disk", "none", "--boot", f"kernel={TINY},kernel_args=x", "--import", *BARE)
    vm = d.rpc.result("vm.get", ["boot"])
    check(vm["state"] == "running" and not vm["transient"] and vm["definition"]["boot"]["cmdline"] == "x" and vm["definition"]["vcpus"] == 2, str(vm))
    v = Virsh(d)
    v("destroy", "boot")
    run(d, "virt-xml", "boot", "--edit", "--memory", "96")
    run(d, "virt-xml", "boot", "--edit", "--metadata", "title=edited")
    definition = d.rpc.result("vm.get", ["boot"])["definition"]
    check(definition["memory_mib"] == 96 and definition["title"] == "edited", str(definition))
    v("start", "boot")
    Console(d.rpc.result("vm.console", ["boot"])["path"]).expect(READY)
    v("destroy", "boot")
    v("undefine", "boot")


def import_disk(d):
    """With a disk image: virt-install makes a pool of its directory by itself."""
    image = os.path.join(d.folder, "disk.raw")
    with open(image, "wb") as f:
        f.truncate(16 << 20)
    run(d, "virt-install", "--name", "imp", "--memory", "64", "--import", "--disk", f"path={image},format=raw,bus=virtio", *BARE)
    vm = d.rpc.result("vm.get", ["imp"])
    disk, = vm["definition"]["disks"]
    check(disk["path"] == image and not disk["readonly"] and vm["state"] == "running" and "firmware" in vm["definition"]["boot"], str(vm))
    v = Virsh(d)
    check("disk.raw" in v("domblklist", "imp") and v("domblkinfo", "imp", "vda"), "its disk")
    v("destroy", "imp")
    v("undefine", "imp")
    run(d, "virt-install", "--name", "new", "--memory", "64", "--import", "--disk", f"path={d.folder}/made.raw,size=0.01,format=raw,bus=virtio", *BARE)
    check(os.path.getsize(os.path.join(d.folder, "made.raw")) > 10 << 20, "the image was not made")
    v("destroy", "new")


def cloud_init(d):
    """virt-install makes a disc by itself; SMBIOS says where to look."""
    image, user = os.path.join(d.folder, "cloud.raw"), os.path.join(d.folder, "user-data")
    with open(image, "wb") as f:
        f.truncate(16 << 20)
    with open(user, "w", encoding="ascii") as f:
        f.write("#cloud-config\n{}\n")
    run(d, "virt-install", "--name", "cloud", "--memory", "64", "--import", "--disk", f"path={image},format=raw,bus=virtio",
        "--cloud-init", f"user-data={user},disable=on", "--sysinfo", "smbios,system.serial=ds=nocloud", *BARE, name="trivisor+unix:///session")
    v = Virsh(d)
    # Of the first start: the disc as a CD-ROM, which is gone from what is kept.
    vm = d.rpc.result("vm.get", ["cloud"])
    check(vm["state"] == "running" and [x.get("path") for x in vm["definition"]["disks"]] == [image, None] and vm["definition"]["smbios"] == {"system": {"serial": "ds=nocloud"}}, str(vm["definition"]))
    live = ET.fromstring(v("dumpxml", "cloud"))
    check(live.findtext("sysinfo/system/entry[@name='serial']") == "ds=nocloud" and live.find("os/smbios").get("mode") == "sysinfo", v("dumpxml", "cloud"))
    check([x.get("device") for x in live.findall("devices/disk")] == ["disk", "cdrom"], v("dumpxml", "cloud"))
    kept = ET.fromstring(v("dumpxml", "--inactive", "cloud"))
    check(kept.find("sysinfo") is not None and kept.find("devices/disk[@device='cdrom']/source") is None, v("dumpxml", "--inactive", "cloud"))
    v("destroy", "cloud")
    v("undefine", "cloud")


def networks(d):
    """The default network by name, by itself, and the user's; a switch; a bridge that is not there is found out at the start."""
    d.rpc.result("net.create", {"name": "lab"})
    v = Virsh(d)
    for number, (words, types) in enumerate(((["--network", "network=default"], ["user"]), ([], ["user"]), (["--network", "user"], ["user"]),
                                             (["--network", "network=lab,mac=52:54:00:00:00:09", "--network", "default"], ["switch", "user"]))):
        name = f"net{number}"
        run(d, "virt-install", "--name", name, "--memory", "64", "--import", "--disk", "none", "--boot", f"kernel={TINY}", *words, "--graphics",
            "none", "--osinfo", "linux2022", "--noautoconsole")
        vm = d.rpc.result("vm.get", [name])
        check("/model: the guest gets virtio" in v("dominfo", name), v("dominfo", name))
        check([nic["type"] for nic in vm["definition"]["nics"]] == types and vm["state"] == "running", str(vm))
        v("destroy", name)
    run(d, "virt-install", "--name", "b", "--memory", "64", "--import", "--disk", "none", "--boot", f"kernel={TINY}", "--network", "bridge=nowhere",
        "--graphics", "none", "--osinfo", "linux2022", "--noautoconsole", fails="nowhere: the bridge")
    run(d, "virt-xml", "net0", "--edit", "--network", "link.state=down")
    check(d.rpc.result("vm.get", ["net0"])["definition"]["nics"][0]["link"] == "down", "virt-xml")
    for number in range(4):
        v("undefine", f"net{number}")
    d.rpc.result("net.delete", {"name": "lab"})


def main():
    tap = Tap()
    for test in (cloud_init, kernel, boot_option, import_disk, networks):
        with scratch() as folder:
            def one():
                with Daemon(folder) as d:
                    test(d)
            tap.run(f"virt-install: {test.__name__}", one)
    tap.finish()


main()
