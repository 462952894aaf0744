"""Makes an event short enough for a frame: borrowed by `events` for the few that are too long."""

from firmware.events import body, octets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from firmware.events import Draft

_SHORT = 60  # characters that are left of what was too long even without the text


def fitted(draft: "Draft", limit: int) -> "list[str]":
    """The fields behind the head in so many octets. What is too long is cut, the text first."""
    text = draft["text"]
    draft["text"] = ""
    _note(draft, "the text was cut at 99999 characters")  # as long as the words will be
    while (room := limit - octets(body(draft))) < 0:
        if not _shorten(draft):
            break
    draft["text"] = _cut(text, room)
    said = draft["data"]["truncated"]
    said.remove("the text was cut at 99999 characters")
    if len(draft["text"]) < len(text):
        said.append(f"the text was cut at {len(draft['text'])} characters")
    return body(draft)


def _note(draft: "Draft", words: str) -> None:
    draft["data"] = dict(draft["data"])
    said = draft["data"].setdefault("truncated", [])
    if words not in said:
        said.append(words)


def _shorten(draft: "Draft") -> bool:
    """Give up the least of what is left; False if nothing can be given up."""
    mail = draft["mail"]
    if len(draft["attachments"]) > 1:
        draft["attachments"] = draft["attachments"][: len(draft["attachments"]) // 2]
        _note(draft, "attachments were left out")
    elif mail and len(mail["to"]) > 1:
        mail["to"] = mail["to"][: len(mail["to"]) // 2]
        _note(draft, "recipients were left out")
    elif len(draft["data"]) > 1:
        draft["data"] = {"truncated": draft["data"]["truncated"]}
        _note(draft, "data was left out")
    else:
        for where in (mail or {}, draft, draft["device"]):
            for key, value in where.items():
                if isinstance(value, str) and len(value) > _SHORT:
                    where[key] = value[:_SHORT]
                    _note(draft, f"{key} was cut")
                    return True
        return False
    return True


def _cut(text: str, room: int) -> str:
    """As much of its beginning as makes `room` octets of JSON."""
    at = 0
    for letter in text:
        if letter in '"\\\n\r\t\b\f':
            room -= 2
        elif letter < " ":
            room -= 6
        else:
            room -= 1 if letter < "\x80" else 6 if letter < "\U00010000" else 12
        if room < 0:
            break
        at += 1
    return text[:at]
