"""Every mail of tests/mails against what it must come out as.

A mail is a pair: NAME.eml, byte for byte as it left the device, and NAME.json, what must be read from it. Each key of
`reading` and `meaning` must be equal; `text_contains` and `data_contains` are the exceptions. What a file doesn't
mention must be empty where anything else would be a surprise: attachments, remarks on charsets, and repairs. The
meaning is that of the generic profile; those of families have samples of their own (`test_profile_samples`).
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from gateway.api import Envelope
from gateway.interpret import attachment, meaning, read
from gateway.wire import event as words

MAILS = Path(__file__).parents[1] / "mails"
NAMES = sorted(path.stem for path in MAILS.glob("*.eml"))


def expectation(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((MAILS / f"{name}.json").read_text("utf-8"))
    return loaded


def envelope(**said: Any) -> Envelope:
    return Envelope("lan-mail", "192.168.1.20", said.get("helo", "device"), "device@lan.example", ["alerts@gw.local"])


@pytest.mark.parametrize("name", NAMES)
def test_mail(name: str) -> None:
    raw = (MAILS / f"{name}.eml").read_bytes()
    expected = expectation(name)
    reading = read(raw)
    wanted = {"attachments": [], "truncated": [], "charsets": [], **expected["reading"]}
    for piece in wanted.pop("text_contains", ()):
        assert piece in reading.text
    assert {key: getattr(reading, key) for key in wanted} == wanted
    for index, one in enumerate(reading.attachments):
        data = attachment(raw, index)
        assert (len(data), hashlib.sha256(data).hexdigest()) == (one["size"], one["sha256"])

    told = meaning(reading, envelope(**expected.get("envelope", {})), family="generic")
    wanted = dict(expected.get("meaning", {}))
    for key, value in wanted.pop("data_contains", {}).items():
        assert told.data.get(key) == value
    assert {key: getattr(told, key) for key in wanted} == wanted
    assert told.kind in words.KINDS
    assert told.state in (None, *words.STATES)
    assert told.severity in words.SEVERITIES
    assert told.profile == "generic"


def test_every_mail_has_its_expectation_and_says_where_it_comes_from() -> None:
    assert len(NAMES) >= 100
    assert sorted(path.stem for path in MAILS.glob("*.json")) == NAMES
    for name in NAMES:
        expected = expectation(name)
        assert expected.keys() <= {"about", "source", "provenance", "envelope", "reading", "meaning"}
        assert all(expected[key] for key in ("about", "source", "provenance", "reading"))


def test_git_keeps_the_mails_byte_for_byte() -> None:
    assert "*.eml -text" in (MAILS / ".gitattributes").read_text("utf-8").splitlines()


def test_attachment_that_is_not_there() -> None:
    with pytest.raises(LookupError) as refused:
        attachment(b"Subject: x\r\n\r\ntext\r\n", 1)
    assert refused.value.args == ("the mail has no attachment number 1; it has 0, counted from 0",)
    with pytest.raises(LookupError):
        attachment((MAILS / "name-traversal.eml").read_bytes(), -1)
