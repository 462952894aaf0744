"""Temperature, humidity and air pressure from a Bosch BME280 on I²C, or from a BMP280, which has no humidity.

MicroPython has no driver for it. The registers and the compensation formulas, in their integer form, for single
precision would cost the pressure some digits, are those of the data sheets BST-BME280-DS002 (§4.2.3, §5.4) and
BST-BMP280-DS001 (§3.11.3). It sleeps between measurements (forced mode, every quantity once).
"""

import asyncio
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_CALIBRATION, _HUMIDITY, _ID, _CTRL_HUM, _STATUS, _CTRL_MEAS, _DATA = 0x88, 0xE1, 0xD0, 0xF2, 0xF3, 0xF4, 0xF7
_BME, _BMP = 0x60, 0x58  # what the register _ID says
_FORCED = 0x25  # temperature and pressure once, then sleep
_LONGEST = 10  # milliseconds of a measurement at this setting (§9.1: 9.3)
_SKIPPED = 0x80000


class Bme280:
    """`i2c` as MicroPython has it. Everything here raises OSError when the chip does not answer, or is another one."""

    def __init__(self, i2c: "Any", address: int) -> None:
        self._i2c = i2c
        self._address = address
        chip = self._read(_ID, 1)[0]
        if chip not in (_BME, _BMP):
            raise OSError(19, f"the chip at address {address} says that it is 0x{chip:02x}: no BME280 or BMP280")
        self.humid = chip == _BME
        first = self._read(_CALIBRATION, 26)
        self.calibration = struct.unpack("<HhhHhhhhhhhh", first[:24])
        self.humidity: tuple[int, ...] = ()
        if self.humid:
            second = self._read(_HUMIDITY, 7)
            h2, h3, h4, middle, h5, h6 = struct.unpack("<hBbBbb", second)
            self.humidity = (first[25], h2, h3, h4 << 4 | middle & 15, h5 << 4 | middle >> 4, h6)

    async def read(self) -> "tuple[float, float | None, float]":
        """°C, % of relative humidity (None: a BMP280), hPa."""
        if self.humid:
            self._i2c.writeto_mem(self._address, _CTRL_HUM, b"\x01")
        self._i2c.writeto_mem(self._address, _CTRL_MEAS, bytes((_FORCED,)))
        for _ in range(5):
            await asyncio.sleep_ms(_LONGEST)
            if not self._read(_STATUS, 1)[0] & 8:
                break
        else:
            raise OSError(110, "the chip does not end its measurement")
        data = self._read(_DATA, 8 if self.humid else 6)
        pressure = data[0] << 12 | data[1] << 4 | data[2] >> 4
        temperature = data[3] << 12 | data[4] << 4 | data[5] >> 4
        if _SKIPPED in (pressure, temperature):
            raise OSError(5, "the chip has measured nothing")
        fine = fine_temperature(self.calibration, temperature)
        humidity = relative_humidity(self.humidity, data[6] << 8 | data[7], fine) / 1024 if self.humid else None
        return ((fine * 5 + 128) >> 8) / 100, humidity, air_pressure(self.calibration, pressure, fine) / 25600

    def _read(self, register: int, count: int) -> bytes:
        return self._i2c.readfrom_mem(self._address, register, count)


def fine_temperature(calibration: "tuple[int, ...]", raw: int) -> int:
    """The data sheet's t_fine: 5120 to a degree."""
    t1, t2, t3 = calibration[:3]
    first = (((raw >> 3) - (t1 << 1)) * t2) >> 11
    off = (raw >> 4) - t1
    return first + ((((off * off) >> 12) * t3) >> 14)


def air_pressure(calibration: "tuple[int, ...]", raw: int, fine: int) -> int:
    """In 1/256 Pa; 0 where the formula has no answer."""
    p1, p2, p3, p4, p5, p6, p7, p8, p9 = calibration[3:12]
    one = fine - 128000
    two = one * one * p6 + ((one * p5) << 17) + (p4 << 35)
    one = ((one * one * p3) >> 8) + ((one * p2) << 12)
    one = (((1 << 47) + one) * p1) >> 33
    if not one:
        return 0
    pressure = (((1048576 - raw) << 31) - two) * 3125 // one
    one = (p9 * (pressure >> 13) * (pressure >> 13)) >> 25
    two = (p8 * pressure) >> 19
    return ((pressure + one + two) >> 8) + (p7 << 4)


def relative_humidity(calibration: "tuple[int, ...]", raw: int, fine: int) -> int:
    """In 1/1024 %."""
    h1, h2, h3, h4, h5, h6 = calibration
    v = fine - 76800
    rises = ((raw << 14) - (h4 << 20) - h5 * v + 16384) >> 15
    bends = (((((v * h6) >> 10) * (((v * h3) >> 11) + 32768)) >> 10) + 2097152) * h2 + 8192
    v = rises * (bends >> 14)
    v -= ((((v >> 15) * (v >> 15)) >> 7) * h1) >> 4
    return min(max(v, 0), 419430400) >> 12
