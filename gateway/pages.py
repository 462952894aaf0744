"""A database by SQLite's file format (https://sqlite.org/fileformat.html), for files that SQLite will not read.

Every page is looked at by itself. What makes no sense raises `Nonsense`, and costs nothing but itself.
"""

from __future__ import annotations

import contextlib
import os
import struct
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

_LOG_MAGIC = (b"\x37\x7f\x06\x82", b"\x37\x7f\x06\x83")


class Nonsense(Exception):
    """This page, cell or record can't be what it seems to be."""


class Cell(NamedTuple):
    """One record of a b-tree: what of it is on its page, and where the rest begins (0: there is none)."""

    rowid: int | None
    length: int
    here: bytes
    overflow: int


class Log:
    """A write-ahead log (https://sqlite.org/walformat.html), also where checksums are wrong. Raises OSError."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self.head = _read(self._file, 0, 32)
        self.size = _page_size(self.head[8:12])
        if not self.size:  # the salts of a frame stand in each of its kind
            self.size = 8192 if _read(self._file, 40, 8) == _read(self._file, 40 + 24 + 8192, 8) else 4096
        bytes_ = os.fstat(self._file.fileno()).st_size
        frames = [
            (number, _read(self._file, 32 + (number - 1) * (24 + self.size), 24))
            for number in range(1, (bytes_ - 32) // (24 + self.size) + 1)
        ]
        salts = self.head[16:24]
        if self.head[:4] not in _LOG_MAGIC and frames:
            salts = Counter(frame[8:16] for _, frame in frames).most_common(1)[0][0]
        self._frames = [  # (number from 1, page, is the last one of a commit); others are damaged, or from before
            (number, int.from_bytes(frame[:4], "big"), any(frame[4:8]))
            for number, frame in frames
            if frame[8:16] == salts and any(frame[:4])
        ]

    def close(self) -> None:
        self._file.close()

    def pages(self) -> dict[int, int]:
        """Page -> the frame with the newest committed state of it."""
        found: dict[int, int] = {}
        waiting: dict[int, int] = {}
        for number, page, ends in self._frames:
            waiting[page] = number
            if ends:
                found |= waiting
                waiting = {}
        return found

    def read(self, frame: int) -> bytes:
        return _read(self._file, 32 + (frame - 1) * (24 + self.size) + 24, self.size)

    def goes_on_after(self, frame: int) -> bool:
        """Was something committed behind that frame?"""
        return any(ends for number, _, ends in self._frames if number > frame)


def last_good_frame(index: Path) -> int:
    """Of the log, as SQLite has found it and noted in its index (the -shm file). Raises OSError."""
    with index.open("rb") as file:
        return int.from_bytes(_read(file, 16, 4), sys.byteorder)


class Pages:
    """The pages of a database, those in its log before those in its file; one of the two may be missing."""

    def __init__(self, database: Path, wal: Path) -> None:
        self._file = database.open("rb") if database.is_file() else None
        self._log = Log(wal) if wal.is_file() else None
        head = _read(self._file, 0, 18) if self._file else b""
        self.size = self._log.size if self._log else _page_size(head[16:18])
        if not self.size:
            self.size = _size_without_header(self._file) if self._file else 4096
        in_file = -(-os.fstat(self._file.fileno()).st_size // self.size) if self._file else 0
        self._logged = self._log.pages() if self._log else {}
        most = in_file + len(self._logged)  # a log can make a file longer by no more than it has pages
        self._numbers = range(1, most + 1) if self._file else sorted(self._logged)
        self.count = most if self._file else max(self._logged, default=0)

    def close(self) -> None:
        for one in (self._file, self._log):
            if one:
                one.close()

    def page(self, number: int) -> bytes:
        """Its bytes; fewer, or none, where the file ends before it does."""
        if self._log and number in self._logged:
            return self._log.read(self._logged[number])
        return _read(self._file, (number - 1) * self.size, self.size) if self._file else b""

    def cells(self) -> Iterator[Cell]:
        """Of every page that may be part of a table (or of an index, which is what a table WITHOUT ROWID is)."""
        for number in self._numbers:
            page = self.page(number)
            start = 100 if number == 1 else 0
            kind = page[start] if len(page) == self.size else 0
            if kind not in (0x0D, 0x0A, 0x02):  # leaf of a table, of an index, inner page of an index
                continue
            first = start + (12 if kind == 0x02 else 8)
            for place in range(first, first + 2 * int.from_bytes(page[start + 3 : start + 5], "big"), 2):
                with contextlib.suppress(Nonsense):
                    yield self._cell(page, int.from_bytes(page[place : place + 2], "big"), kind)

    def _cell(self, page: bytes, at: int, kind: int) -> Cell:
        if not 8 < at < self.size:
            raise Nonsense
        rowid = None
        length, at = _varint(page, at + (4 if kind == 0x02 else 0))
        if kind == 0x0D:
            rowid, at = _varint(page, at)
        most = self.size - 35 if kind == 0x0D else (self.size - 12) * 64 // 255 - 23
        here = length
        if length > most:
            least = (self.size - 12) * 32 // 255 - 23
            here = least + (length - least) % (self.size - 4)
            here = here if here <= most else least
        if at + here > self.size or length > self.count * self.size:
            raise Nonsense
        rest = int.from_bytes(page[at + here : at + here + 4], "big") if here < length else 0
        return Cell(rowid, length, page[at : at + here], rest)

    def kinds(self, cell: Cell) -> list[str]:
        """A letter for each column, as in `_Table`; 0 is NULL."""
        return [_KINDS.get(code, "T" if code & 1 else "B") for code in self._codes(cell)[0]]

    def _codes(self, cell: Cell) -> tuple[list[int], int]:
        """The types of the columns, and where the first value begins."""
        end, at = _varint(cell.here, 0)
        codes = []
        if end > len(cell.here) or end > 64:  # none of our tables has so many columns
            raise Nonsense
        while at < end:
            code, at = _varint(cell.here, at)
            codes.append(code)
        return codes, end

    def values(self, cell: Cell) -> tuple[Any, ...]:
        """The columns of a record. Raises Nonsense."""
        codes, at = self._codes(cell)
        whole = self._whole(cell)
        values: list[Any] = []
        for code in codes:
            size = (code - 12) // 2 if code >= 12 else _SIZES[code]
            piece = whole[at : at + size]
            if len(piece) < size:
                raise Nonsense
            at += size
            values.append(_value(code, piece))
        return tuple(values)

    def _whole(self, cell: Cell) -> bytes:
        """The record with what is on its overflow pages."""
        parts, missing, number = [cell.here], cell.length - len(cell.here), cell.overflow
        while missing > 0:
            page = self.page(number) if 1 < number <= self.count else b""
            if len(page) < self.size:
                raise Nonsense
            number = int.from_bytes(page[:4], "big")
            parts.append(page[4 : 4 + missing])
            missing -= len(parts[-1])
        return b"".join(parts)


def _read(file: IO[bytes], at: int, size: int) -> bytes:
    return os.pread(file.fileno(), size, at)


def _page_size(field: bytes) -> int:
    """What a header says, or 0 if that can't be true."""
    size = int.from_bytes(field, "big")
    return size if size in (512, 1024, 2048, 4096, 8192, 16384, 32768) else 0


