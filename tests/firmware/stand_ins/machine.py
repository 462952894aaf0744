"""A stand-in for MicroPython's `machine`, which on a PC has no hardware: no real part, and it proves nothing of one.

What is connected to the board are files below `world/` in the board's folder, which a test writes: `pin4` ("0" or
"1"), `adc34` (0 to 65535), `i2c118` (JSON: register -> bytes in hexadecimal; a broken bus where there is no file).
`reset_cause` there is what `reset_cause()` says. A timer is a thread that runs whatever the program does, as the
interrupt of a real one does.
"""

import _thread
import json
import time

import ffi

PWRON_RESET, HARD_RESET, WDT_RESET, DEEPSLEEP_RESET, SOFT_RESET = 1, 2, 3, 4, 5

_exit = ffi.open(None).func("v", "_exit", "i")


def _world(name):
    with open("world/" + name) as file:
        return file.read().strip()


def reset():
    _exit(3)


def reset_cause():
    try:
        return int(_world("reset_cause"))
    except OSError:
        return PWRON_RESET


class Timer:
    ONE_SHOT = 0

    def __init__(self, number):
        if number not in (0, 1, 2, 3):
            raise ValueError("invalid Timer number")

    def init(self, mode, period, callback):
        def run():
            time.sleep_ms(period)
            callback(self)

        _thread.start_new_thread(run, ())


class Pin:
    IN, OUT, PULL_UP, PULL_DOWN = 0, 1, 2, 3

    def __init__(self, name, mode=IN, pull=None):
        if name == 99:
            raise ValueError("invalid pin")
        self.name = name
        self.mode = mode
        self.pull = pull

    def value(self):
        try:
            return int(_world(f"pin{self.name}"))
        except OSError:
            return 1 if self.pull == Pin.PULL_UP else 0


class ADC:
    ATTN_11DB = 3

    def __init__(self, pin):
        self.pin = pin
        self.range = 1000

    def atten(self, attenuation):
        self.range = attenuation

    def read_u16(self):
        if self.range != ADC.ATTN_11DB:
            raise ValueError("the range was not set")
        return int(_world(f"adc{self.pin.name}"))


class SoftI2C:
    def __init__(self, scl, sda, freq):
        self.written = []

    def readfrom_mem(self, address, register, count):
        memory = json.loads(_world(f"i2c{address}"))
        for start, data in memory.items():
            offset = register - int(start)
            data = bytes.fromhex(data)
            if 0 <= offset < len(data):
                return data[offset : offset + count]
        raise OSError(19)

    def writeto_mem(self, address, register, data):
        _world(f"i2c{address}")
        self.written.append((register, data))
