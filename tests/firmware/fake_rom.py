"""A fake of the ESP32's boot ROM and of esptool's stub, on a TCP port, for `esptool --port socket://...`.

It is a fake: it has the protocol (Espressif, "Serial Protocol", docs.espressif.com/projects/esptool) and a flash, and
nothing else. It proves which bytes are written where, not reset lines, timing, or that anything boots. When a
connection that wrote to the flash has ended, somebody is taken to have pressed the reset button: the next connection is
handed to `boot`, if there is one.
"""

import contextlib
import hashlib
import socket
import struct
import threading
import zlib

SECTOR = 4096
MAGIC = {"esp32": 0x00F01D83, "esp32s2": 0x000007C6}
MAGIC_REGISTER, UART_DIVIDER, SPI_COMMAND, SPI_W0 = 0x40001000, 0x3FF40014, 0x3FF42000, 0x3FF42080
(FLASH_BEGIN, FLASH_DATA, FLASH_END, MEM_END, SYNC, WRITE_REG, READ_REG, DEFLATE_BEGIN, DEFLATE_DATA, MD5) = (
    2, 3, 4, 6, 8, 9, 10, 16, 17, 19,
)  # fmt: skip
ERASE_FLASH, ERASE_REGION, READ_FLASH = 0xD0, 0xD1, 0xD2
TAKEN = {4, 5, 6, 7, 11, 13, 15, 18}  # what is only acknowledged
INVALID = b"\x01\x05"


class FakeRom:
    """`with FakeRom() as rom:` listens at `rom.url`; `rom.flash` is what the flash holds."""

    def __init__(self, size=4 << 20, chip="esp32", boot=None, can_read=True):
        self.flash = bytearray(b"\xff" * size)
        self.connections = 0
        self.written = False
        self._boot, self._can_read = boot, can_read
        flash_id = (size.bit_length() - 1) << 16 | 0x40EF
        self._registers = {MAGIC_REGISTER: MAGIC[chip], UART_DIVIDER: 347, SPI_W0: flash_id}
        self._stub = False
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"socket://127.0.0.1:{self._server.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join(10)

    def _serve(self):
        while True:
            try:
                line, _ = self._server.accept()
            except OSError:
                return
            self.connections += 1
            with line, contextlib.suppress(ConnectionError):
                if self.written and self._boot:
                    self._boot(line)
                else:
                    self._talk(line)

    def _talk(self, line):
        frames = self._frames(line)
        for frame in frames:
            _, command, _, _ = struct.unpack_from("<BBHI", frame)
            self._answer(line, frames, command, frame[8:])

    def _frames(self, line):
        """SLIP (RFC 1055)."""
        rest = b""
        while data := line.recv(65536):
            *whole, rest = (rest + data).split(b"\xc0")
            for frame in filter(None, whole):
                yield frame.replace(b"\xdb\xdc", b"\xc0").replace(b"\xdb\xdd", b"\xdb")

    def _send(self, line, frame):
        line.sendall(b"\xc0" + frame.replace(b"\xdb", b"\xdb\xdd").replace(b"\xc0", b"\xdb\xdc") + b"\xc0")

    def _reply(self, line, command, value=0, data=b"", status=b"\0\0"):
        data += status + (b"" if self._stub else b"\0\0")  # the ROM has two bytes more
        self._send(line, struct.pack("<BBHI", 1, command, len(data), value) + data)

    def _answer(self, line, frames, command, data):
        if command == SYNC:
            for _ in range(8):
                self._reply(line, command, 0 if self._stub else 0x20120707)
        elif command == READ_REG:
            (register,) = struct.unpack_from("<I", data)
            self._reply(line, command, self._registers.get(register, 0))
        elif command == WRITE_REG:
            register, value = struct.unpack_from("<II", data)
            if register not in (SPI_COMMAND, SPI_W0):  # a command is done at once, and its answer stays the flash's id
                self._registers[register] = value
            self._reply(line, command)
        elif command in (FLASH_BEGIN, DEFLATE_BEGIN):
            size, _, _, self._at = struct.unpack_from("<IIII", data)
            self._erase(self._at, size)
            self._inflate = zlib.decompressobj() if command == DEFLATE_BEGIN else None
            self._reply(line, command)
        elif command in (FLASH_DATA, DEFLATE_DATA):
            block = self._inflate.decompress(data[16:]) if self._inflate else data[16:]
            self.flash[self._at : self._at + len(block)] = block
            self._at += len(block)
            self.written = True
            self._reply(line, command)
        elif command == MD5:
            at, size = struct.unpack_from("<II", data)
            digest = hashlib.md5(self.flash[at : at + size])
            self._reply(line, command, data=digest.digest() if self._stub else digest.hexdigest().encode())
        elif command == ERASE_FLASH and self._stub:
            self._erase(0, len(self.flash))
            self._reply(line, command)
        elif command == ERASE_REGION and self._stub:
            self._erase(*struct.unpack_from("<II", data))
            self._reply(line, command)
        elif command == READ_FLASH and self._stub and self._can_read:
            self._reply(line, command)
            self._read(line, frames, *struct.unpack_from("<III", data))
        elif command in TAKEN:
            self._reply(line, command)
            if command == MEM_END and not self._stub:
                self._stub = True
                self._send(line, b"OHAI")
            elif command == FLASH_END and data[:4] == b"\0\0\0\0":  # "reboot": the stub gives way to the ROM
                self._stub = False
        else:
            self._reply(line, command, status=INVALID)

    def _erase(self, at, size):
        end = at + (size + SECTOR - 1) // SECTOR * SECTOR
        self.flash[at:end] = b"\xff" * (end - at)

    def _read(self, line, frames, at, size, block):
        content = bytes(self.flash[at : at + size])
        for start in range(0, size, block):
            self._send(line, content[start : start + block])
            next(frames)  # the number of bytes that have arrived
        self._send(line, hashlib.md5(content).digest())
