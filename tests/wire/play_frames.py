"""Plays the vectors of frames on any Python: `micropython play_frames.py ROOT FILE`, where ROOT holds `gateway`.

Each line of FILE is JSON. With `line`, it is a message and what `encode` makes of it. With `bytes`, it is what a
decoder is given (a character is a byte), with `agreed` the length of its lines, and `events` is what must come out.
"""

import json
import sys

SIZES = (1, 7, 100, 100000)


def differences(path, frame):
    """What `frame`, our module, does otherwise than FILE says."""
    with open(path) as lines:  # noqa: PTH123  # MicroPython has no pathlib
        for number, text in enumerate(lines, 1):
            vector = json.loads(text)
            if "line" in vector:
                got = frame.encode(vector["message"])
                if got != vector["line"].encode():
                    yield str(number) + ": " + repr(got)
                continue
            wanted = [[kind, raw(value) if kind == "noise" else value] for kind, value in vector["events"]]
            for size in SIZES:
                got = decoded(frame, raw(vector["bytes"]), size, vector.get("agreed"))
                if got != wanted:
                    yield str(number) + " by " + str(size) + ": " + repr(got)


def raw(text):
    return bytes([ord(letter) for letter in text])


def decoded(frame, data, size, agreed):
    decoder = frame.Decoder()
    if agreed:
        decoder.agree(agreed)
    names = {frame.FRAME: "frame", frame.NOISE: "noise"}
    events = []
    for at in range(0, len(data), size):
        events += [[names[kind], value] for kind, value in decoder.feed(data[at : at + size])]
    return events


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    from gateway.wire import frame

    for difference in differences(sys.argv[2], frame):
        sys.stdout.write(difference + "\n")
    sys.stdout.write("played\n")
