"""A few seconds of each scenario of script/torture: the law must hold, and the judge must be able to say no."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests import needs

TORTURE = Path(__file__).resolve().parents[2] / "script" / "torture.d"
SECONDS = {
    "kill": 5,
    "frozen-broker": 4,
    "disk-full": 3,
    "disk-failing": 3,
    "disk-slow": 3,
    "clock": 4,
    "files": 3,
    "memory": 3,
    "damage": 4,
    "power-cut": 8,
}


@pytest.fixture
def modules(monkeypatch):
    """The program's own modules can be imported."""
    monkeypatch.syspath_prepend(str(TORTURE))


def torture(*words):
    done = subprocess.run([sys.executable, str(TORTURE), *words], capture_output=True, text=True, timeout=110)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("scenario", SECONDS)
def test_the_law_holds(tmp_path, scenario):
    needs.program("mosquitto", "mosquitto")
    needs.program("gcc", "gcc libc6-dev")
    minutes = str(SECONDS[scenario] / 60)
    code, out, err = torture("--only", scenario, "--minutes", minutes, "--json", str(tmp_path / "table"))
    assert code == 0 or "skipped: a small disk" in out, out + err
    (row,) = json.loads((tmp_path / "table").read_text())["scenarios"]
    if row["skipped"]:
        assert os.getuid() != 0
        pytest.skip(row["skipped"])
    assert row["faults"] > 0
    assert row["acknowledged"] > 0
    assert [row[key] for key in ("lost", "not_stored", "two_ids", "permanent")] == [0, 0, 0, 0]


def test_an_unknown_scenario_is_named_with_the_right_ones():
    code, _, err = torture("--only", "kill,flood")
    assert code == 2
    assert "--only: there is no scenario flood; there are kill, frozen-broker, " in err


def test_no_time_is_refused():
    assert torture("--minutes", "0")[0] == 2


def test_the_program_and_this_list_name_the_same_scenarios():
    _, out, _ = torture("--help")
    assert out.split("scenarios: ")[1].replace("\n", " ").split(", ") == list(SECONDS) or all(
        name in out for name in SECONDS
    )


def judged(modules, mails, *, stored, events=None, heard=None, fault=""):
    """The account of senders' notes (number -> replies) against a store (id -> number) and a subscriber."""
    import law
    import load

    account = law.Account("made up")
    sent = {number: load.Sent(len(replies), list(replies)) for number, replies in mails.items()}
    events = {number: {one} for one, number in stored.items()} if events is None else events
    law.settle(
        account,
        sent,
        [],
        law.Kept(stored, events, fault),
        acknowledged_by_broker={},
        heard=[(one, number) for one, number in stored.items()] if heard is None else heard,
        must_hear=True,
    )
    return account


ID = [f"01M8{number:022}" for number in range(10)]


def ok(number):
    return f"250 2.0.0 Ok: stored as {ID[number]}".encode()


def test_the_judge_finds_nothing_where_all_is_well(modules):
    account = judged(
        modules, {1: [ok(1)], 2: [b"451 4.3.0 later", ok(2)], 3: []}, stored={ID[1]: 1, ID[2]: 2, ID[3]: 3}
    )
    account.check()
    assert (account.sent, account.acknowledged, account.stored, account.put_off) == (2, 2, 3, 1)


@pytest.mark.parametrize(
    ("what", "facts", "words"),
    [
        ("no row", {"stored": {ID[1]: 1}, "heard": [(ID[1], 1), (ID[2], 2)]}, "250 without a row: 2"),
        ("another mail's bytes", {"stored": {ID[1]: 1, ID[2]: 1}, "heard": [(ID[1], 1), (ID[2], 2)]}, "row: 2"),
        ("not delivered", {"stored": {ID[1]: 1, ID[2]: 2}, "heard": [(ID[1], 1)]}, "lost: 2"),
        (
            "two ids",
            {"stored": {ID[1]: 1, ID[2]: 2}, "heard": [(ID[1], 1), (ID[2], 2), (ID[3], 2)]},
            "events under two ids: 2",
        ),
        ("a broken file", {"stored": {ID[1]: 1, ID[2]: 2}, "fault": "integrity_check: bad"}, "integrity_check: bad"),
    ],
    ids=lambda value: value if isinstance(value, str) and " " in value and ":" not in value else "",
)
def test_the_judge_can_say_no(modules, what, facts, words):
    import law

    with pytest.raises(law.LawBroken, match=words):
        judged(modules, {1: [ok(1)], 2: [ok(2)]}, **facts).check()


def test_a_permanent_refusal_breaks_the_law(modules):
    import law

    with pytest.raises(law.LawBroken, match="5xx for a temporary trouble: 554"):
        judged(modules, {1: [b"554 5.3.0 disk full"]}, stored={}).check()


def test_a_repeat_is_counted_and_no_breach(modules):
    account = judged(modules, {1: [ok(1)]}, stored={ID[1]: 1}, heard=[(ID[1], 1)] * 3)
    account.check()
    assert account.repeats == 2
    assert Counter(account.row())["lost"] == 0
