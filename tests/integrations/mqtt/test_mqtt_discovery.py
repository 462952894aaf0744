"""Home Assistant's discovery payloads against the rules that its own validation follows."""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import math
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import Template
from jinja2.sandbox import ImmutableSandboxedEnvironment

from gateway.api import Device, words
from gateway.integrations.mqtt import discovery
from gateway.wire.topics import Topics

TOPICS = Topics()
DEVICE = Device(
    "front_door",
    "Front door",
    manufacturer="Hikvision",
    picture=("01", 0),
    kinds=["motion", "test"],
    states={"motion": "on"},
    quantities={"load": (12, "%")},
    url="http://192.168.1.20/",
)
CONFIG_TOPIC = "homeassistant/device/mailwire_front_door/config"


def document() -> dict[str, Any]:
    return copy.deepcopy(discovery.device_config(TOPICS, DEVICE, "1.0", "image/png"))


@functools.cache
def compiled(template: str) -> Template:
    return ImmutableSandboxedEnvironment().from_string(template)


def render(template: str, payload: Any) -> str:
    return compiled(template).render(value_json=payload)


def test_device_has_event_last_message_and_picture() -> None:
    found = document()
    assert discovery.mistakes(CONFIG_TOPIC, found) == []
    assert found["device"] == {
        "identifiers": ["mailwire_front_door"],
        "name": "Front door",
        "manufacturer": "Hikvision",
        "via_device": "mailwire",
        "configuration_url": "http://192.168.1.20/",
    }
    assert {key: part["platform"] for key, part in found["components"].items()} == {
        "event": "event",
        "last": "sensor",
        "last_seen": "sensor",
        "problem": "binary_sensor",
        "muted_until": "sensor",
        "alerts": "switch",
        "test": "button",
        "mute": "button",
        "clear": "button",
        "picture": "image",
        "state_motion": "binary_sensor",
        "value_load": "sensor",
        "trigger_motion": "device_automation",
        "trigger_motion_off": "device_automation",
        "trigger_test": "device_automation",
    }
    assert found["components"]["event"]["event_types"] == list(words.KINDS)
    assert "other" in found["components"]["event"]["event_types"]
    assert found["components"]["picture"]["content_type"] == "image/png"
    assert found["components"]["picture"]["image_topic"] == "mailwire/front_door/image"
    assert found["components"]["last"]["entity_category"] == "diagnostic"
    assert "entity_category" not in found["components"]["event"]  # Home Assistant knows none for events
    assert found["availability"] == [{"topic": "mailwire/bridge/state", "value_template": "{{ value_json.state }}"}]


@pytest.mark.parametrize("online", [True, False])
def test_a_device_that_reports_on_a_schedule_is_unavailable_when_it_does_not(online: bool) -> None:
    """But what tells that it does not is there: its events, its newest message, and whether reports come."""
    found = discovery.device_config(TOPICS, dataclasses.replace(DEVICE, online=online), "1.0", "image/png")
    assert discovery.mistakes(CONFIG_TOPIC, found) == []
    bridge = {"topic": "mailwire/bridge/state", "value_template": "{{ value_json.state }}"}
    assert found["availability"] == [bridge, {"topic": "mailwire/front_door/availability"}]
    assert found["availability_mode"] == "all"
    components = found["components"]
    assert "availability" not in components["picture"]
    there = ("event", "last", "reports", "last_seen", "problem", "alerts", "mute", "clear", "test")
    assert [components[key]["availability"] for key in there] == [[bridge]] * len(there)
    assert "availability" not in components["state_motion"]
    assert "availability" not in components["value_load"]
    reports = components["reports"]
    assert (reports["platform"], reports["device_class"]) == ("binary_sensor", "connectivity")
    assert (reports["state_topic"], reports["payload_on"], reports["payload_off"]) == (
        "mailwire/front_door/availability",
        "online",
        "offline",
    )
    assert {part.get("unique_id") for part in components.values()} > {"mailwire_front_door_reports"}


