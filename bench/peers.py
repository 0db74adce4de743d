"""Starts the things that bench/run compares, one at a time, and reads their consoles with the host's clock at hand."""

import json
import os
import re
import selectors
import socket
import subprocess
import tempfile
import time
import typing

import nets
import programs
from base import TOP, Failure, Unavailable, stop

MARKER = re.compile(r"@bench (\w+)(?: (.*))?$")


def build_guest(folder):
    """Compiles the workloads once, statically; returns the program's path."""
    compiler = os.environ.get("CC", "gcc")
    common = [compiler, "-std=gnu11", "-D_GNU_SOURCE", "-O2", "-g", "-Wall", "-Wextra", "-Wno-unused-parameter"]
    source = os.path.join(TOP, "bench", "guest")
    objects = []
    for name in sorted(os.listdir(source)):
        if name.endswith(".c"):
            objects.append(os.path.join(folder, name.replace(".c", ".o")))
            extra = ["-mavx2", "-mfma"] if name == "vector.c" else []
            subprocess.run(common + extra + ["-c", os.path.join(source, name), "-o", objects[-1]], check=True)
    program = os.path.join(folder, "guest")
    subprocess.run([compiler, "-static", "-pthread", *objects, "-lm", "-o", program], check=True)
    return program


def workloads(program):
    """The program's own list: {name: (group, units of one operation, unit)}."""
    lines = subprocess.run([program, "--list"], check=True, capture_output=True, text=True).stdout.splitlines()
    found = {}
    for line in lines:
        name, group, units, unit = line.split(None, 3)
        found[name] = (group, int(units), unit)
    return found


def write_plan(path, plan, target_ms, root, device, disk, net):
    """The plan as the guest reads it. `root` is the programs' root file system, or None; `device` is where the guest has it.

    `disk` and `net` are what the groups of these names work on, or None.
    """
    with open(path, "w", encoding="ascii") as f:
        f.write(f"target {target_ms}\n")
        if root:
            f.write(f"root {device}\n")
        if disk:
            f.write(f"disk {disk}\n")
        if net:
            f.writelines(nets.plan_lines(net))
        for name, operations in plan.items():
            lines = programs.plan_lines(name, root) or [f"{name} {operations}"]
            f.writelines(line + "\n" for line in lines)


def thread_times(pid):
    """{thread: (ns on a processor, ns for which it was runnable while others had it)}, and "reader" for this process; or None."""
    found = {}
    try:
        paths = {task: f"/proc/{pid}/task/{task}/schedstat" for task in os.listdir(f"/proc/{pid}/task")}
        for thread, path in (paths | {"reader": "/proc/self/schedstat"}).items():
            with open(path, encoding="ascii") as f:
                found[thread] = tuple(int(word) for word in f.read().split()[:2])
    except (OSError, ValueError, IndexError):
        return None
    return found


def waits(before, after, vcpus):
    """Nanoseconds between two thread_times for which threads waited: (a vCPU, on average; all the others). (None, 0): unknown.

    The busiest are the vCPUs; the others carry the console, and so does this process.
    """
    if before is None or not after:
        return None, 0
    threads = sorted(((busy - before.get(thread, (0, 0))[0], delay - before.get(thread, (0, 0))[1])
                      for thread, (busy, delay) in after.items() if thread != "reader"), reverse=True)
    reader = after["reader"][1] - before.get("reader", after["reader"])[1]
    delays = [delay for _, delay in threads]
    return sum(delays[:vcpus]) // vcpus, sum(delays[vcpus:]) + reader


class Run:
    """What one run said: boot_ns (host), uptime_ns (guest), rows {name: dict of its figures}, stats (trivisor's own)."""

    def __init__(self, peer):
        self.peer = peer.name
        self.vcpus = peer.vcpus
        self.boots = peer.boots
        self.boot_ns = self.boot_waited_ns = self.uptime_ns = None
        self.rows = {}
        self.stats = None
        self.done = False
        self.errors = []
        self.tail = []
        self._open = None

    def _times(self, pid):
        return thread_times(pid) if self.boots else None

    def line(self, text, when, pid, started, watcher):
        """One console line whose first byte came at `when`."""
        self.tail = (self.tail + [text])[-30:]
        found = MARKER.search(text)
        if not found:
            return
        kind, words = found.group(1), (found.group(2) or "").split()
        if kind == "init":
            self.boot_ns, self.uptime_ns = when - started, int(words[0])
            self.boot_waited_ns = waits({}, self._times(pid), self.vcpus)[0]
        elif kind == "start":
            self._open = (words[0], int(words[1]), when, self._times(pid))
            if watcher:
                watcher.started(words[0], pid)
        elif kind == "end":
            self._end(words, when, pid)
            if watcher:
                watcher.ended(words[0])
        elif kind in ("crash", "error"):
            self.errors.append(found.group(0))
        elif kind == "done":
            self.done = True

    def _end(self, words, when, pid):
        name, guest_end, operations, elapsed = words[0], int(words[1]), int(words[2]), int(words[3])
        if not self._open or self._open[0] != name:
            self.errors.append(f"an end of {name} without its start")
            return
        _, guest_start, host_start, times = self._open
        waited, late = waits(times, self._times(pid), self.vcpus)
        if len(words) > 5:
            # A native run's processes are gone when their line is read; they say it themselves.
            waited = int(words[5])
        self.rows[name] = {
            "operations": operations,
            "elapsed_ns": elapsed,
            "guest_ns": guest_end - guest_start,
            "host_ns": when - host_start,
            # At most what was measured: the two are not read at the same instant.
            "waited_ns": None if waited is None else max(min(waited, elapsed), 0),
            "late_ns": max(late, 0),
            "result": words[4],
        }
        self._open = None


