"""Profiles as people write them: every refusal in its exact words, and ours, of which none is refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gateway.interpret.families import ENOUGH, OURS
from gateway.interpret.values import UNITS
from gateway.profile import check, check_folder

GOOD = """\
title = "Acme sirens"
group = "plant"
sources = ["the manual, page 3"]

[[clue]]
in = "subject"
words = ["acme siren"]
points = 10

[fields]
load = { key = "load", type = "number", unit = "%" }

[[mail]]
name = "sounds"
when = [{ subject = "sounds" }]
kind = "alarm"
state = "on"
off_after = 60
title = "It sounds at {load}"
"""
OURSELVES = [path for path in sorted(OURS.glob("*.toml")) if path.stem != "generic"]


def told(folder: Path, text: str, name: str = "acme") -> list[str]:
    """What is said of it, without the folder."""
    path = folder / f"{name}.toml"
    path.write_text(text, encoding="utf-8")
    return [str(problem).replace(f"{folder}/", "") for problem in check(path)]


@pytest.mark.parametrize("path", OURSELVES, ids=lambda path: path.stem)
def test_ours(path: Path) -> None:
    assert [str(problem) for problem in check(path)] == []


def test_a_good_one(tmp_path: Path) -> None:
    assert told(tmp_path, GOOD) == []


NO_FIELD = "There are load"
RUNS_AWAY = (
    "a line could keep this regular expression busy for minutes: its repeats can divide the same letters among them in "
    "too many ways. Put no repeat inside a repeat, such as (a+)+; and between .* and .* something that belongs to "
    "neither, as [^,]*,[^,]* has."
)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('title = "Acme sirens"\n', "", "acme.toml: the key 'title' is missing."),
        ("title = ", "titel = ", "acme.toml: titel: there is no such key here. Did you mean 'title'?"),
        (
            'group = "plant"',
            'group = "plants"',
            "acme.toml: group: 'plants' is no group of families. Did you mean 'plant'?",
        ),
        (
            'sources = ["the manual, page 3"]',
            "sources = []",
            "acme.toml: sources: must have at least 1 of them, not 0.",
        ),
        (
            'in = "subject"\nwords',
            'in = "subjekt"\nwords',
            "acme.toml:5: clue[0].in: 'subjekt' is no zone of a mail. Did you mean 'subject'?",
        ),
        (
            'words = ["acme siren"]',
            'words = ["!"]',
            "acme.toml:5: clue[0].words[0]: '!' has no letters or digits. A phrase is compared by its words.",
        ),
        (
            "points = 10",
            "points = 9",
            f"acme.toml: clue: all clues together have less than {ENOUGH} points: no mail would be the family's.",
        ),
        ("points = 10", "points = 1000", "acme.toml:5: clue[0].points: must be at most 100."),
        (
            'key = "load"',
            'key = "Load (%)"',
            "acme.toml: fields.load.key: 'Load (%)' is no slug of a key. Did you mean 'load'?",
        ),
        (
            'type = "number"',
            'type = "numeric"',
            "acme.toml: fields.load.type: 'numeric' is no type of field. Did you mean 'number'?",
        ),
        (
            'unit = "%"',
            'unit = "percent"',
            f"acme.toml: fields.load.unit: 'percent' is no unit. There are {', '.join(UNITS)}.",
        ),
        (
            'type = "number", unit',
            "unit",
            "acme.toml: fields.load: a field of type 'text' has no unit. Did you mean type = 'number'?",
        ),
        (
            'type = "number"',
            'type = "duration"',
            "acme.toml: fields.load: a duration can't be in '%'. There are ms, s, min, h, d.",
        ),
        (
            "load = {",
            "load = {}\ntruncated = {",
            "acme.toml: fields.truncated: 'truncated' is a name of ours. Take another.",
        ),
        (
            "load = {",
            "load = {}\nload_unit = {",
            "acme.toml: fields.load_unit: 'load_unit' can't be the name of a field. At most 35 of a-z, 0-9 and '_', "
            "not *_unit.",
        ),
        (
            'when = [{ subject = "sounds" }]',
            "when = []",
            "acme.toml:13: mail[0].when: must have at least 1 of them, not 0.",
        ),
        (
            "when = [{ subject",
            "when = [{ body",
            "acme.toml:13: mail[0].when[0].body: 'body' is no zone of a mail. There are helo, from, from_name, "
            "subject, text, attachment, auto-submitted, importance, list-id, organization, precedence, priority, "
            "reply-to, sender, user-agent, x-loop, x-mailer, x-priority, anywhere.",
        ),
        (
            'kind = "alarm"',
            'kind = "alarms"',
            "acme.toml:13: mail[0].kind: 'alarms' is no kind of event. Did you mean 'alarm'?",
        ),
        (
            "off_after = 60\n",
            "",
            "acme.toml:13: mail[0]: nothing ends the state 'on' of the kind 'alarm'. Give off_after in seconds (0: it "
            "stays on), or a mail of this kind with state = 'off'.",
        ),
        (
            'state = "on"\n',
            "",
            "acme.toml:13: mail[0].off_after: only a mail with state = 'on' ends by itself.",
        ),
        (
            "{load}",
            "{laod}",
            "acme.toml:13: mail[0].title: there is no field 'laod'. Did you mean 'load'?",
        ),
        (
            'title = "It sounds at {load}"',
            "pattern = [{ regex = 'x' }]",
            "acme.toml:13: mail[0].pattern[0]: the expression has no named group. Write (?P<name>...) around what "
            "is the field 'name'.",
        ),
        (
            'title = "It sounds at {load}"',
            "pattern = [{ has = 'At', regex = 'at (?P<x>.)' }]",
            "acme.toml:13: mail[0].pattern[0]: 'At' in 'has' must be in lower case. Write 'at'.",
        ),
        (
            'title = "It sounds at {load}"',
            "pattern = [{ in = 'subject', regex = '(?P<x>(a+)+)b' }]",
            f"acme.toml:13: mail[0].pattern[0].regex: {RUNS_AWAY}",
        ),
        (
            'title = "It sounds at {load}"',
            "pattern = [{ in = 'subject', regex = '(?P<x>.*) on (?P<y>.*)' }]",
            f"acme.toml:13: mail[0].pattern[0].regex: {RUNS_AWAY}",
        ),
        (
            'title = "It sounds at {load}"',
            "pattern = [{ in = 'subject', regex = '(?P<x>' }]",
            "acme.toml:13: mail[0].pattern[0].regex: this is no regular expression: missing ), unterminated subpattern "
            "at position 0.",
        ),
        (
            'title = "It sounds at {load}"',
            'severity = { field = "load", worse = ["9"] }',
            "acme.toml:13: mail[0].severity.worse: must be one of info, warning, critical.",
        ),
        (
            'title = "It sounds at {load}"',
            'severity = { field = "lod", info = ["9"] }',
            "acme.toml:13: mail[0].severity.field: there is no field 'lod'. Did you mean 'load'?",
        ),
        (
            'title = "It sounds at {load}"\n',
            '[[mail]]\nname = "sounds"\nwhen = [{ subject = "x" }]\nkind = "other"\n',
            "acme.toml:19: mail[1].name: there is another mail 'sounds'.",
        ),
        (
            'title = "It sounds at {load}"\n',
            '[[clue]]\nin = "helo"\nwords = "x"\npoints = 1\n',
            "acme.toml: mail: mails come last, each as [[mail]] at the beginning of a line. Move the rest above.",
        ),
        ('kind = "alarm"', "kind = alarm", "acme.toml:16: this is no TOML: Invalid value."),
    ],
)
def test_refusals(tmp_path: Path, old: str, new: str, words: str) -> None:
    assert old in GOOD
    assert told(tmp_path, GOOD.replace(old, new, 1)) == [words]


def test_names_of_files(tmp_path: Path) -> None:
    assert told(tmp_path, GOOD, "generic") == [
        "generic.toml: 'generic' is the profile of what no family knows. Give the file another name."
    ]
    assert told(tmp_path, GOOD, "Acme-1") == [
        "Acme-1.toml: the name of the file must be a family's: at most 35 of a-z, 0-9 and '_', a letter first."
    ]
    assert [str(problem).partition("/")[0] for problem in check_folder(tmp_path / "away")] == []
    (tmp_path / "acme.toml").mkdir()
    assert "can't be read: Is a directory" in [problem.message for problem in check_folder(tmp_path)]


def test_an_off_in_another_mail_ends_it(tmp_path: Path) -> None:
    ending = GOOD.replace("off_after = 60\n", "") + (
        '\n[[mail]]\nname = "silent"\nwhen = [{ subject = "silent" }]\nkind = "alarm"\nstate = "off"\n'
    )
    assert told(tmp_path, ending) == []
    by_field = GOOD.replace('state = "on"\noff_after = 60\n', 'state = { field = "load", on = ["1"], off = ["0"] }\n')
    assert told(tmp_path, by_field) == []
    never = by_field.replace(', off = ["0"]', "")
    assert [problem.partition(". Give")[0] for problem in told(tmp_path, never)] == [
        "acme.toml:13: mail[0]: nothing ends the state 'on' of the kind 'alarm'"
    ]


def test_the_readme_names_every_key() -> None:
    readme = (OURS / "README.md").read_text("utf-8")
    for word in ("clue", "words", "points", "unless", "off_after", "picture", "pattern", "has", "order", "values"):
        assert re.search(rf"\b{word}\b", readme)
