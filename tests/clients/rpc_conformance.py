#!/usr/bin/python3
"""The JSON-RPC API held to JSON-RPC 2.0, to its own description, and to its limits."""

import json
import os
import random
import socket
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "guests"))
from vmtest import SOURCE, Daemon, Rpc, Tap, check, connect, program, scratch, wait_until

PARSE, REQUEST, METHOD, PARAMS = -32700, -32600, -32601, -32602
NOT_FOUND, EXISTS, STATE, START = -32001, -32002, -32003, -32005


class Raw:
    """Bytes out, lines in."""

    def __init__(self, path):
        self.socket = connect(path)
        self.socket.settimeout(30)
        self.file = self.socket.makefile("rb")

    def send(self, data):
        self.socket.sendall(data if isinstance(data, bytes) else data.encode())

    def line(self):
        line = self.file.readline()
        check(line.endswith(b"\n"), f"no whole line: {line[:100]!r}")
        return json.loads(line)

    def ask(self, text):
        self.send(text if isinstance(text, bytes) else text + "\n")
        return self.line()

    def nothing_more(self):
        """Whatever was sent before got no answer: a marker's answer comes first."""
        answer = self.ask('{"jsonrpc":"2.0","id":"marker","method":"daemon.version"}')
        check(not isinstance(answer, list) and answer["id"] == "marker", f"an answer that was not due: {answer}")


def request(method, params=None, id_=1):
    r = {"jsonrpc": "2.0", "id": id_, "method": method}
    if params is not None:
        r["params"] = params
    return json.dumps(r)


def code_of(answer, id_):
    check(set(answer) == {"jsonrpc", "error", "id"}, f"members of an error response: {answer}")
    check(answer["jsonrpc"] == "2.0" and answer["id"] == id_, str(answer))
    check(isinstance(answer["error"]["code"], int) and answer["error"]["message"], str(answer))
    return answer["error"]["code"]


def expect_error(raw, text, code, id_, words=""):
    answer = raw.ask(text)
    check(code_of(answer, id_) == code, f"{str(text)[:200]} -> {answer}, not {code}")
    check(words in answer["error"]["message"], f"{words!r} is not in {answer['error']['message']!r}")


def parse_errors(d):
    raw = Raw(d.socket)
    for text in ("{", "{bad", "nul", "\"abc", "{\"jsonrpc\":\"2.0\",}", "[1,", "{'jsonrpc':'2.0'}", "1 2", "{} {}", "+1", "01",
                 "[1,]", "\x01", "{\"a\":\"\t\"}", "tru", "]"):
        expect_error(raw, text, PARSE, None)
    for data in (b'"\xff"\n', b'{"jsonrpc":"2.0","id":1,"method":"\xc3("}\n', b'"a\0b"\n'):
        expect_error(raw, data, PARSE, None)
    expect_error(raw, "[" * 100 + "]" * 100, PARSE, None)
    expect_error(raw, "[" * 100000, PARSE, None)
    raw.nothing_more()


def invalid_requests(d):
    raw = Raw(d.socket)
    for text in ("1", "\"x\"", "null", "true", "{}", '{"jsonrpc":"2.0"}', '{"method":"vm.list"}', '{"jsonrpc":"1.0","method":"vm.list"}',
                 '{"jsonrpc":2.0,"method":"vm.list"}', '{"jsonrpc":"2.0","method":1}'):
        expect_error(raw, text, REQUEST, None)
    expect_error(raw, '{"jsonrpc":"2.0","method":"vm.list","params":1,"id":5}', REQUEST, 5)
    expect_error(raw, '{"jsonrpc":"2.0","method":"vm.list","params":"x","id":"5"}', REQUEST, "5")
    expect_error(raw, '{"jsonrpc":"2.0","method":"vm.list","extra":1,"id":6}', REQUEST, 6)
    for bad_id in ("{}", "[]", "true", "1e999"):
        expect_error(raw, '{"jsonrpc":"2.0","method":"vm.list","id":%s}' % bad_id, REQUEST, None)


