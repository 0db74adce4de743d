#!/usr/bin/python3
"""libvirt's own Python bindings against the daemon: events by every way of registering, error codes, changes, statistics, streams."""

import json
import os
import sys
import threading
import time
import xml.etree.ElementTree as ET

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lvtest import READY, TINY, bindings, domain, uri
from vmtest import Console, Daemon, Tap, check, scratch, wait_until

UUID = "0f0e0d0c-0b0a-4908-8706-050403020100"


def code_of(function, *arguments):
    """The libvirt error code that a call ends with; 0 when it does not."""
    libvirt = bindings()
    try:
        function(*arguments)
    except libvirt.libvirtError as e:
        return e.get_error_code()
    return 0


class Events(threading.Thread):
    """libvirt's default event loop on a thread, as a program would have it."""

    def __init__(self, libvirt):
        super().__init__(daemon=True)
        self.libvirt = libvirt
        libvirt.virEventRegisterDefaultImpl()
        self.seen = []
        self.start()

    def run(self):
        while True:
            self.libvirt.virEventRunDefaultImpl()

    def expect(self, what, timeout=30):
        wait_until(f"event {what} (seen: {self.seen})", lambda: what in self.seen, timeout)


def events(d):
    libvirt = bindings()
    loop = Events(libvirt)
    connection = libvirt.open(uri(d))
    connection.setKeepAlive(2, 3)
    seen, ids = loop.seen, []
    first = connection.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, lambda c, dom, e, detail, o: seen.append((dom.name(), e, detail)) or ids.append((e, dom.ID())), None)
    connection.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_REBOOT, lambda c, dom, o: seen.append((dom.name(), "reboot")), None)
    connection.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_METADATA_CHANGE, lambda c, dom, t, ns, o: seen.append((dom.name(), "metadata", t, ns)), None)
    for event in range(0, 27):  # as `virsh event --all` does
        if event not in (0, 1, 23):
            connection.domainEventRegisterAny(None, event, lambda *a: None, None)
    old = libvirt.open(uri(d))
    old.domainEventRegister(lambda c, dom, e, detail, o: seen.append(("old", dom.name(), e, detail)), None)
    dom = connection.defineXML(domain("ev", uuid=UUID))
    one = connection.domainEventRegisterAny(dom, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, lambda c, dm, e, detail, o: seen.append(("one", e, detail)), None)
    loop.expect(("ev", libvirt.VIR_DOMAIN_EVENT_DEFINED, libvirt.VIR_DOMAIN_EVENT_DEFINED_ADDED))
    # What happens through the other API is told too.
    d.rpc.result("vm.start", ["ev"])
    loop.expect(("ev", libvirt.VIR_DOMAIN_EVENT_STARTED, libvirt.VIR_DOMAIN_EVENT_STARTED_BOOTED))
    loop.expect(("old", "ev", libvirt.VIR_DOMAIN_EVENT_STARTED, 0))
    loop.expect(("one", libvirt.VIR_DOMAIN_EVENT_STARTED, 0))
    dom.suspend()
    loop.expect(("ev", libvirt.VIR_DOMAIN_EVENT_SUSPENDED, libvirt.VIR_DOMAIN_EVENT_SUSPENDED_PAUSED))
    dom.resume()
    loop.expect(("ev", libvirt.VIR_DOMAIN_EVENT_RESUMED, libvirt.VIR_DOMAIN_EVENT_RESUMED_UNPAUSED))
    dom.reset()
    loop.expect(("ev", "reboot"))
    dom.setMetadata(libvirt.VIR_DOMAIN_METADATA_TITLE, "a title", None, None)
    loop.expect(("ev", "metadata", libvirt.VIR_DOMAIN_METADATA_TITLE, None))
    console = Console(d.rpc.result("vm.console", ["ev"])["path"])
    console.expect(READY)
    console.type("p")
    loop.expect(("ev", libvirt.VIR_DOMAIN_EVENT_CRASHED, libvirt.VIR_DOMAIN_EVENT_CRASHED_PANICKED))
    loop.expect(("ev", libvirt.VIR_DOMAIN_EVENT_STOPPED, libvirt.VIR_DOMAIN_EVENT_STOPPED_CRASHED))
    check((libvirt.VIR_DOMAIN_EVENT_STOPPED, -1) in ids and any(e == libvirt.VIR_DOMAIN_EVENT_STARTED and n > 0 for e, n in ids), str(ids))
    connection.domainEventDeregisterAny(one)
    check(("ev", libvirt.VIR_DOMAIN_EVENT_RESUMED, 0) in seen and seen.count(("one", libvirt.VIR_DOMAIN_EVENT_STARTED, 0)) == 1, str(seen))
    dom.undefine()
    loop.expect(("ev", libvirt.VIR_DOMAIN_EVENT_UNDEFINED, 0))
    check(("one", libvirt.VIR_DOMAIN_EVENT_UNDEFINED, 0) not in seen, "told after its registration ended")
    connection.domainEventDeregisterAny(first)
    # A connection that is idle for longer than its keepalive allows stays.
    time.sleep(7)
    check(connection.isAlive() and connection.getHostname(), "keepalive")
    # The daemon goes: the client is told.
    closed = threading.Event()
    connection.registerCloseCallback(lambda c, reason, o: closed.set(), None)
    d.kill(15)
    check(closed.wait(30), "the close callback was not called")
    d.start()


