"""What hostile and huge mails may cost: each bound by its words, memory by measurement.

Time is held by a generous deadline on mails so big that anything worse than linear would be far beyond it.
"""

from __future__ import annotations

import base64
import mmap
import os
import random
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.api import Envelope
from gateway.interpret import Reading, attachment, meaning, read

MEBIBYTE = 1024 * 1024
MULTIPART = b"Subject: p\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n"


def nested(levels: int) -> bytes:
    opening = b"".join(
        b'--b%d\r\nContent-Type: multipart/mixed; boundary="b%d"\r\n\r\n' % (level, level + 1)
        for level in range(levels)
    )
    text = b"--b%d\r\n\r\ndeep down\r\n" % levels
    closing = b"".join(b"--b%d--\r\n" % level for level in range(levels, -1, -1))
    return b'Subject: deep\r\nContent-Type: multipart/mixed; boundary="b0"\r\n\r\n' + opening + text + closing


def camera_mail(picture: bytes) -> bytes:
    encoded = base64.encodebytes(picture).replace(b"\n", b"\r\n")
    part = b"Content-Type: image/jpeg; name=big.jpg\r\nContent-Transfer-Encoding: base64\r\n\r\n" + encoded
    return MULTIPART + b"--b\r\n\r\nhello\r\n--b\r\n" + part + b"--b--\r\n"


def text_mail(text: bytes, kind: bytes = b"text/plain", encoding: bytes = b"8bit") -> bytes:
    return b"Content-Type: %s\r\nContent-Transfer-Encoding: %s\r\n\r\n%s" % (kind, encoding, text)


def test_depth() -> None:
    assert read(nested(49)).text == "deep down"
    assert read(nested(49)).truncated == []
    deep = read(nested(1000))
    assert deep.text == ""
    assert deep.truncated == ["parts nested deeper than 50 levels were not read"]


def test_depth_over_a_huge_mail_is_bounded_by_work() -> None:
    reading = read(nested(50).replace(b"deep down", b"A" * 20_000_000))
    assert any(words.startswith("parts nested deeper than") for words in reading.truncated)


def test_parts() -> None:
    reading = read(MULTIPART + b"--b\r\nContent-Type: text/plain\r\n\r\nx\r\n" * 10_000 + b"--b--\r\n")
    assert reading.text.count("x") == 1000
    assert reading.truncated == ["more than 1000 parts: the rest was not read"]


def test_attachments() -> None:
    parts = b"".join(b"--b\r\nContent-Type: image/jpeg; name=%d.jpg\r\n\r\n%d\r\n" % (n, n) for n in range(142))
    reading = read(MULTIPART + parts + b"--b--\r\n")
    assert [one["name"] for one in reading.attachments] == [f"{number}.jpg" for number in range(100)]
    assert reading.truncated == ["142 attachments: the first 100 are listed"]
    assert attachment(MULTIPART + parts, 99) == b"99"
    with pytest.raises(LookupError):
        attachment(MULTIPART + parts, 100)


def test_header_fields() -> None:
    reading = read(b"X-Pad: 0123456789abcdef\r\n" * 100_000 + b"Subject: many\r\n\r\nthe body\r\n")
    assert (reading.subject, reading.text) == (None, "the body\n")
    assert reading.truncated == ["a header of more than 1000 fields: the rest of it was skipped"]
    reading = read(b"Subject: before\r\n" + b"X-Pad: 0\r\n" * 999 + b"\r\nthe body\r\n")
    assert (reading.subject, reading.text, reading.truncated) == ("before", "the body\n", [])


def test_header_bytes() -> None:
    reading = read(b"Subject: big\r\nX-Pad: " + b"a" * 300_000 + b"\r\n\r\nthe body\r\n")
    assert (reading.subject, reading.text) == ("big", "the body\n")
    assert reading.truncated == ["a header over 256 KiB: the rest of it was skipped"]


