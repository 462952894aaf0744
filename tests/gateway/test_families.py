"""Families: which one a mail is from, what its profile says of it, and what a wrong profile can do."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest

from gateway.interpret import Meaning, Reading, meaning
from gateway.interpret.families import OURS, Library, Said, ours
from gateway.interpret.meaning import Why

HEAD = """\
title = "Acme sirens"
manufacturer = "Acme"
model = "S1"
group = "plant"
sources = ["the manual"]

[[clue]]
in = "subject"
words = ["acme siren", "サイレン"]
points = 10

[[clue]]
in = "helo"
words = "siren"
regex = '^siren-\\d'
points = 3

[[clue]]
in = "text"
words = "not a siren"
points = -20

[fields]
load = { key = ["load", "last"], type = "number", unit = "%" }
level = {}
device_name = { key = "unit" }

[[pattern]]
has = ["zone"]
regex = '^zone (?P<zone>\\d+) level (?P<level>\\w+)$'
"""
MAILS = """
[[mail]]
name = "sounds"
when = [{ anywhere = ["sounds", "heult"] }, { subject = "alarm", text = "zone" }]
unless = ["in a test"]
kind = "alarm"
state = "on"
severity = { field = "level", critical = ["high"], info = "low", otherwise = "warning" }
title = ["Zone {zone} at {load}", "It sounds"]
off_after = 30
picture = "cam*.jpg"
data = { loud = true }

