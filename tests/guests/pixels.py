"""What is on a screen, read from its pixels: text by comparing cells with a font. Pictures are (width, height, bytes of RGB)."""

import base64
import re
import struct
import zlib

from vmtest import Skip, check

VGA_BIOS = "/usr/share/seabios/vgabios-stdvga.bin"


def read_png(data):
    """A PNG of 8-bit RGB (all that vm.screenshot makes), its checksums included."""
    check(data[:8] == b"\x89PNG\r\n\x1a\n", "no PNG signature")
    at, packed, head = 8, b"", None
    while at < len(data):
        length, kind = struct.unpack(">I4s", data[at:at + 8])
        body = data[at + 8:at + 8 + length]
        check(struct.unpack(">I", data[at + 8 + length:at + 12 + length])[0] == zlib.crc32(kind + body), f"checksum of {kind}")
        if kind == b"IHDR":
            head = struct.unpack(">IIBBBBB", body)
        elif kind == b"IDAT":
            packed += body
        at += 12 + length
    width, height, depth, colour = head[:4]
    check((depth, colour, head[6]) == (8, 2, 0), f"not 8-bit RGB: {head}")
    raw = zlib.decompress(packed)
    stride = 3 * width + 1
    check(len(raw) == stride * height, "the PNG's rows are incomplete")
    rows = []
    for y in range(height):
        check(raw[y * stride] == 0, f"row {y} has filter {raw[y * stride]}")
        rows.append(raw[y * stride + 1:(y + 1) * stride])
    return width, height, b"".join(rows)


def read_ppm(data):
    match = re.match(rb"P6\n(\d+) (\d+)\n255\n", data)
    check(match, f"no PPM: {data[:20]!r}")
    width, height = int(match[1]), int(match[2])
    check(len(data) - match.end() == 3 * width * height, "the PPM's length is wrong")
    return width, height, data[match.end():]


def screenshot(control, **params):
    """Through a VM's control socket, or a daemon's (with vm=NAME)."""
    method = "vm.screenshot" if "vm" in params else "screenshot"
    answer = control.result(method, params)
    data = base64.b64decode(answer["data"])
    picture = read_ppm(data) if answer["format"] == "ppm" else read_png(data)
    check(picture[:2] == (answer["width"], answer["height"]), f"{picture[:2]} are not {answer['width']}x{answer['height']}")
    return picture


_glyphs = None


def glyphs():
    """The font in the VGA's BIOS: 16 rows of 8 dots as bytes, to its character."""
    global _glyphs
    if _glyphs is None:
        try:
            with open(VGA_BIOS, "rb") as f:
                rom = f.read()
        except FileNotFoundError:
            raise Skip(f"{VGA_BIOS} is missing: apt-get install seabios") from None
        # An empty one, then the smiling face of every PC's font.
        start = rom.find(bytes(18) + bytes.fromhex("7e81a58181bd9981817e") + bytes(4))
        check(start >= 0, "the VGA's BIOS has no font of 8 by 16")
        _glyphs = {}
        for code in range(255, -1, -1):
            _glyphs[rom[start + 16 * code:start + 16 * code + 16]] = bytes([code]).decode("cp437")
        _glyphs[bytes(16)] = " "
    return _glyphs


def cell_text(rows, x, dots, font):
    """The character in a cell, from its colours alone: the less frequent one may be ink or paper, so both are tried."""
    cell = [row[3 * x:3 * (x + 8)] for row in rows]
    colours = sorted({cell_row[3 * i:3 * i + 3] for cell_row in cell for i in range(8)})
    if len(colours) == 1:
        return " "
    if len(colours) > 2:
        return "\ufffd"
    for ink in colours:
        bits = bytes(sum(0x80 >> i for i in range(8) if cell_row[3 * i:3 * i + 3] == ink) for cell_row in cell)
        if bits in font:
            return font[bits]
    return "\ufffd"


def read_text(picture):
    """Lines of a text screen of 80 columns and 16 dots' height; what is no character of the font is U+FFFD."""
    width, height, data = picture
    dots = width // 80
    check(dots in (8, 9) and width % 80 == 0 and height % 16 == 0, f"{width}x{height} is no text screen of 80 columns")
    font = glyphs()
    lines = []
    for top in range(0, height, 16):
        rows = [data[3 * width * (top + y):3 * width * (top + y + 1)] for y in range(16)]
        lines.append("".join(cell_text(rows, column * dots, dots, font) for column in range(80)).rstrip())
    return lines
