"""Out it goes: one worker a target, so that one target's trouble never delays another.

A delivery is owed until the target has said done, refused it, or its expiry has passed. Each of these is recorded:
done removes the row, refused leaves a dead letter, expired says so. In between it is tried again, with a back-off
that lives in the store. When a target is away as a whole, its worker pauses and nothing is counted against the
events. A worker holds a bounded number of deliveries in memory; what is beyond waits in the store and is read later.
"""

from __future__ import annotations

import asyncio
import functools
import heapq
import json
import logging
import random
import sqlite3
import time
from bisect import insort
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from operator import attrgetter
from typing import Any

from gateway.api import Event, NotReady, Refused, Retry, Target, about, to_json
from gateway.stats import Histogram
from gateway.store import Delivery, Store, rows_of
from gateway.writer import Statement

log = logging.getLogger(__name__)

Held = dict[str, tuple[float, float, str]]
"""Target -> (due, expiry, why): what waits for its time (`gateway.noise`); Unix seconds."""

_HELD = 2000  # deliveries of one target in memory
_LEDGER_WAIT = 0.02  # seconds that a new event waits for its acknowledgements before it is written
_FIRST_RETRY, _LONGEST_RETRY = 5.0, 900.0  # seconds
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0
_by_event = attrgetter("event_id")  # an id begins with its time


class Ledger:
    """Writes events and what is owed for them, and takes off what is done.

    A new event waits a moment before it is handed to the store: most targets have acknowledged by then, and neither
    the debt nor its end needs a row. Nothing is lost by that: until the event is written its mail is `received`.
    """

    def __init__(self, store: Store) -> None:
        self.before: Callable[[], None] = lambda: None
        """Called before events are handed to the store, for what is to be written beside them."""
        self._store = store
        self._new: dict[str, tuple[Event, float, dict[str, float], Held]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, event: Event, received: float, targets: dict[str, float], held: Held | None = None) -> None:
        """`targets`: name -> Unix time of expiry; `held`: those that are not to be told yet."""
        self._new[event["id"]] = (event, received, dict(targets), held or {})
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_LEDGER_WAIT, self.write)

    @property
    def unwritten(self) -> bool:
        """Does anything wait here that was not handed to the store?"""
        return bool(self._new)

    def write(self) -> None:
        """Hand what waits to the store."""
        if self._timer:
            self._timer.cancel()
            self._timer = None
        entries, self._new = self._new, {}
        if entries:
            self.before()
            self._store.note(lambda: _event_statements(entries))

    def done(self, target: str, event_id: str) -> None:
        waiting = self._new.get(event_id)
        if waiting:
            waiting[2].pop(target, None)
        else:
            self._store.note_one("DELETE FROM deliveries WHERE target = ? AND event = ?", target, event_id)

    def owe(self, delivery: Delivery) -> None:
        """Make a row for a delivery that has none any more."""
        self._store.note_one(
            "INSERT OR IGNORE INTO deliveries (event, target, state, expires) VALUES (?, ?, ?, ?)",
            delivery.event_id,
            delivery.target,
            delivery.state,
            delivery.expires,
        )

    def put_off(self, delivery: Delivery) -> None:
        """A delivery's new state, attempts, due and reason; after this it has a row."""
        self.write()
        self._store.note_one(
            "UPDATE deliveries SET state = ?, attempts = ?, due = ?, reason = ?, memo = ? "
            "WHERE target = ? AND event = ?",
            delivery.state,
            delivery.attempts,
            delivery.due,
            delivery.reason,
            delivery.memo,
            delivery.target,
            delivery.event_id,
        )


def _event_statements(entries: dict[str, tuple[Event, float, dict[str, float], Held]]) -> Iterator[Statement]:
    """On the writer thread. What was acknowledged meanwhile is not in `targets` any more, and is not owed."""
    events: list[Any] = []
    owed: list[Any] = []
    later: list[Any] = []
    mails: list[str] = []
    for event_id, (event, received, targets, held) in entries.items():
        events += (event_id, received, event["device"]["id"], to_json(event).decode())
        if event["mail"]:
            mails.append(event_id)
        for target, expires in list(targets.items()):
            owed += (event_id, target, "waiting", expires)
        for target, (due, expires, reason) in held.items():
            later += (event_id, target, "held", due, expires, reason)
    yield from rows_of("INSERT OR REPLACE INTO events (id, time, device, event)", 4, events)
    yield from rows_of("INSERT OR REPLACE INTO deliveries (event, target, state, expires)", 4, owed)
    yield from rows_of("INSERT OR REPLACE INTO deliveries (event, target, state, due, expires, reason)", 6, later)
    for some in (mails[start : start + 100] for start in range(0, len(mails), 100)):
        marks = ", ".join("?" * len(some))
        yield f"UPDATE mails SET state = 'done' WHERE id IN ({marks})", some  # noqa: S608  # marks, no values


