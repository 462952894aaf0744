"""The only one that writes to the store: group commit in front of one thread with one connection.

Two kinds of writing. A **promise** (a mail) is committed with `synchronous=FULL` before anyone is told. **Bookkeeping**
(events, deliveries, devices) follows in a transaction without an fsync of its own: if the power goes before the next
promise's fsync, the mail that it came from is still `received` and is interpreted again, with the same id.

Mails that come together share one commit, since a commit costs about the same for one as for ten. The event loop puts
them in line, and wakes the thread as soon as nobody is about to finish another one, or after a millisecond (what
PostgreSQL calls commit_delay and commit_siblings). The thread takes all that are in line, and when these are on disk it
takes the next ones without asking back. Bookkeeping is taken in pieces, so that no promise waits long behind it.

Checkpoints run on a thread of their own, because they take two fsyncs and a long copy: SQLite's automatic ones would
make some promise wait for them (https://sqlite.org/wal.html, "Checkpointing").
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TypeVar

from gateway.api import StoreFull, StoreTrouble
from gateway.stats import COUNTS, Histogram

log = logging.getLogger(__name__)

_T = TypeVar("_T")

Statement = tuple[str, Sequence[Any]]
Note = Callable[[], Iterable[Statement]]
"""Bookkeeping, worked out on the writer thread when it is about to be written."""

_BOOKKEEPING_WAIT = 0.02  # seconds that bookkeeping gathers before it is written
_AGAIN = 1.0  # seconds before bookkeeping that could not be written is tried again
_LOOK_ROUND = 1.0  # seconds between looks for changes that another process made
_MOST_MAILS = 500  # in one commit
_MOST_BYTES = 8 * 1024 * 1024
_MOST_NOTES = 100  # in one transaction
_PATIENCE = 0.001  # seconds that a promise waits for others
_CHECKPOINT_EVERY = 4 * 1024 * 1024  # bytes written (about) between two checkpoints
_WAL_PAGES = 2000  # 16 MiB: from here on the log is begun anew as soon as it can be


class Promise(Protocol):
    """What is to be made durable (`gateway.store.Mail`)."""

    size: int


class Writer:
    """Takes promises and bookkeeping on the event loop, and tells there what has become of them."""

    def __init__(
        self,
        connect: Callable[[], sqlite3.Connection],
        insert: Callable[[sqlite3.Connection, Sequence[Any]], None],
        changed_elsewhere: Callable[[], None],
        met: Callable[[Exception], None] = lambda _: None,
    ) -> None:
        self.coming: Callable[[], int] = lambda: 0
        """How many mails have begun and are not answered, those that wait here among them."""
        self._connect, self._insert, self._changed_elsewhere = connect, insert, changed_elsewhere
        self._met = met  # told of each failure, on the thread
        self._loop = asyncio.get_running_loop()
        # What is in line: the loop puts it at the right end, the thread takes it from the left.
        self._mails: deque[tuple[Promise, Callable[[StoreTrouble | None], None]]] = deque()
        self._notes: deque[Note] = deque()
        self._flushes: deque[asyncio.Future[bool]] = deque()
        self._due = False  # bookkeeping has gathered long enough
        self._called = False  # the thread is to look what is in line, and has not begun to
        self._calls: queue.SimpleQueue[bool] = queue.SimpleQueue()  # False: for the last time
        # The loop's own.
        self._untold = 0  # mails that were given here, and nobody was told yet what became of them
        self._slow = 0  # mails that were waited for in vain
        self._looking = False
        self._patience: asyncio.TimerHandle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.trouble: StoreTrouble | None = None  # why the newest write failed, if it did
        self.commits = Histogram()  # seconds that a commit of mails took, its fsync included
        self.batches = Histogram(COUNTS)  # mails in it
        self._synchronous = ""
        self._thread = threading.Thread(target=self._run, args=(connect(),), name="store", daemon=True)
        self._checkpoints = _Checkpoints(connect)
        self._thread.start()

    # --- on the event loop -------------------------------------------------------------------------------------

    def keep(self, mail: Promise, done: Callable[[StoreTrouble | None], None]) -> None:
        """After `done(None)` the mail survives a power cut; else `done` says why it does not."""
        self._mails.append((mail, done))
        self._untold += 1
        if not self._looking:
            self._looking = True
            self._loop.call_soon(self._look)

    def note(self, note: Note) -> None:
        self._notes.append(note)
        if self._timer is None:
            self._timer = self._loop.call_later(_BOOKKEEPING_WAIT, self._note_time)

    async def flush(self) -> bool:
        """True: all that was given so far has been committed, and readers see it. False: it can't be written now."""
        future: asyncio.Future[bool] = self._loop.create_future()
        self._flushes.append(future)
        self._call()
        return await future

    @property
    def runs(self) -> bool:
        """Is its thread there? Else nothing is ever written again."""
        return self._thread.is_alive()

    async def close(self) -> None:
        """Write what is owed, and end the threads."""
        if self._timer is not None:
            self._timer.cancel()
        while self._mails or self._notes:
            if not await self.flush() and self._notes:
                log.error("bookkeeping could not be written; what it is about will be worked out again")
                break
        self._calls.put(False)
        await asyncio.to_thread(self._thread.join)
        await asyncio.to_thread(self._checkpoints.close)

    def _look(self) -> None:
        """Is it time to commit? Looked at once a turn of the loop in which mails came."""
        self._looking = False
        others = max(0, self.coming() - self._untold)
        self._slow = min(self._slow, others)
        if others == self._slow:
            self._call()
        elif self._patience is None:
            self._patience = self._loop.call_later(_PATIENCE, self._waited)

    def _waited(self) -> None:
        """Long enough. A mail that takes its time is waited for once."""
        self._slow = max(0, self.coming() - self._untold)
        self._call()

    def _call(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
        if not self._called:
            self._called = True
            self._calls.put(True)

    def _note_time(self) -> None:
        self._timer = None
        self._due = True
        self._call()

    def _told(self, mails: Sequence[Any], trouble: StoreTrouble | None) -> None:
        self._untold -= len(mails)
        for _, done in mails:
            try:
                done(trouble)
            except Exception:  # the others must be told all the same
                log.exception("a mail's sender could not be told what became of it")

    def _flushed(self, flushes: Sequence[asyncio.Future[bool]], written: bool) -> None:
        for future in flushes:
            if not future.done():
                future.set_result(written)
        if not written and self._timer is None:
            self._timer = self._loop.call_later(_AGAIN, self._note_time)

    # --- on the thread -----------------------------------------------------------------------------------------

    def _run(self, connection: sqlite3.Connection) -> None:
        version = connection.execute("PRAGMA data_version").fetchone()[0]
        looked = time.monotonic()
        goes_on = True
        while goes_on:
            with contextlib.suppress(queue.Empty):
                goes_on = self._calls.get(timeout=_LOOK_ROUND)
                while self._round(connection):
                    pass
            if time.monotonic() - looked >= _LOOK_ROUND:
                looked = time.monotonic()
                with contextlib.suppress(sqlite3.Error, MemoryError):
                    seen = connection.execute("PRAGMA data_version").fetchone()[0]
                    if seen != version:
                        self._tell(self._changed_elsewhere)
                    version = seen
        connection.close()

    def _round(self, connection: sqlite3.Connection) -> bool:
        """Write what is in line. True: that was more than is written at a time, so it must be called again."""
        self._called = False  # first, so that what comes behind our back has its own call
        flushes, mails = _taken(self._flushes), self._some_mails()
        notes: list[Note] = []
        if self._due or flushes:
            self._due = False
            notes = _taken(self._notes, _MOST_NOTES)
            if self._notes:
                self._due = True
        rest = bool(self._mails) or self._due
        if rest:  # a flush waits for all that came before it
            self._flushes.extendleft(reversed(flushes))
            flushes = []
        if mails:  # who waits for a promise does not wait for bookkeeping
            self._tell(self._told, mails, self._promise(connection, mails))
        if notes and (left := self._write(connection, notes)):
            self._notes.extendleft(reversed(left))
            self._due = False
            self._tell(self._flushed, _taken(self._flushes) + flushes, False)
            return bool(self._mails)
        if flushes:
            self._tell(self._flushed, flushes, True)
        return rest

    def _some_mails(self) -> list[tuple[Promise, Callable[[StoreTrouble | None], None]]]:
        """As many of those in line as one commit takes."""
        mails: list[tuple[Promise, Callable[[StoreTrouble | None], None]]] = []
        size = 0
        while self._mails and len(mails) < _MOST_MAILS and size < _MOST_BYTES:
            mails.append(self._mails.popleft())
            size += mails[-1][0].size
        return mails

    def _promise(self, connection: sqlite3.Connection, mails: Sequence[Any]) -> StoreTrouble | None:
        """Why they could not be kept."""
        began = time.perf_counter()
        error = self._transaction(connection, "FULL", lambda: self._insert(connection, [mail for mail, _ in mails]))
        if error is None:
            self.commits.observe(time.perf_counter() - began)
            self.batches.observe(len(mails))
        self._checkpoints.wrote(sum(mail.size for mail, _ in mails))
        return trouble_of(error) if error else None

    def _write(self, connection: sqlite3.Connection, notes: list[Note]) -> list[Note]:
        """All of them in one transaction. Returns those that are still owed (the disk was full, say)."""
        error = self._transaction(connection, "NORMAL", lambda: _carry_out(connection, notes))
        self._checkpoints.wrote(4096 * len(notes))
        if error is None:
            return []
        return notes if _may_pass(error) else self._one_by_one(connection, notes)

    def _transaction(
        self, connection: sqlite3.Connection, synchronous: str, write: Callable[[], None]
    ) -> Exception | None:
        """All of it, or nothing and why."""
        try:
            self._checkpoints.finish(connection)
            if synchronous != self._synchronous:
                connection.execute(f"PRAGMA synchronous = {synchronous}")
                self._synchronous = synchronous
            connection.execute("BEGIN IMMEDIATE")
            write()
            connection.execute("COMMIT")
        except Exception as error:  # noqa: BLE001  # whatever it is: a writer that ends would keep no mail any more
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            if not self.trouble:  # once when it begins, once when it is over
                log.error("the store can't write: %s", error)
            self.trouble = trouble_of(error)
            self._met(error)
            return error
        if self.trouble:
            log.info("the store can write again")
        self.trouble = None
        return None

    def _one_by_one(self, connection: sqlite3.Connection, notes: Iterable[Note]) -> list[Note]:
        """Bookkeeping that SQLite refuses for what it says (a fault of ours) must not hold up the rest for ever."""
        left: list[Note] = []
        for note in notes:
            if left:  # they are written in their order
                left.append(note)
                continue
            try:
                connection.execute("BEGIN IMMEDIATE")
                _carry_out(connection, [note])
                connection.execute("COMMIT")
            except Exception as error:  # a fault of ours, whatever it is; or the disk, meanwhile
                with contextlib.suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
                if _may_pass(error):
                    left.append(note)
                else:
                    log.exception("bookkeeping was dropped")
        return left

    def _tell(self, call: Callable[..., None], *words: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to be told
            self._loop.call_soon_threadsafe(call, *words)


class _Checkpoints:
    """Moves what was committed from the log into the database, while the writer goes on writing."""

    def __init__(self, connect: Callable[[], sqlite3.Connection]) -> None:
        self._connect = connect
        self._written = 0
        self._long = False  # the log is long, and all but its newest pages are moved
        self._due = threading.Event()
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="checkpoints", daemon=True)
        self._thread.start()

    def wrote(self, size: int) -> None:
        """About so many bytes were written."""
        self._written += size + 16 * 1024  # with the pages that any commit touches
        if self._written >= _CHECKPOINT_EVERY:
            self._written = 0
            self._due.set()

    def finish(self, connection: sqlite3.Connection) -> None:
        """By the writer, before it begins: the log begins anew only when the very last page of it is moved."""
        if self._long:
            self._long = False
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def close(self) -> None:
        self._ended = True
        self._due.set()
        self._thread.join()

    def _run(self) -> None:
        connection = self._connect()
        while not self._ended:
            self._due.wait()
            self._due.clear()
            try:
                mode = "TRUNCATE" if self._ended else "PASSIVE"
                _, pages, moved = connection.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
                self._long = pages >= _WAL_PAGES and pages - moved < _WAL_PAGES // 4
            except sqlite3.Error as error:
                log.debug("no checkpoint now: %s", error)  # the log grows; the writer says what is wrong
        connection.close()


def _taken(line: deque[_T], most: int | None = None) -> list[_T]:
    """The first ones, which are in line no more."""
    return [line.popleft() for _ in range(len(line) if most is None else min(most, len(line)))]


def _carry_out(connection: sqlite3.Connection, notes: Iterable[Note]) -> None:
    for note in notes:
        for sql, values in note():
            connection.execute(sql, values)


def trouble_of(error: Exception) -> StoreTrouble:
    """What a failed write means to the one who waits: the disk is full, or something else for now."""
    text = str(error)
    full = getattr(error, "sqlite_errorname", "") == "SQLITE_FULL" or getattr(error, "errno", 0) in (28, 122)
    return StoreFull("the disk is full") if full else StoreTrouble(text)


def _may_pass(error: Exception) -> bool:
    """Is it the disk, or a lock, rather than what was to be written?"""
    name = getattr(error, "sqlite_errorname", "")
    return isinstance(error, OSError | MemoryError) or name.startswith(
        ("SQLITE_FULL", "SQLITE_IOERR", "SQLITE_BUSY", "SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_CORRUPT")
    )
