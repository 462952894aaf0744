"""What goes to a person's terminal, and what into a pipe.

Nearly all that is printed came by mail, so from anybody: a control character of theirs is never written raw, or a
subject could move the cursor, set the window's title or forge a line of a list. On a terminal lines are cut to its
width; in a pipe they are whole.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

_WIDEST = 36  # columns on a terminal of any cell but a line's last


def fail(text: str, code: int = 1) -> NoReturn:
    """End the command with words for a person."""
    print(plain(text, keep="\n"), file=sys.stderr)
    raise SystemExit(code)


def plain(text: str, keep: str = "") -> str:
    """The text with blanks for line ends and tabs, and escapes for all else that can't be seen."""
    if text.isprintable():
        return text
    return "".join(
        letter
        if letter.isprintable() or letter in keep
        else " "
        if letter.isspace()
        else letter.encode("unicode_escape").decode()
        for letter in text
    )


def json_line(value: Any, indent: int | None = None) -> str:
    """One line of JSON, or several with `indent`: letters as they are, what can't be seen as `\\u` escapes."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() or letter == "\n" else json.dumps(letter)[1:-1] for letter in text)


def width(text: str) -> int:
    """How many columns a terminal gives to it (Unicode Standard Annex #11)."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(letter) else 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        for letter in text
    )


def cut(text: str, columns: int) -> str:
    """The text, or as much of it as fits before an ellipsis."""
    if width(text) <= columns:
        return text
    used = 0
    for index, letter in enumerate(text):
        used += width(letter)
        if used >= columns:
            return text[:index] + "…"
    return text


def columns() -> int | None:
    """How wide the terminal is; None for anything else."""
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns if sys.stdout.isatty() else None
    except (OSError, ValueError):
        return None


class Table:
    """Aligned columns. `fit` looks at rows that are known; later ones may still push a column wider."""

    def __init__(self, *heads: str, least: Sequence[int] = ()) -> None:
        self._heads = heads
        self._widths = [
            max(width(head), wanted) for head, wanted in zip(heads, [*least, *[0] * len(heads)], strict=False)
        ]
        self._columns = columns()

    def fit(self, rows: Iterable[Sequence[str]]) -> None:
        for row in rows:
            for number, cell in enumerate(self._cells(row)):
                self._widths[number] = max(self._widths[number], width(cell))

    def head(self) -> str:
        return self.line(self._heads)

    def line(self, row: Sequence[str]) -> str:
        cells = self._cells(row)
        padded = [cell + " " * (wide - width(cell)) for cell, wide in zip(cells[:-1], self._widths, strict=False)]
        text = "  ".join([*padded, cells[-1]]).rstrip()
        return cut(text, self._columns) if self._columns else text

    def _cells(self, row: Sequence[str]) -> list[str]:
        cells = [plain(cell) for cell in row]
        if self._columns:
            cells[:-1] = [cut(cell, _WIDEST) for cell in cells[:-1]]
        return cells

    @classmethod
    def print(cls, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        table = cls(*heads)
        table.fit(rows)
        print(table.head())
        for row in rows:
            print(table.line(row))


def local_time(seconds: float) -> str:
    """As a person at this machine reads it."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def till(moment: float) -> str:
    """The end of a mute, which may have none."""
    return f"till {local_time(moment)}" if moment < math.inf else "till somebody ends it"


def size(count: int) -> str:
    """Bytes as people read them."""
    amount = float(count)
    for unit in ("B", "KiB", "MiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" or amount >= 10 else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} GiB"


def address(host: str, port: int) -> str:
    """As people write it."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def number(count: int, thing: str) -> str:
    """`1 mail`, `2 mails`."""
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def facts(pairs: Sequence[tuple[str, str]]) -> None:
    """What is known of one thing, a line each; never cut."""
    widest = max((width(name) for name, _ in pairs), default=0)
    for name, value in pairs:
        print(f"{plain(name)}{' ' * (widest - width(name))}  {plain(value)}".rstrip())
