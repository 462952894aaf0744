"""The section `sensors` of settings.json: a list, of which each entry has the keys of its type. Used by settings.py.

An entry with a mistake is left out; the others run.
"""

from firmware.settings import _checked, _not, decimal, line, nearest, pin, text, whole, word
from gateway.wire.event import SEVERITIES, kinds, slug

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

TYPES = ("contact", "button", "analog", "ds18x20", "dht11", "dht22", "bme280", "bmp280")

# Keys of the board's state that are not a sensor's (mqtt.py, health.py).
RESERVED = ("last", "signal", "heap", "uptime", "owed", "restart", "network", "mqtt", "settings")

_COMMON = (
    ("name", text, ..., (1, 40)),
    ("type", word, ..., TYPES),
    ("kind", word, None, kinds()),
    ("severity", word, None, SEVERITIES),
    ("title", text, "", (0, 100)),
)
_SWITCH = (
    ("pin", pin, ..., None),
    ("pull", word, "up", ("up", "down", "none")),
    ("active", word, None, ("high", "low")),
    ("debounce", whole, 50, (0, 10000)),
)
_LIMITS = (("on", decimal, None, (-1e9, 1e9)), ("off", decimal, None, (-1e9, 1e9)))
_I2C = (("sda", pin, ..., None), ("scl", pin, ..., None), ("address", whole, 0x76, (0x76, 0x77)))


def _all(*rows: "tuple[Any, ...]") -> "tuple[Any, ...]":
    joined: list[Any] = []
    for some in rows:
        joined.extend(some)
    return tuple(joined)


def _measured(least: float, *quantities: str) -> "tuple[Any, ...]":
    """Read every so many seconds, at least; with limits for one of these."""
    of = (("of", word, None, quantities),) if quantities else ()
    return _all((("every", decimal, 30, (least, 86400)),), of, _LIMITS)


_PIN = (("pin", pin, ..., None),)
_BUS = (("i2c", _I2C, {}, None),)
_SCALE = (("scale", decimal, 1, (-1e9, 1e9)), ("offset", decimal, 0, (-1e9, 1e9)), ("unit", text, "", (0, 10)))
_ROWS = {
    "contact": _SWITCH,
    "button": _SWITCH,
    "analog": _all(_PIN, _SCALE, _measured(0.1)),
    "ds18x20": _all(_PIN, (("rom", text, "", (16, 16)),), _measured(1)),
    "dht11": _all(_PIN, _measured(1, "temperature", "humidity")),
    "dht22": _all(_PIN, _measured(2, "temperature", "humidity")),
    "bme280": _all(_BUS, _measured(1, "temperature", "humidity", "pressure")),
    "bmp280": _all(_BUS, _measured(1, "temperature", "pressure")),
}


def check(given: "Any", mistakes: "list[str]") -> "list[dict[str, Any]]":
    """The good ones of the list, complete; what is wrong with the others is added to `mistakes`."""
    if not isinstance(given, list):
        mistakes.append("sensors: " + line("must be a list of sensors", "Write [{...}, {...}]"))
        return []
    good: list[dict[str, Any]] = []
    for number, one in enumerate(given):
        at = f"sensors[{number}]"
        before = len(mistakes)
        row = _entry(one, at, mistakes)
        if row is not None and len(mistakes) == before:
            _agrees(row, good, at, mistakes)
        if row is not None and len(mistakes) == before:
            good.append(row)
    return good


def _entry(one: "Any", at: str, mistakes: "list[str]") -> "dict[str, Any] | None":
    if not isinstance(one, dict):
        mistakes.append(f"{at}: " + line("must be a set of keys", 'Begin with {"name": "...", "type": "..."}'))
        return None
    kind = one.get("type")
    if kind in _ROWS:
        row: dict[str, Any] | None = _checked(one, _all(_COMMON, _ROWS[kind]), at + ".", mistakes)
        return row
    if "type" not in one:
        mistakes.append(f"{at}: " + line("the key 'type' is missing", "The types are " + ", ".join(TYPES)))
        return None
    hint = nearest(kind, TYPES, "The types are ") if isinstance(kind, str) else "The types are " + ", ".join(TYPES)
    mistakes.append(f"{at}.type: " + line("there is no such type of sensor" + _not(kind), hint))
    return None


def _agrees(row: "dict[str, Any]", others: "list[dict[str, Any]]", at: str, mistakes: "list[str]") -> None:
    """What one key says about another, and the defaults that follow from them."""

    def wrong(key: str, message: str, hint: str = "") -> None:
        mistakes.append(f"{at}.{key}: " + line(message, hint))

    name = slug(row["name"])
    if not name:
        wrong("name", "has no letter from a to z and no digit, and the sensor's key is made of them")
    if name in RESERVED:
        wrong("name", f"the board's state has another '{name}'", "Choose another name")
    if name in [slug(other["name"]) for other in others]:
        wrong("name", "another sensor has this name", "Choose another one")
    limited = row.get("on") is not None
    if "on" in row:
        if limited != (row["off"] is not None):
            wrong(
                "on" if limited else "off",
                "'on' and 'off' come together: the alarm begins at one and ends at the other",
            )
        elif limited and row["on"] == row["off"]:
            wrong("off", "must be another number than 'on': what lies between is the hysteresis")
    for other in others:
        if "pin" in row and row["pin"] == other.get("pin") and not (row.get("rom") and other.get("rom")):
            wrong("pin", f"'{other['name']}' is on this pin, too", "Only DS18x20 with their rom given can share one")
    quantity = row.get("of") or ("temperature" if row["type"] not in ("contact", "button", "analog") else "")
    if row["kind"] is None:
        row["kind"] = "door" if row["type"] == "contact" else quantity if quantity in kinds() else "other"
    if row["severity"] is None:
        row["severity"] = "warning" if limited else "info"
