"""The reader of mails that boards use: as the gateway reads them, however they are cut, whatever they are."""

import hashlib
import json
import subprocess
from email.message import EmailMessage

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import interpret
from gateway.wire import charset, html, mime
from tests.wire.test_micropython import HEAP, ROOT, micropython  # noqa: F401  # a fixture

MAILS = sorted([*(ROOT / "tests" / "mails").glob("*.eml"), *(ROOT / "tests" / "dialogs" / "mails").iterdir()])
WHOLE = 64 * 1024  # octets of text, to compare it all

NO_TABLE = "its charset is one that a board has no table of"
# Where a board can't agree with the gateway, with the reason.
DIFFERENT = {
    "charset-big5-undeclared.eml": NO_TABLE,
    "charset-cp1251-unknown-name.eml": NO_TABLE,
    "charset-euc-kr-undeclared.eml": NO_TABLE,
    "charset-gb2312-undeclared.eml": NO_TABLE,
    "charset-gbk-declared-for-body.eml": NO_TABLE,
    "charset-html-meta.eml": NO_TABLE,
    "charset-iso-2022-jp.eml": NO_TABLE,
    "charset-koi8-undeclared.eml": NO_TABLE,
    "charset-sjis-undeclared.eml": NO_TABLE,
    "name-encodings.eml": NO_TABLE,
    "header-stray-blank-line.eml": "a header that goes on behind a blank line is found by looking ahead",
    "server-cron-long-subject.eml": "a board keeps 200 characters of the subject",
}


def read(raw, size=None, limit=WHOLE):
    reader = mime.Reader(limit, hashlib.sha256)
    for at in range(0, len(raw), size or max(1, len(raw))):
        reader.feed(raw[at : at + (size or len(raw))])
    reader.close()
    return reader


def facts(reading):
    return (
        reading.subject,
        reading.sender,
        reading.sender_name,
        reading.message_id,
        reading.text.split(),
        [(one["name"], one["type"], one["size"], one["sha256"]) for one in reading.attachments],
    )


@pytest.mark.parametrize("path", MAILS, ids=lambda path: path.name)
def test_reads_as_the_gateway_does(path):
    raw = path.read_bytes()
    ours, theirs = facts(read(raw)), facts(interpret.read(raw))
    if path.name in DIFFERENT:
        assert ours != theirs
        assert [one[2:] for one in ours[5]] == [one[2:] for one in theirs[5]]  # the sizes and what is in it
    else:
        assert ours == theirs


def test_the_list_of_differences():
    assert set(DIFFERENT) <= {path.name for path in MAILS}


@pytest.mark.parametrize("path", MAILS, ids=lambda path: path.name)
def test_where_it_is_cut_changes_nothing(path):
    raw = path.read_bytes()[:10000]
    whole = read(raw)
    for size in (1, 7, 64, 512):
        cut = read(raw, size)
        assert facts(cut) == facts(whole), size
        assert (cut.text, cut.truncated) == (whole.text, whole.truncated), size


NAMES = st.text(st.characters(exclude_characters="\r\n\v\f\x1c\x1d\x1e\x85\u2028\u2029"), max_size=30)

PIECES = [
    b"From: a@b\r\n",
    b"Subject: =?utf-8?B?w4Q=?= =?utf-8?Q?x_=C3?= =?utf-8?Q?=A4?=\r\n",
    b"Subject: x\r\n y\r\n",
    b"\r\n",
    b"\n",
    b"Content-Type: multipart/mixed; boundary=B\r\n",
    b'Content-Type: multipart/alternative; boundary="B1"\r\n',
    b"--B\r\n",
    b"--B--\r\n",
    b"--B1\r\n",
    b"--B1--",
    b"Content-Type: text/html\r\n",
    b"Content-Transfer-Encoding: base64\r\n",
    b"Content-Transfer-Encoding: quoted-printable\r\n",
    b"Content-Disposition: attachment; filename*0*=UTF-8''a%C3; filename*1*=%A4.bin\r\n",
    b"QUJD\r\n",
    b"QQ==\r\nQUI=\r\n",
    b"=C3=A4 =\r\n",
    b"== =4",
    b"<p>a &amp; b<br>",
    b"<script>x</script",
    b"<!-- c -->",
    b"<td>1</td>",
    b"Content-Type: text/plain; charset=utf-16\r\n",
    b"\xff\xfea\0",
    b"\xe4\xf6",
    b"\xed\xa0\x80",
    b"\0",
    b"\r",
    b"-",
    b"--",
    b"junk\r\n",
    b"--other\r\nContent-Type: image/jpeg\r\n\r\n\xff\xd8\xff",
    b"X" * 1200,
    b"name=y.jpg\r\n",
    b"Content-Type: image/png; name=x.png\r\n",
]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(PIECES) | st.binary(max_size=30), max_size=25).map(b"".join), st.integers(1, 40))
def test_any_bytes(raw, size):
    whole, cut = read(raw), read(raw, size)
    assert facts(cut) == facts(whole)
    assert (cut.text, cut.truncated) == (whole.text, whole.truncated)
    short = read(raw, size, limit=50)
    assert len(short.text) <= 50
    assert len(short.attachments) <= mime.ATTACHMENTS
    assert len(short.subject or "") <= mime.SUBJECT
    json.dumps(short.attachments + short.truncated + [short.text, short.subject]).encode()
    assert not any("\ud800" <= letter <= "\udfff" for letter in short.text)


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=60), st.text(max_size=300), st.binary(max_size=400), NAMES, st.integers(1, 600))
def test_what_was_written_is_read(subject, text, content, name, size):
    """A mail that Python's library writes comes out as it went in."""
    message = EmailMessage()
    message["Subject"] = " ".join(subject.encode(errors="replace").decode().split())
    message.set_content(text.encode(errors="replace").decode())
    message.add_attachment(
        content, maintype="application", subtype="zip", filename=name.encode(errors="replace").decode()
    )
    raw = message.as_bytes()
    theirs = interpret.read(raw)
    ours = read(raw, size)
    if len(theirs.subject or "") <= mime.SUBJECT:
        assert ours.subject == theirs.subject
    assert ours.text.strip() == theirs.text.strip()
    assert [(one["name"], one["size"]) for one in ours.attachments] == [
        (one["name"], one["size"]) for one in theirs.attachments
    ]
    assert ours.attachments[0]["sha256"] == hashlib.sha256(content).hexdigest()


