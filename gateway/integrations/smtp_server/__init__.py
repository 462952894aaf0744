"""Receives mail over SMTP: the sockets around `gateway.wire.smtp`.

`config.py` says what can be set. A connection is `protocol.py`; this file opens the listeners, looks once a second
for peers that have used up their time, and stops without losing a mail that is under way.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Iterable, Sequence

from gateway.api import Broken, Metric, Source

from .certificate import exists, self_signed
from .config import Config
from .listen import BACKLOG, bind, connections_possible, joined, split
from .protocol import Connection, Shared
from .tls import Chain, context

__all__ = ["Config", "SmtpServer"]

SWEEP = 1.0
"""Seconds between two looks at all connections: one timer for all is cheaper than one for each."""
GRACE = 30.0
"""Seconds that a mail under way has to be finished when the gateway stops."""
LAST_WORDS = 1.0
"""Seconds that the 421 after that has to leave this machine."""


class SmtpServer(Source):
    """One SMTP server with one policy, on one address or many."""

    config: Config
    _shared: Shared | None = None
    _timer: asyncio.TimerHandle | None = None
    _making: asyncio.Task[None] | None = None
    _servers: Sequence[asyncio.Server] = ()
    _addresses: Sequence[str] = ()

    async def start(self) -> None:
        config, log = self.config, self.context.log
        limit = connections_possible(config.max_connections)
        if limit < config.max_connections:
            log.warning("At most %d connections at once: the system lets this program open no more files.", limit)
        shared = Shared(self.context.name, config, self.context.intake, log, limit)
        # Nobody has to wait for the making of a certificate that devices can do without.
        later = config.tls == "offered" and not config.certificate and not exists(self.context.data_dir, "ec")
        if config.tls != "none" and not later:
            await self._prepare_tls(shared)
        sockets = await bind(config.listen)
        self._shared = shared
        self._addresses = [joined(*bound.getsockname()[:2]) for bound in sockets]
        self._servers = [
            await shared.loop.create_server(
                lambda: Connection(shared), sock=bound, backlog=BACKLOG, start_serving=False
            )
            for bound in sockets
        ]
        for server in self._servers:
            await server.start_serving()
        if later:
            self._making = asyncio.create_task(self._offer_tls_later(shared))
        self._sweep()

    async def _prepare_tls(self, shared: Shared) -> None:
        shared.modern, shared.old = await asyncio.to_thread(self._contexts)

    async def _offer_tls_later(self, shared: Shared) -> None:
        try:
            await self._prepare_tls(shared)
        except Broken as error:
            self.context.log.warning("STARTTLS is not offered: %s.", error)

    async def stop(self) -> None:
        """Listening ends at once, so that a successor can have the port; a mail under way gets `GRACE` seconds."""
        for server in self._servers:
            server.close()
        if self._making is not None:
            self._making.cancel()
        shared = self._shared
        if shared is None:
            return
        shared.stopping = True
        for connection in tuple(shared.connections):
            connection.stop()
        if not await self._emptied(shared, GRACE):
            for connection in tuple(shared.connections):
                connection.cut()
            if not await self._emptied(shared, LAST_WORDS):
                for connection in tuple(shared.connections):
                    connection.abort()
                await self._emptied(shared, LAST_WORDS)
        if self._timer is not None:
            self._timer.cancel()

    async def _emptied(self, shared: Shared, seconds: float) -> bool:
        if shared.connections:
            try:
                async with asyncio.timeout(seconds):
                    await shared.empty.wait()
            except TimeoutError:
                return False
        return True

    def describe(self) -> str:
        config = self.config
        tls = {"none": "without TLS", "implicit": "TLS"}.get(config.tls, f"STARTTLS {config.tls}")
        who = "private networks" if config.allow == ("private",) else ", ".join(config.allow)
        return f"SMTP on {' and '.join(self._addresses or config.listen)} ({tls}, login: {config.login}, open to {who})"

    def try_it(self, mailwire: str) -> tuple[str, str] | None:
        """A line for plain listeners that ask for no login; the others need what only the person knows."""
        if self.config.tls in ("required", "implicit") or self.config.login == "required" or not self._addresses:
            return None
        host, port = split(self._addresses[0])
        here = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  # compared, not bound
        return (
            "Send a test mail with a picture, from another terminal",
            f"{mailwire} send {joined(here, port)} --picture",
        )

    def metrics(self) -> Iterable[Metric]:
        shared = self._shared
        return shared.counts.metrics(len(shared.connections)) if shared else ()

    def _sweep(self) -> None:
        shared = self._shared
        assert shared is not None
        self._timer = shared.loop.call_later(SWEEP, self._sweep)
        now = time.monotonic()
        for connection in tuple(shared.connections):
            connection.check(now)

    def _contexts(self) -> tuple[ssl.SSLContext, ssl.SSLContext | None]:
        """(for everybody, for the peers of 'old_tls'). On a thread: files, and perhaps new keys. Raises Broken."""
        config = self.config
        if config.certificate:
            chains = older = [(config.certificate, config.key)]
        else:
            folder = self.context.data_dir
            names = [config.hostname, socket.gethostname(), "localhost", "127.0.0.1", "::1"]
            try:
                chains = [self_signed(folder, names)]
                older = [*chains, self_signed(folder, names, "rsa")] if config.old_tls else chains
            except OSError as error:
                raise Broken(f"a certificate can't be made in {folder}: {error}") from error
        return _context(chains), _context(older, old=True) if config.old_tls else None


def _context(chains: Sequence[Chain], *, old: bool = False) -> ssl.SSLContext:
    certificate, key = chains[0]
    key = key or certificate
    try:
        return context(chains, old=old)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise Broken(f"the key in {key} is not that of the certificate in {certificate}") from error
        raise Broken(
            f"{certificate} and {key} are no certificate and key: both must be in PEM form, the key without a password"
        ) from error
    except OSError as error:  # OpenSSL does not say which file it is
        missing = key if certificate.is_file() else certificate
        raise Broken(f"{missing} can't be read: {error.strerror}") from error
