"""Content transfer encodings (RFC 2045 §6) undone in slices, so that a 20 MB picture costs a slice of memory.

Damage never stops the decoding: what can be decoded is, and the caller is told that something was wrong.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmap import mmap

    Buffer = bytes | mmap

SLICE = 192 * 1024  # bytes of the mail per step: a multiple of four lines of base64 would be no faster

_LINE = 1024  # bytes in which a slice's last line is to end

_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
UUENCODED = ("x-uuencode", "uuencode", "x-uue", "uue")
_BLANKS = b"\r\n\t \0"
_NOT_BASE64 = bytes(set(range(256)) - set(_ALPHABET + b"="))
_PADDING = re.compile(rb"=+")


def decoded(raw: Buffer, start: int, end: int, encoding: str, damage: list[str]) -> Iterator[bytes]:
    """The decoded bytes of `raw[start:end]` in pieces; words for what was wrong are appended to `damage`.

    Unknown encodings, 7bit, 8bit and binary mean: the bytes as they are.
    """
    if encoding == "base64":
        return _base64(raw, start, end, damage)
    if encoding in UUENCODED:
        return _uuencoded(raw, start, end, damage)
    if encoding == "quoted-printable":
        return _quoted_printable(raw, start, end)
    return (raw[at : min(at + SLICE, end)] for at in range(start, end, SLICE))


def uuencoded(line: bytes) -> bytes | None:
    """The bytes that a line says, None if it can't be one; blanks at its end may have been lost."""
    line = line.rstrip(b"\r\n")
    if not line or not 0x20 <= line[0] <= 0x60:
        return None
    length = (line[0] - 0x20 & 63) * 4 // 3 + 2
    try:
        return binascii.a2b_uu(line[:length])  # some put a checksum behind it
    except binascii.Error:
        return None


def is_base64(sample: bytes) -> bool:
    """False for text that only claims to be base64: more than a tenth of it is outside the alphabet."""
    text = sample.translate(None, b"\r\n")
    return len(text.translate(None, _NOT_BASE64)) * 10 > len(text) * 9


def base64(data: bytes) -> bytes:
    """A short piece of base64, however damaged."""
    done, rest = _lenient(data)
    return done + _quanta(rest)


def _base64(raw: Buffer, start: int, end: int, damage: list[str]) -> Iterator[bytes]:
    from pybase64 import b64decode  # of use, and in memory, where there is an attachment

    rest = b""
    while start < end:
        text = raw[start : min(start + SLICE, end)]
        if start + SLICE < end:
            text = text[: text.rfind(b"\n", -_LINE) + 1] or text
        start += len(text)
        if not rest and (length := _regular(text)):
            with suppress(binascii.Error):
                piece = b64decode(text)  # this drops all that is no letter
                if len(piece) == length:  # which was nothing but the line ends
                    yield piece
                    continue
        clean = rest + text.translate(None, _BLANKS)
        whole = len(clean) & ~3
        try:
            piece, rest = b64decode(clean[:whole], validate=True), clean[whole:]
        except binascii.Error:
            if not damage:
                damage.append("damaged base64")
            piece, rest = _lenient(clean)
        yield piece
    if rest:
        letters = rest.rstrip(b"=")
        if not damage and (len(letters) % 4 == 1 or letters.translate(None, _ALPHABET)):
            damage.append("damaged base64")
        yield base64(rest)


def _regular(text: bytes) -> int:
    """How many bytes lines of one length say, if all of them are letters; 0 if they are none."""
    line = text.find(b"\n") + 1
    ends = 2 if text[line - 2 : line - 1] == b"\r" else 1
    whole = len(text) // line if line else 0
    if not whole or any(text[line - at :: line][:whole].strip(b"\r\n") for at in range(1, ends + 1)):
        return 0
    letters = whole * (line - ends) + len(text[whole * line :].rstrip(_BLANKS))
    return letters // 4 * 3 - text.rstrip(_BLANKS).count(b"=", -2) if letters % 4 == 0 else 0


def _lenient(text: bytes) -> tuple[bytes, bytes]:
    """Decode around foreign characters and around padding in the middle; the rest awaits the next slice."""
    text = text.translate(None, _NOT_BASE64)
    # Padding in the middle ends a piece that was encoded by itself. A thousand of them in a slice are noise.
    *pieces, tail = _PADDING.split(text) if text.count(b"=") < 1000 else [text.translate(None, b"=")]
    whole = len(tail) & ~3
    return b"".join(map(_quanta, pieces)) + binascii.a2b_base64(tail[:whole]), tail[whole:]


def _quanta(text: bytes) -> bytes:
    """One run of base64 with its padding missing or not; a single left-over character says nothing and is dropped."""
    return binascii.a2b_base64(text[: len(text) - (len(text) % 4 == 1)] + b"==")


def _quoted_printable(raw: Buffer, start: int, end: int) -> Iterator[bytes]:
    while start < end:
        piece = raw[start : min(start + SLICE, end)]
        if start + len(piece) < end:
            # Never cut between "=" and the two characters that belong to it.
            sign = piece.find(b"=", len(piece) - 2)
            piece = piece[:sign] if sign > 0 else piece
        start += len(piece)
        yield binascii.a2b_qp(piece)


def _uuencoded(raw: Buffer, start: int, end: int, damage: list[str]) -> Iterator[bytes]:
    """Lines up to the one that says "end", with or without the one that says "begin"."""
    while start < end:
        piece = raw[start : min(start + SLICE, end)]
        if start + len(piece) < end:
            piece = piece[: piece.rfind(b"\n") + 1] or piece
        start += len(piece)
        out = []
        for line in piece.splitlines():
            if line.rstrip() == b"end":
                start = end
                break
            if line.startswith(b"begin ") or not line.strip():
                continue
            data = uuencoded(line)
            if data is not None:
                out.append(data)
            elif not damage:
                damage.append("damaged uuencode")
        yield b"".join(out)
