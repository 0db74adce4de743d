#!/usr/bin/env python3
"""One serial console, many clients: who types, who reads, what is kept of it and for how long, what hostile clients can do."""
import base64
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "guests"))
from vmtest import BUILD, Console, Daemon, Failed, Rpc, Tap, check, connect, program, scratch, wait_until  # noqa: E402

TINY = os.path.join(BUILD, "tests", "clients", "tiny.elf")
READY = "tiny: ready"


def start(d, name, **keys):
    d.rpc.result("vm.define", [{"name": name, "memory_mib": 32, "mode": "bt", "boot": {"kernel": TINY}, **keys}])
    return d.rpc.result("vm.start", [name])


class Client(Console):
    """One that attaches with a role."""

    def __init__(self, console_path, **params):
        super().__init__(os.path.join(os.path.dirname(console_path), "attach.sock"))
        self.raw(json.dumps({"jsonrpc": "2.0", "id": 7, "method": "attach", "params": params}).encode() + b"\n")

    def raw(self, request):
        self.socket.sendall(request)
        line = b""
        while not line.endswith(b"\n"):
            check(select.select([self.socket], [], [], 20)[0], f"no answer to {request!r}")
            byte = self.socket.recv(1)
            check(byte, f"closed without an answer to {request!r}")
            line += byte
        self.answer = json.loads(line)
        self.error = self.answer.get("error", {}).get("message", "")


