"""The key that a board's updates are signed with: made when a board is flashed, kept in the data folder beside it.

It is the board's alone: who takes a board apart and reads its key can sign for that one only. `mailwire flash` writes
it into the board's settings as `update.key`; `mailwire update` signs with it.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from gateway.flash import FlashError

FOLDER = "boards"


def kept(data: Path, board: str) -> str | None:
    """The key of the board of this id, None if none was ever made here. Raises FlashError."""
    path = _path(data, board)
    try:
        return path.read_text(encoding="ascii").strip() or None
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise FlashError(f"{path}: the board's key can't be read: {error}") from None


def make(data: Path, board: str) -> str:
    """The key of this board, made if there is none: it stays the same when a board is flashed again."""
    if old := kept(data, board):
        return old
    key = secrets.token_hex(32)
    path = _path(data, board)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:  # noqa: PTH123  # a mode
            file.write(key + "\n")
    except OSError as error:
        raise FlashError(f"{path}: the board's key can't be kept: {error.strerror}") from None
    return key


def _path(data: Path, board: str) -> Path:
    return data / FOLDER / f"{board}.key"
