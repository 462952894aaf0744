"""A board's MQTT under the real MicroPython, against a real Mosquitto: nothing lost, in order, and said in words."""

import asyncio
import json
import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2.sandbox import ImmutableSandboxedEnvironment

from firmware.mqtt_client import Lost, _varint, read_varint
from firmware.mqtt_greeting import _properties
from gateway.integrations.mqtt.discovery import mistakes
from gateway.wire.event import KINDS
from tests import needs
from tests.firmware.authority import Authority
from tests.firmware.board import BUILDS, ROOT, Board, free_port, install, interpreter
from tests.integrations.mqtt.fake_broker import FakeBroker, listening, read_packet, version_of
from tests.mosquitto import Listener, Mosquitto, mosquitto, until

__all__ = ["mosquitto"]

HEAP = {"x86_64": "512K", "i386": "192K"}  # with the whole application in it, as on a board
CAMERA = {"id": "front_door", "name": "Front door", "manufacturer": "Hikvision", "model": None, "profile": None}


def settings(url: str, **more: object) -> dict:
    return {"name": "Attic", "smtp": {"port": free_port()}, "mqtt": {"url": url, "keepalive": 2, **more}}


def event(number: int, device: dict | None = CAMERA, text: str = "") -> dict:
    return {
        "v": 1, "id": f"{number:026d}", "time": "2026-11-22T19:11:28.123Z", "source": "smtp", "device": device,
        "kind": "motion", "state": "on", "severity": "warning", "title": f"Motion {number}", "text": text,
        "data": {}, "attachments": [], "mail": None,
    }  # fmt: skip


def fill(board: Board, *events: dict) -> None:
    """Put events into its flash, as a spool does; the board is not running."""
    folder = board.folder / "spool"
    folder.mkdir(exist_ok=True)
    for number, one in enumerate(events, len(list(folder.iterdir())) + 1):
        (folder / f"{number:08d}.mqtt").write_text(json.dumps(one, separators=(",", ":")))


def left(board: Board) -> list[Path]:
    """What its spool still owes."""
    return list((board.folder / "spool").glob("[0-9]*"))


def numbers(listener: Listener, topic: str = "mailwire/front_door/event") -> list[int]:
    return [int(json.loads(payload)["id"]) for payload in listener.payloads(topic)]


def retained(port: int, topic: str) -> object:
    """What a broker holds, as one who comes later is given it."""
    with Listener(port, topic) as late:
        until(lambda: late.messages, f"for {topic}")
        assert late.messages[0][2]
        return late.newest(topic)


@pytest.mark.parametrize("build", BUILDS)
def test_a_thousand_events_leave_the_spool_in_order(mosquitto: Mosquitto, tmp_path: Path, build: str) -> None:
    board = Board(tmp_path / "board", settings(mosquitto.url), build=build, heap=HEAP[build])
    fill(board, *(event(number) for number in range(1, 1001)))
    with Listener(mosquitto.port) as listener, board:
        until(lambda: not left(board), "for an empty spool")
        until(lambda: len(numbers(listener)) >= 1000)  # the broker acknowledges before it passes on
        board.read()
        assert numbers(listener) == list(range(1, 1001))
        assert b"Traceback" not in board.output


def test_an_event_of_4_kib_and_small_ones(mosquitto: Mosquitto, tmp_path: Path) -> None:
    board = Board(tmp_path / "board", settings(mosquitto.url), heap="512K")
    cunning = event(5) | {"title": 'a,"text":"b'}
    fill(board, event(1), event(2, text="ä" * 1800), event(3), event(4, text="x" * 3500), cunning)
    with Listener(mosquitto.port) as listener, board:
        until(lambda: len(numbers(listener)) == 5)
        assert numbers(listener) == [1, 2, 3, 4, 5]
        assert json.loads(listener.payloads("mailwire/front_door/event")[1])["text"] == "ä" * 1800
        topic = "mailwire/front_door/state"
        until(lambda: (listener.newest(topic) or {"last": event(0)})["last"]["title"] == cunning["title"])


