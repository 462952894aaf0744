"""What a person may ask of the board, from a PC on its serial line or over MQTT: verbs with an answer each.

| verb | asks | `data` of the answer |
|---|---|---|
| `help` | | the verbs |
| `status` | | how the board is (`health`), what it is, what runs |
| `get` | `path`, or nothing for all | the value in use; passwords read `***` |
| `set` | `path`, `value` | `{"restart": true}`: it is written, and used from the next start on |
| `unset` | `path` | the same; the default is used again |
| `log` | | the newest lines |
| `update` | | which slot runs, and whether on trial |
| `blink` | | nothing; the LED shows which board this is |
| `reboot` | | nothing; it is answered, and then done |

A setting is checked before it is written, and refused in the words of `settings.py`; the old file stays until the new
one is whole. Over MQTT a stranger may listen and speak, so there nothing of the settings is shown or changed.
"""

import asyncio
import json

from firmware import VERSION, board, log, slots
from firmware.borrowed import Borrowed
from firmware.health import health

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from firmware.app import App

    Request = dict[str, Any]

VERBS = ("help", "status", "get", "set", "unset", "log", "update", "blink", "reboot")
REMOTE = ("help", "status", "log", "update", "blink", "reboot")
"""Over MQTT."""

_SOON_MS = 500  # for an answer to leave before the board restarts


class Refused(Exception):
    """No, and why; its text has no dot at the end where a hint follows."""


def do(app: "App", verb: str, request: "Request", room: int, verbs: "tuple[str, ...]" = VERBS) -> "Any":
    """Carry it out; returns the answer's `data`. `room`: how long that may be as JSON. Raises Refused."""
    if verb not in verbs:
        with Borrowed("settings", "firmware.url") as settings:
            raise Refused(f"there is no command '{verb[:20]}'. {settings.nearest(verb, verbs, 'There are ')}")
    if verb == "help":
        return list(verbs)
    if verb == "status":
        return status(app)
    if verb == "log":
        return _newest(room)
    if verb == "update":
        return slots.facts()
    if verb == "blink":
        app.parts["alive"].notice(10)
        return None
    if verb == "reboot":
        log.say("console: restarts, as it was told")
        asyncio.create_task(_reboot())  # noqa: RUF006  # nothing comes after it
        return None
    return _settings(app, verb, request)


def status(app: "App") -> "dict[str, Any]":
    """What the board is and how it is."""
    about = {"firmware": VERSION, "board": board.NAME, "id": app.id, "name": app.name}
    about.update(slots.facts())
    about.update(health(app))
    return about


def answered(app: "App", verb: "Any", request: "Any", room: int, verbs: "tuple[str, ...]" = VERBS) -> "dict[str, Any]":
    """As `do`, with everything that may go wrong told in the answer."""
    try:
        if not isinstance(verb, str) or not isinstance(request, dict):
            raise Refused('a command is an object such as {"do": "status"}')
        return {"status": "ok", "data": do(app, verb, request, room, verbs)}
    except Refused as error:
        return {"status": "error", "error": str(error)}
    except Exception as error:  # noqa: BLE001  # a fault in one command must not go unanswered
        log.say(f"console: {verb}: {type(error).__name__}: {error}")
        return {"status": "error", "error": f"the board failed on this ({type(error).__name__}: {error})"}


def _settings(app: "App", verb: str, request: "Request") -> "Any":
    path = request.get("path", "")
    if not isinstance(path, str) or not (path or verb == "get"):
        raise Refused("'path' must say which setting, such as mqtt.url")
    if verb == "set" and request.get("value") is None:
        raise Refused("'value' is missing; to go back to the default, use unset")
    with Borrowed("settings", "firmware.url") as settings:
        try:
            if verb == "get":
                return settings.get(app.settings, path)
            settings.change(path, request["value"] if verb == "set" else None)
        except settings.Wrong as error:
            raise Refused(settings.line(error.message, error.hint))
        except OSError as error:
            raise Refused(f"settings.json can't be written: {error}")
    log.say(f"console: {path} is changed; it counts from the next start on")
    return {"restart": True}


def _newest(room: int) -> "list[str]":
    lines: list[str] = []
    for line in reversed(log.lines):
        room -= len(json.dumps(line)) + 1
        if room < 0:
            break
        lines.insert(0, line)
    return lines


async def _reboot() -> None:
    await asyncio.sleep_ms(_SOON_MS)
    board.reset()
