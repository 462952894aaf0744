"""The little HTTP server: what it answers, and that nobody can hold it up."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Mapping

import pytest

from gateway.integrations.prometheus import web
from gateway.integrations.prometheus.web import Page, Web

PATIENCE = 20.0  # seconds; only a broken test waits so long
HEAD = b"Host: gw\r\n\r\n"


class Asked:
    """A server with three pages, and what asks it."""

    def __init__(self) -> None:
        self.answering = asyncio.Event()
        self.writers: list[asyncio.StreamWriter] = []
        self.web = Web({"/": self.hello, "/broken": self.broken, "/much": self.much}, logging.getLogger("web"))

    def hello(self, headers: Mapping[str, str]) -> Page:
        return Page(200, f"hello {headers.get('accept', '')}".encode())

    def broken(self, _: Mapping[str, str]) -> Page:
        raise RuntimeError("no")

    def much(self, _: Mapping[str, str]) -> Page:
        self.answering.set()
        return Page(200, b"x" * 50_000_000)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host, port = self.web.address.rsplit(":", 1)
        reader, writer = await asyncio.open_connection(host, int(port))
        self.writers.append(writer)
        return reader, writer

    async def close(self) -> None:
        for writer in self.writers:
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        await self.web.stop()

    async def ask(self, request: bytes) -> bytes:
        reader, writer = await self.connect()
        writer.write(request)
        async with asyncio.timeout(PATIENCE):
            return await reader.read()


@pytest.fixture
async def asked() -> AsyncIterator[Asked]:
    made = Asked()
    await made.web.start("127.0.0.1", 0)
    yield made
    await made.close()


async def test_a_page(asked: Asked) -> None:
    answer = await asked.ask(b"GET /?x=1 HTTP/1.1\r\nAccept: text/plain\r\n" + HEAD)
    assert answer == (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 16\r\n"
        b"Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\nhello text/plain"
    )
    head = await asked.ask(b"HEAD / HTTP/1.0\r\n" + HEAD)
    assert head.endswith(b"close\r\n\r\n")
    assert b"Content-Length: 6\r\n" in head


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        (b"GET /nothing HTTP/1.1\r\n", b"404 Not Found. There are /, /broken, /much.\n"),
        (b"GET /../etc/passwd HTTP/1.1\r\n", b"404 Not Found. There are /, /broken, /much.\n"),
        (b"POST / HTTP/1.1\r\n", b"405 Method Not Allowed.\n"),
        (b"EHLO cam\r\n", b"400 Bad Request.\n"),
        (b"\x16\x03\x01\r\n", b"400 Bad Request.\n"),
        (b"GET /broken HTTP/1.1\r\n", b"500 Internal Server Error. See the gateway's log.\n"),
    ],
)
async def test_refusals(asked: Asked, request_: bytes, answer: bytes) -> None:
    said = await asked.ask(request_ + HEAD)
    assert said.startswith(b"HTTP/1.1 " + answer[:3])
    assert said.endswith(b"\r\n\r\n" + answer)


async def test_a_head_that_is_too_long(asked: Asked) -> None:
    reader, writer = await asked.connect()
    writer.write(b"GET / HTTP/1.1\r\nX: " + b"x" * 2 * web.LONGEST_HEAD)
    async with asyncio.timeout(PATIENCE):
        assert (await reader.readline()).startswith(b"HTTP/1.1 431 ")


async def test_who_hangs_up_early_is_forgotten(asked: Asked) -> None:
    _, writer = await asked.connect()
    writer.write(b"GET / HT")
    writer.close()
    assert b" 200 OK" in await asked.ask(b"GET / HTTP/1.1\r\n" + HEAD)


async def test_who_says_nothing_is_cut_off(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "PATIENCE", 0.1)
    assert await asked.ask(b"") == b""
    assert await asked.ask(b"GET / HTTP/1.1\r\n") == b""


async def test_who_does_not_read_is_cut_off(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "PATIENCE", 0.1)
    _, writer = await asked.connect()
    writer.write(b"GET /much HTTP/1.1\r\n" + HEAD)
    async with asyncio.timeout(PATIENCE):
        await asked.answering.wait()
        await asyncio.wait(asked.web._open)
    assert not asked.web._open


async def test_the_oldest_connection_gives_way(asked: Asked) -> None:
    silent = [await asked.connect() for _ in range(3 * web.AT_ONCE)]
    assert b" 200 OK" in await asked.ask(b"GET / HTTP/1.1\r\n" + HEAD)
    assert len(asked.web._open) <= web.AT_ONCE
    async with asyncio.timeout(PATIENCE):
        assert await silent[0][0].read() == b""
