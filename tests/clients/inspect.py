#!/usr/bin/python3
"""What a running VM shows of itself through the daemon: registers, code and its translation, hot blocks, perf's names."""

import json
import os
import re
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "guests"))
from rpc_conformance import Schema
from vmtest import BUILD, Daemon, Rpc, Skip, Tap, check, connect, program, scratch, wait_until

DEBUGGEE = os.path.join(BUILD, "tests", "clients", "debuggee.elf")
PARAMS, STATE = -32602, -32003


class Session:
    def __init__(self, daemon):
        self.daemon = daemon
        self.rpc = Rpc(daemon.socket)
        document = self.rpc.result("rpc.discover")
        self.methods = {m["name"]: m for m in document["methods"]}
        self.schema = Schema(document)
        self.rpc.result("vm.define", [{"name": "d", "memory_mib": 32, "debug_exit": True, "perf_map": True,
                                       "boot": {"kernel": DEBUGGEE}}])
        text = subprocess.run(["nm", DEBUGGEE], capture_output=True, text=True, check=True).stdout
        self.symbols = {line.split()[2]: int(line.split()[0], 16) for line in text.splitlines()}

    def result(self, method, **params):
        """The answer, held to the method's own description."""
        answer = self.rpc.result(method, {"vm": "d", **params})
        self.schema.check(self.methods[method]["result"]["schema"], answer, method)
        return answer

    def refused(self, method, code, words, **params):
        error = self.rpc.call(method, {"vm": "d", **params})["error"]
        check(error["code"] == code and words in error["message"], f"{method} {params} -> {error}")


def starts_paused(s):
    s.refused("vm.regs", STATE, "does not run")
    s.rpc.result("vm.start", {"vm": "d", "paused": True})
    check(s.rpc.result("vm.get", {"vm": "d"})["state"] == "paused", "it started")
    vcpu = s.result("vm.regs")["vcpus"][0]
    check(vcpu["mode"] == "32-bit" and int(vcpu["general"]["rip"], 16) == s.symbols["start"], f"not at its first instruction: {vcpu}")
    check("vector" not in vcpu and vcpu["control"]["cr0"] == "0x11" and vcpu["segments"]["cs"]["base"] == "0x0", str(vcpu))
    check(s.result("vm.stats")["engine"]["tbs"] == 0, "something was translated")
    s.rpc.result("vm.resume", {"vm": "d"})


def processor_model(s):
    cpu = s.result("vm.get")["process"]["cpu"]
    with open("/proc/cpuinfo") as f:
        host = dict(re.findall(r"^([a-z_ ]+?)\s*: (.*)$", f.read(), re.M))
    flags = set(host["flags"].split())
    check(cpu["vendor"] == host["vendor_id"] and cpu["name"], str(cpu))
    features, masked = set(cpu["features"]), {m["feature"]: m["reason"] for m in cpu["masked"]}
    check({"fpu", "tsc", "cx8", "sse2", "lm", "nx", "syscall"} <= features, f"a processor without these: {sorted(features)}")
    check(not features & set(masked) and all(masked.values()), "offered and masked, or masked without a reason")
    offered_beyond_host = {"hypervisor", "x2apic", "tsc_deadline_timer", "umip", "tsc_adjust"}
    check(not (features - flags - offered_beyond_host), f"more than the host has: {features - flags}")
    # Each flag of the host's that it shows to programs is offered or masked for a reason.
    lost = {"avx2", "avx", "aes", "bmi2", "fma", "sse4_2", "popcnt", "smap", "pcid", "rdrand"} & flags - features - set(masked)
    check(not lost, f"neither offered nor masked: {lost}")


def registers(s):
    def in_loop():
        vcpu = s.result("vm.regs", vector=True)["vcpus"][0]
        return vcpu if s.symbols["again"] <= int(vcpu["general"]["rip"], 16) <= s.symbols["gate"] + 2 else None
    wait_until("the guest's loop", in_loop)
    vcpu = in_loop() or in_loop()
    check(vcpu["mode"] == "64-bit" and vcpu["cpl"] == 0 and vcpu["activity"] == "running", str(vcpu))
    check(vcpu["vector"]["xmm3"] == "0x" + "0" * 24 + "12345678" and vcpu["vector"]["st0"].startswith("0x3fff8"), str(vcpu["vector"]))
    check(int(vcpu["msrs"]["lstar"], 16) == s.symbols["system_call"], str(vcpu["msrs"]))
    check(int(vcpu["control"]["cr3"], 16) == s.symbols["pml4"], str(vcpu["control"]))
    check(len(s.result("vm.regs", vcpu=0)["vcpus"]) == 1, "one vCPU")
    s.refused("vm.regs", PARAMS, "vcpu", vcpu=1)
    s.refused("vm.regs", PARAMS, "vcpu", vcpu=99)


