"""What the gateway must reach, each met or not by the median of what was measured."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from servers import OURS
from ways import GOAL_OF_THE_WAY

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
_SLOW = f"slow-disk/servers/{OURS}"
GOALS = (
    Goal("receive 1 KiB, 10 connections kept, to smtp-sink", f"{_KEPT}/to_sink", 0.40, "x"),
    Goal("receive 1 KiB, 10 connections kept, to aiosmtpd storing", f"{_KEPT}/to_storing", 3, "x"),
    Goal("receive 1 KiB, 10 connections kept, to mailrise", f"{_KEPT}/to_mailrise", 20, "x"),
    Goal("receive 1 KiB, one mail a connection, to smtp-sink", f"{_EACH}/to_sink", 0.50, "x"),
    Goal("receive 1 KiB, one mail a connection, to aiosmtpd storing", f"{_EACH}/to_storing", 2.5, "x"),
    Goal("receive 200 KiB, 10 connections kept, to smtp-sink", f"{_LARGE}/to_sink", 0.70, "x"),
    Goal("receive 200 KiB, 10 connections kept, to aiosmtpd storing", f"{_LARGE}/to_storing", 5, "x"),
    Goal("the whole way, 10 connections, to the obvious build", f"way-1k/servers/{OURS}/ratio", GOAL_OF_THE_WAY, "x"),
    Goal("dot to subscriber, sent at that rate, p99", "way-1k/paced/p99_ms", 5, "ms", at_most=True),
    Goal("dot to subscriber, a lone mail, p99", f"way-lone/servers/{OURS}/p99_ms", 3, "ms", at_most=True),
    Goal("fsync 30 ms slower, a lone mail, dot to 250", f"{_SLOW}/answered_p50_ms", 40, "ms", at_most=True),
    Goal("fsync 30 ms slower, a lone mail, dot to subscriber", f"{_SLOW}/arrived_p50_ms", 40, "ms", at_most=True),
    Goal("fsync 30 ms slower, 100 connections", f"{_SLOW}/rate", 1000, "mails/s"),
    Goal("memory, idle with SMTP and MQTT", "memory/idle_mib", 60, "MiB", at_most=True),
    Goal("memory added by five 20 MB mails at once", "memory/big_mails_mib", 16, "MiB", at_most=True),
    Goal("memory added by 1,000 idle connections", "memory/connections_mib", 5, "MiB", at_most=True),
    Goal("start to first 220", "start/median_s", 0.5, "s", at_most=True),
)
ELSEWHERE = (
    ("every conversation as expected", "script/test tests/wire tests/gateway/test_dialogs_live.py"),
    ("kill -9, broker away, disk full, target refusing", "script/torture"),
    ("a board: SMTP to MQTT within 64 KiB of heap", "the firmware's tests"),
)
"""What else it must reach, and who proves it."""


def check(results: Results) -> list[dict[str, Any]]:
    """The goals of the rows that were asked for, with what was measured."""
    return [goal.check(results) for goal in GOALS if goal.path.split("/")[0] in results]


def lines(checked: list[dict[str, Any]]) -> Iterator[str]:
    """A line for each goal, and where the rest is proved."""
    if not checked:
        return
    yield ""
    yield f"{'goal':<58}{'must be':>16}{'is':>9}"
    for goal in checked:
        is_now = "-" if goal["measured"] is None else f"{goal['measured']:,.{0 if goal['measured'] >= 100 else 2}f}"
        word = {True: "met", False: "NOT MET", None: "not measured"}[goal["met"]]
        yield f"{goal['goal']:<58}{goal['limit']:>16}{is_now:>9}  {word}"
    for what, where in ELSEWHERE:
        yield f"{what:<58}{'':>16}{'':>9}  see {where}"
    yield f"{sum(bool(goal['met']) for goal in checked)} of {len(checked)} goals met."
