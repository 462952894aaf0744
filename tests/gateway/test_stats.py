"""Histograms: what falls where, and what is said of the last minutes."""

from __future__ import annotations

import math
from bisect import bisect_left

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import stats
from gateway.stats import SECONDS, Histogram, monotonic_of, quantile


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now + 1_700_000_000


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(stats, "time", made)
    return made


def test_a_value_falls_into_the_first_bucket_that_holds_it() -> None:
    histogram = Histogram((1, 2, 5))
    for value in (0, 1, 1.5, 2, 5, 6, 100):
        histogram.observe(value)
    assert histogram.distribution() == ((1, 2, 5), (2, 2, 1, 2), 115.5)


def test_quantiles_lie_evenly_within_a_bucket() -> None:
    assert quantile((1, 2, 4), [0, 10, 10, 0], 0.5) == 2
    assert quantile((1, 2, 4), [0, 10, 10, 0], 0.75) == 3
    assert quantile((1, 2, 4), [0, 0, 0, 3], 0.5) == 4
    assert quantile((1, 2, 4), [0, 0, 0, 0], 0.5) is None


@given(st.lists(st.floats(0, 80000), min_size=1, max_size=50), st.integers(1, 100))
def test_a_quantile_is_in_the_bucket_of_the_true_one(values: list[float], percent: int) -> None:
    histogram = Histogram()
    for value in values:
        histogram.observe(value)
    true = sorted(values)[math.ceil(percent * len(values) / 100) - 1]
    place = bisect_left(SECONDS, true)
    found = quantile(histogram.bounds, histogram.counts, percent / 100)
    assert found is not None
    assert (SECONDS[place - 1] if place else 0) <= found * 1.000001
    assert found <= SECONDS[place] * 1.000001


def test_the_last_minutes_forget_what_is_older(clock: Clock) -> None:
    histogram = Histogram((1,))
    seen = []
    for minute in range(12):
        if minute < 3:
            histogram.observe(0.5)
        seen.append(histogram.recent()[0])
        clock.now += 60
    assert seen[:3] == [1, 2, 3]
    assert seen[-1] == 0
    assert histogram.counts == [3, 0]


def test_a_moment_on_the_wall_clock_is_found_on_the_other(clock: Clock) -> None:
    assert monotonic_of(clock.time() - 30) == pytest.approx(970)
    assert monotonic_of(clock.time() + 30) == pytest.approx(1000)  # the wall clock was set back: it came just now
