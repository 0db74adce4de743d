#!/usr/bin/python3
"""Debian's GDB on the VM's debugger socket: an own small kernel, firmware in real mode, 32-bit code, Debian's kernel."""

import os
import re
import signal
import socket
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "guests"))
from vmtest import (BOOT_TIMEOUT, BUILD, UP, Skip, Tap, Vm, check, connect, kernel_image, make_initramfs, scratch, wait_until)

GDB_TIMEOUT = 150
DEBUGGEE = os.path.join(BUILD, "tests", "clients", "debuggee.elf")
TINY = os.path.join(BUILD, "tests", "clients", "tiny.elf")


def new_dir(parent, name):
    path = os.path.join(parent, name)
    os.mkdir(path, 0o755)
    return path


def debugged(parent, name, kernel, **more):
    definition = {"boot": {"kernel": kernel}, "gdb": True, "debug_exit": True, "memory_mib": 32, **more}
    vm = Vm(new_dir(parent, name), definition)
    connect(vm.path("control.sock")).close()
    return vm


def gdb(vm, *commands, program=None, path=None):
    """What GDB printed for these commands, in a list: one string for each."""
    script = vm.path("commands.gdb")
    with open(script, "w") as f:
        f.write("set pagination off\nset confirm off\nset style enabled off\nset remotetimeout 60\nset tcp connect-timeout 60\n")
        f.write(f"target remote {path or vm.path('gdb.sock')}\n")
        for i, command in enumerate(commands):
            f.write(f"echo \\n@@{i}\\n\n{command}\n")
        f.write(f"echo \\n@@{len(commands)}\\n\n")
    command = ["gdb", "-nx", "-batch", *([program] if program else []), "-x", script]
    try:
        r = subprocess.run(command, capture_output=True, text=True, timeout=GDB_TIMEOUT, stdin=subprocess.DEVNULL)
    except FileNotFoundError:
        raise Skip("gdb is not installed") from None
    parts = re.split(r"^@@\d+\n", r.stdout, flags=re.M)
    check(len(parts) == len(commands) + 2, f"GDB did not come to its end:\n{r.stdout[-3000:]}\n{r.stderr[-2000:]}")
    return [p.strip() for p in parts[1:-1]]


def says(got, pattern, what):
    match = re.search(pattern, got)
    check(match, f"{what}: {pattern!r} is not in\n{got}")
    return match


# ---- an own small kernel ----------------------------------------------------------


def from_the_first_instruction(folder):
    path = os.path.join(folder, "elsewhere.sock")
    with debugged(folder, "first", DEBUGGEE, start_paused=True, gdb_architecture="x86-64", gdb=path) as vm:
        control = vm.control()
        check(control.result("status")["state"] == "paused", "it has started")
        before = control.result("stats")["engine"]
        check(before["tbs"] == 0, f"it ran: {before}")
        first, at, steps, main, mode, xmm, st, eip = gdb(
            vm, "info line *$pc", "p/x $pc", "stepi 3", "hbreak again", "continue", "p/x $xmm3.v4_int32[0]", "p $st0",
            "x/i $pc", program=DEBUGGEE, path=path)
        says(first, "start", "the first instruction")
        says(steps, "start", "after three steps")
        says(mode, "Breakpoint 1, .*again", "the breakpoint in long mode")
        says(xmm, "0x12345678", "xmm3")
        says(st, r"= 1$", "st0")
        says(eip, "call.*work", "the code at the breakpoint")
        # GDB has detached: the guest goes on, and nothing of the breakpoint is left.
        wait_until("the guest goes on", lambda: control.result("status")["state"] == "running")
        end(vm, path)


def end(vm, path):
    """Sets the variable that ends the guest, which then tells how often it went round."""
    out = gdb(vm, "set var *(int*)&stop_now = 1", "continue", program=DEBUGGEE, path=path)
    says(out[1], "exited", "the guest's end")
    vm.wait()
    result = vm.result()
    check(result["state"] == "shutdown" and "debug-exit" in result["reason"], str(result))


