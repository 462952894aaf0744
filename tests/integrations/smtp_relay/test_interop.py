"""Real mail servers, both ways: each is our smarthost, and each hands what it was given to our own SMTP server.

A device's mail comes in; its event goes out by several relays, in the clear, by STARTTLS and with each login; the mail
server takes it and brings it back into the gateway, in the clear, by STARTTLS and with a login. What each did goes into
`.cache/interop`, of which `script/interop` makes the table.
"""

from __future__ import annotations

import email
import email.policy
import json
import re
import smtplib
from email.message import EmailMessage
from pathlib import Path

import pytest

from tests import needs
from tests.certificates import Authority
from tests.live import Gateway, until
from tests.mosquitto import free_port
from tests.mtas import ALL, Exim, Mta, OpenSmtpd, Postfix, Sendmail

CONFIG = """
integrations:
  lan-mail: {{type: smtp_server, listen: ["127.0.0.1:0"]}}
  in-plain: {{type: smtp_server, listen: ["127.0.0.1:{hops[0]}"], tls: none, login: none, recipients: ["me@*", "gw@*"]}}
  in-tls: {{type: smtp_server, listen: ["127.0.0.1:{hops[1]}"], tls: required, login: none}}
  in-login: {{type: smtp_server, listen: ["127.0.0.1:{hops[2]}"], tls: required, users: {{mta: secret}}}}
  post-plain: {{type: smtp_relay, url: "{url}", from: gw@plain.example, to: me@plain.example, starttls: never}}
  post-tls: {{type: smtp_relay, url: "{url}", from: gw@plain.example, to: me@tls.example, tls: {{ca: "{ca}"}}}}
{logins}
routes:
  - {{if: {{source: lan-mail, to: all@gw}}, to: [post-plain, post-tls, {names}]}}
  - {{if: {{source: lan-mail, to: bounce@gw}}, to: [post-bounce]}}
"""
LOGIN = """\
  login-{auth}: {{type: smtp_relay, url: "{url}", from: gw@plain.example, to: {auth}@login.example, tls: {{ca: "{ca}"}},
    user: relay, password: right, auth: {auth}}}
"""
BOUNCE = """\
  post-bounce: {{type: smtp_relay, url: "{url}", from: gw@plain.example, to: [nobody@plain.example, me@plain.example],
    tls: {{ca: "{ca}"}}}}
"""
LOGINS: dict[type[Mta], tuple[str, ...]] = {
    Postfix: ("plain", "login", "cram-md5"),
    Exim: ("plain", "login", "cram-md5"),
    OpenSmtpd: ("plain", "login"),
    Sendmail: ("plain", "login", "cram-md5"),
}


def device_mail(to: str) -> EmailMessage:
    """With text outside ASCII, a lone dot, a line that begins with "From ", and a picture."""
    mail = EmailMessage()
    mail["From"], mail["To"] = "cam@lan", to
    mail["Subject"] = "Bewegung erkannt: Tür"
    mail.set_content("EVENT TYPE: Motion Detected\n.\nFrom the däta, a line like an end")
    mail.add_attachment(b"\xff\xd8\xff" + bytes(range(256)) * 50, "image", "jpeg", filename="ch01.jpg")
    return mail


def send(gateway: Gateway, to: str) -> None:
    with smtplib.SMTP("127.0.0.1", gateway.port, timeout=20) as device:
        device.sendmail("cam@lan", [to], device_mail(to).as_bytes(policy=email.policy.SMTP))


@pytest.mark.parametrize("server", ALL, ids=lambda server: server.name)
def test_as_smarthost_and_as_client(server: type[Mta], tmp_path: Path, authority: Authority) -> None:
    hops = [free_port() for _ in range(3)]
    logins = LOGINS[server]
    with server(tmp_path / "mta", authority, hops) as mta:
        where = {"url": f"smtp://127.0.0.1:{mta.port}", "ca": authority.ca}
        text = "".join(LOGIN.format(auth=auth, **where) for auth in logins) + BOUNCE.format(**where)
        names = ", ".join(f"login-{auth}" for auth in logins)
        with Gateway(tmp_path / "gw", CONFIG.format(hops=hops, logins=text, names=names, **where)) as gateway:
            send(gateway, "all@gw")
            mails = _arrived(gateway, 2 + len(logins), mta)
            _check(gateway, mails, logins)
            until(lambda: gateway.json("queue") == [], "the end of all deliveries")
            send(gateway, "bounce@gw")
            (dead,) = until(lambda: [row for row in gateway.json("queue") if row["state"] == "dead"], mta.log())
            # It took the mail, was refused it by the next, and said so in a report.
            assert re.match(r"came back: nobody@plain\.example: (5\.0\.0|.*550)", dead["reason"]), dead
    results = needs.CACHE / "interop"
    results.mkdir(exist_ok=True)
    (results / f"{server.name}.json").write_text(
        json.dumps({"name": server.name, "version": server.version(), "logins": logins, "bounce": dead["reason"]})
    )