def ids(d):
    raw = Raw(d.socket)
    for id_ in (0, 1, -1, 2**53, 2**62, 2**63, 2**64 - 1, -2**63, 1.5, "", "x", "1", "9" * 40, "é\"\\", None):
        answer = raw.ask(request("vm.list", id_=id_))
        check(answer["id"] == id_ and type(answer["id"]) is type(id_), f"id {id_!r} came back as {answer['id']!r}")
        check(answer.get("result") == [], str(answer))
    for id_ in (2**64, 10**20, -2**63 - 1, 10**400):
        expect_error(raw, request("vm.list", id_=id_), REQUEST, None, "64 bits")
    answers = raw.ask("[%s,%s]" % (request("vm.list", id_=10**20), request("vm.list", id_=7)))
    check(code_of(answers[0], None) == REQUEST and answers[1]["id"] == 7 and "result" in answers[1], str(answers))


def notifications(d):
    raw = Raw(d.socket)
    raw.send('{"jsonrpc":"2.0","method":"vm.list"}\n{"jsonrpc":"2.0","method":"no.such"}\n'
             '{"jsonrpc":"2.0","method":"vm.get","params":{"vm":"no such"}}\n{"jsonrpc":"2.0","method":"vm.get","params":[1,2,3]}\n'
             '[{"jsonrpc":"2.0","method":"vm.list"},{"jsonrpc":"2.0","method":"no.such"}]\n\n  \r\n')
    raw.nothing_more()


def batches(d):
    raw = Raw(d.socket)
    expect_error(raw, "[]", REQUEST, None)
    answers = raw.ask("[1]")
    check(len(answers) == 1 and code_of(answers[0], None) == REQUEST, str(answers))
    answers = raw.ask("[1,2,3]")
    check(len(answers) == 3 and all(code_of(a, None) == REQUEST for a in answers), str(answers))
    batch = [json.loads(request("vm.list", id_="a")), {"jsonrpc": "2.0", "method": "vm.list"}, 7,
             json.loads(request("no.such", id_="b")), json.loads(request("vm.list", {"x": 1}, id_="c")),
             json.loads(request("daemon.version", [], id_=None))]
    answers = raw.ask(json.dumps(batch))
    check(len(answers) == 5, f"5 answers are due, not {len(answers)}: {answers}")
    by_id = {a["id"]: a for a in answers if a["id"] is not None}
    check(by_id["a"]["result"] == [], str(by_id))
    check(code_of(by_id["b"], "b") == METHOD and code_of(by_id["c"], "c") == PARAMS, str(by_id))
    # Slow and fast ones together: the answer waits for all.
    definition = {"name": "batch", "boot": {"kernel": "/k"}}
    answers = raw.ask(json.dumps([json.loads(request("vm.define", [definition], 1)), json.loads(request("vm.list", None, 2))]))
    check(sorted(a["id"] for a in answers) == [1, 2] and all("result" in a for a in answers), str(answers))
    check("result" in raw.ask(request("vm.undefine", ["batch"])), "undefine")
    answers = raw.ask("[" + ",".join([request("vm.list", None, i) for i in range(1000)]) + "]")
    check(len(answers) == 1000 and {a["id"] for a in answers} == set(range(1000)), "a batch of 1000")
    expect_error(raw, "[" + ",".join(["1"] * 1001) + "]", REQUEST, None, "1001")
    expect_error(raw, "[" + ",".join(["1"] * 900000) + "]", REQUEST, None, "values")


def unknown_things_are_named(d):
    raw = Raw(d.socket)
    expect_error(raw, request("no.such"), METHOD, 1, "no.such")
    expect_error(raw, request("rpc.nothing"), METHOD, 1)
    expect_error(raw, request("VM.LIST"), METHOD, 1)
    expect_error(raw, request("vm.get", {"vm": "a", "colour": 1}), PARAMS, 1, "colour")
    expect_error(raw, request("vm.get", {}), PARAMS, 1, "vm")
    expect_error(raw, request("vm.get"), PARAMS, 1, "vm")
    expect_error(raw, request("vm.get", {"vm": 7}), PARAMS, 1, "vm: expected a string")
    expect_error(raw, request("vm.get", {"vm": None}), PARAMS, 1, "vm")
    expect_error(raw, request("vm.get", {"vm": ""}), PARAMS, 1, "vm")
    expect_error(raw, request("vm.get", {"vm": "a\0b"}), PARAMS, 1)
    expect_error(raw, request("vm.get", ["a", "b"]), PARAMS, 1)
    expect_error(raw, request("vm.list", ["a"]), PARAMS, 1)
    expect_error(raw, request("vm.get", {"vm": "nobody"}), NOT_FOUND, 1, "nobody")
    expect_error(raw, request("vm.wait", {"vm": "x", "timeout": "1"}), PARAMS, 1, "timeout")
    expect_error(raw, request("vm.wait", {"vm": "x", "timeout": -1}), PARAMS, 1, "timeout")
    expect_error(raw, request("vm.start", {"vm": "x", "mode": "fast"}), PARAMS, 1, "fast")
    expect_error(raw, request("events.subscribe", {"events": [1]}), PARAMS, 1, "events[0]")
    expect_error(raw, request("events.history", {"kind": "gossip"}), PARAMS, 1, "gossip")
    expect_error(raw, request("policy.explain", {}), PARAMS, 1)


