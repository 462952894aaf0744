"""Hours and times as people write them, on the days on which the clock is put forward and back, too."""

import re
from datetime import datetime
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.hours import DAYS, hours, times, zone_of

BERLIN = ZoneInfo("Europe/Berlin")
clocks = st.builds("{:02}:{:02}".format, st.integers(0, 23), st.integers(0, 59))
days = st.sampled_from([*DAYS, "mon-fri", "sat,sun", "fri-mon"])
spans = st.builds("{} {}-{}".format, days, clocks, clocks)
moments = st.integers(1_700_000_000, 1_900_000_000).map(float)


def at(text, fold=0):
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN, fold=fold).timestamp()


def says(seconds):
    return datetime.fromtimestamp(seconds, BERLIN).strftime("%a %Y-%m-%d %H:%M")


@pytest.mark.parametrize(
    ("texts", "moment", "inside"),
    [
        (["22:00-07:00"], "2026-11-25 21:59", False),
        (["22:00-07:00"], "2026-11-25 22:00", True),
        (["22:00-07:00"], "2026-11-26 06:59", True),
        (["22:00-07:00"], "2026-11-26 07:00", False),
        (["fri 22:00-07:00"], "2026-11-28 03:00", True),  # a Saturday: the span belongs to Friday
        (["fri 22:00-07:00"], "2026-11-27 03:00", False),
        (["Mon-Fri 8:00 - 18:00", "sat 9:00-12:00"], "2026-11-28 10:00", True),
        (["sat,sun 00:00-24:00"], "2026-11-29 23:59", True),
        (["sat,sun 00:00-24:00"], "2026-11-30 00:00", False),
        (["fri-mon 10:00-11:00"], "2026-11-29 10:30", True),
        (["00:00-00:00"], "2026-11-29 10:30", True),
    ],
)
def test_hours_include(texts, moment, inside):
    assert hours(texts).includes(at(moment), BERLIN) is inside


def test_the_end_of_quiet_hours_when_the_clock_is_put_forward_and_back():
    night = hours(["22:00-07:00"])
    for moment, end in (("2026-03-28 23:00", "2026-03-29 07:00"), ("2026-10-24 23:00", "2026-10-25 07:00")):
        assert says(night.next(at(moment), BERLIN, inside=False)) == says(at(end))
    assert at("2026-03-29 07:00") - at("2026-03-28 23:00") == 7 * 3600
    assert at("2026-10-25 07:00") - at("2026-10-24 23:00") == 9 * 3600


def test_an_hour_that_does_not_exist_comes_later_and_one_that_comes_twice_counts_both_times():
    assert says(times(["daily 02:30"]).next(at("2026-03-29 00:00"), BERLIN)) == "Sun 2026-03-29 03:30"
    small = hours(["02:00-03:00"])
    assert small.includes(at("2026-10-25 02:30"), BERLIN)
    assert small.includes(at("2026-10-25 02:30", fold=1), BERLIN)
    assert says(times(["daily 02:30"]).next(at("2026-10-25 00:00"), BERLIN)) == "Sun 2026-10-25 02:30"
    assert says(times(["daily 02:30"]).next(at("2026-10-25 02:30"), BERLIN)) == "Mon 2026-10-26 02:30"


def test_hours_that_end_or_begin_within_the_hour_that_comes_twice():
    """Both are meant the first time; else what waits at the second would wait for the next day."""
    night, morning = hours(["22:00-02:30"]), hours(["02:30-05:00"])
    for fold, minute in ((0, "02:40"), (1, "02:10"), (1, "02:40")):
        moment = at(f"2026-10-25 {minute}", fold)
        assert not night.includes(moment, BERLIN)
        assert morning.includes(moment, BERLIN)
    assert night.next(at("2026-10-25 02:10"), BERLIN, inside=False) == at("2026-10-25 02:30")
    assert morning.next(at("2026-10-25 02:10", fold=1), BERLIN, inside=False) == at("2026-10-25 05:00")


def test_hours_that_begin_when_no_clock_shows_it_begin_as_much_later():
    small = hours(["02:30-04:00"])
    assert not small.includes(at("2026-03-29 03:10"), BERLIN)
    assert small.next(at("2026-03-29 01:00"), BERLIN, inside=True) == at("2026-03-29 03:30")


def test_digest_times():
    monday = at("2026-11-23 09:00")
    assert says(times(["hourly"]).next(monday + 5, BERLIN)) == "Mon 2026-11-23 10:00"
    assert says(times(["07:30"]).next(monday, BERLIN)) == "Tue 2026-11-24 07:30"
    assert says(times(["daily 07:30", "mon 18:00"]).next(monday, BERLIN)) == "Mon 2026-11-23 18:00"
    assert says(times(["mon 08:00"]).next(monday, BERLIN)) == "Mon 2026-11-30 08:00"
    assert str(times(["hourly", "07:30"])) == "hourly, 07:30"


def test_the_machines_own_time_zone(monkeypatch):
    moment = at("2026-11-25 23:00")
    local = datetime.fromtimestamp(moment)
    span = hours([f"{local:%H:%M}-{(local.hour + 1) % 24:02}:{local:%M}"])
    assert span.includes(moment, None)
    assert span.next(moment, None, inside=False) == moment + 3600


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["22-7"], "'22-7' is no span of time; write '22:00-07:00' or 'mon-fri 08:00-18:00'"),
        (["24:00-07:00"], "'24:00-07:00' is no span of time; write '22:00-07:00' or 'mon-fri 08:00-18:00'"),
        (["funday 22:00-07:00"], "'funday' is no day; there are mon, tue, wed, thu, fri, sat, sun"),
    ],
)
def test_no_hours(texts, words):
    with pytest.raises(ValueError, match=f"^{re.escape(words)}$"):
        hours(texts)


def test_no_times_and_no_zone():
    with pytest.raises(ValueError, match=r"^'noon' is no time; write 'hourly', 'daily 07:30' or 'mon-fri 08:00'$"):
        times(["noon"])
    for name in ("Berlin", "../etc/passwd", ""):
        with pytest.raises(ValueError, match=r"^there is no time zone"):
            zone_of(name)


@given(st.lists(spans, min_size=1, max_size=3), moments)
def test_next_is_the_first_moment_of_that_kind(texts, moment):
    some = hours(texts)
    for inside in (True, False):
        then = some.next(moment, BERLIN, inside=inside)
        if then == moment:
            continue
        assert some.includes(then, BERLIN) is inside
        steps = [moment + (then - moment) * part / 50 for part in range(50)]
        assert all(some.includes(step, BERLIN) is not inside for step in steps)


@given(st.lists(st.builds("{} {}".format, days, clocks), min_size=1, max_size=3), moments)
def test_times_come_one_after_the_other(texts, moment):
    some = times(texts)
    following = [moment]
    for _ in range(5):
        following.append(some.next(following[-1], BERLIN))
    assert all(0 < later - earlier <= 8 * 86400 for earlier, later in pairwise(following))
