"""A QoS 1 subscriber that costs little: `subscriber.py PORT TOPIC COUNT SECONDS`.

Prints `ready` when the broker has granted the subscription, and, once COUNT mails have arrived or SECONDS have passed,
a line for each: the mail's number (`bench-0000123` somewhere in the payload) and its first arrival in ns of the
monotonic clock. MQTT 3.1.1 by hand, since a client library would use more of the machine than what is measured.
"""

from __future__ import annotations

import gc
import socket
import struct
import sys
import time

MARK = b"bench-"


def packet(kind: int, body: bytes) -> bytes:
    assert len(body) < 128
    return bytes((kind, len(body))) + body


def text(value: str) -> bytes:
    return struct.pack(">H", len(value)) + value.encode()


def main(port: int, topic: str, count: int, seconds: float) -> None:
    broker = socket.create_connection(("127.0.0.1", port), timeout=seconds)
    broker.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    broker.sendall(packet(0x10, text("MQTT") + b"\x04\x02\x00\x00" + text("bench-subscriber")))
    broker.sendall(packet(0x82, b"\x00\x01" + text(topic) + b"\x01"))
    arrived: dict[int, int] = {}
    deadline = time.monotonic() + seconds
    pending = bytearray()
    gc.disable()
    while len(arrived) < count and time.monotonic() < deadline:
        try:
            received = broker.recv(1 << 18)
        except TimeoutError:
            break
        if not received:
            break
        now = time.monotonic_ns()
        pending += received
        start = 0
        answers = bytearray()
        while (end := whole(pending, start)) is not None:
            first, body, stop = pending[start], *end
            if first & 0xF0 == 0x90:  # SUBACK
                print("ready", flush=True)
            elif first & 0xF0 == 0x30:  # PUBLISH
                payload = body + 2 + (pending[body] << 8 | pending[body + 1])
                if first & 0x06:
                    answers += b"\x40\x02" + pending[payload : payload + 2]
                at = pending.find(MARK, payload, stop)
                if at >= 0:
                    arrived.setdefault(int(pending[at + len(MARK) : at + len(MARK) + 7]), now)
            start = stop
        del pending[:start]
        if answers:
            broker.sendall(answers)
    for number, when in arrived.items():
        print(number, when)


def whole(data: bytearray, start: int) -> tuple[int, int] | None:
    """Where the body of the packet at `start` begins and ends; None while a part of it is missing."""
    length = 0
    for i in range(4):
        at = start + 1 + i
        if at >= len(data):
            return None
        length |= (data[at] & 0x7F) << (7 * i)
        if data[at] < 0x80:
            return (at + 1, at + 1 + length) if at + 1 + length <= len(data) else None
    sys.exit("the broker sent a length that MQTT does not know")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