def definitions_are_checked(d):
    raw = Raw(d.socket)
    good = {"name": "good", "boot": {"kernel": "/boot/vmlinuz"}}
    for change, word in (({"nam": 1}, "nam"), ({"boot": {"kernel": "/k", "kernal": "/k"}}, "boot.kernal"), ({"boot": {}}, "boot"),
                         ({"boot": {"kernel": "relative"}}, "boot.kernel"), ({"memory_mib": "512"}, "memory_mib"),
                         ({"memory_mib": 1}, "memory_mib"), ({"memory_mib": -5}, "memory_mib"), ({"memory_mib": 2**40}, "memory_mib"),
                         ({"memory_mib": 1.5}, "memory_mib"), ({"vcpus": 0}, "vcpus"), ({"vcpus": 100000}, "vcpus"),
                         ({"mode": "qemu"}, "mode"), ({"name": ""}, "name"), ({"name": "a/b"}, "name"), ({"name": "x" * 1000}, "name"),
                         ({"uuid": "123"}, "uuid"), ({"disks": [{"pth": "/d"}]}, "disks[0].pth"), ({"disks": {}}, "disks"),
                         ({"boot": {"kernel": "/k", "cmdline": "x" * 5000}}, "boot.cmdline")):
        expect_error(raw, request("vm.define", {"definition": {**good, **change}}), PARAMS, 1, word)
    expect_error(raw, request("vm.define", {"definition": {"boot": {"kernel": "/k"}}}), PARAMS, 1, "name")
    expect_error(raw, request("vm.define", {"definition": []}), PARAMS, 1, "definition")
    check(raw.ask(request("vm.list"))["result"] == [], "a refused definition was kept")

    identity = raw.ask(request("vm.define", [good]))["result"]
    check(identity["name"] == "good" and len(identity["uuid"]) == 36, str(identity))
    expect_error(raw, request("vm.define", [good]), EXISTS, 1, "good")
    expect_error(raw, request("vm.define", [{**good, "uuid": identity["uuid"].replace(identity["uuid"][0], "0" if identity["uuid"][0] != "0" else "1")}]),
                 EXISTS, 1, "good")
    got = raw.ask(request("vm.get", [identity["uuid"].upper()]))["result"]
    check(got["definition"]["name"] == "good" and got["state"] == "defined" and got["process"] is None, str(got))
    # What is given back is a definition, and the same one.
    again = raw.ask(request("vm.define", [{**got["definition"], "memory_mib": 77, "name": "better"}]))
    check(again["result"] == {"uuid": identity["uuid"], "name": "better"}, str(again))
    got = raw.ask(request("vm.get", ["better"]))["result"]
    check(got["definition"]["memory_mib"] == 77, str(got))
    expect_error(raw, request("vm.get", ["good"]), NOT_FOUND, 1)
    expect_error(raw, request("vm.stats", ["better"]), STATE, 1)
    expect_error(raw, request("vm.wait", ["better"]), STATE, 1)
    for method in ("shutdown", "destroy", "pause", "resume", "console", "claim"):
        expect_error(raw, request("vm." + method, ["better"]), STATE, 1)
    expect_error(raw, request("vm.start", ["better"]), START, 1, "/boot/vmlinuz")
    check(raw.ask(request("vm.undefine", ["better"]))["result"] == {}, "undefine")
    expect_error(raw, request("vm.undefine", ["better"]), NOT_FOUND, 1)


def too_large(d):
    raw = Raw(d.socket)
    name = "x" * (16 * 1024 * 1024 - 200)
    raw.send(request("vm.get", {"vm": name}) + "\n")
    answer = raw.line()
    check(code_of(answer, 1) == PARAMS, "a message below 16 MiB is a message")
    raw = Raw(d.socket)
    try:
        raw.send(b"x" * (17 << 20))
    except (BrokenPipeError, ConnectionResetError):
        pass
    answer = raw.line()
    check(code_of(answer, None) == REQUEST and "16 MiB" in answer["error"]["message"], str(answer))
    try:
        rest = raw.file.read()
    except ConnectionResetError:
        rest = b""
    check(rest == b"", "the connection goes on after a message that was too long")
    Raw(d.socket).nothing_more()


