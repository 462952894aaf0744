"""The values of fields: numbers as numbers, with their unit beside them; durations, times.

A quantity is two keys of an event's `data`: `runtime: 24` and `runtime_unit: "min"`. Units are written as Home
Assistant writes them (`UNITS`), so that a sensor can be made of the two without any further table. A value that is not
what its field should be stays the text that it was: it is never dropped, and never a wrong number.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any

_SPELLINGS = {
    "%": "%|percent|prozent|pct|pour cent|por ciento|per cento|procent|%rh|% rh|%r.h.|% r.h.|%rf|% rf|% r.f.|%hr|% hr",
    "°C": "°c|c|deg c|degc|celsius|degrees c|degree celsius|degrees celsius|grad celsius|grad",
    "°F": "°f|f|deg f|degf|fahrenheit|degrees f|degrees fahrenheit",
    "ms": "ms|msec|milliseconds|millisekunden|millisecondes|milisegundos|millisecondi|ミリ秒|毫秒",
    "s": "s|sec|secs|second|seconds|sekunde|sekunden|sek|seconde|secondes|segundo|segundos|secondo|secondi|seconden"
    "|sekund|sekundy|sekunda|秒",
    "min": "min|mins|minute|minutes|minuten|minuto|minutos|minuti|minuut|minut|minuty|minuta|分|分鐘|分钟|分間",
    "h": "h|hr|hrs|hour|hours|std|stunde|stunden|heure|heures|hora|horas|ora|ore|uur|uren|godz|godzina|godziny|godzin"
    "|時間|小时|小時",
    "d": "d|day|days|tag|tage|tagen|jour|jours|día|días|dia|dias|giorno|giorni|dag|dagen|dzień|dni|日|日間|天",
    "V": "v|vac|vdc|volt|volts|voltios",
    "mV": "mv",
    "A": "a|amp|amps|ampere|amperes",
    "mA": "ma",
    "W": "w|watt|watts",
    "kW": "kw",
    "VA": "va",
    "kVA": "kva",
    "Wh": "wh",
    "kWh": "kwh",
    "Hz": "hz|hertz",
    "B": "b|byte|bytes|octets",
    "kB": "kb|ko",
    "MB": "mb|mo",
    "GB": "gb|go",
    "TB": "tb",
    "KiB": "kib",
    "MiB": "mib",
    "GiB": "gib",
    "TiB": "tib",
    "kbit/s": "kbps|kbit/s",
    "Mbit/s": "mbps|mbit/s",
    "Gbit/s": "gbps|gbit/s",
    "MB/s": "mb/s",
    "MiB/s": "mib/s",
    "rpm": "rpm|u/min",
    "bar": "bar",
    "mbar": "mbar",
    "hPa": "hpa",
    "kPa": "kpa",
    "psi": "psi",
    "ppm": "ppm",
    "dB": "db",
    "dBm": "dbm",
    "lx": "lx|lux",
    "mm": "mm",
    "cm": "cm",
    "m": "m|meter|metre|mètres|metros|metri",
    "km/h": "km/h",
    "L": "l|liter|litre|liters|litres|litros|litri",
    "m³": "m³|m3",
    "pages": "page|pages|sheets|seiten|blatt|pagine|páginas|strony|枚|页",
}
UNITS = tuple(_SPELLINGS)
_UNIT = {spelling: unit for unit, spellings in _SPELLINGS.items() for spelling in spellings.split("|")}
_SECONDS = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {
    "B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12,
    "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30, "TiB": 2.0**40,
}  # fmt: skip
_SCALES = (_SECONDS, _BYTES)

TYPES = ("text", "number", "duration", "time")
"""`number` keeps the unit that the mail says, unless its field has one; `duration` may have several parts."""
ORDERS = ("ymd", "dmy", "mdy")

_NUMBER = re.compile(r"[+-]?\d[\d.,']*")
_AMOUNT = re.compile(r"([+-]?\d[\d.,']*)\s{0,3}(%|°?\s?[^\W\d_][^\W\d_./³0-9]*(?:/[a-z]{1,3})?[³3]?|)")
_WHOLE = re.compile(
    r"([+-]?\d{1,3}(?: \d{3})+(?:,\d+)?|[+-]?\d[\d.,']*)\s{0,3}"
    r"(%(?: ?r\.?[hf]\.?| ?hr)?|°\s?[CF]|[^\W\d_]{1,12}(?:/[a-z]{1,3})?)",
    re.IGNORECASE,
)
# Full width, and signs that only look like others: ℃, the minus of typographers, blanks that break no line.
_FORMS: dict[int, int | str] = {number: number - 0xFEE0 for number in range(0xFF01, 0xFF5F)}
_FORMS |= {0x2103: "°C", 0x2109: "°F", 0xBA: "°", 0x2DA: "°", 0x2212: "-", 0xA0: " ", 0x202F: " ", 0x3000: " "}
_CLOCK = re.compile(r"(?:(\d{1,4}):)?(\d{1,3}):(\d{2})")
_THREE = re.compile(r"(\d{1,4})[-/.](\d{1,2}|[^\W\d_]{3})[-/.](\d{1,4})")
_UNIX = re.compile(r"([^\W\d_]{3}) {1,2}(\d{1,2}) (\d{1,2}:\d{2}:\d{2}(?: [AP]M)?)(?: [A-Z+-][A-Z\d:]{1,5})? (\d{4})")
_YEAR_FIRST = re.compile(r"(\d{4}) ([^\W\d_]{3}) (\d{1,2})\b")
_WORDED = re.compile(r"(?:(\d{1,2})\.? ([^\W\d_]{3})[^\W\d_]{0,6}|([^\W\d_]{3})[^\W\d_]{0,6} (\d{1,2}),?)\.? (\d{4})")
_BIGGEST = 1e15  # what has more digits is no quantity, and no number of JSON that everybody reads
_COMPACT = re.compile(r"(20\d{2})([01]\d)([0-3]\d)[T_ -]?([0-2]\d)([0-5]\d)([0-5]\d)")
_TIME = re.compile(r"(\d{1,2}):(\d{1,2})(?::(\d{1,2}))?(?:\.\d+)? ?([ap]m)?", re.IGNORECASE)
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
# As units of a stranger, so written.
_ONE_LETTER = {"V": "V", "A": "A", "W": "W", "C": "°C", "F": "°F", "h": "h", "s": "s"}


def typed(name: str, text: str, field: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The keys and values of `data` that a field's text is. `field` is what a profile says of it."""
    kind = field.get("type", "text")
    if (table := field.get("values")) is not None:
        text = next((meant for said, meant in table.items() if said.lower() == text.lower()), text)
    if kind == "number" and (amount := _amount(text, field.get("unit"))):
        yield from _pair(name, *amount)
    elif kind == "duration" and (seconds := duration(text, field.get("unit", "s"))) is not None:
        yield from _pair(name, seconds, field.get("unit", "s"))
    elif kind == "time" and (moment := date(text, field.get("order", "ymd"))):
        yield name, moment
    else:
        yield name, text


