"""Noise control: holds back what a person is not to be told yet, tells it together when its time comes, and goes on
to others until somebody acknowledges. A device that somebody has muted is not told of for that time.

What is decided stands in `gateway.care`; here it is kept in the store and carried out. Nothing is written for events
whose routes ask for no care.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import tzinfo
from itertools import groupby
from typing import Any

from gateway import care
from gateway.api import Event, about, part_of, same_part, to_json
from gateway.care import Escalation, Memory
from gateway.deliver import Held
from gateway.route import DEFAULT_EXPIRY, Plan
from gateway.store import Store
from gateway.writer import Statement

log = logging.getLogger(__name__)

_NEVER = 1e18  # Unix seconds
_EVERYBODY = ""  # in place of a target: each that tells people
_PAGE = 5000  # held deliveries that are released at a time

Release = Callable[[Event, str, float], None]
"""An event, a target and the Unix time of its expiry: it is in the store as a delivery that waits."""


@dataclass
class Unacknowledged:
    """An event that nobody has acknowledged yet."""

    event: str
    device: str
    kind: str
    since: float
    due: float
    step: int
    how: Escalation
    part: dict[str, str]

    @property
    def waited(self) -> float:
        """Seconds from the event to the present step."""
        return self.how.after + self.step * self.how.every

    @property
    def is_over(self) -> bool:
        """Has everybody been told as often as the route says?"""
        return self.step >= self.how.times


class NoiseControl:
    """`release` is told of what goes out later than its event was made."""

    def __init__(self, store: Store, new_id: Callable[[], str], iso_time: Callable[[float], str]) -> None:
        self.zone: tzinfo | None = None
        self.people: Container[str] = ()  # targets that tell people: those that a mute concerns
        self.suppressed: Counter[str] = Counter()  # target -> repeats that were not told
        self.release: Release = lambda event, target, expires: None
        self._store = store
        self._new_id = new_id
        self._iso_time = iso_time
        self._memories: dict[str, Memory] = {}
        self._open: dict[str, Unacknowledged] = {}
        self._mutes: dict[tuple[str, str], float] = {}  # (device, target) -> Unix time
        self._written: list[tuple[Event, str, float]] = []  # given to the store as deliveries, and to no worker yet
        self._next_release = 0.0  # when something held may be due; 0: not known yet
        self._notes = 0  # that were given to the store

    async def load_again(self) -> bool:
        """When somebody else has changed what the store knows. False: not now, for something of ours is not in it yet.

        To take its word then would be to forget, say, what waits to be acknowledged since a moment ago.
        """
        notes = self._notes
        if not await self._store.flush() or notes != self._notes:
            return False
        self.load()
        return True

    def load(self) -> None:
        """What the store knows."""
        self._memories = {key: care.loads(text) for key, text in self._store.rows("SELECT key, document FROM care")}
        self._open = {one.event: one for one in unacknowledged(self._store)}
        self._mutes = mutes(self._store)
        self._next_release = 0.0

    # --- an event ----------------------------------------------------------------------------------------------

    def admit(self, event: Event, plan: Plan, now: float) -> tuple[dict[str, float], Held]:
        """Who is told now (target -> seconds till it expires), and who later. What is in neither has been told."""
        targets, held = self._not_muted(event, plan.targets, now), Held()
        if event["state"] == "off":
            self._all_clear(event)
        for target, (label, rule) in plan.cares.items():
            if target not in targets:
                continue
            key = f"{label} {target}"
            memory = self._memories.setdefault(key, Memory())
            decision = care.decide(rule, memory, event, now, self.zone)
            if rule.repeat or rule.at_most:
                text = care.dumps(memory)
                self._note("INSERT OR REPLACE INTO care (key, document) VALUES (?, ?)", key, text)
            if rule.escalate and event["state"] != "off" and decision.due != 0:
                self._watch(event, rule.escalate, now if decision.due is None else decision.due)
            if decision.due is None:
                continue
            expiry = targets.pop(target)
            if decision.due:
                held[target] = (decision.due, decision.due + expiry, f"waits {decision.why}")
                self._next_release = min(self._next_release, decision.due)
            else:
                self.suppressed[target] += 1
            what = held[target][2] if decision.due else f"is not told: {decision.why}"
            log.debug("event %s for %s %s", event["id"], target, what, extra={**about(event), "target": target})
        return targets, held

    # --- muted -------------------------------------------------------------------------------------------------

    @property
    def concerns_all(self) -> bool:
        """Is there something of which an event may be the end, or for which it is not told, whatever its route asks?"""
        return bool(self._mutes or self._open)

    def mute(self, device: str, seconds: float, now: float, target: str = _EVERYBODY) -> float:
        """People are not told of this device for so long (0: from now on they are again). The Unix time of its end.

        `seconds` may be infinity: till somebody ends it.

        `target`: through this one alone; else through none that tells people.
        """
        for key in [key for key, until in self._mutes.items() if until <= now or key == (device, target)]:
            del self._mutes[key]
            self._note("DELETE FROM mutes WHERE device = ? AND target = ?", *key)
        if seconds > 0:
            self._mutes[device, target] = now + seconds
            self._note(
                "INSERT OR REPLACE INTO mutes (device, target, until) VALUES (?, ?, ?)", device, target, now + seconds
            )
        return now + seconds

    def muted_until(self, device: str, now: float) -> float:
        """The Unix time until which nobody is told of a device; 0: they are."""
        return muted_until(self._mutes, device, _EVERYBODY, now)

    def ended(self, now: float) -> set[str]:
        """The devices that a mute has ended for since the last time that this was asked."""
        ended = [key for key, until in self._mutes.items() if until <= now]
        for device, target in ended:
            self.mute(device, 0, now, target)
        return {device for device, _ in ended}

    def forget(self, device: str) -> None:
        """It is no more; what once has its name is another."""
        for name, target in list(self._mutes):
            if name == device:
                self.mute(device, 0, 0.0, target)

    def muted(self) -> set[str]:
        return {device for device, _ in self._mutes}

    def _not_muted(self, event: Event, targets: Mapping[str, float], now: float) -> dict[str, float]:
        told = dict(targets)
        for target in targets if self._mutes else ():
            if target in self.people and muted_until(self._mutes, event["device"]["id"], target, now):
                del told[target]
                self.suppressed[target] += 1
                fields = {**about(event), "target": target}
                log.debug("event %s for %s is not told: its device is muted", event["id"], target, extra=fields)
        return told

    # --- later -------------------------------------------------------------------------------------------------

    async def tick(self, now: float) -> None:
        """Release what is due. The store must have been given all that was admitted."""
        if now >= self._next_release:
            self._next_release, then = _NEVER, 0.0  # whatever is admitted meanwhile lowers it again
            try:
                if await self._store.flush():
                    then = await self._release_due(now)
            finally:
                self._next_release = min(self._next_release, then)
        due_now = [one for one in self._open.values() if one.due <= now and self._hearers(one, now)]
        if due_now and await self._store.flush():  # else an event that is not written yet would seem to be gone
            for one in due_now:
                await self._escalate(one, now)
        if self._written and await self._store.flush():
            written, self._written = self._written, []
            for told, target, expires in written:
                self.release(told, target, expires)

    async def _release_due(self, now: float) -> float:
        """When there may be more."""
        rows = await asyncio.to_thread(
            self._store.rows,
            "SELECT d.target, d.expires, d.reason, e.event FROM deliveries d JOIN events e ON e.id = d.event "
            "WHERE d.state = 'held' AND d.due <= ? ORDER BY d.target, e.time, e.seq LIMIT ?",
            *(now, _PAGE),
        )
        for target, some in groupby(rows, key=lambda row: str(row[0])):
            self._release(target, list(some), now)
        if len(rows) == _PAGE:
            return now
        sql = "SELECT min(due) FROM deliveries WHERE state = 'held' AND due > ?"
        return (await asyncio.to_thread(self._store.rows, sql, now))[0][0] or _NEVER

    def _release(self, target: str, rows: list[tuple[Any, ...]], now: float) -> None:
        events: list[Event] = [json.loads(row[3]) for row in rows]
        expires = max(row[1] for row in rows)
        if len(events) == 1:
            told = events[0]
        else:
            told = care.summary(events, self._new_id(), self._iso_time(now), rows[0][2], self.zone)

        def statements() -> Iterator[Statement]:
            if len(events) > 1:
                yield _insert_event(told, now)
            for event in events:
                yield "DELETE FROM deliveries WHERE target = ? AND event = ? AND state = 'held'", (target, event["id"])
            yield _insert_delivery(told, target, expires)

        self._store.note(statements)
        self._written.append((told, target, expires))
        if len(events) > 1:
            log.info("%s: %d events that waited are told as %s", target, len(events), told["id"], extra=about(told))

    # --- until somebody acknowledges ---------------------------------------------------------------------------

    def _watch(self, event: Event, how: Escalation, since: float) -> None:
        if event["id"] not in self._open:
            due, part = since + how.after, part_of(event)
            one = Unacknowledged(event["id"], event["device"]["id"], event["kind"], since, due, 0, how, part)
            self._open[one.event] = one
            self._save(one)

    def _note(self, sql: str, *values: Any) -> None:
        self._notes += 1
        self._store.note_one(sql, *values)

    def _save(self, one: Unacknowledged) -> None:
        self._note(
            "INSERT OR REPLACE INTO escalations (event, device, kind, since, due, step, how) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            *(one.event, one.device, one.kind, one.since, one.due, one.step),
            json.dumps([one.how.after, one.how.to, one.how.every, one.how.times]),
        )

    def _all_clear(self, event: Event) -> None:
        part = part_of(event)
        for one in list(self._open.values()):
            if (one.device, one.kind) == (event["device"]["id"], event["kind"]) and same_part(one.part, part):
                self._forget(one)

    def _forget(self, one: Unacknowledged) -> None:
        self._open.pop(one.event, None)
        self._note("DELETE FROM escalations WHERE event = ?", one.event)

    def _hearers(self, one: Unacknowledged, now: float) -> list[str]:
        """Who is told now that nobody has acknowledged it; none of those through whom its device is muted."""
        if self.muted_until(one.device, now):
            return []
        return [name for name in one.how.to if not muted_until(self._mutes, one.device, name, now)]

    async def _escalate(self, one: Unacknowledged, now: float) -> None:
        event = await asyncio.to_thread(self._store.event, one.event)
        if self._open.get(one.event) is not one:
            return None  # somebody has acknowledged it meanwhile
        if event is None:
            return self._forget(one)
        if not (hearers := self._hearers(one, now)):
            return None
        told = care.reminder(event, one.step + 1, one.waited, self._new_id(), self._iso_time(now))
        one.step += 1
        one.due = _NEVER if one.is_over else now + one.how.every
        expires = now + DEFAULT_EXPIRY

        def statements() -> Iterator[Statement]:
            yield _insert_event(told, now)
            for target in hearers:
                yield _insert_delivery(told, target, expires)

        self._store.note(statements)
        self._save(one)
        log.warning("nobody has acknowledged event %s: told %s", one.event, ", ".join(hearers), extra=about(event))
        self._written += [(told, target, expires) for target in hearers]
        return None

    def waits(self, event: Event) -> bool:
        """Does it, or what it tells of, wait to be acknowledged?"""
        return not self._open.keys().isdisjoint(told_of_event(event))

    def acknowledge(
        self, event_ids: Iterable[str] = (), device: str | None = None, *, everything: bool = False
    ) -> list[str]:
        """Somebody knows of these: nobody else is told. An event may be a reminder, or tell of several. The ids."""
        meant = told_of(self._store, event_ids)
        found = [one for one in self._open.values() if everything or one.event in meant or one.device == device]
        for one in found:
            self._forget(one)
        return [one.event for one in found]


def told_of(store: Store, event_ids: Iterable[str]) -> set[str]:
    """These events, and those that they remind or tell of."""
    meant = set(event_ids)
    for event_id in list(meant):
        if event := store.event(event_id):
            meant |= told_of_event(event)
    return meant


def told_of_event(event: Event) -> set[str]:
    """The ids of an event, and of those that it reminds or tells of.

    These are in data that we have made (`gateway.care`); what a mail says under the same names is something else.
    """
    found = {event["id"]}
    if event["mail"] is None:
        events, of = event["data"].get("events"), event["data"].get("of")
        found.update(one for one in [*(events if isinstance(events, list) else ()), of] if isinstance(one, str))
    return found


def mutes(store: Store) -> dict[tuple[str, str], float]:
    """(device, target) -> Unix time until which it is muted; target "": all that tell people."""
    return {(device, target): until for device, target, until in store.rows("SELECT device, target, until FROM mutes")}


def muted_until(mutes: Mapping[tuple[str, str], float], device: str, target: str, now: float) -> float:
    """The Unix time until which this target, which tells people, is not told of the device; 0: it is told."""
    until = max(mutes.get((device, target), 0.0), mutes.get((device, _EVERYBODY), 0.0))
    return until if until > now else 0.0


def unacknowledged(store: Store) -> list[Unacknowledged]:
    """What waits to be acknowledged, the oldest first."""
    sql = (
        "SELECT o.event, o.device, o.kind, o.since, o.due, o.step, o.how, e.event FROM escalations o "
        "LEFT JOIN events e ON e.id = o.event ORDER BY o.since"
    )
    found = []
    for event, device, kind, since, due, step, how, told in store.rows(sql):
        after, to, every, times = json.loads(how)
        part = part_of(json.loads(told)) if told else {}
        escalation = Escalation(after, tuple(to), every, times)
        found.append(Unacknowledged(event, device, kind, since, due, step, escalation, part))
    return found


def _insert_event(event: Event, now: float) -> Statement:
    values = (event["id"], now, event["device"]["id"], to_json(event).decode())
    return "INSERT OR REPLACE INTO events (id, time, device, event) VALUES (?, ?, ?, ?)", values


def _insert_delivery(event: Event, target: str, expires: float) -> Statement:
    sql = "INSERT OR REPLACE INTO deliveries (event, target, state, expires) VALUES (?, ?, 'waiting', ?)"
    return sql, (event["id"], target, expires)
