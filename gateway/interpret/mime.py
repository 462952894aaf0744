"""A mail into its header and its leaf parts, as places in the bytes: nothing is decoded or copied here.

Devices break every rule of RFC 5322 and RFC 2045 while their meaning stays clear, so this splitter goes by what is
there: it ends a header where no field can be, finds boundaries that were announced badly or not at all, and reads a
part to its end when the closing delimiter is missing. It never recurses, never looks at a byte more often than the
nesting (which is bounded) demands, and says in words what it repaired or left unread.

`split` is deterministic: an attachment's number in it is the number under which its bytes are fetched later.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from gateway.interpret import transfer
from gateway.interpret.fields import LIMIT, parameters

if TYPE_CHECKING:
    from gateway.interpret.transfer import Buffer

MAX_FIELDS = 1000  # fields of the header
MAX_PART_FIELDS = 100  # fields of a part's header
MAX_HEADER = 256 * 1024  # bytes of one header
MAX_DEPTH = 50  # multiparts inside each other
MAX_PARTS = 1000
_RARE = 1024  # bytes without a dash that make it worth while to look for the next one
_STRETCH = 16 * 1024  # bytes that are searched as usual before that is tried again
_GUESS = 64 * 1024  # bytes in which an undeclared boundary is searched
_FALSE_ALARMS = 10_000  # lines that begin like a delimiter and are none
_BUDGET = 16 * 1024 * 1024  # bytes searched for delimiters, beside eight times the mail itself

_FIELD = re.compile(rb"([!#-9;<>-~]++)[ \t]*+:[ \t]*+([^\n]*+(?:\n[ \t][^\n]*+)*+)(?:\n|\Z)")
_BLANK = re.compile(rb"\r*\n")
_TYPE = re.compile(r"[!#-.0-~]{1,60}/[!#-.0-~]{1,100}")
_SOMETHING = re.compile(rb"\S")
_BLANK_LINE = re.compile(rb"\n\r*\n")
_UNINDENTED = re.compile(
    rb"(?:boundary|charset|name|filename|type|start|format|report-type)(?:\*\d*\*?)? ?=", re.IGNORECASE
)
_DELIMITER_END = re.compile(rb"(--)?[ \t]*\r*(?:\n|\Z)")
_UNDECLARED = re.compile(rb"--([^\r\n]{1,200}?)[ \t]{0,20}\r{0,2}\ncontent-", re.IGNORECASE)
_FILE_BEGINS = re.compile(rb"^begin [0-7]{3,4} ([^\r\n]{1,200})\r*\n([^\r\n]{5,100})\r*\n", re.MULTILINE)
_FILE_ENDS = re.compile(rb"^end[ \t]*\r*(?:\n|\Z)", re.MULTILINE)
_FILE = "application/octet-stream"
_MOST_FILES = 100  # in one text
_MIME_FIELDS = frozenset((b"content-type", b"content-transfer-encoding", b"mime-version"))
_ROOT_FIELDS = _MIME_FIELDS | {b"from", b"subject"}
_MAIL_FIELDS = _ROOT_FIELDS | {
    b"to", b"cc", b"date", b"message-id", b"received", b"sender", b"reply-to", b"return-path",
    b"content-disposition", b"content-id", b"importance", b"priority", b"precedence", b"auto-submitted",
}  # fmt: skip
_SINGLE = frozenset((b"from", b"to", b"subject", b"date", b"message-id", b"content-type"))


class Part:
    """A leaf: `raw[start:end]` is its body, still in its transfer encoding.

    `alternative` numbers the outermost multipart/alternative around it, 0 for none; parts that share a number say the
    same thing in different forms. `attached`: to be published as an attachment, else it is text of the mail.
    """

    def __init__(
        self,
        kind: str,
        parameters: dict[bytes, bytes],
        disposition: dict[bytes, bytes],
        encoding: str,
        start: int,
        end: int,
        *,
        alternative: int = 0,
        attached: bool = False,
    ) -> None:
        self.type, self.parameters, self.disposition, self.encoding = kind, parameters, disposition, encoding
        self.start, self.end, self.alternative, self.attached = start, end, alternative, attached

    def cut(self, start: int, end: int) -> Part:
        """A piece of it."""
        return Part(
            self.type, self.parameters, self.disposition, self.encoding, start, end,
            alternative=self.alternative, attached=self.attached,
        )  # fmt: skip


class Mail:
    """The first value of each field of the header, by lower-case name, and the leaves in the order of the mail."""

    def __init__(self) -> None:
        self.fields: dict[bytes, bytes] = {}
        self.parts: list[Part] = []
        self.remarks: list[str] = []
        self.false_alarms = 0

    def remark(self, words: str) -> None:
        """Say it once."""
        if words not in self.remarks:
            self.remarks.append(words)


def split(raw: Buffer) -> Mail:
    """Header and leaves of a mail of any shape."""
    mail = _split(raw)
    if any(not part.attached and raw.find(b"\nbegin ", max(part.start - 1, 0), part.end) >= 0 for part in mail.parts):
        mail.parts = [piece for part in mail.parts for piece in _without_files(raw, part)]
    return mail


def _without_files(raw: Buffer, part: Part) -> Iterator[Part]:
    """A text and the files in it, in the way that was before MIME: uuencoded, between "begin" and "end"."""
    start = part.start
    if part.type == "text/plain" and not part.attached and part.encoding in ("", "7bit", "8bit", "binary"):
        for _ in range(_MOST_FILES):
            begin = _FILE_BEGINS.search(raw, start, part.end)
            if begin is None or transfer.uuencoded(begin[2]) is None:
                break
            end = _FILE_ENDS.search(raw, begin.start(2), part.end)
            data_end, after = (end.start(), end.end()) if end else (part.end, part.end)
            if _SOMETHING.search(raw, start, begin.start()) or start == part.start:
                yield part.cut(start, begin.start())
            name = {b"name": begin[1]}
            yield Part(_FILE, name, {b"": b"attachment"}, "x-uuencode", begin.start(2), data_end, attached=True)
            start = after
    if start == part.start or _SOMETHING.search(raw, start, part.end):
        yield part.cut(start, part.end)


def _split(raw: Buffer) -> Mail:
    mail = Mail()
    size = len(raw)
    start = _header(raw, _leading_blank_lines(raw), size, mail.fields, mail, root=True)
    if _MAIL_FIELDS.isdisjoint(mail.fields) and not any(name.startswith(b"x-") for name in mail.fields):
        mail.fields, start = {}, 0  # "Door: open" is text that looks like a header
    root = _part(mail.fields, start, size, mail)
    boundary = _boundary(raw, root, mail, search=b"boundary" in root.parameters or b"content-type" not in mail.fields)
    if boundary is None:
        root.attached = _is_attached(root, root=True)
        mail.parts.append(root)
        return mail
    # One iterator a level, so that depth costs no recursion.
    levels = [_sections(raw, start, size, boundary, mail)]
    alternatives = [1 if root.type == "multipart/alternative" else 0]
    budget = _BUDGET + 8 * size - (size - start)
    seen = 0
    while levels:
        section = next(levels[-1], None)
        if section is None:
            levels.pop()
            alternatives.pop()
            continue
        seen += 1
        if seen > MAX_PARTS:
            mail.remark(f"more than {MAX_PARTS} parts: the rest was not read")
            break
        fields: dict[bytes, bytes] = {}
        start = _header(raw, section[0], section[1], fields, mail, root=False)
        part = _part(fields, start, section[1], mail)
        part.alternative = alternatives[-1]
        boundary = _boundary(raw, part, mail)
        if boundary is None:
            if fields or _SOMETHING.search(raw, start, section[1]):
                part.attached = _is_attached(part, root=False)
                mail.parts.append(part)
            continue
        budget -= part.end - part.start
        if len(levels) >= MAX_DEPTH or budget < 0:
            mail.remark(f"parts nested deeper than {len(levels)} levels were not read")
            continue
        levels.append(_sections(raw, start, part.end, boundary, mail))
        inside = part.alternative or (seen + 1 if part.type == "multipart/alternative" else 0)
        alternatives.append(inside)
    return mail


def _leading_blank_lines(raw: Buffer) -> int:
    """Where the header begins: behind blank lines and an mbox "From " line that some senders put first."""
    at = 3 if raw[:3] == b"\xef\xbb\xbf" else 0  # an editor's mark of UTF-8
    while at < min(len(raw), 1000) and raw[at : at + 1] in (b"\r", b"\n"):
        at += 1
    if raw[at : at + 5] == b"From ":
        at = raw.find(b"\n", at, at + 1000) + 1
    return at if _FIELD.match(raw, at, min(len(raw), at + 1000)) else 0


def _header(raw: Buffer, start: int, end: int, fields: dict[bytes, bytes], mail: Mail, root: bool) -> int:
    """Fill `fields` from the header at `start`; where the body begins."""
    at, limit = start, min(end, start + MAX_HEADER)
    lines, most, last = 0, MAX_FIELDS if root else MAX_PART_FIELDS, b""
    while at < limit:
        found = _FIELD.match(raw, at, limit)
        if found is None and (blank := _BLANK.match(raw, at, limit)) is not None:
            return _past_stray_blank(raw, blank.end(), limit, fields, mail, root)
        lines += 1
        if lines > most:
            return _past_blank_line(raw, at, end, f"a header of more than {most} fields", mail)
        if found is not None:
            last = found[1].lower()
            if last not in fields:
                fields[last] = found[2]
            elif last in _SINGLE:
                mail.remark(f"more than one {last.decode().title()} field: the first was taken")
            at = found.end()
            continue
        after = raw.find(b"\n", at, limit) + 1 or limit
        if last.startswith(b"content-") and _UNINDENTED.match(raw, at, after):
            fields[last] += b"; " + raw[at:after]
            mail.remark("a continuation line of the header was not indented")
        elif raw[at : at + 2] == b"--" or not _is_mail_field(raw, after, limit):
            if last:
                mail.remark("no blank line between header and body")
            return at
        else:
            mail.remark("a line of the header that is no field was skipped")
        at = after
    if at < end:
        return _past_blank_line(raw, at, end, f"a header over {MAX_HEADER // 1024} KiB", mail)
    return end


def _past_blank_line(raw: Buffer, at: int, end: int, what: str, mail: Mail) -> int:
    mail.remark(f"{what}: the rest of it was skipped")
    blank = _BLANK_LINE.search(raw, at - 1, end)
    return blank.end() if blank is not None else end


def _is_mail_field(raw: Buffer, at: int, limit: int) -> bool:
    found = _FIELD.match(raw, at, limit)
    return found is not None and found[1].lower() in _MAIL_FIELDS


def _past_stray_blank(raw: Buffer, at: int, limit: int, fields: dict[bytes, bytes], mail: Mail, root: bool) -> int:
    """Some senders put a blank line into the header. If what follows it up to the next blank line is nothing but
    fields, repeats none of those before it, and has one that a header is there for, it belongs to the header.
    """
    if fields.get(b"content-type", b"")[:8].lower() == b"message/":
        return at  # what follows is the header of the mail inside
    more: dict[bytes, bytes] = {}
    here = at
    while (found := _FIELD.match(raw, here, min(limit, at + 8192))) is not None:
        name = found[1].lower()
        if name in fields:
            return at
        more.setdefault(name, found[2])
        here = found.end()
    blank = _BLANK_LINE.match(raw, here - 1, limit)
    if blank is None or more.keys().isdisjoint(_ROOT_FIELDS if root else _MIME_FIELDS):
        return at
    fields |= more
    mail.remark("a blank line inside the header was skipped")
    return blank.end()


def _part(fields: dict[bytes, bytes], start: int, end: int, mail: Mail) -> Part:
    kind = "text/plain"
    found: dict[bytes, bytes] = {}
    if b"content-type" in fields:
        kind, found = parameters(fields[b"content-type"])
        if kind in ("", "text"):
            kind = "text/plain"
        elif not _TYPE.fullmatch(kind):
            kind = "application/octet-stream"
        _check_length(b"content-type", fields, mail)
    disposition: dict[bytes, bytes] = {}
    if b"content-disposition" in fields:
        _check_length(b"content-disposition", fields, mail)
        value, disposition = parameters(fields[b"content-disposition"])
        disposition[b""] = value.encode("latin-1")
    encoding = ""
    if b"content-transfer-encoding" in fields:
        encoding = parameters(fields[b"content-transfer-encoding"])[0]
    return Part(kind, found, disposition, encoding, start, end)


def _check_length(name: bytes, fields: dict[bytes, bytes], mail: Mail) -> None:
    if len(fields[name]) > LIMIT:
        mail.remark(f"a {name.decode()} field was cut at {LIMIT} bytes")


def _is_attached(part: Part, root: bool) -> bool:
    if part.disposition.get(b"") == b"attachment":
        return True
    if root:
        return not part.type.startswith("text/")
    if part.type not in ("text/plain", "text/html"):
        return True
    return any(name.partition(b"*")[0] in (b"name", b"filename") for name in (*part.parameters, *part.disposition))


def _boundary(raw: Buffer, part: Part, mail: Mail, search: bool = False) -> bytes | None:
    """The boundary of a multipart, declared or guessed; None for a leaf (which a multipart without parts is, too).

    `search`: look for one although the type is no multipart.
    """
    multipart = part.type.startswith("multipart/")
    if not multipart and not search:
        return None
    declared = part.parameters.get(b"boundary", b"").strip()[:200]
    if declared and next(_delimiters(raw, part.start, part.end, declared, mail), None) is not None:
        return declared
    limit = min(part.end, part.start + _GUESS)
    at = part.start
    while at >= 0:
        guess = _UNDECLARED.match(raw, at, limit)
        if guess is not None:
            mail.remark("the boundary between the parts was guessed")
            return guess[1]
        at = raw.find(b"\n--", at, limit) + 1 or -1
    if multipart:
        part.type = "text/plain"
        mail.remark("a multipart without parts was read as text")
    return None


def _sections(raw: Buffer, start: int, end: int, boundary: bytes, mail: Mail) -> Iterator[tuple[int, int]]:
    """Where each part between the delimiters begins and ends (RFC 2046 §5.1.1).

    A part that follows the closing delimiter is a part all the same; text there is an epilogue, which nobody reads.
    """
    begin = -1
    for at, after, closing in _delimiters(raw, start, end, boundary, mail):
        if begin >= 0:
            yield begin, max(begin, at)
        begin = -1 if closing else after
    if begin >= 0:
        mail.remark("the closing boundary is missing")
        yield begin, end


def _delimiters(raw: Buffer, start: int, end: int, boundary: bytes, mail: Mail) -> Iterator[tuple[int, int, bool]]:
    """Each delimiter line: where the text before it ends, where the line ends, and whether it is the closing one."""
    needle = b"\n--" + boundary
    at_once = raw[start : start + len(needle) - 1] == needle[1:]
    at = start - 1 if at_once else _find(raw, needle, max(start - 1, 0), end)
    while at >= 0 or at_once:
        at_once = False
        line = _DELIMITER_END.match(raw, at + len(needle), end)
        if line is not None:
            before = at
            while before > start and raw[before - 1 : before] == b"\r":
                before -= 1
            yield before, line.end(), line[1] is not None
        else:
            mail.false_alarms += 1
            if mail.false_alarms > _FALSE_ALARMS:
                mail.remark("too many lines that look like a boundary: the rest was not read")
                return
        at = _find(raw, needle, at + len(needle) - 1, end)


def _find(raw: Buffer, needle: bytes, start: int, end: int) -> int:
    """As `raw.find`. Where dashes are rare, as in base64, it looks for one: that is thirty times as fast."""
    at = start
    while (dash := raw.find(b"-", at + 1, end)) >= 0:
        if raw[dash - 1 : min(dash - 1 + len(needle), end)] == needle:
            return dash - 1
        if dash - at >= _RARE:
            at = dash
            continue
        at = min(dash + _STRETCH, end)
        found = raw.find(needle, dash, min(at + len(needle), end))
        if found >= 0:
            return found
    return -1
