"""MicroPython for a board: a file that a person has, or one from micropython.org, kept and checked.

What this release was tested with has its checksum in board.json. The project publishes no checksums of its own, so for
any other the checksum of the first download (over HTTPS) is kept beside the file, and what is used later must match it.
"""

from __future__ import annotations

import hashlib
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from gateway.flash import FlashError
from gateway.flash.boards import Board
from gateway.problem import nearest

SITE = "https://micropython.org/resources/firmware"
DEFAULT = "1.25.0"  # what every test of the firmware runs on
DATES = {
    "1.24.0": "20241025",
    "1.24.1": "20241129",
    "1.25.0": "20250415",
    "1.26.0": "20250809",
    "1.26.1": "20250911",
    "1.27.0": "20251209",
    "1.28.0": "20260406",
    "1.29.0": "20260824",
}
_PIECE = 1 << 16
_PATIENCE = 30.0  # seconds without a byte


class Source(NamedTuple):
    """Where MicroPython for a board comes from, where it is kept, and its checksum if that is known."""

    url: str
    kept: Path
    sha256: str | None


def source(board: Board, version: str, cache: Path, site: str = SITE) -> Source:
    """Raises FlashError for a version that there is not, or a board that has none."""
    firmware = board.mailwire.firmware
    if firmware is None:
        raise FlashError(f"{board.name}: no MicroPython is known for it. Name a file with --firmware.")
    if version not in DATES:
        hint = nearest(version, DATES, "The versions are")
        raise FlashError(f"There is no MicroPython {version} that this knows. {hint}{'' if hint[-1:] == '?' else '.'}")
    name = firmware.file.format(date=DATES[version], version=version)
    return Source(f"{site.rstrip('/')}/{name}", cache / name, firmware.sha256.get(version))


def is_kept(source: Source) -> bool:
    """Is it in the cache, as it should be?"""
    try:
        content = source.kept.read_bytes()
        known = source.sha256 or _note(source).read_text(encoding="ascii").partition(" ")[0]
    except OSError:
        return False
    return hashlib.sha256(content).hexdigest() == known


def get(source: Source, progress: Callable[[int, int], None]) -> bytes:
    """From the cache, or downloaded into it. `progress` is given bytes so far and in all (0: unknown).

    Raises FlashError; then nothing was kept.
    """
    if not is_kept(source):
        content = _download(source.url, progress)
        found = hashlib.sha256(content).hexdigest()
        if source.sha256 and found != source.sha256:
            raise FlashError(
                f"{source.url}: what came is not what it should be: its SHA-256 is {found}, and should be "
                f"{source.sha256}. Nothing was kept. Try again, or name a file that you trust with --firmware."
            )
        try:
            source.kept.parent.mkdir(parents=True, exist_ok=True)
            beside = source.kept.with_suffix(".part")
            beside.write_bytes(content)
            _note(source).write_text(f"{found}  {source.kept.name}\n", encoding="ascii")  # as sha256sum writes it
            beside.replace(source.kept)
        except OSError as error:
            raise FlashError(f"{error.filename}: can't be written: {error.strerror}.") from None
    return source.kept.read_bytes()


def _note(source: Source) -> Path:
    return source.kept.with_name(source.kept.name + ".sha256")


def _download(url: str, progress: Callable[[int, int], None]) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=_PATIENCE) as answer:  # noqa: S310  # micropython.org, or as asked for
            total = int(answer.headers.get("Content-Length") or 0)
            content = bytearray()
            while piece := answer.read(_PIECE):
                content += piece
                progress(len(content), total)
    except (urllib.error.URLError, OSError, ValueError) as error:
        why = getattr(error, "reason", None) or error
        raise FlashError(
            f"{url}: can't be downloaded: {why}. On a machine with a network, download it and give it here with "
            "--firmware FILE."
        ) from None
    if total and len(content) < total:
        raise FlashError(f"{url}: only {len(content)} of {total} bytes came. Try again.")
    return bytes(content)
