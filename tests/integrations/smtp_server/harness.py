"""A real server on real sockets, in a thread of its own, over an intake that keeps mails in memory."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import socket
import struct
import termios
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Protocol

from gateway.api import Context, Envelope, StoreTrouble
from gateway.integrations.smtp_server import Config, SmtpServer

PATIENCE = 10.0


def eventually(condition: Callable[[], Any]) -> Any:
    """The first true answer; fails after ten seconds."""
    deadline = time.monotonic() + PATIENCE
    while not (answer := condition()):
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.005)
    return answer


class Receipt:
    def __init__(self, intake: Intake, on_drain: Callable[[], None] | None) -> None:
        self.intake, self.on_drain = intake, on_drain
        self.chunks: list[bytes] = []

    def write(self, chunk: bytes) -> bool:
        self.chunks.append(chunk)
        self.intake.written += len(chunk)
        self.intake.largest = max(self.intake.largest, len(chunk))
        if self.intake.disk_is_slow:
            self.intake.draining.append(self)
        return not self.intake.disk_is_slow

    def commit(self, envelope: Envelope, done: Callable[[str, StoreTrouble | None], None]) -> None:
        intake = self.intake

        def answer() -> None:
            if intake.trouble:
                done("", intake.trouble)
            else:
                intake.mails.append((envelope, b"".join(self.chunks)))
                done(f"ID{len(intake.mails)}", None)

        if intake.immediate:
            answer()
        elif intake.holding:
            intake.held.append(answer)
        else:
            asyncio.get_running_loop().call_soon(answer)

    def abort(self) -> None:
        self.intake.aborted += 1


class Intake:
    """`gateway.api.Intake`, and what a test may do to it. Called from the server's thread alone."""

    def __init__(self) -> None:
        self.coming = 0
        self.mails: list[tuple[Envelope, bytes]] = []
        self.aborted = 0
        self.written = 0
        self.largest = 0
        self.trouble: StoreTrouble | None = None
        self.space = 1 << 40
        self.immediate = False  # answers from within commit()
        self.holding = False  # answers at release()
        self.held: list[Callable[[], None]] = []
        self.disk_is_slow = False  # says "pause" after each chunk, and "go on" at drain()
        self.draining: list[Receipt] = []

    def begin(self, on_drain: Callable[[], None] | None = None) -> Receipt:
        return Receipt(self, on_drain)

    def room(self) -> int:
        return self.space


class Peer:
    """A device, byte by byte."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address, timeout=PATIENCE)
        self.buffer = b""

    def send(self, *lines: bytes) -> None:
        self.socket.sendall(b"".join(line + b"\r\n" for line in lines))

    def reply(self) -> str:
        """The next reply, its lines joined by newlines; "" if the server has closed."""
        lines = []
        while True:
            while b"\r\n" not in self.buffer:
                more = self.socket.recv(65536)
                if not more:
                    assert (self.buffer, lines) == (b"", [])
                    return ""
                self.buffer += more
            line, _, self.buffer = self.buffer.partition(b"\r\n")
            lines.append(line.decode())
            if line[3:4] != b"-":
                return "\n".join(lines)

    def ask(self, *lines: bytes) -> str:
        """Send it all; the reply to the last line. The greeting must have been read."""
        self.send(*lines)
        for _ in lines[1:]:
            self.reply()
        return self.reply()

    def rest(self) -> list[str]:
        """All further replies until the server closes."""
        replies = []
        while reply := self.reply():
            replies.append(reply)
        return replies

    def wait_until_acknowledged(self) -> None:
        """Until the other side's system has every byte that was sent."""

        def unsent() -> int:
            answer = fcntl.ioctl(self.socket, termios.TIOCOUTQ, b"\0\0\0\0")
            return int(struct.unpack("i", answer)[0])

        eventually(lambda: unsent() == 0)

    def half_close(self) -> None:
        self.socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self.socket.close()

    def reset(self) -> None:
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


class Log(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.DEBUG:
            self.lines.append(f"{record.levelname} {record.getMessage()}")


class Server:
    """A running server, from the test's thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, folder: Path, options: dict[str, Any]) -> None:
        self.loop = loop
        self.intake = Intake()
        self.log = Log()
        logger = logging.Logger("smtp", logging.DEBUG)
        logger.addHandler(self.log)
        context = Context(
            name="lan-mail",
            data_dir=folder,
            log=logger,
            gateway=None,  # type: ignore[arg-type]  # this integration asks the gateway for nothing
            intake=self.intake,
            emit=None,  # type: ignore[arg-type]
            ready=lambda: None,
            problem=lambda text: None,
        )
        options = {"listen": ["127.0.0.1:0"], "hostname": "gw.lan", **options}
        self.it = SmtpServer(context, Config.model_validate(options))
        self.stopped: Future[None] | None = None
        self.peers: list[Peer] = []

    def start(self) -> None:
        asyncio.run_coroutine_threadsafe(self.it.start(), self.loop).result(PATIENCE)

    def stop(self) -> Future[None]:
        """Begin to stop; the future is done when it has stopped."""
        if self.stopped is None:
            self.stopped = asyncio.run_coroutine_threadsafe(self.it.stop(), self.loop)
        return self.stopped

    def call(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Call it in the server's thread; it is done when this returns."""

        async def call() -> None:
            function(*arguments)

        asyncio.run_coroutine_threadsafe(call(), self.loop).result(PATIENCE)

    def release(self) -> None:
        """The intake answers what it has held back."""
        held, self.intake.held = self.intake.held, []
        for answer in held:
            self.call(answer)

    def drain(self) -> None:
        self.intake.disk_is_slow = False
        for receipt in self.intake.draining:
            assert receipt.on_drain
            self.call(receipt.on_drain)
        self.intake.draining = []

    def flood(self, peer: Peer) -> None:
        """The peer asks and asks and never reads, until it is no longer read from."""
        (connection,) = self.connections
        peer.socket.setblocking(False)
        sent = 0

        def stuck() -> bool:
            nonlocal sent
            try:
                while True:
                    sent += peer.socket.send((b"NOOP\r\n" * 1000)[sent % 6 :])
            except BlockingIOError:
                return bool(connection._held)
            except ConnectionError:
                return True

        eventually(stuck)

    @property
    def addresses(self) -> list[tuple[str, int]]:
        return [listener.getsockname()[:2] for server in self.it._servers for listener in server.sockets]

    @property
    def address(self) -> tuple[str, int]:
        return self.addresses[0]

    @property
    def connections(self) -> list[Any]:
        shared = self.it._shared
        assert shared
        return list(shared.connections)

    def connect(self) -> Peer:
        peer = Peer(self.address)
        self.peers.append(peer)
        return peer

    def peer(self, *lines: bytes) -> Peer:
        """A device that has read the greeting, and said these lines and read their replies."""
        peer = self.connect()
        assert peer.reply() == "220 gw.lan ESMTP Mailwire"
        for line in lines:
            peer.ask(line)
        return peer

    def logged(self, line: str) -> None:
        """Waits until this line, word for word, is in the log."""
        deadline = time.monotonic() + PATIENCE
        while line not in self.log.lines:
            assert time.monotonic() < deadline, self.log.lines
            time.sleep(0.005)


class Serve(Protocol):
    def __call__(self, **options: Any) -> Server: ...
