"""Mailboxes on a real Dovecot: every mail is an event, and one, whatever is killed meanwhile."""

import asyncio
import logging
import poplib
import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from pydantic import ValidationError

from gateway import mailbox
from gateway.api import Envelope
from gateway.integrations.imap import Config as ImapConfig
from gateway.integrations.imap import Imap
from gateway.integrations.pop3 import Config as Pop3Config
from gateway.integrations.pop3 import Pop3
from tests.dovecot import PASSWORD, USER, dovecot
from tests.live import Gateway, until

__all__ = ["dovecot"]

WAYS = ["imap", "imaps", "pop3", "pop3s"]


def mail(number, body="Motion"):
    return f"Return-Path: <cam@lan>\r\nDelivered-To: me@cloud\r\nSubject: n{number}\r\n\r\n{body}\r\n".encode()


def config(dovecot, way, then="leave", **more):
    kind = way.rstrip("s")
    options = {"type": kind, "url": f"{way}://{USER.replace('@', '%40')}@localhost:{dovecot.ports[way]}"}
    options |= {"password": PASSWORD, "tls": {"ca": str(dovecot.certificate)}, "then": then, "every": 1} | more
    import json

    return f"integrations:\n  cloud: {json.dumps(options)}\n"


def subjects(gateway):
    return Counter(event["mail"]["subject"] for event in gateway.events())


def expected(count):
    return Counter(f"n{number}" for number in range(count))


@pytest.mark.parametrize("way", WAYS)
def test_mails_become_events_as_they_come(tmp_path, dovecot, way):
    dovecot.deliver(mail(0, "x" * 10_000))  # one line, as some devices send it
    with Gateway(tmp_path / "a b", config(dovecot, way)) as gateway:
        until(lambda: len(gateway.events()) == 1, "the mail that was there")
        dovecot.deliver(mail(1))
        until(lambda: len(gateway.events()) == 2, "the mail that came")
        first = gateway.events()[0]
        assert (first["mail"]["from"], first["mail"]["to"], first["source"]) == ("cam@lan", ["me@cloud"], "cloud")
        assert first["mail"]["peer"] == "localhost"
        assert gateway.cli("mails", first["id"], "--raw").stdout == mail(0, "x" * 10_000)
    with gateway:
        dovecot.deliver(mail(2))
        until(lambda: len(gateway.events()) == 3, "the mail that came after a restart")
    assert subjects(gateway) == expected(3)
    assert dovecot.left() == 3


@pytest.mark.parametrize(
    ("way", "then", "folder"), [("imap", "Done", ".Done"), ("imap", "delete", None), ("pop3", "delete", None)]
)
def test_what_becomes_of_them_there(tmp_path, dovecot, way, then, folder):
    for number in range(3):
        dovecot.deliver(mail(number))
    with Gateway(tmp_path, config(dovecot, way, then)) as gateway:
        until(lambda: len(gateway.events()) == 3, "three events")
        until(lambda: dovecot.left() == 0, "an empty mailbox")
        assert folder is None or dovecot.left(folder) == 3


@pytest.mark.parametrize(("way", "then"), [("imap", "leave"), ("imap", "Done"), ("pop3", "leave"), ("pop3", "delete")])
def test_fifty_mails_with_kill_9_in_between_are_fifty_events(tmp_path, dovecot, way, then):
    chance = random.Random(way + then)
    gateway = Gateway(tmp_path, config(dovecot, way, then, **({} if way == "imap" else {"every": 1})))
    for number in range(50):
        dovecot.deliver(mail(number))
    for _ in range(2):
        gateway.start()
        enough = min(50, len(gateway.mails()) + chance.randrange(1, 15))
        until(lambda enough=enough: len(gateway.mails()) >= enough, "some mails")
        gateway.kill()
    with gateway:
        until(lambda: len(gateway.events()) >= 50, "fifty events")
        until(lambda: dovecot.left() == (50 if then == "leave" else 0), "the mailbox")
    with gateway:
        pass
    assert subjects(gateway) == expected(50)
    assert len(gateway.mails()) == 50


def test_a_crash_between_keeping_and_noting_it_is_no_second_event(tmp_path, dovecot):
    gateway = Gateway(tmp_path, config(dovecot, "pop3") + "duplicates: 0\n")
    dovecot.deliver(mail(0))
    with gateway:
        until(lambda: gateway.events(), "an event")
    (gateway.data / "integrations" / "cloud" / "taken").unlink()
    dovecot.deliver(mail(1))
    with gateway:
        until(lambda: len(gateway.events()) == 2, "the other")
    assert subjects(gateway) == expected(2)


