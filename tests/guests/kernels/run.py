#!/usr/bin/env python3
"""Runs the system-test kernels under a mode of trivisor, and under QEMU's TCG as a reference where it is installed.

Each test of each kernel is a TAP line. For every kernel one more says whether QEMU's verdicts agree; known deviations of
QEMU are in deviations.txt, each with the manual's section that settles it.
  run.py [--mode M] [--no-reference] [--repeat N] [KERNEL[:TEST-NUMBER]...]
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(HERE))
from vmtest import BUILD, MODE, Failed, Skip, Tap, Vm, check, program  # noqa: E402

MEMORY_MIB = 64
TIMEOUT = float(os.environ.get("TRIVISOR_TEST_KERNEL_TIMEOUT", "150"))


class Kernel:
    """One program. `crashes`: each of its tests must end in a triple fault, so each has a machine to itself. `alone`: why
    QEMU is no reference for any of it. `features`: processor features it must have. `qemu`: what QEMU is to have too, `definition`: what ours."""

    def __init__(self, name, vcpus=1, crashes=0, alone=None, features=(), qemu=(), definition=None):
        self.name, self.vcpus, self.crashes, self.alone = name, vcpus, crashes, alone
        self.features, self.qemu, self.definition = features, qemu, definition or {}
        self.file = os.path.join(BUILD, "tests/guests/kernels", name + ".elf")


KERNELS = [
    Kernel("paging"),
    Kernel("edges"),
    Kernel("exceptions"),
    Kernel("stacks"),
    Kernel("syscalls"),
    Kernel("segments"),
    Kernel("smc"),
    Kernel("interrupts"),
    Kernel("processors", vcpus=4),
    Kernel("features"),
    Kernel("registers"),
    Kernel("io"),
    Kernel("legacy"),
    Kernel("limits", alone="QEMU's TCG checks no segment limits or types; nothing outside has confirmed these but the manual"),
    Kernel("spaces", features=("smap", "pcid", "invpcid")),
    Kernel("breakpoints"),
    Kernel("virtual86"),
    Kernel("virtio", qemu=("-device", "virtio-rng-pci-non-transitional", "-netdev", "user,id=n",
                           "-device", "virtio-net-pci-non-transitional,netdev=n,romfile="), definition={"nics": [{"type": "user"}]}),
    Kernel("paravirt", vcpus=2, alone="QEMU's TCG offers none of KVM's interfaces"),
    Kernel("triple", crashes=4),
]


class Outcome:
    """What a run printed: verdicts by test name, comments in front of each, and how the machine ended."""

    def __init__(self, text, end):
        self.text, self.end = text.replace("\r", ""), end
        self.verdicts, self.comments = {}, {}
        self.planned = None
        comments = []
        for line in self.text.splitlines():
            if m := re.fullmatch(r"1\.\.(\d+)", line):
                self.planned = int(m[1])
                comments = []
            elif m := re.fullmatch(r"(ok|not ok) \d+ - (.*?)( # SKIP.*| \(error\))?", line):
                self.verdicts[m[2]] = "skip" if (m[3] or "").startswith(" # SKIP") else m[1] + (m[3] or "")
                self.comments[m[2]] = comments
                comments = []
            elif line.startswith("# ") or "Bail out!" in line:
                comments.append(line.removeprefix("# "))
        self.rest = comments


def run_here(kernel, mode, words):
    folder = tempfile.mkdtemp(prefix="trivisor-kernel.", dir="/tmp")
    definition = {"memory_mib": MEMORY_MIB, "vcpus": kernel.vcpus, "debug_exit": True, "on_reboot": "shutdown",
                  "boot": {"kernel": kernel.file, "cmdline": f"wait {words}"}}
    definition |= kernel.definition
    if kernel.features:
        definition["cpu"] = {"features": {name: True for name in kernel.features}}
    try:
        with Vm(folder, definition, mode=mode) as vm:
            console = vm.console()
            console.type("g")
            deadline = time.monotonic() + TIMEOUT
            while console.pump(max(0, deadline - time.monotonic())) and time.monotonic() < deadline:
                pass
            if time.monotonic() >= deadline:
                return Outcome(console.text, f"did not end within {TIMEOUT:.0f} s")
            status = vm.wait(10)
            result = vm.result()
            end = "crashed" if result["state"] == "crashed" else f"exit {status}"
            outcome = Outcome(console.text, end)
            outcome.reason = result["reason"]
            return outcome
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run_reference(kernel, words):
    """QEMU now and then loses an interrupt of its 8259 in a way that ends the guest: another try."""
    for _ in range(3):
        outcome = run_qemu(kernel, words)
        if outcome.end in ("exit 1", "exit 3"):
            break
    return outcome


def run_qemu(kernel, words):
    command = [QEMU, "-machine", "q35,accel=tcg", "-cpu", "max", "-smp", str(kernel.vcpus), "-m", str(MEMORY_MIB), "-display", "none",
               "-nodefaults", "-no-reboot", "-no-hpet", "-serial", "stdio", "-device", "isa-debug-exit,iobase=0xf4,iosize=0x04",
               "-kernel", kernel.file, "-append", words, *kernel.qemu]
    try:
        r = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=TIMEOUT)
    except subprocess.TimeoutExpired as e:
        return Outcome((e.stdout or b"").decode(errors="replace"), f"did not end within {TIMEOUT:.0f} s")
    # A triple fault under -no-reboot ends QEMU with status 0.
    return Outcome(r.stdout.decode(errors="replace"), "crashed" if r.returncode == 0 else f"exit {r.returncode}")


def deviations():
    known = {}
    with open(os.path.join(HERE, "deviations.txt")) as f:
        for line in f:
            if line.strip() and not line.startswith("#"):
                test, section, what = (part.strip() for part in line.split("|"))
                known[test] = f"{what} ({section})"
    return known


def not_for_qemu(kernel, known):
    """Tests that would end QEMU itself: their numbers, from the table in the kernel's source."""
    crashing = {test.partition(": ")[2] for test, what in known.items() if test.startswith(kernel.name + ": ") and what.startswith("crashes")}
    if not crashing:
        return ""
    with open(os.path.join(HERE, kernel.name + ".c")) as f:
        names = re.findall(r'\{"([^"]*)", \w+\}', f.read().rpartition("TESTS(")[2])
    return "skip=" + ",".join(str(names.index(name) + 1) for name in sorted(crashing))


