"""bench/run --profile: for each row the shares of bt's time by kind of work, its counters, the distance to native."""

import os
import sys
import tempfile

import disks
import peers
import programs
import sampling
from base import Failure, require_tool, selected, time_text

MARKS = ("<!-- bench/run --profile: begin -->", "<!-- end -->")
# Long enough for some thousand samples.
TARGET_MS = 1500
# Something small and steady runs behind the row, so that the VM still stands when its code is read: a name other than the row's.
TAILS = {"crc32": 2000, "fib": 400}


def say(text):
    print(text, file=sys.stderr, flush=True)


def profile(options, known):
    names = [name for name, (group, _, _) in known.items() if selected(name, group, options.profile)]
    if selected("boot", "boot", options.profile):
        names.insert(0, "boot")
    if not names:
        raise Failure(f"--profile {options.profile}: no such row; there are boot, {', '.join(known)}")
    require_tool("perf", "linux-perf")
    require_tool("objdump", "binutils")
    programs.prepare(options, names)
    disks.prepare(options, known, names)
    peer = peers.Trivisor(options, "bt")
    plan = calibrate(options, peer, [name for name in names if name != "boot"])
    native = peers.Native(options).run(plan, TARGET_MS) if plan else None
    # A boot alone has counted, too: what is left is the row's.
    idle = peer.run(tail_of(None), TARGET_MS).stats if plan else {}
    table = []
    for name in names:
        say(f"profiling {name}")
        with tempfile.NamedTemporaryFile(prefix="trivisor-bench.", suffix=".perf") as data:
            sampler = sampling.Sampler(name, data.name)
            run = peer.run({name: plan[name]} | tail_of(name) if name != "boot" else {}, TARGET_MS, sampler)
            counts = counters(run.stats, {} if name == "boot" else idle)
            table.append(line_of(options, name, known, run, native, sampler, counts))
            if len(names) == 1:
                print_details(options, sampler, counts, plan.get(name))
    text = table_text(table)
    print(text)
    if options.doc:
        put_into(options.doc, text)
    return 0


def calibrate(options, peer, names):
    fixed = programs.operations()
    plan = {name: fixed[name] for name in names if name in fixed}
    rest = [name for name in names if name not in fixed]
    if rest:
        run = peer.run(dict.fromkeys(rest, 0), TARGET_MS)
        plan |= {name: run.rows[name]["operations"] for name in rest}
    return {name: plan[name] for name in names}


def tail_of(name):
    other = next(tail for tail in TAILS if tail != name)
    return {other: TAILS[other]}


def counters(stats, idle):
    """{name: how often in the row}, the largest first."""
    found = {}
    for group in ("engine", "exits", "machine"):
        for key, value in stats.get(group, {}).items():
            less = idle.get(group, {}).get(key, 0)
            if isinstance(value, int) and value > less:
                found[key] = value - less
    return found


def alone(row):
    """Nanoseconds without those in which another process had the processor."""
    return row["elapsed_ns"] - (row["waited_ns"] or 0)


def line_of(options, name, known, run, native, sampler, counts):
    shares, named = sampler.kinds(options.build)
    if name == "boot":
        time, unit, factor, operations = run.boot_ns - (run.boot_waited_ns or 0), "boot", None, 1
    else:
        row = run.rows[name]
        _, units, unit = known[name]
        operations = row["operations"] * units
        time = alone(row) / operations
        factor = alone(row) / max(alone(native.rows[name]), 1)
    return {"name": name, "time": f"{time_text(time)} a {unit}", "factor": factor, "shares": shares, "named": named,
            "counts": counts, "operations": operations}


def table_text(table):
    """Two tables in Markdown: shares of the vCPU thread's samples; functions and counters by row."""
    heads = ["row", "time", "of native", *sampling.COLUMNS]
    lines = ["| " + " | ".join(heads) + " |", "| --- | --- " + "| --: " * (len(heads) - 2) + "|"]
    for row in table:
        cells = [f"{row['shares'][kind]:.0f}" if row["shares"][kind] >= 0.5 else "" for kind in sampling.COLUMNS]
        factor = f"{row['factor']:.2f}" if row["factor"] else ""
        lines.append(f"| {row['name']} | {row['time']} | {factor} | " + " | ".join(cells) + " |")
    lines += ["", "| row | C functions, % of the time | TLB misses | walks | translations | lookups | flushes | polls |",
              "| --- | --- | --: | --: | --: | --: | --: | --: |"]
    for row in table:
        named = ", ".join(f"{name} {share:.1f}" for share, name in row["named"] if share >= 0.5)
        counts = [row["counts"].get(key, 0) for key in ("tlb_miss", "walks", "tbs", "lookups", "tlb_flush", "polls")]
        lines.append(f"| {row['name']} | {named} | " + " | ".join(f"{count:,}" for count in counts) + " |")
    return "\n".join(lines)


def print_details(options, sampler, counts, operations):
    for share, where, symbol in sampler.functions():
        if share >= 0.5:
            print(f"{share:6.1f} %  {symbol or where}" + (f"  ({where})" if symbol else ""))
    for total, lines in sampler.hot_code(options.hot):
        print(f"translated code, {total:.1f} %:")
        for share, address, text in lines:
            print(f"{share:6.1f} %  {address:x}  {text}" if share else f"{'':8}  {address:x}  {text}")
    print("counters" + (", less those of a boot:" if operations else ":"))
    for key, count in counts.items():
        print(f"{count:12}  {key}" + (f" ({count / operations:.3g} an operation)" if operations else ""))


def put_into(path, text):
    """Replaces what stands between the two marks."""
    with open(path, encoding="utf-8") as f:
        old = f.read()
    begin, end = (old.find(mark) for mark in MARKS)
    if begin < 0 or end < begin:
        raise Failure(f"{path} has no lines {MARKS[0]} and {MARKS[1]} to put the table between")
    with open(path + ".new", "w", encoding="utf-8") as f:
        f.write(old[:begin] + MARKS[0] + "\n" + text + "\n" + old[end:])
    os.replace(path + ".new", path)
