"""Since when nothing could be sent, and whether people were warned of it: known across restarts."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path


class Delay:
    """Of `warn_after` seconds it is warned once."""

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
        """Nothing could be sent. True: it is time to warn."""
        now = time.time()
        tell = self.since is not None and not self.warned and now - self.since >= self._warn_after
        if self.since is None or tell:
            self.since = now if self.since is None else self.since
            self.warned = tell
            self._save()
        return tell

    def ended(self) -> None:
        """Something was sent."""
        if self.since is not None:
            self.since, self.warned = None, False
            self._file.unlink(missing_ok=True)

    def _save(self) -> None:
        with contextlib.suppress(OSError):  # on a full disk a restart forgets it
            self._file.write_text(json.dumps({"since": self.since, "warned": self.warned}))
