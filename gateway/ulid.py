"""ULIDs: 26 characters, 48 bits of milliseconds and 80 of chance, that sort by the time they were made.

A mail's ULID is also its event's id, so an event that is interpreted again after a crash keeps its name. Ids of one
process never go back, even when the clock does (https://github.com/ulid/spec, "Monotonicity").
"""

from __future__ import annotations

import random
import time

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = [a + b for a in _ALPHABET for b in _ALPHABET]
_SHIFTS = (70, 60, 50, 40, 30, 20, 10, 0)  # of the eight pairs that are chance, ten bits each


def time_of(ulid: str) -> float:
    """When it was made, in Unix seconds: the 48 bits of its first ten letters."""
    milliseconds = 0
    for letter in ulid[:10]:
        milliseconds = milliseconds << 5 | _ALPHABET.index(letter)
    return milliseconds / 1000


class UlidMaker:
    """Makes rising ids; one per process."""

    def __init__(self) -> None:
        self._milliseconds = 0
        self._time = ""  # the ten letters for it
        self._chance = 0

    def new(self) -> str:
        milliseconds = time.time_ns() // 1_000_000
        if milliseconds > self._milliseconds:
            self._milliseconds = milliseconds
            self._time = "".join([_ALPHABET[milliseconds >> shift & 31] for shift in range(45, -1, -5)])
            self._chance = random.getrandbits(79)  # a name, no secret; room for all of this millisecond
        else:
            self._chance += 1
        chance = self._chance
        return self._time + "".join([_PAIRS[chance >> shift & 1023] for shift in _SHIFTS])
