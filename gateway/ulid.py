"""ULIDs: 26 characters, 48 bits of milliseconds and 80 of chance, that sort by the time they were made.

A mail's ULID is also its event's id, so an event that is interpreted again after a crash keeps its name. Ids of one
process never go back, even when the clock does (https://github.com/ulid/spec, "Monotonicity").
"""

from __future__ import annotations

import random
import time

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = [a + b for a in _ALPHABET for b in _ALPHABET]
_SHIFTS = range(120, -1, -10)  # thirteen pairs of letters, ten bits each


def time_of(ulid: str) -> float:
    """When it was made, in Unix seconds: the 48 bits of its first ten letters."""
    milliseconds = 0
    for letter in ulid[:10]:
        milliseconds = milliseconds << 5 | _ALPHABET.index(letter)
    return milliseconds / 1000


class UlidMaker:
    """Makes rising ids; one per process."""

    def __init__(self) -> None:
        self._last = 0

    def new(self) -> str:
        value = (time.time_ns() // 1_000_000) << 80 | random.getrandbits(80)  # a name, not a secret
        if value <= self._last or value >> 80 == self._last >> 80:
            value = self._last + 1
        self._last = value
        return "".join([_PAIRS[value >> shift & 1023] for shift in _SHIFTS])
