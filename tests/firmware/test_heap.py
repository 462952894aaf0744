"""The heap that the firmware gets by with, with words of 32 bits; script/heap prints the whole table."""

import pytest

from tests.firmware.heap import holds
from tests.mosquitto import mosquitto  # noqa: F401  # a fixture

ESP32 = 143  # KiB: 147,000 octets were free on one with MicroPython 1.25 that had joined a network


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_an_esp32_holds_two_connections_and_mqtt(mosquitto, tls):  # noqa: F811
    """Two mails of 16 KiB at once, three times, all the way to a real broker; the code is in the heap, too."""
    assert holds(mosquitto, ESP32, connections=2, tls=tls, rom=False)


def test_with_the_code_in_rom(mosquitto):  # noqa: F811
    """As with firmware that has the application frozen, or in a ROMFS partition."""
    assert holds(mosquitto, 96, connections=2, tls=False, rom=True)
