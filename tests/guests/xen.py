#!/usr/bin/env python3
"""Xen PV guests in mode pv: stock kernels through their Xen entry, on nothing but Linux.

Packages are fetched once (tools/fetch-package) and never installed. Arguments choose tests by their names.
"""

import os
import subprocess
import sys

from vmtest import BOOT_TIMEOUT, SOURCE, Skip, Tap, Vm, check, scratch

MACH = "boot/gnumach-1.8-xen-486.gz"


def package(name, path):
    """A file of a Debian package."""
    r = subprocess.run([os.path.join(SOURCE, "tools", "fetch-package"), name, f"./{path}"], capture_output=True, text=True, timeout=600, check=False)
    if r.returncode:
        raise Skip((r.stderr.strip().splitlines() or [f"no package {name}"])[-1])
    return os.path.join(r.stdout.strip(), path)


def run(boot, expected, memory=64, vcpus=1, ends=None):
    """Boots, waits for each pattern in turn; the result if it is to end by itself."""
    with scratch() as folder, Vm(folder, {"memory_mib": memory, "vcpus": vcpus, "boot": boot}, mode="pv") as vm:
        console = vm.console()
        for pattern in expected:
            console.expect(pattern, BOOT_TIMEOUT)
        if ends is None:
            return vm.control().result("stats")
        check(vm.wait(BOOT_TIMEOUT) == ends, vm.log())
        return vm.result()


def mach():
    """GNU Mach on x86-64: all of its start, until it misses what it is to run."""
    kernel = package("gnumach-image-1.8-xen-486", MACH)
    result = run({"kernel": kernel}, [r"GNU Mach 1\.8", r"Running on xen-3\.0-x86_64", r"vm_page: page table size: \d+ entries",
                                      r"hd: No block device", r"bootstrap_create: No bootstrap code loaded"], ends=4)
    engine = result["stats"]["engine"]
    check(engine["hypercalls"] > 1000 and engine["mmu_updates"] > 100 and engine["upcalls"] > 10, str(engine))
    check(result["stats"]["mode"] == "pv" and result["stats"]["variant"] == "pv/xen", str(result["stats"]))
    check(result["state"] == "crashed" and "panicked" in result["reason"], str(result))


def mach_module():
    """The same with a module, whose words it parses and which it tries to load."""
    kernel = package("gnumach-image-1.8-xen-486", MACH)
    module = os.path.join(SOURCE, "LICENSE")
    result = run({"kernel": kernel, "cmdline": "root=device:hd0", "modules": [{"path": module, "cmdline": "first $(task-create)"}]},
                 [r"module 0: first \$\(task-create\)", r"1 multiboot modules", r"Cannot load user executable module.*first"], ends=4)
    check(result["state"] == "crashed", str(result))


def refusals():
    """What is no PV kernel is refused with the reason, and how much memory is too little."""
    kernel = package("gnumach-image-1.8-xen-486", MACH)
    for boot, memory, words in (({"kernel": os.path.join(SOURCE, "README.md")}, 64, "no ELF file"),
                                ({"kernel": kernel}, 4, "memory"),
                                ({"firmware": kernel}, 64, "Xen's PV entry")):
        with scratch() as folder, Vm(folder, {"memory_mib": memory, "boot": boot}, mode="pv") as vm:
            check(vm.wait(BOOT_TIMEOUT) == 3, "it started")
            check(words in vm.result()["reason"], f"{boot}: {vm.result()['reason']}")


TESTS = {
    "gnumach boots": mach,
    "gnumach with a module": mach_module,
    "what cannot be a domain": refusals,
}


def main():
    tap = Tap()
    for name, test in TESTS.items():
        if len(sys.argv) < 2 or any(word in name for word in sys.argv[1:]):
            tap.run(name, test)
    tap.finish()


if __name__ == "__main__":
    main()
