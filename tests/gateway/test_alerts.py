"""Alerts of one device, off and on, asked of a real gateway over a real broker: who is told, and what tells of it."""

import json
import smtplib

import pytest

from tests.live import Gateway, until
from tests.mosquitto import Listener, mosquitto

__all__ = ["mosquitto"]

CONFIG = """
integrations:
  lan-mail: {{type: smtp_server, listen: ["127.0.0.1:0"]}}
  broker: {{type: mqtt, url: "{url}"}}
  phone: {{type: apprise, urls: ["json://127.0.0.1:1/"]}}
routes:
  - {{to: [broker, phone]}}
"""
MAIL = "From: pump@lan\r\nTo: a@gw\r\nSubject: {}\r\n\r\n"


class House:
    """The gateway, and somebody at its broker."""

    def __init__(self, gateway, listener):
        self.gateway, self.listener = gateway, listener
        self._number = 0

    def ask(self, verb, **payload):
        self._number += 1
        self.listener.publish(f"mailwire/bridge/request/{verb}", json.dumps({"transaction": self._number, **payload}))

        def answer():
            found = self.listener.newest(f"mailwire/bridge/response/{verb}")
            return found if found and found["transaction"] == self._number else None

        return until(answer, f"the answer to {verb}")

    def mail(self, subject):
        with smtplib.SMTP("127.0.0.1", self.gateway.port) as smtp:
            smtp.sendmail("pump@lan", ["a@gw"], MAIL.format(subject).encode())
        until(lambda: (self.listener.newest("mailwire/pump/event") or {}).get("title") == subject, subject)

    def shows(self, **state):
        until(lambda: state.items() <= (self.listener.newest("mailwire/pump/state") or {}).items(), str(state))

    def owed(self):
        """The titles of what a person, whom nothing reaches here, is still to be told."""
        titles = {event["id"]: event["title"] for event in self.gateway.events()}
        return {titles[one["id"]] for one in self.gateway.json("queue") if one["target"] == "phone"}


@pytest.fixture
def house(tmp_path, mosquitto):
    with Listener(mosquitto.port) as listener, Gateway(tmp_path / "g", CONFIG.format(url=mosquitto.url)) as gateway:
        yield House(gateway, listener)


def test_alerts_off_over_a_kill_and_on_again(house, tmp_path):
    house.mail("Power failure")
    until(lambda: house.owed() == {"Power failure"}, "it is in the store")
    assert house.ask("alerts", device="pump", alerts=False)["data"] == {"device": "pump", "alerts": False}
    house.shows(alerts="off", muted_until=None)
    house.gateway.kill()
    house.gateway.start()
    house.mail("Power failure at night")  # on to MQTT all the same
    [device] = house.gateway.json("devices")
    assert device["muted"] == {"": None}
    assert "till somebody ends it" in house.gateway.cli("devices").stdout.decode()
    mail = tmp_path / "mail.eml"
    mail.write_text(MAIL.format("Power failure"))
    explained = house.gateway.cli("explain", str(mail)).stdout.decode()
    assert "phone: would not be told: the device is muted till somebody ends it" in explained
    house.listener.publish("mailwire/pump/alerts/set", "ON")
    house.shows(alerts="on")
    house.mail("Power failure in the morning")
    until(lambda: house.owed() == {"Power failure", "Power failure in the morning"}, "what is owed, and not the night")


def test_mute_from_the_command_line_is_seen_by_all(house):
    house.mail("Power failure")
    house.gateway.cli("devices", "mute", "pump", "2 h")
    house.shows(alerts="off")
    house.gateway.cli("devices", "unmute", "pump")
    house.shows(alerts="on", muted_until=None)
    house.ask("mute", device="pump", seconds=1)
    house.shows(alerts="off")
    house.shows(alerts="on")  # by itself


def test_all_clear(house):
    house.mail("Power failure")
    house.shows(power="on", problem="on", troubles=["Power failure"])
    house.listener.publish("mailwire/pump/clear/set", "PRESS")
    house.shows(power="off", problem="off", troubles=[])


def test_refusals(house):
    house.mail("Power failure")
    no_device = 'no device \'nobody\'; say {"device": "…"} with a device\'s id'
    assert house.ask("alerts", device="nobody", alerts=True)["error"] == no_device
    assert house.ask("clear", device="nobody")["error"] == no_device
    assert house.ask("ack", ids=[])["error"].startswith("acknowledge what? ")
    assert house.ask("ack", ids="a")["data"] == {"acknowledged": []}
    assert house.ask("replay")["error"] == 'replay what? Say {"id": "…"} with an event\'s id, or {"ids": ["…"]}'
    assert house.ask("replay", ids=5)["error"] == 'no mail \'5\' is kept; say {"id": "…"} with an event\'s id'
    assert house.ask("alerts", device="pump", alerts="off")["error"] == 'say {"device": "…", "alerts": true}, or false'
