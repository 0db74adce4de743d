#!/usr/bin/python3
"""The host measured by the daemon: every figure, kept and used, after kills and with damaged stores and broken programs."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "guests"))
from vmtest import BUILD, SOURCE, Console, Daemon, Rpc, Skip, Tap, check, kernel_image, program, scratch, wait_until

LOOPS = ("integer", "floating", "vector", "memory", "tlb", "code")
KERNEL = ("syscall", "fault", "process", "interrupt", "virtio")


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


def every_figure(folder):
    """By itself at the first start, not again at the second, and shown where it belongs."""
    with Daemon(folder, "--log-level", "info") as d:
        check(d.rpc.result("vm.list") == [], "a daemon that measures does not answer")
        figures = measured(d)
        check(figures["seconds"] < 20 and figures["complete"], f"took {figures['seconds']} s")
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
        # Every mode has its place; one without an engine, or without a guest to measure it with, says so.
        engines = {m["mode"]: m for m in d.rpc.result("modes.list")}
        for mode, row in figures["modes"].items():
            check(row["measured"] or ("not measured: " in row["problem"] and row["figures"] == {}), f"{mode}: {row}")
            check(engines[mode]["in_build"] or "not in this version" in row["problem"], f"{mode}: {row}")
        check(set(figures["modes"]) == set(engines), str(engines))
        rows = {r["aspect"]: r for r in d.rpc.result("modes.compare")}
        check("integer" in rows["performance"]["bt"]["host"] and "native" in rows["performance"]["bt"]["host"], str(rows["performance"]))
    with Daemon(folder, "--log-level", "info") as d:
        check(d.rpc.result("host.probe")["calibration"] == figures, "not the same after a restart")
        time.sleep(0.6)
        check(not d.rpc.result("host.probe")["calibrating"] and calibrations(d) == 1, "measured again though nothing changed")


def the_chosen_mode_is_the_faster_one(folder):
    """For a Debian kernel: both modes ran the calibration guest on this host, and auto takes the one that was faster."""
    with Daemon(folder, "--no-calibration") as d:
        figures = d.rpc.result("host.probe")["calibration"]["modes"]
        facts = {f["name"]: f["value"] for f in d.rpc.result("host.probe")["facts"]}
        if not figures["hvm"]["measured"]:
            raise Skip("there is no /dev/kvm to compare with")
        definition = {"name": "debian", "boot": {"kernel": kernel_image()}}
        decision = d.rpc.result("policy.explain", {"definition": definition})
        candidates = {c["mode"]: c for c in decision["candidates"]}
        ns = {m: f["figures"]["integer"].get("ns", float("inf")) for m, f in figures.items() if f["measured"]}
        check(ns[decision["mode"]] == min(ns.values()), f"{decision['mode']} was chosen: {ns}")
        if facts["kvm_is_hardware"] is False:
            check(decision["mode"] == "bt", decision["reason"])
            check(candidates["hvm"]["variant"] == "hvm/software" and candidates["hvm"]["verdict"] == "ruled out", str(candidates["hvm"]))
            # Known for what it is by its figures, not by its module's name: many times slower, or not at all.
            check(ns["hvm"] > 20 * ns["bt"], str(ns))
            cannot = [m for m, f in figures["hvm"]["figures"].items() if "cannot_execute" in f]
            check(not cannot or "cannot execute" in candidates["hvm"]["reason"], f"{cannot}: {candidates['hvm']['reason']}")
            # It emulates no vector code and no swapgs; what needs neither has its figure, ring 3 included.
            if facts["module_kvm_pvm"]:
                check(not set(cannot) - {"floating", "vector", "syscall"}, f"{cannot} need not fail")
        begin = time.monotonic()
        for _ in range(20):
            d.rpc.result("policy.explain", {"definition": definition})
        print(f"# policy.explain: {(time.monotonic() - begin) * 50:.2f} ms with its way through the socket")


def runs_teach(folder):
    """A guest that reaches ring 3: its second run has a prediction, the outcome is kept, and a reset forgets."""
    guest = os.path.join(BUILD, "trivisor-calibrate.elf")
    with Daemon(folder, "--no-calibration") as d:
        d.rpc.result("policy.reset")
        uuid = d.rpc.result("vm.define", [{"name": "learner", "memory_mib": 32, "boot": {"kernel": guest}, "disks": [{"path": guest, "readonly": True}],
                                           "debug_exit": True}])["uuid"]
        for run in range(3):
            console = Console(d.rpc.result("vm.start", ["learner"])["console"])
            console.expect("calibrate ready")
            console.type("run 1000000000 integer syscall fault\n")
            d.rpc.result("vm.wait", ["learner"])
            history = d.rpc.result("policy.history", {"vm": "learner"})
            check(len(history["outcomes"]) == run + 1, str(history))
            last = history["outcomes"][0]
            check(last["uuid"] == uuid and last["boot_seconds"] > 0 and last["predicted_cost"] > 0, str(last))
            check((last["predicted_boot_seconds"] is None) == (run == 0) and (last["error"] is None) == (run == 0), str(last))
            check(history["statistics"]["predictions"] == run, str(history["statistics"]))
        explained = d.rpc.result("policy.explain", {"vm": "learner"})
        check(explained["workload"]["name"] == "learned" and explained["predicted_boot_seconds"] > 0, str(explained["workload"]))
    with Daemon(folder, "--no-calibration") as d:
        check(d.rpc.result("policy.explain", {"vm": "learner"})["workload"] == explained["workload"], "forgotten by a restart")
        d.rpc.result("policy.reset", {"vm": "learner"})
        check(d.rpc.result("policy.explain", {"vm": "learner"})["workload"]["name"] == "mixed", "not forgotten by a reset")
        d.rpc.result("vm.undefine", ["learner"])
        check(d.rpc.result("policy.history")["outcomes"] == [], "outcomes outlive their VM")


def disks_are_learned_from_runs(folder):
    """A VM that boots from firmware says nothing by its files; its first run does, and that is kept and shown."""
    firmware = "/usr/share/seabios/bios-256k.bin"
    if not os.path.exists(firmware):
        raise Skip(f"{firmware} is missing: apt-get install seabios")
    disk = os.path.join(folder, "disk.img")
    with open(disk, "wb") as f:
        # A boot sector that goes into protected mode (cli; or cr0, 1) and stays there.
        f.write(bytes.fromhex("fa0f20c00c010f22c0ebfe").ljust(510, b"\0") + b"\x55\xaa" + bytes(1 << 20))
    with Daemon(folder, "--no-calibration") as d:
        d.rpc.result("vm.define", [{"name": "disk", "memory_mib": 32, "boot": {"firmware": firmware}, "disks": [{"path": disk}]}])
        guest = d.rpc.result("policy.explain", {"vm": "disk"})["guest"]
        check(guest["image"] == "firmware" and guest["learned"] is None, str(guest))
        d.rpc.result("vm.start", ["disk"])

        def protected():
            d.rpc.result("vm.pause", ["disk"])
            vcpu = d.rpc.result("vm.regs", ["disk"])["vcpus"][0]
            d.rpc.result("vm.resume", ["disk"])
            return int(vcpu["control"]["cr0"], 16) & 1 and 0x7c00 <= int(vcpu["general"]["rip"], 16) < 0x7e00

        wait_until("the boot sector", protected, 120, 0.3)
        d.rpc.result("vm.destroy", ["disk"])
        learned = d.rpc.result("policy.explain", {"vm": "disk"})["guest"]["learned"]
        check(learned == {"runs": 1, "ended_in_bits": 32, "reached_user_space": False}, str(learned))
    with Daemon(folder, "--no-calibration") as d:
        check(d.rpc.result("policy.explain", {"vm": "disk"})["guest"]["learned"] == learned, "forgotten by a restart")
        d.rpc.result("policy.reset", {"vm": "disk"})
        check(d.rpc.result("policy.explain", {"vm": "disk"})["guest"]["learned"] is None, "not forgotten by a reset")
        d.rpc.result("vm.undefine", ["disk"])


def what_is_demanded_shows(folder):
    """Every demand of a definition is in its explanation, with what it rules out here and what would help."""
    base = {"name": "demands", "boot": {"kernel": os.path.join(BUILD, "trivisor-calibrate.elf")}}
    cases = (("policy.require", {"policy": {"require": ["bt"]}}, "hvm", "requires another"),
             ("policy.forbid", {"policy": {"forbid": ["hvm"]}}, "hvm", "forbids hvm"),
             ("policy.passthrough", {"policy": {"passthrough": True}}, "bt", "passed through in hvm only"),
             ("passthrough", {"passthrough": ["03:00.0"]}, "bt", "passed through in hvm only"),
             ("policy.nested", {"policy": {"nested": True}}, "bt", "does not offer guests virtualization"),
             ("policy.isolation", {"policy": {"isolation": "kernel"}}, "bt", "no speculative boundary"),
             ("policy.migratable", {"policy": {"migratable": True}}, None, None),
             ("cpu.features", {"cpu": {"features": {"avx512f": True}}}, "bt", "avx512f"))
    with Daemon(folder, "--no-calibration") as d:
        facts = {f["name"]: f["value"] for f in d.rpc.result("host.probe")["facts"]}
        for key, more, mode, word in cases:
            decision = d.rpc.result("policy.explain", {"definition": {**base, **more}})
            check([c["key"] for c in decision["constraints"]] == [key], f"{key}: {decision['constraints']}")
            reasons = {c["mode"]: c["reason"] for c in decision["candidates"]}
            if mode == "bt" or (mode and facts.get("kvm_opens") == "yes"):
                check(word in reasons[mode], f"{key}: {reasons}")
            if decision["mode"] is None:
                check(all(m in decision["reason"] for m in ("bt: ", "hvm: ", "pv: ")), decision["reason"])
        # An image that cannot boot is the answer, in every mode.
        for kernel in ("/etc/passwd", "/nowhere/vmlinuz"):
            decision = d.rpc.result("policy.explain", {"definition": {"name": "x", "boot": {"kernel": kernel}}})
            check(decision["mode"] is None and kernel in decision["reason"], decision["reason"])
            check(all(c["verdict"] == "ruled out" for c in decision["candidates"]), str(decision["candidates"]))


def the_table_is_whole(folder):
    """modes.compare: each row and variant with its source; for a VM which cells hold; as a table and as Markdown."""
    aspects = {"technique", "guest modification and compatibility", "performance", "who uses it", "guest independent of the hypervisor",
               "memory virtualization", "I/O virtualization", "what the host needs", "isolation", "start-up time"}
    with Daemon(folder, "--no-calibration") as d:
        d.rpc.result("vm.define", [{"name": "compared", "memory_mib": 32, "boot": {"kernel": os.path.join(BUILD, "trivisor-calibrate.elf")}}])
        rows = d.rpc.result("modes.compare")
        check({r["aspect"] for r in rows} == aspects, str([r["aspect"] for r in rows]))
        variants = {v["variant"] for r in rows for v in r["hvm"].get("variants", [])}
        check(variants == {"hvm/ept", "hvm/npt", "hvm/shadow", "hvm/software"}, str(variants))
        here = {v["variant"] for r in rows for v in r["hvm"].get("variants", []) if v["here"]}
        check(here <= {next(m["variant"] for m in d.rpc.result("modes.list") if m["mode"] == "hvm")}, str(here))
        for row in rows:
            for mode in ("bt", "hvm", "pv"):
                check(row[mode]["text"] and row[mode]["source"] and "holds" not in row[mode], f"{row['aspect']}: {row[mode]}")
        verdicts = {c["mode"]: c["verdict"] for c in d.rpc.result("policy.explain", {"vm": "compared"})["candidates"]}
        for row in d.rpc.result("modes.compare", {"vm": "compared"}):
            for mode, verdict in verdicts.items():
                about_image = row["aspect"].startswith("guest ")
                check(row[mode]["holds"] == (mode != "pv" if about_image else verdict != "ruled out"), f"{row['aspect']}: {row[mode]}")
        table = subprocess.run([program("trictl"), "compare", "--socket", d.socket, "compared"], capture_output=True, text=True, check=True).stdout
        check("this VM: it holds" in table and all(a in table for a in aspects), table)
        text = subprocess.run([program("trictl"), "compare", "--socket", d.socket, "--markdown", "compared"], capture_output=True, text=True, check=True).stdout
        lines = text.strip().split("\n")
        # Four columns in every line, whatever the cells say.
        check(len(lines) == 2 + len(aspects) and all(line.replace("\\|", "").count("|") == 5 for line in lines), text)
        d.rpc.result("vm.undefine", ["compared"])


def asked_twice_at_once(folder):
    with Daemon(folder, "--no-calibration", "--log-level", "info") as d:
        check(d.rpc.result("host.probe")["calibration"] is None, "measured though it was told not to")
        second = Rpc(d.socket)
        for rpc in (d.rpc, second):
            rpc.socket.sendall(json.dumps({"jsonrpc": "2.0", "id": 77, "method": "host.calibrate"}).encode() + b"\n")
        answers = [rpc._message(time.monotonic() + 60)["result"] for rpc in (d.rpc, second)]
        check(answers[0] == answers[1] and answers[0]["native"]["figures"]["integer"]["ns"] > 0, "two callers, two answers")
        check(calibrations(d) == 1, "two runs side by side spoil each other")


def killed_in_the_middle(folder):
    """SIGKILL while a guest runs: nothing is stored, and the guest goes with the next daemon. SIGTERM takes it along."""
    d = Daemon(folder, "--log-level", "info")
    wait_until("the calibration guest", lambda: guests_below(folder), 60, 0.01)
    d.kill()
    left = guests_below(folder)
    with Daemon(folder, "--no-calibration") as d:
        check(d.rpc.result("host.probe")["calibration"] is None, "half a calibration was kept")
        wait_until("the end of the guest left behind", lambda: not set(left) & set(guests_below(folder)), 30)
        check(not os.path.exists(os.path.join(folder, "run", "calibrate")), "its directory is left")
        d.rpc.socket.sendall(b'{"jsonrpc":"2.0","method":"host.calibrate"}\n')
        wait_until("the calibration guest", lambda: guests_below(folder), 60, 0.01)
        check(d.kill(signal.SIGTERM) == 0 and not guests_below(folder), "SIGTERM leaves the guest")


def damaged_and_foreign(folder):
    """What is stored is no calibration, or one of another kernel: it is not used."""
    with Daemon(folder, "--no-calibration") as d:
        good = d.rpc.result("host.probe")["calibration"]
    path = os.path.join(folder, "state", "trivisor.db")
    older = json.loads(json.dumps(good))
    older["key"]["kernel"] = "Linux 2.6.32"
    absurd = json.loads(json.dumps(good))
    absurd["modes"]["bt"]["figures"]["integer"]["ns"] = -5
    for text in ("no JSON at all", "{}", "[1]", json.dumps(older), json.dumps(absurd), json.dumps(good)[:-40], json.dumps(good)):
        db = sqlite3.connect(path)
        db.execute("UPDATE note SET json=? WHERE key='calibration'", (text,))
        db.commit()
        db.close()
        with Daemon(folder, "--no-calibration") as d:
            check((d.rpc.result("host.probe")["calibration"] is not None) == (text == json.dumps(good)), f"believed, or not: {text[:60]}")


FAKE = """#!/usr/bin/python3
import os, socket, sys
folder = sys.argv[sys.argv.index("--dir") + 1]
s = socket.socket(socket.AF_UNIX)
os.chdir(folder)
s.bind("console.sock")
s.listen(1)
c, _ = s.accept()
{what}
"""
HANGS = r"""
import time
c.sendall(b"calibrate ready 1\n")
c.sendall(b"begin " + c.recv(4096).split()[2] + b"\n")
time.sleep(1000)
"""
HANGS_ONCE = r"""
import time
mark = os.path.join(os.path.dirname(sys.argv[0]), "hung")
c.sendall(b"calibrate ready 1\n")
line = c.recv(4096).split()
for name in line[2:]:
    c.sendall(b"begin " + name + b"\n")
    if name == b"integer" and not os.path.exists(mark):
        open(mark, "w").close()
        time.sleep(1000)
    c.sendall(b"figure " + name + b" 5000 6000 100 9\n")
