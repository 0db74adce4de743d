#!/usr/bin/env python3
"""Multiboot 1 kernels through trivisor's own loader, and, as a reference, through QEMU's: what they are handed.

One program, in every form such a kernel can have, prints what it finds; both loaders' answers must pass the same checks.
"""

import gzip
import os
import re
import shutil
import subprocess
import sys
import time
import zlib

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(HERE))
from vmtest import BUILD, Skip, Tap, Vm, check, program, scratch  # noqa: E402

MEMORY_MIB = 64
TIMEOUT = 120
PAGE = 4096
WORDS = "one  two=\"three four\""


def image(name):
    path = os.path.join(BUILD, "tests/guests/kernels", name)
    if not os.path.exists(path):
        raise Skip(f"{path} is not built")
    return path


def definition(kernel, modules=(), cmdline=WORDS, memory_mib=MEMORY_MIB, **boot):
    return {"memory_mib": memory_mib, "debug_exit": True, "on_reboot": "shutdown",
            "boot": {"kernel": kernel, "cmdline": cmdline, **({"modules": list(modules)} if modules else {}), **boot}}


def ours(folder, *arguments, **more):
    """Output of one run to its end."""
    where = os.path.join(folder, f"vm{time.monotonic_ns()}")
    os.mkdir(where)
    with Vm(where, definition(*arguments, **more)) as vm:
        console = vm.console()
        console.expect("\nend\n", TIMEOUT)
        check(vm.wait(TIMEOUT) == 1, vm.log())
        return console.text


def refused(folder, *arguments, **more):
    """The reason for which a VM does not start."""
    where = os.path.join(folder, f"vm{time.monotonic_ns()}")
    os.mkdir(where)
    with Vm(where, definition(*arguments, **more)) as vm:
        check(vm.wait(TIMEOUT) == 3, vm.log())
        return vm.result()["reason"]


def theirs(kernel, modules=()):
    qemu = shutil.which("qemu-system-i386") or shutil.which("qemu-system-x86_64")
    if not qemu:
        raise Skip("no qemu-system-i386")
    command = [qemu, "-machine", "q35,accel=tcg", "-m", str(MEMORY_MIB), "-display", "none", "-nodefaults", "-no-reboot", "-serial", "stdio",
               "-device", "isa-debug-exit,iobase=0xf4,iosize=0x04", "-kernel", kernel, "-append", WORDS]
    if modules:
        command += ["-initrd", ",".join(f"{m['path']} {m['cmdline']}".replace(",", ",,") for m in modules)]
    r = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=TIMEOUT, check=False)
    return r.stdout.decode(errors="replace")


class Told:
    """What the kernel printed."""

    def __init__(self, text):
        text = text.replace("\r", "")
        start = text.find("eax ")
        check(start >= 0 and "\nend\n" in text, f"the kernel did not tell everything:\n{text[-2000:]}")
        self.lines = [line.partition(" ")[::2] for line in text[start:].splitlines()]
        self.map = [tuple(int(word, 16) for word in value.split()) for key, value in self.lines if key == "map"]
        self.modules = []
        for key, value in self.lines:
            if key == "module":
                self.modules.append({})
            if key in ("module", "bytes", "sum", "string", "reserved"):
                self.modules[-1][key] = value if key == "string" else int(value, 16)

    def word(self, key):
        return int(self.text(key), 16)

    def text(self, key):
        found = [value for k, value in self.lines if k == key]
        check(len(found) == 1, f"{key} was told {len(found)} times")
        return found[0]

    def has(self, flag):
        return bool(self.word("flags") >> flag & 1)


def is_ram(told, start, end):
    return any(kind == 1 and base <= start and end <= base + size for base, size, kind in told.map)


