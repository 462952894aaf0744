"""A watchdog on RP2 that may wait longer than the chip's own, which bites after 8 s at most.

Looking up a name in vain takes seven seconds for each DNS server (lwIP's dns.c), in which nothing has a turn but what a
timer calls: a board whose DNS is dead would start anew for ever. So a timer feeds the chip's watchdog, but only for as
long as somebody feeds this one. Whatever stops the timers, too, is ended by the chip.
"""

import machine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

PERIOD = 2000  # milliseconds from one feeding to the next
LONGEST = 8388
"""Milliseconds that `machine.WDT` takes on RP2040 (docs.micropython.org, class WDT), and RP2350 takes as well."""

_timer: "Any" = None


def start(seconds: int) -> "Callable[[], None]":
    """Returns what feeds it."""
    dog = machine.WDT(timeout=LONGEST)
    left = [0]

    def feed() -> None:
        left[0] = seconds * 1000 // PERIOD

    def tick(_: object) -> None:
        if left[0] > 0:
            left[0] -= 1
            dog.feed()

    feed()
    global _timer
    _timer = machine.Timer(-1, period=PERIOD, callback=tick)
    return feed


def stop(name: str) -> None:
    """MicroPython can't, but the chip's bit CTRL.ENABLE can, by the address that clears bits (RP2040 datasheet §4.7.6,
    RP2350 §12.9). `name`: the board's, which says what chip it has.
    """
    _timer.deinit()
    machine.mem32[(0x400D8000 if "2350" in name else 0x40058000) + 0x3000] = 1 << 30
