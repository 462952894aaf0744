"""What was measured, as a table for people, and the goals (what the gateway must reach), each met or not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rows import GOAL_OF_THE_WAY, ROWS
from servers import OURS

Results = dict[str, dict[str, Any]]
"""What each row's function returned, by the row's name; `{"failed": reason}` for one that could not be measured."""


@dataclass(frozen=True, slots=True)
class Goal:
    """One number to reach; `path` leads to it in the results."""

    text: str
    path: str
    limit: float
    unit: str
    at_most: bool = False

    def check(self, results: Results) -> dict[str, Any]:
        """`measured` and `met` are None where the row was not measured."""
        checked: dict[str, Any] = {
            "goal": self.text,
            "limit": f"{'≤' if self.at_most else '≥'} {self.limit:,g} {self.unit}",
        }
        measured: Any = results
        for key in self.path.split("/"):
            measured = measured.get(key) if isinstance(measured, dict) else None
        if measured is None:
            return checked | {"measured": None, "met": None}
        met = measured <= self.limit if self.at_most else measured >= self.limit
        return checked | {"measured": measured, "met": met}


_KEPT, _EACH, _LARGE = (
    f"{row}/servers/{OURS}" for row in ("receive-1k-10-kept", "receive-1k-10-each", "receive-200k-10-kept")
)
GOALS = (
    Goal("receive 1 KiB, 10 connections kept, to smtp-sink", f"{_KEPT}/to_sink", 0.40, "x"),
    Goal("receive 1 KiB, 10 connections kept, to aiosmtpd storing", f"{_KEPT}/to_storing", 3, "x"),
    Goal("receive 1 KiB, 10 connections kept, to mailrise", f"{_KEPT}/to_mailrise", 20, "x"),
    Goal("receive 1 KiB, one mail a connection, to smtp-sink", f"{_EACH}/to_sink", 0.50, "x"),
    Goal("receive 1 KiB, one mail a connection, to aiosmtpd storing", f"{_EACH}/to_storing", 2.5, "x"),
    Goal("receive 200 KiB, 10 connections kept, to smtp-sink", f"{_LARGE}/to_sink", 0.70, "x"),
    Goal("receive 200 KiB, 10 connections kept, to aiosmtpd storing", f"{_LARGE}/to_storing", 5, "x"),
    Goal("the whole way, 10 connections, to the obvious build", f"way-1k/servers/{OURS}/ratio", GOAL_OF_THE_WAY, "x"),
    Goal(
        "dot to subscriber, sent at that rate, p99",
        "way-1k/paced/p99_ms",
        5,
        "ms",
        at_most=True,
    ),
    Goal("dot to subscriber, a lone mail, p99", f"way-lone/servers/{OURS}/p99_ms", 3, "ms", at_most=True),
    Goal("fsync 30 ms slower, a lone mail, dot to 250", "slow-disk/answered_p50_ms", 40, "ms", at_most=True),
    Goal("fsync 30 ms slower, a lone mail, dot to subscriber", "slow-disk/arrived_p50_ms", 40, "ms", at_most=True),
    Goal("fsync 30 ms slower, 100 connections", "slow-disk/rate", 1000, "mails/s"),
    Goal("memory, idle with SMTP and MQTT", "memory/idle_mib", 60, "MiB", at_most=True),
    Goal("memory added by five 20 MB mails at once", "memory/big_mails_mib", 16, "MiB", at_most=True),
    Goal("memory added by 1,000 idle connections", "memory/connections_mib", 5, "MiB", at_most=True),
    Goal("start to first 220", "start/median_s", 0.5, "s", at_most=True),
)


def tables(results: Results) -> Iterator[str]:
    """The lines of the tables."""
    receiving = {name: found for name, found in results.items() if name.startswith("receive-")}
    if receiving:
        yield f"{'receiving':<34}{'mails/s':>9}{'spread':>8}{'x sink':>9}{'x storing':>11}{'CPU µs':>9}{'peak MiB':>10}"
        for name, found in receiving.items():
            yield f" {ROWS[name][0]}"
            for server, figures in found.get("servers", {}).items():
                yield (
                    f"   {server:<31}{figures['rate']:>9,.0f}{figures['spread']:>7.0%} "
                    f"{_figure(figures, 'to_sink', '.2f'):>9}{_figure(figures, 'to_storing', '.2f'):>11}"
                    f"{figures['cpu_us']:>9,.0f}{figures['peak_mib']:>10.0f}"
                )
            yield from _failures(found)
    ways = {name: found for name, found in results.items() if name.startswith("way-")}
    if ways:
        yield ""
        yield f"{'dot to QoS 1 subscriber':<36}{'mails/s':>9}{'x obvious':>11}{'p50 ms':>9}{'p99 ms':>9}{'CPU µs':>9}"
        for name, found in ways.items():
            yield f" {ROWS[name][0]}"
            lines = dict(found.get("servers", {}))
            if "paced" in found:
                lines[f"{OURS}, sent {found['paced']['asked']:,}/s"] = found["paced"]
            for server, figures in lines.items():
                yield (
                    f"   {server:<33}{_figure(figures, 'rate', ',.0f'):>9}{_figure(figures, 'ratio', '.2f'):>11}"
                    f"{figures['p50_ms']:>9.1f}{figures['p99_ms']:>9.1f}{_figure(figures, 'cpu_us', ',.0f'):>9}"
                )
            yield from _failures(found)
    for name in ("slow-disk", "memory", "start"):
        if reason := results.get(name, {}).get("failed"):
            yield f"{ROWS[name][0]}: not measured: {reason}"


def goals(results: Results) -> list[dict[str, Any]]:
    """The goals of the rows that were asked for, with what was measured."""
    return [goal.check(results) for goal in GOALS if goal.path.split("/")[0] in results]


def goal_lines(checked: list[dict[str, Any]]) -> Iterator[str]:
    """A line for each goal."""
    if checked:
        yield ""
        yield f"{'goal':<58}{'must be':>16}{'is':>9}"
    for goal in checked:
        is_now = "-" if goal["measured"] is None else f"{goal['measured']:,.{0 if goal['measured'] >= 100 else 2}f}"
        word = {True: "met", False: "NOT MET", None: "not measured"}[goal["met"]]
        yield f"{goal['goal']:<58}{goal['limit']:>16}{is_now:>9}  {word}"


def _figure(figures: dict[str, Any], key: str, form: str) -> str:
    return format(figures[key], form) if key in figures else "-"


def _failures(found: dict[str, Any]) -> Iterator[str]:
    failed = found.get("failed", {})
    if isinstance(failed, str):
        yield f"   not measured: {failed}"
    else:
        for server, reason in failed.items():
            yield f"   {server}: not measured: {reason}"
