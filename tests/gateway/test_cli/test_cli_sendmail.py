"""`sendmail`: prepared as callers of sendmail expect, handed to a gateway by SMTP, or put straight into its store."""

import asyncio
import email
import email.policy
import io
import re
import socket
import subprocess
import sys
import threading
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import pytest
from aiosmtpd.controller import Controller

from gateway.cli import common, sendmail
from gateway.cli.sendmail import Options, parse, prepare
from gateway.store import Store

HOST = socket.gethostname()


# --- options -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("-t", {"from_headers": True}),
        ("-t -i", {"from_headers": True, "dot_ends": False}),
        ("-ti", {"from_headers": True, "dot_ends": False}),
        ("-oi a@b", {"dot_ends": False, "recipients": ["a@b"]}),
        ("-FCronDaemon -odi -oem -t -f root", {"name": "CronDaemon", "sender": "root", "from_headers": True}),
        ("-fme@here a b", {"sender": "me@here", "recipients": ["a", "b"]}),
        ("-r me@here a", {"sender": "me@here", "recipients": ["a"]}),
        ("-odb -om -v -N never -R full -V id1 -B 8BITMIME -q30m -O Timeout=1 a", {"recipients": ["a"]}),
        ("-bm a", {"recipients": ["a"]}),
        ("a -f me b", {"sender": "me", "recipients": ["a", "b"]}),
        ("-y -Z a", {"recipients": ["a"]}),
        ("--unknown a", {"recipients": ["a"]}),
        ("-- -t", {"recipients": ["-t"]}),
    ],
)  # fmt: skip
def test_options_are_read_as_sendmail_reads_them(line, wanted):
    assert parse(line.split()) == Options(**wanted)


def test_an_empty_sender_is_the_null_path():
    assert parse(["-f", "", "a"]).sender == ""
    assert parse(["-f", "<>", "a"]).sender == "<>"


@pytest.mark.parametrize("mode", ["-bs", "-bp", "-bd", "-bi"])
def test_modes_of_a_mail_server_are_refused(mailwire, mode):
    result = mailwire("sendmail", mode)
    assert (result.code, result.err) == (
        64, f"sendmail: {mode} is not known here: this sendmail takes mails only.\n"
    )  # fmt: skip


# --- the mail ------------------------------------------------------------------------------------------------------


def ready(content, *words):
    content, recipients, sender = prepare(content, parse(words))
    return email.message_from_bytes(content, policy=email.policy.SMTP), recipients, sender, content


def test_what_is_missing_is_added():
    mail, recipients, sender, content = ready(b"Subject: x\r\n\r\nhello\r\n", "-f", "me@here", "-F", "Jörg", "a@b")
    assert recipients == ["a@b"]
    assert sender == "me@here"
    assert mail["From"] == "Jörg <me@here>"
    assert mail["Date"].datetime
    assert re.fullmatch(r"<.+@.+>", mail["Message-ID"])
    assert content.endswith(b"\r\nSubject: x\r\n\r\nhello\r\n")


def test_what_is_there_stays():
    whole = b"From: a@b\r\nDate: Thu, 1 Jan 2026 00:00:00 +0000\r\nMESSAGE-ID: <x@y>\r\nTo: c\r\n\r\nhi\r\n"
    assert ready(whole, "d@e")[3] == whole


def test_without_options_it_is_from_this_user_at_this_machine(monkeypatch):
    monkeypatch.setattr("getpass.getuser", lambda: "meter")
    mail, recipients, sender, _ = ready(b"hello\r\n", "root")
    assert (sender, recipients) == (f"meter@{HOST}", [f"root@{HOST}"])
    assert mail["From"] == sender
    assert ready(b"\r\nx\r\n", "-f", "<>", "root")[2] == ""


def test_recipients_from_the_header_and_no_bcc():
    whole = (
        b'To: "Doe, Jane" <jane@x>, bob@y,\r\n root\r\nSubject: a\r\nBcc: secret@z,\r\n\tsecret2@z\r\n'
        b"Cc: =?utf-8?q?J=C3=B6rg?= <j@x>, bob@y\r\n\r\nTo: not@me\r\n"
    )
    mail, recipients, _, content = ready(whole, "-t")
    assert recipients == ["jane@x", "bob@y", f"root@{HOST}", "secret@z", "secret2@z", "j@x"]
    assert b"secret" not in content
    assert mail["Subject"] == "a"
    assert b"\r\n\r\nTo: not@me\r\n" in content
    assert b"Bcc: secret@z" in ready(whole, "a@b")[3]
    assert ready(whole, "-t", "a@b, c@d")[1][:2] == ["a@b", "c@d"]


