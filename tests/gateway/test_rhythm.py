"""What is a rhythm and what is none; and when the next report is due."""

import random
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import rhythm
from gateway.rhythm import learn

BERLIN = ZoneInfo("Europe/Berlin")
ZONES = ("Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe", "UTC")
MONDAY = datetime(2026, 3, 2).date()
MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0


def at(text, zone=BERLIN):
    return datetime.fromisoformat(text).replace(tzinfo=zone).timestamp()


def reports(count, *, days=range(7), first=MONDAY, clock=time(2, 10), zone=BERLIN, jitter=4.0, seed=1):
    """Unix seconds; by the clock on the wall, and some minutes off."""
    chance = random.Random(seed)
    found, day = [], first
    while len(found) < count:
        if day.weekday() in days:
            found.append(datetime.combine(day, clock, zone).timestamp() + chance.uniform(-jitter, jitter) * MINUTE)
        day += timedelta(days=1)
    return found


START = at("2026-05-04T00:00")


def every(count, period, *, jitter=0.0, start=START, seed=1):
    chance = random.Random(seed)
    return [start + number * period + chance.uniform(-jitter, jitter) for number in range(count)]


# --- what is one ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("times", "days", "words"),
    [
        (reports(40), "daily", "every day at about 02:"),
        (reports(40, days=range(5)), "mon-fri", "Monday to Friday at about 02:"),
        (reports(40, days=range(6)), "mon-sat", "Monday to Saturday at about 02:"),
        (reports(12, days=[6]), "sun", "every Sunday at about 02:"),
        (reports(30, days=[1, 5]), "tue,sat", "every Tuesday and Saturday at about 02:"),
        (reports(30, days=[0, 2, 4]), "mon,wed,fri", "every Monday, Wednesday and Friday at about 02:"),
        (reports(40, jitter=40), "daily", "every day at about 02:"),
    ],
)
def test_by_the_clock_on_the_wall(times, days, words):
    found = learn(times, BERLIN)
    assert str(found).split()[0] == days
    assert found.words.startswith(words)
    minute = found.times.moments[0][1]
    assert abs(minute - 130) <= 12


@pytest.mark.parametrize(
    ("times", "text", "words"),
    [
        (every(64, HOUR, jitter=60), "1 h", "every hour"),
        (every(40, 6 * HOUR, jitter=300), "6 h", "every 6 hours"),
        (every(64, 45 * MINUTE), "45 min", "every 45 minutes"),
        (every(64, 100 * MINUTE), "100 min", "every 100 minutes"),
        (every(64, 1.5 * HOUR), "1.5 h", "every 1.5 hours"),
        (every(20, 2 * DAY, jitter=600), "2 d", "every 2 days"),
        (every(64, HOUR + 5), "1 h", "every hour"),  # sleeps an hour, and takes its time
    ],
)
def test_by_the_time_between_two(times, text, words):
    found = learn(times, BERLIN)
    assert (str(found), found.words) == (text, words)


def test_the_clock_is_that_of_the_zone():
    assert str(learn(reports(20, jitter=0), BERLIN)) == "daily 02:10"
    assert str(learn(reports(20, jitter=0), UTC)) == "daily 01:10"


@pytest.mark.parametrize("seed", range(10))
def test_about_midnight(seed):
    """A minute before it is the day before, and a report of the next day all the same."""
    times = reports(30, days=[5, 6], clock=time(0, 0), jitter=4, seed=seed)
    for count in range(10, 30):
        found = learn(times[:count], BERLIN)
        assert found.due(times[count - 1], BERLIN) > times[count]
    assert str(learn(reports(20, clock=time(0, 1), jitter=5), BERLIN)).split()[0] == "daily"


@given(st.lists(st.integers(0, 9), min_size=24, max_size=40), st.integers(0, 99))
@settings(max_examples=40)
def test_single_misses_and_reports_between_change_nothing(marks, seed):
    """0: it does not come; 1: somebody presses the button, too."""
    times = reports(len(marks), seed=seed)
    chance = random.Random(seed)
    kept, before = [], 1
    for moment, mark in zip(times, marks, strict=True):
        kept += [moment] * (mark > 0 or before == 0) + [moment + chance.uniform(HOUR, 20 * HOUR)] * (mark == 1)
        before = mark
    found = learn(kept, BERLIN)
    missed = {number % 7 for number, mark in enumerate(marks) if mark == 0}
    if marks.count(0) == len(missed) <= 2 and marks.count(1) <= 3:  # twice on one of three Fridays: it may be free
        assert str(found).split()[0] == "daily"


@pytest.mark.parametrize("count", range(4, 41, 4))
def test_six_hours_with_a_miss_and_a_report_between(count):
    times = every(count, 6 * HOUR, jitter=120)
    if count > 12:
        times = sorted([*times[:5], *times[6:], times[8] + 2 * HOUR])
    assert (str(learn(times, BERLIN)) == "6 h") == (count > 4)


# --- what is none --------------------------------------------------------------------------------------------------


