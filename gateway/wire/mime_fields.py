"""The header fields of a mail, for `mime`: texts, addresses and parameters.

In a file of their own because a board needs them for moments only. MicroPython-safe.
"""

from gateway.wire.mime import HEX, decode, from_quoted, whole_base64

TYPE_CHECKING = False
if TYPE_CHECKING:
    Fields = dict[bytes, bytes]

NAME = 100
"""Characters in the name of an attachment."""
_EXTENSIONS = (
    " image/jpeg:jpg image/jpg:jpg image/pjpeg:jpg image/png:png image/gif:gif image/bmp:bmp image/webp:webp "
    "image/tiff:tif image/svg+xml:svg application/pdf:pdf application/zip:zip application/gzip:gz "
    "application/json:json "
    "application/xml:xml application/ms-tnef:dat application/vnd.ms-tnef:dat text/html:html text/csv:csv text/xml:xml "
    "text/calendar:ics message/delivery-status:txt video/mp4:mp4 video/x-msvideo:avi audio/wav:wav audio/x-wav:wav "
    "audio/mpeg:mp3 "
)  # one text, for a table of pairs would take ten times the memory
_NEVER = "us-ascii"  # charset of what has to be ASCII


def one_line(text: str) -> str:
    """Without line ends and control characters, and without blanks around it."""
    octets = text.encode()
    if not octets or (min(octets) >= 32 and max(octets) < 127):
        return text.strip()
    out = ""
    for letter in text:
        if letter in "\t\n\x0b\x0c\r\x85\u2028\u2029":
            if out[-1:] != " ":
                out += " "
        elif not (letter < " " or "\x7f" <= letter <= "\x9f"):
            out += letter
    return out.strip()


def header_text(value: bytes, hint: str = "") -> str:
    """An unstructured value as one line, encoded words decoded (RFC 2047).

    Words that follow each other are joined before they are decoded: some senders cut between the bytes of a character.
    """
    runs: list[tuple[str, bytes]] = []  # (charset, bytes)
    kind = ""  # the encoding of the last run, "" for bytes as they are
    coded = b""
    at = 0
    value = value.replace(b"\r", b"").replace(b"\n", b"").strip()
    while at < len(value):
        word = _encoded_word(value, at)
        if word is None:
            runs.append(("", value[at:]))
            break
        start, end, charset, encoding, payload = word
        between = value[at:start]
        follows = at > 0 and not between.strip()
        if not follows and between:
            runs.append(("", between))
        if follows and runs[-1][0] == charset and kind == encoding:
            coded += payload
            runs.pop()
        else:
            follows = follows and runs[-1][0] == charset
            coded = payload
        kind = encoding
        done = _from_q(coded) if encoding == "q" else whole_base64(coded)
        runs.append((charset, done))
        at = end
    text = ""
    at = 0
    while at < len(runs):
        charset, data = runs[at]
        while charset and at + 1 < len(runs) and runs[at + 1][0] == charset:
            at += 1
            data += runs[at][1]
        text += decode(data, "" if charset == "-" else charset, hint)[0]
        at += 1
    return one_line(text)


def _encoded_word(value: bytes, at: int) -> "tuple[int, int, str, str, bytes] | None":
    """(start, end, charset, encoding, payload) of the next one."""
    while True:
        start = value.find(b"=?", at)
        if start < 0:
            return None
        parts = value[start + 2 :].split(b"?", 3)
        if len(parts) == 4 and parts[3][:1] == b"=" and parts[1].lower() in (b"b", b"q"):
            charset = parts[0].split(b"*")[0]
            if 0 < len(charset) <= 60 and min(charset) > 32 and max(charset) < 128:
                end = start + 2 + len(parts[0]) + len(parts[1]) + len(parts[2]) + 4
                return start, end, charset.decode().lower() or "-", parts[1].lower().decode(), parts[2]
        at = start + 2


def _from_q(text: bytes) -> bytes:
    return from_quoted(text.replace(b"_", b" "), True)[0]


def mailbox(value: bytes, hint: str = "") -> "tuple[str, str]":
    """(display name, address) of the first mailbox of a field; an address is opaque text, and may be a lone word.

    The old form `root@host (Cron Daemon)` has its name in the comment.
    """
    value = value.replace(b"\r", b"").replace(b"\n", b"").strip()
    words = comment = address = b""
    at = 0
    while at < len(value):
        letter = value[at : at + 1]
        close = {b'"': b'"', b"(": b")", b"<": b">"}.get(letter)
        end = value.find(close, at + 1) if close else -1
        while letter == b'"' and end > 0 and value[end - 1 : end] == b"\\":
            end = value.find(b'"', end + 1)
        if end >= 0:
            inside = value[at + 1 : end]
            if letter == b'"':
                words += _unescaped(inside)
            elif letter == b"(":
                comment = comment or inside
            elif b"@" not in address:
                address = inside.strip()
            at = end + 1
        elif letter in (b",", b";") and (words.strip() or address):
            break
        else:
            words += letter
            at += 1
    words = words.strip()
    if not address:
        parts = words.split()
        found = [part for part in parts if b"@" in part] or (parts if len(parts) == 1 else [])
        if found and not found[0].endswith(b":"):
            address = found[0]
            words = b" ".join([part for part in parts if part != address])
    return header_text(words or comment, hint), one_line(decode(address, "", hint)[0])


