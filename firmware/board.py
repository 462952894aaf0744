"""The door to the board: nothing else in the firmware asks what it runs on, or imports `machine`.

Features are looked for, names of platforms are not, with two exceptions: HOST is MicroPython on a PC, where there is
no hardware, the flash is a folder, and a test or a person is the only neighbour; and the watchdog of RP2 has a short
reach, which nothing tells.
"""

import os
import sys
import time

try:
    import machine
except ImportError:
    machine = None  # type: ignore[assignment]
try:
    import network
except ImportError:
    network = None  # type: ignore[assignment]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

try:
    import socket

    SOCKETS = hasattr(socket, "socket")
except ImportError:
    SOCKETS = False  # a board without a network, such as the Pico

HOST = sys.platform in ("linux", "darwin", "win32")
"""This is the unix port: a program among others, whose working folder stands for the root of a board's flash."""

NAME: str = getattr(sys.implementation, "_machine", sys.platform)
"""What it is, in words."""

LISTEN = "127.0.0.1" if HOST else "0.0.0.0"  # noqa: S104  # what it is for
"""The address that servers listen at: a board is its network's, a PC has neighbours that nobody asked."""

_EPOCH = 946684800 * 1000 if time.gmtime(0)[0] == 2000 else 0  # where this port counts from 2000
_SET = 1735689600 * 1000  # 2025: a clock that shows less was never set

_IS_RP2 = sys.platform == "rp2"  # its watchdog and no other's has a short reach
_LONG = 24 * 3600 * 1000

_dog: Any = None
_made: dict[str, Any] = {}
_ticks = time.ticks_ms()
_uptime = 0


def uptime() -> int:
    """Milliseconds since the start. `time.ticks_ms` begins again after twelve days: to be asked once in six."""
    global _ticks, _uptime
    now = time.ticks_ms()
    _uptime += time.ticks_diff(now, _ticks)
    _ticks = now
    return _uptime


def now() -> "int | None":
    """Milliseconds of Unix time; None as long as nobody has set the clock."""
    moment = time.time_ns() // 1000000 + _EPOCH
    return moment if moment >= _SET else None


def unique_id() -> bytes:
    """What tells this board from all others: six bytes or eight, on ESP32 and RP2 its own; on a PC always the same."""
    if hasattr(machine, "unique_id"):
        return machine.unique_id()
    return b"\x02mailw"


def peer(address: "tuple[str, int] | bytes") -> str:
    """The address of a peer, as `accept` tells it: a tuple on boards, the system's own bytes on a PC."""
    if isinstance(address, tuple):
        return address[0]
    import socket

    return ".".join([str(byte) for byte in socket.sockaddr(address)[1]])  # type: ignore[attr-defined]


def flash() -> int:
    """Bytes that the file system has in all; on a PC what a board might have."""
    if HOST:
        return 2 * 1024 * 1024
    facts = os.statvfs("")
    return facts[1] * facts[2]


def reset_cause() -> "str | None":
    """Why it started, in a word; None where the port doesn't tell."""
    for pair in ["PWRON=power", "HARD=reset", "WDT=watchdog", "SOFT=soft", "DEEPSLEEP=sleep", "BROWN_OUT=brownout"]:
        name, _, word = pair.partition("=")
        name += "_RESET"
        if hasattr(machine, name) and machine.reset_cause() == getattr(machine, name):
            return word
    return None


def set_clock(seconds: int) -> None:
    """Unix time, in seconds; a PC's clock is its own affair."""
    if hasattr(machine, "RTC"):
        when = time.gmtime(seconds - _EPOCH // 1000)
        machine.RTC().datetime((when[0], when[1], when[2], when[6], when[3], when[4], when[5], 0))


def led(name: "int | str | None", active_low: bool) -> "Callable[[bool], None] | None":
    """What switches the LED; None if there is none. Raises ValueError for a pin that is none."""
    if name is None or not hasattr(machine, "Pin"):
        return None
    lamp = machine.Pin(name, machine.Pin.OUT)
    lamp.value(active_low)
    return lambda on: lamp.value(on != active_low)


def once(name: str, make: "Callable[[], Any]") -> "Any":
    """What hardware is made of only once, and kept while the program runs."""
    if name not in _made:
        _made[name] = make()
    return _made[name]


def watchdog(seconds: int) -> "Callable[[], None] | None":
    """Start it; returns what feeds it, None where there is none."""
    global _dog
    if not hasattr(machine, "WDT"):
        return None
    if _IS_RP2:
        from firmware import watchdog_rp2

        _dog = watchdog_rp2.start(seconds)
        return _dog
    _dog = machine.WDT(timeout=seconds * 1000)
    return _dog.feed


def release_watchdog() -> None:
    """A person wants the prompt, where nothing feeds it: off, or as good as off.

    ESP32 takes a longer time when it is asked again.
    """
    if _dog is None:
        return
    if _IS_RP2:
        from firmware import watchdog_rp2

        watchdog_rp2.stop(NAME)
    else:
        machine.WDT(timeout=_LONG)


def random(count: int) -> bytes:
    """Bytes by chance."""
    return os.urandom(count)


def reset() -> None:
    """Start anew: the board, or on a PC the program's end, which whoever started it sees as exit code 3."""
    if hasattr(machine, "reset"):
        machine.reset()
    sys.exit(3)
