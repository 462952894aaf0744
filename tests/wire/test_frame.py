"""Serial frames: the vectors on CPython, what no vector can say, and properties. See also tests/fuzz/frame.py."""

import json
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.wire import frame
from gateway.wire.frame import FRAME, MAX_LINE, NOISE, Decoder, crc16, encode
from tests.fuzz.frame import fuzz_frame
from tests.wire.play_frames import differences

VECTORS = Path(__file__).parents[1] / "vectors" / "frames.jsonl"
PING = encode({"t": "ping"})

TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)  # no surrogates
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)
MESSAGES = st.dictionaries(TEXTS, VALUES, max_size=5).filter(lambda message: fits(message))
GARBAGE = st.one_of(
    st.binary(max_size=200),
    st.lists(st.sampled_from([b":", b"{", b"}", b"*", b"00", b"F", b"\n", b"\r", b":{", PING[:-3]])).map(b"".join),
)


def fits(message):
    try:
        return bool(encode(message, MAX_LINE))
    except ValueError:
        return False


def decoder():
    made = Decoder()
    made.agree(MAX_LINE)
    return made


def frames(events):
    return [message for kind, message in events if kind == FRAME]


def test_vectors():
    assert list(differences(VECTORS, frame)) == []
    abouts = [json.loads(line)["about"] for line in VECTORS.read_text("utf-8").splitlines()]
    assert len(set(abouts)) == len(abouts) > 35


def test_the_check_value_of_the_crc():
    assert crc16(b"123456789") == 0x29B1  # in Greg Cook's catalogue of CRC algorithms
    assert crc16(b"") == 0xFFFF


@pytest.mark.parametrize(
    ("message", "why"),
    [
        ({"text": "x" * 1007}, "this message makes a line of 1025 octets, and 1024 are agreed on"),
        ({"at": float("nan")}, "a number that is not finite has no form in JSON"),
        ({"at": [float("-inf")]}, "a number that is not finite has no form in JSON"),
        ({"at": b"x"}, "bytes has no form in JSON"),
        ({"at": {1: 2}}, "a key in a message is text"),
        ({"at": eval("[" * 16 + "]" * 16)}, "this message is nested more than 16 deep"),
        (["ping"], "a message is a dict"),
    ],
)  # fmt: skip
def test_a_message_that_has_no_line(message, why):
    with pytest.raises(ValueError, match=why):
        encode(message)


def test_a_longer_line_by_agreement():
    line = encode({"text": "x" * 1006 + "y"}, 2048)
    assert frames(Decoder().feed(line)) == []
    assert frames(decoder().feed(line)) == [{"text": "x" * 1006 + "y"}]


def test_a_lone_surrogate_is_a_replacement_character():
    assert encode({"\ud83d": "a\ude42\ud83d"}).startswith(b':{"\\ufffd":"a\\ufffd\\ufffd"}*')


def test_memory_does_not_grow_with_an_endless_line():
    endless = Decoder()
    pieces = [endless.feed(b":{" * 500) for _ in range(100)]
    assert b"".join(noise for events in pieces for _, noise in events) + endless._kept == b":{" * 50_000
    assert len(endless._kept) < 2048


def test_a_hostile_line_takes_the_time_of_any_other():
    """Every place may be a frame's beginning; none costs a CRC of its own (nor a time that a test could measure)."""
    line = b":{" * 2047 + b"*0000\n"
    assert decoder().feed(line) == [(NOISE, line[:-1])]


@settings(deadline=None)
@given(st.lists(st.tuples(GARBAGE, MESSAGES), max_size=4), GARBAGE, st.lists(st.integers(1, 300), min_size=1))
@example([(b":{}*FFFF\r", {})], b":", [1])
def test_every_intact_frame_is_found_after_any_garbage(story, rest, sizes):
    stream = b"".join(garbage + encode(message, MAX_LINE) for garbage, message in story) + rest
    events, made, at = [], decoder(), 0
    while at < len(stream):
        size = sizes[at % len(sizes)]
        events += made.feed(stream[at : at + size])
        at += size
    assert events == decoder().feed(stream)
    found = iter(frames(events))
    assert all(message in found for _, message in story)  # in this order


@settings(deadline=None)
@given(MESSAGES, st.data())
def test_a_damaged_frame_is_never_another_message(message, data):
    """Up to three bits of the JSON, or any sixteen in a row, are what this CRC is sure to see in a line so long."""
    line = bytearray(encode(message, MAX_LINE))
    first, last = 8, 8 * (len(line) - 6) - 1
    where = data.draw(st.sampled_from(["anywhere", "in a row", "around"]))
    if where == "in a row":
        start = data.draw(st.integers(first, last - 15))
        flips = [start + bit for bit in data.draw(st.sets(st.integers(0, 15), min_size=1))]
    elif where == "anywhere":
        flips = data.draw(st.sets(st.integers(first, last), min_size=1, max_size=3))
    else:
        flips = data.draw(st.sets(st.integers(0, 7) | st.integers(last + 1, 8 * len(line) - 1), min_size=1))
    for flip in flips:
        line[flip // 8] ^= 0x80 >> (flip % 8)
    made = decoder()
    told = frames(made.feed(bytes(line)))
    assert told in ([], [message])  # digits in small letters are the same digits
    assert frames(made.feed(b"\n" + PING)) == [{"t": "ping"}]


@settings(deadline=None)
@given(
    st.lists(st.sampled_from([b"\x01", b":", b"\n", b"{", b"}", b'"a":', b"1", b"*FFFF"]) | st.binary(max_size=20)).map(
        b"".join
    )
)
def test_the_fuzz_target(data):
    fuzz_frame(data)
