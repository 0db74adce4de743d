#!/usr/bin/python3
"""Programs in a Linux guest and their host: Debian's QEMU guest agent, channels, the console hvc0, the balloon.

The guest is the small initramfs with Debian's qemu-ga in it: an agent that can be killed, stopped, and replaced by something
that only looks like one.
"""

import base64
import contextlib
import os
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from systems import package
from vmtest import (BOOT_TIMEOUT, UP, Failed, Skip, Tap, Vm, check, connect, kernel_image, make_initramfs, program, scratch, wait_until)

AGENT = "org.qemu.guest_agent.0"
PORT = f"/dev/virtio-ports/{AGENT}"
# What devtmpfs lacks without udev, and a system's files that the agent's answers are made from.
PREPARE = """
mkdir -p /dev/virtio-ports /etc /var/run /run /var/log
for port in /sys/class/virtio-ports/*; do
	[ -s "$port/name" ] && ln -s "../${port##*/}" "/dev/virtio-ports/$(cat "$port/name")"
done
printf 'NAME=Tiny\\nID=tiny\\nPRETTY_NAME="A tiny one"\\nVERSION_ID=7\\n' >/etc/os-release
printf 'root:x:0:0:root:/root:/bin/sh\\n' >/etc/passwd
printf '#!/bin/sh\\npoweroff -f\\n' >/sbin/shutdown; chmod 755 /sbin/shutdown
ln -s /bin/busybox /sbin/hwclock
hostname tiny
ip link set lo up
"""


# Answers guest-sync-delimited as it should be, and the command behind it with what /tmp/answer says.
FAKE = r"""
echo $$ >/tmp/fake
exec <>"$1" >&0
read -r sync
id=${sync##*:}
printf '\377{"return":%s}\n' "${id%%\}*}"
read -r command
. /tmp/answer
sleep 1000
"""


def agent_files():
    """Debian's agent, the libraries it needs and the loader, as the archive wants them."""
    binary = os.path.join(package("qemu-guest-agent"), "usr/sbin/qemu-ga")
    listing = subprocess.run(["ldd", binary], capture_output=True, text=True, check=False).stdout
    files = ["--file", f"{binary}:/sbin/qemu-ga:755"]
    for line in listing.splitlines():
        words = line.split()
        if "not found" in line:
            raise Skip(f"qemu-ga needs {words[0]}, which this host does not have")
        path = next((word for word in words if word.startswith("/")), None)
        if path:
            files += ["--file", f"{path}:{path}:755"]
    return files


def make_guest(folder):
    with open(os.path.join(folder, "fake"), "w") as f:
        f.write(FAKE)
    return make_initramfs(os.path.join(folder, "initrd"), "--file", f"{folder}/fake:/etc/fake:755", "--module", "virtio_console", "--module", "virtio_balloon", *agent_files())


class Guest:
    def __init__(self, folder, initrd, definition):
        os.mkdir(folder)
        self.vm = Vm(folder, {"boot": {"kernel": kernel_image(), "initrd": initrd, "cmdline": "console=ttyS0 quiet"}, **definition})

    def __enter__(self):
        self.vm.__enter__()
        self.console, self.control = self.vm.console(), self.vm.control()
        self.console.expect(UP, BOOT_TIMEOUT)
        self.console.expect("guest# ", 60)
        for line in PREPARE.strip().splitlines():
            self.console.type(line + "\n")
        self.console.command("true", 60)
        return self

    def __exit__(self, *arguments):
        return self.vm.__exit__(*arguments)

    def start_agent(self):
        self.console.command(f"qemu-ga -d -m virtio-serial -p {PORT} -l /tmp/qga.log -f /tmp/qga.pid -t /tmp", 60)
        self.control.wait_event(lambda e: e["event"] == "agent" and e["connected"])

    def ask(self, command, arguments=None, timeout=60):
        params = {"command": command, "timeout": timeout}
        if arguments is not None:
            params["arguments"] = arguments
        return self.control.call("guest", params, timeout + 60)

    def get(self, command, arguments=None, timeout=60):
        answer = self.ask(command, arguments, timeout)
        check("result" in answer, f"{command}: {answer.get('error')}")
        return answer["result"]["return"]

    def refused(self, code, words, command, arguments=None, timeout=60):
        answer = self.ask(command, arguments, timeout)
        check(answer.get("error", {}).get("code") == code and words in answer["error"]["message"], f"{command}: {str(answer)[:300]}")


