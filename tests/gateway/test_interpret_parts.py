"""The files of `interpret` one by one: what the mails of tests/mails don't reach."""

from __future__ import annotations

import binascii
import codecs

import pytest

from gateway.interpret import Reading, attachment, charset, fields, html, names, read, transfer


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("UTF-8", "utf-8"),
        ("utf8", "utf-8"),
        ("ISO-8859-1", "cp1252"),
        ("iso_8859-1:1987", "cp1252"),
        ("latin1", "cp1252"),
        ("Windows-1252", "cp1252"),
        ("cp-1251", "cp1251"),
        ("x-gbk", "gb18030"),
        ("GB2312", "gb18030"),
        ("GB18030", "gb18030"),
        ("Big5-HKSCS", "big5hkscs"),
        ("Shift_JIS", "cp932"),
        ("ks_c_5601-1987", "cp949"),
        ("ISO-8859-15", "iso8859-15"),
        ("IBM850", "cp850"),
        ("tis-620", "cp874"),
        # No charset, whatever the codec registry of Python would make of it.
        ("ANSI_X3.4-1968", ""),
        ("us-ascii", ""),
        ("x-unknown", ""),
        ("unicode_escape", ""),
        ("idna", ""),
        ("zlib", ""),
        ("rot13", ""),
        ("utf-7", ""),
        ("../../etc/passwd", ""),
        ("a" * 10_000, ""),
        ("", ""),
    ],
)
def test_names_of_charsets(name: str, codec: str) -> None:
    assert charset.codec_for(name) == codec


def test_every_codec_of_the_table_is_one_of_pythons_charsets() -> None:
    for codec in set(charset._CODECS.values()):
        assert codecs.lookup(codec)._is_text_encoding  # the registry's own mark


@pytest.mark.parametrize(
    ("text", "codec"),
    [
        ("报警", "gb18030"),
        ("测试邮件", "gb18030"),
        ("[华为]温度过高报警IPC01", "gb18030"),
        ("系統測試郵件,硬碟錯誤", "big5hkscs"),
        ("異常警報", "cp932"),
        ("カメラで動きを検知", "euc_jp"),
        ("백업 실패 알림", "cp949"),
        ("Движение на камере", "cp866"),
        ("ТРЕВОГА ДВИЖЕНИЕ", "cp1251"),
        ("ТРЕВОГА ДВИЖЕНИЕ", "koi8_r"),
        ("Größe", "cp1252"),
        ("ÄÖÜ", "cp1252"),
        ("Änderung Ärger Änderung", "cp1252"),
        ("créée à l'été", "cp1252"),
        ("22,5 °C", "cp1252"),
        ("“quoted” € 5", "cp1252"),
        ("TÜR GEÖFFNET ÜBERLAUF", "cp1252"),
        ("Åsa: æøå blå grønn", "cp1252"),
        ("sœur, 5 m³/h, 1½ l", "cp1252"),
        ("Tür geöffnet", "cp850"),
        ("Włamanie: żółta strefa", "cp1250"),
        ("Zamknięte: włąz główny", "iso8859-2"),
    ],
)
def test_undeclared_bytes(text: str, codec: str) -> None:
    assert charset.decode(text.encode(codec)) == (text, f"{codec}, guessed")


def test_bytes_that_no_charset_explains() -> None:
    assert charset.decode(b"a\x81\x8d\x90z") == ("a\ufffd\ufffd\ufffdz", "cp1252, guessed")


@pytest.mark.parametrize("codec", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_byte_order_that_nobody_tells(codec: str) -> None:
    text = "Störung an Gerät 温度"
    assert charset.decode(text.encode(codec), codec[:6]) == (text, codec)


def test_a_cut_leaves_no_half_character() -> None:
    raw = "温度".encode()
    assert charset.decode(raw[:5], "utf-8", cut=True) == ("温", "utf-8")
    assert charset.decode("温度".encode("gbk")[:3], "gbk", cut=True) == ("温", "gb18030")


def test_the_hint_is_believed_before_guessing() -> None:
    raw = "Мир".encode("koi8_r")
    assert charset.decode(raw, hint="koi8-r") == ("Мир", "koi8_r, guessed")


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (b"root@h (Cron Daemon)", [("Cron Daemon", "root@h")]),
        (b"cam@lan", [("", "cam@lan")]),
        (b"<cam@lan>", [("", "cam@lan")]),
        (b"root", [("", "root")]),
        (b"Cam <cam@lan>", [("Cam", "cam@lan")]),
        (b'"Doe, \\"J\\"" <j@x>, <k@x>; l@x', [('Doe, "J"', "j@x"), ("", "k@x"), ("", "l@x")]),
        (b"NetAlertX <Notification> <n@x>", [("NetAlertX", "n@x")]),
        (b"Kitchen cam@lan", [("Kitchen", "cam@lan")]),
        (b"undisclosed-recipients:;", []),
        (b'"unclosed <cam@lan>', [('"unclosed', "cam@lan")]),
        (b"", []),
        (b",,;", []),
        (b"a@[IPv6:fe80::1]", [("", "a@[IPv6:fe80::1]")]),
    ],
)
def test_addresses(value: bytes, found: list[tuple[str, str]]) -> None:
    assert list(fields.addresses(value)) == found


