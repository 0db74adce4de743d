#!/usr/bin/python3
"""Guests through the whole path: trictl run and its exit codes, the daemon killed and back, a VM process killed."""

import json
import os
import signal
import stat
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from vmtest import BOOT_TIMEOUT, BUILD, UP, Console, Daemon, Failed, Skip, Tap, check, kernel_image, make_initramfs, program, scratch, wait_until


class Context:
    """The files that every test here boots."""

    def __init__(self, folder, initrd):
        self.folder, self.initrd = folder, initrd
        # Short-lived daemons of `trictl run` keep to this directory.
        self.environment = dict(os.environ, PATH=BUILD + ":" + os.environ["PATH"],
                                XDG_RUNTIME_DIR=folder, XDG_STATE_HOME=folder)

    def trictl(self, *arguments, timeout=BOOT_TIMEOUT):
        return subprocess.run([program("trictl"), *arguments], stdin=subprocess.DEVNULL, capture_output=True,
                              env=self.environment, timeout=timeout, text=True, errors="replace", check=False)

    def run(self, *arguments, cmdline="", kernel=None, timeout=BOOT_TIMEOUT):
        """trictl run at a socket where nobody listens: it starts a private daemon."""
        return self.trictl("--socket", os.path.join(self.folder, "nobody.sock"), "run", "--memory", "256M",
                           "--kernel", kernel or kernel_image(), "--initrd", self.initrd,
                           "--append", f"console=ttyS0 {cmdline}".strip(), *arguments, timeout=timeout)

    def definition(self, name, cmdline=""):
        return {"name": name, "memory_mib": 256,
                "boot": {"kernel": kernel_image(), "initrd": self.initrd, "cmdline": f"console=ttyS0 {cmdline}".strip()}}


def processes_below(folder):
    """Running processes whose command line names this directory."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as f:
                command = f.read().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if folder in command and int(pid) != os.getpid():
            found.append(command)
    return found


def tail(r):
    return f"exit status {r.returncode}\n{r.stdout[-1500:]}\n{r.stderr[-1500:]}"


def run_ends_with_the_guest(c):
    stats_file = os.path.join(c.folder, "stats.json")
    r = c.run("--stats", stats_file, "--timeout", str(int(BOOT_TIMEOUT)), cmdline="trivisor.do=poweroff")
    check(r.returncode == 0, tail(r))
    check(UP in r.stdout, "the console is not on stdout\n" + tail(r))
    with open(stats_file) as f:
        stats = json.load(f)
    for key in ("mode", "mode_reason", "wall_seconds", "boot_seconds", "guest_instructions", "exits"):
        check(key in stats, f"{key} is missing in {stats}")
    check(stats["mode"] in ("bt", "hvm", "pv") and len(stats["mode_reason"]) > 10, str(stats))
    check(0 < stats["boot_seconds"] < stats["wall_seconds"] < BOOT_TIMEOUT, str(stats))
    check(sum(stats["exits"].values()) > 100, str(stats["exits"]))
    wait_until("the private daemon's end", lambda: not processes_below(c.folder), 15)


def no_reboot_ends_the_run(c):
    r = c.run("--no-reboot", "--timeout", str(int(BOOT_TIMEOUT)), cmdline="trivisor.do=reboot")
    check(r.returncode == 0, tail(r))
    check(r.stdout.count(UP) == 1, "it booted more than once\n" + tail(r))


def panic_is_4(c):
    r = c.run("--timeout", str(int(BOOT_TIMEOUT)), cmdline="panic=1 trivisor.do=panic")
    check(r.returncode == 4, tail(r))
    check("panic" in r.stderr, "stderr does not say why\n" + tail(r))


def timeout_is_124(c):
    began = time.monotonic()
    r = c.run("--timeout", "2", timeout=60)
    check(r.returncode == 124, tail(r))
    check(1.5 < time.monotonic() - began < 20, "not after the timeout")
    wait_until("everything's end", lambda: not processes_below(c.folder), 15)


def cannot_start_is_3(c):
    truncated = os.path.join(c.folder, "truncated")
    with open(kernel_image(), "rb") as f, open(truncated, "wb") as g:
        g.write(f.read()[:3 << 20])
    for kernel in ("/nowhere/vmlinuz", c.folder, truncated):
        r = c.run("--timeout", "60", kernel=kernel, timeout=90)
        check(r.returncode == 3, f"{kernel}: {tail(r)}")
        check(kernel in r.stderr, f"{kernel} is not named\n{tail(r)}")
    r = c.run("--mode", "warp", timeout=60)
    check(r.returncode in (2, 3) and "warp" in r.stderr, tail(r))


def stats_replace_no_device(c):
    """root's `--stats /dev/null` must not make a file of it; where nothing can be written no VM starts."""
    pipe = os.path.join(c.folder, "pipe")
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    r = c.trictl("run", "--kernel", "/nonexistent/kernel", "--stats", pipe)
    check(r.returncode == 3 and stat.S_ISFIFO(os.lstat(pipe).st_mode), tail(r))
    check(json.loads(os.read(reader, 65536))["state"] == "failed", "statistics in the pipe")
    os.close(reader)
    for path in (c.folder, os.path.join(c.folder, "missing", "stats.json")):
        r = c.run("--stats", path, cmdline="trivisor.do=poweroff")
        check(r.returncode == 2 and "--stats" in r.stderr and not r.stdout, tail(r))


def run_uses_a_daemon_that_is_there(c, daemon):
    r = c.trictl("--socket", daemon.socket, "run", "--name", "guest-of-run", "--memory", "256M", "--timeout", str(int(BOOT_TIMEOUT)),
                 "--kernel", kernel_image(), "--initrd", c.initrd, "--append", "console=ttyS0 trivisor.do=poweroff")
    check(r.returncode == 0, tail(r))
    names = [vm["name"] for vm in daemon.rpc.result("vm.list")]
    check("guest-of-run" not in names, f"a transient VM is still defined: {names}")


