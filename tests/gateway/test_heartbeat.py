"""A report that does not come is one event, and so is its return; what the gateway could not hear is no silence."""

import json
from datetime import UTC
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import heartbeat, rhythm
from gateway.heartbeat import REMEMBERED, Heart, Listening
from tests.gateway.test_rhythm import BERLIN, DAY, HOUR, MINUTE, at, every, reports

LOOK = 10 * MINUTE  # between two looks of a simulated gateway


class Play:
    """A gateway in a time of its own. `told` are (when, what) of the events; a stop and a start lose nothing."""

    def __init__(self, expect=True, zone=BERLIN):
        self.expect, self.zone = expect, zone
        self.heart, self.since, self.last_seen = Heart(), 0.0, 0.0
        self.told = []

    def run(self, moments, begin, end, kind="backup", state=None):
        """It runs from `begin` to `end`, and hears those of the reports that come then."""
        self.heart = heartbeat.loads(json.loads(json.dumps(self.heart.document())))
        self.since = begin
        moments = [one for one in moments if begin <= one < end]
        now = begin
        while now < end:
            for moment in [one for one in moments if now <= one < now + LOOK]:
                self.heart.heard(kind, state, moment)
                self.last_seen = moment
            now += LOOK
            self.look(now)
        return self

    def look(self, now):
        for news in self.heart.look(now, self.since, self.last_seen, self.expect, self.zone):
            self.told.append((now, heartbeat.draft(news, "nas", self.zone)))

    @property
    def words(self):
        return [draft["data"]["heartbeat"] for _, draft in self.told]


def test_a_report_that_is_missed_is_told_once_and_once_when_it_comes_again():
    times = reports(30, jitter=0)
    play = Play().run(times[:20] + times[25:], times[0] - DAY, times[-1] + HOUR)
    (missed, first), (back, second) = play.told
    assert times[20] + HOUR < missed < times[20] + 2 * HOUR
    assert times[25] <= back <= times[25] + LOOK
    assert first == {
        "device": {"id": "nas"},
        "kind": "backup",
        "state": "on",
        "severity": "warning",
        "title": "No report since 2026-03-21 02:10: expected every day at about 02:10",
        "text": "No report since 2026-03-21 02:10: expected every day at about 02:10",
        "data": {"heartbeat": "missing", "expected": "daily 02:10", "last_report": "2026-03-21T01:10:00Z"},
    }
    assert (second["state"], second["severity"]) == ("off", "info")
    assert second["title"] == "Reports again: expected every day at about 02:10"


def test_a_return_that_is_bad_news_itself_is_no_all_clear():
    times = reports(20, jitter=0)
    play = Play().run(times[:15], times[0], times[17])
    assert play.words == ["missing"]
    play.run(times[17:], times[17], times[18], state="on")
    assert play.told[-1][1]["state"] is None


def test_one_single_miss_is_told_and_forgotten_about():
    times = reports(30)
    play = Play().run(times[:20] + times[21:], times[0], times[-1] + HOUR)
    assert play.words == ["missing", "back"]


def test_the_gateway_was_away():
    """For five days; then it was away when the report would have come; then it is back, and so is the device."""
    times = reports(40)
    play = Play().run(times, times[0] - HOUR, times[19] + HOUR)
    play.run(times, times[25] + HOUR, times[30] - HOUR / 2)
    play.run([], times[30] + HOUR / 2, times[30] + 12 * HOUR)
    play.run(times, times[31] - 12 * HOUR, times[-1] + HOUR)
    assert play.told == []
    play.run([], times[-1] + HOUR, times[-1] + 3 * DAY)
    assert play.words == ["missing"]


def test_what_is_missed_is_told_once_whoever_starts_again():
    times = reports(20)
    play = Play().run(times, times[0] - HOUR, times[-1] + 2 * DAY)
    assert play.words == ["missing"]
    for day in range(2, 9):
        play.run([], times[-1] + day * DAY, times[-1] + (day + 1) * DAY)
    assert play.words == ["missing"]
    play.run([times[-1] + 10 * DAY], times[-1] + 9 * DAY, times[-1] + 11 * DAY)
    assert play.words == ["missing", "back"]


