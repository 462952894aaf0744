"""Sensors that measure: analog inputs, DS18x20, DHT, BME280 and BMP280; see sensors.py.

Drivers for the first three are MicroPython's. They are made when they are first read, and again after a read that
failed, for a sensor may be plugged in at any time.
"""

import asyncio

from firmware import pins
from firmware.sensors import Sensor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from firmware.sensors import Row

_MEAN = 8  # reads of an analog input that make one

# name, device class, unit, decimals
_TEMPERATURE = ("temperature", "temperature", "°C", 1)
_HUMIDITY = ("humidity", "humidity", "%", 1)
_PRESSURE = ("pressure", "atmospheric_pressure", "hPa", 1)
QUANTITIES = {
    "analog": (("value", None, None, 3),),
    "ds18x20": (_TEMPERATURE,),
    "dht11": (_TEMPERATURE, _HUMIDITY),
    "dht22": (_TEMPERATURE, _HUMIDITY),
    "bme280": (_TEMPERATURE, _HUMIDITY, _PRESSURE),
    "bmp280": (_TEMPERATURE, _PRESSURE),
}
"""What each type measures; the first is meant where `of` is not given."""


class Number(Sensor):
    """What measures; `values` are its readings."""

    def __init__(self, row: "Row") -> None:
        super().__init__(row)
        self.quantities = QUANTITIES[row["type"]]
        self.values: dict[str, float | None] = {self.value_key(one[0]): None for one in self.quantities}
        self.limits = row["on"] is not None
        of = row.get("of")
        watched = next(one for one in self.quantities if of in (None, one[0]))
        self._watched = self.value_key(watched[0])
        self._unit = watched[2]
        self._driver: Any = None

    def value_key(self, quantity: str) -> str:
        return self.key if len(self.quantities) == 1 else f"{self.key}_{quantity}"

    async def read(self) -> "tuple[float, ...]":
        """In the order of the quantities. What failed is opened anew the next time: a sensor may be plugged in."""
        if self._driver is None:
            self._driver = _DRIVERS[self.row["type"]](self.row)
        try:
            return await self._driver.read()
        except Exception:
            self._driver = None
            raise

    def take(self, values: "tuple[float, ...]") -> bool:
        """Note what was measured; whether it is something new."""
        new: dict[str, float] = {}
        for (quantity, _, _, decimals), value in zip(self.quantities, values):
            new[self.value_key(quantity)] = round(value, decimals)
        if self.limits:
            value, on, off = new[self._watched], self.row["on"], self.row["off"]
            too_much = on > off
            if value >= on if too_much else value <= on:
                self.is_on = True
            elif self.is_on is None or (value <= off if too_much else value >= off):
                self.is_on = False
        changed = new != self.values
        self.values.update(new)
        return changed

    def forget(self) -> None:
        """An alarm that was on stays told as on: nobody has seen its end."""
        for key in self.values:
            self.values[key] = None
        self.is_on = True if self.state == "on" else None

    def words(self, on: bool) -> str:
        unit = self.row.get("unit") or self._unit
        value = f"{self.values[self._watched]:g}" + (f" {unit}" if unit else "")
        return f"{self.row['title'] or self.name}: {value}" + ("" if on else ", normal again")

    def data(self) -> "dict[str, Any]":
        found: dict[str, Any] = {"sensor": self.key}
        for quantity, _, _, _ in self.quantities:
            found[quantity] = self.values[self.value_key(quantity)]
        return found


# --- drivers: made of a row, they raise whatever MicroPython's modules raise ------------------------------------------


class _Analog:
    def __init__(self, row: "Row") -> None:
        self._row = row
        self._input = pins.analog(row["pin"])

    async def read(self) -> "tuple[float, ...]":
        total = 0
        for _ in range(_MEAN):
            total += self._input.read_u16()
        return (total / _MEAN * self._row["scale"] + self._row["offset"],)


class _Ds18x20:
    def __init__(self, row: "Row") -> None:
        import ds18x20
        import onewire

        self._bus = ds18x20.DS18X20(onewire.OneWire(pins.digital(row["pin"], "none")))
        found = {"".join([f"{byte:02x}" for byte in rom]): rom for rom in self._bus.scan()}
        wanted = row["rom"].lower()
        if wanted and wanted not in found:
            raise OSError(19, f"there is no sensor {wanted} on this pin; found: {', '.join(sorted(found)) or 'none'}")
        if not found:
            raise OSError(19, "there is no sensor on this pin")
        if not wanted and len(found) > 1:
            raise OSError(19, f"there are several sensors on this pin; choose with rom: {', '.join(sorted(found))}")
        self._rom = found[wanted] if wanted else next(iter(found.values()))
        self._last = 20.0

    async def read(self) -> "tuple[float, ...]":
        self._bus.convert_temp()
        await asyncio.sleep_ms(750)  # of a DS18B20 at 12 bits, by its data sheet
        value = self._bus.read_temp(self._rom)
        if value is None or value == 85 > self._last + 5:  # what it holds after a power-on, before it has measured
            raise OSError(5, "the sensor has measured nothing")
        self._last = value
        return (value,)


class _Dht:
    def __init__(self, row: "Row") -> None:
        import dht

        self._sensor = (dht.DHT11 if row["type"] == "dht11" else dht.DHT22)(pins.digital(row["pin"], "none"))

    async def read(self) -> "tuple[float, ...]":
        self._sensor.measure()
        return self._sensor.temperature(), self._sensor.humidity()


class _Bme280:
    def __init__(self, row: "Row") -> None:
        from firmware.bme280 import Bme280

        bus = row["i2c"]
        self._sensor = Bme280(pins.i2c(bus["sda"], bus["scl"]), bus["address"])
        if row["type"] == "bme280" and not self._sensor.humid:
            raise OSError(19, "this is a BMP280, which measures no humidity: change its type to bmp280")
        self._humid = row["type"] == "bme280"

    async def read(self) -> "tuple[float, ...]":
        temperature, humidity, pressure = await self._sensor.read()
        return (temperature, humidity, pressure) if self._humid and humidity is not None else (temperature, pressure)


_DRIVERS = {
    "analog": _Analog,
    "ds18x20": _Ds18x20,
    "dht11": _Dht,
    "dht22": _Dht,
    "bme280": _Bme280,
    "bmp280": _Bme280,
}