def test_what_mqtt_takes_of_a_boards_heap(mosquitto: Mosquitto, tmp_path: Path) -> None:
    """Code, connection, discovery and events of 4 KB, in words of 32 bits; 26 KiB more than the rest of a board."""
    board = Board(tmp_path / "board", settings(mosquitto.url), build="i386")
    player = ROOT / "tests" / "firmware" / "play_mqtt.py"
    install(board.folder, known=player.read_text())

    def play(mode: str, heap: str) -> int:
        command = [interpreter("i386"), "-X", f"heapsize={heap}", player, str(mosquitto.port), mode]
        done = subprocess.run(command, cwd=board.folder, capture_output=True, text=True, timeout=30, check=True)
        assert "memory" not in done.stdout
        return int(re.search(r"in use: (\d+)", done.stdout)[1])

    fill(board, *(event(number, text="x" * 3500) for number in range(1, 21)))
    assert play("drain", "88K") - play("idle", "88K") < 26 * 1024
    assert not left(board)


def test_nothing_is_lost_when_the_broker_is_killed(tmp_path: Path) -> None:
    broker = Mosquitto(tmp_path / "mosquitto", "autosave_interval 1", "autosave_on_changes true")
    broker.start()
    board = Board(tmp_path / "board", settings(broker.url), heap="512K")
    fill(board, *(event(number) for number in range(1, 401)))
    try:
        with Listener(broker.port, client_id="watch"):
            pass  # from here on the broker keeps for it what comes while it is away
        with Listener(broker.port) as listener, board:
            until(lambda: len(numbers(listener)) > 50)
            broker.kill()
            owed = {int(json.loads(path.read_bytes())["title"].rpartition(" ")[2]) for path in left(board)}
            assert owed  # killed in the middle
            board.wait_for(r"mqtt: the broker hung up|mqtt: the connection hung up")
            board.wait_for(r"mqtt: \S+ refuses the connection: does a broker run there\?")
            broker.start()
            with Listener(broker.port, client_id="watch") as again:
                until(lambda: not left(board), "for an empty spool")
                # What the broker had acknowledged and lost when it was killed is not ours to repeat.
                until(lambda: owed <= set(numbers(again)), "for all that was owed")
                late = [number for number in numbers(again) if number in owed]
                assert late[-len(owed) :] == sorted(owed)  # in order, again
    finally:
        broker.stop()


def test_a_half_open_connection_is_noticed(mosquitto: Mosquitto, tmp_path: Path) -> None:
    with Listener(mosquitto.port) as listener, Board(tmp_path / "board", settings(mosquitto.url), heap="512K") as board:
        board.wait_for("mqtt: connected")
        mosquitto.freeze()
        board.wait_for("mqtt: no sign of the broker for 2 s")
        mosquitto.thaw()
        until(lambda: board.read(0.1) is not None and board.output.count(b"mqtt: connected") == 2)
        until(lambda: listener.payloads("mailwire/attic/availability")[-1] == b"online")


def test_the_last_will_says_that_the_board_is_gone(mosquitto: Mosquitto, tmp_path: Path) -> None:
    topic = "mailwire/attic/availability"
    with (
        Listener(mosquitto.port, topic) as listener,
        Board(tmp_path / "board", settings(mosquitto.url), heap="512K") as board,
    ):
        until(lambda: listener.payloads(topic) == [b"online"])
        assert retained(mosquitto.port, topic) == b"online"
        board.kill()
        until(lambda: listener.payloads(topic) == [b"online", b"offline"])
        assert retained(mosquitto.port, topic) == b"offline"