def parameters(value: bytes) -> "tuple[str, Fields]":
    """The main value in lower case, and the parameters as they are (RFC 2045 §5.1), the first of each name."""
    value = b" ".join(value.split())
    end = len(value)
    for stop in b'; "=':
        at = value.find(bytes([stop]))
        if 0 <= at < end:
            end = at
    main = decode(value[:end], _NEVER)[0].lower()
    found: Fields = {}
    at = end
    while at < len(value) and len(found) < 64:
        if value[at] in b"; ":
            at += 1
            continue
        semicolon = value.find(b";", at)
        if semicolon < 0:
            semicolon = len(value)
        sign = value.find(b"=", at, semicolon)
        name = value[at:sign].strip().lower() if sign >= 0 else b""
        if not name or b" " in name or b'"' in name:
            at = semicolon
            continue
        at = sign + 1
        while value[at : at + 1] == b" ":
            at += 1
        if value[at : at + 1] == b'"':
            close = value.find(b'"', at + 1)
            while close > 0 and value[close - 1] == 92 and value[close - 2] != 92:
                close = value.find(b'"', close + 1)
            if close < 0:
                close = len(value)
            given = _unescaped(value[at + 1 : close])
            at = close + 1
        else:
            given = value[at:semicolon]
            # It may hold blanks, unless behind one the next parameter begins, whose semicolon was forgotten.
            sign = given.find(b"=")
            blank = given.rfind(b" ", 0, given[:sign].rstrip().__len__()) if sign > 0 else -1
            if blank > 0:
                given = given[:blank]
            at += len(given)
            given = given.strip()
        if name not in found:
            found[name] = given
    return main, found


def _unescaped(quoted: bytes) -> bytes:
    """The inside of a quoted string; backslashes that escape nothing are part of some Windows path."""
    return quoted.replace(b'\\"', b'"').replace(b"\\\\", b"\\")


def parameter(found: "Fields", name: bytes, hint: str = "") -> str:
    """One parameter as text: its RFC 2231 pieces joined and decoded, or its encoded words; "" if it is not there."""
    pieces: list[tuple[int, bytes]] = []
    charset = ""
    for key in found:
        parts = key.split(b"*")
        if len(parts) < 2 or len(parts) > 3 or parts[0] != name:
            continue
        raw = found[key]
        number = int(parts[1]) if parts[1] and len(parts[1]) < 4 and not parts[1].strip(b"0123456789") else 0
        if not parts[-1]:
            if number == 0 and raw.count(b"'") >= 2:
                label, _, raw = raw.split(b"'", 2)
                charset = decode(label, _NEVER)[0]
            raw = _unquoted(raw)
        pieces.append((number, raw))
    if not pieces:
        return header_text(found.get(name, b""), hint)
    pieces.sort()
    return one_line(decode(b"".join([raw for _, raw in pieces]), charset, hint)[0])


def _unquoted(raw: bytes) -> bytes:
    pieces = raw.split(b"%")
    out = pieces[0]
    for piece in pieces[1:]:
        code = piece[:2]
        is_code = len(code) == 2 and not code.strip(HEX)
        out += bytes([int(code, 16)]) + piece[2:] if is_code else b"%" + piece
    return out


def file_name(name: str, kind: str, number: int) -> str:
    """A base name of at most `NAME` characters, its extension kept; one made from the type if nothing is left."""
    name = name.replace("\\", "/").split("/")[-1]
    out = ""
    if not [octet for octet in name.encode() if octet < 32 or octet > 126 or octet in b'<>:"|?*']:
        out, name = name, ""  # nearly all: MicroPython keeps each letter of a text that it is asked for
    for letter in name:
        code = ord(letter)
        if code < 32 or 0x7F <= code < 0xA0 or 0x200B <= code < 0x2010 or 0x2028 <= code < 0x202F or code == 0xFEFF:
            continue
        if letter in '<>:"|?*':
            letter = "" if out[-1:] == "_" else "_"
        out += letter
    out = out.strip(" .")
    if not out:
        if kind == "message/rfc822":
            return "message.eml"
        stem = "picture" if kind[:6] == "image/" else "attachment"
        at = _EXTENSIONS.find(" " + kind + ":")
        tail = (
            _EXTENSIONS[at + len(kind) + 2 :].split(" ", 1)[0] if at >= 0 else "txt" if kind[:5] == "text/" else "bin"
        )
        return f"{stem}-{number}.{tail}"
    stem = out.split(".")[0].lower()
    if stem in ("con", "prn", "aux", "nul") or (stem[:3] in ("com", "lpt") and stem[3:].isdigit() and len(stem) == 4):
        out = "_" + out  # Windows opens these as devices
    if len(out) > NAME:
        dot = out.rfind(".")
        tail = out[dot:] if dot > 0 and len(out) - dot <= 11 else ""
        out = out[: NAME - len(tail)].rstrip(" .") + tail
    return out