NICE = os.getpriority(os.PRIO_PROCESS, 0)


def hurry(yes):
    """Lets the reader go before others, for its clock readings' sake; what it starts must not inherit that."""
    try:
        os.setpriority(os.PRIO_PROCESS, 0, min(-15, NICE) if yes else NICE)
    except PermissionError:
        pass


def read_console(run, fd, process, started, deadline, watcher=None):
    """Feeds every line to the run until the console ends."""
    hurry(True)
    try:
        read_lines(run, fd, process, started, deadline, watcher)
    finally:
        hurry(False)


def read_lines(run, fd, process, started, deadline, watcher):
    buffer, first = b"", None
    selector = selectors.DefaultSelector()
    selector.register(fd, selectors.EVENT_READ)
    while True:
        left = deadline - time.monotonic()
        if left <= 0 or not selector.select(left):
            raise Failure(f"{run.peer}: no end within the time limit; its last lines:\n" + "\n".join(run.tail))
        try:
            chunk = os.read(fd.fileno(), 65536)
        except ConnectionResetError:
            chunk = b""
        when = time.monotonic_ns()
        if not chunk:
            return
        if not buffer:
            first = when
        buffer += chunk
        while b"\n" in buffer:
            line, _, buffer = buffer.partition(b"\n")
            run.line(line.decode("latin-1").rstrip("\r"), first, process.pid, started, watcher)
            first = when


class Image(typing.NamedTuple):
    """A disk of a guest: a raw image."""

    path: str
    readonly: bool


class Peer:
    """One column of the table. With two vCPUs it is called so, and only runs the parallel rows."""

    name = None
    boots = True
    more = {}  # of trivisor's definition, in this column

    def __init__(self, options, vcpus=1):
        self.options = options
        self.vcpus = vcpus
        if vcpus > 1:
            self.name = f"{self.name}-{vcpus}"

    def run(self, plan, target_ms, watcher=None):
        """Boots, runs the plan ({name: operations, 0 to calibrate}), returns a complete Run or raises."""
        with tempfile.TemporaryDirectory(prefix="trivisor-bench.") as folder:
            path = os.path.join(folder, "plan")
            root = self.options.root if any(name in plan for name in programs.workloads()) else None
            disk = self.options.disk if any(name.startswith("disk-") for name in plan) else None
            images = [Image(root.image, True)] if root else []
            self.net = self.network() if nets.wanted(plan) else None
            if self.boots:
                write_plan(path, plan, target_ms, root, "/dev/vda", disk and f"/dev/vd{'ab'[len(images)]}", self.net)
            else:
                write_plan(path, plan, target_ms, root, root and root.folder, disk, self.net)
            images += [Image(disk, False)] if disk else []
            initrd = os.path.join(folder, "initrd.cpio") if self.boots else None
            run = Run(self)
            try:
                if self.boots:
                    self.prepare(folder, path, initrd, bool(images))
                self.launch(run, folder, path, initrd, images, watcher)
            finally:
                if self.net:
                    self.net.close()
            missing = [name for name in plan if name not in run.rows]
            if not run.done or missing:
                run.errors.append(f"no figures for {', '.join(missing)}" if missing else "it ended before its plan did")
            if run.errors:
                raise Failure(f"{self.name}: {'; '.join(run.errors)}; its last lines:\n" + "\n".join(run.tail))
            return run

    def prepare(self, folder, plan, initrd, has_disks):
        """What boots; and the other guest, if there is one."""
        names = (["virtio_blk"] if has_disks else []) + (["virtio_net"] if self.net else [])
        modules = ["--kernel-dir", self.options.kernel_dir] if names else []
        for name in ["virtio_pci"] + names if names else []:
            modules += ["--module", name]
        nets.make_initrd(self.options, plan, modules, initrd)
        if self.net:
            nets.server_plan(os.path.join(folder, "server.plan"))
            nets.make_initrd(self.options, os.path.join(folder, "server.plan"), modules, os.path.join(folder, "server.cpio"))
            self.net.start(folder, os.path.join(folder, "server.cpio"))

    def deadline(self):
        return time.monotonic() + self.options.timeout

    def console(self, run, command, watcher):
        """For a peer whose console is its standard output."""
        started = time.monotonic_ns()
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
            try:
                read_console(run, process.stdout, process, started, self.deadline(), watcher)
                process.wait(30)
            finally:
                stop(process)


