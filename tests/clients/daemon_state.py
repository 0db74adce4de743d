#!/usr/bin/python3
"""What the daemon keeps, and what it does when it cannot: kills, full and read-only directories, configuration, users."""

import contextlib
import ctypes
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "guests"))
from vmtest import Daemon, Rpc, Skip, Tap, check, connect, program, scratch, wait_until

STORAGE, LIMIT, PERMISSION = -32004, -32007, -32011


def definition(name, **more):
    return {"name": name, "boot": {"kernel": "/nowhere/vmlinuz"}, **more}


def names(rpc):
    return [vm["name"] for vm in rpc.result("vm.list")]


def daemon_command(folder, *options):
    return [program("trivisord"), "--foreground", "--socket", os.path.join(folder, "api.sock"), "--state-dir", os.path.join(folder, "state"),
            "--runtime-dir", os.path.join(folder, "run"), "--no-calibration", *options]


class Started:
    """A daemon with options of the test's choice."""

    def __init__(self, folder, *options, environment=None):
        self.log_path = os.path.join(folder, "daemon.log")
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(daemon_command(folder, *options), stdin=subprocess.DEVNULL, stderr=log, env=environment)
        self.socket = os.path.join(folder, "api.sock")
        self.rpc = Rpc(self.socket)

    def log(self):
        with open(self.log_path, errors="replace") as f:
            return f.read()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.rpc.close()
        if self.process.poll() is None:
            self.process.terminate()
        check(self.process.wait(30) == 0, f"exit status {self.process.returncode}\n{self.log()[-2000:]}")


def acknowledged_is_kept():
    """SIGKILL right behind each answer, twenty times over: nothing acknowledged is lost, nothing refused appears."""
    with scratch() as folder:
        d = Daemon(folder)
        kept = []
        for i in range(20):
            kept.append(d.rpc.result("vm.define", [definition(f"vm{i}")])["name"])
            if i % 5 == 4:
                gone = kept.pop(0)
                d.rpc.result("vm.undefine", [gone])
            d.kill(signal.SIGKILL)
            d.start()
            check(names(d.rpc) == kept, f"{names(d.rpc)} instead of {kept}")
        check(d.kill(signal.SIGTERM) == 0, "SIGTERM is no clean end")
        check(not os.path.exists(d.socket), "the socket is left behind")


def killed_in_the_middle():
    """Definitions pour in when the kill comes: what was acknowledged is there, and each that is there is whole."""
    with scratch() as folder:
        d = Daemon(folder)
        acknowledged = set()
        for round_ in range(4):
            s = connect(d.socket)
            s.sendall("".join(json.dumps({"jsonrpc": "2.0", "id": i, "method": "vm.define", "params": [definition(f"r{round_}n{i}")]}) + "\n"
                              for i in range(300)).encode())
            data = b""
            while data.count(b"\n") < 20 + 60 * round_:
                data += s.recv(65536)
            d.process.kill()
            while True:
                try:
                    more = s.recv(65536)
                except ConnectionResetError:
                    break
                if not more:
                    break
                data += more
            d.kill()
            for line in data.split(b"\n")[:-1]:
                acknowledged.add(json.loads(line)["result"]["name"])
            d.start()
            there = set(names(d.rpc))
            check(acknowledged <= there, f"lost: {sorted(acknowledged - there)}")
            for name in sorted(there)[:50]:
                check(d.rpc.result("vm.get", [name])["definition"]["name"] == name, name)
        d.kill(signal.SIGTERM)


class Tmpfs:
    """A small file system of its own, where root may mount one."""

    def __init__(self, path, options):
        self.path, self.options = path, options

    def __enter__(self):
        os.makedirs(self.path, exist_ok=True)
        r = subprocess.run(["mount", "-t", "tmpfs", "-o", self.options, "tmpfs", self.path], capture_output=True, text=True, check=False)
        if r.returncode:
            raise Skip(f"cannot mount a tmpfs: {r.stderr.strip()}")
        return self

    def remount(self, options):
        subprocess.run(["mount", "-o", "remount," + options, self.path], check=True)

    def __exit__(self, *_):
        subprocess.run(["umount", "-l", self.path], check=False)


