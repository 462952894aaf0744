"""A secret key of this installation, made once and kept in a file that its owner alone may read."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def kept_key(path: Path) -> bytes:
    """32 bytes, always the same: from the file, or made, and written whole or not at all. Raises OSError."""
    try:
        return bytes.fromhex(path.read_text("ascii"))
    except (FileNotFoundError, ValueError):
        key = secrets.token_bytes(32)
    draft = path.with_name(f"{path.name}.new")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(key.hex())
        file.flush()
        os.fsync(file.fileno())
    draft.rename(path)
    return key