def _arrived(gateway: Gateway, count: int, mta: Mta) -> dict[str, dict[str, str]]:
    """Recipient -> the mail that came back for it."""

    def back() -> dict[str, dict[str, str]]:
        return {mail["rcpt_to"][0]: mail for mail in gateway.mails() if mail["mail_from"] == "gw@plain.example"}

    return until(lambda: len(back()) >= count and back(), mta.log())


def _check(gateway: Gateway, mails: dict[str, dict[str, str]], logins: tuple[str, ...]) -> None:
    sources = {event["id"]: event["source"] for event in gateway.settled(len(mails) + 1)}
    ways = {"me@plain.example": ("in-plain", "E?SMTP"), "me@tls.example": ("in-tls", "ESMTPS")}
    ways |= {f"{auth}@login.example": ("in-login", "ESMTPSA") for auth in logins}
    for recipient, mail in mails.items():
        source, protocol = ways[recipient]
        assert sources[mail["id"]] == source, recipient
        raw = gateway.cli("mails", mail["id"], "--raw").stdout
        read = email.message_from_bytes(raw, policy=email.policy.default)
        trace = re.sub(r"\s+", " ", str(read.get_all("Received")[-1]))
        assert re.search(rf"by mta\.example .*with ({protocol})\b", trace, re.IGNORECASE), trace
        assert read["Subject"] == "Cam 127.0.0.1: Bewegung erkannt: Tür"
        assert [str(read[name]) for name in ("From", "To", "Auto-Submitted")] == [
            "gw@plain.example", recipient, "auto-generated",
        ]  # fmt: skip
        assert re.fullmatch(r"<[0-9A-Z]{26}\.[a-z2-7]{26}@plain\.example>", str(read["Message-ID"]))
        assert read["List-Id"] is None
        (picture,) = [part for part in read.walk() if part.get_content_type() == "image/jpeg"]
        assert picture.get_content() == b"\xff\xd8\xff" + bytes(range(256)) * 50
        assert picture.get_filename() == "ch01.jpg"
        text = read.get_body(("plain",)).get_content().replace("\r\n", "\n")
        assert "EVENT TYPE: Motion Detected\n.\nFrom the däta, a line like an end" in text


OUTAGE = """
integrations:
  lan-mail: {{type: smtp_server, listen: ["127.0.0.1:0"]}}
  post: {{type: smtp_relay, url: "smtp://127.0.0.1:{port}", from: Gateway <gw@plain.example>, to: me@maildir.example,
    tls: {{ca: "{ca}"}}, user: relay, password: right}}
routes: [{{to: [post]}}]
"""


def test_a_mail_arrives_once_after_an_outage_in_which_the_gateway_was_killed(
    tmp_path: Path, authority: Authority
) -> None:
    postfix = Postfix(tmp_path / "mta", authority)
    with Gateway(tmp_path / "gw", OUTAGE.format(port=postfix.port, ca=authority.ca)) as gateway:
        send(gateway, "first@gw")
        gateway.logged("deliveries wait: 127.0.0.1:[0-9]+: Connection refused")
        gateway.kill()
        gateway.start()
        send(gateway, "second@gw")
        rows = until(lambda: len(rows := gateway.json("queue")) == 2 and rows)
        assert [row["state"] for row in rows] == ["waiting", "waiting"]
        with postfix:
            until(lambda: gateway.json("queue") == [], postfix.log())
            until(lambda: len(postfix.mails()) >= 2, postfix.log())
            mails = [email.message_from_bytes(mail, policy=email.policy.default) for mail in postfix.mails()]
        assert len({str(mail["Message-ID"]) for mail in mails}) == len(mails) == 2
        for mail in mails:
            assert str(mail["Return-Path"]) == "<gw@plain.example>"
            assert str(mail["Delivered-To"]) == "me@maildir.example"
            assert str(mail["From"]) == "Gateway <gw@plain.example>"
            assert "ESMTPSA" in mail["Received"]
