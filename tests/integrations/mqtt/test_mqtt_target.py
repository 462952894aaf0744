"""The target at a real broker: its topics as a subscriber sees them, and what `deliver` answers."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from gateway.api import NotReady, RequestRefused, Retry
from gateway.integrations import mqtt
from gateway.integrations.mqtt import mirror
from tests.integrations.mqtt.stand_in_gateway import StandIn, make_event, picture, wait_until
from tests.mosquitto import Listener, Mosquitto

CONFIG = "homeassistant/device/mailwire_front_door/config"


@pytest.fixture
def listener(mosquitto: Mosquitto) -> Iterator[Listener]:
    with Listener(mosquitto.port) as listening:
        yield listening


def topics(listener: Listener) -> list[str]:
    return [topic for topic, _, _ in list(listener.messages)]


def retained(mosquitto: Mosquitto, topic: str) -> bytes | None:
    """What a newcomer is given; None if nothing."""
    with Listener(mosquitto.port, topic, "test/end") as newcomer:
        newcomer.publish("test/end", b"")
        while "test/end" not in topics(newcomer):
            pass
        found = newcomer.payloads(topic)
        return found[0] if found else None


# --- events ----------------------------------------------------------------------------------------------------


async def test_event_arrives_as_it_was(mosquitto: Mosquitto, gateway: StandIn, listener: Listener) -> None:
    device = gateway.add("front_door", name="Front door")
    event = make_event(device, "Bewegung erkannt \U0001f6aa", text="\u0000\ufffd")
    async with gateway.connected(url=mosquitto.url) as target:
        await target.deliver(event)
        assert await wait_until(lambda: listener.newest("mailwire/front_door/event")) == event
        assert target.describe() == f"connected to the MQTT broker on 127.0.0.1:{mosquitto.port}, topics mailwire/#"
        assert retained(mosquitto, "mailwire/front_door/event") is None
    assert gateway.problems == [None]


async def test_not_connected_is_not_ready(gateway: StandIn) -> None:
    device = gateway.add("front_door")
    async with gateway.target(url="mqtt://127.0.0.1:1") as target:
        with pytest.raises(NotReady, match=r"^not connected yet$"):
            await target.deliver(make_event(device))
        await wait_until(lambda: gateway.problems)
        words = "nothing listens on 127.0.0.1:1; events wait in the store"
        with pytest.raises(NotReady, match=f"^{words}$"):
            await target.deliver(make_event(device))
        assert gateway.problems == [words]
        assert target.describe() == "connecting to the MQTT broker on 127.0.0.1:1, topics mailwire/#"


async def test_device_without_a_record_gets_its_event_out(
    mosquitto: Mosquitto, gateway: StandIn, listener: Listener
) -> None:
    unknown = gateway.add("unknown")
    gateway.known.clear()
    async with gateway.connected(url=mosquitto.url) as target:
        await target.deliver(make_event(unknown))
        await wait_until(lambda: listener.newest("mailwire/unknown/event"))
    assert "homeassistant/device/mailwire_unknown/config" not in topics(listener)


async def test_expiry_is_the_brokers_message_expiry(mosquitto: Mosquitto, gateway: StandIn, listener: Listener) -> None:
    device = gateway.add("front_door")
    async with gateway.connected(url=mosquitto.url, expiry=3600) as target:
        await target.deliver(make_event(device))
        await wait_until(lambda: listener.newest("mailwire/front_door/event"))
        await wait_until(lambda: listener.newest("mailwire/bridge/devices"))
    assert listener.expiries == [3600]  # the event's; what is retained stays


async def test_broker_that_does_not_let_us_publish(tmp_path: Any, gateway: StandIn) -> None:
    rules = tmp_path / "acl"
    rules.write_text("topic write mailwire/bridge/#\ntopic read $SYS/#\n")
    broker = Mosquitto(tmp_path / "mosquitto", f"acl_file {rules}").start()
    try:
        device = gateway.add("front_door")
        async with gateway.connected(url=broker.url) as target:
            with pytest.raises(Retry) as caught:
                await target.deliver(make_event(device))
        assert str(caught.value) == "the broker refused mailwire/front_door/event: Not authorized"
        assert caught.value.after == 60
    finally:
        broker.stop()


async def test_broker_that_does_not_let_us_say_that_we_are_there(
    tmp_path: Any, gateway: StandIn, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rules = tmp_path / "acl"
    rules.write_text("topic mailwire/+/event\n")
    monkeypatch.setattr(mqtt, "Will", lambda *_: None)  # with a will that it does not allow it refuses the connection
    broker = Mosquitto(tmp_path / "mosquitto", f"acl_file {rules}").start()
    try:
        async with gateway.connected(url=broker.url) as target:
            await target.deliver(make_event(gateway.add("front_door")))
    finally:
        broker.stop()
    assert gateway.problems == [None]
    words = "the broker refused mailwire/bridge/state: Not authorized; what else we may publish goes out"
    assert words in caplog.messages


# --- the bridge ------------------------------------------------------------------------------------------------


async def test_bridge_topics_are_retained(mosquitto: Mosquitto, gateway: StandIn, listener: Listener) -> None:
    gateway.add("front_door", name="Front door", mails=3)
    async with gateway.connected(url=mosquitto.url):
        await wait_until(lambda: listener.newest("mailwire/bridge/devices"))
        assert json.loads(retained(mosquitto, "mailwire/bridge/state") or b"") == {"state": "online"}
        assert json.loads(retained(mosquitto, "mailwire/bridge/info") or b"") == gateway.about
        assert json.loads(retained(mosquitto, "mailwire/bridge/health") or b"")["queue"] == 0
        [device] = json.loads(retained(mosquitto, "mailwire/bridge/devices") or b"")
        assert (device["id"], device["name"], device["mails"]) == ("front_door", "Front door", 3)
    assert json.loads(retained(mosquitto, "mailwire/bridge/state") or b"") == {"state": "offline"}


async def test_health_goes_out_when_it_changes_in_kind(
    mosquitto: Mosquitto, gateway: StandIn, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "BRIDGE_PAUSE", 0.02)
    looks = 0
    health = gateway.health

    def count() -> dict[str, Any]:
        nonlocal looks
        looks += 1
        return health()

    monkeypatch.setattr(gateway, "health", count)
    async with gateway.connected(url=mosquitto.url):
        await wait_until(lambda: listener.newest("mailwire/bridge/health"))
        gateway.well["queue"] = 5
        await wait_until(lambda: listener.newest("mailwire/bridge/health")["queue"] == 5)
        sent = len(listener.payloads("mailwire/bridge/health"))
        gateway.well["queue"] = 6
        seen = looks
        await wait_until(lambda: looks > seen + 5)
        assert len(listener.payloads("mailwire/bridge/health")) == sent
        gateway.well["problems"]["panel"] = "no such port"
        await wait_until(lambda: listener.newest("mailwire/bridge/health")["problems"])
        assert len(listener.payloads("mailwire/bridge/health")) == sent + 1
        gateway.about["integrations"]["panel"] = "broken"
        await wait_until(lambda: listener.newest("mailwire/bridge/info")["integrations"])


async def test_health_is_refreshed(
    mosquitto: Mosquitto, gateway: StandIn, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "BRIDGE_PAUSE", 0.02)
    monkeypatch.setattr(mirror, "REFRESH", 0.1)
    async with gateway.connected(url=mosquitto.url):
        await wait_until(lambda: len(listener.payloads("mailwire/bridge/health")) >= 3)


async def test_fault_in_the_gateway_costs_no_event(
    mosquitto: Mosquitto,
    gateway: StandIn,
    listener: Listener,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(mqtt, "LONGEST_WAIT", 0.2)
    device = gateway.add("front_door")
    health = gateway.health

    def faulty() -> dict[str, Any]:
        raise ZeroDivisionError

    monkeypatch.setattr(gateway, "health", faulty)
    async with gateway.connected(url=mosquitto.url) as target:
        await wait_until(lambda: caplog.messages)
        await target.deliver(make_event(device))
        monkeypatch.setattr(gateway, "health", health)
        await wait_until(lambda: listener.newest("mailwire/bridge/health"))
    assert set(caplog.messages) == {"what is retained at the broker could not be kept up to date"}
    assert gateway.readies == 1


# --- requests --------------------------------------------------------------------------------------------------


async def test_request_is_answered(mosquitto: Mosquitto, gateway: StandIn, listener: Listener) -> None:
    async def rename(payload: Mapping[str, Any]) -> dict[str, Any]:
        if not payload.get("name"):
            raise RequestRefused("a name is needed")
        return {"id": payload["id"], "name": payload["name"]}

    gateway.verbs["rename"] = rename
    async with gateway.connected(url=mosquitto.url):
        for request in ({"transaction": 7, "id": "a", "name": "Door"}, {"transaction": {"x": [1]}, "id": "a"}, {}):
            listener.publish("mailwire/bridge/request/rename", json.dumps(request))
        answers = await wait_until(
            lambda: len(found := listener.payloads("mailwire/bridge/response/rename")) == 3 and found
        )
    assert sorted(map(json.loads, answers), key=str) == sorted(
        [
            {"status": "ok", "data": {"id": "a", "name": "Door"}, "transaction": 7},
            {"status": "error", "error": "a name is needed", "transaction": {"x": [1]}},
            {"status": "error", "error": "a name is needed"},
        ],
        key=str,
    )


@pytest.mark.parametrize(
    ("payload", "answer"),
    [
        (b"", {"status": "ok", "data": {"asked": {}}}),
        (b'{"a": 1', {"error": "the request is not JSON: Expecting ',' delimiter: line 1 column 8 (char 7)"}),
        (b"\xff\xfe", {"status": "error"}),
        (b'{"id": "\\ud800"}', {"error": "the request has half a character (a surrogate without its other half)"}),
        (b"[1]", {"status": "error", "error": 'the request is not a JSON object such as {"transaction": "1"}'}),
        (b"[" * 100_000, {"status": "error", "error": "the request is nested too deeply"}),
        (b'{"fail": true}', {"error": "the gateway failed on this (ZeroDivisionError); see its log"}),
    ],
)  # fmt: skip
async def test_every_request_is_answered(
    mosquitto: Mosquitto, gateway: StandIn, listener: Listener, payload: bytes, answer: dict[str, Any]
) -> None:
    async def echo(payload: Mapping[str, Any]) -> dict[str, Any]:
        return {"asked": dict(payload)} if not payload.get("fail") else {"never": 1 / 0}

    gateway.verbs["echo"] = echo
    async with gateway.connected(url=mosquitto.url):
        listener.publish("mailwire/bridge/request/echo", payload)
        found = await wait_until(lambda: listener.newest("mailwire/bridge/response/echo"))
    assert found | answer == found


async def test_what_was_acknowledged_elsewhere_while_we_were_away_counts(
    mosquitto: Mosquitto, gateway: StandIn, listener: Listener
) -> None:
    """A desktop's button, pressed while the gateway starts anew: nobody else is to be told then."""
    asked: list[Any] = []

    async def ack(payload: Mapping[str, Any]) -> dict[str, Any]:
        asked.append(payload["id"])
        return {}

    gateway.verbs["ack"] = ack
    async with gateway.connected(url=mosquitto.url):
        pass
    listener.publish("mailwire/bridge/request/ack", '{"id": "away"}')
    async with gateway.connected(url=mosquitto.url):
        listener.publish("mailwire/bridge/request/ack", '{"id": "here"}')
        await wait_until(lambda: "here" in asked)
        listener.publish("mailwire/bridge/request/any", "{}")
        await wait_until(lambda: listener.newest("mailwire/bridge/response/any"))
    assert asked == ["away", "here"]


