"""The mail that an event becomes: its fields, its parts, what a server's abilities change, and that nothing gets in."""

from __future__ import annotations

import email
import email.policy
import re
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.api import Envelope, Refused
from gateway.integrations.smtp_relay import bounce, compose, loops
from gateway.integrations.smtp_relay.address import parse
from gateway.integrations.smtp_relay.compose import File, Look
from gateway.integrations.smtp_relay.identity import Identity
from gateway.template import text as make_text
from tests.integrations.smtp_relay.harness import Gateway, Scripted, make_event, polite, relay

ALL = "SIZE 10240000,8BITMIME,SMTPUTF8,DSN,PIPELINING"
JPEG = b"\xff\xd8\xff" + bytes(range(256))


def read(mail: bytes) -> EmailMessage:
    found = email.message_from_bytes(mail, policy=email.policy.default)
    assert isinstance(found, EmailMessage)
    assert not [part.defects for part in found.walk() if part.defects]
    return found


async def sent(gateway: Gateway, folder: Path, event: Any = None, offers: str = ALL, **options: Any) -> Scripted:
    async with Scripted(polite(offers=offers)) as server, relay(gateway, folder, url=server.url, **options) as post:
        await post.deliver(event or make_event())
    return server


async def test_the_fields(gateway: Gateway, tmp_path: Path) -> None:
    event = make_event()
    to = ["me@example.org", "Fräulein Müller <you@example.org>"]
    script = polite(offers=ALL).replace("C: DATA", "C: RCPT .*\nS: 250 ok\nC: DATA")
    async with Scripted(script) as server, relay(gateway, tmp_path, url=server.url, to=to) as post:
        await post.deliver(event)
    mail = read(server.mails[0])
    assert [name for name, _ in mail.items()] == [
        "Date", "From", "To", "Subject", "Message-ID", "Auto-Submitted", "X-Loop", "MIME-Version", "Content-Type",
    ]  # fmt: skip
    assert mail["Date"] == "Sun, 22 Nov 2026 19:11:28 +0000"
    assert mail["From"] == "gw@example.org"
    assert mail["To"] == "me@example.org, Fräulein Müller <you@example.org>"
    assert mail["Subject"] == "Front door: Motion detected"
    assert mail["Auto-Submitted"] == "auto-generated"
    token = re.fullmatch(rf"<({event['id']}\.[a-z2-7]{{26}})@example\.org>", str(mail["Message-ID"]))
    assert token
    assert server.lines[1:4] == [
        f"MAIL FROM:<gw@example.org> SIZE={len(server.mails[0])} RET=HDRS ENVID={token[1]}",
        "RCPT TO:<me@example.org> NOTIFY=FAILURE ORCPT=rfc822;me@example.org",
        "RCPT TO:<you@example.org> NOTIFY=FAILURE ORCPT=rfc822;you@example.org",
    ]


async def test_text_html_pictures_inside_and_files(gateway: Gateway, tmp_path: Path) -> None:
    files = [("Tür.jpg", "image/jpeg", JPEG), ("list.txt", "text/plain", b"a\r\nb"), ("odd", "no type", b"\0")]
    names = [{"name": name, "type": kind, "size": len(content), "sha256": ""} for name, kind, content in files]
    event = gateway.mailed(b"Subject: x\r\n\r\n", *(content for *_, content in files), attachments=names)
    mail = read((await sent(gateway, tmp_path, event)).mails[0])
    assert mail.get_content_type() == "multipart/mixed"
    alternative, text_file, odd = mail.iter_parts()
    plain, related = alternative.iter_parts()
    html, picture = related.iter_parts()
    assert plain.get_content().startswith("EVENT TYPE: motion\r\n")
    assert (picture.get_content(), picture.get_filename()) == (JPEG, "Tür.jpg")
    assert picture["Content-Disposition"].content_disposition == "inline"
    assert f'src="cid:{picture["Content-ID"][1:-1]}"' in html.get_content()
    assert '<th align="left">channel</th><td>A1</td>' in html.get_content()
    assert (text_file.get_filename(), text_file.get_payload(decode=True)) == ("list.txt", b"a\r\nb")
    assert (odd.get_content_type(), odd.get_content()) == ("application/octet-stream", b"\0")


