#!/usr/bin/python3
"""Debian's cloud kernel under trivisor-vm alone: console, clock, devices, power button, reboot, panic, ways to fail."""

import fcntl
import os
import re
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from vmtest import (BOOT_TIMEOUT, UP, MODE, Failed, Skip, Tap, Vm, check, kernel_image, make_initramfs, program, scratch)

MIB = 1 << 20


def definition(initrd, cmdline="", **more):
    return {"boot": {"kernel": kernel_image(), "initrd": initrd, "cmdline": f"console=ttyS0 {cmdline}".strip()}, **more}


def new_dir(parent, name):
    path = os.path.join(parent, name)
    os.mkdir(path, 0o755)
    return path


class Session:
    """One VM that most tests use, one after the other."""

    def __init__(self, folder, initrd):
        self.disk = os.path.join(folder, "disk.raw")
        self.readonly_disk = os.path.join(folder, "ro.raw")
        for path, text in ((self.disk, b"first sector"), (self.readonly_disk, b"do not write")):
            with open(path, "wb") as f:
                f.write(text)
                f.truncate(8 * MIB)
        disks = [{"path": self.disk}, {"path": self.readonly_disk, "readonly": True}]
        self.vm = Vm(new_dir(folder, "session"), definition(initrd, disks=disks))

    def boots(self):
        self.console = self.vm.console()
        self.console.expect(UP, BOOT_TIMEOUT)
        self.console.expect("guest# ", 60)
        check("insmod" not in self.console.text, "a module did not load")

    def says_who_it_is(self):
        self.control = self.vm.control()
        hello = self.control.result("hello")
        check(hello["protocol"] == 1 and hello["name"] == "test" and hello["mode"] == MODE, str(hello))
        check(hello["mode_reason"] == "the test says so" and hello["pid"] == self.vm.process.pid, str(hello))
        status = self.control.result("status")
        check(status["state"] == "running" and abs(status["started"] - time.time()) < 3600, str(status))

    def answers_typing(self):
        out = self.console.command("echo sum $((6*7)); uname -r; nproc")
        check("sum 42" in out, out)

    def replays_the_scrollback(self):
        late = self.vm.console()
        late.expect("Linux version", 10)
        late.expect(UP, 10)
        late.close()
        check("sum 43" in self.console.command("echo sum $((6*7+1))"), "the first reader no longer works")

    def keeps_time(self):
        begin = float(self.console.command("cut -d' ' -f1 /proc/uptime"))
        host = time.monotonic()
        self.console.command("sleep 5", 60)
        end = float(self.console.command("cut -d' ' -f1 /proc/uptime"))
        host = time.monotonic() - host
        check(abs((end - begin) - host) < 0.02 * host + 0.1, f"guest {end - begin:.2f} s, host {host:.2f} s")
        check(host < 8, f"sleep 5 took {host:.2f} s")

    def is_idle_at_its_prompt(self):
        time.sleep(1)
        first, began = self.control.result("stats"), time.monotonic()
        time.sleep(5)
        second, seconds = self.control.result("stats"), time.monotonic() - began
        used = sum(second[k] - first[k] for k in ("cpu_user_seconds", "cpu_system_seconds"))
        check(used / seconds < 0.03, f"an idle guest uses {100 * used / seconds:.1f} % of a core")

    def pauses(self):
        before = float(self.console.command("cut -d' ' -f1 /proc/uptime"))
        self.control.result("pause")
        check(self.control.result("status")["state"] == "paused", "not paused")
        self.console.type("echo after the pau''se\n")
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline:
            self.console.pump(deadline - time.monotonic())
        check("after the pause" not in self.console.text, "it ran while paused")
        check(self.control.call("power_button")["error"]["code"] == -32001, "the power button of a paused VM")
        self.control.result("resume")
        self.console.expect("after the pause", 30)
        after = float(self.console.command("cut -d' ' -f1 /proc/uptime"))
        check(after - before < 1.9, f"the guest's clock ran on while paused ({after - before:.2f} s)")

    def has_its_devices(self):
        out = self.console.command("cat /sys/class/misc/hw_random/rng_current")
        check("virtio_rng" in out, f"no virtio-rng: {out}")
        check(len(self.console.command("dd if=/dev/hwrng bs=64 count=1 2>/dev/null | wc -c").strip()) > 0, "no bytes")
        out = self.console.command("head -c 12 /dev/vda; echo; cat /sys/block/vda/size /sys/block/vdb/ro")
        check(out.split() == ["first", "sector", str(8 * MIB // 512), "1"], f"disks: {out}")

    def writes_a_disk(self):
        sums = self.console.command(
            "dd if=/dev/urandom of=/dev/vda bs=64k seek=16 count=64 2>/dev/null; sync; "
            "echo 3 >/proc/sys/vm/drop_caches; dd if=/dev/vda bs=64k skip=16 count=64 2>/dev/null | md5sum", 60)
        with open(self.disk, "rb") as f:
            f.seek(16 * 65536)
            data = f.read(64 * 65536)
        host = subprocess.run(["md5sum"], input=data, capture_output=True, check=True).stdout.decode()
        check(any(data), "the disk is still empty")
        check(host.split()[0] in sums, f"guest {sums}, host {host}")
        out = self.console.command("echo no >/dev/vdb && echo written || echo refused")
        check("refused" in out, f"a read-only disk was written: {out}")

    def counts(self):
        stats = self.control.result("stats")
        for key in ("mode", "mode_reason", "wall_seconds", "boot_seconds", "exits"):
            check(stats.get(key) is not None, f"{key} is missing: {stats}")
        check(0 < stats["boot_seconds"] < stats["wall_seconds"], str(stats))
        check(stats["exits"]["halt"] > 0 and len(stats["exits"]) >= 3, str(stats["exits"]))
        if MODE == "bt":
            check("guest_instructions" in stats, "guest_instructions is missing")

    def is_small(self):
        with open(program("trivisor-vm"), "rb") as f:
            if b"__asan_init" in f.read():
                raise Skip("AddressSanitizer's shadow is not small")
        memory = self.control.result("stats")["memory"]
        check(memory["overhead_kib"] <= 96 * 1024, f"{memory['overhead_kib'] / 1024:.0f} MiB beyond guest RAM")
        check(memory["guest_ram_kib"] <= 256 * 1024, str(memory))

    def is_sandboxed(self):
        """Every thread: a filter, no new privileges, no capabilities; and no core of guest memory."""
        pid = self.vm.process.pid
        threads = os.listdir(f"/proc/{pid}/task")
        check(len(threads) >= 2, str(threads))
        for thread in threads:
            with open(f"/proc/{pid}/task/{thread}/status") as f:
                status = dict(line.rstrip("\n").split(":\t", 1) for line in f if ":\t" in line)
            check(status["Seccomp"] == "2" and status["NoNewPrivs"] == "1", f"{status['Name']}: {status}")
            check(int(status["CapEff"], 16) == 0 and int(status["CapPrm"], 16) == 0, f"{status['Name']}: capabilities")
        with open(f"/proc/{pid}/limits") as f:
            core = next(line.split() for line in f if line.startswith("Max core"))
        check(core[4] == "0", f"core files: {core}")
        with open(f"/proc/{pid}/maps") as f:
            both = [line for line in f if line.split()[1][1:3] == "wx"]
        check(not both, f"memory that is writable and executable: {both}")

    def refuses_bad_requests(self):
        for request, code in ((b"{", -32700), (b"[]", -32600), (b'{"jsonrpc":"2.0","id":1,"method":"fly"}', -32601),
                              (b'{"jsonrpc":"2.0","id":1,"method":"set","params":{"x":1}}', -32602)):
            c = self.vm.control()
            c.socket.sendall(request + b"\n")
            answer = c._message(time.monotonic() + 10)
            check(answer["error"]["code"] == code, f"{request}: {answer}")
            c.close()

    def powers_off(self):
        self.control.result("power_button")
        event = self.control.wait_event(lambda e: e["event"] == "state" and e["state"] == "shutdown", 60)
        check(event["exit_code"] == 0, str(event))
        check(self.vm.wait() == 0, "exit status")
        result = self.vm.result()
        check(result["state"] == "shutdown" and result["exit_code"] == 0, str(result))
        check(result["ended"] > result["started"] and result["stats"]["boot_seconds"] > 0, str(result))
        self.console.expect("trivisor: power button", 5)
        left = sorted(os.listdir(self.vm.folder))
        check(left == ["console.ring", "definition.json", "log", "pid", "result.json"], f"left behind: {left}")


def reboots_in_place(folder, initrd):
    with Vm(new_dir(folder, "reboot"), definition(initrd)) as vm:
        console, control = vm.console(), vm.control()
        console.expect(UP, BOOT_TIMEOUT)
        console.expect("guest# ", 60)
        console.type("reboot -f\n")
        console.expect("Linux version", BOOT_TIMEOUT)
        console.expect(UP, BOOT_TIMEOUT)
        check(control.result("status")["state"] == "running", "it ended")
        check(control.result("stats")["resets"] == 1, "resets are not counted")
        control.wait_event(lambda e: e["event"] == "reset", 5)
        control.result("set", {"no_reboot": True})
        console.expect("guest# ", 60)
        console.type("reboot -f\n")
        check(vm.wait() == 0, "exit status")
        check("reboot" in vm.result()["reason"] and vm.result()["state"] == "shutdown", str(vm.result()))


def panic_is_a_crash(folder, initrd):
    with Vm(new_dir(folder, "panic"), definition(initrd, "panic=1 trivisor.do=panic")) as vm:
        console, control = vm.console(), vm.control()
        console.expect("Kernel panic", BOOT_TIMEOUT)
        control.wait_event(lambda e: e["event"] == "panic", 30)
        check(vm.wait() == 4, "exit status")
        check(vm.result()["state"] == "crashed" and "panic" in vm.result()["reason"], str(vm.result()))


def death_of_init_is_a_crash(folder, initrd):
    with Vm(new_dir(folder, "init"), definition(initrd, "trivisor.do=exit")) as vm:
        check(vm.wait(BOOT_TIMEOUT) == 4, "exit status")
        check("panic" in vm.result()["reason"], str(vm.result()))


def triple_fault_is_a_crash(folder, initrd):
    with Vm(new_dir(folder, "triple"), definition(initrd, "reboot=t trivisor.do=reboot")) as vm:
        check(vm.wait(BOOT_TIMEOUT) == 4, "exit status")
        check("triple fault" in vm.result()["reason"], str(vm.result()))


def sigterm_destroys(folder, initrd):
    with Vm(new_dir(folder, "term"), definition(initrd)) as vm:
        vm.console().expect("Linux version", BOOT_TIMEOUT)
        vm.process.terminate()
        check(vm.wait(20) == 5, "exit status")
        check(vm.result()["state"] == "destroyed" and "TERM" in vm.result()["reason"], str(vm.result()))


def two_readers_may_stall(folder, initrd):
    """Nobody reads these consoles; the guest must get through its boot all the same."""
    with Vm(new_dir(folder, "stall"), definition(initrd, "trivisor.do=poweroff")) as vm:
        vm.console()
        vm.console()
        check(vm.wait(BOOT_TIMEOUT) == 0, "exit status")


def runs_as_a_plain_user(folder, initrd):
    if os.geteuid():
        raise Skip("this is a plain user already")
    own = new_dir(folder, "plain")
    os.chown(own, 65534, 65534)
    user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs"]
    readable = subprocess.run([*user, "test", "-x", program("trivisor-vm")], check=False).returncode == 0
    readable = readable and subprocess.run([*user, "test", "-r", kernel_image()], check=False).returncode == 0
    if not readable:
        raise Skip("a plain user cannot read the build directory")
    with Vm(own, definition(initrd, "trivisor.do=poweroff"), prefix=user) as vm:
        check(vm.wait(BOOT_TIMEOUT) == 0, f"exit status; {vm.log()}")
        check(vm.result()["state"] == "shutdown", str(vm.result()))


def runs_under_a_containers_seccomp_profile(folder, initrd):
    here = os.path.dirname(os.path.abspath(__file__))
    prefix = [os.path.join(here, "run-in-profile"), os.path.join(here, "container-syscalls.txt")]
    if subprocess.run([*prefix, "unshare", "--user", "true"], capture_output=True, check=False).returncode == 0:
        raise Failed("the profile does not hold: a user namespace could be made")
    with Vm(new_dir(folder, "profile"), definition(initrd, "trivisor.do=poweroff"), prefix=prefix) as vm:
        check(vm.wait(BOOT_TIMEOUT) == 0, f"exit status; {vm.log()}")
        check(vm.result()["state"] == "shutdown", str(vm.result()))


def runs_without_executable_memfds(folder, initrd):
    """vm.memfd_noexec is per pid namespace: in one of our own it can be set to 2."""
    if os.geteuid():
        raise Skip("making a pid namespace takes root")
    script = 'mount -t proc proc /proc && echo 2 >/proc/sys/vm/memfd_noexec && exec "$@"'
    prefix = ["unshare", "--pid", "--fork", "--mount", "--kill-child", "sh", "-c", script, "sh"]
    if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode:
        raise Skip("this kernel has no vm.memfd_noexec, or namespaces are not allowed")
    with Vm(new_dir(folder, "noexec"), definition(initrd, "trivisor.do=poweroff"), prefix=prefix) as vm:
        status = vm.wait(BOOT_TIMEOUT)
        if status == 3:
            check("memfd_noexec" in vm.result()["reason"], f"no remedy is named: {vm.result()['reason']}")
        else:
            check(status == 0, f"exit status {status}; {vm.log()}")


def fails_to_start(folder, initrd):
    """Each names what is wrong, and nothing is left running."""
    garbage = os.path.join(folder, "garbage")
    with open(garbage, "wb") as f:
        f.write(os.urandom(1 << 16))
    truncated = os.path.join(folder, "truncated")
    with open(kernel_image(), "rb") as f, open(truncated, "wb") as g:
        g.write(f.read()[:3 * MIB])
    header = os.path.join(folder, "header-only")
    with open(kernel_image(), "rb") as f, open(header, "wb") as g:
        g.write(f.read()[:0x260])
    empty = os.path.join(folder, "empty")
    open(empty, "wb").close()
    boot = {"kernel": kernel_image(), "initrd": initrd}
    rom = os.path.join(folder, "rom")
    with open(rom, "wb") as f:
        f.truncate(1 << 18)
    odd, broken, taken = (os.path.join(folder, name) for name in ("odd", "broken", "taken"))
    with open(odd, "wb") as f:
        f.truncate(5000)
    with open(broken, "wb") as f:  # a volume header (UEFI PI 3.2.1), its checksum wrong
        f.write(bytes(40) + b"_FVH" + bytes(4) + b"\x48\0" + bytes(8142))
    with open(taken, "wb") as f:
        f.truncate(8192)
    lock = open(taken, "rb+")
    fcntl.lockf(lock, fcntl.LOCK_EX)
    cases = [
        ("no-kernel", {"boot": {"kernel": "/nowhere/vmlinuz"}}, "/nowhere/vmlinuz"),
        ("directory", {"boot": {"kernel": folder}}, folder),
        ("garbage", {"boot": {"kernel": garbage}}, garbage),
        ("truncated", {"boot": {"kernel": truncated}}, truncated),
        ("header", {"boot": {"kernel": header}}, header),
        ("empty", {"boot": {"kernel": empty}}, empty),
        ("no-initrd", {"boot": {**boot, "initrd": "/nowhere/initrd"}}, "/nowhere/initrd"),
        ("initrd-directory", {"boot": {**boot, "initrd": folder}}, folder),
        ("no-disk", {"boot": boot, "disks": [{"path": "/nowhere/disk"}]}, "/nowhere/disk"),
        ("disk-directory", {"boot": boot, "disks": [{"path": folder}]}, folder),
        ("no-firmware", {"boot": {"firmware": "/nowhere/bios"}}, "/nowhere/bios"),
        ("little-memory", {"boot": boot, "memory_mib": 16}, ""),
        ("more-than-the-host", {"boot": boot, "memory_mib": 1 << 20}, "memory_mib: 1048576 is more than this host's"),
        ("no-nvram", {"boot": {"firmware": rom, "nvram": {"path": "/nowhere/vars"}}}, "boot.nvram.template"),
        ("no-template", {"boot": {"firmware": rom, "nvram": {"path": folder + "/v", "template": "/nowhere/t"}}}, "/nowhere/t"),
        ("no-place", {"boot": {"firmware": rom, "nvram": {"path": "/nowhere/vars", "template": taken}}}, "/nowhere/vars"),
        ("nvram-directory", {"boot": {"firmware": rom, "nvram": {"path": folder}}}, folder),
        ("nvram-size", {"boot": {"firmware": rom, "nvram": {"path": odd}}}, "5000 bytes"),
        ("nvram-broken", {"boot": {"firmware": rom, "nvram": {"path": broken}}}, "damaged"),
        ("nvram-in-use", {"boot": {"firmware": rom, "nvram": {"path": taken}}}, "in use by another"),
        ("bad-key", {"boot": {"kernal": "/x"}}, "boot.kernal: unknown key"),
    ]
    for name, part, named in cases:
        with Vm(new_dir(folder, "f-" + name), part) as vm:
            status = vm.wait(60)
            if status != 3:
                raise Failed(f"{name}: exit status {status}")
            result = vm.result()
            check(result["state"] == "failed" and named in result["reason"], f"{name}: {result['reason']}")
            Tap.explain(f"{name}: {result['reason']}")
    lock.close()


def full_disk(folder, initrd):
    """No room for a firmware's variables: said when they are made, and nothing half made stays."""
    if os.geteuid():
        raise Skip("mounting a small file system takes root")
    template, small = os.path.join(folder, "template"), new_dir(folder, "small")
    with open(template, "wb") as f:
        f.write(os.urandom(1 << 18))
    prefix = ["unshare", "--mount", "sh", "-c", f'mount -t tmpfs -o size=64k none {small} && "$@"; r=$?; ls -A {small}; exit $r', "sh"]
    if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode:
        raise Skip("namespaces are not allowed here")
    part = {"boot": {"firmware": template, "nvram": {"path": small + "/vars", "template": template}}}
    with Vm(new_dir(folder, "full"), part, prefix=prefix, stdout=subprocess.PIPE) as vm:
        check(vm.wait(60) == 3, vm.log())
        why = vm.result()["reason"]
        check(small + "/vars" in why and "No space left" in why and "free some space" in why, why)
        left = vm.process.stdout.read()
        check(not left, f"it left behind {left}")


def firmware_speaks(folder, initrd):
    """SeaBIOS, its output on the serial port, with nothing to boot from."""
    image = "/usr/share/seabios/bios-256k.bin"
    if not os.path.exists(image):
        raise Skip("no SeaBIOS here (package seabios)")
    with Vm(new_dir(folder, "bios"), {"boot": {"firmware": image}}) as vm:
        console = vm.console()
        console.expect("SeaBIOS", 30)
        console.expect("[Nn]o bootable device", 60)


def two_processors(folder, initrd):
    with Vm(new_dir(folder, "smp"), definition(initrd, vcpus=2)) as vm:
        console = vm.console()
        console.expect(UP, BOOT_TIMEOUT)
        console.expect("guest# ", 60)
        check(console.command("nproc").strip() == "2", "the guest does not see two processors")
        out = console.command("for i in 0 1; do taskset $((i+1)) sh -c 'echo on $(cut -d\" \" -f39 /proc/self/stat)'; done")
        check("on 0" in out and "on 1" in out, out)
        out = console.command("dmesg | grep -iE 'kvm|PV '")
        for words in ("Hypervisor detected: KVM", "PV remote TLB flush", "PV IPIs", "PV spinlocks enabled"):
            check(words.lower() in out.lower(), f"Linux does not use {words}: {out}")
        # Both talk to each other a lot; then what it came to.
        out = console.command("i=0; while [ $i -lt 60 ]; do cat /proc/version | cat | cat >/dev/null; i=$((i+1)); done; echo did $i", 120)
        check("did 60" in out, out)
        stats = vm.control().result("stats")["engine"]
        check(stats["pv_eois"] > 0 and stats["hypercalls"] >= 0, stats)
        vm.control().result("power_button")
        check(vm.wait() == 0, "exit status")


def two_processors_without_paravirt(folder, initrd):
    with Vm(new_dir(folder, "bare"), definition(initrd, vcpus=2, paravirt=False)) as vm:
        console = vm.console()
        console.expect(UP, BOOT_TIMEOUT)
        console.expect("guest# ", 60)
        check(console.command("nproc").strip() == "2", "the guest does not see two processors")
        out = console.command("dmesg | grep -iE 'hypervisor detected|kvm-clock'; cat /sys/devices/system/clocksource/clocksource0/available_clocksource")
        check("KVM" not in out and "kvm-clock" not in out, out)
        stats = vm.control().result("stats")["engine"]
        check(stats["pv_eois"] == 0 and stats["hypercalls"] == 0, stats)
        vm.control().result("power_button")
        check(vm.wait() == 0, "exit status")


# What sixteen_processors runs in its guest; `shared` is tests/guests/programs/shared.c.
UNDER_CHANGE = """
shared 15 10
shared 15 1000000 >/dev/null &
cd /sys/devices/system/cpu
for i in 7 15; do echo 0 >cpu$i/online || echo "processor $i stays"; done
echo "left: $(cat online)"
for i in 7 15; do echo 1 >cpu$i/online || echo "processor $i does not come back"; done
echo "again: $(cat online)"
mount -t tracefs none /sys/kernel/tracing
cd /sys/kernel/tracing
echo 64 >buffer_size_kb
echo p:probed __x64_sys_mprotect >kprobe_events
echo '*sched*' >set_ftrace_filter
keys="/proc/sys/kernel/sched_schedstats events/sched/enable events/kprobes/enable"
echo function >current_tracer
for i in $keys; do echo 1 >$i; done
# Until the probe has been hit some times, and every processor has run through traced functions.
while grep -q ' [0-2]  *[0-9]*$' kprobe_profile; do sleep 1; done
while grep -q '^entries: 0' per_cpu/cpu*/stats; do sleep 1; done
for i in $keys; do echo 0 >$i; done
echo nop >current_tracer
echo "tracer: $(cat current_tracer)"
kill %1 && echo "it still ran"
dmesg | grep -E 'BUG:|Oops|soft lockup|stalls on'
echo "end of changes"
"""


def sixteen_processors(folder, initrd):
    """
    Many more than the host has. Threads on all of them watch memory whose mapping, permission and code change; then they
    run while processors come and go, and while the kernel patches itself: static keys, tracepoints, a probe, function entries.
    """
    script = os.path.join(folder, "changes.sh")
    with open(script, "w") as f:
        f.write(UNDER_CHANGE)
    shared = program("tests/guests/programs/shared")
    initrd = make_initramfs(os.path.join(folder, "initrd16"), f"--file={shared}:/bin/shared:755", f"--file={script}:/changes.sh")
    with Vm(new_dir(folder, "sixteen"), definition(initrd, "loglevel=1", vcpus=16, memory_mib=512)) as vm:
        console = vm.console()
        console.expect(UP, BOOT_TIMEOUT)
        console.expect("guest# ", 60)
        check(console.command("nproc", 120).strip() == "16", "the guest does not see sixteen processors")
        out = console.command("sh /changes.sh", 240)
        lines = [line for line in out.splitlines() if line]
        check(lines == ["stale: data 0, code 0, patched code 0, writes 0; faults: some", "left: 0-6,8-14", "again: 0-15",
                        "tracer: nop", "it still ran", "end of changes"], out)
        vm.control().result("power_button")
        check(vm.wait(120) == 0, "exit status")


def unknown_mode(folder, initrd):
    with Vm(new_dir(folder, "mode"), definition(initrd), mode="warp") as vm:
        check(vm.wait(20) == 3, "exit status")
        check("warp" in vm.result()["reason"] and "bt" in vm.result()["reason"], vm.result()["reason"])


def main():
    tap = Tap()
    with scratch(world_readable=True) as folder:
        try:
            program("trivisor-vm")
            initrd = make_initramfs(os.path.join(folder, "initrd"))
        except (Skip, Failed) as e:
            tap.skip("guest boot", str(e))
            tap.finish()
        session = Session(folder, initrd)
        steps = [
            session.says_who_it_is, session.answers_typing, session.replays_the_scrollback, session.keeps_time,
            session.is_idle_at_its_prompt, session.pauses, session.has_its_devices, session.writes_a_disk,
            session.counts, session.is_small, session.is_sandboxed, session.refuses_bad_requests, session.powers_off,
        ]
        try:
            if tap.run("boots to user space", session.boots):
                for step in steps:
                    tap.run(step.__name__.replace("_", " "), step)
            else:
                tap.explain(session.vm.log())
        finally:
            session.vm.close()
        for test in (reboots_in_place, panic_is_a_crash, death_of_init_is_a_crash, triple_fault_is_a_crash,
                     sigterm_destroys, two_readers_may_stall, runs_as_a_plain_user,
                     runs_under_a_containers_seccomp_profile, runs_without_executable_memfds,
                     firmware_speaks, two_processors, two_processors_without_paravirt, sixteen_processors, fails_to_start, full_disk, unknown_mode):
            tap.run(test.__name__.replace("_", " "), test, folder, initrd)
    tap.finish()


if __name__ == "__main__":
    main()
