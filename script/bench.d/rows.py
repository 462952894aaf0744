"""The rows by name, and which of them a quick run has."""

from __future__ import annotations

import footprint
import growth
import mails
import receiving
import ways
from measure import Row


def _words(kind: str, connections: int, *, kept: bool) -> str:
    mail = {"1k": "1 KiB of text", "8k": "8 KB of HTML", "200k": "200 KiB from a camera"}[kind]
    many = "connection" if connections == 1 else "connections"
    return f"{mail}, {connections} {many}, {'kept' if kept else 'one mail each'}"


ROWS: dict[str, tuple[str, Row]] = {
    **{
        f"receive-{kind}-{connections}-{'kept' if kept else 'each'}": (
            _words(kind, connections, kept=kept),
            receiving.receive(kind, connections, kept=kept),
        )
        for kind in mails.SIZES
        for connections in (10, 1, 100)
        for kept in (True, False)
    },
    "idle-connections": ("idle connections", receiving.idle),
    **{f"way-{kind}": (_words(kind, 10, kept=True), ways.whole_way(kind)) for kind in mails.SIZES},
    "way-lone": ("a lone mail of 1 KiB", ways.lone),
    "slow-disk": ("every fsync 30 ms slower", ways.slow_disk),
    "memory": ("memory", footprint.memory),
    "start": ("start to first 220", footprint.start_up),
    "growth-store": ("mails in the store", growth.store),
    "growth-devices": ("devices", growth.devices),
    "growth-routes": ("routes", growth.routes),
}
QUICK = (
    "receive-1k-10-kept",
    "receive-1k-10-each",
    "receive-200k-10-kept",
    "way-1k",
    "way-lone",
    "slow-disk",
    "memory",
    "start",
)
