"""Peers that are kept out for a time because too many of their logins failed.

A ban is a small file in a folder, named by the peer's address: it survives a restart, a person may read it, and to
remove it is to lift the ban. A peer that earns another within a day of its last one is kept out twice as long.
Time is measured on a clock that nobody sets; the file's times are Unix seconds, for people.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

FOLDER = "bans"
"""In the folder of the integration that keeps peers out."""

_LIMIT = 1024  # peers remembered
_AFTERWARDS = 24 * 3600.0  # seconds after its end that a ban still counts against a peer


class Ban(NamedTuple):
    """`until` is in Unix seconds; `failures` logins brought it about; `times` such bans came one upon the other."""

    peer: str
    until: float
    failures: int
    times: int


def read(folder: Path) -> list[Ban]:
    """All that are on record, those that have ended too. A file that is none of ours or damaged is passed over."""
    found = []
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                facts = json.loads(path.read_bytes())
                found.append(Ban(path.name, float(facts["until"]), int(facts["failures"]), int(facts["times"])))
    return sorted(found, key=lambda ban: ban.until)


def active(folder: Path) -> list[Ban]:
    """Those that hold now."""
    return [ban for ban in read(folder) if ban.until > time.time()]


def lift(folder: Path, peer: str) -> bool:
    """Let a peer in again; a gateway that runs notices within a second. False: it was not kept out."""
    known = any(ban.peer == peer for ban in active(folder))
    if known:
        (folder / peer).unlink(missing_ok=True)
    return known


class _Record(NamedTuple):
    """`end` is by our own clock. One that could not be written (a full disk) can't be lifted by removing it."""

    end: float
    written: bool
    ban: Ban


class Bans:
    """The bans of one listener. `first` and `longest` are in seconds."""

    def __init__(self, folder: Path, first: float, longest: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder, self._first, self._longest, self._clock = folder, first, longest, clock
        self._records: dict[str, _Record] = {}
        for ban in read(folder):
            # A clock that was wrong then, or is now, makes no ban longer than it was.
            end = clock() + min(ban.until - time.time(), self._length(ban.times))
            self._records[ban.peer] = _Record(end, True, ban)
        self.look()

    def _length(self, times: int) -> float:
        return min(self._first * 2.0 ** min(times - 1, 32), self._longest)

    def left(self, peer: str) -> float:
        """Seconds that a peer is still kept out; 0: it is not."""
        if not self._records:  # as good as always
            return 0.0
        known = self._records.get(peer)
        return max(0.0, known.end - self._clock()) if known else 0.0

    def impose(self, peer: str, failures: int) -> float:
        """Keep a peer out; for how many seconds."""
        before = self._records.pop(peer, None)
        times = before.ban.times + 1 if before else 1
        seconds = self._length(times)
        if len(self._records) >= _LIMIT:
            self._forget(min(self._records.values(), key=lambda one: one.end).ban.peer)
        ban = Ban(peer, round(time.time() + seconds), failures, times)
        written = True
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            facts = {"until": ban.until, "failures": failures, "times": times}
            (self._folder / peer).write_text(json.dumps(facts) + "\n")
        except OSError:
            written = False
        self._records[peer] = _Record(self._clock() + seconds, written, ban)
        return seconds

    def listed(self) -> list[Ban]:
        """Those that hold now."""
        now = self._clock()
        return [one.ban for one in self._records.values() if one.end > now]

    def look(self) -> list[str]:
        """Once a second: the peers whose bans were lifted by somebody. What is long over is forgotten."""
        now = self._clock()
        for one in [one for one in self._records.values() if now - one.end > _AFTERWARDS]:
            self._forget(one.ban.peer)
        lifted = [peer for peer, one in self._records.items() if one.written and not (self._folder / peer).exists()]
        for peer in lifted:
            del self._records[peer]
        return lifted

    def _forget(self, peer: str) -> None:
        del self._records[peer]
        with contextlib.suppress(OSError):
            (self._folder / peer).unlink()
