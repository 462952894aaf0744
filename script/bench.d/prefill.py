"""Stores that already hold many mails: real mails, taken and interpreted by a real gateway, and then multiplied.

The rows are multiplied in SQL, with ids and times of their own, by looking at what columns there are: this file knows
no more of the gateway's schema than that a mail has the same `seq` in all of its tables. The filled file is kept in the
cache (2 GB for a million mails) under a name that follows from the schema, and is copied for each run.
"""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import servers
from kit import CACHE, Kit
from load import timed
from process import Failed

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


def filled(source: Path, count: int, progress: Callable[[str], None]) -> Path:
    """The cached file with `count` mails, a multiple of `TEMPLATE`, made from the template if it is not there."""
    with closing(sqlite3.connect(source)) as database:
        schema = database.execute("SELECT group_concat(sql) FROM sqlite_master").fetchone()[0]
    path = CACHE / f"store-{count}-{hashlib.sha256(schema.encode()).hexdigest()[:12]}.db"
    if not path.exists():
        for old in CACHE.glob(f"store-{count}-*"):
            old.unlink()
        making = path.with_suffix(".part")
        shutil.copy(source, making)
        _multiply(making, source, count // TEMPLATE, lambda share: progress(f"filling {count:,} mails: {share:.0%}"))
        making.rename(path)
    return path


def copy(source: Path, data: Path) -> None:
    """As the store of a new data folder; at once where the file system can share blocks."""
    data.mkdir(mode=0o700)
    done = subprocess.run(["cp", "--reflink=auto", str(source), str(data / FILE)], capture_output=True, text=True)
    if done.returncode:
        raise Failed(f"the store could not be copied: {done.stderr.strip()}")


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