def byte_at_a_time(d):
    raw = Raw(d.socket)
    for byte in (request("vm.list") + "\r\n" + request("daemon.version", None, 2) + "\n").encode():
        raw.send(bytes([byte]))
    check(raw.line()["result"] == [] and raw.line()["id"] == 2, "byte at a time")
    # Many in one write.
    raw.send("".join(request("vm.list", None, i) + "\n" for i in range(500)))
    check([raw.line()["id"] for _ in range(500)] == list(range(500)), "500 at once")


def silent_client(d):
    """One that asks for megabytes and never reads stalls nobody, and does not fill the daemon's memory."""
    mute = Raw(d.socket)
    mute.socket.settimeout(3)
    text = (request("rpc.discover") + "\n") * 50
    sent = 0
    try:
        while sent < 64 << 20:
            mute.send(text)
            sent += len(text)
    except (TimeoutError, socket.timeout):
        pass
    check(sent < 64 << 20, "the daemon took 64 MiB of requests from one who reads no answers")
    began = time.monotonic()
    Raw(d.socket).nothing_more()
    check(time.monotonic() - began < 2, "another client had to wait")
    with open(f"/proc/{d.process.pid}/status") as f:
        rss = next(int(l.split()[1]) for l in f if l.startswith("VmRSS:"))
    check(rss < 200 << 10, f"the daemon uses {rss} KiB")
    # It gets what it asked for once it reads.
    mute.socket.settimeout(30)
    check(mute.line()["result"]["openrpc"], "answers are gone")


def half_closed(d):
    """Who says no more may still read: all answers come, then the end."""
    s = Raw(d.socket)
    s.send("".join(request("vm.define", [{"name": f"half{i}", "boot": {"kernel": "/k"}}], i) + "\n" for i in range(5)))
    s.socket.shutdown(socket.SHUT_WR)
    answers = [json.loads(l) for l in s.file.read().splitlines()]
    check(len(answers) == 5 and all("result" in a for a in answers), str(answers))
    # The last one may lack its newline.
    for text, due in ((request("vm.list"), "result"), (request("vm.list") + "\n" + request("no.such") + "\r", "error"), ('{"jsonrpc"', "error")):
        s = Raw(d.socket)
        s.send(text)
        s.socket.shutdown(socket.SHUT_WR)
        answers = [json.loads(l) for l in s.file.read().splitlines()]
        check(len(answers) == text.count("\n") + 1 and due in answers[-1], f"{text}: {answers}")
    raw = Raw(d.socket)
    for i in range(5):
        check("result" in raw.ask(request("vm.undefine", [f"half{i}"])), "undefine")


def disconnects(d):
    """Clients that go at every possible moment."""
    for i in range(200):
        s = Raw(d.socket)
        if i % 4 == 1:
            s.send('{"jsonrpc":"2.0","id":1,"meth')
        elif i % 4 == 2:
            s.send(request("vm.define", [{"name": f"gone{i}", "boot": {"kernel": "/k"}}]) + "\n")
        elif i % 4 == 3:
            s.send(request("events.subscribe") + "\n" + request("rpc.discover") + "\n")
        s.file.close()
        s.socket.close()
    raw = Raw(d.socket)
    raw.nothing_more()
    # What was asked before the client left was done, or not; but each whole.
    wait_until("all definitions are settled", lambda: len(raw.ask(request("vm.list"))["result"]) == 50, 10)
    for vm in raw.ask(request("vm.list"))["result"]:
        check("result" in raw.ask(request("vm.undefine", [vm["uuid"]])), "undefine")