async def test_plain_text_alone(gateway: Gateway, tmp_path: Path) -> None:
    options = {"html": False, "subject": "{{ severity|upper }} {{ title }}", "text": "{{ text }}!"}
    mail = read((await sent(gateway, tmp_path, **options)).mails[0])
    assert (mail["Subject"], mail.get_content_type(), mail.get_content()) == (
        "WARNING Motion detected", "text/plain", "EVENT TYPE: motion!\r\n",
    )  # fmt: skip


async def test_what_somebody_has_us_tell_keeps_its_subject(gateway: Gateway, tmp_path: Path) -> None:
    unknown = {"id": "unknown", "name": "broker", "manufacturer": None, "model": None, "profile": None}
    event = make_event(device=unknown, kind="other", state=None, severity="info", title="Washing machine", text="done")
    mail = read((await sent(gateway, tmp_path, event)).mails[0])
    assert mail["Subject"] == "Washing machine"
    assert mail.get_body(("plain",)).get_content() == "done\r\n\r\n-- \r\ninfo | 2026-11-22T19:11:28.123Z\r\n"
    named = await sent(gateway, tmp_path, make_event(title="Front Door: motion"))
    assert read(named.mails[0])["Subject"] == "Front Door: motion"


async def test_where_it_is_acknowledged(gateway: Gateway, tmp_path: Path) -> None:
    event = make_event(severity="critical")
    mail = read((await sent(gateway, tmp_path, event)).mails[0])
    assert f"\r\nAcknowledge: http://gw/ack/{event['id']}\r\n" in mail.get_body(("plain",)).get_content()
    assert f'<a href="http://gw/ack/{event["id"]}">Acknowledge</a>' in mail.get_body(("html",)).get_content()


async def test_a_template_that_fails_costs_no_alarm(gateway: Gateway, tmp_path: Path) -> None:
    options = {"subject": "{{ title > 3 }}", "text": "{{ 1 / 0 }}{{ notes }}"}
    mail = read((await sent(gateway, tmp_path, **options)).mails[0])
    assert mail["Subject"] == "Motion detected"
    assert mail.get_body(("plain",)).get_content() == "EVENT TYPE: motion\r\n"
    assert "the template failed: ZeroDivisionError: division by zero" in mail.get_body(("html",)).get_content()


async def test_8bit_only_where_it_is_offered(gateway: Gateway, tmp_path: Path) -> None:
    event = make_event(title="Tür offen", text="Größe: 31 °C")
    with_it = await sent(gateway, tmp_path, event)
    without = await sent(gateway, tmp_path, event, offers="SIZE 0")
    assert "BODY=8BITMIME" in with_it.lines[1]
    assert "BODY" not in without.lines[1]
    assert not with_it.mails[0].isascii()
    assert without.mails[0].isascii()
    for server in (with_it, without):
        mail = read(server.mails[0])
        assert mail["Subject"] == "Front door: Tür offen"
        assert "Größe: 31 °C" in mail.get_body(("plain",)).get_content()
        assert server.mails[0].partition(b"\r\n\r\n")[0].isascii()


async def test_domains_by_idna_and_local_parts_by_smtputf8(gateway: Gateway, tmp_path: Path) -> None:
    domain = await sent(gateway, tmp_path, to="ich@münchen.example", offers="SIZE 0")
    assert "RCPT TO:<ich@xn--mnchen-3ya.example>" in domain.lines
    assert read(domain.mails[0])["To"] == "ich@xn--mnchen-3ya.example"
    local = await sent(gateway, tmp_path, to="jürgen@example.org")
    assert local.lines[1].split()[-3:-1] == ["SMTPUTF8", "RET=HDRS"]
    assert local.lines[2] == "RCPT TO:<jürgen@example.org> NOTIFY=FAILURE"
    assert "To: jürgen@example.org\r\n".encode() in local.mails[0]