def _note(delivery: Delivery, memo: Mapping[str, Any] | None) -> None:
    delivery.memo = json.dumps(memo) if memo else ""


class Worker:
    """Delivers to one target."""

    def __init__(
        self, name: str, target: Target, store: Store, ledger: Ledger, hide: Callable[[str], str] = str
    ) -> None:
        """`hide` takes secrets out of the reasons that a target gives, which are kept and shown."""
        self._hide = hide
        self.name = name
        self.target = target
        self.last_error: str | None = None
        self.trouble: tuple[float, str] | None = None  # the newest, and when, also after it is over
        self.failing: tuple[float, str] | None = None  # since when (monotonic) nothing has gone well, and why
        self.not_yet: str | None = None
        """Why the target can be given nothing: it is not started. What waits for it goes on to wait, and to expire."""
        self.look_at_clock: Callable[[], None] = lambda: None
        """Called before anything expires; may call `clock_moved`."""
        self.delivered = 0
        self.retried = 0
        self.ended = {"dead": 0, "expired": 0}
        self.delivering = Histogram()  # event made to acknowledged
        self.whole = Histogram()  # final dot to acknowledged
        self._store = store
        self._ledger = ledger
        self._ready: deque[Delivery] = deque()
        self._later: list[tuple[float, str, Delivery]] = []
        self._held: set[str] = set()  # events in _ready, _later and under way
        self._moved = 0.0  # seconds by which the clock was set since the start
        self._behind = True  # the store has more than memory
        self._read_after = 0.0
        self._reading = False
        self._ended: set[str] = set()  # events that ended while reading; their rows may still be seen
        self._paused_until = 0.0
        self._pause = _FIRST_PAUSE
        self._wake = asyncio.Event()
        self._under_way: set[asyncio.Future[None]] = set()
        self._runner: asyncio.Task[None] | None = None
        self._stopped = False

    def start(self) -> None:
        self._runner = asyncio.create_task(self._run(), name=f"deliver {self.name}")

    async def stop(self, patience: float = 5.0) -> None:
        """End; deliveries under way have `patience` seconds, what is left stays owed."""
        self._stopped = True
        if self._runner:
            self._runner.cancel()
            await asyncio.gather(self._runner, return_exceptions=True)
        if self._under_way:
            _, late = await asyncio.wait(self._under_way, timeout=patience)
            for one in late:
                one.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    @property
    def depth(self) -> int:
        """Deliveries in memory; there may be more in the store."""
        return len(self._held)

    def put(self, delivery: Delivery) -> None:
        if self._behind or len(self._held) >= _HELD:
            self._behind = True
        elif delivery.event_id not in self._held:
            self._held.add(delivery.event_id)
            delivery.moved = self._moved
            self._line_up(delivery)
            self._launch()
            return
        self._wake.set()

    def _line_up(self, delivery: Delivery) -> None:
        """In the order of the events: what is tried again comes before what came after it, a start before its end."""
        insort(self._ready, delivery, key=_by_event)

    def ready(self) -> None:
        """The target is back: go on at once."""
        self._paused_until = 0.0
        self._pause = _FIRST_PAUSE
        self._wake.set()

    async def rescan(self) -> None:
        """Someone changed the deliveries in the store: take over what is due now, drop what is gone."""
        before = [*self._ready, *(delivery for _, _, delivery in self._later)]
        self._ledger.write()
        await self._store.flush()
        rows = {row.event_id: row for row in self._store.deliveries(target=self.name, state="waiting", limit=_HELD)}
        for delivery in before:
            if delivery in self._ready or any(delivery is item[2] for item in self._later):
                self._forget(delivery)
                if delivery.event_id in rows:
                    delivery.due = rows[delivery.event_id].due
                    self._held.add(delivery.event_id)
                    heapq.heappush(self._later, (delivery.due, delivery.event_id, delivery))
        self._behind = True
        self._wake.set()

    def _forget(self, delivery: Delivery) -> None:
        self._held.discard(delivery.event_id)
        if delivery in self._ready:
            self._ready.remove(delivery)
        self._later = [item for item in self._later if item[2] is not delivery]
        heapq.heapify(self._later)

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            now = time.time()
            while self._later and self._later[0][0] <= now:
                self._line_up(heapq.heappop(self._later)[2])
            pause = self._paused_until - time.monotonic()
            may_read = self._behind and self._read_after <= time.monotonic()
            self._launch()
            if may_read and len(self._held) < _HELD // 2:
                await self._read_more()
            else:
                wait = pause if pause > 0 else self._later[0][0] - now if self._later else None
                await self._sleep(_FIRST_PAUSE if self._behind and not may_read else wait)

    async def _sleep(self, seconds: float | None) -> None:
        # Never longer than a minute: the wall clock, which `due` is kept in, may be set.
        try:
            async with asyncio.timeout(60.0 if seconds is None else min(max(seconds, 0.0), 60.0)):
                await self._wake.wait()  # not wait_for, which loses a cancellation that comes with the waking
        except TimeoutError:
            self._expire_old()

    async def _read_more(self) -> None:
        """Fill up from the store: all that is owed and not in memory."""
        self._behind = False
        self._reading = True
        self._ledger.write()
        try:
            readable = await self._store.flush()  # else what the store still owes itself can't be read back yet
            if readable:
                self._take_rows()
        except (OSError, MemoryError, sqlite3.Error) as error:
            readable = False
            log.warning("%s: what is owed can't be read now, trying again: %s", self.name, error)
        if not readable:
            self._behind = True
            self._read_after = time.monotonic() + _FIRST_PAUSE
        self._reading = False
        self._ended.clear()

    def _take_rows(self) -> None:
        after = ""
        while len(self._held) < _HELD:
            rows = self._store.deliveries(target=self.name, state="waiting", after=after)
            if not rows:
                return
            for row in rows:
                known = row.event_id in self._held or row.event_id in self._ended
                if not known and row.event is not None and len(self._held) < _HELD:
                    self._held.add(row.event_id)
                    row.moved = self._moved
                    heapq.heappush(self._later, (row.due, row.event_id, row))
            after = rows[-1].event_id
        self._behind = True

    def _launch(self) -> None:
        """Start as many deliveries as may be under way."""
        if self.not_yet and self._ready:
            self.failing = (self.failing[0] if self.failing else time.monotonic(), self.not_yet)
            return
        while self._ready and len(self._under_way) < self.target.concurrency and not self._stopped:
            if self._paused_until and self._paused_until > time.monotonic():
                return
            delivery = self._ready.popleft()
            if self._is_too_late(delivery):
                self._expired(delivery)
                continue
            assert delivery.event is not None
            begun = self.target.begin(delivery.event)
            if begun is None:
                self._start(delivery)
            else:
                self._under_way.add(begun)
                begun.add_done_callback(functools.partial(self._begun_ended, delivery))

    def _start(self, delivery: Delivery) -> None:
        task = asyncio.create_task(self._deliver(delivery))
        self._under_way.add(task)
        task.add_done_callback(self._landed)

    def _landed(self, task: asyncio.Future[None]) -> None:
        self._under_way.discard(task)
        self._launch()

    def _begun_ended(self, delivery: Delivery, begun: asyncio.Future[None]) -> None:
        self._under_way.discard(begun)
        if not begun.cancelled() and begun.exception() is None:
            self._done(delivery)
        elif not self._stopped:
            self._start(delivery)  # whose way it is to say what is wrong
        self._launch()

    async def _deliver(self, delivery: Delivery) -> None:
        assert delivery.event is not None
        try:
            if delivery.memo:
                await self.target.deliver_again(delivery.event, json.loads(delivery.memo))
            else:
                await self.target.deliver(delivery.event)
        except NotReady as error:
            self._say(self._hide(str(error)))
            if self._paused_until <= time.monotonic():
                pause = self._pause if error.after is None else error.after
                self._paused_until = time.monotonic() + pause * random.uniform(0.8, 1.2)  # noqa: S311  # jitter
                self._pause = min(self._pause * 2, _LONGEST_PAUSE)
            self._line_up(delivery)
            self._wake.set()
        except Retry as error:
            _note(delivery, error.memo)
            self._again(delivery, str(error), error.after)
        except Refused as error:
            _note(delivery, error.memo)
            self._end(delivery, "dead", str(error))
            log.warning(
                "%s refused event %s for good: %s", self.name, delivery.event_id, error, extra=self._about(delivery)
            )
        except asyncio.CancelledError:
            raise
        except Exception as error:  # a fault in one integration must cost nobody an event
            log.exception("%s failed on event %s", self.name, delivery.event_id, extra=self._about(delivery))
            self._again(delivery, f"{type(error).__name__}: {error}", None)
        else:
            self._done(delivery)

    def _done(self, delivery: Delivery) -> None:
        self._release(delivery)
        self.failing = None
        self._pause = _FIRST_PAUSE
        self.delivered += 1
        now = time.monotonic()
        self.delivering.observe(now - delivery.made)
        self.whole.observe(now - delivery.dot)
        if self.last_error:
            self._say(None)
        self._ledger.done(self.name, delivery.event_id)

    def _again(self, delivery: Delivery, reason: str, after: float | None) -> None:
        self.retried += 1
        reason = self._hide(reason)
        self._say(reason)
        wait = min(_FIRST_RETRY * 2 ** min(delivery.attempts, 16), _LONGEST_RETRY) if after is None else after
        delivery.attempts += 1
        delivery.reason = reason
        delivery.due = time.time() + wait * random.uniform(0.8, 1.2)  # noqa: S311  # jitter, not a secret
        heapq.heappush(self._later, (delivery.due, delivery.event_id, delivery))
        self._ledger.put_off(delivery)
        self._wake.set()

    async def failed(self, event_id: str, reason: str, memo: Mapping[str, Any] | None) -> bool:
        """`gateway.api.Gateway.failed`."""
        self._ledger.write()
        if event_id in self._held or not await self._store.flush():
            return False
        event = self._store.event(event_id)
        if event is None:
            raise LookupError(f"event {event_id} is no longer kept")
        row = self._store.delivery(event_id, self.name)
        if row and row.state == "waiting":
            return False
        delivery = row or Delivery(event_id, self.name, expires=time.time())
        if reason not in delivery.reason:  # else it is told once more
            delivery.reason = f"{delivery.reason}; {reason}" if delivery.reason else reason
        _note(delivery, memo)
        self._ledger.owe(delivery)
        self._end(delivery, "dead", delivery.reason)
        log.warning("%s: event %s failed after all: %s", self.name, event_id, self._hide(reason), extra=about(event))
        return True

    def _release(self, delivery: Delivery) -> None:
        """It is over, one way or the other."""
        self._held.discard(delivery.event_id)
        if self._reading:
            self._ended.add(delivery.event_id)
        if self._behind:
            self._wake.set()

    def _end(self, delivery: Delivery, state: str, reason: str) -> None:
        self._release(delivery)
        reason = self._hide(reason)
        self.ended[state] += 1
        self.trouble = (time.time(), reason)
        delivery.state, delivery.reason = state, reason
        self._ledger.put_off(delivery)

    def _expired(self, delivery: Delivery) -> None:
        self._end(
            delivery, "expired", delivery.reason or self.last_error or "its time was over before it could be sent"
        )
        log.warning(
            "%s: event %s expired before it could be delivered",
            self.name,
            delivery.event_id,
            extra=self._about(delivery),
        )

    def clock_moved(self, seconds: float) -> None:
        """Somebody has set the clock: the ends of what waits move along, and so does when it is tried again."""
        self._moved += seconds
        for _, _, delivery in self._later:
            delivery.due += seconds
        self._later = [(delivery.due, event_id, delivery) for _, event_id, delivery in self._later]
        self._wake.set()

    def _is_too_late(self, delivery: Delivery) -> bool:
        self.look_at_clock()
        return delivery.expires + self._moved - delivery.moved <= time.time()

    def _expire_old(self) -> None:
        for delivery in filter(self._is_too_late, list(self._ready)):
            self._ready.remove(delivery)
            self._expired(delivery)
        gone = [item[2] for item in self._later if self._is_too_late(item[2])]
        for delivery in gone:
            self._forget(delivery)
            self._expired(delivery)

    def _say(self, error: str | None) -> None:
        """Log once when it breaks and once when it is well again."""
        if error:
            self.trouble = (time.time(), error)
            self.failing = (self.failing[0] if self.failing else time.monotonic(), error)
        if error and not self.last_error:
            log.warning("%s: deliveries wait: %s", self.name, error, extra={"target": self.name})
        elif self.last_error and not error:
            log.info("%s: deliveries go out again", self.name, extra={"target": self.name})
        self.last_error = error

    def _about(self, delivery: Delivery) -> dict[str, str]:
        return {"target": self.name, **(about(delivery.event) if delivery.event else {"mail": delivery.event_id})}

    def health(self) -> dict[str, Any]:
        return {"held": self.depth, "delivered": self.delivered, "error": self.last_error}
