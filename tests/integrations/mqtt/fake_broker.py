"""Brokers that a real Mosquitto can't be: other versions, other limits, other manners. On a free port."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

CONNECT, CONNACK, PUBLISH, PUBACK, SUBSCRIBE, SUBACK, DISCONNECT = 1, 2, 3, 4, 8, 9, 14

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def listening(serve: Serve) -> AsyncIterator[int]:
    """`serve(reader, writer)` for each connection; gives the port."""

    async def guarded(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        except (EOFError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(guarded, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def read_packet(reader: asyncio.StreamReader) -> tuple[int, int, bytes]:
    """(type, flags, body); the remaining length is MQTT 5 §1.5.5."""
    first = (await reader.readexactly(1))[0]
    length = shift = 0
    while True:
        byte = (await reader.readexactly(1))[0]
        length |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return first >> 4, first & 15, await reader.readexactly(length)


def version_of(connect: bytes) -> int:
    """The protocol level of a CONNECT's body: 4 is MQTT 3.1.1, 5 is MQTT 5."""
    return connect[6]


class FakeBroker:
    """Speaks MQTT 5 as far as a publisher needs. `properties`: those of its CONNACK, encoded."""

    def __init__(self, properties: bytes = b"", after_publish: bytes = b"") -> None:
        self.properties = properties
        self.after_publish = after_publish
        self.hold = False  # keep acknowledgements back
        self.held: list[bytes] = []
        self.most_held = 0
        self.published: list[tuple[int, str]] = []  # (flags, topic)
        self._writer: asyncio.StreamWriter | None = None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        while True:
            kind, flags, body = await read_packet(reader)
            if kind == CONNECT:
                connack = bytes([0, 0, len(self.properties)]) + self.properties
                writer.write(bytes([CONNACK << 4, len(connack)]) + connack)
            elif kind == SUBSCRIBE:
                writer.write(bytes([SUBACK << 4, 4]) + body[:2] + b"\x00\x01")
            elif kind == PUBLISH:
                length = int.from_bytes(body[:2], "big")
                self.published.append((flags, body[2 : 2 + length].decode()))
                self.held.append(body[2 + length : 4 + length])
                self.most_held = max(self.most_held, len(self.held))
                if self.after_publish:
                    writer.write(self.after_publish)
                    return
                if not self.hold:
                    self.acknowledge()
            elif kind == DISCONNECT:
                return

    def acknowledge(self, reason: int = 0) -> None:
        assert self._writer
        for identifier in self.held:
            self._writer.write(bytes([PUBACK << 4, 3]) + identifier + bytes([reason]))
        self.held.clear()


class CuttableLine:
    """A line to a broker that can be cut: both sides see a reset, bytes on their way are lost."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._writers: set[asyncio.StreamWriter] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers |= {writer, far_writer}
        try:
            await asyncio.gather(self._pass(reader, far_writer), self._pass(far_reader, writer))
        finally:
            self._writers -= {writer, far_writer}
            far_writer.close()

    @staticmethod
    async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
