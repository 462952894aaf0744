"""Which broker: the one that is there, our own child, or none."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.integrations import mqtt
from gateway.integrations.mqtt import broker
from gateway.integrations.mqtt.broker import LocalBroker, NoBroker, answers_as_mqtt
from tests import needs
from tests.integrations.mqtt.fake_broker import listening
from tests.integrations.mqtt.stand_in_gateway import StandIn, make_event, wait_until
from tests.mosquitto import Listener, Mosquitto, free_port, until

LOG = logging.getLogger("test.broker")


@pytest.fixture(autouse=True)
def _installed() -> None:
    needs.program("mosquitto", "mosquitto")


@asynccontextmanager
async def local(folder: Path, port: int, search: str = broker.SEARCH) -> AsyncIterator[LocalBroker]:
    made = LocalBroker(folder, LOG, port, search)
    try:
        yield made
    finally:
        await made.stop()


@pytest.fixture
def taken() -> Iterator[int]:
    """A port where something listens that is no broker."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


async def test_broker_that_is_there_is_used(mosquitto: Mosquitto, tmp_path: Path) -> None:
    async with local(tmp_path / "own", mosquitto.port) as found:
        assert await found.locate() == ("localhost", mosquitto.port)
        assert not found.ours
        mosquitto.kill()
        # It may be restarting: taking its port would lock it out.
        assert await found.locate() == ("localhost", mosquitto.port)
        assert not found.ours


async def test_broker_that_wants_a_password_is_one(tmp_path: Path) -> None:
    there = Mosquitto(tmp_path / "mosquitto", "allow_anonymous false").start()
    try:
        assert await answers_as_mqtt("127.0.0.1", there.port)
    finally:
        there.stop()


async def test_own_broker_keeps_what_is_retained(tmp_path: Path) -> None:
    folder, port = tmp_path / "data of Jörg" / "broker", free_port()
    async with local(folder, port) as own:
        assert await own.locate() == ("127.0.0.1", port)
        assert own.ours
        assert await own.locate() == ("127.0.0.1", port)
        with Listener(port, client_id="durable") as listener:
            listener.publish("a/b", b"kept", retain=True)
    assert not await answers_as_mqtt("127.0.0.1", port)
    assert not (folder / "mosquitto.pid").exists()
    async with local(folder, port) as own:
        await own.locate()
        with Listener(port, "a/b") as listener:
            await wait_until(lambda: listener.messages)
            assert listener.messages == [("a/b", b"kept", True)]


def listeners(port: int) -> list[str]:
    """The addresses, in the kernel's hexadecimal, on which something listens at this port."""
    lines = [line.split() for table in ("tcp", "tcp6") for line in Path("/proc/net", table).read_text().splitlines()]
    return [line[1] for line in lines if line[3] == "0A" and line[1].endswith(f":{port:04X}")]


async def test_own_broker_listens_on_loopback_only(tmp_path: Path) -> None:
    async with local(tmp_path, free_port()) as own:
        _, port = await own.locate()
        assert listeners(port) == [f"0100007F:{port:04X}"]


