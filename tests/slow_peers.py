"""Slow-loris: peers that never come to an end, and an honest device beside them.

Each has an address of its own on this machine (127.1.0.1, 127.1.0.2, ...), so that it is a peer of its own. Half of
them drip a command, half the content of a mail, a byte at a time. Linux only, where all of 127.0.0.0/8 is this machine.
"""

from __future__ import annotations

import contextlib
import resource
import selectors
import smtplib
import socket
import threading

ENVELOPE = b"EHLO slow\r\nMAIL FROM:<slow@lan.example>\r\nRCPT TO:<alerts@gw.local>\r\nDATA\r\n"
PAUSE = 1.0  # seconds between two bytes of a peer
SPARE_FILES = 200


class SlowPeers:
    """`count` connections to a port of this machine that a thread keeps alive, byte by byte, until `close`."""

    def __init__(self, port: int, count: int) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft < count + SPARE_FILES:
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, count + SPARE_FILES), hard))
        self._sockets: list[socket.socket] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._drip)
        try:
            for number in range(count):
                self._sockets.append(self._connect(port, number))
        except OSError:
            self.close()
            raise
        self._thread.start()

    def _connect(self, port: int, number: int) -> socket.socket:
        address = f"127.1.{number // 250}.{number % 250 + 1}"
        peer = socket.create_connection(("127.0.0.1", port), 10, source_address=(address, 0))
        with contextlib.suppress(ConnectionError):  # one that is turned away at once is not counted as alive
            assert peer.recv(1000)
            if number % 2:
                peer.sendall(ENVELOPE)
                with peer.makefile("rb") as replies:
                    while not replies.readline().startswith(b"354"):
                        pass
        peer.setblocking(False)
        return peer

    def _drip(self) -> None:
        while not self._ended.is_set():
            for peer in self._sockets:
                with contextlib.suppress(OSError):
                    peer.send(b"N")
            self._ended.wait(PAUSE)

    def alive(self) -> int:
        """How many the server holds still: it has said nothing to them and has not hung up."""
        with selectors.DefaultSelector() as selector:
            for peer in self._sockets:
                selector.register(peer, selectors.EVENT_READ)
            return len(self._sockets) - len(selector.select(0))

    def close(self) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        for peer in self._sockets:
            peer.close()

    def __enter__(self) -> SlowPeers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def honest_mail(port: int, text: str) -> None:
    """A mail from a device that does all in one go. Raises what smtplib raises if it is not answered with 250."""
    with smtplib.SMTP("127.0.0.1", port, "ups.lan", 30) as device:
        mail = f"From: ups@lan.example\r\nSubject: UPS on battery\r\n\r\n{text}\r\n"
        device.sendmail("ups@lan.example", ["alerts@gw.local"], mail)
