"""A relay on its own, with a stand-in for the gateway around it; and a smarthost that says what a script tells it.

The smarthost (`Scripted`) is a fake and says so: it plays `tests/smarthosts/*.dialog`, conversations of servers that
can't be run here, as they were published, and any failure at any step. What a real server does is for test_interop.py.

A dialog tells who speaks: `S: ` the smarthost's line, `C: ` a pattern (a regular expression) that the client's line
must match, `C: <mail>` the content up to its dot, `C: <tls>` the handshake, `S: <close>` it hangs up, `S: <silence>`
it says nothing more. `#` begins a comment, a line `---` the next connection. A dialog begins with its title and with
`# source:`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import ssl
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gateway import template
from gateway.api import Context, Envelope
from gateway.integrations.smtp_relay import Config, SmtpRelay
from gateway.ulid import UlidMaker
from tests.certificates import Authority

PATIENCE = 20.0
DIALOGS = Path(__file__).parents[2] / "smarthosts"
new_id = UlidMaker().new


def make_event(**more: Any) -> dict[str, Any]:
    return {
        "v": 1,
        "id": new_id(),
        "time": "2026-11-22T19:11:28.123Z",
        "source": "lan-mail",
        "device": {"id": "door", "name": "Front door", "manufacturer": None, "model": None, "profile": None},
        "kind": "motion",
        "state": "on",
        "severity": "warning",
        "title": "Motion detected",
        "text": "EVENT TYPE: motion",
        "data": {"channel": "A1"},
        "attachments": [],
        "mail": None,
    } | more


class Gateway:
    """Stands in for the gateway: what a relay asks of it."""

    def __init__(self) -> None:
        self.mails: dict[str, tuple[Envelope, bytes]] = {}
        self.files: dict[str, list[bytes]] = {}
        self.waiting: set[str] = set()
        self.came_back: list[tuple[str, str, Mapping[str, Any] | None]] = []
        self.emitted: list[Mapping[str, Any]] = []
        self.problems: list[str | None] = []

    def template(self, source: str, *, html: bool = False, more: tuple[str, ...] = ()) -> template.Text:
        return template.text(source, html=html, more=more)

    async def raw_mail(self, event_id: str) -> tuple[Envelope, bytes]:
        if event_id not in self.mails:
            raise LookupError(f"mail {event_id} is no longer kept")
        return self.mails[event_id]

    async def attachment(self, event_id: str, index: int) -> bytes:
        if event_id not in self.files:
            raise LookupError(f"mail {event_id} is no longer kept")
        return self.files[event_id][index]

    async def failed(self, target: str, event_id: str, reason: str, memo: Mapping[str, Any] | None = None) -> bool:
        assert target == "post"
        if event_id in self.waiting:
            return False
        self.came_back.append((event_id, reason, memo))
        return True

    def acknowledge_url(self, event: Mapping[str, Any]) -> str | None:
        return f"http://gw/ack/{event['id']}" if event["severity"] == "critical" else None

    async def emit(self, draft: Mapping[str, Any]) -> str:
        self.emitted.append(draft)
        return new_id()

    def mailed(self, raw: bytes, *files: bytes, mail_from: str = "cam@lan", **more: Any) -> dict[str, Any]:
        """An event that came by mail."""
        mail = {"from": mail_from, "to": ["a@gw"], "subject": None, "message_id": None, "helo": "ipc", "peer": "::1"}
        names = [
            {"name": f"{n}.jpg", "type": "image/jpeg", "size": len(one), "sha256": ""} for n, one in enumerate(files)
        ]
        event = make_event(mail=mail, **({"attachments": names} | more))
        self.mails[event["id"]] = (Envelope("lan-mail", "192.168.1.20", "ipc", mail_from, ["a@gw"]), raw)
        self.files[event["id"]] = list(files)
        return event


def make_relay(gateway: Gateway, folder: Path, **options: Any) -> SmtpRelay:
    folder.mkdir(exist_ok=True)
    context = Context(
        name="post",
        data_dir=folder,
        log=logging.getLogger("mailwire.post"),
        gateway=gateway,  # type: ignore[arg-type]  # a stand-in
        intake=None,  # type: ignore[arg-type]  # a target has no use for it
        emit=gateway.emit,
        ready=lambda: None,
        problem=gateway.problems.append,
    )
    config = {
        "from": "gw@example.org",
        "to": ["me@example.org"],
        "starttls": "never",
        "hostname": "gw.example",
    } | options
    if (config["url"].startswith("smtps") or "tls" in options) and "starttls" not in options:
        del config["starttls"]
    return SmtpRelay(context, Config.model_validate(config))


@contextlib.asynccontextmanager
async def relay(gateway: Gateway, folder: Path, **options: Any) -> AsyncIterator[SmtpRelay]:
    one = make_relay(gateway, folder / "post", **options)
    await one.start()
    try:
        yield one
    finally:
        await one.stop()


# --- the smarthost that plays a script -------------------------------------------------------------------------------


@dataclass
class Taken:
    """What the client said in one connection: its lines, and each content as it was sent, with its dots."""

    lines: list[str] = field(default_factory=list)
    mails: list[bytes] = field(default_factory=list)


class Scripted:
    """Plays a script: one list of steps for each connection, the last one for all that follow."""

    def __init__(self, *connections: str, authority: Authority | None = None) -> None:
        self.scripts = [connection.strip().splitlines() for connection in connections]
        self.connections: list[Taken] = []
        self.wrong: list[str] = []
        self.silent = asyncio.Event()
        """Set when it has begun to say nothing more."""
        self._authority = authority
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @classmethod
    def of_dialog(cls, name: str, authority: Authority | None = None) -> Scripted:
        text = (DIALOGS / f"{name}.dialog").read_text("utf-8")
        assert text.startswith("# ")
        assert "\n# source: " in text, name
        lines = [line for line in text.splitlines() if line and not line.startswith("#")]
        return cls(*"\n".join(lines).split("\n---\n"), authority=authority)

    @property
    def url(self) -> str:
        assert self._server
        return f"smtp://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    @property
    def mails(self) -> list[bytes]:
        return [mail for one in self.connections for mail in one.mails]

    @property
    def lines(self) -> list[str]:
        return [line for one in self.connections for line in one.lines]

    async def __aenter__(self) -> Scripted:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1 << 26)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()
        assert not self.wrong, self.wrong

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        script = self.scripts[min(len(self.connections), len(self.scripts) - 1)]
        taken = Taken()
        self.connections.append(taken)
        try:
            for step in script:
                if not await self._step(step, reader, writer, taken):
                    break
        except (ConnectionError, ssl.SSLError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # asyncio's own server would log a cancelled one as a fault
        finally:
            writer.close()

    async def _step(self, step: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, taken: Taken) -> bool:
        who, _, what = step.partition(" ")
        if step == "S: <close>":
            return False
        if step == "S: <silence>":
            self.silent.set()
            await reader.read()
            return False
        if who == "S:":
            writer.write(what.encode("utf-8").decode("unicode_escape").encode("latin-1") + b"\r\n")
            await writer.drain()
        elif what == "<tls>":
            assert self._authority
            await writer.start_tls(self._authority.server_context)
        elif what == "<mail>":
            content = await reader.readuntil(b"\r\n.\r\n")
            taken.mails.append(content[:-3].replace(b"\r\n..", b"\r\n."))
        else:
            line = (await reader.readuntil(b"\n")).decode("utf-8", "replace")
            taken.lines.append(line.rstrip("\r\n"))
            if not re.fullmatch(what, taken.lines[-1]):
                if taken.lines[-1] == "QUIT":  # any client may leave at any time
                    return False
                self.wrong.append(f"{taken.lines[-1]!r} is not {what!r}")
                return False
        return True


def polite(*replies: str, offers: str = "") -> str:
    """A server without a fault: a script of one mail to one recipient, with other replies where a step is named.

    `replies` are `STEP=REPLY`: greeting, ehlo, mail, rcpt, data, dot, rset.
    """
    said = {
        "greeting": "220 smarthost.example ESMTP",
        "ehlo": "250 smarthost.example",
        "mail": "250 ok",
        "rcpt": "250 ok",
        "data": "354 go",
        "dot": "250 queued",
    } | dict(reply.split("=", 1) for reply in replies)
    lines = []
    for step, pattern in (
        ("greeting", ""),
        ("ehlo", "EHLO .*"),
        ("mail", "MAIL .*"),
        ("rcpt", "RCPT .*"),
        ("data", "DATA"),
        ("dot", "<mail>"),
    ):
        if pattern:
            lines.append(f"C: {pattern}")
        if step == "ehlo" and offers and step not in dict(reply.split("=", 1) for reply in replies):
            extensions = offers.split(",")
            lines.append("S: 250-smarthost.example")
            lines += [f"S: 250-{one}" for one in extensions[:-1]] + [f"S: 250 {extensions[-1]}"]
        else:
            lines.append(f"S: {said[step]}")
        if said[step].startswith(("4", "5")) and step not in ("greeting", "ehlo"):
            lines += ["C: RSET|QUIT", "S: 250 ok", "C: QUIT", "S: 221 bye"]
            return "\n".join(lines)
        if said[step].startswith("<"):
            return "\n".join(lines)
    return "\n".join([*lines, "C: QUIT", "S: 221 bye"])
