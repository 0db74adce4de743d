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
    with scratch() as folder, Vm(folder, firmware(menu_ms=60000)) as vm:
        control = vm.control()
        await_text(control, ["SeaBIOS (version ", "Press ESC for boot menu."])
        check(screenshot(control, format="ppm") == screenshot(control), "the PPM shows something else")


def memtest_paints_its_screen():
    """It programs the card itself: a font and colours of its own would be seen as such."""
    image = package("memtest86+", "./boot/*.bin") + "/boot/memtest86+x64.bin"
    with scratch() as folder, Vm(folder, firmware(kernel=image)) as vm:
        lines = await_text(vm.control(), ["Memtest86+ v", "Memory  : ", "Testing: ", "<ESC> Exit"])
        check(lines[0].startswith("      Memtest86+ v"), f"the title is elsewhere: {lines[0]!r}")
        check(lines[24].lstrip().startswith("<ESC> Exit"), f"the last line is {lines[24]!r}")
        check([line[28] for line in lines[1:6]] == 5 * ["\u2502"], "the frame is none:\n" + "\n".join(lines[:8]))


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


def no_screen_is_said_so():
    with scratch() as folder:
        definition = firmware()
        del definition["display"]
        with Vm(folder, definition) as vm:
            error = vm.control().call("screenshot").get("error", {})
            check("no screen" in error.get("message", ""), f"{error}")


tests = [firmware_shows_its_menu, memtest_paints_its_screen, kernel_has_a_console, no_screen_is_said_so]
tap = Tap()
for test in tests:
    if len(sys.argv) < 2 or any(word in test.__name__ for word in sys.argv[1:]):
        tap.run(test.__name__.replace("_", " "), test)
tap.finish()