@given(
    st.binary(max_size=200), st.sampled_from(["", "utf-8", "latin-1", "windows-1252", "utf-16", "gb2312", "nonsense"])
)
def test_charsets_as_python_has_them(data, declared):
    text, unread = charset.decode(data, declared)
    if (
        declared == "utf-8"
        and not unread
        and data[:3] != b"\xef\xbb\xbf"
        and text.isprintable()
        and "\ufffd" not in text
    ):
        assert text in (
            data.decode("utf-8", "replace"),
            data.decode("cp1252", "replace"),
            data.decode("utf-16", "replace"),
        )
    valid, damage = charset._from_utf8(data, False)
    assert valid == data.decode("utf-8", "replace")
    assert bool(damage) == ("\ufffd" in valid and valid.encode() != data)


@pytest.mark.parametrize(
    ("data", "declared", "text"),
    [
        (b"Gr\xfc\xdfe", "iso-8859-1", "Grüße"),
        (b"Gr\xfc\xdfe", "", "Grüße"),
        (b"\x80 5", "windows-1252", "€ 5"),
        (b"\xa4 5 \xbd", "iso-8859-15", "€ 5 œ"),
        (b"\xa4 5", "iso-8859-1", "¤ 5"),
        ("Grüße".encode(), "iso-8859-1", "Grüße"),
        (b"\xff\xfeG\0r\0\xfc\0", "utf-16", "Grü"),
        ("Grü 😀".encode("utf-16-be"), "utf-16be", "Grü 😀"),
        (b"\xef\xbb\xbfa\xc3\xa4", "", "aä"),
        (b"\xb1\xa8\xbe\xaf", "gb2312", "����"),
        ("Тревога".encode("koi8-r"), "", "�" * 7),
        (b"\x1b$BF0BN\x1b(B ok", "iso-2022-jp", "� ok"),
        (b"plain", "gb2312", "plain"),
    ],
)
def test_charset(data, declared, text):
    assert charset.decode(data, declared)[0] == text


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("<p>One<p>Two", "One\n\nTwo"),
        ("<table><tr><td>Key:</td><td>Value</td></tr><tr><td>a<td>b</tr></table>", "Key:\tValue\nab"),
        ("<ul><li>x</li><li>y</li></ul>", "- x\n- y"),
        ("<style>p {}</style><title>no</title><b>yes</b><script>if (a < b) x()</script>!", "yes!"),
        (
            "a &lt;b&gt; &amp;amp; &#228;&#xE4;&nbsp;&euro; &unknown; & &#0; 5 < 6",
            "a <b> &amp; ää € &unknown; & � 5 < 6",
        ),
        ("x<!-- <p> -->y<br/>z<img src='data:...", "xy\nz"),
    ],
)
def test_html(page, text):
    reader = html.Page()
    got = b"".join(reader.feed(bytes([byte])) for byte in page.encode())
    assert reader.finished((got + reader.rest()).decode()) == text


def test_memory_is_bounded():
    """A header, a boundary, a tag and a body without end leave no more behind than their limits."""
    for start in (
        b"",
        b"Subject: ",
        b"From: a@b\r\n\r\n",
        b"Content-Type: text/html\r\n\r\n<a ",
        b"Content-Type: multipart/mixed\r\n\r\n--",
    ):
        reader = mime.Reader()
        reader.feed(start)
        for _ in range(200):
            reader.feed(b"\r\n --x" * 100)
            reader.feed(b"y" * 500)
        kept = reader._kept + reader._raw + reader._junk + b"".join(reader._root.values())
        part = reader._part
        if part:
            kept += part._kept + part._rest + part._start + (part._page._kept if part._page else b"")
        assert len(kept) < 8192, start
    many = read(
        b"Content-Type: multipart/mixed; boundary=B\r\n\r\n" + b"--B\r\nContent-Type: image/x\r\n\r\nx\r\n" * 3000
    )
    assert len(many.attachments) == mime.ATTACHMENTS
    assert f"more than {mime.PARTS} parts: the rest was not read" in many.truncated
    deep = b"".join(b"Content-Type: multipart/mixed; boundary=%d\r\n\r\n--%d\r\n" % (n, n) for n in range(1000))
    assert len(read(deep)._levels) <= mime.DEPTH


def test_reads_every_mail_on_micropython(micropython, tmp_path):  # noqa: F811
    """The same on the real interpreter, in pieces as a socket gives them."""
    lines = []
    for path in MAILS:
        raw = path.read_bytes()
        if len(raw) < 100_000:
            reading = read(raw, 500, mime.TEXT)
            lines.append(json.dumps([path.name, raw.hex(), [*facts(reading), reading.text, reading.truncated]]))
    (tmp_path / "mails").write_text("\n".join(lines))
    player = ROOT / "tests" / "wire" / "play_mails.py"
    command = [str(micropython), "-X", f"heapsize={HEAP}", str(player), str(ROOT), str(tmp_path / "mails")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout + done.stderr == f"{len(lines)} read\n"
