"""A mail out of an event, or the device's own mail made ready to be sent on.

The header of a mail is written here, line by line, each field once, from values that have no control character any
more: nothing that an event brings can begin a field of its own. What is not plain ASCII is encoded (RFC 2047), so a
header needs SMTPUTF8 for nothing but addresses. The standard library builds the body, whose fields hold nothing but
types and file names that were cleaned as well.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from email.header import Header
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from typing import Any

from gateway.api import Event, Template, encoded_word
from gateway.integrations.smtp_relay.address import Address

MAX_SUBJECT = 300  # characters
_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,63}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,63}")
_UNKNOWN = "application/octet-stream"
# Control characters, marks that turn the text's direction, halves of characters; `split` sees to all that ends a line.
_UNFIT = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")
_FIELD = re.compile(rb"[!-9;-~]+:")
_LONGEST_LINE = 998  # octets without CRLF, RFC 5322 §2.1.1
_PLAIN = re.compile(r"[A-Za-z0-9 !#$%&'*+/=?^_`{|}~-]+")
Fields = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class File:
    """What is attached. `shown`: inside the HTML, where it names `cid:` and this one's number."""

    name: str
    type: str
    content: bytes
    shown: bool


@dataclass(frozen=True)
class Look:
    """The texts of a mail; without `html` it is plain text alone."""

    subject: Template
    text: Template
    html: Template | None


def one_line(text: str, limit: int = 1000) -> str:
    """The text with nothing in it that could end a line, be no letter, or turn others around."""
    return _UNFIT.sub("\ufffd", " ".join(text.split())[:limit])


def notice(
    event: Event,
    look: Look,
    files: Sequence[File],
    notes: Sequence[str],
    acknowledge: str | None,
    *,
    unique: str,
    eightbit: bool,
) -> tuple[str, bytes]:
    """(subject, body with its MIME fields); the same each time.

    `unique` is in nothing that the event holds; `eightbit`: the server offers 8BITMIME.
    """
    pictures = [
        {"cid": f"{number}.{unique}@mailwire", "name": one.name} for number, one in enumerate(files) if one.shown
    ]
    values: dict[str, Any] = {**event, "pictures": pictures, "notes": list(notes), "acknowledge": acknowledge}
    subject = _filled(look.subject, values, event["title"])
    text = _filled(look.text, values, event["text"])
    policy = SMTP if eightbit else SMTP.clone(cte_type="7bit")
    body = EmailMessage(policy)
    body.set_content(plain_text(text))
    shown: EmailMessage | None = None
    if look.html:
        body.add_alternative(plain_text(_filled(look.html, values, "")), subtype="html")
        parts = body.get_payload()
        assert isinstance(parts, list)
        assert isinstance(parts[-1], EmailMessage)
        shown = parts[-1]
    for number, one in enumerate(files):
        main, _, sub = _clean_type(one.type).partition("/")
        name = encoded_word.broken(one_line(one.name, 200))
        if one.shown and shown is not None:
            cid = f"<{number}.{unique}@mailwire>"
            shown.add_related(one.content, main, sub, cid=cid, disposition="inline", filename=name)
        else:
            body.add_attachment(one.content, main, sub, filename=name)
    for number, part in enumerate(body.walk()):
        if part.is_multipart():
            part.set_boundary(f"=_{number}.{unique}")
    return one_line(subject, MAX_SUBJECT), body.as_bytes(policy=policy)


def _filled(template: Template, values: dict[str, Any], otherwise: str) -> str:
    """A template that fails must not cost an alarm; the mail says so."""
    try:
        return template(values)
    except ValueError as error:
        values["notes"].append(str(error))
        return otherwise or "\n".join(values["notes"])


def wrapped(text: str, mail: bytes, name: str) -> bytes:
    """A body with the mail as a file in it: no server needs to understand what is in there, and none can alter it."""
    policy = SMTP.clone(cte_type="7bit")
    body = EmailMessage(policy)
    body.set_content(text)
    body.add_attachment(mail, "application", "octet-stream", filename=name)
    return body.as_bytes(policy=policy)


def can_go_as_it_is(mail: bytes, eightbit: bool) -> bool:
    """Whether a server of these abilities may be given it.

    It begins with a field, its lines are short enough and end as lines do, no NUL is in it, and nothing 8-bit is in its
    header, or anywhere if the server does not offer 8BITMIME (RFC 6152).
    """
    if not _FIELD.match(mail) or b"\0" in mail or re.search(rb"\r(?!\n)", mail):
        return False
    if max(map(len, mail.splitlines()), default=0) > _LONGEST_LINE:
        return False
    return mail.isascii() or (eightbit and re.split(rb"\r?\n\r?\n", mail, maxsplit=1)[0].isascii())


def with_header(fields: Fields, rest: bytes) -> bytes:
    """The fields, one after the other, before what already begins with some of its own."""
    lines = [f"{name}: {value}" for name, value in fields]
    # The last guard: a value folded by us continues with a blank, and nothing else may follow a line's end.
    for line in lines:
        if re.search(r"\r\n(?![ \t])|(?<!\r)\n|\r(?!\n)|\0", line):
            raise ValueError(f"a header field is not one: {line[:200]!r}")
    return "\r\n".join([*lines, ""]).encode("utf-8") + rest


def unstructured(name: str, text: str) -> str:
    """The value of a field such as Subject; `text` is one line."""
    if text.isascii() and "=?" not in text and len(name) + len(text) < 76:
        return text
    return Header(text, "utf-8", maxlinelen=76, header_name=name).encode(linesep="\r\n")


def mailboxes(name: str, addresses: Sequence[Address]) -> str:
    """The value of a field such as To, one address a line."""
    return ",\r\n ".join(_mailbox(name, address) for address in addresses)


def _mailbox(field: str, address: Address) -> str:
    if not address.name:
        return address.wire
    if _PLAIN.fullmatch(address.name) and "=?" not in address.name:
        return f"{address.name} <{address.wire}>"
    phrase = Header(one_line(address.name), "utf-8", header_name=field).encode(linesep="\r\n")
    return f"{phrase} <{address.wire}>"


def word(text: str) -> str:
    """What may stand in a field's place for a host's name."""
    return re.sub(r"[^A-Za-z0-9.:_\[\]-]", "?", text)[:100] or "unknown"


def date(event: Event) -> str:
    """When it happened, for the Date field (RFC 5322 §3.3)."""
    return format_datetime(datetime.fromisoformat(event["time"]))


def _clean_type(text: str) -> str:
    """A type that may stand in a field; what would need the standard library's special care is bytes."""
    known = text if _TYPE.fullmatch(text) else _UNKNOWN
    return _UNKNOWN if known.partition("/")[0].lower() in ("multipart", "message") else known


def plain_text(text: str) -> str:
    """What UTF-8 can hold, with line ends that are some."""
    return text.encode("utf-8", "replace").decode().replace("\r\n", "\n").replace("\r", "\n").replace("\0", "\ufffd")
