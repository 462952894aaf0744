"""Text in the letters that firmware and ids have: those of ASCII, where there is one for it."""

from __future__ import annotations

import re
import unicodedata
from functools import cache

_ACCENTED = re.compile("[\xc0-\u024f\u0300-\u036f\u1e00-\u1eff]")  # with an accent, or one that stands by itself
_SPELLED = {"ä": "ae", "ö": "oe", "ü": "ue", "ß": "ss", "æ": "ae", "œ": "oe", "ø": "o", "ł": "l", "đ": "d"}


def unaccented(text: str) -> str:
    """Lower case in the letters of ASCII, as firmware writes it that has no others: `detecte` for `détecté`, `stoerung`
    for `störung`; and what is written in full or half width, as in Japan, in its common form.
    """
    return text if text.isascii() else _ACCENTED.sub(_plain, unicodedata.normalize("NFKC", text))


def _plain(found: re.Match[str]) -> str:
    return _plain_letter(found[0])


@cache
def _plain_letter(letter: str) -> str:
    if "\u0300" <= letter <= "\u036f":
        return ""
    plain = _SPELLED.get(letter) or unicodedata.normalize("NFD", letter)[0]
    return plain if plain.isascii() else letter
