"""Plays the vectors of links on any Python: `micropython play_link.py ROOT FILE`, where ROOT holds `gateway`.

Each line of FILE is JSON: a conversation with one link, whose `options` are `Link`'s. Each step has the time in `at`
and one of: `feed` (messages that come, or text as it comes), `send` (kind and body), `accept`, `refuse`, `tell`; what
that returns or raises is in `gives`. Then, or alone: `out` is all that there is to take, as messages; `wait` is how
long until there may be more; `room` is how many may be sent.
"""

import json
import sys

NAMES = ("", "hello", "message", "acked", "refused", "console", "noise", "strange")


def differences(path, frame, link):
    """What `link`, our module, does otherwise than FILE says."""
    with open(path) as lines:  # noqa: PTH123  # MicroPython has no pathlib
        for number, text in enumerate(lines, 1):
            vector = json.loads(text)
            options = {"boot": "me", "about": {}, "now": 0}
            options.update(vector.get("options", {}))
            played = link.Link(**options)
            for step in vector["steps"]:
                for key, wanted, got in compared(step, played, frame):
                    if got != wanted:
                        yield str(number) + " at " + str(step["at"]) + ": " + key + " is " + json.dumps(got)


def compared(step, played, frame):
    now = step["at"]
    given = [key for key in ("feed", "send", "accept", "refuse", "tell") if key in step]
    if given:
        yield "gives", step.get("gives"), gives(given[0], step[given[0]], played, frame, now)
    if "out" in step:
        decoder = frame.Decoder()
        decoder.agree(frame.MAX_LINE)
        out = []
        while True:
            line = played.take(now)
            if not line:
                break
            out += [value for _, value in decoder.feed(line)]
        yield "out", step["out"], out
    if "wait" in step:
        yield "wait", step["wait"], played.wait(now)
    if "room" in step:
        yield "room", step["room"], played.room


def gives(what, value, played, frame, now):
    try:
        if what == "feed":
            if isinstance(value, str):
                data = bytes([ord(letter) for letter in value])
            else:
                data = b"".join([frame.encode(message, frame.MAX_LINE) for message in value])
            return shown(played.feed(data, now))
        if what == "send":
            return played.send(*value)
        if what == "accept":
            return shown(played.accept(*value))
        if what == "refuse":
            return shown(played.refuse(*value))
        return played.tell(value)
    except ValueError as error:
        return str(error)


def shown(events):
    return [
        [NAMES[event[0]]] + [value.decode() if isinstance(value, bytes) else value for value in event[1:]]
        for event in events
    ]


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    from gateway.wire import frame, link

    for difference in differences(sys.argv[2], frame, link):
        sys.stdout.write(difference + "\n")
    sys.stdout.write("played\n")
