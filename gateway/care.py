"""How often, when and how urgently a person is told: the care that a route takes of whoever it sends to.

In this order: what repeats is told once (`repeat`); what is `urgent` goes out at once; the rest waits for the end of
quiet hours (`quiet`), for the hours in which somebody listens (`only`), for the next digest (`digest`), or, when there
is too much of it (`at_most`), for the end of that time. What waited for one target till one moment goes out as a
single event that tells of all. And what nobody acknowledges goes to others (`escalate`).

All of it is in the store: a delivery that waits is `held` there until its `due`, what was told is in `care`, and what
is to be acknowledged in `escalations`. To ask twice about one event gives the same answer, so that a mail that is
interpreted once more after a crash is neither told twice nor taken for a repeat of itself.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, tzinfo
from typing import Any, NamedTuple

from gateway.api import Event, part_of
from gateway.hours import Hours, Times
from gateway.wire import event as words

_REMEMBERED = 1000  # different things told by one route to one target
_LISTED = 50  # events that a summary tells of one by one
_TEXT = 200  # characters of each


@dataclass(frozen=True)
class Escalation:
    """Who else is told when nobody acknowledges: after so many seconds, and `times` in all, `every` so often."""

    after: float
    to: tuple[str, ...]
    every: float = 0
    times: int = 1


@dataclass(frozen=True)
class Rule:
    """What one route asks for. `at_most` is (events, seconds)."""

    repeat: float = 0
    at_most: tuple[int, float] | None = None
    quiet: Hours | None = None
    only: Hours | None = None
    digest: Times | None = None
    urgent: tuple[str, ...] = ()
    escalate: Escalation | None = None


@dataclass
class Memory:
    """What one route has told one target. Times are Unix seconds."""

    told: dict[str, tuple[float, str]] = field(default_factory=dict)
    """What repeats look like -> when it was told, and by which event; the oldest first."""
    since: float = 0
    """When the present time of `at_most` began."""
    counted: list[str] = field(default_factory=list)
    """The events that went out in it."""


class Decision(NamedTuple):
    """`due` None: now; 0: never, for it was told; else the Unix time until which it waits. `why` in words."""

    due: float | None
    why: str


NOW = Decision(None, "")


def decide(rule: Rule, memory: Memory, event: Event, now: float, zone: tzinfo | None) -> Decision:
    """What becomes of an event; `memory` is brought up to date. Asked again for the same event, it says the same."""
    if rule.repeat and (again := _repeats(rule.repeat, memory, event, now)):
        return Decision(0, again)
    if event["severity"] in rule.urgent:
        return NOW
    due, why = now, ""
    if rule.digest:
        due, why = rule.digest.next(now, zone), f"for the digest ({rule.digest})"
    elif rule.at_most and not _has_room(*rule.at_most, memory, event, now):
        count, seconds = rule.at_most
        due, why = memory.since + seconds, f"because {count} went out in {_time(seconds)}"
    waits = [(rule.quiet, False, "for the end of quiet hours"), (rule.only, True, "for its hours")]
    for hours, inside, what in waits * 3:  # the end of the one may be within the other
        if hours and (then := hours.next(due, zone, inside=inside)) > due:
            due, why = then, f"{what} ({hours})"
    return Decision(due, why) if due > now else NOW


def _repeats(seconds: float, memory: Memory, event: Event, now: float) -> str:
    """Why it is a repeat; "" if it is none."""
    what = json.dumps([event["device"]["id"], event["kind"], event["state"], event["title"], part_of(event)])
    when, event_id = memory.told.get(what, (0.0, ""))
    if event_id == event["id"]:
        return ""
    if event_id and 0 <= now - when < seconds:
        return f"told by event {event_id} less than {_time(seconds)} ago"
    memory.told.pop(what, None)
    memory.told[what] = (now, event["id"])
    while len(memory.told) > _REMEMBERED or not 0 <= now - next(iter(memory.told.values()))[0] < seconds:
        del memory.told[next(iter(memory.told))]
    return ""


def _has_room(count: int, seconds: float, memory: Memory, event: Event, now: float) -> bool:
    if event["id"] in memory.counted:
        return True
    if not 0 <= now - memory.since < seconds:
        memory.since, memory.counted = now, []
    if len(memory.counted) >= count:
        return False
    memory.counted.append(event["id"])
    return True


def dumps(memory: Memory) -> str:
    """As the store keeps it."""
    return json.dumps(asdict(memory))


def loads(text: str) -> Memory:
    """What `dumps` wrote."""
    document = json.loads(text)
    document["told"] = {what: tuple(when) for what, when in document["told"].items()}
    return Memory(**document)


def summary(events: Sequence[Event], event_id: str, time: str, why: str, zone: tzinfo | None) -> Event:
    """One event that tells of several (two or more), the oldest first."""
    first = events[0]
    devices = {event["device"]["id"]: event["device"] for event in events}
    alike = len({(event["device"]["id"], event["title"]) for event in events}) == 1
    name = first["device"]["name"]
    if alike:
        title = f"{first['title']} ({len(events)} times)"
    elif len(devices) == 1:
        title = f"{name}: {first['title']}, and {len(events) - 1} more"
    else:
        title = f"{first['title']} ({name}), and {len(events) - 1} more of {len(devices)} devices"
    lines = [_line(event, len(devices) > 1, zone) for event in events[:_LISTED]]
    if len(events) > _LISTED:
        lines.append(f"... and {len(events) - _LISTED} more")
    kinds = {event["kind"] for event in events}
    return {
        "v": words.VERSION,
        "id": event_id,
        "time": time,
        "source": first["source"] if len({event["source"] for event in events}) == 1 else "mailwire",
        "device": first["device"] if len(devices) == 1 else _OURSELVES,
        "kind": first["kind"] if len(kinds) == 1 else "report",
        "state": None,
        "severity": max((event["severity"] for event in events), key=words.severity_rank),
        "title": title[:200],
        "text": "\n".join(lines),
        "data": {"count": len(events), "events": [event["id"] for event in events[:_LISTED]], "why": why},
        "attachments": [],
        "mail": None,
    }


def reminder(event: Event, step: int, waited: float, event_id: str, time: str) -> Event:
    """What those are told to whom an event goes that nobody acknowledged."""
    return {
        **event,
        "id": event_id,
        "time": time,
        "title": f"Not acknowledged for {_time(waited)}: {event['title']}"[:200],
        "data": {**event["data"], "of": event["id"], "step": step},
        "attachments": [],
        "mail": None,
    }


_OURSELVES: Any = {"id": "unknown", "name": "Mailwire", "manufacturer": None, "model": None, "profile": None}


def _line(event: Event, named: bool, zone: tzinfo | None) -> str:
    when = datetime.fromisoformat(event["time"]).astimezone(zone)
    name = f"{event['device']['name']}: " if named else ""
    return f"{when:%Y-%m-%d %H:%M:%S} {name}{event['title']}"[:_TEXT]


def _time(seconds: float) -> str:
    for size, word in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= size and seconds % size == 0:
            count = int(seconds // size)
            return f"{count} {word}" + ("s" if count > 1 else "")
    return f"{seconds:g} seconds"
