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

# What the harness does that Home Assistant dislikes, and what its triggers say of themselves when they are removed.
ITS_OWN = ("homeassistant.helpers.frame", "homeassistant.helpers.dispatcher")

CONVERTED = ("psi", "°F")  # to what a person of this country reads


@pytest.fixture
def expected_lingering_timers():
    return True


def send(hass, messages):
    for topic, text, raw in messages:
        async_fire_mqtt_message(hass, topic, base64.b64decode(text) if raw else text)


async def load(hass):
    for device in DEVICES:
        async_fire_mqtt_message(hass, device["config"][0], json.dumps(device["config"][1]))
    await hass.async_block_till_done()
    # What is of all devices (the gateway's own state) once: thousands of entities listen to it.
    send(hass, dict.fromkeys(tuple(message) for device in DEVICES for message in device["messages"]))
    await hass.async_block_till_done()


async def test_the_library(hass, mqtt_mock, caplog):
    """One after the other, for loading it all takes the time."""
    hass.loop.set_debug(False)  # which notes the stack of each callback, and that takes longer than all else
    await load(hass)
    wrong = []
    for device in DEVICES:
        wrong += what_is_wrong_with_entities(hass, device)
        wrong += what_is_wrong_with_the_device(hass, device)
        wrong += await what_is_wrong_with_triggers(hass, device)
    wrong += complaints(caplog)  # when something is removed, it remarks upon that itself
    for device in DEVICES[-2:]:
        wrong += await what_stays_of_components(hass, device)
    for device in DEVICES:
        async_fire_mqtt_message(hass, device["config"][0], "")
    await hass.async_block_till_done()
    known = device_registry.async_get(hass)
    left = [device["config"][0] for device in DEVICES if known.async_get_device({identifier(device)})]
    wrong += [f"{topic} was emptied, and its device is still there" for topic in left]
    assert not wrong, "\n".join(wrong)
    Path("loaded").write_text(str(len(DEVICES)))  # noqa: ASYNC240  # nothing else runs


def complaints(caplog):
    said = [one for one in caplog.records if one.levelno >= logging.WARNING and one.name.startswith("homeassistant")]
    return [f"{one.name}: {one.getMessage()}" for one in said if one.name not in ITS_OWN]


def identifier(device):
    return ("mqtt", device["config"][1]["device"]["identifiers"][0])


def parts(device):
    return device["config"][1]["components"].items()


def entity_of(hass, part):
    return entity_registry.async_get(hass).async_get_entity_id(part["platform"], "mqtt", part["unique_id"])


def what_is_wrong_with_entities(hass, device):
    for key, part in parts(device):
        if part["platform"] == "device_automation":
            continue
        entity_id = entity_of(hass, part)
        if entity_id is None:
            yield f"{part['unique_id']}: there is no such {part['platform']}"
            continue
        state = hass.states.get(entity_id)
        if not part.get("enabled_by_default", True):
            if state is not None:
                yield f"{entity_id} is enabled"
            continue
        expected = "unknown" if part["platform"] == "button" else device["shows"].get(key)
        if part.get("unit_of_measurement") in CONVERTED:
            continue
        if state.state != expected and (expected is not None or state.state in ("unknown", "unavailable")):
            yield f"{entity_id} is {state.state!r}, not {expected!r}"
        for name in ("unit_of_measurement", "device_class"):
            if state.attributes.get(name) != part.get(name):
                yield f"{entity_id}: its {name} is {state.attributes.get(name)!r}"
        if part["platform"] == "event":
            types, kind = state.attributes["event_types"], state.attributes["event_type"]
            if kind != device["kind"] or not {kind, "other"} <= set(types):
                yield f"{entity_id} had {kind!r} of {types}"


def what_is_wrong_with_the_device(hass, device):
    about = device["config"][1]["device"]
    known = device_registry.async_get(hass)
    found = known.async_get_device({identifier(device)})
    for key in ("name", "manufacturer", "model", "configuration_url"):
        if getattr(found, key) != about.get(key):
            yield f"{found.name}: its {key} is {getattr(found, key)!r}"
    if known.async_get(found.via_device_id).identifiers != {("mqtt", about["via_device"])}:
        yield f"{found.name} is not via {about['via_device']}"


async def what_is_wrong_with_triggers(hass, device):
    found = device_registry.async_get(hass).async_get_device({identifier(device)})
    offered = await async_get_device_automations(hass, DeviceAutomationType.TRIGGER, found.id)
    ours = {(one["type"], one["subtype"]) for one in offered or () if one["domain"] == "mqtt"}
    told = [part for _, part in parts(device) if part["platform"] == "device_automation"]
    wanted = {(part["type"], part["subtype"]) for part in told}
    return [f"{found.name} offers {ours}, not {wanted}"] if ours != wanted else []


async def what_stays_of_components(hass, device):
    """Sent with its platform alone, each is gone, and the others are not."""
    topic, document = device["config"]
    rest = dict(document["components"])
    for key, part in parts(device):
        rest[key] = {"platform": part["platform"]}
        async_fire_mqtt_message(hass, topic, json.dumps(document | {"components": rest}))
    await hass.async_block_till_done()
    own = [part for _, part in parts(device) if part["platform"] != "device_automation"]
    return [f"{part['unique_id']} was removed, and is still there" for part in own if entity_of(hass, part)]
