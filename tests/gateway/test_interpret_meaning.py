"""The generic profile: its file keeps its own rules, and its words mean what a person would say they mean."""

from __future__ import annotations

import re
import tomllib
from re import _constants as codes  # the compiler's own view of an expression
from re import _parser as parser
from typing import Any

import pytest

from gateway.api import Envelope
from gateway.interpret import Reading, meaning
from gateway.interpret.families import OURS, UNSPACED, words_of
from gateway.interpret.meaning import MAX_KEY, SCOPES, Profile, listed, profile
from gateway.letters import unaccented
from gateway.wire import event as words


def told(subject: str | None, text: str = "", helo: str = "device", **reading: Any) -> Any:
    return meaning(Reading(subject=subject, text=text, **reading), Envelope("lan", "192.0.2.1", helo, "", []))


@pytest.mark.parametrize(
    ("subject", "text", "kind", "state", "severity"),
    [
        ("Motion", "", "motion", "on", "warning"),
        ("Motion at the front door", "", "other", None, "info"),
        ("Motion Detection", "", "motion", "on", "warning"),
        ("Camera 1: motion-detected!", "", "motion", "on", "warning"),
        ("IPC", "Event: Motion Detection\r\nStatus: Stop", "motion", "off", "info"),
        ("Motion Detection Stop", "", "motion", "off", "info"),
        ("Motion detection stopped", "", "motion", "off", "info"),
        ("Bewegung erkannt", "", "motion", "on", "warning"),
        ("Status", "Es wurde keine Bewegung gemeldet", "motion", "off", "info"),
        ("Info", "Motion detected\nThe end of the report", "motion", "on", "warning"),
        ("Tripwire alarm", "", "line_crossing", "on", "warning"),
        ("Intrusion Detection End", "", "intrusion", "off", "info"),
        ("Human detected", "", "person", "on", "warning"),
        ("Vehicle Detected by Yard", "", "vehicle", "on", "warning"),
        ("Pet Detected by Yard", "", "animal", "on", "info"),
        ("Face Detection", "", "face", "on", "warning"),
        ("Audio Exception", "", "sound", "on", "warning"),
        ("Doorbell pressed", "", "doorbell", None, "info"),
        ("Video Tampering", "", "tamper", "on", "critical"),
        ("Video Signal Lost", "", "video_loss", "on", "warning"),
        ("Smoke detector: kitchen", "", "smoke", "on", "critical"),
        ("Feueralarm Halle 2", "", "fire", "on", "critical"),
        ("Gasalarm", "", "gas", "on", "critical"),
        ("Water leak cleared", "", "leak", "off", "info"),
        ("Door opened", "", "door", "on", "warning"),
        ("Tür geschlossen", "", "door", "off", "info"),
        ("High temperature", "", "temperature", "on", "warning"),
        ("High temperature cleared", "", "temperature", "off", "info"),
        ("Humidity alarm", "", "humidity", "on", "warning"),
        ("Fan failure", "", "fan", None, "critical"),
        ("Power failure", "", "power", "on", "critical"),
        ("UPS ups@localhost on line power", "", "power", "off", "info"),
        ("Utility power restored", "", "power", "off", "info"),
        ("Stromausfall", "", "power", "on", "critical"),
        ("Low battery", "", "battery", "on", "warning"),
        ("UPS: Passed a self-test.", "", "battery", None, "info"),
        ("UPS: Failed a self-test.", "", "battery", None, "warning"),
        ("Fail event on /dev/md0:nas", "", "raid", None, "critical"),
        ("RebuildFinished event on /dev/md0:nas", "", "raid", None, "info"),
        ("Volume 1 is degraded", "", "raid", None, "critical"),
        ("Disk full", "", "storage", None, "warning"),
        ("Hello", "HDD error on bay 2", "disk", None, "warning"),
        ("Backup failed", "", "backup", None, "critical"),
        ("Backup successful", "", "backup", None, "info"),
        ("Datensicherung fehlgeschlagen", "", "backup", None, "critical"),
        ("Cron <root@gw> /usr/bin/backup", "", "job", None, "info"),
        ("Firmware update available", "", "update", None, "info"),
        ("Scan to Email", "", "scan", None, "info"),
        ("Paper jam in tray 2", "", "print", None, "warning"),
        ("Druckauftrag fertig", "", "print", None, "info"),
        ("Failed login from 10.0.0.9", "", "login", None, "warning"),
        ("User admin logged in", "", "login", None, "info"),
        ("IP 10.0.0.9 has been blocked", "", "security", None, "warning"),
        ("Link down on port 4", "", "network", "on", "warning"),
        ("Link up on port 4", "", "network", "off", "info"),
        ("Power supply failure in slot 1", "", "hardware", None, "warning"),
        ("Weekly report", "", "report", None, "info"),
        ("Alarm", "External alarm 3 triggered", "alarm", "on", "warning"),
        ("Störung Pumpe 3", "", "alarm", None, "warning"),
        ("Störung Pumpe 3 behoben", "", "alarm", "off", "info"),
        ("Test", "", "test", None, "info"),
        ("Testnachricht", "", "test", None, "info"),
        ("[Critical] Something", "", "other", None, "critical"),
        ("Something", "Severity: Warning", "other", None, "warning"),
        ("The latest contest", "the greatest protest", "other", None, "info"),
        ("Hello", "How are you?", "other", None, "info"),
        (None, "", "other", None, "info"),
        ("Power failure recovered", "", "power", "off", "info"),
        ("Recovered: power failure", "", "power", "off", "info"),
        ("Temperature over limit: high temperature", "", "temperature", "on", "warning"),
        ("Chiller 2: failure", "", "alarm", "on", "warning"),
        ("Chiller 2: recovered", "", "alarm", "off", "info"),
        ("Ausfall Kühlung", "", "alarm", "on", "warning"),
        ("Kühlung wiederhergestellt", "", "alarm", "off", "info"),
        ("Pump 3 started", "", "other", "on", "info"),
        ("Pump 3 stopped", "", "other", "off", "info"),
        ("Event", "Event: Compressor Start", "other", "on", "info"),
        ("Event", "Event: Compressor Stop", "other", "off", "info"),
        ("Start of the new school year", "", "other", None, "info"),
        ("We have now all seen how it ended", "", "other", None, "info"),
        ("NUT alert", "UPS ups@localhost on battery", "power", "on", "critical"),
        ("NUT alert", "UPS ups@localhost blah", "alarm", None, "warning"),
        ("Hello", "In the long hall of the old house there was motion\ndetected, it says", "motion", "on", "warning"),
        ("Hello", "Today there was no motion\nno smoke\ndetected, it says", "smoke", "on", "critical"),
        ("Smoke break at 10?", "", "other", None, "info"),
        ("Smoke-free offices", "Nobody on line, no video, a break in the clouds", "other", None, "info"),
    ],
)
def test_kinds(subject: str | None, text: str, kind: str, state: str | None, severity: str) -> None:
    result = told(subject, text)
    assert (result.kind, result.state, result.severity) == (kind, state, severity)


