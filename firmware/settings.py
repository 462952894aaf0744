"""`settings.json`: read, checked, completed with defaults, changed.

The law of this file:

- One table says what there may be: a row is a key, what it holds, its default, its bounds. `...` for a default: the key
  must be given. Nothing else in the firmware knows a default.
- A bad file never stops the board. All mistakes are told at once, as the gateway tells them: where, what is wrong, what
  to do. A value that is wrong counts as not given. But a part that says who may send mail here, or which code runs
  here, stays off altogether while something in it is wrong: its defaults may be wider than what was meant.
- A file is replaced whole (written beside, then renamed), and only by one with no more mistakes than before.
- Passwords go in and never come out.

Runs once at the start and when the console asks; so app.py may forget the module afterwards.
"""

import json
import os

from firmware import log
from firmware.url import MQTT as MQTT_SCHEMES
from firmware.url import POST as POST_SCHEMES
from firmware.url import split
from gateway.wire.event import SEVERITIES, kinds, slug
from gateway.wire.topics import RESERVED_IDS

PATH = "settings.json"
HIDDEN = "***"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, BinaryIO

    Settings = dict[str, Any]
    Row = tuple[str, Any, Any, Any]

_LONGEST = 40  # letters of a word that is looked for among others
_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-"


class Wrong(ValueError):
    """What is wrong with a value, and what to do about it; texts end without a dot."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


# --- what a row may hold: each takes the value and the row's bounds, and returns the value or raises Wrong -----------


def text(value: "Any", bounds: "tuple[int, int]") -> str:
    """Bounds: the least and the greatest number of characters."""
    if not isinstance(value, str):
        raise Wrong("must be text, not " + _kind(value), "" if isinstance(value, (dict, list)) else "Put it in quotes")
    if len(value) < bounds[0]:
        raise Wrong(f"must have at least {bounds[0]} characters")
    if len(value) > bounds[1]:
        raise Wrong(f"must have at most {bounds[1]} characters")
    return value


def whole(value: "Any", bounds: "tuple[int, int]") -> "Any":
    """A whole number. Bounds: the least and the greatest."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise Wrong("must be a whole number" + _not(value))
    return _within(value, bounds)


def decimal(value: "Any", bounds: "tuple[float, float]") -> "Any":
    """Any number. Bounds: the least and the greatest."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise Wrong("must be a number" + _not(value))
    return _within(value, bounds)


def flag(value: "Any", bounds: None) -> bool:
    """True or false; no bounds."""
    if not isinstance(value, bool):
        raise Wrong("must be true or false" + _not(value))
    return value


def word(value: "Any", choice: "tuple[str, ...]") -> str:
    """One of some words."""
    if not isinstance(value, str) or value not in choice:
        near = nearest(value, choice) if isinstance(value, str) else ""
        raise Wrong("must be " + _either([f"'{one}'" for one in choice]) + _not(value), near)
    return value


def words(value: "Any", choice: "tuple[str, ...]") -> "list[str]":
    """A list of words."""
    if not isinstance(value, list):
        raise Wrong("must be a list, not " + _kind(value))
    return [word(one, choice) for one in value]


def pin(value: "Any", bounds: None) -> "int | str":
    """A pin's number, or its name where the port has names; no bounds."""
    if isinstance(value, bool) or not isinstance(value, (int, str)) or value == "":
        raise Wrong("must be a pin's number, or its name" + _not(value))
    return value


def texts(value: "Any", bounds: None) -> "dict[str, str]":
    """A set of keys of which each holds text: `{"camera": "its password"}`; no bounds."""
    if not isinstance(value, dict):
        raise Wrong("must be a set of keys, not " + _kind(value))
    for key in value:
        if not isinstance(value[key], str):
            raise Wrong(f"'{key}' must be text, not {_kind(value[key])}", "Put it in quotes")
    return value


def anything(value: "Any", bounds: None) -> "Any":
    """Checked by the part that uses it."""
    return value


def name(value: "Any", bounds: None) -> str:
    """The board's name; its device id is made of it."""
    text(value, (1, 64))
    if not slug(value):
        raise Wrong("has no letter from a to z and no digit, and the board's id is made of them")
    if slug(value) in RESERVED_IDS:
        raise Wrong(f"the gateway itself uses the id '{slug(value)}'", "Choose another one")
    return value