def full_state_directory():
    with scratch() as folder, Tmpfs(os.path.join(folder, "state"), "size=256k,mode=700") as tmpfs, Started(folder) as d:
        kept, refused = [], None
        for i in range(3000):
            answer = d.rpc.call("vm.define", [definition(f"vm{i}", boot={"kernel": "/k", "cmdline": "x" * 2000})])
            if "error" in answer:
                refused = answer["error"]
                break
            kept.append(f"vm{i}")
        check(refused, "256 KiB took 3000 definitions of 2 kB")
        check(refused["code"] == STORAGE and tmpfs.path in refused["message"] and "space" in refused["message"], str(refused))
        check(names(d.rpc) == kept, "a refused definition is listed")
        # Those behind it are told the same, also where several statements are rolled back.
        with open(os.path.join(tmpfs.path, "filler"), "wb") as f, contextlib.suppress(OSError):
            f.write(b"x" * (1 << 20))
        for i in range(20):
            for method, params in (("vm.undefine", [kept[0]]), ("vm.define", [definition(f"no{i}", boot={"kernel": "/k", "cmdline": "x" * 2000})])):
                answer = d.rpc.call(method, params)
                if "error" in answer:
                    check("space" in answer["error"]["message"] and "transaction" not in answer["error"]["message"], str(answer))
                elif method == "vm.undefine":
                    kept.pop(0)
                else:
                    kept.append(f"no{i}")
        os.unlink(os.path.join(tmpfs.path, "filler"))
        check(d.rpc.result("daemon.version")["store_problem"], "store_problem is silent")
        check(d.rpc.call("policy.explain", {"vm": kept[0]}).get("result"), "reading does not work any more")
        tmpfs.remount("size=4m")
        d.rpc.result("vm.define", [definition("after")])
        kept.append("after")
        check(d.rpc.result("daemon.version")["store_problem"] is None, "store_problem stays")
        d.process.kill()
        d.process.wait()
        with Started(folder) as again:
            check(names(again.rpc) == kept, f"{len(names(again.rpc))} definitions instead of {len(kept)}")
        d.process.returncode = 0


def read_only_state_directory():
    with scratch() as folder, Tmpfs(os.path.join(folder, "state"), "size=8m,mode=700") as tmpfs:
        with Started(folder) as d:
            d.rpc.result("vm.define", [definition("before")])
        tmpfs.remount("ro")
        with Started(folder) as d:
            check(names(d.rpc) == ["before"], "what is there cannot be read")
            for method, params in (("vm.define", [definition("more")]), ("vm.undefine", ["before"])):
                error = d.rpc.call(method, params)["error"]
                check(error["code"] == STORAGE and "ead-only" in error["message"] and tmpfs.path in error["message"], str(error))
            check(names(d.rpc) == ["before"], "half done")
            tmpfs.remount("rw")
            d.rpc.result("vm.define", [definition("more")])
            check(names(d.rpc) == ["before", "more"], "does not come back")


def missing_state_directory_cannot_be_made():
    with scratch() as folder:
        with open(os.path.join(folder, "state"), "w"):
            pass
        with Started(folder) as d:
            error = d.rpc.call("vm.define", [definition("a")])["error"]
            check(error["code"] == STORAGE and folder in error["message"], str(error))
            check(names(d.rpc) == [], "kept nowhere, but listed")


def foreign_database():
    with scratch() as folder:
        os.mkdir(os.path.join(folder, "state"))
        with open(os.path.join(folder, "state", "trivisor.db"), "w") as f:
            f.write("this is no database " * 200)
        r = subprocess.run(daemon_command(folder), capture_output=True, text=True, timeout=20, check=False)
        check(r.returncode == 1 and "state directory" in r.stderr, str(r))


def one_daemon_for_a_directory():
    with scratch() as folder, Started(folder):
        for change in (["--socket", folder + "/other.sock"], ["--socket", folder + "/other.sock", "--runtime-dir", folder + "/run2"],
                       ["--runtime-dir", folder + "/run3", "--state-dir", folder + "/state3"]):
            r = subprocess.run(daemon_command(folder, *change), capture_output=True, text=True, timeout=20, check=False)
            check(r.returncode == 1 and "another trivisord" in r.stderr, f"{change}: {r}")


