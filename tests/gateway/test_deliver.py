"""Workers: done, not now, away, never; expiry; what memory does not hold; what a command line changes."""

import asyncio
import sqlite3
import time

import pytest

from gateway import deliver as module
from gateway.api import NotReady, Refused, Retry, Target
from gateway.deliver import Ledger, Worker
from gateway.store import Delivery, Store
from gateway.ulid import UlidMaker

new_id = UlidMaker().new


def make_event(title="x"):
    device = {"id": "cam", "name": "Cam", "manufacturer": None, "model": None, "profile": None}
    return {"id": new_id(), "title": title, "device": device, "mail": None}


class Scripted(Target):
    """A target of the test: does what `script` says for each title, and remembers what it was given."""

    concurrency = 4

    def __init__(self):
        super().__init__(None, None)
        self.given = []
        self.script = {}
        self.away = False
        self.gate = asyncio.Event()
        self.gate.set()

    async def deliver(self, event):
        await self.gate.wait()
        if self.away:
            raise NotReady("it is away")
        self.given.append(event["title"])
        answers = self.script.get(event["title"], [])
        if answers:
            raise answers.pop(0)


@pytest.fixture
async def post(tmp_path):
    store = Store(tmp_path)
    store.open()
    store.start()
    post = Post(store)
    yield post
    await post.worker.stop()
    await store.close()


class Post:
    def __init__(self, store):
        self.store = store
        self.ledger = Ledger(store)
        self.target = Scripted()
        self.worker = Worker("t", self.target, store, self.ledger)
        self.worker.start()

    def send(self, *titles, expires=3600.0):
        for title in titles:
            event = make_event(title)
            self.ledger.add(event, time.time(), {"t": time.time() + expires})
            self.worker.put(Delivery(event["id"], "t", time.time() + expires, event=event))

    async def rows(self):
        self.ledger.write()
        await self.store.flush()
        return [(row.event["title"], row.state, row.attempts, row.reason) for row in self.store.deliveries()]

    async def until(self, condition):
        deadline = time.monotonic() + 10
        while not (value := condition()):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.005)
        return value

    async def restart(self):
        await self.worker.stop()
        self.ledger.write()
        self.worker = Worker("t", self.target, self.store, self.ledger)
        self.worker.start()


async def test_done_leaves_no_row(post):
    post.send("a", "b", "c")
    await post.until(lambda: post.worker.delivered == 3)
    assert post.target.given == ["a", "b", "c"]
    assert await post.rows() == []
    assert [event["title"] for _, event in post.store.events()] == ["a", "b", "c"]


async def test_not_now_is_tried_again_and_delays_nobody(post):
    post.target.script["a"] = [Retry("busy", after=0), Retry("busy", after=0)]
    post.send("a", "b")
    await post.until(lambda: post.worker.delivered == 2)
    assert sorted(post.target.given) == ["a", "a", "a", "b"]
    assert await post.rows() == []


async def test_the_back_off_is_kept_in_the_store(post):
    post.target.script["a"] = [Retry("busy")]
    post.send("a")
    await post.until(lambda: post.target.given)
    assert await post.rows() == [("a", "waiting", 1, "busy")]
    due = post.store.deliveries()[0].due - time.time()
    assert 3 < due <= 6
    await post.restart()
    post.send("b")
    await post.until(lambda: "b" in post.target.given)
    assert post.target.given == ["a", "b"]


async def test_the_back_off_has_an_end(post):
    post.target.script["a"] = [Retry("busy", after=0)] * 1100 + [Retry("busy")]
    post.send("a")
    await post.until(lambda: len(post.target.given) == 1101)
    assert (await post.rows())[0][:3] == ("a", "waiting", 1101)
    assert 700 < post.store.deliveries()[0].due - time.time() < 1100


async def test_never_is_a_dead_letter_with_the_reason(post, caplog):
    post.target.script["a"] = [Refused("554 no such thing")]
    post.send("a", "b")
    await post.until(lambda: post.worker.delivered == 1)
    assert await post.rows() == [("a", "dead", 0, "554 no such thing")]
    assert "refused event" in caplog.text