def test_wrong_password_and_right_one(tmp_path: Path) -> None:
    words = tmp_path / "passwords"
    subprocess.run([needs.program("mosquitto_passwd", "mosquitto"), "-b", "-c", words, "board", "right"], check=True)
    broker = Mosquitto(tmp_path / "mosquitto", "allow_anonymous false", f"password_file {words}").start()
    try:
        url = broker.url.replace("://", "://board:wrong@")
        with Board(tmp_path / "wrong", settings(url), heap="512K") as board:
            found = board.wait_for(r"mqtt: (\S+) refuses us: (.*)\r\n")
            assert found[2] == b"user or password is wrong"
        with Board(tmp_path / "right", settings(broker.url, user="board", password="right"), heap="512K") as board:
            board.wait_for("mqtt: connected to .*, MQTT 5")
    finally:
        broker.stop()


# --- TLS ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def secure(tmp_path: Path):
    """(a broker that speaks TLS as `localhost`, its authority)."""
    authority = Authority(tmp_path / "authority")
    certificate, key = authority.issue("localhost")
    broker = Mosquitto(tmp_path / "mosquitto", f"certfile {certificate}", f"keyfile {key}")
    broker.start()
    yield broker, authority
    broker.stop()


@pytest.mark.parametrize("build", BUILDS)
def test_tls_with_an_authority_of_ones_own(secure, tmp_path: Path, build: str) -> None:
    broker, authority = secure
    board = Board(
        tmp_path / "board", settings(f"mqtts://localhost:{broker.port}", ca="ca.pem"), build=build, heap=HEAP[build]
    )
    (board.folder / "ca.pem").write_bytes(authority.certificate.read_bytes())
    fill(board, *(event(number, text="x" * 1000) for number in range(1, 21)))
    with board:
        board.wait_for("mqtt: connected to localhost")
        until(lambda: not left(board), "for an empty spool")


def test_tls_tells_what_is_not_trusted(secure, tmp_path: Path) -> None:
    broker, authority = secure
    stranger = Authority(tmp_path / "stranger", "Another authority")
    board = Board(tmp_path / "board", settings(f"mqtts://localhost:{broker.port}", ca="ca.pem"), heap="512K")
    with board:
        board.wait_for("mqtt: there is no file 'ca.pem' on the board")
    (board.folder / "ca.pem").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    with board:
        board.wait_for("mqtt: 'ca.pem' is no certificate")
    (board.folder / "ca.pem").write_bytes(stranger.certificate.read_bytes())
    with board:
        board.wait_for(
            r"mqtt: localhost:\d+ is not trusted \(.*\): is mqtt.ca who signed its certificate, for this host\?"
        )
    # A file may hold several; the broker's is the second
    (board.folder / "ca.pem").write_bytes(stranger.certificate.read_bytes() + authority.certificate.read_bytes())
    with board:
        board.wait_for("mqtt: connected to localhost")
    board.set(settings(f"mqtts://127.0.0.1:{broker.port}", ca="ca.pem"))
    with board:
        board.wait_for(r"mqtt: 127.0.0.1:\d+ is not trusted")
    board.set(settings(f"mqtts://127.0.0.1:{broker.port}", verify=False))
    with board:
        board.wait_for("mqtt: connected to 127.0.0.1")


# --- Home Assistant ------------------------------------------------------------------------------------------------


def render(template: str, payload: object) -> str:
    return ImmutableSandboxedEnvironment().from_string(template).render(value_json=payload)