def topic(value: "Any", bounds: "str | None") -> "str | bool":
    """The beginning of MQTT topics; with bounds, it may be false for none and true for these."""
    if bounds and isinstance(value, bool):
        return bounds if value else False
    text(value, (1, 64))
    for level in value.split("/"):
        if not level or level.strip(_LETTERS):
            raise Wrong("a topic here is made of letters, digits, _ and -, with / between its levels")
    return value


def url(value: "Any", schemes: "dict[str, int]") -> str:
    """The address of a server. Bounds: scheme -> port that is meant where none is given."""
    text(value, (1, 200))
    try:
        split(value, schemes)
    except ValueError as error:
        raise Wrong(*error.args)
    return value


def console(value: "Any", bounds: None) -> "int | str":
    """Which line is the serial one."""
    if value != "stdio" and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
        raise Wrong("must be 'stdio', or a UART's number" + _not(value))
    return value


def address(value: "Any", bounds: None) -> str:
    """A mail address, with nothing that could end a line or an address."""
    text(value, (1, 254))
    local, _, domain = value.rpartition("@")
    if not local or not domain or [1 for letter in value if not "!" <= letter <= "~" or letter in '<>()[],;:"\\']:
        raise Wrong("must be a mail address such as 'me@example.org'" + _not(value), "Without a name or brackets")
    return value


def addresses(value: "Any", bounds: None) -> "list[str]":
    """One mail address, or a list of some."""
    if value == []:
        raise Wrong("must have a mail address")
    return [address(one, bounds) for one in (value if isinstance(value, list) else [value])]


def ids(value: "Any", bounds: None) -> "list[str]":
    """A list of device ids."""
    if not isinstance(value, list) or [1 for one in value if not isinstance(one, str) or slug(one) != one or not one]:
        raise Wrong("must be a list of device ids such as ['front_door']" + _not(value))
    return value


def hostname(value: "Any", bounds: None) -> str:
    """The name that we greet a mail server with, or an address in brackets; "" for our own."""
    text(value, (0, 100))
    if value.strip(_LETTERS + ".[]:"):
        raise Wrong("must be a host's name, or an address in brackets such as [192.168.1.5]" + _not(value))
    return value


def server(value: "Any", bounds: str) -> "str | bool":
    """A host's name, or false for none."""
    if value is False:
        return value
    if value is True:
        return bounds
    return text(value, (1, 100))


def networks(value: "Any", bounds: None) -> "str | list[str]":
    """Who may connect: 'private', 'all', or a list of networks such as 192.168.1.0/24."""
    if value in ("private", "all"):
        return value
    for one in value if isinstance(value, list) else (value,):
        if not isinstance(one, str) or not _is_network(one):
            raise Wrong("must be 'private', 'all', or a list of networks such as '192.168.1.0/24'" + _not(one))
    return value if isinstance(value, list) else [value]


# --- the table -------------------------------------------------------------------------------------------------------

