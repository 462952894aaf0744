"""Numbered mails, and lanes that send them: plain sockets that note when a mail's dot went out and what came back.

A lane does what a device does: it connects, sends a few mails, hangs up; what was not answered, or put off, it sends
again, the same bytes.
"""

from __future__ import annotations

import random
import re
import socket
import threading
import time
from dataclasses import dataclass, field
from typing import BinaryIO

HOST = "127.0.0.1"
PATIENCE = 15.0  # seconds for an answer
SUBJECT = re.compile(rb"Subject: torture (\d{7})\r\n")
_STORED = re.compile(rb"250 \S+ Ok: stored as ([0-9A-Z]{26})")
_TEXT = b"Input 3 of the line is active, temperature 41 C, uptime 12 days.\r\n"


def content(number: int) -> bytes:
    """The mail of that number, always the same bytes: mostly small, some like a picture, some spooled to a file."""
    chance = random.Random(number)
    lines = chance.choice((1, 5, 20, 60)) if number % 50 else (300, 6000, 900)[number // 50 % 3]
    head = f"From: Line {number % 5} <line{number % 5}@torture.example>\r\nSubject: torture {number:07}\r\n\r\n"
    return head.encode() + _TEXT * lines + b"%d\r\n" % chance.getrandbits(64)


@dataclass(slots=True)
class Sent:
    """What became of one mail, as its sender knows it. `replies` are those to the dot, newest last."""

    dots: int = 0
    replies: list[bytes] = field(default_factory=list)

    @property
    def ids(self) -> list[str]:
        """Under which it was acknowledged; a device that missed a 250 may be given a second one."""
        return [found[1].decode() for reply in self.replies if (found := _STORED.match(reply))]


class Load:
    """Lanes that send until `stop`. `pause`: seconds between two mails of a lane, on average."""

    def __init__(self, port: int, seed: int, lanes: int = 4, pause: float = 0.012) -> None:
        self.mails: dict[int, Sent] = {}
        self.refusals: list[bytes] = []  # replies to anything but a dot that were not those of a well gateway
        self.acknowledged = 0
        self._port = port
        self._pause = pause
        self._stopping = threading.Event()
        self._may_send = threading.Event()
        self._may_send.set()
        self._under_way: set[int] = set()  # lanes that have begun a mail and not heard what became of it
        self._number = 0
        self._lock = threading.Lock()
        self._progress = [0] * lanes
        self._lanes = [
            threading.Thread(target=self._lane, args=(lane, random.Random(seed * 1000 + lane)), daemon=True)
            for lane in range(lanes)
        ]

    def start(self) -> None:
        for lane in self._lanes:
            lane.start()

    def stop(self) -> None:
        """Each lane sends what it still has to send once more, then ends."""
        self.go_on()
        self._stopping.set()
        for lane in self._lanes:
            lane.join()

    def pause(self) -> None:
        """Return when every mail that was begun is answered; no other begins before `go_on`."""
        self._may_send.clear()
        deadline = time.monotonic() + PATIENCE
        while self._under_way and time.monotonic() < deadline:
            time.sleep(0.005)

    def go_on(self) -> None:
        self._may_send.set()

    def is_taken_again(self, seconds: float) -> bool:
        """Is each lane told 250 again, within that time?"""
        before = list(self._progress)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if all(now > then for now, then in zip(self._progress, before, strict=True)):
                return True
            time.sleep(0.05)
        return False

    def _next(self) -> int:
        with self._lock:
            self._number += 1
            self.mails[self._number] = Sent()
            return self._number

    def _lane(self, lane: int, chance: random.Random) -> None:
        owed: list[int] = []  # the mail that has no 250 yet, if there is one
        while not self._stopping.is_set() or owed:
            ending = self._stopping.is_set()
            try:
                with socket.create_connection((HOST, self._port), timeout=PATIENCE) as peer:
                    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    self._converse(lane, peer, chance, owed)
            except (OSError, _Ended):
                time.sleep(0.05)
            if ending:
                return

    def _converse(self, lane: int, peer: socket.socket, chance: random.Random, owed: list[int]) -> None:
        """One connection: a few mails."""
        stream = peer.makefile("rb")
        self._expect(stream, b"220")
        peer.sendall(b"EHLO lane\r\n")
        self._expect(stream, b"250")
        for _ in range(chance.choice((1, 1, 5, 50))):
            self._may_send.wait()
            if self._stopping.is_set() and not owed:
                return
            if not owed:
                owed.append(self._next())
            self._under_way.add(lane)
            try:
                kept = self._send(peer, stream, owed[0], pipelined=chance.random() < 0.5)
            finally:
                self._under_way.discard(lane)
            if kept:
                owed.clear()
                self._progress[lane] += 1
            else:
                time.sleep(0.05)
            time.sleep(chance.random() * 2 * self._pause)

    def _send(self, peer: socket.socket, stream: BinaryIO, number: int, *, pipelined: bool) -> bool:
        """One mail; was it kept? Raises OSError or _Ended where no answer comes."""
        mail = self.mails[number]
        sender = b"MAIL FROM:<line%d@torture.example>\r\n" % (number % 5)
        envelope = (sender, b"RCPT TO:<alarm@gw>\r\n", b"DATA\r\n")
        pieces = (b"".join(envelope),) if pipelined else envelope  # RFC 2920
        for piece in pieces:
            peer.sendall(piece)
            replies = [self._read(stream) for _ in range(len(envelope) // len(pieces))]
            # What is pipelined behind a refusal is refused for that alone.
            if refused := next((reply for reply in replies if not reply.startswith((b"250", b"354"))), None):
                self.refusals.append(refused)
                peer.sendall(b"RSET\r\n")
                self._expect(stream, b"250")
                return False
        peer.sendall(content(number))
        mail.dots += 1
        peer.sendall(b".\r\n")
        mail.replies.append(reply := self._read(stream))
        return reply.startswith(b"250")

    def _expect(self, stream: BinaryIO, code: bytes) -> None:
        reply = self._read(stream)
        if not reply.startswith(code):
            self.refusals.append(reply)
            raise _Ended

    @staticmethod
    def _read(stream: BinaryIO) -> bytes:
        """The last line of a reply."""
        while True:
            line = stream.readline()
            if not line.endswith(b"\n"):
                raise _Ended
            if line[3:4] != b"-":
                return line.strip()


class _Ended(Exception):
    """The connection is over, or not worth going on with."""
