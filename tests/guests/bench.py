#!/usr/bin/python3
"""bench/run itself: what it makes of samples, and a short run of two rows against QEMU, one of which is made to lie."""

import importlib.machinery
import importlib.util
import json
import os
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from vmtest import BOOT_TIMEOUT, BUILD, SOURCE, Skip, Tap, check, kernel_dir, program, scratch

sys.path.insert(0, os.path.join(SOURCE, "bench"))
sys.dont_write_bytecode = True
import report

# Made to differ: QEMU's console, with the last digit of this row's result changed.
LIAR = "fib"
WRAPPER = """#!/bin/sh
case "$1" in --version) exec {qemu} "$@" ;; esac
{qemu} "$@" | sed -u '/@bench end {row} /{{ s/0\\r*$/1/; t; s/.\\r*$/0/ }}'
"""


class FakeRun:
    """What peers.Run has of a finished run, for figures made by hand."""

    def __init__(self, vcpus=1, **rows):
        self.vcpus, self.boot_ns, self.boot_waited_ns, self.uptime_ns = vcpus, 4_000_000, 1_000_000, 1
        self.rows = {name: {"operations": 10, "elapsed_ns": elapsed, "guest_ns": elapsed, "host_ns": elapsed, "waited_ns": waited,
                            "late_ns": 0, "result": "7"} for name, (elapsed, waited) in rows.items()}


def rows_of(group, runs):
    names = {name for its in runs.values() for run in its for name in run.rows}
    rows = [report.work_row(name, (group, 2, "thing"), dict.fromkeys(names, 10), runs, False) for name in sorted(names)]
    for row in rows:
        report.add_ratios(row)
    return rows


def figures():
    samples = [(100, 0, 1000), (300, 500, 1000), (120, None, 1000)]
    found = report.figure(samples, False)
    check((found["ns"], found["least_ns"], found["most_ns"]) == (120, 100, 150), f"less what was waited: {found}")
    check(report.figure(samples, True)["most_ns"] == 300, "the wall clock's time was wanted")


def ratios():
    """The median round of each, by unit, without the waiting: 40 ns under QEMU, 10 ns under bt."""
    runs = {"bt": [FakeRun(work=(200, 0)), FakeRun(work=(400, 200)), FakeRun(work=(900, 0))],
            "tcg": [FakeRun(work=(800, 0)), FakeRun(work=(100, 0)), FakeRun(work=(5000, 0))]}
    row = rows_of("integer", runs)[0]
    check(row["peers"]["bt"]["ns"] == 10 and row["peers"]["tcg"]["ns"] == 40, str(row))
    check(row["ratios"] == {"bt": 4.0} and row["reached"] is True, str(row))
    boot = report.boot_row(runs, False)
    check(boot["peers"]["bt"]["ns"] == 3_000_000, str(boot))


def groups():
    """A geometric mean of 2 and 8 is 4; a row below the group's least is missed although the mean is not."""
    runs = {"bt": [FakeRun(one=(100, 0), two=(100, 0))], "tcg": [FakeRun(one=(200, 0), two=(800, 0))]}
    rows = rows_of("system", runs)
    group = report.group_rows(rows)[0]
    check(group["name"] == "system" and abs(group["means"]["bt"] - 4) < 1e-9 and group["reached"] is True, str(group))
    runs["tcg"] = [FakeRun(one=(140, 0), two=(800, 0))]
    rows = rows_of("system", runs)
    result = {"rows": rows, "groups": report.group_rows(rows)}
    check(report.missed_targets(result) == ["one 1.40 of 1.5"], str(report.missed_targets(result)))
    runs["tcg"] = [FakeRun(one=(160, 0), two=(160, 0))]
    rows = rows_of("system", runs)
    result = {"rows": rows, "groups": report.group_rows(rows)}
    check(report.missed_targets(result) == ["system's mean 1.60 of 2.5"], str(report.missed_targets(result)))


def parallel():
    """A parallel row is compared with itself on one vCPU; what the two waited for on average is not its time."""
    runs = {"bt": [FakeRun(job=(400, 0))], "tcg": [FakeRun(job=(900, 0))],
            "bt-2": [FakeRun(2, job=(300, 100))], "tcg-2": [FakeRun(2, job=(600, 0))]}
    row = rows_of("smp", runs)[0]
    rounded = {name: round(ratio, 6) for name, ratio in row["ratios"].items()}
    check(rounded == {"bt": 2.0, "tcg": 1.5} and row["reached"] is True, str(row))


def waiting():
    import peers
    before = {"1": (100, 5), "2": (1000, 0), "reader": (0, 7)}
    after = {"1": (600, 25), "2": (1001, 90), "3": (400, 40), "reader": (9, 8)}
    check(peers.waits(before, after, 1) == (20, 131), f"the busiest thread in between is the vCPU: {peers.waits(before, after, 1)}")
    check(peers.waits(before, after, 2) == (30, 91), f"the mean of two vCPUs: {peers.waits(before, after, 2)}")
    check(peers.waits(before, None, 1) == (None, 0), "unknown is unknown")


def differing():
    runs = {"bt": [FakeRun(one=(1, 0), two=(1, 0))], "tcg": [FakeRun(one=(1, 0), two=(1, 0))]}
    check(report.wrong_results({"one": 1, "two": 1}, runs) == [], "equal results")
    runs["tcg"][0].rows["two"]["result"] = "8"
    wrong = report.wrong_results({"one": 1, "two": 1}, runs)
    check(len(wrong) == 1 and wrong[0].startswith("two: results differ: 7 (bt), 8 (tcg)"), str(wrong))


