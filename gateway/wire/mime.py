"""What a mail says, read while it comes: header, text, and the names, types and sizes of what it carries; no I/O.

The law of this file:

- Bytes in, in pieces of any size; where they are cut changes nothing. No input raises.
- Memory is bounded whatever comes: a header field, a delimiter line and the text up to their limits, one line of each
  attachment's facts, nothing of its content. Time grows with the length alone.
- Devices break every rule of RFC 5322 and RFC 2045 while their meaning stays clear, so this reader goes by what is
  there, like `gateway.interpret`, which reads a mail that lies whole in front of it. It agrees with that one but where
  it would have to look back, or know a charset that a board has no table of (see `charset`).
- What was cut, repaired or could not be read is said in words in `truncated`.

MicroPython-safe.
"""

from binascii import a2b_base64, hexlify

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from gateway.wire.html import Page

    Fields = dict[bytes, bytes]

TEXT = 1024
"""Octets of text that are kept, as UTF-8 or whatever charset they came in."""
VALUE = 1024
"""Octets of a header field's value."""
DEPTH = 8
"""Multiparts inside each other."""
PARTS = 100
ATTACHMENTS = 16
SUBJECT = 200
"""Characters of the subject."""

_LINE = 1000  # octets of a header line, and of what may have to be given back as text
_DELIMITER = 280  # octets of a line that may be a delimiter
_BOUNDARY = 200
_GUESS = 65536  # octets in which an undeclared boundary is searched
_SAMPLE = 64  # letters by which base64 is told from text that only claims to be base64

_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
HEX = b"0123456789ABCDEFabcdef"
# Each with blanks around it, in one text for the same reason as below.
_MAIL_FIELDS = (
    b" from subject to cc date message-id received sender reply-to return-path content-type content-transfer-encoding "
    b"content-disposition content-id mime-version importance priority precedence auto-submitted "
)
_ROOT = b" subject from message-id "
_CONTENT = b" content-type content-transfer-encoding content-disposition "
_PARAMETERS = b" boundary charset name filename type start format report-type "
_MAGIC = (
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"GIF8", "image/gif"),
    (b"%PDF-", "application/pdf"),
)
# Places in a level: a multipart that is open.
_MARK = 0
_GROUP = 1
_SEEN = 2
_OPEN = 3


