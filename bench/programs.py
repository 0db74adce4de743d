"""The group `programs`: what is run in the Debian root file system, and how often."""

import rootfs
from base import Failure

PYTHON = "usr/bin/python3.*"
CC1 = "usr/lib*/gcc/x86_64-linux-gnu/*/cc1"


class Program:
    """One row. The first argument is a pattern of a path in the root; a `@` stands for the operations.

    `result` is "output" if what it prints is the same everywhere, or else "status": then it checks its work itself.
    """

    def __init__(self, name, operations, unit, result, arguments, reads=(), units=1):
        self.name, self.operations, self.unit, self.units = name, operations, unit, units
        self.result, self.arguments, self.reads = result, arguments, reads

    def plan_lines(self, root):
        path = root.find(self.arguments[0])
        files = [path, *root.libraries[self.arguments[0]], *(root.find(pattern) for pattern in self.reads)]
        words = [path, *self.arguments[1:]]
        return [f"read {' '.join(files)}", f"run {self.name} {self.operations} {self.result} {' '.join(words)}"]


def crypto(what, operations, unit, units=1):
    return Program(f"openssl-{what}", operations, unit, "output", ["bench/crypto", what, "@"], units=units)


def stress(method, operations):
    arguments = ["usr/bin/stress-ng", "--cpu", "1", "--cpu-method", method, "--cpu-ops", "@", "--verify"]
    return Program(f"stress-{method}", operations, "op", "status", arguments)


def python(what, operations, unit):
    reads = ["bench", "usr/lib/python3.*/re", "usr/lib/python3.*/json", "usr/lib/python3.*/__pycache__"]
    return Program(f"python-{what}", operations, unit, "output", [PYTHON, "-S", "/bench/loops.py", what, "@"], reads)


PROGRAMS = [
    crypto("sha256", 6000, "KiB", 16),
    crypto("aes-256-gcm", 8000, "KiB", 16),
    crypto("rsa2048-verify", 8000, "signature"),
    # What `7z b` does, which itself adapts its work to a clock rate that it finds out by trial.
    Program("7z-compress", 1, "run", "output", ["usr/bin/7zz", "a", "-txz", "-mmt1", "-mx1", "-an", "-so", "/bench/data"], ["bench"]),
    Program("7z-decompress", 1, "run", "output", ["usr/bin/7zz", "x", "-txz", "-mmt1", "-so", "/bench/data.xz"], ["bench"]),
    stress("ackermann", 200),
    stress("crc16", 200),
    stress("int64", 200),
    stress("queens", 200),
    stress("fft", 100),
    stress("matrixprod", 100),
    Program("gcc", 1, "file", "output", [CC1, "-quiet", "-O1", "-imultiarch", "x86_64-linux-gnu", "/bench/large.c", "-o", "-"],
            ["bench", "usr/include/stb"]),
    python("floats", 30000, "step"),
    python("words", 120, "text"),
    python("regex", 120, "log"),
    python("json", 200, "document"),
    python("objects", 40000, "round"),
]


def workloads():
    """{name: (group, units of one operation, unit)}, as peers.workloads."""
    return {program.name: ("programs", program.units, program.unit) for program in PROGRAMS}


def operations():
    return {program.name: program.operations for program in PROGRAMS}


def plan_lines(name, root):
    """The plan's lines for a program of that name; none if it is no program."""
    return next((program.plan_lines(root) for program in PROGRAMS if program.name == name), [])


def prepare(options, names):
    """Sets options.root if one of the rows needs it. The first time that takes minutes: packages are downloaded."""
    if not any(name in operations() for name in names):
        return
    if not options.kernel_dir:
        raise Failure("the programs' disk needs modules of the kernel: only Debian's own has them, leave --kernel away")
    options.root = rootfs.make(sorted({program.arguments[0] for program in PROGRAMS}))