def events(d):
    raw = Rpc(d.socket)
    other = Rpc(d.socket)
    number = raw.result("events.subscribe")["subscription"]
    only = other.result("events.subscribe", {"events": ["undefined"]})["subscription"]
    uuid = raw.result("vm.define", [{"name": "ev", "boot": {"kernel": "/k"}}])["uuid"]
    event = raw.wait_event(lambda e: e["event"] == "defined", 5)
    check(event["uuid"] == uuid and event["name"] == "ev" and event["subscription"] == number and event["time"] > 1e9, str(event))
    raw.result("vm.undefine", ["ev"])
    raw.wait_event(lambda e: e["event"] == "undefined", 5)
    check(other.wait_event(lambda e: True, 5)["event"] == "undefined" and not other.events, "a filter that lets others through")
    raw.result("events.unsubscribe", [number])
    check(raw.call("events.unsubscribe", [number])["error"]["code"] == PARAMS, "unsubscribed twice")
    check(other.call("events.unsubscribe", [only + 7])["error"]["code"] == PARAMS, "unsubscribed what was none")
    raw.result("vm.define", [{"name": "ev", "boot": {"kernel": "/k"}}])
    raw.result("vm.undefine", ["ev"])
    check(not raw.events, f"events after the end of the subscription: {raw.events}")
    kept = raw.result("events.history", {"kind": "events", "limit": 2})
    check([e["event"] for e in kept] == ["undefined", "defined"], str(kept))
    check(raw.call("events.subscribe", {"vm": "nobody"})["error"]["code"] == NOT_FOUND, "subscribed to nobody")


class Schema:
    """Enough of JSON Schema for the daemon's own description."""

    def __init__(self, document):
        self.components = document["components"]["schemas"]

    def check(self, schema, value, path):
        if "$ref" in schema:
            schema = self.components[schema["$ref"].rsplit("/", 1)[1]]
        types = schema.get("type")
        if types:
            types = types if isinstance(types, list) else [types]
            check(any(self.is_a(t, value) for t in types), f"{path}: {value!r} is no {types}")
        if "enum" in schema and value is not None:
            check(value in schema["enum"], f"{path}: {value!r} is none of {schema['enum']}")
        if isinstance(value, dict) and "properties" in schema:
            for key in schema.get("required", []):
                check(key in value, f"{path}: {key} is missing")
            for key, member in value.items():
                if key in schema["properties"]:
                    self.check(schema["properties"][key], member, f"{path}.{key}")
                else:
                    check(schema.get("additionalProperties", True), f"{path}: {key} is not described")
        if isinstance(value, list) and "items" in schema:
            for i, item in enumerate(value):
                self.check(schema["items"], item, f"{path}[{i}]")

    @staticmethod
    def is_a(name, value):
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return {"object": isinstance(value, dict), "array": isinstance(value, list), "string": isinstance(value, str),
                "boolean": isinstance(value, bool), "null": value is None, "number": number,
                "integer": number and float(value).is_integer()}[name]


def description_holds(d):
    rpc = Rpc(d.socket)
    document = rpc.result("rpc.discover")
    check(document["openrpc"].startswith("1.") and document["info"]["title"] and document["info"]["version"], "info")
    methods = {m["name"]: m for m in document["methods"]}
    for name in ("daemon.version", "host.probe", "host.calibrate", "modes.list", "modes.compare", "policy.explain", "vm.define", "vm.undefine", "vm.list",
                 "vm.get", "vm.start", "vm.shutdown", "vm.destroy", "vm.pause", "vm.resume", "vm.stats", "vm.wait", "vm.console",
                 "events.subscribe", "rpc.discover"):
        check(name in methods, f"{name} is not described")
    for m in methods.values():
        check(m["summary"] and "schema" in m["result"] and all("schema" in p for p in m["params"]), m["name"])
        # Required ones first, or they could not be given by position.
        required = [p["required"] for p in m["params"]]
        check(required == sorted(required, reverse=True), f"{m['name']}: an optional parameter before a required one")
        if any(required):
            check(rpc.call(m["name"])["error"]["code"] == PARAMS, f"{m['name']} without its parameters")
    check({e["code"] for e in document["components"]["errors"].values()} >= {PARSE, REQUEST, METHOD, PARAMS, NOT_FOUND, EXISTS, STATE}, "errors")
    schema = Schema(document)
    definition = {"name": "desc", "boot": {"kernel": "/nowhere/vmlinuz"}}
    uuid = rpc.result("vm.define", [definition])["uuid"]
    for method, params in (("daemon.version", None), ("host.probe", None), ("modes.list", None), ("modes.compare", None),
                           ("policy.explain", {"vm": uuid}), ("policy.explain", {"definition": definition}), ("vm.list", None),
                           ("vm.get", [uuid]), ("events.history", ["events"]), ("events.history", ["decisions"]), ("rpc.discover", None),
                           ("vm.undefine", [uuid])):
        schema.check(methods[method]["result"]["schema"], rpc.result(method, params), method)


