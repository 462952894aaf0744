"""How a mail of ours is known again: by a token of its event that nobody else can make.

`<event id>.<26 letters>`, the letters being an HMAC-SHA256 under a key that this relay made for itself. It is the
mail's ENVID (RFC 3461 §4.4) and the left side of its Message-ID, so it comes back in a report of failure. Who has not
had the mail can't say that it failed.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Iterator
from pathlib import Path

from gateway.api import kept_key

_TOKEN = re.compile(rb"\b([0-9A-Za-z]{26})\.([A-Za-z2-7]{26})\b")
_MOST = 1000  # candidates looked at in one mail


class Identity:
    """See the text at the top."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self.mark = f"mailwire-{self._sign('mark')[:16]}"
        """In the X-Loop field of all that goes out here."""

    @classmethod
    def kept_in(cls, folder: Path) -> Identity:
        """With the key in this folder, made at the first start. Raises OSError."""
        return cls(kept_key(folder / "key"))

    def token(self, event_id: str) -> str:
        return f"{event_id}.{self._sign(event_id.upper())}"

    def events_in(self, content: bytes) -> Iterator[str]:
        """The events whose tokens, made by us, are in there."""
        for number, found in enumerate(_TOKEN.finditer(content)):
            if number >= _MOST:
                return
            event_id = found[1].decode("ascii").upper()
            if hmac.compare_digest(found[2].lower(), self._sign(event_id).encode("ascii")):
                yield event_id

    def _sign(self, text: str) -> str:
        digest = hmac.new(self._key, text.encode(), hashlib.sha256).digest()
        return base64.b32encode(digest)[:26].decode("ascii").lower()