async def test_unknown_verb_is_refused_by_the_gateways_words(
    mosquitto: Mosquitto, gateway: StandIn, listener: Listener
) -> None:
    async with gateway.connected(url=mosquitto.url):
        listener.publish("mailwire/bridge/request/dance now", b"{}")
        found = await wait_until(lambda: listener.newest("mailwire/bridge/response/dance now"))
    assert found == {"status": "error", "error": "dance now is not a request that I know"}


async def test_too_many_requests_at_once(mosquitto: Mosquitto, gateway: StandIn, listener: Listener) -> None:
    done = asyncio.Event()

    async def wait(_: Mapping[str, Any]) -> dict[str, Any]:
        await done.wait()
        return {}

    gateway.verbs["wait"] = wait
    async with gateway.connected(url=mosquitto.url):
        for number in range(20):
            listener.publish("mailwire/bridge/request/wait", json.dumps({"transaction": number}))
        await wait_until(lambda: len(listener.payloads("mailwire/bridge/response/wait")) == 4)
        busy = [json.loads(payload) for payload in listener.payloads("mailwire/bridge/response/wait")]
        assert {answer["error"] for answer in busy} == {"16 requests are being carried out; try again later"}
        done.set()
        await wait_until(lambda: len(listener.payloads("mailwire/bridge/response/wait")) == 20)


