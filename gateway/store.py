"""What the gateway keeps: mails, events, deliveries owed and devices, in one SQLite file.

Writing is done by `gateway.writer`, on one thread: a **promise** (a mail) is on disk before anyone is told, and
**bookkeeping** (events, deliveries, devices) follows a moment later.

The schema carries a number (`PRAGMA user_version`) and only ever moves forward, one migration at a time; a file that
a newer Mailwire wrote is refused. Reading happens on connections of its own, one for each thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import json
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import takewhile
from json.encoder import encode_basestring_ascii
from pathlib import Path
from typing import Any

from gateway import pages
from gateway.api import Envelope, Event, StoreTrouble
from gateway.spooled import Spooled, spooled
from gateway.stats import monotonic_of
from gateway.writer import Note, Statement, Writer

log = logging.getLogger(__name__)

# One entry a schema version, never edited after a release: what brings version N to N + 1.
MIGRATIONS = (
    """
    PRAGMA auto_vacuum = INCREMENTAL;
    CREATE TABLE mails (
        seq INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        received REAL NOT NULL,
        source TEXT NOT NULL,
        peer TEXT NOT NULL,
        helo TEXT NOT NULL,
        mail_from TEXT NOT NULL,
        rcpt_to TEXT NOT NULL,
        details TEXT NOT NULL,
        size INTEGER NOT NULL,
        sha256 TEXT NOT NULL,
        state TEXT NOT NULL
    );
    CREATE INDEX mails_open ON mails (seq) WHERE state IN ('received', 'replay');
    -- Apart from mails, so that a change of state does not rewrite the content. One of the two is NULL.
    CREATE TABLE contents (seq INTEGER PRIMARY KEY, content BLOB, file TEXT);
    CREATE TABLE events (
        seq INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        time REAL NOT NULL,
        device TEXT NOT NULL,
        event TEXT NOT NULL
    );
    -- What is owed. A delivery that is done has no row any more.
    CREATE TABLE deliveries (
        event TEXT NOT NULL,
        target TEXT NOT NULL,
        state TEXT NOT NULL,
        attempts INTEGER NOT NULL DEFAULT 0,
        due REAL NOT NULL DEFAULT 0,
        expires REAL NOT NULL,
        reason TEXT NOT NULL DEFAULT '',
        PRIMARY KEY (target, event)
    ) WITHOUT ROWID;
    CREATE TABLE devices (id TEXT PRIMARY KEY, document TEXT NOT NULL) WITHOUT ROWID;
    """,
    # So that a start among a million mails finds the few that have a file.
    "CREATE INDEX contents_file ON contents (file) WHERE file IS NOT NULL;",
    """
    -- What routes have told (`gateway.care.Memory`), and what is still to be acknowledged (`gateway.noise`).
    CREATE TABLE care (key TEXT PRIMARY KEY, document TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE escalations (
        event TEXT PRIMARY KEY,
        device TEXT NOT NULL,
        kind TEXT NOT NULL,
        since REAL NOT NULL,
        due REAL NOT NULL,
        step INTEGER NOT NULL,
        how TEXT NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX deliveries_held ON deliveries (due) WHERE state = 'held';
    """,
    # What a target wants to know at the next try, as JSON (`gateway.api.Retry`).
    "ALTER TABLE deliveries ADD COLUMN memo TEXT NOT NULL DEFAULT '';",
    # Devices of which people are not told till then (Unix seconds); target '': none that tells people.
    """
    CREATE TABLE mutes (
        device TEXT NOT NULL,
        target TEXT NOT NULL,
        until REAL NOT NULL,
        PRIMARY KEY (device, target)
    ) WITHOUT ROWID;
    """,
)

FILE = "mailwire.db"
SPOOL = "mails"  # contents that were too large for a row, one file each
LOCK = "gateway.lock"

_STATES = ("waiting", "held", "dead", "expired")  # of a delivery
_OWED = (
    "SELECT event FROM deliveries WHERE state IN ('waiting', 'held')"  # asked once; for each mail, it would be too long
)

_AT_THE_NEXT_START = (
    "The gateway sets it aside when it starts (it deletes nothing), begins a new one, and brings over what is owed."
)
REPLAY = (
    "UPDATE mails SET state = 'replay' WHERE state != 'received' AND peer != '' "
    "AND id IN (SELECT value FROM json_each(?))"
)
"""Whose turn has not come yet needs no second one; what nobody sent holds an event's attachments (`Pipeline.emit`)."""

_ROWS = 100  # in one statement
_PAGE = 8192  # bytes of a page in a new file: a picture takes half as many as with SQLite's own 4096
_INSERT_MAILS = (
    "INSERT INTO mails (seq, id, received, source, peer, helo, mail_from, rcpt_to, details, size, sha256, state)"
)


class StoreBroken(Exception):
    """The store can't be opened; the text says why and what to do."""


class StoreDamaged(StoreBroken):
    """The file is there and can be read, but is no database any more, or not whole."""


class LogDamaged(StoreDamaged):
    """The database is well, but a part of its log can't be read: what was committed last is missing from it."""


@dataclass(slots=True)
class Mail:
    """One mail as it is kept. `content` is there only while it is still in memory; `file` names a spooled one."""

    id: str
    received: float
    envelope: Envelope
    size: int
    sha256: str = ""
    state: str = "received"
    content: bytes | None = None
    file: str | None = None
    seq: int = 0
    # When its first byte and its final dot came and when it was kept, on the monotonic clock; 0: before this start.
    began: float = 0.0
    dot: float = 0.0
    kept: float = 0.0
    early: object = None  # of `gateway.pipeline`: how far it was interpreted while it was being kept


@dataclass(slots=True, eq=False)
class Delivery:
    """One event owed to one target. `state`: waiting, held (not to be told before `due`), dead (refused) or expired."""

    event_id: str
    target: str
    expires: float
    state: str = "waiting"
    attempts: int = 0
    due: float = 0.0
    reason: str = ""
    memo: str = ""
    event: Event | None = field(default=None, repr=False)
    # When its mail's final dot came and when its event was made, on the monotonic clock.
    dot: float = 0.0
    made: float = 0.0
    # By how many seconds the clock had been set when `expires` was right.
    moved: float = 0.0


class Store:
    """The file, its writer thread and its readers. `open`, then `start` where something is to be written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.spool = folder / SPOOL
        self.changed_elsewhere: Callable[[], None] | None = None
        self.damaged: Callable[[str], object] | None = None
        """Called when damage is met after opening, on any thread, perhaps more than once."""
        self.ended_unclean = False
        """Was the file left open when it was opened here: by a crash, a power cut, or one who still has it?"""
        self._closing = False
        self.writer: Writer | None = None
        self._local = threading.local()
        self._readers: list[tuple[sqlite3.Connection, threading.Lock]] = []  # one a thread; the lock is for the end
        self._lock: Any = None
        self._last_seq = 0

    # --- opening -----------------------------------------------------------------------------------------------

    def open(self, *, exclusive: bool = False, condemned: str = "", without_log: bool = False) -> None:
        """Make or upgrade the file. `exclusive`: this process is the gateway of this folder, and the only one.

        Raises StoreBroken with words a person can act on; StoreDamaged for a file that is to be set aside, also one
        that is `condemned` for what was met in it before. The folder is this process's own after that, too.
        LogDamaged, if it is not `without_log`, before anything is written over the end of the log.
        """
        fresh = [path for path in (self.spool, self.folder, *self.folder.parents) if not path.exists()]
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.spool.mkdir(mode=0o700, exist_ok=True)
            for path in fresh:
                sync_folder(path.parent)
        except OSError as error:
            raise StoreBroken(
                f"{self.folder}: the data folder can't be made: {error.strerror}. "
                "Name another with --data, or give this user the right to write there."
            ) from None
        if exclusive and self._lock is None:
            self._take_lock()
        path = self.folder / FILE
        if condemned or (condemned := self._damage_at_sight()):
            raise StoreDamaged(f"{path}: the database is damaged: {condemned}. {_AT_THE_NEXT_START}")
        self.ended_unclean = _size(path.with_name(f"{FILE}-wal")) > 0
        try:
            if self.ended_unclean and not without_log and (exclusive or not gateway_runs(self.folder)):
                self._look_at_log()
            with contextlib.closing(self.connect()) as connection:
                self._migrate(connection)
                self._look_over(connection)
        except sqlite3.DatabaseError as error:
            if is_damage(error):
                raise StoreDamaged(f"{path}: the database is damaged: {error}. {_AT_THE_NEXT_START}") from None
            raise StoreBroken(
                f"{path}: can't be used now: {error}. Is the disk full or read-only, or does the file belong to "
                "another user? `mailwire doctor` looks."
            ) from None

    def _damage_at_sight(self) -> str:
        """What SQLite would not call damage: it takes a file that is empty, or gone, for a new one."""
        path = self.folder / FILE
        if path.is_dir():
            return "there is a folder in its place"
        if path.exists() and path.stat().st_size == 0 and self._was_used():
            return "the file is empty"  # and not because its making was cut short
        if not path.exists() and _size(path.with_name(f"{FILE}-wal")) > 0:
            return "the file is gone, and only its log is there"
        return ""

    def _was_used(self) -> bool:
        """Is there anything that only comes after the database? A power cut while that is made leaves less."""
        if (self.folder / f"{FILE}-journal").exists():
            return False
        later = (self.folder / "integrations").exists() or any(self.spool.iterdir())
        return later or _size(self.folder / f"{FILE}-wal") > 0

    def _look_at_log(self) -> None:
        """SQLite takes the first page of the log that is not whole for its end, and says nothing."""
        path = self.folder / FILE
        uri = f"{path.absolute().as_uri()}?mode=ro"  # or the log would be gone when this is closed
        with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=30)) as connection:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()  # makes it read the log
        try:
            with contextlib.closing(pages.Log(path.with_name(f"{FILE}-wal"))) as wal:
                if wal.goes_on_after(last := pages.last_good_frame(path.with_name(f"{FILE}-shm"))):
                    raise LogDamaged(
                        f"{path}-wal: the database's log can't be read after its page {last}. "
                        "The gateway keeps a copy when it starts, and brings over what is owed in it."
                    )
        except OSError as error:
            log.debug("the log can't be looked at: %s", error)

    @staticmethod
    def _look_over(connection: sqlite3.Connection) -> None:
        """Touch both ends of each table: in no time, however much is kept. Raises sqlite3.DatabaseError."""
        for table, key in (("mails", "seq"), ("contents", "seq"), ("events", "seq"), ("devices", "id")):
            for order in ("ASC", "DESC"):
                connection.execute(f"SELECT * FROM {table} ORDER BY {key} {order} LIMIT 1").fetchall()  # noqa: S608
        connection.execute("SELECT state, count(*) FROM deliveries GROUP BY state").fetchall()
        connection.execute("SELECT id FROM mails WHERE state IN ('received', 'replay') LIMIT 1").fetchall()

    def look_through(self, seconds: float) -> None:
        """Look for damage on every page, for at most so long, the tables that matter most first. For a thread.

        What is found is reported as any damage is.
        """
        end = time.monotonic() + seconds
        # A connection of its own, which nobody closes while it is asked whether to go on.
        with contextlib.closing(sqlite3.connect(self.folder / FILE, timeout=30)) as connection:
            connection.execute("PRAGMA query_only = ON")
            connection.set_progress_handler(lambda: self._closing or time.monotonic() > end, 100_000)
            try:
                for table in ("mails", "deliveries", "events", "devices", "contents"):
                    found = connection.execute(f"PRAGMA quick_check('{table}')").fetchone()[0]
                    if found != "ok":
                        self._report(found.replace("\n", " "))
                        return
            except sqlite3.DatabaseError as error:
                self._met(error)

    def _report(self, damage: str) -> None:
        if self.damaged:
            self.damaged(damage)

    def _take_lock(self) -> None:
        self._lock = (self.folder / LOCK).open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise StoreBroken(
                f"{self.folder}: another gateway already runs with this data folder. "
                "Stop it, or give this one another folder with --data."
            ) from None

    def connect(self) -> sqlite3.Connection:
        """A connection for writing; the caller closes it."""
        path = self.folder / FILE
        new = not _size(path)
        connection = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
        try:
            if new:
                path.chmod(0o600)
                connection.execute(f"PRAGMA page_size = {_PAGE}")  # before the next, which makes the file
                connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA temp_store = MEMORY")  # or larger statements need a file in a folder of others
            connection.execute("PRAGMA wal_autocheckpoint = 0")  # the writer's own thread does it
            connection.execute("PRAGMA journal_size_limit = 67108864")
        except BaseException:
            connection.close()
            raise
        return connection

    def _migrate(self, connection: sqlite3.Connection) -> None:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version > len(MIGRATIONS):
            raise StoreBroken(
                f"{self.folder / FILE}: was written by a newer Mailwire (its schema is {version}, this one knows "
                f"{len(MIGRATIONS)}). Update Mailwire, or name another data folder with --data."
            )
        if version == 0 and connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            raise StoreDamaged(f"{self.folder / FILE}: the database has no version. {_AT_THE_NEXT_START}")
        for number in range(version, len(MIGRATIONS)):
            connection.executescript(f"BEGIN; {MIGRATIONS[number]}; PRAGMA user_version = {number + 1}; COMMIT;")

    def start(self) -> None:
        """Start the writer; the running event loop is told of commits."""
        # From the clock, so that a number is not given again after all mails were pruned.
        highest = self.rows("SELECT coalesce(max(seq), 0) FROM mails")[0][0]
        self._last_seq = max(highest, time.time_ns() // 1000)
        self.writer = Writer(self.connect, self._insert, self._changed_elsewhere, self._met)

    async def close(self) -> None:
        """Write what is owed, end the writer, give the folder free."""
        self._closing = True
        if self.writer:
            await self.writer.close()
        if self._lock:
            self._lock.close()
        self._close_readers()

    def _close_readers(self) -> None:
        while self._readers:
            connection, in_use = self._readers.pop()
            connection.interrupt()  # a thread may still read for somebody who has given up waiting
            with in_use:
                connection.close()
        self._local = threading.local()

    def __del__(self) -> None:
        self._close_readers()  # a command that only looks has no better moment

    # --- writing -----------------------------------------------------------------------------------------------

    def keep(self, mail: Mail, done: Callable[[StoreTrouble | None], None]) -> None:
        """Promise: after `done(None)`, called on the event loop, the mail survives a power cut."""
        assert self.writer
        self.writer.keep(mail, done)

    def note(self, statements: Note) -> None:
        """Bookkeeping. `statements` is called on the writer thread, when they are about to be written."""
        assert self.writer
        self.writer.note(statements)

    def note_one(self, sql: str, *values: Any) -> None:
        assert self.writer
        self.writer.note(lambda: ((sql, values),))

    def save_device(self, device_id: str, document: dict[str, Any] | None) -> None:
        """Bookkeeping: what is known of a device (`gateway.registry`); None: it is forgotten."""
        if document is None:
            self.note_one("DELETE FROM devices WHERE id = ?", device_id)
        else:
            text = json.dumps(document)
            self.note_one("INSERT OR REPLACE INTO devices (id, document) VALUES (?, ?)", device_id, text)

    async def flush(self) -> bool:
        """True: all that was given so far has been committed, and readers see it. False: the store can't write now."""
        assert self.writer
        return await self.writer.flush()

    def _insert(self, connection: sqlite3.Connection, batch: Sequence[Mail]) -> None:
        """Rows for all of the batch; a mail's `seq` rises with the order of arrival, and is never given twice."""
        # Another process (`mailwire sendmail`) may have kept one since; who reads in order must not miss ours after it.
        highest = connection.execute("SELECT max(seq) FROM mails").fetchone()[0]
        self._last_seq = max(self._last_seq, highest or 0)
        mails: list[Any] = []
        contents: list[Any] = []
        for mail in batch:
            self._last_seq = mail.seq = self._last_seq + 1
            if not mail.sha256:
                mail.sha256 = hashlib.sha256(mail.content or b"").hexdigest()
            one = mail.envelope
            rcpt_to = f"[{', '.join(map(encode_basestring_ascii, one.rcpt_to))}]"
            mails += (
                *(mail.seq, mail.id, mail.received, one.source, one.peer, one.helo, one.mail_from, rcpt_to),
                *(json.dumps(one.details) if one.details else "{}", mail.size, mail.sha256, mail.state),
            )
            contents += (mail.seq, None if mail.file else mail.content, mail.file)
        for statement in rows_of(_INSERT_MAILS, 12, mails):
            connection.execute(*statement)
        for statement in rows_of("INSERT INTO contents (seq, content, file)", 3, contents):
            connection.execute(*statement)

    def _changed_elsewhere(self) -> None:
        if self.changed_elsewhere:
            self.changed_elsewhere()

    def alter(self, sql: str, values: Sequence[Any] = ()) -> int:
        """One change by a command line beside a running gateway, which notices it within a second. Rows changed."""
        with contextlib.closing(self.connect()) as connection:
            return connection.execute(sql, values).rowcount

    def probe(self) -> None:
        """Write something that changes nothing, to find out whether it can be written again."""
        self.note_one(f"PRAGMA user_version = {len(MIGRATIONS)}")

    # --- reading -----------------------------------------------------------------------------------------------

    @property
    def _reader(self) -> tuple[sqlite3.Connection, threading.Lock]:
        reader: tuple[sqlite3.Connection, threading.Lock] | None = getattr(self._local, "reader", None)
        if reader is None:
            connection = sqlite3.connect(self.folder / FILE, timeout=30, isolation_level=None, check_same_thread=False)
            reader = connection, threading.Lock()
            self._readers.append(reader)
            connection.execute("PRAGMA query_only = ON")
            self._local.reader = reader
        return reader

    def rows(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        connection, in_use = self._reader
        try:
            with in_use:
                return connection.execute(sql, values).fetchall()
        except sqlite3.DatabaseError as error:
            self._met(error)
            raise

    def _met(self, error: Exception) -> None:
        if is_damage(error):
            self._report(str(error))

    _MAIL = "SELECT m.seq, id, received, source, peer, helo, mail_from, rcpt_to, details, size, sha256, state, file"

    def mail(self, mail_id: str) -> Mail | None:
        found = self.rows(f"{self._MAIL} FROM mails m JOIN contents c ON c.seq = m.seq WHERE id = ?", mail_id)
        return _mail(found[0]) if found else None

    def mails(self, limit: int = 100, before: int | None = None) -> list[Mail]:
        """The newest first; `before` is the `seq` where the page before this one ended."""
        sql = f"{self._MAIL} FROM mails m JOIN contents c ON c.seq = m.seq WHERE m.seq < ? ORDER BY m.seq DESC LIMIT ?"
        return [_mail(row) for row in self.rows(sql, before if before is not None else 1 << 62, limit)]

    def open_mails(self, after: int, limit: int) -> list[Mail]:
        """Kept, but not interpreted yet (or to be interpreted once more), in the order of their arrival."""
        sql = (
            f"{self._MAIL} FROM mails m JOIN contents c ON c.seq = m.seq "
            "WHERE state IN ('received', 'replay') AND m.seq > ? ORDER BY m.seq LIMIT ?"
        )
        return [_mail(row) for row in self.rows(sql, after, limit)]

    def content(self, mail: Mail) -> bytes | Spooled:
        """The bytes of a mail as they came (a spooled one as a memory map). Raises LookupError when pruned."""
        if mail.content is not None:
            return mail.content
        if mail.file is None:
            found = self.rows("SELECT content FROM contents WHERE seq = ?", mail.seq)
            if found and found[0][0] is not None:
                return bytes(found[0][0])
            raise LookupError(f"the content of mail {mail.id} is no longer kept")
        try:
            return spooled(self.spool / mail.file)
        except FileNotFoundError:
            raise LookupError(f"the content of mail {mail.id} is no longer kept") from None

    def event(self, event_id: str) -> Event | None:
        found = self.rows("SELECT event FROM events WHERE id = ?", event_id)
        return json.loads(found[0][0]) if found else None

    def events(self, limit: int = 100, *, after: int = 0, device: str | None = None) -> list[tuple[int, Event]]:
        """(seq, event) of the newest `limit` with a seq above `after`, oldest of them first."""
        sql = "SELECT seq, event FROM events WHERE seq > ? AND (? IS NULL OR device = ?) ORDER BY seq DESC LIMIT ?"
        return [(row[0], json.loads(row[1])) for row in reversed(self.rows(sql, after, device, device, limit))]

    def deliveries(
        self, *, target: str | None = None, state: str | None = None, after: str = "", limit: int = 1000
    ) -> list[Delivery]:
        """What is owed (or dead, or expired), by the order of its events; each with its event."""
        sql = (
            f"{self._DELIVERY} WHERE (? IS NULL OR target = ?) AND (? IS NULL OR state = ?) AND d.event > ? "
            "ORDER BY d.event LIMIT ?"
        )
        return [_delivery(row) for row in self.rows(sql, target, target, state, state, after, limit)]

    _DELIVERY = (
        "SELECT d.event, target, state, attempts, due, expires, reason, memo, e.event, e.time FROM deliveries d "
        "LEFT JOIN events e ON e.id = d.event"
    )

    def delivery(self, event_id: str, target: str) -> Delivery | None:
        """None: it is not owed, or not any more."""
        found = self.rows(f"{self._DELIVERY} WHERE target = ? AND d.event = ?", target, event_id)
        return _delivery(found[0]) if found else None

    def queues(self) -> list[tuple[str, str, int, str]]:
        """(target, state, how many, the oldest event) of all deliveries; mails to interpret: target "", state "".

        Its time grows with what is owed. Grouped by target alone, which is the order of the rows: with their states,
        SQLite would have to sort them.
        """
        each = ", ".join(f"sum(state = '{state}'), min(iif(state = '{state}', event, NULL))" for state in _STATES)
        open_ = self.rows("SELECT count(*), coalesce(min(id), '') FROM mails WHERE state IN ('received', 'replay')")
        owed = self.rows(f"SELECT target, {each} FROM deliveries GROUP BY target")  # noqa: S608  # our own words
        found: list[tuple[str, str, int, str]] = [("", "", *open_[0])]
        for target, *columns in owed:
            for state, count, oldest in zip(_STATES, columns[::2], columns[1::2], strict=True):
                if count:
                    found.append((target, state, count, oldest))
        return found

    def owed(self) -> dict[str, int]:
        """How many mails wait to be interpreted, and how many deliveries are waiting, held, dead and expired."""
        return total(self.queues())

    def kept(self) -> tuple[int, int]:
        """(mails, bytes) in the store. Reads the whole table."""
        mails, size = self.rows("SELECT count(*), coalesce(sum(size), 0) FROM mails")[0]
        return mails, size

    def devices(self) -> Iterator[dict[str, Any]]:
        for row in self.rows("SELECT document FROM devices ORDER BY id"):
            yield json.loads(row[0])

    # --- retention ---------------------------------------------------------------------------------------------

    def expire_orphans(self, targets: Sequence[str], now: float) -> None:
        """End what is owed to targets that nobody serves any more, when its time is over; else it is kept for ever."""
        self.note_one(
            "UPDATE deliveries SET state = 'expired', reason = 'there is no such target any more' "
            "WHERE state = 'waiting' AND expires < ? AND target NOT IN (SELECT value FROM json_each(?))",
            now,
            json.dumps(targets),
        )

    async def prune(self, keep_seconds: float, keep_bytes: int) -> int:
        """Drop mails that are too old, or the oldest beyond the size, if nothing is owed for them. How many."""
        oldest = time.time() - keep_seconds
        dropped = 0
        excess = (await asyncio.to_thread(self.kept))[1] - keep_bytes
        while batch := await asyncio.to_thread(self._prunable, oldest, excess):

            def statements(batch: list[tuple[int, str, str | None, int]] = batch) -> Iterator[Statement]:
                seqs, ids = json.dumps([one[0] for one in batch]), json.dumps([one[1] for one in batch])
                yield "DELETE FROM mails WHERE seq IN (SELECT value FROM json_each(?))", (seqs,)
                yield "DELETE FROM contents WHERE seq IN (SELECT value FROM json_each(?))", (seqs,)
                yield from _delete_events(ids)

            self.note(statements)
            if not await self.flush():
                return dropped
            for _, _, file, size in batch:
                excess -= size
                if file:
                    (self.spool / file).unlink(missing_ok=True)
            dropped += len(batch)
        while events := await asyncio.to_thread(self._old_events, oldest):
            ids = json.dumps(events)
            self.note(lambda ids=ids: _delete_events(ids))  # type: ignore[misc]
            if not await self.flush():
                break
        self.note_one("DELETE FROM escalations WHERE event NOT IN (SELECT id FROM events)")
        return dropped

    def _prunable(self, oldest: float, excess: int) -> list[tuple[int, str, str | None, int]]:
        """The next (seq, id, file, size) to drop: a few, because mails wait while they are dropped."""
        sql = (
            "SELECT m.seq, id, file, size, received FROM mails m JOIN contents c ON c.seq = m.seq "  # noqa: S608
            f"WHERE m.state NOT IN ('received', 'replay') AND id NOT IN ({_OWED}) ORDER BY m.seq LIMIT 100"
        )
        batch = []
        for *mail, received in self.rows(sql):
            if received >= oldest and excess <= 0:
                break
            batch.append((mail[0], mail[1], mail[2], mail[3]))
            excess -= mail[3]
        return batch

    def _old_events(self, oldest: float) -> list[str]:
        """The next ids to drop of events that no mail takes with it, in the order of their making.

        Looked for here, and only as far as there are old ones: the writer would read all that is kept.
        """
        sql = f"SELECT id, time FROM events WHERE id NOT IN ({_OWED}) ORDER BY seq LIMIT 100"  # noqa: S608
        return [event_id for event_id, _ in takewhile(lambda row: row[1] < oldest, self.rows(sql))]

    def sweep_spool(self) -> int:
        """At start: remove spool files that no mail owns (left by a crash before their commit). How many."""
        owned = {row[0] for row in self.rows("SELECT file FROM contents WHERE file IS NOT NULL")}
        strays = [path for path in self.spool.iterdir() if path.name not in owned]
        for path in strays:
            path.unlink(missing_ok=True)
        return len(strays)


def _delete_events(ids: str) -> Iterator[Statement]:
    """With what is known of their deliveries; `ids`: a list as JSON."""
    yield "DELETE FROM deliveries WHERE event IN (SELECT value FROM json_each(?))", (ids,)
    yield "DELETE FROM events WHERE id IN (SELECT value FROM json_each(?))", (ids,)
    yield "PRAGMA incremental_vacuum(1000)", ()


def gateway_runs(folder: Path) -> bool:
    """Does a gateway hold this folder's lock?"""
    try:
        with (folder / LOCK).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def is_damage(error: Exception) -> bool:
    """Does SQLite say that the file itself is wrong, rather than the disk, a lock or a statement?"""
    return getattr(error, "sqlite_errorname", "").startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB"))


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def sync_folder(folder: Path) -> None:
    """Make the names in it durable: those of new files and folders are not, else, when these are. Or a file's bytes."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def total(queues: list[tuple[str, str, int, str]]) -> dict[str, int]:
    """Of `Store.queues`, for all targets together."""
    words = {"": "uninterpreted"}
    totals = dict.fromkeys(("uninterpreted", *_STATES), 0)
    for _, state, count, _ in queues:
        totals[words.get(state, state)] += count
    return totals


def rows_of(head: str, width: int, values: Sequence[Any]) -> Iterator[Statement]:
    """`head VALUES (?, …), (?, …)` for rows of so many values, one after the other.

    A statement for each row would take the interpreter lock once for each.
    """
    for start in range(0, len(values), _ROWS * width):
        some = values[start : start + _ROWS * width]
        yield _insertion(head, width, len(some) // width), some


@lru_cache(maxsize=256)
def _insertion(head: str, width: int, rows: int) -> str:
    marks = f"({', '.join('?' * width)})"
    return f"{head} VALUES {', '.join([marks] * rows)}"


def _mail(row: tuple[Any, ...]) -> Mail:
    seq, mail_id, received, source, peer, helo, mail_from, rcpt_to, details, size, sha256, state, file = row
    envelope = Envelope(source, peer, helo, mail_from, json.loads(rcpt_to), json.loads(details))
    return Mail(mail_id, received, envelope, size, sha256, state, None, file, seq)


def _delivery(row: tuple[Any, ...]) -> Delivery:
    event_id, target, state, attempts, due, expires, reason, memo, event, made = row
    since = monotonic_of(made or 0.0)
    return Delivery(
        event_id=event_id,
        target=target,
        expires=expires,
        state=state,
        attempts=attempts,
        due=due,
        reason=reason,
        memo=memo,
        event=json.loads(event) if event else None,
        dot=since,
        made=since,
    )
