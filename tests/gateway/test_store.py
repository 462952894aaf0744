"""The store: promises, bookkeeping, migrations, retention, refusals."""

import asyncio
import contextlib
import functools
import hashlib
import mmap
import os
import re
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from gateway import writer
from gateway.api import Envelope, StoreFull
from gateway.spooled import Spooled
from gateway.store import FILE, MIGRATIONS, Mail, Store, StoreBroken, StoreDamaged
from gateway.ulid import UlidMaker, time_of
from gateway.writer import trouble_of

new_id = UlidMaker().new


def mail(content=b"Subject: x\r\n\r\ny\r\n", **kwargs):
    envelope = Envelope("lan-mail", "127.0.0.1", "cam", "cam@lan", ["a@gw"])
    return Mail(new_id(), kwargs.pop("received", time.time()), envelope, len(content), content=content, **kwargs)


@contextlib.asynccontextmanager
async def started(folder):
    store = Store(folder)
    store.open(exclusive=True)
    store.start()
    try:
        yield store
    finally:
        await store.close()


async def keep(store, one):
    done = asyncio.get_running_loop().create_future()
    store.keep(one, done.set_result)
    return await asyncio.wait_for(done, 10)


async def test_a_kept_mail_is_read_back_byte_for_byte(tmp_path):
    async with started(tmp_path / "a b") as store:
        content = bytes(range(256)) * 4
        one = mail(content)
        assert await keep(store, one) is None
        found = store.mail(one.id)
        assert store.content(found) == content
        assert found.sha256 == hashlib.sha256(content).hexdigest()
        assert (found.envelope, found.size, found.state) == (one.envelope, 1024, "received")


async def test_what_waits_together_is_committed_together(tmp_path):
    async with started(tmp_path) as store:
        mails = [mail() for _ in range(200)]
        assert await asyncio.gather(*[keep(store, one) for one in mails]) == [None] * 200
        assert [one.id for one in reversed(store.mails(1000))] == [one.id for one in mails]
        assert [one.seq for one in mails] == sorted(one.seq for one in mails)


async def test_a_mail_waits_for_those_that_are_about_to_end(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "_PATIENCE", 3600)
    async with started(tmp_path) as store:
        store.writer.coming = lambda: 3
        waiting = [asyncio.ensure_future(keep(store, mail())) for _ in range(2)]
        for _ in range(10):
            await asyncio.sleep(0)
        assert await store.flush()  # whoever wants to see what was given need not wait
        assert await asyncio.gather(*waiting) == [None] * 2
        await asyncio.gather(*[keep(store, mail()) for _ in range(3)])
        assert store.writer.batches.sum == 5
        assert sum(store.writer.batches.counts) == 2


async def test_a_mail_that_takes_its_time_is_waited_for_once(tmp_path, monkeypatch):
    async with started(tmp_path) as store:
        store.writer.coming = lambda: 2
        assert await keep(store, mail()) is None
        monkeypatch.setattr(writer, "_PATIENCE", 3600)
        assert await keep(store, mail()) is None


async def test_more_than_one_commit_takes_is_kept_as_well(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "_MOST_MAILS", 3)
    async with started(tmp_path) as store:
        store.note_one("INSERT INTO devices (id, document) VALUES ('a', '{}')")
        waiting = [asyncio.ensure_future(keep(store, mail())) for _ in range(10)]
        await asyncio.sleep(0)
        assert await store.flush()
        assert len(store.mails()) == 10
        assert len(list(store.devices())) == 1
        assert await asyncio.gather(*waiting) == [None] * 10


async def test_files_and_folders_are_for_this_user_alone(tmp_path):
    async with started(tmp_path / "data") as store:
        await keep(store, mail())
        modes = {
            path.name: stat.S_IMODE(path.stat().st_mode) for path in [store.folder, *store.folder.glob("mailwire.db*")]
        }
        assert modes.pop("data") == 0o700
        assert set(modes.values()) == {0o600}