async def test_retained_request_is_not_carried_out(
    mosquitto: Mosquitto, gateway: StandIn, listener: Listener, caplog: pytest.LogCaptureFixture
) -> None:
    async def never(_: Mapping[str, Any]) -> dict[str, Any]:
        raise AssertionError

    gateway.verbs["reload"] = never
    listener.publish("mailwire/bridge/request/reload", b"{}", retain=True)
    with caplog.at_level(logging.WARNING):
        async with gateway.connected(url=mosquitto.url):
            await wait_until(lambda: caplog.messages)
    assert caplog.messages == ["the retained message on bridge/request/reload is ignored: don't retain requests"]


# --- devices ---------------------------------------------------------------------------------------------------


async def test_discovery_comes_before_a_new_devices_first_event(
    mosquitto: Mosquitto, gateway: StandIn, listener: Listener
) -> None:
    async with gateway.connected(url=mosquitto.url) as target:
        await wait_until(lambda: "homeassistant/device/mailwire_bridge/config" in topics(listener))
        for number in range(20):
            device = gateway.add(f"camera_{number}")
            target.device_changed(device)
            await target.deliver(make_event(device))
        await wait_until(lambda: "mailwire/camera_19/event" in topics(listener))
    seen = topics(listener)
    for number in range(20):
        config = seen.index(f"homeassistant/device/mailwire_camera_{number}/config")
        assert config < seen.index(f"mailwire/camera_{number}/event")
    assert retained(mosquitto, "homeassistant/device/mailwire_camera_19/config")


