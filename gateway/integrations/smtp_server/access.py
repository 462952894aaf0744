"""Who may connect, for whom mail is taken, and what is remembered of each peer (bans: see `gateway.bans`).

Everything remembered is bounded in number and forgotten after a time, so that a flood of peers can't fill the memory.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Hashable, Iterable
from fnmatch import translate
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import NamedTuple

Network = IPv4Network | IPv6Network

PRIVATE: tuple[Network, ...] = tuple(
    ip_network(text)
    for text in (
        "127.0.0.0/8",
        "::1/128",
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "169.254.0.0/16",
        "fe80::/10",
        "fc00::/7",
    )
)
"""Loopback, private (RFC 1918), link-local, IPv6 unique local (RFC 4193)."""


def networks(texts: Iterable[str]) -> list[Network]:
    """Networks, addresses and the word `private` -> networks; raises ValueError with what is wrong."""
    found: list[Network] = []
    for text in texts:
        if text == "private":
            found += PRIVATE
            continue
        try:
            found.append(ip_network(text, strict=False))
        except ValueError:
            raise ValueError(
                f"'{text}' is not a network: write '192.168.1.0/24', one address, or the word 'private'"
            ) from None
    return found


def public(texts: Iterable[str]) -> list[Network]:
    """Those of the networks that reach beyond private ones."""
    return [found for found in networks(texts) if not any(_within(found, private) for private in PRIVATE)]


def _within(inner: Network, outer: Network) -> bool:
    if isinstance(inner, IPv4Network):
        return isinstance(outer, IPv4Network) and inner.subnet_of(outer)
    return isinstance(outer, IPv6Network) and inner.subnet_of(outer)


class Rights(NamedTuple):
    """What holds for one peer."""

    allowed: bool
    counted: bool
    """Whether the limit of connections per peer holds: not for programs on this machine."""
    old_tls: bool
    bare_lf: bool
    banned: bool = True
    """Whether failed logins can keep it out: never programs on this machine, and nobody under 'bans.never'."""


class Access:
    """The rights of peers by their address. Remembered, because matching networks costs more than a small mail."""

    def __init__(
        self, allow: Iterable[str], old_tls: Iterable[str], bare_lf: Iterable[str], never: Iterable[str] = ()
    ) -> None:
        self._allow, self._old_tls, self._bare_lf = networks(allow), networks(old_tls), networks(bare_lf)
        self._never = networks(never)
        self._known: dict[str, Rights] = {}

    def rights(self, peer: str) -> Rights:
        known = self._known.get(peer)
        if known is None:
            if len(self._known) >= 4096:
                self._known.clear()
            known = self._known[peer] = self._judge(peer)
        return known

    def _judge(self, peer: str) -> Rights:
        address = ip_address(peer)
        if isinstance(address, IPv6Address) and address.ipv4_mapped:
            address = address.ipv4_mapped
        return Rights(
            allowed=any(address in network for network in self._allow),
            counted=not address.is_loopback,
            old_tls=any(address in network for network in self._old_tls),
            bare_lf=any(address in network for network in self._bare_lf),
            banned=not address.is_loopback and not any(address in network for network in self._never),
        )


def matcher(patterns: Collection[str]) -> Callable[[str], bool] | None:
    """Whether a recipient is one of ours; None if all are."""
    if "*" in patterns:
        return None
    matches = re.compile("|".join(translate(pattern) for pattern in patterns), re.IGNORECASE).match
    return lambda recipient: matches(recipient) is not None


class Memory:
    """How often each thing has happened since it was first noted; forgotten `seconds` after that, or to make room."""

    def __init__(self, seconds: float, limit: int = 4096, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._limit, self._clock = seconds, limit, clock
        self._noted: dict[Hashable, tuple[float, int]] = {}  # in order of the first time

    def note(self, what: Hashable) -> int:
        """Note it once more; how often it is now, 1 for the first time."""
        now = self._clock()
        first, count = self._noted.get(what, (now, 0))
        if now - first >= self._seconds:
            del self._noted[what]
            first, count = now, 0
        elif not count and len(self._noted) >= self._limit:
            del self._noted[next(iter(self._noted))]
        self._noted[what] = (first, count + 1)
        return count + 1

    def count(self, what: Hashable) -> int:
        first, count = self._noted.get(what, (0.0, 0))
        return count if count and self._clock() - first < self._seconds else 0

    def forget(self, what: Hashable) -> None:
        self._noted.pop(what, None)


HOUR = 3600.0
DAY = 24 * HOUR


class Peers:
    """Counters of one server."""

    def __init__(self, limit: int, limit_per_peer: int, ban_within: float = 10 * 60) -> None:
        self._limit, self._limit_per_peer = limit, limit_per_peer
        self._connections: dict[str, int] = {}
        self._total = 0
        self.said_today = Memory(DAY)
        """Log lines about one peer that nobody wants to read twice a day."""
        self.said_this_hour = Memory(HOUR)
        """And those that a person who is about to mend it wants to see again."""
        self.failed_logins = Memory(10 * 60)
        """Since the last one that was right: each makes the answer to the next one slower."""
        self.failed_in_all = Memory(ban_within)
        """And those that a right one in between does not excuse: enough of them keep the peer out."""
        self.failed_tls = Memory(HOUR)
        self.worked_tls = Memory(DAY)

    def enter(self, peer: str, counted: bool, make_room: Callable[[], bool] = lambda: False) -> str | None:
        """One more connection; or why there can't be one more, and then it is not counted.

        `make_room` may end another connection (`leave`), and says whether it did.
        """
        mine = self._connections.get(peer, 0)
        if counted and mine >= self._limit_per_peer:
            return f"{mine} connections from it are open already ('max_connections_per_peer')"
        if self._total >= self._limit and not make_room():
            return f"all {self._limit} connections are taken ('max_connections')"
        self._total += 1
        self._connections[peer] = self._connections.get(peer, 0) + 1
        return None

    def manages_tls(self, peer: str) -> bool:
        """Whether TLS is worth offering. One address may hide many devices: what works for one is not taken away."""
        return not self.failed_tls.count(peer) or self.worked_tls.count(peer) > 0

    def leave(self, peer: str) -> None:
        self._total -= 1
        left = self._connections[peer] - 1
        if left:
            self._connections[peer] = left
        else:
            del self._connections[peer]
