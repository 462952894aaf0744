"""Fuzzes `wire.smtp`: whatever a peer sends, in whatever pieces, the law at the top of that file holds.

An input is one byte that chooses a listener, one for what becomes of its mails, one for where to cut, and what the
peer sends. The session gets it twice. First a reader of its own (`in_frames`), which knows nothing of SMTP but how
long a line, a DATA and a chunk of BDAT are (RFC 5321 §4.1.1.4, RFC 3030 §2), hands it over unit by unit and checks
what each may do. Then it is cut anywhere, and the outcome must be the same.

Where STARTTLS was granted, TLS begins behind the next two bytes 0xFF 0xFE.
"""

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from gateway.wire import smtp
from gateway.wire.smtp_remarks import REMARKS
from tests.dialog import LISTENERS, MemoryLine, load_all, play
from tests.fuzz.cut import cut
from tests.wire.owner import USERS, Owner

HOST = "gw.example"
TLS = b"\xff\xfe"
OPTIONS: list[dict[str, Any]] = [
    *LISTENERS.values(),
    {"bare_lf": True},
    {"strict": True, "dsn": True, "tls": "offered"},
    {
        "max_size": 40,
        "max_recipients": 2,
        "max_commands": 20,
        "max_bad": 3,
        "max_auth_failures": 1,
        "login": "optional",
    },
    {"chunking": False, "pipelining": False, "smtputf8": False, "recipient": lambda address: "c" in address},
    {"room": lambda: 40, "tls": "required", "secure": True, "login": "required"},
]
VERDICTS = ("done", "late", "refused", "given up")
WORDS = [
    b"EHLO x\r\n", b"HELO x\r\n", b"HELO\r\n", b"MAIL FROM:", b"RCPT TO:", b"<a@b>", b"<c@d>", b"<>", b"<", b">",
    b"DATA\r\n", b"\r\n.\r\n", b"\n.\n", b"\n.\r\n", b"\r.\r", b"\r\n.", b"..", b"BDAT ", b"BDAT 0 LAST\r\n",
    b" LAST\r\n", b"BDAT 5\r\nabcde", b"RSET\r\n", b"NOOP\r\n", b"QUIT\r\n", b"VRFY x\r\n", b"HELP\r\n", b"EXPN x\r\n",
    b"AUTH PLAIN ", b"AUTH LOGIN\r\n", b"AUTH PLAIN AGNhbQBzZWNyZXQ=\r\n", b"Y2Ft\r\n", b"c2VjcmV0\r\n", b"*\r\n",
    b"=", b"STARTTLS\r\n", b"STARTTLS\r\n\xff\xfe", b" SIZE=", b" SIZE=41", b" BODY=8BITMIME", b" SMTPUTF8",
    b" AUTH=<>", b" RET=HDRS", b" ENVID=", b" NOTIFY=NEVER", b" ORCPT=rfc822;", b"+2B", b"\xc3\xbc", b"\xfc",
    b"\xc2\x85", b"\x00", b"\t", b"\r", b"\n", b"\r\n", b" ", b'"', b"\\", b"@", b":", b"Name <", b"\x16\x03\x01",
    b"\x80.\x01\x03", b"GET / HTTP/1.1\r\n", b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n",
    b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nBDAT 3\r\nabc",
]  # fmt: skip


def seeds() -> Iterator[bytes]:
    """Every dialog that is not too long, as a peer that waits for nothing would say it."""
    for number, dialog in enumerate(load_all()):
        line = MemoryLine(Owner(keep=False, **dialog.session_options))
        play(dialog, line)
        said = b"".join(TLS if feed is None else feed[0] * feed[1] for feed in line.feeds)
        if len(said) <= 20_000:
            listener = OPTIONS.index(LISTENERS[dialog.listener])
            yield bytes([listener, number % len(VERDICTS), number % 64]) + said


def fuzz_smtp(data: bytes) -> None:
    """AssertionError if the session does not keep its law; nothing else is raised."""
    listener, verdict, seed = (data[:3] + b"\0\0\0")[:3]
    options = OPTIONS[listener % len(OPTIONS)]
    verdict %= len(VERDICTS)
    given_up = VERDICTS[verdict] == "given up"  # then what is said depends on how much of a mail was read at once
    said = data[3:]
    bare_lf = options.get("bare_lf", False)
    first = Peer(options, VERDICTS[verdict])
    parts = list(in_frames(first, re.sub(rb"\r?\n", b"\r\n", said) if bare_lf else said))
    second = Peer(options, VERDICTS[verdict])
    for part in [said] if bare_lf else parts:
        if part == TLS:
            if given_up and second.asked != "tls":
                break
            second.start_tls()
        else:
            for piece in cut(part, seed):
                second.send(piece)
    second.finish()
    second.check_memory()
    check_output(second)
    if not given_up:
        assert second.outcome() == first.outcome()


