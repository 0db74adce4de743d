#!/usr/bin/python3
"""A trivisor-vm that misbehaves as its VM's name says: what a daemon must expect of one that its guest took over."""

import json
import os
import signal
import socket
import sys
import time

folder = sys.argv[sys.argv.index("--dir") + 1]
with open(folder + "/definition.json") as f:
    definition = json.load(f)
name = definition["name"]
HELLO = {"protocol": 1, "pid": os.getpid(), "uuid": definition["uuid"], "name": name, "mode": "bt", "mode_reason": "fake", "version": "0"}
STATUS = {"state": "running", "reason": "", "pid": os.getpid(), "started": time.time(), "paused_seconds": 0}
HUGE = "x" * (4 << 20)


def put(file, text):
    with open(folder + "/" + file, "w") as f:
        f.write(text)


def notify(stream, **params):
    stream.write(json.dumps({"jsonrpc": "2.0", "method": "event", "params": params}) + "\n")


def serve(stream):
    for line in stream:
        request = json.loads(line)
        answer = {"hello": HELLO, "status": STATUS}.get(request["method"], {})
        if request["method"] == "hello":
            if name == "garbage":
                stream.write("this is no JSON\n")
                stream.flush()
            elif name == "other-uuid":
                answer = {**HELLO, "uuid": "00000000-0000-4000-8000-000000000000"}
            elif name == "nulls":
                answer = dict.fromkeys(HELLO)
            elif name == "future":
                answer = {**HELLO, "protocol": 99}
            elif name == "odd-mode":
                answer = {**HELLO, "mode": "warp" * 100}
            elif name == "mute":
                continue
            elif name == "no-object":
                answer = [1, 2]
            elif name == "hangs-up":
                return
        if name == "nulls-later" and request["method"] == "status":
            answer = dict.fromkeys(STATUS)
        if name == "odd-ids":
            for id_ in (None, "x", {"a": 1}, request["id"] + 1000, 1e300):
                stream.write(json.dumps({"jsonrpc": "2.0", "id": id_, "result": {}}) + "\n")
        stream.write(json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": answer}) + "\n")
        stream.flush()
        if request["method"] == "status" and name == "flood":
            for i in range(2000):
                notify(stream, event="reset", reason=f"number {i}")
            for kind in (None, 7, "made-up", "ended", "undefined", ["state"], "state"):
                notify(stream, event=kind, state=None, uuid="somebody-else", name=3, reason={"deep": [1]})
            notify(stream, event="panic", reason=HUGE)
            notify(stream, event="state", state="crashed")
            stream.write('{"jsonrpc":"2.0","method":"event"}\n{"jsonrpc":"2.0","method":7,"params":{}}\n[]\n')
            stream.flush()
        if request["method"] == "destroy":
            result = {"protocol": 1, "state": "destroyed", "reason": "fake", "exit_code": 5}
            results = {"bad-result": "{", "null-result": json.dumps(dict.fromkeys(result)), "alive-result": json.dumps({**result, "state": "running"}),
                       "utf-result": '{"state":"destroyed","reason":"\udcff"}', "huge-result": json.dumps({**result, "reason": HUGE}),
                       "list-result": "[]", "deep-result": "[" * 500}
            with open(folder + "/result.json", "w", errors="surrogateescape") as f:
                f.write(results.get(name, json.dumps(result)))
            if name == "leaves-things":
                os.mkdir(folder + "/subdirectory")
                os.symlink("/etc/passwd", folder + "/link")
            os._exit(5)


if name == "ignores-term":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if name == "dies":
    os.kill(os.getpid(), signal.SIGABRT)
if name == "exits":
    sys.exit(7)
if name == "never-serves":
    time.sleep(1000)
with open("/proc/self/stat") as f:
    put("pid", f"{os.getpid()} {f.read().rsplit(')', 1)[1].split()[19]}\n")
listener = socket.socket(socket.AF_UNIX)
listener.bind(folder + "/control.sock")
listener.listen()
while True:
    s, _ = listener.accept()
    try:
        with s.makefile("rw") as stream:
            serve(stream)
    except (BrokenPipeError, ConnectionResetError):
        pass
    s.close()
