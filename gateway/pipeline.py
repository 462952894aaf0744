"""From a kept mail to an event that its targets owe: have it interpreted, name the device, build, route, hand out.

A mail stays `received` in the store until its event is written, so a crash anywhere in here only means that it is
done again, with the same id. Interpreting is done by a process of its own (`gateway.interpreter`), which has a
bounded number of mails at a time; the others wait here, and beyond a bound in the store. The mails of one peer keep
their order: a "motion ended" never overtakes its "motion started".

Where nothing waits, a mail is interpreted while the store still writes it. That hides the time it takes behind the
disk's; what comes of it is used when the mail is kept, and forgotten if it could not be.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
import time
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from operator import attrgetter
from typing import Any, cast

from gateway import draft as draft_of
from gateway import interpret
from gateway.api import Device, Envelope, Event, MadeEvent, StoreTrouble, Target, about
from gateway.clock import Clock
from gateway.deliver import Ledger, Worker
from gateway.interpreter import Interpreter
from gateway.logs import Budget
from gateway.noise import NoiseControl
from gateway.registry import UNKNOWN, Registry, Sender
from gateway.route import Router
from gateway.stats import Histogram, monotonic_of
from gateway.store import Delivery, Mail, Store
from gateway.ulid import UlidMaker
from gateway.wire import event as words

log = logging.getLogger(__name__)

_BACKLOG_BYTES = 8 * 1024 * 1024  # contents that may wait in memory; beyond it they are read again from the store
_BACKLOG = 1000  # mails that may wait in memory; beyond it the rest waits in the store
_RECENT = 10_000  # mails, or events that did not come by mail, in which a repeat is looked for
_PAGE = 50  # mails read from the store at a time
_LINES = 20  # of the log, in a second, about mails
_AGAIN = 1.0  # seconds before what this machine could not do is tried again
_ASKED, _TOO_LATE = "asked", "too late"
_Answer = tuple[interpret.Reading, interpret.Meaning]
_PASSING = (OSError, MemoryError, sqlite3.Error)
"""It has no memory, no file or no disk at this moment; the mail is kept, and its turn comes."""


def sender_of(reading: interpret.Reading, meaning: interpret.Meaning) -> Sender:
    """What the registry asks, from what `interpret` answers."""
    return Sender(
        reading.sender,
        reading.sender_name,
        meaning.device_name,
        meaning.serial,
        meaning.manufacturer,
        meaning.model,
        meaning.profile,
    )


def build_event(mail: Mail, reading: interpret.Reading, meaning: interpret.Meaning, device: Device) -> Event:
    """DESIGN §4.1. The time is the time of receipt: many of these devices have no clock."""
    data: dict[str, Any] = dict(meaning.data)
    if reading.truncated:
        data["truncated"] = reading.truncated
    event: Event = {
        "v": words.VERSION,
        "id": mail.id,
        "time": iso_time(mail.received),
        "source": mail.envelope.source,
        "device": device.facts(),
        "kind": words.known_kind(meaning.kind),
        "state": meaning.state,
        "severity": meaning.severity,
        "title": meaning.title,
        "text": reading.text,
        "data": data,
        "attachments": reading.attachments,
        "mail": {
            "from": reading.sender or mail.envelope.mail_from,
            "to": mail.envelope.rcpt_to,
            "subject": reading.subject,
            "message_id": reading.message_id,
            "helo": mail.envelope.helo or None,
            "peer": mail.envelope.peer or None,
        },
    }
    return cast(Event, MadeEvent(event))


def iso_time(seconds: float) -> str:
    """UTC with milliseconds, as events carry it."""
    second, milliseconds = divmod(round(seconds * 1_000_000) // 1000, 1000)
    return f"{_iso_second(second)}.{milliseconds:03d}Z"


@lru_cache(maxsize=8)
def _iso_second(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).isoformat()[:19]


@dataclass(slots=True)
class _HeldUp:
    """A peer's mail that can't be read or told now, and those that wait behind it, in their order.

    They are asked about one after the other. The interpreter answers in the order of asking, so nothing else of that
    peer is under way when it answers.
    """

    mails: list[Mail] = field(default_factory=list)
    asked: Mail | None = None
    """It is under way; None: the first one will be in a moment."""

    def add(self, mail: Mail) -> None:
        at = bisect_left(self.mails, mail.seq, key=attrgetter("seq"))
        if self.mails[at : at + 1] != [mail]:
            self.mails.insert(at, mail)


class Pipeline:
    """Joins the steps between intake and the targets' workers."""

    def __init__(self, store: Store, registry: Registry) -> None:
        self.store = store
        self.registry = registry
        self.ledger = Ledger(store)
        self.ledger.before = registry.save_news
        self.workers: dict[str, Worker] = {}
        self.claimants: dict[str, Target] = {}
        """The targets that have a word in what is their business (`Target.claims`)."""
        self.router = Router([], [], lambda _: lambda __: True)
        self.on_device: Callable[[Device], None] = lambda _: None
        self.duplicate_window = 60.0
        self.interpreter = Interpreter(self._interpreted)
        self._new_id = UlidMaker().new
        self.clock = Clock(self._clock_moved)
        self.noise = NoiseControl(store, self._new_id, iso_time)
        self.noise.release = self._release
        self._kept: deque[Mail] = deque()  # to be taken up
        self._queue: deque[Mail] = deque()
        self._queued_bytes = 0
        self._behind = True  # the store holds mails to interpret that are not in the queue
        self._read_up_to = 0
        self._marked_up_to: int | None = None  # how far mails that are marked were looked for; None: nobody asks
        self._scheduled = False
        self._held_up: dict[str, _HeldUp] = {}  # by peer
        self._recent: dict[int, tuple[float, str]] = {}  # in the order of coming
        self._emitted: dict[str, None] = {}  # ids of events that did not come by mail, in the order of coming
        self._with_files = asyncio.Lock()
        self._replaying: set[str] = set()
        self._waited: set[str] = set()  # mails that were not interpreted when `catch_up` looked last
        self._stopped = False
        self._lines = Budget(_LINES)
        self.events: Counter[str] = Counter()  # kind -> events made
        self.duplicates = 0
        self.lost = 0  # mails whose content was gone
        self.interpreting = Histogram()  # kept to event

    # --- in ----------------------------------------------------------------------------------------------------

    def begun(self, mail: Mail) -> None:
        """A mail is being kept."""
        free = not (self._kept or self._queue or self._behind or self._stopped) and self.interpreter.room
        if free and mail.content is not None and mail.envelope.peer not in self._held_up:
            with suppress(MemoryError):  # there is time for it when it is kept
                self.interpreter.give(mail, mail.content, self.registry.profile_of(mail.envelope))
                mail.early = _ASKED

    def arrived(self, mail: Mail) -> None:
        """A mail was kept: to be told in the order of `seq`.

        It is taken up in a turn of its own, so that of mails that are kept together all senders are told first.
        """
        self._kept.append(mail)
        asyncio.get_running_loop().call_soon(self._take_up)

    def _take_up(self) -> None:
        mail = self._kept.popleft()
        early, mail.early = mail.early, None
        if self._behind or len(self._queue) >= _BACKLOG:
            self._behind = True
            mail.early = _TOO_LATE
        elif mail.seq <= self._read_up_to:  # `_read_more` found it before we were told
            mail.early = _TOO_LATE
        else:
            self._read_up_to = mail.seq
            if early is not None or self._queued_bytes + mail.size > _BACKLOG_BYTES:
                mail.content = None
            if early is None:
                self._queued_bytes += mail.size if mail.content is not None else 0
                self._queue.append(mail)
            elif early is not _ASKED:
                self._interpreted(mail, *cast(_Answer, early))
                return
        self._schedule()

    def resume(self) -> None:
        """At start: interpret what was kept, but not interpreted, when the gateway last ended."""
        self.interpreter.start()
        since = time.time() - self.duplicate_window
        # No more than are remembered anyway: by their time alone, all that is kept would have to be read.
        for peer, helo, mail_from, rcpt_to, sha256, received, mail_id in self.store.rows(
            "SELECT peer, helo, mail_from, rcpt_to, sha256, received, id "
            "FROM (SELECT * FROM mails ORDER BY seq DESC LIMIT ?) WHERE received > ? AND state = 'done' ORDER BY seq",
            _RECENT,
            since,
        ):
            key = hash((peer, helo, mail_from, tuple(json.loads(rcpt_to)), sha256))
            self._recent.setdefault(key, (received, mail_id))
        self._schedule()

    def replay(self) -> None:
        """Somebody asked for mails to be interpreted once more: take those that are marked so, however many."""
        self._marked_up_to = 0
        self._schedule()

    def take_over(self, event: Event, targets: Mapping[str, float]) -> None:
        """An event of a store that was set aside; target -> Unix time of expiry."""
        self.ledger.add(event, datetime.fromisoformat(event["time"]).timestamp(), dict(targets))
        for name in targets.keys() & self.workers.keys():
            self.workers[name].put(Delivery(event["id"], name, targets[name], event=event))

    async def catch_up(self) -> None:
        """Now and then: take a mail whose news got lost on the way from the store to here (for want of memory, say).

        With nothing under way and nothing unwritten, a mail that still waits in the store since the last look is one.
        """
        self.ledger.write()
        if not await self.store.flush() or self.ledger.unwritten or self._stopped:
            return
        if self._queue or self._held_up or self._behind or self._marked_up_to is not None or self.interpreter.depth:
            return
        waiting = {mail.id: mail for mail in self.store.open_mails(0, _BACKLOG)}
        forgotten = [mail for mail_id, mail in waiting.items() if mail_id in self._waited]
        self._waited = waiting.keys() - {mail.id for mail in forgotten}
        for mail in forgotten:
            log.warning("mail %s was kept, but not interpreted yet: doing so now", mail.id, extra={"mail": mail.id})
            mail.dot = mail.kept = monotonic_of(mail.received)
        self._queue.extend(forgotten)
        if forgotten:
            self._schedule()

    async def emit(self, source: str, draft: Mapping[str, Any], *, heard: bool = True) -> str:
        """An event that did not come by mail. Returns its id when it is in the store; raises StoreTrouble if not yet.

        It goes out in either case, once: a draft that brings its id, as a board's event does, may be repeated until
        this returned. One without an id is a new event each time. `heard`: its device said so itself.
        """
        if not draft.get("files"):
            return await self._emit(source, draft, heard)
        async with self._with_files:  # to keep them takes a moment, in which its repeat must not come
            return await self._emit(source, draft, heard)

    async def _emit(self, source: str, draft: Mapping[str, Any], heard: bool) -> str:
        event_id = draft_of.own_id(draft)
        if event_id is None or not self._is_known(event_id):
            event_id = event_id or self._new_id()
            received = time.time()
            told = draft.get("targets")
            apart_from = draft.get("apart_from", "")
            said = draft_of.device_of(draft)
            is_device = bool(said) or not told  # what a person or a program has us tell is no device's news
            said = said or Device(words.slug(source) or source, "")
            device = self.registry.introduce(said, source, received) if is_device else Device(UNKNOWN, source)
            when = iso_time(draft_of.moment(draft, received))
            event = draft_of.to_event(draft, event_id, when, source, device)
            if files := draft.get("files"):
                await self._keep_files(event, source, received, files)
            if is_device:
                heard = heard and draft.get("heard") is not False
                self.registry.saw(device, event, None, received, heard=heard)
                self.on_device(device)
            made = time.monotonic()
            self._emitted[event_id] = None
            if len(self._emitted) > _RECENT:
                del self._emitted[next(iter(self._emitted))]
            self._hand_out(event, received, made, made, told, apart_from)
            self.ledger.write()
        if not await self.store.flush():
            raise StoreTrouble("the store can't write now")
        return event_id

    async def _keep_files(self, event: Event, source: str, received: float, files: Sequence[Any]) -> None:
        """Attachments are kept as those of mails are: in a mail, which nobody sent and nobody interprets."""
        if before := self._mail(event["id"]):  # kept before a crash, in which its event was lost
            event["attachments"] = interpret.read(self.store.content(before)).attachments
            return
        content = draft_of.to_mail(event, files)
        event["attachments"] = interpret.read(content).attachments
        kept: asyncio.Future[StoreTrouble | None] = asyncio.get_running_loop().create_future()
        envelope = Envelope(source, "", "", "", [])
        self.store.keep(Mail(event["id"], received, envelope, len(content), "", "done", content), kept.set_result)
        if trouble := await kept:
            raise trouble

    def _mail(self, mail_id: str) -> Mail | None:
        try:
            return self.store.mail(mail_id)
        except _PASSING as error:
            raise StoreTrouble(f"the store can't be read now: {_words(error)}") from error

    def _is_known(self, event_id: str) -> bool:
        """Is this event in the store, or on its way there?"""
        try:
            return event_id in self._emitted or self.store.event(event_id) is not None
        except _PASSING as error:
            raise StoreTrouble(f"the store can't be read now: {_words(error)}") from error

    async def stop(self) -> None:
        """Finish what the interpreter has room for, if that takes no long time; the rest stays `received`."""
        self._turn()
        self._stopped = True
        await self.interpreter.close()
        self.ledger.write()
        self.log_rest()

    @property
    def depth(self) -> int:
        return len(self._queue) + self.interpreter.depth

    # --- the queue ---------------------------------------------------------------------------------------------

    def _schedule(self) -> None:
        if not self._scheduled and not self._stopped:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        """Give the interpreter what it has room for."""
        self._scheduled = False
        try:
            while not self._stopped and self.interpreter.room:
                if not self._queue:
                    if self._marked_up_to is not None:
                        self._read_marked(self._marked_up_to)
                    elif self._behind:
                        self._read_more()
                    else:
                        break
                else:
                    self._give(self._queue.popleft())
        except _PASSING as error:
            log.warning("kept mails can't be read now, trying again: %s", _words(error))
            asyncio.get_running_loop().call_later(_AGAIN, self._schedule)

    def _read_more(self) -> None:
        mails = self.store.open_mails(self._read_up_to, _PAGE)
        if not mails:
            self._behind = False
            return
        self._read_up_to = mails[-1].seq
        self._replaying.update(mail.id for mail in mails if mail.state == "replay")
        for mail in mails:  # how long ago a mail came that is replayed says nothing about us
            mail.dot = mail.kept = time.monotonic() if mail.state == "replay" else monotonic_of(mail.received)
        self._queue.extend(mails)

    def _read_marked(self, after: int) -> None:
        mails = self.store.open_mails(after, _PAGE)
        self._marked_up_to = mails[-1].seq if mails else None
        for mail in mails:
            if mail.state == "replay" and mail.id not in self._replaying:
                self._replaying.add(mail.id)
                mail.dot = mail.kept = time.monotonic()
                self._queue.append(mail)

    def _give(self, mail: Mail) -> None:
        if (held := self._held_up.get(mail.envelope.peer)) is not None:
            held.add(mail)
            return
        try:
            self._ask(mail)
        except _PASSING as error:
            self._hold_up(mail, error)

    def _ask(self, mail: Mail) -> bool:
        """False: there is nothing to ask about."""
        if (content := self._content(mail)) is not None:
            where = (self.store.spool / mail.file).absolute() if mail.file else content
            self.interpreter.give(mail, where, self.registry.profile_of(mail.envelope))
        if mail.content is not None:
            self._queued_bytes -= mail.size
            mail.content = None
        return content is not None

    def _hold_up(self, mail: Mail, error: BaseException) -> None:
        log.warning("mail %s can't be interpreted now, trying again: %s", mail.id, _words(error))
        peer = mail.envelope.peer
        held = self._held_up.get(peer)
        if held is None:
            held = self._held_up[peer] = _HeldUp(asked=mail)
        held.add(mail)
        if held.asked is mail:
            held.asked = None
            asyncio.get_running_loop().call_later(_AGAIN, self._go_on, peer)

    def _go_on(self, peer: str) -> None:
        """Ask about the first of those that wait."""
        if self._stopped:
            return
        held = self._held_up[peer]
        held.asked = first = held.mails[0]
        try:
            if not self._ask(first):
                self._is_through(first)
        except _PASSING as error:
            self._hold_up(first, error)

    def _is_through(self, mail: Mail) -> None:
        """Unless it was held up anew: then it is no longer asked about."""
        peer = mail.envelope.peer
        held = self._held_up.get(peer)
        if held is None or held.asked is not mail:
            return
        held.mails.remove(mail)  # a replay of an older one may stand before it by now
        if held.mails:
            held.asked = None
            asyncio.get_running_loop().call_soon(self._go_on, peer)
        else:
            del self._held_up[peer]

    def _interpreted(self, mail: Mail, reading: interpret.Reading, meaning: interpret.Meaning) -> None:
        """The interpreter's answer. A mail that we fail on stays `received`, and those behind it are not held up."""
        if self._queue or self._behind or self._marked_up_to is not None:
            self._schedule()  # there is room again
        if mail.early is _ASKED:
            mail.early = (reading, meaning)  # it is not kept yet, and may never be
            return
        if mail.early is _TOO_LATE:
            return
        held = self._held_up.get(mail.envelope.peer)
        if held is not None and held.asked is not mail and mail.seq > held.mails[0].seq:
            held.add(mail)
            return
        try:
            self._finish(mail, reading, meaning)
        except _PASSING as error:
            self._hold_up(mail, error)
        finally:
            self._is_through(mail)

    def _content(self, mail: Mail) -> Any:
        """Its bytes; None, and said, if somebody removed them."""
        try:
            return self.store.content(mail)
        except LookupError as error:
            self._set_state(mail, "lost")
            self.lost += 1
            log.error("%s", error, extra={"mail": mail.id})
            return None

    # --- the event ---------------------------------------------------------------------------------------------

    def _finish(self, mail: Mail, reading: interpret.Reading, meaning: interpret.Meaning) -> None:
        self._replaying.discard(mail.id)
        if mail.state == "received" and (first := self._duplicate_of(mail)):
            self._set_state(mail, "duplicate")
            self.duplicates += 1
            if self._may_log(time.monotonic()):
                peer = mail.envelope.peer
                fields = {"mail": mail.id, "peer": peer}
                log.info("mail %s from %s repeats %s: no second event", mail.id, peer, first, extra=fields)
            return
        device, _ = self.registry.identify(
            mail.envelope, sender_of(reading, meaning), reading.subject or "", mail.received
        )
        event = build_event(mail, reading, meaning, device)
        self.registry.saw(device, event, reading.picture, mail.received, meaning.off_after)
        self.on_device(device)
        made = time.monotonic()
        self.interpreting.observe(made - mail.kept)
        self._hand_out(event, mail.received, mail.dot, made)
        if self._may_log(made):
            self._log_mail(mail, event, made)

    def _may_log(self, now: float) -> bool:
        return log.isEnabledFor(logging.INFO) and (log.isEnabledFor(logging.DEBUG) or self._lines.take(now))

    def _log_mail(self, mail: Mail, event: Event, made: float) -> None:
        """A mail's one line: what came, what it was taken for, and how long each step took."""
        times = [("interpret_ms", mail.kept, made)]
        if mail.began:
            times = [("receive_ms", mail.began, mail.dot), ("store_ms", mail.dot, mail.kept), *times]
        what = f"{event['kind']} {event['state']}" if event["state"] else event["kind"]
        log.info(
            "mail %s from %s is an event of %s: %s",
            mail.id,
            mail.envelope.peer,
            event["device"]["id"],
            what,
            extra={
                **about(event),
                "source": event["source"],
                "peer": mail.envelope.peer,
                "kind": event["kind"],
                "state": event["state"],
                "sender": mail.envelope.mail_from,
                "size": mail.size,
                **{name: round(1000 * (end - begin), 1) for name, begin, end in times},
            },
        )

    def log_rest(self) -> None:
        """Once a second: how many mails had no line of their own."""
        if count := self._lines.left_out:
            self._lines.left_out = 0
            log.info("%d more mails within a second (each has a line with 'log: debug')", count)

    def _hand_out(
        self,
        event: Event,
        received: float,
        dot: float,
        made: float,
        told: Sequence[str] | None = None,
        apart_from: str = "",
    ) -> None:
        """To those that the routes say, or to those that are `told`; not to the one that it is kept `apart_from`."""
        self.events[event["kind"]] += 1
        self.clock.look()  # so that no end is reckoned by a clock that is taken for an older one a moment later
        now = time.time()
        plan = self.router.plan_for(told) if told else self.router.plan(event)
        care = plan.cares or self.noise.concerns_all
        asked, held = self.noise.admit(event, plan, now) if care else (plan.targets, {})
        held.pop(apart_from, None)
        targets = {
            name: now + seconds for name, seconds in asked.items() if name in self.workers and name != apart_from
        }
        for name, target in self.claimants.items():
            if name not in targets and target.claims(event):  # its own business, which no care for people holds back
                targets[name] = now + target.patience
                held.pop(name, None)
        self.ledger.add(event, received, targets, held)
        for name, expires in targets.items():
            self.workers[name].put(Delivery(event["id"], name, expires, event=event, dot=dot, made=made))

    def _clock_moved(self, seconds: float) -> None:
        way = "forward" if seconds > 0 else "back"
        log.warning("the clock was set %s by %.0f seconds: what waits may wait as long as before", way, abs(seconds))
        self.ledger.write()
        self.store.note_one(
            "UPDATE deliveries SET expires = expires + ?, due = due + iif(state = 'waiting', ?, 0) "
            "WHERE state IN ('waiting', 'held')",
            seconds,
            seconds,
        )
        for worker in self.workers.values():
            worker.clock_moved(seconds)

    async def look_at_held(self) -> None:
        """Now and then: what was held back may be due."""
        self.ledger.write()
        await self.noise.tick(time.time())

    def _release(self, event: Event, target: str, expires: float) -> None:
        now = time.monotonic()
        if target in self.workers:
            self.workers[target].put(Delivery(event["id"], target, expires, event=event, dot=now, made=now))

    def _duplicate_of(self, mail: Mail) -> str | None:
        """The id of the mail that this one repeats.

        A device that missed our 250 sends the same bytes once more (RFC 1047); the same peer, HELO name, envelope and
        content within the window is one event. To another recipient it is another mail: that may be its routing key.
        """
        if not self.duplicate_window:
            return None
        envelope = mail.envelope
        key = hash((envelope.peer, envelope.helo, envelope.mail_from, tuple(envelope.rcpt_to), mail.sha256))
        seen = self._recent.pop(key, None)
        if seen and seen[1] != mail.id and abs(mail.received - seen[0]) <= self.duplicate_window:
            self._recent[key] = seen
            return seen[1]
        self._recent[key] = (mail.received, mail.id)
        if len(self._recent) > _RECENT:
            del self._recent[next(iter(self._recent))]
        return None

    def _set_state(self, mail: Mail, state: str) -> None:
        self.store.note_one("UPDATE mails SET state = ? WHERE id = ?", state, mail.id)


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__
