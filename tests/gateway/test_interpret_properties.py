"""What must hold for every mail, whatever its bytes: found by hypothesis, not by example."""

from __future__ import annotations

import base64
import binascii
import quopri
import string
from datetime import UTC, datetime
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.interpret import attachment, html, mime, names, transfer
from tests.fuzz.interpret import MAILS, WORDS, check, check_name

MAILISH = st.lists(st.sampled_from(WORDS) | st.binary(max_size=8), max_size=60).map(b"".join)


@settings(deadline=None)
@given(st.binary(max_size=2000))
def test_any_bytes(raw: bytes) -> None:
    check(raw)


@settings(deadline=None, max_examples=400)
@given(MAILISH)
def test_anything_like_a_mail(raw: bytes) -> None:
    check(raw)


@settings(deadline=None)
@given(st.sampled_from(MAILS), st.data())
def test_damaged_device_mail(path: Path, data: st.DataObject) -> None:
    raw = path.read_bytes()[:20_000]
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(raw)))
        until = min(len(raw), at + data.draw(st.sampled_from([0, 1, 2, 40, 10_000])))
        raw = raw[:at] + data.draw(st.binary(max_size=4)) + raw[until:]
    check(raw)


SCRIPTS = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Cf", "Zl", "Zp", "Cs", "Co", "Cn")), min_size=1, max_size=40
)
NAMES = st.text("abcXYZ 0123äöüßéñжщ温度報警움직임ア", min_size=1, max_size=40).filter(
    lambda name: name.strip(" .") == name and bool(name)
)


@settings(deadline=None)
@given(
    subject=SCRIPTS,
    sender=st.text("abc ÄÖ温д", min_size=1, max_size=20),
    lines=st.lists(SCRIPTS, max_size=5),
    files=st.lists(st.tuples(NAMES, st.binary(max_size=600)), max_size=4),
    rich=st.booleans(),
)
def test_a_mail_by_the_standard_library_reads_back_equal(
    subject: str, sender: str, lines: list[str], files: list[tuple[str, bytes]], rich: bool
) -> None:
    mail = EmailMessage(policy=SMTP)
    mail["From"] = f'"{sender}" <cam@lan.example>'
    mail["To"] = "alerts@gw.local"
    mail["Subject"] = subject
    mail["Date"] = format_datetime(datetime(2026, 11, 22, 19, 11, 28, tzinfo=UTC))
    text = "".join(line + "\n" for line in lines)
    mail.set_content(text)
    if rich and text.strip():
        mail.add_alternative("<p>another form</p>", subtype="html")
    for name, data in files:
        mail.add_attachment(data, maintype="application", subtype="x-test", filename=name)
    raw = mail.as_bytes()
    reading = check(raw)
    assert reading.subject is not None
    assert " ".join(reading.subject.split()) == " ".join(subject.split())
    assert reading.sender == "cam@lan.example"
    assert reading.date == "2026-11-22T19:11:28Z"
    assert reading.text.rstrip("\n") == text.rstrip("\n")
    assert [one["name"] for one in reading.attachments] == [name for name, _ in files]
    assert [attachment(raw, index) for index in range(len(files))] == [data for _, data in files]
    assert reading.truncated == []


@pytest.mark.parametrize(
    ("charset", "text"),
    [
        ("us-ascii", "plain"),
        ("iso-8859-1", "Türkontakt geöffnet"),
        ("iso-8859-2", "Pohyb zjištěn, dveře"),
        ("windows-1250", "Żółw wykryty"),
        ("iso-8859-7", "Κίνηση"),
        ("windows-1251", "Обнаружено движение"),
        ("koi8-r", "Обнаружено движение"),
        ("iso-8859-9", "Değişiklik yok, kapi açik"),
        ("gb2312", "移动侦测报警"),
        ("gbk", "移动侦测报警"),
        ("gb18030", "移动侦测报警 𠀀"),
        ("big5", "移動偵測警報"),
        ("shift_jis", "動体を検知しました"),
        ("iso-2022-jp", "動体を検知しました"),
        ("euc-jp", "動体を検知しました"),
        ("euc-kr", "움직임이 감지되었습니다"),
        ("utf-8", "Tür 温度 🙂"),
        ("utf-16", "Tür 温度"),
        ("utf-32", "Tür 温度"),
        ("tis-620", "ตรวจพบ"),
        ("macintosh", "Tür"),
        ("cp437", "Tür"),
    ],
)
@pytest.mark.parametrize("encoding", ["base64", "quoted-printable", "8bit"])
def test_declared_charsets(charset: str, text: str, encoding: str) -> None:
    codec = {"macintosh": "mac_roman"}.get(charset, charset)
    body = (text + "\r\n").encode(codec)
    if encoding == "base64":
        body = base64.encodebytes(body)
    elif encoding == "quoted-printable":
        body = quopri.encodestring(body)
    elif charset in ("utf-16", "utf-32"):
        return  # no line of a mail can look like that
    head = f"Subject: x\r\nContent-Type: text/plain; charset={charset}\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n"
    reading = check(head.encode() + body)
    assert reading.text == text + "\n"
    assert reading.truncated == []


