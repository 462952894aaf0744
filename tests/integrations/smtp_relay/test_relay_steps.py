"""A smarthost that fails at each step, in each way; what becomes of the mail, in its own words. Scripted servers."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from gateway.api import NotReady, Refused, Retry
from tests.integrations.smtp_relay.harness import Gateway, Scripted, make_event, polite, relay

QUICK = {"connect": 0.3, "command": 0.3, "data": 0.3}
TWO = {"to": ["me@example.org", "you@example.org"]}


async def outcome(
    server: Scripted, gateway: Gateway, folder: Path, memo: Any = None, **options: Any
) -> Exception | None:
    """What `deliver` raises; None: done."""
    async with server, relay(gateway, folder, url=server.url, **options) as post:
        try:
            await post.deliver_again(make_event(), memo or {})
        except (NotReady, Refused, Retry) as error:
            return error
        return None


async def test_done_when_the_smarthost_says_250_to_the_dot(gateway: Gateway, tmp_path: Path) -> None:
    server = Scripted(polite())
    assert await outcome(server, gateway, tmp_path) is None
    assert server.lines == ["EHLO gw.example", "MAIL FROM:<gw@example.org>", "RCPT TO:<me@example.org>", "DATA", "QUIT"]
    assert len(server.mails) == 1


AWAY, LATER, NEVER = NotReady, Retry, Refused


@pytest.mark.parametrize(
    ("step", "reply", "kind", "words"),
    [
        ("greeting", "421 too busy", AWAY, "421 too busy"),
        ("greeting", "554 no service here", AWAY, "554 no service here"),
        ("greeting", "<close>", AWAY, "Unexpected EOF"),
        ("greeting", "<silence>", AWAY, "Timed out"),
        ("greeting", "HTTP/1.1 400 Bad Request", AWAY, "Malformed SMTP response line: HTTP/1.1 400 Bad Request"),
        ("ehlo", "421 4.3.2 shutting down", AWAY, "421 4.3.2 shutting down"),
        ("ehlo", "<close>", AWAY, "Unexpected EOF"),
        ("ehlo", "<silence>", AWAY, "Timed out"),
        ("mail", "451 4.3.0 try later", LATER, "me@example.org: 451 4.3.0 try later"),
        ("mail", "421 4.7.0 rate limited", LATER, "me@example.org: 421 4.7.0 rate limited"),
        ("mail", "550 5.7.1 not you", NEVER, "me@example.org: 550 5.7.1 not you"),
        ("mail", "530 5.7.0 Authentication required", AWAY, "530 5.7.0 Authentication required"),
        ("mail", "<close>", LATER, "me@example.org: Unexpected EOF"),
        ("mail", "<silence>", LATER, "me@example.org: Timed out"),
        ("mail", "what?", LATER, "me@example.org: the smarthost's reply is none"),
        ("mail", "999 nine", LATER, "me@example.org: the smarthost's reply is none: nine"),
        ("mail", "550 \\xff\\xfe \\x1b[31m", NEVER, "me@example.org: 550 \ufffd\ufffd \ufffd[31m"),
        ("rcpt", "450 4.2.1 greylisted", LATER, "me@example.org: 450 4.2.1 greylisted"),
        ("rcpt", "550 5.1.1 no such user", NEVER, "me@example.org: 550 5.1.1 no such user"),
        ("rcpt", "452 4.5.3 too many recipients", LATER, "me@example.org: 452 4.5.3 too many recipients"),
        ("rcpt", "552 5.5.3 too many recipients", LATER, "me@example.org: 552 5.5.3 too many recipients"),
        ("rcpt", "<close>", LATER, "me@example.org: Unexpected EOF"),
        ("rcpt", "<silence>", LATER, "me@example.org: Timed out"),
        ("data", "451 4.3.0 no", LATER, "me@example.org: 451 4.3.0 no"),
        ("data", "554 5.5.1 no valid recipients", NEVER, "me@example.org: 554 5.5.1 no valid recipients"),
        ("data", "250 ok", LATER, "me@example.org: the smarthost's reply is none: ok"),
        ("data", "<close>", LATER, "me@example.org: Unexpected EOF"),
        ("data", "<silence>", LATER, "me@example.org: Timed out"),
        ("dot", "452 4.3.1 disk full", LATER, "me@example.org: 452 4.3.1 disk full"),
        ("dot", "554 5.6.0 virus", NEVER, "me@example.org: 554 5.6.0 virus"),
        ("dot", "<close>", LATER, "me@example.org: Unexpected EOF"),
        ("dot", "<silence>", LATER, "me@example.org: Timed out"),
    ],
)
async def test_each_failure_at_each_step(
    step: str, reply: str, kind: type[Exception], words: str, gateway: Gateway, tmp_path: Path
) -> None:
    error = await outcome(Scripted(polite(f"{step}={reply}")), gateway, tmp_path, timeouts=QUICK)
    assert type(error) is kind, error
    assert words in str(error)
    assert (gateway.problems[-1:] == [str(error)]) == (kind is AWAY)


async def test_nobody_listens(gateway: Gateway, tmp_path: Path) -> None:
    server = Scripted(polite())
    async with server:
        url = server.url
    async with relay(gateway, tmp_path, url=url) as post:
        with pytest.raises(NotReady, match=r"^127\.0\.0\.1:\d+: Connection refused$"):
            await post.deliver(make_event())


async def test_what_was_put_off_is_tried_after_as_long_as_it_has_waited(gateway: Gateway, tmp_path: Path) -> None:
    first = await outcome(Scripted(polite("mail=451 no")), gateway, tmp_path)
    assert isinstance(first, Retry)
    assert first.after == 60
    later = await outcome(
        Scripted(polite("mail=451 no")), gateway, tmp_path, {**first.memo, "since": first.memo["since"] - 900}
    )
    assert isinstance(later, Retry)
    assert 900 <= later.after < 960
    days = await outcome(
        Scripted(polite("mail=451 no")), gateway, tmp_path, {**first.memo, "since": first.memo["since"] - 9e5}
    )
    assert isinstance(days, Retry)
    assert days.after == 3600


# --- several recipients ----------------------------------------------------------------------------------------------

BOTH = """
S: 220 smarthost.example
C: EHLO .*
S: 250 smarthost.example
C: MAIL .*
S: 250 ok
C: RCPT TO:<me@example.org>
S: {me}
C: RCPT TO:<you@example.org>
S: {you}
C: DATA
S: 354 go
C: <mail>
S: {dot}
C: QUIT|RSET
S: 221 bye
"""


async def test_a_repeat_goes_only_to_those_who_have_not_had_it(gateway: Gateway, tmp_path: Path) -> None:
    error = await outcome(
        Scripted(BOTH.format(me="250 ok", you="450 4.2.1 later", dot="250 ok")), gateway, tmp_path, **TWO
    )
    assert isinstance(error, Retry)
    assert str(error) == "you@example.org: 450 4.2.1 later"
    assert error.memo
    again = Scripted(polite())
    assert await outcome(again, gateway, tmp_path, error.memo, **TWO) is None
    assert [line for line in again.lines if line.startswith("RCPT")] == ["RCPT TO:<you@example.org>"]


async def test_one_refused_for_good_is_a_dead_letter_and_the_other_has_had_it(gateway: Gateway, tmp_path: Path) -> None:
    error = await outcome(
        Scripted(BOTH.format(me="250 ok", you="550 5.1.1 no such user", dot="250 ok")), gateway, tmp_path, **TWO
    )
    assert isinstance(error, Refused)
    assert str(error) == "you@example.org: 550 5.1.1 no such user"
    assert error.memo == {"had": ["me@example.org"]}


async def test_a_login_that_is_wanted_for_one_recipient_alone_is_about_that_one(
    gateway: Gateway, tmp_path: Path
) -> None:
    """hMailServer and others take their own recipients without: nothing pauses, and who has had it has had it."""
    said = "530 SMTP authentication is required."
    error = await outcome(Scripted(BOTH.format(me="250 ok", you=said, dot="250 ok")), gateway, tmp_path, **TWO)
    assert isinstance(error, Refused)
    assert str(error) == f"you@example.org: {said}"
    assert error.memo == {"had": ["me@example.org"]}


async def test_one_refused_one_put_off_one_by_one(gateway: Gateway, tmp_path: Path) -> None:
    error = await outcome(
        Scripted(BOTH.format(me="550 5.1.1 who?", you="250 ok", dot="451 later")), gateway, tmp_path, **TWO
    )
    assert isinstance(error, Retry)
    assert str(error) == "you@example.org: 451 later"
    final = await outcome(Scripted(polite()), gateway, tmp_path, error.memo, **TWO)
    assert isinstance(final, Refused)
    assert str(final) == "me@example.org: 550 5.1.1 who?"
    assert final.memo == {"had": ["you@example.org"]}


async def test_a_smarthost_that_takes_one_recipient_a_transaction_is_given_one(
    gateway: Gateway, tmp_path: Path
) -> None:
    one = BOTH.format(me="250 ok", you="452 4.5.3 one recipient a transaction", dot="250 ok").replace(
        "C: QUIT|RSET\nS: 221 bye", ""
    )
    other = "\n".join(polite().splitlines()[3:])
    server = Scripted(one.strip() + "\n" + other)
    assert await outcome(server, gateway, tmp_path, **TWO) is None
    assert len(server.connections) == 1
    assert len(server.mails) == 2
    assert server.mails[0] == server.mails[1]


async def test_who_has_had_it_does_not_have_it_again_when_the_smarthost_goes_away_in_between(
    gateway: Gateway, tmp_path: Path
) -> None:
    one = BOTH.format(me="250 ok", you="452 4.5.3 one recipient a transaction", dot="250 ok")
    server = Scripted(one.replace("C: QUIT|RSET\nS: 221 bye", "S: <close>"), "S: 421 busy")
    error = await outcome(server, gateway, tmp_path, **TWO)
    assert isinstance(error, Retry)
    assert error.memo
    assert error.memo["had"] == ["me@example.org"]


async def test_nor_when_the_gateway_is_stopped_in_between(gateway: Gateway, tmp_path: Path) -> None:
    one = BOTH.format(me="250 ok", you="452 4.5.3 one recipient a transaction", dot="250 ok")
    script = one.replace("C: QUIT|RSET\nS: 221 bye", "C: MAIL .*\nS: <silence>")
    async with Scripted(script) as server, relay(gateway, tmp_path, url=server.url, **TWO) as post:
        delivery = asyncio.create_task(post.deliver(make_event()))
        await server.silent.wait()
        delivery.cancel()
        with pytest.raises(Retry, match="the gateway was stopped") as caught:
            await delivery
    assert caught.value.memo["had"] == ["me@example.org"]


# --- connections -----------------------------------------------------------------------------------------------------

SECOND = "\n".join(polite().splitlines()[3:])


async def test_a_connection_is_used_again(gateway: Gateway, tmp_path: Path) -> None:
    first = "\n".join(polite().splitlines()[:-2])
    async with Scripted(f"{first}\n{SECOND}") as server, relay(gateway, tmp_path, url=server.url) as post:
        await post.deliver(make_event())
        await post.deliver(make_event())
        assert len(server.connections) == 1
        assert post.health()["connections"] == 1
    assert server.lines[-1] == "QUIT"


@pytest.mark.parametrize(
    "end",
    [
        "S: <close>",
        "S: 421 idle for too long\nS: <close>",
        "C: MAIL .*\nS: <close>",
        "C: MAIL .*\nS: 421 idle for too long",
    ],
)
async def test_a_kept_connection_that_the_server_has_closed_costs_nothing(
    end: str, gateway: Gateway, tmp_path: Path
) -> None:
    first = "\n".join(polite().splitlines()[:-2])
    async with Scripted(f"{first}\n{end}", polite()) as server, relay(gateway, tmp_path, url=server.url) as post:
        await post.deliver(make_event())
        await post.deliver(make_event())
    assert len(server.mails) == 2
    assert len(server.connections) == 2


async def test_an_idle_connection_is_closed(gateway: Gateway, tmp_path: Path) -> None:
    async with Scripted(polite()) as server, relay(gateway, tmp_path, url=server.url, idle=0) as post:
        await post.deliver(make_event())
        await post.deliver(make_event())
        assert len(server.connections) == 2


async def test_no_more_mails_a_minute_than_allowed(
    gateway: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    async with Scripted(polite()) as server, relay(gateway, tmp_path, url=server.url, rate=2, idle=0) as post:
        monkeypatch.setattr("gateway.integrations.smtp_relay.connections.asyncio.sleep", sleep)
        for _ in range(3):
            await post.deliver(make_event())
    assert len(waited) == 1
    assert 59 < waited[0] <= 60
