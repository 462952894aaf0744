"""What vanished is taken back, also if it vanished while the gateway was stopped."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from gateway.integrations.mqtt import mirror
from gateway.integrations.mqtt.announced import Announced, kept_topics
from gateway.wire.topics import Topics
from tests.integrations.mqtt.stand_in_gateway import StandIn, make_event, picture, wait_until
from tests.mosquitto import Listener, Mosquitto

CONFIG = "homeassistant/device/mailwire_pump/config"
BRIDGE = "homeassistant/device/mailwire_bridge/config"


@pytest.fixture
def listener(mosquitto: Mosquitto) -> Iterator[Listener]:
    with Listener(mosquitto.port) as listening:
        yield listening


async def run_once(gateway: StandIn, listener: Listener, **config: object) -> None:
    """A run of the gateway, till it has told all that it knows."""
    base = str(config.get("base_topic", "mailwire"))
    count = len(listener.payloads(f"{base}/bridge/devices"))
    async with gateway.connected(**config):
        await wait_until(lambda: len(listener.payloads(f"{base}/bridge/devices")) > count)
        for device in gateway.known:
            await wait_until(lambda device=device: listener.newest(f"{base}/{device}/state"))


async def test_device_that_was_forgotten_while_we_were_stopped(
    mosquitto: Mosquitto, gateway: StandIn, listener: Listener
) -> None:
    device = gateway.add("pump")
    event = make_event(device, attachments=[picture()])
    gateway.attachments[event["id"], 0] = b"jpeg"
    async with gateway.connected(url=mosquitto.url) as target:
        await target.deliver(event)
        await wait_until(lambda: listener.newest("mailwire/pump/state"))
    gateway.known.clear()
    await run_once(gateway, listener, url=mosquitto.url)
    for topic in (CONFIG, "mailwire/pump/state", "mailwire/pump/image"):
        assert listener.payloads(topic)[-1] == b""
    count = len(listener.payloads(CONFIG))
    await run_once(gateway, listener, url=mosquitto.url)
    assert len(listener.payloads(CONFIG)) == count  # once is enough


async def test_target_that_is_no_longer_configured(mosquitto: Mosquitto, gateway: StandIn, listener: Listener) -> None:
    gateway.others = {"phone": True, "post": True}
    await run_once(gateway, listener, url=mosquitto.url)
    assert "notify_post" in listener.newest(BRIDGE)["components"]
    gateway.others = {"phone": True}
    before = len(listener.payloads(BRIDGE))
    await run_once(gateway, listener, url=mosquitto.url)
    told = [json.loads(payload)["components"] for payload in listener.payloads(BRIDGE)[before:]]
    assert told[0]["notify_post"] == {"platform": "notify"}  # left out alone, Home Assistant would keep it
    assert told[0]["delivery_post"] == {"platform": "binary_sensor"}
    assert told[0]["notify_phone"]["command_topic"] == "mailwire/notify/phone"
    assert "notify_post" not in told[-1]


@pytest.mark.parametrize("config", [{"base_topic": "lab"}, {"discovery": "lab"}, {"discovery": False}])
async def test_other_topics(
    mosquitto: Mosquitto, gateway: StandIn, listener: Listener, config: dict[str, object]
) -> None:
    gateway.add("pump")
    await run_once(gateway, listener, url=mosquitto.url)
    await run_once(gateway, listener, url=mosquitto.url, **config)
    assert listener.payloads(CONFIG)[-1] == b""
    assert listener.payloads(BRIDGE)[-1] == b""
    emptied = listener.payloads("mailwire/pump/state")[-1] == b""
    assert emptied == ("base_topic" in config)
    base, prefix = config.get("base_topic", "mailwire"), config.get("discovery", "homeassistant")
    announced = listener.newest(f"{prefix}/device/{base}_pump/config")
    assert bool(announced) == bool(prefix)


async def test_what_can_not_be_taken_back_holds_up_nothing(
    mosquitto: Mosquitto, gateway: StandIn, caplog: pytest.LogCaptureFixture, tmp_path
) -> None:
    """The broker's rules have moved with our topics: those of before are no business of ours any more."""
    gateway.add("pump")
    with Listener(mosquitto.port) as listening:
        await run_once(gateway, listening, url=mosquitto.url)
    mosquitto.stop()
    rules = tmp_path / "acl"
    rules.write_text("topic lab/#\ntopic homeassistant/#\n")
    mosquitto.settings.append(f"acl_file {rules}")
    mosquitto.start()
    with Listener(mosquitto.port, "lab/#") as listening:
        await run_once(gateway, listening, url=mosquitto.url, base_topic="lab")
    assert "what is left on mailwire/pump/state can't be taken back: " in caplog.text


async def test_availability_of_a_device_that_no_longer_reports(
    mosquitto: Mosquitto, gateway: StandIn, listener: Listener
) -> None:
    for online, told in ((False, b"offline"), (None, b"")):
        gateway.add("pump", online=online)
        async with gateway.connected(url=mosquitto.url):
            await wait_until(lambda told=told: listener.newest("mailwire/pump/availability") == told)


async def test_first_event_waits_till_a_device_is_met(
    mosquitto: Mosquitto, gateway: StandIn, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Home Assistant has to subscribe first, or its event entity would miss the first one. Only the first one."""
    device = gateway.add("pump")
    waits: list[float] = []
    sleep = mirror.asyncio.sleep

    async def count(seconds: float) -> None:
        if seconds > 100:
            waits.append(seconds)
            seconds = 0
        await sleep(seconds)

    monkeypatch.setattr(mirror, "MEETING", 1000.0)
    monkeypatch.setattr(mirror.asyncio, "sleep", count)
    async with gateway.connected(url=mosquitto.url) as target:
        await target.deliver(make_event(device))
        await target.deliver(make_event(device))
        assert len(waits) == 1
    async with gateway.connected(url=mosquitto.url) as target:
        await target.deliver(make_event(device))
    assert len(waits) == 1


def test_file_that_is_damaged_is_as_if_nothing_was_told(tmp_path) -> None:
    topics = Topics()
    kept = Announced(tmp_path, topics)
    kept.note("pump", {"event": {"platform": "event"}, "last": {"platform": "sensor"}})
    for name, text in (("a", ""), ("b", "[]"), ("c", '{"components": 7, "base": "x"}'), ("d", "\ufffd")):
        (tmp_path / f"{name}.json").write_text(text, "utf-8")
    again = Announced(tmp_path, topics)
    again.load()
    assert again.vanished("pump", {"event": {"platform": "event"}}) == {"last": {"platform": "sensor"}}
    assert again.vanished("a", {}) == {}
    assert list(again.left_over({"pump"})) == []
    assert list(again.left_over(set())) == [("pump", kept_topics(topics, "pump"))]
    again.forget("pump")
    assert list(again.left_over(set())) == []
    assert not (tmp_path / "pump.json").exists()
