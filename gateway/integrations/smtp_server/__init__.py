"""Receives mail over SMTP: the sockets around `gateway.wire.smtp`.

`config.py` says what can be set. A connection is `protocol.py`; this file opens the listeners, looks once a second
for peers that have used up their time, and stops without losing a mail that is under way.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gateway.api import Broken, Finding, Metric, Source, bans, users

from .certificate import exists, expires, files
from .config import Config
from .listen import BACKLOG, bind, connections_possible, joined, split
from .protocol import Connection, Shared
from .renewal import Certificate, expiry_warning

__all__ = ["Config", "SmtpServer"]

SWEEP = 1.0
"""Seconds between two looks at all connections: one timer for all is cheaper than one for each."""
RENEWAL = 60.0
"""Seconds between two looks at the certificate's files."""
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
    _renewing: asyncio.Task[None] | None = None
    _certificate: Certificate
    _refused = False
    _expiry_sought = False
    _renew_at = 0.0
    _servers: Sequence[asyncio.Server] = ()
    _addresses: Sequence[str] = ()

    async def start(self) -> None:
        config, log = self.config, self.context.log
        limit = connections_possible(config.max_connections)
        if limit < config.max_connections:
            log.warning("At most %d connections at once: the system lets this program open no more files.", limit)
        shared = Shared(self.context.name, config, self.context.intake, log, limit, self.context.data_dir)
        self._certificate = Certificate(config, self.context.data_dir)
        # Nobody has to wait for the making of a certificate that devices can do without.
        later = config.tls == "offered" and self._certificate.to_be_made()
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
        if config.login in ("optional", "required") and not shared.users:
            log.warning("Nobody can log in yet ('login: %s'): mailwire user add NAME", config.login)
        self._sweep()

    async def _prepare_tls(self, shared: Shared) -> None:
        shared.modern, shared.old = await asyncio.to_thread(self._certificate.load)

    async def _offer_tls_later(self, shared: Shared) -> None:
        try:
            await self._prepare_tls(shared)
        except Broken as error:
            self.context.log.warning("STARTTLS is not offered: %s.", error)

    def reload(self) -> None:
        self._renew_at = 0.0

    async def _renew(self, shared: Shared) -> None:
        """Take a certificate that was renewed, and look how long the one in use lasts."""
        certificate, context = self._certificate, self.context
        try:
            renewed = await asyncio.to_thread(certificate.reload)
        except Broken as error:
            self._refused = True
            context.problem(f"the new certificate is refused, the old one goes on: {error}")
            return
        if renewed:
            shared.modern, shared.old = renewed
            self._refused = False
        if renewed or not self._expiry_sought:
            self._expiry_sought = True
            try:
                await asyncio.to_thread(certificate.find_expiry)
            except OSError as error:
                context.log.debug("when the certificate expires could not be found out: %s", error)
            else:
                if renewed:
                    context.log.info("The certificate was renewed; it expires on %s.", certificate.expires)
        if not self._refused:
            context.problem(certificate.warning())

    async def stop(self) -> None:
        """Listening ends at once, so that a successor can have the port; a mail under way gets `GRACE` seconds."""
        for server in self._servers:
            server.close()
        for task in (self._making, self._renewing):
            if task is not None:
                task.cancel()
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
        await asyncio.to_thread(shared.users.close)

    async def _emptied(self, shared: Shared, seconds: float) -> bool:
        if shared.connections:
            try:
                async with asyncio.timeout(seconds):
                    await shared.empty.wait()
            except TimeoutError:
                return False
        return True

    def health(self) -> dict[str, Any]:
        """`bans`: who is kept out, and until when; `certificate_expires`: of one that a person has named."""
        shared = self._shared
        if shared is None:
            return {}
        facts: dict[str, Any] = {
            "bans": [
                {"peer": ban.peer, "until": _iso(ban.until), "failures": ban.failures} for ban in shared.bans.listed()
            ]
        }
        if self._certificate.expires:
            facts["certificate_expires"] = self._certificate.expires.isoformat()
        return facts

    @classmethod
    def examine(cls, name: str, config: Config, data_dir: Path) -> Iterator[Finding]:
        for ban in bans.active(data_dir / bans.FOLDER):
            text = f"{name}: {ban.peer} is kept out until {_iso(ban.until)}: {ban.failures} of its logins failed"
            yield Finding("ban", "warn", text, f"Right its password; to let it in now: mailwire bans lift {ban.peer}")
        if config.login in ("optional", "required"):
            yield _users(name, config, data_dir / users.FILE)
        certificate = config.certificate or files(data_dir, "ec")[0]
        if config.tls != "none" and (config.certificate or exists(data_dir, "ec")):
            yield _expiry(name, certificate)

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
        for peer in shared.bans.look():
            self.context.log.info("%s is let in again: its ban was lifted.", peer)
        if self._shall_renew(now):
            self._renew_at = now + RENEWAL
            self._renewing = asyncio.create_task(self._renew(shared))

    def _shall_renew(self, now: float) -> bool:
        if self.config.certificate is None or self.config.tls == "none" or now < self._renew_at:
            return False
        return self._renewing is None or self._renewing.done()


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _users(name: str, config: Config, path: Path) -> Finding:
    try:
        count = len(config.users.keys() | users.read(path).keys())
    except (OSError, ValueError) as error:
        what = error.strerror if isinstance(error, OSError) else error
        return Finding("users", "fail", f"{name}: {path} can't be used: {what}", "Remove it, and add its users again.")
    if not count:
        return Finding("users", "warn", f"{name}: nobody can log in yet", "Add somebody: mailwire user add NAME")
    return Finding("users", "ok", f"{name}: {count} can log in")


def _expiry(name: str, certificate: Path) -> Finding:
    try:
        end = expires(certificate)
    except OSError as error:
        return Finding("certificate", "fail", f"{name}: {certificate} can't be used: {error}")
    warning = expiry_warning(f"{name}: {certificate}", end)
    if warning is None:
        return Finding("certificate", "ok", f"{name}: {certificate} expires on {end:%Y-%m-%d}")
    return Finding("certificate", "warn" if end > datetime.now(UTC) else "fail", warning)
