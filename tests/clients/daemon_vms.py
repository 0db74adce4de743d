#!/usr/bin/python3
"""VMs through the daemon, with a guest of a few hundred bytes: starts, ends of every kind, consoles, kills and adoption."""

import base64
import contextlib
import json
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "guests"))
from vmtest import BUILD, Console, Daemon, Rpc, Skip, Tap, check, program, scratch, wait_until

NOT_FOUND, EXISTS, STATE, START, VM, TIMEOUT = -32001, -32002, -32003, -32005, -32006, -32008
READY = "tiny: ready"
TINY = os.path.join(BUILD, "tests", "clients", "tiny.elf")


def definition(name, **more):
    if not os.path.exists(TINY):
        raise Skip(f"{TINY} is not built")
    return {"name": name, "memory_mib": 32, "boot": {"kernel": TINY}, **more}


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def started(d, name, **more):
    """Defines and starts; (what vm.start answered, an attached console that has seen the guest come up)."""
    d.rpc.result("vm.define", [definition(name, **more)])
    answer = d.rpc.result("vm.start", [name])
    console = Console(answer["console"])
    console.expect(READY)
    return answer, console


def life(d):
    events = Rpc(d.socket)
    events.result("events.subscribe")
    answer, console = started(d, "life")
    check(answer["state"] == "running" and answer["mode"] == "bt" and answer["mode_reason"] and alive(answer["pid"]), str(answer))
    listed = d.rpc.result("vm.list")[0]
    check(listed["state"] == "running" and listed["pid"] == answer["pid"] and listed["mode"] == "bt", str(listed))
    got = d.rpc.result("vm.get", ["life"])
    check(got["process"]["connected"] and not got["process"]["adopted"] and got["decision"]["mode"] == "bt", str(got))
    for method in ("vm.start", "vm.undefine"):
        check(d.rpc.call(method, ["life"])["error"]["code"] == STATE, method)
    console.type("a")
    console.expect(r"\[a\]")
    check(d.rpc.result("vm.pause", ["life"])["state"] == "paused", "pause")
    check(d.rpc.result("vm.get", ["life"])["state"] == "paused", "state after pause")
    console.type("b")
    check(console.pump(0.5) and "[b]" not in console.text, "a paused guest talks")
    check(d.rpc.result("vm.resume", ["life"])["state"] == "running", "resume")
    console.expect(r"\[b\]")
    stats = d.rpc.result("vm.stats", ["life"])
    check(stats["mode"] == "bt" and sum(stats["exits"].values()) > 0, str(stats))
    check(d.rpc.call("vm.wait", {"vm": "life", "timeout": 0.2})["error"]["code"] == TIMEOUT, "wait with a timeout")
    check(d.rpc.result("vm.shutdown", ["life"]) == {}, "shutdown")
    result = d.rpc.result("vm.wait", ["life"])
    check(result["state"] == "shutdown" and result["exit_code"] == 0, str(result))
    check("tiny: power button" in console.text or console.expect("tiny: power button"), "the button was not seen")
    check(d.rpc.result("vm.get", ["life"])["result"]["state"] == "shutdown", "the result is not kept")
    check(d.rpc.result("vm.stats", ["life"])["exits"], "the last run's statistics are gone")
    seen = []
    while not seen or seen[-1]["event"] != "ended":
        seen.append(events.wait_event(lambda e: True, 10))
    kinds = [(e["event"], e.get("state")) for e in seen]
    wanted = [("defined", None), ("state", "starting"), ("started", "running"), ("state", "paused"), ("state", "running"), ("ended", "shutdown")]
    for w in wanted:
        check(w in kinds, f"{w} is not among the events: {kinds}")
    # And again.
    answer = d.rpc.result("vm.start", ["life"])
    Console(answer["console"]).expect(READY)
    check(d.rpc.result("vm.destroy", ["life"])["state"] == "destroyed", "destroy")
    check(not alive(answer["pid"]), "destroy answered before the process was gone")
    check(d.rpc.result("vm.wait", ["life"])["state"] == "destroyed", "wait after the end")
    d.rpc.result("vm.undefine", ["life"])


