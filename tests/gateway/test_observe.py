"""The gateway seen from outside: its log in a pipe and on a terminal, and `bridge/health` at a real broker."""

import json
import os
import re
import smtplib
import socket
import subprocess
from pathlib import Path

import pytest

from tests.live import DEFAULT, Gateway, until
from tests.mosquitto import Listener, Mosquitto


def send(port, *subjects, helo="cam", sender="cam@lan"):
    with smtplib.SMTP("127.0.0.1", port, helo, timeout=20) as smtp:
        for subject in subjects:
            smtp.sendmail(sender, ["a@gw"], f"From: {sender}\r\nSubject: {subject}\r\n\r\n{subject}\r\n")


class Piped(Gateway):
    """Its log is what it is without being told: JSON, in a file."""

    def __init__(self, folder: Path, config: str = DEFAULT) -> None:
        super().__init__(folder, config)
        self.log_format = "auto"

    def lines(self):
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def line(self, words):
        return until(lambda: next((line for line in self.lines() if words in line["message"]), None), words)


def test_in_a_pipe_each_line_is_json_and_names_mail_and_device(tmp_path):
    with Piped(tmp_path) as gateway:
        send(gateway.port, "Motion detected")
        [event] = gateway.settled(1)
        line = gateway.line(f"mail {event['id']} from 127.0.0.1 is an event of")
        send(gateway.port, "Motion detected")
        repeated = gateway.line(f"repeats {event['id']}")
    assert (line["level"], line["logger"]) == ("info", "gateway.pipeline")
    assert (line["mail"], line["device"]) == (event["id"], event["device"]["id"])
    assert (line["peer"], line["source"], line["sender"]) == ("127.0.0.1", "lan-mail", "cam@lan")
    assert (line["kind"], line["state"]) == ("motion", "on")
    assert {"receive_ms", "store_ms", "interpret_ms", "size"} <= set(line)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])
    assert repeated["mail"] != event["id"]


def test_nothing_that_a_device_says_disturbs_the_log(tmp_path):
    hostile = '\x1b[2J\x9b31m\u202e"}\\n{'
    with Piped(tmp_path, f"log: debug\n{DEFAULT}") as gateway:
        with socket.create_connection(("127.0.0.1", gateway.port), 20) as device:
            content = f"From: {hostile}\r\nSubject: {hostile}\r\nX-Serial: {hostile}\r\n\r\n{hostile}\r\n.\r\n"
            commands = f"EHLO {hostile}\r\nMAIL FROM:<a\u202eb@lan>\r\nRCPT TO:<b@gw>\r\nDATA\r\n"
            device.sendall((commands + content).encode())
            answer = b""
            while b"stored as" not in answer:
                answer += device.recv(4096)
        gateway.settled(1)
        gateway.terminate()
    text = gateway.log.read_bytes().decode()
    assert all(line.isprintable() for line in text.splitlines())
    assert all(str(value).isprintable() for line in gateway.lines() for value in line.values() if value is not None)
    assert any("\\u202e" in line["message"] for line in gateway.lines())


def test_a_flood_of_mail_is_no_flood_of_lines(tmp_path):
    with Piped(tmp_path) as gateway:
        send(gateway.port, *(f"number {number}" for number in range(300)))
        gateway.settled(300)

        def told():
            lines = [line["message"] for line in gateway.lines()]
            own = sum("is an event of" in line for line in lines)
            rest = sum(int(found[1]) for line in lines if (found := re.match(r"(\d+) more mails within", line)))
            return own + rest == 300 and own

        assert until(told, "each mail in a line, or counted in one") < 300


def test_on_a_terminal_it_is_text(tmp_path):
    gateway = Piped(tmp_path)
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        gateway.command("run"),
        stdout=subprocess.PIPE,
        stderr=theirs,
        stdin=subprocess.DEVNULL,
        env=gateway.environment(),
    )
    os.close(theirs)
    try:
        gateway.process = process
        gateway.greeting = gateway._read_greeting()
        send(gateway.port, "Motion detected")
        seen = b""
        while b"is an event of" not in seen:
            seen += os.read(ours, 4096)
    finally:
        gateway.terminate()
        os.close(ours)
    [line] = [line for line in seen.decode().splitlines() if "is an event of" in line]
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} INFO    gateway\.pipeline: mail 01", line)
    assert "[source=lan-mail sender=cam@lan size=" in line


def test_a_bad_configuration_is_told_a_line_a_mistake(tmp_path):
    with Piped(tmp_path) as gateway:
        gateway.config.write_text("integrations:\n  lan-mail: {type: smtp_sever}\nrutes: []\n")
        gateway.hang_up()
        gateway.line("the new configuration is refused, the old one goes on")
        assert gateway.line("smtp_sever")["level"] == "error"
        assert "smtp_sever" not in gateway.line("rutes")["message"]


@pytest.fixture
def broker(tmp_path):
    running = Mosquitto(tmp_path / "broker").start()
    yield running
    running.stop()


def test_bridge_health_says_how_fast_how_much_and_what_was_wrong(tmp_path, broker):
    smtp = 'lan-mail: {type: smtp_server, listen: ["127.0.0.1:0"]}'
    config = f'integrations:\n  {smtp}\n  broker: {{type: mqtt, url: "{broker.url}"}}\n'
    with Gateway(tmp_path, config) as gateway:
        send(gateway.port, "Motion detected", "Motion ended", "Motion ended")

        def health(condition):
            with Listener(broker.port, "mailwire/bridge/health") as listener:

                def newest():
                    found = listener.newest("mailwire/bridge/health")
                    return found if found and condition(found) else None

                return until(newest, "in bridge/health")

        said = health(lambda found: found["latency_ms"]["whole broker"]["p99"])
        assert (said["status"], said["ready"], said["reasons"]) == ("ok", True, [])
        assert said["counts"]["mails"] >= 1
        for stage in ("receive", "store", "interpret", "deliver broker", "whole broker"):
            assert 0 <= said["latency_ms"][stage]["p50"] <= said["latency_ms"][stage]["p99"]
        assert said["disk_free"] > 0
        assert said["targets"]["broker"]["waiting"] == said["targets"]["broker"]["oldest"] == 0

        broker.stop()
        gateway.logged("the connection to the MQTT broker was lost")
        send(gateway.port, "Tamper alarm")
        broker.start()
        said = health(lambda found: found["status"] == "ok" and "broker" in found["last_errors"])
        assert "events wait in the store" in said["last_errors"]["broker"]["error"]
        assert said["last_errors"]["broker"]["time"] > 1_700_000_000
        assert said["problems"] == {}
