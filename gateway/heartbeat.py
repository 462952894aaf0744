"""What a device's reports sound like, and their absence: one missed report is one event, its return another.

For each kind of event the times of the newest reports are kept (`gateway.rhythm` makes sense of them), and whether
one is missed. Nothing is missed that could not be heard: `since` says from when on the gateway has listened without a
break, and every report that was due before, or could have come a little earlier than due, is forgiven. What a device
senses, rather than reports (motion, a door), has no rhythm, however regular somebody's way home is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from typing import Any, NamedTuple

from gateway import rhythm
from gateway.rhythm import Rhythm

REMEMBERED = 64  # reports of a kind
ONE = 300.0  # seconds; what comes within them is one report, in several mails
_BREAK = 60.0  # seconds
ANY = ""
"""In the place of a kind: all of them, for what a person expects of a device."""

_SENSED = frozenset((
    "motion", "line_crossing", "intrusion", "person", "vehicle", "animal", "face", "sound", "doorbell", "tamper",
    "video_loss", "alarm", "door", "login", "smoke", "gas", "leak", "fire", "power", "print", "scan", "security",
))  # fmt: skip


class News(NamedTuple):
    """A report that did not come, or (`back`) came again."""

    kind: str
    back: bool
    last: float
    """The Unix time of the newest report; 0: there was none."""
    expected: Rhythm | None
    opened: float
    """From when on the missed report could have come."""
    said: str | None
    """The state that the report itself told when it came back."""


class Expected(NamedTuple):
    """A report that is to come: how often, when next (Unix time), and whether one is missed now."""

    every: Rhythm
    next: float
    missing: bool


class Listening:
    """Since when the gateway has listened without a break; a jump of the clock is one, and so is a long standstill."""

    def __init__(self) -> None:
        self._since = self._looked = 0.0

    def since(self, now: float, well: bool) -> float:
        """Asked every second, with the Unix time. `well`: can mails be taken at all?"""
        if not well or abs(now - self._looked) > _BREAK:
            self._since = now
        self._looked = now
        return self._since


@dataclass(slots=True)
class Pulse:
    """The reports of one kind."""

    times: list[int] = field(default_factory=list)
    missing: int = 0
    """The Unix time at which it was told that one is missed; 0: none is."""
    said: str | None = None
    _learned: tuple[tuple[int, tzinfo | None], Rhythm | None] | None = None
    _due: tuple[tuple[float, Rhythm], float] | None = None

    def heard(self, moment: float, state: str | None) -> None:
        if self.times and moment < self.times[-1] + ONE:
            return  # the same report, or one that is told once more
        self.times.append(int(moment))
        del self.times[:-REMEMBERED]
        self.said = state

    def rhythm(self, zone: tzinfo | None) -> Rhythm | None:
        if not self.times:
            return None
        key = self.times[-1], zone
        if self._learned is None or self._learned[0] != key:
            self._learned = key, rhythm.learn(self.times, zone)
        return self._learned[1]

    def due(self, expected: Rhythm, since: float, zone: tzinfo | None) -> float:
        key = since, expected
        if self._due is None or self._due[0] != key:
            self._due = key, expected.due(since, zone)
        return self._due[1]


@dataclass(slots=True)
class Heart:
    """All reports of one device; by kind, and with `ANY` for what a person expects."""

    pulses: dict[str, Pulse] = field(default_factory=dict)

    def heard(self, kind: str, state: str | None, moment: float) -> None:
        if kind not in _SENSED:
            self.pulses.setdefault(kind, Pulse()).heard(moment, state)

    def rhythms(self, expect: Rhythm | bool, zone: tzinfo | None) -> dict[str, Rhythm]:
        """kind -> what is expected: what was learned (True), what a person says, or nothing (False)."""
        if isinstance(expect, Rhythm):
            return {ANY: expect}
        if not expect:
            return {}
        learned = {kind: pulse.rhythm(zone) for kind, pulse in self.pulses.items() if kind != ANY}
        return {kind: found for kind, found in learned.items() if found}

    def expected(self, expect: Rhythm | bool, last_seen: float, now: float, zone: tzinfo | None) -> dict[str, Expected]:
        """kind (`any` for all of them) -> what is expected; by one who only looks, and does not know who listened."""
        found = {}
        for kind, one in self.rhythms(expect, zone).items():
            last = self.last(kind, last_seen)
            pulse = self.pulses.get(kind)
            since = last if one.due(last, zone) > now else now
            found[kind or "any"] = Expected(one, one.next(since, zone), bool(pulse and pulse.missing))
        return found

    def last(self, kind: str, last_seen: float) -> float:
        """When it was heard last; of `ANY`, the device."""
        if kind == ANY:
            return last_seen
        return max(self.pulses[kind].times, default=0)

    def look(
        self, now: float, since: float, last_seen: float, expect: Rhythm | bool, zone: tzinfo | None
    ) -> Iterator[News]:
        """What is new; asked again, it is not. `since`: the gateway has listened from then on."""
        if isinstance(expect, Rhythm):
            self.pulses.setdefault(ANY, Pulse())
        rhythms = self.rhythms(expect, zone)
        for kind, pulse in self.pulses.items():
            while pulse.times and pulse.times[-1] > now + ONE:  # the clock was ahead then
                pulse.times.pop()
            pulse.missing = min(pulse.missing, int(now))
            last = self.last(kind, last_seen)
            expected = rhythms.get(kind)
            if pulse.missing and (not expect or isinstance(expect, Rhythm) != (kind == ANY)):
                pulse.missing = 0  # somebody no longer expects it
            elif pulse.missing and last >= pulse.missing:
                pulse.missing = 0
                yield News(kind, True, last, expected, 0.0, pulse.said)
            elif expected and not pulse.missing and now >= pulse.due(expected, max(last, since), zone):
                pulse.missing = int(now)
                opened = expected.next(max(last, since), zone) - expected.early
                yield News(kind, False, last, expected, opened, None)

    def document(self) -> dict[str, Any]:
        return {kind: [pulse.times, pulse.missing, pulse.said] for kind, pulse in self.pulses.items()}


def loads(document: Mapping[str, Any]) -> Heart:
    """Of what `Heart.document` made."""
    return Heart({kind: Pulse(list(times), missing, said) for kind, (times, missing, said) in document.items()})


def draft(news: News, device_id: str, zone: tzinfo | None) -> dict[str, Any]:
    """The event of it, as `Pipeline.emit` takes it.

    `on` and `off` belong together; but where the report that came says `on` itself, ours must not end that.
    """
    expected = f": expected {news.expected.words}" if news.expected else ""
    when = f"since {datetime.fromtimestamp(news.last, zone):%Y-%m-%d %H:%M}" if news.last else "yet"
    title = f"{'Reports again' if news.back else f'No report {when}'}{expected}"
    state = "on" if not news.back else None if news.said == "on" else "off"
    return {
        "device": {"id": device_id},
        "kind": news.kind or "report",
        "state": state,
        "severity": "info" if news.back else "warning",
        "title": title,
        "text": title,
        "data": {
            "heartbeat": "back" if news.back else "missing",
            "expected": str(news.expected) if news.expected else None,
            "last_report": f"{datetime.fromtimestamp(news.last, UTC):%Y-%m-%dT%H:%M:%SZ}" if news.last else None,
        },
    }
