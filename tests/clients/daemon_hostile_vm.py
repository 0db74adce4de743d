#!/usr/bin/python3
"""VM processes that lie, flood, hang and die (fake_vm.py): each harms its own VM only."""

import os
import shutil
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "guests"))
from vmtest import SOURCE, Rpc, Tap, check, program, scratch, wait_until

START = -32005
TINY_IMAGE = b"\0" * 0x202 + b"HdrS\x0f\x02" + b"\0" * 4096  # enough of a bzImage's header for the policy


class Fixture:
    def __init__(self, folder):
        self.folder = folder
        self.log_path = folder + "/log"
        self.kernel = folder + "/kernel"
        self.fake = shutil.copy(os.path.join(SOURCE, "tests", "clients", "fake_vm.py"), folder)
        os.chmod(self.fake, 0o755)
        with open(self.kernel, "wb") as f:
            f.write(TINY_IMAGE)
        with open(folder + "/conf", "w") as f:
            f.write("start_timeout = 2\n")
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen([program("trivisord"), "--foreground", "--socket", folder + "/api.sock", "--state-dir", folder + "/state",
                                             "--runtime-dir", folder + "/run", "--no-calibration", "--config", folder + "/conf", "--vm-program", self.fake], stderr=log)
        self.rpc = Rpc(folder + "/api.sock")

    def log(self):
        with open(self.log_path, errors="replace") as f:
            return f.read()

    def define(self, name):
        return self.rpc.result("vm.define", [{"name": name, "boot": {"kernel": self.kernel}}])["uuid"]

    def cannot_start(self, name, word, timeout=20):
        self.define(name)
        began = time.monotonic()
        error = self.rpc.call("vm.start", [name], timeout).get("error")
        check(error and error["code"] == START and word in error["message"], f"{name}: {error}")
        state = self.rpc.result("vm.get", [name])
        check(state["process"] is None and state["state"] in ("failed", "crashed"), str(state))
        self.rpc.result("vm.undefine", [name])
        return time.monotonic() - began

    def starts_and_ends(self, name, states=("destroyed",)):
        self.define(name)
        answer = self.rpc.call("vm.start", [name])
        check("result" in answer, f"{name}: {answer}")
        end = self.rpc.call("vm.destroy", [name], 30)
        check(end.get("result", {}).get("state") in states, f"{name}: {end}")
        got = self.rpc.result("vm.get", [name])
        check(got["process"] is None and isinstance(got["result"]["reason"], str), str(got))
        return got


def lies_at_hello(f):
    for name, word in (("other-uuid", "another VM"), ("nulls", "protocol"), ("future", "99"), ("odd-mode", "mode"), ("no-object", "protocol")):
        f.cannot_start(name, word)


def dies_at_once(f):
    f.cannot_start("dies", "ABRT")
    f.cannot_start("exits", "exit status 7")


def never_ready(f):
    for name in ("never-serves", "mute", "garbage", "hangs-up"):
        check(f.cannot_start(name, "within 2 s") < 10, f"{name} took too long")


def cannot_be_executed(f):
    os.chmod(f.fake, 0o644)
    try:
        f.define("noexec")
        error = f.rpc.call("vm.start", ["noexec"])["error"]
        check(error["code"] == START and "fake_vm.py" in error["message"], str(error))
        f.rpc.result("vm.undefine", ["noexec"])
    finally:
        os.chmod(f.fake, 0o755)


def answers_oddly(f):
    for name in ("plain", "nulls-later", "odd-ids"):
        f.starts_and_ends(name)
        f.rpc.result("vm.undefine", [name])


def floods(f):
    before = len(f.rpc.result("events.history", {"kind": "events", "limit": 10000}))
    uuid = f.define("flood")
    f.rpc.result("vm.start", ["flood"])
    wait_until("the complaint", lambda: "too many events" in f.log(), 10)
    f.rpc.result("vm.list")
    events = f.rpc.result("events.history", {"kind": "events", "limit": 10000})
    events = events[:len(events) - before]
    check(len(events) < 400, f"{len(events)} events were kept")
    for e in events:
        check(e["uuid"] == uuid and e["name"] == "flood" and e["event"] in ("defined", "state", "started", "reset", "panic", "user_space"), str(e)[:300])
        check(len(str(e)) < 2000, "an event of any size is kept")
    f.rpc.result("vm.destroy", ["flood"], 30)
    f.rpc.result("vm.undefine", ["flood"])


def results_that_are_none(f):
    for name in ("bad-result", "null-result", "alive-result", "utf-result", "huge-result", "list-result", "deep-result"):
        got = f.starts_and_ends(name, ("crashed",))
        check("trivisor-vm died" in got["result"]["reason"], str(got["result"]))
        f.rpc.result("vm.undefine", [name])


def does_not_obey(f):
    f.define("ignores-term")
    f.rpc.result("vm.start", ["ignores-term"])
    check(f.rpc.result("vm.destroy", ["ignores-term"], 30)["state"] == "destroyed", "destroy of one that ignores SIGTERM")
    f.rpc.result("vm.undefine", ["ignores-term"])
    # Told to end before it serves anything, it gets a signal; and SIGKILL when that does not help.
    f.define("never-serves")
    asker = Rpc(f.folder + "/api.sock")
    asker.socket.sendall(b'{"jsonrpc":"2.0","id":1,"method":"vm.start","params":["never-serves"]}\n')
    wait_until("the start", lambda: f.rpc.result("vm.get", ["never-serves"])["process"], 10)
    check(f.rpc.result("vm.destroy", ["never-serves"], 30)["state"] == "destroyed", "destroy while starting")
    check("error" in asker._message(time.monotonic() + 10), "the start was answered as done")
    f.rpc.result("vm.undefine", ["never-serves"])


def leaves_things(f):
    f.starts_and_ends("leaves-things")
    uuid = f.rpc.result("vm.get", ["leaves-things"])["uuid"]
    f.rpc.result("vm.undefine", ["leaves-things"])
    check(os.path.exists("/etc/passwd"), "a link was followed")
    left = os.listdir(f"{f.folder}/run/vms/{uuid}")
    check(left == ["subdirectory"], f"{left} in the directory")


TESTS = (lies_at_hello, dies_at_once, never_ready, cannot_be_executed, answers_oddly, floods, results_that_are_none, does_not_obey, leaves_things)


def main():
    tap = Tap()
    with scratch() as folder:
        f = Fixture(folder)
        for test in TESTS:
            if not tap.run(test.__name__.replace("_", " "), test, f):
                tap.explain(f.log()[-2500:])
                f.rpc = Rpc(folder + "/api.sock")
        f.process.terminate()
        tap.run("a clean end", lambda: check(f.process.wait(30) == 0, f"{f.process.returncode}\n{f.log()[-2500:]}"))
    tap.finish()


if __name__ == "__main__":
    main()
