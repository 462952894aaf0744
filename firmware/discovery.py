"""What Home Assistant is told about the board and the devices that it hears; `gateway.wire.discovery` has the rest.

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
    Sensor = tuple[str, str, str, str | None, str | None]
    """(key in the board's state, name, platform, device class, unit); "on" and "off" where it is a binary_sensor."""

# The board's own readings, by their key in its state: name, device class, unit, icon.
_DIAGNOSTICS = (
    ("signal", "Signal", "signal_strength", "dBm", None),
    ("heap", "Free memory", "data_size", "B", None),
    ("uptime", "Uptime", "duration", "s", None),
    ("owed", "Events waiting", None, None, "mdi:tray-full"),
    ("restart", "Reason of the last restart", None, None, "mdi:restart-alert"),
)


def board(topics: "Topics", facts: "dict[str, Any]", wireless: bool, sensors: "list[Sensor]") -> "Document":
    """The board itself, with its health and its sensors. `facts`: as in an event, of a device."""
    device = facts["id"]
    ours = _own(topics, device)
    about = {
        "identifiers": [ours], "name": facts["name"], "manufacturer": "Mailwire", "model": facts["model"],
        "sw_version": VERSION,
    }  # fmt: skip

    def pieces() -> "Iterator[str]":
        yield from _head(topics, about, device)
        yield '"event":' + _json(entities.event_entity(topics, ours, device))
        yield ',"last":' + _json(entities.last_entity(topics, ours, device))
        for key, title, kind, unit, icon in _DIAGNOSTICS:
            if key != "signal" or wireless:
                facts = {"entity_category": "diagnostic", "enabled_by_default": key in ("owed", "restart")}
                yield _reading(topics, device, key, title, "sensor", kind, unit, icon, facts)
        # Without availability: "off" is what it has to say when the board is away.
        yield ',"connection":' + _json({
            "platform": "binary_sensor", "unique_id": ours + "_connection", "name": "Connection",
            "device_class": "connectivity", "entity_category": "diagnostic", "availability": [],
            "state_topic": topics.availability(device), "payload_on": "online", "payload_off": "offline", "qos": 1,
        })  # fmt: skip
        for key, title, platform, kind, unit in sensors:
            yield _reading(topics, device, key, title, platform, kind, unit, None, {})
        yield "}}"

    return pieces


def heard(topics: "Topics", via: str, facts: "dict[str, Any]") -> "Document":
    """A device that sent something; `via` is the board's device id, `facts` the device as in an event."""
    device = facts["id"]
    ours = _own(topics, device)
    about = {"identifiers": [ours], "name": facts.get("name") or device, "via_device": _own(topics, via)}
    for key in ("manufacturer", "model"):
        if facts.get(key):
            about[key] = facts[key]

    def pieces() -> "Iterator[str]":
        yield from _head(topics, about, via)
        yield '"event":' + _json(entities.event_entity(topics, ours, device))
        yield ',"last":' + _json(entities.last_entity(topics, ours, device))
        yield "}}"

    return pieces


def _own(topics: "Topics", device: str) -> str:
    """A device's identifier, and the beginning of its entities' ids."""
    return topics.node + "_" + device


def _head(topics: "Topics", about: "dict[str, Any]", board: str) -> "Iterator[str]":
    yield '{"device":' + _json(about) + ',"origin":' + _json({"name": "Mailwire", "sw_version": VERSION})
    yield ',"availability":' + _json([{"topic": topics.availability(board)}]) + ',"components":{'


def _reading(
    topics: "Topics", device: str, key: str, title: str, platform: str, kind: "str | None", unit: "str | None",
    icon: "str | None", facts: "dict[str, Any]",
) -> str:  # fmt: skip
    facts["platform"] = platform
    facts["unique_id"] = _own(topics, device) + "_" + key
    facts["name"] = title
    facts["state_topic"] = topics.state(device)
    facts["value_template"] = "{{ value_json." + key + " }}"
    facts["qos"] = 1
    if platform == "binary_sensor":
        facts["payload_on"], facts["payload_off"] = "on", "off"
    elif unit:
        facts["unit_of_measurement"] = unit
        facts["state_class"] = "measurement"
    if kind:
        facts["device_class"] = kind
    if icon:
        facts["icon"] = icon
    return f',"{key}":' + _json(facts)


def _json(value: "Any") -> str:
    return json.dumps(value, separators=(",", ":"))
