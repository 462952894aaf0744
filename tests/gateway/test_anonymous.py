"""A sample that can be shown: nobody is in it any more, and a profile takes it for the same."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.anonymous import _PICTURES, anonymous
from gateway.interpret import attachment, meaning, read
from gateway.interpret.families import Said, ours

MAILS = sorted((Path(__file__).parents[1] / "mails").rglob("*.eml"))


class Nobody(NamedTuple):
    helo: str = ""


def changed(raw: bytes, secret: bytes = b"secret") -> bytes:
    return anonymous(raw, ours().family(Said(read(raw), Nobody())), secret)


def shape(raw: bytes) -> tuple[Any, ...]:
    reading = read(raw)
    told = meaning(reading, Nobody())
    return (
        told.profile, told.kind, told.state, told.severity, told.off_after, len(told.data), reading.charsets,
        [one["type"] for one in reading.attachments], reading.picture,
    )  # fmt: skip


@pytest.mark.parametrize("path", MAILS, ids=lambda path: path.stem)
def test_it_is_taken_for_the_same(path: Path) -> None:
    raw = path.read_bytes()
    assert shape(changed(raw)) == shape(raw)


MAIL = b"""\
Received: from nas.smith-family.de (nas.smith-family.de [203.0.113.77]) by mx; Sat, 26 Jul 2025 16:53:09 +0200
From: Jane Smith <jane.smith@smith-family.de>
To: alerts@smith-family.de
Subject: =?utf-8?B?U01BUlQgZXJyb3IgaW4gSmFuZSBTbWl0aHMgS8O8Y2hl?= for Jane Smith
Date: Sat, 26 Jul 2025 16:53:09 +0200
Message-ID: <20250726165309.12345678@nas.smith-family.de>
MIME-Version: 1.0
Content-Type: multipart/mixed; boundary="b0undary20250726"

--b0undary20250726
Content-Type: text/plain; charset=iso-8859-1
Content-Transfer-Encoding: quoted-printable

Host Name: smithnas
User: jane
Serial Number: WD-WCC4E1234567
MAC: 00:11:32:aa:bb:cc, also 00-11-32-AA-BB-CC, IP 203.0.113.77 and 2a02:8108:1234:5678::2
Disk 3 on smithnas is failing since 26.07.2025, S/N:ZA1234XY at 16:53
See https://nas.smith-family.de:5001/status and 203.0.113.77; Gr=FC=DFe

--b0undary20250726
Content-Type: image/jpeg; name="20250726_jane.jpg"
Content-Transfer-Encoding: base64

/9j/4AAQSkZJRgABAQEASABIAAD/
--b0undary20250726--
"""


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
def test_nobody_is_left_in_it(line_end: bytes) -> None:
    raw = MAIL.replace(b"\n", line_end)
    result = changed(raw)
    reading = read(result)
    everything = result.decode("latin-1") + (reading.subject or "") + reading.text
    for private in (
        "smith", "jane", "203.0.113", "2a02", "00:11:32", "00-11-32", "WCC4E1234567", "ZA1234XY", "2025-07",
        "26.07.2025", "26 Jul 2025", "12345678",
    ):  # fmt: skip
        assert private.lower() not in everything.replace("b0undary20250726", "").lower(), private
    assert shape(result) == shape(raw)
    assert result.count(b"\r\n") == result.count(b"\n") * (line_end == b"\r\n")
    lines = reading.text.splitlines()
    host = lines[0].partition(": ")[2]
    assert lines[4].startswith(f"Disk 3 on {host} is failing since ")
    assert re.search(r"MAC: 02:00:00:00:00:01, also 02-00-00-00-00-0\d, IP 192\.0\.2\.1 and 2001:db8::1$", lines[3])
    assert lines[5].endswith("and 192.0.2.1; Grüße")
    assert base64.b64encode(attachment(result, 0)).startswith(_PICTURES["image/jpeg"][:40].encode())


def test_dates_go_back_by_whole_weeks_and_are_the_same_everywhere() -> None:
    raw = b"Subject: x\r\nDate: Sat, 26 Jul 2025 16:53:09 +0200\r\n\r\n"
    raw += b"2025-07-26 2025/7/26 26.07.2025 20250726165309 x.\r\n"
    text = changed(raw).decode()
    days = re.findall(r"\b(\d\d) [A-Z][a-z]{2} (\d{4})", text)
    (day, year) = days[0]
    assert year < "2026"
    assert int(read(text.encode()).date[8:10]) == int(day)  # type: ignore[index]
    iso = re.search(
        r"(\d{4})-(\d\d)-(\d\d) (\d{4})/(\d{1,2})/(\d{1,2}) (\d\d)\.(\d\d)\.(\d{4}) (\d{8})165309 x\.", text
    )
    assert iso
    assert iso[3] == iso[7] == day
    assert int(iso[6]) == int(day)
    assert iso[10] == f"{iso[1]}{iso[2]}{iso[3]}"
    import datetime

    assert datetime.date(int(iso[1]), int(iso[2]), int(iso[3])).strftime("%a") == "Sat"


def test_the_secret_decides() -> None:
    assert changed(MAIL) == changed(MAIL)
    assert changed(MAIL) != changed(MAIL, b"another")


def test_placeholders_are_pictures() -> None:
    assert {kind: base64.b64decode(text)[:4] for kind, text in _PICTURES.items()} == {
        "image/jpeg": b"\xff\xd8\xff\xe0", "image/png": b"\x89PNG", "image/gif": b"GIF8",
    }  # fmt: skip


@given(st.binary(max_size=400))
def test_any_bytes_will_do(raw: bytes) -> None:
    changed(b"From: a@b\r\nSubject: x\r\n\r\n" + raw)
    changed(raw)
