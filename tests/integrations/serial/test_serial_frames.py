"""Frames over a pseudo-terminal, into a real gateway and out of it: each event once, whatever happens."""

import os
import random
import signal
import smtplib
import socket
import time
from email.message import EmailMessage

import pytest

from tests.integrations.serial.board import Board, Port, event, owed
from tests.live import Gateway, until
from tests.mosquitto import Listener, mosquitto

__all__ = ["mosquitto"]

INBOX = "inbox: {type: smtp_server, listen: ['127.0.0.1:0']}"
BOOT_NOISE = (
    b"ets Jul 29 2019 12:21:46\r\n\r\nrst:0x1 (POWERON_RESET),boot:0x13 (SPI_FAST_FLASH_BOOT)\r\n"
    b"\x00\xff\xfe:{garbage*\r\nTraceback (most recent call last):\r\n>>> "
)


@pytest.fixture
def port(tmp_path):
    made = Port(tmp_path / "board")
    yield made
    made.close()


def configuration(port, *more, extra=""):
    lines = [f"panel: {{type: serial, port: '{port.path}'{extra}}}", *more]
    return "\n  ".join(["integrations:", *lines]) + "\n"


def gateway(tmp_path, port, *more, extra=""):
    return Gateway(tmp_path / "gateway", configuration(port, *more, extra=extra))


def mail(running, subject, text="Hello"):
    message = EmailMessage()
    message["Subject"] = subject
    message.set_content(text)
    with smtplib.SMTP("127.0.0.1", running.port, timeout=20) as client:
        client.send_message(message, "cam@lan", ["gw@lan"])


def titles(running):
    return [one["title"] for one in running.events()]


def test_a_frame_on_the_line_is_an_event_in_mqtt(tmp_path, port, mosquitto):
    broker = f"broker: {{type: mqtt, url: '{mosquitto.url}'}}"
    with gateway(tmp_path, port, broker) as running, Listener(mosquitto.port) as heard, Board(port) as board:
        port.write(BOOT_NOISE)
        sent = event("Tür offen 🙂", time="2026-11-25T10:00:00.000Z", data={"zone": 3})
        board.send(sent)
        until(lambda: board.acked == [1])
        got = until(lambda: heard.newest("mailwire/back_door/event"))
        assert got == sent | {"v": 1, "source": "panel", "attachments": [], "mail": None}
        assert until(lambda: heard.newest("mailwire/back_door/state"))["door"] == "on"
        until(lambda: heard.newest("homeassistant/device/mailwire_back_door/config"))
        running.logged(r"attic \(TEST, firmware 1\.0\) says hello")
        running.logged(r"panel says: rst:0x1 \(POWERON_RESET\)")
        running.logged(r"panel says: \\x00\\ufffd\\ufffd:\{garbage\*")
        info = until(lambda: heard.newest("mailwire/bridge/info"))["integrations"]["panel"]
        assert info["state"] == "running"
    assert not board.taken  # it is not told what it said


def test_a_board_that_gives_neither_id_nor_device_is_a_device_itself(tmp_path, port):
    with gateway(tmp_path, port) as running, Board(port) as board:
        board.send({"kind": "leak", "state": "on", "title": "Water"})
        board.send({"title": "Come", "message": "please", "severity": "critical"}, kind="notify")
        until(lambda: board.acked == [1, 2])
        water, come = running.events()
        assert (water["device"]["id"], water["kind"], water["state"]) == ("attic", "leak", "on")
        assert (come["title"], come["text"], come["severity"], come["kind"]) == ("Come", "please", "critical", "other")


def test_the_configuration_may_name_the_device(tmp_path, port):
    with gateway(tmp_path, port, extra=", device: pump") as running, Board(port, id="attic_1") as board:
        board.send({"title": "Water"}, {"title": "Fire", "device": "oven"})
        until(lambda: board.acked == [1, 2])
        assert [one["device"]["id"] for one in running.events()] == ["pump", "oven"]


def test_a_sender_that_can_not_read_is_heard(tmp_path, port):
    """Nothing but prints, with no number and no hello: `:{"t":"ping"}*00DC` is the shape."""
    from gateway.wire.frame import encode

    with gateway(tmp_path, port) as running:
        port.write(encode({"t": "event", "event": {"kind": "door", "title": "Open"}}))
        (only,) = until(running.events)
        assert (only["title"], only["device"]["id"]) == ("Open", "panel")


def test_killed_at_any_moment_there_is_exactly_one_event_each(tmp_path, port):
    chance = random.Random(4)
    sent = [event(f"event {number}") for number in range(120)]
    running = gateway(tmp_path, port)
    with Board(port) as board:
        board.send(*sent)
        for _ in range(4):
            running.start()
            before = len(board.acked)
            until(lambda before=before: len(board.acked) > before + chance.randrange(20))
            running.kill()
        with running:
            until(lambda: len(board.acked) == len(sent))
            stored = running.events()
    assert [one["id"] for one in stored] == [one["id"] for one in sent]


