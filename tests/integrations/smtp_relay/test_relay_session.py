"""TLS, certificates and logins; what is told of a smarthost that stays away; a strict aiosmtpd."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ssl
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.smtp import SMTP, AuthResult, Envelope

from gateway.api import Broken, CredentialsRefused, NotReady, Retry
from gateway.integrations.smtp_relay import LOGIN_WAIT, Config, SmtpRelay
from tests.certificates import Authority
from tests.integrations.smtp_relay.harness import Gateway, Scripted, make_event, make_relay, polite, relay


class Strict:
    """aiosmtpd as a smarthost: takes nothing without TLS and the right login."""

    def __init__(self) -> None:
        self.envelopes: list[Envelope] = []
        self.tls: list[bool] = []

    async def handle_DATA(self, server: Any, session: Any, envelope: Envelope) -> str:  # noqa: N802  # aiosmtpd's name
        self.envelopes.append(envelope)
        self.tls.append(session.ssl is not None)
        return "250 OK"


@contextlib.asynccontextmanager
async def aiosmtpd(authority: Authority, *, implicit: bool = False) -> AsyncIterator[tuple[Strict, str]]:
    handler = Strict()
    options: dict[str, Any] = {} if implicit else {
        "tls_context": authority.server_context, "require_starttls": True, "auth_required": True,
    }  # fmt: skip

    def check(server: Any, session: Any, envelope: Any, mechanism: str, login: Any) -> AuthResult:
        return AuthResult(success=login.login == b"me" and login.password == b"pass", handled=False)

    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: SMTP(handler, hostname="smarthost.example", authenticator=check, loop=loop, **options),
        "127.0.0.1",
        0,
        ssl=authority.server_context if implicit else None,
    )
    try:
        yield handler, f"{'smtps' if implicit else 'smtp'}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


@pytest.mark.parametrize("auth", ["auto", "plain", "login"])
async def test_starttls_and_login_at_a_strict_aiosmtpd(
    auth: str, gateway: Gateway, tmp_path: Path, authority: Authority
) -> None:
    async with aiosmtpd(authority) as (handler, url):
        options = {"user": "me", "password": "pass", "auth": auth, "tls": {"ca": authority.ca}}
        async with relay(gateway, tmp_path, url=url, **options) as post:
            await post.deliver(make_event())
            await post.deliver(make_event())
    assert [one.rcpt_tos for one in handler.envelopes] == 2 * [["me@example.org"]]
    assert handler.tls == [True, True]


async def test_tls_from_the_first_byte(gateway: Gateway, tmp_path: Path, authority: Authority) -> None:
    async with (
        aiosmtpd(authority, implicit=True) as (handler, url),
        relay(gateway, tmp_path, url=url, tls={"ca": authority.ca}) as post,
    ):
        await post.deliver(make_event())
    assert len(handler.envelopes) == 1


@pytest.mark.parametrize("implicit", [False, True])
async def test_a_certificate_that_nobody_vouches_for(
    implicit: bool, gateway: Gateway, tmp_path: Path, authority: Authority
) -> None:
    async with aiosmtpd(authority, implicit=implicit) as (handler, url):
        async with relay(gateway, tmp_path, url=url, tls={}) as post:
            with pytest.raises(
                NotReady, match=r"its certificate can't be trusted: .*certificate.* name its authority: tls:"
            ):
                await post.deliver(make_event())
        async with relay(
            gateway, tmp_path, url=url.replace("127.0.0.1", "127.0.0.2"), tls={"ca": authority.ca}
        ) as post:
            with pytest.raises(NotReady):
                await post.deliver(make_event())
    assert not handler.envelopes


async def test_a_wrong_password_waits_for_a_person(gateway: Gateway, tmp_path: Path, authority: Authority) -> None:
    async with aiosmtpd(authority) as (_, url):
        options = {"user": "me", "password": "wrong", "tls": {"ca": authority.ca}}
        async with relay(gateway, tmp_path, url=url, **options) as post:
            with pytest.raises(NotReady, match=r"refused the login of me \(plain\): 535 5\.7\.8") as caught:
                await post.deliver(make_event())
    assert caught.value.after == LOGIN_WAIT
    assert "wrong" not in str(caught.value)


async def test_nothing_in_the_clear_that_was_meant_for_tls(gateway: Gateway, tmp_path: Path) -> None:
    async with (
        Scripted(polite(offers="AUTH PLAIN")) as server,
        relay(gateway, tmp_path, url=server.url, starttls=None, user="me", password="pass") as post,
    ):
        with pytest.raises(NotReady, match=r"offers no STARTTLS, and nothing goes out in the clear. For a host of"):
            await post.deliver(make_event())
    assert server.lines == ["EHLO gw.example"]


async def test_starttls_where_it_is_offered_and_without_where_it_is_not(gateway: Gateway, tmp_path: Path) -> None:
    async with Scripted(polite()) as server, relay(gateway, tmp_path, url=server.url, starttls="offered") as post:
        await post.deliver(make_event())
    assert len(server.mails) == 1


LOGIN = """
S: 220 x
C: EHLO .*
S: 250-x
S: 250 AUTH {offers}
{dialog}
S: 235 2.7.0 ok
C: MAIL .*
S: 250 ok
C: RCPT .*
S: 250 ok
C: DATA
S: 354 go
C: <mail>
S: 250 ok
"""


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode().replace("+", "\\+")


@pytest.mark.parametrize(
    ("auth", "offers", "dialog"),
    [
        ("auto", "PLAIN LOGIN CRAM-MD5", None),  # without TLS the one that does not show the password
        ("auto", "GSSAPI LOGIN", f"C: AUTH LOGIN {b64('tim')}\nS: 334 UGFzc3dvcmQ6\nC: {b64('tanstaaftanstaaf')}"),
        ("plain", "PLAIN", f"C: AUTH PLAIN {b64(chr(0) + 'tim' + chr(0) + 'tanstaaftanstaaf')}"),
        ("cram-md5", "CRAM-MD5", None),
    ],
)
async def test_logins(auth: str, offers: str, dialog: str | None, gateway: Gateway, tmp_path: Path) -> None:
    # RFC 2195 §2: its own example.
    cram = (
        "C: AUTH CRAM-MD5\nS: 334 PDE4OTYuNjk3MTcwOTUyQHBvc3RvZmZpY2UucmVzdG9uLm1jaS5uZXQ+\n"
        "C: dGltIGI5MTNhNjAyYzdlZGE3YTQ5NWI0ZTZlNzMzNGQzODkw"
    )
    script = LOGIN.format(offers=offers, dialog=dialog or cram)
    async with Scripted(script) as server:
        options = {"user": "tim", "password": "tanstaaftanstaaf", "auth": auth}
        async with relay(gateway, tmp_path, url=server.url, **options) as post:
            await post.deliver(make_event())
    assert len(server.mails) == 1


async def test_a_login_that_is_not_offered(gateway: Gateway, tmp_path: Path) -> None:
    async with (
        Scripted(polite(offers="AUTH NTLM GSSAPI")) as server,
        relay(gateway, tmp_path, url=server.url, user="me", password="x") as post,
    ):
        words = "does not offer the login cram-md5 or plain or login: it offers ntlm, gssapi"
        with pytest.raises(NotReady, match=words):
            await post.deliver(make_event())
    async with Scripted(polite()) as server, relay(gateway, tmp_path, url=server.url, user="me", password="x") as post:
        with pytest.raises(NotReady, match="it offers none at all, perhaps only with TLS"):
            await post.deliver(make_event())


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("import sys; sys.exit('no refresh token')", "ended with 1: no refresh token"),
        ("pass", "ended with 0: it said nothing"),
    ],
)
async def test_a_token_command_that_gives_no_token(program: str, words: str, gateway: Gateway, tmp_path: Path) -> None:
    command = [sys.executable, "-c", program]
    async with Scripted(polite(offers="AUTH XOAUTH2")) as server:
        async with relay(gateway, tmp_path, url=server.url, user="me", token_command=command) as post:
            with pytest.raises(NotReady, match=words):
                await post.deliver(make_event())
        async with relay(gateway, tmp_path, url=server.url, user="me", token_command="/nowhere/at/all") as post:
            with pytest.raises(NotReady, match="token_command: /nowhere/at/all: No such file or directory"):
                await post.deliver(make_event())


async def test_a_user_alone_is_not_enough(gateway: Gateway, tmp_path: Path) -> None:
    post = make_relay(gateway, tmp_path / "post", url="smtps://me@smtp.example.org")
    with pytest.raises(CredentialsRefused, match=r"example\.org wants more than the user me: add password or"):
        await post.start()


@pytest.mark.parametrize(("content", "words"), [(None, "there is no file"), ("no certificate", "can't be used")])
async def test_certificates_that_can_not_be_read(
    content: str | None, words: str, gateway: Gateway, tmp_path: Path
) -> None:
    if content:
        (tmp_path / "ca.pem").write_text(content)
    post = make_relay(gateway, tmp_path / "post", url="smtps://h", tls={"ca": tmp_path / "ca.pem"})
    with pytest.raises(Broken, match=f"tls: .*{words}"):
        await post.start()


async def test_certificates_are_read_again(
    gateway: Gateway, tmp_path: Path, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    ca = tmp_path / "ca.pem"
    ca.write_bytes(Authority(tmp_path / "other").ca.read_bytes())
    async with (
        aiosmtpd(authority, implicit=True) as (handler, url),
        relay(gateway, tmp_path, url=url, tls={"ca": ca}) as post,
    ):
        with pytest.raises(NotReady, match="certificate"):
            await post.deliver(make_event())
        ca.write_bytes(authority.ca.read_bytes())
        post.reload()
        await post.deliver(make_event())
        ca.unlink()
        post.reload()
        await post.deliver(make_event())
    assert len(handler.envelopes) == 2
    assert "the certificates stay as they were: tls: there is no file" in caplog.text


def test_doctor_looks_in(tmp_path: Path, authority: Authority) -> None:
    async def find(url: str, **options: Any) -> Any:
        config = Config.model_validate({"from": "a@b", "to": "c@d", "url": url, **options})
        return await asyncio.to_thread(lambda: next(iter(SmtpRelay.examine("post", config, tmp_path))))

    async def all_of_it() -> None:
        async with aiosmtpd(authority) as (_, url):
            options = {"user": "me", "tls": {"ca": authority.ca}}
            good = await find(url, password="pass", **options)
            assert (good.result, good.text) == ("ok", "takes mail from us, mails of up to 33554432 bytes")
            bad = await find(url, password="wrong", **options)
            assert bad.result == "fail"
            assert "refused the login of me (plain): 535" in bad.text
        assert (await find("smtp://127.0.0.1:1", starttls="never")).text == "127.0.0.1:1: Connection refused"

    asyncio.run(all_of_it())


# --- what is told ----------------------------------------------------------------------------------------------------


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_an_outage_is_warned_of_once(gateway: Gateway, tmp_path: Path) -> None:
    options = {"warn_after": 0.001, "idle": 0}
    async with Scripted("S: 421 busy") as server, relay(gateway, tmp_path, url=server.url, **options) as post:
        for _ in range(3):
            with pytest.raises(NotReady):
                await post.deliver(make_event())
    async with Scripted("S: 421 busy") as server, relay(gateway, tmp_path, url=server.url, **options) as post:
        with pytest.raises(NotReady):  # known after a restart
            await post.deliver(make_event())
    async with Scripted(polite()) as server, relay(gateway, tmp_path, url=server.url, **options) as post:
        await post.deliver(make_event())
        await post.deliver(make_event())
    (warning,) = gateway.emitted
    assert (warning["severity"], warning["title"]) == ("warning", "Mails to people are waiting")
    assert "421 busy" in warning["text"]
    assert warning["apart_from"] == "post"  # a warning of a warning would never end
    assert gateway.problems[-1] is None


async def test_a_mail_that_waits_too_long_is_told_once(gateway: Gateway, tmp_path: Path) -> None:
    memo: Any = {"since": 0.0}
    for _ in range(2):
        async with Scripted(polite("rcpt=450 4.2.1 busy")) as server, relay(gateway, tmp_path, url=server.url) as post:
            with pytest.raises(Retry) as caught:
                await post.deliver_again(make_event(), memo)
            memo = caught.value.memo
    assert [one["title"] for one in gateway.emitted] == ["A mail is still waiting: Motion detected"]
    assert "me@example.org: 450 4.2.1 busy" in gateway.emitted[0]["text"]


async def test_what_it_counts(gateway: Gateway, tmp_path: Path) -> None:
    async with Scripted(polite()) as server, relay(gateway, tmp_path, url=server.url) as post:
        await post.deliver(make_event())
        counted = {metric.name: metric.samples for metric in post.metrics()}
        assert ({"outcome": "delivered"}, 1.0) in counted["mailwire_smtp_relay_recipients_total"]
        assert counted["mailwire_smtp_relay_connections_total"] == [({}, 1.0)]
        assert post.describe() == f"mails to me@example.org by {server.url.removeprefix('smtp://')}"
        assert post.health()["delivered"] == 1


def test_tls_context_is_strict() -> None:
    config = Config.model_validate({"from": "a@b", "to": "c@d", "url": "smtps://h"})
    from gateway.integrations.smtp_relay import _tls

    assert _tls(config).verify_mode is ssl.CERT_REQUIRED
    assert _tls(config).check_hostname
