"""Drafts to events: what a source found, completed to the JSON of an event (DESIGN §4.1) that fits into a serial frame.

An event is kept as the bytes that every target sends, so it is made once and never read again here. Its fields stand
in a fixed order, `time` among the first: an event that was kept before the clock was set has `"time":null` there, and
gets its time when it is delivered. That is the moment it was kept, worked out from the uptime, if this is still the
same run of the board, else the moment of its delivery; null stays null if the clock is never set.
"""

import json
from binascii import hexlify

from firmware import board
from firmware.borrowed import Borrowed
from gateway.wire import event as words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Draft = dict[str, Any]

LIMIT = 4000
"""Octets of an event in ASCII: a frame of 4096 with its own words around it."""

_NO_TIME = b'"time":null,'
_HEAD = 64  # where the time stands at the latest
_LETTERS = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def complete(draft: "Draft", source: str, own: "dict[str, Any]") -> "tuple[str, list[bytes]]":
    """The id and the JSON of the event, in pieces; `own` are the facts of the board, for drafts that name no device.

    What is too long is cut, the text first, and `data.truncated` says so.
    """
    identifier = ulid()
    draft["device"] = draft.get("device") or own
    draft["kind"] = words.known_kind(draft.get("kind") or "other")
    draft["severity"] = draft.get("severity") or "info"
    for key, empty in (("state", None), ("title", ""), ("text", ""), ("data", {}), ("attachments", []), ("mail", None)):
        draft.setdefault(key, empty)
    moment = board.now()
    time = "null" if moment is None else '"' + iso(moment) + '"'
    head = f'{{"v":{words.VERSION},"id":"{identifier}","time":{time},"source":{_json(source)},'
    pieces = _fitted(draft, LIMIT - len(head))
    return identifier, [head.encode()] + [piece.encode() for piece in pieces]  # no `[*a]` here


def _fitted(draft: "Draft", limit: int) -> "list[str]":
    """As `body`, of what fits into so many octets."""
    if len(draft["text"]) <= limit:
        fields = body(draft)
        if octets(fields) <= limit:
            return fields
    with Borrowed("fit") as fit:
        return fit.fitted(draft, limit)  # type: ignore[no-any-return]


def body(draft: "Draft") -> "list[str]":
    """The fields behind the head, as JSON without its `{`: in pieces, for the whole needs a gap in the heap."""
    keys = ["device", "kind", "state", "severity", "title", "text", "data", "attachments", "mail"]
    return [f'"{key}":{_json(draft[key])}' + ("," if key != "mail" else "}") for key in keys]


def _json(value: "Any") -> str:
    return json.dumps(value, separators=(",", ":"))


def octets(pieces: "list[str]") -> int:
    """The length of JSON once a frame has escaped what is not ASCII."""
    count = 0
    for piece in pieces:
        count += len(piece)
        data = piece.encode()
        if len(data) > len(piece):
            for octet in data:  # not letters: MicroPython keeps each that it is asked for
                if octet >= 0xC0:
                    count += 5 if octet < 0xF0 else 11
    return count


def lacks_time(event: bytes) -> bool:
    """Whether it was made before the clock was set."""
    return _NO_TIME in event[:_HEAD]


def timed(event: bytes, born: "int | None") -> bytes:
    """With its time, if it has none and the clock is set; `born`: the uptime when it was kept, None in another run."""
    moment = board.now()
    if moment is None or not lacks_time(event):
        return event
    if born is not None:
        moment -= board.uptime() - born
    return event.replace(_NO_TIME, b'"time":"' + iso(moment).encode() + b'",', 1)


def iso(moment: int) -> str:
    """Unix milliseconds as events carry them: UTC with milliseconds."""
    days, rest = divmod(moment, 86400000)
    # Years counted from March have their leap day at the end (howardhinnant.github.io/date_algorithms.html).
    days += 719468
    era, day = divmod(days, 146097)
    year = (day - day // 1460 + day // 36524 - day // 146096) // 365
    day -= 365 * year + year // 4 - year // 100
    month = (5 * day + 2) // 153
    day -= (153 * month + 2) // 5 - 1
    month = month + 3 if month < 10 else month - 9
    year += era * 400 + (1 if month <= 2 else 0)
    second, thousandth = divmod(rest, 1000)
    minute, second = divmod(second, 60)
    hour, minute = divmod(minute, 60)
    return f"{year:04d}-{month:02d}-{day:02d}T{hour:02d}:{minute:02d}:{second:02d}.{thousandth:03d}Z"


def ulid() -> str:
    """26 characters, 48 bits of milliseconds (0 as long as the clock is not set) and 80 of chance."""
    number = (board.now() or 0) << 80 | int(hexlify(board.random(10)), 16)
    letters = bytearray(26)
    for at in range(26):
        letters[25 - at] = _LETTERS[number & 31]
        number >>= 5
    return bytes(letters).decode()
