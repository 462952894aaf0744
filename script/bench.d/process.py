"""A server under measurement: started, watched through /proc, and ended by its own process id.

A server may be several processes (Postfix is, Haraka can be): what is told of it is told of all that it started.
"""

from __future__ import annotations

import os
import signal
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
        self.folder = folder
        self._log = folder / f"{name.replace(' ', '-')}-{port}.log"
        everything = {**os.environ, **(env or {})}
        everything.pop("PYTHONDONTWRITEBYTECODE", None)  # each start would compile what nobody else's does
        self.started = time.perf_counter()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder, env=everything
            )
        self._running.append(self)

    @classmethod
    def end_all(cls) -> None:
        while cls._running:
            cls._running[-1].stop()

    def stop(self) -> None:
        """End it, gently at first, and what it started and left behind."""
        family: dict[int, int] = {}
        with suppress(Failed):
            family = self._family()
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._running.remove(self)
        deadline = time.monotonic() + 5
        for process, begun in family.items():
            while _lives(process, begun) and time.monotonic() < deadline:
                with suppress(OSError):
                    os.kill(process, signal.SIGKILL)
                time.sleep(0.005)

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
        """Seconds of CPU that it has used, all threads and processes, also those that have ended."""
        used = 0
        for process in self._family():
            with suppress(OSError):
                used += sum(map(int, _stat(process)[_USED]))
        return used / _TICKS

    def memory(self) -> float:
        """MiB that are resident now: of several processes the pages that they share count once.

        Of their own memory each page counts once (PSS); of what is mapped from files, programs and libraries, only the
        process that has most counts, since processes of one server map the same.
        """
        family = list(self._family())
        if len(family) == 1:
            return self._status(family[0])["VmRSS"]
        own, files = 0.0, 0.0
        for process in family:
            with suppress(OSError):
                shares = _figures(Path(f"/proc/{process}/smaps_rollup"))
                own += shares["Pss_Anon"] + shares["Pss_Shmem"]
                files = max(files, self._status(process)["RssFile"])
        return own + files

    def peak(self) -> float:
        """MiB that were resident at most, since the start or `forget_peak`; of several processes not less than that."""
        family = list(self._family())
        if len(family) == 1:
            return self._status(family[0])["VmHWM"]
        all_status = [self._status(process) for process in family]
        return self.memory() + sum(status["VmHWM"] - status["VmRSS"] for status in all_status if status)

    def forget_peak(self) -> None:
        for process in self._family():
            with suppress(OSError):
                Path(f"/proc/{process}/clear_refs").write_text("5")

    def settle(self, seconds: float = 15) -> None:
        """Wait until its work after the last 250 is done too: less than 3 % of a core, for 0.2 s."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            before = self.cpu()
            time.sleep(0.2)
            if self.cpu() - before <= 0.2 * 0.03 + 1 / _TICKS:
                return
        raise Failed(f"{self.name} was still busy {seconds:.0f} s after the load")

    def _family(self) -> dict[int, int]:
        """The ids of its process and of all that descend from it, each with when it began (in ticks)."""
        stats = {}
        for name in os.listdir("/proc"):  # noqa: PTH208  # a Path for each process would cost more than reading it
            if name.isdecimal():
                with suppress(OSError):
                    stats[int(name)] = _stat(int(name))
        if self._process.pid not in stats or self._process.poll() is not None:
            raise Failed(f"{self.name} is gone: {self.last_words()}")
        family = {self._process.pid: int(stats[self._process.pid][_BEGUN])}
        for parent in (todo := [self._process.pid]):
            children = [process for process, stat in stats.items() if int(stat[_PARENT]) == parent]
            family.update((child, int(stats[child][_BEGUN])) for child in children)
            todo += children
        return family

    def _status(self, process: int) -> dict[str, float]:
        try:
            return _figures(Path(f"/proc/{process}/status"))
        except OSError:
            if process == self._process.pid:
                raise Failed(f"{self.name} is gone: {self.last_words()}") from None
            return {}


_STATE, _PARENT, _USED, _BEGUN = (
    0,
    1,
    slice(11, 15),
    19,
)  # see proc(5); used: user, system, and both of the children that ended


def _stat(process: int) -> list[str]:
    """The fields of /proc/PID/stat after the program's name. Raises OSError when it is gone."""
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()


def _lives(process: int, begun: int) -> bool:
    """Does it still run, and is it the one that began then? One that has ended may wait for its parent's attention."""
    try:
        stat = _stat(process)
    except OSError:
        return False
    return int(stat[_BEGUN]) == begun and stat[_STATE] not in "ZX"


def _figures(path: Path) -> dict[str, float]:
    """What a file of /proc gives in kB, in MiB."""
    lines = [line.split() for line in path.read_text().splitlines()]
    return {words[0].rstrip(":"): int(words[1]) / 1024 for words in lines if words[2:] == ["kB"]}
