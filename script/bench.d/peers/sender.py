"""Sends numbered mails over kept connections and notes when: what smtp-source can't tell.

`sender.py PORT COUNT CONNECTIONS RATE FIRST DEVICES HEAD REST`: COUNT mails, numbered from FIRST, RATE a second in all
(0: each connection sends its next mail as soon as the last was answered), from so many devices in turn. HEAD and REST
are files: a template of what differs from mail to mail, and what follows it, with LF. Like smtp-source it does not
pipeline. Prints a line for each mail: its number, the time of its final dot and of the answer to it, in ns (monotonic
clock).
"""

from __future__ import annotations

import gc
import selectors
import socket
import sys
import time
from pathlib import Path

END = 0.05  # seconds that the last mail has to arrive before our own end, which takes some of the machine
LAST = 16 * 1024  # the final dot's time is taken just before the last part is sent


class Connection:
    """One connection: where it is in its conversation, and which mail of this run it sends."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.ask(b"", b"220")
        self.ask(b"HELO bench.example\r\n", b"250")
        self.step = 0
        self.number = 0
        self.dot = 0

    def ask(self, command: bytes, code: bytes) -> None:
        self.socket.sendall(command)
        self.expect(code)

    def expect(self, code: bytes) -> None:
        answer = self.socket.recv(4096)
        if not answer.startswith(code):
            sys.exit(f"the server answered {answer!r} where {code.decode()} was due")


def main(port: int, count: int, connections: int, rate: int, first: int, devices: int, head: str, rest: bytes) -> None:
    commands = (b"RCPT TO:<gateway@bench.example>\r\n", b"DATA\r\n")
    codes = (b"250", b"250", b"354", b"250")
    selector = selectors.DefaultSelector()
    idle = [Connection(port) for _ in range(connections)]
    for connection in idle:
        selector.register(connection.socket, selectors.EVENT_READ, connection)
    notes: list[tuple[int, int, int]] = []
    run = time.monotonic_ns()
    addresses = [f"camera{number % devices + 1}@bench.example" for number in range(first, first + count)]
    # Made before the clock starts: the sender is to use little of the machine that it shares with the server.
    begins = [f"MAIL FROM:<{address}>\r\n".encode() for address in addresses]
    heads = [
        head.format(
            name=f"Camera {number % devices + 1}", address=address, subject=f"Status bench-{number:07}",
            id=f"bench-{number:07}.{run}",
        ).encode()
        for number, address in enumerate(addresses, first)
    ]  # fmt: skip
    gc.disable()
    start = time.monotonic_ns() + 10_000_000
    due = [start + (i * 1_000_000_000 // rate if rate else 0) for i in range(count)]
    sent = 0
    while len(notes) < count:
        now = time.monotonic_ns()
        while idle and sent < count and due[sent] <= now:
            connection = idle.pop()
            connection.number = sent
            connection.step = 0
            connection.socket.sendall(begins[sent])
            sent += 1
        wait = 20.0
        if idle and sent < count:
            wait = max(0.0, (due[sent] - now) / 1e9)
        ready = selector.select(wait)
        if not ready and wait == 20.0:
            sys.exit("the server said nothing for 20 s")
        for key, _ in ready:
            connection = key.data
            connection.expect(codes[connection.step])
            connection.step += 1
            if connection.step < 3:
                connection.socket.sendall(commands[connection.step - 1])
            elif connection.step == 3:
                mail = heads[connection.number] + rest
                if len(mail) > LAST:
                    connection.socket.sendall(mail[:-LAST])
                connection.dot = time.monotonic_ns()
                connection.socket.sendall(mail[-LAST:])
            else:
                notes.append((first + connection.number, connection.dot, time.monotonic_ns()))
                idle.append(connection)
    time.sleep(END)
    for note in notes:
        print(*note)


if __name__ == "__main__":
    *numbers, head, rest = sys.argv[1:]
    lines = [Path(file).read_bytes().replace(b"\n", b"\r\n") for file in (head, rest)]
    main(*map(int, numbers), lines[0].decode(), lines[1] + b".\r\n")