def breakpoints(folder, shared):
    vm = shared["vm"]
    out = gdb(vm, "break work", "continue", "p *(long*)&counter", "bt 2", "continue", "p *(long*)&counter", "x/2xb &work",
              "delete", "tbreak copied", "continue", "x/s &to", "p $rcx", "info registers rip", program=DEBUGGEE)
    says(out[1], "Breakpoint 1, .*work", "a software breakpoint")
    first = int(says(out[2], r"= (\d+)$", "counter").group(1))
    says(out[3], "#1 .* again", "the caller")
    says(out[4], "Breakpoint 1, .*work", "the next time")
    check(int(says(out[5], r"= (\d+)$", "counter").group(1)) == first + 1, f"{out[2]} then {out[5]}: one round each")
    says(out[6], "0xb8\\s+0x03", "the guest's memory under a breakpoint")
    says(out[9], "Temporary breakpoint 2, .*copied", "a temporary one")
    says(out[10], '"abcd"', "what the guest copied")
    says(out[11], "= 0$", "rcx behind a rep")


def watchpoints(folder, shared):
    out = gdb(shared["vm"], "watch *(long*)&counter", "continue", "info symbol $pc", "delete", "rwatch *(int*)&stop_now",
              "continue", "x/i $pc", "delete", "awatch *(char*)&to", "continue", "p $rcx", "delete", program=DEBUGGEE)
    says(out[0], "Hardware watchpoint", "the kind")
    says(out[1], r"Old value = (\d+)\s+New value = \d+", "a store")
    says(out[2], r"store \+ 8 in", "behind the store")  # incq counter has 8 bytes
    says(out[5], "Hardware read watchpoint", "a load")
    says(out[6], "je ", "behind the load")
    says(out[9], "Hardware access \\(read/write\\) watchpoint", "an access")
    says(out[10], "= 4$", "rcx after the first of five bytes")


def steps(folder, shared):
    out = gdb(shared["vm"], "break copy", "continue", "delete", "stepi", "p $rcx", "info symbol $pc", "stepi 4", "info symbol $pc",
              "stepi 2", "info symbol $pc", "stepi", "info symbol $pc", "stepi 2", "info symbol $pc", "stepi 2", "info symbol $pc",
              program=DEBUGGEE)
    says(out[4], "= 4$", "rcx after one iteration")
    says(out[5], "^copy in", "still at the rep")
    says(out[7], "^copied in", "behind the rep")
    says(out[9], "^system_call in", "the system call's entry")
    says(out[11], "^(enter|entered) .*in", "back from it")
    says(out[13], "^gate in", "into the handler")
    says(out[15], "^trapped in", "behind the iret")


def changes_registers_and_memory(folder, shared):
    out = gdb(
        shared["vm"], "break store", "continue", "delete", "set var $rax = 0x1122334455667788", "set var $xmm5.uint128 = 7", "stepi",
        "p/x $rax", "p $xmm5.uint128", "set var *(long*)&counter = 1000", "p *(long*)&counter", "p/x $cr3", "p/x $fs_base",
        "maintenance packet Qqemu.PhyMemMode:1",
        "x/2xb 0x101000", "maintenance packet Qqemu.PhyMemMode:0", "x/2xb 0xffffffff80101000", "maintenance packet m123456789000,2",
        program=DEBUGGEE)
    says(out[6], "0x1122334455667788", "rax")
    says(out[7], "= 7$", "xmm5")
    says(out[9], "= 1000$", "counter")
    check(out[13].split(":")[1] == out[15].split(":")[1], f"physical {out[13]} and linear {out[15]}")
    says(out[16], 'received: "E0e"', "memory that is not there")


def monitor_commands(folder, shared):
    s = connect(shared["vm"].path("gdb.sock"))
    wire = Wire(s)
    for command, pattern in (("help", "translate ADDRESS"), ("nonsense", "there is no command"), ("", "there is no command"),
                             ("regs", r"^vCPU 0: rip [0-9a-f]{16} (?s:.*)^gdt +base"), ("status", "i386:x86-64; 0 breakpoints"),
                             ("translate 0xffffffff80000000", r"-> 0x0 \(2048 KiB page, user, writable, executable\)"),
                             ("translate 0x123456789000", "is not mapped"), ("translate x", "an address is wanted"),
                             ("physical", "are linear"), ("physical maybe", "on or off is wanted"), ("xp 0x101000 2", "fc bc"),
                             ("xp 0x101000 0xfffffffff", "0x101ff0: "), ("xp 0x80000000 1", "neither RAM nor ROM"),
                             ("architecture z80", "is wanted"), ("reset", "its first instruction")):
        wire.send("qRcmd," + command.encode().hex())
        text = ""
        while (packet := wire.packet()) != "OK":
            check(packet.startswith("O"), packet)
            text += bytes.fromhex(packet[1:]).decode()
        check(re.search(pattern, text, re.M), f"monitor {command}: {pattern!r} is not in\n{text}")
    s.close()


