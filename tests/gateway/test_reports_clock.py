"""A report is missed at a real gateway, which is killed and whose clock jumps: `script/torture`'s shim moves it."""

import importlib.util
import smtplib
import time
from datetime import datetime
from pathlib import Path

import pytest

from gateway.store import Store
from tests.live import DEFAULT, Gateway, until
from tests.needs import program

STEP = 5  # seconds that the clock is put forward at a time: it goes fast then, and does not jump
CONFIG = DEFAULT + "devices: {meter: {match: {from: meter@lan}, expect: 1 min}}\n"

_spec = importlib.util.spec_from_file_location(
    "torture_shim", Path(__file__).resolve().parents[2] / "script/torture.d/shim.py"
)
torture = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(torture)


class Fast:
    """A gateway whose clock goes faster while something is waited for."""

    def __init__(self, folder):
        program("gcc", "gcc libc6-dev")
        self.gateway = Gateway(folder / "gw", CONFIG)
        self.shim = torture.Shim(torture.build(folder), folder / "gw", folder)
        environment = self.gateway.environment() | self.shim.environment
        self.gateway.environment = lambda: environment
        self.ahead = 0

    def jump(self, seconds):
        """Returns the time that the gateway's clock shows then."""
        self.ahead += seconds
        self.shim.clock(self.ahead)
        return time.time() + self.ahead

    def waits_for(self, count):
        """That many events of the gateway itself; the newest of them, and when it was."""

        store = Store(self.gateway.data)
        store.open()

        def told():
            self.jump(STEP)
            time.sleep(0.2)  # the gateway looks once in a second
            return [one for _, one in store.events(1000) if one["source"] == "mailwire"][count - 1 :]

        (event,) = until(told, f"event {count}")
        return (event["state"], event["title"]), datetime.fromisoformat(event["time"]).timestamp()

    def report(self, number):
        with smtplib.SMTP("127.0.0.1", self.gateway.port, timeout=30) as smtp:
            smtp.sendmail("meter@lan", ["me@gw"], f"From: meter@lan\r\nSubject: Reading {number}\r\n\r\n23.5 kWh\r\n")


@pytest.fixture
def fast(tmp_path):
    made = Fast(tmp_path)
    yield made
    made.gateway.terminate()
    made.shim.close()


def test_what_the_gateway_did_not_hear_is_no_silence(fast):
    fast.gateway.start()
    fast.report(1)
    fast.gateway.settled(1)
    begin = fast.jump(3600)
    (state, title), when = fast.waits_for(1)
    assert state == "on"
    assert title.startswith("No report since ")
    assert title.endswith(": expected every minute")
    assert when - begin > 100  # a minute, and another one that it may be late, after the jump

    fast.report(2)
    (state, title), _ = fast.waits_for(2)
    assert (state, title) == ("off", "Reports again: expected every minute")

    fast.gateway.kill()
    begin = fast.jump(24 * 3600)
    fast.gateway.start()
    (state, _), when = fast.waits_for(3)
    assert state == "on"
    assert when - begin > 100

    fast.gateway.kill()
    fast.gateway.start()
    fast.report(3)
    (state, _), _ = fast.waits_for(4)  # and not once more, that one is missed
    assert state == "off"
