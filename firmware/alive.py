"""Signs of life: the LED for people, and the watchdog for the hardware.

The LED flashes every three seconds: once, all is well; twice, there is no broker (or nobody on the line, where events
go there); three times, there is no network; four times, settings.json has mistakes. It flickers when the board is asked
to show itself, and for a notification.

The watchdog is fed here and nowhere else, so it bites when this task gets no turn any more. Ctrl-C calls it off.
"""

import asyncio

from firmware import board
from firmware.log import say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from firmware.app import App

WELL, NO_BROKER, NO_NETWORK, MISTAKES = 1, 2, 3, 4
"""How often the LED flashes."""

FLASH_MS, GAP_MS, PERIOD_MS, FLICKER_MS = 60, 240, 3000, 50


class Alive:
    """See the text at the top."""

    def __init__(self, app: "App") -> None:
        self._app = app
        self._feed: Any = None
        self._led: Any = None
        self._flicker = 0

    def notice(self, seconds: int = 2) -> None:
        """Flicker, so that a person looks."""
        self._flicker = seconds * 1000 // (2 * FLICKER_MS)

    def code(self) -> int:
        """What there is to say, the worst first."""
        parts = self._app.parts
        net, mqtt, serial = parts.get("net"), parts.get("mqtt"), parts.get("frames")
        if self._app.mistakes:
            return MISTAKES
        if net and net.trouble:
            return NO_NETWORK
        if mqtt and mqtt.trouble:
            return NO_BROKER
        if self._app.is_target("serial") and serial and serial.trouble:
            return NO_BROKER
        return WELL

    async def run(self) -> None:
        """Until cancelled."""
        own = self._app.settings["board"]
        try:
            self._led = board.led(own["led"], own["led_active_low"])
        except (ValueError, TypeError, OSError) as error:
            say(f"alive: there is no LED at {own['led']}: {error}")
        seconds = self._app.settings["watchdog"]
        if seconds and self._feed is None:
            self._feed = board.watchdog(seconds)
        while True:
            for _ in range(self.code()):
                await self._flash(FLASH_MS, GAP_MS)
            for _ in range(PERIOD_MS // 500):
                while self._flicker:
                    self._flicker -= 1
                    await self._flash(FLICKER_MS, FLICKER_MS)
                if self._feed:
                    self._feed()
                await asyncio.sleep_ms(500)

    async def _flash(self, on: int, off: int) -> None:
        if self._led:
            self._led(True)
        await asyncio.sleep_ms(on)
        if self._led:
            self._led(False)
        await asyncio.sleep_ms(off)


make = Alive  # what app.py starts
