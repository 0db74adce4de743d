#!/usr/bin/python3
"""Clients of the libvirt socket that are many, broken or hostile: everybody else is served, and the daemon does not grow."""

import os
import random
import selectors
import struct
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lvtest import READY, domain
from vmtest import Console, Daemon, Tap, check, connect, scratch, wait_until

REMOTE, KEEPALIVE = 0x20008086, 0x6B656570
CALL, REPLY, MESSAGE, STREAM = range(4)
OK, ERROR, CONTINUE = range(3)
OPEN, CLOSE, HOSTNAME, LOOKUP, LIST_ALL, STATE, OPEN_CONSOLE, AUTH_LIST, XML, CREATE_XML, STATS = 1, 2, 59, 23, 273, 212, 201, 66, 14, 10, 344


def string(text):
    data = text.encode()
    return struct.pack(">I", len(data)) + data + bytes(-len(data) % 4)


def packet(procedure, payload=b"", serial=0, kind=CALL, status=OK, program=REMOTE, version=1):
    return struct.pack(">IIIiiIi", 28 + len(payload), program, version, procedure, kind, serial, status) + payload


class Client:
    """A connection spoken by hand."""

    def __init__(self, d, opened=True):
        self.socket = connect(d.libvirt_socket)
        self.socket.settimeout(60)
        self.serial = 0
        if opened:
            check(self.call(OPEN, struct.pack(">I", 1) + string("trivisor:///system") + bytes(4))[0] == OK, "open")

    def read(self, n):
        data = b""
        while len(data) < n:
            more = self.socket.recv(n - len(data))
            if not more:
                raise EOFError
            data += more
        return data

    def receive(self):
        """(type, status, serial, procedure, payload)."""
        length, program, version, procedure, kind, serial, status = struct.unpack(">IIIiiIi", self.read(28))
        return kind, status, serial, procedure, self.read(length - 28)

    def call(self, procedure, payload=b"", **more):
        """(status, payload) of the answer; other packets are dropped."""
        self.serial += 1
        self.socket.sendall(packet(procedure, payload, self.serial, **more))
        while True:
            kind, status, serial, _, answer = self.receive()
            if kind == REPLY and serial == self.serial:
                return status, answer

    def code(self, *arguments, **more):
        """The error's code; 0 for a good answer."""
        status, answer = self.call(*arguments, **more)
        return struct.unpack(">i", answer[:4])[0] if status == ERROR else 0

    def closed(self):
        """Whether the daemon ends the connection."""
        try:
            while self.socket.recv(65536):
                pass
            return True
        except ConnectionResetError:
            return True
        except TimeoutError:
            return False

    def close(self):
        self.socket.close()


def rss(d):
    with open(f"/proc/{d.process.pid}/status") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("VmRSS"))


def descriptors(d):
    return len(os.listdir(f"/proc/{d.process.pid}/fd"))


def well(d):
    c = Client(d)
    check(c.call(HOSTNAME)[0] == OK, "the daemon does not answer")
    c.close()


def refuses(d):
    c = Client(d, opened=False)
    check(c.code(HOSTNAME) == 1 and c.call(AUTH_LIST)[0] == OK, "before open")
    check(c.code(OPEN, struct.pack(">I", 1) + string("zork:///x") + bytes(4)) == 5, "a name nobody serves")
    check(c.code(OPEN, struct.pack(">I", 0x01000000) + string("trivisor:///system") + bytes(4)) == 0, "open")
    check(c.code(OPEN, bytes(8)) == 1, "opened twice")
    check(c.code(4711) == 3 and c.code(-1) == 3 and c.code(0) == 3, "unknown procedures")
    check(c.code(1, program=0x20008087) == 3 and c.code(1, program=1234) == 39 and c.code(HOSTNAME, version=2) == 39, "unknown programs")
    check(c.code(LOOKUP, b"") == 39 and c.code(LOOKUP, struct.pack(">I", 1 << 31)) == 39 and c.code(LOOKUP, string("a\0b")) == 39, "what cannot be decoded")
    check(c.code(LOOKUP, string("nobody")) == 42 and c.call(HOSTNAME, b"and more behind")[0] == OK, "still there")
    # Keepalive, between calls and while one is under way.
    c.socket.sendall(packet(1, kind=MESSAGE, program=KEEPALIVE))
    kind, status, serial, procedure, payload = c.receive()
    check((kind, status, serial, procedure, payload) == (MESSAGE, OK, 0, 2, b""), "no pong")
    # Streams that nobody opened are ignored.
    c.socket.sendall(packet(OPEN_CONSOLE, b"x", 99, kind=STREAM, status=CONTINUE) + packet(OPEN_CONSOLE, b"", 99, kind=STREAM, status=OK))
    check(c.call(HOSTNAME)[0] == OK, "after packets of no stream")
    # A byte at a time.
    for byte in packet(HOSTNAME, serial=500):
        c.socket.sendall(bytes([byte]))
    check(c.receive()[2] == 500, "byte by byte")