def test_no_availability_of_a_device_that_reports_when_it_likes() -> None:
    assert "reports" not in document()["components"]
    assert "availability_mode" not in document()


def test_no_image_entity_before_the_first_picture() -> None:
    assert "picture" not in discovery.device_config(TOPICS, DEVICE, "1.0", None)["components"]


def test_gateway_is_a_device_of_its_own() -> None:
    found = discovery.bridge_config(TOPICS, "1.0")
    assert discovery.mistakes(TOPICS.config("bridge"), found) == []
    assert found["device"]["identifiers"] == ["mailwire"]
    connection = found["components"]["connection"]
    assert "availability" not in found
    assert "availability" not in connection  # else it could never say "off"
    assert render(connection["value_template"], {"state": "online"}) == connection["payload_on"]
    assert render(connection["value_template"], {"state": "offline"}) == connection["payload_off"]
    problem = found["components"]["problem"]["value_template"]
    assert render(problem, {"problems": {}}) == "OFF"
    assert render(problem, {"problems": {"broker": "away"}}) == "ON"
    assert render(problem, {}) == "OFF"


def test_two_gateways_at_one_broker_stay_apart() -> None:
    other = Topics("garage/mailwire")
    found = discovery.device_config(other, DEVICE, "1.0", None)
    assert found["device"]["identifiers"] == ["garage_mailwire_front_door"]
    assert found["device"]["via_device"] == discovery.bridge_config(other, "1.0")["device"]["identifiers"][0]
    assert other.config("front_door") == "homeassistant/device/garage_mailwire_front_door/config"
    assert discovery.bridge_config(other, "1.0")["device"]["name"] == "Mailwire (garage/mailwire)"


def test_no_mail_chooses_the_name_of_an_attribute() -> None:
    event = {
        "kind": "motion",
        "title": "Motion",
        "severity": "warning",
        "state": "on",
        "text": "x" * 5000,
        "data": {"event_types": ["none"], "icon": "mdi:skull", "device_class": "doorbell"},
        "time": "2026-11-22T19:11:28.123Z",
        "id": "01JD",
        "event_types": ["none"],
        "icon": "mdi:skull",
        "device_class": "doorbell",
    }
    attributes = json.loads(render(document()["components"]["event"]["value_template"], event))
    assert attributes == {
        "event_type": "motion",
        "title": "Motion",
        "severity": "warning",
        "state": "on",
        "text": "x" * 1000,
        "data": event["data"],
        "time": event["time"],
        "id": "01JD",
    }


@given(title=st.text(max_size=600))
def test_last_message_fits_a_state(title: str) -> None:
    last = {"id": "01JD", "title": title}
    component = document()["components"]["last"]
    assert render(component["value_template"], {"last": last}).rstrip("\n") == title[:255].rstrip("\n")
    assert json.loads(render(component["json_attributes_template"], {"last": last})) == last


def test_last_message_of_a_device_that_never_sent_one() -> None:
    component = document()["components"]["last"]
    assert render(component["value_template"], {"last": None}) == ""
    assert json.loads(render(component["json_attributes_template"], {"last": None})) == {}


@given(name=st.text(max_size=100), model=st.text(max_size=100))
def test_any_name_makes_a_valid_document(name: str, model: str) -> None:
    device = Device("a1", name, model=model)
    found = discovery.device_config(TOPICS, device, "1.0", None)
    assert discovery.mistakes(TOPICS.config("a1"), found) == []
    assert found["device"]["name"]
    assert all(re.fullmatch("[A-Za-z0-9_-]+", part["unique_id"]) for part in found["components"].values())


