"""What comes in: notifications and topics that are listened to, through a real Mosquitto; nothing gets lost."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from gateway.api import Refused
from gateway.integrations.mqtt import Config, Mqtt, discovery
from gateway.integrations.mqtt.client import Message
from gateway.integrations.mqtt.inbox import Inbox, Listen, matches
from gateway.wire.topics import Topics
from tests.integrations.mqtt.fake_broker import CuttableLine, listening
from tests.integrations.mqtt.stand_in_gateway import StandIn, deliver, make_event, wait_until
from tests.integrations.mqtt.stand_in_gateway import picture as attachment
from tests.mosquitto import Listener, Mosquitto


@pytest.mark.parametrize(
    ("pattern", "topic", "does"),
    [
        ("a/b", "a/b", True),
        ("a/+", "a/b", True),
        ("a/+", "a/b/c", False),
        ("a/+/c", "a/b/c", True),
        ("a/#", "a", True),
        ("a/#", "a/b/c", True),
        ("#", "a/b", True),
        ("+/b", "$SYS/b", False),
        ("#", "$SYS/b", False),
        ("$SYS/#", "$SYS/b", True),
        ("$share/gateways/a/+", "a/b", True),
        ("$share/gateways/a/+", "gateways/a", False),
        ("$share/gateways/#", "$SYS/b", False),
        ("a/b", "a", False),
        ("a", "a/b", False),
    ],
)
def test_topic_filters(pattern: str, topic: str, does: bool) -> None:
    assert matches(pattern, topic.split("/")) is does


@pytest.mark.parametrize("topic", ["a#", "#/a", "a/#/b", "a+/b", ""])
def test_no_topic_filter(topic: str) -> None:
    with pytest.raises(ValidationError, match="this is no topic filter"):
        Listen(topic=topic)


def without_id(draft: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in draft.items() if key != "id"}


async def test_a_notification_goes_to_its_target(mosquitto: Mosquitto, gateway: StandIn) -> None:
    gateway.others = {"broker": False, "post": True}
    async with gateway.connected(url=mosquitto.url):
        with Listener(mosquitto.port, "none") as someone:
            someone.publish("mailwire/notify/post", "Wet\nThe cellar")
            someone.publish("mailwire/notify", "All")
        await wait_until(lambda: len(gateway.drafts) == 2)
    assert list(map(without_id, gateway.drafts)) == [
        {"title": "Wet", "text": "The cellar", "targets": ["post"]},
        {"title": "All", "text": "All"},
    ]


async def test_what_can_not_be_told_is_said(
    mosquitto: Mosquitto, gateway: StandIn, caplog: pytest.LogCaptureFixture
) -> None:
    gateway.others = {"broker": False, "post": True}
    caplog.set_level(logging.WARNING, "test.mqtt")
    with Listener(mosquitto.port, "none") as someone:
        someone.publish("mailwire/notify/post", "again and again", retain=True)
        async with gateway.connected(url=mosquitto.url):
            someone.publish("mailwire/notify/fone", "x")
            someone.publish("mailwire/notify/post", '{"attachments": [1]}')
            someone.publish("mailwire/notify/post", "last")
            await wait_until(lambda: gateway.drafts)
    assert [draft["title"] for draft in gateway.drafts] == ["last"]
    assert [record.getMessage() for record in caplog.records] == [
        "mailwire/notify/post: a retained notification is ignored: don't retain it",
        "mailwire/notify/fone: no event is made of this message: there is no target 'fone', but broker, post",
        'mailwire/notify/post: no event is made of this message: an attachment is {"name": "…", "type": "image/jpeg", '
        '"content": "<base64>"}',
    ]


async def test_any_topic_becomes_events(mosquitto: Mosquitto, gateway: StandIn) -> None:
    listens = [
        {
            "topic": "plant/+/alarm",
            "device": "{{ topic[1] }}",
            "kind": "temperature",
            "state": "{{ value.active }}",
            "severity": "{{ 'critical' if value.level > 2 else 'warning' }}",
            "title": "{{ value.text }}",
            "when": "{{ value.level > 0 }}",
            "data": ["level", "unit"],
            "to": ["post"],
        },
        {"topic": "door", "retained": True},
    ]
    with Listener(mosquitto.port, "none") as someone:
        someone.publish("door", "open", retain=True)
        someone.publish("plant/old/alarm", '{"level": 9}', retain=True)
        async with gateway.connected(url=mosquitto.url, listen=listens):
            someone.publish("plant/kiln/alarm", '{"text": "Hot", "level": 3, "active": true, "unit": "C"}')
            someone.publish("plant/kiln/alarm", '{"text": "Fine", "level": 0}')
            someone.publish("plant/kiln/alarm", "no JSON")
            someone.publish("door", "shut")
            await wait_until(lambda: len(gateway.drafts) == 3)
    hot, *doors = sorted(gateway.drafts, key=lambda draft: draft["kind"], reverse=True)
    assert without_id(hot) == {
        "device": "kiln", "kind": "temperature", "state": "on", "severity": "critical", "title": "Hot",
        "text": '{"text": "Hot", "level": 3, "active": true, "unit": "C"}', "data": {"level": 3, "unit": "C"},
        "targets": ["post"],
    }  # fmt: skip
    assert [(draft["device"], draft["title"]) for draft in doors] == [("door", "open"), ("door", "shut")]


async def test_nothing_is_acknowledged_before_it_is_stored(
    mosquitto: Mosquitto, gateway: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that can't write, an end in between, and a time without a gateway: all is told, in order."""
    gateway.others = {"broker": False, "post": True}
    gateway.trouble = 10_000
    with Listener(mosquitto.port, "none") as someone:
        async with gateway.connected(url=mosquitto.url):
            for number in range(3):
                someone.publish("mailwire/notify/post", f"number {number}")
            await wait_until(lambda: gateway.trouble < 10_000)
        assert gateway.drafts == []
        for number in range(3, 6):
            someone.publish("mailwire/notify/post", f"number {number}")
        gateway.trouble = 1
        monkeypatch.setattr("gateway.api._EMIT_AGAIN", 0.01)
        async with gateway.connected(url=mosquitto.url):
            await wait_until(lambda: len(gateway.drafts) == 6)
            someone.publish("mailwire/notify/post", "end")
            await wait_until(lambda: len(gateway.drafts) == 7)
    assert [draft["title"] for draft in gateway.drafts] == [*(f"number {number}" for number in range(6)), "end"]
    assert gateway.ids[-8] == gateway.ids[-7]  # what the store could not take, and the next try, are one event