def garbage(d):
    for data in (b"GET / HTTP/1.0\r\n\r\n" * 4, bytes(28), b"\xff" * 64, struct.pack(">I", 27) + bytes(30), struct.pack(">I", (16 << 20) + 1) + bytes(30),
                 packet(HOSTNAME, kind=REPLY), packet(HOSTNAME, kind=77), packet(HOSTNAME, kind=4)):
        c = Client(d, opened=False)
        c.socket.sendall(data)
        check(c.closed(), f"{data[:8]!r}: the connection stays")
        c.close()
    numbers = random.Random(1)
    for _ in range(200):
        c = Client(d)
        try:
            for _ in range(numbers.randrange(1, 6)):
                payload = bytes(numbers.choice((0, 0, 0, 1, 2, numbers.randrange(256))) for _ in range(numbers.randrange(200)))
                # Nothing that would start or end what other tests look at: there are no domains here.
                c.socket.sendall(packet(numbers.randrange(-2, 460), payload, numbers.randrange(1 << 32)))
            c.socket.sendall(os.urandom(numbers.randrange(40)))
        except OSError:
            pass
        c.close()
    well(d)


def half_messages(d):
    """Clients that die in mid-message, one that announces much and sends little, one that never reads."""
    before = descriptors(d)
    for n in (1, 3, 4, 20, 27, 28, 30):
        c = Client(d)
        c.socket.sendall(packet(LOOKUP, string("x" * 100))[:n])
        c.close()
    slow = [Client(d) for _ in range(8)]
    for c in slow:
        c.socket.sendall(struct.pack(">I", 16 << 20) + bytes(1000))
    deaf = [Client(d) for _ in range(4)]
    for c in deaf:
        c.socket.setblocking(False)
        sent = 0
        try:
            while sent < 64 << 20:
                sent += c.socket.send(packet(LOOKUP, string("y" * 1000)) * 60)
        except BlockingIOError:
            pass  # it is not read any more, as it must be
        check(sent < 64 << 20, "requests are taken from a client that reads no answers, without an end")
    grown = rss(d)
    well(d)
    check(grown < 200 << 10, f"{grown} KiB for clients that do not read")
    for c in slow + deaf:
        c.close()
    wait_until("the descriptors' end", lambda: descriptors(d) <= before, 20)


FORCE = struct.pack(">I", 1)  # VIR_DOMAIN_CONSOLE_FORCE