@lru_cache(maxsize=1024)  # devices repeat their values, too
def of_stranger(text: str) -> tuple[int | float, str] | None:
    """(number, unit) of a value of which nobody said what it is: all of it is a number with a unit that is known.

    A number alone may be a name, as that of a job is; so it stays text.
    """
    found = _WHOLE.fullmatch(text if text.isascii() else text.translate(_FORMS))
    if found is None:
        return None
    unit = (
        _ONE_LETTER.get(found[2])
        if len(found[2]) == 1 and found[2].isascii() and found[2] != "%"
        else _UNIT.get(found[2].lower().replace("° ", "°"))
    )
    value = number(found[1].replace(" ", ""))
    return (value, unit) if unit is not None and value is not None else None


def _pair(name: str, value: int | float, unit: str | None) -> Iterator[tuple[str, Any]]:
    yield name, value
    if unit:
        yield f"{name}_unit", unit


def _amount(text: str, unit: str | None) -> tuple[int | float, str | None] | None:
    """The first number, in `unit` if that is given: an amount of the same quantity in another one is converted."""
    found = _AMOUNT.search(text)
    value = number(found[1]) if found else None
    if found is None or value is None:
        return None
    said = _UNIT.get(found[2].lower().replace("° ", "°").strip())
    if unit is None or said is None or said == unit:
        return value, unit or said
    for scale in _SCALES:
        if said in scale and unit in scale:
            return _short(value * scale[said] / scale[unit]), unit
    return (value, said) if said[0] == unit[0] == "°" else (value, unit)