def a_vm_of_run_ends_with_its_client(c, daemon):
    client = subprocess.Popen([program("trictl"), "--socket", daemon.socket, "run", "--name", "orphan", "--memory", "256M",
                               "--kernel", kernel_image(), "--initrd", c.initrd, "--append", "console=ttyS0"],
                              stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until("the VM", lambda: any(vm["name"] == "orphan" and vm["pid"] for vm in daemon.rpc.result("vm.list")), 30)
        pid = next(vm["pid"] for vm in daemon.rpc.result("vm.list") if vm["name"] == "orphan")
    finally:
        client.kill()
        client.wait()
    wait_until("the VM's end", lambda: not os.path.exists(f"/proc/{pid}"), 20)
    wait_until("its record's end", lambda: not any(vm["name"] == "orphan" for vm in daemon.rpc.result("vm.list")), 10)


def daemon_killed_and_back(c, daemon):
    """SIGKILL: the VM runs on; a new daemon lists it, its console works, the power button ends it."""
    daemon.rpc.result("vm.define", {"definition": c.definition("survivor")})
    started = daemon.rpc.result("vm.start", {"vm": "survivor"})
    console = Console(started["console"])
    console.expect(UP, BOOT_TIMEOUT)
    console.expect("guest# ", 60)
    check("sum 1" in console.command("v=1; echo sum $v"), "no shell")

    check(daemon.kill(signal.SIGKILL) == -signal.SIGKILL, "the daemon was not killed")
    check("sum 2" in console.command("echo sum $((v+1))"), "the guest stopped with the daemon")

    daemon.start()
    got = daemon.rpc.result("vm.get", {"vm": "survivor"})
    check(got["state"] == "running" and got["process"]["pid"] == started["pid"], str(got))
    check(got["process"]["adopted"] is True, str(got["process"]))
    console.close()  # who types first has the keyboard for as long as it stays
    second = Console(got["process"]["console"])
    second.expect(UP, 20)  # the scrollback outlived the daemon
    check("sum 3" in second.command("echo sum $((v+2))"), "the adopted VM's console does not work")
    check(daemon.rpc.result("vm.stats", {"vm": "survivor"})["boot_seconds"] > 0, "no statistics")
    daemon.rpc.result("vm.pause", {"vm": "survivor"})
    daemon.rpc.result("vm.resume", {"vm": "survivor"})
    daemon.rpc.result("vm.shutdown", {"vm": "survivor"})
    end = daemon.rpc.result("vm.wait", {"vm": "survivor", "timeout": 60}, 70)
    check(end["state"] == "shutdown" and end["exit_code"] == 0, str(end))
    second.close()


def sigterm_of_the_daemon_leaves_vms(c, daemon):
    """And a VM that ends while the daemon is away has its result afterwards."""
    pid = daemon.rpc.result("vm.start", {"vm": "survivor"})["pid"]
    console = Console(daemon.rpc.result("vm.get", {"vm": "survivor"})["process"]["console"])
    console.expect("guest# ", BOOT_TIMEOUT)
    check(daemon.kill(signal.SIGTERM) == 0, "the daemon did not end cleanly")
    check(os.path.exists(f"/proc/{pid}"), "the VM ended with the daemon")
    console.type("poweroff -f\n")
    wait_until("the VM's end", lambda: not os.path.exists(f"/proc/{pid}"), 60)
    console.close()
    daemon.start()
    got = daemon.rpc.result("vm.get", {"vm": "survivor"})
    check(got["state"] == "shutdown" and got["result"]["exit_code"] == 0, str(got))


def a_killed_vm_process_is_its_crash_only(c, daemon):
    daemon.rpc.result("vm.define", {"definition": c.definition("bystander")})
    victim = daemon.rpc.result("vm.start", {"vm": "survivor"})
    daemon.rpc.result("vm.start", {"vm": "bystander"})
    os.kill(victim["pid"], signal.SIGKILL)
    end = daemon.rpc.result("vm.wait", {"vm": "survivor", "timeout": 30}, 40)
    check(end["state"] == "crashed", str(end))
    check(daemon.rpc.result("vm.get", {"vm": "bystander"})["state"] == "running", "the other VM suffered")
    # It can be started again.
    daemon.rpc.result("vm.start", {"vm": "survivor"})
    for name in ("survivor", "bystander"):
        daemon.rpc.result("vm.destroy", {"vm": name})
        check(daemon.rpc.result("vm.get", {"vm": name})["state"] == "destroyed", name)
        daemon.rpc.result("vm.undefine", {"vm": name})


def main():
    tap = Tap()
    with scratch() as folder:
        try:
            for name in ("trivisor-vm", "trivisord", "trictl"):
                program(name)
            c = Context(folder, make_initramfs(os.path.join(folder, "initrd")))
        except (Skip, Failed) as e:
            tap.skip("guests through the daemon", str(e))
            tap.finish()
        for test in (run_ends_with_the_guest, no_reboot_ends_the_run, panic_is_4, timeout_is_124, cannot_start_is_3,
                     stats_replace_no_device):
            tap.run(test.__name__.replace("_", " "), test, c)
        with Daemon(folder) as daemon:
            for test in (run_uses_a_daemon_that_is_there, a_vm_of_run_ends_with_its_client, daemon_killed_and_back,
                         sigterm_of_the_daemon_leaves_vms, a_killed_vm_process_is_its_crash_only):
                tap.run(test.__name__.replace("_", " "), test, c, daemon)
    tap.finish()


if __name__ == "__main__":
    main()