async def test_a_new_file_has_large_pages_and_gives_free_ones_back(tmp_path):
    async with started(tmp_path) as store:
        assert store.rows("SELECT * FROM pragma_page_size, pragma_auto_vacuum") == [(8192, 2)]


def test_a_large_statement_needs_no_file_elsewhere(tmp_path):
    """SQLite's own way is one in /var/tmp, which may be full or read-only."""
    store = Store(tmp_path)
    store.open()
    seen = set()

    def look():
        for path in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(OSError):
                seen.add(path.readlink().name)

    with contextlib.closing(store.connect()) as connection:
        connection.set_progress_handler(look, 20)
        values = [value for number in range(100) for value in (str(number), 0.0, "d", "x" * 5000)]
        sql = f"INSERT OR REPLACE INTO events (id, time, device, event) VALUES {', '.join(['(?, ?, ?, ?)'] * 100)}"
        for _ in range(2):
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(sql, values)
            connection.execute("COMMIT")
    assert any(name.startswith(FILE) for name in seen)
    assert [name for name in seen if "etilqs" in name] == []


async def test_a_file_whose_making_was_cut_short_is_made_anew(tmp_path):
    (tmp_path / FILE).touch()
    (tmp_path / f"{FILE}-journal").write_bytes(bytes(512))
    async with started(tmp_path) as store:
        assert await keep(store, mail()) is None
        assert store.rows("PRAGMA page_size") == [(8192,)]
        assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600
        assert not (tmp_path / f"{FILE}-journal").exists()


async def test_bookkeeping_is_seen_after_a_flush_and_keeps_its_order(tmp_path):
    async with started(tmp_path) as store:
        for number in range(50):
            store.note_one("INSERT OR REPLACE INTO devices (id, document) VALUES ('a', ?)", f'{{"n": {number}}}')
        await store.flush()
        assert list(store.devices()) == [{"n": 49}]


async def test_faulty_bookkeeping_does_not_hold_up_the_rest_nor_a_mail(tmp_path, caplog):
    async with started(tmp_path) as store:
        store.note_one("INSERT INTO devices (id, document) VALUES ('same', '{}')")
        store.note_one("INSERT INTO devices (id, document) VALUES ('same', '{}')")
        store.note_one("INSERT INTO devices (id, document) VALUES ('b', '{}')")
        await store.flush()
        assert await keep(store, mail()) is None
        assert [row[0] for row in store.rows("SELECT id FROM devices ORDER BY id")] == ["b", "same"]
    assert "bookkeeping was dropped" in caplog.text


async def test_a_disk_that_fails_beside_faulty_bookkeeping_costs_none_of_the_rest(tmp_path, caplog):
    async with started(tmp_path) as store:
        failures = [OSError(28, "No space left on device")]

        def statements():
            if failures:
                raise failures.pop()
            return ((insert, ("a", "1")),)

        insert = "INSERT OR REPLACE INTO devices (id, document) VALUES (?, ?)"
        store.note_one("INSERT INTO nothing VALUES (1)")
        store.note(statements)
        store.note_one(insert, "a", "2")
        assert not await store.flush()
        assert await store.flush()
        assert store.rows("SELECT id, document FROM devices") == [("a", "2")]
        assert caplog.text.count("bookkeeping was dropped") == 1


async def test_a_promise_does_not_fail_for_the_sake_of_bookkeeping(tmp_path, caplog):
    async with started(tmp_path) as store:
        store.note_one("INSERT INTO no_such_table VALUES (1)")
        assert await keep(store, mail()) is None
        store.note_one("INSERT INTO devices (id, document) VALUES ('b', '{}')")
        await store.flush()
        assert store.rows("SELECT id FROM devices") == [("b",)]
    assert "bookkeeping was dropped" in caplog.text


