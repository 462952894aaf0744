"""What Home Assistant is told about a device: its device-based MQTT discovery (2024.11 and later), as pure functions.

One retained document for each device, with every topic in full: a base topic (`~`) at top level makes Home Assistant
refuse the whole device, and so does any mistake outside a component, with one line in its log and none in ours.
`mistakes` knows these rules, and is asked before anything is published.

What a board tells about a device as well is in `gateway.wire.discovery`.
"""

from __future__ import annotations

import math
import string
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from gateway.api import Device, words
from gateway.integrations.mqtt import commands
from gateway.wire import discovery as entities
from gateway.wire.topics import Topics

_BRIDGE_STATE = "{{ value_json.state }}"
_PROBLEM = "{{ 'ON' if value_json.problems else 'OFF' }}"

_DELIVERY = "{{ 'ON' if ((value_json.targets or {}).get('NAME') or {}).get('error') else 'OFF' }}"

REPORTS = "reports"
"""The component that a device has whose availability is told."""

_LAST_KEYS = ("id", "time", "kind", "state", "severity", "title")
_BUTTONS = (
    (commands.TEST, "Test", "mdi:email-check"),
    (commands.MUTE, "Mute for an hour", "mdi:bell-sleep"),
    (commands.CLEAR, "All clear", "mdi:check-circle-outline"),
)

# Device classes by kind, where `on` says what the class's `on` says; else `on` is a problem. None: a plain on and off.
_ON_OFF = {
    "motion": "motion", "line_crossing": "motion", "intrusion": "motion", "vehicle": "motion", "animal": "motion",
    "person": "occupancy", "face": "occupancy", "sound": "sound", "doorbell": None, "tamper": "tamper",
    "alarm": "safety", "security": "safety", "door": "door", "login": None, "smoke": "smoke", "fire": "smoke",
    "gas": "gas", "leak": "moisture", "battery": "battery", "update": "update", "job": "running", "print": "running",
    "scan": "running", "report": None, "test": None, "other": None,
}  # fmt: skip
_CLASSES = {
    unit: device_class
    for device_class, units in {
        "apparent_power": "VA", "current": "A mA", "data_rate": "kbit/s Mbit/s Gbit/s MB/s MiB/s",
        "data_size": "B kB MB GB TB KiB MiB GiB TiB", "distance": "mm cm m", "duration": "ms s min h d",
        "frequency": "Hz", "illuminance": "lx", "power": "W kW", "pressure": "bar mbar hPa psi",
        "signal_strength": "dBm", "speed": "km/h", "temperature": "°C °F", "voltage": "V mV",
        "volume_storage": "L m³",
    }.items()
    for unit in units.split()
}  # fmt: skip
_PERCENT = {
    "battery": {"battery", "charge", "capacity", "batterie", "akku"},
    "humidity": {"humidity", "rh", "feuchte", "luftfeuchte"},
}
_COUNTERS = {"pages", "page", "counter", "total"}

