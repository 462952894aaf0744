"""What a source says of an event, and the event that becomes of it (DESIGN §4.1).

A draft is a mapping with some of an event's fields; all of it may come from a board or a stranger on a serial line, so
each field is taken only if it is what it must be, and made so or left out otherwise. An event that a board made keeps
its own id, so that its repeat is known; its time, if the board's clock can be right; and its device.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, cast

from gateway.api import Attachment, Device, Event, MadeEvent, MailFacts, encoded_word, words

_HALVES = re.compile("[\ud800-\udfff]")
_ULID = re.compile("[0-7][0-9A-HJKMNP-TV-Z]{25}")
_LONGEST_TITLE = 200
_LONGEST_FACT = 200
_MOST = 100  # attachments or recipients
_DEEPEST = 51  # levels, the data itself one of them; those who are told of them have their own limits
_CLOCKS_BEGIN = datetime(2024, 1, 1, tzinfo=UTC).timestamp()  # a clock that shows less was never set
_HIGHEST = 2**63 - 1
_AHEAD = 24 * 3600.0  # seconds that a clock may be ahead of ours


def own_id(draft: Mapping[str, Any]) -> str | None:
    """The id that the event brings with it."""
    found = draft.get("id")
    return found if isinstance(found, str) and _ULID.fullmatch(found) else None


def device_of(draft: Mapping[str, Any]) -> Device | None:
    """The device that it names, by its id or by an event's facts of it; None if it names none."""
    named = draft.get("device")
    facts = named if isinstance(named, Mapping) else {"id": named}
    device_id = words.slug(_text(facts.get("id")) or _text(facts.get("name")))
    if not device_id:
        return None
    said = {key: _text(facts.get(key))[:_LONGEST_FACT] for key in ("name", "manufacturer", "model", "profile")}
    return Device(device_id, said["name"], said["manufacturer"] or None, said["model"] or None, said["profile"] or None)


def moment(draft: Mapping[str, Any], now: float) -> float:
    """When it happened, in Unix seconds: as it says, if that can be true, else now."""
    try:
        said = datetime.fromisoformat(draft.get("time", "")).astimezone(UTC).timestamp()
    except (TypeError, ValueError, OverflowError):
        return now
    return said if _CLOCKS_BEGIN <= said <= now + _AHEAD else now


def to_event(draft: Mapping[str, Any], event_id: str, time: str, source: str, device: Device) -> Event:
    """`time` as events carry it; the others are what was found with the functions above."""
    data = draft.get("data")
    event: Event = {
        "v": words.VERSION,
        "id": event_id,
        "time": time,
        "source": source,
        "device": device.facts(),
        "kind": words.known_kind(_text(draft.get("kind"))),
        "state": draft.get("state") if draft.get("state") in words.STATES else None,
        "severity": _text(draft.get("severity")) if draft.get("severity") in words.SEVERITIES else words.SEVERITIES[0],
        "title": " ".join(_text(draft.get("title")).split())[:_LONGEST_TITLE],
        "text": _text(draft.get("text")),
        "data": _plain(data) if isinstance(data, Mapping) else {},
        "attachments": [_attachment(item) for item in _list(draft.get("attachments")) if isinstance(item, Mapping)],
        "mail": _mail(draft.get("mail")),
    }
    return cast(Event, MadeEvent(event))


def to_mail(event: Event, files: Sequence[tuple[str, str, bytes]]) -> bytes:
    """A mail that holds an event's words and its attachments (name, media type, bytes), for the store."""
    from email.message import EmailMessage  # here alone: most gateways never need their 0.6 MiB
    from email.policy import SMTP

    mail = EmailMessage(policy=SMTP)
    mail["Subject"] = encoded_word.broken(_whole(event["title"]))
    mail.set_content(_whole(event["text"]))
    for name, media_type, content in files:
        kind, _, subtype = media_type.lower().partition("/")
        if kind in ("message", "multipart") or not re.fullmatch(r"[a-z0-9.+-]+/[a-z0-9.+-]+", media_type.lower()):
            kind, subtype = "application", "octet-stream"
        shown = encoded_word.broken(" ".join(_whole(name).split())[:_LONGEST_FACT])
        mail.add_attachment(content, kind, subtype, filename=shown)
    return mail.as_bytes()


def _whole(text: str) -> str:
    """Without half characters and what can't be seen, neither of which a mail can have everywhere."""
    return "".join(letter if letter.isprintable() or letter in "\n\t" else " " for letter in text)


def _attachment(item: Mapping[str, Any]) -> Attachment:
    size = item.get("size")
    return {
        "name": _text(item.get("name"))[:_LONGEST_FACT],
        "type": _text(item.get("type"))[:_LONGEST_FACT] or "application/octet-stream",
        "size": size if isinstance(size, int) and size >= 0 else 0,
        "sha256": _text(item.get("sha256"))[:64],
    }


def _mail(mail: Any) -> MailFacts | None:
    if not isinstance(mail, Mapping):
        return None
    return {
        "from": _text(mail.get("from")),
        "to": [_text(one) for one in _list(mail.get("to")) if isinstance(one, str)],
        "subject": _text(mail.get("subject")) or None,
        "message_id": _text(mail.get("message_id")) or None,
        "helo": _text(mail.get("helo")) or None,
        "peer": _text(mail.get("peer")) or None,
    }


def _plain(value: Any, depth: int = 0) -> Any:
    """What every reader of JSON takes; else as text: NaN and numbers of any length, which Python reads, or a date.

    And half a character is none: Python writes it, and no other reads it.
    """
    if isinstance(value, Mapping | list | tuple) and depth >= _DEEPEST:
        return "..."
    if isinstance(value, Mapping):
        return {_whole_letters(str(key)): _plain(one, depth + 1) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one, depth + 1) for one in value]
    if isinstance(value, int):
        return value if -_HIGHEST <= value <= _HIGHEST else str(value)
    is_plain = value is None or (isinstance(value, float) and math.isfinite(value))
    return value if is_plain else _whole_letters(str(value))


def _text(value: Any) -> str:
    """What it says, of a text or a number; nothing of anything else."""
    return _whole_letters(str(value)) if isinstance(value, str | int | float) and not isinstance(value, bool) else ""


def _whole_letters(text: str) -> str:
    return text if text.isascii() else _HALVES.sub("\ufffd", text)


def _list(value: Any) -> list[Any]:
    return value[:_MOST] if isinstance(value, list) else []