def test_killed_between_the_event_and_its_ack_there_is_one_event(tmp_path, port):
    """The board has not heard the ack, as if the gateway had died before it; it says the same again to the next one."""
    sent = event("once")
    running = gateway(tmp_path, port).start()
    with Board(port, deaf=True) as board:
        board.send(sent)
        until(running.events)
    running.kill()
    with running, Board(port, boot="another") as board:
        board.send(sent)
        until(lambda: board.acked == [1])
        assert [one["id"] for one in running.events()] == [sent["id"]]


def test_unplugged_and_plugged_in_again(tmp_path, port):
    with gateway(tmp_path, port) as running:
        with Board(port) as board:
            board.send(event("first"))
            until(lambda: board.acked == [1])
        port.unplug()
        running.logged(r"panel: .*: the port is gone: was it unplugged\?")
        running.logged(rf"panel: there is no port {port.path}\.")
        port.plug()
        with Board(port) as board:
            board.send(event("second"))
            until(lambda: board.acked == [1])
        assert titles(running) == ["first", "second"]
        assert len(running.logged(r"(?s)(is open.*){2}")[0]) > 0


def test_a_port_that_is_not_there_at_the_start_is_waited_for(tmp_path, port):
    port.unplug()
    with gateway(tmp_path, port) as running:
        assert f"there is no port {port.path}" in running.greeting
        port.plug()
        with Board(port) as board:
            board.send(event("late"))
            until(lambda: board.acked == [1])


def test_a_board_that_resets_begins_anew(tmp_path, port):
    with gateway(tmp_path, port) as running:
        for boot in range(3):
            with Board(port, boot=f"boot{boot}") as board:
                port.write(BOOT_NOISE)
                board.send(event(f"boot {boot}"))
                until(lambda board=board: board.acked == [1])
        assert titles(running) == ["boot 0", "boot 1", "boot 2"]


def test_a_flood_of_noise_leaves_a_bounded_log_and_a_line_that_works(tmp_path, port):
    with gateway(tmp_path, port) as running, Board(port) as board:
        for number in range(3000):
            port.write(b"noise %d %s\r\n" % (number, b"x" * 100))
        board.send(event("through"))
        until(lambda: board.acked == [1])
        assert running.log.read_text().count("panel says: noise") <= 40
    assert "lines more" in running.log.read_text()


def test_events_go_out_until_they_are_acknowledged(tmp_path, port):
    with gateway(tmp_path, port, INBOX) as running, Board(port) as board:
        until(lambda: board.hellos)
        board.answer = lambda link, boot, n, _: link.refuse(boot, n, "busy")
        mail(running, "Hello")
        until(lambda: board.taken)
        assert until(lambda: owed(running))[0]["target"] == "panel"
        board.answer = lambda link, boot, n, _: link.accept(boot, n)
        until(lambda: not owed(running))
        first = board.taken[0]
        assert all(one == first for one in board.taken)
        assert first["title"] == running.events()[0]["title"]


def test_what_a_board_refuses_for_good_is_a_dead_letter(tmp_path, port):
    with gateway(tmp_path, port, INBOX) as running, Board(port) as board:
        until(lambda: board.hellos)
        board.answer = lambda link, boot, n, _: link.refuse(boot, n, "bad", "no display here")
        mail(running, "Hello")
        dead = until(lambda: [one for one in owed(running) if one["state"] == "dead"])
        assert dead[0]["reason"] == "no display here"


def test_a_long_text_is_cut_for_the_line(tmp_path, port):
    with (
        gateway(tmp_path, port, INBOX, extra=", line: 1024") as running,
        Board(port) as board,
    ):
        until(lambda: board.hellos)
        body = "\n".join(f"line {number} äöü" for number in range(500))
        mail(running, "Long", body)
        (got,) = until(lambda: board.taken)
        whole = running.events()[0]["text"]
        assert whole.startswith(got["text"])
        assert 100 < len(got["text"]) < 1024
        assert got["data"]["truncated"] == ["the text was cut for a serial line"]
        until(lambda: not owed(running))


def test_a_board_that_takes_no_events_is_sent_none(tmp_path, port):
    with gateway(tmp_path, port, INBOX) as running, Board(port, takes=[]) as board:
        until(lambda: board.hellos)
        mail(running, "Hello")
        until(running.events)
        until(lambda: not owed(running))
        assert not board.taken


def test_over_a_socket(tmp_path):
    """As an emulator, or a converter in the network."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"socket://127.0.0.1:{server.getsockname()[1]}"
        with Gateway(tmp_path / "gateway", f"integrations:\n  panel: {{type: serial, port: '{url}'}}\n") as running:
            connection, _ = server.accept()
            connection.setblocking(False)

            class Socket:
                def read(self):
                    try:
                        return connection.recv(4096)
                    except BlockingIOError:
                        time.sleep(0.005)
                        return b""

                write = staticmethod(connection.sendall)

            with connection, Board(Socket()) as board:
                board.send(event("through the network"))
                until(lambda: board.acked == [1])
            assert titles(running) == ["through the network"]


def test_stopping_does_not_wait_for_the_line(tmp_path, port):
    with gateway(tmp_path, port) as running:
        os.kill(running.pid, signal.SIGTERM)
        assert running.process.wait(20) == 0