def test_fields_of_a_part() -> None:
    reading = read(MULTIPART + b"--b\r\n" + b"X-Pad: 0\r\n" * 500 + b"\r\nthe body\r\n--b--\r\n")
    assert reading.text == "the body"
    assert reading.truncated == ["a header of more than 100 fields: the rest of it was skipped"]


def test_text() -> None:
    assert read(text_mail(b"x" * 32768)).truncated == []
    reading = read(text_mail(b"x" * 8_000_000))
    assert len(reading.text) == 32768
    assert reading.truncated == ["the text was cut at 32768 characters"]
    assert len(read(b"A" * 8_000_000).text) == 32768
    # Characters are counted, and none is cut in two.
    assert read(text_mail("温".encode() * 100_000, b"text/plain; charset=utf-8")).text == "温" * 32768
    assert read(text_mail(base64.b64encode("温".encode() * 100_000), encoding=b"base64")).text == "温" * 32768


def test_no_cut_goes_unsaid() -> None:
    """Where the bytes are cut before anyone knows how many characters they are."""
    cut = ["NUL characters were taken out of the text", "the text was cut at 32768 characters"]
    assert read(text_mail(b"\0" * 300_000 + b"alarm")).truncated == cut
    reading = read(text_mail(b"<i>x</i>" * 30_000, b"text/html"))
    assert (len(reading.text), reading.truncated) == (30_000, [])
    reading = read(text_mail(b"<i>xyz</i>" * 25_000, b"text/html"))
    assert (len(reading.text), reading.truncated) == (32768, cut[1:])


def test_many_texts() -> None:
    part = b"--b\r\n\r\n" + b"x" * 1000 + b"\r\n"
    reading = read(MULTIPART + part * 500)
    assert len(reading.text) == 32768
    assert "the text was cut at 32768 characters" in reading.truncated


def test_html() -> None:
    reading = read(text_mail(b"<p>x</p>" * 100_000, b"text/html"))
    assert reading.truncated == ["the HTML was cut at 262144 characters", "the text was cut at 32768 characters"]
    assert reading.text.startswith("x\n\nx\n\nx")
    assert len(reading.text) == 32768


def test_field_values() -> None:
    reading = read(b"Subject: " + b"s" * 5000 + b"\r\nTo: " + b",".join(b"u%d@x" % n for n in range(300)) + b"\r\n\r\n")
    assert reading.subject == "s" * 1000
    assert reading.to == [f"u{number}@x" for number in range(100)]
    assert reading.truncated == [
        "the subject field was cut at 4096 bytes",
        "the subject was cut at 1000 characters",
        "300 addresses in To: the first 100 are listed",
    ]