def check_state(told):
    """3.2: the machine's state."""
    check(told.word("eax") == 0x2badb002, "eax")
    check(told.word("cr0") & 0x80000001 == 1, "cr0: protected mode, no paging")
    check(told.word("eflags") & 0x20200 == 0, "eflags: VM and IF")
    # lar: present, DPL 0, code and data; D/B and G.
    check(told.word("cs") & 0xc0fa00 == 0xc09a00 and told.word("cs-limit") == 0xffffffff, "cs")
    check(told.word("ss") & 0xc0fa00 == 0xc09200 and told.word("ss-limit") == 0xffffffff, "ss")
    check(told.word("initialized") == 0x12345678, "data")
    check(told.word("bss") == 0, "bss is not cleared")


def check_memory(told, memory_mib):
    check(told.has(0) and told.has(6), "flags: memory, map")
    check(600 <= told.word("mem-lower") <= 640, "mem_lower")
    top = memory_mib << 10
    check(top - 1024 - 1024 <= told.word("mem-upper") <= top - 1024, "mem_upper")
    check(is_ram(told, 0x100000, 0x100000 + (told.word("mem-upper") << 10) - (1 << 20)), "mem_upper and the map differ")
    check(told.map == sorted(told.map) and all(size for _, size, _ in told.map), f"the map: {told.map}")
    ends = [base + size for base, size, _ in told.map]
    check(all(end <= base for end, (base, _, _) in zip(ends, told.map[1:])), f"overlaps in the map: {told.map}")
    check(not is_ram(told, 0xf0000, 0xf1000), "the BIOS area is no RAM")


def check_modules(told, wanted, image_end):
    """Whole, page-aligned, in RAM, apart from each other and from the kernel."""
    check(told.has(3) or not wanted, "flags: modules")
    check(len(told.modules) == len(wanted), f"{len(told.modules)} modules of {len(wanted)}")
    taken = [(told.word("image-start") & 0x3fffffff, image_end & 0x3fffffff)]
    for module, (data, _) in zip(told.modules, wanted):
        start, end = module["module"], module["module"] + module["bytes"]
        check(module["bytes"] == len(data), "a module's size")
        check(module["sum"] == zlib.adler32(data), "a module's bytes")
        check(start % PAGE == 0, f"a module at {start:#x}")
        check(is_ram(told, start, end), "a module is not in RAM")
        check(all(end <= a or start >= b for a, b in taken), "a module overlaps something")
        taken.append((start, end))
    info = told.word("ebx")
    check(all(info + 120 <= a or info >= b for a, b in taken), "the information overlaps something")
    check(is_ram(told, info, info + 120), "the information is not in RAM")


def check_strings(told, prefix, wanted):
    """QEMU puts the file's name in front; here a text is what was given."""
    check(told.has(2) and told.text("cmdline") == prefix + WORDS, f"command line {told.text('cmdline')!r}")
    check(told.has(9), "flags: loader's name")
    for module, (_, text) in zip(told.modules, wanted):
        check(module["string"] == text, f"a module's command line {module['string']!r}")