def ends(d):
    for character, state, word in (("q", "shutdown", ""), ("c", "crashed", "triple fault"), ("p", "crashed", "panic"), ("x", "shutdown", "debug")):
        answer, console = started(d, "ends", debug_exit=True)
        console.type(character)
        result = d.rpc.result("vm.wait", ["ends"])
        check(result["state"] == state and word in result["reason"], f"{character}: {result}")
        d.rpc.result("vm.undefine", ["ends"])
    answer, console = started(d, "ends")
    console.type("r")
    console.expect(READY)
    check(d.rpc.result("vm.get", ["ends"])["process"]["pid"] == answer["pid"], "a reboot made another process")
    d.rpc.result("vm.destroy", ["ends"])
    answer = d.rpc.result("vm.start", {"vm": "ends", "no_reboot": True})
    console = Console(answer["console"])
    console.expect(READY)
    console.type("r")
    check(d.rpc.result("vm.wait", ["ends"])["state"] == "shutdown", "no_reboot")
    d.rpc.result("vm.undefine", ["ends"])


def cannot_start(d):
    with scratch() as folder:
        truncated, text, fifo = (os.path.join(folder, n) for n in ("truncated", "text", "fifo"))
        with open(TINY, "rb") as f, open(truncated, "wb") as g:
            g.write(f.read()[:600])
        with open(text, "w") as f:
            f.write("no kernel\n" * 1000)
        os.mkfifo(fifo)
        for kernel, word in (("/nowhere", "No such file"), (folder, "directory"), (truncated, ""), (text, "bzImage"), (fifo, "regular file"),
                             ("/dev/zero", "regular file")):
            error = d.rpc.call("vm.run", {"definition": definition("bad", boot={"kernel": kernel})})["error"]
            check(error["code"] == START and kernel in error["message"] and word in error["message"], str(error))
        error = d.rpc.call("vm.run", {"definition": definition("bad", boot={"kernel": TINY, "initrd": "/nowhere"})})["error"]
        check(error["code"] == START and "/nowhere" in error["message"], str(error))
        error = d.rpc.call("vm.run", {"definition": definition("bad", disks=[{"path": "/nowhere/disk"}])})["error"]
        check(error["code"] == START and "/nowhere/disk" in error["message"], str(error))
        for mode in ("hvm", "pv"):
            if mode not in [m["mode"] for m in d.rpc.result("modes.list") if m["usable"]]:
                error = d.rpc.call("vm.run", {"definition": definition("bad", mode=mode)})["error"]
                check(error["code"] == START and mode in error["message"], str(error))
    check(d.rpc.result("vm.list") == [], "a transient VM that did not start is left")
    check(os.listdir(os.path.join(d.folder, "run", "vms")) == [], "directories are left")


def consoles(d):
    answer, console = started(d, "con")
    late = Console(answer["console"])
    late.expect(READY, 5)  # the scrollback
    stream = Rpc(d.socket)
    opened = stream.result("vm.console", {"vm": "con", "stream": True})
    check(opened["path"] == answer["console"], str(opened))

    def read_until(text):
        seen = b""
        while text not in seen:
            event = stream.wait_event(lambda e: e.get("stream") == opened["stream"] and "data" in e, 10)
            seen += base64.b64decode(event["data"])
        return seen

    read_until(b"ready")
    stream.result("vm.console_write", {"stream": opened["stream"], "text": "zy"})
    read_until(b"[z][y]")
    stream.result("vm.console_write", {"stream": opened["stream"], "data": base64.b64encode(b"w").decode()})
    read_until(b"[w]")
    late.expect(r"\[w\]")
    console.expect(r"\[w\]")
    for bad in ({"text": "a", "data": "YQ=="}, {}, {"data": "%%%%"}, {"data": "YQ="}):
        check(stream.call("vm.console_write", {"stream": opened["stream"], **bad})["error"]["code"] == -32602, str(bad))
    check("keyboard" in stream.call("vm.console", {"vm": "con", "stream": True})["error"]["message"], "two writers")
    second = stream.result("vm.console", {"vm": "con", "stream": True, "read_only": True})["stream"]
    stream.result("vm.console_close", [second])
    check(stream.call("vm.console_close", [second])["error"]["code"] == -32602, "closed twice")
    stream.result("vm.console_write", {"stream": opened["stream"], "text": "q"})
    stream.wait_event(lambda e: e.get("stream") == opened["stream"] and "reason" in e, 10)
    check(d.rpc.result("vm.wait", ["con"])["state"] == "shutdown", "q")
    d.rpc.result("vm.undefine", ["con"])


