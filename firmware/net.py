"""The board's network: Wi-Fi and Ethernet joined, and joined again; the clock set from it.

The law of this file:

- Nothing waits for it. Mail, sensors and the console work without; `trouble` says in words why there is none.
- It is tried again for ever, each time anew from `connect`, for radio drivers get stuck.
- An address is all it needs. A network may have no gateway, no DNS and no time server; then there is just no time.
- The host name is the board's name, and on ports with mDNS the board answers to `<name>.local`.
- The code that joins and that asks for the time (`join`) is in memory only while it does.
- The radio is switched on before most of the program is loaded: on ESP32 its memory is that which the heap grows into.
"""

import asyncio

from firmware import board
from firmware.borrowed import Borrowed
from firmware.log import say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from firmware.app import App

JOIN_MS = 20000  # for a try to join
LOOK_MS = 200  # between two looks at what a try has come to
FIRST, LAST = 1, 60  # seconds between two tries
STUCK = 5  # tries in vain, after which the radio is switched off and on
NTP_PATIENCE = 5  # seconds
NTP_AGAIN = 6 * 3600  # seconds; a board's clock is some seconds a day off

NONE = "0.0.0.0"  # noqa: S104  # no address


class Net:
    """`trouble`: why there is no network, None when there is one. `address`: ours in it."""

    def __init__(self, app: "App") -> None:
        self.trouble: str | None = "not joined yet"
        self.address: str | None = None
        self._app = app
        self.wlan: Any = None
        self.hint = ""
        self._up: list[str] = []  # of wifi and ethernet
        self._ready = asyncio.Event()
        if board.network is not None:
            self._prepare(board.network, app.settings["wifi"])

    def _prepare(self, network: "Any", wifi: "dict[str, Any] | None") -> None:
        try:
            network.hostname(self._app.id.replace("_", "-")[:32])
        except (AttributeError, ValueError, OSError) as error:
            say(f"net: the host name stays as it is: {error}")
        if wifi is None:
            return
        try:
            if wifi["country"]:
                network.country(wifi["country"])
            network.WLAN(network.STA_IF).active(True)
        except (AttributeError, ValueError, OSError, RuntimeError) as error:
            say(f"net: the radio can't be switched on: {error}")  # it is tried again

    def signal(self) -> "int | None":
        """Of the Wi-Fi, in dBm: -50 is good, -80 is bad; None where there is none."""
        if self.wlan is None or "wifi" not in self._up:
            return None
        try:
            return int(self.wlan.status("rssi"))
        except (OSError, ValueError, TypeError):
            return None

    async def run(self) -> None:
        """Until cancelled."""
        settings = self._app.settings
        if board.network is None:
            self._none("this board has no network")
            await asyncio.Event().wait()  # for ever
        self._up = []
        works = []
        if settings["wifi"] is not None:
            works.append(self._keep("wifi", settings["wifi"]))
        if settings["ethernet"] is not None:
            facts = dict(settings["board"]["ethernet"] or {})
            facts.update({key: value for key, value in settings["ethernet"].items() if value is not None})
            works.append(self._keep("ethernet", facts))
        if settings["ntp"]:
            works.append(self._keep_time(settings["ntp"]))
        tasks = [asyncio.create_task(work) for work in works]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:  # when one has failed, the others must not go on beside those of the next run
                task.cancel()

    async def _keep(self, name: str, own: "dict[str, Any]") -> None:
        pause, tries = FIRST, 0
        while True:
            tries += 1
            interface = await self._joined(name, own, tries)
            if interface:
                pause, tries = FIRST, 0
                self._is_up(name, interface)
                while interface.isconnected() and address(interface) != NONE:
                    await asyncio.sleep(1)
                self._up.remove(name)
                self._none(f"{name}: the connection is lost")
            await asyncio.sleep(pause)
            pause = min(2 * pause, LAST)

    async def _joined(self, name: str, own: "dict[str, Any]", tries: int) -> "Any":
        """The interface, with an address; None if it has none, and then `trouble` says why."""
        with Borrowed("join") as join:
            try:
                return await (join.wifi if name == "wifi" else join.ethernet)(self, own, tries)
            except Failed as error:
                self._none(f"{name}: {error}")
            except (OSError, ValueError, TypeError, RuntimeError, AttributeError, MemoryError) as error:
                self._none(f"{name}: {type(error).__name__}: {error}")
        return None

    def _is_up(self, name: str, interface: "Any") -> None:
        self._up.append(name)
        self.trouble = None
        self.address = address(interface)
        facts = interface.ifconfig()
        lacking = [what for what, at in (("no gateway", 2), ("no DNS", 3)) if facts[at] == NONE]
        say(f"{name}: this board is {self.address}" + (f" ({', '.join(lacking)})" if lacking else ""))
        self._ready.set()

    def _none(self, words: str) -> None:
        if words != self.trouble:
            say(words)
        if not self._up:
            self.trouble, self.address = words, None
            self._ready.clear()

    # --- time --------------------------------------------------------------------------------------------------

    async def _keep_time(self, server: str) -> None:
        told = False
        pause = FIRST
        while True:
            await self._ready.wait()
            try:
                board.set_clock(await self._ask_time(server))
                if not told:
                    say(f"ntp: the clock is set by {server}")
                told, pause = True, NTP_AGAIN
            except (OSError, ValueError, EOFError, asyncio.TimeoutError, MemoryError) as error:
                if not told:
                    say(f"ntp: {server} does not tell the time ({str(error) or 'no answer'}); mail is taken without")
                told, pause = True, min(max(FIRST, 2 * pause), 3600)
            await asyncio.sleep(pause)

    @staticmethod
    async def _ask_time(server: str) -> int:
        """A function of its own, so that none that lasts holds what was borrowed."""
        with Borrowed("join") as join:
            return int(await join.ask_time(server))


make = Net  # what app.py starts


class Failed(Exception):
    """A try to join is over; why, in words."""


def address(interface: "Any") -> str:
    """Its IPv4 address; NONE for none."""
    return str(interface.ifconfig()[0])
