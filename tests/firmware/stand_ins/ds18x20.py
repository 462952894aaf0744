"""A stand-in for MicroPython's `ds18x20`: see machine.py. `onewire5`: JSON, ROM in hexadecimal -> °C, or null."""

import json


class DS18X20:
    def __init__(self, bus):
        self._file = f"world/onewire{bus.pin.name}"
        self._converted = False

    def _connected(self):
        with open(self._file) as file:
            return json.load(file)

    def scan(self):
        return [bytes.fromhex(rom) for rom in self._connected()]

    def convert_temp(self):
        self._connected()
        self._converted = True

    def read_temp(self, rom):
        if not self._converted:
            return 85.0
        self._converted = False
        rom = "".join([f"{byte:02x}" for byte in rom])
        connected = self._connected()
        if rom not in connected:
            raise Exception("CRC error")
        return connected[rom]