@pytest.mark.parametrize(
    ("value", "main", "found"),
    [
        (b"text/plain", "text/plain", {}),
        (b"TEXT/Plain;Charset=UTF-8", "text/plain", {b"charset": b"UTF-8"}),
        (b'a/b; boundary="x;y=z"; c=d', "a/b", {b"boundary": b"x;y=z", b"c": b"d"}),
        (b"a/b boundary=x", "a/b", {b"boundary": b"x"}),
        (b"a/b; name=Scan 1.pdf charset=utf-8", "a/b", {b"name": b"Scan 1.pdf", b"charset": b"utf-8"}),
        (b'a/b; name="x" charset=utf-8', "a/b", {b"name": b"x", b"charset": b"utf-8"}),
        (b'a/b; name="unclosed; charset=x', "a/b", {b"name": b"unclosed; charset=x"}),
        (b'a/b; name="C:\\dir\\f.jpg"', "a/b", {b"name": b"C:\\dir\\f.jpg"}),
        (b'a/b; name="a \\"b\\""', "a/b", {b"name": b'a "b"'}),
        (b"a/b; boundary=----=_Part_1", "a/b", {b"boundary": b"----=_Part_1"}),
        (b"a/b; junk; c=d; c=e", "a/b", {b"c": b"d"}),
        (b"a/b;\r\n\tc=d", "a/b", {b"c": b"d"}),
        (b"; x=y", "", {b"x": b"y"}),
        (b"", "", {}),
    ],
)
def test_parameters(value: bytes, main: str, found: dict[bytes, bytes]) -> None:
    assert fields.parameters(value) == (main, found)


@pytest.mark.parametrize(
    ("found", "text"),
    [
        ({b"filename": b"a.jpg"}, "a.jpg"),
        ({b"filename*": b"utf-8'de'%C3%9C.jpg"}, "Ü.jpg"),
        ({b"filename*1": b"b.jpg", b"filename*0": b"a"}, "ab.jpg"),
        ({b"filename*0*": b"gbk''%B1%A8", b"filename*1*": b"%BE%AF", b"filename*2": b".jpg"}, "报警.jpg"),
        ({b"filename*": b"%41.jpg"}, "A.jpg"),
        ({b"filename*": b"utf-8''100%.jpg"}, "100%.jpg"),
        ({b"filename*x": b"no"}, ""),
        ({}, ""),
    ],
)
def test_parameter_as_text(found: dict[bytes, bytes], text: str) -> None:
    assert fields.parameter(found, b"filename") == text