def policy_is_honest(d):
    rpc = Rpc(d.socket)
    modes = {m["mode"]: m for m in rpc.result("modes.list")}
    check(set(modes) == {"bt", "hvm", "pv"}, str(modes))
    for m in modes.values():
        check(m["reason"] and (m["usable"] or not m["in_build"] or m.get("remedy")), f"not usable, without a remedy: {m}")
        check(m["in_build"] or (not m["usable"] and "not in this version" in m["reason"]), str(m))
    facts = {f["name"]: f for f in rpc.result("host.probe")["facts"]}
    check(facts["kvm_device"]["value"] == os.path.exists("/dev/kvm"), str(facts["kvm_device"]))
    check(facts["cores"]["value"] == len(os.sched_getaffinity(d.process.pid)), str(facts["cores"]))
    check(all(f["source"] for f in facts.values()), "a fact without a source")
    definition = {"name": "p", "boot": {"kernel": "/nowhere"}}
    for wish in ("auto", "bt", "hvm", "pv"):
        decision = rpc.result("policy.explain", {"definition": {**definition, "mode": wish}})
        check(decision["wish"] == wish and decision["reason"] and len(decision["candidates"]) == 3, str(decision))
        chosen = [c["mode"] for c in decision["candidates"] if c["verdict"] == "chosen"]
        check(chosen == ([decision["mode"]] if decision["mode"] else []), str(decision))
        if wish != "auto" and not modes[wish]["usable"]:
            check(decision["mode"] is None and wish in decision["reason"], str(decision))
        check("/nowhere" in decision["guest"]["problem"], str(decision["guest"]))
    rows = rpc.result("modes.compare")
    check(len(rows) >= 5 and {"technique", "performance"} <= {r["aspect"] for r in rows}, str([r["aspect"] for r in rows]))
    performance = next(r for r in rows if r["aspect"] == "performance")
    check(all("host" in performance[m] for m in modes), "performance says nothing of this host")


def many_clients(d):
    """Several at once, each with its own answers."""
    failures = []

    def work(number):
        try:
            rpc = Rpc(d.socket)
            for i in range(30):
                name = f"c{number}x{i}"
                uuid = rpc.result("vm.define", [{"name": name, "boot": {"kernel": "/k"}}])["uuid"]
                check(rpc.result("vm.get", [name])["uuid"] == uuid, "somebody else's VM")
                rpc.result("vm.undefine", [uuid])
        except Exception as e:  # a thread's exception would be lost
            failures.append(repr(e))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    check(not failures, "\n".join(failures))
    check(Rpc(d.socket).result("vm.list") == [], "VMs are left")


def same_name_race(d):
    """Of many that define one name at once exactly one may win."""
    clients = [Raw(d.socket) for _ in range(20)]
    for c in clients:
        c.send(request("vm.define", [{"name": "race", "boot": {"kernel": "/k"}}]) + "\n")
    answers = [c.line() for c in clients]
    check(sum("result" in a for a in answers) == 1, str(answers))
    check(all(a["error"]["code"] == EXISTS for a in answers if "error" in a), str(answers))
    check("result" in clients[0].ask(request("vm.undefine", ["race"])), "undefine")


def trictl_says_the_same(d):
    def trictl(*arguments, text=None):
        return subprocess.run([program("trictl"), "--socket", d.socket, *arguments], input=text, capture_output=True, text=True, timeout=30, check=False)

    definition = {"name": "cli", "boot": {"kernel": "/nowhere/vmlinuz"}, "memory_mib": 64}
    r = trictl("define", "-", text=json.dumps(definition))
    check(r.returncode == 0 and len(r.stdout.strip()) == 36, str(r))
    r = trictl("list", "--json")
    check(json.loads(r.stdout)[0]["name"] == "cli", r.stdout)
    r = trictl("list")
    check("cli" in r.stdout and r.stdout.startswith("NAME"), r.stdout)
    for command in (["info", "cli"], ["host"], ["modes"], ["compare"], ["explain", "cli"], ["version"]):
        plain, as_json = trictl(*command), trictl("--json", *command)
        check(plain.returncode == 0 and plain.stdout and as_json.returncode == 0, str(plain))
        json.loads(as_json.stdout)
    r = trictl("start", "cli")
    check(r.returncode == 3 and "/nowhere/vmlinuz" in r.stderr, str(r))
    r = trictl("call", "vm.get", '{"vm":"cli"}')
    check(json.loads(r.stdout)["name"] == "cli", r.stdout)
    check(trictl("call", "no.such").returncode == 1 and trictl("call", "vm.get", "{").returncode == 2, "call")
    check(trictl("info", "nobody").returncode == 1 and trictl("nonsense").returncode == 2 and trictl().returncode == 2, "exit statuses")
    check(trictl("define", "/nowhere.json").returncode == 1 and trictl("define", "-", text="{").returncode == 1, "define")
    check(trictl("undefine", "cli").returncode == 0, "undefine")
    r = subprocess.run([program("trictl"), "--socket", "/nowhere/socket", "list"], capture_output=True, text=True, check=False)
    check(r.returncode == 6 and "/nowhere/socket" in r.stderr, str(r))