def daemon_killed(d):
    """SIGKILL and SIGTERM leave VMs running, and the next daemon has them: list, console, pause, shutdown."""
    first, console = started(d, "survivor")
    second, _ = started(d, "other")
    for number in (signal.SIGKILL, signal.SIGTERM):
        d.kill(number)
        check(alive(first["pid"]) and alive(second["pid"]), f"a VM ended with its daemon ({number!r})")
        console.type("k")
        console.expect(r"\[k\]")
        d.start()
        wait_until("adoption", lambda: all(d.rpc.result("vm.get", [n])["process"]["connected"] for n in ("survivor", "other")), 10)
        got = d.rpc.result("vm.get", ["survivor"])
        check(got["process"]["adopted"] and got["process"]["pid"] == first["pid"] and got["process"]["mode"] == "bt" and got["state"] == "running", str(got))
        check(got["process"]["mode_reason"] == first["mode_reason"] and got["decision"]["mode"] == "bt", str(got))
        again = Console(d.rpc.result("vm.console", ["survivor"])["path"])
        again.expect(READY, 5)
        d.rpc.result("vm.pause", ["survivor"])
        d.rpc.result("vm.resume", ["survivor"])
    d.rpc.result("vm.shutdown", ["survivor"])
    check(d.rpc.result("vm.wait", ["survivor"])["state"] == "shutdown", "shutdown of an adopted VM")
    os.kill(second["pid"], signal.SIGKILL)
    result = d.rpc.result("vm.wait", ["other"])
    check(result["state"] == "crashed" and "trivisor-vm died" in result["reason"], str(result))
    for name in ("survivor", "other"):
        d.rpc.result("vm.undefine", [name])


def ended_while_away(d):
    """A VM that ended, or whose process was killed, while no daemon was there: its result is known afterwards, once."""
    off, console = started(d, "off")
    dead, _ = started(d, "dead")
    d.kill()
    console.type("q")
    os.kill(dead["pid"], signal.SIGKILL)
    wait_until("both processes' end", lambda: not alive(off["pid"]) and not alive(dead["pid"]), 15)
    for _ in range(2):
        d.start()
        got = d.rpc.result("vm.get", ["off"])
        check(got["state"] == "shutdown" and got["process"] is None and got["result"]["exit_code"] == 0, str(got))
        got = d.rpc.result("vm.get", ["dead"])
        check(got["state"] == "crashed" and "died" in got["result"]["reason"], str(got))
        for name in ("off", "dead"):
            check(len(d.rpc.result("events.history", {"kind": "results", "vm": name})) == 1, f"the result of {name} is not recorded exactly once")
        d.kill()
    d.start()
    d.rpc.result("vm.start", ["dead"])
    d.rpc.result("vm.destroy", ["dead"])
    for name in ("off", "dead"):
        d.rpc.result("vm.undefine", [name])


def vm_process_killed(d):
    """One VM's crash is that VM's only."""
    first, console = started(d, "first")
    second, other = started(d, "second")
    os.kill(first["pid"], signal.SIGKILL)
    result = d.rpc.result("vm.wait", ["first"])
    check(result["state"] == "crashed" and "signal 9 (KILL)" in result["reason"], str(result))
    other.type("o")
    other.expect(r"\[o\]")
    check(d.rpc.result("vm.get", ["second"])["state"] == "running", "the other VM")
    d.rpc.result("vm.start", ["first"])
    for name in ("first", "second"):
        d.rpc.result("vm.destroy", [name])
        d.rpc.result("vm.undefine", [name])