def _size_without_header(file: IO[bytes]) -> int:
    """Our databases have pages of 8192 bytes or, if they are old, of 4096: then no page has cells beyond that."""
    for at in range(0, os.fstat(file.fileno()).st_size, 8192):
        head = _read(file, at or 100, 7)
        if head[:1] in (b"\x02", b"\x05", b"\x0a", b"\x0d") and 4096 < int.from_bytes(head[5:7], "big") <= 8192:
            return 8192
    return 4096


_SIZES = (0, 1, 2, 3, 4, 6, 8, 8, 0, 0, 0, 0)  # by the type's code
_KINDS = {0: "0", **dict.fromkeys(range(1, 10), "N"), 10: "?", 11: "?"}


def _value(code: int, piece: bytes) -> Any:
    if code == 0:
        return None
    if code == 7:
        return struct.unpack(">d", piece)[0]
    if code in (8, 9):
        return code - 8
    if code < 12:
        return int.from_bytes(piece, "big", signed=True)
    if code % 2 == 0:
        return piece
    try:
        return piece.decode()
    except UnicodeDecodeError:
        raise Nonsense from None


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """(number, where it ends)"""
    value = 0
    for count in range(9):
        if at >= len(data):
            raise Nonsense
        byte = data[at]
        at += 1
        if count == 8:
            return value << 8 | byte, at
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            break
    return value, at