async def test_a_local_part_that_the_smarthost_can_not_be_told(gateway: Gateway, tmp_path: Path) -> None:
    script = polite(offers="8BITMIME")
    async with (
        Scripted(script) as server,
        relay(gateway, tmp_path, url=server.url, to=["jürgen@example.org", "me@example.org"]) as post,
    ):
        with pytest.raises(Refused) as caught:
            await post.deliver(make_event())
    assert str(caught.value) == (
        "jürgen@example.org: jürgen@example.org has letters outside ASCII before its @, "
        "and the smarthost does not offer SMTPUTF8"
    )
    assert caught.value.memo == {"had": ["me@example.org"]}
    assert len(server.mails) == 1


# --- too large -------------------------------------------------------------------------------------------------------


async def test_what_is_too_large_is_left_out_and_the_mail_says_so(gateway: Gateway, tmp_path: Path) -> None:
    event = gateway.mailed(b"Subject: x\r\n\r\n", b"s" * 1000, b"L" * 200_000)
    server = await sent(gateway, tmp_path, event, offers="SIZE 100000")
    mail = read(server.mails[0])
    assert len(server.mails[0]) <= 100_000
    assert [part.get_filename() for part in mail.walk() if part.get_filename()] == ["0.jpg"]
    note = "[1.jpg is left out: it has 200000 bytes, which is too much for the smarthost.]"
    assert note in mail.get_body(("plain",)).get_content()


@pytest.mark.parametrize("step", ["mail", "dot"])
async def test_a_server_that_says_too_late_that_it_is_too_large(step: str, gateway: Gateway, tmp_path: Path) -> None:
    event = gateway.mailed(b"Subject: x\r\n\r\n", b"L" * 200_000)
    first = polite(f"{step}=552 5.3.4 message too big").replace("C: QUIT\nS: 221 bye", "")
    script = first + "\n".join(polite().splitlines()[3:])
    async with Scripted(script) as server, relay(gateway, tmp_path, url=server.url) as post:
        await post.deliver(event)
    assert (
        "The attachments are left out: they are too large" in read(server.mails[-1]).get_body(("plain",)).get_content()
    )


async def test_a_mail_that_is_too_large_for_its_text_alone(gateway: Gateway, tmp_path: Path) -> None:
    with pytest.raises(
        Refused, match=r"no mail can be made of this event: it would have .* and the smarthost takes 1000"
    ):
        await sent(gateway, tmp_path, make_event(text="x" * 5000), offers="SIZE 1000")


async def test_pictures_that_are_no_longer_kept(gateway: Gateway, tmp_path: Path) -> None:
    event = gateway.mailed(b"Subject: x\r\n\r\n", JPEG)
    del gateway.files[event["id"]], gateway.mails[event["id"]]
    text = read((await sent(gateway, tmp_path, event)).mails[0]).get_body(("plain",)).get_content()
    assert "[0.jpg is left out: its mail is no longer kept.]" in text


# --- forward ---------------------------------------------------------------------------------------------------------

DEVICE = b"From: cam@lan\r\nSubject: Motion\r\nX-Odd:  two  blanks \r\n\r\nText\r\n.\r\n..\r\n"


async def test_forward_sends_the_devices_own_mail_unaltered_inside(gateway: Gateway, tmp_path: Path) -> None:
    event = gateway.mailed(DEVICE)
    server = await sent(gateway, tmp_path, event, mode="forward")
    assert server.mails[0].endswith(DEVICE)
    assert "MAIL FROM:<gw@example.org>" in server.lines[1]
    mail = email.message_from_bytes(server.mails[0])
    ours = ["Received", "X-Loop", "Resent-Date", "Resent-From", "Resent-To", "Resent-Message-ID"]
    assert list(mail.keys()) == [*ours, "From", "Subject", "X-Odd"]
    assert (mail["Resent-From"], mail["Resent-To"]) == ("gw@example.org", "me@example.org")
    assert mail["Received"].startswith("from ipc ([192.168.1.20])\r\n by gw.example (Mailwire) with ESMTP id ")