def number(text: str) -> int | float | None:
    """A number as people write it: `1,234.5`, `1.234,5`, `45,0`; a lone comma before three digits divides thousands,
    but for `0,125`.
    """
    text = text.rstrip(".,'").replace("'", "")
    comma, dot = text.rfind(","), text.rfind(".")
    whole = text[:comma].lstrip("+-")
    if comma > dot and (whole == "0" or not (dot < 0 and (len(text) - comma == 4 or text.count(",") > 1))):
        text = text.replace(".", "").replace(",", ".")
    else:
        text = text.replace(",", "")
    try:
        value = float(text)
    except ValueError:
        return None
    return _short(value) if abs(value) < _BIGGEST else None


def _short(value: float) -> int | float:
    return int(value) if value == int(value) else round(value, 3)


def duration(text: str, unit: str = "s") -> int | float | None:
    """`1 hour 23 minutes`, `1:23:00`, `23 min`, `90` (that in `unit` already) in `unit`, one of time."""
    if clock := _CLOCK.fullmatch(text.strip()):
        hours, minutes, seconds = (int(part or 0) for part in clock.groups())
        if clock[1] is None:
            hours, minutes, seconds = 0, hours + minutes, seconds
        return _short((hours * 3600 + minutes * 60 + seconds) / _SECONDS[unit])
    total, any_part = 0.0, False
    for part in _AMOUNT.finditer(text):
        said = "min" if part[2].lower() == "m" else _UNIT.get(part[2].lower())  # here no metre is meant
        value = number(part[1])
        if value is not None and said in _SECONDS:
            total, any_part = total + value * _SECONDS[said], True
    if any_part:
        return _short(total / _SECONDS[unit])
    alone = _NUMBER.fullmatch(text.strip())
    return number(alone[0]) if alone else None


def date(text: str, order: str = "ymd") -> str | None:
    """A date, with a time of day if there is one, as ISO 8601 without a zone: the device's own clock.

    `order` decides only where the text itself does not: a year of four digits and a month in letters do.
    """
    text = text[:60]
    if compact := _COMPACT.fullmatch(text.strip()):
        text = "{}-{}-{} {}:{}:{}".format(*compact.groups())
    if parts := _THREE.search(text):
        rest = text[parts.end() :] if _TIME.search(text[parts.end() :]) else text[: parts.start()]
        year, month, day = _ordered(parts[1], parts[2], parts[3], order)
    elif parts := _UNIX.search(text):  # Thu Aug 24 10:14:01 UTC 2017
        month, day, rest, year = parts.groups()
    elif parts := _YEAR_FIRST.search(text):  # 2017 Jun 17 21:24:57
        year, month, day = parts.groups()
        rest = text[parts.end() :]
    elif parts := _WORDED.search(text):
        rest = text[parts.end() :] if _TIME.search(text[parts.end() :]) else text[: parts.start()]
        year, month, day = parts[5], parts[2] or parts[3], parts[1] or parts[4]
    else:
        return None
    if not month.isdigit():
        if month.lower() not in _MONTHS:
            return None
        month = str(_MONTHS.index(month.lower()) + 1)
    clock = _TIME.search(rest)
    try:
        if clock is None:
            return datetime(int(year), int(month), int(day)).date().isoformat()
        hour = int(clock[1]) % 12 + (12 if clock[4].lower() == "pm" else 0) if clock[4] else int(clock[1])
        return datetime(int(year), int(month), int(day), hour, int(clock[2]), int(clock[3] or 0)).isoformat()
    except ValueError:
        return None


def date_of_stranger(text: str) -> str | None:
    """`date` where the text leaves no doubt which is the day and which the month."""
    parts = _THREE.search(text[:60])
    if parts and len(parts[1]) < 4 and parts[2].isdigit() and "." not in parts[0]:
        if int(parts[1]) > 12:
            return date(text, "dmy")
        return date(text, "mdy") if int(parts[2]) > 12 or parts[1] == parts[2] else None
    return date(text)


def _ordered(first: str, second: str, third: str, order: str) -> tuple[str, str, str]:
    if len(first) == 4:
        return first, second, third
    if order == "ymd":
        order = "dmy"  # the year is not in front, and who writes days first is more
    day, month = (second, first) if order == "mdy" and second.isdigit() else (first, second)
    return (f"20{third}" if len(third) == 2 else third), month, day
