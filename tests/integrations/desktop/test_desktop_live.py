"""A desktop beside a gateway, as they run: two processes, a broker, a daemon; killed, cut off, brought back."""

from __future__ import annotations

import json
import smtplib
import subprocess
import sys
from email.message import EmailMessage
from pathlib import Path

import pytest

from tests.desktop import Desktop, desktop
from tests.integrations.desktop.test_desktop import PNG
from tests.integrations.serial.board import Board, Port, event
from tests.live import Gateway, until
from tests.mosquitto import Listener, Mosquitto, mosquitto

__all__ = ["desktop", "mosquitto"]

HOUSE = """
integrations:
  lan-mail: {{type: smtp_server, listen: ["127.0.0.1:0"]}}
  broker: {{type: mqtt, url: "{url}", discovery: false}}
  night: {{type: archive, folder: night}}
routes:
  - {{to: [broker], escalate: {{after: 1 h, to: [night]}}}}
"""
DESK = """
integrations:
  home: {{type: mqtt, url: "{url}", publish: false, listen: [{{topic: mailwire/+/event, events: true}}]}}
  desktop: {{type: desktop}}
routes:
  - {{to: [desktop]}}
"""


class Desk(Gateway):
    """`mailwire desktop`, in place of `mailwire run`."""

    def command(self, *args):  # type: ignore[no-untyped-def]
        words = super().command(*args)
        if args[0] == "run":
            words[words.index("run")] = "desktop"
        return words


@pytest.fixture
def house(tmp_path: Path, mosquitto: Mosquitto) -> Gateway:
    return Gateway(tmp_path / "house", HOUSE.format(url=mosquitto.url))


@pytest.fixture
def desk(tmp_path: Path, mosquitto: Mosquitto) -> Desk:
    return Desk(tmp_path / "desk", DESK.format(url=mosquitto.url))


def send(house: Gateway, sender: str, title: str = "Motion detected") -> None:
    mail = EmailMessage()
    mail["Subject"], mail["From"], mail["To"] = title, sender, "alerts@home"
    mail.set_content(title)
    mail.add_attachment(PNG, "image", "png", filename="a.png")
    with smtplib.SMTP("127.0.0.1", house.port) as client:
        client.send_message(mail)


def test_a_camera_s_mail_is_shown_with_its_picture_and_acknowledged_at_the_gateway(
    house: Gateway, desk: Desk, desktop: Desktop, mosquitto: Mosquitto
) -> None:
    desktop.start_daemon()
    with house, desk, Listener(mosquitto.port, "mailwire/#") as listener:
        send(house, "cam@lan")
        (told,) = until(desktop.heard, "the notification")
        assert told.title.endswith("Motion detected")
        assert told.hints["image-path"].endswith(".png")
        (made,) = house.events()
        (same,) = desk.events()
        assert {key: same[key] for key in ("id", "time", "device", "kind", "state", "title", "attachments")} == {
            key: made[key] for key in ("id", "time", "device", "kind", "state", "title", "attachments")
        }
        (waiting,) = house.json("ack")
        assert waiting["id"] == made["id"]
        desktop.press("Acknowledge")
        until(lambda: not house.json("ack"), "the acknowledgement at the gateway")
        assert listener.newest("mailwire/bridge/response/ack") == {
            "status": "ok", "data": {"acknowledged": [made["id"]]},
        }  # fmt: skip
        # What is on the broker is the gateway's alone.
        info = [json.loads(payload) for payload in listener.payloads("mailwire/bridge/info")]
        assert all("night" in one["integrations"] for one in info)
        assert set(listener.payloads("mailwire/bridge/state")) == {b'{"state":"online"}'}


def test_muted_for_an_hour_from_the_desktop(house: Gateway, desk: Desk, desktop: Desktop, mosquitto: Mosquitto) -> None:
    desktop.start_daemon()
    with house, desk:
        send(house, "cam@lan")
        until(desktop.heard, "the notification")
        desktop.press("Mute device 1 h")
        (device,) = until(lambda: [one for one in desk.json("devices") if one["muted"]], "the mute")
        assert list(device["muted"]) == ["desktop"]
        send(house, "cam@lan", "Motion again")
        send(house, "door@lan", "Doorbell pressed")
        until(lambda: len(desktop.heard()) == 2, "the other device")
        assert len(until(lambda: desk.events()[2:], "all events") and desk.events()) == 3
        assert desktop.heard()[1].title.endswith("Doorbell pressed")
        desk.kill()
        desk.start()
        assert [one["id"] for one in desk.json("devices") if one["muted"]] == [device["id"]]
        desk.cli("devices", "unmute", device["id"])
        assert not any(one["muted"] for one in desk.json("devices"))


