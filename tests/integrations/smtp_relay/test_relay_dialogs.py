"""Smarthosts that can't be run here, by what was published of their conversations: each file says so."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from gateway.api import NotReady, Retry
from gateway.integrations.smtp_relay import LOGIN_WAIT
from tests.certificates import Authority
from tests.integrations.smtp_relay.harness import DIALOGS, Gateway, Scripted, make_event, relay

TOKEN = {"token_command": [sys.executable, "-c", "print('EwBAAl3BAAUFFpUAo7J3Ve0bjLBWZWCclRC3EoAA')"]}
TWO = {"to": ["me@example.org", "you@example.org"]}


@pytest.mark.parametrize(
    ("name", "options", "eightbit"),
    [
        ("exchange-online-xoauth2", {"user": "me@example.org", "starttls": "required", **TOKEN}, False),
        ("exchange-on-premises", {}, False),
        ("mdaemon-long-greeting", {}, False),
        ("groupwise-seven-bit", {}, True),
        ("qmail-one-line-at-a-time", {}, True),
        ("one-recipient-a-transaction", TWO, False),
    ],
)
async def test_a_mail_goes_out(
    name: str, options: dict[str, Any], eightbit: bool, gateway: Gateway, tmp_path: Path, authority: Authority
) -> None:
    if "starttls" in options:
        options = options | {"tls": {"ca": authority.ca}}
    async with (
        Scripted.of_dialog(name, authority) as server,
        relay(gateway, tmp_path, url=server.url, **options) as post,
    ):
        await post.deliver(make_event(text="31 °C" if eightbit else "warm"))
    assert len(server.mails) == len(options.get("to", "1"))
    for mail in server.mails:
        assert b"\n" not in mail.replace(b"\r\n", b"")
        assert mail.isascii() == (name != "qmail-one-line-at-a-time")


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        (
            "exchange-online-token-expired",
            {"token_command": [sys.executable, "-c", "print('expired')"]},
            "refused the login of me@example.org (xoauth2): 535 5.7.3 Authentication unsuccessful",
        ),
        (
            "exchange-online-basic-auth-ended",
            {"password": "secret"},
            "(login): 550 5.7.30 Basic authentication is not supported for Client Submission.",
        ),
    ],
)
async def test_a_login_is_refused(
    name: str, options: dict[str, Any], words: str, gateway: Gateway, tmp_path: Path
) -> None:
    async with (
        Scripted.of_dialog(name) as server,
        relay(gateway, tmp_path, url=server.url, user="me@example.org", **options) as post,
    ):
        with pytest.raises(NotReady) as caught:
            await post.deliver(make_event())
    assert words in str(caught.value)
    assert caught.value.after == LOGIN_WAIT


async def test_a_mail_with_bare_line_feeds_is_forwarded_with_whole_line_ends(gateway: Gateway, tmp_path: Path) -> None:
    async with (
        Scripted.of_dialog("qmail-bare-lf") as server,
        relay(gateway, tmp_path, url=server.url, mode="forward") as post,
    ):
        with pytest.raises(Retry, match="451 See http://pobox"):  # which it says whatever comes, being a dialog
            await post.deliver(gateway.mailed(b"Subject: x\n\nline\nline\n"))
    assert server.mails[0].endswith(b"Subject: x\r\n\r\nline\r\nline\r\n")
    assert b"\n" not in server.mails[0].replace(b"\r\n", b"")


@pytest.mark.parametrize("path", sorted(DIALOGS.glob("*.dialog")), ids=lambda path: path.stem)
def test_each_dialog_says_where_it_is_from(path: Path) -> None:
    text = path.read_text("utf-8")
    assert text.startswith("# ")
    assert "\n# source: " in text
    assert "can't be run here" in text or "not run here" in text or "composed" in text
