#!/usr/bin/python3
"""Programs whose output must be the same natively and in a guest: faults, signals, single steps, vector state, 32-bit code.

The host's processor and kernel are the reference. Lines about what the host does not allow (ptrace in a container) are
left out.
"""

import difflib
import os
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from vmtest import BOOT_TIMEOUT, Skip, Tap, Vm, check, kernel_image, make_initramfs, program, scratch

PROGRAMS = ("faults", "compat")


def native(name):
    try:
        r = subprocess.run([program(f"tests/guests/programs/{name}")], capture_output=True, text=True, timeout=60)
    except OSError as e:
        raise Skip(f"the host cannot run it: {e.strerror}") from None
    if r.returncode and not r.stdout:
        raise Skip(f"the host cannot run it: status {r.returncode}")
    check(r.returncode == 0, f"natively it ends with status {r.returncode}:\n{r.stdout}")
    return r.stdout.splitlines()


def run_in_guest(folder, vcpus):
    """The lines between each program's marks, by name."""
    script = os.path.join(folder, "run.sh")
    with open(script, "w") as f:
        for name in PROGRAMS:
            f.write(f"echo begin-{name}; /bin/{name}; echo end-{name}\n")
        f.write("echo programs-ran; poweroff -f\n")
    files = [f"--file={program(f'tests/guests/programs/{name}')}:/bin/{name}:755" for name in PROGRAMS]
    initrd = make_initramfs(os.path.join(folder, "initramfs"), "--no-modules", f"--run={script}", *files)
    boot = {"kernel": kernel_image(), "initrd": initrd, "cmdline": "console=ttyS0 quiet trivisor.do=run"}
    vm_folder = os.path.join(folder, "vm")
    os.mkdir(vm_folder)
    with Vm(vm_folder, {"boot": boot, "vcpus": vcpus}) as vm:
        console = vm.console()
        console.expect("programs-ran", BOOT_TIMEOUT)
        text = console.text.replace("\r", "")
    return {name: text.split(f"begin-{name}\n", 1)[1].split(f"end-{name}\n", 1)[0].splitlines() for name in PROGRAMS}


def same(name, guest):
    want = native(name)
    skip = [line.split(":")[0] for line in want if line.endswith("not available")]
    keep = lambda lines: [line for line in lines if line.split(":")[0] not in skip and not line.startswith("[")]
    diff = list(difflib.unified_diff(keep(want), keep(guest[name]), "native", "guest", lineterm="", n=0))
    check(not diff, "\n".join(diff))


def main():
    tap = Tap()
    for vcpus in (1, 2):
        with scratch() as folder:
            guest = {}
            if tap.run(f"a guest with {vcpus} vCPU runs the programs", lambda: guest.update(run_in_guest(folder, vcpus))):
                for name in PROGRAMS:
                    tap.run(f"{name} with {vcpus} vCPU as natively", same, name, guest)
    tap.finish()


main()