def test_a_server_that_is_away_and_comes_back(tmp_path, dovecot, monkeypatch):
    with Gateway(tmp_path, config(dovecot, "imap")) as gateway:
        dovecot.deliver(mail(0))
        until(lambda: gateway.events(), "an event")
        dovecot.stop()
        until(lambda: "cloud: localhost: " in gateway.log.read_text(), "a word of it")
        dovecot.start()
        dovecot.deliver(mail(1))
        until(lambda: len(gateway.events()) == 2, "the other")
    assert "cloud: well again" in gateway.log.read_text()


@pytest.mark.parametrize(
    ("way", "more", "said"),
    [
        ("imap", {"password": "wrong"}, "localhost refuses our login: "),
        ("pop3", {"password": "wrong"}, "localhost refuses our login: "),
        ("imaps", {"tls": {}}, "certificate verify failed"),
        ("pop3", {"tls": {}}, "certificate verify failed"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, dovecot, way, more, said):
    with Gateway(tmp_path, config(dovecot, way, **more)) as gateway:
        until(lambda: said in gateway.log.read_text(), said)
        assert "wrong" not in gateway.log.read_text()


@pytest.mark.parametrize("way", ["imap", "pop3"])
def test_a_mail_that_is_too_large_stays(tmp_path, dovecot, way):
    dovecot.deliver(mail(0, "x" * 5000))
    dovecot.deliver(mail(1))
    with Gateway(tmp_path, config(dovecot, way, "delete", max_size=4000)) as gateway:
        until(lambda: gateway.events(), "the small one")
        until(lambda: dovecot.left() == 1, "the mailbox")
        assert "has 50" in gateway.log.read_text()
    assert subjects(gateway) == Counter(["n1"])


@pytest.mark.parametrize("model", [ImapConfig, Pop3Config])
@pytest.mark.parametrize(
    "url", ["imap.example.org", "http://me@host", "imaps://host", "pop3s://host", "imaps://me@host:x"]
)
def test_what_is_no_mailbox(model, url):
    with pytest.raises(ValidationError, match="that is no mailbox; it looks like "):
        model(url=url, password="x")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (b"Return-Path: <a@b>\r\nFrom: c@d\r\nDelivered-To: e@f\r\nTo: g@h", ("a@b", ["e@f"])),
        (b"Return-Path: <>\r\nFrom: Cam <c@d>\r\nTo: g@h, I <i@j>, g@h", ("c@d", ["g@h", "i@j"])),
        (b"From: c@d,\r\nTo: g@h; i@j,", ("c@d", ["g@h", "i@j"])),
        (b"Subject: \xff\xff", ("", [])),
        (b"", ("", [])),
    ],
)
def test_addresses(fields, expected):
    assert mailbox.addresses(fields + b"\r\n\r\nTo: x@y\r\n") == expected


# --- the fetcher on its own ------------------------------------------------------------------------------------------


class Knows:
    """Stands in for the gateway: it has kept nothing yet."""

    async def kept_details(self, source, limit):
        return []


def stand_in(folder):
    folder.mkdir(exist_ok=True)
    problems = []
    return SimpleNamespace(
        name="cloud", data_dir=folder, log=logging.getLogger("mailwire.cloud"), gateway=Knows(), problem=problems.append
    )


def fetcher(folder, visit):
    return mailbox.Fetcher(stand_in(folder), "imap.example", Envelope, visit)


async def test_mailboxes_take_none_of_the_threads_that_all_share(tmp_path):
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(1))
    begun = asyncio.Event()

    def visit(one):
        loop.call_soon_threadsafe(begun.set)
        one.stopping.wait()

    one = fetcher(tmp_path, visit)
    await one.start()
    try:
        async with asyncio.timeout(20):
            await begun.wait()
            assert await asyncio.to_thread(lambda: "free") == "free"
    finally:
        await one.stop()


@pytest.mark.parametrize(("well", "expected"), [(True, [5.0] * 4), (False, [5.0, 10.0, 20.0, 40.0])])
async def test_a_connection_that_was_well_is_made_again_soon(tmp_path, well, expected):
    """A server that hangs up on who is idle is no server that fails, also if no mail came meanwhile."""
    waits = []

    class Stopping:
        def is_set(self):
            return len(waits) == 4

        def wait(self, seconds):
            waits.append(seconds)

        def set(self):
            pass

    def visit(one):
        if well:
            one.is_well()
        raise ConnectionResetError("idle for too long")

    one = fetcher(tmp_path, visit)
    one.stopping = Stopping()
    await one.start()
    await one._task
    await one.stop()
    assert waits == expected


