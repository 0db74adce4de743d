#!/usr/bin/python3
"""Networks and interfaces through libvirt: virsh net-*, <interface> both ways, statistics, limits, cables, events."""

import json
import os
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ET

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lvtest import TINY, Virsh, bindings, domain, uri
from nettest import make_net_initramfs
from vmtest import BOOT_TIMEOUT, UP, Console, Daemon, Tap, check, kernel_image, program, scratch, wait_until


def write(folder, name, text):
    path = os.path.join(folder, name + ".xml")
    with open(path, "w") as f:
        f.write(text)
    return path


def rows(text):
    return [line.split() for line in text.splitlines()]


def networks_live(folder, daemon, v):
    check(rows(v("net-list", "--all")) == [["default", "active", "yes", "yes"]], "the built-in one")
    root = ET.fromstring(v("net-dumpxml", "default"))
    check(root.find("forward").get("mode") == "nat" and root.find("ip").get("address") == "10.0.2.2", "its XML")
    for command in ("net-destroy", "net-undefine"):
        v.fails(command, "default", word="built in")
    v.fails("net-start", "default", word="already active")
    check(v("net-dhcp-leases", "default") == "", "no leases are known")
    v.fails("net-info", "nothing", word="no network with matching name 'nothing'")
    path = write(folder, "lab", "<network><name>lab</name><metadata><x:y xmlns:x='urn:x'>kept</x:y></metadata></network>")
    v("net-define", path)
    check(["lab", "inactive", "no", "yes"] in rows(v("net-list", "--all")) and "lab" not in v("net-list"), v("net-list", "--all"))
    check("kept" in v("net-dumpxml", "lab") and v("net-uuid", "lab") in v("net-dumpxml", "lab"), v("net-dumpxml", "lab"))
    check(v("net-name", v("net-uuid", "lab")) == "lab", "by UUID")
    v("net-start", "lab")
    v("net-autostart", "lab")
    check(["lab", "active", "yes", "yes"] in rows(v("net-list")), v("net-list"))
    check(daemon.rpc.result("net.get", {"name": "lab"})["autostart"], "the same network in JSON")
    v.fails("net-start", "lab", word="already active")
    v.fails("net-define", write(folder, "taken", "<network><name>lab</name><uuid>2f1c8e1e-6a5b-4c3d-9e8f-0123456789ab</uuid></network>"),
            word="already")
    for inside, words in (("<forward mode='nat'/>", "/network/forward: a network here is a switch between VMs"),
                          ("<ip address='10.1.1.1' netmask='255.255.255.0'/>", "/network/ip: the host takes no part"),
                          ("<bridge name='b'/>", "/network/bridge: "), ("<wire/>", "/network/wire: not supported")):
        v.fails("net-define", write(folder, "bad", f"<network><name>bad</name>{inside}</network>"), word=words)
    v.fails("net-define", write(folder, "bad", "<network><name>default</name></network>"), word="built in")
    v.fails("net-define", write(folder, "bad", "<network/>"), word="/network/name is missing")
    v("net-create", write(folder, "brief", "<network><name>brief</name></network>"))
    check(["brief", "active", "no", "no"] in rows(v("net-list")), v("net-list"))

    # The next daemon finds them as they were; what only lived so long is gone with its process.
    daemon.kill()
    daemon.start()
    wait_until("adoption", lambda: ["brief", "active", "no", "no"] in rows(v("net-list")) and ["lab", "active", "yes", "yes"] in rows(v("net-list")))
    v("net-destroy", "brief")
    check("brief" not in v("net-list", "--all"), "transient")
    v("net-destroy", "lab")
    check(["lab", "inactive", "yes", "yes"] in rows(v("net-list", "--all")), v("net-list", "--all"))
    v("net-start", "lab")
    v("net-undefine", "lab")
    check(["lab", "active", "no", "no"] in rows(v("net-list")), v("net-list"))
    v("net-destroy", "lab")
    check("lab" not in v("net-list", "--all"), "gone")

    # The other API's.
    trictl = [program("trictl"), "--socket", daemon.socket, "net"]
    subprocess.run([*trictl, "create", "ours"], check=True)
    subprocess.run([*trictl, "stop", "ours"], check=True)
    subprocess.run([*trictl, "no-autostart", "ours"], check=True)
    check(["ours", "inactive", "no", "yes"] in rows(v("net-list", "--all")), v("net-list", "--all"))
    subprocess.run([*trictl, "start", "ours"], check=True)
    out = subprocess.run([*trictl, "create", "default"], capture_output=True, text=True)
    check(out.returncode != 0 and "built in" in out.stderr, str(out))


