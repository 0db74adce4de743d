#!/usr/bin/env python3
"""Screens: what firmware, memtest86+ and kernels show, read from pictures of it; keys; viewers."""

import os
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from pixels import glyphs, read_text, screenshot
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


def no_screen_is_said_so():
    with scratch() as folder:
        definition = firmware()
        del definition["display"]
        with Vm(folder, definition) as vm:
            error = vm.control().call("screenshot").get("error", {})
            check("no screen" in error.get("message", ""), f"{error}")


tests = [firmware_shows_its_menu, memtest_paints_its_screen, kernel_has_a_console, shell_takes_what_is_typed, no_screen_is_said_so]
tap = Tap()
for test in tests:
    if len(sys.argv) < 2 or any(word in test.__name__ for word in sys.argv[1:]):
        tap.run(test.__name__.replace("_", " "), test)
tap.finish()