def hung_process(d):
    """A trivisor-vm that does not answer blocks nobody, and destroy ends it."""
    answer, _ = started(d, "hung")
    os.kill(answer["pid"], signal.SIGSTOP)
    asker = Rpc(d.socket)
    asker.socket.sendall(b'{"jsonrpc":"2.0","id":77,"method":"vm.pause","params":["hung"]}\n')
    began = time.monotonic()
    check(d.rpc.result("vm.list")[0]["state"] == "running", "list")
    check(time.monotonic() - began < 1, "others wait for a VM that hangs")
    check(d.rpc.result("vm.destroy", ["hung"], 30)["state"] == "destroyed", "destroy")
    result = d.rpc.result("vm.get", ["hung"])["result"]
    check(result["state"] == "destroyed" and "killed" in result["reason"], str(result))
    check(not alive(answer["pid"]), "the process is still there")
    message = asker._message(time.monotonic() + 20)
    check(message["id"] == 77 and message["error"]["code"] == VM, str(message))
    d.rpc.result("vm.undefine", ["hung"])


def start_races(d):
    """Starts and destroys as fast as they can be asked for."""
    d.rpc.result("vm.define", [definition("race")])
    for i in range(10):
        ask = Rpc(d.socket)
        ask.socket.sendall(b'{"jsonrpc":"2.0","id":1,"method":"vm.start","params":["race"]}\n{"jsonrpc":"2.0","id":2,"method":"vm.start","params":["race"]}\n')
        if i % 2:
            time.sleep(0.01 * i)
        answer = d.rpc.call("vm.destroy", ["race"], 30)
        check("result" in answer or answer["error"]["code"] == STATE, str(answer))
        answers = {}
        while len(answers) < 2:
            message = ask._message(time.monotonic() + 30)
            answers[message["id"]] = message
        check(answers[2]["error"]["code"] in (STATE, START), str(answers[2]))
        if "result" in answers[1]:
            d.rpc.call("vm.destroy", ["race"], 30)
        check(d.rpc.result("vm.get", ["race"])["process"] is None, "a process is left")
    d.rpc.result("vm.undefine", ["race"])


def transient_ends_with_client(d):
    owner = Rpc(d.socket)
    answer = owner.result("vm.run", {"definition": definition("guest")})
    check(d.rpc.call("vm.define", [definition("guest")])["error"]["code"] == EXISTS, "the name is free")
    check(d.rpc.result("vm.list")[0]["transient"], "not transient")
    owner.close()
    wait_until("the VM's end", lambda: d.rpc.result("vm.list") == [], 10)
    check(not alive(answer["pid"]), "its process lives")
    check(os.listdir(os.path.join(d.folder, "run", "vms")) == [], "its directory is left")
    free = Rpc(d.socket)
    answer = free.result("vm.run", {"definition": definition("free"), "ends_with_client": False})
    free.close()
    time.sleep(0.3)
    check(alive(answer["pid"]), "it was to outlive its client")
    d.rpc.result("vm.destroy", ["free"])
    check(d.rpc.result("vm.list") == [], "a transient VM is listed after its end")


