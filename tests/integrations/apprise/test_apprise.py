"""Apprise, the real one, and a service of our own at the end of a real HTTP connection."""

import asyncio
import base64
import json
import logging

import pytest
from pydantic import ValidationError

from gateway.api import Broken, Context, Retry
from gateway.integrations.apprise import AppriseTarget, Config, _words

pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated")  # a service of Apprise's imports it


class Web:
    """A web service that keeps what it is sent; `answers` are the codes of the next replies, then 200."""

    def __init__(self):
        self.heard, self.answers = [], []

    async def __aenter__(self):
        self.server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_):
        self.server.close()
        await self.server.wait_closed()

    async def _answer(self, reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        self.heard.append((head.split()[1].decode(), json.loads(await reader.readexactly(length))))
        code = self.answers.pop(0) if self.answers else 200
        writer.write(b"HTTP/1.1 %d No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n" % code)
        await writer.drain()
        writer.close()
        await writer.wait_closed()


class Gateway:
    def __init__(self):
        self.files = {}

    async def attachment(self, event_id, index):
        return self.files[event_id, index]

    def acknowledge_url(self, event):
        return "http://gw/ack/1" if event["severity"] == "critical" else None


def event(**changes):
    return {
        "v": 1, "id": "01A", "time": "2026-11-22T19:11:28.123Z", "source": "m", "kind": "motion", "state": "on",
        "device": {"id": "cam", "name": "Front door", "manufacturer": None, "model": None, "profile": None},
        "severity": "warning", "title": "Motion", "text": "At the gate", "data": {}, "attachments": [], "mail": None,
    } | changes  # fmt: skip


async def target(tmp_path, *urls, gateway=None, **config):
    context = Context(
        "phone", tmp_path, logging.getLogger("test"), gateway or Gateway(), None, None, lambda: None, lambda _: None
    )
    made = AppriseTarget(context, Config(urls=urls, **config))
    await made.start()
    return made


async def test_an_event_is_told_in_the_words_of_the_service(tmp_path):
    async with Web() as web:
        phone = await target(tmp_path, f"json://127.0.0.1:{web.port}/alarm")
        assert phone.describe() == "tells JSON"
        await phone.deliver(event())
        await phone.deliver(event(id="01B", severity="critical", text="", title="Front door: open"))
        await phone.deliver(event(id="01C", state="off"))
    assert [path for path, _ in web.heard] == ["/alarm"] * 3
    told = [(said["title"], said["message"], said["type"]) for _, said in web.heard]
    assert told == [
        ("Front door: Motion", "At the gate", "warning"),
        ("Front door: open", "Front door: open\n\nAcknowledge: http://gw/ack/1", "failure"),
        ("Front door: Motion", "At the gate", "success"),
    ]


async def test_a_no_is_tried_again_and_only_where_it_was_said(tmp_path):
    async with Web() as web:
        urls = [f"json://127.0.0.1:{web.port}/{name}" for name in "abc"]
        phone = await target(tmp_path, *urls[:2])
        web.answers = [200, 503, 503, 200]
        with pytest.raises(Retry, match=r"^JSON: .*503") as first:
            await phone.deliver(event())
        assert first.value.memo
        assert str(web.port) not in json.dumps(first.value.memo)  # a URL is a secret
        phone = await target(tmp_path, *reversed(urls))  # a restart, with another order and one more
        with pytest.raises(Retry, match=r"^JSON: .*503") as second:
            await phone.deliver_again(event(), json.loads(json.dumps(first.value.memo)))
        assert second.value.memo
        await phone.deliver_again(event(), second.value.memo)
        await phone.deliver(event())  # asked for once more from outside: all of them
    assert [path for path, _ in web.heard] == ["/a", "/b", "/c", "/b", "/c", "/c", "/b", "/a"]


async def test_nobody_there_is_tried_again(tmp_path):
    async with Web() as web:
        pass
    phone = await target(tmp_path, f"json://127.0.0.1:{web.port}/")
    with pytest.raises(Retry, match=r"^JSON: .*[Cc]onnection"):
        await phone.deliver(event())


@pytest.mark.parametrize(("attach", "names"), [("pictures", ["a.jpg"]), ("all", ["a.jpg", "b.txt"]), ("none", [])])
async def test_attachments_go_along(tmp_path, attach, names):
    gateway = Gateway()
    gateway.files = {("01A", 0): b"\xff\xd8jpeg", ("01A", 1): b"text"}
    files = [
        {"name": "a.jpg", "type": "image/jpeg", "size": 6, "sha256": ""},
        {"name": "b.txt", "type": "text/plain", "size": 4, "sha256": ""},
        {"name": "c.jpg", "type": "image/jpeg", "size": 600, "sha256": ""},
    ]
    async with Web() as web:
        phone = await target(
            tmp_path, f"json://127.0.0.1:{web.port}/", gateway=gateway, attach=attach, attach_limit=100
        )
        await phone.deliver(event(attachments=files))
    sent = web.heard[0][1]["attachments"]
    assert [one["filename"] for one in sent] == names
    assert [base64.b64decode(one["base64"]) for one in sent] == [gateway.files["01A", i] for i in range(len(names))]


async def test_what_is_too_long_is_cut_to_the_limit_of_the_service(tmp_path):
    async with Web() as web:
        phone = await target(tmp_path, f"json://127.0.0.1:{web.port}/")
        await phone.deliver(event(title="t" * 400, text="x" * 100_000))
    said = web.heard[0][1]
    assert len(said["title"]) == 250
    assert len(said["message"]) <= 32768


async def test_an_url_that_apprise_does_not_know_is_said_without_its_secrets(tmp_path):
    with pytest.raises(Broken) as caught:
        await target(tmp_path, "jso://127.0.0.1/secret-token")
    assert str(caught.value) == (
        "urls[0] ('jso://') is no URL that Apprise takes: the service is unknown, or something is missing. "
        "See https://github.com/caronc/apprise/wiki"
    )
    with pytest.raises(ValidationError):
        Config(urls=())
    assert "secret-token" not in repr(Config(urls=("json://127.0.0.1/secret-token",)))


@pytest.mark.parametrize(
    ("title_limit", "body_limit", "expected"),
    [
        (250, 1000, ("Front door: Motion", "x" * 300)),
        (10, 100, ("Front doo…", "x" * 99 + "…")),
        (0, 100, ("Front door: Motion", "x" * 71 + "…")),  # a text message: one text, and no more
    ],
)
def test_words_are_cut(title_limit, body_limit, expected):
    assert _words(event(text="x" * 300), title_limit, body_limit) == expected


def test_a_link_is_not_cut():
    _, text = _words(event(text="x" * 300), 100, 60, "\n\nAcknowledge: http://gw/ack/1")
    assert text == "x" * 29 + "…\n\nAcknowledge: http://gw/ack/1"


async def test_a_text_is_text_also_where_mails_are_html(tmp_path):
    """Apprise's mails are HTML by default: the lines would run into one, and what a device says would be its markup."""
    phone = await target(tmp_path, "mailto://me:secret@localhost.lan?from=me@example.org&to=you@example.org")
    sent = []
    next(iter(phone._services.values())).send = lambda **words: sent.append(words) or True
    await phone.deliver(event(text="a < b\n<b>second</b>"))
    assert (sent[0]["body"], str(sent[0]["body_format"].value)) == ("a < b\n<b>second</b>", "text")
