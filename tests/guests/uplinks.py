#!/usr/bin/python3
"""Network devices of the host: a tap, a macvtap, and teams of veths that lose their links under a running download."""

import hashlib
import os
import re
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from nettest import Namespace, NetVm, make_net_initramfs, running
from vmtest import Failed, Skip, Tap, check, scratch, wait_until

MEGABYTES = 48
SERVER = """
import functools, http.server, sys
handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=sys.argv[2])
http.server.ThreadingHTTPServer((sys.argv[1], 80), handler).serve_forever()
"""


class Context:
    def __init__(self, folder):
        self.folder = folder
        self.initrd = make_net_initramfs(folder)
        self.noise = os.urandom(MEGABYTES << 20)
        self.md5 = hashlib.md5(self.noise).hexdigest()
        os.mkdir(os.path.join(folder, "www"))
        with open(os.path.join(folder, "www", "noise"), "wb") as f:
            f.write(self.noise)

    def serve(self, ns, address):
        return running(ns.start(sys.executable, "-c", SERVER, address, os.path.join(self.folder, "www"), stderr=-3))


def address(shell, ip):
    shell.command(f"ifconfig eth0 {ip} netmask 255.255.255.0 up")


def add(ns, *link):
    """A network device, or the kernel's reason why there is none."""
    try:
        ns.run("ip", "link", "add", *link)
    except Failed as e:
        raise Skip(f"this kernel makes no such device: {e}") from None


def reachable(shell, ip):
    wait_until(f"{ip} to be reached", lambda: "1 packets received" in shell.command(f"ping -c 1 -W 1 {ip}"), 60)


def download(c, shell, ip):
    out = shell.command(f"wget -q -O - http://{ip}/noise | md5sum", 240)
    check(c.md5 in out, f"{out}, not {c.md5}")


def a_tap_works(c):
    with Namespace() as ns:
        ns.run("ip", "tuntap", "add", "tap0", "mode", "tap")
        ns.run("ip", "addr", "add", "10.7.0.1/24", "dev", "tap0")
        ns.run("ip", "link", "set", "tap0", "up")
        with NetVm(c.folder, c.initrd, [{"type": "tap", "interface": "tap0"}], "tap", ns.prefix()) as vm, c.serve(ns, "10.7.0.1"):
            shell = vm.up()
            address(shell, "10.7.0.2")
            reachable(shell, "10.7.0.1")
            download(c, shell, "10.7.0.1")
            out = ns.run("ping", "-c", "1", "-W", "20", "10.7.0.2") if os.access("/bin/ping", os.X_OK) else ""
            check(not out or "1 received" in out, out)
        with NetVm(c.folder, c.initrd, [{"type": "tap", "interface": "nowhere"}], "none", ns.prefix()) as vm:
            check(vm.wait() == 3 and "network device nowhere: there is none" in vm.result()["reason"], vm.result()["reason"])


def a_macvtap_works(c):
    with Namespace() as ns:
        add(ns, "m0", "type", "veth", "peer", "name", "m1")
        add(ns, "link", "m0", "name", "mt0", "type", "macvtap", "mode", "bridge")
        number = ns.run("cat", "/sys/class/net/mt0/ifindex").strip()
        if not os.path.exists(f"/dev/tap{number}"):
            raise Skip(f"no /dev/tap{number} appears here")
        mac = ns.run("cat", "/sys/class/net/mt0/address").strip()
        ns.run("ip", "addr", "add", "10.7.0.1/24", "dev", "m1")
        for name in ("m0", "m1", "mt0"):
            ns.run("ip", "link", "set", name, "up")
        nic = {"type": "tap", "interface": "mt0", "mac": mac}
        with NetVm(c.folder, c.initrd, [nic], "macvtap", ns.prefix()) as vm, c.serve(ns, "10.7.0.1"):
            shell = vm.up()
            address(shell, "10.7.0.2")
            reachable(shell, "10.7.0.1")
            download(c, shell, "10.7.0.1")


def a_bridge_gets_a_tap(c):
    """A tap is made on a bridge, and goes with the VM. With own_mac_only the guest sends from its own address alone."""
    with Namespace() as ns:
        add(ns, "br0", "type", "bridge")
        ns.run("ip", "addr", "add", "10.7.0.1/24", "dev", "br0")
        ns.run("ip", "link", "set", "br0", "up")
        nic = {"type": "tap", "bridge": "br0", "mac": "52:54:00:0a:0b:0c", "own_mac_only": True}
        with NetVm(c.folder, c.initrd, [nic], "bridged", ns.prefix()) as vm, c.serve(ns, "10.7.0.1"):
            shell = vm.up()
            address(shell, "10.7.0.2")
            reachable(shell, "10.7.0.1")
            check("tv5254000a0b0c" in ns.run("ip", "link", "show", "master", "br0"), "the tap is on the bridge")
            download(c, shell, "10.7.0.1")
            shell.command("ifconfig eth0 down; ifconfig eth0 hw ether 52:54:00:0a:0b:0d; ifconfig eth0 up")
            out = shell.command("ping -c 1 -W 2 10.7.0.1", 60)
            check("0 packets received" in out and vm.count("tx_spoofed") > 0, f"another address: {out}")
            shell.command("ifconfig eth0 down; ifconfig eth0 hw ether 52:54:00:0a:0b:0c; ifconfig eth0 up")
            reachable(shell, "10.7.0.1")
        check("tv5254" not in ns.run("ip", "link"), "the tap is left")
        for bad, words in (({"bridge": "nowhere"}, "nowhere: the bridge"), ({"bridge": "lo"}, "lo: a tap cannot be put on it")):
            with NetVm(c.folder, c.initrd, [{"type": "tap", **bad}], "bad", ns.prefix()) as vm:
                check(vm.wait() == 3 and words in vm.result()["reason"], vm.result()["reason"])


