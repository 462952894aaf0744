"""`mailwire monitor` at a pseudo-terminal, with a board at the other end."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
import time

import pytest

from gateway import ports
from gateway.cli import monitor
from gateway.wire.frame import encode
from tests.integrations.serial.board import Board, Port, event
from tests.live import until

MONITOR = [sys.executable, "-m", "gateway", "monitor"]


@pytest.fixture
def port(tmp_path):
    made = Port(tmp_path / "board")
    yield made
    made.close()


class Monitor:
    """A running monitor; `out` is what it has printed so far."""

    def __init__(self, *args, stdout=None):
        self.out = b""
        self.err = b""
        self.process = subprocess.Popen(
            [*MONITOR, *map(str, args)], stdin=subprocess.PIPE, stdout=stdout or subprocess.PIPE, stderr=subprocess.PIPE
        )
        self._threads = [threading.Thread(target=self._drain, args=("err", self.process.stderr))]
        if stdout is None:
            self._threads.append(threading.Thread(target=self._drain, args=("out", self.process.stdout)))
        for thread in self._threads:
            thread.start()

    def _drain(self, name, stream):
        while data := os.read(stream.fileno(), 4096):
            setattr(self, name, getattr(self, name) + data)

    def __enter__(self):
        until(lambda: b"Ctrl-C ends it" in self.err, "opening the port")
        return self

    def __exit__(self, *_):
        self.end()

    def type(self, text):
        self.process.stdin.write(text.encode() + b"\n")
        self.process.stdin.flush()

    def shows(self, pattern):
        return until(lambda: re.search(pattern, self.out.decode()), f"{pattern} in {self.out!r}")

    def end(self):
        self.process.send_signal(signal.SIGINT)
        self.process.stdin.close()
        code = self.process.wait(20)
        for thread in self._threads:
            thread.join()
        self.process.stderr.close()
        if self.process.stdout:
            self.process.stdout.close()
        return code


def test_frames_and_console_with_their_time(port):
    with Monitor(port.path) as shown, Board(port) as board:
        port.write(b"rst:0x1 (POWERON_RESET)\r\n\x1b]0;title\x07\r\n")
        board.send(event("Tür offen", severity="critical"))
        shown.shows(r"\d\d:\d\d:\d\d\.\d{3}   rst:0x1 \(POWERON_RESET\)\n")
        shown.shows(r"   \\x1b\]0;title\\x07\n")  # it can't steer the terminal
        shown.shows(r"\d < hello  attic TEST 1\.0 \(boot \w{8}, lines of 4096, window 4\)\n")
        shown.shows(r"\d > hello  monitor mailwire ")
        shown.shows(r"\d < event  #1 back_door door on critical: Tür offen\n")
        assert not board.acked  # the board keeps it
    assert "\033" not in shown.out.decode()


def test_colour_on_a_terminal_alone(port):
    master, slave = pty.openpty()
    shown = Monitor(port.path, stdout=slave)
    os.close(slave)
    try:
        with shown, Board(port) as board:
            board.send(event("Fire", severity="critical"))
            text = b""
            while b"Fire" not in text:
                assert select.select([master], [], [], 20)[0]
                text += os.read(master, 4096)
            assert b"\033[31m< event" in text
    finally:
        os.close(master)


def test_as_json(port):
    with Monitor(port.path, "--json") as shown, Board(port) as board:
        port.write(b"hi\r\n")
        sent = event("Tür offen")
        board.send(sent)
        shown.shows("Tür offen")
        lines = [json.loads(line) for line in shown.out.decode().splitlines()]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"]) for line in lines)
    assert {"board", "us"} == {line["from"] for line in lines}
    assert [line["console"] for line in lines if "console" in line] == ["hi"]
    (got,) = [line["frame"] for line in lines if line.get("frame", {}).get("t") == "event"][:1]
    assert got["event"] == sent


def answering(board, answer):
    """Have the board answer commands."""
    handle = board._handle

    def wrapped(events):
        handle(events)
        while board.console:
            board.link.tell({"t": "done", "id": board.console[0].get("id"), **answer(board.console.pop(0))})

    board._handle = wrapped
    return board


def test_commands_typed_in(port):
    asked = []

    def answer(command):
        asked.append(command)
        return (
            {"status": "ok", "data": {"heap": 1}} if command["do"] == "status" else {"status": "error", "error": "no"}
        )

    with Monitor(port.path) as shown, answering(Board(port), answer):
        shown.type("status")
        shown.shows(r"> do     status\n")
        shown.shows(r"< done   \{\"heap\":1\}\n")
        shown.type("set mqtt.url mqtt://a b")
        shown.type("get smtp.port")
        shown.type('{"do": "x", "y": [1]}')
        shown.shows(r"(?s)< done   error: no\n.*< done   error: no\n.*< done   error: no\n")
        shown.type("get a b")
        until(lambda: b"'get' takes 1 word behind it, not 'a b'." in shown.err)
    assert [{key: value for key, value in one.items() if key not in ("t", "id")} for one in asked] == [
        {"do": "status"},
        {"do": "set", "path": "mqtt.url", "value": "mqtt://a b"},
        {"do": "get", "path": "smtp.port"},
        {"do": "x", "y": [1]},
    ]


def run(*args, **options):
    return subprocess.run(
        [*MONITOR, *map(str, args)], capture_output=True, text=True, check=False, timeout=60, **options
    )


def test_one_command_for_a_script(port):
    answers = {
        "status": {"status": "ok", "data": {"name": "attic", "heap": 1}},
        "reboot": {"status": "ok", "data": None},
        "dance": {"status": "error", "error": "there is no command 'dance'"},
    }
    with answering(Board(port), lambda command: answers[command["do"]]):
        done = run(port.path, "--do", "status")
        assert (done.returncode, done.stdout, done.stderr) == (0, "name  attic\nheap  1\n", "")
        done = run(port.path, "--do", "status", "--json")
        assert json.loads(done.stdout) == {"name": "attic", "heap": 1}
        assert run(port.path, "--do", "reboot").returncode == 0
        done = run(port.path, "--do", "dance")
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == "The board says: there is no command 'dance'\n"


def test_nobody_answers(port, monkeypatch, capsys):
    monkeypatch.setattr(monitor, "_ANSWER", 0.3)
    with ports.open_port(str(port.path)) as line, pytest.raises(SystemExit) as caught:
        monitor._do_one(line, "status", False)
    assert caught.value.code == 1
    assert "nobody answered in 0 s. Does the board run Mailwire, at this speed?" in capsys.readouterr().err


def test_raw_bytes_both_ways(port):
    with Monitor(port.path, "--raw") as shown:
        port.write(b"\x00\xffabc\r\n" + encode({"t": "ping"}))
        until(lambda: shown.out == b"\x00\xffabc\r\n" + encode({"t": "ping"}))
        shown.type("print(1)")
        port.expect(b"print(1)\r\n")


def test_unplugged_and_plugged_in_again(port):
    with Monitor(port.path) as shown:
        port.unplug()
        until(lambda: b"the port is gone: was it unplugged? Waiting for it ..." in shown.err)
        port.plug()
        with Board(port):
            shown.shows("< hello")


def test_it_ends_when_it_is_told(port):
    began = time.monotonic()
    assert run(port.path, "--seconds", "0.1", stdin=subprocess.DEVNULL).returncode == 0
    assert time.monotonic() - began < 30
    shown = Monitor(port.path)
    with shown:
        pass
    assert shown.process.returncode == 130


@pytest.fixture
def plugged(monkeypatch):
    def plug(*there):
        monkeypatch.setattr(ports, "list_ports", lambda: list(there))

    return plug


def test_the_port_is_found_or_asked_for(plugged, capsys, monkeypatch):
    usb = ports.Port("/dev/ttyUSB0", "CP2102N", 0x10C4, 0xEA60, "0001")
    built_in = ports.Port("/dev/ttyS0", "", None, None, None)
    plugged(usb, built_in)
    assert monitor._only_port() == "/dev/ttyUSB0"
    plugged(usb, usb._replace(path="/dev/ttyUSB1"))
    with pytest.raises(SystemExit) as caught:
        monitor._only_port()
    assert caught.value.code == 2
    assert capsys.readouterr().err == (
        "There is more than one port; name the one that is meant:\n"
        "  1  /dev/ttyUSB0 (CP2102N, 10C4:EA60, serial number 0001)\n"
        "  2  /dev/ttyUSB1 (CP2102N, 10C4:EA60, serial number 0001)\n"
    )
    plugged()
    with pytest.raises(SystemExit) as caught:
        monitor._only_port()
    assert caught.value.code == 1
    assert capsys.readouterr().err == (
        "No serial port is there at all. Is the board plugged in, with a cable that carries data and not just power?\n"
    )


def test_no_such_port_and_wrong_use(tmp_path):
    done = run(tmp_path / "none")
    assert done.returncode == 1
    assert done.stderr.startswith(f"There is no port {tmp_path}/none. ")
    assert run("x", "--baud", "fast").returncode == 2
    assert "is no speed; write 115200 or 9600, say" in run("x", "--baud", "fast").stderr
    assert run("x", "--json", "--raw").returncode == 2
