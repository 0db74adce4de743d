#!/usr/bin/python3
"""virt-manager, unmodified, on a screen of its own (Xvfb): it lists the domains, shows their consoles, serial and graphical, and follows
what happens to them."""

import os
import re
import shutil
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lvtest import READY, Virsh, domain, uri
from pixels import read_ppm, read_text
from vmtest import Console, Daemon, Failed, Skip, Tap, check, scratch, wait_until

SEABIOS = "/usr/share/seabios/bios-256k.bin"
PROGRAMS = {"virt-manager": "virt-manager", "Xvfb": "xvfb", "import": "imagemagick", "compare": "imagemagick", "dbus-run-session": "dbus"}


def screen(folder):
    """(process, display): Xvfb picks a free number itself."""
    read, write = os.pipe()
    process = subprocess.Popen(["Xvfb", "-displayfd", str(write), "-screen", "0", "1280x1024x24", "-nolisten", "tcp"], pass_fds=[write],
                               stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    os.close(write)
    with os.fdopen(read) as f:
        number = f.readline().strip()
    check(number, "Xvfb does not start")
    return process, ":" + number


def painted(name):
    """A domain whose screen shows the firmware's words for a minute."""
    if not os.path.exists(SEABIOS):
        raise Skip("no SeaBIOS here (package seabios)")
    return f"""<domain type='trivisor'><name>{name}</name><memory unit='MiB'>32</memory><vcpu>1</vcpu><os><type arch='x86_64'>hvm</type>
<loader>{SEABIOS}</loader><bootmenu enable='yes' timeout='65535'/></os><devices><graphics type='vnc' port='-1' autoport='yes'/>
<video><model type='vga'/></video><input type='keyboard' bus='ps2'/><input type='mouse' bus='ps2'/></devices></domain>"""


def holds(window, part):
    """Whether a picture is somewhere in a larger one, pixel by pixel. Both: (width, height, bytes of RGB)."""
    rows = [part[2][3 * part[0] * y:3 * part[0] * (y + 1)] for y in range(part[1])]
    stride = 3 * window[0]
    key = max(range(len(rows)), key=lambda y: sum(a != b for a, b in zip(rows[y], rows[y][3:])))  # one that is not everywhere
    at = window[2].find(rows[key])
    while at >= 0:
        top = at - stride * key
        if at % 3 == 0 and top >= 0 and all(window[2][top + stride * y:top + stride * y + len(row)] == row for y, row in enumerate(rows)):
            return True
        at = window[2].find(rows[key], at + 1)
    return False


def graphical(d):
    """The firmware's words in virt-manager's window are those of the VM's own picture."""
    def start(v):
        v("screenshot", "painted", os.path.join(d.folder, "own.ppm"))
        return lambda display, logged, shot: look(v, display, logged, shot)

    def own():
        Virsh(d)("screenshot", "painted", os.path.join(d.folder, "own.ppm"))
        with open(os.path.join(d.folder, "own.ppm"), "rb") as f:
            return read_ppm(f.read())

    def line(picture, number):
        """The left half of a line of text."""
        width, _, data = picture
        rows = [data[3 * width * y:3 * width * y + 3 * 360] for y in range(16 * number, 16 * number + 16)]
        return 360, 16, b"".join(rows)

    def look(v, display, logged, shot):
        wait_until("the firmware's words", lambda: own()[0] == 720 and "Press ESC" in "\n".join(read_text(own())))
        file = os.path.join(d.folder, "window.ppm")

        def shown():
            subprocess.run(["import", "-display", display, "-window", "root", "-depth", "8", file], check=True, capture_output=True, timeout=60)
            with open(file, "rb") as f:
                window = read_ppm(f.read())
            words = [n for n, text in enumerate(read_text(own())) if "SeaBIOS" in text or "Press ESC" in text]
            return len(words) == 2 and all(holds(window, line(own(), n)) for n in words)

        wait_until("the VM's screen in virt-manager's window", shown, 120, 1)
        v("destroy", "painted")
        logged(r"lifecycle event: domain=painted state=VIR_DOMAIN_EVENT_STOPPED")

    with_manager(d, "painted", painted("painted"), start)


def serial(d):
    def start(v):
        guest = Console(d.rpc.result("vm.console", ["shown"])["path"])
        guest.expect(READY)
        guest.type("#")  # whoever types first has the keyboard
        guest.expect(r"\[#\]")
        return lambda display, logged, shot: look(v, guest, logged, shot)

    def look(v, guest, logged, shot):
        def different(before, after):
            r = subprocess.run(["compare", "-metric", "AE", before, after, "null:"], capture_output=True, text=True, timeout=60, check=False)
            return float(r.stderr.split()[0])

        logged(r"Opening console stream")
        check(different(shot("a"), shot("b")) >= 0, "the screen cannot be read")
        before = shot("before")
        for _ in range(400):  # far more than fits between two looks at a blinking cursor
            guest.socket.sendall(b"#")
        guest.expect(r"(\[#\]){1}")
        wait_until("the console's text on the screen", lambda: different(before, shot("after")) > 5000, 60, 0.5)
        v("suspend", "shown")
        logged(r"lifecycle event: domain=shown state=VIR_DOMAIN_EVENT_SUSPENDED")
        v("destroy", "shown")
        logged(r"lifecycle event: domain=shown state=VIR_DOMAIN_EVENT_STOPPED")

    with_manager(d, "shown", domain("shown"), start)


def with_manager(d, name, xml, start):
    """start(virsh) is called once the domain runs; what it returns, once virt-manager lists it: with its display, log and pictures."""
    for program, package in PROGRAMS.items():
        if not shutil.which(program):
            raise Skip(f"{program} is not installed (Debian: {package})")
    v = Virsh(d)
    with open(os.path.join(d.folder, "x.xml"), "w") as f:
        f.write(xml)
    v("create", os.path.join(d.folder, "x.xml"))
    # It makes a pool "default" otherwise, in a directory of the system.
    v("pool-create-as", "default", "dir", "--target", d.folder)
    look = start(v)
    home = os.path.join(d.folder, "home")
    os.mkdir(home, 0o700)
    server, display = screen(d.folder)
    environment = dict(os.environ, DISPLAY=display, HOME=home, XDG_RUNTIME_DIR=home, GSETTINGS_BACKEND="memory", NO_AT_BRIDGE="1", LC_ALL="C.UTF-8")
    path = os.path.join(d.folder, "manager.log")
    with open(path, "w") as log:
        process = subprocess.Popen(["dbus-run-session", "--", "virt-manager", "--no-fork", "--connect", uri(d, "trivisor:///system"),  # with a transport it thinks itself far away
                                    "--show-domain-console", name, "--debug"],
                                   stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True)

    def logged(pattern, timeout=120):
        deadline = time.monotonic() + timeout
        while True:
            with open(path, errors="replace") as f:
                text = f.read()
            check("Traceback" not in text, text[-3000:])
            if re.search(pattern, text):
                return
            if time.monotonic() > deadline or process.poll() is not None:
                raise Failed(f"{pattern!r} is not in virt-manager's log:\n{text[-3000:]}")
            time.sleep(0.2)

    def shot(name):
        file = os.path.join(d.folder, name + ".png")
        subprocess.run(["import", "-display", display, "-window", "root", file], check=True, capture_output=True, timeout=60)
        return file

    try:
        logged(rf"domain={name} status=Running added")
        look(display, logged, shot)
    finally:
        os.killpg(process.pid, 15)
        process.wait(30)
        server.terminate()
        server.wait(30)


def main():
    tap = Tap()
    for title, test in (("virt-manager shows a domain and its console", serial), ("virt-manager shows a domain's screen", graphical)):
        with scratch() as folder:
            def one():
                with Daemon(folder) as d:
                    test(d)
            tap.run(title, one)
    tap.finish()


main()
