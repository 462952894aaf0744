"""When all places are taken: whose connection can best be done without.

Whoever only sits there must not keep out a device that has something to say. So a newcomer is given the place of the
one that has been there longest without a mail: that loses nothing, for it finds out with its next command and may come
again. Where there is none such it is the place of the slowest mail, if that is slower than any honest one. As long as
places are free nobody is hurried by this. To find somebody means to look at each connection, so it is done once a
second at most, for all the newcomers of that second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

SILENT = 5.0
"""Seconds without a whole command after which a place is spare: no device thinks so long."""
NO_MAIL = 60.0
"""Seconds without a mail after which it is spare, however busy the peer is otherwise."""
SLOW = 1024.0
"""Bytes a second that a mail must reach on average ..."""
SLOW_AFTER = 30.0
"""... once it has come for so many seconds: a serial line at 9600 baud is no slower, and done by then."""
LOOK_ROUND = 1.0


class Guest(Protocol):
    """A connection, as it is seen from here."""

    def spare(self, now: float) -> tuple[bool, float] | None:
        """(a mail is under way, a number): what is least needed sorts first. None: it is no spare place."""

    def make_room(self) -> None:
        """End it at once."""


class Crowd:
    """The choice among the connections of one server."""

    def __init__(self, guests: Iterable[Guest], clock: Callable[[], float]) -> None:
        self._guests, self._clock = guests, clock
        self._spare: list[Guest] = []  # the one that is least needed stands last
        self._looked = float("-inf")

    def make_room(self) -> bool:
        """End one connection; False if all are in use."""
        now = self._clock()
        if not self._spare and now - self._looked >= LOOK_ROUND:
            self._looked = now
            found = [(spare, guest) for guest in self._guests if (spare := guest.spare(now)) is not None]
            found.sort(key=lambda one: one[0], reverse=True)
            self._spare = [guest for _, guest in found]
        while self._spare:
            guest = self._spare.pop()
            if guest.spare(now) is not None:  # much can happen in a second
                guest.make_room()
                return True
        return False