def test_home_assistant_is_told_of_the_board_and_of_what_it_hears(mosquitto: Mosquitto, tmp_path: Path) -> None:
    board = Board(tmp_path / "board", settings(mosquitto.url), heap="512K")
    fill(board, event(1), event(2, device=None))
    with Listener(mosquitto.port) as listener, board:
        own, heard = (f"homeassistant/device/mailwire_{device}/config" for device in ("attic", "front_door"))
        until(lambda: len(listener.payloads("mailwire/attic/event")) == 1)
        for topic in (own, heard):
            assert mistakes(topic, listener.newest(topic)) == []
            assert retained(mosquitto.port, topic) == listener.newest(topic)
        # Home Assistant knows of the entity before its first event
        order = [topic for topic, _, _ in listener.messages]
        assert order.index(heard) < order.index("mailwire/front_door/event")

        camera = listener.newest(heard)
        assert camera["device"] == {
            "identifiers": ["mailwire_front_door"],
            "name": "Front door",
            "manufacturer": "Hikvision",
            "via_device": "mailwire_attic",
        }
        assert camera["availability"] == [{"topic": "mailwire/attic/availability"}]
        assert camera["components"]["event"]["event_types"] == list(KINDS)
        sent = listener.newest("mailwire/front_door/event")
        shown = json.loads(render(camera["components"]["event"]["value_template"], sent))
        assert (shown["event_type"], shown["title"]) == ("motion", "Motion 1")

        until(lambda: listener.newest("mailwire/front_door/state"))
        state = listener.newest("mailwire/front_door/state")
        assert state["motion"] == "on"
        assert render(camera["components"]["last"]["value_template"], state) == "Motion 1"

        parts = listener.newest(own)["components"]
        assert set(parts) == {"event", "last", "heap", "uptime", "owed", "restart", "connection"}  # no Wi-Fi: no signal
        until(lambda: (listener.newest("mailwire/attic/state") or {}).get("owed") == 0)
        state = listener.newest("mailwire/attic/state")
        assert state["last"]["title"] == "Motion 2"
        assert render(parts["owed"]["value_template"], state) == "0"
        assert render(parts["restart"]["value_template"], state) == "None"  # Home Assistant reads that as unknown
        assert int(render(parts["heap"]["value_template"], state)) > 1000
        assert parts["connection"]["state_topic"] == "mailwire/attic/availability"

        before = len(listener.payloads(own)), len(listener.payloads(heard))
        listener.publish("homeassistant/status", "online")
        until(lambda: len(listener.payloads(own)) > before[0] and len(listener.payloads(heard)) > before[1])


def test_without_discovery_and_with_another_base(mosquitto: Mosquitto, tmp_path: Path) -> None:
    board = Board(tmp_path / "board", settings(mosquitto.url, discovery=False, base="plant/hall-1"), heap="512K")
    fill(board, event(1))
    with Listener(mosquitto.port) as listener, board:
        until(lambda: listener.payloads("plant/hall-1/front_door/state"))
        assert numbers(listener, "plant/hall-1/front_door/event") == [1]
        assert not [topic for topic, _, _ in listener.messages if topic.startswith("homeassistant")]


# --- requests --------------------------------------------------------------------------------------------------------


def test_requests_are_answered_and_settings_are_not_shown(mosquitto: Mosquitto, tmp_path: Path) -> None:
    with Listener(mosquitto.port) as listener:
        listener.publish("mailwire/attic/request/reboot", "", retain=True)
        with Board(tmp_path / "board", settings(mosquitto.url), heap="512K") as board:
            board.wait_for("mqtt: connected")

            def ask(verb: str, payload: str) -> dict:
                before = len(listener.payloads(f"mailwire/attic/response/{verb}"))
                listener.publish(f"mailwire/attic/request/{verb}", payload)
                return json.loads(until(lambda: listener.payloads(f"mailwire/attic/response/{verb}")[before:])[0])

            answer = ask("status", '{"transaction": "t1"}')
            assert (answer["status"], answer["transaction"]) == ("ok", "t1")
            assert answer["data"]["id"] == "attic"
            assert answer["data"]["mqtt"] == "connected"
            assert ask("get", '{"path": "mqtt.url"}') == {
                "status": "error",
                "error": "there is no command 'get'. There are help, status, log, update, blink, reboot",
            }
            assert ask("status", "no JSON") == {
                "status": "error", "error": 'a command is an object such as {"do": "status"}',
            }  # fmt: skip
            assert any("mqtt: connected" in line for line in ask("log", "")["data"])
            assert board.process.poll() is None  # the retained reboot was not carried out
            assert ask("reboot", "{}")["status"] == "ok"
            assert board.process.wait(10) == 3


# --- other brokers ---------------------------------------------------------------------------------------------------


