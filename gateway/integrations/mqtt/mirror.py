"""What the broker holds about us, kept true: bridge topics, each device's state, and its discovery payload.

All of it is retained, and all of it is sent again at each connection and when Home Assistant says that it has started,
at a pace that Home Assistant can follow. In between only what changed is sent, the latest value alone: a device's
state at most ten times a second, the bridge's topics every five seconds. `bridge/health` goes out once a minute and
when something in it became different in kind (a word, or a number that became or left zero), not for each count.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

from gateway.api import Context, Device
from gateway.integrations.mqtt import discovery
from gateway.integrations.mqtt.announced import BRIDGE, Announced, kept_topics
from gateway.integrations.mqtt.client import Connection, Lost, Refusal
from gateway.wire.topics import Topics

STATE_PAUSE = 0.1  # seconds between two states of one device
RESEND_PAUSE = 0.02  # seconds between two devices when all are sent again
BRIDGE_PAUSE = 5.0  # seconds between two looks at info, health and devices
NEWS_PAUSE = 0.5  # seconds before such a look when devices came or went: all that come together, in one
MEETING = 0.5  # seconds that Home Assistant is given to subscribe to a device that it never heard of
REFRESH = 60.0  # seconds after which health and devices are sent again with their counts

_ABOUT_KEYS = ("id", "name", "manufacturer", "model", "profile", "learned", "first_seen", "last_seen", "mails", "kinds")


class Mirror:
    """`run` keeps one connection's broker up to date; what happens between connections is sent at the next."""

    def __init__(
        self, context: Context, topics: Topics, announce: bool, media_type: Callable[[Device], str | None]
    ) -> None:
        self._log = context.log
        self._gateway = context.gateway
        self._topics = topics
        self._announce = announce
        self._media_type = media_type
        self._kept = Announced(context.data_dir / "announced", topics)
        self._version = ""
        # What this connection's broker has, or will have before anything that is published from now on.
        self._sent: dict[str, int] = {}  # topic -> hash of the payload
        self._announced: dict[str, tuple[object, ...]] = {}  # device -> what its discovery payload is made of
        self._meeting: dict[str, float] = {}  # device that was never announced before -> till when it is met
        self._regular: set[str] = set()  # devices whose availability was ever told
        self._changed: dict[str, Device] = {}
        self._forgotten: set[str] = set()
        self._resend: dict[str, Device] = {}  # still to be sent again
        self._something_changed = asyncio.Event()
        self._all_again = asyncio.Event()
        self._look = asyncio.Event()

    def load(self) -> None:
        """What earlier runs told."""
        self._kept.load()
        self._regular.update(self._kept.with_component(discovery.REPORTS))

    # --- what the owner tells ----------------------------------------------------------------------------------

    def device_changed(self, device: Device) -> None:
        if device.id not in self._changed:
            self._changed[device.id] = device
            self._forgotten.discard(device.id)
            self._something_changed.set()

    def device_forgotten(self, device_id: str) -> None:
        self._changed.pop(device_id, None)
        self._resend.pop(device_id, None)
        self._forgotten.add(device_id)
        self._something_changed.set()

    def home_assistant_started(self) -> None:
        self._all_again.set()

    def begin(self) -> None:
        """A new connection: its broker may know nothing."""
        self._version = str(self._gateway.info().get("version", ""))
        self._sent.clear()
        self._announced.clear()
        self._all_again.set()
        self._something_changed.set()

    async def run(self, connection: Connection) -> None:
        """After `begin`: until the connection is lost (then it returns) or this is cancelled."""
        try:
            await self._withdraw_left_over(connection)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._keep_bridge(connection))
                tasks.create_task(self._keep_devices(connection))
                tasks.create_task(self._keep_telling_all(connection))
        except* Lost:
            pass

    def introduced(self, device: Device) -> bool:
        """Does Home Assistant know of it, or will it before anything that is published from now on?"""
        return not self._announce or (device.id in self._announced and device.id not in self._meeting)

    async def introduce(self, connection: Connection, device: Device) -> None:
        """Tell Home Assistant of a device whose first event is about to go out, and let it listen. Raises Lost."""
        await self._publish_config(connection, device)
        await asyncio.sleep(self._meeting.get(device.id, 0.0) - time.monotonic())
        self._meeting.pop(device.id, None)

    # --- devices -----------------------------------------------------------------------------------------------

    async def _keep_devices(self, connection: Connection) -> None:
        while True:
            await self._something_changed.wait()
            self._something_changed.clear()
            while self._forgotten:
                await self._withdraw(connection, next(iter(self._forgotten)))
            changed, self._changed = self._changed, {}
            for device in changed.values():
                await self._publish_device(connection, device)
            await asyncio.sleep(STATE_PAUSE)

    async def _keep_telling_all(self, connection: Connection) -> None:
        while True:
            await self._all_again.wait()
            self._all_again.clear()
            if self._announce:
                await self._publish_bridge(connection, again=True)
            self._resend = {device.id: device for device in self._gateway.devices()}
            while self._resend:
                device = self._resend.pop(next(iter(self._resend)))
                await self._publish_device(connection, device, again=True)
                await asyncio.sleep(RESEND_PAUSE)

    async def _publish_device(self, connection: Connection, device: Device, again: bool = False) -> None:
        await self._publish_config(connection, device, again)
        topic = self._topics.state(device.id)
        if topic not in self._sent and not again:
            self._look.set()  # it is new
        state = discovery.state(device, self._gateway.muted_until(device.id))
        await self._publish(connection, topic, state, again)
        await self._publish_availability(connection, device, again)

    async def _publish_availability(self, connection: Connection, device: Device, again: bool) -> None:
        """Of a device that reports on a schedule; of one that no longer does, it is taken away."""
        topic = self._topics.availability(device.id)
        payload = {None: b"", True: b"online", False: b"offline"}[device.online]
        if payload or device.id in self._regular:
            self._regular.add(device.id)
            await self._publish_bytes(connection, topic, payload, again)

    async def _publish_config(self, connection: Connection, device: Device, again: bool = False) -> None:
        if not self._announce:
            self._note(device.id, {})
            return
        media_type = self._media_type(device)
        facts = (media_type, *discovery.basis(device))
        if again or self._announced.get(device.id) != facts:
            if not self._kept.knows(device.id):
                self._meeting[device.id] = time.monotonic() + MEETING
            self._announced[device.id] = facts
            document = discovery.device_config(self._topics, device, self._version, media_type)
            await self._publish_document(connection, device.id, document, again)

    async def _withdraw(self, connection: Connection, device_id: str) -> None:
        """Empty retained messages take it from the broker, and the first one from Home Assistant."""
        self._announced.pop(device_id, None)
        self._meeting.pop(device_id, None)
        await self._empty(connection, kept_topics(self._topics, device_id))
        self._kept.forget(device_id)
        self._forgotten.discard(device_id)
        self._look.set()

    async def _withdraw_left_over(self, connection: Connection) -> None:
        """What vanished while we were stopped, or was told on other topics."""
        known = {BRIDGE, *(device.id for device in self._gateway.devices())}
        for device_id, topics in self._kept.left_over(known):
            await self._empty(connection, topics)
            self._kept.forget(device_id)

    async def _empty(self, connection: Connection, topics: list[str]) -> None:
        for topic in topics:
            self._sent.pop(topic, None)
            try:
                await connection.publish(topic, b"", retain=True)
            except Refusal as error:  # the topics of an earlier configuration may be no business of ours any more
                self._log.warning("what is left on %s can't be taken back: %s", topic, error)

    # --- the bridge --------------------------------------------------------------------------------------------

    async def _keep_bridge(self, connection: Connection) -> None:
        due, fingerprint = 0.0, None
        while True:
            info, health, devices = self._gateway.info(), self._gateway.health(), self._gateway.devices()
            now = _rough((health, [(device.id, device.name, device.model) for device in devices]))
            await self._publish(connection, self._topics.bridge_info, info)
            if self._announce:
                await self._publish_bridge(connection)
            if now != fingerprint or time.monotonic() >= due:
                due, fingerprint = time.monotonic() + REFRESH, now
                await self._publish(connection, self._topics.bridge_health, health, again=True)
                await self._publish(
                    connection,
                    self._topics.bridge_devices,
                    [{key: getattr(device, key) for key in _ABOUT_KEYS} for device in devices],
                )
            self._look.clear()
            try:
                async with asyncio.timeout(BRIDGE_PAUSE):
                    await self._look.wait()
            except TimeoutError:
                pass
            else:
                await asyncio.sleep(NEWS_PAUSE)

    async def _publish_bridge(self, connection: Connection, again: bool = False) -> None:
        people = [name for name, tells_people in self._gateway.targets().items() if tells_people]
        document = discovery.bridge_config(self._topics, self._version, people)
        await self._publish_document(connection, BRIDGE, document, again)

    # --- publishing --------------------------------------------------------------------------------------------

    async def _publish_document(
        self, connection: Connection, name: str, document: dict[str, Any], again: bool = False
    ) -> None:
        """A device's, or the bridge's, with what it has no longer; refused here what Home Assistant would refuse."""
        topic, components = self._topics.config(name), document["components"]
        if found := discovery.mistakes(topic, document):
            self._log.error("not told to Home Assistant, which would refuse it: %s: %s", topic, "; ".join(found))
            return
        if gone := self._kept.vanished(name, components):
            await self._publish(connection, topic, document | {"components": components | gone}, again=True)
        self._note(name, components)
        await self._publish(connection, topic, document, again)

    def _note(self, name: str, components: dict[str, Any]) -> None:
        try:
            self._kept.note(name, components)
        except OSError as error:  # it is told all the same, and may be left over some day
            self._log.warning("what Home Assistant is told of %s can't be written down: %s", name, error.strerror)

    async def _publish(self, connection: Connection, topic: str, value: Any, again: bool = False) -> None:
        """Publish, retained, what the broker does not have already."""
        payload = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
        await self._publish_bytes(connection, topic, payload, again)

    async def _publish_bytes(self, connection: Connection, topic: str, payload: bytes, again: bool = False) -> None:
        if not again and self._sent.get(topic) == hash(payload):
            return
        self._sent[topic] = hash(payload)
        try:
            await connection.publish(topic, payload, retain=True)
        except Refusal as error:
            self._log.warning("%s", error)


def _rough(value: Any) -> Any:
    """A value in which a number that moves is no change, but one that becomes or leaves zero is."""
    if isinstance(value, dict):
        return {key: _rough(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rough(item) for item in value]
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value != 0
    return value
