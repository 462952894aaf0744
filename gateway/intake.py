"""The one durable front door for raw mail: write chunks, commit, and only then may the caller say 250.

A small mail is held in memory and goes into the store's row; beyond 256 KiB (less when many mails are under way) it
is written to a file while it comes in, so that memory does not grow with its size. Nothing here waits on the event
loop: `commit` calls back, and once it was called nobody who hangs up can cancel it. In a flood it calls back a moment
late, so that events keep up.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any

from gateway.api import Envelope, StoreFull, StoreTrouble
from gateway.stats import Histogram
from gateway.store import Mail, Store, sync_folder
from gateway.ulid import UlidMaker
from gateway.writer import trouble_of

SPOOL_ABOVE = 256 * 1024  # bytes of one mail held in memory
CROWDED = 8 * 1024 * 1024  # bytes of all mails under way; above it, mails of more than 16 KiB are spooled
_CROWDED_ABOVE = 16 * 1024
_TINY, _JOINED = 512, 4096  # bytes of a chunk that is joined to the one before it, and of that one
_PIECE = 64 * 1024  # bytes handed to the disk at a time
_HIGH_WATER = 128 * 1024  # bytes waiting for the disk, at which the sender is asked to pause
_FLOOD = 32  # mails that wait to be interpreted
_EASE, _LONGEST_EASE = 0.0001, 0.1  # seconds for each of them, and at most


class Intake:
    """Implements `gateway.api.Intake` over the store. `arrived` is told of each mail that is durable."""

    def __init__(self, store: Store, arrived: Callable[[Mail], None], reserve: int) -> None:
        self.store = store
        self.arrived = arrived
        self.reserve = reserve
        self.begun: Callable[[Mail], None] = lambda _: None
        """Told of each mail that is whole, while it is being written; `arrived` may follow."""
        self.behind: Callable[[], int] = lambda: 0
        """How many mails wait to be interpreted."""
        self.held = 0
        self.coming = 0
        self.new_id = UlidMaker().new
        self.loop = asyncio.get_running_loop()
        self.disk = ThreadPoolExecutor(2, "spool")
        self.received: Counter[str] = Counter()  # source -> mails
        self.bytes: Counter[str] = Counter()
        self.not_kept: Counter[str] = Counter(disk_full=0, store_trouble=0)  # why -> mails
        self.receiving = Histogram()  # first byte to final dot
        self.storing = Histogram()  # final dot to durable
        both = threading.Barrier(2)
        for _ in range(2):  # started now: when a mail needs one, there may be no memory for it
            self.disk.submit(both.wait)
        self._room = (0.0, 0)
        if store.writer:
            store.writer.coming = lambda: self.coming

    def begin(self, on_drain: Callable[[], None] | None = None) -> Receipt:
        return Receipt(self, on_drain)

    def room(self) -> int:
        now = time.monotonic()
        if now - self._room[0] >= 1:
            try:
                free = shutil.disk_usage(self.store.folder).free
            except OSError:
                free = 0
            self._room = (now, max(0, free - self.reserve))
        return self._room[1]

    def ease(self) -> float:
        """Seconds that a sender waits for its 250 once its mail is durable: in a flood about as long as its event does.

        So events keep up with whoever waits for an answer before the next mail, and an alarm is not told late. It is
        never long: an interpreter that stands still must not keep mails out.
        """
        behind = self.behind()
        return min(behind * _EASE, _LONGEST_EASE) if behind > _FLOOD else 0.0

    def note(self, mail: Mail) -> None:
        """It was kept."""
        source = mail.envelope.source
        self.received[source] += 1
        self.bytes[source] += mail.size
        self.receiving.observe(mail.dot - mail.began)
        self.storing.observe(mail.kept - mail.dot)

    def close(self) -> None:
        self.disk.shutdown(cancel_futures=True)


class Receipt:
    """One mail on its way in; see `gateway.api.Receipt`."""

    __slots__ = (
        "_aborted",
        "_began",
        "_busy",
        "_chunks",
        "_commit",
        "_dot",
        "_file",
        "_hash",
        "_intake",
        "_name",
        "_on_drain",
        "_paused",
        "_pending",
        "_size",
        "_trouble",
    )

    def __init__(self, intake: Intake, on_drain: Callable[[], None] | None) -> None:
        self._intake = intake
        self._on_drain = on_drain
        self._chunks: list[bytes] = []
        self._pending = 0
        self._size = 0
        self._began = self._dot = 0.0
        self._file: IO[bytes] | None = None
        self._name = ""
        self._hash: Any = None
        self._aborted = False
        self._busy = False
        self._paused = False
        self._trouble: StoreTrouble | None = None
        self._commit: tuple[Envelope, Callable[[str, StoreTrouble | None], None]] | None = None

    def write(self, chunk: bytes) -> bool:
        if not self._size:
            self._began = time.monotonic()
        length = len(chunk)
        intake = self._intake
        if length < _TINY and self._chunks and len(self._chunks[-1]) < _JOINED:
            self._chunks[-1] += chunk  # a mail may come byte by byte, and an object of its own is many times a byte
        else:
            self._chunks.append(chunk)
        self._pending += length
        self._size += length
        intake.held += length
        if self._name:
            self._pump(_PIECE)
        elif self._pending > SPOOL_ABOVE or (intake.held > CROWDED and self._pending > _CROWDED_ABOVE):
            self._name = intake.new_id() + ".eml"
            self._pump(0)
        self._paused = self._busy and self._pending >= _HIGH_WATER
        return not self._paused

    def commit(self, envelope: Envelope, done: Callable[[str, StoreTrouble | None], None]) -> None:
        self._dot = time.monotonic()
        self._commit = (envelope, done)
        if not self._name:
            self._keep()
        elif not self._busy:
            self._pump(0)

    def abort(self) -> None:
        self._aborted = True
        if not self._busy:
            self._discard()

    # --- the file ----------------------------------------------------------------------------------------------

    def _pump(self, at_least: int) -> None:
        """Hand what has gathered to the disk thread, one hand-over at a time so that the order holds."""
        if self._busy or (self._pending < at_least and not self._commit):
            return
        chunks, self._chunks = self._chunks, []
        last = self._commit is not None
        self._busy = True
        future = self._intake.disk.submit(self._write_out, chunks, last)
        loop = self._intake.loop
        written = self._pending
        future.add_done_callback(lambda _: loop.call_soon_threadsafe(self._written, written, last))

    def _write_out(self, chunks: list[bytes], last: bool) -> None:
        """On the disk thread. Trouble is remembered, and answered at the end of the mail."""
        if self._trouble:
            return
        try:
            if self._file is None:
                path = self._intake.store.spool / self._name
                descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                self._file = os.fdopen(descriptor, "wb", buffering=0)
                self._hash = hashlib.sha256()
            for chunk in chunks:
                self._hash.update(chunk)
                view = memoryview(chunk)
                while view:
                    view = view[self._file.write(view) :]
            if last:
                os.fsync(self._file.fileno())
                self._file.close()
                sync_folder(self._intake.store.spool)  # the file's name must survive as well
        except Exception as error:  # noqa: BLE001  # no memory, say: whatever it is, this mail is not on disk
            self._trouble = trouble_of(error)
            self._remove()

    def _written(self, count: int, last: bool) -> None:
        self._busy = False
        self._pending -= count
        self._intake.held -= count
        if self._aborted:
            self._discard()
        elif last:
            self._keep()
        elif self._commit:
            self._pump(0)
        elif self._paused and self._pending < _HIGH_WATER:
            self._paused = False
            self._pump(_PIECE)
            if self._on_drain:
                self._on_drain()
        else:
            self._pump(_PIECE)

    def _remove(self) -> None:
        if self._file:
            self._file.close()
        (self._intake.store.spool / self._name).unlink(missing_ok=True)

    def _discard(self) -> None:
        self._drop()
        if self._name:
            self._remove()  # here, not on the disk thread: it is rare, and there may be no disk thread any more

    def _drop(self) -> None:
        self._intake.held -= self._pending
        self._pending = 0
        self._chunks = []

    # --- the row -----------------------------------------------------------------------------------------------

    def _keep(self) -> None:
        assert self._commit
        envelope, done = self._commit
        intake = self._intake
        if self._trouble:
            self._drop()
            self._failed(self._trouble, done)
            return
        if intake.room() < self._pending:
            self._drop()
            self._failed(StoreFull("the disk is full"), done)
            return
        content = None
        if not self._name:
            content = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        digest = self._hash.hexdigest() if self._hash else ""
        mail = Mail(
            id=intake.new_id(),
            received=time.time(),
            envelope=envelope,
            size=self._size,
            sha256=digest,
            content=content,
            file=self._name or None,
            began=self._began or self._dot,
            dot=self._dot,
        )

        def kept(trouble: StoreTrouble | None) -> None:
            if trouble is None:
                mail.kept = time.monotonic()
                self._drop()
                if ease := intake.ease():
                    intake.loop.call_later(ease, done, mail.id, None)
                else:
                    done(mail.id, None)
                intake.note(mail)
                intake.arrived(mail)
            else:
                self._discard()
                self._failed(trouble, done)

        intake.store.keep(mail, kept)
        intake.begun(mail)

    def _failed(self, trouble: StoreTrouble, done: Callable[[str, StoreTrouble | None], None]) -> None:
        self._intake.not_kept["disk_full" if isinstance(trouble, StoreFull) else "store_trouble"] += 1
        done("", trouble)