def test_components_that_a_gateway_of_before_announced_keep_their_ids() -> None:
    ids = {key: part["unique_id"] for key, part in document()["components"].items() if "unique_id" in part}
    assert ids["event"] == "mailwire_front_door_event"
    assert ids["last"] == "mailwire_front_door_last"
    assert ids["picture"] == "mailwire_front_door_picture"
    assert len(set(ids.values())) == len(ids)


@given(ids=st.lists(st.text("ab_", min_size=1, max_size=6).map(words.slug), min_size=2, max_size=2, unique=True))
def test_no_quantity_of_one_device_is_called_as_something_of_another(ids: list[str]) -> None:
    keys = ["last", "problem", "last_seen", "a", "b", "_last", "a_last"]
    found = [
        part["unique_id"]
        for device in ids
        for part in discovery.device_config(
            TOPICS, Device(device, device, quantities=dict.fromkeys(keys, (1, None))), "1", None
        )["components"].values()
    ]
    assert len(set(found)) == len(found)


# --- states ----------------------------------------------------------------------------------------------------


def test_every_kind_has_an_on_and_an_off_and_none_is_given_an_end_by_home_assistant() -> None:
    device = Device("d", "D", kinds=list(words.KINDS), states=dict.fromkeys(words.KINDS, "on"))
    parts = discovery.device_config(TOPICS, device, "1", None)["components"]
    state = discovery.state(device, 0)
    for kind in words.KINDS:
        part = parts[f"state_{kind}"]
        assert render(part["value_template"], state) == part["payload_on"]
        assert "off_delay" not in part  # it would say "motion" again after each restart
        assert part["state_topic"] == "mailwire/d/state"
    classes = {kind: parts[f"state_{kind}"].get("device_class") for kind in words.KINDS}
    assert classes["motion"] == classes["line_crossing"] == "motion"
    assert classes["power"] == classes["disk"] == classes["network"] == "problem"
    assert (classes["door"], classes["leak"], classes["battery"]) == ("door", "moisture", "battery")


@pytest.mark.parametrize(
    ("key", "unit", "device_class", "state_class"),
    [
        ("temperature", "°C", "temperature", "measurement"),
        ("runtime", "min", "duration", "measurement"),
        ("battery_charge", "%", "battery", "measurement"),
        ("load", "%", None, "measurement"),
        ("humidity", "%", "humidity", "measurement"),
        ("free", "GiB", "data_size", "measurement"),
        ("energy_today", "kWh", "energy", "total"),
        ("pages", "pages", None, "total_increasing"),
        ("total_pages", None, None, "total_increasing"),
        ("fan_speed", "rpm", None, "measurement"),
        ("apparent", "kVA", None, "measurement"),
        ("tank", "furlongs", None, "measurement"),
    ],
)
def test_quantity_is_a_sensor_of_its_class(
    key: str, unit: str | None, device_class: str | None, state_class: str
) -> None:
    device = Device("d", "D", quantities={key: (12.5, unit)})
    part = discovery.device_config(TOPICS, device, "1", None)["components"][f"value_{key}"]
    assert (part.get("unit_of_measurement"), part.get("device_class")) == (unit, device_class)
    assert part["state_class"] == state_class
    assert render(part["value_template"], discovery.state(device, 0)) == "12.5"
    assert render(part["value_template"], {"quantities": {}}) == "None"  # which Home Assistant takes for unknown


def test_sensors_read_what_the_state_says() -> None:
    device = Device("d", "D", troubles={"disk": "Disk 3", "raid": "Degraded"})
    device.last_event = {"time": "2026-11-22T19:11:28.123Z", "title": "Disk 3", "icon": "mdi:skull"}
    parts = discovery.device_config(TOPICS, device, "1", None)["components"]
    state = discovery.state(device, 1_790_000_000.5)
    assert render(parts["last_seen"]["value_template"], state) == "2026-11-22T19:11:28.123Z"
    assert render(parts["problem"]["value_template"], state) == "on"
    assert json.loads(render(parts["problem"]["json_attributes_template"], state)) == {
        "troubles": ["Disk 3", "Degraded"]
    }
    assert render(parts["alerts"]["value_template"], state) == "off"
    assert render(parts["muted_until"]["value_template"], state) == "2026-09-21T14:13:20+00:00"
    for_good = discovery.state(device, math.inf)
    assert render(parts["alerts"]["value_template"], for_good) == "off"
    assert render(parts["muted_until"]["value_template"], for_good) == "None"
    quiet = discovery.state(Device("d", "D"), 0)
    assert render(parts["last_seen"]["value_template"], quiet) in ("", "None")
    assert (render(parts["problem"]["value_template"], quiet), quiet["alerts"]) == ("off", "on")


