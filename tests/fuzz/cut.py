"""Where a stream is cut: a few ways to hand the same bytes over in pieces."""

import random
from collections.abc import Iterator


def cut(data: bytes, seed: int) -> Iterator[bytes]:
    """The data in pieces: 0 is byte by byte, anything else pieces of up to twice that, the same ones each time."""
    sizes = random.Random(seed)
    at = 0
    while at < len(data):
        size = sizes.randint(1, 2 * seed) if seed else 1
        yield data[at : at + size]
        at += size