class Reader:
    """Reads one mail: `feed` what comes, then `close`; the attributes are complete after that.

    `limit` is for the text, in octets. `digest` makes a hash object (`hashlib.sha256`), by which attachments are
    told from each other; without one their `sha256` is None.

    `sender` is the address of the From field, `attachments` has dicts as an event shows them (name, type, size,
    sha256), `subject` and `message_id` are None where the mail has no such field.
    """

    def __init__(self, limit: int = TEXT, digest: "Callable[[], Any] | None" = None) -> None:
        self.subject: str | None = None
        self.sender = ""
        self.sender_name = ""
        self.message_id: str | None = None
        self.text = ""
        self.attachments: list[dict[str, Any]] = []
        self.truncated: list[str] = []
        self._limit = limit
        self._digest = digest

        self._kept = b""  # input that can't be understood before more has come
        self._bare_cr = False  # some firmware ends its lines with CR alone
        self._more = False
        self._root: Fields = {}
        self._fields: Fields = self._root
        self._name = b""  # of the field that is being read, and whether it is one that we want
        self._wanted = False
        self._in_header = True
        self._started = False  # a field, or a line that is none, has come
        self._known = False  # a field has come that a header is there for
        self._raw = b""  # the root's header until then: it may be text that looks like one
        self._junk = b""  # a line of the header that is no field
        self._skipping = False  # the rest of a line that is too long

        self._levels: list[list[Any]] = []
        self._fresh = False  # the body's next octet begins a line
        self._guess = 0
        self._parts = 0
        self._attached = 0
        self._texts: list[tuple[int, bool, str]] = []  # (group of alternatives, is HTML, text)
        self._group = 0
        self._hint = ""
        self._part: _Part | None = None

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the mail."""
        if self._bare_cr:
            data = data.replace(b"\r", b"\n")
        self._run(self._kept + data if self._kept else data, False)

    def close(self) -> None:
        """The mail is complete."""
        self._run(self._kept, True)
        if self._in_header:
            self._end_header()
        self._end_part()
        for level in self._levels:
            if level[_SEEN] and level[_OPEN]:
                self._remark("the closing boundary is missing")
        self._read_root()
        self.text = self._joined()
        self._texts = []

    def _run(self, data: bytes, closing: bool) -> None:
        pos = 0
        self._more = False
        while pos < len(data) and not self._more:
            if not self._started and data[pos : pos + _LINE].split(b"\n")[0].rstrip(b"\r").count(b"\r") > 2:
                self._bare_cr = True
                data = data[pos:].replace(b"\r", b"\n")
                pos = 0
            pos = self._header(data, pos, closing) if self._in_header else self._body(data, pos, closing)
        self._kept = data[pos:]

    def _remark(self, words: str) -> None:
        if words not in self.truncated and len(self.truncated) < 16:
            self.truncated.append(words)

    # Header: a line at a time.

    def _header(self, data: bytes, pos: int, closing: bool) -> int:
        end = data.find(b"\n", pos)
        if self._skipping:
            self._skipping = end < 0
            return end + 1 if end >= 0 else len(data)
        if end < 0:
            if not closing and len(data) - pos < _LINE:
                self._more = True
                return pos
            end = len(data)
        is_long = end - pos >= _LINE
        line = data[pos : pos + _LINE if is_long else end + 1]
        root = self._fields is self._root
        bare = line.rstrip(b"\r\n")
        name = _field_name(bare)
        if self._junk:
            if not _is_known(name):
                self._end_header()  # with the line before as the first of the body
                return pos
            self._junk = b""
            self._remark("a line of the header that is no field was skipped")
        if root and not self._known:
            if self._raw and len(self._raw) + len(line) > _LINE:
                self._end_header()
                return pos
            self._raw += line
            self._known = _is_known(name)
        if not bare:
            if not root or self._started:
                self._end_header()
            elif len(self._raw) >= _LINE // 4:
                self._raw = b""
        elif bare[:1] in b" \t" and self._name:
            self._append(bare)
        elif name:
            self._begin_field(name, bare)
        elif self._name[:8] == b"content-" and _is_parameter(bare):
            self._append(b"; " + bare)
            self._remark("a continuation line of the header was not indented")
        elif root and not self._started and bare[:5] == b"From ":
            pass  # an mbox line
        elif bare[:2] == b"--" or is_long:
            if self._started:
                self._remark("no blank line between header and body")
            if root and not self._known:
                self._raw = self._raw[: len(self._raw) - len(line)]
            self._end_header()
            return pos
        else:
            self._junk = line
        self._started = self._started or bool(bare)
        self._skipping = is_long and end == len(data)
        return pos + len(line) if not is_long or end == len(data) else end + 1

    def _begin_field(self, name: bytes, line: bytes) -> None:
        word = b" " + name + b" "
        wanted = word in _CONTENT or (word in _ROOT and self._fields is self._root)
        self._name = name
        self._wanted = wanted and name not in self._fields
        if self._wanted:
            self._fields[name] = line[line.find(b":") + 1 :].lstrip(b" \t")
        elif wanted:
            self._remark(f"more than one {name.decode()} field: the first was taken")

    def _append(self, more: bytes) -> None:
        if self._wanted:
            value = self._fields[self._name] + more
            if len(value) > VALUE:
                self._remark(f"the {self._name.decode()} field was cut at {VALUE} octets")
            self._fields[self._name] = value[:VALUE]

    def _end_header(self) -> None:
        """A body begins; what was taken for header and is none is its beginning."""
        root = self._fields is self._root
        given_back = self._junk
        if given_back and self._known and self._started:
            self._remark("no blank line between header and body")
        if root and not self._known:
            given_back = self._raw
            self._root.clear()
        self._junk = self._raw = self._name = b""
        self._in_header = False
        self._skipping = False
        self._fresh = True
        self._begin_part(root)
        if given_back and self._part:
            self._content(given_back)

    # Body: content up to the next delimiter (RFC 2046 §5.1.1).

    def _body(self, data: bytes, pos: int, closing: bool) -> int:
        if not self._levels:
            self._content(data[pos:] if pos else data)
            return len(data)
        size = len(data)
        if self._fresh:
            if data[pos : pos + 2] == b"--":
                after = self._delimiter(data, pos, closing)
                if after >= 0:
                    return after
            elif data[pos:] == b"-" and not closing:
                self._more = True
                return pos
            self._fresh = False
        at = data.find(b"\n--", pos)
        if at < 0:
            end = size
            if not closing:
                self._more = True
                if data.endswith(b"\n-"):
                    end -= 2
                elif data.endswith(b"\n"):
                    end -= 1
                end = max(_before(data, end, pos), pos)
            self._content(data[pos:end] if end < size or pos else data)
            return end
        before = _before(data, at, pos)
        self._content(data[pos:before])
        after = self._delimiter(data, at + 1, closing)
        if after < 0:  # it only looks like one
            self._content(data[before : at + 1])
            return at + 1
        return before if self._more else after

    def _delimiter(self, data: bytes, pos: int, closing: bool) -> int:
        """Whether a delimiter begins at `pos`: -1 if not, else where what follows it begins. Sets `_more` if that
        can't be told yet, and then returns `pos`.
        """
        end = data.find(b"\n", pos, pos + _DELIMITER)
        if end < 0:
            if not closing and len(data) - pos < _DELIMITER:
                self._more = True
                return pos
            if not closing or len(data) - pos >= _DELIMITER:
                return -1
            end = len(data)
        line = data[pos + 2 : end].rstrip(b" \t\r")
        at = len(self._levels) - 1
        while at >= 0:
            mark = self._levels[at][_MARK]
            if mark and line.startswith(mark) and line[len(mark) :] in (b"", b"--"):
                self._enter(at, line != mark)
                return end + 1
            at -= 1
        level = self._levels[-1]
        if level[_SEEN] or self._guess <= 0 or not line:
            return -1
        if len(data) < end + 9 and not closing:
            self._more = True
            return pos
        if data[end + 1 : end + 9].lower() != b"content-" or len(line) > _BOUNDARY:
            return -1
        self._remark("the boundary between the parts was guessed")
        level[_MARK] = line
        self._enter(len(self._levels) - 1, False)
        return end + 1

    def _enter(self, at: int, closing: bool) -> None:
        """A delimiter of level `at`: end what it ends, and begin a part's header or an epilogue."""
        inner = self._levels[at + 1 :]
        level = self._levels[at]
        if inner or level[_SEEN]:
            self._end_part()
        self._part = None  # a preamble says nothing
        for one in inner:
            if one[_SEEN] and one[_OPEN]:
                self._remark("the closing boundary is missing")
        self._levels = self._levels[: at + 1]
        self._fresh = True
        level[_SEEN] = True
        level[_OPEN] = not closing
        self._parts += not closing
        if self._parts > PARTS:
            self._remark(f"more than {PARTS} parts: the rest was not read")
        elif not closing:
            self._fields = {}
            self._name = b""
            self._in_header = True
            self._started = False
            self._known = True

    def _begin_part(self, root: bool) -> None:
        """The header of a part is complete."""
        part = _Part(self._fields)
        self._group = group = self._levels[-1][_GROUP] if self._levels else 0
        multipart = part.kind[:10] == "multipart/"
        if multipart or (root and (b"boundary" in part.parameters or b"content-type" not in self._fields)):
            if len(self._levels) >= DEPTH:
                self._remark(f"parts nested deeper than {DEPTH} levels were not read")
                self._part = None
                return
            inside = group
            if part.kind == "multipart/alternative" and not group:
                inside = self._parts + 1
            mark = part.parameters.get(b"boundary", b"").strip()[:_BOUNDARY]
            self._levels.append([mark, inside, False, False])
            self._guess = _GUESS
            if multipart:
                part.kind = "text/plain"  # which it is, should no delimiter come
        part.begin(root, self._limit, self._digest)
        self._part = part
        if part.is_text and not self._hint:
            self._hint = part.charset

    def _content(self, data: bytes) -> None:
        if self._guess > 0:
            self._guess -= len(data)
        if self._part and data:
            self._part.take(data)

    def _end_part(self) -> None:
        part = self._part
        self._part = None
        if not part or not (part.fields or part.size or part.is_text):
            return
        if (
            self._levels
            and not self._levels[-1][_SEEN]
            and b"multipart/" in part.fields.get(b"content-type", b"").lower()
        ):
            self._remark("a multipart without parts was read as text")
        part.end()
        for words in part.remarks:
            self._remark(words)
        if part.is_text:
            text = part.text(self._hint)
            if text.strip():
                self._texts.append((self._group, part.is_html, text))
            return
        if not part.fields and not part.size:
            return
        self._attached += 1
        if self._attached > ATTACHMENTS:
            self._remark(f"more than {ATTACHMENTS} attachments: the first are listed")
            return
        name = part.name(self._attached, self._hint)
        if part.damaged:
            self._remark("damaged base64 in " + name)
        digest = hexlify(part.digest.digest()).decode() if part.digest else None
        self.attachments.append({"name": name, "type": part.kind, "size": part.size, "sha256": digest})

    # The end.

    def _read_root(self) -> None:
        from gateway.wire import mime_fields

        root = self._root
        if b"subject" in root:
            self.subject = mime_fields.header_text(root[b"subject"], self._hint)
            if len(self.subject) > SUBJECT:
                self.subject = self.subject[:SUBJECT]
                self._remark(f"the subject was cut at {SUBJECT} characters")
        if b"from" in root:
            self.sender_name, self.sender = mime_fields.mailbox(root[b"from"], self._hint)
        if b"message-id" in root:
            self.message_id = mime_fields.header_text(root[b"message-id"]) or None

    def _joined(self) -> str:
        """The texts one after the other; of alternatives the plain one, and none twice."""
        told = [group for group, is_html, _ in self._texts if group and not is_html]
        plain = [text.split() for _, is_html, text in self._texts if not is_html]
        whole = ""
        for group, is_html, text in self._texts:
            if is_html and (group in told or text.split() in plain):
                continue
            whole += "\n" + text if whole and not whole.endswith("\n") else text
        if len(whole) > self._limit:
            self._remark(f"the text was cut at {self._limit} characters")
        return whole[: self._limit]