[[mail]]
name = "switched"
when = [{ subject = "switched" }]
kind = "alarm"
state = { field = "level", on = ["high"], off = ["low", "none"] }
off_after = 0
picture = "none"
"""


class Greeted(NamedTuple):
    helo: str = ""


def family(folder: Path, text: str, name: str = "acme") -> Library:
    (folder / f"{name}.toml").write_text(text, encoding="utf-8")
    return Library(OURS, folder)


@pytest.fixture
def acme(tmp_path: Path) -> Library:
    return family(tmp_path, HEAD + MAILS)


def told(library: Library, subject: str, text: str = "", helo: str = "", **reading: Any) -> Meaning:
    return meaning(Reading(subject=subject, text=text, **reading), Greeted(helo), library)


def scores(library: Library, subject: str, text: str = "", helo: str = "") -> dict[str, int]:
    said = Said(Reading(subject=subject, text=text), Greeted(helo))
    return {score.family.name: score.points for score in library.scores(said)}


def test_scores(acme: Library) -> None:
    assert scores(acme, "ACME-Siren: sounds") == {"acme": 10}
    assert scores(acme, "Acme siren sounds", helo="siren-7") == {"acme": 13}
    assert scores(acme, "x", helo="siren-x") == {}
    assert scores(acme, "x", helo="siren-1") == {"acme": 3}
    assert scores(acme, "Acme sirens sound") == {}
    assert scores(acme, "Acme siren", "This is not a siren.") == {}
    assert scores(acme, "新しいサイレンの警報") == {"acme": 10}


def test_the_better_family_has_it_and_of_equals_the_first_by_name(tmp_path: Path) -> None:
    family(tmp_path, HEAD.replace("points = 10", "points = 12") + MAILS, "better")
    library = family(tmp_path, HEAD + MAILS)
    assert told(library, "Acme siren sounds").profile == "better"
    library = family(tmp_path, HEAD.replace("points = 10", "points = 12") + MAILS, "able")
    assert told(library, "Acme siren sounds").profile == "able"


def test_what_a_profile_says(acme: Library) -> None:
    result = told(acme, "Acme siren sounds", "Unit: Yard\nLoad: 45,5 Percent\nOther: 7 V\nzone 3 level High\n")
    assert (result.kind, result.state, result.severity, result.off_after) == ("alarm", "on", "critical", 30)
    assert result.title == "Zone 3 at 45.5"
    assert result.data == {
        "loud": True, "zone": "3", "level": "High", "load": 45.5, "load_unit": "%", "other": 7, "other_unit": "V",
    }  # fmt: skip
    assert (result.device_name, result.manufacturer, result.model, result.profile) == ("Yard", "Acme", "S1", "acme")


def test_severity_and_state_by_a_field(acme: Library) -> None:
    assert told(acme, "Acme siren sounds", "zone 3 level low").severity == "info"
    assert told(acme, "Acme siren sounds", "zone 3 level odd").severity == "warning"
    assert told(acme, "Acme siren sounds").severity == "warning"
    assert told(acme, "Acme siren switched", "zone 3 level HIGH").state == "on"
    assert told(acme, "Acme siren switched", "zone 3 level none").state == "off"
    assert told(acme, "Acme siren switched").state is None


def test_when_and_unless(acme: Library) -> None:
    assert told(acme, "Acme siren: Alarm", "zone 1").title == "It sounds"
    assert told(acme, "Acme siren: Alarm").title == "Acme siren: Alarm"
    assert told(acme, "Acme siren heult").title == "It sounds"
    assert told(acme, "Acme siren sounds", "It is in a test.").title == "Acme siren sounds"
    nothing = told(acme, "Acme siren: door opened")
    assert (nothing.kind, nothing.state, nothing.profile, nothing.manufacturer) == ("door", "on", "acme", "Acme")
    assert nothing.off_after is None


def test_the_picture(acme: Library) -> None:
    def pictures() -> list[Any]:
        return [{"name": name, "type": "image/jpeg", "size": 9, "sha256": ""} for name in ("a.jpg", "Cam1.JPG")]

    reading = Reading(subject="Acme siren sounds", attachments=pictures(), picture=0)
    meaning(reading, Greeted(), acme)
    assert reading.picture == 1
    reading = Reading(subject="Acme siren switched", attachments=pictures(), picture=0)
    meaning(reading, Greeted(), acme)
    assert reading.picture is None
    reading = Reading(subject="Acme siren sounds", attachments=pictures()[:1], picture=0)
    meaning(reading, Greeted(), acme)
    assert reading.picture == 0


def test_a_profile_can_be_told(acme: Library) -> None:
    reading = Reading(subject="It sounds")
    assert meaning(reading, Greeted(), acme).profile == "generic"
    assert meaning(reading, Greeted(), acme, family="acme").title == "It sounds"
    assert meaning(reading, Greeted(), acme, family="acme").profile == "acme"
    assert meaning(reading, Greeted(), acme, family="what?").profile == "generic"
    siren = Reading(subject="Acme siren sounds")
    assert meaning(siren, Greeted(), acme, family="generic").profile == "generic"
    assert meaning(siren, Greeted(), acme, family="what?").profile == "acme"


def test_why(acme: Library) -> None:
    why: list[Why] = []
    text = "\nLoad: 9\nzone 3 level high"
    meaning(Reading(subject="Acme siren sounds", text=text), Greeted("siren-1"), acme, why=why)
    assert why[0].scores[0].clues == ["10 for 'acme siren' in subject", "3 for 'siren' in helo"]
    assert why[0].match
    assert why[0].match.mail == "sounds"
    assert [(one.name, one.where) for one in why[0].match.found] == [
        ("loud", "by the profile"),
        ("zone", "line 3 of the text"),
        ("level", "line 3 of the text"),
        ("load", "the line load"),
        ("load_unit", "the line load"),
    ]


def test_ones_own_takes_the_place_of_ours(tmp_path: Path) -> None:
    library = family(tmp_path, HEAD + MAILS, "hikvision")
    assert library.families["hikvision"].path == tmp_path / "hikvision.toml"
    assert told(library, "Acme siren sounds").profile == "hikvision"
    assert len(library.families) == len(ours().families)


@pytest.mark.parametrize(
    "text",
    ["no TOML", "title = 1", HEAD.replace("points = 10", "points = 'x'"), HEAD.replace("[[clue]]", "[clue]", 1)],
)
def test_a_file_that_is_none_is_left_out(tmp_path: Path, text: str) -> None:
    library = family(tmp_path, text + MAILS, "hikvision")
    if (tmp_path / "hikvision.toml") in library.broken:
        assert library.families["hikvision"].path == OURS / "hikvision.toml"
    assert told(library, "Hello").kind == "other"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("^siren-", "^(siren-"),
        ('kind = "alarm"', ""),
        ("(?P<zone>\\d+)", "(?P<zone>(a+)+)"),
        ("(?P<zone>", "(?P<zone"),
        ("[fields]", "[field]"),
    ],
)
def test_a_wrong_one_that_nobody_checked_does_no_harm(tmp_path: Path, old: str, new: str) -> None:
    library = family(tmp_path, (HEAD + MAILS).replace(old, new))
    result = told(library, "Acme siren sounds", "zone 3 level high", helo="siren-1")
    assert result.kind in ("alarm", "other")
    assert (tmp_path / "acme.toml" in library.broken) == (old != "[fields]")
    assert told(library, "Acme siren sounds", "zone 3 level high").kind == result.kind


def test_nothing_is_compiled_or_read_before_it_is_needed() -> None:
    library = Library(OURS)
    assert all(one._ready is None for one in library.families.values())
    told(library, "Hello", "How are you?")
    assert all(one._ready is None for one in library.families.values())
    told(library, "Embedded Net DVR: Motion Detected On Channel A1", "EVENT TYPE: Motion Detected\nDVR S/N: 1")
    assert [name for name, one in library.families.items() if one._ready] == ["hikvision"]


def test_data_stays_bounded(acme: Library) -> None:
    lines = "".join(f"key {number}: 7 V\n" for number in range(100))
    result = told(acme, "Acme siren sounds", lines + f"zone 3 level {'x' * 1000}\n")
    assert len(result.data) == 40
    assert all(len(str(value)) <= 200 for value in result.data.values())
