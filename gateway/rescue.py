"""What can be saved of a damaged database: set it aside, never delete it, and read what is still owed out of its pages.

A damaged file is moved, with its log and with links to the spooled mails, into a folder of its own beside the new one.
Then it is read by its format (https://sqlite.org/fileformat.html), as the sqlite3 program's `.recover` does, and not by
SQLite: a page that makes no sense costs what was on it and nothing else, be it the first one. Mails that were not
interpreted yet, and events that a target still waits for, become part of the new store, under the ids that they had.
Pages that are no longer in use may hold what is over already: an event may be given once more, never less.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import sqlite3
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from gateway.api import Envelope, Event
from gateway.pages import Cell, Nonsense, Pages
from gateway.store import FILE, MIGRATIONS, SPOOL, Mail, sync_folder

log = logging.getLogger(__name__)

WHY = "why.txt"
DONE = "brought-over.txt"
_PREFIX, _LOG = "damaged-", "-log"
_PAUSE_AFTER = 0.005  # seconds of reading, after which as long a pause lets receiving go on
_OPEN = ("received", "replay")


def set_aside(folder: Path, why: str, *, log_only: bool = False) -> Path:
    """Move the database of a data folder into a new folder below it, and return that. Raises OSError.

    `log_only`: the database itself is well; keep a copy of its log, whose end SQLite will write over.
    """
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    kind = _LOG if log_only else ""
    names = (f"{_PREFIX}{stamp}{kind}{more}" for more in ("", *(f"-{n}" for n in range(2, 1000))))
    aside = next(path for name in names if not (path := folder / name).exists())
    aside.mkdir(mode=0o700)
    if log_only:
        shutil.copyfile(folder / f"{FILE}-wal", aside / f"{FILE}-wal")
        sync_folder(aside / f"{FILE}-wal")
    (aside / WHY).write_text(f"{why}\n")
    (aside / SPOOL).mkdir(mode=0o700)
    for file in (folder / SPOOL).iterdir():
        _link(file, aside / SPOOL / file.name)
    sync_folder(aside / SPOOL)
    for name in () if log_only else (FILE, f"{FILE}-wal", f"{FILE}-shm"):
        with contextlib.suppress(FileNotFoundError):
            (folder / name).rename(aside / name)
    sync_folder(aside)
    sync_folder(folder)
    return aside


def give_back(aside: Path, folder: Path, name: str) -> None:
    """A set-aside spooled mail becomes one of the new store's, durably. Raises OSError."""
    name = Path(name).name
    if not (folder / SPOOL / name).exists():
        _link(aside / SPOOL / name, folder / SPOOL / name)
        sync_folder(folder / SPOOL)


def _link(file: Path, to: Path) -> None:
    """A second name for the same bytes; a copy where the file system has no such thing."""
    try:
        os.link(file, to)
    except OSError:
        shutil.copyfile(file, to)
        sync_folder(to)


class Aside(NamedTuple):
    """A database that was set aside. `brought_over` is None as long as that is not done."""

    folder: Path
    why: str
    brought_over: str | None
    is_log: bool
    """Only a log was set aside, the database itself is in use."""


def all_aside(folder: Path) -> list[Aside]:
    """Those of a data folder, the oldest first."""
    return [
        Aside(path, _text(path / WHY) or "", _text(path / DONE), _LOG in path.name)
        for path in sorted(folder.glob(f"{_PREFIX}*"))
        if path.is_dir()
    ]


