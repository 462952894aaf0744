"""Login in all its modes, by a real client and byte by byte."""

from __future__ import annotations

import base64
import smtplib
import time

import pytest

from gateway.integrations.smtp_server import protocol
from tests.integrations.smtp_server.harness import PATIENCE, Serve, eventually

USERS = {"cam": "secret", "nas": "pässword"}


def plain(user: str, password: str) -> bytes:
    return b"AUTH PLAIN " + base64.b64encode(f"\0{user}\0{password}".encode())


def client(address: tuple[str, int]) -> smtplib.SMTP:
    return smtplib.SMTP(*address, timeout=PATIENCE)


def test_any_takes_everything_and_asks_for_nothing(serve: Serve) -> None:
    server = serve()
    with client(server.address) as one:
        one.login("whoever", "whatever")
        one.sendmail("a@lan", ["b@gw"], b"x")
    with client(server.address) as one:
        one.sendmail("a@lan", ["b@gw"], b"x")
    for envelope, _ in server.intake.mails:  # a device may well have sent its password as its name
        assert "user" not in envelope.details
        assert "whatever" not in str(envelope)


def test_none_offers_nothing(serve: Serve) -> None:
    with client(serve(login="none").address) as one:
        one.ehlo()
        assert not one.has_extn("auth")
        assert one.docmd("AUTH PLAIN =") == (502, b"5.5.1 AUTH is not offered")
        one.sendmail("a@lan", ["b@gw"], b"x")


@pytest.mark.parametrize("mode", ["optional", "required"])
@pytest.mark.parametrize("how", ["plain", "login"])
def test_the_right_password_is_right(serve: Serve, mode: str, how: str) -> None:
    server = serve(login=mode, users=USERS)
    with client(server.address) as one:
        one.ehlo()
        one.user, one.password = "cam", "secret"
        assert one.auth(how, getattr(one, f"auth_{how}"))[0] == 235
        one.sendmail("a@lan", ["b@gw"], b"x")
    assert server.intake.mails[0][0].details["user"] == "cam"


def test_letters_beyond_ascii(serve: Serve) -> None:
    peer = serve(users=USERS).peer(b"EHLO nas")
    assert peer.ask(plain("nas", "pässword")) == "235 2.7.0 Authentication successful"


def test_required_is_required_and_is_what_users_mean(serve: Serve) -> None:
    peer = serve(users=USERS).peer(b"EHLO cam")
    assert peer.ask(b"MAIL FROM:<a>") == "530 5.7.0 Authentication required"


def test_optional_is_optional(serve: Serve) -> None:
    with client(serve(login="optional", users=USERS).address) as one:
        one.sendmail("a@lan", ["b@gw"], b"x")


def test_wrong_passwords_take_longer_and_longer_and_end_the_session(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "FIRST_LOGIN", 0.05)
    server = serve(users=USERS, max_auth_failures=3)
    peer = server.peer(b"EHLO cam")
    begun = time.monotonic()
    assert peer.ask(plain("cam", "wrong")) == "535 5.7.8 Authentication credentials invalid"
    assert peer.ask(plain("m\nallory", "secret")) == "535 5.7.8 Authentication credentials invalid"
    peer.send(plain("cam", ""))
    assert peer.rest() == ["421 4.7.0 gw.lan Too many failed logins"]
    assert time.monotonic() - begun >= 0.05 + 0.1 + 0.2
    assert server.log.lines == [
        "WARNING Login of 'cam' from 127.0.0.1 (cam) refused: wrong password.",
        "WARNING Login of a user from 127.0.0.1 (cam) refused: no such user.",
        "WARNING Login of 'cam' from 127.0.0.1 (cam) refused: wrong password.",
        "WARNING 127.0.0.1 (cam) was cut off: 3 logins of it failed.",
    ]


def test_the_delay_is_the_peers_not_the_connections(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "FIRST_LOGIN", 0.05)
    server = serve(users=USERS)
    for _ in range(2):
        server.peer(b"EHLO cam").ask(plain("cam", "wrong"))
    begun = time.monotonic()
    peer = server.peer(b"EHLO cam")
    peer.ask(plain("cam", "wrong"))
    assert time.monotonic() - begun >= 0.2
    assert peer.ask(plain("cam", "secret")) == "235 2.7.0 Authentication successful"
    shared = server.it._shared
    assert shared
    assert shared.peers.failed_logins.count("127.0.0.1") == 0


def test_gone_before_the_answer(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "FIRST_LOGIN", 0.1)
    server = serve(users=USERS)
    peer = server.peer(b"EHLO cam")
    peer.send(plain("cam", "wrong"), plain("cam", "secret"), b"MAIL FROM:<a>", b"RCPT TO:<b>", b"DATA", b"x", b".")
    peer.reset()
    eventually(lambda: server.intake.mails)
    eventually(lambda: not server.connections)
