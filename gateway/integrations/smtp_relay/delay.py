"""Since when nothing could be sent, and whether that was told: known across restarts."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path


class Delay:
    """`warn_after` seconds of it are told once, and its end as well, if it was told."""

    def __init__(self, folder: Path, warn_after: float) -> None:
        self._file = folder / "delay.json"
        self._warn_after = warn_after
        self.since: float | None = None
        self.warned = False

    def load(self) -> None:
        try:
            kept = json.loads(self._file.read_text())
            self.since, self.warned = float(kept["since"]), bool(kept["warned"])
        except (OSError, ValueError, KeyError, TypeError):
            self.since, self.warned = None, False

    def goes_on(self) -> bool:
        """Nothing could be sent. True: it is time to tell."""
        now = time.time()
        tell = self.since is not None and not self.warned and now - self.since >= self._warn_after
        if self.since is None or tell:
            self.since = now if self.since is None else self.since
            self.warned = tell
            self._save()
        return tell

    def ended(self) -> bool:
        """Something was sent. True: its end is to be told."""
        if self.since is None:
            return False
        was_told, self.since, self.warned = self.warned, None, False
        self._file.unlink(missing_ok=True)
        return was_told

    def _save(self) -> None:
        with contextlib.suppress(OSError):  # on a full disk a restart forgets it
            self._file.write_text(json.dumps({"since": self.since, "warned": self.warned}))
