"""Mail to meaning: what a mail says (`read`), the bytes of what it carries (`attachment`), what it means (`meaning`).

Nothing here ever raises for what a mail contains, and everything is bounded: time, memory, and how much of the mail
goes into an event. What was cut, skipped or repaired is said in words in `Reading.truncated`. The work is done one
floor down, each file with one job: `mime` finds the parts, `fields` reads header fields, `transfer` undoes base64 and
quoted-printable in slices, `charset` makes text of bytes, `html` makes text of HTML, `names` cleans file names, and
`meaning` applies a device profile. `worker` is a process that does all this for the gateway.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from gateway.interpret import charset, fields, html, mime, names, transfer
from gateway.interpret.meaning import Meaning, meaning

if TYPE_CHECKING:
    from gateway.api import Attachment
    from gateway.interpret.transfer import Buffer

__all__ = ["Meaning", "Reading", "attachment", "meaning", "read"]

MAX_TEXT = 32 * 1024  # characters of text in an event; the mail itself is kept whole
MAX_HTML = 256 * 1024  # characters of HTML that are turned into text
MAX_ATTACHMENTS = 100
MAX_SUBJECT = 1000
MAX_ADDRESSES = 100
_TEXT_CUT = f"the text was cut at {MAX_TEXT} characters"

HEADERS = (
    "auto-submitted", "importance", "list-id", "organization", "precedence", "priority", "reply-to", "sender",
    "user-agent", "x-loop", "x-mailer", "x-priority",
)  # fmt: skip
_HEADERS = {name.encode(): name for name in HEADERS}
_READ = frozenset((b"subject", b"from", b"to", b"date", b"message-id", *_HEADERS))
_MAGIC = (
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"GIF8", "image/gif"),
    (b"%PDF-", "application/pdf"),
)
_SHOWN = frozenset(("image/jpeg", "image/jpg", "image/pjpeg", "image/png", "image/gif", "image/webp"))
_META_CHARSET = re.compile(rb"<meta[^>]{1,100}charset=[\"']?([\w-]{1,40})", re.IGNORECASE)
_UNDECLARED_HTML = re.compile(r"\s{0,100}(?:<!doctype html|<html|<body)\b[^>]{0,1000}>", re.IGNORECASE)
_FOR_OTHERS = re.compile(r"\bhtml\b", re.IGNORECASE)  # "your mail program shows no HTML"
_MOST_FOR_OTHERS = 300  # characters of a text that says so
_MAX_REWRITTEN = 1024 * 1024
_LINE_END = re.compile("\r+\n?")


class Reading:
    """What a mail says. `sender` is the address of the From field.

    `headers` has the first values of a few fields (see `HEADERS`), `picture` is the index of the attachment that
    shows most, `truncated` says what was cut or repaired, `charsets` how bytes became text where that was no matter
    of course.

    No dataclass, as nothing is that the interpreting process loads: that module brings more than a mebibyte.
    """

    def __init__(
        self,
        subject: str | None = None,
        sender: str = "",
        sender_name: str = "",
        to: Iterable[str] = (),
        message_id: str | None = None,
        date_field: str = "",
        headers: Mapping[str, str] | None = None,
        text: str = "",
        attachments: Iterable[Attachment] = (),
        picture: int | None = None,
        truncated: Iterable[str] = (),
        charsets: Iterable[str] = (),
    ) -> None:
        self.subject, self.sender, self.sender_name, self.to = subject, sender, sender_name, list(to)
        self.message_id, self.date_field, self.headers, self.text = message_id, date_field, dict(headers or {}), text
        self.attachments, self.picture = list(attachments), picture
        self.truncated, self.charsets = list(truncated), list(charsets)

    @property
    def date(self) -> str | None:
        """The Date field, ISO 8601 in UTC; worked out when it is asked for, which no event does."""
        return fields.date(self.date_field.encode("latin-1")) if self.date_field else None


def read(raw: Buffer) -> Reading:
    """Read a whole mail, given as bytes or as a memory-mapped file. Raises MemoryError, and nothing else, ever."""
    reading = Reading()
    try:
        _read(raw, reading)
    except MemoryError:
        raise  # it says nothing about the mail
    except Exception as error:  # noqa: BLE001 - one mail that we can't read must not stop those behind it
        reading.truncated.append(f"the mail could not be read to its end ({error!r}): please report this as a bug")
    return reading


def attachment(raw: Buffer, index: int) -> bytes:
    """The decoded bytes of `Reading.attachments[index]`. Raises LookupError if there is none."""
    raw = _with_line_feeds(raw)
    parts = [part for part in mime.split(raw).parts if part.attached]
    if not 0 <= index < min(len(parts), MAX_ATTACHMENTS):
        raise LookupError(f"the mail has no attachment number {index}; it has {len(parts)}, counted from 0")
    part = parts[index]
    whole = io.BytesIO()
    for piece in transfer.decoded(raw, part.start, part.end, part.encoding, []):
        whole.write(piece)
    return whole.getvalue()


def _with_line_feeds(raw: Buffer) -> Buffer:
    """Some firmware ends its lines with a bare CR; then the only LF is the one that SMTP demands at the end."""
    head = raw[:2000].rstrip()
    if b"\n" in head or b"\r" not in head or len(raw) > _MAX_REWRITTEN:
        return raw
    return raw[:].replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def _read(raw: Buffer, reading: Reading) -> None:
    raw = _with_line_feeds(raw)
    mail = mime.split(raw)
    reading.truncated = mail.remarks
    bodies = [part for part in mail.parts if not part.attached] or _text_with_a_name(mail.parts)
    # The charset that the mail names for its text is the best word for undeclared bytes in its header.
    hint = next((name for part in bodies if (name := _charset(part))), "") or _guessed(raw, mail, bodies)
    _read_header(mail.fields, hint, reading)
    _read_text(raw, bodies, hint, reading)
    attached = [part for part in mail.parts if part.attached]
    if len(attached) > MAX_ATTACHMENTS:
        reading.truncated.append(f"{len(attached)} attachments: the first {MAX_ATTACHMENTS} are listed")
    for number, part in enumerate(attached[:MAX_ATTACHMENTS], 1):
        reading.attachments.append(_describe(raw, part, number, hint, reading))
    reading.picture = _best_picture(reading.attachments)


def _text_with_a_name(parts: list[mime.Part]) -> list[mime.Part]:
    """In a mail that has no other text, the one that is attached for its name alone; it stays an attachment, too."""
    texts = (part for part in parts if part.type in ("text/plain", "text/html"))
    return [part for part in texts if part.disposition.get(b"") != b"attachment"][:1]


def _guessed(raw: Buffer, mail: mime.Mail, bodies: list[mime.Part]) -> str:
    """What the undeclared bytes of header and text speak for together: a subject alone may be too short to tell."""
    said = mail.fields.get(b"subject", b"")[: fields.LIMIT]
    plain = [part for part in bodies if part.encoding not in ("base64", "quoted-printable")][:1]
    if said.isascii() and not plain:
        return ""
    said += b"\n".join(raw[part.start : min(part.end, part.start + charset.SAMPLE)] for part in plain)
    return "" if said.isascii() else charset.guessed(said)


def _read_header(header: dict[bytes, bytes], hint: str, reading: Reading) -> None:
    for key, value in header.items():
        if len(value) > fields.LIMIT and key in _READ:
            reading.truncated.append(f"the {key.decode()} field was cut at {fields.LIMIT} bytes")
        if key in _HEADERS:
            reading.headers[_HEADERS[key]] = fields.text(value, hint)[0]
    if b"subject" in header:
        subject, how = fields.text(header[b"subject"], hint)
        if how:
            reading.charsets.append(f"subject: {how}")
        if len(subject) > MAX_SUBJECT:
            reading.truncated.append(f"the subject was cut at {MAX_SUBJECT} characters")
        reading.subject = subject[:MAX_SUBJECT]
    if b"from" in header:
        mailboxes = fields.addresses(header[b"from"], hint)
        if mailboxes:
            reading.sender_name, reading.sender = mailboxes[0]
    if b"to" in header:
        to = [address for _, address in fields.addresses(header[b"to"], hint) if address]
        if len(to) > MAX_ADDRESSES:
            reading.truncated.append(f"{len(to)} addresses in To: the first {MAX_ADDRESSES} are listed")
        reading.to = to[:MAX_ADDRESSES]
    if b"message-id" in header:
        reading.message_id = fields.text(header[b"message-id"])[0] or None
    if b"date" in header:
        reading.date_field = header[b"date"][:100].decode("latin-1")


def _charset(part: mime.Part) -> str:
    return fields.parameter(part.parameters, b"charset") if part.parameters else ""


def _read_text(raw: Buffer, bodies: list[mime.Part], hint: str, reading: Reading) -> None:
    """The bodies one after the other; of those that are alternatives of each other the plain ones, if not empty."""
    if len(bodies) == 1:
        texts = [(0, False, _body(raw, bodies[0], hint, reading))]
    else:
        texts = _bodies(raw, bodies, hint, reading)
    whole = ""
    plain = {" ".join(text.split()) for _, is_html, text in texts if not is_html} if len(texts) > 1 else set()
    for _, is_html, text in texts:
        if is_html and " ".join(text.split()) in plain:
            continue  # the same again: the sender forgot to say that it is an alternative
        whole += "\n" + text if whole and not whole.endswith("\n") else text
    if len(whole) > MAX_TEXT and _TEXT_CUT not in reading.truncated:
        reading.truncated.append(_TEXT_CUT)
    reading.text = whole[:MAX_TEXT]


def _bodies(raw: Buffer, bodies: list[mime.Part], hint: str, reading: Reading) -> list[tuple[int, bool, str]]:
    """(place, is HTML, text) of each, in the order of the mail; the plain ones are read first."""
    found: list[tuple[int, bool, str]] = []
    told: set[int] = set()  # alternatives that have plain text
    size = 0
    in_html = {part.alternative for part in bodies if _is_html(part)} - {0}
    for part in sorted(bodies, key=_is_html):
        if size > MAX_TEXT:
            break
        if _is_html(part) and part.alternative in told:
            continue
        text = _body(raw, part, hint, reading)
        if part.alternative in in_html and not _is_html(part) and _is_for_others(text):
            continue
        if text and not text.isspace():
            found.append((part.start, _is_html(part), text))
            size += len(text)
            if part.alternative and not _is_html(part):
                told.add(part.alternative)
    return sorted(found)


def _is_for_others(text: str) -> bool:
    """Does the plain text only say that there is another one?"""
    return len(text) <= _MOST_FOR_OTHERS and _FOR_OTHERS.search(text) is not None


def _is_html(part: mime.Part) -> bool:
    return part.type == "text/html"


def _body(raw: Buffer, part: mime.Part, hint: str, reading: Reading) -> str:
    most = MAX_HTML if _is_html(part) else MAX_TEXT + 1
    encoding = part.encoding
    if encoding == "base64" and not transfer.is_base64(raw[part.start : min(part.end, part.start + 4096)]):
        encoding = ""
        reading.truncated.append("text that was declared as base64 is none: it was taken as it is")
    damage: list[str] = []
    data = b""
    limit = 0
    for piece in transfer.decoded(raw, part.start, part.end, encoding, damage):
        data = data + piece if data else piece
        limit = 2 * most if data.isascii() else 4 * most  # bytes: two for a line's end, four for a character of UTF-8
        if len(data) > limit:
            break
    if damage:
        reading.truncated.append(f"{damage[0]} in the text")
    declared = _charset(part)
    if not declared and _is_html(part) and (meta := _META_CHARSET.search(data[:2048])):
        declared = meta[1].decode()
    cut = len(data) > limit
    text, how = charset.decode(data[:limit], declared, hint, cut)
    if how and (how := f"text: {how}") not in reading.charsets:
        reading.charsets.append(how)
    if "\0" in text:
        text = text.replace("\0", "")
        reading.truncated.append("NUL characters were taken out of the text")
    text = text.replace("\r\n", "\n")
    if "\r" in text:
        text = _LINE_END.sub("\n", text)
    if _is_html(part) or _UNDECLARED_HTML.match(text):
        if cut or len(text) > most:
            reading.truncated.append(f"the HTML was cut at {most} characters")
        return html.to_text(text[:most], MAX_TEXT)
    if cut:
        reading.truncated.append(_TEXT_CUT)
    return text


def _describe(raw: Buffer, part: mime.Part, number: int, hint: str, reading: Reading) -> Attachment:
    digest, size, kind = hashlib.sha256(), 0, part.type
    damage: list[str] = []
    for piece in transfer.decoded(raw, part.start, part.end, part.encoding, damage):
        if not size and kind.startswith(("image/", "application/octet-stream")):
            kind = next((shown for magic, shown in _MAGIC if piece.startswith(magic)), kind)
        size += len(piece)
        digest.update(piece)
    said = fields.parameter(part.disposition, b"filename", hint) or fields.parameter(part.parameters, b"name", hint)
    name = names.cleaned(said, kind, number)
    if len(said) > names.LIMIT:
        reading.truncated.append(f"a name of {len(said)} characters was cut: {name}")
    reading.truncated += [f"{words} in {name}" for words in damage]
    return {"name": name, "type": kind, "size": size, "sha256": digest.hexdigest()}


def _best_picture(attachments: list[Attachment]) -> int | None:
    """The first picture that is at least half as big as the biggest one: a snapshot, not the logo before it."""
    sizes = {index: one["size"] for index, one in enumerate(attachments) if one["type"] in _SHOWN and one["size"]}
    return next((index for index, size in sizes.items() if 2 * size >= max(sizes.values())), None)
