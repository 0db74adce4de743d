#!/usr/bin/python3
"""Screens by libvirt's own clients: graphics and video in domain XML both ways, virsh vncdisplay, screenshot and send-key."""

import os
import subprocess
import sys
import time
import xml.etree.ElementTree as ET

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "guests"))
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lvtest import Virsh, bindings, domain, uri
from pixels import glyphs, read_ppm, read_text
from rfb import Viewer
from vmtest import BOOT_TIMEOUT, Daemon, Skip, Tap, check, scratch

SEABIOS = "/usr/share/seabios/bios-256k.bin"
VIDEO = "<video><model type='vga'/></video>"


def firmware_domain(name, devices):
    if not os.path.exists(SEABIOS):
        raise Skip("no SeaBIOS here (package seabios)")
    glyphs()
    return f"""<domain type='trivisor'><name>{name}</name><memory unit='MiB'>32</memory><vcpu>1</vcpu>
<os><type arch='x86_64'>hvm</type><loader>{SEABIOS}</loader><bootmenu enable='yes' timeout='60000'/></os><devices>{devices}</devices></domain>"""


def define(d, v, name, text):
    path = os.path.join(d.folder, name + ".xml")
    with open(path, "w") as f:
        f.write(text)
    v("define", path)


def graphics(v, name, *options):
    return ET.fromstring(v("dumpxml", name, *options)).find("devices/graphics")


def await_words(d, v, name, *words):
    path = os.path.join(d.folder, name + ".ppm")
    deadline = time.monotonic() + BOOT_TIMEOUT
    while True:
        v("screenshot", name, path)
        with open(path, "rb") as f:
            picture = read_ppm(f.read())
        text = "\n".join(read_text(picture)) if picture[0] == 720 else ""
        if all(word in text for word in words):
            return picture
        check(time.monotonic() < deadline, f"{words} are not on the screen:\n{text}")
        time.sleep(0.2)


def a_screen_by_virsh(d):
    v = Virsh(d)
    define(d, v, "seen", firmware_domain("seen", "<graphics type='vnc' port='-1' autoport='yes' passwd='geheim'>"
                                         "<listen type='address' address='127.0.0.1'/></graphics>" + VIDEO))
    g = graphics(v, "seen")
    check((g.get("port"), g.get("autoport"), g.get("passwd")) == ("-1", "yes", None), ET.tostring(g))
    check(graphics(v, "seen", "--security-info").get("passwd") == "geheim", "the password is not there with --security-info")
    v("start", "seen")
    port = int(graphics(v, "seen").get("port"))
    check(port >= 5900 and graphics(v, "seen", "--inactive").get("port") == "-1", "the live XML does not tell the port")
    check(v("vncdisplay", "seen").splitlines()[0] == f"127.0.0.1:{port - 5900}", v("vncdisplay", "seen"))
    await_words(d, v, "seen", "Press ESC for boot menu.")
    words = named(d, v, "seen")
    check("Screenshot saved" in words and ".ppm" in words, f"{words}: virsh does not name the kind of picture")
    v("send-key", "seen", "KEY_ESC")
    await_words(d, v, "seen", "Select boot device:")
    for codeset, code in (("xt", "42"), ("atset2", "18"), ("usb", "225"), ("qnum", "42"), ("linux", "KEY_LEFTSHIFT")):
        v("send-key", "seen", "--codeset", codeset, "--holdtime", "1", code)
    v.fails("send-key", "seen", "--codeset", "win32", "27", word="codeset")
    v.fails("send-key", "seen", "250", word="no such key")
    v.fails("screenshot", "seen", os.path.join(d.folder, "x"), "--screen", "1", word="one screen")
    info = d.rpc.result("vm.get", ["seen"])["definition"]["display"]
    check(info == {"type": "vga", "vnc": {"address": "127.0.0.1", "autoport": True, "password": "geheim"}}, f"{info}")
    v("destroy", "seen")
    v("undefine", "seen")


def named(d, v, name):
    """What virsh says of a picture that it names itself."""
    r = subprocess.run([v.command[0], *v.command[2:], "screenshot", name], cwd=d.folder, capture_output=True, text=True, env=v.environment,
                       timeout=60, check=False)
    return r.stdout


def sockets_and_ports(d):
    v = Virsh(d)
    path = os.path.join(d.folder, "see.sock")
    define(d, v, "sock", firmware_domain("sock", f"<graphics type='vnc' socket='{path}'/>"))
    v("start", "sock")
    live = ET.fromstring(v("dumpxml", "sock")).find("devices")
    check(live.find("graphics").get("socket") == path and live.find("graphics/listen").get("type") == "socket", ET.tostring(live))
    check(live.find("video/model").get("type") == "vga", "graphics without video: a VGA is there, and the XML does not say so")
    viewer = Viewer(path)
    check(viewer.name == "sock", viewer.name)
    # What JSON changes shows in the XML, from the next start on.
    definition = d.rpc.result("vm.get", ["sock"])["definition"]
    definition["display"] = {"type": "vga", "vnc": {"port": 5999}}
    d.rpc.result("vm.define", {"definition": definition})
    check(graphics(v, "sock", "--inactive").get("port") == "5999", v("dumpxml", "sock", "--inactive"))
    check(graphics(v, "sock").get("socket") == path, "the running one has changed")
    del definition["display"]
    d.rpc.result("vm.define", {"definition": definition})
    after = ET.fromstring(v("dumpxml", "sock", "--inactive")).find("devices")
    check(after.find("graphics") is None and after.find("video") is None, ET.tostring(after))
    v("destroy", "sock")


def refusals(d):
    v = Virsh(d)
    for devices, word in (("<graphics type='vnc' listen='0.0.0.0'/>", "/domain/devices/graphics: viewers can come by the loopback"),
                          ("<graphics type='vnc' port='70000'/>", "port=\"70000\" is none"),
                          ("<graphics type='vnc' passwd='123456789'/>", "longer than 8"),
                          ("<graphics type='vnc'><listen type='network' network='x'/></graphics>", "listen type"),
                          ("<graphics type='vnc'/><graphics type='vnc'/>", "one <graphics>")):
        path = os.path.join(d.folder, "bad.xml")
        with open(path, "w") as f:
            f.write(firmware_domain("bad", devices))
        v.fails("define", path, word=word)
    with open(path, "w") as f:
        f.write(domain("plain"))
    v("create", path)
    v.fails("screenshot", "plain", os.path.join(d.folder, "x"), word="no screen")
    v.fails("send-key", "plain", "KEY_A", word="no screen")
    v("destroy", "plain")


def python_takes_a_picture(d):
    lv = bindings()
    connection = lv.open(uri(d))
    dom = connection.createXML(firmware_domain("py", VIDEO), 0)
    stream, data = connection.newStream(0), bytearray()
    check(dom.screenshot(stream, 0, 0) == "image/x-portable-pixmap", "another kind of picture")
    stream.recvAll(lambda s, chunk, opaque: data.extend(chunk), None)
    stream.finish()
    read_ppm(bytes(data))
    check(dom.sendKey(lv.VIR_KEYCODE_SET_LINUX, 50, [29, 56, 111], 3, 0) == 0, "sendKey")
    dom.destroy()
    connection.close()


def main():
    tap = Tap()
    with scratch() as folder, Daemon(folder) as d:
        tap.run("a screen by virsh", a_screen_by_virsh, d)
        tap.run("sockets and ports", sockets_and_ports, d)
        tap.run("refusals", refusals, d)
        tap.run("python takes a picture", python_takes_a_picture, d)
    tap.finish()


main()
