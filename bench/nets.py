"""The group `net`: who the guest talks to - a server on the host's loopback, and a second guest behind a switch or its equal."""

import json
import os
import socket
import struct
import subprocess
import threading
import time

from base import TOP, Failure, stop

GROUP = "net-"
CHUNK = 64 << 10
# Addresses of the two guests in their own network; the host's loopback is libslirp's 10.0.2.2.
CLIENT, SERVER, PORT = "10.9.0.1", "10.9.0.2", 5000
MACS = ("52:54:00:0b:e0:01", "52:54:00:0b:e0:02", "52:54:00:0b:e0:03")


def wanted(plan):
    return any(name.startswith(GROUP) for name in plan)


class HostServer:
    """What bench/guest/net.c's net_serve does, on the host."""

    def __init__(self):
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                client, _ = self.socket.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(client,), daemon=True).start()

    @staticmethod
    def _answer(client):
        block = bytes(CHUNK)
        with client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                while len(head := client.recv(16, socket.MSG_WAITALL)) == 16:
                    left, echoes = struct.unpack("=QQ", head)
                    while left:
                        client.sendall(block[:min(left, CHUNK)])
                        left -= min(left, CHUNK)
                    for _ in range(echoes):
                        client.sendall(client.recv(1))
            except OSError:
                pass

    def close(self):
        self.socket.close()


def plan_lines(net):
    """The plan's lines for the guest's two interfaces; natively both servers are the host's."""
    return [f"net user eth0 10.0.2.15 {net.user_address} {net.user_port}\n", f"net switch eth1 {CLIENT} {net.guest_address} {net.guest_port}\n"]


class Native:
    """Both are this host."""

    def __init__(self):
        self.host = HostServer()
        self.user_address = self.guest_address = "127.0.0.1"
        self.user_port = self.guest_port = self.host.port

    def start(self, folder, initrd):
        pass

    def close(self):
        self.host.close()


class Guests(Native):
    """A server on the host and one in a guest of the same kind."""

    def __init__(self, options):
        super().__init__()
        self.options = options
        self.user_address, self.guest_address, self.guest_port = "10.0.2.2", SERVER, PORT
        self.processes = []

    def _begin(self, command, **more):
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **more)
        self.processes.append(process)
        return process

    @staticmethod
    def await_path(path, process):
        deadline = time.monotonic() + 60
        while not os.path.exists(path):
            if process.poll() is not None or time.monotonic() > deadline:
                raise Failure(f"{process.args[0]}: it does not come up")
            time.sleep(0.01)

    def close(self):
        super().close()
        for process in self.processes[::-1]:
            stop(process)


class Trivisor(Guests):
    def __init__(self, options, mode):
        super().__init__(options)
        self.mode = mode

    def start(self, folder, initrd):
        """`folder` is where the measured VM's directory lies: networks are found beside it."""
        options, net = self.options, os.path.join(folder, "nets", "bench")
        os.makedirs(net)
        switch = self._begin([os.path.join(options.build, "trivisor-switch"), "--dir", net])
        self.await_path(os.path.join(net, "ports.sock"), switch)
        where = os.path.join(folder, "vms", "server")
        os.makedirs(where)
        definition = {"name": "server", "memory_mib": 256, "boot": {"kernel": options.kernel, "initrd": initrd, "cmdline": options.append},
                      "nics": [{"type": "switch", "network": "bench", "mac": MACS[2]}]}
        with open(os.path.join(where, "definition.json"), "w", encoding="utf-8") as f:
            json.dump(definition, f)
        self._begin([os.path.join(options.build, "trivisor-vm"), "--dir", where, "--mode", self.mode])

    def nics(self):
        return [{"type": "user", "mac": MACS[0]}, {"type": "switch", "network": "bench", "mac": MACS[1]}]


class Qemu(Guests):
    """QEMU has no switch: two of them are joined by a socket, which is one hop less."""

    def start(self, folder, initrd):
        options = self.options
        self.path = os.path.join(folder, "wire")
        process = self._begin([options.qemu, "-accel", "tcg", "-cpu", "max", "-m", "256", "-nographic", "-no-reboot", "-kernel", options.kernel,
                               "-initrd", initrd, "-append", options.append,
                               "-netdev", f"stream,id=n,server=on,addr.type=unix,addr.path={self.path}",
                               "-device", f"virtio-net-pci,netdev=n,mac={MACS[2]},romfile="])
        self.await_path(self.path, process)

    def arguments(self):
        return ["-netdev", "user,id=u", "-device", f"virtio-net-pci,netdev=u,mac={MACS[0]},romfile=",
                "-netdev", f"stream,id=n,server=off,addr.type=unix,addr.path={self.path}",
                "-device", f"virtio-net-pci,netdev=n,mac={MACS[1]},romfile="]


def server_plan(path):
    with open(path, "w", encoding="ascii") as f:
        f.write(f"serve eth0 {SERVER} {PORT}\n")


def make_initrd(options, guest_plan, modules, output):
    """The benchmark's initramfs with this plan."""
    subprocess.run([os.path.join(TOP, "tools", "make-initramfs"), "--no-modules", "--init", options.guest, "--file",
                    f"{guest_plan}:etc/bench.plan", *modules, output], check=True)
