#!/usr/bin/env python3
"""Screens: what firmware, memtest86+ and kernels show, read from pictures of it; keys; viewers."""

import ctypes
import json
import os
import socket
import struct
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from pixels import glyphs, read_text, screenshot
from rfb import Viewer
from systems import package
from vmtest import BOOT_TIMEOUT, UP, Skip, Tap, Vm, check, kernel_image, make_initramfs, scratch

SEABIOS = "/usr/share/seabios/bios-256k.bin"


def firmware(**more):
    if not os.path.exists(SEABIOS):
        raise Skip("no SeaBIOS here (package seabios)")
    glyphs()
    return {"boot": {"firmware": SEABIOS, **more}, "display": {"type": "vga"}}


def await_text(control, words, timeout=BOOT_TIMEOUT, **params):
    """The lines of the screen once all of the words are on it."""
    deadline = time.monotonic() + timeout
    while True:
        picture = screenshot(control, **params)
        lines = read_text(picture) if picture[0] in (640, 720) else [f"{picture[0]}x{picture[1]}"]
        text = "\n".join(lines)
        if all(word in text for word in words):
            return lines
        check(time.monotonic() < deadline, f"{words} are not on the screen, but:\n{text}")
        time.sleep(0.1)


def firmware_shows_its_menu():
    with scratch() as folder:
        disk = os.path.join(folder, "disk")
        with open(disk, "wb") as f:
            f.write(bytes(510) + b"\x55\xaa" + bytes(1 << 20))
        with Vm(folder, {**firmware(menu_ms=60000), "disks": [{"path": disk, "serial": "THE-ONE"}]}) as vm:
            menu(vm.control())


def menu(control):
    await_text(control, ["SeaBIOS (version ", "Press ESC for boot menu."])
    check(screenshot(control, format="ppm") == screenshot(control), "the PPM shows something else")
    control.result("send_key", {"keys": ["KEY_ESC"]})
    await_text(control, ["Select boot device:", "1. Virtio disk PCI"])
    error = control.call("send_key", {"keys": ["enter", "any"]}).get("error", {})
    check("keys[1]: there is no key" in error.get("message", ""), f"{error}")


def memtest_paints_its_screen():
    """It programs the card itself: a font and colours of its own would be seen as such."""
    image = package("memtest86+", "./boot/*.bin") + "/boot/memtest86+x64.bin"
    with scratch() as folder, Vm(folder, firmware(kernel=image)) as vm:
        control = vm.control()
        lines = await_text(control, ["Memtest86+ v", "Memory  : ", "Testing: ", "<ESC> Exit"])
        check(lines[0].startswith("      Memtest86+ v"), f"the title is elsewhere: {lines[0]!r}")
        check(lines[24].lstrip().startswith("<ESC> Exit"), f"the last line is {lines[24]!r}")
        control.result("send_key", {"keys": ["f1"]})
        await_text(control, ["Settings:", "<F1>  Test selection", "<F10>"])
        check([line[28] for line in lines[1:3]] == 2 * ["\u2502"], "the frame is none:\n" + "\n".join(lines[:8]))


def kernel_has_a_console():
    """Without firmware: the text mode is ours, and the font; vgacon scrolls it."""
    with scratch() as folder:
        initramfs = make_initramfs(os.path.join(folder, "initramfs"))
        definition = {"boot": {"kernel": kernel_image(), "initrd": initramfs, "cmdline": "console=tty0 console=ttyS0"},
                      "display": {"type": "vga"}}
        with Vm(folder, definition) as vm:
            console = vm.console()
            console.expect(UP, BOOT_TIMEOUT)
            console.command("for i in $(seq 60); do echo line $i of many > /dev/tty0; done; echo the end > /dev/tty0")
            lines = await_text(vm.control(), ["line 59 of many", "line 60 of many", "the end"])
            at = lines.index("line 60 of many")
            check(lines[at - 10:at] == [f"line {i} of many" for i in range(50, 60)], f"it did not scroll:\n" + "\n".join(lines))


def shell_takes_what_is_typed():
    """The kernel's own drivers: i8042, atkbd, psmouse; letters with Shift, and keys that come after 0xe0."""
    with scratch() as folder:
        initramfs = make_initramfs(os.path.join(folder, "initramfs"))
        definition = {"boot": {"kernel": kernel_image(), "initrd": initramfs, "cmdline": "console=tty0 console=ttyS0"},
                      "display": {"type": "vga"}}
        with Vm(folder, definition) as vm:
            console, control = vm.console(), vm.control()
            console.expect(UP, BOOT_TIMEOUT)
            console.command("(setsid sh </dev/tty1 >/dev/tty1 2>&1 &)")
            text = "echo The Quick: $((6*7)) {a|b} \"x~y\" `echo ^_^` <>?"
            control.result("send_text", {"text": f"echo '{text}'\n"})
            await_text(control, [f"\n{text}\n"])
            devices = console.command("cat /proc/bus/input/devices")
            check("AT Translated Set 2 keyboard" in devices or "AT Raw Set 2 keyboard" in devices, devices)


def vnc_cipher(password):
    """Answers a challenge, by libvncserver's own arithmetic."""
    try:
        library = ctypes.CDLL("libvncserver.so.1")
    except OSError:
        raise Skip("libvncserver.so.1 is missing") from None

    def encrypt(challenge):
        buffer = ctypes.create_string_buffer(challenge, 16)
        library.rfbEncryptBytes(buffer, password.encode())
        return buffer.raw
    return encrypt