WIFI = (
    ("ssid", text, ..., (1, 32)),
    ("password", text, "", (0, 64)),
    ("country", text, "", (0, 2)),
    ("power_save", flag, False, None),
)
ETHERNET = (  # of the board, and of what differs from it; no defaults, for one would stand before the board's
    ("phy_type", text, None, (1, 20)),
    ("phy_addr", whole, None, (0, 31)),
    ("mdc", pin, None, None),
    ("mdio", pin, None, None),
    ("power", pin, None, None),
    ("ref_clk", pin, None, None),
    ("ref_clk_mode", word, None, ("in", "out")),
)
BOARD = (
    ("id", text, "", (0, 64)),
    ("led", pin, None, None),
    ("led_active_low", flag, False, None),
    ("ethernet", ETHERNET, None, None),
    ("uart", anything, None, None),
)
SMTP = (
    ("port", whole, 2525, (1, 65535)),
    ("tls", word, "none", ("none", "offered", "required", "implicit")),
    ("login", word, "any", ("any", "none", "optional", "required")),
    ("users", texts, {}, None),
    ("max_size", whole, 26214400, (1000, 2**30)),
    ("connections", whole, 4, (1, 16)),
    ("allow", networks, "private", None),
    ("certificate", text, "cert.der", (1, 64)),
    ("key", text, "key.der", (1, 64)),
)
MQTT = (
    ("url", url, ..., MQTT_SCHEMES),
    ("user", text, "", (0, 128)),
    ("password", text, "", (0, 256)),
    ("base", topic, "mailwire", None),
    ("discovery", topic, "homeassistant", "homeassistant"),
    ("keepalive", whole, 30, (2, 3600)),
    ("ca", text, "", (0, 64)),
    ("verify", flag, True, None),
)
SERIAL = (
    ("port", console, "stdio", None),
    ("baud", whole, 115200, (300, 3000000)),
    ("frames", flag, True, None),
    ("events", flag, None, None),
)
POST = (
    ("url", url, ..., POST_SCHEMES),
    ("user", text, "", (0, 128)),
    ("password", text, "", (0, 256)),
    ("tls", word, None, ("required", "offered", "none")),
    ("ca", text, "", (0, 64)),
    ("verify", flag, True, None),
    ("helo", hostname, "", None),
    ("from", address, ..., None),
    ("to", addresses, ..., None),
    ("severity", word, "warning", SEVERITIES),
    ("kinds", words, [], kinds()),
    ("devices", ids, [], None),
    ("give_up", decimal, 24, (0.001, 168)),
)
UPDATE = (
    ("key", text, "", (16, 128)),
    ("minutes", whole, 10, (1, 1440)),
)
SETTINGS = (
    ("name", name, "", None),
    ("wifi", WIFI, None, None),
    ("ethernet", ETHERNET, None, None),
    ("board", BOARD, {}, None),
    ("smtp", SMTP, {}, None),
    ("mqtt", MQTT, None, None),
    ("serial", SERIAL, {}, None),
    ("ntp", server, "pool.ntp.org", "pool.ntp.org"),
    ("watchdog", whole, 60, (0, 3600)),
    ("spool", whole, None, (4096, 2**24)),
    ("sensors", anything, [], None),
    ("post", POST, None, None),
    ("update", UPDATE, None, None),
)
"""Rows (key, what it holds, default, bounds). What it holds is one of the functions above, or rows: a set of keys.
A set whose default is None is None where it is not given; with {} it is there, with its own defaults."""

GUARDED = ("smtp", "post", "update")
"""They stay off (None) while something in them is wrong; see above."""

_SECRET = ("password", "users", "secret", "key_text")


# --- reading ---------------------------------------------------------------------------------------------------------


def read(path: str = PATH) -> "tuple[Settings, list[str]]":
    """(settings, mistakes): all keys of the table with their values or defaults, and one line for each mistake.

    No file is no mistake: it is a board that nobody has set up yet.
    """
    try:
        data = load(path)
    except Wrong as error:
        settings = check({})[0]
        for part in GUARDED:
            settings[part] = None
        return settings, [line(error.message, error.hint)]
    return check(data)


def load(path: str = PATH) -> "Settings":
    """What the file says, unchecked: a dict. Raises Wrong when it is none."""
    try:
        file = open(path, "rb")
    except OSError:
        return {}
    with file:
        try:
            data = json.load(file)
        except (ValueError, UnicodeError):
            raise Wrong(f"line {_line_at(file)}: this is not JSON", "Look for a quote or a bracket too few")
        except (MemoryError, RuntimeError):
            raise Wrong("this is too long, or nested too deeply")
    if not isinstance(data, dict):
        raise Wrong("settings are a set of keys", 'Begin with {"name": "..."}')
    return data


