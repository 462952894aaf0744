"""Keeps mail as the gateway does: SQLite, WAL, synchronous=FULL, one writer thread, all that wait in one commit."""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterable
from typing import Any

Row = tuple[str, str | None, str, bytes | str | None]
"""Peer, reverse-path, recipients as JSON, content."""


class Keeper:
    """To be made in the event loop that is told."""

    def __init__(self, path: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: queue.SimpleQueue[tuple[Row, Callable[[], Any]]] = queue.SimpleQueue()
        threading.Thread(target=self._write, args=(path,), daemon=True).start()

    def keep(self, row: Row, done: Callable[[], Any]) -> None:
        """After `done()`, in the event loop, it is kept."""
        self._waiting.put((row, done))

    def _write(self, path: str) -> None:
        database = sqlite3.connect(path, isolation_level=None)
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        database.execute("CREATE TABLE mails (id INTEGER PRIMARY KEY, peer, mail_from, rcpt_to, content)")
        while True:
            batch = [self._waiting.get()]
            while not self._waiting.empty():
                batch.append(self._waiting.get())
            database.execute("BEGIN")
            database.executemany(
                "INSERT INTO mails (peer, mail_from, rcpt_to, content) VALUES (?, ?, ?, ?)", [row for row, _ in batch]
            )
            database.execute("COMMIT")
            self._loop.call_soon_threadsafe(_tell, [done for _, done in batch])


def _tell(waiting: Iterable[Callable[[], Any]]) -> None:
    for done in waiting:
        done()
