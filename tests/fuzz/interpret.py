"""Fuzzes `interpret`: whatever a mail is, it is read, and what is read is bounded and safe to pass on.

An input is the mail, so the seeds and the files that are kept are `.eml` files.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import re
import string
from collections.abc import Iterator
from pathlib import Path

from gateway.api import Envelope
from gateway.interpret import MAX_ADDRESSES, MAX_ATTACHMENTS, MAX_SUBJECT, MAX_TEXT, Reading, attachment, meaning, read
from gateway.wire.event import KINDS, SEVERITIES, STATES

MAILS = sorted((Path(__file__).parents[1] / "mails").glob("*.eml"))
ENVELOPE = Envelope("lan-mail", "192.168.1.20", "device", "", ["alerts@gw.local"])
SLUG = frozenset(string.ascii_lowercase + string.digits + "_")
CONTROL = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029]")
WORDS = [
    b"\r\n", b"\n", b"\r\n\r\n", b"\r", b" ", b"\t", b"\0", b"--b", b"--b--", b"\r\n--b\r\n", b"\r\n--b--\r\n",
    b"--c\r\n", b"From: ", b"Subject: ", b"To: ", b"Date: Sun, 22 Nov 2026 10:00:00 +0100\r\n", b"Message-ID: ",
    b"Content-Type: multipart/mixed; boundary=b\r\n", b'Content-Type: multipart/alternative; boundary="c"\r\n',
    b"Content-Type: text/html; charset=gbk\r\n", b"Content-Type: text/plain; charset=utf-16\r\n",
    b"Content-Type: image/jpeg; name=", b"Content-Type: message/rfc822\r\n", b"boundary=b\r\n",
    b"Content-Transfer-Encoding: base64\r\n", b"Content-Transfer-Encoding: quoted-printable\r\n",
    b"Content-Disposition: attachment; filename*0*=utf-8''%C3%9C; filename*1=", b'filename="../', b"a@b", b"<", b">",
    b'"', b"(", b"\\", b";", b"=", b"=?utf-8?B?", b"=?gbk?q?", b"?=", b"QUJD", b"=C3", b"=\r\n", b"\xc3\xbc",
    b"\xb1\xa8", b"\xff", b"\x1b$B", b"Motion Detected", b"Channel: 1", b"EVENT TYPE(NUM): a(b)",
    b"charset=iso-2022-jp", b"charset=koi8-r", b"begin 644 x\n", b"X-Priority: 1\r\n", b"[critical]", b"Alarm: on",
    b"<td>", b"<pre>", b"<!--", b"-->", b"<p>", b"<script>", b"</script>", b"<![CDATA[", b"&#", b"&#x1f;", b"&nbsp;",
    b"text",
]  # fmt: skip


def seeds() -> Iterator[bytes]:
    """Every mail; of the big ones the beginning."""
    for path in MAILS:
        yield path.read_bytes()[:20_000]


def fuzz_interpret(data: bytes) -> None:
    """AssertionError if a reading or its meaning breaks a promise; nothing else is raised."""
    check(data)  # whose meaning may choose another picture for its reading
    if data:
        with mmap.mmap(-1, len(data)) as mapped:  # as the store gives a big mail
            mapped.write(data)
            assert vars(read(mapped)) == vars(read(data))


def check(raw: bytes) -> Reading:
    """What a reading and its meaning promise for any mail at all."""
    reading = read(raw)
    told = meaning(reading, ENVELOPE)
    assert not any("report this as a bug" in words for words in reading.truncated), reading.truncated
    # Whatever the mail was, it can go out as JSON in UTF-8.
    json.dumps([vars(reading), vars(told)], ensure_ascii=False).encode("utf-8")
    hints = told.manufacturer, told.model, told.device_name, told.serial
    for line in (
        reading.subject, reading.sender, reading.sender_name, *reading.to, reading.message_id,
        *reading.headers.values(), *reading.truncated, *reading.charsets, told.title, *hints,
        *(value for value in told.data.values() if isinstance(value, str)),
    ):  # fmt: skip
        assert line is None or (not CONTROL.search(line) and len(line) <= 4096), line
    assert len(reading.subject or "") <= MAX_SUBJECT
    assert len(reading.to) <= MAX_ADDRESSES
    assert len(reading.text) <= MAX_TEXT
    assert "\0" not in reading.text
    assert "\r" not in reading.text
    assert len(reading.truncated) + len(reading.charsets) <= 3 * MAX_ATTACHMENTS
    assert reading.date is None or re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", reading.date)
    assert told.kind in KINDS
    assert told.state in (None, *STATES)
    assert told.severity in SEVERITIES
    assert 1 <= len(told.title) <= 200
    assert len(told.data) <= 40 + 6
    for key, value in told.data.items():
        assert 1 <= len(key) <= 40
        assert set(key) <= SLUG
        assert (1 <= len(value) <= 200) if isinstance(value, str) else abs(value) < 1e19
    assert all(hint is None or 1 <= len(hint) <= 200 for hint in hints)
    assert len(reading.attachments) <= MAX_ATTACHMENTS
    for index, one in enumerate(reading.attachments):
        data = attachment(raw, index)
        assert (len(data), hashlib.sha256(data).hexdigest()) == (one["size"], one["sha256"])
        assert re.fullmatch("[!#-.0-~]{1,60}/[!#-.0-~]{1,100}", one["type"])
        check_name(one["name"])
    assert reading.picture is None or reading.picture < len(reading.attachments)
    return reading


def check_name(name: str) -> None:
    """What a name of an attachment promises to whoever makes a file of it."""
    assert 1 <= len(name) <= 100
    assert not set(name) & set('/\\:<>"|?*\u202e\u200b')
    assert not CONTROL.search(name)
    assert name not in (".", "..")
    assert name == name.strip(" .")
