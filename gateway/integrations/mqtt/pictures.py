"""The newest picture of each device, retained as its bytes on `<device>/image`.

The picture of an event goes out before the event, so that who reacts to the event finds it. The owner of `Pictures`
keeps the events of one device in their order; a picture that a newer one has overtaken all the same (its event was
tried again) is left out. A picture never holds up its event: one that is too large, no longer kept or refused by the
broker is left out with a line in the log. Nothing empty is ever published: Home Assistant answers HTTP 500 for it.
"""

from __future__ import annotations

import asyncio
import logging

from gateway.api import Device, Event, Gateway, about
from gateway.integrations.mqtt.client import Connection, Refusal
from gateway.wire.topics import Topics

AT_ONCE = 2  # pictures in memory; also, a ping waits behind what is being sent, and must not wait too long
_IMAGE = "image/"
_LETTERS = set("abcdefghijklmnopqrstuvwxyz0123456789.+-")


class Pictures:
    """See the text at the top. `limit`: bytes of the largest picture that is published."""

    def __init__(self, gateway: Gateway, topics: Topics, log: logging.Logger, limit: int) -> None:
        self._gateway = gateway
        self._topics = topics
        self._log = log
        self._limit = limit
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._newest: dict[str, str] = {}  # device -> the event whose picture was published last; ids sort by time
        self._types: dict[str, str] = {}

    def media_type(self, device: Device) -> str | None:
        """Of the device's newest picture; None if it never sent one. After a start it is not known: JPEG is likely."""
        return self._types.get(device.id, "image/jpeg") if device.picture else None

    async def publish(self, connection: Connection, event: Event, device: Device | None) -> bool:
        """Publish the picture of this event, if it has one. True if the device's media type changed. Raises Lost."""
        index = _index(event, device)
        if index is None:
            return False
        device_id, picture = event["device"]["id"], event["attachments"][index]
        if self._newest.get(device_id, "") >= event["id"]:
            return False
        # Of a device that was forgotten meanwhile, nobody would ever take it back.
        if not await self._publish(connection, event, index, retain=device is not None) or not device:
            return False
        self._newest[device_id] = event["id"]
        media_type = (
            picture["type"].lower() if set(picture["type"][len(_IMAGE) :].lower()) <= _LETTERS else _IMAGE + "jpeg"
        )
        changed = self._types.get(device_id) != media_type
        self._types[device_id] = media_type
        return changed

    def forget(self, device_id: str) -> None:
        self._newest.pop(device_id, None)
        self._types.pop(device_id, None)

    async def _publish(self, connection: Connection, event: Event, index: int, *, retain: bool) -> bool:
        """True if the broker has it."""
        name, size = event["attachments"][index]["name"], event["attachments"][index]["size"]
        if size > self._limit:
            self._log.info(
                "event %s: its picture %s is left out of MQTT: %d bytes, image_limit is %d",
                *(event["id"], name, size, self._limit),
                extra=about(event),
            )
            return False
        try:
            async with self._slots:
                content = await self._gateway.attachment(event["id"], index)
                if content:
                    await connection.publish(self._topics.image(event["device"]["id"]), content, retain=retain)
        except (LookupError, Refusal) as error:
            self._log.warning(
                "event %s: its picture %s is left out of MQTT: %s", event["id"], name, error, extra=about(event)
            )
            return False
        return bool(content)


def _index(event: Event, device: Device | None) -> int | None:
    """Which attachment is the event's picture: the one that was found best, else the first image."""
    if device and device.picture and device.picture[0] == event["id"]:
        return device.picture[1]
    return next((index for index, item in enumerate(event["attachments"]) if item["type"].startswith(_IMAGE)), None)
