"""What network tests share: a guest with its NICs' drivers, servers on the host, network namespaces."""

import contextlib
import hashlib
import http.server
import os
import socket
import subprocess
import threading

from vmtest import UP, BOOT_TIMEOUT, Rpc, Skip, Tap, Vm, check, kernel_image, make_initramfs, program

DHCP_SCRIPT = """#!/bin/sh
# What udhcpc calls with what it has got.
case "$1" in
deconfig) ifconfig "$interface" 0.0.0.0 up ;;
bound|renew)
	ifconfig "$interface" "$ip" netmask "$subnet"
	[ -n "$router" ] && route add default gw "$router"
	for server in $dns; do echo "nameserver $server"; done >/etc/resolv.conf
	;;
esac
"""


def make_net_initramfs(folder):
    script = os.path.join(folder, "dhcp.script")
    with open(script, "w") as f:
        f.write(DHCP_SCRIPT)
    return make_initramfs(os.path.join(folder, "initrd"), "--module", "virtio_net", "--module", "af_packet",
                          "--module", "8021q", "--file", f"{script}:/etc/udhcpc/default.script:755")


class NetVm(Vm):
    """A guest whose shell is there; `nics` as a definition has them."""

    def __init__(self, folder, initrd, nics, name="test", prefix=(), **definition):
        where = os.path.join(folder, "vms", name)  # as the daemon has it
        os.makedirs(where, exist_ok=True)
        super().__init__(where, {"name": name, "memory_mib": 192, "nics": nics, **definition, "boot": {
            "kernel": kernel_image(), "initrd": initrd, "cmdline": "console=ttyS0"}}, prefix=prefix)

    def up(self):
        self.shell = self.console()
        self.shell.expect(UP, BOOT_TIMEOUT)
        return self.shell

    def count(self, name, nic=0):
        return self.control().result("stats")["machine"][f"virtio_net{nic}_{name}"]


class Switch:
    """A trivisor-switch of our own."""

    def __init__(self, folder, name="lab"):
        self.folder = os.path.join(folder, "nets", name)
        os.makedirs(self.folder)
        self.process = subprocess.Popen([program("trivisor-switch"), "--dir", self.folder], stdin=subprocess.DEVNULL)
        self.control = Rpc(os.path.join(self.folder, "control.sock"))

    def ports(self):
        return {(p["vm"], p["nic"]): p for p in self.control.result("ports")["ports"]}

    def stats(self):
        return self.control.result("stats")

    def log(self):
        with open(os.path.join(self.folder, "log")) as f:
            return f.read()[-2000:]

    def __enter__(self):
        return self

    def __exit__(self, kind, *what):
        if kind is not None and kind is not Skip:
            Tap.explain(f"log of trivisor-switch:\n{self.log()}")
        self.control.close()
        self.process.terminate()
        check(self.process.wait(30) == 0, "the switch ends well")


class Files:
    """An HTTP server on the host's loopback with one file of noise."""

    def __init__(self, size):
        self.data = os.urandom(size)
        data = self.data

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *arguments):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def md5(self):
        return hashlib.md5(self.data).hexdigest()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


def free_port(kind=socket.SOCK_STREAM):
    with socket.socket(socket.AF_INET, kind) as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Namespace:
    """A network (and mount) namespace of our own; it ends with its holder."""

    def __init__(self):
        if os.geteuid():
            raise Skip("network namespaces take root")
        self.holder = subprocess.Popen(["unshare", "--net", "--mount", "sh", "-c", "echo; exec sleep 3600"],
                                       stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
        if not self.holder.stdout.readline():
            raise Skip("no network namespace here: " + self.holder.stderr.read().decode().strip())
        # What /sys shows is of the namespace that mounts it.
        self.run("mount", "-t", "sysfs", "none", "/sys")
        self.run("ip", "link", "set", "lo", "up")

    def prefix(self):
        return ["nsenter", "--target", str(self.holder.pid), "--net", "--mount"]

    def run(self, *command):
        r = subprocess.run([*self.prefix(), *command], capture_output=True, text=True)
        check(r.returncode == 0, f"{' '.join(command)}: {r.stderr}")
        return r.stdout

    def start(self, *command, **more):
        return subprocess.Popen([*self.prefix(), *command], **more)

    def close(self):
        self.holder.kill()
        self.holder.wait()

    def __enter__(self):
        return self

    def __exit__(self, *what):
        self.close()


@contextlib.contextmanager
def running(process):
    """A helper process that ends with the block."""
    try:
        yield process
    finally:
        process.kill()
        process.wait()
