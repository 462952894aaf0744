"""What is on the screen, as far as this program knows, in a file: a run after a crash goes on with it.

`told` are the events that went out last: one that was on the screen when the gateway was killed, and that it still
owes, is not shown again. Pictures lie beside the file, for this user alone, until their notification is gone.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

_REMEMBERED = 1000  # events
_STILL_OWED = 60.0  # seconds after a start in which what was owed comes again
_LOOKED_AT = 3600.0  # seconds that a picture stays for the program that it was opened with
_SUFFIXES = {"image/jpeg": ".jpg", "image/png": ".png", "image/gif": ".gif", "image/webp": ".webp", "image/bmp": ".bmp"}


@dataclass
class Shown:
    """One notification. `device`: what it is about; "" if that is several. `opens`: a file's path or a URL."""

    events: list[str]
    device: str = ""
    opens: str = ""
    picture: str = ""


@dataclass
class Memory:
    """See the text at the top. `before`: the events that an earlier run has shown, and not this one."""

    folder: Path
    whose: str = ""
    numbers: dict[str, int] = field(default_factory=dict)
    shown: dict[str, Shown] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)
    before: set[str] = field(default_factory=set)
    loaded: float = field(default_factory=time.monotonic)
    _opened: dict[str, float] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: Path) -> Memory:
        """What an earlier run has left; nothing, if that can't be read."""
        try:
            kept: dict[str, Any] = json.loads((folder / "shown.json").read_text("utf-8"))
            shown = {key: Shown(**one) for key, one in kept["shown"].items()}
            memory = cls(folder, kept["whose"], kept["numbers"], shown, kept["told"], set(kept["told"]))
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            memory = cls(folder)
        memory.sweep()
        return memory

    def save(self, whose: str, numbers: dict[str, int]) -> None:
        """`Screen.numbers`."""
        self.told = self.told[-_REMEMBERED:]
        kept = {"whose": whose, "numbers": numbers, "told": self.told}
        text = json.dumps(kept | {"shown": {key: asdict(one) for key, one in self.shown.items()}})
        new = self.folder / "shown.json.new"
        new.write_text(text, "utf-8")
        new.chmod(0o600)
        new.replace(self.folder / "shown.json")

    def is_told(self, event_id: str) -> bool:
        """Has an earlier run shown what it left owed? Later, and the second time, somebody wants to see it again."""
        if event_id in self.before and time.monotonic() - self.loaded < _STILL_OWED:
            self.before.discard(event_id)
            return True
        return False

    def keep_picture(self, event_id: str, media_type: str, content: bytes) -> Path | None:
        """A file of it; None for a type that no desktop shows."""
        suffix = _SUFFIXES.get(media_type.lower())
        if suffix is None:
            return None
        path = self.folder / f"{event_id}{suffix}"
        path.touch(0o600)
        path.write_bytes(content)
        return path

    def opened(self, path: str) -> None:
        """Somebody looks at it now, after its notification is gone."""
        self._opened[path] = time.monotonic()

    def sweep(self) -> None:
        """Remove the pictures that nobody looks at any more."""
        late = time.monotonic() - _LOOKED_AT
        wanted = {one.picture for one in self.shown.values()} | {
            path for path, when in self._opened.items() if when > late
        }
        for path in self._pictures():
            if str(path) not in wanted:
                path.unlink(missing_ok=True)
                self._opened.pop(str(path), None)

    def _pictures(self) -> Iterable[Path]:
        return [path for path in self.folder.glob("*") if path.suffix in _SUFFIXES.values()]
