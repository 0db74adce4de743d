#!/usr/bin/python3
"""net.*: networks are made, kept, adopted by the next daemon, started again, and not deleted under a VM."""

import os
import signal
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "guests"))
from vmtest import BUILD, Daemon, Tap, check, program, scratch, wait_until


def definition(name, **nic):
    return {"name": name, "memory_mib": 16, "mode": "bt", "boot": {"kernel": os.path.join(BUILD, "tests/clients/tiny.elf")},
            "nics": [{"type": "switch", "network": "lab", **nic}]}


def refused(daemon, method, words, **params):
    error = daemon.rpc.call(method, params).get("error")
    check(error and words in error["message"], f"{method} {params}: {error}")


def switches(folder):
    """The processes of this daemon's networks."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as f:
                command = f.read().decode(errors="replace").split("\0")
        except OSError:
            continue
        if command[0].endswith("trivisor-switch") and folder in " ".join(command):
            found.append(int(pid))
    return found


def networks_live(folder):
    daemon = Daemon(folder)
    with daemon:
        check(daemon.rpc.result("net.list") == [], "none at first")
        made = daemon.rpc.result("net.create", {"name": "lab"})
        check(made["name"] == "lab" and made["active"], str(made))
        daemon.rpc.result("net.create", {"name": "other"})
        refused(daemon, "net.create", "already", name="lab")
        refused(daemon, "net.create", "name: ", name="../lab")
        refused(daemon, "net.create", "name", name="")
        refused(daemon, "net.get", 'no network "nothing"', name="nothing")
        refused(daemon, "net.stats", 'no network "nothing"', name="nothing")
        refused(daemon, "net.delete", 'no network "nothing"', name="nothing")
        check(not daemon.rpc.result("net.stop", {"name": "other"})["active"], "stopped")
        refused(daemon, "net.stop", "is not active", name="other")
        refused(daemon, "net.stats", "trictl net start starts it", name="other")
        # At once again, while the old process is still ending.
        check(daemon.rpc.result("net.start", {"name": "other"})["active"], "started")
        refused(daemon, "net.start", "already", name="other")
        check(daemon.rpc.result("net.set", {"name": "other", "autostart": False})["autostart"] is False, "autostart")
        check([n["name"] for n in daemon.rpc.result("net.list")] == ["lab", "other"], "both")
        vm = daemon.rpc.result("vm.define", {"definition": definition("a", vlan=7)})
        daemon.rpc.result("vm.start", {"vm": "a"})
        ports = daemon.rpc.result("net.ports", {"name": "lab"})["ports"]
        check(len(ports) == 1 and ports[0]["vm"] == "a" and ports[0]["vlan"] == 7 and ports[0]["uuid"] == vm["uuid"], str(ports))
        check(daemon.rpc.result("net.stats", {"name": "lab"})["ports"] == 1, "one port")
        refused(daemon, "net.delete", 'in use by VM "a"', name="lab")
        check(daemon.rpc.result("vm.nic_set", {"vm": "a", "nic": 0, "link": "down", "transmit_kib": 100}) == {}, "vm.nic_set")
        refused(daemon, "vm.nic_set", "nic", vm="a", nic=1)
        subprocess.run([program("trictl"), "--socket", daemon.socket, "nic", "--link", "up", "--receive", "500/70", "a", "0"], check=True)
        out = subprocess.run([program("trictl"), "--socket", daemon.socket, "nic", "a", "0"], capture_output=True, text=True)
        check(out.returncode == 2 and "Usage" in out.stderr, f"nothing to change: {out}")
        refused(daemon, "vm.nic_set", "link", vm="a", nic=0, link="sideways")

        # What libvirt clients read and give back keeps the interfaces.
        kept = daemon.rpc.result("vm.get", {"vm": "a"})["definition"]["nics"]
        virsh = ["virsh", "-c", f"trivisor+unix:///system?socket={daemon.libvirt_socket}"]
        xml = subprocess.run([*virsh, "dumpxml", "--inactive", "a"], capture_output=True, text=True, check=True).stdout
        with open(os.path.join(folder, "a.xml"), "w") as f:
            f.write(xml)
        subprocess.run([*virsh, "define", f.name], capture_output=True, check=True)
        check(daemon.rpc.result("vm.get", {"vm": "a"})["definition"]["nics"] == kept, "nics through domain XML")

        # The next daemon finds both, and the VM still has its port.
        before = sorted(switches(folder))
        check(len(before) == 2, str(before))
        daemon.kill()
        daemon.start()
        wait_until("adoption", lambda: all(n["active"] for n in daemon.rpc.result("net.list")))
        check(sorted(switches(folder)) == before, "the processes are others")
        check(daemon.rpc.result("net.ports", {"name": "lab"})["ports"][0]["vm"] == "a", "its port")

        # A process that dies is started again; a VM that is started then gets a port.
        daemon.rpc.result("vm.destroy", {"vm": "a"})
        wait_until("the port's end", lambda: daemon.rpc.result("net.stats", {"name": "lab"})["ports"] == 0)
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        wait_until("new processes", lambda: len(set(switches(folder)) - set(before)) == 2
                   and all(n["active"] for n in daemon.rpc.result("net.list")))
        daemon.rpc.result("vm.start", {"vm": "a"})
        check(daemon.rpc.result("net.stats", {"name": "lab"})["ports"] == 1, "a port again")
        daemon.rpc.result("vm.destroy", {"vm": "a"})

        wait_until("the port's end", lambda: daemon.rpc.result("net.stats", {"name": "lab"})["ports"] == 0)
        trictl = [program("trictl"), "--socket", daemon.socket, "net"]
        out = subprocess.run([*trictl, "list"], capture_output=True, text=True, check=True).stdout
        check("lab" in out and "other" in out, out)
        subprocess.run([*trictl, "delete", "lab"], check=True)
        daemon.rpc.result("net.delete", {"name": "other"})
        check(daemon.rpc.result("net.list") == [], "none is left")
        wait_until("the processes' end", lambda: not switches(folder))
        error = daemon.rpc.call("vm.start", {"vm": "a"})["error"]["message"]
        check('network "lab": there is none of that name' in error, error)
        # One of the same name is another.
        daemon.rpc.result("net.create", {"name": "lab"})
        daemon.rpc.result("net.delete", {"name": "lab"})
        wait_until("the process's end", lambda: not switches(folder))
        daemon.kill(signal.SIGTERM)
        daemon.start()
        check(daemon.rpc.result("net.list") == [], "deleted networks stay so")


def main():
    tap = Tap()
    with scratch() as folder:
        try:
            tap.run("networks live", networks_live, folder)
        finally:
            for pid in switches(folder):
                os.kill(pid, signal.SIGKILL)
    tap.finish()


if __name__ == "__main__":
    main()
