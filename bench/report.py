"""What bench/run makes of its samples: figures, ratios, targets, tables."""

import statistics

from base import time_text

# Ratios (QEMU's time / trivisor's) that bt is to reach, by group: the least of any row, the geometric mean of all; None: no matter.
TARGETS = {
    "boot": (2.5, None),
    "integer": (2.0, 3.5),
    "float": (10.0, None),
    "avx2": (15.0, None),
    "memory": (5.0, None),
    "system": (1.5, 2.5),
    "programs": (None, 4.0),
    # With two vCPUs: bt's own time with one / its time with two.
    "smp": (1.7, None),
    "disk": (2.0, 2.0),
    "net": (None, 2.0),
    "wake": (None, None), # looked at with and without paravirtual interfaces
}
# No trivisor modes: there is no ratio of QEMU's time to theirs.
NO_MODES = ("tcg", "native")
# How far the guest's clock may be from the host's: this share, and a line's way through the console.
CLOCK_SHARE = 0.02
CLOCK_SLACK_NS = 5_000_000


def figure(samples, wall):
    """The figures of [(wall-clock ns of a unit, ns waited or None, ns over which that was measured)].

    What is compared is the wall clock's time less the share in which another process had the processor. On a quiet host the
    two are the same; on a busy one only the first is about the peer. The share is that between the row's two lines.
    """
    shares = [0 if waited is None else min(waited / whole, 0.99) for _, waited, whole in samples]
    walls = [wall for wall, _, _ in samples]
    times = walls if wall else [wall * (1 - share) for wall, share in zip(walls, shares)]
    return {
        "ns": statistics.median(times),
        "least_ns": min(times),
        "most_ns": max(times),
        "wall_ns": statistics.median(walls),
        "waited_share": statistics.median(shares),
    }


def boot_row(runs, wall):
    row = {"name": "boot", "group": "boot", "unit": "boot", "peers": {}}
    for name, its in runs.items():
        if its[0].boot_ns is None or its[0].vcpus > 1:
            continue
        samples = [(r.boot_ns, r.boot_waited_ns, r.boot_ns) for r in its]
        row["peers"][name] = figure(samples, wall) | {"guest_uptime_ns": statistics.median(r.uptime_ns for r in its)}
    return row


def work_row(name, description, plan, runs, wall):
    group, units, unit = description
    row = {"name": name, "group": group, "unit": unit, "operations": plan[name], "units": units, "peers": {}}
    for peer, its in runs.items():
        if name not in its[0].rows:
            continue
        datas = [run.rows[name] for run in its]
        samples = [(d["elapsed_ns"] / d["operations"] / units, d["waited_ns"], max(d["host_ns"], d["elapsed_ns"]))
                   for d in datas]
        row["peers"][peer] = figure(samples, wall) | {
            "guest_ns": statistics.median(d["guest_ns"] for d in datas),
            "host_ns": statistics.median(d["host_ns"] for d in datas),
            "clock_off": statistics.median(abs(d["guest_ns"] / max(d["host_ns"], 1) - 1) for d in datas),
        }
    return row


def wrong_results(plan, runs):
    """The same work must have the same result everywhere."""
    failures = []
    for name in plan:
        results = {}
        for peer, its in runs.items():
            for run in (run for run in its if name in run.rows):
                results.setdefault(run.rows[name]["result"], []).append(peer)
        if len(results) > 1:
            failures.append(f"{name}: results differ: " + ", ".join(f"{r} ({'/'.join(sorted(set(p)))})" for r, p in results.items()))
    return failures


def add_ratios(row):
    """Of each mode: against QEMU; in a parallel row, of each peer: with one vCPU against with two."""
    row["ratios"], row["wall_ratios"] = {}, {}
    for name in row["peers"]:
        mine, other = (f"{name}-2", name) if row["group"] == "smp" else (name, "tcg")
        if name not in NO_MODES and mine in row["peers"] and other in row["peers"] or row["group"] == "smp" and mine in row["peers"]:
            row["ratios"][name] = row["peers"][other]["ns"] / row["peers"][mine]["ns"]
            row["wall_ratios"][name] = row["peers"][other]["wall_ns"] / row["peers"][mine]["wall_ns"]
    row["target"] = TARGETS[row["group"]][0]
    row["reached"] = row["ratios"]["bt"] >= row["target"] if row["target"] and "bt" in row["ratios"] else None


