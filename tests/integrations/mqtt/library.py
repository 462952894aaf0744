"""The sample mails, and what MQTT is told of their devices: the gateway's own parts, no gateway.

Each comes from an address of its own, and so is a device of its own, but where its HELO name says that it is another's.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gateway.api import Device, Envelope, Event, to_json
from gateway.integrations.mqtt import discovery
from gateway.interpret import attachment, meaning, read
from gateway.pipeline import build_event, sender_of
from gateway.registry import Registry
from gateway.store import Mail
from gateway.ulid import UlidMaker
from gateway.wire.topics import Topics

MAILS = Path(__file__).parents[2] / "mails"
NOW = 1_790_000_000.0


class Learn:
    limit, per_peer, forget_days = 10_000, 10_000, 90.0


def samples() -> list[Path]:
    """Of tests/mails, and of the families' folders in it."""
    return sorted(MAILS.rglob("*.eml"))


def envelope(path: Path, number: int) -> Envelope:
    """As the sample says."""
    told = json.loads(path.with_suffix(".json").read_text("utf-8")) if path.with_suffix(".json").exists() else {}
    peer = f"10.{number // 65536}.{number // 256 % 256}.{number % 256}"
    said = told.get("envelope", {})
    return Envelope("lan-mail", peer, said.get("helo", "device"), said.get("mail_from", "device@lan.example"), ["a@gw"])


def events() -> Iterator[tuple[Device, Event, tuple[str, bytes] | None]]:
    """Device, event and picture (media type, bytes) of each sample."""
    registry, ids = Registry(lambda *_: None), UlidMaker()
    registry.configure({}, Learn())
    for number, path in enumerate(samples(), 1):
        content = path.read_bytes()
        mail = Mail(ids.new(), NOW, envelope(path, number), len(content))
        reading = read(content)
        means = meaning(reading, mail.envelope)
        device, _ = registry.identify(mail.envelope, sender_of(reading, means), reading.subject or "", NOW)
        event = build_event(mail, reading, means, device)
        index = reading.picture
        registry.saw(device, event, index, NOW, means.off_after)
        yield (
            device,
            event,
            None if index is None else (event["attachments"][index]["type"], attachment(content, index)),
        )


def payloads(topics: Topics) -> list[dict[str, Any]]:
    """A device each, after its last mail, as `in_home_assistant.py` reads it."""
    newest: dict[str, tuple[Device, Event, tuple[str, bytes] | None]] = {}
    for device, event, picture in events():
        before = newest.pop(device.id, None)
        newest[device.id] = (device, event, picture or (before[2] if before else None))
    return [_payload(topics, *one) for one in newest.values()]


def _payload(topics: Topics, device: Device, event: Event, picture: tuple[str, bytes] | None) -> dict[str, Any]:
    document = discovery.device_config(topics, device, "1.0", picture[0] if picture else None)
    topic = topics.config(device.id)
    assert discovery.mistakes(topic, document) == []
    state = discovery.state(device, 0.0)
    messages = [
        (topics.bridge_state, '{"state":"online"}', False),
        (topics.state(device.id), json.dumps(state), False),
        (topics.event(device.id), to_json(event).decode(), False),
    ]
    if picture is not None:
        messages.append((topics.image(device.id), base64.b64encode(picture[1]).decode(), True))
    shows = {
        "alerts": "on",
        "problem": state["problem"],
        "last": " ".join(event["title"].split()),
        "last_seen": event["time"][:19] + "+00:00",
        **{f"state_{kind}": value for kind, value in device.states.items()},
        **{f"value_{key}": str(value) for key, (value, _) in device.quantities.items()},
    }
    return {"config": (topic, document), "messages": messages, "kind": event["kind"], "shows": shows}
