"""Notices when somebody sets the wall clock: a Raspberry Pi has none that runs on, and wakes in the past until NTP
answers.

How long something may wait is kept in the store as the wall time of its end. When the clock is set, those ends move
along: what is minutes old does not expire because the right time came late.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

_STEP = 60.0  # seconds; less is what keeping a clock right takes


class Clock:
    """`moved(seconds)` is told by how much the clock was set; negative: back."""

    def __init__(self, moved: Callable[[float], None]) -> None:
        self._moved = moved
        self._apart = _apart()

    def look(self) -> None:
        """Now and then, and before something is called too late."""
        apart = _apart()
        seconds, self._apart = apart - self._apart, apart
        if abs(seconds) >= _STEP:
            self._moved(seconds)


def _apart() -> float:
    """Wall time less that of a clock that nobody sets. Linux has one that goes on while the machine sleeps."""
    return time.time() - (time.clock_gettime(time.CLOCK_BOOTTIME) if sys.platform == "linux" else time.monotonic())
