"""Existing aiosmtpd handlers, its own ones and some as people write them, given mails by the gateway."""

from __future__ import annotations

import asyncio
import logging
import mailbox
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.handlers import Mailbox
from pydantic import ValidationError

from gateway.api import Broken, Context, Device, Envelope, Event, NotReady, Refused, Retry
from gateway.integrations import aiosmtpd_handler
from gateway.integrations.aiosmtpd_handler import AiosmtpdHandler, Config
from tests.mosquitto import free_port

MAIL = b"From: cam@lan\r\nTo: a@gw\r\nSubject: Motion\r\n\r\nbare\nlf \xff\r\n.dot\r\n"
EVENT: Event = {
    "v": 1,
    "id": "01JD0000000000000000000001",
    "time": "2026-11-22T19:11:28.123Z",
    "source": "lan-mail",
    "device": {"id": "cam", "name": "Cam", "manufacturer": None, "model": None, "profile": None},
    "kind": "motion",
    "state": None,
    "severity": "info",
    "title": "Motion",
    "text": "",
    "data": {},
    "attachments": [],
    "mail": {
        "from": "cam@lan",
        "to": ["a@gw"],
        "subject": "Motion",
        "message_id": None,
        "helo": "ipc",
        "peer": "192.168.1.20",
    },
}

HANDLERS = '''
import asyncio, threading, time
from aiosmtpd.handlers import AsyncMessage

seen = []

class Keeps:
    def __init__(self, *args, **kwargs):
        self.made_with = args, kwargs
    async def handle_DATA(self, server, session, envelope):
        seen.append((server, session, envelope, threading.current_thread().name))
        return "250 OK"

ready_made = Keeps()

class Says:
    """Replies what it was told to."""
    def __init__(self, **replies):
        self.replies = replies
    async def handle_MAIL(self, server, session, envelope, address, options):
        envelope.mail_from = address
        return self.replies.get("mail", "250 OK")
    async def handle_RCPT(self, server, session, envelope, address, options):
        reply = self.replies.get(address, "250 OK")
        if reply.startswith("250"):
            envelope.rcpt_tos.append("<%s>" % address)
        return reply
    async def handle_DATA(self, server, session, envelope):
        seen.append(envelope.rcpt_tos)
        return self.replies.get("data", "250 OK")

class Plain:
    """Not a coroutine."""
    def handle_DATA(self, server, session, envelope):
        seen.append(threading.current_thread().name)
        return b"250 2.0.0 kept"

class Smtpd:
    """As for the standard library's old smtpd."""
    def process_message(self, peer, mail_from, rcpt_tos, data):
        seen.append((peer, mail_from, rcpt_tos, data))
        return self.reply
    reply = None

class Refuses(Smtpd):
    reply = "554 no"

class Raises:
    async def handle_DATA(self, server, session, envelope):
        raise TimeoutError("password=secret")

class Hangs:
    async def handle_DATA(self, server, session, envelope):
        await asyncio.sleep(3600)

class Blocks:
    def __init__(self, begun, done):
        self.begun, self.done = begun, done
    async def handle_DATA(self, server, session, envelope):
        self.begun()
        while not self.done():
            time.sleep(0.01)
        return "250 OK"

class Asks(AsyncMessage):
    async def handle_message(self, message):
        assert asyncio.get_running_loop() is self.loop
        seen.append((message["X-MailFrom"], message["X-RcptTo"], message["X-Peer"]))

class Fussy:
    def __init__(self, place):
        raise FileNotFoundError(2, "No such file or directory", place)
'''


class StandIn:
    """As much of `gateway.api.Gateway` as the target asks."""

    def __init__(self) -> None:
        self.mails = {EVENT["id"]: MAIL}
        self.envelope = Envelope("lan-mail", "192.168.1.20", "ipc", "cam@lan", ["a@gw", "b@gw"])

    async def raw_mail(self, event_id: str) -> tuple[Envelope, bytes]:
        if event_id not in self.mails:
            raise LookupError(f"mail {event_id} is no longer kept")
        return self.envelope, self.mails[event_id]

    def devices(self) -> list[Device]:
        return []

    def info(self) -> dict[str, Any]:
        return {}

    def health(self) -> dict[str, Any]:
        return {}

    async def attachment(self, event_id: str, index: int) -> bytes:
        raise LookupError

    async def request(self, verb: str, payload: Mapping[str, Any]) -> dict[str, Any]:
        return {}