async def test_discovery_can_be_switched_off(mosquitto: Mosquitto, gateway: StandIn, listener: Listener) -> None:
    device = gateway.add("front_door")
    async with gateway.connected(url=mosquitto.url, discovery=False, base_topic="lab/mail") as target:
        target.device_changed(device)
        await target.deliver(make_event(device))
        await wait_until(lambda: "lab/mail/front_door/state" in topics(listener))
        await wait_until(lambda: "lab/mail/front_door/event" in topics(listener))
    assert not [topic for topic in topics(listener) if not topic.startswith("lab/mail/")]


async def test_everything_is_sent_again_when_home_assistant_starts(
    mosquitto: Mosquitto, gateway: StandIn, listener: Listener
) -> None:
    gateway.add("front_door")
    listener.publish("homeassistant/status", b"online", retain=True)  # of yesterday: connecting sends all anyway
    async with gateway.connected(url=mosquitto.url):
        await wait_until(lambda: "mailwire/front_door/state" in topics(listener))
        assert topics(listener).count(CONFIG) == 1
        listener.publish("homeassistant/status", b"offline")
        listener.publish("homeassistant/status", b"online")
        await wait_until(lambda: topics(listener).count("mailwire/front_door/state") == 2)
        assert topics(listener).count(CONFIG) == 2
        assert topics(listener).count("homeassistant/device/mailwire_bridge/config") == 2


