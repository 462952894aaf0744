"""How a network is joined, and asked for the time: borrowed by `net` while it does."""

import asyncio
import socket

from firmware import board, net
from firmware.borrowed import Borrowed
from firmware.net import NONE, Failed, address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_1900 = 2208988800  # seconds from the start of NTP's time to that of Unix
_2025 = 1735689600
_NTP_PORT = 123

_NO_SUCH = "there is no network "
# Statuses by the names of MicroPython's network module, and by numbers of ESP-IDF, that need not have one there.
_REASONS = (
    (("STAT_WRONG_PASSWORD", 15, 2, "STAT_HANDSHAKE_TIMEOUT", 202, 204), "{} refuses the password: see wifi.password"),
    (("STAT_NO_AP_FOUND", 201, 210, 211, 212), _NO_SUCH + "{} in reach (of 2.4 GHz, with a protection known here)"),
    (("STAT_ASSOC_FAIL", 203), "{} does not take us: is it full, or does it know its devices by address?"),
    (("STAT_CONNECT_FAIL",), "{} can't be joined"),
)


async def wifi(keeper: "net.Net", own: "dict[str, Any]", tries: int) -> "Any":
    """The interface, with an address. Raises Failed."""
    network = board.network
    wlan = keeper.wlan = network.WLAN(network.STA_IF)
    if tries % net.STUCK == 0:
        wlan.active(False)
    wlan.active(True)
    _set(wlan, reconnects=0)  # ESP32: `status` tells a reason only if the driver doesn't try by itself
    if not own["power_save"] and hasattr(wlan, "PM_NONE"):
        _set(wlan, pm=wlan.PM_NONE)  # a server that sleeps answers late
    try:
        wlan.disconnect()
    except (OSError, RuntimeError):
        pass  # it was not connected
    before = wlan.status()  # ESP32 says why the last try failed until there is an address
    is_new = False
    if own["password"]:
        wlan.connect(own["ssid"], own["password"])
    else:
        wlan.connect(own["ssid"])
    words = ""
    for _ in range(net.JOIN_MS // net.LOOK_MS):
        await asyncio.sleep_ms(net.LOOK_MS)
        if wlan.isconnected() and address(wlan) != NONE:
            return wlan
        status = wlan.status()
        is_new = is_new or status != before
        words = _why(status, own["ssid"])
        if words and is_new:
            break
    if not words and wlan.isconnected():
        words = f"joined '{own['ssid']}', but got no address from it: is there DHCP?"
    raise Failed((words or f"'{own['ssid']}' does not answer") + _seen(keeper, wlan, words, own["ssid"], tries))


def _why(status: int, ssid: str) -> str:
    """What a status means that is an end; empty for one on the way."""
    network = board.network
    of_idf = getattr(network, "STAT_IDLE", 0) == 1000  # on RP2, 2 is a network that has given no address yet
    for names, words in _REASONS:
        for name in names:
            if status == (getattr(network, name, None) if isinstance(name, str) else name if of_idf else None):
                return words.replace("{}", f"'{ssid}'")
    return ""


def _seen(keeper: "net.Net", wlan: "Any", words: str, ssid: str, tries: int) -> str:
    """The nearest name of those in the air; looked for once, for that takes seconds in which nothing else runs."""
    if not words.startswith(_NO_SUCH):
        return ""
    if tries == 1:
        try:
            names = sorted({found[0].decode() for found in wlan.scan() if found[0]})
        except (OSError, UnicodeError):
            names = []
        with Borrowed("settings", "firmware.url") as settings:
            keeper.hint = ". " + settings.nearest(ssid, names, "There are ") if names else ""
    return keeper.hint


async def ethernet(keeper: "net.Net", own: "dict[str, Any]", tries: int) -> "Any":
    """The interface, with an address. Raises Failed."""
    from firmware import pins  # only with a cable

    network = board.network
    arguments: dict[str, Any] = {}
    for key in ("mdc", "mdio", "power", "ref_clk"):
        if own.get(key) is not None:
            arguments[key] = pins.pin(own[key])
    if own.get("phy_type"):
        kind = getattr(network, own["phy_type"], None)
        if kind is None:
            raise Failed(f"this MicroPython has no driver '{own['phy_type']}'")
        arguments["phy_type"] = kind
        arguments["phy_addr"] = own.get("phy_addr") or 0
    if "ref_clk" in arguments:
        arguments["ref_clk_mode"] = pins.pin_mode(own.get("ref_clk_mode") == "out")
    lan = board.once("lan", lambda: network.LAN(**arguments))
    if tries % net.STUCK == 0:
        lan.active(False)
    lan.active(True)
    for _ in range(net.JOIN_MS // net.LOOK_MS):
        await asyncio.sleep_ms(net.LOOK_MS)
        if lan.isconnected() and address(lan) != NONE:
            return lan
    raise Failed("no address: is the cable plugged in, and is there DHCP?")


async def ask_time(server: str, port: int = _NTP_PORT) -> int:
    """Seconds of Unix time from an NTP server (RFC 5905 §14). Raises OSError, ValueError, asyncio.TimeoutError."""
    at = socket.getaddrinfo(server, port)[0][-1]
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        sock.connect(at)
        stream = asyncio.StreamReader(sock)
        sock.send(b"\x23" + bytes(47))  # version 4, a client
        answer = await asyncio.wait_for(stream.read(48), net.NTP_PATIENCE)
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
    except (ValueError, TypeError, OSError, RuntimeError):
        pass  # this port's does without
