"""What Home Assistant itself makes of our payloads; run by `test_home_assistant.py` in Home Assistant's own harness.

No broker: the messages are handed to its MQTT integration. The file that `PAYLOADS` names has them, a device a line:
`config` (topic and document), `messages` (topic, text, base64 if `raw`), and `shows`: unique id -> the state expected,
or None where any but "unknown" will do.
"""

import base64
import json
import logging
import os
from pathlib import Path

import pytest
from homeassistant.components.device_automation import DeviceAutomationType
from homeassistant.helpers import device_registry, entity_registry
from pytest_homeassistant_custom_component.common import async_fire_mqtt_message, async_get_device_automations

DEVICES = [json.loads(line) for line in Path(os.environ["PAYLOADS"]).read_text("utf-8").splitlines()]


@pytest.fixture
def expected_lingering_timers():
    return True


def send(hass, messages):
    for topic, text, raw in messages:
        async_fire_mqtt_message(hass, topic, base64.b64decode(text) if raw else text)


def complaints(caplog):
    said = [one for one in caplog.records if one.levelno >= logging.WARNING and one.name.startswith("homeassistant")]
    return [f"{one.name}: {one.getMessage()}" for one in said]


async def load(hass):
    for device in DEVICES:
        async_fire_mqtt_message(hass, device["config"][0], json.dumps(device["config"][1]))
    await hass.async_block_till_done()
    for device in DEVICES:
        send(hass, device["messages"])
    await hass.async_block_till_done()


def entity_of(hass, platform, unique_id):
    return entity_registry.async_get(hass).async_get_entity_id(platform, "mqtt", unique_id)


async def test_every_component_of_every_device_loads_and_shows_its_state(hass, mqtt_mock, caplog):
    await load(hass)
    wrong, seen = [], 0
    for device in DEVICES:
        _, document = device["config"]
        for key, part in document["components"].items():
            if part["platform"] == "device_automation":
                continue
            entity_id = entity_of(hass, part["platform"], part["unique_id"])
            if entity_id is None:
                wrong.append(f"{part['unique_id']}: there is no such {part['platform']}")
                continue
            seen += 1
            state = hass.states.get(entity_id)
            if not part.get("enabled_by_default", True):
                assert state is None
                continue
            expected = device["shows"].get(key)
            if part["platform"] == "button":
                expected = "unknown"
            elif expected is None and state.state in ("unknown", "unavailable"):
                wrong.append(f"{entity_id} is {state.state}")
            if expected is not None and state.state != expected:
                wrong.append(f"{entity_id} is {state.state!r}, not {expected!r}")
            if unit := part.get("unit_of_measurement"):
                assert state.attributes["unit_of_measurement"] == unit
            assert state.attributes.get("device_class") == part.get("device_class")
            if part["platform"] == "event":
                assert state.attributes["event_type"] == device["kind"]
                assert set(state.attributes["event_types"]) >= {"other", device["kind"]}
    assert wrong == []
    assert complaints(caplog) == []
    print(f"{len(DEVICES)} devices, {seen} entities")


async def test_devices_say_what_they_are(hass, mqtt_mock):
    await load(hass)
    known = device_registry.async_get(hass)
    for device in DEVICES:
        about = device["config"][1]["device"]
        found = known.async_get_device({("mqtt", about["identifiers"][0])})
        for key in ("name", "manufacturer", "model", "configuration_url"):
            assert getattr(found, key) == about.get(key)
        if "via_device" in about:
            assert known.async_get(found.via_device_id).identifiers == {("mqtt", about["via_device"])}


async def test_triggers_are_offered(hass, mqtt_mock):
    await load(hass)
    known = device_registry.async_get(hass)
    for device in DEVICES:
        about = device["config"][1]["device"]
        found = known.async_get_device({("mqtt", about["identifiers"][0])})
        offered = await async_get_device_automations(hass, DeviceAutomationType.TRIGGER, found.id)
        ours = {(one["type"], one["subtype"]) for one in offered or () if one["domain"] == "mqtt"}
        assert ours == {
            (part["type"], part["subtype"])
            for part in device["config"][1]["components"].values()
            if part["platform"] == "device_automation"
        }


async def test_component_that_is_sent_with_its_platform_alone_is_gone(hass, mqtt_mock, caplog):
    await load(hass)
    topic, document = DEVICES[-1]["config"]
    for key, part in document["components"].items():
        rest = document["components"] | {key: {"platform": part["platform"]}}
        async_fire_mqtt_message(hass, topic, json.dumps(document | {"components": rest}))
        await hass.async_block_till_done()
        if part["platform"] != "device_automation":
            assert entity_of(hass, part["platform"], part["unique_id"]) is None
    assert complaints(caplog) == []


async def test_device_that_is_emptied_is_gone(hass, mqtt_mock, caplog):
    await load(hass)
    for device in DEVICES:
        async_fire_mqtt_message(hass, device["config"][0], "")
    await hass.async_block_till_done()
    assert [one for one in hass.states.async_all() if one.domain in ("event", "sensor", "binary_sensor", "image")] == []
    assert complaints(caplog) == []
