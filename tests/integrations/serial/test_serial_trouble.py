"""Frames against a store that can't keep and a line that is lost, with a board in memory."""

import asyncio
import logging
import time
from pathlib import Path

import pytest

from gateway.api import Context, NotReady, Refused, StoreFull, StoreTrouble
from gateway.integrations.serial.frames import Frames, said
from gateway.integrations.serial.noise import Noise
from gateway.wire.frame import encode
from gateway.wire.link import ACKED, MESSAGE, REFUSED, Link
from tests.integrations.serial.board import event


class Bench:
    """Both ends of a line; `troubles` are raised by the store, the first one first."""

    def __init__(self, keep=True, **about):
        log = logging.getLogger("mailwire.panel")
        self.kept = []
        self.tried = []
        self.troubles = []
        self.context = Context("panel", Path(), log, None, None, self._emit, lambda: None, None)
        self.frames = Frames(self.context, Noise(log, "panel"), 4096, 0, lambda: None, self._keep if keep else None)
        self.board = Link("b1", {"board": "TEST", **about}, 0)
        self.now = 0
        self.events = []

    async def _keep(self, draft, waiting):
        await (self.context.emit_at_last(draft, waiting) if waiting else self.context.emit(draft))

    async def _emit(self, draft):
        self.tried.append(draft)
        if self.troubles:
            raise self.troubles.pop(0)
        self.kept.append(draft)

    async def turn(self, milliseconds=0):
        """Carry all that is to be carried, both ways."""
        self.now += milliseconds
        for _ in range(10):
            while line := self.board.take(self.now):
                await self.frames.came(line)
            await asyncio.sleep(0)
            while line := self.frames.take():
                self.events += self.board.feed(line, self.now)

    def of(self, kind):
        return [one for one in self.events if one[0] == kind]


async def test_what_can_not_be_kept_is_asked_for_again_and_is_one_event():
    bench = Bench()
    await bench.turn()
    bench.troubles = [StoreFull("the disk is full"), StoreTrouble("the store can't write now")]
    bench.board.send("event", {"title": "Water"})
    bench.board.send("event", {"title": "Fire"})
    await bench.turn()
    assert not bench.kept
    for _ in range(4):
        await bench.turn(30_000)
    assert [one["title"] for one in bench.kept] == ["Water", "Fire"]  # in order
    assert [one[1] for one in bench.of(ACKED)] == [1, 2]
    water = [one for one in bench.tried if one["title"] == "Water"]
    assert len(water) == 3
    assert len({one["id"] for one in water}) == 1
    assert not bench.frames._ids


async def test_a_board_does_not_choose_who_is_told():
    bench = Bench()
    await bench.turn()
    bench.board.send("event", {"title": "Water", "targets": ["phone"], "files": [1], "apart_from": "x"})
    await bench.turn()
    assert set(bench.kept[0]) == {"id", "title"}


async def test_a_notification_that_is_none_is_refused():
    bench = Bench()
    await bench.turn()
    for attachments in (7, [7], [{"content": "?"}]):
        bench.board.send("notify", {"message": "x", "attachments": attachments})
    bench.board.send("notify", {"message": "Come\nnow", "severity": "critical"})
    await bench.turn()
    assert [one[1] for one in bench.of(REFUSED)] == [1, 2, 3]
    assert "base64" in bench.of(REFUSED)[1][2]
    assert (bench.kept[0]["title"], bench.kept[0]["text"]) == ("Come", "Come\nnow")


async def test_a_fault_of_ours_loses_nothing_and_leaves_no_board_waiting(caplog):
    bench = Bench()
    await bench.turn()
    bench.troubles = [KeyError("oh")]
    bench.board.send("event", {"title": "Water"})
    await bench.turn()
    assert "a message could not be taken in: {'title': 'Water'}" in caplog.text
    await bench.turn(2000)
    assert [one["title"] for one in bench.kept] == ["Water"]


async def test_a_line_that_takes_nothing_in_says_so():
    bench = Bench(keep=False)
    await bench.turn()
    bench.board.send("event", {"title": "Water"})
    await bench.turn()
    assert bench.of(REFUSED) == [(REFUSED, 1, "nothing is taken in on this line")]


async def delivery(bench, one):
    task = asyncio.create_task(bench.frames.deliver(one))
    await asyncio.sleep(0)
    return task


