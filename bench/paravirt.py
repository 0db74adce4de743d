"""bt with and without paravirtual interfaces: the same guest with two vCPUs, in turns, medians and ratios."""

import peers
import report
from base import time_text

# What a guest asks its machine for, and what its vCPUs have to say to each other.
ROWS = ("getppid", "fork", "exec", "pipe", "switch", "ipi", "timer", "threads", "processes")


class Side(peers.Trivisor):
    def __init__(self, options, paravirt):
        super().__init__(options, "bt", 2)
        self.name, self.more = "on" if paravirt else "off", {"paravirt": paravirt}


def boot_row(runs, wall):
    row = {"name": "boot", "unit": "boot", "peers": {}}
    for name, its in runs.items():
        row["peers"][name] = report.figure([(r.boot_ns, r.boot_waited_ns, r.boot_ns) for r in its], wall)
    return row


def print_rows(rows):
    print(f"{'row':11} {'time of a':12} {'off':>10} {'on':>10} {'off/on':>7}  of the shortest")
    for row in rows:
        on, off = row["peers"]["on"], row["peers"]["off"]
        print(f"{row['name']:11} {row['unit']:12} {time_text(off['ns']):>10} {time_text(on['ns']):>10} {off['ns'] / on['ns']:7.2f} "
              f"{off['least_ns'] / on['least_ns']:7.2f}")


def compare(options, known, names, say):
    """Prints the table: the boot and the named rows."""
    sides = [Side(options, True), Side(options, False)]
    say("calibrating")
    run = sides[0].run(dict.fromkeys(names, 0), options.target_ms)
    plan = {name: run.rows[name]["operations"] for name in names}
    runs = {side.name: [] for side in sides}
    for number in range(options.rounds):
        for side in sides if number % 2 == 0 else sides[::-1]:
            say(f"round {number + 1} of {options.rounds}: paravirt {side.name}")
            runs[side.name].append(side.run(plan, options.target_ms))
    rows = [boot_row(runs, options.wall)] + [report.work_row(name, known[name], plan, runs, options.wall) for name in plan]
    print_rows(rows)
    return rows
