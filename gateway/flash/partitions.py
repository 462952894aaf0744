"""Where things are in an ESP32's flash: the image's header, and the partition table at 0x8000.

ESP-IDF, "Partition Tables" (entries of 32 bytes, magic AA 50, the end is FF or an MD5 entry EB EB) and "App Image
Format" (E9, the chip's id in bytes 12 and 13). MicroPython until 1.25 names its file system `vfs` in the table; later
ones make it of what lies between the last partition and the end of the flash (ports/esp32/main.c).
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from gateway.flash import FlashError

TABLE = 0x8000
_ENTRY = struct.Struct("<2sBBII16sI")
_DATA = 1
CHIPS = {
    0: "esp32",
    2: "esp32s2",
    5: "esp32c3",
    9: "esp32s3",
    12: "esp32c2",
    13: "esp32c6",
    16: "esp32h2",
    18: "esp32p4",
}


class Partition(NamedTuple):
    """One entry: offset and size in bytes."""

    label: str
    kind: int
    offset: int
    size: int

    @property
    def end(self) -> int:
        return self.offset + self.size


def table(data: bytes) -> list[Partition]:
    """The entries of a table; none if there is none."""
    found = []
    for at in range(0, len(data) - _ENTRY.size + 1, _ENTRY.size):
        magic, kind, _, offset, size, label, _ = _ENTRY.unpack_from(data, at)
        if magic != b"\xaaP":
            break
        found.append(Partition(label.rstrip(b"\0").decode("ascii", "replace"), kind, offset, size))
    return found


def check(firmware: bytes, chip: str, name: str) -> None:
    """Raises FlashError unless this is an image for this chip."""
    if len(firmware) < 24 or firmware[0] != 0xE9:
        raise FlashError(
            f"{name}: this is no image for an ESP32: it does not begin with the byte E9. Use the .bin file."
        )
    found = CHIPS.get(int.from_bytes(firmware[12:14], "little"), "another chip")
    if found != chip:
        raise FlashError(f"{name}: this is MicroPython for {found}, and the board has {chip}.")


def file_system(firmware: bytes, offset: int, flash_size: int) -> Partition:
    """Where MicroPython, whose image is to be written at `offset`, has its file system on a flash of that many bytes.

    Raises FlashError when the image has no partition table, or the flash is too small for it.
    """
    entries = table(firmware[TABLE - offset : TABLE - offset + 0xC00])
    if not entries:
        raise FlashError("The MicroPython image holds no partition table. Use the one from micropython.org, whole.")
    found = vfs(entries, flash_size)
    if found is None:
        end = max(one.end for one in entries)
        raise FlashError(
            f"This MicroPython and its file system need a flash of more than {end // 1024} KiB, and the board has "
            f"{flash_size // 1024} KiB."
        )
    return found


def vfs(entries: list[Partition], flash_size: int) -> Partition | None:
    """The file system: the partition that is named so, else what lies behind all others; None if there is none."""
    if not entries:
        return None
    start = max(one.end for one in entries)
    named = next((one for one in entries if one.label in ("vfs", "ffat") and one.kind == _DATA), None)
    found = named or Partition("vfs", _DATA, start, flash_size - start)
    return found if found.size > 0 and found.end <= flash_size else None