class Run:
    """trictl run in the background, typed at through a pipe or a terminal."""

    def __init__(self, d, *arguments, terminal=False, socket=None):
        command = [program("trictl"), "--socket", socket or d.socket, "run", "--memory", "32M", "--kernel", TINY, *arguments]
        self.master = None
        environment = {**os.environ, "TMPDIR": d.folder}
        environment.pop("XDG_RUNTIME_DIR", None)
        if terminal:
            self.master, slave = pty.openpty()
            self.process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True, env=environment,
                                            preexec_fn=lambda: __import__("fcntl").ioctl(0, 0x540E, 0))  # TIOCSCTTY
            os.close(slave)
            self.out = self.master
        else:
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment)
            self.out = self.process.stdout.fileno()
        self.text = ""

    def expect(self, text, timeout=30):
        deadline = time.monotonic() + timeout
        while text not in self.text:
            left = deadline - time.monotonic()
            check(left > 0 and select.select([self.out], [], [], left)[0], f"{text!r} is not in {self.text!r}")
            try:
                data = os.read(self.out, 65536)
            except OSError:
                data = b""
            check(data, f"the end came before {text!r}: {self.text!r}")
            self.text += data.decode(errors="replace")

    def type(self, text):
        if self.master is not None:
            os.write(self.master, text.encode())
        else:
            self.process.stdin.write(text.encode())
            self.process.stdin.flush()

    def wait(self, timeout=30):
        status = self.process.wait(timeout)
        while select.select([self.out], [], [], 0.2)[0]:
            try:
                data = os.read(self.out, 65536)
            except OSError:
                break
            if not data:
                break
            self.text += data.decode(errors="replace")
        return status


def run_statuses(d):
    stats = os.path.join(d.folder, "stats.json")
    for character, status, more in (("q", 0, ()), ("c", 4, ()), ("p", 4, ()), ("r", 0, ("--no-reboot",)), ("x", 1, ("--debug-exit",))):
        r = Run(d, "--stats", stats, *more)
        r.expect(READY)
        r.type("h" + character)
        check(r.wait() == status, f"{character}: {r.process.returncode}, not {status}\n{r.text}")
        check("[h]" in r.text, r.text)
        with open(stats) as f:
            s = json.load(f)
        check(s["mode"] == "bt" and s["mode_reason"] and s["wall_seconds"] > 0 and "boot_seconds" in s and "guest_instructions" in s and s["exits"] and s["state"], str(s))
    r = Run(d, "--timeout", "1")
    check(r.wait() == 124, f"{r.process.returncode}\n{r.text}")
    for arguments, word in ((("--kernel", "/nowhere"), "/nowhere"), (("--mode", "pv"), "pv"), (("--kernel", "/"), "directory")):
        r = Run(d, *arguments)
        check(r.wait() == 3 and word in r.text, f"{arguments}: {r.process.returncode}\n{r.text}")
    for arguments, word in ((("--memory", "lots"), "--memory"), (("--timeout", "x"), "--timeout"), (("surplus",), "surplus"), (("--colour",), "colour"),
                            (("--initrd", ""), "--initrd: an empty"), (("--kernel", ""), "--kernel: an empty"), (("--disk", ",ro"), "--disk: an empty"),
                            (("--disk", "/nowhere,rw"), "readonly")):
        r = Run(d, *arguments)
        check(r.wait() == 2 and word in r.text, f"{arguments}: {r.process.returncode}\n{r.text}")
    disk = os.path.join(d.folder, "disk,1")
    with open(disk, "wb") as f:
        f.write(b"\0" * 4096)
    for suffix, readonly in (("", False), (",ro", True), (",readonly", True)):
        r = Run(d, "--disk", disk + suffix)
        r.expect(READY)
        wait_until("the start's answer", lambda: d.rpc.result("vm.list")[0]["state"] == "running", 10)
        got = d.rpc.result("vm.get", [d.rpc.result("vm.list")[0]["uuid"]])["definition"]["disks"][0]
        check(got["path"] == disk and got.get("readonly", False) == readonly, str(got))
        r.type("q")
        check(r.wait() == 0, r.text)
    check(d.rpc.result("vm.list") == [], "VMs are left")


