"""A stand-in for the hardware of MicroPython's `machine`, which the unix port lacks: it remembers what is done."""

calls = []
PWRON_RESET, WDT_RESET = 1, 3


def reset_cause():
    return WDT_RESET


def unique_id():
    return b"\x24\x0a\xc4\x01\x02\x03"


class Pin:
    IN, OUT = 1, 3

    def __init__(self, number, mode=None):
        if number == 99:
            raise ValueError("invalid pin")
        self.number = number

    def value(self, on):
        calls.append(("led", self.number, bool(on)))


class WDT:
    def __init__(self, timeout):
        calls.append(("watchdog", timeout))

    def feed(self):
        calls.append(("fed",))


class RTC:
    def datetime(self, when):
        calls.append(("clock", when))


class UART:
    def __init__(self, number, **more):
        baud = more.pop("baudrate")
        calls.append(("uart", number, baud, {key: getattr(more[key], "number", more[key]) for key in more}))
