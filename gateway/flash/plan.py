"""What is to be done to a board, step by step; each way of flashing makes its list of steps from one job.

A step says what it will do, and then does it: a dry run prints the same list, and does nothing.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from gateway import ports
from gateway.flash import FlashError, application, micropython, settings
from gateway.flash.boards import Board

_LINKS_OWN = ("t", "boot", "line", "window", "n", "you")  # of a hello; see gateway/wire/link.py
ANY_PORT = "PORT"  # stands for the port in a dry run without one


class Step(NamedTuple):
    """`text` says what is done, as an order; `run` does it. Raises FlashError."""

    text: str
    run: Callable[[], object]


class Way(ABC):
    """One way of flashing. NEEDS: members of the extra `flash` that it can't do without."""

    NEEDS: ClassVar[tuple[str, ...]]

    def __init__(self, job: Job) -> None:
        self.job = job

    @abstractmethod
    def steps(self) -> list[Step]:
        """What is done to the board, in this order."""


@dataclass
class Job:
    """What a person asked for. `say`, `ask` and `progress` speak to them; `ask` raises FlashError where nobody is."""

    board: Board
    settings: Mapping[str, Any]
    say: Callable[[str], None]
    ask: Callable[[str], bool]
    progress: Callable[[int, int], None]
    port: str = ANY_PORT
    firmware: Path | None = None
    source: micropython.Source | None = None
    baud: int | None = None
    before: str = "default-reset"
    after: str = "hard-reset"
    stub: bool = True
    flash_size: int | None = None
    erase: bool = False
    files_only: bool = False
    drive: Path | None = None
    wait: float = 0
    on_terminal: bool = False
    hello: dict[str, Any] | None = field(default=None, init=False)

    def take_micropython(self) -> Step:
        return Step(self._where(), self.micropython)

    def _where(self) -> str:
        if self.firmware or self.source is None:
            return f"Take MicroPython from {self.firmware}"
        if micropython.is_kept(self.source):
            return f"Take MicroPython from {self.source.kept}"
        checksum = self.source.sha256
        known = f"SHA-256 {checksum}" if checksum else "its SHA-256 is noted, to be the same next time"
        return f"Download {self.source.url} into {self.source.kept.parent} ({known})"

    def micropython(self) -> bytes:
        """The bytes of MicroPython's file."""
        if self.firmware:
            try:
                return self.firmware.read_bytes()
            except OSError as error:
                raise FlashError(f"{self.firmware}: can't be read: {error.strerror}.") from None
        if self.source is None:
            raise FlashError(f"{self.board.name}: name MicroPython's file with --firmware.")
        return micropython.get(self.source, self.progress)

    def beside(self) -> dict[str, bytes]:
        """What stands beside the slots on the board's file system."""
        return {"main.py": application.main_py(), settings.FILE: settings.written(self.settings)}

    def files(self) -> dict[str, bytes]:
        """All of a new board's file system."""
        return self.beside() | {f"a/{path}": content for path, content in application.files().items()}

    def compile(self) -> Step:
        def run() -> None:
            files = application.files()
            self.say(f"{len(files)} files, {sum(map(len, files.values()))} bytes")

        return Step("Compile the application (mpy-cross)", run)

    def confirm(self, question: str) -> None:
        """Raises FlashError unless a person wants it."""
        if not self.ask(question):
            raise FlashError("Nothing was changed.")

    def wait_for_hello(self, *, reset: bool = True) -> list[Step]:
        """`reset`: it was reset; else it may stay silent, until a person does that."""
        if not self.wait:
            return []
        return [Step(f"Wait up to {self.wait:g} s for the board to say hello", lambda: self._wait(reset))]

    def _wait(self, reset: bool) -> None:
        end = time.monotonic() + self.wait
        said: list[bytes] = []
        while self.hello is None and (left := end - time.monotonic()) > 0:
            try:
                with ports.open_port(self.port) as line:
                    self.hello = ports.wait_for_hello(line, left, said.append)
            except (ports.NoSuchPort, ports.PortGone):  # a USB port goes and comes as its board starts
                time.sleep(min(ports.PATIENCE, left))
            except ports.PortError as error:
                raise FlashError(f"{error}") from None
        if self.hello is not None:
            self.say(", ".join(f"{key} {value}" for key, value in sorted(self.hello.items()) if key not in _LINKS_OWN))
            return
        if not reset:
            self.say(f"it says nothing: it was left in its boot loader. Reset it, then: mailwire monitor {self.port}")
            return
        last = b" / ".join(said[-3:]).decode("utf-8", "replace")
        heard = f"It printed: {last}" if last else "It printed nothing."
        raise FlashError(
            f"{self.port}: the board was written, and says no hello. {heard}\n"
            f"Press its reset button, and see what it says: mailwire monitor {self.port}"
        )