async def test_a_fault_of_the_integration_costs_no_event(post, caplog):
    post.target.script["a"] = [ZeroDivisionError("oh")]
    post.send("a", "b")
    await post.until(lambda: post.worker.delivered == 1)
    assert await post.rows() == [("a", "waiting", 1, "ZeroDivisionError: oh")]
    assert "t failed on event" in caplog.text


async def test_a_target_that_is_away_pauses_and_nothing_is_counted(post):
    post.target.away = True
    post.send(*"abcdef")
    await post.until(lambda: post.worker.last_error == "it is away")
    assert [row[1:] for row in await post.rows()] == [("waiting", 0, "")] * 6
    post.target.away = False
    post.worker.ready()
    await post.until(lambda: post.worker.delivered == 6)
    assert sorted(post.target.given) == list("abcdef")
    assert post.worker.last_error is None


async def test_what_waited_for_a_target_goes_out_in_the_order_of_the_events(post):
    """An alarm's end must not overtake its beginning: those that were under way, or put off, go first again."""
    post.target.concurrency = 2
    post.target.away = True
    post.send(*"abcd")
    await post.until(lambda: post.worker.last_error)
    post.send(*"ef")
    post.target.away = False
    post.worker.ready()
    await post.until(lambda: post.worker.delivered == 6)
    assert post.target.given == list("abcdef")


async def test_nothing_is_given_to_a_target_that_is_not_started(post):
    """It may not know yet whom to tell, and would call that done."""
    post.worker.not_yet = "the address is wrong"
    await asyncio.sleep(0)  # the worker has read what there is
    post.send("a")
    post.send("b", expires=-1)
    await post.until(lambda: post.worker.failing)
    assert post.worker.failing[1] == "the address is wrong"
    assert post.target.given == []
    post.worker.not_yet = None
    post.worker.ready()
    await post.until(lambda: post.worker.delivered == 1)
    assert post.target.given == ["a"]
    assert [row[:2] for row in await post.rows()] == [("b", "expired")]


async def test_what_is_owed_survives_the_worker(post):
    post.target.away = True
    post.send(*"abc")
    await post.until(lambda: post.worker.last_error)
    await post.restart()
    post.target.away = False
    post.worker.ready()
    await post.until(lambda: post.worker.delivered == 3)
    assert sorted(post.target.given) == list("abc")
    assert await post.rows() == []


async def test_more_than_memory_holds_goes_out_from_the_store_each_once(post):
    post.target.away = True
    titles = [f"{number:05}" for number in range(5000)]
    for start in range(0, 5000, 500):
        post.send(*titles[start : start + 500])
        await asyncio.sleep(0)
    assert post.worker.depth <= 2000
    post.target.away = False
    post.worker.ready()
    await post.until(lambda: post.worker.delivered >= 5000)
    await post.until(lambda: post.worker.depth == 0)
    assert sorted(post.target.given) == titles
    assert await post.rows() == []


async def test_what_is_too_old_is_recorded_and_not_sent(post):
    post.send("late", expires=-1)
    post.send("b")
    await post.until(lambda: post.worker.delivered == 1)
    await post.until(lambda: post.worker.depth == 0)
    assert post.target.given == ["b"]
    assert await post.rows() == [("late", "expired", 0, "its time was over before it could be sent")]


async def test_a_command_line_can_retry_and_drop(post):
    post.target.script["a"] = [Retry("busy")]
    post.target.script["b"] = [Retry("busy")]
    post.send("a", "b")
    await post.until(lambda: len(post.target.given) == 2)
    rows = {row.event["title"]: row for row in (await post.rows() and post.store.deliveries())}
    post.store.alter("UPDATE deliveries SET due = 0 WHERE event = ?", [rows["a"].event_id])
    post.store.alter("DELETE FROM deliveries WHERE event = ?", [rows["b"].event_id])
    await post.worker.rescan()
    await post.until(lambda: post.worker.depth == 0)
    assert post.target.given.count("a") == 2
    assert post.target.given.count("b") == 1
    assert await post.rows() == []


async def test_stopping_waits_for_what_is_under_way(post):
    post.target.gate.clear()
    post.send("a")
    await post.until(lambda: post.worker.depth == 1 and not post.worker._ready)
    stopping = asyncio.create_task(post.worker.stop())
    await asyncio.sleep(0)
    post.target.gate.set()
    await stopping
    assert post.target.given == ["a"]
    assert await post.rows() == []