async def test_much_owed_bookkeeping_keeps_no_mail_waiting(tmp_path, caplog):
    def devices(number):
        if full.is_set():
            raise OSError(28, "No space left on device")
        return [("INSERT INTO devices (id, document) VALUES (?, '')", [str(number)])]

    caplog.set_level("INFO")
    full = threading.Event()
    full.set()
    async with started(tmp_path) as store:
        for number in range(2000):
            store.note(functools.partial(devices, number))
        assert not await store.flush()
        assert await keep(store, mail()) is None
        full.clear()
        while not await store.flush():
            pass
        assert store.rows("SELECT count(*) FROM devices") == [(2000,)]
    assert caplog.messages.count("the store can't write: [Errno 28] No space left on device") <= 3
    assert caplog.messages[-1] == "the store can write again"


async def test_a_newer_schema_is_refused_in_words(tmp_path):
    async with started(tmp_path):
        pass
    with contextlib.closing(sqlite3.connect(tmp_path / FILE)) as connection:
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    with pytest.raises(
        StoreBroken,
        match=rf"was written by a newer Mailwire \(its schema is {len(MIGRATIONS) + 1}, this one knows "
        rf"{len(MIGRATIONS)}\)\. "
        "Update Mailwire, or name another data folder with --data\\.",
    ):
        Store(tmp_path).open()


def test_a_file_that_is_no_database_is_refused_in_words(tmp_path):
    (tmp_path / FILE).write_bytes(b"this is not a database" * 100)
    with pytest.raises(
        StoreBroken, match=r"the database is damaged: file is not a database\. The gateway sets it aside"
    ):
        Store(tmp_path).open()


async def test_one_gateway_a_folder(tmp_path):
    async with started(tmp_path):
        with pytest.raises(StoreBroken, match="another gateway already runs with this data folder"):
            Store(tmp_path).open(exclusive=True)


def test_a_folder_that_cannot_be_made_is_refused_in_words(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreBroken, match="the data folder can't be made: Not a directory"):
        Store(tmp_path / "file" / "data").open()


async def test_a_full_disk_is_told_apart_and_the_bookkeeping_is_kept_for_later(tmp_path):
    async with started(tmp_path) as store:
        await keep(store, mail())
        pages = store.rows("PRAGMA page_count")[0][0]
        limited = f"PRAGMA max_page_count = {pages + 2}"
        store.note_one(limited)
        await store.flush()
        trouble = await keep(store, mail(os.urandom(200_000)))
        assert isinstance(trouble, StoreFull)
        assert store.mails()[0].size != 200_000
        store.note_one("PRAGMA max_page_count = 1073741823")
        await store.flush()
        assert await keep(store, mail(os.urandom(200_000))) is None


def test_other_trouble_is_not_called_a_full_disk():
    assert str(trouble_of(OSError(5, "Input/output error"))) == "[Errno 5] Input/output error"
    assert not isinstance(trouble_of(OSError(5, "Input/output error")), StoreFull)


async def test_retention_by_age_keeps_what_is_owed_or_not_interpreted(tmp_path):
    async with started(tmp_path) as store:
        old = time.time() - 100
        gone, owed, fresh, uninterpreted = (
            mail(received=old, state="done"),
            mail(received=old, state="done"),
            mail(state="done"),
            mail(received=old),
        )
        for one in (gone, owed, fresh, uninterpreted):
            await keep(store, one)
        store.note_one("INSERT INTO deliveries (event, target, state, expires) VALUES (?, 't', 'waiting', 0)", owed.id)
        await store.flush()
        assert await store.prune(50, 1 << 30) == 1
        assert {one.id for one in store.mails()} == {owed.id, fresh.id, uninterpreted.id}
        with pytest.raises(LookupError, match=f"the content of mail {gone.id} is no longer kept"):
            store.content(Mail(gone.id, old, gone.envelope, gone.size, seq=gone.seq))


