"""The least that a server in Python can do and keep mail: `raw_server.py PORT FILE`. A yardstick, and no server.

uvloop, and a protocol that knows nothing but the conversation of the load: no limits, no TLS, no refusals, nothing is
checked or understood. What it makes is about what a gateway in Python can at most make on this machine.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import cast

import uvloop
from keeper import Keeper

HOST = "127.0.0.1"
_END = b"\r\n.\r\n"
_EHLO = b"250-bench\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SIZE 100000000\r\n"


class Raw(asyncio.Protocol):
    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self._line = bytearray()
        self._content: bytearray | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(b"220 bench ESMTP\r\n")

    def data_received(self, data: bytes) -> None:
        if self._content is not None:
            self._more(data)
            return
        self._line += data
        while self._content is None and (end := self._line.find(b"\n")) >= 0:
            line = bytes(self._line[:end])
            del self._line[: end + 1]
            self._answer(line)
        if self._content is not None and self._line:
            rest, self._line = bytes(self._line), bytearray()
            self._more(rest)

    def _answer(self, line: bytes) -> None:
        verb = line[:4].upper()
        if verb == b"MAIL":
            self._mail_from, self._rcpt_to = line[10:].strip().decode(), []
        elif verb == b"RCPT":
            self._rcpt_to.append(line[8:].strip().decode())
        elif verb == b"DATA":
            self._content = bytearray()
            self._transport.write(b"354 go on\r\n")
            return
        elif verb == b"QUIT":
            self._transport.write(b"221 bye\r\n")
            self._transport.close()
            return
        self._transport.write(_EHLO if verb == b"EHLO" else b"250 Ok\r\n")

    def _more(self, data: bytes) -> None:
        assert self._content is not None
        begin = max(len(self._content) - len(_END), 0)
        self._content += data
        if self._content.find(_END, begin) >= 0:
            content, self._content = bytes(self._content[:-3]).replace(b"\r\n..", b"\r\n."), None
            self._keeper.keep((HOST, self._mail_from, json.dumps(self._rcpt_to), content), self._kept)

    def _kept(self) -> None:
        self._transport.write(b"250 2.0.0 Ok\r\n")


async def serve(port: int, path: str) -> None:
    keeper = Keeper(path)
    server = await asyncio.get_running_loop().create_server(lambda: Raw(keeper), HOST, port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), sys.argv[2]))
