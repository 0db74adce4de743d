#!/usr/bin/python3
"""The `user` network: DHCP, a download, forwarded ports, restriction, DNS, limits, pulled cables; all from a stock kernel."""

import os
import socket
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from nettest import Files, Namespace, NetVm, free_port, make_net_initramfs, running
from vmtest import Tap, check, scratch, wait_until

MAC = "52:54:00:12:34:56"
# Answers every question for an address with 192.0.2.77, and says when it listens.
DNS_SERVER = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("127.0.0.1", 53))
print("ready", flush=True)
while True:
    q, who = s.recvfrom(1500)
    end = q.index(b"\\0", 12) + 5
    a = b"\\xc0\\x0c\\0\\1\\0\\1\\0\\0\\0\\x3c\\0\\4\\xc0\\0\\2\\x4d" if q[end - 4:end] == b"\\0\\1\\0\\1" else b""
    s.sendto(q[:2] + b"\\x81\\x80\\0\\1" + (b"\\0\\1" if a else b"\\0\\0") + b"\\0\\0\\0\\0" + q[12:end] + a, who)
"""


class Context:
    def __init__(self, folder):
        self.folder = folder
        self.initrd = make_net_initramfs(folder)


def lease(shell):
    out = shell.command("udhcpc -i eth0 -n -q -t 10 2>&1 && ifconfig eth0")
    check("inet addr:" in out, out)
    return out


def gets_an_address_and_downloads(c):
    files = Files(24 << 20)
    tcp, udp = free_port(), free_port(socket.SOCK_DGRAM)
    nic = {"type": "user", "mac": MAC, "hostname": "box", "forward": [
        {"host_port": tcp, "guest_port": 7}, {"protocol": "udp", "host_port": udp, "guest_port": 9}]}
    with NetVm(c.folder, c.initrd, [nic]) as vm:
        shell = vm.up()
        out = lease(shell)
        check("10.0.2.15" in out and MAC in out.lower(), out)
        check(vm.count("address") == 0x0a00020f, f"the lease: {vm.count('address'):#x}")
        out = shell.command(f"wget -q -O - http://10.0.2.2:{files.port}/noise | md5sum", 120)
        check(files.md5 in out, f"{out}, not {files.md5}")
        check(vm.count("rx_bytes") > len(files.data) and vm.count("rx_dropped") == 0, "counters")
        # A forwarded port reaches a guest's listener, both ways and in order.
        shell.command("(while :; do nc -l -p 7 -e cat; done >/dev/null 2>&1 &)")
        wait_until("the guest's listener", lambda: ":0007 " in shell.command("cat /proc/net/tcp /proc/net/tcp6"))
        payload = os.urandom(1 << 20)
        with socket.create_connection(("127.0.0.1", tcp), 30) as s:
            s.settimeout(60)
            got, sent = b"", 0
            while len(got) < len(payload):
                sent += s.send(payload[sent:sent + 30000])
                got += s.recv(65536)
            check(got == payload, "what came back is not what was sent")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            def arrived():
                s.sendto(b"over udp\n", ("127.0.0.1", udp))  # may be lost, as datagrams are
                # Nobody listens there, and the guest counts what it had to refuse.
                rows = [line.split() for line in shell.command("grep ^Udp: /proc/net/snmp").splitlines()]
                return int(dict(zip(*rows[-2:]))["NoPorts"]) > 0

            wait_until("a datagram", arrived)
        shell.type("poweroff -f\n")
        check(vm.wait() == 0, "it powers off")
    files.close()


def restriction_holds(c):
    """No connection leaves, but forwards still work; a host that hides is not reached at 10.0.2.2."""
    files = Files(1000)
    port = free_port()
    nics = [{"type": "user", "restrict": True, "subnet": "192.168.76.0/24", "forward": [{"host_port": port, "guest_port": 7}]},
            {"type": "user", "hide_host": True}]
    with NetVm(c.folder, c.initrd, nics) as vm:
        shell = vm.up()
        check("192.168.76.15" in lease(shell), "another network's address")
        out = shell.command(f"echo | nc -w 3 192.168.76.2 {files.port}; echo status $?", 60)
        check("status 1" in out, out)
        shell.command("(echo through the door | nc -l -p 7 >/dev/null &)")
        wait_until("the guest's listener", lambda: ":0007 " in shell.command("cat /proc/net/tcp /proc/net/tcp6"))
        with socket.create_connection(("127.0.0.1", port), 30) as s:
            s.settimeout(30)
            check(s.recv(100) == b"through the door\n", "the forward")
        shell.command("ifconfig eth0 down; ifconfig eth1 10.0.2.15; route add default gw 10.0.2.2")
        out = shell.command(f"echo | nc -w 3 10.0.2.2 {files.port}; echo status $?", 60)
        check("status 1" in out, out)
    files.close()


def names_are_found(c):
    with Namespace() as ns:
        resolv = os.path.join(c.folder, "resolv.conf")
        with open(resolv, "w") as f:
            f.write("nameserver 127.0.0.1\n")
        ns.run("mount", "--bind", resolv, os.path.realpath("/etc/resolv.conf"))
        with running(ns.start(sys.executable, "-c", DNS_SERVER, stdout=-1)) as dns:
            check(dns.stdout.readline() == b"ready\n", "the name server")
            with NetVm(c.folder, c.initrd, [{"type": "user"}], prefix=ns.prefix()) as vm:
                shell = vm.up()
                lease(shell)
                out = shell.command("nslookup some.example 10.0.2.3", 60)
                check("192.0.2.77" in out, out)


def limits_are_kept(c):
    """What a limit allows is what passes, on average; the counters say what did. Slower is fine, faster is not."""
    files = Files(1 << 20)
    with NetVm(c.folder, c.initrd, [{"type": "user", "receive": {"kib_per_second": 512, "burst_kib": 64}}]) as vm:
        shell = vm.up()
        lease(shell)
        began = time.monotonic()
        out = shell.command(f"wget -q -O - http://10.0.2.2:{files.port}/ | md5sum", 120)
        check(files.md5 in out, out)
        # 1 MiB at 512 KiB/s: 2 s, less the burst and what the frames' own bytes blur.
        check(time.monotonic() - began > 1.5, f"it took {time.monotonic() - began:.2f} s")
        # While it runs: the limit goes, and the cable is pulled and plugged in again.
        control = vm.control()
        control.result("nic_set", {"nic": 0, "receive_kib": 0, "link": "down"})
        wait_until("no carrier", lambda: shell.command("cat /sys/class/net/eth0/carrier").strip().endswith("0"))
        check("error" in control.call("nic_set", {"nic": 1}) and "error" in control.call("nic_set", {"nic": 0, "link": "x"}), "refusals")
        control.result("nic_set", {"nic": 0, "link": "up"})
        wait_until("a carrier", lambda: shell.command("cat /sys/class/net/eth0/carrier").strip().endswith("1"))
        out = shell.command(f"wget -q -O - http://10.0.2.2:{files.port}/ | md5sum", 120)
        check(files.md5 in out, out)
    files.close()


def bad_networks_are_named(c):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with NetVm(c.folder, c.initrd, [{"type": "user", "forward": [{"host_port": port, "guest_port": 7}]}]) as vm:
            check(vm.wait() == 3, "it does not start")
            reason = vm.result()["reason"]
            check("nics[0]" in reason and f"TCP port {port} of 127.0.0.1" in reason, reason)


def main():
    tap = Tap()
    with scratch() as folder:
        c = Context(folder)
        for test in (gets_an_address_and_downloads, restriction_holds, names_are_found, limits_are_kept, bad_networks_are_named):
            tap.run(test.__name__.replace("_", " "), test, c)
    tap.finish()


if __name__ == "__main__":
    main()