async def test_a_worker_stops_also_when_an_event_comes_at_that_moment(post):
    post.send("a")
    await post.until(lambda: post.worker.delivered == 1)
    post.send("b")
    await asyncio.wait_for(post.restart(), 20)
    await post.until(lambda: "b" in post.target.given)


async def test_what_is_owed_is_read_later_if_it_can_not_be_read_now(post, monkeypatch, caplog):
    monkeypatch.setattr(module, "_FIRST_PAUSE", 0.01)
    troubles, rows = [sqlite3.OperationalError("unable to open database file")] * 3, post.store.deliveries

    def reluctant(**which):
        if troubles:
            raise troubles.pop()
        return rows(**which)

    post.send("a")
    await post.until(lambda: post.worker.delivered == 1)
    monkeypatch.setattr(post.store, "deliveries", reluctant)
    post.target.away = True
    post.send("b")
    await post.restart()
    post.target.away = False
    await post.until(lambda: post.target.given == ["a", "b"])
    assert "t: what is owed can't be read now, trying again: unable to open database file" in caplog.text


# --- what a target notes for the next try ----------------------------------------------------------------------------


class Noting(Scripted):
    """Remembers the memos that it was given."""

    def __init__(self):
        super().__init__()
        self.memos = []

    async def deliver_again(self, event, memo):
        self.memos.append(memo)
        await self.deliver(event)


async def test_a_memo_comes_back_with_the_next_try_and_after_a_restart(post):
    post.target = post.worker.target = Noting()
    post.target.script["x"] = [Retry("busy", 0, {"had": ["a"]}), Retry("busy", 3600, {"had": ["a", "b"]})]
    post.send("x")
    await post.until(lambda: len(post.target.given) == 2)
    assert post.target.memos == [{"had": ["a"]}]
    await post.rows()
    post.store.alter("UPDATE deliveries SET due = 0")
    await post.restart()
    await post.until(lambda: post.worker.delivered == 1)
    assert post.target.memos == [{"had": ["a"]}, {"had": ["a", "b"]}]
    assert await post.rows() == []


async def test_a_dead_letter_keeps_its_memo_for_the_case_that_it_is_tried_again(post):
    post.target = post.worker.target = Noting()
    post.target.script["x"] = [Refused("b: no such user", {"had": ["a"]})]
    post.send("x")
    await post.until(lambda: post.worker.ended["dead"] == 1)
    await post.store.flush()
    post.store.alter("UPDATE deliveries SET state = 'waiting', due = 0")
    await post.worker.rescan()
    await post.until(lambda: post.worker.delivered == 1)
    assert post.target.memos == [{"had": ["a"]}]


async def test_not_ready_may_say_for_how_long(post):
    async def away(_):
        post.target.given.append("tried")
        raise NotReady("the login was refused", 3600)

    post.target.deliver = away
    post.send("x")
    await post.until(lambda: post.target.given)
    post.send("y")
    await asyncio.sleep(0)
    assert post.worker._paused_until > time.monotonic() + 2000
    assert post.target.given == ["tried"]


async def test_what_was_done_may_fail_after_all(post):
    post.send("x")
    await post.until(lambda: post.worker.delivered == 1)
    await post.rows()
    (event_id,) = [row[0] for row in post.store.rows("SELECT id FROM events")]
    assert await post.worker.failed(event_id, "a: 5.1.1 no such user", {"had": ["b"]})
    assert await post.worker.failed(event_id, "b: 5.2.2 mailbox full", None)
    assert await post.worker.failed(event_id, "b: 5.2.2 mailbox full", None)  # the same bounce again
    assert await post.rows() == [("x", "dead", 0, "a: 5.1.1 no such user; b: 5.2.2 mailbox full")]
    with pytest.raises(LookupError, match="event nonsense is no longer kept"):
        await post.worker.failed("nonsense", "x", None)


async def test_what_still_waits_has_not_failed(post):
    post.target.script["x"] = [Retry("busy", 3600)]
    post.send("x")
    await post.until(lambda: post.worker.retried == 1)
    await post.rows()
    (waiting,) = post.store.deliveries()
    assert not await post.worker.failed(waiting.event_id, "a: 5.1.1 no such user", None)
    assert await post.rows() == [("x", "waiting", 1, "busy")]