@pytest.mark.parametrize(
    ("value", "date"),
    [
        (b"Sat, 26 Jul 2025 16:53:09 +0200", "2025-07-26T14:53:09Z"),
        (b"11 Oct 2016 05:41:36 GMT", "2016-10-11T05:41:36Z"),
        (b"Fri, 21 May 2021 13:24:51 +0200 (CEST)", "2021-05-21T11:24:51Z"),
        (b"Sat, 26 Jul 2025 16:53:09", "2025-07-26T16:53:09Z"),
        (b"Thu, 01 Jan 1970 00:00:00 +0000", "1970-01-01T00:00:00Z"),
        (b"Sat, 32 Jul 2025 16:53:09 +0200", None),
        (b"31 Dec 9999 23:00:00 -2300", None),
        (b"now", None),
        (b"", None),
        (b"1" * 5000, None),
        (b"\xff\xfe", None),
    ],
)
def test_dates(value: bytes, date: str | None) -> None:
    assert fields.date(value) == date


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (b"Re: =?utf-8?q?T=C3=BCr?= offen", "Re: Tür offen"),
        (b"a=?utf-8?q?b?=c", "abc"),
        (b"=?utf-8*de?Q?T=C3=BCr?=", "Tür"),
        (b"=?utf-8?B?VMO8cg?=", "Tür"),
        (b"=?utf-8?Q?=C3?= =?utf-8?Q?=BC?=", "ü"),
        (b"=?utf-8?Q?=C3?= =?utf-8?B?vA==?=", "ü"),
        (b"=?iso-8859-1?Q?=FC?= =?utf-8?Q?=C3=BC?=", "üü"),
        (b"=?utf-8?X?abc?=", "=?utf-8?X?abc?="),
        (b"=?utf-8?B?abc", "=?utf-8?B?abc"),
        (b"Re: =?utf-8?B?VMO8ciBvZmZlbg", "Re: Tür offen"),
        (b"=?utf-8?Q?Motion_detected?", "Motion detected"),
        (b"=?\0?Q?lost?= kept", "lost kept"),
        (b"x\x7f\xc2\x85y\xe2\x80\xa8z", "x y z"),
    ],
)
def test_encoded_words(value: bytes, text: str) -> None:
    assert fields.text(value)[0] == text


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("plain", "plain"),
        ("a<br>b<br/><BR>c", "a\nb\n\nc"),
        ("<b>bo</b>ld <a href='x'>li</a>nk", "bold link"),
        ("one <span> two </span> three", "one two three"),
        ("<ul><li>a<li>b</ul>", "- a\n- b"),
        ("<table><tr><th>a<th>b<tr><td>c<td>d</table>", "a\tb\nc\td"),
        ("<td><p>a</p></td><td><div>b</div></td>", "a\tb"),
        ("<pre>a  b\n  c</pre>d", "a  b\n  c\n\nd"),
        ("&lt;&amp;&#65;&#x42;&euro;&nbsp;x &unknown; &#99999999; &#0;", "<&AB€ x &unknown; &#99999999; \ufffd"),
        ("a < b, 1<2, x<=y", "a < b, 1<2, x<=y"),
        ("<!DOCTYPE html><?xml x?><![CDATA[x]]>a<!-- <b> -->b", "ab"),
        ("a<style>p > b</style><SCRIPT>if (a<b) '</p>'</SCRIPT >b", "ab"),
        ("a<!-- never closed", "a"),
        ("a<script>never closed", "a"),
        ("a<b never closed", "a"),
        ("<p title=\"a>b\" alt='<c>'>d</p>", "d"),
        ("<p title=don't>it's</p>", "it's"),
        ("<o:p>x</o:p><my-tag>y</my-tag>", "xy"),
        ("</>x</ >y", "xy"),
        ("", ""),
    ],
)
def test_html(page: str, text: str) -> None:
    assert html.to_text(page, 10_000) == text


def test_is_base64() -> None:
    assert transfer.is_base64(b"QWxhcm0gRXZlbnQ6\r\nIE1vdGlvbg==\r\n")
    assert transfer.is_base64(b"QWxhcm0gRXZlbnQ6!IE1vdGlvbg==")
    assert not transfer.is_base64(b"The door is open.")


@pytest.mark.parametrize(
    ("name", "kind", "cleaned"),
    [
        ("a.jpg", "image/jpeg", "a.jpg"),
        ("", "image/jpeg", "picture-7.jpg"),
        ("", "image/x-odd", "picture-7.bin"),
        ("", "message/rfc822", "message.eml"),
        ("..", "text/csv", "attachment-7.csv"),
        ("NUL", "a/b", "_NUL"),
        ("com1.txt", "a/b", "_com1.txt"),
        ("console.txt", "a/b", "console.txt"),
        ("x" * 120, "a/b", "x" * 100),
        ("x" * 99 + " y", "a/b", "x" * 99),
        ("x" * 120 + ".tar.gz", "a/b", "x" * 97 + ".gz"),
        ("." + "x" * 120, "a/b", "x" * 100),
        ("x." + "y" * 120, "a/b", "x." + "y" * 98),
    ],
)
def test_names(name: str, kind: str, cleaned: str) -> None:
    assert names.cleaned(name, kind, 7) == cleaned


# --- whole mails that are too many ways of the same for a sample each

PICTURE = b"\xff\xd8\xff\xe0" + bytes(range(200))


