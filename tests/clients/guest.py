#!/usr/bin/python3
"""Guest tools through the daemon: vm.guest.*, vm.balloon and channels by JSON-RPC, trictl, and unmodified libvirt clients."""

import base64
import json
import os
import socket
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "guests"))
sys.path.insert(0, HERE)
from agent import PORT, PREPARE, make_guest
from vmtest import (BOOT_TIMEOUT, BUILD, UP, Console, Daemon, Failed, Rpc, Skip, Tap, check, connect, kernel_image, program, scratch,
                    wait_until)
from lvtest import Virsh, bindings, uri

CHANNEL = "org.example.test.0"


class Running:
    """A daemon with a VM whose guest has its agent running."""

    def __init__(self, folder, initrd):
        self.folder = folder
        self.daemon = Daemon(folder)
        self.rpc = self.daemon.rpc
        self.rpc.result("events.subscribe")
        definition = {"name": "tiny", "memory_mib": 256, "guest_agent": True, "channels": [{"name": CHANNEL, "path": f"{folder}/chan"}],
                      "boot": {"kernel": kernel_image(), "initrd": initrd, "cmdline": "console=ttyS0 quiet"}, "mode": "bt"}
        self.rpc.result("vm.define", {"definition": definition})
        self.console = Console(self.rpc.result("vm.start", {"vm": "tiny"}, BOOT_TIMEOUT)["console"])
        self.console.expect(UP, BOOT_TIMEOUT)
        self.console.expect("guest# ", 60)
        for line in PREPARE.strip().splitlines():
            self.console.type(line + "\n")
        self.console.command("true", 60)

    def start_agent(self):
        self.console.command(f"qemu-ga -d -m virtio-serial -p {PORT} -l /tmp/l -f /tmp/qga.pid -t /tmp", 60)
        wait_until("the agent is there", lambda: self.rpc.result("vm.get", {"vm": "tiny"})["process"]["agent"], 60)

    def get(self, method, **params):
        return self.rpc.result(method, {"vm": "tiny", **params}, 120)

    def refused(self, name, method, **params):
        answer = self.rpc.call(method, {"vm": "tiny", **params}, 120)
        check(answer.get("error", {}).get("data", {}).get("name") == name, f"{method}: {str(answer)[:300]}")

    def trictl(self, *arguments, text=None, status=0):
        r = subprocess.run([program("trictl"), "--socket", self.daemon.socket, *arguments], capture_output=True, text=True, timeout=120,
                           input=text, check=False)
        check(r.returncode == status, f"trictl {' '.join(arguments)}: {r.returncode}\n{r.stdout}{r.stderr}")
        return r.stdout

    def __enter__(self):
        self.daemon.__enter__()
        return self

    def __exit__(self, *arguments):
        self.console.close()
        return self.daemon.__exit__(*arguments)