class Native(Peer):
    name = "native"
    boots = False

    def network(self):
        return nets.Native()

    def launch(self, run, folder, plan, initrd, images, watcher):
        self.console(run, [self.options.guest, plan, str(self.vcpus)], watcher)


class Qemu(Peer):
    name = "tcg"

    def network(self):
        return nets.Qemu(self.options)

    def launch(self, run, folder, plan, initrd, images, watcher):
        options = self.options
        # No network card: its option ROM would be waited for at each boot.
        command = [options.qemu, "-accel", "tcg", "-cpu", "max", "-m", str(options.memory), "-smp", str(self.vcpus), "-nographic",
                   "-no-reboot", *(self.net.arguments() if self.net else ["-nic", "none"]), "-kernel", options.kernel, "-initrd", initrd, "-append", options.append]
        for image in images:
            command += ["-drive", f"file={image.path},format=raw,if=virtio,readonly={'on' if image.readonly else 'off'}"]
        self.console(run, command, watcher)


class Trivisor(Peer):
    def __init__(self, options, mode, vcpus=1):
        self.name = self.mode = mode
        super().__init__(options, vcpus)

    def network(self):
        if self.options.via == "trictl":
            raise Failure("rows of the group net are measured with --via vm")
        return nets.Trivisor(self.options, self.mode)

    def launch(self, run, folder, plan, initrd, images, watcher):
        if self.options.via == "trictl":
            self.through_trictl(run, folder, initrd, images, watcher)
        else:
            self.alone(run, folder, initrd, images, watcher)

    def through_trictl(self, run, folder, initrd, images, watcher):
        options = self.options
        stats = os.path.join(folder, "stats.json")
        command = [os.path.join(options.build, "trictl"), "--socket", os.path.join(folder, "api.sock"), "run", "--mode",
                   self.mode, "--memory", f"{options.memory}M", "--vcpus", str(self.vcpus), "--kernel", options.kernel, "--initrd", initrd,
                   "--append", options.append, "--no-reboot", "--timeout", str(options.timeout), "--stats", stats]
        for image in images:
            command += ["--disk", image.path + (",readonly" if image.readonly else "")]
        self.console(run, command, watcher)
        run.stats = read_json(stats)

    def alone(self, run, folder, initrd, images, watcher):
        """trivisor-vm by itself, as QEMU is: no daemon, no policy."""
        options = self.options
        if self.net:
            # Networks lie beside the directory of VMs.
            folder = os.path.join(folder, "vms", "bench")
            os.makedirs(folder)
        definition = {"name": "bench", "memory_mib": options.memory, "vcpus": self.vcpus, "on_reboot": "shutdown",
                      "boot": {"kernel": options.kernel, "initrd": initrd, "cmdline": options.append},
                      "disks": [{"path": image.path, "readonly": image.readonly} for image in images]}
        if self.net:
            definition["nics"] = self.net.nics()
        definition.update(json.loads(options.define))
        definition.update(json.loads(options.define) | self.more)
        with open(os.path.join(folder, "definition.json"), "w", encoding="utf-8") as f:
            json.dump(definition, f)
        console = os.path.join(folder, "console.sock")
        command = [os.path.join(options.build, "trivisor-vm"), "--dir", folder, "--mode", self.mode]
        if watcher:
            command = watcher.wrap(command)
        started = time.monotonic_ns()
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
            try:
                while not os.path.exists(console) and process.poll() is None:
                    time.sleep(0.001)
                if process.poll() is None:
                    with socket.socket(socket.AF_UNIX) as connection:
                        try:
                            connection.connect(console)
                        except OSError:
                            time.sleep(0.01)
                            connection.connect(console)
                        read_console(run, connection, process, started, self.deadline(), watcher)
                process.wait(30)
            finally:
                stop(process)
                text = process.stderr.read().decode(errors="replace").strip()
        result = read_json(os.path.join(folder, "result.json"))
        run.stats = result.get("stats")
        if process.returncode == 3:
            raise Unavailable(result.get("reason") or text or "trivisor-vm cannot start it")
        if process.returncode:
            run.errors.append(f"trivisor-vm ended with status {process.returncode}: {result.get('reason', text)}")


def read_json(path):
    try:
        with open(path, encoding="utf-8") as f:
            return json.load(f)
    except (OSError, ValueError):
        return {}