@pytest.mark.parametrize(
    ("content", "body"),
    [
        (b"just words\r\n", b"just words\r\n"),
        (b"Subject: x\r\nno header\r\n\r\nmore\r\n", b"no header\r\n\r\nmore\r\n"),
        (b"From root Thu Jan  1\r\nSubject: x\r\n\r\nbody\r\n", b"body\r\n"),
        (b"http: is a field, //too\r\n\r\nbody\r\n", b"body\r\n"),
        (b"", b""),
    ],
)
def test_where_the_header_ends(content, body):
    assert ready(content, "a@b")[3].partition(b"\r\n\r\n")[2] == body


def test_lines_end_with_crlf_and_a_dot_may_end_the_mail():
    read = sendmail._read
    assert read(io.BytesIO(b"a\nb\r\n.\nc"), dot_ends=False) == b"a\r\nb\r\n.\r\nc\r\n"
    assert read(io.BytesIO(b"a\n.\nc\n"), dot_ends=True) == b"a\r\n"
    assert read(io.BytesIO(b"a\n..\nc\n."), dot_ends=True) == b"a\r\n..\r\nc\r\n"


# --- its way -------------------------------------------------------------------------------------------------------


class Handler:
    def __init__(self, reply="250 2.0.0 Ok: stored as 1"):
        self.reply = reply
        self.sender = "250 OK"
        self.mails = []

    async def handle_MAIL(self, server, session, envelope, address, options):  # noqa: N802  # aiosmtpd's name
        envelope.mail_from = address
        return self.sender

    async def handle_DATA(self, server, session, envelope):  # noqa: N802  # aiosmtpd's name
        self.mails.append(envelope)
        return self.reply


@pytest.fixture
def port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture
def configured(here, data, port):
    """A configuration with one listener, where nobody listens unless the test does."""
    (here / "mailwire.yaml").write_text(
        f'integrations:\n  lan: {{type: smtp_server, listen: ["0.0.0.0:{port}"], tls: none}}\nstore: {{data: {data}}}\n'
    )


@pytest.fixture
def gateway(port, configured):
    handler = Handler()
    controller = Controller(handler, "127.0.0.1", port)
    controller.start()
    yield handler
    controller.stop()


@pytest.fixture
def stdin(monkeypatch):
    def give(content):
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))

    return give


def test_it_goes_to_the_configured_listener(mailwire, gateway, stdin):
    stdin(b"To: me@gw\nSubject: Fan failed\n\n.hidden\n")
    result = mailwire("sendmail", "-t", "-i", "-f", "nas@lan")
    assert result == (0, "", "")
    (mail,) = gateway.mails
    assert (mail.mail_from, mail.rcpt_tos) == ("nas@lan", ["me@gw"])
    assert mail.content.endswith(b"\r\nTo: me@gw\r\nSubject: Fan failed\r\n\r\n.hidden\r\n")


def test_called_by_the_name_sendmail_it_is_sendmail(here, gateway):
    """As cron calls it: through a link of that name."""
    link = here / "sendmail"
    link.symlink_to(Path(sys.executable).with_name("mailwire"))
    command = [link, "-FCronDaemon", "-i", "-odi", "-oem", "-oi", "-t", "-f", "root"]
    content = b'From: "(Cron Daemon)" <root>\nTo: root\nSubject: Cron <root@nas> true\n\nhello\n'
    subprocess.run(command, input=content, check=True, timeout=60)
    (mail,) = gateway.mails
    assert (mail.mail_from, mail.rcpt_tos) == (f"root@{HOST}", [f"root@{HOST}"])
    assert b"Subject: Cron <root@nas> true\r\n" in mail.content


@pytest.mark.parametrize(("reply", "code"), [("452 4.3.1 full", 75), ("550 5.7.1 never", 69), ("554 5.6.0 bad", 69)])
def test_a_refusal_is_passed_on(mailwire, gateway, stdin, reply, code):
    gateway.reply = reply
    stdin(b"x\n")
    result = mailwire("sendmail", "a@gw")
    assert (result.code, result.err) == (code, f"sendmail: The server did not take the mail: {reply}\n")


def test_where_a_login_is_wanted_it_goes_into_the_store(mailwire, gateway, stdin, data, fill):
    """'users' of the one listener make a login required, and cron has none."""
    fill()
    gateway.sender = "530 5.7.0 Authentication required"
    stdin(b"Subject: Fan failed\n\nx\n")
    assert mailwire("sendmail", "a@gw") == (0, "", "")
    assert gateway.mails == []
    (mail,) = Store(data).mails()
    assert mail.envelope.rcpt_to == ["a@gw"]


def test_where_this_machine_is_not_allowed_it_goes_into_the_store(mailwire, configured, port, stdin, data, fill):
    """'allow' may name the plant's network alone."""
    fill()
    with socket.create_server(("127.0.0.1", port)) as server:

        def turn_away():
            line, _ = server.accept()
            with line:
                line.sendall(b"554 5.7.1 127.0.0.1 may not send mail to this gateway\r\n")

        thread = threading.Thread(target=turn_away)
        thread.start()
        stdin(b"Subject: Fan failed\n\nx\n")
        assert mailwire("sendmail", "a@gw") == (0, "", "")
        thread.join()
    assert len(Store(data).mails()) == 1


