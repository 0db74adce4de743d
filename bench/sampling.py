"""Where a row's time goes under bt: perf samples sorted by what the host was doing, down to the kinds of translated instructions."""

import collections
import os
import re
import signal
import subprocess
import tempfile

from base import TOP, Failure

# Object file of the engine (and of what it calls): the kind of work. What is not here is "other".
OBJECTS = {
    "translating": "decode decode_table translate emit_exit emit_flags emit_group emit_loop emit_mem emit_native vector",
    "finding code": "cache",
    "TLB": "tlb walk mem",
    "helpers": "system segment far string legacy xstate fpu msr task fault",
    "run loop": "run signal sync bt debug",
}
# Parts of translated code, by the text of the sampled instruction (AT&T syntax). The first that matches.
OWN_CODE = [
    ("flags", r"lahf|sahf|seto\s+%al|add\s+\$0x7f,%al|mov\s+%ax,0x[0-9a-f]+\(%rsp\)|movzwl\s+0x[0-9a-f]+\(%rsp\),%eax|"
              r"mov\s+%r14,%rax$|mov\s+%rax,%r14$"),
    ("jumps", r"(notrack )?jmp\s+\*|cmp\s+\$0x[0-9a-f]{5,},%r15$|cmpl\s+\$.*\(%rsp\)$|movzwl\s+%r15w,%r14d"),
    ("polls", r"mov\s+\(%r1[45]\),%r1[45]$|mov\s+POLL\(%rsp\),%r1[45]$"),
    ("checks", r"rorx\s+\$0x7,|and\s+\$0x1ffe0,%r14d|(add|sub|cmp)\s+0x[0-9a-f]+\(%rsp(,%r1[45],1)?\),%r1[45]|"
               r"cmp\s+\$0xf[0-9a-f]{2},%r1[45]|ja\s|lea\s+.*,%r1[45]d?$|mov\s+0x[0-9a-f]+\(%rsp(,%r14,1)?\),%r14$|"
               r"cmpq\s+\$.*,0x[0-9a-f]+\(%rsp\)"),
    ("moved registers", r"mov\s+(%r\w+,)?0x[0-9a-f]+\(%rsp\)(,%r\w+)?$"),
]
COLUMNS = ["the guest's own", *(name for name, _ in OWN_CODE), "out of line", "slot refills", "other thunks", "translating", "finding code", "TLB",
           "helpers", "run loop", "devices", "host kernel", "other"]


def object_of_symbols(build):
    """{function: (library, object file's name without .o)}; a name that two files use for different functions is either's."""
    found = {}
    for library in ("libbtcore.a", "libbtdecode.a", "libbt.a", "libmachine.a"):
        path = os.path.join(build, library)
        if not os.path.exists(path):
            continue
        text = subprocess.run(["nm", "-A", "--defined-only", path], capture_output=True, text=True, check=False).stdout
        for line in text.splitlines():
            match = re.match(r".*?:([^:]*)\.o:[0-9a-f]+ [tTwW] (\S+)$", line)
            if match:
                # Automake puts the target's name in front of some.
                found.setdefault(match.group(2), (library, match.group(1).split("-")[-1].split("_a-")[-1]))
    return found


def hot_part():
    """Which part of the code cache comes before what rarely runs: the engine's own constant."""
    with open(os.path.join(TOP, "modes", "bt", "cache.h"), encoding="utf-8") as f:
        match = re.search(r"^#define BT_HOT_BYTES \(BT_CACHE_BYTES / (\d+) \* (\d+)\)", f.read(), re.M)
    if not match:
        raise Failure("modes/bt/cache.h: BT_HOT_BYTES is no longer of the form that bench/sampling.py knows")
    return int(match.group(2)) / int(match.group(1))


def kind_of_object(library, name):
    for kind, names in OBJECTS.items():
        if name in names.split():
            return kind
    return "devices" if library == "libmachine.a" else "other"