def test_muting_over_mqtt(tmp_path: Path, mosquitto: Mosquitto) -> None:
    """As a button of Home Assistant does it; the archive, which is no person, goes on."""
    config = HOUSE.format(url=mosquitto.url) + "  - {to: [phone]}\n"
    config = config.replace("  night:", "  phone: {type: apprise, urls: ['json://127.0.0.1:1']}\n  night:")
    with Gateway(tmp_path / "house", config) as house, Listener(mosquitto.port, "mailwire/#") as listener:
        send(house, "cam@lan")
        (device,) = until(lambda: house.json("devices"), "the device")
        asked = [
            ({"device": device["id"], "seconds": "30 min"}, None),
            ({"device": device["id"], "target": "phone"}, None),
            ({"device": "nobody"}, "no device 'nobody'"),
            ({"device": device["id"], "seconds": -1}, "seconds must be between 0, which ends it, and 365 days"),
            ({"device": device["id"], "seconds": "soon"}, "seconds must be a number of seconds, or a time"),
            ({"device": device["id"], "target": "broker"}, "no target 'broker' tells people; there are phone"),
        ]
        for number, (payload, error) in enumerate(asked, 1):
            listener.publish("mailwire/bridge/request/mute", json.dumps(payload))
            until(lambda: len(listener.payloads("mailwire/bridge/response/mute")) == number, "the answer")  # noqa: B023
            answer = listener.newest("mailwire/bridge/response/mute")
            if error:
                assert error in answer["error"]
            else:
                assert answer["data"]["until"] > "2026"
        assert set(house.json("devices")[0]["muted"]) == {"", "phone"}
        waiting = len(house.cli("queue", "--json", check=False).stdout.splitlines())
        send(house, "cam@lan", "Motion again")
        until(lambda: len(listener.payloads(f"mailwire/{device['id']}/event")) == 2, "the second event")
        assert len(house.cli("queue", "--json", check=False).stdout.splitlines()) == waiting
        for target in ("", "phone"):
            end = json.dumps({"device": device["id"], "seconds": 0, "target": target})
            listener.publish("mailwire/bridge/request/mute", end)
        until(lambda: not house.json("devices")[0]["muted"], "the end")


def test_killed_cut_off_and_brought_back_it_is_one_notification(
    house: Gateway, desk: Desk, desktop: Desktop, mosquitto: Mosquitto
) -> None:
    """No daemon, then the desktop killed with -9, then the broker away: thirty alarms, each once, told together."""
    with house, desk:
        for number in range(10):
            send(house, f"cam{number}@lan")
        until(lambda: len(desk.events()) == 10, "ten events at the desktop")
        desk.kill()
        for number in range(10, 20):
            send(house, f"cam{number}@lan")
        house.settled(20)
        mosquitto.stop()
        for number in range(20, 30):
            send(house, f"cam{number}@lan")
        house.settled(30)
        desk.start()
        desk.kill()
        mosquitto.start()
        desk.start()
        until(lambda: len(desk.events()) == 30, "all events at the desktop")
        assert sorted(one["id"] for one in desk.events()) == sorted(one["id"] for one in house.events())
        desktop.start_daemon()
        until(lambda: not desk.json("queue"), "telling of all")
        assert desktop.on_screen() == 1
        assert "and 29 more of 30 devices" in desktop.heard()[-1].title
        desk.kill()
        desk.start()
        assert desktop.on_screen() == 1
        send(house, "door@lan", "Doorbell pressed")
        until(lambda: desktop.heard()[-1].title.endswith("Doorbell pressed"), "a new one")
        assert desktop.on_screen() == 2


def test_a_board_s_frame_is_a_notification_and_a_mail(tmp_path: Path, desktop: Desktop) -> None:
    """A board on USB (at the end of a pseudo-terminal), and the person's provider (a server that stores mails)."""
    desktop.start_daemon()
    port = Port(tmp_path / "board")
    provider = Gateway(tmp_path / "provider")
    with provider:
        config = f"""
integrations:
  board: {{type: serial, port: "{port.path}", direction: in}}
  desktop: {{type: desktop}}
  post: {{type: smtp_relay, url: "smtp://127.0.0.1:{provider.port}", from: gw@example.org, to: me@example.org,
         starttls: never}}
routes:
  - {{to: [desktop]}}
  - {{if: {{severity: critical}}, to: [post]}}
"""
        with Desk(tmp_path / "desk", config), Board(port) as board:
            board.send(event("The cellar is wet", kind="leak", severity="critical"))
            (told,) = until(desktop.heard, "the notification")
            assert (told.title, told.hints["urgency"]) == ("Back door: The cellar is wet", "2")
            (mail,) = provider.settled(1)
            assert mail["mail"]["subject"] == "Back door: The cellar is wet"
            assert mail["mail"]["to"] == ["me@example.org"]
            until(lambda: board.acked == [1], "the acknowledgement to the board")
    port.close()


def test_a_gateway_and_a_desktop_on_one_machine_do_not_collide(tmp_path: Path, mosquitto: Mosquitto) -> None:
    """With nothing said, each finds its own configuration and its own data."""
    gateway = Gateway(tmp_path / "both")
    environment = gateway.environment() | {"XDG_CONFIG_HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path / "data")}
    folder = tmp_path / "mailwire"
    folder.mkdir()
    (folder / "mailwire.yaml").write_text('integrations: {lan: {type: smtp_server, listen: ["127.0.0.1:0"]}}')
    (folder / "desktop.yaml").write_text(DESK.format(url=mosquitto.url))
    running = []
    for verb in ("run", "desktop"):
        command = [sys.executable, "-m", "gateway", verb]
        running.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment))
    said = []
    for process in running:
        lines = []
        while not (lines and lines[-1].startswith("  settings")):
            lines.append(process.stdout.readline().decode())  # type: ignore[union-attr]
            assert lines[-1], lines
        said.append("".join(lines))
    for process in running:
        process.terminate()
        assert process.wait(20) == 0
        process.stdout.close()  # type: ignore[union-attr]
    assert f"{tmp_path}/data/mailwire\n" in said[0]
    assert f"{tmp_path}/data/mailwire-desktop\n" in said[1]