INTERFACES = """
<interface type='user'><mac address='52:54:00:00:00:01'/><ip family='ipv4' address='10.9.0.0' prefix='24'/>
  <portForward proto='tcp' address='127.0.0.1'><range start='20022' to='22'/></portForward><backend type='passt'/>
  <portForward proto='udp'><range start='20053' end='20054' to='53'/></portForward><model type='virtio'/><mtu size='1400'/></interface>
<interface type='network'><source network='default'/><model type='virtio'/><address type='pci' domain='0' bus='0' slot='9' function='0'/></interface>
<interface type='network'><mac address='52:54:00:00:00:03'/><source network='ours'/><vlan><tag id='7'/></vlan>
  <filterref filter='no-mac-spoofing'/><link state='down'/>
  <bandwidth><inbound average='1000' burst='256'/><outbound average='500'/></bandwidth></interface>
<interface type='network'><mac address='52:54:00:00:00:04'/><source network='ours'/>
  <vlan trunk='yes'><tag id='7'/><tag id='9'/><tag id='3' nativeMode='untagged'/></vlan></interface>
<interface type='bridge'><mac address='52:54:00:00:00:05'/><source bridge='br0'/></interface>
<interface type='ethernet'><mac address='52:54:00:00:00:06'/><target dev='tap0' managed='no'/></interface>
<interface type='direct'><mac address='52:54:00:00:00:07'/><source dev='eth0' mode='private'/></interface>
"""


def interfaces_go_both_ways(folder, daemon, v):
    v("define", write(folder, "all", domain("all", devices=INTERFACES)))
    nics = daemon.rpc.result("vm.get", {"vm": "all"})["definition"]["nics"]
    types = [nic["type"] for nic in nics]
    check(types == ["user", "user", "switch", "switch", "tap", "tap", "macvtap"], str(types))
    check(nics[0]["subnet"] == "10.9.0.0/24" and nics[0]["mtu"] == 1400, str(nics[0]))
    forwards = [(f.get("protocol", "tcp"), f.get("host_address", ""), f["host_port"], f["guest_port"]) for f in nics[0]["forward"]]
    check(forwards == [("tcp", "", 20022, 22), ("udp", "0.0.0.0", 20053, 53), ("udp", "0.0.0.0", 20054, 54)], str(forwards))
    check(nics[2]["vlan"] == 7 and nics[2]["own_mac_only"] and nics[2]["link"] == "down", str(nics[2]))
    check(nics[2]["receive"] == {"kib_per_second": 1000, "burst_kib": 256} and nics[2]["transmit"]["kib_per_second"] == 500, str(nics[2]))
    check(nics[3]["trunk"] == [7, 9] and nics[3]["vlan"] == 3, str(nics[3]))
    check(nics[4]["bridge"] == "br0" and nics[5]["interface"] == "tap0" and nics[6]["device"] == "eth0" and nics[6]["mode"] == "private", str(nics))
    # Back again: what was written stays, addresses are there, and reading it changes nothing.
    xml = v("dumpxml", "all")
    elements = ET.fromstring(xml).findall("./devices/interface")
    check([e.get("type") for e in elements] == ["user", "network", "network", "network", "bridge", "ethernet", "direct"], xml)
    check(elements[1].find("mac").get("address") == nics[1]["mac"] and elements[1].find("source").get("network") == "default" and
          elements[1].find("address").get("slot") == "9" and elements[0].find("backend").get("type") == "passt", xml)
    v("define", write(folder, "all", xml))
    check(daemon.rpc.result("vm.get", {"vm": "all"})["definition"]["nics"] == nics, "twice the same")
    check(rows(v("domiflist", "all"))[0][1:] == ["user", "-", "virtio", "52:54:00:00:00:01"], v("domiflist", "all"))
    check(rows(v("domiflist", "all"))[2][1:3] == ["network", "ours"], v("domiflist", "all"))

    # And the other way round: all that JSON can say.
    given = [{"type": "user", "restrict": True, "hostname": "box", "forward": [{"host_port": 20022, "guest_port": 22, "guest_address": "10.0.2.20"}]},
             {"type": "switch", "network": "ours", "mirror": True}, {"type": "switch", "network": "ours", "trunk": "all"},
             {"type": "team", "uplinks": ["u0", "u1"], "policy": "balance"}, {"type": "tap", "bridge": "br0", "interface": "mine"},
             {"type": "macvtap", "device": "e0", "own_mac_only": True}, {"type": "user", "forward": [{"host_port": 20023, "guest_port": 23}]}]
    daemon.rpc.result("vm.define", {"definition": {"name": "json", "memory_mib": 16, "boot": {"kernel": TINY}, "nics": given}})
    nics = daemon.rpc.result("vm.get", {"vm": "json"})["definition"]["nics"]
    xml = v("dumpxml", "json")
    v("define", write(folder, "json", xml))
    after = daemon.rpc.result("vm.get", {"vm": "json"})["definition"]["nics"]
    check(after == nics, f"{after}, not {nics}: {xml}")
    # A change in one shows in the other, and leaves what tools keep.
    definition = daemon.rpc.result("vm.get", {"vm": "all"})["definition"]
    definition["nics"][1] = {"type": "switch", "network": "ours", "mac": definition["nics"][1]["mac"]}
    del definition["nics"][2:]
    daemon.rpc.result("vm.define", {"definition": definition})
    elements = ET.fromstring(v("dumpxml", "all")).findall("./devices/interface")
    check(len(elements) == 2 and elements[1].find("source").get("network") == "ours" and elements[1].find("address").get("slot") == "9",
          v("dumpxml", "all"))

    for bad, words in (("<interface/>", "the type \"\" is not possible"), ("<interface type='vhostuser'/>", "\"vhostuser\" is not possible"),
                       ("<interface type='network'/>", "names no network"), ("<interface type='ethernet'/>", "<target> is to name"),
                       ("<interface type='user'><model type='vmxnet3'/></interface>", "/interface/model: the model \"vmxnet3\""),
                       ("<interface type='user'><vlan><tag id='1'/></vlan></interface>", "/interface/vlan: only a network"),
                       ("<interface type='user'><filterref filter='clean-traffic'/></interface>", "/filterref: of filters only"),
                       ("<interface type='user'><bandwidth><inbound average='1' peak='5'/></bandwidth></interface>", "peak is not supported"),
                       ("<interface type='user'><portForward proto='tcp'/></interface>", "a <range> is wanted"),
                       ("<interface type='user'><ip address='x'/></interface>", "\"x\" is no IPv4 address"),
                       ("<interface type='user'><mac address='1'/></interface>", "mac: \"1\" is no address"),
                       ("<interface type='user'><wire/></interface>", "/interface/wire: not supported")):
        v.fails("define", write(folder, "bad", domain("bad", devices=bad)), word=words)
    for name in ("all", "json"):
        v("undefine", name)


