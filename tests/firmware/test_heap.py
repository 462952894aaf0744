"""The heap that the firmware gets by with, with words of 32 bits; script/heap prints the whole table."""

import pytest

from tests.firmware.heap import STAND_INS_TAKE, holds
from tests.mosquitto import mosquitto  # noqa: F401  # a fixture

ESP32 = 140_000  # octets: 147,000 were free on one with MicroPython 1.25 that had joined a network


@pytest.mark.parametrize(("connections", "tls"), [(2, False), (1, True)], ids=["plain", "tls"])
def test_an_esp32_holds_all_of_it(mosquitto, connections, tls):  # noqa: F811
    """Mails of 16 KiB at once, three times, all the way to a real broker, while the network is up and somebody on the
    serial line asks how the board is; the code is in the heap, too.
    """
    assert holds(mosquitto, ESP32 + STAND_INS_TAKE, connections, tls=tls, rom=False)


def test_with_the_code_in_rom(mosquitto):  # noqa: F811
    """As with firmware that has the application frozen, or in a ROMFS partition."""
    assert holds(mosquitto, 96 * 1024 + STAND_INS_TAKE, connections=2, tls=False, rom=True)
