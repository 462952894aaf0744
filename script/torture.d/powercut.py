"""Power cuts: what the gateway did to its files is recorded (shim.c) and replayed up to a moment, at which power fails.

The disk of the replay is as bad as a disk may be. It keeps what was there before the last fsync of a file. Of what was
written since, it keeps nothing, all, what came before some moment, a choice of writes, or a choice of 512-byte sectors.
A name (a new file, a rename, an unlink) is sure when its folder was synced; of the others it keeps the first few.
Then the gateway's own `Store` opens what is left, and each mail whose 250 was recorded before the moment must be there.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import sqlite3
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from law import number_of

_HEAD = struct.Struct("<biiqi")  # struct record
OPEN, CLOSE, WRITE, TRUNCATE, RENAME, LINK, UNLINK, MKDIR, SYNC_BEGIN, SYNC_END, REPLY = range(1, 12)
SECTOR = 512
MODES = ("nothing", "all", "before", "writes", "sectors")


class Record(NamedTuple):
    """One line of the recording; what `offset` and `data` are depends on `op`, see shim.c."""

    op: int
    pid: int
    fd: int
    offset: int
    data: bytes


def read(path: Path) -> Iterator[Record]:
    """The recording, in the order in which things happened."""
    with path.open("rb") as file:
        while len(head := file.read(_HEAD.size)) == _HEAD.size:
            op, pid, fd, offset, length = _HEAD.unpack(head)
            yield Record(op, pid, fd, offset, file.read(length))


@dataclass(slots=True, eq=False)
class File:
    """`durable`: what no power cut can take; `pending`: (moment, offset, bytes) of writes since the last fsync.

    A pending truncation has None for its bytes.
    """

    durable: bytearray = field(default_factory=bytearray)
    pending: list[tuple[int, int, bytes | None]] = field(default_factory=list)


def _apply(content: bytearray, offset: int, data: bytes | None) -> None:
    if data is None:
        del content[offset:]
        content.extend(bytes(offset - len(content)))
        return
    content.extend(bytes(max(0, offset - len(content))))
    content[offset : offset + len(data)] = data


@dataclass(slots=True)
class Change:
    """A change of names: `path` is `file` from now on (None: a folder), or is gone; `gone` was its name before."""

    moment: int
    path: str | None
    file: File | None
    gone: str | None = None

    def in_folder(self, folder: str) -> bool:
        return any(path and os.path.dirname(path) == folder for path in (self.path, self.gone))  # noqa: PTH120  # text

    def apply(self, names: dict[str, File | None]) -> None:
        if self.gone:
            names.pop(self.gone, None)
        if self.path:
            names[self.path] = self.file


class Disk:
    """Follows a recording. `believe(path)`: does an fsync of that file or folder do what it says?"""

    def __init__(self, root: str, believe: Callable[[str], bool] = lambda _: True) -> None:
        self.root = root
        self.replies: list[str] = []  # ids whose 250 has left
        self._believe = believe
        self._now: dict[str, File | None] = {root: None}  # as programs see it
        self._names: dict[str, File | None] = {root: None}  # as a power cut leaves it at least
        self._changes: list[Change] = []
        self._open: dict[tuple[int, int], str] = {}
        self._files: dict[tuple[int, int], File | None] = {}
        self._syncs: dict[tuple[int, int], int] = {}
        self._moment = 0

    def follow(self, record: Record) -> None:
        self._moment += 1
        op, where = record.op, (record.pid, record.fd)
        if op == OPEN:
            self._opened(where, record.data.decode(), record.offset)
        elif op == CLOSE:
            self._open.pop(where, None)
            self._files.pop(where, None)
        elif op in (WRITE, TRUNCATE):
            file = self._files[where]
            assert file is not None
            file.pending.append((self._moment, record.offset, record.data if op == WRITE else None))
        elif op == SYNC_BEGIN:
            self._syncs[where] = self._moment
        elif op == SYNC_END:
            if self._believe(self._open[where]):
                self._synced(self._open[where], self._files[where], self._syncs[where])
        elif op == REPLY:
            self.replies.append(record.data.decode())
        else:
            first, _, second = record.data.decode().partition("\0")
            if op == MKDIR:
                self._change(Change(self._moment, first, None))
            elif op == UNLINK:
                self._change(Change(self._moment, None, None, first))
            else:
                self._change(Change(self._moment, second, self._now[first], first if op == RENAME else None))

    def _opened(self, where: tuple[int, int], path: str, flags: int) -> None:
        if path not in self._now:
            assert flags & os.O_CREAT, f"{path} was there before the recording began"
            self._change(Change(self._moment, path, File()))
        file = self._now[path]
        if file is not None and flags & os.O_TRUNC:
            file.pending.append((self._moment, 0, None))
        self._open[where], self._files[where] = path, file

    def _change(self, change: Change) -> None:
        if change.gone and self._now.get(change.gone) is None and change.path:  # a folder takes along what is in it
            raise AssertionError(f"{change.gone}: renaming a folder is not played here")
        change.apply(self._now)
        self._changes.append(change)

    def _synced(self, path: str, file: File | None, since: int) -> None:
        if file is None:
            for change in [one for one in self._changes if one.moment < since and one.in_folder(path)]:
                change.apply(self._names)
                self._changes.remove(change)
            return
        for _, offset, data in [one for one in file.pending if one[0] < since]:
            _apply(file.durable, offset, data)
        file.pending = [one for one in file.pending if one[0] >= since]

    def cut(self, place: Path, mode: str, chance: random.Random) -> None:
        """Power fails now: write into the empty folder `place` what is on the disk then."""
        names = dict(self._names)
        kept = {"nothing": 0, "all": len(self._changes)}.get(mode, chance.randrange(len(self._changes) + 1))
        for change in self._changes[:kept]:
            change.apply(names)
        pending = [moment for file in self._now.values() if file for moment, _, _ in file.pending]
        last = chance.choice(pending) if pending else 0
        for path, file in sorted(names.items(), key=lambda item: item[0]):
            parent = os.path.dirname(path)  # noqa: PTH120  # text
            if path == self.root or parent not in names:  # a name in a folder that has none itself is nowhere
                continue
            there = place / os.path.relpath(path, self.root)
            if file is None:
                there.mkdir(mode=0o700)
            elif there.parent.is_dir():
                there.write_bytes(_left(file, mode, last, chance))


def _left(file: File, mode: str, last: int, chance: random.Random) -> bytes:
    """What is left of one file."""
    if mode == "nothing" or not file.pending:
        return bytes(file.durable)
    content = bytearray(file.durable)
    for moment, offset, data in file.pending:
        if mode == "all" or (mode == "before" and moment <= last) or (mode == "writes" and chance.random() < 0.5):
            _apply(content, offset, data)
        elif mode == "sectors" and data is not None:
            for start in range(offset, offset + len(data), SECTOR):
                if chance.random() < 0.5:
                    _apply(content, start, data[start - offset : start - offset + SECTOR])
    return bytes(content)


@dataclass(slots=True)
class Findings:
    """`lost`: for a cut, the ids that were acknowledged before it and are not there whole; `broken`: what else was."""

    cuts: int = 0
    fsyncs: int = 0
    checked: int = 0
    lost: dict[int, list[str]] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)


def replay(
    recording: Path,
    root: Path,
    cuts: int,
    seed: int,
    place: Path,
    *,
    numbers: dict[str, int],
    believe: Callable[[str], bool] = lambda _: True,
    modes: Sequence[str] = MODES,
    keep: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Findings:
    """Cut the power at so many moments, half of them beside an fsync, the last at the end, when there is most to lose.

    `numbers`: the mail that an id was given for. `place` is used for one disk after another; the first one that is not
    as it must be is left in `keep`.
    """
    chance = random.Random(seed)
    records = list(read(recording))
    syncs = [moment for moment, record in enumerate(records) if record.op == SYNC_END]
    beside = chance.sample(syncs, min(len(syncs), cuts // 2))
    moments = {chance.choice((moment - 1, moment, moment + 1)) for moment in beside}
    moments |= set(chance.sample(range(len(records)), min(len(records), cuts - len(moments) - 1)))
    moments.add(len(records) - 1)
    disk = Disk(str(root), believe)
    assert any(record.op == REPLY for record in records) or not numbers, "no 250 was recorded"
    found = Findings(fsyncs=len(syncs))
    for moment, record in enumerate(records):
        disk.follow(record)
        if moment in moments:
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir()
            mode = chance.choice(modes)
            disk.cut(place, mode, chance)
            lost, broken = check(place / "data", disk.replies, numbers, chance)
            found.cuts += 1
            found.checked += len(disk.replies)
            found.broken += [f"cut {moment} ({mode}): {broken}"] if broken else []
            if lost:
                found.lost[moment] = lost
            if (lost or broken) and keep and not keep.exists():
                shutil.copytree(place, keep)
            say(f"power-cut: {found.cuts} of {len(moments)} cuts")
    return found


def check(data: Path, acknowledged: list[str], numbers: dict[str, int], chance: random.Random) -> tuple[list[str], str]:
    """(ids that are not there whole, what else is wrong), as the gateway's own store sees it after its start."""
    from gateway.store import FILE, LogDamaged, Store, StoreBroken

    if not (data / FILE).exists():
        return list(acknowledged), ""
    store = Store(data)
    try:
        try:
            store.open(exclusive=True)
        except LogDamaged:  # the gateway keeps a copy of its end, in which nothing that had a 250 may be
            store.open(exclusive=True, without_log=True)
        store.sweep_spool()
        fault = store.rows("PRAGMA integrity_check")[0][0]
        there = {row[0] for row in store.rows("SELECT id FROM mails")}
        lost = [mail_id for mail_id in acknowledged if mail_id not in there]
        present = [mail_id for mail_id in acknowledged if mail_id in there]
        some = {*present[-100:], *chance.sample(present, min(len(present), 50))}  # those just written, and others
        lost += [mail_id for mail_id in some if not _is_whole(store, mail_id, numbers)]
    except (StoreBroken, sqlite3.DatabaseError) as error:
        return list(acknowledged), str(error)
    finally:
        asyncio.run(store.close())
    return lost, "" if fault == "ok" else f"integrity_check: {fault}"


def _is_whole(store: object, mail_id: str, numbers: dict[str, int]) -> bool:
    from gateway.store import Store

    assert isinstance(store, Store)
    mail = store.mail(mail_id)
    try:
        number = number_of(bytes(store.content(mail)[:])) if mail else None
    except LookupError:
        return False
    return number is not None and numbers.get(mail_id, number) == number