def stored_interfaces_change(folder, daemon, v):
    """attach, update and detach with --config; addresses that are made stay unlike each other."""
    v("define", write(folder, "d", domain("d")))
    for _ in range(3):
        v("attach-interface", "d", "network", "default", "--model", "virtio", "--config")
    macs = [row[-1] for row in rows(v("domiflist", "d"))]
    v("detach-interface", "d", "network", "--mac", macs[0], "--config")
    v("attach-interface", "d", "network", "ours", "--model", "virtio", "--config")
    now = [row[-1] for row in rows(v("domiflist", "d"))]
    check(len(set(now)) == 3 and now[:2] == macs[1:], f"{macs}, {now}")
    v("domif-setlink", "d", now[0], "down", "--config")
    check("down" in v("domif-getlink", "d", now[0], "--config"), "the stored link")
    v("domiftune", "d", now[0], "--inbound", "300,0,50", "--config")
    check("inbound.average: 300" in v("domiftune", "d", now[0], "--config"), v("domiftune", "d", now[0], "--config"))
    v.fails("domiftune", "d", now[0], "--inbound", "300,400,50", "--config", word="inbound.peak is not supported")
    v.fails("domiftune", "d", "nowhere", "--config", word="")
    check(daemon.rpc.result("vm.get", {"vm": "d"})["definition"]["nics"][0]["receive"] == {"kib_per_second": 300, "burst_kib": 50}, "in JSON")
    v("undefine", "d")


