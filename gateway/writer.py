"""The only one that writes to the store: group commit in front of one thread with one connection.

Two kinds of writing. A **promise** (a mail) is committed with `synchronous=FULL` before anyone is told. **Bookkeeping**
(events, deliveries, devices) follows in a transaction without an fsync of its own: if the power goes before the next
promise's fsync, the mail that it came from is still `received` and is interpreted again, with the same id.

Mails that come together share one commit, since a commit costs about the same for one as for ten. So the event loop
gathers them, and hands them over when the thread is free and nobody is about to finish another one; it waits for those
no longer than the last commits took, a millisecond at most (what PostgreSQL calls commit_delay and commit_siblings).
Bookkeeping is handed over in pieces, so that no promise waits long behind it.

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
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from gateway.api import StoreFull, StoreTrouble
from gateway.stats import COUNTS, Histogram

log = logging.getLogger(__name__)

Statement = tuple[str, Sequence[Any]]
Note = Callable[[], Iterable[Statement]]
"""Bookkeeping, worked out on the writer thread when it is about to be written."""

_BOOKKEEPING_WAIT = 0.02  # seconds that bookkeeping gathers before it is written
_AGAIN = 1.0  # seconds before bookkeeping that could not be written is tried again
_LOOK_ROUND = 1.0  # seconds between looks for changes that another process made
_MOST_MAILS = 500  # in one commit
_MOST_BYTES = 8 * 1024 * 1024
_MOST_NOTES = 100  # in one transaction
_LONGEST_WAIT = 0.001  # seconds that a promise waits for others
_CHECKPOINT_EVERY = 4 * 1024 * 1024  # bytes written (about) between two checkpoints
_WAL_PAGES = 4000  # 16 MiB: from here on the log is begun anew as soon as it can be


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
        self._mails: list[tuple[Promise, Callable[[StoreTrouble | None], None]]] = []
        self._bytes = 0
        self._notes: list[Note] = []
        self._flushes: list[asyncio.Future[bool]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._looking = False
        self._since = 0.0  # when the oldest promise that waits was given
        self._busy = False
        self._took = 0.0  # seconds of a commit, smoothed
        self.trouble: StoreTrouble | None = None  # why the newest write failed, if it did
        self.commits = Histogram()  # seconds that a commit of mails took, its fsync included
        self.batches = Histogram(COUNTS)  # mails in it
        self._synchronous = ""
        self._work: queue.SimpleQueue[tuple[list[Any], list[Note], list[asyncio.Future[bool]]] | None] = (
            queue.SimpleQueue()
        )
        self._thread = threading.Thread(target=self._run, args=(connect(),), name="store", daemon=True)
        self._checkpoints = _Checkpoints(connect)
        self._thread.start()

    # --- on the event loop -------------------------------------------------------------------------------------

    def keep(self, mail: Promise, done: Callable[[StoreTrouble | None], None]) -> None:
        """After `done(None)` the mail survives a power cut; else `done` says why it does not."""
        self._mails.append((mail, done))
        self._bytes += mail.size
        if not self._looking and not self._busy:
            self._looking = True
            self._since = time.perf_counter()
            self._loop.call_soon(self._look)

    def note(self, note: Note) -> None:
        self._notes.append(note)
        if self._timer is None:
            self._timer = self._loop.call_later(_BOOKKEEPING_WAIT, self._note_time)

    async def flush(self) -> bool:
        """True: all that was given so far has been committed, and readers see it. False: it can't be written now."""
        future: asyncio.Future[bool] = self._loop.create_future()
        self._flushes.append(future)
        if not self._busy:
            self._hand_over()
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
        self._work.put(None)
        await asyncio.to_thread(self._thread.join)
        await asyncio.to_thread(self._checkpoints.close)

    def _note_time(self) -> None:
        self._timer = None
        if not self._busy:
            self._hand_over()

    def _look(self) -> None:
        """Is it time to commit? Looked at once a turn of the loop, so the mails that are coming get their turn."""
        patience = min(self._took, _LONGEST_WAIT)
        full = len(self._mails) >= _MOST_MAILS or self._bytes >= _MOST_BYTES
        others = self.coming() > len(self._mails)
        if others and not (self._busy or full) and time.perf_counter() - self._since < patience:
            self._loop.call_soon(self._look)
            return
        self._looking = False
        if not self._busy:
            self._hand_over()

    def _hand_over(self) -> None:
        mails, notes, flushes = self._mails, self._notes[:_MOST_NOTES], []
        if self._bytes > _MOST_BYTES or len(mails) > _MOST_MAILS:
            mails = self._some()
        self._mails = self._mails[len(mails) :]
        self._bytes -= sum(mail.size for mail, _ in mails) if self._mails else self._bytes
        self._notes = self._notes[_MOST_NOTES:]
        if not self._mails and not self._notes:
            flushes, self._flushes = self._flushes, []
        self._busy = True
        self._work.put((mails, notes, flushes))

    def _some(self) -> list[tuple[Promise, Callable[[StoreTrouble | None], None]]]:
        """As many as one commit takes."""
        size = count = 0
        while size < _MOST_BYTES and count < min(len(self._mails), _MOST_MAILS):
            size += self._mails[count][0].size
            count += 1
        return self._mails[:count]

    def _told(self, mails: Sequence[Any], trouble: StoreTrouble | None, took: float) -> None:
        self._took += (took - self._took) / 8
        for _, done in mails:
            try:
                done(trouble)
            except Exception:  # the others must be told all the same
                log.exception("a mail's sender could not be told what became of it")

    def _free(
        self,
        told: tuple[Sequence[Any], StoreTrouble | None, float] | None,
        left: list[Note],
        flushes: list[asyncio.Future[bool]],
    ) -> None:
        """The thread is done with what it had; `left` is bookkeeping that could not be written."""
        if told:
            self._told(*told)
        self._busy = False
        for future in flushes:
            if not future.done():
                future.set_result(not left)
        if left:
            self._notes = left + self._notes
            waiting, self._flushes = self._flushes, []
            for future in waiting:
                if not future.done():
                    future.set_result(False)
        if self._mails:
            if not self._looking:
                self._looking = True
                self._since = time.perf_counter()
                self._look()
        elif self._flushes or (self._notes and not left and self._timer is None):
            self._hand_over()
        elif left and self._timer is None:
            self._timer = self._loop.call_later(_AGAIN, self._note_time)

    # --- on the thread -----------------------------------------------------------------------------------------

    def _run(self, connection: sqlite3.Connection) -> None:
        version = connection.execute("PRAGMA data_version").fetchone()[0]
        looked = time.monotonic()
        while True:
            try:
                work = self._work.get(timeout=_LOOK_ROUND)
            except queue.Empty:
                pass
            else:
                if work is None:
                    break
                mails, notes, flushes = work
                told = self._promise(connection, mails) if mails else None
                if told and notes:  # who waits for a promise does not wait for bookkeeping
                    self._tell(self._told, *told)
                    told = None
                self._tell(self._free, told, self._write(connection, notes) if notes else [], flushes)
            if time.monotonic() - looked >= _LOOK_ROUND:
                looked = time.monotonic()
                with contextlib.suppress(sqlite3.Error, MemoryError):
                    seen = connection.execute("PRAGMA data_version").fetchone()[0]
                    if seen != version:
                        self._tell(self._changed_elsewhere)
                    version = seen
        connection.close()

    def _promise(
        self, connection: sqlite3.Connection, mails: Sequence[Any]
    ) -> tuple[Sequence[Any], StoreTrouble | None, float]:
        """What is to be told of it."""
        began = time.perf_counter()
        error = self._transaction(connection, "FULL", lambda: self._insert(connection, [mail for mail, _ in mails]))
        took = time.perf_counter() - began
        if error is None:
            self.commits.observe(took)
            self.batches.observe(len(mails))
        self._checkpoints.wrote(sum(mail.size for mail, _ in mails))
        return mails, trouble_of(error) if error else None, took

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
        for note in notes:
            try:
                connection.execute("BEGIN IMMEDIATE")
                _carry_out(connection, [note])
                connection.execute("COMMIT")
            except Exception:  # a fault of ours, whatever it is
                log.exception("bookkeeping was dropped")
                with contextlib.suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
        return []

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
