"""How long things take: histograms cheap enough to be kept for every mail.

An observation costs a third of a microsecond and allocates nothing. Each histogram has one owner, who alone observes
(the event loop, or one thread); whoever reads it meanwhile may miss the newest observation, and nothing else. All times
are seconds. What only a person reads ("the last minutes") is the difference between the counts now and then.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import deque
from collections.abc import Sequence

from gateway.api import Distribution

SECONDS = (
    0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5,
    1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 86400.0,
)  # fmt: skip
"""Upper bounds of the buckets: from a lone mail on a fast disk to a broker that was away for a day."""
COUNTS = (1, 2, 5, 10, 20, 50, 100, 200, 500)

_ROUND = 60.0  # seconds between two marks
_ROUNDS = 5  # that "the last minutes" are


class Histogram:
    """How many observations fell into each bucket, and their sum."""

    __slots__ = ("_marks", "bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float] = SECONDS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)  # the last one: beyond all bounds
        self.sum = 0.0
        self._marks: deque[tuple[float, list[int]]] = deque([(time.monotonic(), self.counts[:])], _ROUNDS)

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def distribution(self) -> Distribution:
        """As it is now, since the beginning."""
        return Distribution(tuple(self.bounds), tuple(self.counts), self.sum)

    def recent(self) -> list[int]:
        """The counts of the last five to six minutes. Asked at least once a minute, it forgets what is older."""
        now = time.monotonic()
        before = self._marks[0][1]
        if now - self._marks[-1][0] >= _ROUND:
            self._marks.append((now, self.counts[:]))
        return [count - old for count, old in zip(self.counts, before, strict=True)]


def quantile(bounds: Sequence[float], counts: Sequence[int], share: float) -> float | None:
    """The value below which this share of the observations is, as near as the buckets tell; None: there are none.

    Within a bucket they are taken to lie evenly, as Prometheus' histogram_quantile() does; beyond all bounds it is the
    last bound.
    """
    wanted = share * sum(counts)
    if not wanted:
        return None
    lower = 0.0
    for bound, count in zip(bounds, counts, strict=False):
        if wanted <= count:
            return lower + (bound - lower) * wanted / count
        wanted -= count
        lower = bound
    return lower


def monotonic_of(wall: float) -> float:
    """The time on the monotonic clock of a moment in the past that is known by the wall clock, as in the store."""
    return time.monotonic() - max(0.0, time.time() - wall)
