"""A gateway that says what a test tells it to, and a target at work in it."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from gateway import template
from gateway.api import (
    Attachment,
    Context,
    Device,
    Envelope,
    Event,
    NotReady,
    RequestRefused,
    Retry,
    StoreTrouble,
    Template,
)
from gateway.integrations.mqtt import Config, Mqtt

_numbers = itertools.count(1)


async def wait_until(condition: Callable[[], Any], what: str = "") -> Any:
    """Poll on the loop until the condition is true; returns its value."""
    deadline = time.monotonic() + 20.0
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited in vain {what}"
        await asyncio.sleep(0.005)
    return value


def make_event(device: Device, title: str = "Motion", **changes: Any) -> Event:
    event: Event = {
        "v": 1,
        "id": f"01JD{next(_numbers):022}",
        "time": "2026-11-22T19:11:28.123Z",
        "source": "lan-mail",
        "device": device.facts(),
        "kind": "motion",
        "state": "on",
        "severity": "warning",
        "title": title,
        "text": "EVENT TYPE: motion",
        "data": {"channel": "A1"},
        "attachments": [],
        "mail": None,
    }
    event.update(changes)  # type: ignore[typeddict-item]
    return event


def picture(name: str = "ch01.jpg", size: int = 4, media_type: str = "image/jpeg") -> Attachment:
    return {"name": name, "type": media_type, "size": size, "sha256": "00"}


class StandIn:
    """The gateway (`gateway.api.Gateway`) and the context of one integration."""

    def __init__(self, folder: Path) -> None:
        self.known: dict[str, Device] = {}
        self.attachments: dict[tuple[str, int], bytes] = {}
        self.about: dict[str, Any] = {"version": "1.2.3", "integrations": {}}
        self.well: dict[str, Any] = {"queue": 0, "uptime": 0.0, "problems": {}}
        self.problems: list[str | None] = []
        self.readies = 0
        self.others: dict[str, bool] = {}  # targets, and whether they tell people
        self.mutes: dict[str, float] = {}  # device -> Unix time
        self.drafts: list[Mapping[str, Any]] = []
        self.ids: list[str] = []  # of the drafts, and of those that could not be kept
        self.trouble = 0  # how often emitting fails from now on
        self.verbs: dict[str, Callable[[Mapping[str, Any]], Awaitable[dict[str, Any]]]] = {}
        self.context = Context(
            "broker",
            folder / "data",
            logging.getLogger("test.mqtt"),
            self,
            None,  # type: ignore[arg-type]  # no mail comes from here
            self.emit,
            self._ready,
            self.problems.append,
        )

    def _ready(self) -> None:
        self.readies += 1

    def add(self, device_id: str, **facts: Any) -> Device:
        device = Device(device_id, facts.pop("name", device_id), **facts)
        self.known[device_id] = device
        return device

    def devices(self) -> list[Device]:
        return list(self.known.values())

    def targets(self) -> dict[str, bool]:
        return self.others

    def muted_until(self, device_id: str) -> float:
        return self.mutes.get(device_id, 0.0)

    def template(self, source: str, *, html: bool = False, more: Sequence[str] = ()) -> Template:
        return template.text(source, html=html, more=more)

    async def emit(self, draft: Mapping[str, Any]) -> str:
        self.ids.append(str(draft.get("id", "")))
        if self.trouble:
            self.trouble -= 1
            raise StoreTrouble("the disk is full")
        self.drafts.append(draft)
        return str(len(self.drafts))

    def info(self) -> dict[str, Any]:
        return dict(self.about)

    def health(self) -> dict[str, Any]:
        self.well["uptime"] = time.monotonic()
        return dict(self.well)

    async def attachment(self, event_id: str, index: int) -> bytes:
        try:
            return self.attachments[event_id, index]
        except KeyError:
            raise LookupError("the mail is no longer kept") from None

    async def raw_mail(self, event_id: str) -> tuple[Envelope, bytes]:
        raise LookupError(event_id)

    async def request(self, verb: str, payload: Mapping[str, Any]) -> dict[str, Any]:
        if verb not in self.verbs:
            raise RequestRefused(f"{verb} is not a request that I know")
        return await self.verbs[verb](payload)

    @asynccontextmanager
    async def target(self, **config: Any) -> AsyncIterator[Mqtt]:
        """A started target; its end is a regular stop."""
        target = Mqtt(self.context, Config(**config))
        await target.start()
        try:
            yield target
        finally:
            await target.stop()

    @asynccontextmanager
    async def connected(self, **config: Any) -> AsyncIterator[Mqtt]:
        before = self.readies
        async with self.target(**config) as target:
            await wait_until(lambda: self.readies > before, "for the connection")
            yield target


async def deliver(target: Mqtt, event: Event) -> None:
    """As the gateway's queue does: again until it is done."""
    while True:
        try:
            return await target.deliver(event)
        except (NotReady, Retry):
            await asyncio.sleep(0.02)
