#!/usr/bin/python3
"""vsock: streams from the host and from a stock kernel's programs, half closes, many at once; clients that misbehave."""

import hashlib
import os
import re
import socket
import subprocess
import sys
import threading

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from vmtest import BOOT_TIMEOUT, UP, Console, Daemon, Tap, Vm, check, connect, kernel_image, make_initramfs, program, scratch, wait_until

MODULE = "vmw_vsock_virtio_transport"


class Echo:
    """Listens where the guest's connections to a port arrive, and sends back what comes; `sums` are of what came."""

    def __init__(self, path):
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen(256)
        self.sums = []
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                s = self.listener.accept()[0]
            except OSError:
                return
            threading.Thread(target=self.talk, args=(s,), daemon=True).start()

    def talk(self, s):
        digest = hashlib.md5()
        with s:
            while data := s.recv(65536):
                digest.update(data)
                s.sendall(data)
        self.sums.append(digest.hexdigest())

    def close(self):
        self.listener.close()


class Guest:
    def __init__(self, folder):
        self.vsock = os.path.join(folder, "v.sock")
        self.initrd = initrd = make_initramfs(os.path.join(folder, "initrd"), "--module", MODULE,
                                "--file", f"{program('tests/guests/programs/vsock')}:/bin/vsock:755")
        where = os.path.join(folder, "vm")
        os.mkdir(where)
        self.vm = Vm(where, {"vcpus": 2, "vsock": {"cid": 77, "path": self.vsock}, "boot": {
            "kernel": kernel_image(), "initrd": initrd, "cmdline": "console=ttyS0"}})
        self.shell = self.vm.console()
        self.shell.expect(UP, BOOT_TIMEOUT)
        self.shell.command("stty cols 250")

    def dial(self, port):
        """A stream to a port of the guest, or None: it was refused."""
        s = connect(self.vsock)
        s.settimeout(120)
        s.sendall(f"CONNECT {port}\n".encode())
        line = b""
        while not line.endswith(b"\n"):
            byte = s.recv(1)
            if not byte:
                s.close()
                return None
            line += byte
        check(re.fullmatch(rb"OK \d+\n", line), str(line))
        return s

    def listen(self, port, count):
        self.shell.command(f"(vsock listen {port} {count} >/tmp/l{port} &)")
        self.shell.command(f"until grep -q listening /tmp/l{port}; do sleep 0.1; done", 60)

    def stats(self):
        control = self.vm.control()
        machine = control.result("stats")["machine"]
        return {k: v for k, v in machine.items() if k.startswith("vsock_")}


def host_to_guest(g):
    """Some MiB go in and come back, with the host's end half closed in between."""
    g.listen(1000, 2)
    payload = os.urandom(5 << 20)
    for _ in range(2):
        with g.dial(1000) as s:
            def send():
                s.sendall(payload)
                s.shutdown(socket.SHUT_WR)

            sender = threading.Thread(target=send)
            sender.start()
            back = bytearray()
            while data := s.recv(65536):
                back += data
            sender.join()
            check(bytes(back) == payload, f"{len(back)} bytes came back, of {len(payload)}, or others")
    g.shell.command("while pidof vsock; do sleep 0.1; done", 60)
    check(g.dial(1000) is None, "nobody listens any more")


def guest_to_host(g):
    check("cid 77" in g.shell.command("vsock cid"), "its address")
    echo = Echo(g.vsock + "_5")
    g.shell.command("head -c 5m /dev/urandom >/tmp/data", 60)
    sent = re.search("[0-9a-f]{32}", g.shell.command("md5sum </tmp/data", 60)).group()
    back = g.shell.command("vsock connect 5 </tmp/data | md5sum", 240)
    check(sent in back, f"{back}, not {sent}")
    wait_until("its end at the host", lambda: echo.sums == [sent])
    check("reset" in g.shell.command("vsock connect 6 </dev/null"), "a port that nobody listens to")
    out = g.shell.command("vsock many 5 200 30000", 240)
    check("all 200 streams came back" in out, out)
    wait_until("their ends", lambda: len(echo.sums) == 201)
    echo.close()
    os.unlink(g.vsock + "_5")


def slow_readers_hold_nobody_up(g):
    """One end that does not read stops its own stream only; nothing is lost when it does."""
    g.listen(1100, 1)
    g.listen(1101, 1)
    payload = os.urandom(2 << 20)
    with g.dial(1100) as slow, g.dial(1101) as quick:
        sender = threading.Thread(target=slow.sendall, args=(payload,))
        sender.start()
        for _ in range(20):
            quick.sendall(b"x" * 10000)
            got = b""
            while len(got) < 10000:
                got += quick.recv(65536)
        check(sender.is_alive(), "two MiB fit into buffers; the test needs more")
        got = bytearray()
        while len(got) < len(payload):
            got += slow.recv(65536)
        sender.join()
        check(bytes(got) == payload, "what came was not what went")


