#!/usr/bin/python3
"""The virtual switch: a stream from guest to guest, VLANs, a mirror, counters; clients that lie; its sudden end."""

import json
import os
import re
import socket
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from nettest import NetVm, Switch, make_net_initramfs
from vmtest import Tap, check, scratch, wait_until


class Context:
    def __init__(self, folder):
        self.folder = folder
        self.initrd = make_net_initramfs(folder)


def address(shell, interface, ip):
    shell.command(f"ifconfig {interface} {ip} netmask 255.255.255.0 up")


def reaches(shell, ip, count=2):
    """How many of so many pings were answered."""
    out = shell.command(f"ping -c {count} -W 2 {ip}", 60)
    return int(re.search(r"(\d+) packets received", out).group(1))


def guests_meet(c):
    nic = {"type": "switch", "network": "lab"}
    megabytes = 64
    with Switch(c.folder) as switch, \
            NetVm(c.folder, c.initrd, [{**nic, "vlan": 10}], "a") as a, \
            NetVm(c.folder, c.initrd, [{**nic, "trunk": [10]}], "b") as b, \
            NetVm(c.folder, c.initrd, [{**nic, "vlan": 20}, {**nic, "mirror": True}], "c") as third:
        a.up(), b.up(), third.up()
        wait_until("four ports", lambda: len(switch.ports()) == 4)
        check(switch.ports()["b", 0]["trunk"] == [10] and switch.ports()["a", 0]["vlan"] == 10, str(switch.ports()))
        third.shell.command("ifconfig eth1 up promisc")
        address(a.shell, "eth0", "10.9.0.1")
        address(third.shell, "eth0", "10.9.0.3")
        # b has VLAN 10 as a tagged network.
        b.shell.command("ifconfig eth0 up; vconfig add eth0 10")
        address(b.shell, "eth0.10", "10.9.0.2")
        check(reaches(a.shell, "10.9.0.2", 3) == 3, "through an access port to a trunk")
        check(reaches(a.shell, "10.9.0.3") == 0, "another VLAN is reached")
        # A stream from guest to guest. The mirror sees it all, whatever of it its guest has room for.
        before = switch.ports()
        out = a.shell.command(f"head -c {megabytes}m /dev/urandom >/tmp/data; md5sum /tmp/data; httpd -p 80 -h /tmp", 240)
        digest = re.search(r"[0-9a-f]{32}", out).group()
        out = b.shell.command("wget -q -O - http://10.9.0.1/data | md5sum", 240)
        check(digest in out, f"{out}, not {digest}")
        after = switch.ports()
        moved = {key: {k: after[key][k] - before[key][k] for k in ("rx_bytes", "tx_bytes", "tx_dropped")} for key in after}
        check(moved["a", 0]["rx_bytes"] > megabytes << 20 and moved["b", 0]["tx_bytes"] > megabytes << 20, str(moved))
        check(moved["c", 1]["tx_bytes"] + moved["c", 1]["tx_dropped"] > megabytes << 18, f"the mirror saw little: {moved}")
        check(moved["c", 0]["tx_bytes"] < 10000, f"VLAN 20 saw VLAN 10: {moved}")
        check(third.count("rx_frames", 1) > 10, "the mirror's guest received nothing")
        stats = switch.stats()
        check(stats["ports"] == 4 and stats["forwarded"] > 100 and 2 <= stats["addresses"] <= 8, str(stats))
        # A VM that ends leaves no port behind.
        third.close()
        wait_until("its ports' end", lambda: len(switch.ports()) == 2)


def connect(folder):
    s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    s.connect(os.path.join(folder, "nets", "lab", "ports.sock"))
    s.settimeout(30)
    return s


