"""aiosmtpd as a peer: `aiosmtpd_server.py PORT null | storing FILE | obvious BROKER_PORT`.

- `null` keeps nothing.
- `storing` keeps mail as the gateway does (`keeper`), and says 250 after it.
- `obvious` is what one would write first: email with policy.default, paho's own thread, 250 after the broker's PUBACK.
"""

from __future__ import annotations

import asyncio
import email
import email.policy
import hashlib
import json
import sys
from collections.abc import Callable
from typing import Protocol

from aiosmtpd.smtp import SMTP, Envelope, Session
from keeper import Keeper

HOST = "127.0.0.1"


class Handler(Protocol):
    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str: ...  # noqa: N802 (aiosmtpd's)


class Null:
    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        return "250 2.0.0 Ok"


class Storing:
    def __init__(self, path: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._keeper = Keeper(path)

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        stored: asyncio.Future[None] = self._loop.create_future()
        recipients = json.dumps(envelope.rcpt_tos)
        row = (str(session.peer), envelope.mail_from, recipients, envelope.content)
        self._keeper.keep(row, lambda: stored.done() or stored.set_result(None))
        await stored
        return "250 2.0.0 Ok"


class Obvious:
    def __init__(self, broker_port: int) -> None:
        import paho.mqtt.client as paho
        from paho.mqtt.enums import CallbackAPIVersion

        self._loop = asyncio.get_running_loop()
        self._unacknowledged: dict[int, asyncio.Future[None]] = {}
        self._client = paho.Client(CallbackAPIVersion.VERSION2)
        self._client.max_inflight_messages_set(100)
        self._client.on_publish = self._on_publish
        self._client.connect(HOST, broker_port)
        self._client.loop_start()

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        assert isinstance(envelope.content, bytes)
        message = email.message_from_bytes(envelope.content, policy=email.policy.default)
        body = message.get_body(("plain", "html"))
        parts = [
            (part.get_filename(), part.get_content_type(), part.get_content()) for part in message.iter_attachments()
        ]
        event = {
            "from": envelope.mail_from,
            "to": envelope.rcpt_tos,
            "subject": message["Subject"],
            "text": body.get_content() if body else "",
            "attachments": [
                {"name": name, "type": kind, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
                for name, kind, content in parts
            ],
        }
        done: asyncio.Future[None] = self._loop.create_future()
        self._unacknowledged[self._client.publish("bench/device/event", json.dumps(event), qos=1).mid] = done
        await done
        return "250 2.0.0 Ok"

    def _on_publish(self, client: object, data: object, mid: int, code: object, properties: object) -> None:
        self._loop.call_soon_threadsafe(self._acknowledged, mid)

    def _acknowledged(self, mid: int) -> None:
        self._unacknowledged.pop(mid).set_result(None)


async def serve(port: int, make: Callable[[], Handler]) -> None:
    handler = make()
    # A given host name saves aiosmtpd a blocking look-up for each connection.
    server = await asyncio.get_running_loop().create_server(
        lambda: SMTP(handler, hostname="bench", enable_SMTPUTF8=True), HOST, port, backlog=1024
    )
    await server.serve_forever()


if __name__ == "__main__":
    port, kind, *rest = sys.argv[1:]
    makers: dict[str, Callable[[], Handler]] = {
        "null": Null,
        "storing": lambda: Storing(rest[0]),
        "obvious": lambda: Obvious(int(rest[0])),
    }
    asyncio.run(serve(int(port), makers[kind]))