c.sendall(b"end\n")
"""
SPEAKS = r"""
c.sendall(b"calibrate ready 1\r\nnoise\r\n")
line = c.recv(4096).split()
for name in line[2:]:
    c.sendall(b"begin " + name + b"\n")
    if name == b"vector":
        c.sendall(b"panic: no such luck\n")
        sys.exit(4)
    c.sendall(b"figure " + name + b" 5000 6000 100 9\n")
c.sendall(b"end\n")
"""


def programs_that_misbehave(folder):
    """A guest that dies in one measure, one that says nothing sensible, one that cannot start, a missing program."""
    fake = os.path.join(folder, "fake")

    def bt_after(what):
        with open(fake, "w") as f:
            f.write(FAKE.format(what=what))
        os.chmod(fake, 0o755)
        with Daemon(folder, "--no-calibration", "--vm-program", fake) as d:
            # On a machine that stands still for a while, the time for all of it runs out.
            for _ in range(5):
                answer = d.rpc.result("host.calibrate")
                if answer["complete"]:
                    break
            return answer["modes"]["bt"]

    bt = bt_after(SPEAKS)["figures"]
    check(bt["vector"] == {"cannot_execute": "panic: no such luck"}, str(bt["vector"]))
    check(all(bt[m]["ns"] > 0 for m in LOOPS + KERNEL if m != "vector"), f"one measure's death took others along: {bt}")
    for what, word in (("sys.exit(1)", "died"), ("c.sendall(b'\\x00\\xff' * 5000)", ""), ("c.sendall(b'calibrate ready 7\\n')", "ready 7")):
        mode = bt_after(what)
        check(word in mode["problem"] and all("cannot_execute" in f for f in mode["figures"].values()), str(mode))
    # A host that stands still for some seconds is no guest that cannot: what hung once is tried again.
    bt = bt_after(HANGS_ONCE)["figures"]
    check(os.path.exists(os.path.join(folder, "hung")) and bt["integer"].get("ns", 0) > 0, str(bt))
    # What never started is no mode that cannot: bt is still chosen, and measured as soon as it can be.
    definition = {"name": "v", "memory_mib": 64, "boot": {"firmware": os.path.join(folder, "fake")}}
    with open(definition["boot"]["firmware"], "wb") as f:
        f.write(bytes(65536))
    with Daemon(folder, "--no-calibration", "--vm-program", "/nowhere/trivisor-vm") as d:
        answer = d.rpc.result("host.calibrate")
        mode = answer["modes"]["bt"]
        check("/nowhere/trivisor-vm" in mode["problem"] and not mode["measured"] and not answer["complete"], str(answer))
        check("not measured: cannot start" in [r for r in d.rpc.result("modes.compare") if r["aspect"] == "performance"][0]["bt"]["host"], "compare")
        decision = d.rpc.result("policy.explain", {"definition": definition})
        check(decision["mode"] == "bt", decision["reason"])
    # One that hangs in every measure: the time for everything ends it, and what was not reached is not called impossible:
    # it keeps what was measured before.
    with open(fake, "w") as f:
        f.write(FAKE.format(what=SPEAKS))
    os.chmod(fake, 0o755)
    with Daemon(folder, "--no-calibration", "--vm-program", fake) as d:
        for _ in range(5):
            before = d.rpc.result("host.calibrate")
            if before["complete"]:
                break
        built = os.stat(fake)
        with open(fake, "w") as f:
            f.write(FAKE.format(what=HANGS))
        os.utime(fake, ns=(built.st_atime_ns, built.st_mtime_ns))
        answer = d.rpc.result("host.calibrate")
        mode = answer["modes"]["bt"]
        check(not answer["complete"] and mode["figures"]["virtio"] == before["modes"]["bt"]["figures"]["virtio"], str(mode))
        check("did not finish" in mode["figures"]["integer"]["cannot_execute"], str(mode))
        check("not measured" in answer["modes"]["pv"]["problem"] or answer["modes"]["pv"]["measured"], str(answer["modes"]["pv"]))
    os.environ["TRIVISOR_CALIBRATE"] = "/nowhere/trivisor-calibrate"
    try:
        with Daemon(folder, "--no-calibration") as d:
            error = d.rpc.call("host.calibrate")["error"]
            check("/nowhere/trivisor-calibrate" in error["message"], str(error))
            check(d.rpc.result("daemon.version")["name"] == "trivisord", "it does not serve any more")
    finally:
        del os.environ["TRIVISOR_CALIBRATE"]


def fleet_from_files(folder):
    """trictl host --json on this host, beside files of others, and a plan of them."""
    hosts = os.path.join(folder, "hosts")
    os.mkdir(hosts)
    source = os.path.join(SOURCE, "tests", "hosts")
    for name in ("xeon-ept-iommu.json", "cloud-no-nested.json"):
        shutil.copy(os.path.join(source, name), hosts)
    with Daemon(folder, "--no-calibration") as d:
        trictl = [program("trictl")]
        with open(os.path.join(hosts, "this.json"), "w") as f:
            subprocess.run([*trictl, "host", "--json", "--socket", d.socket], stdout=f, check=True)
        with open(os.path.join(hosts, "vms.json"), "w") as f:
            json.dump([{"name": "a", "workload": "compute"}, {"name": "b", "policy": {"forbid": ["hvm"]}}, {"name": "c", "memory_mib": 10**8}], f)
        r = subprocess.run([*trictl, "fleet", "--json", "--socket", d.socket, "plan", hosts], capture_output=True, text=True, check=True)
        plan = json.loads(r.stdout)
        placed = {p["vm"]: p for p in plan["placements"]}
        check(placed["a"]["variant"] == "hvm/ept" and placed["b"]["mode"] == "bt" and plan["unplaced"][0]["vm"] == "c", r.stdout)
        check({h["host"] for h in plan["hosts"]} == {"xeon-ept-iommu", "cloud-no-nested", "this"}, r.stdout)
        for command in (["host"], ["compare"], ["compare", "--markdown"], ["history"], ["fleet", "plan", hosts]):
            r = subprocess.run([*trictl, *command[:1], "--socket", d.socket, *command[1:]], capture_output=True, text=True, check=True)
            check(r.stdout and not r.stderr and "(null)" not in r.stdout, f"{command}: {r}")
        # A thousand of this host, as it tells of itself, and ten thousand VMs: one message.
        many = os.path.join(folder, "many")
        os.mkdir(many)
        for i in range(1000):
            os.link(os.path.join(hosts, "this.json"), os.path.join(many, f"h{i}.json"))
        with open(os.path.join(many, "vms.json"), "w") as f:
            json.dump([{"name": f"v{i}", "memory_mib": 64, "policy": {"require": ["bt"]}} for i in range(10000)], f)
        r = subprocess.run([*trictl, "fleet", "--json", "--socket", d.socket, "plan", many], capture_output=True, text=True, check=True)
        placed = json.loads(r.stdout)["placements"]
        cores = next(f["value"] for f in d.rpc.result("host.probe")["facts"] if f["name"] == "cores")
        # Four virtual processors for each core.
        check(len(placed) == min(10000, 4000 * cores) and {p["mode"] for p in placed} == {"bt"}, f"{len(placed)} of 10000 VMs were placed")
        os.unlink(os.path.join(hosts, "vms.json"))
        r = subprocess.run([*trictl, "fleet", "--socket", d.socket, "plan", hosts], capture_output=True, text=True, check=False)
        check(r.returncode == 1 and "vms.json" in r.stderr, str(r))


APART = (killed_in_the_middle, asked_twice_at_once, programs_that_misbehave)
# Over one state directory: what the first finds is what the others use.
TOGETHER = (every_figure, the_chosen_mode_is_the_faster_one, runs_teach, disks_are_learned_from_runs, what_is_demanded_shows, the_table_is_whole, fleet_from_files, damaged_and_foreign)


def main():
    program("trivisord")
    tap = Tap()
    for test in APART:
        with scratch() as folder:
            tap.run(test.__name__.replace("_", " "), test, folder)
    with scratch() as folder:
        for test in TOGETHER:
            tap.run(test.__name__.replace("_", " "), test, folder)
    tap.finish()


if __name__ == "__main__":
    main()
