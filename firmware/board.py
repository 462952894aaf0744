"""The door to the board: nothing else in the firmware asks what it runs on, or imports `machine`.

Features are looked for, names of platforms are not, with one exception: HOST is MicroPython on a PC, where there is
no hardware, the flash is a folder, and a test or a person is the only neighbour.
"""

import os
import sys
import time

try:
    import machine
except ImportError:
    machine = None

HOST = sys.platform in ("linux", "darwin", "win32")
"""This is the unix port: a program among others, whose working folder stands for the root of a board's flash."""

NAME: str = getattr(sys.implementation, "_machine", sys.platform)
"""What it is, in words."""

LISTEN = "127.0.0.1" if HOST else "0.0.0.0"
"""The address that servers listen at: a board is its network's, a PC has neighbours that nobody asked."""

_EPOCH = 946684800 * 1000 if time.gmtime(0)[0] == 2000 else 0  # where this port counts from 2000
_SET = 1735689600 * 1000  # 2025: a clock that shows less was never set

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

    return ".".join([str(byte) for byte in socket.sockaddr(address)[1]])


def flash() -> int:
    """Bytes that the file system has in all; on a PC what a board might have."""
    if HOST:
        return 2 * 1024 * 1024
    facts = os.statvfs("")
    return facts[1] * facts[2]


def random(count: int) -> bytes:
    return os.urandom(count)


def reset() -> None:
    """Start anew: the board, or on a PC the program's end, which whoever started it sees as exit code 3."""
    if hasattr(machine, "reset"):
        machine.reset()
    sys.exit(3)
