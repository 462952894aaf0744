"""Fuzzes `wire.frame`: whatever comes, in whatever pieces, exactly the intact frames are found, and the rest is noise.

An input is one byte for the limit of a line, one for where to cut, and the stream. In the stream, what stands between
two bytes 0x01 becomes the JSON of a frame: no fuzzer guesses a CRC.
"""

import json
from binascii import crc_hqx
from collections.abc import Iterator
from typing import Any

from gateway.wire.frame import DEPTH, FRAME, LINE, MAX_LINE, NOISE, Decoder, encode
from tests.fuzz.cut import cut

WORDS = [
    b":", b"*", b"\n", b"\r\n", b"\x01", b'\x01{"n":1}\x01', b":{", b"}*0000\n", b"\\ud83d\\ude42", b"\\ud800", b"NaN",
    b"1e999", b"[[[[[[[[", b'{"t":"event","n":', b">>> ", b'"', b"\\", b",", b"null", b"\x00", b"\xff",
]  # fmt: skip


def seeds() -> Iterator[bytes]:
    event = (
        b'{"t":"event","n":7,"event":{"v":1,"kind":"motion","data":{"channel":"A1"},"text":"T\\u00fcr \\ud83d\\ude42"}}'
    )
    yield b"\0\0\x01" + event + b"\x01"
    yield b"\0\x05boot ok\r\n>>> \x01" + event + b'\x01\x01{"t":"ping"}\x01:{"t":"ping"}*0000\n'
    yield b"\0\x40" + b"x" * 3000 + b'\x01{"t":"ack","n":1}\x01'
    yield b"\xff\x80\x01" + b'{"text":"' + b"y" * 4000 + b'"}\x01'
    yield b"\0\x21\x01" + b'{"a":' + b"[" * 200 + b"]" * 200 + b"}\x01"
    yield b'\0\x21\x01{"a":NaN,"b":1e999,"c":"\\ud800"}\x01:{"half\x01{"n":2}\x01'


def fuzz_frame(data: bytes) -> None:
    """AssertionError if the decoder does not do as its file says; nothing else is raised."""
    limit = min(MAX_LINE, LINE + 32 * data[0]) if data else LINE
    stream = b"".join(
        b":%s*%04x\n" % (part, crc_hqx(part, 0xFFFF)) if number % 2 else part
        for number, part in enumerate(data[2:].split(b"\x01"))
    )
    decoder = Decoder()
    decoder.agree(limit)
    events = []
    for piece in cut(stream, data[1] if len(data) > 1 else 0):
        events += decoder.feed(piece)
        assert len(decoder._kept) < 2 * limit
    kept = decoder._kept
    assert between_frames(events) == between_frames(by_hand(stream.removesuffix(kept), limit))
    assert stream.endswith(kept)
    assert events == whole(stream, limit)
    for kind, message in events:
        if kind == FRAME:
            message["whole"] = True  # one that is empty has nothing to compare
            check_round_trip(message)


def whole(stream: bytes, limit: int) -> list[tuple[int, Any]]:
    decoder = Decoder()
    decoder.agree(limit)
    return decoder.feed(stream)


def check_round_trip(message: dict[str, Any]) -> None:
    try:
        line = encode(message, MAX_LINE)
    except ValueError as refused:
        assert "makes a line of" in str(refused)  # noqa: PT017  # there is no pytest under atheris
        return
    assert line.isascii()
    assert b" " not in line or " " in str(message)
    assert whole(line, MAX_LINE) == [(FRAME, message)]


def between_frames(events: list[tuple[int, Any]]) -> list[Any]:
    """Frames, and the noise before and behind each in one piece."""
    merged: list[Any] = [b""]
    for kind, value in events:
        if kind == NOISE:
            merged[-1] += value
        else:
            merged += [value, b""]
    return merged


def by_hand(stream: bytes, limit: int) -> list[tuple[int, Any]]:
    """What is in a stream, found by trying each place of each line; the last line may be one without its LF."""
    events: list[tuple[int, Any]] = []
    *lines, rest = stream.split(b"\n")
    for line in lines:
        line = line.removesuffix(b"\r")
        body, star, digits = line[:-5], line[-5:-4], line[-4:]
        starts = [at for at in range(len(body)) if body[at] == 58 and len(line) - at < limit]
        for at in reversed(
            starts if star == b"*" and all(digit in b"0123456789abcdefABCDEF" for digit in digits) else []
        ):
            message = message_of(body[at + 1 :], int(digits, 16))
            if message is not None:
                events += [(NOISE, line[:at]), (FRAME, message)]
                break
        else:
            events.append((NOISE, line))
    return [*events, (NOISE, rest)]


def message_of(body: bytes, crc: int) -> dict[str, Any] | None:
    if crc_hqx(body, 0xFFFF) != crc or not all(32 <= byte <= 126 for byte in body) or body[:1] + body[-1:] != b"{}":
        return None
    try:
        message = json.loads(body)
        json.dumps(message, allow_nan=False)
    except (ValueError, RecursionError):
        return None
    mended: dict[str, Any] | None = mend(message)
    return mended if depth_of(message) <= DEPTH else None


def mend(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if isinstance(value, dict):
        return {mend(key): mend(item) for key, item in value.items()}
    return [mend(item) for item in value] if isinstance(value, list) else value


def depth_of(value: Any) -> int:
    if not isinstance(value, dict | list):
        return 0
    return 1 + max(map(depth_of, value.values() if isinstance(value, dict) else value), default=0)