def agent_answers(folder, initrd):
    with Guest(os.path.join(folder, "answers"), initrd, {"guest_agent": True}) as guest:
        guest.refused(-32011, "install qemu-guest-agent", "guest-ping")
        guest.start_agent()
        check(guest.get("guest-ping") == {}, "guest-ping")
        check(guest.get("guest-get-osinfo")["pretty-name"] == "A tiny one", "osinfo")
        check(guest.get("guest-get-host-name")["host-name"] == "tiny", "host name")
        names = {nic["name"] for nic in guest.get("guest-network-get-interfaces")}
        check("lo" in names, str(names))
        pid = guest.get("guest-exec", {"path": "/bin/sh", "arg": ["-c", "echo out; echo err >&2; exit 7"], "capture-output": True})["pid"]
        status = {}

        def has_exited():
            status.update(guest.get("guest-exec-status", {"pid": pid}))
            return status["exited"]

        wait_until("the command ends", has_exited, 60, 0.1)
        check(status["exitcode"] == 7 and base64.b64decode(status["out-data"]) == b"out\n"
              and base64.b64decode(status["err-data"]) == b"err\n", str(status))
        # A file of some size, both ways: more than the ring and the sockets between hold.
        data = os.urandom(1 << 20)
        handle = guest.get("guest-file-open", {"path": "/tmp/big", "mode": "w+"})
        written = guest.get("guest-file-write", {"handle": handle, "buf-b64": base64.b64encode(data).decode()})
        check(written["count"] == len(data), str(written))
        guest.get("guest-file-seek", {"handle": handle, "offset": 0, "whence": 0})
        back = guest.get("guest-file-read", {"handle": handle, "count": len(data)})
        check(base64.b64decode(back["buf-b64"]) == data, "the file came back otherwise")
        guest.refused(-32015, "", "guest-file-open", {"path": "/nowhere/f", "mode": "r"})
        guest.refused(-32014, "", "guest-no-such-command")
        check(guest.get("guest-ping") == {}, "it still answers")


def agent_fails(folder, initrd):
    """One that dies, that is stopped, that talks nonsense or without an end: calls fail with their reasons, and it works again."""
    with Guest(os.path.join(folder, "fails"), initrd, {"guest_agent": True}) as guest:
        guest.start_agent()
        check(guest.get("guest-ping") == {}, "guest-ping")
        guest.console.command("kill -STOP $(cat /tmp/qga.pid)")
        guest.refused(-32012, "not answered in time", "guest-ping", timeout=1)
        guest.refused(-32012, "does not answer", "guest-ping", timeout=1)
        guest.console.command("kill -CONT $(cat /tmp/qga.pid)")
        check(guest.get("guest-get-host-name")["host-name"] == "tiny", "late answers are taken for others")
        guest.console.command("kill -9 $(cat /tmp/qga.pid); rm -f /tmp/qga.pid")
        guest.control.wait_event(lambda e: e["event"] == "agent" and not e["connected"])
        guest.refused(-32011, "install qemu-guest-agent", "guest-ping")
        # It dies with a call under way.
        guest.start_agent()
        check(guest.get("guest-ping") == {}, "after a restart")
        guest.console.command("(sleep 2; kill -9 $(cat /tmp/qga.pid); rm -f /tmp/qga.pid) & kill -STOP $(cat /tmp/qga.pid)")
        guest.refused(-32011, "has gone", "guest-ping")
        # Not an agent at all.
        for talk, code, words in (("cat /dev/zero", -32012, "does not answer"), ("cat /dev/urandom", -32012, "does not answer"),
                                  ("yes '{\"return\":1}'", -32012, "does not answer")):
            guest.console.command(f"({talk} >{PORT} & echo $! >/tmp/fake; wait) 2>/dev/null & true")
            guest.control.wait_event(lambda e: e["event"] == "agent" and e["connected"])
            guest.refused(code, words, "guest-ping", timeout=1)
            guest.console.command("kill -9 $(cat /tmp/fake)")
            guest.control.wait_event(lambda e: e["event"] == "agent" and not e["connected"])
        # One that finds its place in the stream, and then answers as it likes.
        for answer, words in (("yes '{' | tr -d '\\n' | head -c 9000000", "too much"), ("yes '[' | tr -d '\\n' | head -c 99999; echo", "too much"),
                              ("echo '{}'", "neither"), ("echo 7", "no JSON object"), (r"printf '\376\376\n'", "no JSON")):
            guest.console.command(f"cat >/tmp/answer <<'EOF'\n{answer}\nEOF\ntrue")
            guest.console.command(f"sh /etc/fake {PORT} 2>/dev/null & true")
            guest.control.wait_event(lambda e: e["event"] == "agent" and e["connected"])
            guest.refused(-32013, words, "guest-ping", timeout=30)
            guest.console.command("kill -9 -$(cat /tmp/fake)")
            guest.control.wait_event(lambda e: e["event"] == "agent" and not e["connected"])
        guest.start_agent()
        check(guest.get("guest-ping") == {}, "after all that")
        # Shutdown has no answer but the end.
        guest.get("guest-shutdown", {"mode": "powerdown"})
        check(guest.vm.wait(60) == 0, "exit status")


def ram_kib(guest):
    """What the host has given of it."""
    return guest.control.result("stats")["memory"]["guest_ram_kib"]


def fill_and_read(guest):
    guest.console.command("dd if=/dev/urandom of=/tmp/f bs=1M count=100", 120)
    first, second = (guest.console.command("md5sum </tmp/f", 120) for _ in range(2))
    check(first == second and len(first.split()[0]) == 32, f"{first} {second}")


