"""The values of header fields: encoded words, addresses, parameters, dates; all of them forgiving and bounded.

What comes out is one line of text. Line ends and control characters are taken away after every decoding, so no
subject can reach a log, a topic or an outbound header as two lines. The standard library's readers of parameters and
addresses are not used here: their time grows with the square of hostile input.
"""

from __future__ import annotations

import binascii
import re
from datetime import datetime, timedelta
from functools import lru_cache
from urllib.parse import unquote_to_bytes

from gateway.interpret import charset, transfer

LIMIT = 4096  # bytes of one value that are read
MAX_PARAMETERS = 64  # of one value: a name in pieces has some, a thousand parts with hundreds would fill the memory

_BREAKS = re.compile("[\t-\r\x85\u2028\u2029]+")
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f]+")
_ENCODED_WORD = re.compile(rb"=\?([^?\s]{1,60})\?([bBqQ])\?([^?]*)(?:\?=|(?<=[^?]{8})\??\Z)")  # the last may be cut off
_ADDRESS_TOKEN = re.compile(
    rb'"((?:[^"\\]|\\.)*+)"'  # quoted string
    rb"|\(([^()]*+)\)"  # comment
    rb"|<([^<>]*+)>"
    rb"|([,;])"
    rb'|[^",;(<]++|.',
    re.DOTALL,
)
_AFTER_MAIN_VALUE = re.compile(rb'[;\s"=]')
# Unquoted values may hold blanks, unless what follows the blank is the next parameter without its semicolon.
# What is no parameter is skipped in one step up to the next semicolon.
_PARAMETER = re.compile(
    rb'[;\s]*+(?:([^\s=;"]++)\s*=\s*(?:"((?:[^"\\]|\\.)*+)"?|([^;"\s]?[^;\s]*+(?: (?![\w*-]++ ?=)[^;\s]++)*+))|[^;]++)',
    re.DOTALL,
)
_CONTINUATION = re.compile(rb"(.+?)(?:\*(\d{1,3}))?(\*)?")


def one_line(text: str) -> str:
    """Without line ends and control characters, and without blanks around it."""
    if not text.isprintable():
        text = _CONTROLS.sub("", _BREAKS.sub(" ", text))
    return text.strip()


def unfolded(value: bytes) -> bytes:
    """The value on one line (RFC 5322 §2.2.3), cut at `LIMIT`."""
    if b"\n" in value:
        value = value[: 2 * LIMIT].translate(None, b"\r\n")
    return value[:LIMIT].strip()


def text(value: bytes, hint: str = "") -> tuple[str, str]:
    """An unstructured value as one line, encoded words decoded (RFC 2047), and how its charset was found."""
    value = unfolded(value)
    if b"=?" not in value:
        decoded, how = charset.decode(value, "", hint)
        return one_line(decoded), how
    # Some senders cut between the bytes of a character, or even inside a group of base64: so words that follow each
    # other are joined as long as they speak of the same encoding, then of the same charset, and only then decoded.
    words: list[tuple[str, str, bytes]] = []  # charset, encoding ("" = as it is), payload
    end = 0
    for word in _ENCODED_WORD.finditer(value):
        between = value[end : word.start()]
        if between.strip() or not words:
            words.append(("", "", between))
        name, encoding, payload = word[1].decode("latin-1").partition("*")[0].lower(), word[2].decode().lower(), word[3]
        if words[-1][:2] == (name, encoding):
            payload = words.pop()[2] + payload
        words.append((name, encoding, payload))
        end = word.end()
    words.append(("", "", value[end:]))
    runs: list[tuple[str, bytes]] = []
    for name, encoding, payload in words:
        if encoding == "b":
            payload = transfer.base64(payload)
        elif encoding == "q":
            payload = binascii.a2b_qp(payload, header=True)
        runs.append((name, runs.pop()[1] + payload if runs and runs[-1][0] == name else payload))
    pieces = [charset.decode(payload, name, hint) for name, payload in runs]
    return one_line("".join(piece for piece, _ in pieces)), "; ".join(dict.fromkeys(how for _, how in pieces if how))


