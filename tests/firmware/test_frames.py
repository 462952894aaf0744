"""A board on a serial line, under the real MicroPython, over a pty: frames, and the console in them."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from gateway.wire import frame
from tests.firmware.board import BUILDS, ROOT, free_port, interpreter
from tests.firmware.line import PC, Wired
from tests.firmware.test_mqtt import HEAP, event, settings
from tests.mosquitto import Listener, Mosquitto, mosquitto, until

__all__ = ["mosquitto"]


def wired(folder: Path, own: dict | None = None, build: str = "x86_64") -> Wired:
    own = own or {"name": "Attic", "smtp": {"port": free_port()}}
    return Wired(folder / "board", own, build=build, heap=HEAP[build])


def owing(board: Wired, *events: dict) -> None:
    folder = board.folder / "spool"
    folder.mkdir(exist_ok=True)
    for number, one in enumerate(events, 1):
        (folder / f"{number:08d}.serial").write_text(json.dumps(one))


def left(board: Wired) -> list[Path]:
    return list((board.folder / "spool").glob("[0-9]*"))


@pytest.mark.parametrize("build", BUILDS)
def test_hello_and_events_in_order(tmp_path: Path, build: str) -> None:
    with wired(tmp_path, build=build) as board:
        board.stop()
        owing(board, *(event(number, text="ä" * number) for number in range(1, 201)))
        with board:
            pc = PC(board)
            pc.until(lambda: pc.link.peer)
            assert {key: pc.link.peer[key] for key in ("firmware", "id", "name", "slot", "line")} == {
                "firmware": "0.1.0", "id": "attic", "name": "Attic", "slot": "a", "line": 4096,
            }  # fmt: skip
            assert "settings" not in pc.link.peer
            pc.until(lambda: not left(board), "for an empty spool")
            assert [int(one["id"]) for one in pc.events] == list(range(1, 201))
            assert pc.events[99]["text"] == "ä" * 100
            assert b"Mailwire 0.1.0 on" in pc.noise  # log lines, in between


def test_an_event_stays_until_it_is_acknowledged(tmp_path: Path) -> None:
    board = wired(tmp_path)
    owing(board, event(1), event(2))
    with board:
        pc = PC(board, accept=False)
        pc.until(lambda: pc.link.peer)
        for _ in range(50):
            pc.turn()
        assert len(left(board)) == 2
        pc.accept = True
        pc.until(lambda: not left(board))
        assert [int(one["id"]) for one in pc.events] == [1, 2]


def test_a_board_that_is_killed_sends_again(tmp_path: Path) -> None:
    board = wired(tmp_path)
    owing(board, *(event(number) for number in range(1, 51)))
    with board:
        pc = PC(board)
        pc.until(lambda: len(pc.events) >= 10)
        board.kill()
    with board:
        again = PC(board, "pc2")
        again.until(lambda: not left(board))
    seen = [int(one["id"]) for one in pc.events + again.events]
    assert set(seen) == set(range(1, 51))
    assert len(seen) <= 50 + 8  # what was on its way came twice


def test_a_pc_that_does_not_read_does_not_hold_the_board(mosquitto: Mosquitto, tmp_path: Path) -> None:
    own = settings(mosquitto.url)
    own["serial"] = {"events": True}
    board = wired(tmp_path, own)
    folder = board.folder / "spool"
    folder.mkdir()
    for number in range(1, 301):  # far more than a pty's buffer
        (folder / f"{number:08d}.mqtt.serial").write_text(json.dumps(event(number, text="x" * 1000)))
    with Listener(mosquitto.port) as listener, board:
        pc = PC(board)
        pc.until(lambda: pc.link.peer)
        # From here on nobody reads; the broker is served all the same, and asked for a sign of life it answers.
        until(lambda: len(listener.payloads("mailwire/front_door/event")) == 300)
        for number in range(100):  # each a line in the log
            os.write(board.master, frame.encode({"t": "event", "event": {"title": f"{number} " + "x" * 50}}))
        listener.publish("mailwire/attic/request/status", "{}")
        until(lambda: listener.payloads("mailwire/attic/response/status"))
        pc.until(lambda: not left(board), "for the rest, when it reads again")
        assert [int(one["id"]) for one in pc.events] == list(range(1, 301))
        pc.until(lambda: b"lines were left out, for nobody read them" in pc.noise)


def test_a_line_too_short_for_an_event(tmp_path: Path) -> None:
    board = wired(tmp_path)
    owing(board, event(1), event(2, text="x" * 2000), event(3))
    with board:
        pc = PC(board)
        pc.link._limit = 1024  # as a small device has it
        pc.until(lambda: not left(board))
        assert [int(one["id"]) for one in pc.events] == [1, 2, 3]
        short = pc.events[1]
        assert short["data"]["truncated"] == ["shortened for a line of 1024 octets"]
        assert 300 < len(short["text"]) < 1000


# --- what comes from the PC ---------------------------------------------------------------------------


def test_a_notification_goes_to_the_broker_once_it_is_in_flash(mosquitto: Mosquitto, tmp_path: Path) -> None:
    with Listener(mosquitto.port) as listener, wired(tmp_path, settings(mosquitto.url)) as board:
        pc = PC(board)
        pc.until(lambda: pc.link.peer)
        n = pc.link.send("notify", {"title": "Wash is done", "message": "60 °C", "severity": "warning"})
        pc.until(lambda: n in pc.acked)
        until(lambda: listener.payloads("mailwire/attic/event"))
        told = listener.newest("mailwire/attic/event")
        assert (told["title"], told["text"], told["severity"]) == ("Wash is done", "60 °C", "warning")
        assert (told["kind"], told["source"], told["device"]["id"]) == ("other", "serial", "attic")


def test_a_notification_is_shown_where_there_is_no_broker(tmp_path: Path) -> None:
    with wired(tmp_path) as board:
        pc = PC(board)
        pc.until(lambda: pc.link.peer)
        n = pc.link.send("notify", {"message": "Dinner\x1b[2J"})
        pc.until(lambda: n in pc.acked)
        pc.until(lambda: b"notify: Dinner?[2J" in pc.noise)
        assert not left(board)
        other = pc.link.send("event", event(7))
        pc.until(lambda: other in pc.acked)
        pc.until(lambda: b"event: Motion 7" in pc.noise)
        assert not left(board)  # it is not sent back


# --- the console --------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", BUILDS)
def test_a_console_session(tmp_path: Path, build: str) -> None:
    own = {"name": "Attic", "smtp": {"port": free_port(), "users": {"cam": "secret"}}, "wifi": {"ssid": "home"}}
    own["mqtt"] = {"url": "mqtt://u:pw@127.0.0.1:1", "password": "hidden"}
    with wired(tmp_path, own, build) as board:
        pc = PC(board)
        pc.until(lambda: pc.link.peer)
        verbs = ["help", "status", "get", "set", "unset", "log", "update", "blink", "reboot"]
        assert pc.do("help") == {"status": "ok", "data": verbs}
        pc.until(lambda: b"does a broker run there?" in pc.noise)
        status = pc.do("status")["data"]
        assert (status["id"], status["slot"], status["owed"]) == ("attic", "a", 0)
        assert status["mqtt"] == "127.0.0.1:1 refuses the connection: does a broker run there?"
        assert status["network"] == "this board has no network"
        assert status["heap"] > 1000
        assert pc.do("statsu") == {"status": "error", "error": "there is no command 'statsu'. Did you mean 'status'?"}

        # Passwords go in and never come out
        assert pc.do("get", path="mqtt.password")["data"] == "***"
        assert pc.do("get", path="mqtt.url")["data"] == "mqtt://***@127.0.0.1:1"
        everything = pc.do("get")
        assert everything["data"]["smtp"]["users"] == {"cam": "***"}
        assert "secret" not in json.dumps(everything)
        assert pc.do("get", path="mqtt.urll") == {
            "status": "error", "error": "mqtt.urll: there is no such key here. Did you mean 'url'?",
        }  # fmt: skip

        # What would not do is not written
        before = (board.folder / "settings.json").read_text()
        assert pc.do("set", path="smtp.port", value="25") == {
            "status": "error", "error": "smtp.port: must be a whole number, not '25'.",
        }  # fmt: skip
        assert pc.do("set", path="mqtt.kepalive", value=9) == {
            "status": "error", "error": "mqtt.kepalive: there is no such key here. Did you mean 'keepalive'?",
        }  # fmt: skip
        assert pc.do("set", path="mqtt.keepalive")["error"].startswith("'value' is missing")
        assert (board.folder / "settings.json").read_text() == before

        assert pc.do("set", path="wifi.password", value="12345678") == {"status": "ok", "data": {"restart": True}}
        assert pc.do("unset", path="mqtt.password") == {"status": "ok", "data": {"restart": True}}
        now = json.loads((board.folder / "settings.json").read_text())
        assert now["wifi"] == {"ssid": "home", "password": "12345678"}
        assert now["mqtt"] == {"url": "mqtt://u:pw@127.0.0.1:1"}
        assert not (board.folder / "settings.json.new").exists()
        assert "12345678" not in json.dumps(pc.do("log"))
        assert any("wifi.password is changed" in line for line in pc.do("log")["data"])
        assert pc.do("update")["data"] == {"slot": "a", "trial": False}
        assert pc.do("blink") == {"status": "ok", "data": None}

        assert pc.do("reboot") == {"status": "ok", "data": None}
        assert board.process.wait(10) == 3
    with board:
        pc = PC(board, "pc2")
        pc.until(lambda: pc.link.peer)
        assert pc.do("get", path="wifi.password")["data"] == "***"
        assert pc.do("get", path="mqtt.password")["data"] == ""


def test_a_bad_settings_file_leaves_the_console(tmp_path: Path) -> None:
    board = wired(tmp_path)
    (board.folder / "settings.json").write_text('{"name": "Attic",\n "smtp": {"port": "x"}, "wfi": {}}')
    with board:
        pc = PC(board)
        pc.until(lambda: pc.link.peer)
        words = [
            "wfi: there is no such key here. Did you mean 'wifi'?",
            "smtp.port: must be a whole number, not 'x'.",
            "smtp: this stays off until that is put right.",
        ]
        assert pc.link.peer["settings"] == words
        assert pc.do("status")["data"]["settings"] == words
        for line in words:
            assert ("settings.json: " + line).encode() in pc.noise
        assert pc.do("set", path="smtp.port", value=2526)["status"] == "ok"
        assert pc.do("unset", path="wfi")["status"] == "ok"
        assert json.loads((board.folder / "settings.json").read_text()) == {"name": "Attic", "smtp": {"port": 2526}}
    (board.folder / "settings.json").write_text('{"name": "Attic"\n "smtp": nothing')
    with board:
        pc = PC(board, "pc2")
        pc.until(lambda: pc.link.peer)
        assert pc.link.peer["settings"] == ["line 2: this is not JSON. Look for a quote or a bracket too few."]


@pytest.mark.parametrize("build", BUILDS)
def test_what_comes_is_read_without_a_sweep_of_the_heap(tmp_path: Path, build: str) -> None:
    """A sweep takes some ten milliseconds, and a board holds no more than 22 ms of what comes at 115200 baud."""
    script = tmp_path / "script.py"
    script.write_text(f"""
import asyncio, gc, sys
sys.path.insert(0, {str(ROOT)!r})
from firmware.frames import _Stdio
line = _Stdio()
async def read():
    gc.collect()
    gc.disable()
    before = gc.mem_alloc()
    data = await line.read()
    return data, gc.mem_alloc() - before
data, took = asyncio.run(read())
print(len(data), data == b"0123456789abcdef" * 16, took < 2048)
print(asyncio.run(read())[0], asyncio.run(read())[0])
""")
    command = [interpreter(build), "-X", "heapsize=512K", script]
    done = subprocess.run(
        command, input=b"0123456789abcdef" * 16 + b"rest", capture_output=True, timeout=30, check=True
    )
    assert done.stdout.splitlines() == [b"256 True True", b"b'rest' b''"]
