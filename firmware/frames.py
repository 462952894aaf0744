"""The serial line: log lines for people, frames for a PC or a PLC (`talk`); it never waits for whoever doesn't read.

The law of this file:

- What the line doesn't take now is kept: events in the spool, log lines up to a limit, after which the oldest are left
  out and counted.
- On stdio, log lines stand between the frames; no frame holds a Ctrl-C, which still stops the program.
- A `hello` is said at the start. The code to talk is large, so it is in memory only where events go over this line, or
  while somebody talks to us.
"""

import asyncio
import gc
import select
import sys
import time

from firmware import log
from firmware.borrowed import Borrowed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from firmware.app import App
    from firmware.talk import Talk

PIECE = 64  # octets written at a time: at 115200 baud that holds everything else for 6 ms
LINES = 1024  # octets of log lines that wait
LEAVE_MS = 600000  # after which nobody is thought to come back
_STUCK_MS = 20  # until a line that takes nothing is tried again
_READ = 256  # octets in one go


class Frames:
    """See the text at the top."""

    name = "serial"

    def __init__(self, app: "App") -> None:
        self._app = app
        self._own = app.settings["serial"]
        self._stdio = self._own["port"] == "stdio"
        self._line = _Stdio() if self._stdio else _Uart(app.settings)
        self._log: list[bytes] = []
        self._log_size = 0
        self._left_out = 0
        self._wake = asyncio.Event()
        self._code = Borrowed("talk", "gateway.wire.link", "gateway.wire.frame")
        self._talk: Talk | None = None
        self._heard: Any = 0  # when somebody was there
        if self._stdio and self._own["frames"]:
            log.sink = self._print

    @property
    def trouble(self) -> "str | None":
        """None while somebody is there."""
        return None if self._talk and self._talk.peer else "nobody is there"

    async def run(self) -> None:
        """Until cancelled."""
        if not self._own["frames"]:
            await asyncio.Event().wait()  # for ever: plain lines alone, as print writes them
        tasks = [asyncio.create_task(self._read())]
        if self._app.is_target("serial"):
            tasks.append(asyncio.create_task(self._watch_spool()))
        try:
            await self._greet()
            await self._write()
        finally:
            for task in tasks:
                task.cancel()

    async def _greet(self) -> None:
        """A function of its own: one that lasts keeps what it has given to another."""
        self._begin()
        hello = self._talk.take() if self._talk else b""
        if not self._app.is_target("serial"):
            self._end()
        await self._put(hello)

    def _begin(self) -> None:
        if self._talk is None:
            rate = 0 if self._stdio else self._own["baud"] // 10
            self._talk = self._code.take().Talk(self._app, rate)
            self._heard = time.ticks_ms()

    def _end(self) -> None:
        self._talk = None
        self._code.give_back()

    # --- out ---------------------------------------------------------------------------------------------------

    def _print(self, text: str) -> None:
        """A line for people, in between the frames."""
        line = (text + "\r\n").encode()  # for a terminal; a frame before it ends in LF alone
        self._log.append(line)
        self._log_size += len(line)
        while self._log_size > LINES:
            self._log_size -= len(self._log.pop(0))
            self._left_out += 1
        self._wake.set()

    async def _watch_spool(self) -> None:
        spool = self._app.spool
        while True:
            spool.news.clear()
            self._wake.set()
            await spool.news.wait()

    async def _write(self) -> None:
        while True:
            self._wake.clear()
            talk = self._talk
            line = (talk.take() if talk else b"") or self._next_line()
            if line:
                await self._put(line)
                continue
            if talk is None:
                await self._wake.wait()
                continue
            try:
                await asyncio.wait_for_ms(self._wake.wait(), max(1, talk.wait()))
            except asyncio.TimeoutError:
                pass  # it is time to repeat something
            now = time.ticks_ms()
            if talk.peer or self._app.is_target("serial"):
                self._heard = now
            elif time.ticks_diff(now, self._heard) > LEAVE_MS:
                talk = None
                self._end()

    def _next_line(self) -> bytes:
        if self._left_out:
            line = b"log: %d lines were left out, for nobody read them\r\n" % self._left_out
            self._left_out = 0
            return line
        if not self._log:
            return b""
        line = self._log.pop(0)
        self._log_size -= len(line)
        return line

    async def _put(self, line: bytes) -> None:
        view = memoryview(line)
        at = 0
        while at < len(line):
            if self._line.takes():
                at += self._line.write(view[at : at + PIECE])
                await asyncio.sleep_ms(0)
            else:
                await asyncio.sleep_ms(_STUCK_MS)

    # --- in ----------------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        while True:
            try:
                data = await self._line.read()
                if not data:
                    return  # there is nobody at this end, and won't be
                if b":" in data:
                    self._begin()
                if self._talk:
                    self._talk.feed(data)
            except MemoryError:
                gc.collect()
                log.say("serial: there is not enough memory to talk now")
            self._wake.set()


make = Frames  # what app.py starts


class _Stdio:
    """The console: USB, or on ESP32 its first UART. MicroPython's own stdin gives a byte at a time without waiting."""

    def __init__(self) -> None:
        self._in = sys.stdin.buffer
        self._out = sys.stdout.buffer
        self._reader = asyncio.StreamReader(self._in)
        self._readable = select.poll()
        self._readable.register(self._in, select.POLLIN)
        self._writable = select.poll()
        self._writable.register(self._out, select.POLLOUT)

    async def read(self) -> bytes:
        """What is there, when something is; empty at the end of a pipe."""
        first = await self._reader.read(1)
        if not first:
            return b""
        # A board holds 260 octets until they are read, 22 ms at 115200 baud: nothing here may make the heap be swept.
        data, one = bytearray(_READ), bytearray(1)
        ready, read = self._readable.ipoll, self._in.readinto
        data[0] = first[0]
        count = 1
        while count < _READ:
            for _ in ready(0):
                break
            else:
                break
            if not read(one):
                break
            data[count] = one[0]
            count += 1
        return bytes(memoryview(data)[:count])

    def takes(self) -> bool:
        """Whether something can be written without waiting."""
        return bool(self._writable.poll(0))

    def write(self, data: memoryview) -> int:
        """How much of it was written."""
        count = self._out.write(data)
        return len(data) if count is None else count


class _Uart:
    """A UART of the board, for a machine on the other end."""

    def __init__(self, settings: "dict[str, Any]") -> None:
        from firmware import pins  # only for a UART

        own = settings["serial"]
        self._uart = pins.uart(own["port"], own["baud"], settings["board"]["uart"])
        self._reader = asyncio.StreamReader(self._uart)
        self._writable = select.poll()
        self._writable.register(self._uart, select.POLLOUT)

    async def read(self) -> bytes:
        """What is there, when something is."""
        return await self._reader.read(_READ)

    def takes(self) -> bool:
        """Whether something can be written without waiting."""
        return bool(self._writable.poll(0))

    def write(self, data: memoryview) -> int:
        """How much of it was written."""
        return self._uart.write(data) or 0
