"""A board for tests: a real `wire.link` at the other end of a pseudo-terminal, which can be unplugged."""

import json
import os
import pty
import random
import select
import threading
import time
import tty
from pathlib import Path

from gateway import ports
from gateway.wire.link import ACKED, CONSOLE, HELLO, MESSAGE, NOISE, REFUSED, Link

PATIENCE = 30.0  # seconds; only a broken test waits so long


class Port:
    """A pseudo-terminal under a path that stays the same when it is unplugged and plugged in again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.master = -1
        self.plug()

    def plug(self) -> None:
        self.master, slave = pty.openpty()
        tty.setraw(slave)
        self.path.unlink(missing_ok=True)
        self.path.symlink_to(os.ttyname(slave))
        self._slave = slave  # kept open, or reading the master fails while nobody has opened the port

    def unplug(self) -> None:
        self.path.unlink()
        os.close(self._slave)
        os.close(self.master)
        self.master = -1

    def read(self, seconds: float = 0.01) -> bytes:
        return os.read(self.master, 4096) if select.select([self.master], [], [], seconds)[0] else b""

    def write(self, data: bytes) -> None:
        os.write(self.master, data)

    def expect(self, wanted: bytes) -> bytes:
        """Read until it is there."""
        got = b""
        deadline = time.monotonic() + PATIENCE
        while wanted not in got:
            assert time.monotonic() < deadline, f"{wanted!r} did not come, but {got!r}"
            got += self.read()
        return got

    def close(self) -> None:
        if self.master >= 0:
            self.unplug()


class Board:
    """What runs on the board; in a thread of its own until the `with` ends."""

    def __init__(self, port: Port, boot: str | None = None, deaf: bool = False, **about) -> None:
        self.port = port
        self.about = {"firmware": "1.0", "board": "TEST", "name": "attic"} | about
        self.deaf = deaf  # it does not hear what is acknowledged
        self.boot = boot or ports.boot_id()
        self.link = Link(self.boot, self.about, ports.milliseconds())
        self.answer = lambda link, boot, n, body: link.accept(boot, n)
        self.owed: list[tuple[str, dict]] = []
        self.acked: list[int] = []
        self.refused: list[tuple[int, str]] = []
        self.taken: list[dict] = []
        self.console: list[dict] = []
        self.hellos: list[dict] = []
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.failed: Exception | None = None

    def __enter__(self):
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()
        if self.failed:
            raise self.failed

    def send(self, *events: dict, kind: str = "event") -> None:
        self.owed += [(kind, event) for event in events]

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self.turn()
        except Exception as error:  # noqa: BLE001  # it is raised where the `with` ends
            self.failed = error

    def turn(self) -> None:
        now = ports.milliseconds()
        while self.owed and self.link.room:
            self.link.send(*self.owed.pop(0))
        while line := self.link.take(now):
            self.port.write(line)
        self._handle(self.link.feed(self.port.read(), now))

    def _handle(self, events) -> None:
        for kind, *values in events:
            if kind == MESSAGE:
                boot, n, _, body = values
                self.taken.append(body)
                more = self.answer(self.link, boot, n, body)
                self._handle(more or [])
            elif kind == ACKED and not self.deaf:
                self.acked.append(values[0])
            elif kind == REFUSED:
                self.refused.append((values[0], values[1]))
            elif kind == HELLO:
                self.hellos.append(values[0])
            elif kind == CONSOLE:
                self.console.append(values[0])
            else:
                assert kind in (NOISE, ACKED), (kind, values)


def owed(running) -> list[dict]:
    """What a gateway's queue holds; the command fails where something in it has failed."""
    return [json.loads(line) for line in running.cli("queue", "--json", check=False).stdout.splitlines()]


LETTERS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def event(title: str, **more) -> dict:
    """As a board makes one, with an id of its own."""
    milliseconds = int(time.time() * 1000)
    head = "".join(LETTERS[milliseconds >> shift & 31] for shift in range(45, -1, -5))
    tail = "".join(random.choice(LETTERS) for _ in range(16))
    device = {"id": "back_door", "name": "Back door", "manufacturer": "Acme", "model": "D1", "profile": None}
    made = {"v": 1, "id": head + tail, "time": None, "source": "smtp", "device": device, "kind": "door", "state": "on"}
    return json.loads(json.dumps(made | {"severity": "info", "title": title, "text": "", "data": {}} | more))
