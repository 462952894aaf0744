"""Tells people of a target that keeps failing: once when it breaks, and once when it is well again.

Each is an event of the gateway itself (`source: mailwire`), which goes where the routes say, but not to the target
that fails. A target is failing when its deliveries have gone wrong for some minutes and none went well; what it
refuses for good is told at once, but no more often than that.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from gateway.api import Device, StoreTrouble, words
from gateway.deliver import Worker

log = logging.getLogger(__name__)

AFTER = 300.0  # seconds
SOURCE = "mailwire"
_PREFIX, _KIND = "target_", "network"

Tell = Callable[[Mapping[str, Any], str], Awaitable[object]]
"""(draft of an event, the target that must not get it)"""


class Failures:
    """What is known to be failing. Times are on the monotonic clock."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._failing: set[str] = set()  # the devices of those that were told of
        self._dead: dict[str, int] = {}  # target -> refused events that were told of
        self._quiet_until: dict[str, float] = {}

    def load(self, devices: Iterable[Device]) -> None:
        """Who was said to fail when the gateway last ended is to be said well one day."""
        self._failing |= {one.id for one in devices if one.id.startswith(_PREFIX) and one.states.get(_KIND) == "on"}

    async def look(self, workers: Mapping[str, Worker]) -> None:
        """Now and then."""
        now = time.monotonic()
        for name, worker in workers.items():
            device = _device(name)
            if worker.failing and device not in self._failing and now - worker.failing[0] >= AFTER:
                self._failing.add(device)
                await self._say(name, "on", f"{name}: deliveries fail", worker.failing[1])
            elif not worker.failing and worker.delivered and device in self._failing:
                self._failing.discard(device)
                await self._say(name, "off", f"{name}: deliveries go out again", "")
            self._dead[name] = min(self._dead.get(name, 0), worker.ended["dead"])  # after a reload it is another worker
            fresh = worker.ended["dead"] - self._dead[name]
            if fresh and now >= self._quiet_until.get(name, 0.0):
                self._dead[name] = worker.ended["dead"]
                self._quiet_until[name] = now + AFTER
                what = "an event was" if fresh == 1 else f"{fresh} events were"
                await self._say(
                    name, None, f"{name}: {what} refused for good", worker.trouble[1] if worker.trouble else ""
                )

    async def _say(self, name: str, state: str | None, title: str, reason: str) -> None:
        draft = {
            "device": {"id": _device(name), "name": f"Target {name}", "manufacturer": "Mailwire"},
            "kind": _KIND,
            "state": state,
            "severity": "info" if state == "off" else "warning",
            "title": title,
            "text": reason or title,
            "data": {"target": name},
        }
        try:
            await self._tell(draft, name)
        except StoreTrouble as error:
            log.warning("%s, which could not be told: %s", title, error)


def _device(target: str) -> str:
    return f"{_PREFIX}{words.slug(target, 50)}"