def test_of_phrases_that_say_the_same_the_first_of_the_text_is_told() -> None:
    """Whatever the order in which Python keeps the words of this run."""
    lines = ["1号机 粉盒更换", "2号机 缺纸"]
    for text in (lines, lines[::-1]):
        assert told("", "\n".join(["Notice", *text])).title == text[0]


def test_of_phrases_that_end_together_the_one_that_says_more_is_told() -> None:
    text = "The motion log, as it is kept for you\nMotion detected at the gate"
    assert told("", text).title == "Motion detected at the gate"


def test_every_kind_has_a_rule_but_other() -> None:
    kinds = {rule["kind"] for rule in source()["rule"]}
    assert kinds == set(words.KINDS) - {"other"}


@pytest.mark.parametrize(
    ("line", "data"),
    [
        ("KEY:   value  ", {"key": "value"}),
        ("\t\tKEY:\tvalue", {"key": "value"}),
        ("Alarm Input Channel No.: 1", {"alarm_input_channel_no": "1", "channel": "1"}),
        ("CAMERA NAME(NUM):   Yard (old)(12)", {"camera_name": "Yard (old)", "channel": "12"}),
        ("CAMERA NAME(NUM):   Yard", {"camera_name": "Yard"}),
        ("Start Time (D/M/Y H:M:S): 1/2/2026 10:00:00", {"start_time": "1/2/2026 10:00:00"}),
        ("Gerätename: Büro", {"geraetename": "Büro"}),
        ("DB10.DBX0.3 = TRUE", {"db10_dbx0_3": "TRUE"}),
        ("Pages:1", {"pages": "1"}),
        ("Ports 1: down", {"ports_1": "down"}),
        ("Empty:", {}),
        ("Empty: \t ", {}),
        ("Meeting at 12:30", {}),
        ("http://lan/x", {}),
        ("See http://lan/x for more: all of it", {}),
        ("one two three four five six seven: x", {}),
        ("Well, then: x", {}),
        ("<b>: x", {}),
        ("truncated: x", {}),
        ("12: x", {}),
        ("K" * 41 + ": x", {}),
        ("K" * 40 + ": x", {"k" * 40: "x"}),
        ("a=b", {}),
        (": x", {}),
        ("備考: 45", {}),
    ],
)
def test_keys(line: str, data: dict[str, str]) -> None:
    assert told("Hello", line).data == data


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ("Load: 45 %", {"load": 45, "load_unit": "%"}),
        ("Temperature: 22,5 °C", {"temperature": 22.5, "temperature_unit": "°C"}),
        ("Runtime: 24 minutes", {"runtime": 24, "runtime_unit": "min"}),
        ("Job: 4711", {"job": "4711"}),
        ("Load: 45 %\nLoad unit: x", {"load": "45 %", "load_unit": "x"}),
        (
            "Event time: 2025-07-26,16:53:09",
            {"event_time": "2025-07-26,16:53:09", "device_time": "2025-07-26T16:53:09"},
        ),
        (
            "Date: 26.07.2025\nTime: 16:53",
            {"date": "26.07.2025", "time": "16:53", "device_time": "2025-07-26T16:53:00"},
        ),
        ("Datum: 03.04.2025", {"datum": "03.04.2025", "device_time": "2025-04-03"}),
        ("Date: 07/26/2025", {"date": "07/26/2025", "device_time": "2025-07-26"}),
        ("Date: 03/04/2025", {"date": "03/04/2025"}),
        ("Birthday: 2025-07-26", {"birthday": "2025-07-26"}),
    ],
)
def test_quantities_and_dates(text: str, data: dict[str, Any]) -> None:
    assert told("Hello", text).data == data


