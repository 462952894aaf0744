"""Fuzzes `wire.link`: whatever comes, no message is handed over twice or out of order, all that goes out is whole, and
nothing grows.

An input is one byte for what the application says (kept, later, never, by turns of its bits), one for where to cut, and
the stream. In the stream, what stands between two bytes 0x01 becomes the JSON of a frame: no fuzzer guesses a CRC.
"""

from binascii import crc_hqx
from collections.abc import Iterator

from gateway.wire.frame import FRAME, LINE, Decoder
from gateway.wire.link import ACKED, BAD, BOOTS, BUSY, MESSAGE, REFUSED, WINDOW, Link
from tests.fuzz.cut import cut

WORDS = [
    b"\x01", b'\x01{"t":"event","boot":"b","n":1,"event":{}}\x01', b'{"t":"notify","boot":"b","n":', b',"from":1',
    b'{"t":"hello","boot":"b","line":1024,"window":1,"n":1}', b',"you":"me"', b'{"t":"ack","boot":"me","n":1}',
    b'{"t":"nak","boot":"me","n":2,"reason":"bad"}', b'"busy"', b'{"t":"ping"}', b'{"t":"pong","boot":"me"}', b"null",
    b'{"t":"do"}', b"-1", b"1e9", b"true", b"9007199254740993", b"\n", b":{",
]  # fmt: skip


def seeds() -> Iterator[bytes]:
    def stream(*messages: bytes) -> bytes:
        return b"".join(b"\x01" + message + b"\x01" for message in messages)

    hello = b'{"t":"hello","boot":"b","line":2000,"window":2,"n":1,"you":"me"}'
    event = b'{"t":"event","boot":"b","n":%d,"from":%d,"event":{"title":"Water"}}'
    yield b"\0\0" + stream(hello, event % (1, 1), event % (2, 1), event % (1, 1), event % (3, 3))
    yield b"\x55\x05boot\r\n" + stream(event % (3, 1), event % (2, 1), event % (1, 1), event % (1, 1), event % (9, 9))
    yield b"\xff\x40" + stream(*[event % (number, 1) for number in (1, 1, 2, 2, 3, 3)])
    yield b"\0\x30" + stream(*[b'{"t":"event","boot":"%d","n":1,"event":{}}' % number for number in range(12)])
    yield b"\0\x21" + stream(hello, b'{"t":"nak","boot":"me","n":1,"reason":"busy"}', b'{"t":"ack","boot":"me","n":2}')


def fuzz_link(data: bytes) -> None:
    """AssertionError if the link does not do as its file says; nothing else is raised."""
    moods = data[0] if data else 0
    stream = b"".join(
        b":%s*%04x\n" % (part, crc_hqx(part, 0xFFFF)) if number % 2 else part
        for number, part in enumerate(data[2:].split(b"\x01"))
    )
    side = Link("me", {"firmware": "fuzz"}, 0)
    answered: dict[str, int] = {}  # boot -> the highest number that was kept, or never will be
    settled: list[int] = []
    boots: set[str] = set()
    now = 0
    for piece in cut(stream, data[1] if len(data) > 1 else 0):
        now += 700
        if side.room:
            side.send("event", {"now": now})
        waiting = side.feed(piece, now)
        while waiting:
            event = waiting.pop(0)
            if event[0] in (ACKED, REFUSED):
                settled.append(event[1])
            if event[0] != MESSAGE or not event[2]:
                continue
            boot, n = event[1:3]
            boots.add(boot)
            if len(boots) <= BOOTS:
                assert n > answered.get(boot, 0)
            mood = moods >> (n % 4 * 2) & 3
            if mood == 1:
                side.refuse(boot, n, BUSY)
            else:
                answered[boot] = n
                waiting += side.refuse(boot, n, BAD) if mood == 2 else side.accept(boot, n)
        while line := side.take(now):
            assert len(line) <= (side.line if side.peer else LINE)
            assert [kind for kind, _ in Decoder().feed(line)] == [FRAME]
        assert 0 <= side.wait(now) <= 30_000
        assert len(side.unanswered) <= WINDOW
        assert len(side._inbound) <= BOOTS
        assert all(len(one.ahead) < WINDOW and len(one.refused) <= 16 for one in side._inbound)
    assert len(settled) == len(set(settled))