class _Part:
    """A leaf: what becomes of its content."""

    def __init__(self, fields: "Fields") -> None:
        from gateway.wire import mime_fields

        self.fields = fields
        self.kind, self.parameters = mime_fields.parameters(fields.get(b"content-type", b""))
        if self.kind in ("", "text"):
            self.kind = "text/plain"
        elif not 0 < self.kind.find("/") < len(self.kind) - 1 or len(self.kind) > 160:
            self.kind = "application/octet-stream"
        self._disposition, self._said = mime_fields.parameters(fields.get(b"content-disposition", b""))
        self._encoding = mime_fields.parameters(fields.get(b"content-transfer-encoding", b""))[0]
        self.charset = mime_fields.parameter(self.parameters, b"charset")
        self.remarks: list[str] = []
        self.size = 0
        self.digest: Any = None
        self.damaged = False
        self._start = b""
        self._rest = b""  # encoded content that is no whole group yet
        self._judged = True
        self._kept = b""
        self._cut = False
        self._page: Page | None = None

    def begin(self, root: bool, limit: int, digest: "Callable[[], Any] | None") -> None:
        if self._disposition == "attachment":
            self.is_text = False
        elif root:
            self.is_text = self.kind[:5] == "text/"
        else:
            self.is_text = self.kind in ("text/plain", "text/html") and not self._is_named()
        self.is_html = self.is_text and self.kind == "text/html"
        self._limit = limit
        if self.is_html:
            from gateway.wire.html import Page  # where none comes it takes no memory

            self._page = Page()
        if self.is_text:
            self._judged = self._encoding != "base64"
        elif digest:
            self.digest = digest()

    def _is_named(self) -> bool:
        for given in (self.parameters, self._said):
            for key in given:
                if key.split(b"*")[0] in (b"name", b"filename"):
                    return True
        return False

    def take(self, data: bytes) -> None:
        if self._encoding == "base64":
            data = self._from_base64(data)
        elif self._encoding == "quoted-printable":
            data, self._rest = from_quoted(self._rest + data, False)
        if data:
            self._take(data)

    def _take(self, data: bytes) -> None:
        self.size += len(data)
        if not self.is_text:
            if len(self._start) < 8:
                self._start += data[:8]
            if self.digest:
                self.digest.update(data)
        elif self._page:
            data = self._page.feed(data)
        if self.is_text:
            self._keep(data)

    def _keep(self, data: bytes) -> None:
        room = self._limit - len(self._kept)
        self._cut = self._cut or len(data) > room
        if room > 0:
            self._kept += data[:room]

    def _from_base64(self, data: bytes) -> bytes:
        if not self._judged:
            data = self._rest + data
            self._rest = b""
            if len(data) < _SAMPLE:
                self._rest = data
                return b""
            if not self._judge(data[:_SAMPLE]):
                return data
        clean = self._rest + data.replace(b"\r\n", b"")
        if clean.strip(_BASE64):
            clean = b"".join(clean.split())
        if b"=" in clean or clean.strip(_BASE64):  # its end, the end of a piece that was encoded by itself, or damage
            self.damaged = self.damaged or clean.replace(b"=", b"").strip(_BASE64) != b""
            done, self._rest = _lenient(clean)
            return done
        whole = len(clean) & ~3
        self._rest = clean[whole:]
        return a2b_base64(clean[:whole] if whole < len(clean) else clean)

    def _judge(self, sample: bytes) -> bool:
        """Whether text that claims to be base64 is; else it is taken as it is."""
        self._judged = True
        letters = sample.replace(b"\r", b"").replace(b"\n", b"")
        foreign = len([byte for byte in letters if byte not in _BASE64 and byte != 61])
        if foreign * 10 < len(letters) or not letters:
            return True
        self._encoding = ""
        self.remarks.append("text that was declared as base64 is none: it was taken as it is")
        return False

    def end(self) -> None:
        """No more comes."""
        if not self._judged:
            raw, self._rest = self._rest, b""
            self._take(self._from_base64(raw) if self._judge(raw) else raw)
        if self._encoding == "base64":
            done = whole_base64(self._rest)
            self.damaged = self.damaged or len(self._rest) == 1
            if done:
                self._take(done)
        elif self._rest:
            self._take(from_quoted(self._rest, True)[0])
        self._rest = b""
        if self._page:
            self._keep(self._page.rest())
        if self.is_text and self.damaged:
            self.remarks.append("damaged base64 in the text")
        if not self.is_text and (self.kind[:6] == "image/" or self.kind == "application/octet-stream"):
            for magic, kind in _MAGIC:
                if self._start.startswith(magic):
                    self.kind = kind

    def text(self, hint: str) -> str:
        charset = self.charset or (self._page.charset if self._page else "")
        kept, self._kept = self._kept, b""
        text, unread = decode(kept, charset, hint, self._cut)
        if unread:
            self.remarks.append(unread)
        if self._cut:
            self.remarks.append(f"the text was cut at {self._limit} octets")
        if "\0" in text:
            text = text.replace("\0", "")
        if self._page:
            return self._page.finished(text)
        return text.replace("\r\n", "\n").replace("\r", "\n")

    def name(self, number: int, hint: str) -> str:
        from gateway.wire.mime_fields import file_name, parameter

        said = parameter(self._said, b"filename", hint) or parameter(self.parameters, b"name", hint)
        return file_name(said, self.kind, number)


