"""A clock that is set while something waits."""

import time

import pytest

from gateway import deliver
from gateway.api import NotReady
from gateway.clock import Clock
from tests.gateway.test_pipeline import bench, mail

__all__ = ["bench"]

DAYS = 2 * 86400.0


@pytest.fixture
def clock(monkeypatch):
    """How many seconds the wall clock is off."""
    off, wall = [0.0], time.time
    monkeypatch.setattr(time, "time", lambda: wall() + off[0])
    return off


def test_a_clock_that_is_set_is_noticed_once(clock):
    moved = []
    one = Clock(moved.append)
    one.look()
    for clock[0] in (30.0, 60.0, 60.0 + DAYS, 60.0 + DAYS, 60.0):
        one.look()
    assert [round(seconds) for seconds in moved] == [DAYS, -DAYS]


async def test_what_waits_does_not_expire_because_the_right_time_came_late(bench, monkeypatch, clock, caplog):
    """A board without a clock wakes two days ago; a mail comes, then the time, then the broker."""
    monkeypatch.setattr(deliver, "_FIRST_PAUSE", 0.01)
    hear, away = bench.target.deliver, [True]

    async def reluctant(event):
        if away[0]:
            raise NotReady("the broker is away")
        await hear(event)

    monkeypatch.setattr(bench.target, "deliver", reluctant)
    worker = bench.pipeline.workers["t"]
    worker.look_at_clock = bench.pipeline.clock.look
    bench.pipeline.resume()
    await bench.kept(mail("pump"))
    await bench.until(lambda: worker.failing)
    bench.pipeline.ledger.write()
    await bench.store.flush()
    (before,) = bench.store.rows("SELECT expires FROM deliveries")
    clock[0] = DAYS
    bench.pipeline.clock.look()
    await bench.store.flush()
    (after,) = bench.store.rows("SELECT expires FROM deliveries")
    assert after[0] - before[0] == pytest.approx(DAYS, abs=1)
    worker._expire_old()
    away[0] = False
    worker.ready()
    assert await bench.heard(1) == ["pump"]
    assert worker.ended == {"dead": 0, "expired": 0}
    assert "the clock was set forward by 172800 seconds: what waits may wait as long as before" in caplog.messages


async def test_what_is_to_be_tried_again_is_not_put_off_by_a_clock_that_is_set_back(bench, clock):
    worker = bench.pipeline.workers["t"]
    one = deliver.Delivery("E", "t", time.time() + 3600, due=time.time() + 5)
    worker._later = [(one.due, one.event_id, one)]
    clock[0] = -DAYS
    worker.clock_moved(-DAYS)
    assert worker._later[0][0] == one.due == pytest.approx(time.time() + 5, abs=2)
    assert not worker._is_too_late(one)
    worker._later.clear()