_DEVICE_KEYS = {
    "configuration_url", "connections", "hw_version", "identifiers", "manufacturer", "model", "model_id", "name",
    "serial_number", "suggested_area", "sw_version", "via_device",
}  # fmt: skip
_TOP_KEYS = {"availability", "availability_mode", "components", "device", "origin"}
_NEEDED = {"device_automation": ("platform", "automation_type", "topic", "type", "subtype")}
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
        "configuration_url": device.url,
    }
    components: dict[str, Any] = {
        "event": entities.event_entity(topics, own, device.id),
        "last": entities.last_entity(topics, own, device.id),
        **_diagnostics(topics, own, device.id),
        **_controls(topics, own, device.id),
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
    for kind in device.states:
        components[f"state_{kind}"] = _on_off(topics, own, device.id, kind)
    for key, (_, unit) in device.quantities.items():
        components[f"value_{key}"] = _quantity(topics, own, device.id, key, unit)
    for kind in device.kinds:
        components[f"trigger_{kind}"] = _trigger(topics, device.id, kind, "alert")
        if kind in device.states:
            components[f"trigger_{kind}_off"] = _trigger(topics, device.id, kind, "all_clear")
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

    But what tells of that stays: its events, the newest message, whether reports come; and what the gateway obeys.
    """
    topic = topics.availability(device.id)
    components = document["components"]
    components[REPORTS] = {
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
    for component in components.values():
        if "entity_category" in component or component["platform"] == "event":
            component["availability"] = _availability(topics)
    document["availability"] = [*_availability(topics), {"topic": topic}]
    document["availability_mode"] = "all"


def basis(device: Device) -> tuple[object, ...]:
    """All of a device that its document is made of: while this stays the same, so does the document."""
    units = tuple((key, unit) for key, (_, unit) in device.quantities.items())
    about = (device.name, device.manufacturer, device.model, device.url, device.online is None)
    return (*about, tuple(device.kinds), tuple(device.states), units)


def state(device: Device, muted_until: float) -> dict[str, Any]:
    """What `<device>/state` says, and the templates here read. `muted_until`: see `Gateway.muted_until`."""
    last = device.last_event
    return {
        "last": {key: last.get(key) for key in _LAST_KEYS} if last else None,
        "problem": "on" if device.troubles else "off",
        "troubles": list(device.troubles.values()),
        "alerts": "off" if muted_until else "on",
        "muted_until": _time(muted_until) if 0 < muted_until < math.inf else None,
        "quantities": {key: value for key, (value, _) in device.quantities.items()},
        **device.states,
    }


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _diagnostics(topics: Topics, own: str, device: str) -> dict[str, Any]:
    common = {"state_topic": topics.state(device), "entity_category": "diagnostic", "qos": 1}
    return {
        "last_seen": {
            "platform": "sensor",
            "unique_id": f"{own}_last_seen",
            "name": "Last seen",
            "device_class": "timestamp",
            "value_template": "{{ (value_json.last or {}).time }}",
            **common,
        },
        "problem": {
            "platform": "binary_sensor",
            "unique_id": f"{own}_problem",
            "name": "Problem",
            "device_class": "problem",
            "value_template": "{{ value_json.problem }}",
            "payload_on": "on",
            "payload_off": "off",
            "json_attributes_topic": topics.state(device),
            "json_attributes_template": "{{ {'troubles': value_json.troubles} | tojson }}",
            **common,
        },
        "muted_until": {
            "platform": "sensor",
            "unique_id": f"{own}_muted_until",
            "name": "Muted until",
            "icon": "mdi:bell-sleep",
            "device_class": "timestamp",
            "value_template": "{{ value_json.muted_until }}",
            "enabled_by_default": False,
            **common,
        },
    }


def _controls(topics: Topics, own: str, device: str) -> dict[str, Any]:
    """What the gateway obeys (`commands`)."""
    found: dict[str, Any] = {
        "alerts": {
            "platform": "switch",
            "unique_id": f"{own}_alerts",
            "name": "Alerts",
            "icon": "mdi:bell",
            "state_topic": topics.state(device),
            "value_template": "{{ value_json.alerts }}",
            "state_on": "on",
            "state_off": "off",
            "command_topic": topics.command(device, commands.ALERTS),
            "payload_on": commands.ON,
            "payload_off": commands.OFF,
            "entity_category": "config",
            "qos": 1,
        }
    }
    for control, name, icon in _BUTTONS:
        found[control] = {
            "platform": "button",
            "unique_id": f"{own}_{control}",
            "name": name,
            "icon": icon,
            "command_topic": topics.command(device, control),
            "payload_press": commands.PRESS,
            "entity_category": "config",
            "qos": 1,
        }
    return found


def _on_off(topics: Topics, own: str, device: str, kind: str) -> dict[str, Any]:
    """Its `off` is a real one, retained as its `on` is: an `off_delay` would repeat the `on` at each restart."""
    found = {
        "platform": "binary_sensor",
        "unique_id": f"{own}_state_{kind}",
        "name": _words(kind),
        "state_topic": topics.state(device),
        "value_template": f"{{{{ value_json['{kind}'] }}}}",  # `.update` would be a method
        "payload_on": "on",
        "payload_off": "off",
        "qos": 1,
    }
    device_class = _ON_OFF.get(kind, "problem")
    return found | ({"device_class": device_class} if device_class else {})


def _quantity(topics: Topics, own: str, device: str, key: str, unit: str | None) -> dict[str, Any]:
    """Two underscores: no id of a device has them, so no device and quantity together are called as another's are."""
    device_class, state_class = _measure(key, unit)
    found = {
        "platform": "sensor",
        "unique_id": f"{own}__{key}",
        "name": _words(key),
        "state_topic": topics.state(device),
        "value_template": f"{{{{ value_json.quantities.get('{key}') }}}}",
        "state_class": state_class,
        "unit_of_measurement": unit,
        "device_class": device_class,
        "qos": 1,
    }
    return {name: value for name, value in found.items() if value is not None}


def _measure(key: str, unit: str | None) -> tuple[str | None, str]:
    """Device class and state class of a quantity: Home Assistant refuses a class that its unit does not fit."""
    words_of_key = set(key.split("_"))
    if unit in ("Wh", "kWh"):
        return "energy", "total"
    if unit == "%":
        return next((known for known, names in _PERCENT.items() if names & words_of_key), None), "measurement"
    counted = unit == "pages" or (unit is None and words_of_key & _COUNTERS)
    return _CLASSES.get(unit or ""), "total_increasing" if counted else "measurement"


def _trigger(topics: Topics, device: str, kind: str, what: str) -> dict[str, Any]:
    """Shown as “motion” alert; it needs no unique id."""
    off = "==" if what == "all_clear" else "!="
    return {
        "platform": "device_automation",
        "automation_type": "trigger",
        "type": what,
        "subtype": kind.replace("_", " "),
        "topic": topics.event(device),
        "value_template": f"{{{{ value_json.kind if value_json.state {off} 'off' else '' }}}}",
        "payload": kind,
        "qos": 1,
    }


def _words(key: str) -> str:
    text = key.replace("_", " ").strip()
    return text[:1].upper() + text[1:]


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
        if set(component) == {"platform"}:
            continue  # it is removed
        needed = _NEEDED.get(component.get("platform"), ("platform", "unique_id"))
        found += [f"component {key!r} has no {need}" for need in needed if not component.get(need)]
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
