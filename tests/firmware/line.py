"""A board whose console is a pty, and the PC on the other end: `gateway.wire.link` as CPython runs it."""

import os
import pty
import select
import subprocess
import time
import tty

from gateway.wire import link as protocol
from gateway.wire.link import Link
from tests.firmware.board import PATIENCE, Board, interpreter


class Wired(Board):
    """As `Board`, but with a terminal for stdin and stdout, in raw mode; `master` is the PC's end."""

    master = -1

    def start(self) -> "Wired":
        self.master, slave = pty.openpty()
        tty.setraw(slave)
        command = [str(interpreter(self.build)), "-X", f"heapsize={self.heap}", "main.py"]
        self.process = subprocess.Popen(
            command, cwd=self.folder, stdin=slave, stdout=slave, stderr=subprocess.PIPE, start_new_session=True
        )
        os.close(slave)
        os.set_blocking(self.master, False)
        return self

    def _gone(self) -> int | None:
        if self.process is None:
            return None
        try:
            return self.process.wait(PATIENCE)
        finally:
            self.process.kill()
            self.process.wait()
            self.process.stderr.close()
            if self.master >= 0:
                os.close(self.master)
                self.master = -1


class PC:
    """Reads frames, answers them, and remembers: `events` (accepted), `noise`, `answers` to commands."""

    def __init__(self, board: Wired, boot: str = "pc", accept: bool = True) -> None:
        self.board = board
        self.link = Link(boot, {}, self._now())
        self.accept = accept
        self.events: list[dict] = []
        self.refused: list[tuple[int, str]] = []
        self.acked: list[int] = []
        self.noise = b""
        self.answers: list[dict] = []

    @staticmethod
    def _now() -> int:
        return int(time.monotonic() * 1000) % (1 << 30)

    def turn(self, patience: float = 0.02) -> None:
        """Write what there is to write, and read what has come."""
        while line := self.link.take(self._now()):
            at = 0
            while at < len(line):
                select.select([], [self.board.master], [], 1)
                at += os.write(self.board.master, line[at:])
        if not select.select([self.board.master], [], [], patience)[0]:
            return
        try:
            data = os.read(self.board.master, 4096)
        except OSError:  # the board is gone
            return
        for event in self.link.feed(data, self._now()):
            self._take(event)

    def _take(self, event: tuple) -> None:
        kind = event[0]
        if kind == protocol.NOISE:
            self.noise += event[1] + b"\n"
        elif kind == protocol.CONSOLE:
            self.answers.append(event[1])
        elif kind == protocol.ACKED:
            self.acked.append(event[1])
        elif kind == protocol.REFUSED:
            self.refused.append(event[1:])
        elif kind == protocol.MESSAGE:
            _, boot, n, _, body = event
            if self.accept:
                self.events.append(body)
                for later in self.link.accept(boot, n):
                    self._take(later)
            else:
                self.link.refuse(boot, n, protocol.BUSY, "not now")

    def until(self, condition, what: str = "") -> object:
        deadline = time.monotonic() + PATIENCE
        while not (value := condition()):
            assert time.monotonic() < deadline, f"waited in vain {what}; noise: {self.noise.decode(errors='replace')}"
            self.turn()
        return value

    def do(self, verb: str, **more: object) -> dict:
        """A command, and its answer."""
        self.link.tell({"t": "do", "id": len(self.answers) + 1, "do": verb, **more})
        before = len(self.answers)
        self.until(lambda: len(self.answers) > before, f"for {verb}")
        answer = self.answers[-1]
        assert answer.pop("id") == before + 1
        assert answer.pop("t") == "done"
        return answer
