"""The front door: small mails, streamed mails, and those given up."""

import asyncio
import hashlib
import os
import threading
import time
import tracemalloc

import pytest

from gateway.api import Envelope, StoreFull, StoreTrouble
from gateway.intake import CROWDED, SPOOL_ABOVE, Intake
from gateway.store import Store

ENVELOPE = Envelope("lan-mail", "192.0.2.1", "cam", "cam@lan", ["a@gw"])


@pytest.fixture
async def door(tmp_path):
    store = Store(tmp_path / "data")
    store.open()
    store.start()
    arrived = []
    intake = Intake(store, arrived.append, reserve=0)
    intake.seen = arrived
    yield intake
    await store.close()
    intake.close()


async def put(intake, chunks):
    drained = asyncio.Event()
    receipt = intake.begin(drained.set)
    for chunk in chunks:
        if not receipt.write(chunk):
            await asyncio.wait_for(drained.wait(), 10)
            drained.clear()
    done = asyncio.get_running_loop().create_future()
    receipt.commit(ENVELOPE, lambda *answer: done.set_result(answer))
    return await asyncio.wait_for(done, 10)


async def test_a_small_mail_goes_into_the_row(door):
    mail_id, trouble = await put(door, [b"Subject: x\r\n", b"\r\n", b"y\r\n"])
    assert trouble is None
    found = door.store.mail(mail_id)
    assert found.file is None
    assert door.store.content(found) == b"Subject: x\r\n\r\ny\r\n"
    assert [mail.id for mail in door.seen] == [mail_id]
    assert door.held == 0


async def test_a_large_mail_is_streamed_to_a_file(door):
    chunks = [os.urandom(65536) for _ in range(100)]
    mail_id, trouble = await put(door, chunks)
    assert trouble is None
    found = door.store.mail(mail_id)
    assert found.file
    assert found.size == 100 * 65536
    assert found.sha256 == hashlib.sha256(b"".join(chunks)).hexdigest()
    assert door.store.content(found)[:] == b"".join(chunks)
    assert (door.store.spool / found.file).stat().st_mode & 0o777 == 0o600
    assert door.held == 0


async def test_a_mail_that_comes_by_two_bytes_takes_no_multiple_of_its_size(door):
    receipt = door.begin()
    count = SPOOL_ABOVE // 2
    tracemalloc.start()
    try:
        for _ in range(count):
            receipt.write(bytes((120, 121)))
        taken = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert taken < 2 * SPOOL_ABOVE
    done = asyncio.get_running_loop().create_future()
    receipt.commit(ENVELOPE, lambda *answer: done.set_result(answer))
    mail_id, _ = await asyncio.wait_for(done, 10)
    assert door.store.content(door.store.mail(mail_id)) == b"xy" * count


async def test_a_mail_just_at_the_limit_stays_in_memory(door):
    mail_id, _ = await put(door, [b"x" * SPOOL_ABOVE])
    assert door.store.mail(mail_id).file is None
    mail_id, _ = await put(door, [b"x" * SPOOL_ABOVE, b"x"])
    assert door.store.mail(mail_id).file


async def test_when_many_are_under_way_smaller_ones_are_streamed_too(door):
    crowd = [door.begin() for _ in range(CROWDED // SPOOL_ABOVE)]
    for receipt in crowd:
        receipt.write(b"x" * SPOOL_ABOVE)
    mail_id, _ = await put(door, [b"x" * 20_000])
    assert door.store.mail(mail_id).file
    for receipt in crowd:
        receipt.abort()
    assert door.held == 0


async def test_one_given_up_leaves_nothing(door):
    for size in (10, SPOOL_ABOVE * 3):
        receipt = door.begin()
        for _ in range(5):
            receipt.write(b"x" * size)
        receipt.abort()
    await put(door, [b"x" * SPOOL_ABOVE, b"x"])
    deadline = time.monotonic() + 10
    while len(list(door.store.spool.iterdir())) > 1 or door.held:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)
    assert len(door.seen) == 1


async def test_a_spool_that_can_not_be_written_is_answered_and_cleaned_up(door):
    door.store.spool.rmdir()
    mail_id, trouble = await put(door, [b"x" * SPOOL_ABOVE, b"x"])
    assert mail_id == ""
    assert "No such file or directory" in str(trouble)
    assert door.held == 0


async def test_without_room_on_the_disk_the_answer_is_full(door):
    door.reserve = 1 << 60
    assert door.room() == 0
    mail_id, trouble = await put(door, [b"x"])
    assert mail_id == ""
    assert isinstance(trouble, StoreFull)
    assert door.seen == []


async def test_what_was_kept_is_counted_and_timed(door):
    await put(door, [b"x" * 100])
    await put(door, [b"x" * SPOOL_ABOVE, b"y"])
    await put(door, [])
    assert door.received == {"lan-mail": 3}
    assert door.bytes == {"lan-mail": 101 + SPOOL_ABOVE}
    assert sum(door.receiving.counts) == sum(door.storing.counts) == 3
    for mail in door.seen:
        assert 0 < mail.began <= mail.dot <= mail.kept
    assert door.not_kept.total() == 0


async def test_what_was_not_kept_is_counted_by_its_reason(door):
    door.reserve = 1 << 60
    _, trouble = await put(door, [b"x"])
    assert isinstance(trouble, StoreFull)
    assert door.not_kept == {"disk_full": 1, "store_trouble": 0}
    assert sum(door.storing.counts) == 0


async def test_a_large_mail_needs_no_thread_that_can_not_be_started_any_more(door, monkeypatch):
    def refuse(_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    mail_id, trouble = await put(door, [b"x" * SPOOL_ABOVE, b"x"])
    assert trouble is None
    assert door.store.mail(mail_id).file


async def test_a_large_mail_for_which_there_is_no_memory_is_put_off(door, monkeypatch):
    def refuse():
        raise MemoryError

    monkeypatch.setattr(hashlib, "sha256", refuse)
    mail_id, trouble = await put(door, [b"x" * SPOOL_ABOVE, b"x"])
    assert mail_id == ""
    assert isinstance(trouble, StoreTrouble)
    assert list(door.store.spool.iterdir()) == []


async def test_in_a_flood_a_sender_is_told_after_its_event_was_begun(door):
    heard = []
    told = asyncio.Event()
    door.arrived = lambda _: heard.append("arrived")
    door.behind = lambda: 50
    receipt = door.begin()
    receipt.write(b"Subject: x\r\n\r\n")
    receipt.commit(ENVELOPE, lambda *_: (heard.append("told"), told.set()))
    await asyncio.wait_for(told.wait(), 10)
    assert heard == ["arrived", "told"]


@pytest.mark.parametrize(("behind", "seconds"), [(0, 0), (32, 0), (33, 0.0033), (1000, 0.1), (1_000_000, 0.1)])
async def test_a_sender_never_waits_long_for_an_event(door, behind, seconds):
    door.behind = lambda: behind
    assert door.ease() == pytest.approx(seconds)
