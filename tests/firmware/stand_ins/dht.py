"""A stand-in for MicroPython's `dht`: see machine.py. `dht6`: °C and %."""


class DHT22:
    def __init__(self, pin):
        self._file = f"world/dht{pin.name}"

    def measure(self):
        try:
            with open(self._file) as file:
                self._values = [float(word) for word in file.read().split()]
        except OSError:
            raise OSError(110)

    def temperature(self):
        return self._values[0]

    def humidity(self):
        return self._values[1]


class DHT11(DHT22):
    pass
