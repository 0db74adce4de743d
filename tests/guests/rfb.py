"""A VNC viewer (RFC 6143) of few words: handshake, raw rectangles, keys and pointer."""

import select
import socket
import struct
import time

from vmtest import check, connect


class Viewer:
    def __init__(self, address, encrypt=None):
        """address: a UNIX socket's path, or (host, port). encrypt: answers a challenge, where a password is wanted."""
        self.socket = connect(address) if isinstance(address, str) else socket.create_connection(address, 10)
        self.socket.settimeout(60)
        check(self.read(12) == b"RFB 003.008\n", "not RFB 3.8")
        self.socket.sendall(b"RFB 003.008\n")
        kinds = self.read(self.read(1)[0])
        self.kinds = list(kinds)
        kind = 2 if encrypt else 1
        check(kind in kinds, f"security types {self.kinds}")
        self.socket.sendall(bytes([kind]))
        if encrypt:
            self.socket.sendall(encrypt(self.read(16)))
        self.result = struct.unpack(">I", self.read(4))[0]
        if self.result:
            return
        self.socket.sendall(b"\1")
        self.width, self.height, self.format, length = struct.unpack(">HH16sI", self.read(24))
        self.name = self.read(length).decode()
        # 32 bits a pixel: red, green, blue, nothing; as bytes in this order.
        self.socket.sendall(struct.pack(">BxxxBBBBHHHBBBxxx", 0, 32, 24, 0, 1, 255, 255, 255, 0, 8, 16))
        self.socket.sendall(struct.pack(">BxHii", 2, 2, 0, -223))  # raw, DesktopSize
        self.pixels = bytearray(4 * self.width * self.height)

    def read(self, n):
        data = b""
        while len(data) < n:
            more = self.socket.recv(min(n - len(data), 1 << 20))
            check(more, "the server has closed the connection")
            data += more
        return data

    def request(self, incremental):
        self.socket.sendall(struct.pack(">BBHHHH", 3, incremental, 0, 0, self.width, self.height))

    def rectangle(self):
        x, y, width, height, encoding = struct.unpack(">HHHHi", self.read(12))
        if encoding == -223:
            self.width, self.height = width, height
            self.pixels = bytearray(4 * width * height)
            self.request(0)
            return
        check(encoding == 0, f"encoding {encoding} was not asked for")
        data = self.read(4 * width * height)
        for row in range(height):
            at = 4 * ((y + row) * self.width + x)
            self.pixels[at:at + 4 * width] = data[4 * width * row:4 * width * (row + 1)]

    def update(self, seconds):
        """Takes messages for that long at most, until one was a picture. Whether one was."""
        end = time.monotonic() + seconds
        while select.select([self.socket], [], [], max(0, end - time.monotonic()))[0]:
            kind = self.read(1)[0]
            if kind == 0:
                for _ in range(struct.unpack(">xH", self.read(3))[0]):
                    self.rectangle()
                return True
            check(kind in (2, 3), f"message {kind}")
            if kind == 3:
                self.read(struct.unpack(">xxxI", self.read(7))[0])
        return False

    def picture(self):
        rgb = bytearray(3 * self.width * self.height)
        for i in range(3):
            rgb[i::3] = self.pixels[i::4]
        return self.width, self.height, bytes(rgb)

    def key(self, keysym, down):
        self.socket.sendall(struct.pack(">BBxxI", 4, down, keysym))

    def stroke(self, keysym):
        self.key(keysym, 1)
        self.key(keysym, 0)

    def pointer(self, buttons, x, y):
        self.socket.sendall(struct.pack(">BBHH", 5, buttons, x, y))

    def close(self):
        self.socket.close()