def two_hundred_vms():
    with scratch() as folder, Started(folder) as d:
        for i in range(200):
            d.rpc.result("vm.define", [definition(f"vm{i:03}", boot={"kernel": "/k", "cmdline": "console=ttyS0 quiet"})])
        times = []
        for _ in range(50):
            began = time.perf_counter()
            rows = d.rpc.result("vm.list")
            times.append((time.perf_counter() - began) * 1000)
        check(len(rows) == 200 and rows[199]["name"] == "vm199", "vm.list")
        print(f"# vm.list of 200 VMs: median {statistics.median(times):.2f} ms, slowest {max(times):.2f} ms (with the client's parsing)")


def limits_and_reload():
    with scratch() as folder:
        config = os.path.join(folder, "conf")

        def write(text):
            with open(config, "w") as f:
                f.write(text)

        write("# few\nmax_vms = 2   # two\nmax_clients=3\nlog_level = debug\n")
        with Started(folder, "--config", config) as d:
            for name in "ab":
                d.rpc.result("vm.define", [definition(name)])
            error = d.rpc.call("vm.define", [definition("c")])["error"]
            check(error["code"] == LIMIT and "max_vms" in error["message"], str(error))
            more = [Rpc(d.socket), Rpc(d.socket)]
            for rpc in more:
                rpc.result("vm.list")
            turned_away = connect(d.socket)
            answer = json.loads(turned_away.makefile().readline())
            check(answer["error"]["code"] == LIMIT, str(answer))
            write("max_vms = 3\n")
            d.process.send_signal(signal.SIGHUP)
            wait_until("the new limit", lambda: "result" in d.rpc.call("vm.define", [definition("c")]), 5)
            for bad, word in (("max_vms = many\n", "max_vms"), ("colour = red\n", "colour"), ("max_vms\n", "key = value"), ("socket = relative\n", "socket"),
                              ("socket_group = no-such-group\n", "no-such-group")):
                write("log_level = debug\n" + bad)
                d.process.send_signal(signal.SIGHUP)
                wait_until(f"a complaint about {bad!r}", lambda: word in d.log().rsplit("SIGHUP", 1)[-1] and "nothing was changed" in d.log(), 5)
            check(d.rpc.call("vm.define", [definition("d")])["error"]["code"] == LIMIT, "a bad file changed something")
        write("colour = red\n")
        r = subprocess.run(daemon_command(folder, "--config", config), capture_output=True, text=True, timeout=20, check=False)
        check(r.returncode == 1 and f"{config}:1" in r.stderr and "colour" in r.stderr, str(r))
        r = subprocess.run(daemon_command(folder, "--config", config + ".none"), capture_output=True, text=True, timeout=20, check=False)
        check(r.returncode == 1 and config + ".none" in r.stderr, str(r))
        r = subprocess.run([program("trivisord"), "--colour"], capture_output=True, text=True, timeout=20, check=False)
        check(r.returncode == 2, str(r))


def others_are_kept_out():
    if os.geteuid():
        raise Skip("only root can become another user")
    with scratch(world_readable=True) as folder, Started(folder) as d:
        check(os.stat(d.socket).st_mode & 0o777 == 0o600, oct(os.stat(d.socket).st_mode))
        os.chmod(d.socket, 0o666)  # even then
        code = """
import os, socket, sys
os.setgroups([]); os.setgid(65534); os.setuid(65534)
s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])
try:
    s.sendall(b'{"jsonrpc":"2.0","id":1,"method":"vm.list"}\\n')
except BrokenPipeError:
    pass
print(s.makefile().readline())
"""
        r = subprocess.run([sys.executable, "-c", code, d.socket], capture_output=True, text=True, timeout=20, check=False)
        check(r.returncode == 0 and json.loads(r.stdout)["error"]["code"] == PERMISSION, str(r))
        check(d.rpc.result("vm.list") == [], "the daemon itself")


def group_is_let_in():
    if os.geteuid():
        raise Skip("only root can become another user")
    with scratch(world_readable=True) as folder:
        config = os.path.join(folder, "conf")
        with open(config, "w") as f:
            f.write("socket_group = nogroup\n")
        with Started(folder, "--config", config) as d:
            check(os.stat(d.socket).st_mode & 0o777 == 0o660 and os.stat(d.socket).st_gid == 65534, oct(os.stat(d.socket).st_mode))
            code = ("import os, socket, sys\nos.setgroups([65534]); os.setgid(1); os.setuid(65533)\ns = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])\n"
                    "s.sendall(b'{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"vm.list\"}\\n'); print(s.makefile().readline())")
            r = subprocess.run([sys.executable, "-c", code, d.socket], capture_output=True, text=True, timeout=20, check=False)
            check(r.returncode == 0 and json.loads(r.stdout)["result"] == [], str(r))