async def test_birth_message_is_heard_with_another_discovery_prefix(
    mosquitto: Mosquitto, gateway: StandIn, listener: Listener
) -> None:
    gateway.add("front_door")
    config = "lab/device/mailwire_front_door/config"
    async with gateway.connected(url=mosquitto.url, discovery="lab"):
        for number, topic in enumerate(("homeassistant/status", "lab/status"), 1):
            await wait_until(lambda number=number: topics(listener).count(config) == number)
            await wait_until(lambda number=number: topics(listener).count("mailwire/front_door/state") == number)
            listener.publish(topic, b"online")
        await wait_until(lambda: topics(listener).count(config) == 3)


async def test_device_forgotten_while_all_are_sent_again(
    mosquitto: Mosquitto, gateway: StandIn, listener: Listener
) -> None:
    for number in range(20):
        gateway.add(f"camera_{number}")
    last = "homeassistant/device/mailwire_camera_19/config"
    async with gateway.connected(url=mosquitto.url) as target:
        await wait_until(lambda: "mailwire/camera_0/state" in topics(listener))
        for number in (18, 19):
            del gateway.known[f"camera_{number}"]
            target.device_forgotten(f"camera_{number}")
        await wait_until(lambda: "mailwire/camera_17/state" in topics(listener))
        await wait_until(lambda: listener.payloads(last))
    assert listener.payloads(last) == [b""]


