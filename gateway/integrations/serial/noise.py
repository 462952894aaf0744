"""What comes over a line and is no message: boot loaders, prompts, tracebacks. A bounded part of it goes to the log.

The first lines of a burst are what a person wants to see; what is left out is counted.
"""

from __future__ import annotations

import logging
import time

_LINES = 20  # in a burst
_BURST = 10.0  # seconds
_LONGEST = 200  # characters of a line


class Noise:
    """See the text at the top."""

    def __init__(self, log: logging.Logger, where: str) -> None:
        self.lines = 0
        self._log = log
        self._where = where
        self._began = -_BURST
        self._shown = 0
        self._left_out = 0

    def heard(self, text: str) -> None:
        """A line, or a piece of a long one."""
        self.lines += 1
        now = time.monotonic()
        if now - self._began >= _BURST:
            self.end()
            self._began, self._shown = now, 0
        if self._shown == _LINES:
            self._left_out += 1
            return
        self._shown += 1
        more = f" and {len(text) - _LONGEST} characters more" if len(text) > _LONGEST else ""
        self._log.info("%s says: %s%s", self._where, ascii(text[:_LONGEST])[1:-1], more)

    def end(self) -> None:
        """Say how much was left out."""
        if self._left_out:
            self._log.info("%s said %d lines more", self._where, self._left_out)
            self._left_out = 0