def running_interfaces_change(folder, daemon, v):
    v("define", write(folder, "r", domain("r", devices="<interface type='user'/><interface type='network'><source network='ours'/></interface>")))
    v("start", "r")
    listed = rows(v("domiflist", "r"))
    check([row[:3] for row in listed] == [["nic0", "user", "-"], ["nic1", "network", "ours"]], str(listed))
    mac = listed[0][-1]
    check(len(v("domifstat", "r", "nic0").splitlines()) == 8 and "rx_bytes 0" in v("domifstat", "r", mac), v("domifstat", "r", "nic0"))
    v.fails("domifstat", "r", "nowhere", word="nowhere")
    stats = v("domstats", "--interface", "r")
    check("net.count=2" in stats and "net.0.name=nic0" in stats and "net.1.tx.pkts=0" in stats, stats)
    check(v("domifaddr", "r") == "", "this guest asks nobody for an address")
    v.fails("domifaddr", "r", "--source", "arp", word="the addresses that DHCP gave")
    check("up" in v("domif-getlink", "r", mac), "the cable")
    v("domif-setlink", "r", mac, "down")
    check("down" in v("domif-getlink", "r", mac) and "down" not in v("domif-getlink", "r", mac, "--config"), "only the running one")
    v("domiftune", "r", "nic0", "--outbound", "700,0,80")
    check("outbound.average: 700" in v("domiftune", "r", "nic0") and "outbound.burst : 80" in v("domiftune", "r", "nic0"), v("domiftune", "r", "nic0"))
    check("700" not in v("domiftune", "r", mac, "--config"), "only the running one")
    v("domiftune", "r", mac, "--inbound", "900,0,90", "--live", "--config")
    check("900" in v("domiftune", "r", "nic0") and "900" in v("domiftune", "r", mac, "--config"), "both")
    # The whole element, as tools do it; more than cable and limits is refused.
    element = f"<interface type='user'><mac address='{mac}'/>%s</interface>"
    v("update-device", "r", write(folder, "e", element % "<link state='up'/>"), "--live")
    check("up" in v("domif-getlink", "r", mac) and "700" not in v("domiftune", "r", "nic0"), "as the element said")
    v.fails("update-device", "r", write(folder, "e", element % "<mtu size='1000'/>"), "--live", word="nothing else")
    # The next daemon knows it too.
    v("domif-setlink", "r", mac, "down")
    v("domif-setlink", "r", mac, "down", "--config")
    daemon.kill()
    daemon.start()
    wait_until("adoption", lambda: "running" in v("domstate", "r"))
    check("down" in v("domif-getlink", "r", mac) and "down" in v("domif-getlink", "r", mac, "--config"), "after adoption")
    v.fails("net-undefine", "nothing", word="no network")
    v("destroy", "r")
    v("undefine", "r")


def addresses_are_told(folder, daemon, v):
    """A stock guest asks for one by DHCP."""
    devices = "<interface type='user'><ip family='ipv4' address='10.9.0.0' prefix='25'/></interface>"
    boot = f"<initrd>{make_net_initramfs(folder)}</initrd><cmdline>console=ttyS0</cmdline>"
    v("define", write(folder, "l", domain("l", devices=devices, kernel=kernel_image(), memory=192, boot=boot)))
    v("start", "l")
    console = Console(daemon.rpc.result("vm.console", {"vm": "l"})["path"])
    console.expect(UP, BOOT_TIMEOUT)
    check(v("domifaddr", "l") == "", "before it has asked")
    out = console.command("udhcpc -i eth0 -n -q -t 10 2>&1", 60)
    row = v("domifaddr", "l").split()
    check(row[0] == "nic0" and row[2:] == ["ipv4", "10.9.0.15/25"], f"{row}; {out}")
    stats = dict(line.split()[1:] for line in v("domifstat", "l", "nic0").splitlines())
    check(int(stats["rx_packets"]) > 0 and int(stats["tx_bytes"]) > 300, str(stats))
    v("destroy", "l")
    v("undefine", "l")


def events_are_told(folder, daemon, v):
    libvirt = bindings()
    libvirt.virEventRegisterDefaultImpl()
    over = threading.Event()

    def loop():
        while not over.is_set():
            libvirt.virEventRunDefaultImpl()

    libvirt.virEventAddTimeout(100, lambda *arguments: None, None)
    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    c = libvirt.open(uri(daemon))
    seen = []
    c.networkEventRegisterAny(None, libvirt.VIR_NETWORK_EVENT_ID_LIFECYCLE, lambda c, net, event, detail, o: seen.append((net.name(), event)), None)
    net = c.networkDefineXML("<network><name>told</name></network>")
    net.create()
    net.destroy()
    net.undefine()
    expected = [("told", kind) for kind in (libvirt.VIR_NETWORK_EVENT_DEFINED, libvirt.VIR_NETWORK_EVENT_STARTED,
                                            libvirt.VIR_NETWORK_EVENT_STOPPED, libvirt.VIR_NETWORK_EVENT_UNDEFINED)]
    deadline = time.monotonic() + 30
    while seen != expected and time.monotonic() < deadline:
        time.sleep(0.05)
    check(seen == expected, f"{seen}, not {expected}")
    history = daemon.rpc.result("events.history", {"kind": "events"})
    check(any("told" in json.dumps(record) for record in history), "in the history")
    c.close()
    over.set()
    thread.join(30)


def main():
    tap = Tap()
    with scratch() as folder, Daemon(folder) as daemon:
        v = Virsh(daemon)
        for test in (networks_live, interfaces_go_both_ways, stored_interfaces_change, running_interfaces_change, addresses_are_told,
                     events_are_told):
            tap.run(test.__name__.replace("_", " "), test, folder, daemon, v)
        for net in daemon.rpc.result("net.list"):
            daemon.rpc.call("net.delete", {"name": net["name"]})
    tap.finish()


if __name__ == "__main__":
    main()