def a_plain_user_needs_no_root():
    if os.geteuid():
        raise Skip("this is one already")
    with scratch(world_readable=True) as folder:
        home = os.path.join(folder, "home")
        os.mkdir(home)
        os.chown(home, 65534, 65534)
        environment = {"HOME": home, "XDG_RUNTIME_DIR": home + "/runtime", "PATH": os.environ["PATH"]}
        os.mkdir(home + "/runtime", 0o700)
        os.chown(home + "/runtime", 65534, 65534)

        def become():
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)

        try:
            r = subprocess.run([program("trivisord")], env=environment, capture_output=True, text=True, timeout=20, preexec_fn=become, check=False)
        except PermissionError as e:
            raise Skip(f"another user cannot run programs of this build directory: {e}") from e
        check(r.returncode == 0, f"into the background: {r}")
        rpc = Rpc(home + "/runtime/trivisor/api.sock")
        version = rpc.result("daemon.version")
        try:
            check(version["uid"] == 65534 and version["state_dir"] == home + "/.local/state/trivisor", str(version))
            rpc.result("vm.define", [definition("mine")])
            check(os.path.exists(home + "/.local/state/trivisor/trivisor.db"), "no database")
        finally:
            os.kill(version["pid"], signal.SIGTERM)
        wait_until("its end", lambda: not os.path.exists(home + "/runtime/trivisor/api.sock"), 10)


def runtime_directory_of_another():
    if os.geteuid():
        raise Skip("only root can make a directory of another user")
    with scratch() as folder:
        os.mkdir(folder + "/run", 0o777)
        os.chmod(folder + "/run", 0o777)
        r = subprocess.run(daemon_command(folder), capture_output=True, text=True, timeout=20, check=False)
        check(r.returncode == 1 and "others may write" in r.stderr, str(r))


def systemd_is_told():
    with scratch() as folder:
        notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        notify.bind(folder + "/notify")
        notify.settimeout(10)
        with Started(folder, environment={**os.environ, "NOTIFY_SOCKET": folder + "/notify"}) as d:
            check(b"READY=1" in notify.recv(4096), "READY")
            d.process.send_signal(signal.SIGHUP)
            check(b"RELOADING=1" in notify.recv(4096) and b"READY=1" in notify.recv(4096), "RELOADING")
            d.process.terminate()
            check(b"STOPPING=1" in notify.recv(4096), "STOPPING")


def processor_ticks(pid):
    with open(f"/proc/{pid}/stat") as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])


def descriptors_run_out():
    """With no descriptor left for a client the daemon waits instead of spinning, and goes on when there is one again."""
    libc = ctypes.CDLL(None, use_errno=True)
    with scratch() as folder, Started(folder) as d:
        used = len(os.listdir(f"/proc/{d.process.pid}/fd"))
        limit = (ctypes.c_uint64 * 2)(used + 5, used + 5)
        if libc.prlimit(d.process.pid, 7, limit, None):
            raise Skip("prlimit is not allowed here")
        held = [connect(d.socket) for _ in range(12)]
        time.sleep(0.5)
        before = processor_ticks(d.process.pid)
        time.sleep(1)
        ticks = processor_ticks(d.process.pid) - before
        check(ticks < 20, f"{ticks} ticks of processor time in a second of nothing")
        check(d.rpc.result("vm.list") == [], "the client that was there first")
        for s in held:
            s.close()
        check(Rpc(d.socket).result("vm.list") == [], "a new client")


TESTS = (acknowledged_is_kept, killed_in_the_middle, full_state_directory, read_only_state_directory, missing_state_directory_cannot_be_made,
         foreign_database, one_daemon_for_a_directory, two_hundred_vms, limits_and_reload, others_are_kept_out, group_is_let_in,
         a_plain_user_needs_no_root, runtime_directory_of_another, systemd_is_told, descriptors_run_out)


def main():
    tap = Tap()
    for test in TESTS:
        tap.run(test.__name__.replace("_", " "), test)
    tap.finish()


if __name__ == "__main__":
    main()