class Peer:
    """Both sides of a session: sends, answers what its owner is asked, and checks what can be checked at each step."""

    def __init__(self, options: dict[str, Any], verdict: str) -> None:
        self.session = smtp.Session(HOST, **options)
        self.verdict = verdict
        self.most = options.get("max_size", 64 * 1024 * 1024)
        self.recipients = options.get("max_recipients", 1000)
        self.output = self.session.greeting()
        self.mails: list[Any] = []  # all that came to their end: envelope, content
        self.taken = 0  # of them, those that were answered with 250
        self.remarks: set[str] = set()
        self.ended = ""
        self.content: bytes | None = None
        self.asked = ""  # MAIL or TLS: the session waits for an answer
        self.sent = 0

    def send(self, data: bytes) -> bytes:
        """The replies to it."""
        before = len(self.output)
        waits = self.asked
        self.handle(self.session.receive(data))
        self.output += self.session.output()
        self.sent += 1
        if self.sent % 16 == 0:  # what grows goes on growing, and each look takes its time
            self.check_memory()
        if waits:
            assert self.asked == waits
            assert len(self.output) == before, "it waits, and says something"
            self.finish()
        return self.output[before:]

    def finish(self) -> None:
        """Answer late."""
        while self.asked == "mail":
            self.asked = ""
            self.answer()
            self.output += self.session.output()

    def start_tls(self) -> None:
        assert self.asked == "tls"
        self.asked = ""
        self.session.tls_started()
        assert self.session.secure
        assert (self.session.helo, self.session.user) == ("", None)

    def handle(self, events: list[tuple[Any, ...]]) -> None:
        session = self.session
        for number, event in enumerate(events, 1):
            assert not self.ended, "nothing comes after CLOSE"
            assert not self.asked, "nothing comes before the answer"
            kind = event[0]
            if kind == smtp.BODY:
                assert event[1]
                assert self.content is not None
                self.content += event[1]
                assert len(self.content) <= self.most
            elif kind == smtp.BEGIN:
                assert self.content is None or self.verdict == "given up"  # of that, no end is told
                self.content = b""
                if self.verdict == "given up":
                    session.fail_mail(452, "4.3.1", "Not\r\n250 now")
            elif kind == smtp.ABORT:
                assert self.content is not None
                self.content = None
            elif kind == smtp.MAIL:
                assert number == len(events)
                self.mail()
            elif kind == smtp.AUTH:
                assert number == len(events)
                assert event[1] in ("PLAIN", "LOGIN")
                self.handle(session.auth_done(USERS.get(event[2]) == event[3]))
            elif kind == smtp.STARTTLS:
                self.asked = "tls"
            elif kind == smtp.CLOSE:
                assert re.fullmatch("[a-z-]+", event[1])
                self.ended = event[1]
            else:
                assert event == (smtp.REMARK, event[1], REMARKS[event[1]])
                assert event[1] not in self.remarks
                self.remarks.add(event[1])

    def mail(self) -> None:
        session = self.session
        assert session.waiting
        assert self.content is not None
        assert session.size == len(self.content)
        assert session.mail_from is not None
        assert 1 <= len(session.recipients) <= self.recipients
        for address in (session.mail_from, *session.recipients):
            assert len(address) <= smtp.PATH
            assert not re.search("[\0-\x1f\x7f-\x9f]", address)
        envelope = session.helo, session.esmtp, session.user, session.secure, session.mail_from, session.recipients
        self.mails.append((envelope, session.params, session.recipient_params, self.content))
        self.content = None
        self.output += session.output()
        if self.verdict == "late":
            self.asked = "mail"
        else:
            self.answer()

    def answer(self) -> None:
        assert stored_as(len(self.mails)) not in self.output, "250 before the mail is durable"
        if self.verdict == "given up" or (self.verdict == "refused" and len(self.mails) % 2):
            events = self.session.mail_failed(451, "4.3.0", "Try again\r\n250 later")
        else:
            self.taken += 1
            events = self.session.mail_done(mail_id(len(self.mails)))
        self.handle(events)

    def check_memory(self) -> None:
        """What a peer sends is not kept, but for a line and an envelope."""
        held = {name: getattr(self.session, name) for name in type(self.session).__slots__}
        for name, value in held.items():
            if isinstance(value, bytes | str):
                assert len(value) <= smtp.AUTH_LINE, name
            elif isinstance(value, list | dict) and name != "params":
                assert len(value) <= max(self.recipients, 16), name
        assert len(self.session.helo) <= smtp.PATH
        assert len(self.session.params) <= smtp.PARAMETERS
        assert not self.session.recipient_params

    def outcome(self) -> Any:
        # Whether a peer stops behind LF . LF depends on where its bytes are cut.
        return self.output, self.mails, self.taken, self.ended, self.remarks - {"lf-end"}


