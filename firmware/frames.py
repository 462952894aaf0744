"""The serial line: events in frames (gateway.wire.link) to a PC or a PLC, its notifications and commands back.

The law of this file:

- It never waits for a reader. What the line doesn't take now is kept: events in the spool, log lines up to a limit,
  after which the oldest are left out and counted.
- An event leaves the spool when the other side has acknowledged it, in order.
- On stdio, log lines stand between the frames; no frame holds a Ctrl-C, which still stops the program.
- A notification from the other side is acknowledged when it is in the spool as an event, on its way to the broker.
  Where there is no broker, or events go to the line it came from, it is shown: in the log, and by the LED.
  Events of others are only shown: they have been delivered where they came from.
"""

import asyncio
import json
import select
import sys
import time
from binascii import hexlify

from firmware import VERSION, board, log, slots
from firmware.borrowed import Borrowed
from firmware.spool import Full
from gateway.wire import link as protocol
from gateway.wire.link import Link

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from firmware.app import App

PIECE = 64  # octets written at a time: at 115200 baud that holds everything else for 6 ms
AT_ONCE = 4096  # octets of events under way, if one alone isn't more
LINES = 4096  # octets of log lines that wait
_STUCK_MS = 20  # until a line that takes nothing is tried again
_READ = 256  # octets in one go


def make(app: "App") -> "Frames":
    """What app.py starts."""
    return Frames(app)


