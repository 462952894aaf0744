"""A target that keeps failing is told of once, and once more when it is well again."""

import time

import pytest

from gateway import failures
from gateway.api import Device, StoreTrouble
from gateway.deliver import Worker
from gateway.failures import AFTER, Failures


class Hands:
    """A worker as far as `Failures` looks at it."""

    def __init__(self):
        self.failing = self.trouble = None
        self.ended = {"dead": 0}
        self.delivered = 0


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 1000.0

        def __call__(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(failures.time, "monotonic", clock)
    return clock


@pytest.fixture
def said():
    return []


@pytest.fixture
def found(said):
    async def tell(draft, name):
        said.append((name, draft["state"], draft["title"], draft["text"], draft["severity"], draft["device"]["id"]))

    return Failures(tell)


async def test_once_when_it_breaks_and_once_when_it_is_well(found, said, clock):
    worker = Hands()
    worker.failing = (clock.now, "nobody there")
    for seconds in (0, AFTER - 1, AFTER, AFTER + 1, 99_999):
        clock.now = 1000 + seconds
        await found.look({"post": worker})
    assert said == [("post", "on", "post: deliveries fail", "nobody there", "warning", "target_post")]
    worker.failing = None
    await found.look({"post": Hands()})  # another one, after a reload, which has not tried yet
    assert len(said) == 1
    worker.delivered = 1
    for _ in range(2):
        await found.look({"post": worker})
    assert said[1:] == [
        ("post", "off", "post: deliveries go out again", "post: deliveries go out again", "info", "target_post")
    ]


async def test_what_is_refused_for_good_is_told_at_once_but_not_each(found, said, clock):
    worker = Hands()
    for count in range(1, 12):
        worker.ended["dead"], worker.trouble = count, (0.0, "550 no such user")
        await found.look({"post": worker})
    clock.now += AFTER
    await found.look({"post": worker})
    assert [title for _, _, title, *_ in said] == [
        "post: an event was refused for good",
        "post: 10 events were refused for good",
    ]
    assert said[0][3] == "550 no such user"
    clock.now += AFTER
    worker = Hands()  # after a reload
    await found.look({"post": worker})
    worker.ended["dead"] = 1
    await found.look({"post": worker})
    assert [title for _, _, title, *_ in said[2:]] == ["post: an event was refused for good"]


async def test_who_failed_before_a_restart_is_said_well_when_it_is(found, said, clock):
    worker = Hands()
    found.load([Device("target_post", "Target post", states={"network": "on"}), Device("other", "Other")])
    await found.look({"post": worker, "other": worker})
    assert said == []
    worker.delivered = 1
    await found.look({"post": worker, "other": worker})
    assert [one[:2] for one in said] == [("post", "off")]


async def test_a_store_that_can_not_keep_it_is_said_in_the_log(clock, caplog):
    async def tell(draft, name):
        raise StoreTrouble("the disk is full")

    worker = Hands()
    worker.failing = (0.0, "x")
    await Failures(tell).look({"post": worker})
    assert caplog.messages == ["post: deliveries fail, which could not be told: the disk is full"]


def test_a_worker_says_since_when_it_fails():
    worker = Worker("t", None, None, None)
    assert worker.failing is None
    worker._say("first")
    since = worker.failing[0]
    worker._say("second")
    assert worker.failing == (since, "second")
    assert since <= time.monotonic()
