#!/usr/bin/python3
"""virt-manager, unmodified, on a screen of its own (Xvfb): it lists the domain, shows its console, and follows what happens to it."""

import os
import re
import shutil
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lvtest import READY, Virsh, domain, uri
from vmtest import Console, Daemon, Failed, Skip, Tap, check, scratch, wait_until

PROGRAMS = {"virt-manager": "virt-manager", "Xvfb": "xvfb", "import": "imagemagick", "compare": "imagemagick", "dbus-run-session": "dbus"}


def screen(folder):
    """(process, display): Xvfb picks a free number itself."""
    read, write = os.pipe()
    process = subprocess.Popen(["Xvfb", "-displayfd", str(write), "-screen", "0", "1000x700x24", "-nolisten", "tcp"], pass_fds=[write],
                               stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    os.close(write)
    with os.fdopen(read) as f:
        number = f.readline().strip()
    check(number, "Xvfb does not start")
    return process, ":" + number


def manager(d):
    for program, package in PROGRAMS.items():
        if not shutil.which(program):
            raise Skip(f"{program} is not installed (Debian: {package})")
    v = Virsh(d)
    with open(os.path.join(d.folder, "x.xml"), "w") as f:
        f.write(domain("shown"))
    v("create", os.path.join(d.folder, "x.xml"))
    # It makes a pool "default" otherwise, in a directory of the system.
    v("pool-create-as", "default", "dir", "--target", d.folder)
    guest = Console(d.rpc.result("vm.console", ["shown"])["path"])
    guest.expect(READY)
    home = os.path.join(d.folder, "home")
    os.mkdir(home, 0o700)
    server, display = screen(d.folder)
    environment = dict(os.environ, DISPLAY=display, HOME=home, XDG_RUNTIME_DIR=home, GSETTINGS_BACKEND="memory", NO_AT_BRIDGE="1", LC_ALL="C.UTF-8")
    path = os.path.join(d.folder, "manager.log")
    with open(path, "w") as log:
        process = subprocess.Popen(["dbus-run-session", "--", "virt-manager", "--no-fork", "--connect", uri(d), "--show-domain-console", "shown", "--debug"],
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

    def different(before, after):
        r = subprocess.run(["compare", "-metric", "AE", before, after, "null:"], capture_output=True, text=True, timeout=60, check=False)
        return float(r.stderr.split()[0])

    try:
        logged(r"domain=shown status=Running added")
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
    finally:
        os.killpg(process.pid, 15)
        process.wait(30)
        server.terminate()
        server.wait(30)


def main():
    tap = Tap()
    with scratch() as folder:
        def one():
            with Daemon(folder) as d:
                manager(d)
        tap.run("virt-manager shows a domain and its console", one)
    tap.finish()


main()