class Frames:
    """`refused` counts events that were given up."""

    name = "serial"

    def __init__(self, app: "App") -> None:
        self.refused = 0
        self._app = app
        self._own = app.settings["serial"]
        self._line = _Stdio() if self._own["port"] == "stdio" else _Uart(app.settings)
        self._log: list[bytes] = []
        self._log_size = 0
        self._left_out = 0
        self._wake = asyncio.Event()
        self._sent: dict[int, tuple[int, int]] = {}  # n -> number in the spool, octets
        self._last = 0  # of the spool, that was sent
        self._keep = app.keep("serial")
        rate = 0 if self._own["port"] == "stdio" else self._own["baud"] // 10
        boot = hexlify(board.random(4)).decode()
        self._link = Link(boot, self._about(), time.ticks_ms(), rate=rate)
        if self._own["port"] == "stdio" and self._own["frames"]:
            log.sink = self._print

    @property
    def trouble(self) -> "str | None":
        """None while somebody is there."""
        return None if self._link.peer else "nobody is there"

    async def run(self) -> None:
        """Until cancelled."""
        if not self._own["frames"]:
            await asyncio.Event().wait()  # for ever: plain lines alone, as print writes them
        tasks = [asyncio.create_task(self._read())]
        if self._app.is_target("serial"):
            tasks.append(asyncio.create_task(self._watch_spool()))
        try:
            await self._write()
        finally:
            for task in tasks:
                task.cancel()

    def _about(self) -> "dict[str, Any]":
        about = {"firmware": VERSION, "board": board.NAME[:60], "id": self._app.id, "name": self._app.name}
        about.update(slots.facts())
        mistakes: list[str] = []
        room = 500
        for line in self._app.mistakes:
            room -= len(json.dumps(line)) + 1
            if room > 0:
                mistakes.append(line)
        if self._app.mistakes:
            about["settings"] = mistakes
            about["mistakes"] = len(self._app.mistakes)
        return about

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
            self._fill()
            line = self._link.take(time.ticks_ms()) or self._next_line()
            if line:
                await self._put(line)
                continue
            try:
                await asyncio.wait_for_ms(self._wake.wait(), max(1, self._link.wait(time.ticks_ms())))
            except asyncio.TimeoutError:
                pass  # it is time to repeat something

    def _next_line(self) -> bytes:
        if self._left_out:
            line = b"log: %d lines were left out, for nobody read them\n" % self._left_out
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

    def _fill(self) -> None:
        """Hand the link what the spool owes, as far as its window and our memory go."""
        if not self._app.is_target("serial"):
            return
        size = sum([octets for _, octets in self._sent.values()])
        while self._link.room and size < AT_ONCE:
            found = self._app.spool.peek("serial", self._last)
            if not found or (self._sent and size + len(found[1]) > AT_ONCE):
                return
            number, event = found
            self._last = number
            if [1 for other, _ in self._sent.values() if other == number]:
                continue
            try:
                n = self._send(json.loads(event))
            except ValueError as error:
                self._give_up(number, str(error))
                continue
            self._sent[n] = (number, len(event))
            size += len(event)

    def _send(self, event: "dict[str, Any]") -> int:
        """Its number in the link. What is too long for the line gets shorter: the text first. Raises ValueError."""
        told = False
        while True:
            try:
                return self._link.send("event", event)
            except ValueError:
                if event["text"]:
                    event["text"] = event["text"][: len(event["text"]) * 2 // 3]
                elif event["mail"] or event["attachments"] or len(event["data"]) > 1:
                    event["mail"], event["attachments"], event["data"], told = None, [], {}, False
                else:
                    raise
                if not told:
                    told = True
                    said = event["data"].get("truncated") or []
                    event["data"]["truncated"] = said + [f"shortened for a line of {self._link.line} octets"]  # noqa: RUF005  # no `[*a]` here

    def _give_up(self, number: int, words: str) -> None:
        self.refused += 1
        self._app.spool.done("serial", number)
        log.say(f"serial: an event is given up, for the other side will never take it: {words}")

    # --- in ----------------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        while True:
            data = await self._line.read()
            if not data:
                return  # there is nobody at this end, and won't be
            for event in self._link.feed(data, time.ticks_ms()):
                self._take(event)
            self._wake.set()

    def _take(self, event: "tuple[Any, ...]") -> None:
        kind = event[0]
        if kind == protocol.ACKED and event[1] in self._sent:
            self._app.spool.done("serial", self._sent.pop(event[1])[0])
        elif kind == protocol.REFUSED and event[1] in self._sent:
            number, octets = self._sent.pop(event[1])
            if octets >= self._link.line:  # whoever is there now takes shorter lines than the one before
                self._last = number - 1
            else:
                self._give_up(number, event[2])
        elif kind == protocol.CONSOLE and event[1].get("t") == "do":
            self._command(event[1])
        elif kind == protocol.MESSAGE:
            for later in self._message(*event[1:]):
                self._take(later)

    def _message(self, boot: str, n: int, kind: str, body: "dict[str, Any]") -> "list[Any]":
        words = str(body.get("message") or body.get("text") or "")
        title = str(body.get("title") or words[:60])
        if kind == "notify" and self._app.is_target("mqtt") and not self._app.is_target("serial"):
            severity = body.get("severity")
            draft = {
                "severity": severity if severity in ("info", "warning", "critical") else "info",
                "title": title,
                "text": words,
                "data": body["data"] if isinstance(body.get("data"), dict) else {},
            }
            try:
                self._keep(draft)
            except Full:
                return self._link.refuse(boot, n, protocol.FULL, "the spool is full")
            except OSError as error:
                return self._link.refuse(boot, n, protocol.BUSY, str(error))
        else:
            log.say(f"{kind}: {title}")
            alive = self._app.parts.get("alive")
            if alive:
                alive.notice()
        return self._link.accept(boot, n)

    def _command(self, message: "dict[str, Any]") -> None:
        with Borrowed("console") as console:
            answer = console.answered(self._app, message.get("do"), message, self._link.line - 200)
        answer["t"] = "done"
        answer["id"] = message.get("id")
        try:
            self._link.tell(answer)
        except ValueError as error:
            self._link.tell({"t": "done", "id": None, "status": "error", "error": str(error)})


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
        data = await self._reader.read(1)
        while data and len(data) < _READ and self._readable.poll(0):
            more = self._in.read(1)
            if not more:
                break
            data += more
        return data

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
        own = settings["serial"]
        self._uart = board.uart(own["port"], own["baud"], settings["board"]["uart"])
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
