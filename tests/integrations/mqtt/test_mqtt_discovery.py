"""Home Assistant's discovery payloads against the rules that its own validation follows."""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
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
DEVICE = Device("front_door", "Front door", manufacturer="Hikvision", picture=("01", 0))
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
    }
    assert {key: part["platform"] for key, part in found["components"].items()} == {
        "event": "event",
        "last": "sensor",
        "picture": "image",
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
    assert [components[key]["availability"] for key in ("event", "last", "reports")] == [[bridge]] * 3
    reports = components["reports"]
    assert (reports["platform"], reports["device_class"]) == ("binary_sensor", "connectivity")
    assert (reports["state_topic"], reports["payload_on"], reports["payload_off"]) == (
        "mailwire/front_door/availability",
        "online",
        "offline",
    )
    assert {part["unique_id"] for part in components.values()} > {"mailwire_front_door_reports"}


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
        (CONFIG_TOPIC, spoil(components={"a": {"platform": "event"}}), "component 'a' has no unique_id"),
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