@given(
    st.sampled_from([range(7), range(5), [6], "1 h", "6 h"]),
    st.integers(1, 4),
    st.integers(0, 999),
    st.sampled_from([BERLIN, UTC, ZoneInfo("America/New_York")]),
)
@settings(max_examples=25, deadline=None)
def test_exactly_what_did_not_come_is_told(days, gone, seed, zone):
    """Whatever the rhythm is: one event for an outage, one for its end, and none else. It begins before summer time."""
    if isinstance(days, str):
        period = HOUR if days == "1 h" else 6 * HOUR
        times = every(60, period, jitter=period / 60, start=at("2026-03-28T12:00", zone), seed=seed)
    else:
        times = reports(30 if len(days) > 1 else 18, days=days, zone=zone, seed=seed)
    away = len(times) - 5 - gone
    play = Play(zone=zone).run(times[:away] + times[away + gone :], times[0] - HOUR, times[-1] + 30 * MINUTE)
    assert play.words == ["missing", "back"]
    assert times[away] < play.told[0][0] < times[away] + 6 * HOUR
    assert times[away + gone] <= play.told[1][0] <= times[away + gone] + LOOK


# --- listening -----------------------------------------------------------------------------------------------------


def test_a_break_in_listening_begins_it_anew():
    listening = Listening()
    assert listening.since(1000.0, True) == 1000.0
    assert [listening.since(now, True) for now in (1001.0, 1002.5, 1040.0)] == [1000.0] * 3
    assert listening.since(4640.0, True) == 4640.0  # the clock was put forward, or the machine slept
    assert listening.since(1045.0, True) == 1045.0  # and put back
    assert listening.since(1046.0, False) == 1046.0  # the disk is full
    assert listening.since(1047.0, True) == 1046.0


def test_a_clock_that_was_ahead_costs_no_report():
    times = reports(20)
    play = Play().run(times, times[0] - HOUR, times[-1] + HOUR)
    play.heart.heard("backup", None, times[-1] + 400 * DAY)  # and then it is put right
    play.look(times[-1] + 2 * HOUR)
    assert play.heart.pulses["backup"].times[-1] == int(times[-1])
    play.run([], times[-1] + 3 * HOUR, times[-1] + 2 * DAY)
    assert play.words == ["missing"]


# --- what is kept --------------------------------------------------------------------------------------------------


def test_memory_is_bounded():
    heart = Heart()
    for number in range(10_000):
        heart.heard("other", None, 1e9 + number * 7.0)
        heart.heard("backup", None, 1e9 + number * HOUR)
    assert len(heart.pulses["backup"].times) == REMEMBERED
    assert len(heart.pulses["other"].times) == REMEMBERED
    assert len(json.dumps(heart.document())) < 2000


def test_a_mail_that_is_replayed_is_no_report():
    heart = Heart()
    for moment in (*reports(10), *reports(5)):
        heart.heard("backup", None, moment)
    assert heart.pulses["backup"].times == [int(one) for one in reports(10)]


def test_several_mails_of_one_report_are_one():
    heart = Heart()
    for moment in reports(10):
        for seconds in (0, 1, 20, 200):
            heart.heard("disk", None, moment + seconds)
    assert len(heart.pulses["disk"].times) == 10


@pytest.mark.parametrize("kind", ["motion", "person", "door", "alarm", "power"])
def test_what_is_sensed_has_no_rhythm(kind):
    """However regular somebody's way home is."""
    times = reports(20)
    assert Play().run(times, times[0] - HOUR, times[-1] + 5 * DAY, kind).told == []


# --- by hand -------------------------------------------------------------------------------------------------------


def test_by_hand():
    play = Play(rhythm.every(HOUR))
    start = at("2026-05-04T12:00")
    play.run([start + MINUTE], start, start + 6 * HOUR, "motion")  # of any kind
    assert [(draft["kind"], draft["state"], draft["title"]) for _, draft in play.told] == [
        ("report", "on", "No report since 2026-05-04 12:01: expected every hour")
    ]
    assert 15 * MINUTE <= play.told[0][0] - start - HOUR <= 30 * MINUTE
    play.run([start + 7 * HOUR], start + 6 * HOUR, start + 7.5 * HOUR, "motion")
    assert play.told[-1][1]["title"] == "Reports again: expected every hour"


def test_by_hand_of_one_that_never_came():
    play = Play(rhythm.of_text("daily 02:10")).run([], at("2026-05-04T12:00"), at("2026-05-06T12:00"))
    assert [draft["title"] for _, draft in play.told] == ["No report yet: expected every day at about 02:10"]


@pytest.mark.parametrize("expect", [False, rhythm.every(300 * DAY)])
def test_what_is_no_longer_expected_is_not_missed(expect):
    times = reports(20)
    play = Play().run(times, times[0] - HOUR, times[-1] + 2 * DAY)
    play.expect = expect
    play.run([times[-1] + 3 * DAY], times[-1] + 2 * DAY, times[-1] + 9 * DAY)
    assert play.words == ["missing"]
    assert not any(pulse.missing for pulse in play.heart.pulses.values())