def check(data: "Settings") -> "tuple[Settings, list[str]]":
    """(settings, mistakes) of what a file said. `data` is not changed."""
    mistakes = []
    settings = _checked(data, SETTINGS, "", mistakes)
    mqtt = settings["mqtt"]
    if mqtt and mqtt["url"].startswith("mqtts") and mqtt["verify"] and not mqtt["ca"]:
        mistakes.append(
            "mqtt.ca: mqtts:// needs the certificate of whoever signed the broker's, to know it by. "
            'Put the file (PEM) on the board and name it here, or write "verify": false.'
        )
    serial = settings["serial"]
    if not serial["frames"] and (serial["events"] or not mqtt):
        if mqtt:
            words = "with false, no event leaves over this line, but serial.events is true. Take one of both out."
        else:
            words = "with false, events go nowhere, for there is no section 'mqtt'. Add one, or take this out."
        mistakes.append("serial.frames: " + words)
        serial["frames"] = True
    if settings["sensors"] != []:
        from firmware.borrowed import Borrowed

        with Borrowed("sensor_settings") as sensor_settings:
            settings["sensors"] = sensor_settings.check(settings["sensors"], mistakes)
    if settings["post"]:
        _check_post(settings["post"], mistakes)
    if settings["update"] and not mqtt:
        mistakes.append("update: updates come over MQTT, and there is no section 'mqtt'. Add one, or take this out.")
    for part in GUARDED:
        if [1 for one in mistakes if one.startswith((part + ".", part + ":"))]:
            settings[part] = None
            mistakes.append(part + ": this stays off until that is put right.")
    return settings, mistakes


def _check_post(post: "Settings", mistakes: "list[str]") -> None:
    """What one key says about another, and the default that follows."""
    secure = post["url"].startswith("smtps:")
    if secure and post["tls"]:
        mistakes.append("post.tls: smtps:// is TLS from its first byte. Take this out, or write smtp://.")
    post["tls"] = post["tls"] or "required"
    if (secure or post["tls"] != "none") and post["verify"] and not post["ca"]:
        mistakes.append(
            "post.ca: TLS needs the certificate of whoever signed the mail server's, to know it by. "
            'Put the file (PEM) on the board and name it here, or write "verify": false.'
        )


def _checked(data: "Settings", rows: "tuple[Row, ...]", at: str, mistakes: "list[str]") -> "Any":
    values = {}
    keys = [row[0] for row in rows]
    lacking = [row[0] for row in rows if row[2] is ... and row[0] not in data]
    for key in sorted(data):
        if key not in keys and rows:
            near = nearest(key, keys, "The keys are ")
            mistakes.append(log.plain(at + key) + ": " + line("there is no such key here", near))
            lacking = [one for one in lacking if near != _meant(one)]
        elif key not in keys:
            mistakes.append(log.plain(at + key) + ": " + line("there is no such key here"))
    for key in lacking:
        mistakes.append((at[:-1] + ": " if at else "") + line(f"the key '{key}' is missing"))
    whole_set = True
    for key, holds, default, bounds in rows:
        value = data.get(key, default)
        if isinstance(holds, tuple):
            if isinstance(value, dict):
                values[key] = _checked(value, holds, at + key + ".", mistakes)
                continue
            if value is not None:
                mistakes.append(at + key + ": " + line("must be a set of keys, not " + _kind(value)))
            values[key] = None if default is None else _checked({}, holds, at + key + ".", mistakes)
            continue
        if key in data:
            try:
                values[key] = holds(value, bounds)
                continue
            except Wrong as error:
                mistakes.append(at + key + ": " + line(error.message, error.hint))
        if default is ...:
            whole_set = False
        values[key] = default
    return values if whole_set else None


# --- changing --------------------------------------------------------------------------------------------------------


def get(data: "Settings", path: str) -> "Any":
    """The value at `mqtt.url`, of settings or of what a file says; passwords hidden. Raises Wrong: no such key."""
    value = data
    for key in path.split(".") if path else ():
        if not isinstance(value, dict) or key not in value:
            raise _no_such(path)
        value = value[key]
    return hide(value, path)


def change(path: str, value: "Any", file: str = PATH) -> None:
    """Write a value into the file, or with None take it out. Raises Wrong, with nothing written, if it would not do."""
    data = load(file)
    before = check(data)[1]
    keys = path.split(".")
    inner = data
    for key in keys[:-1]:
        if not isinstance(inner.get(key), dict):
            inner[key] = {}
        inner = inner[key]
    if value is None:
        if keys[-1] not in inner:
            raise _no_such(path)
        del inner[keys[-1]]
    else:
        inner[keys[-1]] = value
    for one in check(data)[1]:
        if one not in before:
            raise Wrong(one[:-1] if one.endswith(".") else one)
    save(data, file)


def save(data: "Settings", file: str = PATH) -> None:
    """Replace the file: after a power cut there is the old one or the new one."""
    with open(file + ".new", "w") as out:
        json.dump(data, out)
    os.rename(file + ".new", file)