async def test_retention_of_events_without_a_mail_keeps_what_is_owed(tmp_path):
    """What expired, or was refused, is no more kept than the event that it is about."""
    async with started(tmp_path) as store:
        insert = "INSERT INTO events (id, time, device, event) VALUES (?, ?, 'd', '{}')"
        owed = "INSERT INTO deliveries (event, target, state, expires) VALUES (?, 't', ?, 0)"
        now = time.time()
        for event_id, state in (("a", "waiting"), ("b", "held"), ("c", "dead"), ("d", "expired"), ("e", None)):
            store.note_one(insert, event_id, now - 100)
            if state:
                store.note_one(owed, event_id, state)
        store.note_one(insert, "f", now)
        store.note_one(owed, "f", "dead")
        await store.flush()
        assert await store.prune(50, 1 << 30) == 0
        await store.flush()
        assert [row[0] for row in store.rows("SELECT id FROM events ORDER BY id")] == ["a", "b", "f"]
        assert [one.event_id for one in store.deliveries()] == ["a", "b", "f"]


async def test_what_is_owed_to_a_target_that_is_gone_ends_with_its_time(tmp_path):
    async with started(tmp_path) as store:
        for event, target, expires in (("a", "gone", 10), ("b", "gone", 30), ("c", "served", 10)):
            store.note_one(
                "INSERT INTO deliveries (event, target, state, expires) VALUES (?, ?, 'waiting', ?)",
                event,
                target,
                expires,
            )
        store.expire_orphans(["served", "other"], 20)
        await store.flush()
        assert [(one.event_id, one.state, one.reason) for one in store.deliveries()] == [
            ("a", "expired", "there is no such target any more"),
            ("b", "waiting", ""),
            ("c", "waiting", ""),
        ]
        store.expire_orphans([], 40)
        await store.flush()
        assert [one.state for one in store.deliveries()] == ["expired"] * 3


async def test_retention_by_size_drops_the_oldest(tmp_path):
    async with started(tmp_path) as store:
        mails = [mail(b"x" * 1000, state="done") for _ in range(10)]
        for one in mails:
            await keep(store, one)
        assert await store.prune(1000, 4500) == 6
        assert [one.id for one in store.mails()] == [one.id for one in reversed(mails[6:])]


async def test_a_seq_is_never_given_twice(tmp_path):
    async with started(tmp_path) as store:
        first = mail(state="done")
        await keep(store, first)
        await store.prune(-1, 0)
        second = mail()
        await keep(store, second)
        assert second.seq > first.seq


async def test_the_seq_rises_also_when_another_process_keeps_one_in_between(tmp_path):
    """Its own counter begins with the time: ours would go on below that."""
    async with started(tmp_path) as store:
        first, theirs, last = mail(), mail(), mail()
        await keep(store, first)
        other = Store(tmp_path)
        other.open()
        other.start()
        await keep(other, theirs)
        await other.close()
        await keep(store, last)
        assert first.seq < theirs.seq < last.seq


async def test_a_change_by_another_process_is_noticed(tmp_path):
    async with started(tmp_path) as store:
        noticed = asyncio.Event()
        store.changed_elsewhere = noticed.set
        one = mail(state="done")
        await keep(store, one)
        code = f"from gateway.store import Store; import pathlib; s = Store(pathlib.Path({str(tmp_path)!r})); "
        code += f"print(s.alter(\"UPDATE mails SET state = 'replay' WHERE id = ?\", [{one.id!r}]))"
        printed = await asyncio.to_thread(subprocess.check_output, [sys.executable, "-c", code])
        assert printed == b"1\n"
        await asyncio.wait_for(noticed.wait(), 10)
        assert store.open_mails(0, 10)[0].id == one.id


async def test_stray_spool_files_are_swept(tmp_path):
    async with started(tmp_path) as store:
        (store.spool / "stray.eml").write_bytes(b"x")
        (store.spool / "owned.eml").write_bytes(b"y")
        one = mail(file="owned.eml")
        one.content = None
        await keep(store, one)
        assert store.sweep_spool() == 1
        assert store.content(store.mail(one.id))[:] == b"y"