def a_macvtap_is_made(c):
    """On one end of a veth, and it is gone after the VM, also when that is killed."""
    with Namespace() as ns:
        add(ns, "m0", "type", "veth", "peer", "name", "m1")
        add(ns, "link", "m0", "name", "probe", "type", "macvtap")
        ns.run("ip", "link", "del", "probe")
        ns.run("ip", "addr", "add", "10.7.0.1/24", "dev", "m1")
        for name in ("m0", "m1"):
            ns.run("ip", "link", "set", name, "up")
        nic = {"type": "macvtap", "device": "m0", "mode": "private", "mac": "52:54:00:0a:0b:0e"}
        with NetVm(c.folder, c.initrd, [nic], "made", ns.prefix()) as vm, c.serve(ns, "10.7.0.1"):
            shell = vm.up()
            check("macvtap mode private" in ns.run("ip", "-d", "link", "show", "mv5254000a0b0e"), "its mode")
            address(shell, "10.7.0.2")
            reachable(shell, "10.7.0.1")
            download(c, shell, "10.7.0.1")
            vm.process.kill()
            vm.process.wait()
            wait_until("its end", lambda: "mv5254" not in ns.run("ip", "link"))
        # One of that name is somebody's: it is not taken over.
        ns.run("ip", "link", "add", "link", "m0", "name", "mv5254000a0b0e", "type", "macvtap")
        with NetVm(c.folder, c.initrd, [nic], "taken", ns.prefix()) as vm:
            check(vm.wait() == 3 and "mv5254000a0b0e: a macvtap of that name" in vm.result()["reason"], vm.result()["reason"])
        check("mv5254" in ns.run("ip", "link"), "it is not ours to delete")
        ns.run("ip", "link", "del", "mv5254000a0b0e")
        with NetVm(c.folder, c.initrd, [{**nic, "device": "nowhere"}], "bad", ns.prefix()) as vm:
            check(vm.wait() == 3 and "nowhere: there is none" in vm.result()["reason"], vm.result()["reason"])


def team(c, policy):
    """Two uplinks into one bridge. Each loses its link once while a download runs, and the connection lives."""
    with Namespace() as ns:
        add(ns, "br0", "type", "bridge")
        ns.run("ip", "addr", "add", "10.8.0.1/24", "dev", "br0")
        ns.run("ip", "link", "set", "br0", "up")
        for a, b in (("up0", "sw0"), ("up1", "sw1")):
            add(ns, a, "type", "veth", "peer", "name", b)
            ns.run("ip", "link", "set", b, "master", "br0")
            ns.run("ip", "link", "set", a, "up")
            ns.run("ip", "link", "set", b, "up")
        # So slow that links can be pulled meanwhile.
        nic = {"type": "team", "uplinks": ["up0", "up1"], "policy": policy, "receive": {"kib_per_second": 8192}}
        with NetVm(c.folder, c.initrd, [nic], policy, ns.prefix()) as vm, c.serve(ns, "10.8.0.1"):
            shell = vm.up()
            address(shell, "10.8.0.2")
            reachable(shell, "10.8.0.1")
            shell.type("wget -q -O - http://10.8.0.1/noise | md5sum >/tmp/sum &\n")
            for down in ("sw0", "sw1"):
                bytes_before = vm.count("rx_bytes")
                wait_until("the download to go on", lambda: vm.count("rx_bytes") > bytes_before + (4 << 20), 120)
                ns.run("ip", "link", "set", down, "down")
                began, bytes_then = time.monotonic(), vm.count("rx_bytes")
                wait_until("frames by the other uplink", lambda: vm.count("rx_bytes") > bytes_then + (1 << 20), 60)
                Tap.explain(f"{policy}: a MiB more {1000 * (time.monotonic() - began):.0f} ms after {down} was down (128 ms of that are the limit)")
                check(not shell.command("cat /tmp/sum").strip().endswith("-"), "it was over before the link was")
                ns.run("ip", "link", "set", down, "up")
            wait_until("the whole file", lambda: c.md5 in shell.command("cat /tmp/sum"), 240)
            check("takes over" in vm.log(), vm.log())
            # Without any link the guest sees that.
            for down in ("sw0", "sw1"):
                ns.run("ip", "link", "set", down, "down")
            wait_until("no carrier", lambda: shell.command("cat /sys/class/net/eth0/carrier").strip().endswith("0"))
            ns.run("ip", "link", "set", "sw1", "up")
            wait_until("a carrier", lambda: shell.command("cat /sys/class/net/eth0/carrier").strip().endswith("1"))
            reachable(shell, "10.8.0.1")
            if policy == "balance":
                sent = [int(re.search(r"\d+", ns.run("cat", f"/sys/class/net/{u}/statistics/tx_packets")).group()) for u in ("up0", "up1")]
                check(all(n > 0 for n in sent), f"frames by each uplink: {sent}")


def main():
    tap = Tap()
    with scratch() as folder:
        c = Context(folder)
        tap.run("a tap works", a_tap_works, c)
        tap.run("a macvtap works", a_macvtap_works, c)
        tap.run("a bridge gets a tap", a_bridge_gets_a_tap, c)
        tap.run("a macvtap is made", a_macvtap_is_made, c)
        tap.run("a team, active-backup, survives the loss of a link", team, c, "active-backup")
        tap.run("a team, balance, survives the loss of a link", team, c, "balance")
    tap.finish()


if __name__ == "__main__":
    main()