@pytest.mark.parametrize(
    ("state", "fires"), [("on", "trigger_motion"), (None, "trigger_motion"), ("off", "trigger_motion_off")]
)
def test_trigger_fires_for_its_kind_and_state(state: str | None, fires: str) -> None:
    parts = document()["components"]
    triggers = {key: part for key, part in parts.items() if part["platform"] == "device_automation"}
    event = {"kind": "motion", "state": state}
    fired = [key for key, part in triggers.items() if render(part["value_template"], event) == part["payload"]]
    assert fired == [fires]
    assert (parts[fires]["type"], parts[fires]["subtype"]) == ("all_clear" if state == "off" else "alert", "motion")


def test_commands_are_config_entities_and_are_told_on_topics_of_their_own() -> None:
    parts = document()["components"]
    for control in ("alerts", "test", "mute", "clear"):
        part = parts[control]
        assert part["entity_category"] == "config"
        assert part["command_topic"] == f"mailwire/front_door/{control}/set"
        assert part["qos"] == 1
        assert not part.get("retain")
        assert TOPICS.commanded(part["command_topic"]) == ("front_door", control)
    for topic in ("mailwire/front_door/set", "mailwire/a/b/c/set", "other/a/test/set", "mailwire/front_door/test"):
        assert TOPICS.commanded(topic) is None
    assert Topics("lab/mail").commanded("lab/mail/a/test/set") == ("a", "test")


def spoil(**changes: Any) -> dict[str, Any]:
    return document() | changes


@pytest.mark.parametrize(
    ("topic", "broken", "words_of_it"),
    [
        (CONFIG_TOPIC, spoil(**{"~": "mailwire"}), "unknown key '~'"),
        (CONFIG_TOPIC, spoil(device={"name": "x"}), "device has neither identifiers nor connections"),
        (CONFIG_TOPIC, spoil(device={"identifiers": ["x"], "colour": "red"}), "unknown key 'colour' in device"),
        (CONFIG_TOPIC, spoil(origin={}), "origin has no name"),
        (CONFIG_TOPIC, spoil(components={}), "there are no components"),
        (CONFIG_TOPIC, spoil(components={"a": {"unique_id": "a"}}), "component 'a' has no platform"),
        (CONFIG_TOPIC, spoil(components={"a": {"platform": "event", "qos": 1}}), "component 'a' has no unique_id"),
        (
            CONFIG_TOPIC,
            spoil(
                components={
                    "a": {"platform": "device_automation", "automation_type": "trigger", "topic": "a", "type": "b"}
                }
            ),
            "component 'a' has no subtype",
        ),
        (
            CONFIG_TOPIC,
            spoil(components={"a": {"platform": "event", "unique_id": "a", "state_topic": "~/event"}}),
            "component 'a': state_topic is not a topic written in full",
        ),
        (
            "homeassistant/device/front.door/config",
            document(),
            "the topic 'homeassistant/device/front.door/config' is not <prefix>/device/<id>/config "
            "with an id of letters, digits, _ and -",
        ),
    ],
)
def test_mistakes_that_would_cost_the_device(topic: str, broken: dict[str, Any], words_of_it: str) -> None:
    assert discovery.mistakes(topic, broken) == [words_of_it]
