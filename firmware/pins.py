"""The door to the board's pins and what hangs on them, made of `machine` as `board` has found it: for a few."""

from firmware import board

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def pin(name: "int | str") -> "Any":
    """Raises ValueError if this board has none of this name."""
    return board.machine.Pin(name)


def pin_mode(out: bool) -> int:
    """What `network.LAN` calls the side that makes the clock."""
    return board.machine.Pin.OUT if out else board.machine.Pin.IN


def uart(number: int, baud: int, pins: "dict[str, int] | None") -> "Any":
    """A UART. `pins`: its `tx` and `rx`, if the settings know them for this number. Raises ValueError."""
    if not hasattr(board.machine, "UART"):
        raise ValueError("this board has no UART: set serial.port to 'stdio'")
    named = {key: pin(pins[key]) for key in ("tx", "rx")} if pins and pins.get("id") == number else {}
    return board.machine.UART(number, baudrate=baud, rxbuf=1024, txbuf=1024, **named)


def digital(pin: "int | str", pull: str) -> "Any":
    """An input; `pull` is "up", "down" or "none". Raises OSError where there are no pins, ValueError for none."""
    made = _machine("Pin")
    pulls = {"up": "PULL_UP", "down": "PULL_DOWN"}
    if pull in pulls:
        return made(pin, made.IN, getattr(made, pulls[pull]))
    return made(pin, made.IN)


def analog(pin: "int | str") -> "Any":
    """An input with `read_u16`, over the whole range of the pin. Raises as `digital` does."""
    made = _machine("ADC")(_machine("Pin")(pin))
    if hasattr(made, "atten"):  # an ESP32 measures up to 1 V unless it is told
        made.atten(made.ATTN_11DB)
    return made


def i2c(sda: "int | str", scl: "int | str") -> "Any":
    """A bus on any two pins. Raises as `digital` does."""
    pin = _machine("Pin")
    return _machine("SoftI2C")(scl=pin(scl), sda=pin(sda), freq=100000)


def _machine(name: str) -> "Any":
    found = getattr(board.machine, name, None)
    if found is None:
        raise OSError(19, f"{board.NAME} has no {name}")
    return found