class Sampler:
    """Has perf sample a trivisor-vm during one row, and keeps its code cache as it was then."""

    def __init__(self, row, output):
        self.row = row
        self.output = output
        self.process = self.pid = self.vcpu = None
        self.code = {}
        self.samples = None

    def _record(self, *arguments):
        return ["perf", "record", "-q", "-e", "cpu-clock", "-F", "1999", "-o", self.output, *arguments]

    def wrap(self, command):
        """A boot is sampled from its first instruction to the end; its code is not kept."""
        return self._record("--", *command) if self.row == "boot" else command

    def started(self, name, pid):
        if name == self.row:
            self.pid = pid
            command = self._record("-p", str(pid))
            self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def ended(self, name):
        if name != self.row or not self.process:
            return
        # Stopped meanwhile: it would run on into what comes next.
        os.kill(self.pid, signal.SIGSTOP)
        try:
            self._keep_code()
        except OSError as e:
            raise Failure(f"the VM's code cache cannot be read: {e.strerror}") from e
        finally:
            os.kill(self.pid, signal.SIGCONT)
        self.process.send_signal(signal.SIGINT)
        self.process.wait()

    def _keep_code(self):
        with open(f"/proc/{self.pid}/maps", encoding="utf-8") as maps, open(f"/proc/{self.pid}/mem", "rb") as memory:
            for line in maps:
                fields = line.split()
                if "x" in fields[1] and "memfd" in line:
                    start, end = (int(word, 16) for word in fields[0].split("-"))
                    memory.seek(start)
                    self.code[start] = memory.read(end - start)

    def load(self):
        """[(address, symbol, object)] of the busiest thread, which is the vCPU."""
        if self.samples is not None:
            return self.samples
        text = subprocess.run(["perf", "script", "-i", self.output, "-F", "tid,ip,sym,dso"], capture_output=True, text=True,
                              check=True).stdout
        threads = collections.defaultdict(list)
        for line in text.splitlines():
            match = re.match(r"\s*(\d+)\s+([0-9a-f]+)\s+(.*?)\s+\((.*)\)$", line)
            if match:
                threads[match.group(1)].append((int(match.group(2), 16), match.group(3), match.group(4)))
        self.samples = max(threads.values(), key=len, default=[])
        return self.samples

    def in_code(self, address, where):
        return "memfd" in where or any(start <= address < start + len(code) for start, code in self.code.items())

    def functions(self):
        """[(share, object, symbol)], the largest first; translated code is one."""
        counts = collections.Counter()
        for address, symbol, where in self.load():
            counts[("translated code", "") if self.in_code(address, where) else (os.path.basename(where), symbol)] += 1
        total = max(sum(counts.values()), 1)
        return [(100 * count / total, *where) for where, count in counts.most_common()]

    def _thunks(self):
        """(start of the slots' thunks, their end, start of the translations); the engine puts them in this order."""
        for start, code in self.code.items():
            slots = [m.start() for m in re.finditer(rb"\x4c\x2b\xbc\x24", code[:1 << 17])]
            first = re.search(rb"\x49\x81\xff.{4}\x0f\x85|\x49\x39", code[:1 << 17], re.S)
            if slots and first:
                inside = [s for s in slots if s < first.start()]
                return start + inside[0], start + inside[-1] + 112, start + first.start()
        return 0, 0, 0

    def kinds(self, build):
        """{column: share of the vCPU's time}, and the helpers (and alike) that count: [(share, function)]."""
        objects = object_of_symbols(build)
        slots, slots_end, first = self._thunks()
        start = min(self.code, default=0)
        cold = start + int(len(self.code.get(start, b"")) * hot_part())
        counts, named, translated = collections.Counter(), collections.Counter(), collections.Counter()
        for address, symbol, where in self.load():
            if self.in_code(address, where):
                if address < first:
                    counts["slot refills" if slots <= address < slots_end else "other thunks"] += 1
                elif self.code and address >= cold:
                    counts["out of line"] += 1
                else:
                    translated[address] += 1
            elif "kernel" in where or "guest.kallsyms" in where or where.startswith("[k"):
                counts["host kernel"] += 1
            else:
                name = symbol.split("+")[0].split(".")[0]
                kind = kind_of_object(*objects[name]) if name in objects else "other"
                counts[kind] += 1
                named[name] += 1
        for kind, count in self._translated_kinds(translated).items():
            counts[kind] += count
        total = max(sum(counts.values()), 1)
        shares = {kind: 100 * counts[kind] / total for kind in COLUMNS}
        return shares, [(100 * count / total, name) for name, count in named.most_common(8)]

    def _poll_offset(self):
        """Where in the vCPU the pointer is that polls load through, as text: the commonest of what looks like one."""
        found = collections.Counter()
        for code in self.code.values():
            found.update(int.from_bytes(long or short, "little") for long, short in
                         re.findall(rb"\x4c\x8b(?:[\xbc\xb4]\x24(....)|[\x7c\x74]\x24(.))\x4d\x8b[\x3f\x36]", code, re.S))
        return f"0x{found.most_common(1)[0][0]:x}" if found else "none"

    def _translated_kinds(self, hits):
        """What a sampled instruction is there for, as far as its text tells. Each is disassembled alone: data lies between."""
        counts = collections.Counter()
        if not self.code:
            counts["the guest's own"] = sum(hits.values())
            return counts
        addresses = sorted(hits)
        with tempfile.NamedTemporaryFile(prefix="trivisor-bench.") as f:
            for address in addresses:
                start = max((base for base in self.code if base <= address), default=None)
                code = self.code[start][address - start:address - start + 16] if start is not None else b""
                f.write(code.ljust(32, b"\x90"))
            f.flush()
            text = subprocess.run(["objdump", "-D", "-b", "binary", "-m", "i386:x86-64", "--no-show-raw-insn", f.name],
                                  capture_output=True, text=True, check=True).stdout
        kinds = [(kind, re.compile(pattern.replace("POLL", self._poll_offset()))) for kind, pattern in OWN_CODE]
        for line in text.splitlines():
            match = re.match(r"\s*([0-9a-f]+):\s+(.*)", line)
            if match and int(match.group(1), 16) % 32 == 0 and int(match.group(1), 16) // 32 < len(addresses):
                kind = next((kind for kind, pattern in kinds if pattern.match(match.group(2))), "the guest's own")
                counts[kind] += hits[addresses[int(match.group(1), 16) // 32]]
        return counts

    def hot_code(self, count):
        """The `count` hottest stretches of translated code: [(share, [(share, address, disassembly)])]."""
        hits = collections.Counter(address for address, _, where in self.load() if self.in_code(address, where))
        total = max(len(self.load()), 1)
        stretches = []
        for address in sorted(hits):
            if stretches and address - stretches[-1][-1] < 64:
                stretches[-1].append(address)
            else:
                stretches.append([address])
        stretches.sort(key=lambda stretch: -sum(hits[address] for address in stretch))
        return [(100 * sum(hits[a] for a in stretch) / total, self._disassemble(stretch, hits, total))
                for stretch in stretches[:count]]

    def _disassemble(self, stretch, hits, total):
        first, last = stretch[0], stretch[-1] + 24
        start = max(base for base in self.code if base <= first)
        with tempfile.NamedTemporaryFile(prefix="trivisor-bench.") as f:
            f.write(self.code[start][first - start:last - start])
            f.flush()
            text = subprocess.run(["objdump", "-D", "-b", "binary", "-m", "i386:x86-64", "--no-show-raw-insn",
                                   f"--adjust-vma={first:#x}", f.name], capture_output=True, text=True, check=True).stdout
        lines = []
        for line in text.splitlines():
            found = re.match(r"\s*([0-9a-f]+):\s+(.*)", line)
            if found:
                address = int(found.group(1), 16)
                lines.append((100 * hits.get(address, 0) / total, address, found.group(2)))
        return lines
