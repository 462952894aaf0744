"""Obeys the buttons and switches of Home Assistant, `<base>/<device>/<control>/set`.

A command is acknowledged when it is carried out, and done again if we end before that; each of them twice is as once,
but for a test. A retained one is not obeyed: it would be, again, at each connection.
"""

from __future__ import annotations

import asyncio
import time

from gateway.api import Context, RequestRefused
from gateway.integrations.mqtt.client import Message
from gateway.wire.topics import Topics

TEST, MUTE, CLEAR, ALERTS = "test", "mute", "clear", "alerts"
PRESS, ON, OFF = "PRESS", "ON", "OFF"
MUTE_SECONDS = 3600


class Commands:
    """Takes commands, and obeys them in the order in which they come."""

    def __init__(self, context: Context, topics: Topics) -> None:
        self._context = context
        self._topics = topics
        self._waiting: asyncio.Queue[Message] = asyncio.Queue()
        self._worker: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._worker = asyncio.create_task(self._work(), name=f"commands {self._context.name}")

    async def stop(self) -> None:
        if self._worker:
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)

    def received(self, message: Message) -> bool:
        """False: it is none of ours."""
        if self._topics.commanded(message.topic) is None:
            return False
        self._waiting.put_nowait(message)
        return True

    async def _work(self) -> None:
        while True:
            message = await self._waiting.get()
            try:
                if message.retained:
                    raise RequestRefused(
                        "it is retained, and would be obeyed at each connection: don't retain commands"
                    )
                await self._obey(*(self._topics.commanded(message.topic) or ("", "")), message.payload)
            except RequestRefused as error:
                self._context.log.warning("%s: not obeyed: %s", message.topic, error)
            except Exception:  # a fault in one command must not end the others
                self._context.log.exception("%s: failed", message.topic)
            message.acknowledge()

    async def _obey(self, device_id: str, control: str, payload: bytes) -> None:
        said = payload.decode("utf-8", "replace").strip()
        request = self._context.gateway.request
        if (control, said) in ((ALERTS, ON), (ALERTS, OFF)):
            await request("alerts", {"device": device_id, "alerts": said == ON})
        elif (control, said) == (MUTE, PRESS):
            if self._context.gateway.muted_until(device_id) < time.time() + MUTE_SECONDS:
                await request("mute", {"device": device_id, "seconds": MUTE_SECONDS})
        elif (control, said) == (CLEAR, PRESS):
            await request("clear", {"device": device_id})
        elif (control, said) == (TEST, PRESS):
            await self._test(device_id)
        else:
            raise RequestRefused(f"there are alerts (ON, OFF), clear, mute and test (PRESS), and not {said[:40]!r}")

    async def _test(self, device_id: str) -> None:
        """An event as the device's own would be, so that a person sees where those go."""
        device = next((one for one in self._context.gateway.devices() if one.id == device_id), None)
        if device is None:
            raise RequestRefused(f"there is no device {device_id!r}")
        draft = {
            "device": device_id,
            "kind": "test",
            "title": f"Test of {device.name}",
            "text": "Somebody pressed its test button. This is how its events get here.",
            "heard": False,
        }
        await self._context.emit_at_last(draft, f"the test of {device_id}")
