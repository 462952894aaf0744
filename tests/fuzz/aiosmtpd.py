"""Fuzzes `wire.smtp` beside aiosmtpd: where the two servers differ, one of tests/fuzz/reasons.py must tell why.

An input is one byte that chooses a listener, and what a peer says. Both servers are given it a unit at a time (a line;
all of DATA's content up to the first CRLF . CRLF) and must answer with the same classes of reply, hang up or not, and
have taken the same mails. Behind a difference with a reason both are brought to the same state by EHLO, if that can be;
else the conversation is over. aiosmtpd runs as it is, on a loop and a transport in memory.

`tests/dialogs/aiosmtpd-differences.txt` says for each dialog what is different; here are the rules behind those.
"""

import asyncio
import logging
import warnings
from collections.abc import Iterator
from typing import Any

from gateway.wire import smtp
from tests import aiosmtpd_server
from tests.dialog import LISTENERS, MemoryLine, Received, load_all, play, replies
from tests.fuzz.reasons import Difference, reason
from tests.fuzz.smtp import WORDS as SMTP_WORDS
from tests.wire.owner import Owner

OPTIONS: list[dict[str, Any]] = [
    LISTENERS["plain"] | {"login": "optional"},  # aiosmtpd has no listener where any password is right
    LISTENERS["strict"],
    LISTENERS["login-required"],
    LISTENERS["strict"] | {"max_size": 100},
]
WORDS = [word for word in SMTP_WORDS if b"\xff" not in word]


def seeds() -> Iterator[bytes]:
    for number, dialog in enumerate(load_all()):
        line = MemoryLine(Owner(keep=False, **dialog.session_options))
        play(dialog, line)
        said = b"".join(feed[0] * feed[1] for feed in line.feeds if feed is not None)
        if len(said) <= 8000:
            yield bytes([number % len(OPTIONS)]) + said


class Transport(asyncio.Transport):
    """A connection in memory: what is written is kept."""

    def __init__(self, protocol: asyncio.Protocol, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__({"peername": ("192.0.2.1", 25)})
        self.protocol = protocol
        self.loop = loop
        self.output = b""
        self.closed = False

    def write(self, data: bytes) -> None:  # type: ignore[override]
        self.output += data

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self.loop.call_soon(self.protocol.connection_lost, None)

    def pause_reading(self) -> None:
        """What has been sent has been sent."""

    def resume_reading(self) -> None:
        pass


class Theirs:
    """aiosmtpd's side of a conversation, with the same face as `Ours`."""

    loop = asyncio.new_event_loop()

    def __init__(self, options: dict[str, Any]) -> None:
        self.keeper = aiosmtpd_server.Keeper()
        self.protocol = aiosmtpd_server.server(self.keeper, options, self.loop)
        self.transport = Transport(self.protocol, self.loop)
        self.protocol.connection_made(self.transport)
        self.settle()

    def feed(self, data: bytes) -> bytes:
        if not self.transport.closed:
            self.protocol.data_received(data)
            self.settle()
        output, self.transport.output = self.transport.output, b""
        return output

    def settle(self) -> None:
        """Let it run until it waits for more input, or has ended."""
        while not self.protocol._handler_coroutine.done() and self.protocol._reader._waiter is None:
            self.turn()

    def turn(self) -> None:
        self.loop.call_soon(self.loop.stop)
        self.loop.run_forever()

    @property
    def ended(self) -> bool:
        return self.transport.closed

    @property
    def stands(self) -> tuple[str | None, list[str], bool]:
        """Sender, recipients, and whether somebody is logged in."""
        envelope = self.protocol.envelope
        sender = "" if envelope.mail_from == "<>" else envelope.mail_from
        return sender, envelope.rcpt_tos, bool(self.protocol.session.authenticated)

    @property
    def mails(self) -> list[Received]:
        return self.keeper.mails

    def close(self) -> None:
        self.transport.close()
        while not self.protocol._handler_coroutine.done():
            self.turn()
        self.turn()


class Ours(Owner):
    """Our side."""

    def __init__(self, options: dict[str, Any]) -> None:
        super().__init__(keep=True, **options)

    @property
    def stands(self) -> tuple[str | None, list[str], bool]:
        return self.session.mail_from, self.session.recipients, self.session.user is not None

    @property
    def mails(self) -> list[Received]:
        envelopes = [entry[1] for entry in self.log if entry[0] == "mail"]
        return [
            Received(sender, recipients, content, helo)
            for (helo, _, sender, recipients), content in zip(envelopes, self.contents, strict=True)
        ]


def told(output: bytes, ended: bool) -> str:
    return "".join(chr(reply[0]) for reply in replies(output)) + "x" * ended


def unit_at(said: bytes, at: int, where: str) -> bytes:
    """The next line, or the whole content of a mail."""
    if where == "content":
        found = (b"\r\n" + said[at:]).find(b"\r\n.\r\n")
        return said[at : at + found + 3] if found >= 0 else said[at:]
    return said[at : said.find(b"\n", at) + 1] or said[at:]


class Unexplained(AssertionError):
    """A difference without a reason; those of one `kind` may well have the same."""

    def __init__(self, difference: Difference) -> None:
        super().__init__(f"no reason is known for {difference}")
        verb = difference.our_verb if difference.our_verb in smtp.Session._VERBS else b"?"
        self.kind = f"{difference.where} {verb.decode()} {difference.ours or '-'} {difference.theirs or '-'}"


def fuzz_aiosmtpd(data: bytes) -> None:
    """Unexplained if the two differ and no reason is known; nothing else is raised."""
    for difference in differences(data):
        if not reason(difference):
            raise Unexplained(difference)


def differences(data: bytes) -> Iterator[Difference]:
    options = OPTIONS[data[0] % len(OPTIONS)] if data else OPTIONS[0]
    with warnings.catch_warnings(action="ignore"):
        ours, theirs = Ours(options), Theirs(options)
    theirs.feed(b"")  # its greeting
    at, where = 1, "command"
    try:
        while at < len(data) and not ours.ended:
            unit = unit_at(data, at, where)
            at += len(unit)
            esmtp, transaction = ours.session.esmtp, ours.session.mail_from is not None
            counts = len(ours.mails), len(theirs.mails)
            said, heard = ours.feed(unit), theirs.feed(unit)
            classes = told(said, bool(ours.ended)), told(heard, theirs.ended)
            mails = ours.mails[counts[0] :], theirs.mails[counts[1] :]
            if classes[0] != classes[1] or mails[0] != mails[1] or (not ours.ended and ours.stands != theirs.stands):
                codes = " ".join(reply[:3].decode() for reply in replies(heard))
                states = (ours.stands, theirs.stands)
                yield Difference(unit, where, options, esmtp, transaction, *classes, ours.ended, codes, *mails, states)
                if not same_again(ours, theirs):
                    return
                said = b""
            where = "content" if said.startswith(b"354") else "login" if said.startswith(b"334") else "command"
    finally:
        theirs.close()


def same_again(ours: Ours, theirs: Theirs) -> bool:
    """Whether EHLO brought both to the same state: no transaction, and the same logged in."""
    if ours.ended or theirs.ended or ours.session.in_mail:
        return False
    answers = ours.feed(b"EHLO again\r\n"), theirs.feed(b"EHLO again\r\n")
    return all(told(answer, False) == "2" for answer in answers) and ours.stands == theirs.stands


logging.getLogger("mail").setLevel(logging.CRITICAL)