PIECES = b"--b\r\nContent-Type: image/png" + b"".join(b"; name*%d=a" % n for n in range(300)) + b"\r\n\r\nx\r\n"
ALIKE = b"Content-Type: multipart/mixed; boundary=bb\r\n\r\n"
HOSTILE: dict[str, Callable[[], bytes]] = {
    "prefixes of the boundary": lambda: MULTIPART + b"--b\r\n\r\n" + b"--bx\r\n" * 3_000_000,
    "delimiters only": lambda: MULTIPART + b"--b\r\n" * 3_000_000,
    "1000 parts of 1000 fields": lambda: MULTIPART + (b"--b\r\n" + b"X: y\r\n" * 1000 + b"\r\nx\r\n") * 1000,
    "addresses of escaped quotes": lambda: b"From: " + b'"\\' * 100_000 + b"\r\n\r\n",
    "addresses of brackets": lambda: b"From: " + b"<(" * 100_000 + b"\r\n\r\n",
    "encoded words begun": lambda: b"Subject: " + b"=?a?b?" * 100_000 + b"\r\n\r\n",
    "parameters": lambda: MULTIPART + (b"--b\r\nContent-Type: a/b; " + b"a" * 4000 + b"\r\n\r\n") * 1000,
    "quoted parameters": lambda: MULTIPART + (b'--b\r\nContent-Type: a/b; c="' + b'\\"' * 2000 + b"\r\n\r\n") * 1000,
    "blanks in parameters": lambda: MULTIPART + (b"--b\r\nContent-Type: a/b; c=d" + b" " * 60_000 + b"\r\n\r\n") * 100,
    "folded field": lambda: b"Subject: x\r\n" + b" y\r\n" * 1_000_000,
    "unindented parameters": lambda: b"Content-Type: a/b\r\n" + b"name=\r\n" * 40_000 + b"\r\nx",
    "junk before the end of the header": lambda: b"Subject: x\r\n" + b"junk\r\nTo: a\r\n" * 100_000,
    "padding in base64": lambda: text_mail(b"A=" * 5_000_000, b"image/png", b"base64"),
    "junk in base64": lambda: text_mail(b"A!@#" * 2_000_000, b"image/png", b"base64"),
    "base64 text": lambda: text_mail(b"=" * 8_000_000, encoding=b"base64"),
    "quoted-printable": lambda: text_mail(b"=" * 8_000_000, b"image/png", b"quoted-printable"),
    "nested divs": lambda: text_mail(b"<div>" * 20_000, b"text/html"),
    "unclosed tags": lambda: text_mail(b"<a " * 100_000, b"text/html"),
    "unclosed quotes": lambda: text_mail(b'<a =">"' * 40_000, b"text/html"),
    "unclosed comments": lambda: text_mail(b"<!--" * 60_000, b"text/html"),
    "unclosed styles": lambda: text_mail(b"<style>" * 40_000, b"text/html"),
    "entities": lambda: text_mail(b"&#99999999" * 25_000 + b"&#" + b"9" * 10_000 + b";", b"text/html"),
    "list items": lambda: text_mail(b"<li>" * 60_000, b"text/html"),
    "undeclared 8-bit": lambda: text_mail(b"\xe4\xf6x" * 2_000_000),
    "damaged UTF-8": lambda: text_mail(b"\xe4\xf6x" * 2_000_000, b"text/plain; charset=utf-8"),
    "carriage returns": lambda: b"Subject: a\r" * 90_000,
    "keys": lambda: text_mail(b"a:" * 4_000_000),
    "words of rules": lambda: text_mail(b"motion is on video " * 400_000),
    "parentheses": lambda: text_mail(b"a(" * 20_000 + b": x\r\n" + b"key(" * 10_000),
    "blanks": lambda: text_mail(b" " * 8_000_000 + b": x"),
    "guessed boundaries": lambda: b"--a" + b" " * 60_000 + b"\n--" * 20_000,
    "100,000 fields": lambda: b"X-Pad: 0123456789abcdef\r\n" * 100_000 + b"Subject: x\r\n\r\nbody",
    "10,000 parts": lambda: MULTIPART + b"--b\r\nContent-Type: text/plain\r\n\r\nx\r\n" * 10_000,
    "10,000 attachments": lambda: MULTIPART + b"--b\r\nContent-Type: image/png\r\n\r\nx\r\n" * 10_000,
    "1,000 levels": lambda: nested(1000),
    "mails in mails": lambda: b"Subject: x\r\n" + b"Content-Type: message/rfc822\r\n\r\n" * 5000 + b"deep",
    "a line of 8 MB": lambda: b"Subject: x\r\n\r\n" + b"A" * 8_000_000,
    "a field of 8 MB": lambda: b"Subject: " + b"A" * 8_000_000 + b"\r\n\r\nbody",
    "base64 bomb": lambda: text_mail(base64.b64encode(bytes(6_000_000)), encoding=b"base64"),
    "base64 of blanks": lambda: text_mail(b" \r\n" * 2_000_000, encoding=b"base64"),
    "quoted-printable bomb": lambda: text_mail(b"=41" * 2_000_000, encoding=b"quoted-printable"),
    "soft line ends": lambda: text_mail(b"=\r\n" * 2_000_000, b"image/png", b"quoted-printable"),
    "names in pieces": lambda: (
        b"Content-Type: image/png" + b"".join(b";\r\n name*%d*=%%41" % n for n in range(100_000)) + b"\r\n\r\nx"
    ),
    "1000 parts with names in pieces": lambda: MULTIPART + PIECES * 1000,
    "encoded words": lambda: b"Subject: " + b"=?utf-8?q?=41?= =?koi8-r?q?=c1?= " * 5000 + b"\r\n\r\nx",
    "encoded words in addresses": lambda: b"From: " + b"=?utf-8?q?=41?= <a@b>, " * 5000 + b"\r\n\r\nx",
    "comments begun": lambda: b"From: " + b"(" * 1_000_000 + b"\r\nTo: " + b"(\r\n " * 100_000 + b"\r\n\r\nx",
    "quotes": lambda: b"From: " + b'"' * 1_000_000 + b"\r\n\r\nx",
    "commas": lambda: b"To: " + b"," * 1_000_000 + b"\r\n\r\nx",
    "no boundary": lambda: MULTIPART.replace(b"=b", b'=""') + b"--\r\n\r\nx\r\n" * 300_000,
    "a boundary of 10,000": lambda: MULTIPART.replace(b"=b", b"=" + b"b" * 10_000) + b"--b\r\n\r\nx\r\n" * 100_000,
    "a boundary of dashes": lambda: MULTIPART.replace(b"=b", b'="-"') + b"-" * 8_000_000,
    "a boundary that is an expression": lambda: (
        MULTIPART.replace(b"=b", b'=".*+?[("') + b"--.*+?[(\r\n\r\nx\r\n" * 9999
    ),
    "boundaries that begin alike": lambda: MULTIPART + b"--b\r\n" + ALIKE + b"--bb\r\n\r\nx\r\n--bbb\r\n" * 100_000,
    "parameters without end": lambda: b"Content-Type: text/plain" + b"; a=b" * 1_000_000 + b"\r\n\r\nx",
    "equals signs": lambda: b"Content-Type: text/plain; " + b"=" * 1_000_000 + b"\r\n\r\nx",
    "nested tables": lambda: text_mail(b"<table><tr><td>" * 20_000 + b"x", b"text/html"),
    "ampersands": lambda: text_mail(b"&" * 260_000, b"text/html"),
    "attributes": lambda: text_mail(b"<a " + b"b=c " * 60_000 + b">x", b"text/html"),
    "shifts of ISO 2022": lambda: text_mail(b"\x1b$B\x1b(B" * 1_000_000, b"text/plain; charset=iso-2022-jp"),
    "lone surrogates": lambda: text_mail(b"\x00\xd8" * 2_000_000, b"text/plain; charset=utf-16"),
    "combining letters": lambda: text_mail(("a" + "\u0301" * 1000).encode() * 2000, b"text/plain; charset=utf-8"),
    "line ends alone": lambda: b"\n" * 8_000_000,
    "NULs alone": lambda: b"\0" * 8_000_000,
    "colons alone": lambda: b":" * 8_000_000,
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_mail_is_read_in_linear_time(name: str) -> None:
    reading = read(HOSTILE[name]())
    assert not any("report this as a bug" in words for words in reading.truncated)
    told = meaning(reading, Envelope("lan", "192.0.2.1", "h", "", []))
    assert len(told.data) <= 40


@pytest.mark.parametrize(
    "charset",
    [
        "utf-7", "unicode_escape", "raw_unicode_escape", "rot13", "idna", "punycode", "zlib", "bz2", "hex", "base64",
        "uu", "mbcs", "undefined", "../../etc/passwd", "gateway.store", "u" * 3000, "\x1b[2m",
    ],
)  # fmt: skip
def test_a_codec_that_is_no_charset_is_not_asked(charset: str) -> None:
    """Python's registry would run some of these on the bytes, and import others."""
    name = charset.encode()
    raw = text_mail("Tür +AOQ- \\u00e4 offen".encode(), b'text/plain; charset="%s"' % name)
    reading = read(b"Subject: =?%s?q?T=FCr?=\r\n" % name[:60] + raw)
    assert (reading.subject, reading.text) == ("Tür", "Tür +AOQ- \\u00e4 offen")
    said = "".join(filter(str.isprintable, charset[:40]))
    assert reading.charsets == [f"{what}, though {said} was declared" for what in ("subject: cp1252", "text: utf-8")]


def test_parameters_that_are_cut() -> None:
    name = b'Content-Disposition: attachment; x="' + b"x" * 5000 + b'"; filename=a.png\r\n'
    reading = read(MULTIPART + b"--b\r\nContent-Type: image/png\r\n" + name + b"\r\nx\r\n--b--\r\n")
    assert [one["name"] for one in reading.attachments] == ["picture-1.png"]
    assert reading.truncated == ["a content-disposition field was cut at 4096 bytes"]
    reading = read(b"Content-Type: image/png" + b"".join(b";a%d=b" % n for n in range(63)) + b";name=a.png\r\n\r\nx")
    assert reading.attachments[0]["name"] == "a.png"


def grown(work: Callable[[], object]) -> int:
    """Bytes that `work` needed at its peak."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_20_mb_mail_costs_little_memory(tmp_path: Path) -> None:
    picture = b"\xff\xd8\xff" + random.Random(1).randbytes(15_000_000)
    raw = camera_mail(picture)
    assert len(raw) > 20_000_000
    spool = tmp_path / "mail"
    spool.write_bytes(raw)
    read(raw)  # what is loaded at first use is not counted
    assert grown(lambda: read(raw)) < 2 * MEBIBYTE
    with spool.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        readings: list[Reading] = []
        assert grown(lambda: readings.append(read(mapped))) < 2 * MEBIBYTE
        assert vars(readings[0]) == vars(read(raw))
        assert readings[0].attachments[0]["size"] == len(picture)
        fetched: list[bytes] = []
        assert grown(lambda: fetched.append(attachment(mapped, 0))) < len(picture) * 5 // 4
        assert fetched == [picture]


_READ_MAPPED = """
import sys
from pathlib import Path
from gateway.interpret import read
from gateway.spooled import spooled

def most():
    (line,) = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
    return int(line.split()[1])

read(Path(sys.argv[2]).read_bytes())
mail = spooled(Path(sys.argv[1]))
open("/proc/self/clear_refs", "w").write("5")  # the most is counted from here
before = most()
read(mail)
print(most() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="large folios, and /proc which counts mapped pages, are Linux's")
def test_a_mapped_mail_keeps_few_of_its_pages(tmp_path: Path) -> None:
    """One page that is touched may bring a whole folio; a large one, where much was written at once."""
    raw = camera_mail(b"\xff\xd8\xff" + random.Random(1).randbytes(15_000_000))
    spool, small = tmp_path / "mail", tmp_path / "small"
    small.write_bytes(camera_mail(b"\xff\xd8\xff" + bytes(1000)))  # what is loaded at first use is not counted
    with spool.open("wb", buffering=0) as file:
        for at in range(0, len(raw), 256 * 1024):
            file.write(raw[at : at + 256 * 1024])
        os.fsync(file.fileno())
    command = [sys.executable, "-c", _READ_MAPPED, str(spool), str(small)]
    kibibytes = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert kibibytes < 4 * 1024


@pytest.mark.parametrize(
    "name",
    [
        "junk in base64", "damaged UTF-8", "1000 parts of 1000 fields", "1000 parts with names in pieces",
        "carriage returns", "nested tables", "lone surrogates",
    ],
)  # fmt: skip
def test_hostile_mail_costs_no_multiple_of_its_size(name: str) -> None:
    raw = HOSTILE[name]()
    read(raw)
    assert grown(lambda: read(raw)) < max(len(raw), 4 * MEBIBYTE) * 2
