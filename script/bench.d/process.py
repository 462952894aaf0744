"""A server under measurement: started, watched through /proc, and ended by its own process id."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

HOST = "127.0.0.1"
_TICKS = os.sysconf("SC_CLK_TCK")


class Failed(Exception):
    """A measurement could not be made; the text says why."""


def free_port() -> int:
    """A TCP port on loopback that was free a moment ago."""
    with socket.create_server((HOST, 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


class Server:
    """A running server on `port`. `end_all` ends every one that `stop` has not."""

    _running: ClassVar[list[Server]] = []

    def __init__(self, name: str, command: list[str], port: int, folder: Path, env: dict[str, str] | None = None):
        self.name = name
        self.port = port
        self._log = folder / f"{name.replace(' ', '-')}-{port}.log"
        self.started = time.perf_counter()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder, env={**os.environ, **(env or {})}
            )
        self._running.append(self)

    @classmethod
    def end_all(cls) -> None:
        while cls._running:
            cls._running[-1].stop()

    def stop(self) -> None:
        """End it, gently at first."""
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._running.remove(self)

    def connect(self, first: bytes = b"") -> socket.socket:
        """A connection, as soon as one is taken; with `first`, after bytes that begin so have come (b"220")."""
        deadline = time.monotonic() + 20
        while True:
            if self._process.poll() is not None:
                raise Failed(f"{self.name} ended with {self._process.returncode}: {self.last_words()}")
            with suppress(OSError):
                connection = socket.create_connection((HOST, self.port), timeout=5)
                if not first or connection.recv(1024).startswith(first):
                    return connection
                connection.close()
            if time.monotonic() > deadline:
                raise Failed(f"{self.name} took no connection within 20 s: {self.last_words()}")
            time.sleep(0.002)

    def last_words(self) -> str:
        """The last line that it printed."""
        return next(iter(self._log.read_text(errors="replace").splitlines()[-1:]), "it printed nothing")

    def cpu(self) -> float:
        """Seconds of CPU that it has used, all threads."""
        fields = self._proc("stat").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def memory(self) -> float:
        """MiB that are resident now."""
        return self._status("VmRSS")

    def peak(self) -> float:
        """MiB that were resident at most, since the start or `forget_peak`."""
        return self._status("VmHWM")

    def forget_peak(self) -> None:
        Path(f"/proc/{self._process.pid}/clear_refs").write_text("5")

    def settle(self, seconds: float = 15) -> None:
        """Wait until its work after the last 250 is done too: less than 3 % of a core, for 0.2 s."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            before = self.cpu()
            time.sleep(0.2)
            if self.cpu() - before <= 0.2 * 0.03 + 1 / _TICKS:
                return
        raise Failed(f"{self.name} was still busy {seconds:.0f} s after the load")

    def _status(self, key: str) -> float:
        line = next(line for line in self._proc("status").splitlines() if line.startswith(f"{key}:"))
        return int(line.split()[1]) / 1024

    def _proc(self, name: str) -> str:
        try:
            return Path(f"/proc/{self._process.pid}/{name}").read_text()
        except OSError:
            raise Failed(f"{self.name} is gone: {self.last_words()}") from None