def test_too_few_are_no_rhythm():
    assert [learn(reports(count), BERLIN) for count in range(4)] == [None] * 4
    assert [learn(reports(count, days=[6]), BERLIN) for count in range(4)] == [None] * 4
    assert learn(every(20, HOUR), BERLIN) is None  # what it does at night was not seen yet


def test_chance_is_no_rhythm():
    """Of 300 devices whose mails have nothing to do with the clock, hardly one is ever taken for regular."""
    wrong = 0
    for seed in range(300):
        chance = random.Random(seed)
        mean = 10 ** chance.uniform(2.7, 6)
        times = [at("2026-05-04T00:00")]
        for _ in range(60):
            times.append(times[-1] + 300 + chance.expovariate(1 / mean))
        wrong += any(learn(times[:count], BERLIN) for count in range(4, 60, 5))
    assert wrong <= 9


def test_hours_of_an_office_are_no_rhythm():
    """Each hour from 8 to 18: by night nothing is missing."""
    times = [at(f"2026-05-{day:02}T{hour:02}:00") for day in range(4, 9) for hour in range(8, 19)]
    assert not any(learn(times[:count], BERLIN) for count in range(len(times)))


def test_two_in_a_night_are_one_rhythm():
    times = sorted([*reports(30, jitter=2), *reports(30, clock=time(4, 0), jitter=2)])
    assert str(learn(times, BERLIN)).split()[0] == "daily"


# --- when it is due ------------------------------------------------------------------------------------------------


def test_workdays_have_a_weekend():
    found = learn(reports(4, jitter=0), BERLIN)  # Monday to Thursday
    assert str(found) == "mon-fri 02:10"
    friday = at("2026-03-06T02:10")
    assert found.next(friday, BERLIN) == at("2026-03-09T02:10")
    assert str(learn(reports(6, jitter=0), BERLIN)) == "mon-sat 02:10"


def test_one_that_comes_early_is_the_one_that_is_expected():
    found = learn(reports(20, jitter=0), BERLIN)
    assert found.next(at("2026-04-01T01:30"), BERLIN) == at("2026-04-02T02:10")
    assert found.next(at("2026-04-01T00:30"), BERLIN) == at("2026-04-01T02:10")
    assert found.due(at("2026-04-01T02:15"), BERLIN) == at("2026-04-02T03:25")


@given(
    st.sampled_from(ZONES).map(ZoneInfo),
    st.dates(datetime(2024, 1, 1).date(), datetime(2030, 1, 1).date()),
    st.times().map(lambda one: one.replace(second=0, microsecond=0)),
    st.sampled_from([range(7), range(5), [5, 6], [3]]),
    st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_no_regular_report_is_ever_late(zone, first, clock, days, seed):
    """Whatever the zone does with its clock: before one is due, it has come."""
    times = reports(45, days=days, first=first, clock=clock, zone=zone, seed=seed)
    for count in range(10, 45):
        found = learn(times[:count], zone)
        assert found
        assert found.due(times[count - 1], zone) > times[count]


@given(st.sampled_from([HOUR, 2 * HOUR, 3 * HOUR, 4 * HOUR, 6 * HOUR, 12 * HOUR]), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_hours_counted_by_the_clock_on_the_wall_are_not_late_either(period, seed):
    """As cron counts them, over the night on which the clock is put back."""
    start = datetime(2026, 10, 25) - 46 * timedelta(seconds=period)
    chance = random.Random(seed)
    wall = [start + number * timedelta(seconds=period) for number in range(60)]
    times = [one.replace(tzinfo=BERLIN).timestamp() + chance.uniform(0, 60) for one in wall]
    for count in range(40, 60):
        found = learn(times[:count], BERLIN)
        assert found is None or found.due(times[count - 1], BERLIN) > times[count]
    assert learn(times[:45], BERLIN)


@given(st.lists(st.integers(0, 2**33), max_size=64).map(sorted), st.sampled_from(ZONES).map(ZoneInfo))
@settings(max_examples=100, deadline=None)
def test_any_times_have_an_answer(times, zone):
    found = learn(times, zone)
    if found:
        assert found.due(times[-1], zone) > times[-1]
        assert str(found)
        assert found.words


# --- by hand -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "short", "words"),
    [
        ("daily", "1 d", "every day"),
        ("Hourly", "1 h", "every hour"),
        ("weekly", "7 d", "every 7 days"),
        ("daily 02:10", "daily 02:10", "every day at about 02:10"),
        ("mon-fri 8:00", "mon-fri 8:00", "Monday to Friday at about 08:00"),
    ],
)
def test_what_a_person_writes(text, short, words):
    found = rhythm.of_text(text)
    assert (str(found), found.words) == (short, words)


def test_what_is_learned_can_be_written():
    for found in (learn(reports(40), BERLIN), learn(reports(30, days=[1, 5]), BERLIN)):
        assert rhythm.of_text(str(found)).times.moments == found.times.moments


@pytest.mark.parametrize("text", ["now and then", "daily 25:00", ""])
def test_what_is_no_rhythm(text):
    with pytest.raises(ValueError, match="is no time"):
        rhythm.of_text(text)