async def test_what_was_taken_is_written_when_it_has_changed(tmp_path):
    one = fetcher(tmp_path, lambda _: None)
    file = tmp_path / "taken"
    one.remember(["1.2", "1.1"])
    written = file.stat().st_ino, file.stat().st_mtime_ns
    one.remember(["1.1", "1.2"])
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == written
    one.remember(["1.2"])
    assert file.read_text() == "1.2\n"


async def test_a_mail_that_is_too_large_is_told_of_once(tmp_path, caplog):
    one = fetcher(tmp_path, lambda _: None)
    for key in ("1.1", "1.2", "1.1"):
        one.too_large(key, f"mail {key}", 5000)
    assert [record.message for record in caplog.records] == [
        "mail 1.1 has 5000 bytes, and is left where it is ('max_size')",
        "mail 1.2 has 5000 bytes, and is left where it is ('max_size')",
    ]


# --- servers that don't give a mail ----------------------------------------------------------------------------------


class Keeps(mailbox.Fetcher):
    """Writes down what it is to keep, where another has a store."""

    def __init__(self, folder):
        super().__init__(stand_in(folder), "host", Envelope, lambda _: None)
        self.kept = []

    def keep(self, key, content):
        self.kept.append(content.decode())
        self.taken.add(key)


class ImapServer:
    """Of imap_tools and imaplib what is used of them; `refused` are the mails that it answers NO for."""

    def __init__(self, *uids):
        self.there = list(uids)
        self.refused = set()
        self.client = self

    def uids(self, _):
        return [str(uid) for uid in self.there]

    def uid(self, command, uid, what, *_):
        if command == "STORE":
            return "OK", [None]
        if what == "(RFC822.SIZE)":
            return "OK", [b"1 (FLAGS (\\Seen))", b"2 (UID %s RFC822.SIZE 99)" % uid.encode()]
        if int(uid) in self.refused:
            return "NO", [b"[UNAVAILABLE] Try later"]
        return "OK", [b"1 (FLAGS (\\Seen))", (b"2 (UID %s BODY[] {1}" % uid.encode(), uid.encode()), b")"]


async def test_imap_does_not_pass_over_a_mail_that_the_server_does_not_give_now(tmp_path, caplog):
    config = ImapConfig.model_validate({"url": "imap://me@host", "password": "x"})
    source, box, fetcher = Imap(stand_in(tmp_path), config), ImapServer(1, 2, 3), Keeps(tmp_path)
    box.refused = {2}
    source._look_on(fetcher, box, "7")
    source._look_on(fetcher, box, "7")
    assert fetcher.kept == ["1", "3"]
    assert [record.message for record in caplog.records] == [
        "mail 2 in INBOX can't be fetched, and is left where it is for now: [UNAVAILABLE] Try later"
    ]
    again = Keeps(tmp_path)  # after a restart
    again.taken = set((tmp_path / "taken").read_text().split())
    box.refused.clear()
    box.there.append(4)
    source._look_on(again, box, "7")
    source._look_on(again, box, "7")
    assert again.kept == ["2", "4"]
    assert (tmp_path / "taken").read_text() == "7.4\n"


class Pop3Server:
    def __init__(self, **mails):
        self.mails = mails
        self.asked = []

    def uidl(self):
        return b"+OK", [b"%d %s" % (number, key.encode()) for number, key in enumerate(self.mails, 1)], 0

    def list(self):
        return b"+OK", [b"%d 9" % number for number in range(1, len(self.mails) + 1)], 0

    def retr(self, number):
        key = list(self.mails)[number - 1]
        self.asked.append(key)
        if isinstance(self.mails[key], Exception):
            raise self.mails[key]
        return b"+OK", [self.mails[key]], 0


def test_pop3_does_not_stop_at_a_mail_that_the_server_does_not_give(tmp_path, caplog):
    config = Pop3Config.model_validate({"url": "pop3://me@host", "password": "x"})
    source, fetcher = Pop3(stand_in(tmp_path), config), Keeps(tmp_path)
    box = Pop3Server(
        a=poplib.error_proto(b"-ERR damaged"), b=b"b", c=poplib.error_proto("line too long"), d=b"d", e=b"e"
    )
    with pytest.raises(poplib.error_proto):
        source._fetch(fetcher, box)  # what comes next on this connection is the rest of that line
    source._fetch(fetcher, box)
    assert fetcher.kept == ["b\r\n", "d\r\n", "e\r\n"]
    assert box.asked == ["a", "b", "c", "a", "d", "e"]
    assert [record.message for record in caplog.records] == [
        "a mail of me can't be fetched, and is left where it is for now: -ERR damaged",
        "a mail of me can't be fetched, and is left where it is for now: line too long",
    ]
    with pytest.raises(poplib.error_proto):
        source._fetch(Keeps(tmp_path), Pop3Server(f=poplib.error_proto("-ERR EOF")))
