"""Links: the vectors on CPython, two links with a bad line between them, and sides that start anew."""

import random
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.wire import frame, link
from gateway.wire.link import MESSAGE, STRANGE, Link
from tests.wire.bad_line import BadLine, Side
from tests.wire.play_link import differences

VECTORS = Path(__file__).parents[1] / "vectors" / "link.jsonl"


def test_vectors():
    assert list(differences(VECTORS, frame, link)) == []


def messages(count, chance):
    """Numbered bodies of any length that a line carries."""
    for number in range(count):
        text = "Tür 温度 🙂"[: chance.randrange(10)] * chance.choice([1, 1, 1, 10])
        yield chance.choice(link.NUMBERED), {"number": number, "text": text, "bad": chance.random() < 0.1}


def converse(seed, count, rate, start=0, left=None, right=None):
    """Both sides send, and both have all in the end, but what was bad. Returns how many lines were spoilt."""
    chance = random.Random(seed)
    told = [list(messages(count, chance)), list(messages(count, chance))]
    sides = [
        Side(chance, boot, wanted, start, **(options or {}))
        for boot, wanted, options in (("left", told[0], left), ("right", told[1], right))
    ]
    line = BadLine(chance, *sides, rate, start)
    line.run(lambda: all(side.idle for side in sides))
    for side, other, sent in zip(sides, sides[::-1], told, strict=True):
        refused = {n - 1 for n in side.refused}
        assert all(sent[n][1]["bad"] for n in refused)
        assert other.got == [one for n, one in enumerate(sent) if n not in refused]  # each once, and in order
        assert sorted(side.kept + side.refused) == list(range(1, count + 1))
    return line.spoilt


def test_ten_thousand_corruptions():
    spoilt = 0
    seed = 0
    while spoilt < 10_000:
        spoilt += converse(seed, 400, 0.3)
        seed += 1


def test_the_corruptions_are_felt(monkeypatch):
    """Without its digits for the check, a frame that is not whole is taken for one."""
    monkeypatch.setattr(frame, "_read", lambda line, _, events: events.append((frame.FRAME, lenient(line))))
    with pytest.raises((AssertionError, KeyError, TypeError, AttributeError)):
        test_ten_thousand_corruptions()


def lenient(line):
    return frame._message(line[1:-5]) or {}


@settings(deadline=None, max_examples=30)
@given(
    st.integers(0, 1 << 32),
    st.integers(1, 30),
    st.sampled_from([0.0, 0.1, 0.5, 0.7]),
    st.sampled_from([0, (1 << 30) - 5000]),
    *[st.fixed_dictionaries({"window": st.integers(1, 8), "rate": st.sampled_from([0, 960, 11520])})] * 2,
)
def test_any_line(seed, count, rate, start, left, right):
    converse(seed, count, rate, start, left, right)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1 << 32), st.sampled_from([0.0, 0.3, 0.5]))
@example(127, 0.3)
def test_sides_that_start_anew(seed, rate):
    """A board forgets what it was doing, but not what it owes; the other side then may have it twice, but never not."""
    chance = random.Random(seed)
    told = list(messages(20, chance))
    board, other = Side(chance, "b0", told), Side(chance, "o0", [])
    line = BadLine(chance, board, other, rate)
    got = []
    for restart in range(1, 6):
        line.run(lambda: all(side.idle for side in line.sides) or chance.random() < 0.02)
        if chance.random() < 0.5:
            settled = {n - 1 for n in board.kept + board.refused}
            told = [one for n, one in enumerate(told) if n not in settled]
            board = Side(chance, f"b{restart}", told, line.now)
        else:
            got += other.got
            other = Side(chance, f"o{restart}", [], line.now)
        line.sides = (board, other)
    line.run(lambda: all(side.idle for side in line.sides))
    numbers = [body["number"] for _, body in got + other.got]
    good = [body["number"] for _, body in got + other.got if not body["bad"]]  # a bad one may be refused, or be late
    missing = {number for number in range(20) if number not in numbers}
    assert not other.link.unanswered
    assert all(body["bad"] for _, body in messages(20, random.Random(seed)) if body["number"] in missing)
    assert good[0] == min(good)


@settings(deadline=None)
@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(["t", "boot", "n", "from", "you", "line", "window", "event", "reason"]),
            st.none()
            | st.booleans()
            | st.integers(-1, 5)
            | st.floats(0, 2)
            | st.sampled_from(["hello", "event", "ack", "nak", "ping", "pong", "me", "you", "busy", "bad", {}]),
        ),
        max_size=8,
    )
)
def test_no_message_raises_and_none_is_kept_for_ever(sent):
    side = Link("me", {}, 0)
    for now, message in enumerate(sent * 20):
        for event in side.feed(frame.encode(message), now):
            if event[0] == STRANGE:
                assert event[1] == message
            if event[0] == MESSAGE and now % 2:
                side.accept(event[1], event[2])
        while side.take(now):
            pass
    for one in side._inbound:
        assert len(one.ahead) < 5
        assert len(one.refused) <= link._REFUSALS
    assert len(side._inbound) <= link.BOOTS


def test_refusals_that_are_remembered_are_few():
    side = Link("me", {}, 0)
    for n in range(1, 100):
        side.feed(frame.encode({"t": "event", "boot": "you", "n": n, "from": 1, "event": {}}), n)
        side.refuse("you", n, link.BAD)
    assert len(side._inbound[0].refused) == link._REFUSALS


def test_there_must_be_room():
    with pytest.raises(RuntimeError, match="there is no room in the window"):
        Link("me", {}, 0).send("event", {})


def test_too_much_about_oneself_is_refused_at_once():
    with pytest.raises(ValueError, match="and 1024 are agreed on"):
        Link("me", {"board": "x" * 1000}, 0)
