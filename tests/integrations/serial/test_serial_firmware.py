"""The firmware under a real MicroPython, with a real gateway and `mailwire monitor` on the other end of its line."""

import json
import os
import pty
import smtplib
import subprocess
import sys
import tty

from tests.firmware.board import free_port, interpreter
from tests.firmware.line import Wired
from tests.live import Gateway, until
from tests.mosquitto import Listener, mosquitto

__all__ = ["mosquitto"]

MAIL = (
    b"From: Front door <ipc@lan>\r\nSubject: Motion detected\r\nMIME-Version: 1.0\r\n"
    b"Content-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n"
    b"T\xc3\xbcr\r\n--x\r\nContent-Type: image/jpeg; name=ch01.jpg\r\nContent-Transfer-Encoding: base64\r\n\r\n"
    b"/9j/4AAQ\r\n--x--\r\n"
)


class OnThePort(Wired):
    """A board on the master's side, so that the gateway has a path to open."""

    def start(self):
        self.master, self.slave = pty.openpty()
        tty.setraw(self.slave)
        self.path = os.ttyname(self.slave)
        command = [str(interpreter(self.build)), "-X", f"heapsize={self.heap}", "main.py"]
        self.process = subprocess.Popen(
            command, cwd=self.folder, stdin=self.master, stdout=self.master, stderr=subprocess.PIPE
        )
        return self

    def stop(self):
        self.process.kill()
        os.close(self.slave)
        return self._gone()


def submit(port):
    with smtplib.SMTP("127.0.0.1", port, timeout=20) as client:
        client.sendmail("ipc@lan", ["alerts@gw"], MAIL)


def test_a_mail_to_a_board_comes_out_of_the_gateways_mqtt(tmp_path, mosquitto):
    port = free_port()
    settings = {"name": "attic", "smtp": {"port": port}}
    with OnThePort(tmp_path / "board", settings) as board:
        text = f"""
integrations:
  usb: {{type: serial, port: {board.path}}}
  broker: {{type: mqtt, url: '{mosquitto.url}'}}
"""
        with Gateway(tmp_path / "gateway", text) as running, Listener(mosquitto.port) as heard:
            running.logged(r"attic \(.*\) says hello")
            submit(port)
            got = until(lambda: heard.newest("mailwire/front_door/event"))
            assert (got["kind"], got["state"], got["title"]) == ("motion", "on", "Motion detected")
            assert (got["source"], got["device"]["id"]) == ("usb", "front_door")
            assert (got["mail"]["from"], got["text"].strip()) == ("ipc@lan", "Tür")
            assert got["attachments"][0]["type"] == "image/jpeg"
            assert until(lambda: heard.newest("mailwire/front_door/state"))["motion"] == "on"
            until(lambda: not board.spool())  # acknowledged, and so forgotten by the board
            running.kill()
            submit(port)  # while there is no gateway it is kept in the board's flash
        with Gateway(tmp_path / "gateway", text) as running:
            until(lambda: len(running.events()) == 2)
            until(lambda: not board.spool())
        monitor = [sys.executable, "-m", "gateway", "monitor", board.path, "--do"]
        done = subprocess.run([*monitor, "status", "--json"], capture_output=True, check=True, timeout=60)
        assert json.loads(done.stdout)["name"] == "attic"
        done = subprocess.run([*monitor, "get smtp.port"], capture_output=True, check=True, timeout=60)
        assert json.loads(done.stdout) == port
