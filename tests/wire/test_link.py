"""Links: the vectors on CPython, and two links with a bad line between them."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.wire import link
from tests.wire.bad_line import BadLine, Side


def messages(count, chance):
    for number in range(count):
        body = {"number": number, "text": "Tür 温度 🙂"[: chance.randrange(10)], "data": {"a": [1, None]}}
        yield chance.choice(link.KINDS), body


def converse(seed, count, rate, start=0, left=None, right=None):
    """Both sides send, and both have all in the end. Returns how many lines were spoilt."""
    chance = random.Random(seed)
    told = [list(messages(count, chance)), list(messages(count, chance))]
    sides = [
        Side(chance, boot, wanted, start, **(options or {}))
        for boot, wanted, options in (("left", told[0], left), ("right", told[1], right))
    ]
    line = BadLine(chance, *sides, rate, start)
    line.run(lambda: all(side.idle for side in sides))
    assert sides[1].got == told[0]  # each once, and in order
    assert sides[0].got == told[1]
    for side in sides:
        assert side.kept == list(range(1, count + 1)) or sorted(side.kept) == list(range(1, count + 1))
        assert not side.refused
    return line.spoilt


def test_ten_thousand_corruptions():
    spoilt = 0
    seed = 0
    while spoilt < 10_000:
        spoilt += converse(seed, 400, 0.3)
        seed += 1


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
