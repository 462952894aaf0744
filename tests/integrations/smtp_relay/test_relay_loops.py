"""Mails that never go out again, and reports of failure that come back."""

from __future__ import annotations

import email
import re
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from gateway.api import Refused, Retry
from gateway.integrations.smtp_relay import bounce
from gateway.integrations.smtp_relay.identity import Identity
from tests.integrations.smtp_relay.harness import Gateway, Scripted, make_event, polite, relay

Passes = Callable[..., Awaitable[str | None]]


@pytest.fixture
def passes(gateway: Gateway, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Passes:
    """None: the mail's event went out; else why it did not."""

    async def tried(raw: bytes, mail_from: str = "cam@lan", **options: object) -> str | None:
        caplog.clear()
        async with Scripted(polite()) as server, relay(gateway, tmp_path, url=server.url, **options) as post:
            try:
                await post.deliver(gateway.mailed(raw, mail_from=mail_from))
            except Refused as error:
                assert not server.mails
                return str(error)
            not_sent_on = post.health()["not_sent_on"]
        assert len(server.mails) + not_sent_on == 1
        return caplog.messages[-1].partition(" is not sent on: ")[2] if not_sent_on else None

    caplog.set_level("INFO")
    return tried


@pytest.mark.parametrize(
    ("header", "mail_from", "why"),
    [
        ("Auto-Submitted: auto-replied", "a@b", "the mail is an automatic answer (Auto-Submitted: auto-replied)"),
        (
            "auto-submitted: AUTO-REPLIED; owner-email=x",
            "a@b",
            "the mail is an automatic answer (Auto-Submitted: auto-replied)",
        ),
        ("Auto-Submitted: auto-notified", "a@b", "the mail is an automatic answer (Auto-Submitted: auto-notified)"),
        ("Auto-Submitted: auto-generated", "", "the mail was made by a machine and has no sender"),
        ("Precedence: bulk", "", "the mail was made by a machine (Precedence: bulk) and has no sender"),
        ("Precedence: Junk", "", "the mail was made by a machine (Precedence: junk) and has no sender"),
        ("Precedence: list", "", "the mail was made by a machine (Precedence: list) and has no sender"),
        (
            "\r\n".join(["Received: by x"] * 26),
            "a@b",
            "the mail has 26 Received fields, more than 25: it goes in circles",
        ),
        ("Auto-Submitted: no", "", None),
        ("Auto-Submitted: auto-generated", "root@nas", None),  # cron, and other alarms
        ("Precedence: bulk", "a@b", None),
        ("\r\n".join(["Received: by x"] * 25), "a@b", None),
        ("X-Loop: mailwire-aaaaaaaaaaaaaaaa", "a@b", None),  # another gateway, whose mail may go on
        ("Message-ID: <01JD0000000000000000000000.aaaaaaaaaaaaaaaaaaaaaaaaaa@example.org>", "a@b", None),
    ],
)
@pytest.mark.parametrize("mode", ["notice", "forward"])
async def test_what_never_goes_out_again(
    header: str, mail_from: str, why: str | None, mode: str, passes: Passes
) -> None:
    raw = f"{header}\r\nSubject: x\r\n\r\nbody\r\n".encode()
    assert await passes(raw, mail_from, mode=mode) == why


@pytest.mark.parametrize("mode", ["notice", "forward"])
async def test_what_we_have_sent_ourselves(mode: str, passes: Passes, gateway: Gateway, tmp_path: Path) -> None:
    async with Scripted(polite()) as server, relay(gateway, tmp_path, url=server.url, mode=mode) as post:
        await post.deliver(gateway.mailed(b"Subject: x\r\n\r\n"))
    (sent,) = server.mails
    ours = "this relay has sent that mail itself"
    assert await passes(sent, mode=mode) == ours
    assert await passes(re.sub(rb"X-Loop: .*\r\n", b"", sent), mode=mode) == ours
    assert await passes(re.sub(rb"(Resent-)?Message-ID: .*\r\n", b"", sent), mode=mode) == ours


async def test_the_marks_of_other_gateways_are_kept(gateway: Gateway, tmp_path: Path) -> None:
    """So that two gateways that send to each other end it."""
    raw = b"X-Loop: mailwire-aaaaaaaaaaaaaaaa\r\nX-Loop: someone else\r\n\r\n"
    async with Scripted(polite()) as server, relay(gateway, tmp_path, url=server.url) as post:
        await post.deliver(gateway.mailed(raw))
    first, second = email.message_from_bytes(server.mails[0]).get_all("X-Loop", [])
    assert first == "mailwire-aaaaaaaaaaaaaaaa"
    assert re.fullmatch("mailwire-[a-z2-7]{16}", second)


# --- reports ---------------------------------------------------------------------------------------------------------

REPORT = """\
From: MAILER-DAEMON@mta.example
To: gw@example.org
Subject: Undelivered Mail Returned to Sender
Auto-Submitted: auto-replied
MIME-Version: 1.0
Content-Type: multipart/report; report-type=delivery-status; boundary="b"

--b
Content-Type: text/plain

I'm sorry.

--b
Content-Type: message/delivery-status

Reporting-MTA: dns; mta.example
Original-Envelope-Id: {envelope_id}

Final-Recipient: rfc822; me@example.org
Original-Recipient: rfc822;me@example.org
Action: {action}
Status: 5.1.1
Diagnostic-Code: smtp; 550 5.1.1 <me@example.org>: no such user

--b
Content-Type: text/rfc822-headers

Message-ID: {message_id}
Subject: x

--b--
"""
PARTS = [{"name": "1", "type": "message/delivery-status", "size": 9, "sha256": ""}]


def report(gateway: Gateway, envelope_id: str = "", message_id: str = "", action: str = "failed") -> dict[str, object]:
    raw = REPORT.format(envelope_id=envelope_id, message_id=message_id, action=action).replace("\n", "\r\n")
    return gateway.mailed(raw.encode(), mail_from="", attachments=PARTS)


@pytest.mark.parametrize("by", ["envelope_id", "message_id"])
async def test_a_report_marks_the_delivery_that_it_is_about(by: str, gateway: Gateway, tmp_path: Path) -> None:
    event = make_event()
    async with (
        Scripted(polite()) as server,
        relay(gateway, tmp_path, url=server.url, to=["me@example.org", "b@c"]) as post,
    ):
        token = Identity.kept_in(tmp_path / "post").token(event["id"])
        back = report(gateway, **{by: token if by == "envelope_id" else f"<{token}@example.org>"})
        assert post.claims(back)
        await post.deliver(back)
        assert post.health()["bounced"] == 1
    assert not server.connections
    words = "came back: me@example.org: 550 5.1.1 <me@example.org>: no such user"
    assert gateway.came_back == [(event["id"], words, {"had": ["b@c"]})]


@pytest.mark.parametrize(
    "given",
    [
        {"action": "delayed"},
        {"action": "delivered"},
        {"envelope_id": "01JD0000000000000000000000"},
        {"envelope_id": "01JD0000000000000000000000.aaaaaaaaaaaaaaaaaaaaaaaaaa"},
        {},
    ],
)
async def test_what_is_no_report_of_a_failure_of_ours_is_believed_nothing(
    given: dict[str, str], gateway: Gateway, tmp_path: Path
) -> None:
    async with Scripted(polite()) as server, relay(gateway, tmp_path, url=server.url) as post:
        token = Identity.kept_in(tmp_path / "post").token("01JD0000000000000000000001")
        await post.deliver(report(gateway, **({"envelope_id": token} | given if "action" in given else given)))
    assert gateway.came_back == []
    assert not server.connections  # nor does it go out again


async def test_a_report_whose_mail_is_no_longer_kept_goes_nowhere(gateway: Gateway, tmp_path: Path) -> None:
    async with Scripted(polite()) as server, relay(gateway, tmp_path, url=server.url) as post:
        event = report(gateway)
        gateway.mails.clear()
        await post.deliver(event)
    assert not server.connections


async def test_a_report_waits_until_the_mail_is_done_with(gateway: Gateway, tmp_path: Path) -> None:
    async with Scripted(polite()) as server, relay(gateway, tmp_path, url=server.url) as post:
        gateway.waiting = {"01JD0000000000000000000001"}
        token = Identity.kept_in(tmp_path / "post").token("01JD0000000000000000000001")
        with pytest.raises(Retry, match="which came back, is not done with yet"):
            await post.deliver(report(gateway, token))


def test_another_key_knows_nothing(tmp_path: Path) -> None:
    one, other = Identity(b"a" * 32), Identity(b"b" * 32)
    token = one.token("01JD0000000000000000000001").encode()
    assert list(one.events_in(b"x " + token + b"@y " + token.lower())) == 2 * ["01JD0000000000000000000001"]
    assert list(other.events_in(token)) == []
    assert list(one.events_in(token.replace(b"1.", b"2."))) == []


def test_the_key_is_made_once_and_is_ours_alone(tmp_path: Path) -> None:
    first = Identity.kept_in(tmp_path).token("x")
    assert Identity.kept_in(tmp_path).token("x") == first
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600


def test_reports_of_other_servers() -> None:
    exim = b"""Content-Type: multipart/report; report-type=delivery-status; boundary=b\r\n\r\n--b\r
Content-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; mta\r\n\r\nAction: failed\r
Final-Recipient: rfc822;Me@Example.org\r\nStatus: 5.0.0\r\n\r\nAction: failed\r
Final-Recipient: rfc822;b+2Bc@d\r\nDiagnostic-Code: x-unix;\r\n exit \x1b[31m 1\r\n--b--\r\n"""
    assert bounce.failures(exim) == [
        bounce.Failure(("me@example.org",), "5.0.0"),
        bounce.Failure(("b+c@d", "b+2bc@d"), "exit \ufffd[31m 1"),
    ]
    utf8 = exim.replace(b"message/delivery-status", b"message/global-delivery-status")
    assert [one.addresses for one in bounce.failures(utf8)] == [("me@example.org",), ("b+c@d", "b+2bc@d")]


async def test_a_plus_in_an_address_may_be_one(gateway: Gateway, tmp_path: Path) -> None:
    """`+25` looks like xtext, and is no more than a tag."""
    event = make_event()
    async with (
        Scripted(polite()) as server,
        relay(gateway, tmp_path, url=server.url, to=["me+25@example.org", "b@c"]) as post,
    ):
        token = Identity.kept_in(tmp_path / "post").token(event["id"])
        back = report(gateway, token)
        envelope, raw = gateway.mails[back["id"]]
        raw = raw.replace(b"rfc822; me@", b"rfc822; me+25@").replace(b"rfc822;me@", b"rfc822;me+25@")
        gateway.mails[back["id"]] = envelope, raw
        await post.deliver(back)
    ((_, _, memo),) = gateway.came_back
    assert memo == {"had": ["b@c"]}


@pytest.mark.parametrize(
    "raw", [b"", b"\r\n", b"Content-Type: multipart/report; boundary=b\r\n\r\n--b\r\n", b"\xff" * 100]
)
def test_reports_that_are_none(raw: bytes) -> None:
    assert bounce.failures(raw) == []
