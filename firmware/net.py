"""The board's network: Wi-Fi and Ethernet joined, and joined again; the clock set from it.

The law of this file:

- Nothing waits for it. Mail, sensors and the console work without; `trouble` says in words why there is none.
- It is tried again for ever, each time anew from `connect`, for radio drivers get stuck.
- An address is all it needs. A network may have no gateway, no DNS and no time server; then there is just no time.
- The host name is the board's name, and on ports with mDNS the board answers to `<name>.local`.
"""

import asyncio
import socket

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
NTP_PORT = 123
NTP_PATIENCE = 5  # seconds
NTP_AGAIN = 6 * 3600  # seconds; a board's clock is some seconds a day off
_1900 = 2208988800  # seconds from the start of NTP's time to that of Unix
_2025 = 1735689600

NONE = "0.0.0.0"  # noqa: S104  # no address


def make(app: "App") -> "Net":
    """What app.py starts."""
    return Net(app)


class Net:
    """`trouble`: why there is no network, None when there is one. `address`: ours in it."""

    def __init__(self, app: "App") -> None:
        self.trouble: str | None = "not joined yet"
        self.address: str | None = None
        self._app = app
        self._wlan: Any = None
        self._hint = ""
        self._up: list[str] = []  # of wifi and ethernet
        self._ready = asyncio.Event()

    def signal(self) -> "int | None":
        """Of the Wi-Fi, in dBm: -50 is good, -80 is bad; None where there is none."""
        if self._wlan is None or "wifi" not in self._up:
            return None
        try:
            return int(self._wlan.status("rssi"))
        except (OSError, ValueError, TypeError):
            return None

    async def run(self) -> None:
        """Until cancelled."""
        settings = self._app.settings
        network = board.network
        if network is None:
            self._none("this board has no network")
            await asyncio.Event().wait()  # for ever
        try:
            network.hostname(self._app.id.replace("_", "-")[:32])
        except (AttributeError, ValueError, OSError) as error:
            say(f"net: the host name stays as it is: {error}")
        works = []
        if settings["wifi"] is not None:
            works.append(self._keep("wifi", self._join_wifi, settings["wifi"]))
        if settings["ethernet"] is not None:
            works.append(self._keep("ethernet", self._join_ethernet, settings["ethernet"]))
        if settings["ntp"]:
            works.append(self._keep_time(settings["ntp"]))
        await asyncio.gather(*works)

    async def _keep(self, name: str, join: "Any", own: "dict[str, Any]") -> None:
        pause, tries = FIRST, 0
        while True:
            tries += 1
            try:
                interface = await join(own, tries)
            except _Failed as error:
                self._none(f"{name}: {error}")
            except (OSError, ValueError, TypeError, RuntimeError, AttributeError) as error:
                self._none(f"{name}: {type(error).__name__}: {error}")
            else:
                pause, tries = FIRST, 0
                self._is_up(name, interface)
                while interface.isconnected() and address(interface) != NONE:
                    await asyncio.sleep(1)
                self._up.remove(name)
                self._none(f"{name}: the connection is lost")
            await asyncio.sleep(pause)
            pause = min(2 * pause, LAST)

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

    # --- Wi-Fi -------------------------------------------------------------------------------------------------

    async def _join_wifi(self, own: "dict[str, Any]", tries: int) -> "Any":
        """The interface, with an address. Raises _Failed."""
        network = board.network
        if own["country"]:
            network.country(own["country"])
        wlan = self._wlan = network.WLAN(network.STA_IF)
        if tries % STUCK == 0:
            wlan.active(False)
        wlan.active(True)
        _set(wlan, reconnects=0)  # ESP32: `status` tells a reason only if the driver doesn't try by itself
        if not own["power_save"] and hasattr(wlan, "PM_NONE"):
            _set(wlan, pm=wlan.PM_NONE)  # a server that sleeps answers late
        try:
            wlan.disconnect()
        except OSError:
            pass  # it was not connected
        if own["password"]:
            wlan.connect(own["ssid"], own["password"])
        else:
            wlan.connect(own["ssid"])
        words = ""
        for _ in range(JOIN_MS // LOOK_MS):
            await asyncio.sleep_ms(LOOK_MS)
            if wlan.isconnected() and address(wlan) != NONE:
                return wlan
            words = self._why(wlan.status(), own["ssid"])
            if words:
                break
        if not words and wlan.isconnected():
            words = f"joined '{own['ssid']}', but got no address from it: is there DHCP?"
        raise _Failed((words or f"'{own['ssid']}' does not answer") + self._seen(wlan, words, own["ssid"], tries))

    @staticmethod
    def _why(status: int, ssid: str) -> str:
        """What a status means that is an end; empty for one on the way."""
        for names, words in _REASONS:
            for name in names:
                if status == name or status == getattr(board.network, str(name), None):
                    return words.replace("{}", f"'{ssid}'")
        return ""

    def _seen(self, wlan: "Any", words: str, ssid: str, tries: int) -> str:
        """The nearest name of those in the air; looked for once, for that takes seconds in which nothing else runs."""
        if not words.startswith(_NO_SUCH):
            return ""
        if tries == 1:
            try:
                names = sorted({found[0].decode() for found in wlan.scan() if found[0]})
            except (OSError, UnicodeError):
                names = []
            with Borrowed("settings") as settings:
                self._hint = ". " + settings.nearest(ssid, names, "There are ") if names else ""
        return self._hint

    # --- Ethernet ----------------------------------------------------------------------------------------------

    async def _join_ethernet(self, own: "dict[str, Any]", tries: int) -> "Any":
        """The interface, with an address. Raises _Failed."""
        network = board.network
        facts = dict(self._app.settings["board"]["ethernet"] or {})
        facts.update({key: value for key, value in own.items() if value is not None})
        arguments: dict[str, Any] = {}
        for key in ("mdc", "mdio", "power", "ref_clk"):
            if facts.get(key) is not None:
                arguments[key] = board.pin(facts[key])
        if facts.get("phy_type"):
            kind = getattr(network, facts["phy_type"], None)
            if kind is None:
                raise _Failed(f"this MicroPython has no driver '{facts['phy_type']}'")
            arguments["phy_type"] = kind
            arguments["phy_addr"] = facts.get("phy_addr") or 0
        if "ref_clk" in arguments:
            arguments["ref_clk_mode"] = board.pin_mode(facts.get("ref_clk_mode") == "out")
        lan = board.once("lan", lambda: network.LAN(**arguments))
        if tries % STUCK == 0:
            lan.active(False)
        lan.active(True)
        for _ in range(JOIN_MS // LOOK_MS):
            await asyncio.sleep_ms(LOOK_MS)
            if lan.isconnected() and address(lan) != NONE:
                return lan
        raise _Failed("no address: is the cable plugged in, and is there DHCP?")

    # --- time --------------------------------------------------------------------------------------------------

    async def _keep_time(self, server: str) -> None:
        told = False
        pause = FIRST
        while True:
            await self._ready.wait()
            try:
                board.set_clock(await ask_time(server))
                if not told:
                    say(f"ntp: the clock is set by {server}")
                told, pause = True, NTP_AGAIN
            except (OSError, ValueError, EOFError, asyncio.TimeoutError) as error:
                if not told:
                    say(f"ntp: {server} does not tell the time ({error or 'no answer'}); mail is taken without")
                told, pause = True, min(max(FIRST, 2 * pause), 3600)
            await asyncio.sleep(pause)


class _Failed(Exception):
    """A try to join is over; why, in words."""


_NO_SUCH = "there is no network "
# Statuses by the names of MicroPython's network module, and by numbers of ESP-IDF that have none there.
_REASONS = (
    (("STAT_WRONG_PASSWORD", 15, 2, "STAT_HANDSHAKE_TIMEOUT", 202, 204), "{} refuses the password: see wifi.password"),
    (("STAT_NO_AP_FOUND", 201, 210, 211, 212), _NO_SUCH + "{} in reach (of 2.4 GHz, with a protection known here)"),
    (("STAT_ASSOC_FAIL", 203), "{} does not take us: is it full, or does it know its devices by address?"),
    (("STAT_CONNECT_FAIL",), "{} can't be joined"),
)


def address(interface: "Any") -> str:
    """Its IPv4 address; NONE for none."""
    return str(interface.ifconfig()[0])


async def ask_time(server: str, port: int = NTP_PORT) -> int:
    """Seconds of Unix time from an NTP server (RFC 5905 §14). Raises OSError, ValueError, asyncio.TimeoutError."""
    at = socket.getaddrinfo(server, port)[0][-1]
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        sock.connect(at)
        stream = asyncio.StreamReader(sock)
        sock.send(b"\x23" + bytes(47))  # version 4, a client
        answer = await asyncio.wait_for(stream.read(48), NTP_PATIENCE)
    finally:
        sock.close()
    if len(answer) < 48 or answer[0] & 7 != 4 or not 0 < answer[1] < 16:
        raise ValueError("its answer is no time")
    seconds = int.from_bytes(answer[40:44], "big") - _1900
    if seconds < _2025:
        seconds += 1 << 32  # the era that begins in 2036
    return seconds


def _set(wlan: "Any", **what: "Any") -> None:
    """What not every port's Wi-Fi knows."""
    try:
        wlan.config(**what)
    except (ValueError, TypeError, OSError):
        pass  # this port's does without
