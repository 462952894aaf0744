"""How a row is measured: its servers take turns within each round, so that a machine that drifts drifts for all.

What a row's function returns is plain data, ready for JSON; `report.py` reads it.
"""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from kit import Kit
from process import Failed, Server

FREE_DISK = 8 << 30
NUMBERS = 90_000  # mails in one run at most, so that each run has numbers of its own
Name = TypeVar("Name", str, int)


@dataclass(slots=True)
class Bench:
    """How to measure: the programs, a folder for the row's data, rounds, and seconds for each run of a load."""

    kit: Kit
    folder: Path
    rounds: int
    seconds: float
    quick: bool
    progress: Callable[[str], None]

    def turns(self, row: str, names: list[Name], rounds: int = 0) -> Iterator[tuple[int, Name]]:
        """Every name once a round, each round beginning with another one."""
        rounds = rounds or self.rounds
        for turn in range(rounds):
            for i in range(len(names)):
                name = names[(turn + i) % len(names)]
                self.progress(f"{row}: round {turn + 1} of {rounds}, {name}")
                yield turn, name

    def measure(self, row: Row) -> dict[str, Any]:
        """A row's result and how long it took; `{"failed": reason}` if there is none.

        Its servers are ended and its data is removed.
        """
        begun = time.monotonic()
        if shutil.disk_usage(self.folder.parent).free < FREE_DISK:
            return {"failed": f"less than {FREE_DISK >> 30} GiB are free"}
        self.folder.mkdir()
        try:
            return row(self) | {"took_s": round(time.monotonic() - begun, 1)}
        except Failed as failure:
            return {"failed": str(failure)}
        finally:
            Server.end_all()
            shutil.rmtree(self.folder)


Row = Callable[[Bench], dict[str, Any]]


@dataclass(slots=True)
class Tally:
    """What one server did, an item a round: mails per second, and CPU in µs for each mail."""

    server: Server
    count: int
    rates: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def figures(self) -> dict[str, Any]:
        """`spread`: how far the rounds lie from their middle, as a share of the median."""
        middle = statistics.median(self.rates)
        return {
            "rates": self.rates,
            "rate": middle,
            "spread": (max(self.rates) - min(self.rates)) / middle / 2,
            "cpu_us": statistics.median(self.cpu),
            "peak_mib": self.server.peak(),
        }

    def ratio(self, other: Tally) -> float:
        """The median of each round's ratio: what slows the machine for both falls out."""
        return statistics.median(a / b for a, b in zip(self.rates, other.rates, strict=True))