def interrupts(folder, shared):
    """^C, as GDB sends it, while the guest runs; what the VM says of itself meanwhile."""
    s = connect(shared["vm"].path("gdb.sock"))
    wire = Wire(s)
    control = shared["vm"].control()
    check(wire.ask("?").startswith("T05"), "the stop at the attach")
    wait_until("the VM says that it is stopped", lambda: control.result("status")["state"] == "paused")
    answer = control.call("resume")
    check("debugger" in answer.get("error", {}).get("message", ""), f"resume under the debugger: {answer}")
    wire.send("vCont;c")
    wait_until("the VM says that it runs", lambda: control.result("status")["state"] == "running")
    s.sendall(b"\x03")
    check(wire.packet().startswith("T02thread:1"), "^C")
    check(wire.ask("D") == "OK", "detach")
    s.close()


# ---- the protocol by hand ---------------------------------------------------------------


class Wire:
    def __init__(self, s):
        self.socket = s
        self.socket.settimeout(60)
        self.buffer = b""

    def send(self, text):
        raw = text.encode("latin-1")
        self.socket.sendall(b"$" + raw + b"#%02x" % (sum(raw) & 0xff))

    def packet(self):
        while True:
            match = re.search(rb"\$([^#]*)#(..)", self.buffer, re.S)
            if match:
                self.buffer = self.buffer[match.end():]
                check(sum(match.group(1)) & 0xff == int(match.group(2), 16), f"checksum of {match.group(0)!r}")
                return match.group(1).decode("latin-1")
            data = self.socket.recv(65536)
            check(data, "the connection was closed")
            self.buffer += data

    def ask(self, text):
        self.send(text)
        return self.packet()


def garbage(folder, shared):
    path = shared["vm"].path("gdb.sock")
    seed = 1
    noise = bytearray()
    for _ in range(200000):
        seed = (seed * 1103515245 + 12345) & 0x7fffffff
        noise.append(seed >> 16 & 0xff)
    s = connect(path)
    s.sendall(bytes(noise).replace(b"k", b"j"))  # k ends the VM, which is its right
    s.sendall(b"$" + b"m" * 100000 + b"#00")
    wire = Wire(s)
    wire.send("!")
    wire.packet()
    s.close()
    s = connect(path)
    wire = Wire(s)
    for bad in ("m", "m1", "m1,", "m,1", "mffffffffffffffffffffff,1", "Z", "Z9,1,1", "Z0,", "z0,,", "Z2,1000,0", "Z2,1000,ffffffff",
                "Mffff,2:0", "M0,1:zz", "p", "p1000", "P0=", "P0=00", "G", "Gxx", "Hg77", "Hx1", "T99", "vCont;", "vCont;q", "vCont;c:99",
                "vCont;c;;", "s1x", "qXfer:features:read:target.xml:", "qXfer:features:read:target.xml:x,1", "qRcmd,zz", "qRcmd,7",
                "qThreadExtraInfo,99", "X0,5:ab", "C", "Cxx;", "Qqemu.PhyMemMode:7", "", "R", "vRun;", "qCRC:0,1"):
        answer = wire.ask(bad)
        check(answer == "" or answer.startswith("E") or answer == "OK", f"{bad!r} -> {answer!r}")
    check(wire.ask("qXfer:features:read:target.xml:ffffffff,10") == "l", "beyond the description's end")
    check(len(wire.ask("m101000,ffffffff")) == 0x4000, "as much memory as fits a packet")
    for i in range(300):
        answer = wire.ask(f"Z1,{0x101000 + i:x},1")
    check(answer.startswith("E"), "more breakpoints than there is room for")
    for i in range(300):
        check(wire.ask(f"z1,{0x101000 + i:x},1") == "OK", "taking them back")
    # A wrong checksum is asked for again.
    s.sendall(b"$g#00")
    check(wire.ask("qC").startswith("QC"), "after a wrong checksum")
    wire.send("vCont;c")
    check(wire.ask("g").startswith("E"), "registers of a guest that runs")
    s.close()