# Lines.


def _field_name(line: bytes) -> bytes:
    """The lower-case name of the field that a line begins; b"" if it is no field (RFC 5322 §3.6.8)."""
    colon = line.find(b":")
    if colon <= 0:
        return b""
    name = line[:colon].rstrip(b" \t")
    if not name or len(name) > 76 or min(name) <= 32 or max(name) >= 127 or b'"' in name or b"=" in name:
        return b""
    return name.lower()


def _is_known(name: bytes) -> bool:
    return name[:2] == b"x-" or (name != b"" and b" " + name + b" " in _MAIL_FIELDS)


def _is_parameter(line: bytes) -> bool:
    """A parameter that stands on a line of its own without a blank before it."""
    name = line.split(b"=")[0].split(b"*")[0].rstrip().lower()
    return b"=" in line and b" " + name + b" " in _PARAMETERS


def _before(data: bytes, at: int, pos: int) -> int:
    """Where the CRs before `at` begin: they belong to the line's end, and eight are as good as all."""
    least = max(pos, at - 8)
    while at > least and data[at - 1] == 13:
        at -= 1
    return at


# Transfer encodings (RFC 2045 §6).


def _lenient(text: bytes) -> "tuple[bytes, bytes]":
    """Decode around foreign characters, and around padding in the middle; the rest awaits what comes."""
    done = b""
    rest = b""
    pieces = text.split(b"=")
    for at, piece in enumerate(pieces):
        if piece.strip(_BASE64):
            piece = bytes([byte for byte in piece if byte in _BASE64])
        whole = len(piece) & ~3
        done += a2b_base64(piece[:whole])
        rest = piece[whole:]
        if at < len(pieces) - 1 and len(rest) > 1:
            done += a2b_base64(rest + b"=" * (-len(rest) % 4))
            rest = b""
    return done, rest


