"""Receives mail over SMTP: the sockets around `gateway.wire.smtp`.

`config.py` says what can be set. A connection is `protocol.py`; this file opens the listeners, looks once a second
for peers that have used up their time, and stops without losing a mail that is under way.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Sequence

from gateway.api import Broken, Source

from .certificate import self_signed
from .config import Config
from .listen import BACKLOG, bind, connections_possible, joined
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
    _servers: Sequence[asyncio.Server] = ()
    _addresses: Sequence[str] = ()

    async def start(self) -> None:
        config, log = self.config, self.context.log
        modern, old = await asyncio.to_thread(self._contexts)
        limit = connections_possible(config.max_connections)
        if limit < config.max_connections:
            log.warning("At most %d connections at once: the system lets this program open no more files.", limit)
        sockets = await bind(config.listen)
        self._addresses = [joined(*bound.getsockname()[:2]) for bound in sockets]
        self._shared = shared = Shared(self.context.name, config, self.context.intake, log, limit, modern, old)
        self._servers = [
            await shared.loop.create_server(
                lambda: Connection(shared), sock=bound, backlog=BACKLOG, start_serving=False
            )
            for bound in sockets
        ]
        for server in self._servers:
            await server.start_serving()
        self._sweep()

    async def stop(self) -> None:
        """Listening ends at once, so that a successor can have the port; a mail under way gets `GRACE` seconds."""
        for server in self._servers:
            server.close()
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
        return f"SMTP on {' and '.join(self._addresses)} ({tls}, login: {config.login}, open to {who})"

    def _sweep(self) -> None:
        shared = self._shared
        assert shared is not None
        now = time.monotonic()
        for connection in tuple(shared.connections):
            connection.check(now)
        self._timer = shared.loop.call_later(SWEEP, self._sweep)

    def _contexts(self) -> tuple[ssl.SSLContext | None, ssl.SSLContext | None]:
        """(for everybody, for the peers of old) as far as they are needed. On a thread: files, and perhaps new keys."""
        config = self.config
        if config.tls == "none":
            return None, None
        if config.certificate:
            chains = older = [(config.certificate, config.key)]
        else:
            folder = self.context.data_dir
            names = [config.hostname, socket.gethostname(), "localhost", "127.0.0.1", "::1"]
            try:
                chains = [self_signed(folder, names)]
                older = [*chains, self_signed(folder, names, "rsa")] if config.old_tls else chains
            except OSError as error:
                raise Broken(f"the certificate can't be kept in {folder}: {error.strerror}") from error
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