class Forms:
    """The modules that all are given, and the tests."""

    def __init__(self, folder):
        self.folder = folder
        self.data = [bytes(i * 7 & 255 for i in range(3 * PAGE + 5)), b"the second module\n"]
        self.modules = []
        for i, data in enumerate(self.data):
            path = os.path.join(folder, f"module{i}")
            with open(path, "wb") as f:
                f.write(data)
            self.modules.append({"path": path, "cmdline": f"module {i}, \"its  words\""})

    def judge(self, text, prefix="", full=False):
        told = Told(text)
        wanted = [(data, (m["path"] + " " if prefix else "") + m["cmdline"]) for data, m in zip(self.data, self.modules)]
        check_state(told)
        check_memory(told, MEMORY_MIB)
        check_modules(told, wanted, told.word("image-end"))
        check_strings(told, prefix, wanted)
        if full:
            # Bits 1, 4, 7, 8, 10 to 12: no BIOS, no a.out symbols, no display.
            check(told.word("flags") & ~(1 << 5) == 0x24d, f"flags {told.word('flags'):#x}")
            check(told.text("loader") == "trivisor", "the loader's name")
            check(all(m["reserved"] == 0 for m in told.modules), "a module's reserved word")
        return told

    def here(self, name):
        return self.judge(ours(self.folder, image(name), self.modules), full=True)

    def qemu(self, name):
        return self.judge(theirs(image(name), self.modules), prefix=image(name) + " ")

    def sections(self):
        """Symbols for a kernel that wants to show them: names and strings are in memory as the file has them."""
        told = self.here("multiboot.elf")
        check(told.has(5) and told.word("elf-size") == 40, "flags: section headers")
        names = [value.split()[0] for key, value in told.lines if key == "section" and value.split()[1:]]
        check({".text", ".bss", ".symtab", ".strtab", ".shstrtab"} <= set(names), f"sections: {names}")
        r = subprocess.run(["readelf", "-SW", image("multiboot.elf")], capture_output=True, text=True, check=True)
        with open(image("multiboot.elf"), "rb") as f:
            whole = f.read()
        tables = re.findall(r"STRTAB +\S+ (\S+) (\S+)", r.stdout)
        sums = [zlib.adler32(whole[int(at, 16):int(at, 16) + int(size, 16)]) for at, size in tables]
        check(sums and sums == [int(v, 16) for k, v in told.lines if k == "strings"], "string tables")
        check(not self.here("multiboot.bin").has(5), "sections of a plain image")

    def initrd_is_a_module(self):
        told = Told(ours(self.folder, image("multiboot.elf"), self.modules[1:], initrd=self.modules[0]["path"]))
        check_modules(told, [(data, "") for data in self.data], told.word("image-end"))
        check(told.modules[0]["string"] == "", "its command line")

    def gzipped(self):
        path = os.path.join(self.folder, "kernel.gz")
        with open(image("multiboot.elf"), "rb") as source, gzip.open(path, "wb") as target:
            shutil.copyfileobj(source, target)
        self.judge(ours(self.folder, path, self.modules), full=True)
        with open(path, "rb") as f:
            whole = f.read()
        for cut in (20, len(whole) // 2, len(whole) - 1):
            with open(path, "wb") as f:
                f.write(whole[:cut])
            why = refused(self.folder, path)
            check(path in why and "damaged or truncated" in why, why)

    def without_anything(self):
        told = Told(ours(self.folder, image("multiboot.elf"), cmdline=""))
        check(told.text("cmdline") == "" and not told.modules, "an empty command line, no modules")

    def refusals(self):
        why = refused(self.folder, image("multiboot-video.elf"))
        check("video mode" in why and "no display" in why, why)
        big = os.path.join(self.folder, "big")
        with open(big, "wb") as f:
            f.truncate(MEMORY_MIB << 20)
        why = refused(self.folder, image("multiboot.elf"), [{"path": big}])
        check(big in why and "more memory" in why, why)
        why = refused(self.folder, image("multiboot.elf"), [{"path": "/nowhere/module"}])
        check("module /nowhere/module does not exist" in why, why)


def main():
    tap = Tap()
    with scratch() as folder:
        forms = Forms(folder)
        names = ["multiboot.elf", "multiboot-high.elf", "multiboot.bin", "multiboot-low.bin"]
        try:
            program("trivisor-vm")
        except Skip as e:
            tap.skip("multiboot", str(e))
            tap.finish()
        for name in [*names, "multiboot64.elf"]:
            tap.run(name, forms.here, name)
        for name in names:
            tap.run(f"{name} under QEMU", forms.qemu, name)
        for test in (forms.sections, forms.initrd_is_a_module, forms.gzipped, forms.without_anything, forms.refusals):
            tap.run(test.__name__.replace("_", " "), test)
    tap.finish()


if __name__ == "__main__":
    main()