def run_on_a_terminal(d):
    r = Run(d, terminal=True)
    r.expect(READY)
    r.type("a\x03")  # Ctrl-C is the guest's
    r.expect("[a]")
    r.expect("[\x03]")
    r.type("\x1d")
    check(r.wait() == 5, f"{r.process.returncode}\n{r.text}")
    r = Run(d, terminal=True)
    r.expect(READY)
    r.process.send_signal(signal.SIGINT)
    check(r.wait() == 130, f"{r.process.returncode}\n{r.text}")
    answer, console = started(d, "term")
    master, slave = pty.openpty()
    p = subprocess.Popen([program("trictl"), "--socket", d.socket, "console", "term"], stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
                         preexec_fn=lambda: __import__("fcntl").ioctl(0, 0x540E, 0))
    os.close(slave)
    time.sleep(0.3)
    os.write(master, b"m")
    console.expect(r"\[m\]")
    os.write(master, b"\x1d")
    check(p.wait(10) == 0, "console's exit status")
    check(alive(answer["pid"]), "leaving the console ended the VM")
    os.close(master)
    d.rpc.result("vm.destroy", ["term"])
    d.rpc.result("vm.undefine", ["term"])


def run_ends_with_trictl(d):
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP):
        r = Run(d)
        r.expect(READY)
        pid = d.rpc.result("vm.list")[0]["pid"]
        r.process.send_signal(number)
        r.wait()
        wait_until("the VM's end", lambda: d.rpc.result("vm.list") == [] and not alive(pid), 10)


def run_survives_the_daemon(d):
    """Killed or stopped, the daemon leaves the VM to the next one, and trictl finds that, whether the VM still runs or not."""
    for number in (signal.SIGKILL, signal.SIGTERM):
        for ends_meanwhile in (False, True):
            r = Run(d)
            r.expect(READY)
            wait_until("the start's answer", lambda: d.rpc.result("vm.list")[0]["state"] == "running", 10)
            pid = d.rpc.result("vm.list")[0]["pid"]
            d.kill(number)
            r.type("s")
            r.expect("[s]")
            check(alive(pid), "the VM ended with the daemon")
            if ends_meanwhile:
                r.type("c")
                wait_until("the VM's end", lambda: not alive(pid), 10)
            d.start()
            if not ends_meanwhile:
                wait_until("adoption", lambda: d.rpc.result("vm.list") and d.rpc.result("vm.list")[0]["pid"] == pid, 10)
                time.sleep(0.3)
                r.type("q")
            check(r.wait() == (4 if ends_meanwhile else 0), f"{number!r} {ends_meanwhile}: {r.process.returncode}\n{r.text}")
            check(d.rpc.result("vm.list") == [], "the VM is still listed")


def run_as_a_plain_user(d):
    if os.geteuid():
        raise Skip("this is one already")
    with scratch(world_readable=True) as folder:
        home = os.path.join(folder, "home")
        os.mkdir(home)
        os.chown(home, 65534, 65534)
        shutil.copy(TINY, home + "/tiny.elf")
        os.chmod(home + "/tiny.elf", 0o644)

        def become():
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)

        try:
            p = subprocess.Popen([program("trictl"), "run", "--memory", "32M", "--kernel", home + "/tiny.elf", "--timeout", "30"], stdin=subprocess.PIPE,
                                 stdout=subprocess.PIPE, stderr=subprocess.STDOUT, preexec_fn=become, cwd=home,
                                 env={"HOME": home, "TMPDIR": home, "PATH": os.environ["PATH"]})
        except PermissionError as e:
            raise Skip(f"another user cannot run programs of this build directory: {e}") from e
        out = p.communicate(b"uq", timeout=60)[0].decode(errors="replace")
        check(p.returncode == 0 and "[u]" in out, f"{p.returncode}: {out}")
        check(os.listdir(home) == ["tiny.elf"], f"left behind: {os.listdir(home)}")