async def test_falls_back_to_mqtt_3(tmp_path: Path) -> None:
    """A fake: no broker that is packaged here refuses MQTT 5."""
    versions = []

    async def serve(reader, writer):
        _, _, body = await read_packet(reader)
        versions.append(version_of(body))
        if versions[-1] == 5:
            writer.write(b"\x20\x02\x00\x01")  # unacceptable protocol version, said as 3.1.1 says it
            return
        writer.write(b"\x20\x02\x00\x00")
        while True:
            kind, _, body = await read_packet(reader)
            if kind == 8:
                writer.write(b"\x90\x03" + body[:2] + b"\x01")
                # a message longer than the board takes is skipped, and acknowledged
                topic = b"mailwire/attic/request/status"
                long = len(topic).to_bytes(2, "big") + topic + b"\x00\x07" + b"x" * 5000
                writer.write(b"\x32" + _varint(len(long)) + long)
            elif kind == 4:
                versions.append(body)
            elif kind == 3:
                length = int.from_bytes(body[:2], "big")
                writer.write(b"\x40\x02" + body[2 + length : 4 + length])

    async with listening(serve) as port:
        board = Board(tmp_path / "board", settings(f"mqtt://127.0.0.1:{port}"), heap="512K")
        fill(board, event(1))
        with board:
            await asyncio.to_thread(board.wait_for, "mqtt: connected to .*, MQTT 3.1.1")
            await asyncio.to_thread(until, lambda: not left(board))
    assert versions == [5, 4, b"\x00\x07"]


async def test_an_event_too_large_for_the_broker_does_not_stop_the_others(tmp_path: Path) -> None:
    """A fake: Maximum Packet Size 1000, which the board's connection must keep to."""
    broker = FakeBroker(properties=b"\x27\x00\x00\x03\xe8")
    async with listening(broker.serve) as port:
        board = Board(tmp_path / "board", settings(f"mqtt://127.0.0.1:{port}", discovery=False), heap="512K")
        fill(board, event(1), event(2, text="x" * 1000), event(3))
        with board:
            await asyncio.to_thread(
                board.wait_for,
                "mqtt: an event is given up, for the broker will never take it: .*the packet is too large",
            )
            await asyncio.to_thread(until, lambda: not left(board))
    topics = [topic for _, topic in broker.published]
    assert topics.count("mailwire/front_door/event") == 2


async def test_a_window_of_one_is_kept(tmp_path: Path) -> None:
    """A fake: Receive Maximum 1."""
    broker = FakeBroker(properties=b"\x21\x00\x01")
    async with listening(broker.serve) as port:
        board = Board(tmp_path / "board", settings(f"mqtt://127.0.0.1:{port}"), heap="512K")
        fill(board, *(event(number) for number in range(1, 20)))
        with board:
            await asyncio.to_thread(until, lambda: not left(board))
    assert broker.most_held == 1


@given(st.binary(max_size=60))
def test_properties_of_any_shape(body: bytes) -> None:
    try:
        found = _properties(body, 0)
    except Lost:
        return
    assert all(isinstance(value, int | str) for value in found.values())


@given(st.integers(0, 2**28 - 1))
def test_lengths_are_read_as_they_are_written(number: int) -> None:
    assert read_varint(_varint(number) + b"rest", 0) == (number, len(_varint(number)))


def test_topics_match_as_the_standard_says() -> None:
    source = (Path(__file__).parent.parent.parent / "firmware" / "mqtt.py").read_text()
    scope: dict = {}
    exec(re.search(r"def matches.*?\n\n\n", source, re.DOTALL)[0], scope)  # its module needs MicroPython
    for pattern, topic, expected in (
        ("a/+", "a/b", True), ("a/+", "a", False), ("a/+", "a/b/c", False), ("a/#", "a/b/c", True), ("a", "a", True),
        ("a/b", "a", False), ("a", "a/b", False), ("#", "a", True), ("+/+", "a/b", True), ("a/#", "a", True),
    ):  # fmt: skip
        assert scope["matches"](pattern, topic) is expected, (pattern, topic)
