"""As much of HTTP/1.1 (RFC 9112) as a scrape and a health check need: one GET or HEAD a connection.

Everything is bounded, so that nobody who reaches the port can hold up the gateway: the head's length, the time from
the first byte to the last one that the peer takes, and the connections, of which the oldest gives way to a new one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import NamedTuple

PATIENCE = 5.0  # seconds for request and response
LONGEST_HEAD = 8192  # bytes
AT_ONCE = 32  # connections


class Page(NamedTuple):
    """What is answered."""

    status: int
    body: bytes
    media_type: str = "text/plain; charset=utf-8"


Answer = Callable[[Mapping[str, str]], Page]
"""Given the headers of the request, by their names in small letters."""


class Web:
    """`pages`: path -> what answers it."""

    def __init__(self, pages: Mapping[str, Answer], log: logging.Logger) -> None:
        self._pages = pages
        self._log = log
        self._server: asyncio.Server | None = None
        self._open: dict[asyncio.Task[None], None] = {}  # the oldest first
        self.address = ""

    async def start(self, host: str, port: int) -> None:
        """Raises OSError."""
        self._server = await asyncio.start_server(self._serve, host, port, limit=LONGEST_HEAD)
        host, port = self._server.sockets[0].getsockname()[:2]
        self.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    async def stop(self) -> None:
        if self._server:
            self._server.close()
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._open[task] = None
        if len(self._open) > AT_ONCE:
            next(iter(self._open)).cancel()
        writer.transport.set_write_buffer_limits(0)  # so that `drain` means: the peer's machine has it all
        try:
            async with asyncio.timeout(PATIENCE):
                writer.write(await self._answer(reader))
                await writer.drain()
            writer.close()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            writer.transport.abort()  # too slow, gone, or in a newer one's way
        finally:
            del self._open[task]

    async def _answer(self, reader: asyncio.StreamReader) -> bytes:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        except asyncio.LimitOverrunError:
            return _response(_plainly(431))
        request, *lines = head.split("\r\n")
        method, _, rest = request.partition(" ")
        target, _, version = rest.partition(" ")
        if not version.startswith("HTTP/1."):
            return _response(_plainly(400))
        if method not in ("GET", "HEAD"):
            return _response(_plainly(405), "Allow: GET, HEAD\r\n")
        page = self._pages.get(target.partition("?")[0])
        if page is None:
            return _response(_plainly(404, f"There are {', '.join(self._pages)}."))
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        try:
            response = _response(page(headers))
        except Exception:  # noqa: BLE001  # whatever is wrong, the one who asks is told so
            self._log.exception("%s could not be answered", target.partition("?")[0])
            response = _response(_plainly(500, "See the gateway's log."))
        return response if method == "GET" else response[: response.index(b"\r\n\r\n") + 4]


def _plainly(status: int, more: str = "") -> Page:
    return Page(status, f"{status} {HTTPStatus(status).phrase}. {more}".rstrip().encode() + b"\n")


def _response(page: Page, more: str = "") -> bytes:
    head = (
        f"HTTP/1.1 {page.status} {HTTPStatus(page.status).phrase}\r\n"
        f"Content-Type: {page.media_type}\r\n"
        f"Content-Length: {len(page.body)}\r\n"
        "Cache-Control: no-store\r\n"
        "X-Content-Type-Options: nosniff\r\n"
        f"{more}Connection: close\r\n\r\n"
    )
    return head.encode() + page.body
