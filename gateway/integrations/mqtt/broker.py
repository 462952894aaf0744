"""Which broker, when the configuration names none: the one on this machine, or one that we start ourselves.

A broker that answers on localhost:1883 is used, and once used it stays the one: while it restarts we must not take its
port. Otherwise the machine's `mosquitto` is started as our child: loopback only, with its configuration and its
persistence in a folder of ours, on port 1883 or, where that is taken by something else, on a free one that is
remembered. The child ends with us: it is told so by SIGTERM at a regular stop, and by the kernel
(PR_SET_PDEATHSIG) when we are killed, so that none is left behind. With neither there is no broker, and that is said.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import socket
import sys
import time
from pathlib import Path

PORT = 1883
SEARCH = ":".join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin"])  # Debian: /usr/sbin
PATIENCE = 10.0  # seconds, for a child to be up, and for one to be down
BOOT = 15.0  # seconds from our start during which a broker that was used last time may still be starting itself

# Becomes mosquitto after it has asked the kernel for SIGTERM when we die (PR_SET_PDEATHSIG is 1), unless we are dead
# already. A program of its own, because code between fork and exec can lock up a process that has threads.
_LAUNCH = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""

_NO_BROKER = (
    "there is no MQTT broker: none answers on localhost:{port} and the program mosquitto is not installed. "
    "Install it (Debian, Ubuntu, Raspberry Pi OS: sudo apt install mosquitto), "
    'or name a broker in the configuration (url: "mqtt://user:password@host:1883")'
)

# Nothing of what is published for a subscriber that is away for a while may be dropped silently (mosquitto's default
# keeps 1000 messages); a session that nobody came back to for two weeks is forgotten. Without set_tcp_nodelay the
# first message after a pause takes 20 ms. `user root` only says "stay who you are": without it mosquitto, started as
# root, becomes a user who may not write in our folder; for anybody else it means nothing.
_CONFIGURATION = """\
# Written by Mailwire at each start of its own broker.
user root
listener {port} 127.0.0.1
allow_anonymous true
set_tcp_nodelay true
persistence true
persistence_location {folder}/
autosave_interval 300
persistent_client_expiration 14d
max_inflight_messages 100
max_queued_messages 100000
max_queued_bytes 67108864
connection_messages false
log_dest stderr
log_type error
log_type warning
"""


class NoBroker(Exception):
    """There is none, in words that say how to get one."""


class LocalBroker:
    """The broker on this machine. `folder` is ours alone."""

    def __init__(self, folder: Path, log: logging.Logger, port: int = PORT, search: str = SEARCH) -> None:
        self.host = "localhost"
        self.port = port
        self._folder = folder.resolve()
        self._log = log
        self._default_port = port
        self._search = search
        self._began = time.monotonic()
        self._found = False
        self._child: asyncio.subprocess.Process | None = None

    @property
    def ours(self) -> bool:
        """Is it our child?"""
        return self._child is not None

    async def locate(self) -> tuple[str, int]:
        """Host and port, after starting what has to be started. Raises NoBroker. Called before each connection."""
        if self._child and self._child.returncode is not None:
            self._log.warning("our mosquitto ended: %s; starting it again", self._last_words(self._child.returncode))
        elif not self._child and not self._found:
            await self._choose()
        if not self._found and (not self._child or self._child.returncode is not None):
            try:
                await self._start()
            except OSError as error:
                raise NoBroker(f"no broker of our own could be started: {error}") from error
        return self.host, self.port

    async def stop(self) -> None:
        """End our child, if there is one; it writes its persistence then."""
        child, self._child = self._child, None
        if child is None:
            return
        with contextlib.suppress(ProcessLookupError):  # it may have ended by itself
            child.terminate()
        try:
            async with asyncio.timeout(PATIENCE):
                await child.wait()
        except TimeoutError:
            child.kill()
            await child.wait()
        self._pid_file.unlink(missing_ok=True)

    # --- which -------------------------------------------------------------------------------------------------

    async def _choose(self) -> None:
        """Find one that is there; decides nothing if there is none."""
        await self._end_left_over()
        if await answers_as_mqtt("localhost", self._default_port):
            self._found = True
            self._remember("found")
        elif self._remembered() == "found" and time.monotonic() - self._began < BOOT:
            raise NoBroker(f"the broker on localhost:{self._default_port}, used last time, does not answer yet")

    def _remembered(self) -> str:
        """What was used last time: `found`, the port of our own, or nothing."""
        try:
            return (self._folder / "last").read_text("ascii").strip()
        except (OSError, ValueError):
            return ""

    def _remember(self, what: str) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / "last").write_text(f"{what}\n", "ascii")

    # --- our own -----------------------------------------------------------------------------------------------

    async def _start(self) -> None:
        program = shutil.which("mosquitto", path=self._search)
        if not program:
            raise NoBroker(_NO_BROKER.format(port=self._default_port))
        remembered = self._remembered()
        self.port = _free_port(int(remembered) if remembered.isdecimal() else self._default_port)
        self.host = "127.0.0.1"
        self._remember(str(self.port))
        self._configuration.write_text(_CONFIGURATION.format(port=self.port, folder=self._folder), "utf-8")
        status = await self._run(program)
        if status is not None and self._set_database_aside():
            status = await self._run(program)
        if status is not None:
            self._child = None
            raise NoBroker(f"mosquitto would not start: {self._last_words(status)}")
        self._log.info("started mosquitto as our own broker, on %s:%d", self.host, self.port)

    async def _run(self, program: str) -> int | None:
        """Start it and wait until it answers. Returns its exit status if it ended instead."""
        with self._output.open("wb") as output:
            child = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", "-c", _LAUNCH, str(os.getpid())),
                *(program, "-c", str(self._configuration)),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C in a terminal is for us: it must outlive our last words to it
            )
        self._child = child
        self._pid_file.write_text(f"{child.pid}\n", "ascii")
        deadline = time.monotonic() + PATIENCE
        while child.returncode is None:
            if await answers_as_mqtt(self.host, self.port):
                return None
            if time.monotonic() > deadline:
                child.kill()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.05):
                    await child.wait()
        return child.returncode

    def _set_database_aside(self) -> bool:
        """A database that a power cut has spoiled must not keep the broker down. True if there was such a one."""
        database = self._folder / "mosquitto.db"
        if "database" not in self._said() or not database.exists():
            return False
        aside = database.replace(self._folder / "mosquitto.db.unreadable")
        self._log.warning("mosquitto can't read its database; it is kept as %s and a new one begun", aside)
        return True

    async def _end_left_over(self) -> None:
        """End a child of an earlier run that is still there (it is about to end, or could not be told to)."""
        try:
            pid = int(self._pid_file.read_text("ascii"))
        except (OSError, ValueError):
            return
        deadline = time.monotonic() + PATIENCE
        kind = signal.SIGTERM
        while self._is_ours(pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, kind)
            if time.monotonic() > deadline:
                kind = signal.SIGKILL
            await asyncio.sleep(0.05)
        self._pid_file.unlink(missing_ok=True)

    def _is_ours(self, pid: int) -> bool:
        try:
            return os.fsencode(self._configuration) in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            return False

    def _said(self) -> str:
        try:
            return self._output.read_text("utf-8", "replace")
        except OSError:
            return ""

    def _last_words(self, status: int) -> str:
        """What it said last, without mosquitto's time stamp, or else how it ended."""
        errors = [line.partition(": ")[2] for line in self._said().splitlines() if "Error" in line]
        return " ".join(errors) or (f"exit status {status}" if status >= 0 else f"signal {-status}")

    @property
    def _configuration(self) -> Path:
        return self._folder / "mosquitto.conf"

    @property
    def _output(self) -> Path:
        return self._folder / "mosquitto.log"

    @property
    def _pid_file(self) -> Path:
        return self._folder / "mosquitto.pid"


async def answers_as_mqtt(host: str, port: int, patience: float = 5.0) -> bool:
    """Does a broker answer there? Any CONNACK is a yes: one that wants a password is a broker, too."""
    connect = b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x0a\x00\x00"  # MQTT 3.1.1, clean session, no client id
    try:
        async with asyncio.timeout(patience):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(connect)
                return await reader.readexactly(1) == b"\x20"
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
    except (OSError, EOFError):  # TimeoutError is an OSError, IncompleteReadError an EOFError
        return False


def _free_port(wanted: int) -> int:
    """The wanted port if nobody listens there, else one that is free."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return int(probe.getsockname()[1])
    raise NoBroker("no port is free on 127.0.0.1 for a broker")