@pytest.mark.parametrize(
    ("raw", "offers"),
    [
        (b"Subject: x\r\n\r\nGr\xfc\xdfe\r\n", "SIZE 0"),
        (b"Subject: Gr\xfc\xdfe\r\n\r\nx\r\n", ALL),
        (b"Subject: x\r\n\r\n" + b"y" * 999 + b"\r\n", ALL),
        (b"Subject: x\r\n\r\n\0\r\n", ALL),
        (b"Subject: x\r\n\r\nbare\rCR\r\n", ALL),
        (b"ALARM zone 3\r\n", ALL),
    ],
)
async def test_what_no_server_must_be_given_goes_as_a_file(
    raw: bytes, offers: str, gateway: Gateway, tmp_path: Path
) -> None:
    event = gateway.mailed(raw)
    server = await sent(gateway, tmp_path, event, offers=offers, mode="forward")
    assert server.mails[0].isascii()
    (file,) = read(server.mails[0]).iter_attachments()
    assert file.get_content() == raw
    assert file.get_filename() == f"{event['id']}.eml"


async def test_8bit_is_forwarded_as_it_is_where_it_is_offered(gateway: Gateway, tmp_path: Path) -> None:
    raw = b"Subject: x\r\n\r\nGr\xfc\xdfe\r\n"
    server = await sent(gateway, tmp_path, gateway.mailed(raw), mode="forward")
    assert server.mails[0].endswith(raw)
    assert "BODY=8BITMIME" in server.lines[1]


async def test_a_forwarded_mail_that_is_too_large_becomes_a_notice(gateway: Gateway, tmp_path: Path) -> None:
    raw = DEVICE + b"x\r\n" * 50_000
    server = await sent(gateway, tmp_path, gateway.mailed(raw), mode="forward", offers="SIZE 100000")
    text = read(server.mails[0]).get_body(("plain",)).get_content()
    assert f"[The mail itself, of {len(raw)} bytes, is left out: it is too large for the smarthost.]" in text


# --- nothing gets in -------------------------------------------------------------------------------------------------

FIELD_IN_A_WORD = "=?utf-8?q?=0D=0ABcc:_x@evil.example?="  # which the standard library decodes
NASTY = st.lists(
    st.one_of(
        st.text(max_size=30),
        st.sampled_from('\r\n\0\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029\u202e=?:;<>@"\\ \t'),
        st.sampled_from(["\r\nBcc: x@evil.example\r\n", FIELD_IN_A_WORD, "\r\n.\r\n", "\n\n"]),
    ),
    max_size=20,
).map("".join)
FIELDS = ["Subject", "MIME-Version", "Content-Type"]
PART_FIELDS = ["Content-Transfer-Encoding", "Content-Disposition", "Content-ID"]


@settings(max_examples=150, deadline=None)
@given(NASTY, NASTY, NASTY, NASTY, st.binary(max_size=80), st.booleans())
@example(FIELD_IN_A_WORD, "", FIELD_IN_A_WORD, "image/jpeg", b"", False)
def test_nothing_of_an_event_becomes_a_field(
    title: str, body: str, name: str, kind: str, content: bytes, eightbit: bool
) -> None:
    event = make_event(title=title, text=body, data={name: body})
    look = Look(make_text("{{ title }}"), make_text("{{ text }}"), make_text("<p>{{ text }}</p>", html=True))
    files = [File(name, kind, content, False), File(name, "image/jpeg", content, True)]
    unique = event["id"] + "." + "a" * 26
    subject, rest = compose.notice(event, look, files, [], None, unique=unique, eightbit=eightbit)
    mail = compose.with_header([("Subject", compose.unstructured("Subject", subject))], rest)
    head, _, _ = mail.partition(b"\r\n\r\n")
    names = [line.partition(b":")[0].decode() for line in head.split(b"\r\n") if line[:1] not in (b" ", b"\t")]
    assert sorted(names) == sorted(FIELDS)
    assert b"\n" not in mail.replace(b"\r\n", b"")
    assert b"\r" not in mail.replace(b"\r\n", b"")
    assert max(map(len, mail.split(b"\r\n"))) <= 998
    assert eightbit or mail.isascii()
    parsed = read(mail)
    assert {field for part in parsed.walk() for field in part.keys()} <= {*FIELDS, *PART_FIELDS}  # noqa: SIM118  # no dict
    assert " ".join(str(parsed["Subject"]).split()) == " ".join(compose.one_line(title, compose.MAX_SUBJECT).split())
    assert [part.get_content_type() for part in parsed.walk()][:3] == [
        "multipart/mixed", "multipart/alternative", "text/plain",
    ]  # fmt: skip
    found = parsed.get_body(("plain",)).get_content().replace("\r\n", "\n")
    assert found.rstrip("\n") == compose.plain_text(body).rstrip("\n")
    assert [part.get_payload(decode=True) for part in parsed.walk() if part.get_content_disposition()] == [content] * 2