@settings(deadline=None)
@given(st.binary(max_size=400), st.integers(1, 90), st.sampled_from([b"\r\n", b"\n", b"", b"\r\r\n", b" \t"]))
def test_base64_in_slices(data: bytes, width: int, end: bytes) -> None:
    encoded = base64.b64encode(data)
    lines = end.join(encoded[at : at + width] for at in range(0, len(encoded), width))
    for size in (1, 5, 64, 1000):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(transfer, "SLICE", size)
            damage: list[str] = []
            assert b"".join(transfer.decoded(lines, 0, len(lines), "base64", damage)) == data
            assert damage == []
            unpadded = lines.rstrip(b"=")
            assert b"".join(transfer.decoded(unpadded, 0, len(unpadded), "base64", damage)) == data


@settings(deadline=None, max_examples=500)
@given(st.text("ABcd/+=!\n", max_size=40).map(str.encode) | st.binary(max_size=40))
def test_base64_is_damaged_where_the_standard_library_says_so(noise: bytes) -> None:
    """It is much slower, and as strict as RFC 4648 §3 asks for."""
    clean = noise.translate(None, b"\r\n\t \0")
    damage: list[str] = []
    found = b"".join(transfer.decoded(noise, 0, len(noise), "base64", damage))
    if len(clean) % 4 == 0:  # missing padding is none to us
        try:
            assert found == binascii.a2b_base64(clean, strict_mode=True)
        except binascii.Error:
            assert damage
        else:
            assert not damage


@settings(deadline=None, max_examples=500)
@given(
    st.lists(st.sampled_from([b"\n--b", b"\n---b", b"\n--", b"\n", b"-", b"b", b"aaa"]), max_size=12).map(b"".join),
    st.sampled_from([b"\n--", b"\n---", b"\n--b", b"\n---b", b"\n--a-b"]),
    st.integers(0, 8),
    st.integers(0, 40),
    *[st.integers(1, 5)] * 2,
)
def test_delimiters_are_found_where_bytes_find_them(
    text: bytes, needle: bytes, start: int, end: int, rare: int, stretch: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mime, "_RARE", rare)
        patch.setattr(mime, "_STRETCH", stretch)
        assert mime._find(text, needle, start, end) == text.find(needle, start, end)


@settings(deadline=None, max_examples=500)
@given(
    st.lists(st.sampled_from(["Ab+/", "zZ09"]), min_size=2, max_size=8),
    st.just("Ab+/") | st.text("AAAAAABcd/+=! ", min_size=4, max_size=4),
    st.sampled_from([("\n", "!"), ("\r\n", "!\n"), ("\r\n", "\r!")]),
    *[st.integers(0, 8)] * 2,
)
def test_base64_in_lines_of_one_length_is_read_as_any_other(
    lines: list[str], odd: str, ends: tuple[str, str], odd_at: int, damaged_at: int
) -> None:
    """It has a way of its own, which a blank in front closes."""
    lines[odd_at:odd_at] = [odd]
    text = "".join(line + ends[number == damaged_at] for number, line in enumerate(lines)).encode()
    text = text.removesuffix(b"\n")
    quick: list[str] = []
    slow: list[str] = []
    found = b"".join(transfer.decoded(text, 0, len(text), "base64", quick))
    assert found == b"".join(transfer.decoded(b" " + text, 0, 1 + len(text), "base64", slow))
    assert quick == slow


@settings(deadline=None)
@given(st.text("ABcd/+=!\n", max_size=100).map(str.encode) | st.binary(max_size=300))
def test_damaged_base64_in_slices_is_the_same_as_in_one(noise: bytes) -> None:
    whole = b"".join(transfer.decoded(noise, 0, len(noise), "base64", []))
    for size in (1, 4, 7):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(transfer, "SLICE", size)
            assert b"".join(transfer.decoded(noise, 0, len(noise), "base64", [])) == whole


@settings(deadline=None)
@given(st.binary(max_size=400), st.integers(3, 90))
def test_quoted_printable_in_slices(data: bytes, size: int) -> None:
    encoded = quopri.encodestring(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transfer, "SLICE", size)
        pieces = b"".join(transfer.decoded(encoded, 0, len(encoded), "quoted-printable", []))
    assert pieces == quopri.decodestring(encoded)


@settings(deadline=None)
@given(st.text(max_size=300), st.sampled_from(["image/jpeg", "message/rfc822", "a/b"]), st.integers(1, 100))
def test_names(name: str, kind: str, number: int) -> None:
    check_name(names.cleaned(name, kind, number))


@settings(deadline=None)
@given(st.text("<>/!-?pdivtr '\"=&#;x\n a1", max_size=300), st.integers(1, 100))
def test_any_html(page: str, limit: int) -> None:
    text = html.to_text(page, limit)
    assert len(text) <= len(page) * 4 + 8


@settings(deadline=None)
@given(
    st.lists(st.text(string.ascii_letters + " äß", min_size=1, max_size=20).filter(str.strip), min_size=1, max_size=8)
)
def test_html_paragraphs_keep_their_words(paragraphs: list[str]) -> None:
    page = "".join(f"<p class='a>b'>{text}</p>\n" for text in paragraphs)
    assert html.to_text(page, 10_000) == "\n\n".join(" ".join(text.split()) for text in paragraphs)
