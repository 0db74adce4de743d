"""What guest tests share: TAP output, a VM process with its console and control socket, a daemon of its own.

Programs are taken from the build directory (top_builddir), scripts from the source (top_srcdir).
"""

import contextlib
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback

HERE = os.path.dirname(os.path.abspath(__file__))
SOURCE = os.path.abspath(os.environ.get("top_srcdir", os.path.join(HERE, "..", "..")))
BUILD = os.path.abspath(os.environ.get("top_builddir", os.environ.get("TRIVISOR_BUILD", os.path.join(SOURCE, "build"))))
MODE = os.environ.get("TRIVISOR_TEST_MODE", "bt")
UP = "trivisor: user space is up"
# Generous: the machine may be busy, and a sanitizer build is slow. A test that hangs still ends.
BOOT_TIMEOUT = float(os.environ.get("TRIVISOR_TEST_BOOT_TIMEOUT", "180"))


class Skip(Exception):
    """Raised in a test: it cannot run here, and why."""


class Failed(Exception):
    """A check that did not hold."""


def check(condition, message):
    if not condition:
        raise Failed(message)


class Tap:
    """Runs functions as TAP tests. The plan comes last, so that nothing needs counting beforehand."""

    def __init__(self):
        self.number = 0
        self.failures = 0

    def _line(self, ok, name, note=""):
        self.number += 1
        print(f"{'ok' if ok else 'not ok'} {self.number} {name}{note}", flush=True)

    def run(self, name, function, *arguments):
        """True when it passed."""
        try:
            function(*arguments)
        except Skip as e:
            self._line(True, name, f" # SKIP {e}")
            return False
        except Failed as e:
            self.failures += 1
            self._line(False, name)
            self.explain(str(e))
            return False
        except Exception:
            self.failures += 1
            self._line(False, name)
            self.explain(traceback.format_exc())
            return False
        self._line(True, name)
        return True

    def skip(self, name, reason):
        self._line(True, name, f" # SKIP {reason}")

    @staticmethod
    def explain(text):
        for line in text.rstrip().splitlines():
            print(f"# {line}", flush=True)

    def finish(self):
        print(f"1..{self.number}", flush=True)
        sys.exit(1 if self.failures else 0)