def by_json_rpc(run):
    run.refused("agent_unresponsive", "vm.guest.ping")
    run.start_agent()
    check(run.get("vm.guest.ping") == {}, "ping")
    info = run.get("vm.guest.info")
    check(info["os"]["pretty-name"] == "A tiny one" and info["hostname"] == "tiny" and "lo" in {i["name"] for i in info["interfaces"]}
          and "guest-exec" in info["agent"]["commands"], str(info)[:600])
    check(set(run.get("vm.guest.info", what=["hostname"])) == {"hostname"}, "one part")
    out = run.get("vm.guest.exec", path="/bin/sh", arguments=["-c", "cat; printf '\\303\\050 \\0'; echo $A >&2; exit 5"], input="in and out",
                  environment=["A=b", "PATH=/bin"])
    check(out["exit_code"] == 5 and out["output"] == "in and out\ufffd( \ufffd" and out["errors"] == "b\n"
          and base64.b64decode(out["output_base64"]) == b"in and out\xc3( \0", str(out))
    check(run.get("vm.guest.exec", path="/bin/sh", arguments=["-c", "kill -9 $$"])["signal"] == 9, "signal")
    run.refused("timeout", "vm.guest.exec", path="/bin/sleep", arguments=["20"], timeout=0.2)
    run.refused("agent_failed", "vm.guest.exec", path="/bin/nothing")
    data = os.urandom(300000)
    check(run.get("vm.guest.write_file", path="/tmp/f", data_base64=base64.b64encode(data).decode())["bytes"] == len(data), "write")
    run.get("vm.guest.write_file", path="/tmp/f", data_base64="YWJj", append=True)
    part = run.get("vm.guest.read_file", path="/tmp/f", offset=len(data) - 2, count=100)
    check(base64.b64decode(part["data_base64"]) == data[-2:] + b"abc" and part["eof"], str(part))
    run.refused("agent_failed", "vm.guest.read_file", path="/nowhere")
    run.refused("invalid_params", "vm.guest.write_file", path="/tmp/f", data_base64="%")
    now = run.get("vm.guest.time")["time"]
    check(abs(now - time.time()) < 600, f"time {now}")
    run.get("vm.guest.set_time", time=1e9)
    check(abs(run.get("vm.guest.time")["time"] - 1e9) < 600, "it was set")
    check(run.get("vm.guest.freeze_status") == {"frozen": False}, "freeze status")
    check(len(run.get("vm.guest.command", command="guest-get-vcpus")) == 1, "a command as it is")
    run.refused("agent_failed", "vm.guest.command", command="guest-get-nothing")
    # Twenty at once: one after the other, each its own answer.
    run.rpc.socket.sendall(b"".join(json.dumps({"jsonrpc": "2.0", "id": 900 + i, "method": "vm.guest.exec", "params": {
        "vm": "tiny", "path": "/bin/echo", "arguments": [str(i)]}}).encode() + b"\n" for i in range(20)))
    answers = {}
    while len(answers) < 20:
        message = run.rpc._message(time.monotonic() + 60)
        if "id" in message:
            answers[message["id"] - 900] = message["result"]["output"]
    check(all(answers[i] == f"{i}\n" for i in range(20)), str(answers))
    with connect(f"{run.folder}/chan") as s:
        run.console.command(f"exec 3<>/dev/virtio-ports/{CHANNEL}")
        s.sendall(b"from the host\n")
        check("from the host" in run.console.command("head -n 1 <&3"), "channel to the guest")
        run.console.command("echo from the guest >&3")
        check(s.recv(100) == b"from the guest\n", "channel to the host")


def by_trictl(run):
    check("hostname" in run.trictl("guest", "info", "tiny"), "info")
    check(run.trictl("guest", "exec", "tiny", "--", "/bin/echo", "-n", "a b") == "a b", "exec")
    run.trictl("guest", "exec", "tiny", "--", "/bin/sh", "-c", "exit 9", status=9)
    run.trictl("guest", "write", "tiny", "/tmp/g", text="some text")
    check(run.trictl("guest", "read", "tiny", "/tmp/g") == "some text", "read")
    check(json.loads(run.trictl("--json", "guest", "command", "tiny", "guest-fsfreeze-status")) == "thawed", "command")
    run.trictl("guest", "exec", "tiny", status=2)
    run.trictl("guest", "nothing", "tiny", status=2)
    run.trictl("guest", "read", "tiny", "/nowhere", status=1)