def one_at_a_time(folder, shared):
    first = connect(shared["vm"].path("gdb.sock"))
    check(Wire(first).ask("?").startswith("T05"), "the first")
    second = connect(shared["vm"].path("gdb.sock"))
    check("another debugger" in Wire(second).packet(), "the second is told why not")
    check(second.recv(10) == b"", "and closed")
    r = subprocess.run(["gdb", "-nx", "-batch", "-ex", f"target remote {shared['vm'].path('gdb.sock')}"], capture_output=True, text=True,
                       timeout=GDB_TIMEOUT, stdin=subprocess.DEVNULL)
    check("another debugger is attached" in r.stdout + r.stderr, f"GDB does not say why: {r.stdout} {r.stderr}")
    first.close()
    third = connect(shared["vm"].path("gdb.sock"))
    deadline = time.monotonic() + 30
    while "another" in (Wire(third).ask("?")):
        check(time.monotonic() < deadline, "the first one's place stays taken")
        third = connect(shared["vm"].path("gdb.sock"))
    third.close()


def killed(folder, shared):
    out = gdb(shared["vm"], "kill", program=DEBUGGEE)
    says(out[0], "killed", "GDB's kill")
    check(shared["vm"].wait() == 5, "the exit status")
    check("killed by the debugger" in shared["vm"].result()["reason"], str(shared["vm"].result()))


def triple_fault(folder):
    with debugged(folder, "triple", TINY, gdb_architecture="i386") as vm:
        console = vm.console()
        console.expect("tiny: ready")
        console.type("c")
        # It may fault before GDB comes; then there is nobody to attach to. So GDB comes first.
    with debugged(folder, "triple2", TINY, gdb_architecture="i386", start_paused=True) as vm:
        out = gdb(vm, "hbreak triple_fault", "jump triple_fault", "continue", "info symbol $pc", "continue", program=TINY)
        says(out[2], "SIGSEGV", "a triple fault")
        says(out[3], "triple_fault", "where")
        says(out[4], "terminated|exited", "the end")
        vm.wait()
        check("triple fault" in vm.result()["reason"], str(vm.result()))


def code_of_32_bits(folder):
    with debugged(folder, "i386", TINY, gdb_architecture="i386") as vm:
        vm.console().expect("tiny: ready")
        out = gdb(vm, "show architecture", "break tick", "continue", "x/2i $pc", "bt 1", "info registers eip cs eflags", "stepi",
                  "p $esp", "delete", "watch *(char*)&echo", program=TINY)
        says(out[0], "i386", "the architecture")
        says(out[2], "Breakpoint 1, .*tick", "a breakpoint in an interrupt handler")
        says(out[3], r"push\s+%eax\s+.*mov\s+\$0x20,%al", "its code")
        console = vm.console()
        console.type("q")
        check(vm.wait() == 0, "it goes on unharmed")


def real_mode(folder):
    firmware = "/usr/share/seabios/bios-256k.bin"
    if not os.path.exists(firmware):
        raise Skip(f"no {firmware}")
    disk = os.path.join(folder, "boot.raw")
    # mov $0x1234, %ax; push %ax; mov %ax, 0x600; mov $0xf4, %dx; mov $5, %eax; out; hlt
    code = bytes.fromhex("b83412 50 a30006 baf400 66b805000000 66ef f4".replace(" ", ""))
    with open(disk, "wb") as f:
        f.write(code.ljust(510, b"\0") + b"\x55\xaa")
        f.truncate(1 << 20)
    definition = {"boot": {"firmware": firmware}, "disks": [{"path": disk}], "gdb": True, "debug_exit": True, "start_paused": True,
                  "memory_mib": 64}
    with Vm(new_dir(folder, "real"), definition) as vm:
        connect(vm.path("control.sock")).close()
        out = gdb(vm, "show architecture", "p/x $pc", "stepi", "p/x $pc", "hbreak *0x7c00", "continue", "set architecture i8086",
                  "x/3i $pc", "stepi", "p/x $ax", "delete", "watch *(short*)0x600", "continue", "p/x $pc", "x/1xh 0x600", "delete")
        says(out[0], "i8086", "the architecture")
        says(out[1], "0xfffffff0", "the reset vector")
        says(out[3], "0x[0-9a-f]+", "after the first jump")
        says(out[5], "Breakpoint 1", "the boot sector")
        says(out[7], r"mov\s+\$0x1234,%ax\s+.*push\s+%ax", "16-bit code")
        says(out[9], "0x1234", "ax")
        says(out[12], "New value = 4660", "a store in real mode")
        says(out[13], "0x7c07", "behind it")
        check(vm.wait() == 11, "the guest's own end")


