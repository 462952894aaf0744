"""What is offered to a board over the air: files, their manifest, the signature over it (gateway/wire/update.py)."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import Mapping
from typing import Any

from gateway.wire import update as wire


class Bundle:
    """The files of one version for one board, with the offer of them. `key`: as in the board's settings."""

    def __init__(self, board: str, version: str, files: Mapping[str, bytes], key: str, made: int | None = None) -> None:
        self._files = dict(files)
        self._files[wire.MANIFEST] = manifest = _manifest(files)
        self.version = version
        self.made = int(time.time()) if made is None else made
        self._offer: dict[str, Any] = {
            "made": self.made,
            "version": version,
            "files": len(files),
            "size": sum(map(len, files.values())),
            "manifest": {"size": len(manifest), "sha256": hashlib.sha256(manifest).hexdigest()},
        }
        self._offer["hmac"] = hmac.new(key.encode(), wire.signed_text(board, self._offer), "sha256").hexdigest()

    @property
    def offer(self) -> bytes:
        """The payload of `<base>/<board>/update`."""
        return json.dumps(self._offer, separators=(",", ":")).encode()

    def answer(self, request: bytes) -> bytes | None:
        """The payload of `.../update/data` for that of `.../update/request`; None: it asks for nothing of this."""
        try:
            asked = json.loads(request)
            content, at = self._files[asked["file"]], asked["at"]
            if asked["offer"] != self.made or not isinstance(at, int) or not 0 <= at < len(content):
                return None
        except (ValueError, KeyError, TypeError):
            return None
        return request + b"\n" + content[at : at + wire.CHUNK]


def _manifest(files: Mapping[str, bytes]) -> bytes:
    lines = [f"{hashlib.sha256(files[path]).hexdigest()} {len(files[path])} {path}\n" for path in sorted(files)]
    return "".join(lines).encode()