def test_ulids_rise_and_have_the_form_of_the_specification():
    ids = [new_id() for _ in range(10_000)]
    assert ids == sorted(set(ids))
    assert all(re.fullmatch(r"[0-7][0-9A-HJKMNP-TV-Z]{25}", one) for one in ids)


def test_ulids_do_not_go_back_with_the_clock(monkeypatch):
    maker = UlidMaker()
    first = maker.new()
    monkeypatch.setattr(time, "time_ns", lambda: 0)
    assert maker.new() > first


@pytest.mark.parametrize("size", [1, 4096, 1024 * 1024, 3 * 1024 * 1024 + 17])
def test_a_spooled_mail_is_searched_and_cut_like_bytes(tmp_path, size):
    content = os.urandom(size)
    (tmp_path / "x").write_bytes(content)
    with (tmp_path / "x").open("rb") as file, Spooled(file.fileno(), 0, access=mmap.ACCESS_READ) as spooled:
        for start in {0, 1, size // 2, max(0, 1024 * 1024 - 2), size - 1, size}:
            for sub in (content[start : start + 4], content[start : start + 1], b"never to be found in there"):
                for low, high in ((0, None), (start, None), (0, start + 2), (start, start + 4)):
                    assert spooled.find(sub, low, high) == content.find(sub, low, high) or not sub
            assert spooled[start : start + 70_000] == content[start : start + 70_000]
            assert spooled[: start + 1] == content[: start + 1]
        assert spooled[:] == content


async def test_what_is_owed_is_counted_by_target_with_the_oldest(tmp_path):
    store = Store(tmp_path)
    store.open()
    store.start()
    ids = [new_id() for _ in range(3)]
    for number, (target, state) in enumerate((("a", "waiting"), ("a", "waiting"), ("b", "dead"))):
        sql = "INSERT INTO deliveries (event, target, state, expires) VALUES (?, ?, ?, 0)"
        store.note_one(sql, ids[number], target, state)
    await store.flush()
    assert store.queues() == [("", "", 0, ""), ("a", "waiting", 2, ids[0]), ("b", "dead", 1, ids[2])]
    assert store.owed() == {"uninterpreted": 0, "waiting": 2, "held": 0, "dead": 1, "expired": 0}
    assert abs(time_of(ids[0]) - time.time()) < 60
    await store.close()


async def test_a_probe_writes_and_changes_nothing(tmp_path):
    store = Store(tmp_path)
    store.open()
    before = store.rows("PRAGMA user_version")
    store.start()
    size = (tmp_path / f"{FILE}-wal").stat().st_size
    store.probe()
    assert await store.flush()
    assert (tmp_path / f"{FILE}-wal").stat().st_size > size
    assert store.rows("PRAGMA user_version") == before
    await store.close()


async def test_one_who_can_not_be_told_keeps_nobody_else_from_it(tmp_path, caplog):
    def fail(_):
        raise MemoryError

    async with started(tmp_path) as store:
        store.keep(mail(), fail)
        assert await keep(store, mail()) is None
    assert "a mail's sender could not be told what became of it" in caplog.text


async def test_the_end_waits_for_a_thread_that_reads(tmp_path):
    store = Store(tmp_path)
    store.open()
    store.start()
    begun = threading.Event()
    endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n WHERE look(x)"

    def read():
        store._reader[0].create_function("look", 1, lambda _: begun.set())
        store.rows(endless)

    reading = asyncio.get_running_loop().run_in_executor(None, read)
    await asyncio.to_thread(begun.wait)
    await store.close()
    with pytest.raises(sqlite3.OperationalError, match="interrupted"):
        await reading


async def test_a_file_whose_making_was_cut_short_before_anything_was_kept_is_no_damage(tmp_path):
    (tmp_path / FILE).touch()
    store = Store(tmp_path)
    store.open()
    await store.close()
    (tmp_path / FILE).write_bytes(b"")
    (tmp_path / "integrations").mkdir()
    with pytest.raises(StoreDamaged, match="the file is empty"):
        Store(tmp_path).open()
