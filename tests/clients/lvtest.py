"""What tests of the libvirt API share: domain XML for the small guest, virsh, and libvirt's Python bindings."""

import os
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "guests"))
from vmtest import BUILD, Skip, check

TINY = os.path.join(BUILD, "tests", "clients", "tiny.elf")
READY = "tiny: ready"


def uri(daemon, name="trivisor+unix:///system", suffix=""):
    return f"{name}?socket={daemon.libvirt_socket}{suffix}"


def domain(name, kind="trivisor", uuid=None, extra="", devices="", kernel=TINY, memory=32, boot=""):
    """Domain XML of a guest with a serial console."""
    if not os.path.exists(kernel):
        raise Skip(f"{kernel} is not built")
    tag = f"<uuid>{uuid}</uuid>" if uuid else ""
    return f"""<domain type='{kind}'><name>{name}</name>{tag}<memory unit='MiB'>{memory}</memory><vcpu>1</vcpu>
<os><type arch='x86_64'>hvm</type><kernel>{kernel}</kernel>{boot}</os>{extra}
<devices><serial type='pty'/><console type='pty'/>{devices}</devices></domain>"""


class Virsh:
    """virsh against a daemon of our own, a process for each command as scripts do it."""

    def __init__(self, daemon, readonly=False):
        if not shutil.which("virsh"):
            raise Skip("virsh is not installed (Debian: libvirt-clients)")
        self.command = ["virsh", "-q", "-c", uri(daemon, suffix="-ro" if readonly else "")]
        if readonly:
            self.command.append("-r")
        self.environment = dict(os.environ, LC_ALL="C", LIBVIRT_AUTOSTART="0")

    def try_(self, *arguments, timeout=60):
        """(exit status, both outputs)."""
        r = subprocess.run([*self.command, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout,
                           env=self.environment)
        return r.returncode, r.stdout + r.stderr

    def __call__(self, *arguments, timeout=60):
        status, text = self.try_(*arguments, timeout=timeout)
        check(status == 0, f"virsh {' '.join(arguments)}: {status}: {text}")
        return text.strip()

    def fails(self, *arguments, word=""):
        status, text = self.try_(*arguments)
        check(status != 0 and word in text, f"virsh {' '.join(arguments)}: {status}, without {word!r}: {text}")
        return text


def bindings():
    """The libvirt module, without its habit of printing every error."""
    try:
        import libvirt
    except ImportError:
        raise Skip("libvirt's Python bindings are not installed (Debian: python3-libvirt)") from None
    libvirt.registerErrorHandler(lambda context, error: None, None)
    return libvirt