def await_same(viewer, control, words):
    """The viewer has the words, and then the very pixels of a picture taken meanwhile."""
    deadline = time.monotonic() + BOOT_TIMEOUT
    viewer.request(0)
    while True:
        got = viewer.update(1)
        text = "\n".join(read_text(viewer.picture())) if viewer.width in (640, 720) else ""
        if all(word in text for word in words) and viewer.picture() == screenshot(control):
            return
        check(time.monotonic() < deadline, f"the viewer does not see {words}, or other pixels:\n{text}")
        if got:
            viewer.request(1)


def viewers_see_the_same():
    with scratch() as folder:
        definition = {**firmware(menu_ms=60000), "display": {"vnc": {"socket": True}}}
        with Vm(folder, definition) as vm:
            control = vm.control()
            await_text(control, ["Press ESC for boot menu."])
            where = vm.path("vnc.sock")
            with open(vm.path("display.json")) as f:
                check(json.load(f) == {"vnc": {"socket": where}}, "display.json says something else")
            first, second = Viewer(where), Viewer(where)
            check(first.name == "test", first.name)
            await_same(first, control, ["Press ESC"])
            await_same(second, control, ["Press ESC"])
            first.stroke(0xff1b)  # Escape
            second.pointer(1, 10, 10)
            await_same(second, control, ["Select boot device:"])
            await_same(first, control, ["Select boot device:"])


def port_and_password():
    with scratch() as folder:
        definition = {**firmware(menu_ms=60000), "display": {"vnc": {"autoport": True, "password": "secret"}}}
        with Vm(folder, definition) as vm:
            control = vm.control()
            await_text(control, ["Press ESC for boot menu."])
            with open(vm.path("display.json")) as f:
                where = json.load(f)["vnc"]
            check(where["address"] == "127.0.0.1" and where["port"] >= 5900, f"{where}")
            address = (where["address"], where["port"])
            viewer = Viewer(address, vnc_cipher("secret"))
            check(viewer.kinds == [2] and viewer.result == 0, f"{viewer.kinds}: {viewer.result}")
            await_same(viewer, control, ["Press ESC"])
            check(Viewer(address, vnc_cipher("Secret")).result != 0, "a wrong password was taken")


def hostile_viewers_harm_nobody():
    """Some say nothing, some garbage, some never read what they ask for; there are too many; one is served nevertheless."""
    with scratch() as folder:
        definition = {**firmware(menu_ms=60000), "display": {"vnc": {"socket": True}}}
        with Vm(folder, definition) as vm:
            control, where = vm.control(), vm.path("vnc.sock")
            await_text(control, ["Press ESC for boot menu."])
            good, idle = Viewer(where), []
            for _ in range(4):
                deaf = Viewer(where)
                deaf.socket.settimeout(5)
                try:
                    for _ in range(3000):
                        deaf.request(0)
                except (BlockingIOError, BrokenPipeError, ConnectionResetError, TimeoutError):
                    pass
                idle.append(deaf)
            for garbage in (b"", b"RFB 999.999\n" + os.urandom(4096), os.urandom(1 << 16), b"GET / HTTP/1.1\r\n\r\n"):
                s = socket.socket(socket.AF_UNIX)
                s.connect(where)
                try:
                    s.sendall(garbage)
                except (BrokenPipeError, ConnectionResetError):
                    pass
                idle.append(s)
            for message in (struct.pack(">BxxxI", 6, 0xffffffff), struct.pack(">BxH", 2, 0xffff), bytes([255]) * 64,
                            struct.pack(">BxxxBBBBHHHBBBxxx", 0, 255, 255, 9, 9, 0, 0, 0, 255, 255, 255),
                            struct.pack(">BBHHHH", 3, 0, 65535, 65535, 65535, 65535)):
                bad = Viewer(where)
                try:
                    bad.socket.sendall(message)
                    bad.stroke(0xdeadbeef)
                    bad.pointer(255, 65535, 65535)
                except (BrokenPipeError, ConnectionResetError):
                    pass
                idle.append(bad)
            for _ in range(40):
                s = socket.socket(socket.AF_UNIX)
                s.connect(where)
                idle.append(s)
            await_same(good, control, ["Press ESC"])
            good.stroke(0xff1b)
            await_same(good, control, ["Select boot device:"])
            for s in idle:
                s.close()
            # Their places are free again, and their threads gone.
            deadline = time.monotonic() + 60
            while len(os.listdir(f"/proc/{vm.process.pid}/task")) > 20:
                check(time.monotonic() < deadline, "threads of viewers stay behind")
                time.sleep(0.1)
            await_same(Viewer(where), control, ["Select boot device:"])
            check(vm.process.poll() is None, "the VM is gone")


def no_screen_is_said_so():
    with scratch() as folder:
        definition = firmware()
        del definition["display"]
        with Vm(folder, definition) as vm:
            error = vm.control().call("screenshot").get("error", {})
            check("no screen" in error.get("message", ""), f"{error}")


tests = [firmware_shows_its_menu, memtest_paints_its_screen, kernel_has_a_console, shell_takes_what_is_typed, viewers_see_the_same, port_and_password,
         hostile_viewers_harm_nobody, no_screen_is_said_so]
tap = Tap()
for test in tests:
    if len(sys.argv) < 2 or any(word in test.__name__ for word in sys.argv[1:]):
        tap.run(test.__name__.replace("_", " "), test)
tap.finish()
