"""A listener's certificate in use: loaded, taken anew when its files change, and missed before it expires.

The law: what works is never given up for what doesn't. New files become a new context as a whole, and only then does
it take the place of the old one; `load_cert_chain` on a context in use would leave it with a certificate and no key if
the two don't match, which is what a look between the renewal of the one and of the other finds. Connections that are
open keep the context that they began with.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from gateway.api import Broken

from .certificate import exists, expires, self_signed
from .config import Config
from .tls import Chain, context

SOON = timedelta(days=14)
"""Before a certificate expires: time for a person to find out why it was not renewed."""

Contexts = tuple[ssl.SSLContext, ssl.SSLContext | None]
"""For everybody, and for the peers of 'old_tls'."""


class Certificate:
    """Of one listener. The methods read files and may make keys: they are called on a thread, one at a time."""

    def __init__(self, config: Config, folder: Path) -> None:
        self._config, self._folder = config, folder
        self._seen: list[tuple[int, ...]] = []
        self.expires: datetime | None = None
        """In UTC. None: not known, or our own, which outlives the machine."""

    def to_be_made(self) -> bool:
        return self._config.certificate is None and not exists(self._folder, "ec")

    def load(self) -> Contexts:
        """Raises Broken."""
        self._seen = self._state()
        config = self._config
        if config.certificate:
            chains: Sequence[Chain] = [(config.certificate, config.key)]
            older = chains
        else:
            names = [config.hostname, socket.gethostname(), "localhost", "127.0.0.1", "::1"]
            try:
                chains = [self_signed(self._folder, names)]
                older = [*chains, self_signed(self._folder, names, "rsa")] if config.old_tls else chains
            except OSError as error:
                raise Broken(f"a certificate can't be made in {self._folder}: {error}") from error
        return _context(chains), _context(older, old=True) if config.old_tls else None

    def reload(self) -> Contexts | None:
        """As `load`, if files that a person has named have changed since the last look; else None."""
        return self.load() if self._config.certificate and self._state() != self._seen else None

    def find_expiry(self) -> None:
        """Raises OSError, and then it is not known."""
        self.expires = None
        if self._config.certificate:
            self.expires = expires(self._config.certificate)

    def warning(self) -> str | None:
        """What a person should know about its end, if it is near."""
        if self.expires is None:
            return None
        return expiry_warning(f"{self._config.certificate}", self.expires)

    def _state(self) -> list[tuple[int, ...]]:
        """What changes when a file does, also behind a link that is set to another one."""
        found: list[tuple[int, ...]] = []
        for path in (self._config.certificate, self._config.key):
            try:
                facts = path.stat() if path else None
            except OSError:
                facts = None
            found.append((facts.st_ino, facts.st_mtime_ns, facts.st_size) if facts else ())
        return found


def expiry_warning(what: str, expires: datetime) -> str | None:
    """None while there is time. Changes once a day."""
    left = expires - datetime.now(UTC)
    if left > SOON:
        return None
    when = f"{expires:%Y-%m-%d %H:%M} UTC"
    if left <= timedelta(0):
        return f"{what} has expired on {when}: renew it; it is taken within a minute"
    days = "within a day" if left < timedelta(days=1) else f"in {left.days} day{'s' if left.days > 1 else ''}"
    return f"{what} expires {days}, on {when}: renew it; it is taken within a minute"


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