def test_first_key_wins_and_values_are_cut() -> None:
    assert told("Hello", "a: " + "1" * 300 + "\na: 2\n").data == {"a": "1" * 200}


def test_keys_are_counted() -> None:
    assert len(told("Hello", "".join(f"key {number}: x\n" for number in range(100))).data) == 40


def test_title() -> None:
    assert told("Door 3", "x").title == "Door 3"
    assert told("x" * 300).title == "x" * 199 + "…"
    assert told("Alarm", "Alarm Event: Video Loss").title == "Video Loss"
    assert told("Alarm", "\n  This is an automatically generated mail.\n\n  Pump 3 stands  \n").title == "Pump 3 stands"
    assert told(None, "Please note:\n - the water leak in the cellar\nBye").title == "the water leak in the cellar"
    assert told("Alarm").title == "Alarm"
    assert told(None).title == "Mail without text"
    picture = {"name": "a.jpg", "type": "image/jpeg", "size": 1, "sha256": ""}
    assert told(None, attachments=[picture]).title == "a.jpg"
    assert told("", "line\x1b[2J one\x07\n").title == "line[2J one"


def test_hints() -> None:
    assert told("Hello", "Name: Yard\nSerial: 123\nModel: X1").device_name == "Yard"
    assert told("Hello", "Name: Yard\nSerial: 123\nModel: X1").serial == "123"
    assert told("Hello", "Name: Yard\nSerial: 123\nModel: X1").model == "X1"
    disk = told("Disk failure", "Name: Disk 3\nSerial: WD-1\nModel: WD40")
    assert (disk.device_name, disk.serial, disk.model) == (None, None, None)
    assert told("Hello", "Device Name: IP Camera").device_name is None


@pytest.mark.parametrize(
    ("maker", "mail"),
    [
        ("Hikvision", {"subject": "Embedded Net DVR: x"}),
        ("Dahua", {"subject": "x", "text": "Alarm Event: x\nAlarm Start Time(D/M/Y H:M:S): x"}),
        ("Synology", {"subject": "x", "helo": "Synology"}),
        ("Reolink", {"subject": "x", "sender_name": "Reolink yard"}),
        (None, {"subject": "Re: which Hikvision camera?", "text": "Or Dahua? Reolink? We have a QNAP."}),
        (None, {"subject": "x", "sender_name": "Brother Tom"}),
    ],
)
def test_manufacturer(maker: str | None, mail: dict[str, Any]) -> None:
    assert told(**mail).manufacturer == maker


# --- the profiles as files


def source(name: str = "generic") -> dict[str, Any]:
    return tomllib.loads((OURS / f"{name}.toml").read_text("utf-8"))