async def test_a_delivery_under_way_when_the_line_is_lost_is_met_again():
    bench = Bench()
    await bench.turn()
    one = event("Hello")
    task = await delivery(bench, one)
    await bench.turn()
    ((_, boot, n, _, body),) = bench.of(MESSAGE)
    assert body["title"] == "Hello"
    bench.frames.lost()
    with pytest.raises(NotReady, match="the line was lost before the other side acknowledged"):
        await task
    with pytest.raises(NotReady, match="nobody has said hello on the line") as caught:
        await bench.frames.deliver(event("another"))
    assert caught
    bench.board.accept(boot, n)
    bench.board.cut(bench.now)
    again = await delivery(bench, one)
    await bench.turn(1000)
    await asyncio.wait_for(again, 10)
    assert len(bench.of(MESSAGE)) == 1  # it was not sent as another one
    assert not bench.frames._outcomes


async def test_a_refusal_that_nobody_waited_for_is_told_at_the_next_try():
    bench = Bench()
    await bench.turn()
    one = event("Hello")
    task = await delivery(bench, one)
    await bench.turn()
    task.cancel()
    _, boot, n, *_ = bench.of(MESSAGE)[0]
    bench.board.refuse(boot, n, "bad", "no display")
    await bench.turn()
    with pytest.raises(Refused, match="no display"):
        await bench.frames.deliver(one)


async def test_deliveries_wait_for_room_in_the_window():
    bench = Bench()
    await bench.turn()
    tasks = [await delivery(bench, event(f"{number}")) for number in range(10)]
    await bench.turn()
    assert len(bench.frames._link.unanswered) == 4
    for _ in range(20):
        for one in bench.of(MESSAGE):
            bench.events += bench.board.accept(one[1], one[2])
        await bench.turn()
    assert all(task.done() and not task.exception() for task in tasks)
    titles = list(dict.fromkeys(one[4]["title"] for one in bench.of(MESSAGE)))
    assert titles == [f"{number}" for number in range(10)]


async def test_an_event_that_can_not_be_made_to_fit_is_refused():
    bench = Bench()
    await bench.turn()
    with pytest.raises(Refused, match=r"even without its text, this message makes a line of \d+ octets, and 4096 are"):
        await bench.frames.deliver(event("x" * 5000))


async def test_what_nobody_sends_again_waits_for_the_store(monkeypatch):
    monkeypatch.setattr("gateway.api._EMIT_AGAIN", 0)
    bench = Bench()
    bench.troubles = [StoreTrouble("the store can't write now"), StoreFull("the disk is full")]
    await bench.frames.came(encode({"t": "event", "event": {"title": "Water"}}))
    await asyncio.wait(bench.frames._tasks)
    assert [one["title"] for one in bench.kept] == ["Water"]
    assert len({one["id"] for one in bench.tried}) == 1


async def test_a_flood_of_senders_that_wait_for_no_answer_is_held_back():
    bench = Bench()
    many = b"".join(encode({"t": "event", "event": {"title": str(number)}}) for number in range(500))
    began = time.monotonic()
    for at in range(0, len(many), 4096):
        await bench.frames.came(many[at : at + 4096])
        assert len(bench.frames._tasks) <= 200
    while len(bench.kept) < 500:
        assert time.monotonic() < began + 20
        await asyncio.sleep(0)
    assert [one["title"] for one in bench.kept] == [str(number) for number in range(500)]


@pytest.mark.parametrize(
    ("hello", "words"),
    [
        ({"name": "attic", "board": "ESP32_GENERIC", "firmware": "1.0"}, "attic (ESP32_GENERIC, firmware 1.0)"),
        ({"name": "attic"}, "attic"),
        ({"board": "PLC"}, "PLC"),
        ({"boot": "1a2b"}, "a board that started as 1a2b"),
        ({"name": "a\nb\x1b", "board": 7}, "a\\nb\\x1b (7)"),
    ],
)
def test_who_says_hello(hello, words):
    assert said(hello) == words


def test_noise_is_shown_from_its_beginning_and_then_counted(caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    now = 0.0
    monkeypatch.setattr("gateway.integrations.serial.noise.time.monotonic", lambda: now)
    noise = Noise(logging.getLogger("mailwire.panel"), "panel")
    for number in range(50):
        noise.heard(f"line {number}")
    assert caplog.messages == [f"panel says: line {number}" for number in range(20)]
    now = 10.0
    noise.heard("x" * 1000)
    assert caplog.messages[20:] == ["panel said 30 lines more", f"panel says: {'x' * 200} and 800 characters more"]