def clocks():
    """20 ms apart are too many in 400; not if the vCPU had to wait so long, nor if bench/run's own side was late."""
    loader = importlib.machinery.SourceFileLoader("bench_run", os.path.join(SOURCE, "bench", "run"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("bench_run", loader))
    loader.exec_module(module)
    run = FakeRun(one=(400_000_000, 0))
    check(module.clock_failures(run) == {}, "the same clocks")
    run.rows["one"]["guest_ns"] -= 20_000_000
    check(set(module.clock_failures(run)) == {"one", "*"}, "a clock that is wrong")
    run.rows["one"]["waited_ns"] = 15_000_000
    check(module.clock_failures(run) == {}, "a vCPU that waited")
    run.rows["one"] |= {"waited_ns": 0, "late_ns": 15_000_000}
    check(module.clock_failures(run) == {}, "a late reader")


def profile_table():
    """Shares and counters as tables, put into a document between its marks and nowhere else."""
    import profiling
    import sampling
    shares = dict.fromkeys(sampling.COLUMNS, 0.0) | {"checks": 60.2, "polls": 0.3}
    line = {"name": "work", "time": "3 ns a thing", "factor": 1.5, "shares": shares, "named": [(2.5, "bt_walk"), (0.1, "bt_rare")],
            "counts": {"walks": 12345}, "operations": 1}
    text = profiling.table_text([line])
    first = text.splitlines()[2].split("|")
    check(first[1:4] == [" work ", " 3 ns a thing ", " 1.50 "] and first.count(" 60 ") == 1 and "0.3" not in text, text)
    check("bt_walk 2.5" in text and "bt_rare" not in text and "12,345" in text, text)
    with scratch() as folder:
        path = os.path.join(folder, "doc.md")
        with open(path, "w", encoding="utf-8") as f:
            f.write("before\n" + "\nold\n".join(profiling.MARKS) + "\nafter\n")
        profiling.put_into(path, text)
        with open(path, encoding="utf-8") as f:
            new = f.read()
    check(new == f"before\n{profiling.MARKS[0]}\n{text}\n{profiling.MARKS[1]}\nafter\n", new)


def bench(folder, *options):
    """(status, the JSON report, what it printed)."""
    path = os.path.join(folder, "report.json")
    command = [os.path.join(SOURCE, "bench", "run"), "--build", BUILD, "--modes", "bt", "--rounds", "1", "--target-ms", "20",
               "--rows", f"crc32,{LIAR}", "--timeout", str(int(BOOT_TIMEOUT)), "--json", path, *options]
    r = subprocess.run(command, capture_output=True, text=True, timeout=3 * BOOT_TIMEOUT)
    check(os.path.exists(path), f"status {r.returncode}, no report:\n{r.stdout}{r.stderr}")
    with open(path, encoding="utf-8") as f:
        return r.returncode, json.load(f), r.stdout


def alone(folder):
    status, found, text = bench(folder, "--no-tcg")
    # On a machine so busy that not even the allowance is enough, that is what it has to say.
    check(status == (1 if found["clock_failures"] else 0), f"status {status}:\n{text}")
    check([row["name"] for row in found["rows"]] == [LIAR, "crc32"], text)
    for row in found["rows"]:
        data = row["peers"]["bt"]
        check(row["operations"] == found["plan"][row["name"]] > 0 and data["ns"] > 0 and row["ratios"] == {}, str(row))
        # Not the host's: on a busy machine both of a short row's lines may arrive together.
        check(0 < data["guest_ns"], str(row))
    check(found["wrong_results"] == [] and found["groups"] == [], str(found))
    check(found["runs"]["bt"][0]["stats"]["engine"]["tbs"] > 0, "no counters of the engine")
    os.rename(os.path.join(folder, "report.json"), os.path.join(folder, "plan.json"))


def liar(folder):
    qemu = shutil.which("qemu-system-x86_64")
    wrapper = os.path.join(folder, "qemu")
    with open(wrapper, "w", encoding="ascii") as f:
        f.write(WRAPPER.format(qemu=qemu, row=LIAR))
    os.chmod(wrapper, 0o755)
    status, found, text = bench(folder, "--qemu", wrapper, "--plan", os.path.join(folder, "plan.json"))
    check(status == 1 and "FAILED" in text, f"status {status}:\n{text}")
    check(len(found["wrong_results"]) == 1 and found["wrong_results"][0].startswith(LIAR + ":"), str(found["wrong_results"]))
    honest = next(row for row in found["rows"] if row["name"] == "crc32")
    check(honest["ratios"]["bt"] > 0, str(honest))
    check(found["groups"][0]["name"] == "integer" and found["groups"][0]["rows"] == 2, str(found["groups"]))


def main():
    tap = Tap()
    for function in (figures, ratios, groups, parallel, waiting, differing, clocks, profile_table):
        tap.run(f"bench/run: {function.__name__}", function)
    with scratch() as folder:
        try:
            program("trivisor-vm")
            kernel_dir()
            ran = tap.run("bench/run measures two rows under bt", alone, folder)
        except Skip as e:
            tap.skip("bench/run measures two rows under bt", e)
            ran = False
        name = "bench/run fails on a result that differs from QEMU's"
        if not shutil.which("qemu-system-x86_64"):
            tap.skip(name, "no qemu-system-x86_64")
        elif not ran:
            tap.skip(name, "no plan from the run before")
        else:
            tap.run(name, liar, folder)
    tap.finish()


if __name__ == "__main__":
    main()