def addresses(value: bytes, hint: str = "") -> tuple[tuple[str, str], ...]:
    """(display name, address) of each mailbox; an address is opaque text, and also a lone word without "@" is one.

    The old form `root@host (Cron Daemon)` has its name in the comment.
    """
    return _addresses(unfolded(value), hint)


@lru_cache(maxsize=128)  # the same few devices write again and again
def _addresses(value: bytes, hint: str) -> tuple[tuple[str, str], ...]:
    found: list[tuple[str, str]] = []
    words, comment, address = b"", b"", b""
    for token in (*_ADDRESS_TOKEN.finditer(value), None):
        if token is None or token[4]:
            found += _mailbox(words, comment, address, hint)
            words, comment, address = b"", b"", b""
        elif token[1] is not None:
            words += _unescaped(token[1])
        elif token[2] is not None:
            comment = comment or token[2]
        elif token[3] is not None:
            address = address if b"@" in address else token[3].strip()
        else:
            words += token[0]
    return tuple(found)


def _mailbox(words: bytes, comment: bytes, address: bytes, hint: str) -> list[tuple[str, str]]:
    words = words.strip()
    if not address:
        parts = words.split()
        at = [part for part in parts if b"@" in part] or (parts if len(parts) == 1 else [])
        if at and not at[0].endswith(b":"):
            address = at[0]
            words = b" ".join(part for part in parts if part is not address)
    if not (address or words) or words.endswith(b":"):
        return []
    name = text(words or comment, hint)[0]
    return [(name, one_line(charset.decode(address, "", hint)[0]))]


def parameters(value: bytes) -> tuple[str, dict[bytes, bytes]]:
    """The main value in lower case and the raw parameters (RFC 2045 §5.1) of a Content-* field, first ones first.

    What is beyond `LIMIT` and `MAX_PARAMETERS` is not read.
    """
    value = b" ".join(unfolded(value).split())
    main = _AFTER_MAIN_VALUE.split(value, 1)[0]
    found: dict[bytes, bytes] = {}
    for part in _PARAMETER.finditer(value, len(main)):
        if part[1] is None:
            continue
        raw = part[3] if part[2] is None else _unescaped(part[2])
        found.setdefault(part[1].lower(), raw)
        if len(found) == MAX_PARAMETERS:
            break
    return main.decode("latin-1").lower(), found


def _unescaped(quoted: bytes) -> bytes:
    """The inside of a quoted string; backslashes that escape nothing are part of some Windows path."""
    return quoted.replace(b'\\"', b'"').replace(b"\\\\", b"\\")


def parameter(found: dict[bytes, bytes], name: bytes, hint: str = "") -> str:
    """One parameter as text, its RFC 2231 pieces joined and decoded, or its encoded words; "" if absent."""
    pieces: list[tuple[int, bytes]] = []
    declared = ""
    for key, raw in found.items():
        split = _CONTINUATION.fullmatch(key) if key.startswith(name + b"*") else None
        if split is None or split[1] != name:
            continue
        number = int(split[2] or 0)
        if split[3]:
            if number == 0 and raw.count(b"'") >= 2:
                label, _, raw = raw.split(b"'", 2)
                declared = label.decode("latin-1")
            raw = unquote_to_bytes(raw)
        pieces.append((number, raw))
    if not pieces:  # the extended form wins: the plain one beside it is its ASCII substitute
        return text(found.get(name, b""), hint)[0]
    joined = b"".join(raw for _, raw in sorted(pieces))
    return one_line(charset.decode(joined, declared, hint)[0])


def date(value: bytes) -> str | None:
    """A Date field as ISO 8601 in UTC; None if it says no point in time. Without a zone it is taken as UTC."""
    from email.utils import parsedate_tz  # brings much, and no event needs it

    try:
        parsed = parsedate_tz(unfolded(value)[:100].decode("ascii", "replace"))
        if parsed is None:
            return None
        moment = datetime(*parsed[:6]) - timedelta(seconds=parsed[9] or 0)  # the difference makes it UTC
    except (ValueError, IndexError, TypeError, OverflowError):
        return None
    return moment.isoformat() + "Z"