def unread_console(d):
    """A client that never reads its console stream, and one that floods a guest which does not read."""
    c = Client(d)
    status, answer = c.call(CREATE_XML, string(domain("chatty")) + bytes(4))
    check(status == OK, str(answer))
    dom = answer
    talker = Console(d.rpc.result("vm.console", ["chatty"])["path"])
    talker.expect(READY)
    talker.type("h")  # the writer's place: those who come later read
    talker.expect(r"\[h\]")
    deaf = [Client(d) for _ in range(3)]
    for x in deaf:
        check(x.call(OPEN_CONSOLE, dom + bytes(8))[0] == OK, "console")
    for _ in range(200):
        talker.socket.sendall(b"hijklmno")
    talker.expect(r"\[o\]")
    # By force, since only a writer's bytes wait. A paused guest takes nothing; the stream ends with an error, the connection stays.
    c.serial += 1
    c.socket.sendall(packet(OPEN_CONSOLE, dom + bytes(4) + FORCE, c.serial))
    stream = c.serial
    d.rpc.result("vm.pause", ["chatty"])
    broken = False
    for _ in range(200):
        c.socket.sendall(packet(OPEN_CONSOLE, b"z" * 60000, stream, kind=STREAM, status=CONTINUE))
    deadline = time.monotonic() + 30
    while not broken and time.monotonic() < deadline:
        kind, status, serial, _, payload = c.receive()
        broken = kind == STREAM and status == ERROR and b"does not read" in payload
    check(broken, "12 MB for a guest that does not read were taken")
    check(c.call(HOSTNAME)[0] == OK, "the connection after its stream broke")
    d.rpc.result("vm.resume", ["chatty"])
    check(d.rpc.result("vm.destroy", ["chatty"])["state"] == "destroyed", "destroy")
    for x in deaf:
        x.close()
    well(d)


def many(d):
    """64 clients at once, 1,000 calls each: no error, no growth."""
    clients, calls = 64, 1000
    for i in range(20):
        d.rpc.result("vm.define", [{"name": f"vm{i}", "memory_mib": 32, "boot": {"kernel": "/k"}}])
    dom = Client(d).call(LOOKUP, string("vm7"))[1]
    kinds = [(HOSTNAME, b""), (LOOKUP, string("vm3")), (LIST_ALL, struct.pack(">iI", 1, 3)), (STATE, dom + bytes(4)), (XML, dom + bytes(4)),
             (STATS, struct.pack(">III", 0, 0, 0))]

    def round_of(n):
        selector = selectors.DefaultSelector()
        todo = {}
        for i in range(clients):
            c = Client(d)
            c.socket.setblocking(False)
            todo[c] = [0, b""]  # calls answered, bytes so far
            selector.register(c.socket, selectors.EVENT_READ, c)
            c.socket.sendall(packet(*kinds[0], 1000))
        deadline = time.monotonic() + 300
        while todo:
            check(time.monotonic() < deadline, f"{len(todo)} clients are not done")
            for key, _ in selector.select(5):
                c = key.data
                state = todo[c]
                state[1] += c.socket.recv(1 << 20)
                while len(state[1]) >= 28:
                    length, _, _, _, kind, serial, status = struct.unpack(">IIIiiIi", state[1][:28])
                    if len(state[1]) < length:
                        break
                    check((kind, status, serial) == (REPLY, OK, 1000 + state[0]), f"call {state[0]}: {kind} {status} {serial}")
                    state[1] = state[1][length:]
                    state[0] += 1
                    if state[0] < n:
                        c.socket.sendall(packet(*kinds[state[0] % len(kinds)], 1000 + state[0]))
                if state[0] >= n:
                    selector.unregister(c.socket)
                    c.close()
                    del todo[c]

    round_of(50)  # so that what is allocated once is there
    before, files = rss(d), descriptors(d)
    began = time.monotonic()
    round_of(calls)
    seconds = time.monotonic() - began
    wait_until("the descriptors' end", lambda: descriptors(d) <= files, 20)
    print(f"# {clients} clients, {calls} calls each: {clients * calls / seconds:.0f} calls/s; resident {before} -> {rss(d)} KiB")
    with open(f"/proc/{d.process.pid}/maps") as f:
        sanitized = "libasan" in f.read()  # which keeps what was freed for a while
    check(sanitized or rss(d) < before + 4096, f"the daemon grew from {before} to {rss(d)} KiB")


def main():
    tap = Tap()
    for test in (refuses, garbage, half_messages, unread_console, many):
        with scratch() as folder:
            def one():
                with Daemon(folder) as d:
                    test(d)
                    check(d.process.poll() is None, "the daemon died")
            tap.run(f"libvirt socket: {test.__name__}", one)
    tap.finish()


main()
