"""Serial frames: a message to a line and back, and whatever else a console prints told apart from it; no I/O.

The law of this file:

- One frame is one line: `:` JSON `*` four hexadecimal digits LF. The JSON is an object in ASCII without blanks; the
  digits are CRC-16/CCITT-FALSE of its bytes (polynomial 0x1021, begins with 0xFFFF). A CR before the LF is taken,
  for consoles make CRLF of LF.
- What is no frame is noise, and comes out as it came in. An intact frame is found whatever was before it, also on
  its own line: a boot loader's words, half a frame, a prompt.
- No input raises, and no more is kept than twice the limit of a line. Where the input is cut changes nothing.
- A message that has no form in JSON is refused where it is written, not where it would be read.

Frames say nothing of delivery: numbers, acknowledgements and repetition are the messages' own business.
MicroPython-safe.
"""

import json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Message = dict[str, Any]
    Event = tuple[int, Any]

FRAME = 1
"""`(FRAME, message)`: a dict as the sender had it."""
NOISE = 2
"""`(NOISE, bytes)`: what is no frame, a line at a time and without its end; a long one in pieces."""

LINE = 1024
"""Octets in a line, from `:` to LF, until both sides have agreed on more."""
MAX_LINE = 4096
"""Octets on which two sides may agree."""
DEPTH = 16
"""Objects and lists inside each other in a message: a board's stack is small."""

_AROUND = 7  # octets of a line that are not JSON: `:`, `*`, four digits, LF
_START = 0xFFFF
_DIGITS = b"0123456789ABCDEFabcdef"


def encode(message: "Message", limit: int = LINE) -> bytes:
    """The line of a message. ValueError if that is longer than `limit`, or has no form in JSON."""
    if not isinstance(message, dict):
        raise ValueError("a message is a dict")
    text = json.dumps(_clean(message, DEPTH), separators=(",", ":"))
    if max(text.encode()) > 126:
        text = "".join([letter if letter <= "~" else _escaped(ord(letter)) for letter in text])
    body = text.encode()
    if len(body) + _AROUND > limit:
        raise ValueError(f"this message makes a line of {len(body) + _AROUND} octets, and {limit} are agreed on")
    return b":%s*%04X\n" % (body, crc16(body))


def crc16(data: bytes) -> int:
    """CRC-16/CCITT-FALSE: 0x29B1 for `123456789`."""
    crc = _START
    for byte in data:
        x = (crc >> 8) ^ byte
        x ^= x >> 4
        crc = ((crc << 8) ^ (x << 12) ^ (x << 5) ^ x) & 0xFFFF
    return crc


class Decoder:
    """Bytes of any shape in, frames and noise out, in order."""

    __slots__ = ("_kept", "_limit")

    def __init__(self) -> None:
        self._kept = b""  # the start of a line; without a frame in it
        self._limit = LINE

    def agree(self, limit: int) -> None:
        """Lines may be so long from now on; never shorter than `LINE`, never longer than `MAX_LINE`."""
        self._limit = max(LINE, min(limit, MAX_LINE))

    def feed(self, data: bytes) -> "list[Event]":
        """Take what was read; return what was in it."""
        events: list[Event] = []
        if self._kept:
            data = self._kept + data
        limit = self._limit
        pos = 0
        while True:
            end = data.find(b"\n", pos)
            stop = len(data) if end < 0 else end
            while stop - pos >= 2 * limit:
                events.append((NOISE, data[pos : pos + limit]))
                pos += limit
            if end < 0:
                break
            _read(data[pos:end], limit, events)
            pos = end + 1
        self._kept = data[pos:]
        return events


def _read(line: bytes, limit: int, events: "list[Event]") -> None:
    """A line without its LF: noise, or a frame with noise before it."""
    if line.endswith(b"\r"):
        line = line[:-1]
    end = len(line) - 5
    if end > 0 and line[end : end + 1] == b"*" and not line[end + 1 :].strip(_DIGITS):
        # The CRC is run backwards from the digits: where it comes to the value that it begins with, a frame may
        # begin. So all places are tried in the time of one.
        crc = int(line[end + 1 :].decode(), 16)
        least = max(1, len(line) + 2 - limit)  # its `:` is at `at - 1`
        at = end
        while at >= least:
            if crc == _START and line[at - 1] == 58:
                message = _message(line[at:end])
                if message is not None:
                    if at > 1:
                        events.append((NOISE, line[: at - 1]))
                    events.append((FRAME, message))
                    return
            at -= 1
            low = crc & 0xFF
            x = low ^ ((low & 7) << 5)
            crc = ((x ^ (x >> 4) ^ line[at]) << 8) | ((crc >> 8) ^ ((x << 4) & 0xFF) ^ (x >> 3))
    if line:
        events.append((NOISE, line))


def _message(body: bytes) -> "Message | None":
    if body[:1] != b"{" or body[-1:] != b"}" or min(body) < 32 or max(body) > 126:
        return None
    try:
        message = json.loads(body.decode())
        return _clean(message, DEPTH) if isinstance(message, dict) else None
    except (ValueError, RuntimeError):  # no JSON, or nested more deeply than the stack allows
        return None


def _clean(value: "Any", depth: int) -> "Any":
    """The value with its texts made whole. ValueError for what JSON has no form for."""
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, str):
        return _whole(value)
    if isinstance(value, float):
        if value - value == 0:
            return value
        raise ValueError("a number that is not finite has no form in JSON")
    if not depth:
        raise ValueError(f"this message is nested more than {DEPTH} deep")
    if isinstance(value, (list, tuple)):
        return [_clean(item, depth - 1) for item in value]
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise ValueError("a key in a message is text")
        return {_whole(key): _clean(item, depth - 1) for key, item in value.items()}
    raise ValueError(f"{type(value).__name__} has no form in JSON")


def _whole(text: str) -> str:
    """With each pair of surrogates as its character (MicroPython's json leaves them), and lone ones as U+FFFD."""
    if not text or max(text.encode("utf-8", "surrogatepass")) < 0xED:
        return text
    out = ""
    high = 0
    for letter in text:
        code = ord(letter)
        if 0xDC00 <= code < 0xE000:
            out += chr(0x10000 + ((high - 0xD800) << 10) + code - 0xDC00) if high else "\ufffd"
            high = 0
            continue
        if high:
            out += "\ufffd"
        high = code if 0xD800 <= code < 0xDC00 else 0
        if not high:
            out += letter
    return out + "\ufffd" if high else out


def _escaped(code: int) -> str:
    if code < 0x10000:
        return f"\\u{code:04x}"
    code -= 0x10000
    return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"