class Terminal:
    """trictl console on a terminal of its own."""

    def __init__(self, d, *arguments, size=(50, 132)):
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
        self.process = subprocess.Popen([program("trictl"), "--socket", d.socket, "console", *arguments], stdin=slave, stdout=slave, stderr=slave,
                                        start_new_session=True, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
        os.close(slave)
        self.text = ""

    def expect(self, pattern, seconds=30):
        deadline = time.monotonic() + seconds
        while not re.search(pattern, self.text):
            left = deadline - time.monotonic()
            check(left > 0, f"{pattern!r} not seen: {self.text!r}")
            if select.select([self.master], [], [], left)[0]:
                try:
                    self.text += os.read(self.master, 65536).decode(errors="replace")
                except OSError as e:
                    raise Failed(f"{pattern!r} not seen before the end: {self.text!r}") from e

    def type(self, text):
        os.write(self.master, text.encode())

    def wait(self):
        status = self.process.wait(30)
        os.close(self.master)
        return status


def one_writer(d):
    path = start(d, "roles")["console"]
    first = Client(path, client="the first\x1b[2J")
    check(first.answer["result"]["writer"], str(first.answer))
    first.expect(READY)
    refused = Client(path)
    check(refused.answer["error"]["code"] == -32001 and "the first?[2J has had this console's keyboard" in refused.error
          and "read-only" in refused.error and "force" in refused.error, str(refused.answer))
    reader = Client(path, read_only=True, scrollback=0)
    check(reader.answer["result"]["writer"] is False and reader.answer["result"]["position"] > 0, str(reader.answer))
    first.type("a")
    first.expect(r"\[a\]")
    reader.expect(r"\[a\]")
    check(READY not in reader.text, "a scrollback that was not wanted")
    reader.type("b")
    reader.expect("what you type is dropped: the first")
    along = Client(path, read_if_taken=True)
    check(along.answer["result"]["writer"] is False, str(along.answer))
    along.expect("you read only: the first")
    # By force: the writer reads on, and types again once the place is free.
    forced = Client(path, force=True, leave=True, client="a stronger one")
    first.expect("a stronger one has taken this console's keyboard; you read on")
    first.type("f")
    first.expect("what you type is dropped: a stronger one")
    forced.type("d")
    for console in (first, reader, along, forced):
        console.expect(r"\[d\]")
    last = Client(path, force=True)
    forced.expect("this connection ends")
    while forced.pump(10):
        pass
    last.close()
    along.type("e")
    along.expect(r"\[e\]")
    check("[b]" not in along.text and "[f]" not in along.text, "what a reader typed came through")
    # One who closes and one who attaches at the same moment.
    for _ in range(50):
        along.close()
        along = Client(path, scrollback=0)
        check(not along.error, along.error)
    d.rpc.result("vm.destroy", ["roles"])


def raw_clients(d):
    """On console.sock whoever types first is the writer; one that has typed and closed both ends leaves nothing behind."""
    path = start(d, "raw")["console"]
    one, two = Console(path), Console(path)
    one.expect(READY)
    two.type("k")
    one.expect(r"\[k\]")
    one.type("l")
    one.expect("what you type is dropped: process")
    two.close()
    time.sleep(0.1)
    one.type("z")
    one.expect(r"\[z\]")
    check("[l]" not in one.text, "both wrote")
    # 32 at most, and the dead do not count.
    one.close()
    crowd = [Client(path, read_only=True) for _ in range(32)]
    check(not any(c.error for c in crowd), "32 readers")
    check("32 clients" in Client(path, read_only=True).error, "the 33rd")
    extra = Console(path)
    extra.expect("too many clients")
    for c in crowd:
        c.close()
    wait_until("room again", lambda: not Client(path, read_only=True).error, 20)
    d.rpc.result("vm.destroy", ["raw"])


def bad_requests(d):
    path = start(d, "bad")["console"]
    for request, word in ((b"hello\n", "no JSON"), (b"[]\n", "attach is wanted"), (b'{"method":"detach"}\n', "attach is wanted"), (b"x" * 5000, "no JSON"),
                          (b'{"method":"attach","params":[]}\n', "an object is wanted"), (b'{"method":"attach","params":{"force":1}}\n', "force: the parameters"),
                          (b'{"method":"attach","params":{"colour":true}}\n', "colour: the parameters"), (b"\0\n", "no JSON"), (b"\n", "no JSON")):
        client = Client.__new__(Client)
        Console.__init__(client, os.path.join(os.path.dirname(path), "attach.sock"))
        client.raw(request)
        check(word in client.error, f"{request[:60]!r}: {client.answer}")
        try:
            while client.pump(10):
                pass
        except ConnectionResetError:
            pass  # it was closed before all of a long request was read
    # In pieces, and with what is typed in the same packet.
    client = Client.__new__(Client)
    Console.__init__(client, os.path.join(os.path.dirname(path), "attach.sock"))
    for byte in b'{"method":"atta':
        client.socket.sendall(bytes([byte]))
    client.raw(b'ch"}\nm')
    client.expect(r"\[m\]")
    silent = [connect(os.path.join(os.path.dirname(path), "attach.sock")) for _ in range(3)]
    check(Client(path, read_only=True).answer["result"], "others while some say nothing")
    wait_until("the end of those who say nothing", lambda: all(s.recv(1) == b"" for s in silent), 30)
    d.rpc.result("vm.destroy", ["bad"])


def kept_output(d):
    """Bounded, in order, from a line's start, there while nobody reads, after the daemon's end, and after the VM's own, however it came."""
    log = os.path.join(d.folder, "console.log")
    answer = start(d, "kept", console={"scrollback_kib": 4, "log": log, "log_kib": 8})
    typist = Client(answer["console"])
    typist.expect(READY)
    for i in range(60):  # 12,000 characters back, three for each
        typist.type("".join("abdefghijklmno"[(i + k) % 14] for k in range(64)))
        typist.expect(r"(?:\[\w\]){64}", 60)  # so that 4 KiB do not overrun it
    typist.type("!")
    typist.expect(r"\[!\]", 60)
    whole = typist.text
    typist.close()

    def kept(name="kept", **more):
        result = d.rpc.result("vm.console_log", {"vm": name, **more})
        return base64.b64decode(result["data"]).decode(), result["before"]

    text, before = kept()
    check(len(text) == 4096 and whole.endswith(text) and before == len(whole) - 4096, f"{before} {len(whole)} {text[-80:]!r}")
    check(kept(bytes=10)[0] == whole[-10:], "a part")
    again = Client(answer["console"], read_only=True)
    again.expect(r"\[!\]")
    check(whole.endswith(again.text), repr(again.text[:100]))
    part = Client(answer["console"], read_only=True, scrollback=300)
    part.expect(r"\[!\]")
    check(len(part.text) <= 300 and whole.endswith(part.text), repr(part.text))
    slow = Client(answer["console"], read_only=True)
    with open(log, encoding="ascii") as f:
        written = f.read()
    check(len(written) <= 8192 and whole.endswith(written) and len(written) > 4096, f"{len(written)} in the log")
    d.kill(signal.SIGKILL)
    again.close()
    typist = Client(answer["console"])
    typist.type("?")
    d.start()
    wait_until("what came while no daemon was there", lambda: kept()[0].endswith("[?]"), 20)
    os.kill(answer["pid"], signal.SIGKILL)
    d.rpc.result("vm.wait", ["kept"])
    check(kept()[0].endswith("[!][?]"), "what a killed process leaves")
    out = subprocess.run([program("trictl"), "--socket", d.socket, "console", "--log", "--scrollback", "6", "kept"], capture_output=True, check=True).stdout
    check(out == b"[!][?]", repr(out))
    slow.close()
    answer = start(d, "kept", uuid=d.rpc.result("vm.get", ["kept"])["uuid"], console={"log": log, "log_append": True})
    Client(answer["console"]).expect(READY)
    d.rpc.result("vm.destroy", ["kept"])
    check("[?]" not in kept()[0] and kept()[0].count(READY) == 1, "an older run's output")
    with open(log, encoding="ascii") as f:
        written = f.read()
    check("[!][?]" in written and written.count(READY) == 1, repr(written[-200:]))
    check(start(d, "odd").get("pid"), "another")
    d.rpc.result("vm.destroy", ["odd"])
    d.rpc.result("vm.define", [{"name": "nowhere", "boot": {"kernel": TINY}, "memory_mib": 32, "console": {"log": d.folder + "/none/x"}}])
    error = d.rpc.call("vm.start", ["nowhere"])["error"]["message"]
    check("console.log" in error and "No such file" in error, error)
    d.rpc.result("vm.define", [{"name": "device", "boot": {"kernel": TINY}, "memory_mib": 32, "console": {"log": "/dev/null"}}])
    error = d.rpc.call("vm.start", ["device"])["error"]["message"]
    check("no regular file" in error, error)


def size(d):
    console = d.rpc.result("vm.stats", ["term"])["console"]
    return console["columns"], console["rows"]


def on_terminals(d):
    start(d, "term")
    writer = Terminal(d, "term")
    writer.expect("Ctrl-] leaves")
    writer.expect(READY)
    wait_until("the window's size", lambda: size(d) == (132, 50), 20)
    second = subprocess.run([program("trictl"), "--socket", d.socket, "console", "term"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30)
    check(second.returncode == 1 and "trictl, process" in second.stderr and "by force" in second.stderr, str(second))
    reader = Terminal(d, "--read-only", "--scrollback", "none", "--escape", "^A", "term")
    reader.expect(r"reading only; Ctrl-A leaves")
    writer.type("a")
    writer.expect(r"\[a\]")
    reader.expect(r"\[a\]")
    reader.type("b\x1d")  # neither is sent, and the second is not its escape key
    taker = Terminal(d, "--force", "--escape", "none", "term")
    writer.expect("has taken this console's keyboard")
    taker.type("d\x1d")  # Ctrl-] is the guest's here
    for t in (writer, reader, taker):
        t.expect(r"\[d\]\[\x1d\]")
        check("[b]" not in t.text and READY not in reader.text, t.text)
    # A new size is told.
    fcntl.ioctl(taker.master, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    os.killpg(taker.process.pid, signal.SIGWINCH)
    wait_until("the writer's size", lambda: size(d) == (100, 40), 20)
    reader.type("\x01")
    check(reader.wait() == 0, "the escape key")
    writer.type("\x1d")
    check(writer.wait() == 0, "the other one")
    taker.type("q")
    check(taker.wait() == 0, "the guest's end")
    for arguments, word in ((["--force", "--read-only"], "one of them"), (["--escape", "x"], "neither a key"), (["--scrollback", "1T"], "neither all")):
        p = subprocess.run([program("trictl"), "--socket", d.socket, "console", *arguments, "term"], capture_output=True, text=True)
        check(p.returncode == 2 and word in p.stderr, str(p))


def streams(d):
    """The same through the daemon."""
    start(d, "streams")
    one, two = Rpc(d.socket), Rpc(d.socket)

    def read_until(rpc, number, text):
        seen = b""
        while text not in seen:
            seen += base64.b64decode(rpc.wait_event(lambda e: e.get("stream") == number and "data" in e, 20)["data"])

    first = one.result("vm.console", {"vm": "streams", "stream": True})
    check(first["writer"], str(first))
    message = two.call("vm.console", {"vm": "streams", "stream": True})["error"]
    check(message["code"] == -32003 and f"process {os.getpid()} of user {os.geteuid()} has had" in message["message"], str(message))
    reader = two.result("vm.console", {"vm": "streams", "stream": True, "read_only": True, "scrollback": 0})
    one.result("vm.console_write", {"stream": first["stream"], "text": "s"})
    read_until(two, reader["stream"], b"[s]")
    taker = two.result("vm.console", {"vm": "streams", "stream": True, "force": True})
    read_until(one, first["stream"], b"has taken this console's keyboard")
    two.result("vm.console_write", {"stream": taker["stream"], "text": "t"})
    read_until(one, first["stream"], b"[t]")
    two.close()
    wait_until("the place of one that is gone", lambda: "result" in one.call("vm.console", {"vm": "streams", "stream": True}), 20)
    # A VM's process that does not answer holds up nobody.
    pid = d.rpc.result("vm.get", ["streams"])["process"]["pid"]
    os.kill(pid, signal.SIGSTOP)
    three = Rpc(d.socket)
    three.socket.sendall(b'{"jsonrpc":"2.0","id":1,"method":"vm.console","params":{"vm":"streams","stream":true,"read_only":true}}\n')
    check(d.rpc.result("daemon.version"), "others meanwhile")
    three.close()
    check(d.rpc.result("daemon.version"), "others after it has gone")
    os.kill(pid, signal.SIGCONT)
    check(d.rpc.result("vm.destroy", ["streams"])["state"] == "destroyed", "destroy")


def main():
    tap = Tap()
    with scratch() as folder, Daemon(folder, "--no-calibration") as d:
        for test in (one_writer, raw_clients, bad_requests, kept_output, on_terminals, streams):
            tap.run((test.__doc__ or test.__name__.replace("_", " ")).split(";")[0].strip(), test, d)
    tap.finish()


if __name__ == "__main__":
    main()
