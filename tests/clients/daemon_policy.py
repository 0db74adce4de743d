#!/usr/bin/python3
"""The host measured by the daemon: every figure, kept and used, after kills and with damaged stores and broken programs."""

import json
import os
import signal
import sqlite3
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "guests"))
from vmtest import BUILD, Daemon, Rpc, Tap, check, program, scratch, wait_until

LOOPS = ("integer", "floating", "vector", "memory", "tlb")
KERNEL = ("syscall", "fault", "process", "interrupt", "virtio")
TINY = os.path.join(BUILD, "tests", "clients", "tiny.elf")


def calibrations(d):
    return d.log().count("measuring this host")


def guests_below(folder):
    """Processes whose command line names a directory below."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as f:
                if os.path.join(folder, "run", "calibrate").encode() in f.read():
                    found.append(int(pid))
        except OSError:
            pass
    return found


def measured(d):
    """host.probe's calibration once there is one."""
    answer = []

    def there():
        answer[:] = [d.rpc.result("host.probe")]
        return answer[0]["calibration"] is not None and not answer[0]["calibrating"]

    wait_until("the calibration at start", there, 60, 0.1)
    return answer[0]["calibration"]


def every_figure():
    """By itself at the first start, not again at the second, and shown where it belongs."""
    with scratch() as folder:
        with Daemon(folder, "--log-level", "info") as d:
            check(d.rpc.result("vm.list") == [], "a daemon that measures does not answer")
            figures = measured(d)
            check(d.rpc.result("vm.list") == [] and not guests_below(folder), "the calibration guest is left")
            native, bt = figures["native"]["figures"], figures["modes"]["bt"]["figures"]
            for name in LOOPS + KERNEL:
                check(native[name]["ns"] > 0 and native[name]["median_ns"] >= native[name]["ns"], f"native {name}: {native.get(name)}")
            for name in LOOPS + KERNEL + ("port_io",):
                check(bt[name]["ns"] > 0 and bt[name]["rounds"] > 0, f"bt {name}: {bt.get(name)}")
            check("cannot_execute" in native["port_io"], "a process has no ports, and yet there is a figure")
            for name in LOOPS:
                # 4 % between the rounding of ns and of the ratio.
                check(abs(bt[name]["times_native"] * native[name]["ns"] / bt[name]["ns"] - 1) < 0.04, f"{name}: {bt[name]}")
            check(all("times_native" not in bt[name] for name in KERNEL), "different code is compared as if it were the same")
            check(figures["modes"]["bt"]["start_ms"] > 0, str(figures["modes"]["bt"]))
            rows = {r["aspect"]: r for r in d.rpc.result("modes.compare")}
            check("integer" in rows["performance"]["bt"]["host"] and "native" in rows["performance"]["bt"]["host"], str(rows["performance"]))
        with Daemon(folder, "--log-level", "info") as d:
            check(d.rpc.result("host.probe")["calibration"] == figures, "not the same after a restart")
            time.sleep(0.6)
            check(not d.rpc.result("host.probe")["calibrating"] and calibrations(d) == 1, "measured again though nothing changed")


def asked_twice_at_once():
    with scratch() as folder, Daemon(folder, "--no-calibration", "--log-level", "info") as d:
        check(d.rpc.result("host.probe")["calibration"] is None, "measured though it was told not to")
        second = Rpc(d.socket)
        for rpc in (d.rpc, second):
            rpc.socket.sendall(json.dumps({"jsonrpc": "2.0", "id": 77, "method": "host.calibrate"}).encode() + b"\n")
        answers = [rpc._message(time.monotonic() + 60)["result"] for rpc in (d.rpc, second)]
        check(answers[0] == answers[1] and answers[0]["native"]["figures"]["integer"]["ns"] > 0, "two callers, two answers")
        check(calibrations(d) == 1, "two runs side by side spoil each other")


def killed_in_the_middle():
    """SIGKILL while a guest runs: nothing is stored, the guest goes with the next daemon, which measures again."""
    with scratch() as folder:
        d = Daemon(folder, "--log-level", "info")
        wait_until("the calibration guest", lambda: guests_below(folder), 60, 0.01)
        d.kill()
        left = guests_below(folder)
        with Daemon(folder, "--no-calibration") as d:
            check(d.rpc.result("host.probe")["calibration"] is None, "half a calibration was kept")
            wait_until("the end of the guest left behind", lambda: not set(left) & set(guests_below(folder)), 30)
            check(not os.path.exists(os.path.join(folder, "run", "calibrate")), "its directory is left")
        with Daemon(folder, "--log-level", "info") as d:
            measured(d)
            # A daemon that is stopped in the middle takes its guest along.
            d.rpc.socket.sendall(b'{"jsonrpc":"2.0","method":"host.calibrate"}\n')
            wait_until("the calibration guest", lambda: guests_below(folder), 60, 0.01)
            check(d.kill(signal.SIGTERM) == 0 and not guests_below(folder), "SIGTERM leaves the guest")


def damaged_and_foreign():
    """What is stored is no calibration, or one of another kernel: it is not used, and replaced."""
    with scratch() as folder:
        with Daemon(folder, "--no-calibration") as d:
            good = d.rpc.result("host.calibrate")
        path = os.path.join(folder, "state", "trivisor.db")
        older = json.loads(json.dumps(good))
        older["key"]["kernel"] = "Linux 2.6.32"
        absurd = json.loads(json.dumps(good))
        absurd["modes"]["bt"]["figures"]["integer"]["ns"] = -5
        for text in ("no JSON at all", "{}", "[1]", json.dumps(older), json.dumps(absurd), json.dumps(good)[:-40]):
            db = sqlite3.connect(path)
            db.execute("UPDATE note SET json=? WHERE key='calibration'", (text,))
            db.commit()
            db.close()
            with Daemon(folder, "--no-calibration") as d:
                check(d.rpc.result("host.probe")["calibration"] is None, f"believed: {text[:60]}")
        with Daemon(folder, "--log-level", "info") as d:
            check(measured(d)["key"] == good["key"], "not measured again")


TESTS = (every_figure, asked_twice_at_once, killed_in_the_middle, damaged_and_foreign)


def main():
    program("trivisord")
    tap = Tap()
    for test in TESTS:
        tap.run(test.__name__.replace("_", " "), test)
    tap.finish()


if __name__ == "__main__":
    main()