def _text(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None


def devices(aside: Path) -> list[dict[str, Any]]:
    """The devices' documents, if SQLite can still read them; what only the pages tell comes with `Salvage`."""
    uri = f"{(aside / FILE).absolute().as_uri()}?mode=ro"
    try:
        with contextlib.closing(sqlite3.connect(uri, uri=True)) as connection:
            return [json.loads(row[0]) for row in connection.execute("SELECT document FROM devices ORDER BY id")]
    except (sqlite3.Error, ValueError):
        return []


class Owed(NamedTuple):
    """To be done: a mail to be interpreted; or an event, with its mail if that is there, and target -> Unix expiry.

    The content of a mail is in memory, or `file` names it in the set-aside spool.
    """

    mail: Mail | None
    event: Event | None
    targets: dict[str, float]


class Salvage:
    """Reads what is owed from a set-aside database. Every method reads files: not for the event loop."""

    def __init__(self, aside: Path) -> None:
        self.unreadable = 0
        """Mails and events that are owed, but are not there whole."""
        self.devices: dict[str, dict[str, Any]] = {}
        self._spool = aside / SPOOL
        self._pages = Pages(aside / FILE, aside / f"{FILE}-wal")

    def close(self) -> None:
        self._pages.close()

    def read(self) -> Iterator[Owed]:
        """In the order in which the mails came. Three times over the pages, so that memory holds what is owed alone."""
        waiting: dict[str, dict[str, float]] = {}
        for table, _, row in self._rows("deliveries", "devices"):
            if table == "devices":
                with contextlib.suppress(ValueError):
                    self.devices[row["id"]] = json.loads(row["document"])
            elif row["state"] in ("waiting", "held"):
                waiting.setdefault(row["event"], {})[row["target"]] = row["expires"]
        mails: dict[int, dict[str, Any]] = {}
        for _, _, row in self._rows("mails"):
            if row["state"] in _OPEN or row["id"] in waiting:
                mails[row["seq"]] = row
        contents: dict[int, Cell] = {}
        events: dict[str, Cell] = {}
        for table, cell, row in self._rows("mails", "contents", "events"):
            if table == "contents" and cell.rowid in mails:
                contents[cell.rowid] = cell
            elif table == "events" and row["id"] in waiting:
                events[row["id"]] = cell
            elif table == "mails" and row["state"] not in _OPEN and row["seq"] in mails:
                mails[row["seq"]] = row  # the other was an older state of it
        for seq, row in sorted(mails.items()):
            mail = self._mail(row, contents.get(seq))
            if row["state"] not in _OPEN:
                targets = waiting.pop(row["id"], {})
                yield from self._event(mail, events.get(row["id"]), targets) if targets else ()
            elif mail:
                yield Owed(mail, None, {})
            else:
                self.unreadable += 1
        for event_id, targets in sorted(waiting.items()):
            yield from self._event(None, events.get(event_id), targets)

    def _event(self, mail: Mail | None, cell: Cell | None, targets: dict[str, float]) -> Iterator[Owed]:
        try:
            if cell is None:
                raise Nonsense
            yield Owed(mail, json.loads(self._pages.values(cell)[4]), targets)
        except (Nonsense, ValueError):
            if mail:  # it becomes the same event again
                mail.state = "received"
                yield Owed(mail, None, {})
            else:
                self.unreadable += 1

    def _rows(self, *wanted: str) -> Iterator[tuple[str, Cell, dict[str, Any]]]:
        """(table, cell, column -> value) of every row of these that can be read; of `contents`, without its values."""
        tables = [table for table in _tables() if table.name in wanted]
        rested = time.monotonic()
        for cell in self._pages.cells():
            with contextlib.suppress(Nonsense):
                table = next((one for one in tables if one.fits(cell, self._pages.kinds(cell))), None)
                if table:
                    values = self._pages.values(cell) if table.name != "contents" else ()
                    row = dict(zip(table.columns, values, strict=False))
                    if cell.rowid is not None:
                        row["seq"] = cell.rowid
                    yield table.name, cell, row
            if time.monotonic() - rested > _PAUSE_AFTER:
                time.sleep(_PAUSE_AFTER)
                rested = time.monotonic()

    def _mail(self, row: dict[str, Any], cell: Cell | None) -> Mail | None:
        """None if its content is not there whole."""
        try:
            lists = json.loads(row["rcpt_to"]), json.loads(row["details"])
            envelope = Envelope(row["source"], row["peer"], row["helo"], row["mail_from"], *lists)
            _, content, file = self._pages.values(cell) if cell else (None, None, None)
            facts = row["size"], row["sha256"], row["state"]
            mail = Mail(row["id"], float(row["received"]), envelope, *facts, content=content, file=file)
            if file:
                with (self._spool / Path(file).name).open("rb") as spooled:
                    found = hashlib.file_digest(spooled, "sha256")
            else:
                found = hashlib.sha256(content or b"")
        except (Nonsense, ValueError, OSError):
            return None
        return mail if found.hexdigest() == mail.sha256 else None


@dataclass(frozen=True, slots=True)
class _Table:
    """How a table's records look: `kinds` has a letter a column: N(umber), T(ext), B(lob), 0 for the rowid."""

    name: str
    columns: tuple[str, ...]
    kinds: str
    has_rowid: bool

    def fits(self, cell: Cell, found: Sequence[str]) -> bool:
        return (
            self.has_rowid == (cell.rowid is not None)
            and len(found) == len(self.kinds)
            and all(kind == want or kind == "0" for kind, want in zip(found, self.kinds, strict=True))
        )


def _tables() -> list[_Table]:
    """Of the schema as it is and as it was (SQLite rewrites no row), in the order in which SQLite keeps the columns."""
    found: dict[_Table, None] = {}
    with contextlib.closing(sqlite3.connect(":memory:")) as fresh:
        for migration in MIGRATIONS:
            fresh.executescript(migration)
            for name, sql in fresh.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table'").fetchall():
                columns = fresh.execute(f"SELECT name, type, pk FROM pragma_table_info('{name}')").fetchall()  # noqa: S608
                has_rowid = "WITHOUT ROWID" not in sql
                if not has_rowid:
                    columns.sort(key=lambda column: column[2] or 99)  # the key comes first; the rest stays in its order
                kinds = "".join(
                    "0" if has_rowid and pk else {"TEXT": "T", "BLOB": "B"}.get(kind, "N") for _, kind, pk in columns
                )
                found[_Table(name, tuple(column for column, _, _ in columns), kinds, has_rowid)] = None
    return list(found)
