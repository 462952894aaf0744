"""Which alarms of a device are on, and what is wrong with it: each of a kind, and of the part that it is about.

One sender speaks for many things: a monitor for services, a recorder for cameras. Some keys of an event's data tell
which of them it is about (`{"host": "web1", "service": "HTTP"}`). What is said of one part ends nothing of another; who
names no part, or fewer keys, speaks of all that have these.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from gateway.api import Event, part_of, same_part

_MOST = 256  # of a device, for a stranger's mail may name any part; beyond it the oldest is forgotten


@dataclass(slots=True)
class Alarm:
    """`on`: its state, and `ends` the Unix time at which that ends by itself (0: it does not). `trouble`: a title."""

    kind: str
    part: dict[str, str]
    on: bool = False
    ends: float = 0
    trouble: str | None = None


@dataclass(slots=True)
class Alarms:
    """All of one device, the oldest first."""

    all: list[Alarm] = field(default_factory=list)

    def begins(self, event: Event, ends: float) -> None:
        """An `on`."""
        alarm = self._of(event)
        alarm.on, alarm.ends = True, ends

    def ended(self, event: Event) -> None:
        """An `off`."""
        for alarm in self._meant(event):
            alarm.on, alarm.ends = False, 0
        self._sweep()

    def goes_wrong(self, event: Event) -> None:
        self._of(event).trouble = event["title"]

    def is_well(self, event: Event) -> None:
        for alarm in self._meant(event):
            alarm.trouble = None
        self._sweep()

    def end_by_itself(self, now: float) -> set[str]:
        """The kinds of which something ended."""
        over = [alarm for alarm in self.all if 0 < alarm.ends <= now]
        for alarm in over:
            self.all.remove(alarm)
        return {alarm.kind for alarm in over}

    def is_on(self, kind: str) -> bool:
        return any(alarm.on for alarm in self.all if alarm.kind == kind)

    def troubles(self) -> dict[str, str]:
        """What is wrong -> the title of the event that said so."""
        return {_words(alarm): alarm.trouble for alarm in self.all if alarm.trouble is not None}

    def document(self) -> list[dict[str, Any]]:
        """As the store keeps it."""
        return [asdict(alarm) for alarm in self.all]

    def _of(self, event: Event) -> Alarm:
        part = part_of(event)
        alarm = next((one for one in self.all if (one.kind, one.part) == (event["kind"], part)), None)
        if alarm is None:
            alarm = Alarm(event["kind"], part)
            self.all.append(alarm)
            del self.all[:-_MOST]
        return alarm

    def _meant(self, event: Event) -> list[Alarm]:
        alike = [alarm for alarm in self.all if alarm.kind == event["kind"]]  # of most events there are none
        part = part_of(event) if alike else {}
        return [alarm for alarm in alike if same_part(alarm.part, part)]

    def _sweep(self) -> None:
        self.all = [alarm for alarm in self.all if alarm.on or alarm.trouble is not None]


def loads(document: Iterable[Mapping[str, Any]]) -> Alarms:
    """What `Alarms.document` gave."""
    return Alarms([Alarm(**one) for one in document])


def _words(alarm: Alarm) -> str:
    return f"{alarm.kind} ({', '.join(alarm.part.values())})" if alarm.part else alarm.kind
