"""What was measured, as tables for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from goals import Results
from receiving import IDLE
from rows import ROWS
from servers import OURS

Column = tuple[str, str, str]
"""Its heading, the key of its figure, and how that is written (as for `format`)."""

_RECEIVING: tuple[Column, ...] = (
    ("mails/s", "rate", ",.0f"),
    ("spread", "spread", ".0%"),
    ("x sink", "to_sink", ".2f"),
    ("x storing", "to_storing", ".2f"),
    ("CPU µs", "cpu_us", ",.0f"),
    ("peak MiB", "peak_mib", ",.0f"),
)
_IDLE: tuple[Column, ...] = (
    *((f"{count:,} add MiB", f"added_{count}_mib", ",.1f") for count in IDLE),
    ("KiB each", "each_kib", ",.1f"),
    ("250 p50 ms", "answered_p50_ms", ".1f"),
    ("p99 ms", "answered_p99_ms", ".1f"),
)
_WAY: tuple[Column, ...] = (
    ("mails/s", "rate", ",.0f"),
    ("spread", "spread", ".0%"),
    ("x obvious", "ratio", ".2f"),
    ("p50 ms", "p50_ms", ",.1f"),
    ("p99 ms", "p99_ms", ",.1f"),
    ("CPU µs", "cpu_us", ",.0f"),
    ("peak MiB", "peak_mib", ",.0f"),
)
_SLOW: tuple[Column, ...] = (
    ("250 p50 ms", "answered_p50_ms", ".1f"),
    ("subscriber", "arrived_p50_ms", ".1f"),
    ("100: mails/s", "rate", ",.0f"),
)
_GROWTH: tuple[Column, ...] = (
    ("mails/s", "rate", ",.0f"),
    ("spread", "spread", ".0%"),
    ("x first", "ratio", ".2f"),
    ("p50 ms", "p50_ms", ",.1f"),
    ("p99 ms", "p99_ms", ",.1f"),
    ("CPU µs", "cpu_us", ",.0f"),
)
_STORE: tuple[Column, ...] = (
    ("received/s", "received", ",.0f"),
    ("start s", "start_s", ".2f"),
    ("events s", "events_s", ".2f"),
    ("mails s", "mails_s", ".2f"),
    ("MiB", "memory_mib", ",.0f"),
    ("on disk", "disk_mib", ",.0f"),
)
_DROP: tuple[Column, ...] = (
    ("drop s", "drop_s", ".2f"),
    ("250 p50 ms", "answered_while_dropping_p50_ms", ",.1f"),
    ("longest", "answered_while_dropping_longest_ms", ",.1f"),
)
_WIDTH = 36


def machine(on: dict[str, Any]) -> str:
    """What the numbers were measured on, and when."""
    return f"{on['processor']}, {on['cores']} cores, Python {on['python']}, {on['time'][:10]}"


def tables(results: Results) -> Iterator[str]:
    """The lines of all tables."""
    yield from _rows("receiving", _RECEIVING, results, "receive-")
    yield from _rows("idle connections", _IDLE, results, "idle-")
    yield from _rows("dot to QoS 1 subscriber", _WAY, _with_paced(results), "way-")
    yield from _rows("slow disk", _SLOW, results, "slow-disk")
    for name in ("memory", "start"):
        if reason := results.get(name, {}).get("failed"):
            yield f"{ROWS[name][0]}: not measured: {reason}"
    yield from _growth(results)


def _rows(title: str, columns: tuple[Column, ...], results: Results, prefix: str) -> Iterator[str]:
    """A table of the rows whose names begin so, a line for each server."""
    found = {name: row for name, row in results.items() if name.startswith(prefix)}
    if not found:
        return
    yield ""
    yield _head(title, columns)
    for name, row in found.items():
        yield f" {ROWS[name][0]}"
        for server, figures in row.get("servers", {}).items():
            yield _line(f"   {server}", columns, figures)
        failed = row.get("failed", {})
        if isinstance(failed, str):
            yield f"   not measured: {failed}"
        else:
            yield from (f"   {server}: not measured: {reason}" for server, reason in failed.items())


def _with_paced(results: Results) -> Results:
    """The gateway at the goal's rate, as if it were a server more."""
    return {
        name: row | {"servers": row["servers"] | {f"{OURS}, sent {row['paced']['asked']:,}/s": row["paced"]}}
        if "paced" in row
        else row
        for name, row in results.items()
    }


def _growth(results: Results) -> Iterator[str]:
    stored = results.get("growth-store", {})
    if found := {f"{int(count):,}": figures for count, figures in stored.get("stored", {}).items()}:
        yield from _plain("mails kept: the whole way", _GROWTH, found)
        yield from _plain("mails kept: the rest", _STORE, found)
        dropping = {count: figures for count, figures in found.items() if "drop_s" in figures}
        yield from _plain("mails kept: 10,000 are dropped", _DROP, dropping)
    if found := results.get("growth-devices", {}).get("devices"):
        columns = (*_GROWTH, ("MiB", "memory_mib", ",.0f"))
        yield from _plain("devices", columns, {f"{int(count):,}": figures for count, figures in found.items()})
    if found := results.get("growth-routes", {}).get("routes"):
        yield from _plain("routes, of which the last matches", _GROWTH, found)
    for name, row in results.items():
        if name.startswith("growth-") and "failed" in row:
            yield f"growth, {ROWS[name][0]}: not measured: {row['failed']}"


def _plain(title: str, columns: tuple[Column, ...], found: Results) -> Iterator[str]:
    yield ""
    yield _head(title, columns)
    yield from (_line(f"   {name}", columns, figures) for name, figures in found.items())


def _head(title: str, columns: tuple[Column, ...]) -> str:
    return f"{title:<{_WIDTH}}" + "".join(f"{heading:>{_wide(heading)}}" for heading, _, _ in columns)


def _line(name: str, columns: tuple[Column, ...], figures: dict[str, Any]) -> str:
    cells = [
        f"{'-' if figures.get(key) is None else format(figures[key], form):>{_wide(heading)}}"
        for heading, key, form in columns
    ]
    return f"{name:<{_WIDTH}}" + "".join(cells)


def _wide(heading: str) -> int:
    return max(len(heading) + 2, 10)
