"""Hours of the week and times of the day, as people write them, in their own time zone.

`mon-fri 08:00-18:00` is a span; one whose end is not after its beginning goes on after midnight (`22:00-07:00`) and
belongs to the day on which it begins. What counts is the clock on the wall: on the day on which it is put forward, a
time that does not exist comes as much later; on the day on which it is put back, a time that comes twice is meant the
first time, and a span lasts an hour longer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, tzinfo
from itertools import chain
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_CLOCK = r"(?:[01]?\d|2[0-3]):[0-5]\d"
_SPAN = re.compile(rf"(?:([a-z, -]+?) +)?({_CLOCK}) *- *({_CLOCK}|24:00)")
_DAILY = re.compile(rf"(?:(?:daily|([a-z, -]+?)) +)?({_CLOCK})")
_AHEAD = 9  # days: a week, and the day on which a span began before it


@dataclass(frozen=True)
class Span:
    """From one minute of certain days to another; `end` is after `start`, and above 1440 on the next day."""

    days: frozenset[int]
    start: int
    end: int


@dataclass(frozen=True)
class Hours:
    """Some hours of the week."""

    spans: tuple[Span, ...]
    text: str

    def __str__(self) -> str:
        return self.text

    def includes(self, seconds: float, zone: tzinfo | None) -> bool:
        """Is this moment (Unix seconds) one of them? `zone` None: the machine's own."""
        today = datetime.fromtimestamp(seconds, zone).date()
        days = (today - timedelta(days=1), today)  # a span of yesterday may go on
        return any(start <= seconds < end for start, end in self._between(days, zone))

    def next(self, seconds: float, zone: tzinfo | None, *, inside: bool) -> float:
        """The next moment, this one included, that is one of them (or, `inside` false, that is none)."""
        if self.includes(seconds, zone) is inside:
            return seconds
        for edge in sorted(self._edges(seconds, zone)):
            if edge > seconds and self.includes(edge, zone) is inside:
                return edge
        return seconds  # they are all hours, or none: nothing would ever change

    def _edges(self, seconds: float, zone: tzinfo | None) -> Iterator[float]:
        first = datetime.fromtimestamp(seconds, zone).date() - timedelta(days=1)
        return chain.from_iterable(self._between((first + timedelta(days=n) for n in range(_AHEAD + 1)), zone))

    def _between(self, days: Iterable[date], zone: tzinfo | None) -> Iterator[tuple[float, float]]:
        """The spans that begin on these days, from when till when."""
        for day in days:
            for span in self.spans:
                if day.weekday() in span.days:
                    end = day + timedelta(days=span.end // 1440)
                    yield _moment(day, span.start, zone), _moment(end, span.end % 1440, zone)


@dataclass(frozen=True)
class Times:
    """Certain moments: each full hour, or minutes of certain days."""

    hourly: bool
    moments: tuple[tuple[frozenset[int], int], ...]
    text: str

    def __str__(self) -> str:
        return self.text

    def next(self, seconds: float, zone: tzinfo | None) -> float:
        """The first of them after this moment (Unix seconds)."""
        now = datetime.fromtimestamp(seconds, zone)
        if self.hourly:
            return seconds - (now.minute * 60 + now.second + now.microsecond / 1e6) + 3600
        days = (now.date() + timedelta(days=number) for number in range(_AHEAD))
        return min(
            moment
            for day in days
            for weekdays, minute in self.moments
            if day.weekday() in weekdays and (moment := _moment(day, minute, zone)) > seconds
        )


def hours(texts: Iterable[str]) -> Hours:
    """`22:00-07:00`, `sat,sun 00:00-24:00`, `mon-fri 08:00-18:00`. Raises ValueError."""
    texts = list(texts)
    spans = []
    for text in texts:
        match = _SPAN.fullmatch(text.strip().lower())
        if not match:
            raise ValueError(f"'{text}' is no span of time; write '22:00-07:00' or 'mon-fri 08:00-18:00'")
        start, end = _minute(match[2]), _minute(match[3])
        spans.append(Span(_days(match[1]), start, end if end > start else end + 1440))
    return Hours(tuple(spans), ", ".join(texts))


def times(texts: Iterable[str]) -> Times:
    """`hourly`, `daily 07:30`, `mon-fri 08:00`; or several. Raises ValueError."""
    texts = list(texts)
    moments = []
    for text in texts:
        word = text.strip().lower()
        match = _DAILY.fullmatch(word)
        if word != "hourly" and not match:
            raise ValueError(f"'{text}' is no time; write 'hourly', 'daily 07:30' or 'mon-fri 08:00'")
        if match:
            moments.append((_days(match[1]), _minute(match[2])))
    return Times(len(moments) < len(texts), tuple(moments), ", ".join(texts))


def zone_of(name: str) -> ZoneInfo:
    """`Europe/Berlin`. Raises ValueError for a name that this machine's list of time zones does not have."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"there is no time zone '{name}'; write one as in 'Europe/Berlin'") from None


def _moment(day: date, minute: int, zone: tzinfo | None) -> float:
    return datetime.combine(day, time(minute // 60, minute % 60), zone).timestamp()


def _minute(clock: str) -> int:
    hour, _, minute = clock.partition(":")
    return int(hour) * 60 + int(minute)


def _days(text: str | None) -> frozenset[int]:
    """`mon-fri`, `sat,sun`, `fri-mon`; nothing: every day."""
    if text is None:
        return frozenset(range(7))
    days: set[int] = set()
    for part in text.split(","):
        first, _, last = (word.strip()[:3] for word in part.partition("-"))
        try:
            start, end = DAYS.index(first), DAYS.index(last or first)
        except ValueError:
            raise ValueError(f"'{part.strip()}' is no day; there are {', '.join(DAYS)}") from None
        days |= {(start + number) % 7 for number in range((end - start) % 7 + 1)}
    return frozenset(days)