@pytest.fixture
def gateway() -> StandIn:
    return StandIn()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = tmp_path_factory.mktemp("handlers")
    (made / "mailwire_test_handlers.py").write_text(HANDLERS)
    (made / "mailwire_test_broken.py").write_text("import surely_not_installed\n")
    (made / "mailwire_test_syntax.py").write_text("def\n")
    return made


@pytest.fixture
def seen(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """What the handlers of this file have seen."""
    monkeypatch.syspath_prepend(folder)
    from mailwire_test_handlers import seen as noted  # type: ignore[import-not-found]  # made above

    noted.clear()
    yield noted
    noted.clear()


def make(gateway: StandIn, handler: str, **config: Any) -> AiosmtpdHandler:
    context = Context(
        "handler",
        Path("/nowhere"),
        logging.getLogger("test.handler"),
        gateway,
        None,  # type: ignore[arg-type]  # no mail comes from here
        None,  # type: ignore[arg-type]  # nor any event
        lambda: None,
        lambda _: None,
    )
    return AiosmtpdHandler(context, Config(handler=handler, **config))


@asynccontextmanager
async def started(gateway: StandIn, handler: str, **config: Any) -> AsyncIterator[AiosmtpdHandler]:
    target = make(gateway, handler, **config)
    try:
        await target.start()
        yield target
    finally:
        await target.stop()


def own(name: str) -> str:
    return f"mailwire_test_handlers:{name}"


# --- aiosmtpd's own --------------------------------------------------------------------------------------------


async def test_mailbox_writes_its_maildir(gateway: StandIn, tmp_path: Path) -> None:
    async with started(gateway, "aiosmtpd.handlers.Mailbox", args=[str(tmp_path / "box")]) as target:
        assert target.describe() == "mails go to aiosmtpd.handlers.Mailbox"
        await target.deliver(EVENT)
    [mail] = mailbox.Maildir(tmp_path / "box", create=False)
    assert (mail["subject"], mail["x-mailfrom"], mail["x-rcptto"]) == ("Motion", "cam@lan", "a@gw, b@gw")
    assert mail["x-peer"] == "('192.168.1.20', 0)"


async def test_proxy_passes_on_to_a_real_server(gateway: StandIn, tmp_path: Path) -> None:
    server = Controller(Mailbox(tmp_path / "far"), hostname="127.0.0.1", port=free_port())
    server.start()
    try:
        async with started(
            gateway, "aiosmtpd.handlers:Proxy", kwargs={"remote_hostname": "127.0.0.1", "remote_port": server.port}
        ) as target:
            await asyncio.gather(*(target.deliver(EVENT) for _ in range(5)))
    finally:
        server.stop()
    mails = list(mailbox.Maildir(tmp_path / "far", create=False))
    assert [(mail["subject"], mail["x-peer"], mail["x-mailfrom"]) for mail in mails] == [
        ("Motion", "192.168.1.20", "cam@lan")
    ] * 5


async def test_debugging_prints(gateway: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    gateway.envelope.details["params"] = {"SIZE": "100", "SMTPUTF8": ""}
    async with started(gateway, "aiosmtpd.handlers.Debugging") as target:
        await target.deliver(EVENT)
    printed = capsys.readouterr().out
    assert "mail options: ['SIZE=100', 'SMTPUTF8']" in printed
    assert "Subject: Motion" in printed


async def test_sink_is_warned_of(gateway: StandIn, caplog: pytest.LogCaptureFixture) -> None:
    async with started(gateway, "aiosmtpd.handlers.Sink") as target:
        await target.deliver(EVENT)
    assert caplog.messages == ["aiosmtpd.handlers.Sink has no handle_DATA: it keeps nothing"]


# --- what a handler is given -----------------------------------------------------------------------------------


async def test_session_and_envelope(gateway: StandIn, seen: list[Any]) -> None:
    gateway.envelope.details |= {"params": {"BODY": "8BITMIME", "SMTPUTF8": ""}, "user": "cam", "tls": {"version": "x"}}
    async with started(gateway, own("Keeps"), args=[1], kwargs={"colour": "red"}) as target:
        assert target._handler.made_with == ((1,), {"colour": "red"})
        await target.deliver(EVENT)
    [(server, session, envelope, thread)] = seen
    assert envelope.content == MAIL
    assert envelope.original_content == MAIL
    assert (envelope.mail_from, envelope.rcpt_tos) == ("cam@lan", ["a@gw", "b@gw"])
    assert envelope.mail_options == ["BODY=8BITMIME", "SMTPUTF8"]
    assert envelope.smtp_utf8
    assert (session.peer, session.host_name, session.extended_smtp) == (("192.168.1.20", 0), "ipc", True)
    assert (session.authenticated, session.auth_data.login, session.ssl) == (True, b"cam", {"version": "x"})
    assert server.hostname
    assert server.session is session
    assert server.envelope is envelope
    assert session.loop is server.loop
    assert thread != threading.current_thread().name


async def test_handler_that_is_made_already(gateway: StandIn, seen: list[Any]) -> None:
    async with started(gateway, own("ready_made")) as target:
        await target.deliver(EVENT)
    assert len(seen) == 1


async def test_handler_that_is_no_coroutine(gateway: StandIn, seen: list[Any]) -> None:
    async with started(gateway, own("Plain")) as target:
        await target.deliver(EVENT)
    assert seen == ["aiosmtpd handler handler"]


async def test_handler_of_the_old_smtpd(gateway: StandIn, seen: list[Any]) -> None:
    async with started(gateway, own("Smtpd")) as target:
        await target.deliver(EVENT)
    assert seen == [(("192.168.1.20", 0), "cam@lan", ["a@gw", "b@gw"], MAIL)]
    async with started(gateway, own("Refuses")) as target:
        with pytest.raises(Refused, match=r"^554 no$"):
            await target.deliver(EVENT)


async def test_handler_that_asks_for_its_loop(gateway: StandIn, seen: list[Any]) -> None:
    async with started(gateway, own("Asks")) as target:
        await target.deliver(EVENT)
    assert seen == [("cam@lan", "a@gw, b@gw", "('192.168.1.20', 0)")]


async def test_handler_that_blocks_stops_nobody_else(gateway: StandIn, seen: list[Any]) -> None:
    begun, go = threading.Event(), threading.Event()
    async with started(gateway, own("Blocks"), args=[begun.set, go.is_set]) as target:
        deliveries = [asyncio.create_task(target.deliver(EVENT)) for _ in range(2)]
        await asyncio.to_thread(begun.wait, 10)  # our loop goes on
        assert not any(delivery.done() for delivery in deliveries)
        go.set()
        await asyncio.gather(*deliveries)


# --- what it answers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("replies", "error", "words"),
    [
        ({"data": "451 4.3.0 Come back later"}, Retry, "451 4.3.0 Come back later"),
        ({"data": "550-No\r\n550 never"}, Refused, "550 No never"),
        ({"data": "554"}, Refused, "554"),
        ({"data": "354 Go on"}, Retry, "354 Go on"),
        ({"data": "OK"}, Retry, "the handler answered 'OK', which is no SMTP reply"),
        ({"data": None}, Retry, "the handler answered None, which is no SMTP reply"),
        ({"data": "2500"}, Retry, "the handler answered '2500', which is no SMTP reply"),
        ({"mail": "550 5.7.1 Not you"}, Refused, "550 5.7.1 Not you"),
        ({"mail": "450 Not yet"}, Retry, "450 Not yet"),
        ({"a@gw": "550 5.1.1 Nobody", "b@gw": "551 Moved"}, Refused, "550 5.1.1 Nobody"),
        ({"b@gw": "452 4.2.2 Full"}, Retry, "452 4.2.2 Full"),
    ],
)
async def test_replies(
    gateway: StandIn, seen: list[Any], replies: dict[str, Any], error: type[Exception], words: str
) -> None:
    async with started(gateway, own("Says"), kwargs=replies) as target:
        with pytest.raises(error) as caught:
            await target.deliver(EVENT)
    assert str(caught.value) == words


async def test_refused_recipient_is_left_out(
    gateway: StandIn, seen: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with started(gateway, own("Says"), kwargs={"a@gw": "550 5.1.1 Nobody"}) as target:
        await target.deliver(EVENT)
    assert seen == [["<b@gw>"]]  # as the hook wrote it
    assert caplog.messages == ["mailwire_test_handlers:Says refused the recipient a@gw: 550 5.1.1 Nobody"]


async def test_handler_that_raises(gateway: StandIn, seen: list[Any]) -> None:
    async with started(gateway, own("Raises")) as target:
        with pytest.raises(Retry) as caught:
            await target.deliver(EVENT)
    assert str(caught.value) == "mailwire_test_handlers:Raises raised TimeoutError"


async def test_handler_that_does_not_come_back(gateway: StandIn, seen: list[Any]) -> None:
    async with started(gateway, own("Hangs"), timeout=0.05) as target:
        with pytest.raises(Retry) as caught:
            await target.deliver(EVENT)
    assert str(caught.value) == "mailwire_test_handlers:Hangs gave no answer in 0.05 s"


async def test_handler_at_work_does_not_keep_the_gateway_from_ending(
    gateway: StandIn, seen: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aiosmtpd_handler, "_STOP_PATIENCE", 0.05)
    begun, go = threading.Event(), threading.Event()
    async with started(gateway, own("Blocks"), args=[begun.set, go.is_set]) as target:
        delivery = asyncio.create_task(target.deliver(EVENT))
        await asyncio.to_thread(begun.wait, 10)
        delivery.cancel()
        await asyncio.gather(delivery, return_exceptions=True)
    assert target._stage
    assert target._stage._thread.is_alive()
    go.set()
    await asyncio.to_thread(target._stage._thread.join, 10)
    assert not target._stage._thread.is_alive()


async def test_event_without_a_mail(gateway: StandIn, tmp_path: Path) -> None:
    async with started(gateway, "aiosmtpd.handlers.Mailbox", args=[str(tmp_path / "box")]) as target:
        with pytest.raises(Refused, match=r"^this event did not come by mail, and a handler takes nothing else$"):
            await target.deliver({**EVENT, "mail": None})
        gateway.mails.clear()
        with pytest.raises(Refused, match=r"^mail 01JD0000000000000000000001 is no longer kept$"):
            await target.deliver(EVENT)


# --- what can't be used ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("handler", "config", "words"),
    [
        (
            "mailwire_test_none.handlers:Keeps",
            {},
            "mailwire_test_none.handlers:Keeps: there is no module mailwire_test_none; "
            "is it installed in {prefix}, or in the folder that path names?",
        ),
        (
            "mailwire_test_broken:Keeps",
            {},
            "mailwire_test_broken:Keeps: No module named 'surely_not_installed'",
        ),
        (
            "mailwire_test_syntax:Keeps",
            {},
            "mailwire_test_syntax:Keeps: its import failed: "
            "SyntaxError: invalid syntax (mailwire_test_syntax.py, line 1)",
        ),
        (
            "mailwire_test_handlers:Keep",
            {},
            "mailwire_test_handlers:Keep: the module mailwire_test_handlers has no Keep; did you mean Keeps?",
        ),
        (
            "mailwire_test_handlers:Asks",
            {"args": [1, 2, 3]},
            "mailwire_test_handlers:Asks could not be made: TypeError: "
            "AsyncMessage.__init__() takes from 1 to 2 positional arguments but 4 were given",
        ),
        (
            "mailwire_test_handlers:ready_made",
            {"args": [1]},
            "mailwire_test_handlers:ready_made is made already; args and kwargs are for a class",
        ),
    ],
)
async def test_broken(
    gateway: StandIn, folder: Path, handler: str, config: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(Broken) as caught:
        async with started(gateway, handler, path=folder, **config):
            pass
    assert str(caught.value) == words.format(prefix=sys.prefix)


async def test_handler_whose_surroundings_are_missing(gateway: StandIn, seen: list[Any]) -> None:
    with pytest.raises(NotReady) as caught:
        async with started(gateway, own("Fussy"), args=["/mnt/usb"]):
            pass
    assert str(caught.value) == ("mailwire_test_handlers:Fussy: [Errno 2] No such file or directory: '/mnt/usb'")


@pytest.mark.parametrize("handler", ["Keeps", "a b:Keeps", "handlers.py:", ":Keeps", "pkg/mod:Keeps"])
def test_path_that_is_none(handler: str) -> None:
    with pytest.raises(ValidationError, match=r"it must look like package\.module:Class"):
        Config(handler=handler)
