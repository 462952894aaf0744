"""Talking in frames (gateway.wire.link) with what is on the other end of the serial line.

The law of this file:

- An event leaves the spool when the other side has acknowledged it, in order. What is too long for its line is
  shortened, and says so.
- A notification from the other side is acknowledged when it is in the spool as an event, on its way to the broker.
  Where there is no broker, or events go to the line it came from, it is shown: in the log, and by the LED.
  Events of others are only shown: they have been delivered where they came from.
- A command is answered, a wrong one too.
"""

import json
import time
from binascii import hexlify

from firmware import VERSION, board, log, slots
from firmware.borrowed import Borrowed
from firmware.spool import Full
from gateway.wire import link as protocol
from gateway.wire.event import SEVERITIES
from gateway.wire.link import Link

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from firmware.app import App

AT_ONCE = 1024  # octets of events under way, before the newest
_MISTAKES = 500  # octets of them in a hello


class Talk:
    """As long as somebody is there. `rate`: octets a second of the line, 0 where it is never the limit."""

    def __init__(self, app: "App", rate: int) -> None:
        self._app = app
        self._keep = app.keep("serial")
        self._sent: dict[int, tuple[int, int]] = {}  # n -> number in the spool, octets
        self._last = 0  # of the spool, that was sent
        boot = hexlify(board.random(4)).decode()  # for each talk another: its numbers begin again
        self._link = Link(boot, self._about(), _now(), rate=rate)

    @property
    def peer(self) -> "dict[str, Any] | None":
        """The other side's hello; None while nobody is there."""
        return self._link.peer

    def take(self) -> bytes:
        """The next line to write; empty when that was all for now."""
        self._fill()
        return self._link.take(_now())

    def wait(self) -> int:
        """Milliseconds until there may be something to take."""
        return self._link.wait(_now())

    def feed(self, data: bytes) -> None:
        """What was read."""
        for event in self._link.feed(data, _now()):
            self._take(event)

    def _about(self) -> "dict[str, Any]":
        about = {"firmware": VERSION, "board": board.NAME[:60], "id": self._app.id, "name": self._app.name}
        about.update(slots.facts())
        mistakes: list[str] = []
        room = _MISTAKES
        for line in self._app.mistakes:
            room -= len(json.dumps(line)) + 1
            if room > 0:
                mistakes.append(line)
        if self._app.mistakes:
            about["settings"] = mistakes
            about["mistakes"] = len(self._app.mistakes)
        return about

    # --- events out --------------------------------------------------------------------------------------------

    def _fill(self) -> None:
        """Hand the link what the spool owes, as far as its window and our memory go."""
        if not self._app.is_target("serial"):
            return
        size = sum([octets for _, octets in self._sent.values()])
        while self._link.room and size < AT_ONCE:
            found = self._app.spool.peek("serial", self._last)
            if not found:
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
        self._app.spool.done("serial", number)
        log.say(f"serial: an event is given up, for the other side will never take it: {words}")

    # --- what comes --------------------------------------------------------------------------------------------

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
                "severity": severity if severity in SEVERITIES else "info",
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


def _now() -> "Any":
    return time.ticks_ms()
