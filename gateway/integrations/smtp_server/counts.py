"""What one server counts, for people's monitoring.

Labels are our own words and reply codes, never what a peer said.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Literal

from gateway.api import Metric

_REFUSALS = (b"4", b"5")
_FOUR = ord("4")


class Counts:
    """Counted by the connections as they go."""

    def __init__(self) -> None:
        self.connections = 0
        self.turned_away: Counter[str] = Counter(not_allowed=0, full=0)  # why -> connections
        self.refusals: Counter[str] = Counter()  # code -> replies
        self.tls_failures = 0
        self.login_failures = 0
        self.broken_off = 0

    def replies(self, replies: bytes) -> None:
        """Replies on their way out: whole lines, one at least. Nearly all say yes, and are looked at no further."""
        if replies[0] >= _FOUR or b"\r\n5" in replies or b"\r\n4" in replies:
            for line in replies.split(b"\r\n"):
                if line.startswith(_REFUSALS) and line[3:4] == b" ":
                    self.refusals[line[:3].decode()] += 1

    def metrics(self, connections_open: int) -> Iterator[Metric]:
        yield _one("mailwire_smtp_connections_total", "Connections taken.", self.connections)
        yield _one("mailwire_smtp_connections_open", "Connections open now.", connections_open)
        yield Metric(
            "mailwire_smtp_connections_refused_total",
            "counter",
            "Connections turned away before a session began.",
            [({"reason": reason}, count) for reason, count in self.turned_away.items()],
        )
        yield Metric(
            "mailwire_smtp_refusals_total",
            "counter",
            "Replies that said not now (4xx) or no (5xx).",
            [({"code": code}, count) for code, count in self.refusals.items()],
        )
        yield _one("mailwire_smtp_tls_failures_total", "TLS handshakes that failed.", self.tls_failures)
        yield _one("mailwire_smtp_login_failures_total", "Logins refused.", self.login_failures)
        yield _one("mailwire_smtp_mails_broken_off_total", "Mails whose end never came.", self.broken_off)


def _one(name: str, text: str, value: int) -> Metric:
    kind: Literal["counter", "gauge"] = "counter" if name.endswith("_total") else "gauge"
    return Metric(name, kind, text, [({}, value)])
