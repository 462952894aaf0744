"""Drafts: each field is taken if it is what it must be."""

import json
import time
from datetime import date

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway import draft
from gateway.api import Device, to_json

NOW = 1_800_000_000.0
ID = "01JD5V9W3Q0000000000000000"
CAMERA = Device("front_door", "Front door")

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
FIELDS = (
    "id", "time", "source", "device", "kind", "state", "severity", "title", "text", "data", "attachments", "mail",
)  # fmt: skip


def made(**fields):
    return draft.to_event(fields, ID, "2027-01-15T08:00:00.000Z", "panel", CAMERA)


def test_a_whole_event_of_a_board_stays_as_it_is():
    event = {
        "v": 1,
        "id": ID,
        "time": "2027-01-15T08:00:00.000Z",
        "source": "panel",
        "device": CAMERA.facts(),
        "kind": "motion",
        "state": "on",
        "severity": "warning",
        "title": "Motion",
        "text": "a\nb",
        "data": {"channel": "A1", "truncated": ["the text was cut at 3 characters"]},
        "attachments": [{"name": "a.jpg", "type": "image/jpeg", "size": 7, "sha256": "ab"}],
        "mail": {"from": "a@b", "to": ["c@d"], "subject": "s", "message_id": None, "helo": "h", "peer": "10.0.0.1"},
    }
    assert made(**event) == event


def test_data_are_what_json_has_a_word_for():
    """Python reads and writes NaN, others refuse the whole event; and what can't be written at all was lost."""
    deep = []
    for _ in range(900):
        deep = [deep]
    data = {
        "a": float("nan"),
        "b": {"c": [float("-inf"), 1.5, None, True]},
        "d": date(2026, 11, 29),
        "e": (1,),
        "f": deep,
    }
    event = made(data=data)
    assert event["data"].pop("f")
    assert event["data"] == {"a": "nan", "b": {"c": ["-inf", 1.5, None, True]}, "d": "2026-11-29", "e": [1]}
    json.loads(to_json(made(data=data)), parse_constant=pytest.fail)


def test_an_empty_draft_is_an_event():
    assert made() == {
        "v": 1,
        "id": ID,
        "time": "2027-01-15T08:00:00.000Z",
        "source": "panel",
        "device": CAMERA.facts(),
        "kind": "other",
        "state": None,
        "severity": "info",
        "title": "",
        "text": "",
        "data": {},
        "attachments": [],
        "mail": None,
    }


@pytest.mark.parametrize(
    ("said", "taken"),
    [
        (ID, ID),
        (ID.lower(), None),
        ("8" + ID[1:], None),
        (ID[1:], None),
        (ID + "\n", None),
        (7, None),
        (None, None),
    ],
)
def test_only_a_ulid_is_an_id(said, taken):
    assert draft.own_id({"id": said}) == taken


@pytest.mark.parametrize(
    ("said", "taken"),
    [
        ("2027-01-15T08:00:00.000Z", NOW),
        ("2027-01-15T09:00:00+01:00", NOW),
        ("2027-01-15T07:00:00.5Z", NOW - 3599.5),
        ("2000-01-01T00:00:12Z", None),  # a clock that was never set
        ("2027-02-15T08:00:00Z", None),
        ("0001-01-01T00:00:00+14:00", None),
        ("soon", None),
        (None, None),
        (7, None),
    ],
)
def test_a_time_that_can_not_be_is_the_time_of_receipt(said, taken):
    assert draft.moment({"time": said}, NOW + 5) == (NOW + 5 if taken is None else taken)


@pytest.mark.parametrize(
    ("said", "taken"),
    [
        ("front_door", Device("front_door", "")),
        ("Front/door+#", Device("front_door", "")),
        ({"id": "Front door", "name": "Front\ndoor", "model": "X"}, Device("front_door", "Front\ndoor", None, "X")),
        ({"name": "Attic"}, Device("attic", "Attic")),
        (7, Device("7", "")),
        ({}, None),
        ("", None),
        (None, None),
        (["x"], None),
        (True, None),
    ],
)
def test_a_device_is_named_by_its_id_or_its_facts(said, taken):
    assert draft.device_of({"device": said}) == taken


@settings(suppress_health_check=[HealthCheck.too_slow])  # the first text is slow: tables of Unicode are made for it
@given(st.dictionaries(st.sampled_from(FIELDS), ANYTHING))
def test_no_draft_breaks_an_event(fields):
    draft.own_id(fields)
    draft.device_of(fields)
    assert draft.moment(fields, time.time()) > 0
    event = made(**{key: value for key, value in fields.items() if key != "id"})
    assert json.loads(to_json(event)).keys() == event.keys()


def test_data_has_a_form_in_anybodys_json():
    """Python's reader takes what no other does, and to Home Assistant one such number spoils the whole event."""
    data = json.loads(f'{{"a": NaN, "b": [1e999, -Infinity], "c": {"9" * 400}, "d": {"[" * 90}{"]" * 90}}}')
    found = made(data=data)["data"]
    assert (found["a"], found["b"], found["c"]) == ("nan", ["inf", "-inf"], "9" * 400)
    assert to_json({"d": found["d"]}).count(b"[") == 50
    assert made(data={"on": True, "much": 2**63 - 1})["data"] == {"on": True, "much": 2**63 - 1}


def test_half_a_character_is_none():
    """Python writes a lone surrogate as JSON, and Home Assistant's JSON refuses the whole event for it."""
    event = made(title="T\udce4", text="31 \ud83d C", data={"k\udce4": ["v\udce4"]})
    assert (event["title"], event["text"], event["data"]) == ("T\ufffd", "31 \ufffd C", {"k\ufffd": ["v\ufffd"]})
