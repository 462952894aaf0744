"""The buttons and switches of Home Assistant at a real broker: what the gateway is asked for."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from gateway.api import RequestRefused
from tests.integrations.mqtt.stand_in_gateway import StandIn, wait_until
from tests.mosquitto import Listener, Mosquitto


@pytest.fixture
def listener(mosquitto: Mosquitto) -> Iterator[Listener]:
    with Listener(mosquitto.port) as listening:
        yield listening


@pytest.fixture
def asked(gateway: StandIn) -> list[tuple[str, Mapping[str, Any]]]:
    """The requests that the gateway got."""
    found: list[tuple[str, Mapping[str, Any]]] = []

    def verb(name: str) -> Any:
        async def carry_out(payload: Mapping[str, Any]) -> dict[str, Any]:
            if payload["device"] not in gateway.known:
                raise RequestRefused(f"no device {payload['device']!r}")
            found.append((name, payload))
            return {}

        return carry_out

    gateway.verbs = {name: verb(name) for name in ("alerts", "clear", "mute")}
    return found


async def test_switch_and_buttons_are_obeyed_in_their_order(
    mosquitto: Mosquitto, gateway: StandIn, listener: Listener, asked: list[tuple[str, Any]]
) -> None:
    gateway.add("pump", name="Pump")
    async with gateway.connected(url=mosquitto.url):
        for control, payload in (("alerts", "OFF"), ("alerts", "ON"), ("mute", "PRESS"), ("clear", "PRESS")):
            listener.publish(f"mailwire/pump/{control}/set", payload)
        listener.publish("mailwire/pump/test/set", "PRESS")
        await wait_until(lambda: gateway.drafts)
    assert asked == [
        ("alerts", {"device": "pump", "alerts": False}),
        ("alerts", {"device": "pump", "alerts": True}),
        ("mute", {"device": "pump", "seconds": 3600}),
        ("clear", {"device": "pump"}),
    ]
    [draft] = gateway.drafts
    assert (draft["device"], draft["kind"], draft["title"]) == ("pump", "test", "Test of Pump")
    assert draft["heard"] is False  # a button in Home Assistant is no sign of life of the device


async def test_mute_for_an_hour_shortens_nothing(
    mosquitto: Mosquitto, gateway: StandIn, listener: Listener, asked: list[tuple[str, Any]]
) -> None:
    gateway.add("pump")
    gateway.mutes["pump"] = time.time() + 2 * 3600
    async with gateway.connected(url=mosquitto.url):
        listener.publish("mailwire/pump/mute/set", "PRESS")
        listener.publish("mailwire/pump/clear/set", "PRESS")
        await wait_until(lambda: asked)
    assert [verb for verb, _ in asked] == ["clear"]


@pytest.mark.parametrize(
    ("topic", "payload", "words"),
    [
        ("pump/alerts/set", "on", "there are alerts (ON, OFF), clear, mute and test (PRESS), and not 'on'"),
        ("pump/reboot/set", "PRESS", "there are alerts (ON, OFF), clear, mute and test (PRESS), and not 'PRESS'"),
        ("pump/test/set", "\ufffd" * 100, f"and not '{chr(0xFFFD) * 40}'"),
        ("nobody/alerts/set", "ON", "no device 'nobody'"),
        ("nobody/test/set", "PRESS", "there is no device 'nobody'"),
    ],
)
async def test_what_is_not_obeyed_is_said(
    mosquitto: Mosquitto,
    gateway: StandIn,
    listener: Listener,
    asked: list[tuple[str, Any]],
    caplog: pytest.LogCaptureFixture,
    topic: str,
    payload: str,
    words: str,
) -> None:
    gateway.add("pump")
    async with gateway.connected(url=mosquitto.url):
        listener.publish(f"mailwire/{topic}", payload)
        await wait_until(lambda: any("not obeyed" in line for line in caplog.messages))
        [line] = [line for line in caplog.messages if "not obeyed" in line]
        assert line.startswith(f"mailwire/{topic}: not obeyed: ")
        assert words in line
        listener.publish("mailwire/pump/clear/set", "PRESS")  # the next one is
        await wait_until(lambda: asked)
    assert gateway.drafts == []


async def test_retained_command_is_not_obeyed(
    mosquitto: Mosquitto,
    gateway: StandIn,
    listener: Listener,
    asked: list[tuple[str, Any]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    gateway.add("pump")
    listener.publish("mailwire/pump/alerts/set", "OFF", retain=True)
    async with gateway.connected(url=mosquitto.url):
        words = "mailwire/pump/alerts/set: not obeyed: it is retained, and would be obeyed at each connection: "
        await wait_until(lambda: words + "don't retain commands" in caplog.messages)
    assert asked == []


async def test_fault_in_one_command_does_not_end_the_others(
    mosquitto: Mosquitto,
    gateway: StandIn,
    listener: Listener,
    asked: list[tuple[str, Any]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    gateway.add("pump")

    async def fail(_: Mapping[str, Any]) -> dict[str, Any]:
        raise ZeroDivisionError

    gateway.verbs["alerts"] = fail
    async with gateway.connected(url=mosquitto.url):
        listener.publish("mailwire/pump/alerts/set", "ON")
        listener.publish("mailwire/pump/clear/set", "PRESS")
        await wait_until(lambda: asked)
    assert "mailwire/pump/alerts/set: failed" in caplog.messages


async def test_test_waits_for_the_store(
    mosquitto: Mosquitto, gateway: StandIn, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway.add("pump")
    gateway.trouble = 2
    monkeypatch.setattr("gateway.api._EMIT_AGAIN", 0.01)
    async with gateway.connected(url=mosquitto.url):
        listener.publish("mailwire/pump/test/set", "PRESS")
        await wait_until(lambda: gateway.drafts)
    assert len(gateway.drafts) == 1
    assert len(gateway.ids) == 3
    assert len(set(gateway.ids)) == 1  # what the store could not take, and the next try, are one event


async def test_without_discovery_nothing_is_obeyed(
    mosquitto: Mosquitto, gateway: StandIn, listener: Listener, asked: list[tuple[str, Any]], caplog: Any
) -> None:
    gateway.add("pump")
    with caplog.at_level(logging.DEBUG):
        async with gateway.connected(url=mosquitto.url, discovery=False):
            listener.publish("mailwire/pump/alerts/set", "OFF")
            listener.publish("mailwire/notify", "after it")
            await wait_until(lambda: gateway.drafts)
    assert asked == []
