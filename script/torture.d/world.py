"""The programs of one scenario: the gateway under its shim, the broker, a tap between the two, and a subscriber.

Each is ended by its own process id. The tap sees what the gateway publishes and what the broker acknowledges: a broker
that is killed forgets what it has acknowledged, and that must not be counted against the gateway.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from load import HOST
from process import free_port
from shim import Shim, Unavailable
from subscriber import EVENT

HERE = Path(__file__).resolve().parent
START = 30.0  # seconds that a program may take to be ready
KEEPALIVE = 3  # seconds; a frozen broker is noticed after one and a half of it


class Failed(Exception):
    """A scenario could not be played to its end; the text says why."""


class Program:
    """A program that is killed and started again, always with the same words."""

    running: ClassVar[list[Program]] = []

    def __init__(self, name: str, command: list[str], log: Path, environment: dict[str, str] | None = None) -> None:
        self.name = name
        self.log = log
        self._command = command
        self._environment = {**os.environ, **(environment or {})}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._environment
            )
        self.running.append(self)

    @property
    def pid(self) -> int:
        assert self.process
        return self.process.pid

    def ended(self) -> int | None:
        """How it ended, if nobody asked it to."""
        return self.process.poll() if self.process else None

    def signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def _end(self, number: int) -> None:
        if self.process is None:
            return
        if self.process.poll() is None:
            self.signal(signal.SIGCONT)
            self.signal(number)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise Failed(f"{self.name} did not stop within 60 s of SIGTERM") from None
        finally:
            self.process = None
            self.running.remove(self)

    def last_words(self) -> str:
        return next(iter(self.log.read_text(errors="replace").splitlines()[-1:]), "it printed nothing")

    @classmethod
    def end_all(cls) -> None:
        for program in list(cls.running):
            program.kill()


def _answers(port: int, first: bytes) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=2) as peer:
        return not first or peer.recv(100).startswith(first)
    return False


class World:
    """All of them, with their files below `folder`; the gateway's data may be elsewhere."""

    def __init__(
        self, folder: Path, library: Path | None, *, data: Path | None = None, record: bool = False, settings: str = ""
    ) -> None:
        self.folder = folder
        self.data = data or folder / "gateway" / "data"
        self.data.parent.mkdir(parents=True, exist_ok=True)
        self.record = folder / "record"
        self.heard_file = folder / "heard"
        self.port = free_port()
        self.broker_port = free_port()
        self.copies: list[Path] = []  # of the data folder, as it was before it was damaged
        self.deaths = 0  # ends of the gateway that nobody asked for
        self.tap = Tap(self.broker_port)
        self.shim = Shim(library, self.data.parent, folder, record=self.record if record else None) if library else None
        configuration = folder / "mailwire.yaml"
        configuration.write_text(
            "integrations:\n"
            f'  mail: {{type: smtp_server, listen: ["{HOST}:{self.port}"], tls: none}}\n'
            f'  broker: {{type: mqtt, url: "mqtt://{HOST}:{self.tap.port}", keepalive: {KEEPALIVE}}}\n'
            f"store: {{data: {json.dumps(str(self.data))}, reserve: 0}}\n{settings}"
        )
        broker = folder / "broker"
        broker.mkdir()
        (broker / "mosquitto.conf").write_text(
            f"{'user root' if os.getuid() == 0 else ''}\nlistener {self.broker_port} {HOST}\nallow_anonymous true\n"
            f"set_tcp_nodelay true\npersistence true\npersistence_location {broker}/\nautosave_interval 1\n"
            "max_queued_messages 0\n"
        )
        mosquitto = shutil.which("mosquitto", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
        if not mosquitto:
            raise Unavailable("there is no mosquitto: apt-get install mosquitto")
        self.gateway = Program(
            "the gateway",
            [sys.executable, "-m", "gateway", "run", "--config", str(configuration), "--log", "info"],
            folder / "gateway.log",
            {**(self.shim.environment if self.shim else {}), "PYTHONPATH": str(HERE.parents[1])},
        )
        self.broker = Program("the broker", [mosquitto, "-c", str(broker / "mosquitto.conf")], folder / "broker.log")
        self.subscriber = Program(
            "the subscriber",
            [sys.executable, str(HERE / "subscriber.py"), str(self.broker_port), str(self.heard_file)],
            folder / "subscriber.log",
        )

    def start(self) -> None:
        self.broker.start()
        self._until(lambda: _answers(self.broker_port, b""), self.broker)
        self.subscriber.start()
        self._until(lambda: "ready" in self.subscriber.log.read_text(), self.subscriber)
        self.start_gateway()

    def start_gateway(self) -> None:
        """Return when it says 220."""
        self.gateway.start()
        self.wait_for_gateway()

    def wait_for_gateway(self) -> None:
        self._until(lambda: _answers(self.port, b"220"), self.gateway)

    def keep_alive(self) -> None:
        """As an init system would: start a gateway that has ended by itself, and count that."""
        if self.gateway.process and self.gateway.ended() is not None:
            self.deaths += 1
            self.gateway.kill()
            self.gateway.start()

    def kill_interpreter(self) -> None:
        """kill -9 at the gateway's only child, if it has one just now; the gateway itself starts it again."""
        with contextlib.suppress(OSError):
            for child in Path(f"/proc/{self.gateway.pid}/task/{self.gateway.pid}/children").read_text().split():
                os.kill(int(child), signal.SIGKILL)

    def _until(self, condition: object, program: Program) -> None:
        deadline = time.monotonic() + START
        while not condition():  # type: ignore[operator]
            if (code := program.ended()) is not None:
                raise Failed(f"{program.name} ended with {code}: {program.last_words()}")
            if time.monotonic() > deadline:
                raise Failed(f"{program.name} was not ready within {START:.0f} s: {program.last_words()}")
            time.sleep(0.01)

    def heard(self) -> list[tuple[str, int]]:
        """(event id, number) of all that the subscriber was given."""
        with contextlib.suppress(FileNotFoundError):
            return [(line[:26], int(line[27:])) for line in self.heard_file.read_text().splitlines()]
        return []

    def owed(self) -> int | None:
        """What the gateway's store says is still to be done; None: it can't be asked."""
        import sqlite3

        with (
            contextlib.suppress(sqlite3.Error),
            contextlib.closing(sqlite3.connect(f"file:{self.data}/mailwire.db?mode=ro", uri=True, timeout=10)) as store,
        ):
            (mails,) = store.execute("SELECT count(*) FROM mails WHERE state IN ('received', 'replay')").fetchone()
            (waiting,) = store.execute("SELECT count(*) FROM deliveries WHERE state = 'waiting'").fetchone()
            return int(mails + waiting)
        return None

    def close(self) -> None:
        for program in (self.gateway, self.subscriber, self.broker):
            program.kill()
        self.tap.close()

    # --- of the running gateway --------------------------------------------------------------------------------

    def open_files(self) -> int:
        return len(list(Path(f"/proc/{self.gateway.pid}/fd").iterdir()))

    def address_space(self) -> int:
        """Bytes."""
        return int(Path(f"/proc/{self.gateway.pid}/statm").read_text().split()[0]) * resource.getpagesize()

    @contextlib.contextmanager
    def limited(self, what: int, soft: int) -> Iterator[None]:
        """The gateway's own limit, for a while; nothing if it is just being started again."""
        with contextlib.suppress(ProcessLookupError):
            before = resource.prlimit(self.gateway.pid, what)
            resource.prlimit(self.gateway.pid, what, (soft, before[1]))
        try:
            yield
        finally:
            with contextlib.suppress(ProcessLookupError, UnboundLocalError):
                resource.prlimit(self.gateway.pid, what, before)


class Tap:
    """Passes on what the gateway and the broker say to each other, and notes the events and their acknowledgements."""

    def __init__(self, broker_port: int) -> None:
        self.acknowledged: dict[str, int] = {}  # event id -> number
        self._broker_port = broker_port
        self._listener = socket.create_server((HOST, 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for one in list(self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                gateway, _ = self._listener.accept()
            except OSError:
                return
            try:
                broker = socket.create_connection((HOST, self._broker_port), timeout=5)
            except OSError:
                gateway.close()
                continue
            broker.settimeout(None)
            under_way: dict[int, tuple[str, int]] = {}
            for one in (gateway, broker):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._open.add(one)
            there = (gateway, broker, lambda first, body, under_way=under_way: self._publish(first, body, under_way))
            back = (broker, gateway, lambda first, body, under_way=under_way: self._puback(first, body, under_way))
            for way in (there, back):
                threading.Thread(target=self._pass, args=way, daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket, note: object) -> None:
        pending = bytearray()
        with contextlib.suppress(OSError):
            while piece := source.recv(1 << 18):
                pending += piece
                for first, body in _packets(pending):
                    note(first, body)  # type: ignore[operator]
                sink.sendall(piece)
        for one in (source, sink):  # closed by the collector: the other way may be in the middle of a call
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            self._open.discard(one)

    def _publish(self, first: int, body: bytes, under_way: dict[int, tuple[str, int]]) -> None:
        if first & 0xF6 == 0x32 and (event := EVENT.search(body)):
            topic = int.from_bytes(body[:2], "big")
            if not body[2 : 2 + topic].endswith(b"/event"):
                return
            packet = int.from_bytes(body[2 + topic : 4 + topic], "big")
            under_way[packet] = event[1].decode(), int(event[2])

    def _puback(self, first: int, body: bytes, under_way: dict[int, tuple[str, int]]) -> None:
        if first == 0x40 and (len(body) < 3 or body[2] < 0x80):
            event = under_way.pop(int.from_bytes(body[:2], "big"), None)
            if event:
                self.acknowledged[event[0]] = event[1]


def _packets(pending: bytearray) -> Iterator[tuple[int, bytes]]:
    """(first byte, body) of each whole MQTT packet, which is taken from `pending`."""
    while found := re.match(rb".([\x80-\xff]{0,3}[\x00-\x7f])", pending, re.DOTALL):
        length = sum((byte & 0x7F) << 7 * place for place, byte in enumerate(found[1]))
        end = found.end() + length
        if len(pending) < end:
            return
        first, body = pending[0], bytes(pending[found.end() : end])
        del pending[:end]
        yield first, body