async def test_a_flood_at_qos_0_is_bounded(gateway: StandIn, caplog: pytest.LogCaptureFixture) -> None:
    inbox = Inbox(gateway.context, Topics(), ())
    for number in range(1100):
        inbox.received(Message("mailwire/notify", str(number).encode(), False, lambda: True))
    inbox.start()
    await wait_until(lambda: len(gateway.drafts) == 1000)
    await inbox.stop()
    assert [draft["title"] for draft in gateway.drafts] == [str(number) for number in range(1000)]
    assert caplog.messages == ["mailwire/notify: too much comes in at QoS 0: what can't wait here is lost"]


async def test_a_message_that_we_fail_on_ends_nothing_and_does_not_come_again(
    mosquitto: Mosquitto, gateway: StandIn, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    emit = gateway.context.emit

    async def failing(draft: Mapping[str, Any]) -> str:
        if draft["title"] == "bad":
            raise KeyError("oh")
        return await emit(draft)

    monkeypatch.setattr(gateway.context, "emit", failing)
    with Listener(mosquitto.port, "none") as someone:
        async with gateway.connected(url=mosquitto.url):
            someone.publish("mailwire/notify", '{"message": "x", "attachments": 5}')
            someone.publish("mailwire/notify", "bad")
            someone.publish("mailwire/notify", "first")
            await wait_until(lambda: gateway.drafts)
        async with gateway.connected(url=mosquitto.url):
            someone.publish("mailwire/notify", "second")
            await wait_until(lambda: len(gateway.drafts) == 2)
    assert [draft["title"] for draft in gateway.drafts] == ["first", "second"]
    assert caplog.messages.count("mailwire/notify: no event is made of this message") == 1


async def test_what_waits_here_and_comes_again_is_told_once(
    mosquitto: Mosquitto, gateway: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.integrations.mqtt.FIRST_WAIT", 0.01)
    monkeypatch.setattr("gateway.api._EMIT_AGAIN", 0.01)
    gateway.trouble = 10**9
    line = CuttableLine(mosquitto.port)
    with Listener(mosquitto.port, "none") as someone:
        async with listening(line.serve) as port, gateway.connected(url=f"mqtt://127.0.0.1:{port}") as target:
            for number in range(5):
                someone.publish("mailwire/notify", f"number {number}")
            await wait_until(lambda: len(target._inbox._open) == 5)
            line.cut()
            await wait_until(lambda: gateway.readies == 2)
            someone.publish("mailwire/notify", "number 0")  # the same words once more are news
            await wait_until(lambda: len(target._inbox._open) == 6)
            gateway.trouble = 0
            await wait_until(lambda: not target._inbox._open)
            someone.publish("mailwire/notify", "end")
            await wait_until(lambda: gateway.drafts[-1]["title"] == "end")
    assert [draft["title"] for draft in gateway.drafts] == [
        *(f"number {number}" for number in range(5)),
        "number 0",
        "end",
    ]


async def test_what_was_stored_without_a_connection_is_acknowledged_with_the_next(gateway: StandIn) -> None:
    sent: list[str] = []
    inbox = Inbox(gateway.context, Topics(), ())
    inbox.received(Message("mailwire/notify", b"x", False, lambda: False, 7))
    inbox.start()
    await wait_until(lambda: gateway.drafts)
    inbox.received(Message("mailwire/notify", b"x", False, lambda: bool(sent.append("x")) or True, 7, again=True))
    assert sent == ["x"]
    assert not inbox._open
    inbox.received(Message("mailwire/notify", b"x", False, lambda: True, 7, again=True))  # another, of the same words
    await wait_until(lambda: len(gateway.drafts) == 2)
    await inbox.stop()


async def test_a_message_is_one_event_however_many_filters_match(mosquitto: Mosquitto, gateway: StandIn) -> None:
    """A broker sends it once for each subscription, and our own topics match as well."""
    listens = [{"topic": "#", "title": "all"}, {"topic": "plant/+/alarm", "title": "alarm"}]
    gateway.verbs["ask"] = answer = Answer()
    with Listener(mosquitto.port, "none") as someone:
        async with gateway.connected(url=mosquitto.url, listen=listens, discovery=False):
            someone.publish("mailwire/bridge/request/ask", "{}")
            someone.publish("plant/kiln/alarm", "x")
            someone.publish("mailwire/notify", "told")
            someone.publish("end", "")
            await wait_until(lambda: any(draft["device"] == "end" for draft in gateway.drafts if "device" in draft))
    told = [draft["title"] for draft in gateway.drafts if draft.get("device") in ("alarm", None)]
    assert sorted(told) == ["alarm", "all", "told"]
    assert answer.count == 1


class Answer:
    def __init__(self) -> None:
        self.count = 0

    async def __call__(self, _: Mapping[str, Any]) -> dict[str, Any]:
        self.count += 1
        return {}


async def test_what_is_retained_comes_once_and_not_with_each_connection(
    mosquitto: Mosquitto, gateway: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.integrations.mqtt.FIRST_WAIT", 0.01)
    line = CuttableLine(mosquitto.port)
    with Listener(mosquitto.port, "mailwire/bridge/response/+") as someone:
        someone.publish("door", "open", retain=True)
        async with listening(line.serve) as port:
            url = f"mqtt://127.0.0.1:{port}"
            async with gateway.connected(url=url, listen=[{"topic": "door"}]):
                someone.publish("door", "first")
                await wait_until(lambda: gateway.drafts)
            async with gateway.connected(url=url, listen=[{"topic": "door", "retained": True}]):
                await wait_until(lambda: len(gateway.drafts) == 2)  # asked for from now on
                someone.publish("mailwire/bridge/request/any", "")
                await wait_until(lambda: someone.messages)  # so the broker has our acknowledgements before this answer
                line.cut()
                await wait_until(lambda: gateway.readies == 3)
                someone.publish("door", "last")
                await wait_until(lambda: gateway.drafts[-1]["title"] == "last")
    assert [draft["title"] for draft in gateway.drafts] == ["first", "open", "last"]


async def test_our_own_events_make_no_events(mosquitto: Mosquitto, gateway: StandIn) -> None:
    """Each would be published, and come in again, for ever."""
    one = make_event(gateway.add("cam"))
    with Listener(mosquitto.port, "none") as someone:
        async with gateway.connected(url=mosquitto.url, listen=[{"topic": "#"}]) as target:
            await target.deliver(one)
            someone.publish("door", "end")
            await wait_until(lambda: gateway.drafts)
    assert [draft["title"] for draft in gateway.drafts] == ["end"]


async def test_a_shared_subscription(mosquitto: Mosquitto, gateway: StandIn) -> None:
    with Listener(mosquitto.port, "none") as someone:
        async with gateway.connected(url=mosquitto.url, listen=[{"topic": "$share/gateways/plant/+"}]):
            someone.publish("plant/kiln", "Hot")
            await wait_until(lambda: gateway.drafts)
    assert [(draft["device"], draft["title"]) for draft in gateway.drafts] == [("kiln", "Hot")]


async def test_what_is_listened_to_no_longer_is_not_sent_any_more(mosquitto: Mosquitto, gateway: StandIn) -> None:
    with Listener(mosquitto.port, "none") as someone:
        async with gateway.connected(url=mosquitto.url, listen=[{"topic": "plant/#"}, {"topic": "door"}]):
            pass
        someone.publish("plant/a", "kept for us")
        async with gateway.connected(url=mosquitto.url, listen=[{"topic": "door"}]) as target:
            received: list[str] = []
            take = target._inbox.received
            target._inbox.received = lambda message: (received.append(message.topic), take(message))[1]  # type: ignore[method-assign]
            someone.publish("plant/b", "x")
            someone.publish("door", "x")
            await wait_until(lambda: gateway.drafts)
    assert received == ["door"]
    assert [draft["device"] for draft in gateway.drafts] == ["door"]


async def test_home_assistant_learns_whom_it_can_tell(mosquitto: Mosquitto, gateway: StandIn) -> None:
    gateway.others = {"broker": False, "post": True}
    topic = "homeassistant/device/mailwire_bridge/config"
    with Listener(mosquitto.port, topic) as home_assistant:
        async with gateway.connected(url=mosquitto.url):
            await wait_until(lambda: home_assistant.newest(topic))
            components = home_assistant.newest(topic)["components"]
    assert components["notify_post"]["command_topic"] == "mailwire/notify/post"
    assert components["delivery_post"]["device_class"] == "problem"
    document = discovery.bridge_config(Topics(), "1", ["post", "Boss-2"])
    assert discovery.mistakes(topic, document) == []
    assert "notify_boss_2" in document["components"]


def test_a_template_that_is_wrong_is_told() -> None:
    from gateway import template

    with pytest.raises(ValidationError, match="an event has no 'valeu'"):
        Config.model_validate(
            {"listen": [{"topic": "a", "title": "{{ valeu.x }}"}]}, context={"template": template.text}
        )


# --- another gateway's events -------------------------------------------------------------------------------------

EVENTS = {"topic": "mailwire/+/event", "events": True}


async def test_events_of_another_gateway_come_whole_and_with_their_picture(
    mosquitto: Mosquitto, gateway: StandIn, tmp_path: Path
) -> None:
    other = StandIn(tmp_path / "other")
    camera = other.add("cam", name="Camera")
    picture = b"\xff\xd8 bytes of a picture"
    one = make_event(camera, attachments=[{**attachment(), "sha256": sha256(picture).hexdigest()}], mail=None)
    camera.picture = (one["id"], 0)
    other.attachments[one["id"], 0] = picture
    gateway.others = {"desk": True}
    async with (
        gateway.connected(url=mosquitto.url, publish=False, listen=[EVENTS]),
        other.connected(url=mosquitto.url, discovery=False) as target,
    ):
        await deliver(target, one)
        await wait_until(lambda: gateway.drafts)
        with Listener(mosquitto.port, "none") as someone:
            someone.publish("mailwire/cam/event", "no event")
            someone.publish("mailwire/cam/event", '{"title": "without an id"}')
            someone.publish("mailwire/notify", "for the other gateway alone")
            someone.publish("mailwire/cam/event", '{"id": "2"}')
            someone.publish("mailwire/cam/event", '{"id": "3", "attachments": 7}')
        await wait_until(lambda: len(gateway.drafts) == 3)
    first, second, third = gateway.drafts
    assert first == {key: value for key, value in one.items() if key not in ("v", "source")} | {
        "files": [("ch01.jpg", "image/jpeg", picture)]
    }
    assert second == {"id": "2"}
    assert third == {"id": "3", "attachments": 7}


async def test_who_only_listens_publishes_nothing_but_acknowledgements(mosquitto: Mosquitto, gateway: StandIn) -> None:
    one = make_event(gateway.add("cam"))
    async with gateway.target(url="mqtt://127.0.0.1:1", publish=False, listen=[EVENTS]) as target:
        assert not Mqtt.takes_all(target.config)
        await target.acknowledged(one)  # and there is never a connection
    with Listener(mosquitto.port, "#") as everything:
        async with gateway.target(url=mosquitto.url, publish=False, listen=[EVENTS]) as target:
            await wait_until(lambda: gateway.readies, "for the connection")
            await wait_until(lambda: everything.messages)
            await target.acknowledged({**one, "id": "second"})
            await wait_until(lambda: len(everything.messages) == 2)
            target.device_changed(gateway.known["cam"])
            assert target.begin(one) is None
            with pytest.raises(Refused, match="publish: false says that nothing is published here"):
                await target.deliver(one)
        mosquitto.stop()
    assert [(topic, json.loads(payload)["id"], retained) for topic, payload, retained in everything.messages] == [
        ("mailwire/bridge/request/ack", one["id"], False),
        ("mailwire/bridge/request/ack", "second", False),
    ]


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"publish": False}, "with 'publish: false' and nothing in listen, there is nothing to do"),
        ({"listen": [{"topic": "a/b", "events": True}]}, "such as mailwire/\\+/event"),
        ({"listen": [EVENTS | {"title": "x"}]}, "title: with 'events: true' events are taken as they are"),
    ],
)
def test_mistakes_of_listening(config: Any, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Config(**config)