def codes(d):
    libvirt = bindings()
    c = libvirt.open(uri(d))
    check(code_of(c.lookupByName, "nobody") == libvirt.VIR_ERR_NO_DOMAIN, "lookup by name")
    check(code_of(c.lookupByID, 77) == libvirt.VIR_ERR_NO_DOMAIN, "lookup by id")
    check(code_of(c.lookupByUUIDString, UUID) == libvirt.VIR_ERR_NO_DOMAIN, "lookup by uuid")
    check(code_of(c.networkLookupByName, "n") == libvirt.VIR_ERR_NO_NETWORK, "network")
    check(code_of(c.storagePoolLookupByName, "n") == libvirt.VIR_ERR_NO_STORAGE_POOL, "pool")
    check(code_of(c.storageVolLookupByPath, "/n") == libvirt.VIR_ERR_NO_STORAGE_VOL, "volume")
    check(code_of(c.interfaceLookupByName, "n") == libvirt.VIR_ERR_NO_INTERFACE, "interface")
    check(code_of(c.nodeDeviceLookupByName, "n") == libvirt.VIR_ERR_NO_NODE_DEVICE, "node device")
    check(code_of(c.nwfilterLookupByName, "n") == libvirt.VIR_ERR_NO_NWFILTER, "nwfilter")
    check(code_of(c.secretLookupByUUIDString, UUID) == libvirt.VIR_ERR_NO_SECRET, "secret")
    check(code_of(c.defineXML, "<domain") == libvirt.VIR_ERR_XML_DETAIL, "no XML")
    check(code_of(c.defineXML, "<network/>") == libvirt.VIR_ERR_XML_ERROR, "no domain")
    check(code_of(c.defineXML, domain("x", kind="lxc")) == libvirt.VIR_ERR_CONFIG_UNSUPPORTED, "type")
    check(code_of(c.getAllDomainStats, 1 << 6, libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_ENFORCE_STATS) == libvirt.VIR_ERR_ARGUMENT_UNSUPPORTED, "stats")
    check(code_of(c.listAllDomains, 1 << 20) == libvirt.VIR_ERR_INVALID_ARG, "flags")
    dom = c.defineXML(domain("codes", uuid=UUID))
    check(code_of(c.defineXML, domain("codes")) == libvirt.VIR_ERR_OPERATION_FAILED, "name taken")
    for operation in (dom.suspend, dom.resume, dom.destroy, dom.shutdown, dom.reset, lambda: dom.reboot(0), lambda: dom.injectNMI(0), dom.memoryStats,
                      lambda: dom.blockStats("vda")):
        check(code_of(operation) == libvirt.VIR_ERR_OPERATION_INVALID, f"{operation} of a domain that does not run")
    check(code_of(dom.metadata, libvirt.VIR_DOMAIN_METADATA_TITLE, None) == libvirt.VIR_ERR_NO_DOMAIN_METADATA, "metadata")
    check(code_of(dom.managedSave) == libvirt.VIR_ERR_NO_SUPPORT and code_of(dom.screenshot, c.newStream(), 0) == libvirt.VIR_ERR_OPERATION_INVALID, "unsupported")
    check(code_of(dom.snapshotLookupByName, "s") == libvirt.VIR_ERR_NO_DOMAIN_SNAPSHOT and dom.listAllSnapshots() == [], "snapshots")
    check(code_of(dom.createWithFlags, 1 << 20) == libvirt.VIR_ERR_INVALID_ARG, "start flags")
    dom.create()
    check(code_of(dom.create) == libvirt.VIR_ERR_OPERATION_INVALID, "started twice")
    check(code_of(dom.resume) == libvirt.VIR_ERR_OPERATION_INVALID, "resumed while running")
    check(code_of(dom.rename, "other") == libvirt.VIR_ERR_OPERATION_INVALID, "renamed while running")
    check(code_of(dom.setMaxMemory, 1 << 20) == libvirt.VIR_ERR_OPERATION_INVALID, "maximum memory while running")
    check(dom.setMemory(1 << 14) == 0 and code_of(dom.setMemory, 1 << 20) == libvirt.VIR_ERR_INVALID_ARG, "balloon")
    check(code_of(dom.shutdownFlags, libvirt.VIR_DOMAIN_SHUTDOWN_GUEST_AGENT) == libvirt.VIR_ERR_ARGUMENT_UNSUPPORTED, "agent")
    check(code_of(dom.attachDevice, "<disk/>") == libvirt.VIR_ERR_OPERATION_UNSUPPORTED, "hot-plug")
    dom.destroy()
    dom.undefine()
    check(code_of(dom.info) == libvirt.VIR_ERR_NO_DOMAIN, "a domain that went")
    r = libvirt.openReadOnly(uri(d, suffix="-ro"))
    check(code_of(r.defineXML, domain("x")) == libvirt.VIR_ERR_OPERATION_DENIED, "read-only")
    # Still alive after all of this.
    check(c.isAlive() and c.getLibVersion() == 9000000 and c.isSecure(), "the connection")


