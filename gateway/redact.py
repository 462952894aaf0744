"""Takes secrets out of texts that are about to be shown: log lines with their tracebacks, and errors that others read.

The last line of defence: what is ours never writes a secret in the first place, but a library's exception may.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

SHORTEST = 6
"""Characters. A shorter secret is in many a word, and to take it out would garble the text and tell where it was."""


class Redactor:
    """`hide(text)`. Quick where nothing is to be hidden, for it sees each line of the log."""

    def __init__(self, secrets: Iterable[str]) -> None:
        spellings = {
            spelt
            for secret in secrets
            if len(secret) >= SHORTEST
            for spelt in (secret, repr(secret)[1:-1], json.dumps(secret)[1:-1])
        }
        self._spellings = sorted(spellings, key=len, reverse=True)  # one may be a part of another
        self._pattern = re.compile("|".join(map(re.escape, self._spellings)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Redactor) and self._spellings == other._spellings

    def hide(self, text: str) -> str:
        for spelt in self._spellings:
            if spelt in text:
                return self._pattern.sub("***", text)
        return text