async def test_events_of_one_device_keep_their_order(
    mosquitto: Mosquitto, gateway: StandIn, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One with a picture is not overtaken by the next without; another device's is."""
    device, other = gateway.add("front_door"), gateway.add("garage")
    events = [make_event(device, attachments=[picture()] if number % 7 == 3 else []) for number in range(50)]
    attachment = gateway.attachment
    go = asyncio.Event()

    async def slow(event_id: str, index: int) -> bytes:
        await go.wait()
        return await attachment(event_id, index)

    monkeypatch.setattr(gateway, "attachment", slow)
    for event in events:
        gateway.attachments[event["id"], 0] = b"jpeg"
    async with gateway.connected(url=mosquitto.url) as target:
        deliveries = [asyncio.create_task(target.deliver(event)) for event in events]
        await target.deliver(make_event(other))
        assert not deliveries[4].done()
        go.set()
        await asyncio.gather(*deliveries)
        await wait_until(lambda: len(listener.payloads("mailwire/front_door/event")) == len(events))
    assert [json.loads(found)["id"] for found in listener.payloads("mailwire/front_door/event")] == [
        event["id"] for event in events
    ]


async def test_few_pictures_are_in_memory_at_once(
    mosquitto: Mosquitto, gateway: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = most = 0

    async def count(event_id: str, index: int) -> bytes:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.001)
        now -= 1
        return b"jpeg"

    monkeypatch.setattr(gateway, "attachment", count)
    async with gateway.connected(url=mosquitto.url) as target:
        await asyncio.gather(
            *(target.deliver(make_event(gateway.add(f"c{n}"), attachments=[picture()])) for n in range(30))
        )
    assert most == 2


async def test_state_of_a_device_is_retained_and_coalesced(
    mosquitto: Mosquitto, gateway: StandIn, listener: Listener
) -> None:
    device = gateway.add("front_door")
    topic = "mailwire/front_door/state"
    async with gateway.connected(url=mosquitto.url) as target:
        await wait_until(lambda: listener.newest(topic))
        nothing = {"problem": "off", "troubles": [], "alerts": "on", "muted_until": None, "quantities": {}}
        assert listener.newest(topic) == {"last": None, **nothing}
        before = len(listener.payloads(topic))
        for number in range(1000):
            device.last_event = {"id": str(number), "title": f"Motion {number}", "kind": "motion", "icon": "mdi:skull"}
            device.states["motion"] = "off" if number % 2 else "on"
            target.device_changed(device)
            if number % 100 == 0:
                await asyncio.sleep(0)
        await wait_until(lambda: listener.newest(topic)["last"] and listener.newest(topic)["last"]["id"] == "999")
        assert len(listener.payloads(topic)) - before <= 3
    assert json.loads(retained(mosquitto, topic) or b"") == {
        "last": {"id": "999", "time": None, "kind": "motion", "state": None, "severity": None, "title": "Motion 999"},
        "motion": "off",
        **nothing,
    }


async def test_renamed_device(mosquitto: Mosquitto, gateway: StandIn, listener: Listener) -> None:
    device = gateway.add("front_door", name="Camera 1")
    async with gateway.connected(url=mosquitto.url) as target:
        await wait_until(lambda: listener.newest(CONFIG))
        device.name = "Front door"
        target.device_changed(device)
        await wait_until(lambda: listener.newest(CONFIG)["device"]["name"] == "Front door")
        target.device_changed(device)
        device.quantities["load"] = (12, "%")
        target.device_changed(device)
        await wait_until(lambda: "value_load" in listener.newest(CONFIG)["components"])
        device.quantities["load"] = (13, "%")
        target.device_changed(device)
        await wait_until(lambda: listener.newest("mailwire/front_door/state")["quantities"] == {"load": 13})
    assert topics(listener).count(CONFIG) == 3  # not for each value
    before, *_, after = [json.loads(payload)["components"] for payload in listener.payloads(CONFIG)]
    assert {key: after[key] for key in before} == before  # so that what a person set up stays


async def test_forgotten_device_leaves_nothing_behind(
    mosquitto: Mosquitto, gateway: StandIn, listener: Listener
) -> None:
    device = gateway.add("front_door")
    event = make_event(device, attachments=[picture()])
    gateway.attachments[event["id"], 0] = b"jpeg"
    kept = [CONFIG, "mailwire/front_door/state", "mailwire/front_door/image"]
    async with gateway.connected(url=mosquitto.url) as target:
        target.device_changed(device)
        await target.deliver(event)
        await wait_until(lambda: set(kept) <= set(topics(listener)))
        del gateway.known["front_door"]
        target.device_forgotten("front_door")
        await wait_until(lambda: all(listener.payloads(topic)[-1] == b"" for topic in kept))
        await wait_until(lambda: listener.newest("mailwire/bridge/devices") == [])
    assert [retained(mosquitto, topic) for topic in kept] == [None, None, None]


async def test_availability_is_told_of_a_device_that_reports_on_a_schedule(
    mosquitto: Mosquitto, gateway: StandIn, listener: Listener
) -> None:
    topic = "mailwire/nas/availability"
    device, other = gateway.add("nas", online=True), gateway.add("front_door")

    def told() -> bytes | None:
        return (listener.payloads(topic) or [None])[-1]

    async with gateway.connected(url=mosquitto.url) as target:
        await wait_until(lambda: told() == b"online")
        await wait_until(lambda: "mailwire/front_door/state" in topics(listener))
        assert "mailwire/front_door/availability" not in topics(listener)
        for online, payload in ((False, b"offline"), (True, b"online"), (None, b""), (False, b"offline")):
            device.online = online
            target.device_changed(device)
            await wait_until(lambda payload=payload: told() == payload)  # type: ignore[misc]
        assert retained(mosquitto, topic) == b"offline"
        await wait_until(lambda: "reports" in listener.newest("homeassistant/device/mailwire_nas/config")["components"])
        del gateway.known["nas"]
        target.device_forgotten("nas")
        await wait_until(lambda: told() == b"")
    assert retained(mosquitto, topic) is None
    assert other.online is None


async def test_device_forgotten_while_the_broker_was_away(
    mosquitto: Mosquitto, gateway: StandIn, listener: Listener
) -> None:
    gateway.add("front_door")
    async with gateway.connected(url=mosquitto.url) as target:
        await wait_until(lambda: listener.newest("mailwire/front_door/state"))
        mosquitto.stop()
        await wait_until(lambda: len(gateway.problems) == 2)
        del gateway.known["front_door"]
        target.device_forgotten("front_door")
        mosquitto.start()
        await wait_until(lambda: gateway.readies == 2)
        with Listener(mosquitto.port, CONFIG) as newcomer:
            await wait_until(lambda: newcomer.payloads(CONFIG)[-1:] in ([], [b""]))


# --- pictures --------------------------------------------------------------------------------------------------


async def test_picture_comes_before_its_event(mosquitto: Mosquitto, gateway: StandIn, listener: Listener) -> None:
    device = gateway.add("front_door")
    event = make_event(
        device, attachments=[picture("log.txt", media_type="text/plain"), picture("a.png", 8, "image/PNG")]
    )
    gateway.attachments[event["id"], 1] = b"\x89PNG\x00\xff\r\n"
    async with gateway.connected(url=mosquitto.url) as target:
        device.picture = (event["id"], 1)
        target.device_changed(device)
        await target.deliver(event)
        await wait_until(lambda: listener.newest("mailwire/front_door/event"))
        seen = topics(listener)
        assert seen.index("mailwire/front_door/image") < seen.index("mailwire/front_door/event")
        await wait_until(lambda: "picture" in listener.newest(CONFIG)["components"])
        await wait_until(lambda: listener.newest(CONFIG)["components"]["picture"]["content_type"] == "image/png")
    assert retained(mosquitto, "mailwire/front_door/image") == b"\x89PNG\x00\xff\r\n"


async def test_best_picture_is_the_one_that_was_found_best(
    mosquitto: Mosquitto, gateway: StandIn, listener: Listener
) -> None:
    device = gateway.add("front_door")
    event = make_event(device, attachments=[picture("logo.gif"), picture("snapshot.jpg")])
    gateway.attachments[event["id"], 0] = b"logo"
    gateway.attachments[event["id"], 1] = b"snapshot"
    device.picture = (event["id"], 1)
    async with gateway.connected(url=mosquitto.url) as target:
        await target.deliver(event)
        assert await wait_until(lambda: listener.newest("mailwire/front_door/image")) == b"snapshot"


@pytest.mark.parametrize(
    ("size", "content", "words"),
    [
        (5000, b"x" * 5000, "its picture ch01.jpg is left out of MQTT: 5000 bytes, image_limit is 4999"),
        (10, None, "its picture ch01.jpg is left out of MQTT: the mail is no longer kept"),
        (10, b"", None),
    ],
)
async def test_picture_that_is_left_out_does_not_hold_up_its_event(
    mosquitto: Mosquitto,
    gateway: StandIn,
    listener: Listener,
    caplog: pytest.LogCaptureFixture,
    size: int,
    content: bytes | None,
    words: str | None,
) -> None:
    device = gateway.add("front_door")
    event = make_event(device, attachments=[picture(size=size)])
    if content is not None:
        gateway.attachments[event["id"], 0] = content
    with caplog.at_level(logging.INFO):
        async with gateway.connected(url=mosquitto.url, image_limit=4999) as target:
            await target.deliver(event)
            await wait_until(lambda: listener.newest("mailwire/front_door/event"))
    assert "mailwire/front_door/image" not in topics(listener)
    said = [message for message in caplog.messages if "picture" in message]
    assert said == ([f"event {event['id']}: {words}"] if words else [])


async def test_picture_that_the_broker_refuses_does_not_hold_up_its_event(
    tmp_path: Any, gateway: StandIn, caplog: pytest.LogCaptureFixture
) -> None:
    rules = tmp_path / "acl"
    rules.write_text("topic mailwire/bridge/#\ntopic mailwire/+/event\n")
    broker = Mosquitto(tmp_path / "mosquitto", f"acl_file {rules}").start()
    try:
        device = gateway.add("front_door")
        event = make_event(device, attachments=[picture()])
        gateway.attachments[event["id"], 0] = b"jpeg"
        async with gateway.connected(url=broker.url) as target:
            await target.deliver(event)
        assert (
            f"event {event['id']}: its picture ch01.jpg is left out of MQTT: "
            "the broker refused mailwire/front_door/image: Not authorized"
        ) in caplog.messages
    finally:
        broker.stop()


async def test_picture_of_a_device_that_was_forgotten_is_not_kept(
    mosquitto: Mosquitto, gateway: StandIn, listener: Listener
) -> None:
    device = gateway.add("front_door")
    event = make_event(device, attachments=[picture()])
    gateway.attachments[event["id"], 0] = b"jpeg"
    gateway.known.clear()
    async with gateway.connected(url=mosquitto.url) as target:
        await target.deliver(event)  # it had waited for the broker
        await wait_until(lambda: listener.newest("mailwire/front_door/event"))
    assert listener.payloads("mailwire/front_door/image") == [b"jpeg"]
    with Listener(mosquitto.port, "mailwire/front_door/image", "mailwire/bridge/state") as newcomer:
        await wait_until(lambda: newcomer.newest("mailwire/bridge/state"))
    assert not newcomer.payloads("mailwire/front_door/image")


async def test_older_picture_never_replaces_a_newer_one(
    mosquitto: Mosquitto, gateway: StandIn, listener: Listener
) -> None:
    device = gateway.add("front_door")
    old, new = make_event(device, attachments=[picture()]), make_event(device, attachments=[picture()])
    gateway.attachments[old["id"], 0], gateway.attachments[new["id"], 0] = b"old!", b"new!"
    async with gateway.connected(url=mosquitto.url) as target:
        await target.deliver(new)
        await target.deliver(old)  # it had to be tried again
        await target.deliver(new)  # its picture is there already
        await wait_until(lambda: len(listener.payloads("mailwire/front_door/event")) == 3)
    assert listener.payloads("mailwire/front_door/image") == [b"new!"]


async def test_pictures_of_one_device_keep_their_order(
    mosquitto: Mosquitto, gateway: StandIn, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = gateway.add("front_door")
    events = [make_event(device, attachments=[picture()]) for _ in range(20)]
    for number, event in enumerate(events):
        gateway.attachments[event["id"], 0] = str(number).encode()
    attachment = gateway.attachment
    waits = iter(range(20, 0, -1))

    async def slow(event_id: str, index: int) -> bytes:
        await asyncio.sleep(next(waits) / 2000)  # the first takes longest
        return await attachment(event_id, index)

    monkeypatch.setattr(gateway, "attachment", slow)
    async with gateway.connected(url=mosquitto.url) as target:
        await asyncio.gather(*(target.deliver(event) for event in events))
        await wait_until(lambda: len(listener.payloads("mailwire/front_door/image")) == 20)
    assert listener.payloads("mailwire/front_door/image") == [str(number).encode() for number in range(20)]


async def test_picture_of_some_megabytes(mosquitto: Mosquitto, gateway: StandIn, listener: Listener) -> None:
    device = gateway.add("front_door")
    content = bytes(range(256)) * (3 * 4096)
    event = make_event(device, attachments=[picture(size=len(content))])
    gateway.attachments[event["id"], 0] = content
    async with gateway.connected(url=mosquitto.url) as target:
        await target.deliver(event)
        await wait_until(lambda: listener.payloads("mailwire/front_door/image"))
    assert listener.payloads("mailwire/front_door/image") == [content]