def hide(value: "Any", path: str = "") -> "Any":
    """The value without passwords, for people to read."""
    key = path.split(".")[-1]
    if isinstance(value, dict):
        hidden = {}
        for inner in value:
            hidden[inner] = hide(value[inner], "secret" if key in _SECRET else path + "." + inner if path else inner)
        return hidden
    if isinstance(value, list):
        return [hide(one, key) for one in value]
    if (key in _SECRET or path == "update.key") and value:
        return HIDDEN
    if key == "url" and isinstance(value, str) and "@" in value and "://" in value:
        scheme, rest = value.split("://", 1)
        return scheme + "://" + HIDDEN + "@" + rest.rsplit("@", 1)[1]
    return value


def _no_such(path: str) -> "Wrong":
    """With the nearest key."""
    at = ""
    rows: Any = SETTINGS
    for key in path.split("."):
        keys = [row[0] for row in rows]
        if key not in keys:
            return Wrong(at + key + ": there is no such key here", nearest(key, keys, "The keys are "))
        holds = rows[keys.index(key)][1]
        rows = holds if isinstance(holds, tuple) else ()
        at += key + "."
    return Wrong(path + ": nothing is given here", "Its default is in use")


# --- words and numbers -----------------------------------------------------------------------------------------------


def nearest(given: str, options: "list[str] | tuple[str, ...]", otherwise: str = "") -> str:
    """The hint with the nearest right word; with none near enough, all of them, if `otherwise` introduces them."""
    best = None
    given = given[:_LONGEST]  # from a stranger, perhaps: a board would count the letters of 4 KB for minutes
    least = max(1, len(given) // 3) + 1
    for option in options:
        far = _distance(given.lower(), option.lower())
        if far < least:
            best, least = option, far
    if best is not None:
        return _meant(best)
    return otherwise + ", ".join(options) if otherwise and options else ""


def _meant(option: str) -> str:
    return f"Did you mean '{option}'?"


def _distance(a: str, b: str) -> int:
    """How many letters must be put in, taken out, replaced or swapped with their neighbour."""
    two, one = [], list(range(len(b) + 1))
    for i in range(len(a)):
        row = [i + 1]
        for j in range(len(b)):
            far = min(one[j] + (a[i] != b[j]), one[j + 1] + 1, row[j] + 1)
            if i and j and a[i] == b[j - 1] and a[i - 1] == b[j]:
                far = min(far, two[j - 1] + 1)
            row.append(far)
        two, one = one, row
    return one[-1]


def _is_network(given: str) -> bool:
    address, _, bits = given.partition("/")
    numbers = address.split(".")
    good = [one for one in numbers if one.isdigit() and int(one) < 256]
    return len(numbers) == 4 == len(good) and (not bits or (bits.isdigit() and int(bits) <= 32)) and given[-1] != "/"


def _within(value: float, bounds: "tuple[float, float]") -> float:
    if value < bounds[0]:
        raise Wrong(f"must be at least {bounds[0]}")
    if value > bounds[1]:
        raise Wrong(f"must be at most {bounds[1]}")
    return value


def _kind(value: "Any") -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, (int, float)):
        return "a number"
    return "a list" if isinstance(value, list) else "a set of keys" if isinstance(value, dict) else "text"


def _not(value: "Any") -> str:
    if isinstance(value, str):
        return f", not '{value[:40]}'"
    if isinstance(value, (bool, int, float)):
        return ", not " + json.dumps(value)
    return ", not " + _kind(value)


def _either(options: "list[str]") -> str:
    return options[0] if len(options) == 1 else ", ".join(options[:-1]) + " or " + options[-1]


def line(message: str, hint: str = "") -> str:
    """A mistake in one line, always, for keys and values are a stranger's: what is wrong, and what to do."""
    told = message + ". " + hint if hint else message
    out = told if told.endswith("?") else told + "."
    return log.plain(out)


def _line_at(file: "BinaryIO") -> int:
    """The line in which reading stopped: MicroPython's json reads a byte at a time."""
    end = file.tell()
    file.seek(0)
    line = 1
    while end > 0:
        piece = file.read(min(end, 64))
        if not piece:
            break
        line += piece.count(b"\n")
        end -= len(piece)
    return line