def start_long_program(run):
    """One that takes longer than trictl waits for a daemon's word (30 s); the tests that follow go on meanwhile."""
    return subprocess.Popen([program("trictl"), "--socket", run.daemon.socket, "guest", "--timeout", "240", "exec", "tiny", "--", "/bin/sh", "-c",
                             "sleep 31; echo late"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def long_program(process):
    out, errors = process.communicate(timeout=300)
    check(process.returncode == 0 and out == "late\n", f"{process.returncode}: {out}{errors}")


def balloon(run):
    run.console.command("insmod /lib/modules/*/kernel/drivers/virtio/virtio_balloon.ko 2>/dev/null; true")
    state = run.get("vm.balloon")
    check(state["wished_kib"] == 256 * 1024, str(state))
    run.refused("invalid_params", "vm.balloon_set", memory_mib=257)
    run.get("vm.balloon_set", memory_mib=160)
    wait_until("the guest gives", lambda: run.get("vm.balloon")["memory_kib"] == 160 * 1024, 60)
    run.rpc.wait_event(lambda e: e.get("event") == "balloon" and e["memory_kib"] == 160 * 1024)
    check(run.get("vm.get")["process"]["memory_kib"] == 160 * 1024, "vm.get")
    out = run.trictl("balloon", "tiny", "200M")
    check("wished_kib: 204800" in out, out)
    wait_until("the guest takes", lambda: run.get("vm.stats")["memory"]["balloon"]["memory_kib"] == 200 * 1024, 60)


def by_virsh(run):
    virsh = Virsh(run.daemon)
    out = virsh("guestinfo", "tiny")
    for word in ("os.pretty-name", ": A tiny one", "hostname", ": tiny", "if.0.name", ": lo", "if.0.addr.0.addr", ": 127.0.0.1"):
        check(word in out, f"guestinfo lacks {word}:\n{out}")
    check(virsh("guestinfo", "tiny", "--hostname").split() == ["hostname", ":", "tiny"], "one part")
    check(json.loads(virsh("qemu-agent-command", "tiny", '{"execute":"guest-get-time"}'))["return"] > 0, "qemu-agent-command")
    virsh.fails("qemu-agent-command", "tiny", '{"execute":"guest-nothing"}', word="guest-nothing")
    virsh.fails("qemu-agent-command", "tiny", "nonsense", word="is wanted")
    check("127.0.0.1/8" in virsh("domifaddr", "tiny", "--source", "agent", "--full"), "domifaddr")
    check("tiny" == virsh("domhostname", "tiny", "--source", "agent"), "domhostname")
    virsh("domtime", "tiny", "--time", "1500000000")
    check(0 <= int(virsh("domtime", "tiny").split()[-1]) - 1500000000 < 600, "domtime")
    virsh("domfsthaw", "tiny")
    virsh("domtime", "tiny", "--now")
    # Memory: what it has, what it may have, and what it says.
    virsh("setmem", "tiny", "150M", "--live")
    wait_until("the guest gives", lambda: "Used memory:    153600 KiB" in virsh("dominfo", "tiny"), 60, 0.3)
    check('<currentMemory unit="KiB">153600<' in virsh("dumpxml", "tiny") and '<currentMemory unit="KiB">262144<' in virsh("dumpxml", "tiny", "--inactive"),
          virsh("dumpxml", "tiny"))
    virsh("dommemstat", "tiny", "--period", "1", "--live")
    wait_until("figures are told", lambda: {"actual", "unused", "available", "usable", "last_update", "rss"}
               <= {line.split()[0] for line in virsh("dommemstat", "tiny").splitlines()}, 60, 0.3)
    check("balloon.current=153600" in virsh("domstats", "tiny", "--balloon") and "balloon.unused=" in virsh("domstats", "tiny", "--balloon"),
          virsh("domstats", "tiny", "--balloon"))
    virsh.fails("setmem", "tiny", "300M", "--live", word="higher than max")
    virsh("setmem", "tiny", "200M", "--live", "--config")
    check('<currentMemory unit="KiB">204800<' in virsh("dumpxml", "tiny", "--inactive"), "config")
    wait_until("the guest takes", lambda: "Used memory:    204800 KiB" in virsh("dominfo", "tiny"), 60, 0.3)
    xml = virsh("dumpxml", "tiny")
    check('state="connected"' in xml and f'name="{CHANNEL}"' in xml and f'path="{run.folder}/chan"' in xml, xml)


def by_xml(run):
    """The elements both ways, and an event for each."""
    virsh = Virsh(run.daemon)
    path = os.path.join(run.folder, "domain.xml")
    with open(path, "w") as f:
        f.write(f"""<domain type='trivisor'><name>xml</name><memory unit='MiB'>64</memory><currentMemory unit='MiB'>48</currentMemory>
<os><type arch='x86_64'>hvm</type><kernel>{kernel_image()}</kernel></os><devices><serial type='pty'/>
<channel type='unix'><source mode='bind' path='/var/lib/libvirt/qemu/agent'/><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
<channel type='unix'><source mode='bind' path='/tmp/x.sock'/><target type='virtio' name='x.0'/></channel>
<console type='pty'><target type='virtio' port='1'/></console><channel type='spicevmc'><target type='virtio' name='com.redhat.spice.0'/></channel>
<memballoon model='virtio' autodeflate='on' freePageReporting='on'><stats period='7'/></memballoon></devices></domain>""")
    virsh("define", path)
    d = run.rpc.result("vm.get", {"vm": "xml"})["definition"]
    check(d["virtio_console"] and d["serial"] == "console" and d["guest_agent"] and d["channels"] == [{"name": "x.0", "path": "/tmp/x.sock"}] and d["current_memory_mib"] == 48
          and d["balloon"] == {"device": "virtio", "free_page_reporting": True, "deflate_on_oom": True, "stats_seconds": 7}, str(d))
    xml = virsh("dumpxml", "xml")
    with open(path, "w") as f:
        f.write(xml)
    virsh("define", path)
    check(virsh("dumpxml", "xml") == xml and run.rpc.result("vm.get", {"vm": "xml"})["definition"] | {"libvirt_xml": ""} == d | {"libvirt_xml": ""},
          f"it changes by itself:\n{xml}")
    virsh("dommemstat", "xml", "--period", "0", "--config")
    virsh("setmem", "xml", "64M", "--config")
    check('period="0"' in virsh("dumpxml", "xml") and '<currentMemory unit="KiB">65536<' in virsh("dumpxml", "xml"), virsh("dumpxml", "xml"))
    virsh.fails("qemu-agent-command", "xml", '{"execute":"guest-ping"}', word="not running")
    virsh("undefine", "xml")
    for bad, word in (("<channel type='unix'><target type='virtio'/></channel>", "has no name"), ("<memballoon model='xen'/>", "model \"xen\""),
                      ("<channel type='unix'><source mode='connect' path='/x'/><target type='virtio' name='x'/></channel>", "mode is bind")):
        with open(path, "w") as f:
            f.write(f"<domain type='trivisor'><name>xml</name><memory unit='MiB'>64</memory><os><type>hvm</type><kernel>/k</kernel></os>"
                    f"<devices>{bad}</devices></domain>")
        virsh.fails("define", path, word=word)


def events(run):
    """Balloon and agent, by libvirt's bindings; shutdown by the agent, after the daemon has been replaced: it knows of both."""
    libvirt = bindings()
    libvirt.virEventRegisterDefaultImpl()
    conn, seen = libvirt.open(uri(run.daemon)), []
    conn.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_BALLOON_CHANGE, lambda c, d, kib, o: seen.append(kib), None)
    conn.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_AGENT_LIFECYCLE, lambda c, d, state, why, o: seen.append((state, why)), None)

    def saw(what):
        libvirt.virEventRunDefaultImpl()
        return what in seen

    libvirt.virEventAddTimeout(100, lambda timer, o: None, None)
    conn.lookupByName("tiny").setMemory(180 * 1024)
    wait_until("the balloon's event", lambda: saw(180 * 1024), 60)
    run.console.command("kill $(cat /tmp/qga.pid); sleep 1; rm -f /tmp/qga.pid")
    wait_until("the agent's end", lambda: saw((2, 2)), 60)
    run.start_agent()
    wait_until("its return", lambda: saw((1, 2)), 60)
    conn.lookupByName("tiny").setMemory(200 * 1024)
    wait_until("the balloon's event", lambda: saw(200 * 1024), 60)
    conn.close()


