"""Sends numbered mails over kept connections and notes when: what smtp-source can't tell.

`sender.py PORT COUNT CONNECTIONS RATE SIZE FIRST`: COUNT mails of about SIZE bytes, numbered from FIRST, RATE a second
in all (0: each connection sends its next mail as soon as the last was answered). Like smtp-source it does not pipeline.
Prints a line for each mail: its number, the time of its final dot and of the answer to it, in ns (monotonic clock).
"""

from __future__ import annotations

import base64
import gc
import random
import selectors
import socket
import sys
import time

HEADER = (
    b"From: Camera <camera@bench.example>\r\nTo: <gateway@bench.example>\r\nSubject: Status bench-%07d\r\n"
    b"Date: Mon, 23 Nov 2026 06:00:00 +0000\r\nMessage-ID: <bench-%07d.%d@bench.example>\r\nMIME-Version: 1.0\r\n"
)
TEXT = b"Device: camera 1\r\nLink speed: 100 Mbit/s\r\nUptime: 12 days\r\nTemperature: 41 C\r\n"
LAST = 16 * 1024  # the final dot's time is taken just before the last part is sent
PICTURE_FROM = 4096  # mails from this size on carry a picture; smaller ones are text


def contents(size: int) -> bytes:
    """What follows the header fields that differ: a text, and a picture if there is room for one."""
    if size < PICTURE_FROM:
        text = TEXT * (size // len(TEXT) + 1)
        return b"Content-Type: text/plain\r\n\r\n" + text[: max(size - 330, 0)] + b"\r\n.\r\n"
    picture = base64.encodebytes(b"\xff\xd8\xff\xe0" + random.Random(1).randbytes(size * 3 // 4 - 600)).replace(
        b"\n", b"\r\n"
    )
    return (
        b'Content-Type: multipart/mixed; boundary="frontier"\r\n\r\n--frontier\r\nContent-Type: text/plain\r\n\r\n'
        + TEXT
        + b'--frontier\r\nContent-Type: image/jpeg; name="ch01.jpg"\r\nContent-Transfer-Encoding: base64\r\n'
        b'Content-Disposition: attachment; filename="ch01.jpg"\r\n\r\n' + picture + b"--frontier--\r\n.\r\n"
    )


class Connection:
    """One connection: where it is in its conversation, and the number of its mail."""

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


def main(port: int, count: int, connections: int, rate: int, size: int, first: int) -> None:
    rest = contents(size)
    commands = (b"MAIL FROM:<camera@bench.example>\r\n", b"RCPT TO:<gateway@bench.example>\r\n", b"DATA\r\n")
    codes = (b"250", b"250", b"354", b"250")
    selector = selectors.DefaultSelector()
    idle = [Connection(port) for _ in range(connections)]
    for connection in idle:
        selector.register(connection.socket, selectors.EVENT_READ, connection)
    notes: list[tuple[int, int, int]] = []
    gc.disable()
    run = time.monotonic_ns()
    start = run + 10_000_000
    due = [start + (i * 1_000_000_000 // rate if rate else 0) for i in range(count)]
    sent = 0
    while len(notes) < count:
        now = time.monotonic_ns()
        while idle and sent < count and due[sent] <= now:
            connection = idle.pop()
            connection.number = first + sent
            sent += 1
            connection.step = 0
            connection.socket.sendall(commands[0])
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
                connection.socket.sendall(commands[connection.step])
            elif connection.step == 3:
                number = connection.number
                mail = HEADER % (number, number, run) + rest
                if len(mail) > LAST:
                    connection.socket.sendall(mail[:-LAST])
                connection.dot = time.monotonic_ns()
                connection.socket.sendall(mail[-LAST:])
            else:
                notes.append((connection.number, connection.dot, time.monotonic_ns()))
                idle.append(connection)
    for note in notes:
        print(*note)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
