"""A mail that is kept in a file of its own, mapped into memory; by the gateway, and by the process that interprets."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any


class Spooled(mmap.mmap):
    """See above. Pages that were searched or read are given back, or a reader would hold the whole mail.

    They stay in the system's page cache, so looking at them again costs little. All are given back each time: one
    that is touched may bring a megabyte around it with it, also what was given back before (Linux's large folios).
    """

    _WINDOW = 1024 * 1024

    def find(self, sub: Any, start: int = 0, stop: int | None = None) -> int:
        """As `bytes.find`, for positions that are not negative."""
        stop = len(self) if stop is None else min(stop, len(self))
        while start < stop:
            edge = min(start + self._WINDOW, stop)
            found = super().find(sub, start, min(edge + len(sub) - 1, stop))
            if found >= 0:
                return found
            self._give_back()
            start = edge
        return -1

    def __getitem__(self, key: Any) -> Any:
        value = super().__getitem__(key)
        if isinstance(key, slice) and len(value) >= mmap.PAGESIZE:
            self._give_back()
        return value

    def _give_back(self) -> None:
        if hasattr(mmap, "MADV_DONTNEED"):
            self.madvise(mmap.MADV_DONTNEED)


def spooled(path: Path) -> Spooled:
    """Raises OSError, FileNotFoundError among them."""
    with path.open("rb") as file:
        return Spooled(file.fileno(), 0, access=mmap.ACCESS_READ)