def shutdown(run):
    """By the agent, after the daemon has been replaced: it knows of the agent."""
    run.daemon.kill()
    run.daemon.start()
    run.rpc = run.daemon.rpc
    wait_until("the next daemon finds it", lambda: run.get("vm.get")["process"]["agent"], 60)
    check(run.get("vm.get")["process"]["memory_kib"] == 200 * 1024, "the next daemon knows the balloon")
    Virsh(run.daemon)("shutdown", "tiny", "--mode", "agent")
    check(run.get("vm.wait", timeout=60)["state"] == "shutdown", "shutdown")
    run.refused("wrong_state", "vm.guest.ping")


def main():
    tap = Tap()
    try:
        program("trivisord")
        kernel_image()
        with scratch() as folder:
            with Running(folder, make_guest(folder)) as run:
                tap.run("vm.guest.* by JSON-RPC", by_json_rpc, run)
                process = start_long_program(run)
                tap.run("trictl guest", by_trictl, run)
                tap.run("vm.balloon", balloon, run)
                tap.run("a program that takes long", long_program, process)
                tap.run("libvirt: virsh", by_virsh, run)
                tap.run("libvirt: elements", by_xml, run)
                tap.run("libvirt: events", events, run)
                tap.run("shutdown by the agent", shutdown, run)
    except Skip as e:
        tap.skip("guest tools", str(e))
    except Failed as e:
        tap.failures += 1
        tap.explain(str(e))
    tap.finish()


if __name__ == "__main__":
    main()