def garbage(d):
    """Messages broken at random (the seed is printed when it matters): always an answer that is JSON-RPC, never the end."""
    seed = int(os.environ.get("TRIVISOR_TEST_SEED", "20261122"))
    rng = random.Random(seed)
    samples = [request("vm.define", [{"name": "g", "boot": {"kernel": "/k", "cmdline": "x"}, "disks": [{"path": "/d"}]}], "i"),
               request("events.subscribe", {"vm": "g", "events": ["a", "b"]}, 1.5), request("vm.wait", {"vm": "g", "timeout": 0.1}, None),
               "[" + request("vm.list") + "," + request("vm.console_write", {"stream": 1, "data": "YQ=="}) + "]", request("rpc.discover"),
               request("policy.explain", {"definition": {"name": "\u00e9\ud83d\ude00", "boot": {"firmware": "/f"}}}, -7)]
    pieces = [b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b"\\u0000", b"\\ud800", b"1e400", b"-0", b"null", b"\xff", b"\0", b"9" * 40, b"[" * 70]
    raw = Raw(d.socket)
    for i in range(1500):
        text = bytearray(rng.choice(samples).encode())
        for _ in range(rng.randint(1, 6)):
            at = rng.randrange(len(text) + 1)
            if rng.random() < 0.5:
                text[at:at] = rng.choice(pieces)
            else:
                del text[at:at + rng.randint(1, 8)]
        text = bytes(text).replace(b"\n", b" ") + b"\n" + request("daemon.version", None, f"after {i}").encode() + b"\n"
        raw.send(text)
        while True:
            answer = raw.line()
            for a in answer if isinstance(answer, list) else [answer]:
                check(a["jsonrpc"] == "2.0" and ("id" in a or a["method"] in ("event", "console.data")), f"seed {seed}: {text!r} -> {a}")
            if not isinstance(answer, list) and answer.get("id") == f"after {i}":
                break
    rpc = Rpc(d.socket)
    for vm in rpc.result("vm.list"):
        rpc.result("vm.undefine", [vm["uuid"]])


def printed_reference(d):
    """docs/api.md is what the program prints, and the printed OpenRPC document is what it answers."""
    printed = subprocess.run([program("trivisord"), "--print-api"], capture_output=True, text=True, check=True).stdout
    with open(os.path.join(SOURCE, "docs", "api.md")) as f:
        check(f.read() == printed, "docs/api.md is old: trivisord --print-api > docs/api.md")
    printed = subprocess.run([program("trivisord"), "--print-openrpc"], capture_output=True, text=True, check=True).stdout
    check(json.loads(printed) == Rpc(d.socket).result("rpc.discover"), "--print-openrpc says something else")


TESTS = (parse_errors, invalid_requests, ids, notifications, batches, unknown_things_are_named, definitions_are_checked, too_large,
         byte_at_a_time, silent_client, half_closed, disconnects, events, description_holds, policy_is_honest, many_clients,
         same_name_race, trictl_says_the_same, printed_reference, garbage)


def main():
    tap = Tap()
    with scratch() as folder, Daemon(folder) as d:
        for test in TESTS:
            tap.run(test.__name__.replace("_", " "), test, d)
            if d.process.poll() is not None:
                tap.explain(f"the daemon died: {d.process.returncode}\n{d.log()}")
                tap.run("the daemon lives", check, False, "it died")
                break
        else:
            tap.run("a clean end", lambda: check(d.kill(15) == 0, f"exit status {d.process.returncode}\n{d.log()}"))
    tap.finish()


if __name__ == "__main__":
    main()