def mail(*lines: str | bytes) -> bytes:
    return b"".join((line.encode() if isinstance(line, str) else line) + b"\r\n" for line in lines)


def uuencoded(data: bytes, end: str = "end") -> tuple[bytes, ...]:
    lines = [binascii.b2a_uu(data[at : at + 45]).rstrip(b"\n") for at in range(0, len(data), 45)]
    return (*lines, b"`", end.encode())


def files(reading: Reading) -> list[tuple[str, str, int]]:
    return [(one["name"], one["type"], one["size"]) for one in reading.attachments]


def test_files_in_a_text_from_before_mime() -> None:
    begin = ("begin 644 ../../a b.jpg", *uuencoded(PICTURE))
    raw = mail("Subject: x", "", "Before", *begin, "Between", "begin 600 c.txt", *uuencoded(b"cat"), "")
    reading = read(raw)
    assert files(reading) == [("a b.jpg", "image/jpeg", 204), ("c.txt", "application/octet-stream", 3)]
    assert (reading.text, reading.picture, reading.truncated) == ("Before\nBetween\n", 0, [])
    assert (attachment(raw, 0), attachment(raw, 1)) == (PICTURE, b"cat")


def test_a_part_that_is_uuencoded() -> None:
    head = ("Subject: x", "Content-Type: image/jpeg; name=a.jpg", "Content-Transfer-Encoding: X-UUEncode", "")
    raw = mail(*head, "begin 644 b.jpg", *uuencoded(PICTURE), "after the end")
    assert files(read(raw)) == [("a.jpg", "image/jpeg", 204)]
    assert attachment(raw, 0) == PICTURE


@pytest.mark.parametrize("text", ["begin 644 the work", "begin 644 the work\r\nand go on\r\nend", "We begin 644 x"])
def test_prose_that_begins(text: str) -> None:
    reading = read(mail("Subject: x", "", text))
    assert (reading.attachments, reading.text) == ([], text.replace("\r", "") + "\n")


def test_uuencode_without_its_end_or_damaged() -> None:
    raw = mail("Subject: x", "", "begin 644 a.jpg", *uuencoded(PICTURE)[:-2])
    assert attachment(raw, 0) == PICTURE
    raw = mail("Subject: x", "", "begin 644 a.jpg", uuencoded(PICTURE)[0], "\xff" * 20, "end")
    assert read(raw).truncated == ["damaged uuencode in a.jpg"]
    assert attachment(raw, 0) == PICTURE[:45]


def test_html_that_nobody_calls_so() -> None:
    page = "\r\n<!DOCTYPE html>\r\n<html><body><p>Volume 1<br>is degraded</p></body></html>"
    assert read(mail("Subject: x", "", page)).text == "Volume 1\nis degraded"
    assert read(mail("Subject: x", "", "<b> is bold in <html>")).text == "<b> is bold in <html>\n"


def test_a_text_that_only_says_that_there_is_another() -> None:
    head = (
        "Subject: x",
        "Content-Type: multipart/alternative; boundary=b",
        "",
        "--b",
        "",
        "Your program shows no HTML.",
    )
    both = (*head, "--b", "Content-Type: text/html", "", "<p>Water leak</p>", "--b--")
    assert read(mail(*both)).text == "Water leak"
    assert read(mail(*head, "--b--")).text == "Your program shows no HTML."


def test_the_only_text_has_a_name() -> None:
    head = ("Subject: x", "Content-Type: multipart/mixed; boundary=b", "", "--b")
    reading = read(mail(*head, "Content-Type: text/plain; name=body.txt", "", "Backup failed", "--b--"))
    assert (reading.text, files(reading)) == ("Backup failed", [("body.txt", "text/plain", 13)])
    reading = read(mail(*head, "Content-Disposition: attachment; filename=a.txt", "", "Backup failed", "--b--"))
    assert reading.text == ""


def test_an_editors_mark_before_the_header() -> None:
    assert read(mail(b"\xef\xbb\xbfFrom: a@b", "Subject: x", "", "y")).sender == "a@b"


def test_undeclared_bytes_of_header_and_text_tell_of_each_other() -> None:
    reading = read(mail("Subject: 漏水を検知しました".encode("euc_jp"), "", "漏水".encode("euc_jp")))
    assert (reading.subject, reading.text) == ("漏水を検知しました", "漏水\n")
    assert reading.charsets == ["subject: euc_jp, guessed", "text: euc_jp, guessed"]