def from_quoted(text: bytes, last: bool) -> "tuple[bytes, bytes]":
    """(decoded, what awaits more); what is no code stays as it is."""
    if not last:
        sign = text.find(b"=", max(0, len(text) - 2))
        if sign >= 0:
            done, _ = from_quoted(text[:sign], True)
            return done, text[sign:]
    pieces = text.split(b"=")
    out = [pieces[0]]
    at = 1
    while at < len(pieces):
        piece = pieces[at]
        code = piece[:2]
        if len(code) == 2 and not code.strip(HEX):
            out.append(bytes([int(code, 16)]))
            out.append(piece[2:])
        elif piece[:1] == b"\n":
            out.append(piece[1:])
        elif code == b"\r\n":
            out.append(piece[2:])
        elif not piece and at + 1 < len(pieces):  # "==" is what a broken encoder makes of "="
            at += 1
            out.append(b"=")
            out.append(pieces[at])
        elif piece or not last:
            out.append(b"=")
            out.append(piece)
        at += 1
    return b"".join(out), b""


def decode(data: bytes, declared: str = "", hint: str = "", cut: bool = False) -> "tuple[str, str]":
    """As `charset.decode`; ASCII without the memory that takes."""
    if not data or (max(data) < 128 and b"\x1b" not in data and b"\0" not in data):
        return data.decode(), ""
    from gateway.wire import charset

    return charset.decode(data, declared, hint, cut)


def whole_base64(text: bytes) -> bytes:
    """What a text that is complete stands for."""
    done, rest = _lenient(text)
    return done + a2b_base64(rest + b"=" * (-len(rest) % 4)) if len(rest) > 1 else done
