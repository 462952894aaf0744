"""The target `post`: mail that the board sends by itself, submitted to a mail server (RFC 5321, RFC 6409).

The law of this file:

- An event leaves the spool when the server has answered 250 to the end of its mail, or has refused it for good, or
  when `give_up` hours have passed. What was not sent is told as an event of its own, to the other targets.
- 4xx, silence and a lost connection are tried again, later each time. So is a refusal that is not about this mail: of
  our greeting, of TLS, of the login; a person must see to it, and is told once.

The conversation with the server is in submission.py, which is in memory only while something is sent.
"""

import asyncio
import gc
import json

from firmware import board
from firmware.borrowed import Borrowed
from firmware.log import say
from gateway.wire.event import severity_rank

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from firmware.app import App

FIRST, LAST = 10, 900  # seconds between two tries


class Trouble(Exception):
    """Not now; it is no fault of this mail's. `refusal`: the server has said no, and will until somebody acts."""

    def __init__(self, words: str, refusal: bool = False) -> None:
        super().__init__(words)
        self.refusal = refusal


class Refused(Exception):
    """The server takes this mail neither now nor later."""


class Post:
    """`trouble` says in words why nothing is sent; None when the last mail was."""

    name = "post"

    def __init__(self, app: "App") -> None:
        self.trouble: str | None = "nothing sent yet"
        self._app = app
        self._own = app.settings["post"]
        self._keep = app.keep("post")
        self._number = 0  # of the event that is tried
        self._since = 0
        self._left: list[str] = []  # its recipients that have neither got it nor refused it
        self._refused: list[str] = []  # their names and the server's words
        self._told = False  # that the server refuses us

    def wants(self, draft: "dict[str, Any]") -> bool:
        """Whether the rule in the settings names this event; what this file tells of itself it never wants."""
        if (draft.get("data") or {}).get("target") == self.name:
            return False
        own = self._own
        if severity_rank(draft.get("severity") or "info") < severity_rank(own["severity"]):
            return False
        if own["kinds"] and (draft.get("kind") or "other") not in own["kinds"]:
            return False
        device = draft.get("device")
        return not own["devices"] or (device["id"] if device else self._app.id) in own["devices"]

    async def run(self) -> None:
        """Send what the spool has, until cancelled."""
        spool = self._app.spool
        wait = FIRST
        while True:
            spool.news.clear()
            found = spool.peek(self.name)
            if not found:
                await spool.news.wait()
                continue
            number, event = found
            try:
                await self._send(number, event)
                wait = FIRST
            except Trouble as error:
                self._note(error)
                if board.uptime() - self._since < self._own["give_up"] * 3600000:
                    await asyncio.sleep_ms(wait * 800 + wait * 400 * board.random(1)[0] // 255)
                    wait = min(2 * wait, LAST)
                    continue
                self._refused += [f"{address}: {error}" for address in self._left]
            if self._refused and not self._tell_refused(event):
                await asyncio.sleep(LAST)  # the spool is full: told before it is given up
                continue
            spool.done(self.name, number)
            self._number = 0
            gc.collect()

    async def _send(self, number: int, event: bytes) -> None:
        """One try, for all recipients that are left. Raises Trouble if any of them is left then."""
        if number != self._number:
            self._number, self._since = number, board.uptime()
            self._left, self._refused = list(self._own["to"]), []
        with Borrowed("submission") as submission:
            session = submission.Session(self._own, self._app.id)
            try:
                await session.open()
                later = await session.mail(self._left, self._refused, submission.Mail(self._own, self._app.name, event))
            except Refused as error:
                self._refused += [f"{address}: {error}" for address in self._left]
                later = []
            finally:
                session.close()
        self._left = [address for address, _ in later]
        if later:
            raise Trouble(later[0][1])
        self.trouble = None
        self._told = False

    def _note(self, error: Trouble) -> None:
        if str(error) != self.trouble:
            say(f"post: {error}")
        self.trouble = str(error)
        if error.refusal and not self._told:
            self._told = self._tell("Mail can't be sent", str(error), {"reason": str(error)})

    def _tell_refused(self, event: bytes) -> bool:
        facts = json.loads(event)
        return self._tell(
            f"Mail not sent: {facts['title']}",
            "\n".join(self._refused),
            {"event": facts["id"], "reason": self._refused[0]},
        )

    def _tell(self, title: str, text: str, data: "dict[str, Any]") -> bool:
        say(f"post: {title}: {text}")
        data["target"] = self.name
        try:
            self._keep({"kind": "other", "severity": "warning", "title": title, "text": text, "data": data})
        except Exception as error:  # noqa: BLE001  # spool.Full, or the flash
            say(f"post: that is told later: {error}")
            return False
        return True


make = Post  # what app.py starts
