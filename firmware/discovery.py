"""What Home Assistant is told about a device that the board hears; `gateway.wire.discovery` has the rest.

A document is made while it is written, a component at a time, and twice: once to count its octets. So none of it is
held, neither as text nor as a whole of dicts.
"""

import json

from firmware import VERSION
from gateway.wire import discovery as entities

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from gateway.wire.topics import Topics

    Document = Callable[[], Iterator[str]]


def heard(topics: "Topics", via: str, facts: "dict[str, Any]") -> "Document":
    """A device that sent something; `via` is the board's device id, `facts` the device as in an event."""
    device = facts["id"]
    ours = own(topics, device)
    about = {"identifiers": [ours], "name": facts.get("name") or device, "via_device": own(topics, via)}
    for key in ("manufacturer", "model"):
        if facts.get(key):
            about[key] = facts[key]

    def pieces() -> "Iterator[str]":
        yield from head(topics, about, via)
        yield from entity('"event":', entities.event_entity(topics, ours, device))
        yield from entity(',"last":', entities.last_entity(topics, ours, device))
        yield "}}"

    return pieces


def own(topics: "Topics", device: str) -> str:
    """A device's identifier, and the beginning of its entities' ids."""
    return topics.node + "_" + device


def head(topics: "Topics", about: "dict[str, Any]", board: str) -> "Iterator[str]":
    """The beginning of a document, up to its components."""
    yield '{"device":' + as_json(about) + ',"origin":' + as_json({"name": "Mailwire", "sw_version": VERSION})
    yield ',"availability":' + as_json([{"topic": topics.availability(board)}]) + ',"components":{'


def entity(begin: str, facts: "dict[str, Any]") -> "Iterator[str]":
    """An entity a fact at a time: as a whole it would need a gap in the heap that there may not be."""
    begin += "{"
    for key in facts:
        yield f'{begin}"{key}":{as_json(facts[key])}'
        begin = ","
    yield "}"


def as_json(value: "Any") -> str:
    """Without blanks."""
    return json.dumps(value, separators=(",", ":"))
