"""Target: notifications on this desktop, with the picture and with buttons: Acknowledge, Mute, Open.

An alarm is a device and a kind: what is new of it replaces its earlier notification, and its end (`off`) replaces or
clears it. What comes together, because the daemon, the broker or this machine was away, is gathered first; where it is
more than a few alarms it is one notification that tells of all. A delivery is done when the daemon has taken it.

`screen.py` is the door to desktop-notifier, `shown.py` what is kept over a restart. The library is an extra
(`pip install 'mailwire[desktop]'`), and imported when the gateway starts this integration.
"""

from __future__ import annotations

import asyncio
import re
import sys
import time
from collections.abc import Coroutine, Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import ByteSize, Field

from gateway.api import (
    Broken,
    ConfigModel,
    Context,
    Duration,
    Event,
    Finding,
    NotReady,
    RequestRefused,
    Target,
    about,
    part_of,
)
from gateway.integrations.desktop.shown import Memory, Shown

if TYPE_CHECKING:
    from gateway.integrations.desktop.screen import Screen

_GATHER = 0.3  # seconds for what comes together
_GOES_ON = 5.0  # seconds after which a flood that paused is over
_LATE = 120.0  # seconds; an event that is older says when it was
_TITLE, _TEXT = 120, 500  # characters
_SUMMARY = "summary"
_NOBODY = "unknown"  # the device of what a person or a program has us tell


class Config(ConfigModel):
    """What is on a notification."""

    ends: Literal["replace", "clear", "always"] = Field(
        default="replace",
        description="The end of an alarm replaces its notification, if that is there; or clears it; or is always told",
    )
    mute: Annotated[Duration, Field(gt=0)] = 3600.0
    """For how long its button mutes a device."""
    at_once: int = Field(default=3, ge=1, description="Alarms that are told one by one when they come together")
    picture_limit: ByteSize = Field(default=ByteSize(16 * 1024**2), description="Bytes of the largest; 0: none")
    opener: str = Field(
        default="open" if sys.platform == "darwin" else "xdg-open",
        min_length=1,
        description="The program that the button Open gives a picture or a URL to",
    )