def mail_id(number: int) -> str:
    return f"01JD-{number}-Q"


def stored_as(number: int) -> bytes:
    return f"stored as {mail_id(number)}\r\n".encode()


def in_frames(peer: Peer, said: bytes) -> Iterator[bytes]:
    """Send unit by unit, and check each; yields what was sent, in one piece but where TLS began."""
    start = at = 0
    while at < len(said) and not peer.ended:
        if peer.asked == "tls":
            begin = said.find(TLS, at)
            if begin < 0:
                break
            assert peer.send(said[at:begin]) == b"", "nothing is said before TLS begins"
            peer.start_tls()
            yield said[start:begin]
            yield TLS
            start = at = begin + 2
            continue
        line = said[at : said.find(b"\n", at) + 1] or said[at:]
        at += len(line)
        heard = peer.send(line)
        peer.finish()
        if not peer.session.in_mail:
            continue
        if heard.endswith(b"354 End with <CRLF>.<CRLF>\r\n"):
            at += send_content(peer, said[at:])
        else:
            at += send_chunk(peer, said[at:], *line.upper().strip(b" \t\r\n\0").split()[1:])
    if start < at or not start:
        peer.send(said[at:])
        yield said[start:]
    peer.finish()


def send_content(peer: Peer, said: bytes) -> int:
    """All of DATA's content; how long it is on the wire."""
    end = (b"\r\n" + said).find(b"\r\n.\r\n")
    wire = said if end < 0 else said[: end + 3]
    before = len(peer.mails)
    heard = peer.send(wire)
    peer.finish()
    if end < 0:
        assert peer.session.in_mail
        assert (heard, peer.mails[before:]) == (b"", []), "there is no CRLF.CRLF yet"
        return len(wire)
    assert not peer.session.in_mail
    content = (b"\r\n" + wire[:-3]).replace(b"\r\n.", b"\r\n")[2:]
    if peer.verdict == "given up":
        assert heard.startswith((b"452 ", b"552 ", b"451 "))
    elif len(content) > peer.most:
        assert heard.startswith(b"552 ")
    else:
        assert [mail[-1] for mail in peer.mails[before:]] == [content]
    return len(wire)


def send_chunk(peer: Peer, said: bytes, size: bytes, *words: bytes) -> int:
    """A chunk of BDAT; how much of it there was."""
    wire = said[: int(size)]
    before, mails = peer.content, len(peer.mails)
    heard = peer.send(wire)
    whole = len(wire) == int(size)
    assert peer.session.in_mail != whole
    assert bool(heard or peer.asked) == whole, "a chunk has one reply, at its end"
    peer.finish()
    if peer.verdict == "given up":
        return len(wire)
    if before is None or (words and words != (b"LAST",)):
        assert len(peer.mails) == mails
        assert peer.content == (None if whole else before)
    elif len(before + wire) > peer.most:
        assert (peer.content, len(peer.mails)) == (None, mails)
    elif whole and words:
        assert [mail[-1] for mail in peer.mails[mails:]] == [before + wire]
    else:
        assert peer.content == before + wire
    return len(wire)


def check_output(peer: Peer) -> None:
    """Replies are whole lines of words that are in the source of the session: nothing is echoed."""
    assert peer.output.endswith(b"\r\n")
    code = b""
    for line in peer.output.split(b"\r\n")[:-1]:
        found = re.fullmatch(rb"([2-5]\d\d)([ -])(?:\d\.\d\.\d )?(.*)", line)
        assert found is not None, line
        assert len(line) <= 510
        assert code in (b"", found[1])
        code = found[1] if found[2] == b"-" else b""
        text = found[3].decode("ascii")
        stored = text.removeprefix("Ok: stored as ")
        assert text.removeprefix(HOST).strip() in SAID or stored in map(mail_id, range(1, len(peer.mails) + 1)), line
    assert not code
    taken = sum(peer.output.count(stored_as(number)) for number in range(1, len(peer.mails) + 1))
    assert taken == peer.taken


def said_in(texts: Iterable[str]) -> set[str]:
    """What a reply may say: each line of a text without its codes."""
    return {re.sub(r"^\d{3}[ -]|^\d\.\d\.\d ", "", line).strip() for text in texts for line in text.split("\r\n")}


SAID = said_in(
    node.value if isinstance(node.value, str) else node.value.decode("latin-1")
    for node in ast.walk(ast.parse(Path(smtp.__file__).read_text("utf-8")))
    if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes)
) | {
    "Try again 250 later",
    "Not 250 now",
    *(f"SIZE {options.get('max_size', 64 * 1024 * 1024)}" for options in OPTIONS),
}