def report(tap, kernel, outcome):
    """Forwards the kernel's own lines."""
    for test, verdict in outcome.verdicts.items():
        name = f"{kernel.name}: {test}"
        if verdict == "skip":
            tap.skip(name, "; ".join(outcome.comments[test]).removeprefix("skip: "))
            continue
        tap.run(name, lambda: check(verdict == "ok", "\n".join([verdict, *outcome.comments[test]])))

    def ended():
        check(outcome.planned is not None, f"it printed no plan; it {outcome.end}; output:\n{outcome.text[-2000:]}")
        # The debug-exit port turns 0 into status 1 and 1 into 3.
        check(outcome.end in ("exit 1", "exit 3"), f"it {outcome.end} ({getattr(outcome, 'reason', '')}):\n" + "\n".join(outcome.rest))
    tap.run(f"{kernel.name}: ran to its end", ended)


def compare(kernel, ours, theirs, known):
    """Every verdict of both; what a known deviation explains is no difference, nor what another run of QEMU takes back."""
    def differ(test, verdict):
        mine = ours.verdicts.get(test)
        return mine is not None and "skip" not in (mine, verdict) and mine != verdict

    def unexplained(outcome):
        return {t for t, v in outcome.verdicts.items() if differ(t, v) and f"{kernel.name}: {t}" not in known}

    again = unexplained(theirs)
    for _ in range(2):
        if again:  # a busy host makes QEMU late
            words = "only=" + ",".join(str(list(ours.verdicts).index(t) + 1) for t in again)
            once_more = run_reference(kernel, words)
            theirs.verdicts.update({t: v for t, v in once_more.verdicts.items() if not differ(t, v)})
            again = unexplained(theirs)
    different = []
    for test, verdict in theirs.verdicts.items():
        mine = ours.verdicts.get(test)
        if not differ(test, verdict):
            continue
        if f"{kernel.name}: {test}" in known:
            Tap.explain(f"{kernel.name}: {test}: QEMU: {known[f'{kernel.name}: {test}']}")
            continue
        different.append("\n  ".join([f"{test}: QEMU {verdict}, here {mine}", *theirs.comments[test]]))
    check(theirs.end in ("exit 1", "exit 3") or f"{kernel.name}: end" in known,
          f"QEMU {theirs.end}:\n{theirs.text[-1500:]}")
    check(not different, "\n".join(different))


def crash(kernel, number, mode):
    """One test whose end must be a triple fault, told as a crash."""
    ours = run_here(kernel, mode, f"only={number}")
    check(ours.end == "crashed", f"it {ours.end}, instead of crashing; output:\n{ours.text[-1000:]}")
    check("triple fault" in ours.reason, f"the reason given is: {ours.reason}")
    check(not ours.verdicts, f"it came back:\n{ours.text}")
    if QEMU:
        theirs = run_qemu(kernel, f"only={number}")
        check(theirs.end == "crashed", f"QEMU {theirs.end}; output:\n{theirs.text[-1000:]}")


def run_kernel(tap, kernel, mode, words, known):
    theirs = []
    reference = threading.Thread(target=lambda: theirs.append(run_reference(kernel, f"{words} {not_for_qemu(kernel, known)}"))) if QEMU and not kernel.alone else None
    # Side by side where both have a processor to themselves.
    if reference and kernel.vcpus == 1:
        reference.start()
    ours = run_here(kernel, mode, words)
    report(tap, kernel, ours)
    if not reference:
        tap.skip(f"{kernel.name}: QEMU agrees", kernel.alone or "no qemu-system-x86_64")
        return
    if kernel.vcpus > 1:
        reference.start()
    reference.join()
    tap.run(f"{kernel.name}: QEMU agrees", compare, kernel, ours, theirs[0], known)


def main():
    global QEMU
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mode", default=MODE)
    parser.add_argument("--no-reference", action="store_true")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("kernels", nargs="*", metavar="KERNEL[:TEST]")
    options = parser.parse_args()
    QEMU = None if options.no_reference else shutil.which("qemu-system-x86_64")
    wanted = {k.partition(":")[0]: k.partition(":")[2] for k in options.kernels}
    unknown = set(wanted) - {k.name for k in KERNELS}
    if unknown:
        parser.error(f"no kernel {', '.join(sorted(unknown))}: there are {', '.join(k.name for k in KERNELS)}")
    known = deviations()
    tap = Tap()
    try:
        program("trivisor-vm")
    except Skip as e:
        tap.skip("system-test kernels", str(e))
        tap.finish()
    for _ in range(options.repeat):
        for kernel in KERNELS:
            if wanted and kernel.name not in wanted:
                continue
            for i in range(1, kernel.crashes + 1):
                tap.run(f"{kernel.name} {i}: a triple fault is told as a crash", crash, kernel, i, options.mode)
            if not kernel.crashes:
                words = f"only={wanted[kernel.name]}" if wanted.get(kernel.name) else ""
                run_kernel(tap, kernel, options.mode, words, known)
    tap.finish()


QEMU = None
if __name__ == "__main__":
    main()