def changes(d):
    libvirt = bindings()
    c = libvirt.open(uri(d))
    image = os.path.join(d.folder, "disk.raw")
    with open(image, "wb") as f:
        f.truncate(8 << 20)
    dom = c.defineXML(domain("change", uuid=UUID))
    check(dom.autostart() == 0, "autostart")
    dom.setAutostart(1)
    check(dom.autostart() == 1 and d.rpc.result("vm.get", ["change"])["definition"]["autostart"] is True, "autostart")
    check([x.name() for x in c.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_AUTOSTART)] == ["change"], "filter")
    dom = c.defineXML(domain("change", uuid=UUID, memory=48))
    check(dom.autostart() == 1 and dom.maxMemory() == 48 << 10, "autostart is lost by a new definition")
    dom.setAutostart(0)
    dom.rename("renamed")
    check(dom.name() == "renamed" and c.lookupByName("renamed").UUIDString() == UUID and code_of(c.lookupByName, "change"), "rename")
    T, D, E = libvirt.VIR_DOMAIN_METADATA_TITLE, libvirt.VIR_DOMAIN_METADATA_DESCRIPTION, libvirt.VIR_DOMAIN_METADATA_ELEMENT
    dom.setMetadata(T, "t", None, None)
    dom.setMetadata(D, "two\nlines", None, None)
    dom.setMetadata(E, "<app><part n='1'/></app>", "a", "urn:test:app")
    dom.setMetadata(E, "<other/>", "o", "urn:test:other")
    dom.setMetadata(E, "<app><part n='2'/></app>", "a", "urn:test:app")
    check(dom.metadata(T, None) == "t" and dom.metadata(D, None) == "two\nlines", "title, description")
    app = ET.fromstring(dom.metadata(E, "urn:test:app"))
    check(app.tag == "app" and app.find("part").get("n") == "2", dom.metadata(E, "urn:test:app"))
    dom.setMetadata(E, None, None, "urn:test:other")
    check(code_of(dom.metadata, E, "urn:test:other") == libvirt.VIR_ERR_NO_DOMAIN_METADATA, "removed metadata")
    check(d.rpc.result("vm.get", ["renamed"])["definition"]["title"] == "t", "title through the other API")
    dom.setMemoryFlags(64 << 10, libvirt.VIR_DOMAIN_AFFECT_CONFIG | libvirt.VIR_DOMAIN_MEM_MAXIMUM)
    dom.setVcpusFlags(2, libvirt.VIR_DOMAIN_AFFECT_CONFIG | libvirt.VIR_DOMAIN_VCPU_MAXIMUM)
    check(dom.maxMemory() == 64 << 10 and dom.vcpusFlags(libvirt.VIR_DOMAIN_AFFECT_CONFIG) == 2, "sizes")
    disk = f"<disk type='file' device='disk'><driver name='qemu' type='raw' cache='none'/><source file='{image}'/><target dev='vdb' bus='virtio'/></disk>"
    dom.attachDeviceFlags(disk, libvirt.VIR_DOMAIN_AFFECT_CONFIG)
    check(code_of(dom.attachDeviceFlags, disk, libvirt.VIR_DOMAIN_AFFECT_CONFIG) == libvirt.VIR_ERR_OPERATION_INVALID, "attached twice")
    definition = d.rpc.result("vm.get", ["renamed"])["definition"]
    only, = definition["disks"]
    check((only["path"], only["readonly"], only["device"]) == (image, False, "disk"), str(definition))
    shown = ET.fromstring(dom.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)).find("devices/disk")
    check(shown.find("driver").get("cache") == "none" and shown.find("target").get("dev") == "vdb", "what was written of the disk is lost")
    # The whole definition through its own XML again: nothing changes.
    before = dom.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    check(c.defineXML(before).XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE) == before, "XML does not come back as it was")
    check(dom.blockInfo("vdb")[0] == 8 << 20 and dom.blockInfo(image)[0] == 8 << 20, "block info")
    dom.create()
    wait_until("processor time", lambda: dom.info()[4] > 0)
    stats = c.getAllDomainStats(0, 0)[0][1]
    check(stats["state.state"] == 1 and stats["vcpu.current"] == 2 and stats["block.0.name"] == "vdb" and stats["block.0.capacity"] == 8 << 20, str(stats))
    check(stats["cpu.time"] > 0 and stats["balloon.current"] == 64 << 10 and "block.0.rd.reqs" in stats, str(stats))
    check(dom.blockStats("vdb")[4] == 0 and "rd_operations" in dom.blockStatsFlags("vdb"), "block statistics")
    check(dom.memoryStats()["actual"] == 64 << 10 and dom.memoryStats()["rss"] > 1000, str(dom.memoryStats()))
    check(dom.getCPUStats(True)[0]["cpu_time"] > 0 and dom.info()[4] > 0, "processor statistics")
    infos, maps = dom.vcpus()
    check(len(infos) == 2 and len(maps) == 2 and any(maps[0]), f"{infos} {maps}")
    dom.pinVcpu(1, tuple(i == 0 for i in range(c.getInfo()[2])))
    check([i for i, on in enumerate(dom.vcpuPinInfo()[1]) if on] == [0], str(dom.vcpuPinInfo()))
    check(code_of(dom.pinVcpu, 9, (True,)) == libvirt.VIR_ERR_INVALID_ARG, "pinning what is not there")
    check(dom.jobInfo()[0] == 0 and dom.controlInfo()[0] == 0 and dom.hasManagedSaveImage() == 0, "jobs")
    dom.setMetadata(D, "while running", None, None)
    check(ET.fromstring(dom.XMLDesc()).find("description").text == "while running", "metadata of a running domain")
    dom.destroy()
    dom.detachDeviceFlags(disk, libvirt.VIR_DOMAIN_AFFECT_CONFIG)
    check(d.rpc.result("vm.get", ["renamed"])["definition"]["disks"] == [], "detached")
    check(code_of(dom.detachDeviceFlags, disk, libvirt.VIR_DOMAIN_AFFECT_CONFIG) == libvirt.VIR_ERR_DEVICE_MISSING, "detached twice")
    dom.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_NVRAM | libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE)