@contextlib.contextmanager
def scratch(world_readable=False):
    """A temporary directory, short enough for socket paths."""
    path = tempfile.mkdtemp(prefix="trivisor-test.", dir="/tmp")
    if world_readable:
        os.chmod(path, 0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def program(name):
    path = os.path.join(BUILD, name)
    if not os.access(path, os.X_OK):
        raise Skip(f"{path} is not built")
    return path


_kernel = None


def kernel_dir():
    """Debian's cloud kernel, unpacked; downloaded once."""
    global _kernel
    if _kernel is None:
        r = subprocess.run([os.path.join(SOURCE, "tools", "fetch-kernel")], capture_output=True, text=True)
        if r.returncode:
            raise Skip("no Debian kernel: " + (r.stderr.strip().splitlines() or ["fetch-kernel failed"])[-1])
        _kernel = r.stdout.strip()
    return _kernel


def kernel_image():
    return os.path.join(kernel_dir(), "vmlinuz")


def make_initramfs(path, *options):
    command = [os.path.join(SOURCE, "tools", "make-initramfs"), "--kernel-dir", kernel_dir(), *options, path]
    r = subprocess.run(command, capture_output=True, text=True)
    check(r.returncode == 0, f"make-initramfs: {r.stderr}")
    os.chmod(path, 0o644)
    return path


def wait_until(what, condition, timeout=30, interval=0.02):
    deadline = time.monotonic() + timeout
    while not condition():
        check(time.monotonic() < deadline, f"{what}: not within {timeout} s")
        time.sleep(interval)


def connect(path, timeout=10):
    """Connects to a UNIX socket that may not be there yet; long paths go through the directory's descriptor."""
    deadline = time.monotonic() + timeout
    while True:
        s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            folder = os.open(os.path.dirname(path), os.O_PATH)
            try:
                s.connect(f"/proc/self/fd/{folder}/{os.path.basename(path)}")
            finally:
                os.close(folder)
            return s
        except (FileNotFoundError, ConnectionRefusedError):
            s.close()
            check(time.monotonic() < deadline, f"{path}: nobody serves it")
            time.sleep(0.01)


class Console:
    """A reader (and typist) of a VM's console stream."""

    commands = 0

    def __init__(self, path):
        self.socket = connect(path)
        self.text = ""
        self.at = 0  # what expect() has passed

    def pump(self, seconds):
        """Reads for at most that long. False at the end of the stream."""
        if not select.select([self.socket], [], [], max(0, seconds))[0]:
            return True
        data = self.socket.recv(65536)
        self.text += data.decode(errors="replace")
        return bool(data)

    def expect(self, pattern, timeout=60):
        """The match of a regular expression in what has not been passed yet."""
        deadline = time.monotonic() + timeout
        while True:
            match = re.compile(pattern).search(self.text, self.at)
            if match:
                self.at = match.end()
                return match
            left = deadline - time.monotonic()
            if left <= 0 or not self.pump(left):
                tail = "\n".join(self.text[self.at:].splitlines()[-25:])
                why = "timeout" if left <= 0 else "the stream ended"
                raise Failed(f"console: {pattern!r} not seen ({why} after {timeout} s at most); its end:\n{tail}")

    def type(self, text):
        self.socket.sendall(text.encode())

    def command(self, line, timeout=30):
        """Runs a command in the guest's shell; its output. The mark is split so that the echo does not match."""
        Console.commands += 1  # of all consoles: a scrollback shows marks of earlier ones
        mark = f"done{Console.commands}-"
        self.type(f"{line}; echo 'do''ne{Console.commands}-'\n")
        self.expect(rf"ne{Console.commands}-'\r?\n", timeout)
        start = self.at
        match = self.expect(mark + r"\r?\n", timeout)
        # Typed before the shell was at its prompt, the line is echoed twice: by the terminal, then by the shell.
        return self.text[start:match.start()].replace("\r", "").rpartition(f"ne{Console.commands}-'\n")[2]

    def close(self):
        self.socket.close()


class Rpc:
    """Newline-delimited JSON-RPC. Notifications are kept in `events`."""

    def __init__(self, path):
        self.socket = connect(path)
        self.buffer = b""
        self.events = []
        self.id = 0

    def _message(self, deadline):
        while b"\n" not in self.buffer:
            left = deadline - time.monotonic()
            check(left > 0 and select.select([self.socket], [], [], left)[0], "no message in time")
            data = self.socket.recv(1 << 20)
            check(data, "the connection was closed")
            self.buffer += data
        line, self.buffer = self.buffer.split(b"\n", 1)
        return json.loads(line)

    def call(self, method, params=None, timeout=60):
        """The whole answer."""
        self.id += 1
        request = {"jsonrpc": "2.0", "id": self.id, "method": method}
        if params is not None:
            request["params"] = params
        self.socket.sendall(json.dumps(request).encode() + b"\n")
        deadline = time.monotonic() + timeout
        while True:
            message = self._message(deadline)
            if message.get("id") == self.id:
                return message
            self.events.append(message["params"])

    def result(self, method, params=None, timeout=60):
        answer = self.call(method, params, timeout)
        check("result" in answer, f"{method}: {answer.get('error')}")
        return answer["result"]

    def wait_event(self, wanted, timeout=60):
        """The first notification for which wanted(params) holds, those already kept included."""
        deadline = time.monotonic() + timeout
        while True:
            for i, event in enumerate(self.events):
                if wanted(event):
                    del self.events[i]
                    return event
            message = self._message(deadline)
            if "method" in message:
                self.events.append(message["params"])

    def close(self):
        self.socket.close()


class Vm:
    """One trivisor-vm of our own, without a daemon."""

    def __init__(self, folder, definition, prefix=(), mode=None, **more):
        self.folder = folder
        self.definition = {"name": "test", "memory_mib": 256, **definition}
        with open(os.path.join(folder, "definition.json"), "w") as f:
            json.dump(self.definition, f)
        command = [*prefix, program("trivisor-vm"), "--dir", folder, "--mode", mode or MODE, "--mode-reason", "the test says so"]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, **more)
        self.opened = []

    def path(self, name):
        return os.path.join(self.folder, name)

    def console(self):
        c = Console(self.path("console.sock"))
        self.opened.append(c)
        return c

    def control(self):
        c = Rpc(self.path("control.sock"))
        self.opened.append(c)
        return c

    def wait(self, timeout=60):
        """The exit status."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise Failed(f"trivisor-vm has not ended within {timeout} s; its log:\n{self.log()}") from None

    def result(self):
        with open(self.path("result.json")) as f:
            return json.load(f)

    def log(self):
        try:
            with open(self.path("log")) as f:
                return f.read()[-2000:]
        except FileNotFoundError:
            return "(no log)"

    def close(self):
        for c in self.opened:
            c.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        if kind is not None and kind is not Skip:
            Tap.explain(f"log of trivisor-vm:\n{self.log()}")
        self.close()


class Daemon:
    """A trivisord of our own on sockets of its own. The directories stay when it ends, so that another can follow."""

    def __init__(self, folder, *options):
        self.folder = folder
        self.socket = os.path.join(folder, "api.sock")
        self.libvirt_socket = os.path.join(folder, "lv.sock")
        self.process = None
        # Most tests have no use for two seconds of calibration beside them.
        self.options = options or ("--no-calibration",)
        self.start()

    def start(self):
        environment = dict(os.environ, PATH=BUILD + ":" + os.environ["PATH"])
        with open(os.path.join(self.folder, "trivisord.log"), "ab") as log:
            self.process = subprocess.Popen(
                [program("trivisord"), "--foreground", "--socket", self.socket,
                 "--libvirt-socket", self.libvirt_socket, "--libvirt-socket-ro", self.libvirt_socket + "-ro",
                 "--state-dir", os.path.join(self.folder, "state"), "--runtime-dir", os.path.join(self.folder, "run"),
                 *self.options],
                stdin=subprocess.DEVNULL, stderr=log, env=environment, start_new_session=True)
        self.rpc = Rpc(self.socket)
        self.rpc.result("daemon.version")

    def kill(self, number=signal.SIGKILL):
        """The exit status (negative: by that signal)."""
        self.rpc.close()
        self.process.send_signal(number)
        return self.process.wait(30)

    def log(self):
        with open(os.path.join(self.folder, "trivisord.log"), errors="replace") as f:
            return f.read()[-3000:]

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        if kind is not None and kind is not Skip:
            Tap.explain(f"log of trivisord:\n{self.log()}")
        try:
            for vm in Rpc(self.socket).result("vm.list") if self.process.poll() is None else []:
                if vm.get("pid"):
                    self.rpc.call("vm.destroy", {"vm": vm["uuid"]})
        except (Failed, OSError):
            pass
        if self.process.poll() is None:
            self.kill(signal.SIGTERM)