def ended(s):
    """Whether nothing comes any more, however that is said."""
    try:
        return s.recv(100) == b""
    except ConnectionResetError:
        return True


def clients_that_misbehave(g):
    for text in (b"", b"\n", b"CONNECT\n", b"CONNECT x\n", b"CONNECT 99999999999999999999999\n", b"CONNECT 4294967296\n", b"connect 7\n",
                 b"CONNECT 7", b"G" * 31, b"\0" * 4096):
        with connect(g.vsock) as s:
            s.settimeout(60)
            s.sendall(text)
            if b"\n" in text or len(text) > 31:
                check(ended(s), f"{text} is answered")
    silent = [connect(g.vsock) for _ in range(80)]  # more than may wait
    for s in silent:
        try:
            s.sendall(b"CON")  # and hangs up half-way
        except BrokenPipeError:
            pass  # it was one too many
        s.close()
    # One that dies in the middle, both ways: the guest's program hears of it, and the device goes on.
    g.listen(1200, 3)
    for _ in range(2):
        s = g.dial(1200)
        s.sendall(b"z" * 300000)
        s.close()
    with g.dial(1200) as s:
        s.sendall(b"still here")
        check(s.recv(100) == b"still here", "the third one")


def driver_goes_and_comes(g):
    """A device reset ends all streams; the next driver has them all again."""
    g.listen(1300, 1)
    s = g.dial(1300)
    s.sendall(b"one")
    check(s.recv(10) == b"one", "an echo")
    g.shell.command(f"killall vsock; until rmmod {MODULE}; do sleep 0.2; done", 60)
    check(ended(s), "its end")
    s.close()
    check(g.dial(1300) is None, "without a driver")
    g.shell.command(f"insmod $(find /lib -name {MODULE}.ko)")
    g.listen(1301, 1)
    with g.dial(1301) as s:
        s.sendall(b"two")
        check(s.recv(10) == b"two", "an echo of the new driver's")
    stats = g.stats()
    check(stats["vsock_tx_bytes"] > 15 << 20 and stats["vsock_rx_bytes"] > 15 << 20, str(stats))


def through_the_daemon(folder, initrd):
    """trictl run --vsock, where vm.get says it is, and trictl vsock."""
    definition = {"name": "box", "memory_mib": 192, "vsock": True, "boot": {
        "kernel": kernel_image(), "initrd": initrd, "cmdline": "console=ttyS0"}}
    with Daemon(folder) as daemon:
        started = daemon.rpc.result("vm.run", {"definition": definition})
        shell = Console(started["console"])
        shell.expect(UP, BOOT_TIMEOUT)
        shell.command("(vsock listen 9 1 >/tmp/l9 &)")
        shell.command("until grep -q listening /tmp/l9; do sleep 0.1; done", 60)
        cid = daemon.rpc.result("vm.get", {"vm": "box"})["definition"]["vsock"]["cid"]
        check(f"cid {cid}" in shell.command("vsock cid"), "the address that the definition shows")

        def trictl(*arguments, data=b""):
            return subprocess.run([program("trictl"), "--socket", daemon.socket, *arguments], input=data, capture_output=True, timeout=120)

        payload = os.urandom(1 << 20)
        r = trictl("vsock", "box", "9", data=payload)
        check(r.returncode == 0 and r.stdout == payload, f"{r.returncode}, {len(r.stdout)} bytes: {r.stderr}")
        for arguments, words in ((["box", "9"], b"nobody"), (["box", "x"], b"no port"), (["nobody", "9"], b"no VM")):
            r = trictl("vsock", *arguments)
            check(r.returncode != 0 and words in r.stderr, f"{arguments}: {r.stderr}")
        r = trictl("run", "--kernel", kernel_image(), "--initrd", initrd, "--append", "console=ttyS0 trivisor.do=poweroff", "--vsock",
                   f"{folder}/w.sock,cid=5")
        check(r.returncode == 0, str(r.stderr))
        check(not os.path.exists(f"{folder}/w.sock"), "its socket is gone")
        shell.close()


def ends_with_the_vm(g):
    g.shell.type("poweroff -f\n")
    check(g.vm.wait() == 0, "it powers off")
    wait_until("the socket's removal", lambda: not os.path.exists(g.vsock))


def main():
    tap = Tap()
    with scratch() as folder:
        guest = []
        if tap.run("a stock kernel finds the device", lambda: guest.append(Guest(folder))):
            for test in (host_to_guest, guest_to_host, slow_readers_hold_nobody_up, clients_that_misbehave, driver_goes_and_comes,
                         ends_with_the_vm):
                tap.run(test.__name__.replace("_", " "), test, guest[0])
            guest[0].vm.close()
            tap.run("through the daemon", through_the_daemon, folder, guest[0].initrd)
    tap.finish()


if __name__ == "__main__":
    main()
