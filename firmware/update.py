"""Updates over the air: hears what the gateway offers over MQTT, and says how it went.

The law of this file:

- A version that starts is on trial until `slots.confirm()` is called, by whoever has reached the world: a broker that
  takes our messages, or a hello that was answered. Otherwise main.py goes back to the old one at the next start.
- Everything that happens is said: refused, failed, gone back, confirmed. An offer is tried once.

What is done with an offer is in download.py, which is in memory only as long as it takes. How an offer, a request and
its answer look is in `gateway.wire.update`.
"""

import asyncio
import gc
import json

from firmware import VERSION, slots
from firmware.borrowed import Borrowed
from firmware.log import say
from gateway.wire.update import CONFIRMED, DOWNLOADING, ON_TRIAL, RESTARTING, WENT_BACK, request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from firmware.app import App

PATIENCE = 10  # seconds for a chunk
TRIES = 4  # of a chunk


class Silent(Exception):
    """Nobody sends the files now."""


class Superseded(Exception):
    """There is another offer, or none any more."""


class Updater:
    """Serves offers, as long as it is run; over the part `mqtt`."""

    def __init__(self, app: "App") -> None:
        own = app.settings["update"]
        self._app = app
        self.key = own["key"].encode()
        self.minutes = own["minutes"]
        self.id = app.id
        self._keep = app.keep("update")
        self._payload: bytes | None = None  # the newest offer, as it came
        self._link: Any = None
        self.made = 0  # the offer that is spoken of
        self._wanted = b""
        self._got = b""
        self._answered = asyncio.Event()

    async def run(self) -> None:
        """Serve offers until cancelled."""
        if not self._link:  # the first time
            self._link = self._app.parts["mqtt"]
            self._link.on_message(self._link.topic("update"), self._offered)
            self._link.on_message(self._link.topic("update/data"), self._answer, retained=False)
        state = slots.read()
        self.made = state.get("offer") or 0
        if slots.went_back:
            await self.say(WENT_BACK, slots.went_back["why"], slots.went_back["version"])
        elif slots.trial_of(state) is not None:
            await self.say(ON_TRIAL)
        while True:
            await self._confirmed()
            await slots.news.wait()
            slots.news.clear()
            payload, self._payload = self._payload, None
            if payload:
                try:
                    with Borrowed("download") as download:
                        await download.Download(self, payload).run()
                except Exception:
                    self._payload = self._payload or payload  # to be tried again, when app.py starts this anew
                    slots.news.set()
                    raise

    def _offered(self, topic: str, payload: bytes) -> None:
        self._payload = payload
        self._answered.set()  # whoever waits for a chunk of an older one shall see
        slots.news.set()

    def _answer(self, topic: str, payload: bytes) -> None:
        if self._wanted and payload[: len(self._wanted)] == self._wanted:
            self._got = payload[len(self._wanted) :]
            self._answered.set()

    async def _confirmed(self) -> None:
        """Tell, once, that this version has reported in."""
        state = slots.read()
        if state.get("told") is not False:
            return
        self._keep(
            {
                "kind": "update",
                "title": f"Updated to version {VERSION}",
                "text": "The new version has reported in and stays.",
                "data": {"version": VERSION},
            }
        )
        self.made = state.get("offer") or 0
        await self.say(CONFIRMED)
        state["told"] = True
        slots.write(state)

    async def say(
        self, what: str, reason: "str | None" = None, latest: "str | None" = None, percent: "int | None" = None
    ) -> None:
        """Home Assistant's update entity reads installed_version, latest_version, in_progress, update_percentage."""
        message = {
            "state": what,
            "offer": self.made,
            "installed_version": VERSION,
            "latest_version": latest or VERSION,
            "in_progress": what in (DOWNLOADING, RESTARTING, ON_TRIAL),
            "update_percentage": percent,
        }
        if reason:
            message["reason"] = reason
            say(f"update: {what}: {reason}")
        await self._publish("state", json.dumps(message).encode(), True)

    async def _publish(self, part: str, payload: bytes, retain: bool = False) -> None:
        """Returns when the broker has it, however long it is away."""
        await self._link.publish(self._link.topic("update/" + part), payload, retain)

    async def asked_again(self, wait: int) -> None:
        """Wait so many seconds. Raises Superseded, at once, when there is another offer."""
        try:
            await asyncio.wait_for(slots.news.wait(), wait)
        except asyncio.TimeoutError:
            return
        raise Superseded

    async def chunk(self, path: str, at: int, count: int) -> bytes:
        """So many bytes of a file at the gateway. Raises Silent or Superseded."""
        line = request(self.made, path, at)
        self._wanted = line + b"\n"
        try:
            for _ in range(TRIES):
                self._got = b""
                self._answered.clear()
                gc.collect()  # the answer wants room in one piece
                await self._publish("request", line)
                try:
                    await asyncio.wait_for(self._answered.wait(), PATIENCE)
                except asyncio.TimeoutError:
                    continue
                if self._payload is not None:
                    raise Superseded
                if len(self._got) == count:
                    return self._got
        finally:
            self._wanted = b""
        raise Silent


make = Updater  # what app.py starts