def group_rows(rows):
    """Each group's geometric means. One with a row missing would be of something else."""
    found = []
    for name, (_, target) in TARGETS.items():
        its_rows = [row for row in rows if row["group"] == name]
        means = {peer: statistics.geometric_mean(row["ratios"][peer] for row in its_rows)
                 for peer in (its_rows[0]["ratios"] if its_rows else ()) if all(peer in row["ratios"] for row in its_rows)}
        if means:
            found.append({"name": name, "rows": len(its_rows), "means": means, "target": target,
                          "reached": means["bt"] >= target if target and "bt" in means else None})
    return found


def print_table(rows, columns, ratios):
    """`ratios`: {key of a row's ratios: its column's head}; the wall clock's ones follow."""
    heads = ["row", "group", "time of a", *columns, *ratios.values(), *(f"wall {head}" for head in ratios.values()), "target",
             "clock off", "waited"]
    lines = [heads]
    for row in rows:
        line = [row["name"], row["group"], row["unit"]]
        for name in columns:
            data = row["peers"].get(name)
            line.append(time_text(data["ns"]) if data else "-")
        for kind in ("ratios", "wall_ratios"):
            line += [f"{row[kind][key]:.2f}" if key in row[kind] else "-" for key in ratios]
        line.append((f"{row['target']:.1f}" if row["target"] else "-") + ("" if row["reached"] in (True, None) else " MISSED"))
        # Of short rows a percentage says nothing: that is the console's latency.
        offs = [d["clock_off"] for d in row["peers"].values() if d.get("host_ns", 0) >= CLOCK_SLACK_NS / CLOCK_SHARE]
        line.append(f"{100 * max(offs):.2f} %" if offs else "-")
        line.append(f"{100 * max(data['waited_share'] for data in row['peers'].values()):.0f} %")
        lines.append(line)
    print_lines(lines, 3)


def print_lines(lines, left):
    """Columns, the first `left` of them flush left."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    for line in lines:
        cells = [cell.ljust(width) if i < left else cell.rjust(width) for i, (cell, width) in enumerate(zip(line, widths))]
        print("  ".join(cells).rstrip())


def print_groups(groups):
    peers = sorted({peer for group in groups for peer in group["means"]}, key=lambda peer: peer != "bt")
    lines = [["geometric mean", "rows", *peers, "target"]]
    for group in groups:
        line = [group["name"], str(group["rows"]), *(f"{group['means'][peer]:.2f}" if peer in group["means"] else "-" for peer in peers)]
        lines.append([*line, (f"{group['target']:.1f}" if group["target"] else "-") + ("" if group["reached"] in (True, None) else " MISSED")])
    print_lines(lines, 1)


def missed_targets(report):
    """Text of each target that bt misses."""
    rows = [f"{row['name']} {row['ratios']['bt']:.2f} of {row['target']:.1f}" for row in report["rows"] if row["reached"] is False]
    groups = [f"{group['name']}'s mean {group['means']['bt']:.2f} of {group['target']:.1f}"
              for group in report["groups"] if group["reached"] is False]
    return rows + groups


def print_report(report):
    host, rows, columns = report["host"], report["rows"], list(report["runs"])
    print(f"{report['date']}  {report['command']}")
    print(f"{host['processors']} x {host['processor']}, Linux {host['kernel']}, load {host['load'][0]:.1f}; guest Linux "
          f"{host['guest_kernel']}, {report['memory_mib']} MiB; {host['qemu']}; medians of {report['rounds']}")
    single = [row for row in rows if row["group"] != "smp"]
    if single:
        names = [name for name in columns if not name.endswith("-2")]
        print_table(single, names, {name: f"tcg/{name}" for name in names if name not in NO_MODES})
    parallel = [row for row in rows if row["group"] == "smp"]
    if parallel:
        print_table(parallel, columns, {name: f"{name}/{name}-2" for name in columns if f"{name}-2" in columns})
    if report["groups"]:
        print_groups(report["groups"])
    for row in rows:
        if row["name"] == "boot":
            print("guest's own uptime at init: " +
                  ", ".join(f"{name} {time_text(data['guest_uptime_ns'])}" for name, data in row["peers"].items()))
    judged = sum(its["reached"] is not None for its in rows + report["groups"])
    missed = missed_targets(report)
    if judged and not report["clock_failures"] + report["wrong_results"]:
        print("targets: " + (f"missed {len(missed)} of {judged}: " + ", ".join(missed) if missed else f"all {judged} reached"))
    for failure in report["clock_failures"]:
        print(f"CLOCK FAILURE: {failure}")
    for failure in report["wrong_results"]:
        print(f"WRONG RESULT: {failure}")
    if report["clock_failures"] or report["wrong_results"]:
        print("FAILED: these figures are not to be used")