def disassembly(s):
    work = s.symbols["work"]
    r = s.result("vm.disassemble", address=hex(work), count=6)
    texts = [line["text"] for line in r["code"]]
    check(texts[0] == "mov eax, 3" and texts[1].startswith("inc qword ptr") and "rep movsb" in texts[5], str(texts))
    check(r["bits"] == 64 and int(r["address"], 16) == int(r["physical"], 16) == work, str(r))
    check([int(line["address"], 16) for line in r["code"]][:3] == [work, work + 5, work + 13], "addresses")
    t = [t for t in r["translations"] if int(t["address"], 16) == work]
    check(t and t[0]["cpl"] == 0 and t[0]["guest_bytes"] >= 18, f"no translation of what runs all the time: {r['translations']}")
    guests = {line.get("guest") for line in t[0]["code"]}
    check({hex(work), hex(work + 5)} <= guests, f"host code is not assigned to guest instructions: {guests}")
    check(any("inc" in line["text"] and line.get("guest") == hex(work + 5) for line in t[0]["code"]), "the guest's own instruction")
    # High addresses are the same memory; another width reads the same bytes otherwise.
    high = s.result("vm.disassemble", address=hex(work + 0xffffffff80000000), count=1)
    check(high["code"][0]["bytes"] == r["code"][0]["bytes"] and high["physical"] == r["physical"], str(high))
    check(s.result("vm.disassemble", address=hex(work), count=1, bits=16)["code"][0]["text"] == "mov ax, 3", "16 bits")
    check(len(s.result("vm.disassemble")["code"]) == 16, "where the vCPU is")
    s.refused("vm.disassemble", PARAMS, "nothing mapped", address="0x123456789000")
    s.refused("vm.disassemble", PARAMS, "address", address="here")
    s.refused("vm.disassemble", PARAMS, "bits", bits=48)
    s.refused("vm.disassemble", PARAMS, "count", count=100000)


def garbage_code(s):
    """Bytes that are no instructions come as bytes."""
    r = s.result("vm.disassemble", address=hex(s.symbols["pml4"]), count=200)
    check(len(r["code"]) == 200 and not r["translations"], "page tables as code")


def hot_blocks(s):
    r = s.result("vm.hot_blocks", seconds=1, top=5)
    check(r["samples"] > 20, f"{r['samples']} samples in a second of a busy guest")
    check(sum(n for k, n in r["where"].items() if k != "idle") == r["samples"], str(r["where"]))
    check(set(r["helpers"]) & {"movsb", "syscall", "int", "iret"}, f"what the guest does most: {r['helpers']}")
    check(sum(r["helpers"].values()) <= r["where"]["helper"], str(r))
    low, high = s.symbols["long_mode"], s.symbols["gate"] + 16
    for b in r["blocks"]:
        check(low <= int(b["address"], 16) < high and b["cpl"] == 0 and b["code"], f"a block outside the guest's loop: {b}")
    shares = [b["share"] for b in r["blocks"]]
    check(shares == sorted(shares, reverse=True) and sum(shares) <= 1, str(shares))
    s.refused("vm.hot_blocks", PARAMS, "seconds", seconds=0)
    s.refused("vm.hot_blocks", PARAMS, "seconds", seconds=1000)
    # Two at once: one is refused. A client that goes away does no harm.
    line = b'{"jsonrpc":"2.0","id":7,"method":"vm.hot_blocks","params":{"vm":"d","seconds":2}}\n'
    both = [Rpc(s.daemon.socket), Rpc(s.daemon.socket)]
    for rpc in both:
        rpc.socket.sendall(line)
    answers = [json.loads(rpc.socket.makefile().readline()) for rpc in both]
    refused = [a["error"]["message"] for a in answers if "error" in a]
    check(len(refused) == 1 and "somebody else" in refused[0], f"two at once: {str(answers)[:500]}")
    both[0].socket.sendall(line)
    both[0].close()
    s.rpc.result("vm.pause", {"vm": "d"})
    s.refused("vm.hot_blocks", STATE, "paused")
    s.rpc.result("vm.resume", {"vm": "d"})
    wait_until("the lost client's sampling ends", lambda: "result" in s.rpc.call("vm.hot_blocks", {"vm": "d", "seconds": 0.05}))