def lies_are_refused(c):
    """Whatever a VM's process sends, it harms itself at most."""
    good = {"version": 1, "vm": "x", "nic": 0, "mac": "52:54:00:00:00:01"}
    with Switch(c.folder) as switch:
        for bad in (b"", b"{", b"[]", b"\0" * 70000, json.dumps({**good, "version": 2}).encode(),
                    *(json.dumps({**good, **wrong}).encode() for wrong in (
                        {"vm": ""}, {"vm": "../x"}, {"vm": 5}, {"vlan": 0}, {"vlan": 4095}, {"trunk": 5}, {"trunk": [0]}, {"nic": "x"}, {"own_mac_only": True, "mac": "x"}))):
            with connect(c.folder) as s:
                s.send(bad)
                answer = s.recv(1000)
                check(not answer or "error" in json.loads(answer), f"{bad[:60]}: {answer}")
        ports = []
        for name in ("x", "y"):
            s = connect(c.folder)
            s.send(json.dumps({**good, "vm": name}).encode())
            check(json.loads(s.recv(1000)) == {"ok": True}, "a good greeting")
            ports.append(s)
        x, y = ports
        header = bytes(12)
        frame = b"\xff" * 6 + b"\x52\x54\0\0\0\x01" + b"\x88\xb5" + b"hello"
        x.send(header + frame)
        check(y.recv(70000) == header + frame, "a frame")
        # One that is to send from its own address alone.
        with connect(c.folder) as s:
            s.send(json.dumps({**good, "vm": "z", "mac": "52:54:00:00:00:03", "own_mac_only": True}).encode())
            check(json.loads(s.recv(1000)) == {"ok": True}, "a good greeting")
            s.send(header + frame)
            s.send(header + frame[:6] + b"\x52\x54\0\0\0\x03" + frame[12:])
            check(y.recv(70000)[12 + 6:12 + 12] == b"\x52\x54\0\0\0\x03", "only its own")
            z = switch.ports()["z", 0]
            check(z["own_mac_only"] and z["rx_dropped"] == 1 and z["rx_frames"] == 2, str(z))
            x.recv(70000)
        wait_until("its end", lambda: len(switch.ports()) == 2)
        # Runts, giants, checksums beyond the end, segments that are none: dropped, and counted.
        for bad in (b"x", header, header + frame[:13], header + bytes(70000), b"\1\0\0\0\0\0\xff\xff\xff\xff\0\0" + frame,
                    b"\0\1\0\0\1\0\0\0\0\0\0\0" + frame, b"\0\xff\0\0\0\0\0\0\0\0\0\0" + frame):
            x.send(bad)
        x.send(header + frame)
        check(y.recv(70000) == header + frame, "a frame behind bad ones")
        check(switch.ports()["x", 0]["rx_dropped"] == 7, str(switch.ports()))
        # One that never reads loses its frames, and nobody else's.
        for _ in range(6000):
            x.send(header + frame[:14] + bytes(1400))
        wait_until("drops", lambda: switch.ports()["y", 0]["tx_dropped"] > 0)
        check(switch.stats()["ports"] == 2, "both are still there")


def its_end_unplugs_the_cable(c):
    with Switch(c.folder) as switch, NetVm(c.folder, c.initrd, [{"type": "switch", "network": "lab"}], "a") as a:
        a.up()
        a.shell.command("ifconfig eth0 up")
        check(a.shell.command("cat /sys/class/net/eth0/carrier").strip().endswith("1"), "the cable is plugged in")
        switch.process.kill()
        switch.process.wait()
        wait_until("no carrier", lambda: a.shell.command("cat /sys/class/net/eth0/carrier").strip().endswith("0"))
        switch.process.wait = lambda timeout: 0  # its end is not what this is about
    with NetVm(c.folder, c.initrd, [{"type": "switch", "network": "nowhere"}], "b") as vm:
        check(vm.wait() == 3 and 'network "nowhere": there is none' in vm.result()["reason"], vm.result()["reason"])


def main():
    tap = Tap()
    for test in (guests_meet, lies_are_refused, its_end_unplugs_the_cable):
        with scratch() as folder:
            tap.run(test.__name__.replace("_", " "), lambda folder=folder: test(Context(folder)))
    tap.finish()


if __name__ == "__main__":
    main()
