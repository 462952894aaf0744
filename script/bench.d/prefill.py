"""Stores that already hold many mails: real mails, taken and interpreted by a real gateway, and then multiplied.

The rows are multiplied in SQL, with ids and times of their own, by looking at what columns there are: this file knows
no more of the gateway's schema than that a mail has the same `seq` in all of its tables.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import servers
from kit import Kit
from load import timed

FILE = "mailwire.db"
TEMPLATE = 1000  # mails that are multiplied
DEVICES = 10
SPAN = 20 * 86400  # seconds that the mails are spread over


def template(kit: Kit, folder: Path) -> Path:
    """The file of a gateway that has taken, interpreted and delivered `TEMPLATE` mails, and has been stopped."""
    broker = servers.mosquitto(kit, folder)
    server = servers.mailwire_mqtt(broker, folder)
    timed(server, TEMPLATE, 10, devices=DEVICES, broker=broker, topic="mailwire/+/event")
    server.settle()
    server.stop()
    broker.stop()
    return servers.data_of(folder, server.port) / FILE


def fill(data: Path, source: Path, count: int, progress: Callable[[str], None]) -> None:
    """Make the data folder of a gateway that has `count` mails, a multiple of `TEMPLATE`. 3.7 KB a mail."""
    data.mkdir(mode=0o700)
    shutil.copy(source, data / FILE)
    _multiply(data / FILE, source, count // TEMPLATE, lambda share: progress(f"growth, {count:,} mails: {share:.0%}"))
    with (data / FILE).open("rb") as file:
        os.fsync(file.fileno())  # here, or it would be written while something is measured


def _multiply(path: Path, source: Path, blocks: int, progress: Callable[[float], None]) -> None:
    """Fill the file at `path` (a copy of `source`) with so many blocks of the mails of `source`, the oldest first."""
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("PRAGMA journal_mode = DELETE")
        database.execute("PRAGMA synchronous = OFF")
        database.execute("PRAGMA cache_size = -500000")
        database.execute("ATTACH ? AS template", (f"{source}",))
        tables = [name for (name,) in database.execute("SELECT name FROM template.sqlite_master WHERE type = 'table'")]
        inserts = []
        for table in tables:
            columns = [row[1] for row in database.execute(f"PRAGMA template.table_info({table})")]
            if "seq" in columns:
                first, last = database.execute(f"SELECT min(seq), max(seq) FROM template.{table}").fetchone()
                span = last - first + 1
                # Of numbers that come from the clock the template's own are the newest; others count up from 1.
                before = "(:block - :blocks + 1)" if first > span * blocks else ":block"
                values = [_VALUES.get(column, column).format(before=before, span=span) for column in columns]
                inserts.append(
                    f"INSERT INTO main.{table} SELECT {', '.join(values)} FROM template.{table} ORDER BY seq"
                )
                database.execute(f"DELETE FROM main.{table}")
        database.create_function("new_id", 2, lambda block, old: f"{block:010}{old[10:]}", deterministic=True)
        for block in range(blocks):
            progress(block / blocks)
            database.execute("BEGIN")
            for insert in inserts:
                database.execute(insert, {"block": block, "blocks": blocks, "step": SPAN / blocks})
            database.execute("COMMIT")


_VALUES = {
    "seq": "seq + {before} * {span}",
    "id": "new_id(:block, id)",  # a ULID: its first ten characters are the time
    "event": "replace(event, id, new_id(:block, id))",
    "received": "received - (:blocks - 1 - :block) * :step",
    "time": "time - (:blocks - 1 - :block) * :step",
}