def both_apis(d):
    """What one API defines is whole in the other."""
    libvirt = bindings()
    c = libvirt.open(uri(d))
    image = os.path.join(d.folder, "d.raw")
    open(image, "wb").close()
    definition = {"name": "json", "uuid": UUID, "mode": "bt", "memory_mib": 40, "vcpus": 2, "workload": "web", "boot": {"kernel": TINY, "cmdline": "a=<b> & \"c\""},
                  "disks": [{"path": image, "readonly": True}], "serial": "console", "on_reboot": "shutdown", "paravirt": False, "debug_exit": True, "autostart": False,
                  "debug_console": True, "title": "<&>", "description": "x\ny"}
    d.rpc.result("vm.define", [definition])
    before = d.rpc.result("vm.get", ["json"])["definition"]
    dom = c.lookupByName("json")
    c.defineXML(dom.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
    after = d.rpc.result("vm.get", ["json"])["definition"]
    after.pop("libvirt_xml")
    check(after == before, f"{before}\n{after}")
    kept = domain("json", uuid=UUID, extra="<clock offset='utc'><timer name='rtc' tickpolicy='catchup'/></clock><pm><suspend-to-mem enabled='no'/></pm>"
                  "<metadata><x:y xmlns:x='urn:x' z='1'/></metadata>", devices="<memballoon model='virtio'/><sound model='ich9'/><controller type='usb' model='none'/>")
    root = ET.fromstring(c.defineXML(kept).XMLDesc())
    check(root.find("clock/timer").get("tickpolicy") == "catchup" and root.find("metadata/{urn:x}y").get("z") == "1" and root.find("pm/suspend-to-mem") is not None, "kept")
    check([e.tag for e in root.findall("devices/*")].count("memballoon") == 1 and "sound" in dom.messages()[0] and len(dom.messages()) == 1, str(dom.messages()))
    # A change through JSON shows in the XML, and what JSON does not know stays.
    definition = d.rpc.result("vm.get", ["json"])["definition"]
    definition["memory_mib"] = 64
    d.rpc.result("vm.define", [definition])
    root = ET.fromstring(dom.XMLDesc())
    check(root.find("memory").text == str(64 << 10) and root.find("clock/timer") is not None, "changed through JSON")
    for kind, mode in (("qemu", "bt"), ("kvm", "hvm"), ("trivisor", "auto")):
        c.defineXML(domain("json", uuid=UUID, kind=kind))
        check(d.rpc.result("vm.get", ["json"])["definition"]["mode"] == mode and ET.fromstring(dom.XMLDesc()).get("type") == kind, kind)
    dom.undefine()


def console_stream(d):
    libvirt = bindings()
    c = libvirt.open(uri(d))
    dom = c.createXML(domain("stream"))
    stream = c.newStream(0)
    dom.openConsole(None, stream, 0)

    def read_until(word):
        text = b""
        while word not in text:
            data = stream.recv(1024)
            check(data, f"the stream ended: {text[-300:]!r}")
            text += data

    read_until(READY.encode())
    check(stream.send(b"s") == 1, "send")
    read_until(b"[s]")
    stream.abort()
    stream = c.newStream(0)
    dom.openConsole("serial0", stream, 0)
    read_until(READY.encode())  # the scrollback
    stream.finish()
    check(code_of(dom.openConsole, "nothing", c.newStream(0), 0) == libvirt.VIR_ERR_INVALID_ARG, "another device")
    # With its client: gone when that goes.
    other = libvirt.open(uri(d))
    other.createXML(domain("with-client"), libvirt.VIR_DOMAIN_START_AUTODESTROY)
    check(c.lookupByName("with-client").isActive(), "autodestroy")
    other.close()
    wait_until("the end with its client", lambda: [x.name() for x in c.listAllDomains()] == ["stream"], 30)
    dom.destroy()


def autostart(d):
    """Started with the host, once for each boot."""
    libvirt = bindings()
    c = libvirt.open(uri(d))
    c.defineXML(domain("auto")).setAutostart(1)
    c.close()
    d.kill(15)
    d.start()
    check(d.rpc.result("vm.list")[0]["state"] == "defined", "started although this host had booted before")
    d.kill(15)
    os.unlink(os.path.join(d.folder, "run", "autostarted"))
    d.start()
    wait_until("autostart", lambda: d.rpc.result("vm.list")[0]["state"] == "running", 30)


def main():
    tap = Tap()
    for test in (codes, changes, both_apis, console_stream, autostart, events):
        with scratch() as folder:
            def one():
                with Daemon(folder) as d:
                    test(d)
            tap.run(f"python3-libvirt: {test.__name__}", one)
    tap.finish()


main()