def statistics(s):
    before = s.result("vm.stats")
    wait_until("samples in the background", lambda: sum(s.result("vm.stats")["samples"]["where"].values()) >
               sum(before["samples"]["where"].values()) + 3)
    now = s.result("vm.stats")
    check(now["exits"]["syscalls"] > before["exits"]["syscalls"], "system calls are counted")
    check(now["engine"]["code_cache_bytes"] < now["engine"]["code_cache_size"], str(now["engine"]))
    check(now["engine"]["tb_insns"] >= now["engine"]["tbs"] > 0, str(now["engine"]))
    described = self_described(s)
    missing = [k for part in ("engine", "exits", "memory", "samples") for k in now[part] if k not in described[part]]
    check(not missing, f"counters that docs/api.md does not describe: {missing}")


def self_described(s):
    schema = s.methods["vm.stats"]["result"]["schema"]
    schema = s.schema.components[schema["$ref"].rsplit("/", 1)[1]] if "$ref" in schema else schema
    return {k: v.get("properties", {}) for k, v in schema["properties"].items()}


def debugger_socket(s):
    r = s.result("vm.gdb")
    check(r["enabled"] and not r["connected"], str(r))
    c = connect(r["path"])
    wait_until("the debugger's client", lambda: s.result("vm.gdb")["connected"])
    c.close()
    s.refused("vm.gdb", PARAMS, "architecture", architecture="z80")


def trictl(s):
    def run(*arguments):
        return subprocess.run([program("trictl"), "--socket", s.daemon.socket, *arguments], capture_output=True, text=True, timeout=60)
    for command, pattern in ((["regs", "d"], r"^vCPU 0: (?s:.*)rip +0x10"), (["regs", "--vector", "--vcpu", "0", "d"], "xmm3 .*12345678"),
                             (["disassemble", "--address", hex(s.symbols["work"]), "--count", "2", "d"], r"mov eax, 3(?s:.*)translation of"),
                             (["hot-blocks", "--seconds", "0.2", "--top", "2", "d"], "samples of vCPUs"), (["gdb", "d"], "target remote /"),
                             (["perf-map", "d"], "perf.map")):
        r = run(*command)
        check(r.returncode == 0 and re.search(pattern, r.stdout, re.M), f"{command}: {r}")
        r = run("--json", *command)
        check(r.returncode == 0 and json.loads(r.stdout), f"--json {command}: {r}")
    check(run("regs").returncode == 2 and run("regs", "--vcpu", "x", "d").returncode == 2 and run("regs", "nobody").returncode == 1,
          "exit statuses")


def perf_names(s):
    r = s.result("vm.perf_map")
    check(r["usable"], str(r))
    with open(r["path"]) as f:
        lines = f.read().splitlines()
    check(all(re.fullmatch("[0-9a-f]+ [0-9a-f]+ guest_(kernel|user)_[0-9a-f]{16}", line) for line in lines), str(lines[:3]))
    check(any(line.endswith(f"{s.symbols['work']:016x}") for line in lines), "the loop has no name")
    perf = shutil.which("perf")
    data = os.path.join(s.daemon.folder, "perf.data")
    if not perf or subprocess.run([perf, "record", "-e", "cpu-clock", "-o", data, "true"], capture_output=True).returncode:
        raise Skip("perf is not installed, or not allowed here; the file itself is as it should be")
    subprocess.run([perf, "record", "-e", "cpu-clock", "-o", data, "-p", str(r["pid"]), "--", "sleep", "1"], capture_output=True, check=True)
    link = f"/tmp/perf-{r['pid']}.map"
    shutil.copy(s.result("vm.perf_map")["path"], link)
    try:
        out = subprocess.run([perf, "report", "-i", data, "--stdio"], capture_output=True, text=True).stdout
    finally:
        os.unlink(link)
    check(re.search(r"guest_kernel_0000000000101", out), f"perf found no names:\n{out[-1500:]}")


def main():
    tap = Tap()
    with scratch() as folder, Daemon(folder) as daemon:
        s = Session(daemon)
        for function in (starts_paused, processor_model, registers, disassembly, garbage_code, hot_blocks, statistics, debugger_socket, trictl, perf_names):
            tap.run(function.__name__.replace("_", " "), function, s)
        s.rpc.result("vm.destroy", {"vm": "d"})
    tap.finish()


if __name__ == "__main__":
    main()
