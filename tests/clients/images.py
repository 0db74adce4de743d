#!/usr/bin/env python3
"""Disk images through the daemon: made, converted, checked, resized; progress, and nothing half done left by whatever ends it."""
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "guests"))
from vmtest import Daemon, Rpc, Skip, Tap, check, program, scratch, wait_until  # noqa: E402

MIB = 1 << 20


def trictl(d, *arguments, **more):
    return subprocess.run([program("trictl"), "--socket", d.socket, "image", *arguments], capture_output=True, text=True, timeout=120, check=False, **more)


def only(folder):
    return sorted(os.listdir(folder))


def noise(path, mib):
    """What takes long to compress."""
    with open(path, "wb") as f:
        for _ in range(mib):
            f.write(os.urandom(MIB // 2) + bytes(MIB // 2))


def whole_life(d, folder):
    image, raw = folder + "/a.qcow2", folder + "/b.raw"
    made = d.rpc.result("image.create", {"path": image, "format": "qcow2", "size": 64 * MIB})
    check(made["path"] == image and made["file_bytes"] == os.path.getsize(image) and os.stat(image).st_mode & 0o777 == 0o600, str(made))
    last = [e for e in d.rpc.events if e.get("operation") == made["operation"]]
    check(last and last[-1]["percent"] == 100, str(d.rpc.events))
    info = d.rpc.result("image.info", {"path": image})["report"]
    check(info["format"] == "qcow2" and info["virtual-size"] == 64 * MIB, str(info))
    check(d.rpc.result("image.check", {"path": image, "format": "qcow2"})["state"] == "clean", "check")
    d.rpc.result("image.resize", {"path": image, "format": "qcow2", "size": 80 * MIB})
    error = d.rpc.call("image.resize", {"path": image, "format": "qcow2", "size": 16 * MIB})["error"]["message"]
    check("shrink" in error and image in error, error)
    d.rpc.result("image.resize", {"path": image, "format": "qcow2", "size": 16 * MIB, "shrink": True})
    over = d.rpc.result("image.create", {"path": folder + "/over.qcow2", "format": "qcow2", "backing": image, "backing_format": "qcow2"})
    check(over["file_bytes"] < MIB, str(over))
    noise(raw, 8)
    d.rpc.result("image.convert", {"source": raw, "source_format": "raw", "path": folder + "/c.qcow2", "format": "qcow2", "compress": True})
    d.rpc.result("image.convert", {"source": folder + "/c.qcow2", "source_format": "qcow2", "path": folder + "/d.raw", "format": "raw"})
    check(subprocess.run(["cmp", raw, folder + "/d.raw"], check=False).returncode == 0, "converted there and back")
    full = d.rpc.result("image.create", {"path": folder + "/full.raw", "format": "raw", "size": 8 * MIB, "preallocation": "full"})
    check(full["allocated_bytes"] >= 8 * MIB, str(full))
    check(d.rpc.result("image.list") == [], "what is done is gone")
    check(only(folder) == ["a.qcow2", "b.raw", "c.qcow2", "d.raw", "full.raw", "over.qcow2"], str(only(folder)))


def refuses(d, folder):
    image = folder + "/a.qcow2"
    d.rpc.result("image.create", {"path": image, "format": "qcow2", "size": MIB})
    before = os.stat(image)
    with open(folder + "/broken.qcow2", "wb") as f:
        f.write(b"QFI\xfb" + bytes([255]) * 600)
    with open(folder + "/text", "w") as f:
        f.write("no image")
    cases = (("create", {"path": image, "format": "qcow2", "size": MIB}, "exists already"),
             ("create", {"path": "x.raw", "format": "raw", "size": MIB}, "not an absolute path"),
             ("create", {"path": folder + "/none/x.raw", "format": "raw", "size": MIB}, "No such file"),
             ("create", {"path": folder + "/x.raw", "format": "raw"}, "size"),
             ("create", {"path": folder + "/x.qcow2", "format": "qcow2", "backing": image}, "backing_format"),
             ("create", {"path": folder + "/x.qcow2", "format": "qcow2", "backing": folder + "/none", "backing_format": "raw"}, "No such file"),
             ("create", {"path": folder + "/x.raw", "format": "elf", "size": MIB}, "format"),
             ("convert", {"source": folder + "/none", "source_format": "raw", "path": folder + "/x.raw", "format": "raw"}, "No such file"),
             ("convert", {"source": folder + "/broken.qcow2", "source_format": "qcow2", "path": folder + "/x.raw", "format": "raw"}, "qcow2 version"),
             ("convert", {"source": folder + "/text", "source_format": "qcow2", "path": folder + "/x.raw", "format": "raw"}, "not in qcow2 format"),
             ("check", {"path": folder + "/text", "format": "raw"}, "nothing that could be checked"),
             ("check", {"path": folder + "/broken.qcow2", "format": "qcow2"}, "qcow2 version"),
             ("info", {"path": folder + "/none"}, "No such file"),
             ("resize", {"path": folder + "/none.raw", "format": "raw", "size": MIB}, "No such file"))
    for work, params, word in cases:
        answer = d.rpc.call("image." + work, params)
        check("error" in answer and word in answer["error"]["message"], f"{work} {params}: {answer}")
        check("/proc/self" not in answer["error"]["message"], str(answer))
    check(only(folder) == ["a.qcow2", "broken.qcow2", "text"], str(only(folder)))
    check(os.stat(image).st_mtime_ns == before.st_mtime_ns, "it was written")
    # An image that is damaged: said, mended, clean.
    d.rpc.result("image.convert", {"source": folder + "/text", "source_format": "raw", "path": folder + "/hurt.qcow2", "format": "qcow2"})
    with open(folder + "/hurt.qcow2", "r+b") as f:
        header = f.read(64)
        table = struct.unpack(">Q", header[48:56])[0]
        f.seek(table)
        block = struct.unpack(">Q", f.read(8))[0]
        f.seek(block)
        f.write(b"\0\0")  # the header's cluster is not in use
    state = d.rpc.result("image.check", {"path": folder + "/hurt.qcow2", "format": "qcow2"})
    check(state["state"] == "corrupt" and state["report"]["corruptions"] >= 1, str(state))
    check(trictl(d, "check", folder + "/hurt.qcow2").returncode == 1, "trictl's status")
    d.rpc.result("image.check", {"path": folder + "/hurt.qcow2", "format": "qcow2", "repair": "all"})
    p = trictl(d, "check", folder + "/hurt.qcow2")
    check(p.returncode == 0 and p.stdout == "clean\n", str(p))
    # One that is in use.
    with subprocess.Popen(["qemu-nbd", "-k", folder + "/nbd", "-t", "-f", "qcow2", image]) as server:
        try:
            wait_until("qemu-nbd", lambda: os.path.exists(folder + "/nbd"), 20)
            error = d.rpc.call("image.resize", {"path": image, "format": "qcow2", "size": 2 * MIB})["error"]
            check("in use" in error["message"], str(error))
            check(d.rpc.result("image.info", {"path": image})["report"]["virtual-size"] == MIB, "info while it is in use")
        finally:
            server.terminate()


def full_disk(d, folder):
    small = folder + "/small"
    os.mkdir(small)
    r = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", small], capture_output=True, text=True, check=False)
    if r.returncode:
        raise Skip(f"cannot mount a tmpfs: {r.stderr.strip()}")
    try:
        noise(folder + "/big.raw", 16)
        for work, params in (("convert", {"source": folder + "/big.raw", "source_format": "raw", "format": "qcow2"}),
                             ("create", {"format": "raw", "size": 64 * MIB, "preallocation": "full"}),
                             ("create", {"format": "raw", "size": 64 * MIB, "preallocation": "falloc"})):
            error = d.rpc.call("image." + work, {"path": small + "/x", **params})["error"]
            check("No space left" in error["message"] and small in error["message"], str(error))
            check(only(small) == [], str(only(small)))
            st = os.statvfs(small)
            wait_until("the room is given back", lambda: os.statvfs(small).f_bfree >= st.f_blocks - 8, 20)
    finally:
        subprocess.run(["umount", "-l", small], check=False)


def ends_early(d, folder):
    noise(folder + "/big.raw", 160)
    params = {"source": folder + "/big.raw", "source_format": "raw", "format": "qcow2", "compress": True}

    def begin(name):
        rpc = Rpc(d.socket)
        rpc.socket.sendall(b'{"jsonrpc":"2.0","id":1,"method":"image.convert","params":%s}\n'
                           % __import__("json").dumps({"path": f"{folder}/{name}", **params}).encode())
        event = rpc.wait_event(lambda e: (e.get("percent") or 0) > 1 and e["percent"] < 100, 60)
        running = d.rpc.result("image.list")
        check([(r["work"], r["path"], r["operation"]) for r in running] == [("convert", f"{folder}/{name}", event["operation"])], str(running))
        child = [pid for pid in os.listdir("/proc") if pid.isdigit() and parent(pid) == d.process.pid and comm(pid) == "qemu-img"]
        check(len(child) == 1, str(child))
        return rpc, int(child[0])

    def parent(pid):
        try:
            with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as f:
                return int(f.read().rpartition(")")[2].split()[1])
        except OSError:
            return 0

    def comm(pid):
        try:
            with open(f"/proc/{pid}/comm", encoding="ascii", errors="replace") as f:
                return f.read().strip()
        except OSError:
            return ""

    def gone(pid):
        wait_until("the child's end", lambda: not os.path.exists(f"/proc/{pid}"), 20)
        check(only(folder) == ["big.raw"], str(only(folder)))

    # The client goes; the child is killed; the daemon is killed.
    rpc, child = begin("one")
    rpc.close()
    gone(child)
    check(d.rpc.result("image.list") == [], "cancelled")
    rpc, child = begin("two")
    os.kill(child, signal.SIGKILL)
    answer = rpc._message(time.monotonic() + 20)
    while "id" not in answer:
        answer = rpc._message(time.monotonic() + 20)
    check("killed by signal KILL" in answer["error"]["message"], str(answer))
    gone(child)
    rpc, child = begin("three")
    d.kill(signal.SIGKILL)
    gone(child)
    d.start()
    # trictl, interrupted at its bar.
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 25, 100, 0, 0))
    p = subprocess.Popen([program("trictl"), "--socket", d.socket, "image", "convert", "--compress", folder + "/big.raw", folder + "/four.qcow2"],
                         stdin=slave, stdout=slave, stderr=slave, start_new_session=True, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
    os.close(slave)
    text = ""
    deadline = time.monotonic() + 60
    while not re.search(r"\[#+ +\] +\d+ %", text):
        check(time.monotonic() < deadline and select.select([master], [], [], 60)[0], f"no bar: {text!r}")
        text += os.read(master, 4096).decode()
    os.write(master, b"\x03")
    check(p.wait(20) == -signal.SIGINT, "Ctrl-C")
    os.close(master)
    wait_until("the end of the work", lambda: d.rpc.result("image.list") == [] and only(folder) == ["big.raw"], 20)


def commands(d, folder):
    noise(folder + "/big.raw", 24)
    p = trictl(d, "convert", "--compress", "big.raw", "new.qcow2", cwd=folder)
    lines = re.findall(r"^trictl: convert: (\d+) %$", p.stderr, re.M)
    check(p.returncode == 0 and lines and lines[-1] == "100" and len(lines) <= 11 and "\r" not in p.stderr and not p.stdout, str(p))
    check(trictl(d, "create", "e.img", "3M", cwd=folder).returncode == 0 and os.path.getsize(folder + "/e.img") == 3 * MIB, "create")
    p = trictl(d, "info", folder + "/new.qcow2")
    check(p.returncode == 0 and "qcow2" in p.stdout, str(p))
    for arguments, status, word in ((["create", "x", "1M"], 2, "its name does not say"), (["create", "x.raw", "much"], 2, "no size"),
                                    (["create", "x.raw"], 2, "give its size"), (["paint", "x"], 2, "Usage"), (["check"], 2, "Usage"),
                                    (["create", "x.raw", "9999999999T"], 2, "no size"), (["check", "none.qcow2"], 1, "No such file"),
                                    (["create", "big.raw", "1M"], 1, "exists already")):
        p = trictl(d, *arguments, cwd=folder)
        check(p.returncode == status and word in p.stderr, f"{arguments}: {p}")
    check(only(folder) == ["big.raw", "e.img", "new.qcow2"], str(only(folder)))


def main():
    tap = Tap()
    with scratch() as folder, Daemon(folder, "--no-calibration") as d:
        for test in (whole_life, refuses, full_disk, ends_early, commands):
            with scratch() as own:
                tap.run(test.__name__.replace("_", " "), test, d, own)
    tap.finish()


if __name__ == "__main__":
    main()