async def test_taken_port_is_left_alone_and_the_new_one_remembered(
    tmp_path: Path, taken: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def no_answer(host: str, port: int) -> bool:
        return port != taken and await answers_as_mqtt(host, port)

    monkeypatch.setattr(broker, "answers_as_mqtt", no_answer)  # else each try waits for the silent one
    async with local(tmp_path, taken) as own:
        _, first = await own.locate()
        assert first != taken
    async with local(tmp_path, taken) as own:
        assert await own.locate() == ("127.0.0.1", first)


async def test_what_is_no_broker(taken: int) -> None:
    assert not await answers_as_mqtt("127.0.0.1", taken, patience=0.05)
    assert not await answers_as_mqtt("127.0.0.1", free_port())

    async def http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with listening(http) as port:
        assert not await answers_as_mqtt("127.0.0.1", port)


async def test_own_broker_that_dies_is_started_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with local(tmp_path, free_port()) as own:
        where = await own.locate()
        pid = int((tmp_path / "mosquitto.pid").read_text())
        os.kill(pid, signal.SIGKILL)
        await wait_until(lambda: own._child and own._child.returncode is not None)
        assert await own.locate() == where
        assert int((tmp_path / "mosquitto.pid").read_text()) != pid
        assert await answers_as_mqtt(*where)
    assert "our mosquitto ended: signal 9; starting it again" in caplog.messages


async def test_neither_broker_nor_mosquitto(tmp_path: Path) -> None:
    port = free_port()
    async with local(tmp_path, port, search=str(tmp_path)) as none:
        with pytest.raises(NoBroker) as caught:
            await none.locate()
    assert str(caught.value) == (
        f"there is no MQTT broker: none answers on localhost:{port} and the program mosquitto is not installed. "
        "Install it (Debian, Ubuntu, Raspberry Pi OS: sudo apt install mosquitto), "
        'or name a broker in the configuration (url: "mqtt://user:password@host:1883")'
    )


async def test_mosquitto_that_does_not_start(tmp_path: Path) -> None:
    program = tmp_path / "bin" / "mosquitto"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho '1795414044: Error: out of cheese.'\nexit 3\n")
    program.chmod(0o755)
    async with local(tmp_path / "own", free_port(), search=str(program.parent)) as own:
        for _ in range(2):
            with pytest.raises(NoBroker) as caught:
                await own.locate()
            assert str(caught.value) == "mosquitto would not start: Error: out of cheese."


async def test_folder_that_can_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    async with local(tmp_path / "file" / "broker", free_port()) as own:
        with pytest.raises(NoBroker) as caught:
            await own.locate()
    assert str(caught.value) == (
        f"no broker of our own could be started: [Errno 20] Not a directory: '{tmp_path}/file/broker'"
    )


async def test_unreadable_database_is_set_aside(tmp_path: Path) -> None:
    (tmp_path / "mosquitto.db").write_bytes(b"what a power cut left")
    async with local(tmp_path, free_port()) as own:
        assert await answers_as_mqtt(*await own.locate())
    assert (tmp_path / "mosquitto.db.unreadable").read_bytes() == b"what a power cut left"


async def test_broker_of_last_time_is_given_time_to_boot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    (tmp_path / "last").write_text("found\n")
    async with local(tmp_path, port) as waiting:
        with pytest.raises(NoBroker) as caught:
            await waiting.locate()
        assert str(caught.value) == f"the broker on localhost:{port}, used last time, does not answer yet"
        monkeypatch.setattr(broker, "BOOT", 0.0)
        assert await waiting.locate() == ("127.0.0.1", port)
        assert waiting.ours


OWNER = """
import asyncio, logging, sys
from pathlib import Path
from gateway.integrations.mqtt.broker import LocalBroker

async def main():
    await LocalBroker(Path(sys.argv[1]), logging.getLogger(), int(sys.argv[2])).locate()
    print("up", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def killed_owner(folder: Path, port: int) -> int:
    """A gateway that was killed with -9. Returns the pid of its broker."""
    with subprocess.Popen([sys.executable, "-c", OWNER, str(folder), str(port)], stdout=subprocess.PIPE) as owner:
        assert owner.stdout
        assert owner.stdout.readline() == b"up\n"
        pid = int((folder / "mosquitto.pid").read_text())
        assert is_alive(pid)
        owner.kill()
    return pid


def test_own_broker_ends_when_we_are_killed(tmp_path: Path) -> None:
    pid = killed_owner(tmp_path, free_port())
    until(lambda: not is_alive(pid), "for the broker's end")


async def test_broker_of_a_killed_gateway_is_waited_for(tmp_path: Path) -> None:
    """Its end takes a moment, in which it must not be taken for somebody else's."""
    port = free_port()
    pid = await asyncio.to_thread(killed_owner, tmp_path, port)
    async with local(tmp_path, port) as own:
        assert await own.locate() == ("127.0.0.1", port)
        assert own.ours
        assert not is_alive(pid)


async def test_pid_file_of_somebody_else(tmp_path: Path) -> None:
    (tmp_path / "mosquitto.pid").write_text(f"{os.getpid()}\n")
    async with local(tmp_path, free_port()) as own:
        await own.locate()


# --- the target with it ----------------------------------------------------------------------------------------


async def test_auto_starts_a_broker_and_ends_it(gateway: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    monkeypatch.setattr(broker.LocalBroker.__init__, "__defaults__", (port, broker.SEARCH))
    monkeypatch.setattr(mqtt, "FIRST_WAIT", 0.05)
    device = gateway.add("front_door")
    event = make_event(device)
    async with gateway.connected() as target:
        assert target.describe() == (
            f"connected to the MQTT broker on 127.0.0.1:{port} (mosquitto, started by Mailwire), topics mailwire/#"
        )
        with Listener(port, "mailwire/+/event") as listener:
            await target.deliver(event)
            await wait_until(lambda: listener.newest("mailwire/front_door/event") == event)
            os.kill(int((gateway.context.data_dir / "broker" / "mosquitto.pid").read_text()), signal.SIGKILL)
            await wait_until(lambda: gateway.readies == 2)
            await target.deliver(event)
    assert not await answers_as_mqtt("127.0.0.1", port)


async def test_auto_without_any_broker_says_so(gateway: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker.LocalBroker.__init__, "__defaults__", (free_port(), "/nowhere"))
    async with gateway.target() as target:
        await wait_until(lambda: gateway.problems)
        [said] = gateway.problems
        assert said
        assert said.startswith("there is no MQTT broker: ")
        assert said.endswith("; events wait in the store")
        assert target.describe() == "connecting to the MQTT broker on this machine, topics mailwire/#"
