"""Plays dialogs on MicroPython: `micropython play_on_micropython.py ROOT FILE`, where ROOT holds `gateway` and `tests`.

Each line of FILE is JSON. A list of three begins a dialog: its name, its session's options, its log as CPython has it.
One of two is what to feed it, bytes as hexadecimal digits and how often, and null is the moment when TLS begins; the
last of each dialog is a text, the output as CPython has it. Says what differs, or how many dialogs were played.
"""

import binascii
import gc
import json
import sys

sys.path.insert(0, sys.argv[1])
sys.path.insert(0, sys.argv[1] + "/tests/wire")
from owner import Owner

gc.threshold(65536)  # replies that are kept would cut the heap into holes too small for a line
name, owner, output, log, count = "", None, [], [], 0


def compare(what, expected, got):
    if expected != got:
        sys.stdout.write(name + ": the " + what + " is\n  " + repr(got) + "\ninstead of\n  " + repr(expected) + "\n")


with open(sys.argv[2]) as lines:  # noqa: PTH123  # MicroPython has no pathlib
    for line in lines:
        entry = json.loads(line)
        if entry is None:
            owner.session.tls_started()
        elif isinstance(entry, str):
            compare("output", entry, b"".join(output).decode())
            compare("log", log, json.loads(json.dumps(owner.log)))
        elif len(entry) == 3:
            name, options, log = entry
            owner = Owner(False, **options)
            output = [owner.session.greeting()]
            count += 1
        else:
            data = binascii.unhexlify(entry[0])
            for _ in range(entry[1]):
                replies = owner.feed(data)
                if replies:
                    output.append(replies)
sys.stdout.write(str(count) + " played\n")