# ---- Debian's kernel ---------------------------------------------------------------------


def symbol(console, name):
    match = re.search(rf"^([0-9a-f]+) \w {name}$", console.command(f"grep ' {name}$' /proc/kallsyms"), re.M)
    check(match, f"no symbol {name}")
    return int(match.group(1), 16)


def debian(folder, initrd):
    definition = {"boot": {"kernel": kernel_image(), "initrd": initrd, "cmdline": "console=ttyS0 nokaslr"}, "vcpus": 2, "gdb": True}
    with Vm(new_dir(folder, "debian"), definition) as vm:
        console = vm.console()
        console.expect(UP, BOOT_TIMEOUT)
        console.expect("guest# ", 60)
        console.command("echo 0 >/proc/sys/kernel/kptr_restrict")
        getuid = symbol(console, "__x64_sys_getuid")
        jiffies = symbol(console, "jiffies_64")
        console.command("(while [ ! -e /tmp/enough ]; do id -u >/dev/null; done; echo the loop has ended) & true")
        out = gdb(vm, "info threads", f"break *{getuid:#x}", "continue", "p/x $pc", "p/x $cs & 3", "p $gs_base < 0 || $gs_base != 0",
                  "delete", "stepi 25", "p $pc < 0", f"watch *(long*){jiffies:#x}", "continue", "delete", "thread apply all p/x $cr3",
                  "thread apply all p/x $rsp", "monitor status")
        says(out[0], r"vCPU 0 \[(?s:.*)vCPU 1 \[", "both vCPUs")
        says(out[2], "Breakpoint 1", "the kernel's function")
        says(out[3], f"{getuid:#x}", "its address")
        says(out[4], "= 0x0", "the kernel's privilege")
        says(out[10], r"Hardware watchpoint 2(?s:.*)New value", "the kernel's clock")
        check(len(re.findall(r"= 0x[0-9a-f]+", out[12])) == 2, f"cr3 of both: {out[12]}")
        # A shell at work while GDB stops and continues it by ^C.
        for _ in range(2):
            p = subprocess.Popen(["gdb", "-nx", "-batch", "-ex", f"target remote {vm.path('gdb.sock')}", "-ex", "continue", "-ex",
                                  "info registers rip", "-ex", "detach"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                 stdin=subprocess.DEVNULL)
            control = vm.control()
            wait_until("GDB is there and the guest runs", lambda: control.result("gdb")["connected"] and
                       control.result("status")["state"] == "running", 60)
            time.sleep(0.3)
            p.send_signal(signal.SIGINT)
            text = p.communicate(timeout=60)[0]
            says(text, r"SIGINT(?s:.*)rip +0x", "^C")
        console.type("touch /tmp/enough\n")
        console.expect("the loop has ended", 60)
        check("sum 42" in console.command("echo sum $((6*7))"), "the guest goes on")
        out = console.command("dmesg | grep -iE 'stall|lockup|BUG:'; true")
        check(not re.search("stall|lockup|BUG:", out.split("true", 1)[-1]), f"time stood still while it was stopped, but: {out}")
        console.type("poweroff\n")
        check(vm.wait() == 0, "poweroff")


def main():
    tap = Tap()
    with scratch() as folder:
        tap.run("from the first instruction, through a change of mode, and on alone", from_the_first_instruction, folder)
        shared = {"vm": debugged(folder, "shared", DEBUGGEE, gdb_architecture="x86-64")}
        try:
            for function in (breakpoints, watchpoints, steps, changes_registers_and_memory, monitor_commands, interrupts, garbage, one_at_a_time):
                tap.run(function.__name__.replace("_", " "), function, folder, shared)
            tap.run("kill", killed, folder, shared)
        finally:
            shared["vm"].close()
        tap.run("a triple fault stops in GDB", triple_fault, folder)
        tap.run("code of 32 bits", code_of_32_bits, folder)
        tap.run("firmware and a boot sector in real mode", real_mode, folder)
        try:
            initrd = make_initramfs(os.path.join(folder, "initrd"))
        except Skip as e:
            tap.skip("Debian's kernel on two vCPUs", str(e))
        else:
            tap.run("Debian's kernel on two vCPUs", debian, folder, initrd)
    tap.finish()


main()
