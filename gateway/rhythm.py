"""How often something reports, learned from the times at which it did; and when the next report is due.

Two shapes are looked for. By the clock on the wall: about the same time of the day, every day or on certain days of
the week, whatever daylight saving does. And by the time between two reports, from half an hour to some days. Single
misses, jitter, and reports in between (somebody pressed the button) do no harm; times that only look regular by
chance, or that stop every night, are no rhythm. Pure: the times come in, the answer goes out.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from itertools import pairwise
from statistics import median
from typing import NamedTuple

from gateway.hours import DAYS, Times, times

ENOUGH = 4  # reports at their times
_DAY, _WEEK = 86400.0, 7 * 86400.0
_REGULAR = 0.75  # of the times at which a report is expected
_BY_CHANCE = 1e-5  # what comes about by chance more often than that is no rhythm
_RUN = 2  # misses in a row; a longer silence tells of the network or of us, and not of the rhythm
_WINDOW = 180.0  # minutes within which the reports of all days come
_LATE = 75 * 60.0  # seconds that one by the clock may always be late: an hour, where nobody told it of daylight saving
_JITTER = 0.15  # of a period
_SHORTEST, _LONGEST = 1800.0, 5 * _DAY
_ROUND = (1800.0, 2700.0, *(hours * 3600.0 for hours in (1, 1.5, 2, 3, 4, 5, 6, 8, 10, 12)), 2 * _DAY, 3 * _DAY)
_WORDS = {"hourly": 3600.0, "daily": _DAY, "weekly": _WEEK}
_NAMES = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_WORKDAYS = frozenset(range(5))


@dataclass(frozen=True)
class Rhythm:
    """Reports come at `times`, or else every `period` seconds; as much earlier as `early`, as much later as `late`."""

    times: Times | None = None
    period: float = 0.0
    early: float = 0.0
    late: float = 0.0

    def __str__(self) -> str:
        """Short, and as the configuration takes it."""
        return str(self.times) if self.times else _short(self.period)

    @property
    def words(self) -> str:
        """As in "expected every day at about 02:10"."""
        if self.times is None:
            return f"every {_long(self.period)}"
        if self.times.hourly:
            return "every hour"
        told = (f"{_days(days)} at about {minute // 60:02}:{minute % 60:02}" for days, minute in self.times.moments)
        return ", ".join(told)

    def next(self, since: float, zone: tzinfo | None) -> float:
        """When the next one is expected, if nothing was heard after `since` (Unix seconds, as the answer is)."""
        if self.times is None:
            return since + self.period
        return self.times.next(since + self.early, zone)

    def due(self, since: float, zone: tzinfo | None) -> float:
        """When it is missed."""
        expected = self.next(since, zone)
        # Who counts hours by the clock on the wall waits one more on the day on which it is put back.
        shift = 0.0 if self.times else abs(_offset(since, zone) - _offset(expected + self.late, zone))
        return expected + self.late + shift


class _Fit(NamedTuple):
    """`hits` reports at their times and `misses` in between, off by `spread` seconds; the best of so many `tries`."""

    hits: int
    misses: int
    spread: float
    tries: int

    def convinces(self, reports: Sequence[float]) -> bool:
        """Is it more than chance? As likely as any report is near one moment, to the power of the hits."""
        if self.hits < ENOUGH or self.hits < _REGULAR * (self.hits + self.misses) or 3 * self.hits < len(reports):
            return False
        rate = len(reports) / (reports[-1] - reports[0])
        near = 1 - math.exp(-2 * rate * max(self.spread, 30.0))
        return self.tries * near ** (self.hits - 1) < _BY_CHANCE


def of_text(text: str) -> Rhythm:
    """What a person expects: `hourly`, `daily`, `weekly`, `daily 02:10`, `mon-fri 02:10`. Raises ValueError."""
    word = text.strip().lower()
    if word in _WORDS:
        return every(_WORDS[word])
    return Rhythm(times([word]), early=_LATE, late=_LATE)


def every(period: float) -> Rhythm:
    """One report in so many seconds, at least."""
    return Rhythm(period=period, late=max(60.0, min(period / 4, _LATE)))


def learn(reports: Sequence[float], zone: tzinfo | None) -> Rhythm | None:
    """From the times of reports, in Unix seconds and rising; None: no rhythm can be told (yet)."""
    if len(reports) < ENOUGH:
        return None
    return _short_period(reports) or _by_the_clock(reports, zone) or _period(reports, _DAY, _LONGEST)


# --- the clock on the wall ------------------------------------------------------------------------------------------


def _by_the_clock(reports: Sequence[float], zone: tzinfo | None) -> Rhythm | None:
    local = [datetime.fromtimestamp(one, zone).replace(tzinfo=None) for one in reports]
    minute, spread = _densest([one.hour * 60 + one.minute + one.second / 60 for one in local])
    at = round(minute) % 1440  # before days are counted: just before midnight it is the next day's
    near = max(60.0, 2 * spread)
    hit = set()
    for one in local:
        off = (one.hour * 60 + one.minute + one.second / 60 - at + 720) % 1440 - 720
        if abs(off) <= near:
            hit.add((one - timedelta(minutes=off)).toordinal())
    days = _weekdays(hit)
    fit = _fit(sorted(day for day in hit if _weekday(day) in days), days, spread * 60)
    if not fit.convinces(reports):
        return None
    text = f"{_config_days(days)} {at // 60:02}:{at % 60:02}"
    late = max(_LATE, 120 * spread)
    return Rhythm(Times(False, ((days, at),), text), early=max(3600.0, 120 * spread), late=late)


def _densest(minutes: Sequence[float]) -> tuple[float, float]:
    """The middle of the part of the day in which most of them are, and how far from it nine of ten are at most."""
    parts = ([(one - start) % 1440 for one in minutes] for start in minutes)
    starts = zip(minutes, ([off for off in part if off <= _WINDOW] for part in parts), strict=True)
    start, inside = max(starts, key=lambda one: (len(one[1]), -sum(one[1])))
    middle = median(inside)
    far = sorted(abs(off - middle) for off in inside)
    return (start + middle) % 1440, far[math.ceil(0.9 * len(far)) - 1]


def _weekdays(hit: set[int]) -> frozenset[int]:
    """The days of the week on which one is to come: a workday if it did not keep missing, a Saturday once it was one.

    So somebody who reports from Monday to Friday is not missed on his first weekend.
    """
    hits = Counter(map(_weekday, hit))
    misses = Counter(_weekday(day) for day in range(min(hit), max(hit)) if day not in hit)
    return frozenset(day for day in hits.keys() | _WORKDAYS if misses[day] < 2 or misses[day] <= hits[day])


def _fit(hit: Sequence[int], days: frozenset[int], spread: float) -> _Fit:
    """`hit` are the days, as ordinals, on which one came."""
    hits = misses = 0
    for before, day in pairwise(hit):
        missed = sum(_weekday(one) in days for one in range(before + 1, day))
        if missed <= _RUN:
            hits, misses = hits + 1, misses + missed
    return _Fit(hits + 1, misses, spread, tries=2 ** (7 - len(days)))


def _weekday(ordinal: int) -> int:
    return (ordinal - 1) % 7


# --- the time between two -------------------------------------------------------------------------------------------


def _short_period(reports: Sequence[float]) -> Rhythm | None:
    """One that goes on by day and by night: nothing is said before it did for a whole day."""
    return _period(reports, _SHORTEST, 20 * 3600.0, at_least=_DAY)


def _period(reports: Sequence[float], shortest: float, longest: float, at_least: float = 0.0) -> Rhythm | None:
    usual = median(after - before for before, after in pairwise(reports))
    found = []
    for period in {usual, *_ROUND}:
        if shortest * 0.95 <= period <= longest:
            chain, misses = _chain(reports, period)
            if len(chain) > ENOUGH and chain[-1] - chain[0] >= at_least and reports[-1] - chain[-1] < 3 * period:
                fit = _chain_fit(chain, misses, period)
                if fit.convinces([one for one in reports if one >= chain[0]]):
                    found.append((fit.hits - fit.misses, -fit.spread, period, chain))
    if not found:
        return None
    *_, period, chain = max(found)
    gaps = [after - before for before, after in pairwise(chain)]
    exact = median(gap / round(gap / period) for gap in gaps)
    period = next((one for one in (*_ROUND, _DAY) if abs(exact - one) <= 0.02 * one), exact)
    spread = max(abs(gap - round(gap / period) * period) for gap in gaps)
    return Rhythm(period=period, late=_lateness(period, spread))


def _chain(reports: Sequence[float], period: float) -> tuple[list[float], int]:
    """The newest reports that follow each other in this period without a long silence, and the misses among them."""
    chain, misses = [reports[0]], 0
    for report in reports[1:]:
        count = round((report - chain[-1]) / period)
        if report - chain[-1] > (_RUN + 1 + _JITTER) * period:
            chain, misses = [report], 0
        elif count and abs(report - chain[-1] - count * period) <= _JITTER * period:
            chain, misses = [*chain, report], misses + count - 1
    return chain, misses


def _chain_fit(chain: Sequence[float], misses: int, period: float) -> _Fit:
    off = sorted(abs((after - before + period / 2) % period - period / 2) for before, after in pairwise(chain))
    return _Fit(len(chain) - 1, misses, off[math.ceil(0.9 * len(off)) - 1], tries=len(_ROUND))


def _lateness(period: float, spread: float) -> float:
    return max(600.0, period / 4, 2 * spread) if period < _DAY else max(_LATE, period / 12, 2 * spread)


def _offset(seconds: float, zone: tzinfo | None) -> float:
    offset = datetime.fromtimestamp(seconds, zone).astimezone(zone).utcoffset()
    return offset.total_seconds() if offset else 0.0


# --- in words -------------------------------------------------------------------------------------------------------


def _short(period: float) -> str:
    for size, unit in ((_DAY, "d"), (3600.0, "h"), (60.0, "min")):
        if period >= size and round(period / size, 1) % 0.5 == 0:
            return f"{round(period / size, 1):g} {unit}"
    return f"{round(period / 60) or 1} min"


def _long(period: float) -> str:
    count, _, unit = _short(period).partition(" ")
    word = {"d": "day", "h": "hour", "min": "minute"}[unit]
    return word if count == "1" else f"{count} {word}s"


def _config_days(days: frozenset[int]) -> str:
    if len(days) == 7:
        return "daily"
    run = sorted(days)
    if len(run) > 2 and run[-1] - run[0] == len(run) - 1:
        return f"{DAYS[run[0]]}-{DAYS[run[-1]]}"
    return ",".join(DAYS[day] for day in run)


def _days(days: frozenset[int]) -> str:
    if len(days) == 7:
        return "every day"
    run = sorted(days)
    if len(run) > 2 and run[-1] - run[0] == len(run) - 1:
        return f"{_NAMES[run[0]]} to {_NAMES[run[-1]]}"
    names = [_NAMES[day] for day in run]
    return "every " + " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