def group_members_have_consoles(d):
    """They can use the daemon's socket but not reach into the VM's directory: the console comes through the daemon."""
    if os.geteuid():
        raise Skip("only root can become another user")
    with scratch(world_readable=True) as folder:
        with open(folder + "/conf", "w") as f:
            f.write("socket_group = nogroup\n")
        os.chmod(folder + "/conf", 0o644)
        shutil.copy(TINY, folder + "/tiny.elf")
        daemon = subprocess.Popen([program("trivisord"), "--foreground", "--socket", folder + "/run/api.sock", "--state-dir", folder + "/state",
                                   "--runtime-dir", folder + "/run", "--no-calibration", "--config", folder + "/conf"], stderr=subprocess.DEVNULL)
        try:
            Rpc(folder + "/run/api.sock").close()

            def become():
                os.setgroups([65534])
                os.setgid(1)
                os.setuid(65533)

            try:
                p = subprocess.Popen([program("trictl"), "--socket", folder + "/run/api.sock", "run", "--memory", "32M", "--timeout", "30",
                                      "--kernel", folder + "/tiny.elf"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                     preexec_fn=become, cwd="/", env={"HOME": "/", "PATH": os.environ["PATH"]})
            except PermissionError as e:
                raise Skip(f"another user cannot run programs of this build directory: {e}") from e
            out = p.communicate(b"gq", timeout=60)[0].decode(errors="replace")
            check(p.returncode == 0 and READY in out and "[g]" in out, f"{p.returncode}: {out}")
        finally:
            daemon.terminate()
            daemon.wait(30)


def runtime_directory_is_full(d):
    """Nothing half started when the VM's directory cannot be written."""
    with scratch() as folder:
        run = os.path.join(folder, "run")
        os.mkdir(run, 0o700)
        r = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k,mode=700", "tmpfs", run], capture_output=True, text=True, check=False)
        if r.returncode:
            raise Skip(f"cannot mount a tmpfs: {r.stderr.strip()}")
        try:
            with Daemon(folder) as other:
                other.rpc.result("vm.define", [definition("full")])
                with open(run + "/filler", "wb") as f, contextlib.suppress(OSError):
                    f.write(b"x" * (1 << 20))
                error = other.rpc.call("vm.start", ["full"])["error"]
                check(error["code"] == -32004 and run in error["message"] and "space" in error["message"], str(error))
                check(other.rpc.result("vm.get", ["full"])["process"] is None, "half started")
                os.unlink(run + "/filler")
                Console(other.rpc.result("vm.start", ["full"])["console"]).expect(READY)
                # Full while it runs: no part of a perf map stays, and how the VM ended is known all the same.
                with open(run + "/filler", "wb") as f, contextlib.suppress(OSError):
                    f.write(b"x" * (1 << 20))
                error = other.rpc.call("vm.perf_map", ["full"])["error"]
                path = os.path.join(run, "vms", other.rpc.result("vm.get", ["full"])["uuid"], "perf.map")
                check(path in error["message"] and "space" in error["message"], str(error))
                check(not os.path.exists(path), "a part of the perf map is left")
                other.rpc.result("vm.destroy", ["full"])
                result = other.rpc.result("vm.get", ["full"])["result"]
                check(result["state"] == "destroyed" and "full" in result["reason"], str(result))
        finally:
            subprocess.run(["umount", "-l", run], check=False)


def hung_daemon(d):
    """trictl gives up on a daemon that is stopped, and claims nothing that it cannot know."""
    command = [program("trictl"), "--socket", d.socket]
    os.kill(d.process.pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        run, patient = Run(d, "--timeout", "1"), Run(d)
        listing = subprocess.Popen([*command, "list"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        check(run.wait() == 124 and "has not started" in run.text and d.socket in run.text and "destroyed" not in run.text, run.text)
        check(listing.poll() is None, "no time is given to the daemon")
        out = listing.communicate(timeout=60)[0]
        check(listing.returncode == 6 and d.socket in out and "stopped or hangs" in out, f"{listing.returncode}: {out}")
        check(patient.wait(60) == 6 and "stopped or hangs" in patient.text, patient.text)
        check(25 < time.monotonic() - began, "the deadline is another one")
    finally:
        os.kill(d.process.pid, signal.SIGCONT)
    wait_until("the end of what was asked for meanwhile", lambda: d.rpc.result("vm.list") == [], 20)
    r = subprocess.run([*command, "list"], capture_output=True, text=True, timeout=30, check=False)
    check(r.returncode == 0, str(r))


def twenty_at_once(d):
    asked = []
    for i in range(20):
        d.rpc.result("vm.define", [definition(f"many{i}")])
        rpc = Rpc(d.socket)
        rpc.socket.sendall(json.dumps({"jsonrpc": "2.0", "id": 5, "method": "vm.start", "params": [f"many{i}"]}).encode() + b"\n")
        asked.append(rpc)
    pids = set()
    for rpc in asked:
        answer = rpc._message(time.monotonic() + 60)
        check("result" in answer, str(answer))
        pids.add(answer["result"]["pid"])
        rpc.close()
    check(len(pids) == 20, f"{len(pids)} processes")
    d.rpc.socket.sendall((json.dumps([{"jsonrpc": "2.0", "id": i, "method": "vm.shutdown", "params": [f"many{i}"]} for i in range(20)]) + "\n").encode())
    check(all("result" in a for a in d.rpc._message(time.monotonic() + 60)), "shutdown")
    for i in range(20):
        check(d.rpc.result("vm.wait", [f"many{i}"])["state"] == "shutdown", f"many{i}")
        d.rpc.result("vm.undefine", [f"many{i}"])


def below(folder):
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as f:
                if folder in f.read().decode(errors="replace") and int(pid) != os.getpid():
                    found.append(int(pid))
        except OSError:
            pass
    return found


def private_daemon(d):
    """Without a daemon at the socket one is started; nothing is left of it, however trictl ends."""
    with scratch() as folder:
        d = type("Here", (), {"folder": folder, "socket": os.path.join(folder, "nobody.sock")})
        r = Run(d)
        r.expect(READY)
        r.type("q")
        check(r.wait() == 0, f"{r.process.returncode}\n{r.text}")
        check(os.listdir(folder) == [] and not below(folder), f"left: {os.listdir(folder)} {below(folder)}")
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL):
            r = Run(d)
            r.expect(READY)
            r.process.send_signal(number)
            r.wait()
            wait_until(f"everything's end after {number!r}", lambda: not below(folder) and os.listdir(folder) == [], 15)
        # The private daemon itself is killed: the VM must not outlive trictl.
        r = Run(d)
        r.expect(READY)
        daemons = [pid for pid in below(folder) if os.readlink(f"/proc/{pid}/exe").endswith("trivisord")]
        check(len(daemons) == 1, str(daemons))
        os.kill(daemons[0], signal.SIGKILL)
        check(r.wait() != 0, "an orphaned run is no success")
        wait_until("the VM's end", lambda: not below(folder), 10)


TESTS = (life, ends, cannot_start, consoles, daemon_killed, ended_while_away, vm_process_killed, hung_process, start_races,
         transient_ends_with_client, run_statuses, run_on_a_terminal, run_ends_with_trictl, run_survives_the_daemon, run_as_a_plain_user, private_daemon, group_members_have_consoles, runtime_directory_is_full,
         hung_daemon, twenty_at_once)


def main():
    tap = Tap()
    with scratch() as folder, Daemon(folder) as d:
        for test in TESTS:
            passed = tap.run(test.__name__.replace("_", " "), test, d)
            if d.process.poll() is not None:
                if not passed:
                    tap.explain(f"the daemon ended with {d.process.returncode}\n{d.log()}")
                d.start()
            if not passed:
                tap.explain(d.log())
                d.rpc = Rpc(d.socket)  # answers may be under way on the old one
                for vm in d.rpc.result("vm.list"):
                    d.rpc.call("vm.destroy", [vm["uuid"]])
                    d.rpc.call("vm.undefine", [vm["uuid"]])
        tap.run("a clean end", lambda: check(d.kill(signal.SIGTERM) == 0, f"exit status {d.process.returncode}\n{d.log()}"))
    tap.finish()


if __name__ == "__main__":
    main()
