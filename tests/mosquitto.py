"""A real Mosquitto for tests, and a listener beside it that remembers all that it publishes.

Each broker has a free port and a folder of its own, so tests can run side by side. `Listener` is a thread of paho's,
on purpose not our own client: what is tested must not be its own witness.
"""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests import needs

PATIENCE = 20.0  # seconds; only a broken test waits so long


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(condition: Callable[[], Any], what: str = "") -> Any:
    """Poll from a thread until the condition is true; returns its value."""
    deadline = time.monotonic() + PATIENCE
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited in vain {what or condition}"
        time.sleep(0.005)
    return value


class Mosquitto:
    """One broker. `settings` are lines added to its configuration."""

    def __init__(self, folder: Path, *settings: str, persistence: bool = True) -> None:
        self.folder = folder
        self.port = free_port()
        self.settings = list(settings)
        self.persistence = persistence
        self.process: subprocess.Popen[bytes] | None = None
        self.settled = False  # it has had its port, and others know it

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    def start(self) -> Self:
        """Start it (again, with what it kept) and wait until it accepts connections."""
        program = needs.program("mosquitto", "mosquitto")
        self.folder.mkdir(parents=True, exist_ok=True)
        lines = [
            "user root",
            f"listener {self.port} localhost",  # 127.0.0.1 and ::1: a client takes what its resolver says first
            "set_tcp_nodelay true",
            "max_queued_messages 100000",
            f"persistence {str(self.persistence).lower()}",
            f"persistence_location {self.folder}/",
            *self.settings,
        ]
        if not any(line.startswith("allow_anonymous") for line in lines):
            lines.append("allow_anonymous true")
        configuration = self.folder / "mosquitto.conf"
        configuration.write_text("\n".join(lines) + "\n")
        with (self.folder / "mosquitto.log").open("ab") as log:
            self.process = subprocess.Popen([program, "-c", str(configuration)], stdout=log, stderr=log)
        if until(self._accepts, f"for {configuration}") == "taken":
            self.port = self.port if self.settled else free_port()  # somebody was quicker
            return self.start()
        self.settled = True
        return self

    def _accepts(self) -> str:
        assert self.process
        if self.process.poll() is not None:
            said = (self.folder / "mosquitto.log").read_text()
            assert said.rstrip().endswith("Error: Address already in use"), said
            return "taken"
        with socket.socket() as probe:
            return "yes" if probe.connect_ex(("127.0.0.1", self.port)) == 0 else ""

    def send(self, number: int) -> None:
        assert self.process
        self.process.send_signal(number)

    def freeze(self) -> None:
        """It keeps its connections and says nothing."""
        self.send(signal.SIGSTOP)

    def thaw(self) -> None:
        self.send(signal.SIGCONT)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End it, by default in order: it writes what it keeps."""
        if self.process:
            if self.process.poll() is None:
                self.thaw()
                self.send(number)
            self.process.wait(PATIENCE)
            self.process = None

    def kill(self) -> None:
        self.stop(signal.SIGKILL)


class Listener:
    """Subscribes and remembers: `messages` in order, as (topic, payload, retained).

    With a client id it is a durable subscriber: it is given what came while it, or the broker, was away.
    """

    def __init__(self, port: int, *topics: str, client_id: str = "", user: str = "", password: str = "") -> None:
        self.messages: list[tuple[str, bytes, bool]] = []
        self.expiries: list[int] = []  # message expiry intervals that were seen, in seconds
        self._topics = topics or ("#",)
        self._subscribed = threading.Event()
        self._client = Client(CallbackAPIVersion.VERSION2, client_id=client_id, protocol=MQTTProtocolVersion.MQTTv5)
        session = Properties(PacketTypes.CONNECT)
        session.SessionExpiryInterval = 3600 if client_id else 0
        if user:
            self._client.username_pw_set(user, password)
        self._client.reconnect_delay_set(1, 1)
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.on_message = self._on_message
        self._client.connect("127.0.0.1", port, clean_start=not client_id, properties=session)
        self._client.loop_start()
        assert self._subscribed.wait(PATIENCE)

    def _on_connect(self, *_: Any) -> None:
        self._client.subscribe([(topic, 1) for topic in self._topics])

    def _on_message(self, _: Client, __: Any, message: MQTTMessage) -> None:
        if message.properties and hasattr(message.properties, "MessageExpiryInterval"):
            self.expiries.append(message.properties.MessageExpiryInterval)
        self.messages.append((message.topic, bytes(message.payload), message.retain))

    def publish(self, topic: str, payload: bytes | str, retain: bool = False) -> None:
        self._client.publish(topic, payload, qos=1, retain=retain).wait_for_publish(PATIENCE)

    def payloads(self, topic: str) -> list[bytes]:
        return [payload for name, payload, _ in list(self.messages) if name == topic]

    def newest(self, topic: str) -> Any:
        """The newest payload of a topic: decoded JSON, or the bytes where it is none; None if there was none."""
        found = self.payloads(topic)
        if not found:
            return None
        try:
            return json.loads(found[-1])
        except ValueError:
            return found[-1]

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    """A broker that is running."""
    broker = Mosquitto(tmp_path / "mosquitto").start()
    try:
        yield broker
    finally:
        broker.stop()