def balloon(folder, initrd):
    """Memory that a guest gives is the host's again, and comes back; its figures; the event; translations stay right."""
    definition = {"memory_mib": 384, "current_memory_mib": 256, "balloon": {"stats_seconds": 1}}
    with Guest(os.path.join(folder, "balloon"), initrd, definition) as guest:
        def has(mib):
            return guest.control.result("balloon")["memory_kib"] == mib * 1024

        wait_until("the balloon takes what the definition says", lambda: has(256), 60)
        event = guest.control.wait_event(lambda e: e["event"] == "balloon" and e["memory_kib"] == 256 * 1024)
        check(event["memory_kib"] == 256 * 1024, str(event))
        # Touched once, and free again: the balloon gives it back.
        guest.console.command("dd if=/dev/zero of=/tmp/f bs=1M count=110; rm /tmp/f", 120)
        full = ram_kib(guest)
        guest.control.result("balloon", {"memory_mib": 128})
        wait_until("the balloon is full", lambda: has(128), 120)
        wait_until("the host has it", lambda: ram_kib(guest) < full - 100 * 1024, 30)
        out = guest.console.command("free -k | sed -n 2p", 60)
        check(int(out.split()[1]) < 128 * 1024, out)
        answer = guest.control.call("balloon", {"memory_mib": 385})
        check("from 0 to 384" in answer["error"]["message"], str(answer))
        # And back: what was given is there, and works.
        guest.control.result("balloon", {"memory_mib": 384})
        wait_until("the balloon is empty", lambda: has(384), 120)
        fill_and_read(guest)

        def figures():
            state = guest.control.result("balloon")
            return state if state.get("stats", {}).get("total_kib", 0) > 300 * 1024 else None

        wait_until("its figures follow", figures, 60)
        state = figures()
        check(0 < state["stats"]["unused_kib"] <= state["stats"]["total_kib"] and state["stats_age_seconds"] < 60, str(state))
        # A reboot is a guest that has everything; the wish is the same for it.
        guest.control.result("balloon", {"memory_mib": 200})
        wait_until("the balloon moves once more", lambda: has(200), 60)
        guest.console.type("reboot\n")
        guest.console.expect(UP, BOOT_TIMEOUT)
        wait_until("the wish outlives a reboot", lambda: has(200), 60)


def free_pages(folder, initrd):
    """What the guest has no use for goes back by itself, and is there when it is wanted again."""
    with Guest(os.path.join(folder, "free"), initrd, {"memory_mib": 384, "balloon": {"free_page_reporting": True}}) as guest:
        fill_and_read(guest)
        full = ram_kib(guest)
        guest.console.command("rm /tmp/f")
        wait_until("the host has what was freed", lambda: ram_kib(guest) < full - 80 * 1024, 60)
        fill_and_read(guest)


def console(folder, initrd):
    """hvc0 as the only console: a shell, more than its rings hold in both directions, the size of the terminal."""
    definition = {"virtio_console": True, "serial": "none", "boot": {"kernel": kernel_image(), "initrd": initrd, "cmdline": "console=hvc0 quiet"}}
    os.mkdir(os.path.join(folder, "console"))
    with Vm(os.path.join(folder, "console"), definition) as vm:
        hvc = vm.console()
        hvc.expect("guest# ", BOOT_TIMEOUT)
        check("hvc0" in hvc.command("cat /sys/class/tty/console/active; tty", 60), "which console")
        out = hvc.command("seq 1 20000", 120).split()
        check(out == [str(i) for i in range(1, 20001)], f"{len(out)} lines of 20000, the last ones {out[-3:]}")
        hvc.type("cat >/tmp/in <<'END'\n")
        for i in range(400):
            hvc.type(f"{i} {'x' * 70}\n")
        hvc.type("END\n")
        check(hvc.command("wc -l </tmp/in", 120).split() == ["400"] and hvc.command("tail -n 1 /tmp/in", 60).startswith("399 x"), "what was typed")
        vm.control().result("console_size", {"columns": 132, "rows": 50})
        wait_until("the guest knows the size", lambda: "50 132" in hvc.command("stty size", 60), 60)


def main():
    tap = Tap()
    try:
        program("trivisor-vm")
        kernel_image()
    except Skip as e:
        tap.skip("programs in a guest", str(e))
        tap.finish()
    with scratch() as folder:
        try:
            initrd = make_guest(folder)
        except (Skip, Failed) as e:
            tap.skip("programs in a guest", str(e))
            tap.finish()
        tap.run("the guest agent answers", agent_answers, folder, initrd)
        tap.run("an agent that fails harms nobody", agent_fails, folder, initrd)
        tap.run("the balloon gives and takes memory", balloon, folder, initrd)
        tap.run("hvc0 is a console", console, folder, initrd)
        tap.run("free pages go back to the host", free_pages, folder, initrd)
    tap.finish()


if __name__ == "__main__":
    main()