class Desktop(Target):
    """See the text at the top."""

    for_people: ClassVar[bool] = True
    concurrency: ClassVar[int] = 1000  # what waits comes together
    config: Config

    def __init__(self, context: Context, config: Config) -> None:
        super().__init__(context, config)
        self._memory = Memory(context.data_dir)
        self._screen: Screen | None = None
        self._waiting: list[tuple[Event, asyncio.Future[None]]] = []
        self._gatherer: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._summed: list[Event] = []  # what the summary on the screen tells of
        self._summed_at = 0.0

    async def start(self) -> None:
        if self._screen is None:  # else it was not ready at an earlier try
            self.context.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._memory = await asyncio.to_thread(Memory.load, self.context.data_dir)
            self._screen = await asyncio.to_thread(_screen, self._memory, self._pressed, self._gone, self._back)
        await self._screen.connect()
        self.context.ready()

    async def stop(self) -> None:
        for task in filter(None, (self._gatherer, *self._tasks)):
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        if self._screen:
            await self._screen.close()

    @classmethod
    def examine(cls, name: str, config: Config, data_dir: Path) -> Iterator[Finding]:
        async def look() -> None:
            screen = _screen(Memory(data_dir), lambda *_: None, lambda *_: None, lambda: None)
            try:
                await screen.connect()
            finally:
                await screen.close()

        try:
            asyncio.run(look())
        except (NotReady, Broken) as error:
            yield Finding(name, "fail", str(error), "Ask again on the desktop itself, as the person who is logged in.")
        else:
            yield Finding(name, "ok", "a notification daemon answers")

    def describe(self) -> str:
        return "notifications on this desktop"

    # --- events ------------------------------------------------------------------------------------------------

    async def deliver(self, event: Event) -> None:
        if self._screen is None:
            raise NotReady("not started yet")
        if self._memory.is_told(event["id"]):
            return
        told: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((event, told))
        if self._gatherer is None or self._gatherer.done():
            self._gatherer = asyncio.create_task(self._gather(self._screen), name=f"gather {self.context.name}")
        await told

    async def _gather(self, screen: Screen) -> None:
        while self._waiting:
            await asyncio.sleep(_GATHER)
            batch, self._waiting = self._waiting, []
            try:
                await self._tell(screen, sorted((event for event, _ in batch), key=lambda event: event["time"]))
            except Exception as error:  # noqa: BLE001  # each delivery is told, and its worker says what it was
                for _, told in batch:
                    if not told.done():
                        told.set_exception(error)
            else:
                self.context.problem(None)
                for _, told in batch:
                    if not told.done():
                        told.set_result(None)

    async def _tell(self, screen: Screen, events: list[Event]) -> None:
        """All that came together. Raises NotReady."""
        alarms: dict[str, list[Event]] = {}
        for event in events:
            alarms.setdefault(_alarm(event), []).append(event)
        over = {key for key, some in alarms.items() if self._is_over(key, some)}
        for key in over & self._memory.shown.keys():
            await screen.clear(key)
        new = {key: some for key, some in alarms.items() if key not in over}
        goes_on = _SUMMARY in self._memory.shown and time.monotonic() - self._summed_at < _GOES_ON
        if len(new) > self.config.at_once or (new and goes_on):
            self._summed = [*(self._summed if goes_on else ()), *(event for some in new.values() for event in some)]
            self._summed.sort(key=lambda event: event["time"])
            for key in new.keys() & self._memory.shown.keys():
                await screen.clear(key)
            await self._show(screen, _SUMMARY, self._summed)
            self._summed_at = time.monotonic()
        else:
            for key, some in new.items():
                # Its end takes the place of its beginning; else it happened several times.
                await self._show(screen, key, some[-1:] if some[-1]["state"] == "off" else some)
        self._memory.told += [event["id"] for event in events]
        self._save(screen)

    def _is_over(self, key: str, some: list[Event]) -> bool:
        """Is there nothing to be told of it but that it is over?"""
        if some[-1]["state"] != "off" or self.config.ends == "always":
            return False
        began = key in self._memory.shown or any(event["state"] != "off" for event in some)
        return self.config.ends == "clear" or not began

    async def _show(self, screen: Screen, key: str, some: list[Event]) -> None:
        from gateway.integrations.desktop.screen import CLICKED, Words

        event = some[0] if len(some) == 1 else self.context.gateway.summary(some)
        devices = {one["device"]["id"] for one in some}
        shown = Shown([one["id"] for one in some], devices.pop() if len(devices) == 1 else "")
        if shown.device == _NOBODY:
            shown.device = ""
        picture = await self._picture(some[-1]) if key != _SUMMARY else None
        shown.picture = str(picture or "")
        shown.opens = _url(event) or shown.picture
        buttons = {"ack": "Acknowledge"}
        if shown.device:
            buttons["mute"] = f"Mute device {_time(self.config.mute)}"
        if shown.opens:
            buttons[CLICKED] = "Open"
        severity = "info" if event["state"] == "off" else event["severity"]
        await screen.show(key, Words(*_words(event), severity, buttons, picture))
        self._memory.shown[key] = shown
        self._memory.sweep()
        self._save(screen)

    async def _picture(self, event: Event) -> Path | None:
        for index, one in enumerate(event["attachments"]):
            if one["type"].startswith("image/") and one["size"] <= self.config.picture_limit:
                try:
                    content = await self.context.gateway.attachment(event["id"], index)
                    return await asyncio.to_thread(self._memory.keep_picture, event["id"], one["type"], content)
                except (LookupError, OSError) as error:
                    self.context.log.info("shown without its picture: %s", error, extra=about(event))
                    return None
        return None

    def _save(self, screen: Screen) -> None:
        try:
            self._memory.save(*screen.numbers())
        except OSError as error:  # it was shown all the same, and is not shown again for that
            self.context.log.warning("what is shown can't be written down: %s", error.strerror)

    # --- what the person does ----------------------------------------------------------------------------------

    def _pressed(self, key: str, button: str) -> None:
        shown = self._memory.shown.get(key)
        if shown:
            if button == "ack":
                self._do(self._request("ack", {"ids": shown.events}))
            elif button == "mute" and shown.device:
                mute = {"device": shown.device, "seconds": self.config.mute, "target": self.context.name}
                self._do(self._request("mute", mute))
            elif shown.opens:
                self._memory.opened(shown.opens)
                self._do(self._open(shown.opens))
        self._gone(key)

    def _gone(self, key: str) -> None:
        self._memory.shown.pop(key, None)
        if key == _SUMMARY:
            self._summed = []
        self._memory.sweep()
        if self._screen:
            self._save(self._screen)

    def _back(self) -> None:
        self.context.problem(None)
        self.context.ready()

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _request(self, verb: str, payload: dict[str, Any]) -> None:
        try:
            answer = await self.context.gateway.request(verb, payload)
            self.context.log.info("%s on the desktop: %s", verb, answer)
        except RequestRefused as error:
            self.context.log.warning("%s on the desktop: %s", verb, error)

    async def _open(self, what: str) -> None:
        quiet = asyncio.subprocess.DEVNULL
        try:
            process = await asyncio.create_subprocess_exec(
                self.config.opener, what, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True
            )
        except OSError as error:
            self.context.log.warning("%s can't be started to open it: %s", self.config.opener, error.strerror)
            return
        if code := await process.wait():
            self.context.log.warning("%s could not open %s: it ended with %d", self.config.opener, what, code)


def _screen(memory: Memory, *hooks: Any) -> Screen:
    from gateway.integrations.desktop.screen import Hooks, make

    return make(Hooks(*hooks), memory.whose, memory.numbers)


def _alarm(event: Event) -> str:
    """What replaces what: the same of a device's part; nothing that a person or a program has us tell."""
    device = event["device"]["id"]
    return event["id"] if device == _NOBODY else "/".join((device, event["kind"], *part_of(event).values()))


def _words(event: Event) -> tuple[str, str]:
    """(title, text), without what can't be seen, and with its time if that is not now."""
    name, title, text = event["device"]["name"], event["title"], event["text"]
    if event["device"]["id"] != _NOBODY and name.lower() not in title.lower():
        title = f"{name}: {title}"
    when = datetime.fromisoformat(event["time"]).astimezone()
    if time.time() - when.timestamp() > _LATE:
        text = f"{when:%Y-%m-%d %H:%M}  {text}"
    return _plain(title)[:_TITLE], _cut(_plain(text))


def _plain(text: str) -> str:
    return "".join(letter if letter.isprintable() or letter == "\n" else " " for letter in text).strip()


def _cut(text: str) -> str:
    return text if len(text) <= _TEXT else text[: _TEXT - 1] + "…"


def _url(event: Event) -> str:
    """Where there is more to see. A page alone: who sends a mail must not have any program started here."""
    for key in ("url", "configuration_url"):
        url = event["data"].get(key)
        if isinstance(url, str) and re.match(r"https?://[^\s/]", url):
            return url
    return ""


def _time(seconds: float) -> str:
    size, word = next(
        (size, word) for size, word in ((3600, "h"), (60, "min"), (1, "s")) if seconds % size == 0 or size == 1
    )
    return f"{seconds / size:g} {word}"
