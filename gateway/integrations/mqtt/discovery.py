"""What Home Assistant is told about a device: its device-based MQTT discovery (2024.11 and later), as pure functions.

One retained document for each device, with every topic in full: a base topic (`~`) at top level makes Home Assistant
refuse the whole device, and so does any mistake outside a component, with one line in its log and none in ours.
`mistakes` knows these rules, and is asked before anything is published.

What a board tells about a device as well is in `gateway.wire.discovery`.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from typing import Any

from gateway.api import Device, words
from gateway.wire import discovery as entities
from gateway.wire.topics import Topics

_BRIDGE_STATE = "{{ value_json.state }}"
_PROBLEM = "{{ 'ON' if value_json.problems else 'OFF' }}"

_DELIVERY = "{{ 'ON' if ((value_json.targets or {}).get('NAME') or {}).get('error') else 'OFF' }}"

_DEVICE_KEYS = {
    "configuration_url", "connections", "hw_version", "identifiers", "manufacturer", "model", "model_id", "name",
    "serial_number", "suggested_area", "sw_version", "via_device",
}  # fmt: skip
_TOP_KEYS = {"availability", "availability_mode", "components", "device", "origin"}
_LETTERS = set(string.ascii_letters + string.digits + "_-")


def bridge_config(topics: Topics, version: str, people: Sequence[str] = ()) -> dict[str, Any]:
    """The gateway's own device: is it there, does anything need a person; and whom it can tell, and whether it can.

    `people` are the targets that tell people. Each is a `notify` entity (its message's first line is the title) and a
    problem sensor.
    """
    node = topics.node
    told = {}
    for name in people:
        own = f"{node}_notify_{words.slug(name)}"
        told[f"notify_{words.slug(name)}"] = {
            "platform": "notify",
            "unique_id": own,
            "name": f"Notify {name}",
            "command_topic": f"{topics.notify}/{name}",
            "availability": _availability(topics),
            "qos": 1,
        }
        told[f"delivery_{words.slug(name)}"] = {
            "platform": "binary_sensor",
            "unique_id": f"{own}_problem",
            "name": f"Delivery to {name}",
            "device_class": "problem",
            "entity_category": "diagnostic",
            "state_topic": topics.bridge_health,
            "value_template": _DELIVERY.replace("NAME", name),
            "availability": _availability(topics),
            "qos": 1,
        }
    return {
        "device": {
            "identifiers": [node],
            "name": "Mailwire" if node == "mailwire" else f"Mailwire ({topics.base})",
            "manufacturer": "Mailwire",
            "model": "Mail gateway",
            "sw_version": version,
        },
        "origin": _origin(version),
        "components": {
            # Without availability: "off" is what it has to say when the gateway is away.
            "connection": {
                "platform": "binary_sensor",
                "unique_id": f"{node}_bridge_connection",
                "name": "Connection",
                "device_class": "connectivity",
                "entity_category": "diagnostic",
                "state_topic": topics.bridge_state,
                "value_template": _BRIDGE_STATE,
                "payload_on": "online",
                "payload_off": "offline",
                "qos": 1,
            },
            "problem": {
                "platform": "binary_sensor",
                "unique_id": f"{node}_bridge_problem",
                "name": "Problem",
                "device_class": "problem",
                "entity_category": "diagnostic",
                "state_topic": topics.bridge_health,
                "value_template": _PROBLEM,
                "availability": _availability(topics),
                "qos": 1,
            },
            **told,
        },
    }


def device_config(topics: Topics, device: Device, version: str, picture_type: str | None) -> dict[str, Any]:
    """One device. `picture_type` is the media type of its newest picture, or None while it has sent none."""
    own = f"{topics.node}_{device.id}"
    about = {
        "identifiers": [own],
        "name": device.name or device.id,
        "manufacturer": device.manufacturer,
        "model": device.model,
        "via_device": topics.node,
    }
    components: dict[str, Any] = {
        "event": entities.event_entity(topics, own, device.id),
        "last": entities.last_entity(topics, own, device.id),
    }
    if picture_type:
        components["picture"] = {
            "platform": "image",
            "unique_id": f"{own}_picture",
            "name": "Picture",
            "image_topic": topics.image(device.id),
            "content_type": picture_type,
            "qos": 1,
        }
    document = {
        "device": {key: value for key, value in about.items() if value},
        "origin": _origin(version),
        "availability": _availability(topics),
        "components": components,
    }
    if device.online is not None:
        _report_absence(topics, own, device, document)
    return document


def _report_absence(topics: Topics, own: str, device: Device, document: dict[str, Any]) -> None:
    """What it said last is no longer known to be so while its reports don't come.

    But what tells of that stays: its events, the newest message, and whether reports come.
    """
    topic = topics.availability(device.id)
    components = document["components"]
    components["reports"] = {
        "platform": "binary_sensor",
        "unique_id": f"{own}_reports",
        "name": "Reports",
        "device_class": "connectivity",
        "entity_category": "diagnostic",
        "state_topic": topic,
        "payload_on": "online",
        "payload_off": "offline",
        "qos": 1,
    }
    for key in ("event", "last", "reports"):
        components[key]["availability"] = _availability(topics)
    document["availability"] = [*_availability(topics), {"topic": topic}]
    document["availability_mode"] = "all"


def mistakes(topic: str, document: Mapping[str, Any]) -> list[str]:
    """What Home Assistant would refuse the whole device for; nothing if it is fine."""
    found = []
    levels = topic.split("/")
    if len(levels) < 4 or levels[-3] != "device" or levels[-1] != "config" or not _plain(levels[-2]):
        found.append(f"the topic {topic!r} is not <prefix>/device/<id>/config with an id of letters, digits, _ and -")
    found += [f"unknown key {key!r}" for key in document if key not in _TOP_KEYS]
    device = document.get("device") or {}
    found += [f"unknown key {key!r} in device" for key in device if key not in _DEVICE_KEYS]
    if not device.get("identifiers") and not device.get("connections"):
        found.append("device has neither identifiers nor connections")
    if not (document.get("origin") or {}).get("name"):
        found.append("origin has no name")
    components = document.get("components") or {}
    if not components:
        found.append("there are no components")
    for key, component in components.items():
        found += [f"component {key!r} has no {need}" for need in ("platform", "unique_id") if not component.get(need)]
        found += [
            f"component {key!r}: {name} is not a topic written in full"
            for name, value in component.items()
            if name.endswith("topic") and not (value and set(value) <= _LETTERS | {"/"})
        ]
    return found


def _plain(text: str) -> bool:
    return bool(text) and set(text) <= _LETTERS


def _origin(version: str) -> dict[str, str]:
    return {"name": "Mailwire", "sw_version": version}


def _availability(topics: Topics) -> list[dict[str, str]]:
    return [{"topic": topics.bridge_state, "value_template": _BRIDGE_STATE}]
