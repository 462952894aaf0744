"""A stand-in for MicroPython's `onewire`: see machine.py."""


class OneWire:
    def __init__(self, pin):
        self.pin = pin