@settings(max_examples=100, deadline=None)
@given(NASTY, NASTY)
def test_nothing_of_a_conversation_becomes_a_field(helo: str, peer: str) -> None:
    value = f"from {compose.word(helo)} ([{compose.word(peer)}])"
    assert compose.with_header([("Received", value)], b"\r\n").count(b"\r\n") == 2


@pytest.mark.parametrize("value", ["a\r\nBcc: x", "a\nb", "a\rb", "a\0b", "a\r\n\r\nb"])
def test_a_field_that_is_none_is_not_written(value: str) -> None:
    with pytest.raises(ValueError, match="a header field is not one"):
        compose.with_header([("Subject", value)], b"\r\n")


@pytest.mark.parametrize("mode", ["notice", "forward"])
async def test_no_mail_chooses_a_recipient(mode: str, gateway: Gateway, tmp_path: Path) -> None:
    raw = (
        b"To: victim@outside.example\r\nBcc: victim@outside.example\r\nResent-To: victim@outside.example\r\n"
        b"Resent-Bcc: victim@outside.example\r\nReturn-Path: <victim@outside.example>\r\n"
        b"Disposition-Notification-To: victim@outside.example\r\nSubject: x\r\n\r\nRCPT TO:<victim@outside.example>\r\n"
    )
    event = gateway.mailed(raw, mail_from="cam@lan> NOTIFY=SUCCESS", title="x\r\nBcc: victim@outside.example")
    server = await sent(gateway, tmp_path, event, mode=mode)
    commands = [line.split(" SIZE")[0].split(" NOTIFY")[0] for line in server.lines]
    assert commands == ["EHLO gw.example", "MAIL FROM:<gw@example.org>", "RCPT TO:<me@example.org>", "DATA", "QUIT"]


@given(st.one_of(NASTY, st.from_regex(r"[^@]{0,20}@[^@]{0,20}", fullmatch=True)))
def test_an_address_is_one_or_is_refused(text: str) -> None:
    try:
        address = parse(text)
    except ValueError:
        return
    assert not set(address.wire) & set(' \t\r\n\0<>()[],;:\\"') or "@[" in address.wire
    assert address.wire.isprintable()
    assert "\n" not in compose.mailboxes("To", [address]).replace("\r\n ", "")


@settings(deadline=None)
@given(st.binary(max_size=300), NASTY)
def test_no_mail_breaks_what_looks_at_it(raw: bytes, text: str) -> None:
    report = b"Content-Type: multipart/report; boundary=b\r\n\r\n--b\r\nContent-Type: message/delivery-status\r\n\r\n"
    for content in (
        raw,
        report + raw,
        report + b"x: y\r\n\r\nAction: failed\r\nFinal-Recipient: " + text.encode(errors="replace"),
    ):
        for failure in bounce.failures(content):
            assert failure.words.isprintable() or "\ufffd" in failure.words
        fields = loops.header(content)
        loops.hops(fields)
        loops.reason_to_stop(fields, Envelope("s", "p", "h", "", []), Identity(b"key"))