def test_a_listener_without_a_login_is_taken_first(here, data):
    (here / "mailwire.yaml").write_text(
        "integrations:\n"
        '  office: {type: smtp_server, listen: ["127.0.0.1:4650"], users: {scanner: secret}}\n'
        '  lan: {type: smtp_server, listen: ["0.0.0.0:2526"]}\n'
    )
    chosen = common.settings(Namespace(config=None, data=data))
    assert (sendmail._server(chosen).host, sendmail._server(chosen).port) == ("127.0.0.1", 2526)


def test_a_store_that_this_user_may_not_look_at_is_to_be_tried_again(mailwire, configured, stdin, monkeypatch):
    def forbidden(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "exists", forbidden)
    stdin(b"x\n")
    result = mailwire("sendmail", "--config", "mailwire.yaml", "a@gw")
    assert result.code == 75
    assert "this user may not look into the data folder" in result.err
    assert result.err.endswith("Try again later.\n")


def test_a_comma_too_many_costs_nobody_the_mail():
    whole = b"To: undisclosed-recipients:;\r\nCc: root@gw,\r\nBcc: a@b; c@d\r\n\r\nx\r\n"
    assert ready(whole, "-t")[1] == ["root@gw", "a@b", "c@d"]
    assert ready(b"x\r\n", "root@gw,")[1] == ["root@gw"]


def test_addresses_that_are_no_utf_8():
    whole = b"To: caf\xe9@gw\r\n\r\nx\r\n"
    assert ready(whole, "-t", "b\udce9@gw")[1] == ["b\u00e9@gw", "caf\u00e9@gw"]


def test_where_nobody_answers_it_goes_into_the_store(mailwire, configured, stdin, data, fill):
    fill()
    stdin(b"Subject: Power failed\n\n" + b"x" * 400_000 + b"\n")
    result = mailwire("sendmail", "-f", "ups@lan", "a@gw", "b@gw")
    assert result == (0, "", "")
    store = Store(data)
    (mail,) = store.mails()
    assert (mail.envelope.source, mail.envelope.mail_from, mail.envelope.rcpt_to) == (
        "sendmail",
        "ups@lan",
        ["a@gw", "b@gw"],
    )
    content = bytes(store.content(mail))
    assert content.endswith(b"Subject: Power failed\r\n\r\n" + b"x" * 400_000 + b"\r\n")
    assert mail.size == len(content)
    assert mail.file is None
    fill()
    assert store.event(mail.id)["mail"]["subject"] == "Power failed"


def test_a_running_gateway_takes_what_was_put_into_its_store(configured, data):
    """It does not listen, for whatever reason, but it runs: it must hear of the mail without a restart."""

    def send():
        return subprocess.run(
            [sys.executable, "-m", "gateway", "sendmail", "a@gw"], input=b"x\n", timeout=60
        ).returncode

    async def run():
        store = Store(data)
        store.open(exclusive=True)
        store.start()
        changed = asyncio.Event()
        store.changed_elsewhere = changed.set
        code = await asyncio.to_thread(send)
        await asyncio.wait_for(changed.wait(), 30)
        states = [mail.state for mail in store.open_mails(0, 10)]
        await store.close()
        return code, states

    assert asyncio.run(run()) == (0, ["replay"])


def test_without_gateway_and_store_it_is_to_be_tried_again(mailwire, configured, stdin, data, port):
    stdin(b"x\n")
    result = mailwire("sendmail", "a@gw")
    assert (result.code, result.err) == (
        75,
        f"sendmail: Nothing listens at 127.0.0.1:{port}. Does the gateway run (mailwire run)? "
        f"And there is no store in {data} either. Try again later.\n",
    )
    assert not data.exists()


def test_a_full_disk_is_to_be_tried_again(mailwire, here, configured, stdin, data, port, fill):
    fill()
    text = (here / "mailwire.yaml").read_text().replace(f"{{data: {data}}}", f"{{data: {data}, reserve: 100000TiB}}")
    (here / "mailwire.yaml").write_text(text)
    stdin(b"x\n")
    result = mailwire("sendmail", "a@gw")
    assert result.code == 75
    assert result.err.endswith("And the mail could not be stored: the disk is full. Try again later.\n")
    assert Store(data).mails() == []


def test_nobody_to_send_to(mailwire, configured, stdin):
    stdin(b"Subject: x\n\ny\n")
    result = mailwire("sendmail", "-t")
    assert (result.code, result.err) == (
        64, "sendmail: no recipients. Name them, or take them from the mail with -t.\n"
    )  # fmt: skip


def test_a_wrong_configuration_is_said(mailwire, here, stdin):
    (here / "bad.yaml").write_text("integration: {}\n")
    stdin(b"x\n")
    result = mailwire("sendmail", "--config", here / "bad.yaml", "a@gw")
    assert result.code == 78
    assert "bad.yaml:1: integration: there is no such key here. Did you mean 'integrations'?" in result.err
