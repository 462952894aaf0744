"""Reads mails on MicroPython: `micropython play_mails.py ROOT FILE`, where ROOT holds `gateway`.

Each line of FILE is JSON: a name, the mail as hexadecimal digits, and what CPython found in it. Says what differs.
"""

import binascii
import gc
import hashlib
import json
import sys

sys.path.insert(0, sys.argv[1])
from gateway.wire import mime

gc.threshold(65536)
count = 0
with open(sys.argv[2]) as lines:  # noqa: PTH123  # MicroPython has no pathlib
    for line in lines:
        name, raw, expected = json.loads(line)
        raw = binascii.unhexlify(raw)
        reader = mime.Reader(digest=hashlib.sha256)
        for at in range(0, len(raw), 500):
            reader.feed(raw[at : at + 500])
        reader.close()
        attached = [[one["name"], one["type"], one["size"], one["sha256"]] for one in reader.attachments]
        found = [
            reader.subject, reader.sender, reader.sender_name, reader.message_id, reader.text.split(), attached,
            reader.text, reader.truncated,
        ]  # fmt: skip
        if json.dumps(found) != json.dumps(expected):
            sys.stdout.write(name + ":\n  " + repr(found) + "\ninstead of\n  " + repr(expected) + "\n")
        count += 1
sys.stdout.write(str(count) + " read\n")