SHAPE: dict[str, dict[str, type]] = {
    "rule": {
        "kind": str, "state": str, "ends": bool, "severity": str, "vague": bool,
        "anywhere": str, "title": str, "short": str, "apart": list, "more": str, "more_title": str,
    },
    "pattern": {"zone": str, "if": str, "regex": str},
    "maker": {"name": str, "text": list, "sender": list, "keys": list},
}  # fmt: skip
KEYS = {
    "event", "severity", "channel", "device_name", "serial", "model",
    "device_name_alone", "serial_alone", "model_alone", "not_about", "numbered", "state",
}  # fmt: skip


@pytest.mark.parametrize("path", [OURS / "generic.toml"], ids=lambda path: path.stem)
def test_schema(path: Any) -> None:
    loaded = source(path.stem)
    assert loaded.keys() == {
        "name", "dull", "boilerplate", "keys", "slugs", "states", "switches", "not", "place", "severities",
        "more_states", "more_severities", *SHAPE,
    }  # fmt: skip
    assert loaded["name"] == path.stem
    assert loaded["keys"].keys() == KEYS
    assert loaded["states"].keys() == set(words.STATES)
    assert loaded["severities"].keys() == set(words.SEVERITIES)
    for table, shape in SHAPE.items():
        for entry in loaded[table]:
            for key, value in entry.items():
                assert isinstance(value, shape[key]), (table, key)
    for rule in loaded["rule"]:
        assert rule["kind"] in words.KINDS
        assert rule.get("state", "on") in words.STATES
        assert rule.get("severity", "info") in words.SEVERITIES
        assert rule.keys() & {*SCOPES, "apart"}
        assert all(pair.keys() == {"first", "then"} for pair in rule.get("apart", ()))
    assert set(loaded["keys"]["not_about"]) <= set(words.KINDS)
    assert Profile(loaded).name == path.stem


def test_phrases_are_written_as_they_are_compared() -> None:
    loaded = source()
    for rule in loaded["rule"]:
        for phrase in (one for key in SCOPES for one in listed(rule.get(key, ""))):
            assert " ".join(words_of(phrase)) == unaccented(phrase)
        for pair in rule.get("apart", ()):
            assert all(" ".join(words_of(one)) == unaccented(one) for key in pair for one in listed(pair[key]))
            assert all(len(words_of(one)) == 1 for one in listed(pair["then"]))
    for subject in listed(loaded["dull"]):
        assert " ".join(words_of(subject)) == unaccented(subject)
    tables = ("states", "more_states", "severities", "more_severities", "switches", "not", "place")
    for said in (said for name in tables for said in loaded[name].values()):
        assert all(words_of(word) == (unaccented(word),) for word in listed(said))
    for keys in loaded["keys"].values():
        for key in keys:
            assert re.fullmatch(r"[a-z0-9_.]+", key) or UNSPACED.match(key)
            assert len(key) <= MAX_KEY
    for slug, keys in loaded["slugs"].items():
        assert re.fullmatch("[a-z_]+", slug)
        assert all(UNSPACED.search(key) and key == unaccented(key.lower()) for key in keys)
    for maker in loaded["maker"]:
        assert all(words_of(word) == (word,) for word in maker.get("sender", ()))
        assert all(text == text.lower() for text in maker.get("text", ()))


def test_no_phrase_twice() -> None:
    """A phrase in two rules of the same scope could only ever mean the first."""
    seen: dict[tuple[str, str], str] = {}
    for rule in source()["rule"]:
        for key, scope in SCOPES.items():
            for phrase in listed(rule.get(key, "")):
                assert (scope, phrase) not in seen, (phrase, rule["kind"], seen[scope, phrase])
                seen[scope, phrase] = rule["kind"]


def repeats(tree: Any) -> list[int]:
    """The upper bounds of all repetitions in a parsed expression."""
    found: list[int] = []
    for operation, argument in tree:
        if operation in (codes.MAX_REPEAT, codes.MIN_REPEAT, codes.POSSESSIVE_REPEAT):
            found += [int(argument[1]), *repeats(argument[2])]
        elif operation is codes.SUBPATTERN:
            found += repeats(argument[-1])
        elif operation is codes.BRANCH:
            for branch in argument[1]:
                found += repeats(branch)
    return found


def test_expressions_are_bounded_and_ask_for_their_literal() -> None:
    for pattern in source()["pattern"]:
        assert all(bound <= 200 for bound in repeats(parser.parse(pattern["regex"]))), pattern
        assert pattern["if"] == pattern["if"].lower()
        assert pattern["zone"] in ("subject", "text")
        assert re.compile(pattern["regex"]).groupindex
        assert all(re.fullmatch(r"[a-z_]{1,40}", name) for name in re.compile(pattern["regex"]).groupindex)


def test_the_profile_is_read_once() -> None:
    assert profile() is profile()
