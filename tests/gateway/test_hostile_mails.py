"""Hostile mails at the live gateway: each is answered with 250 and becomes an event, at a bounded cost.

What each of them must come out as is held where it is read (`test_interpret_limits`); here it is the whole way, with
the work of the gateway's process counted by the system: processor time and memory, never the clock.
"""

from __future__ import annotations

import json
import os
import shutil
import smtplib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.store import Store
from tests.dialog import FOLDER
from tests.gateway.test_interpret_limits import HOSTILE
from tests.live import Gateway, until

PROCESSOR = 3.0  # seconds for a mail, from its first byte to its event
MEMORY = 40 * 1024 * 1024  # bytes by which the process may grow, over all of them
CLOCK = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


class Live:
    def __init__(self, folder: Path) -> None:
        self.gateway = Gateway(folder).start()
        self.store = Store(self.gateway.data)
        self.count = 0
        self.send(b"Subject: first\r\n\r\nwhat is loaded once is loaded now\r\n" + b"x" * 100_000)
        self.before = self.resident()

    def send(self, mail: bytes) -> Any:
        """The event that came of it."""
        self.count += 1
        with smtplib.SMTP("127.0.0.1", self.gateway.port, f"attacker-{self.count}", 60) as device:
            device.ehlo()
            device.mail("attacker@lan.example")
            device.rcpt("alerts@gw.local")
            assert device.docmd("DATA")[0] == 354
            # Not by smtplib's `data`, which mends line ends.
            device.send((b"\r\n" + mail).replace(b"\r\n.", b"\r\n..")[2:] + b"\r\n.\r\n")
            assert device.getreply()[0] == 250
        until(lambda: self.store.mails(1)[0].state == "done", "an event")
        assert self.store.kept()[0] == self.count
        mail_id = self.store.mails(1)[0].id
        event = self.store.event(mail_id)
        assert event is not None
        return event

    def processor(self) -> float:
        """Seconds that the process has worked."""
        fields = Path(f"/proc/{self.gateway.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / CLOCK

    def resident(self) -> int:
        return int(Path(f"/proc/{self.gateway.pid}/statm").read_text().split()[1]) * PAGE


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder = tmp_path_factory.mktemp("hostile")
    running = Live(folder)
    yield running
    grown = running.resident() - running.before
    assert running.gateway.terminate() == 0
    shutil.rmtree(folder)
    assert grown < MEMORY, f"{grown / 1024 / 1024:.0f} MiB"


ZIP_BOMB = "zip bomb"


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
@pytest.mark.parametrize("name", [*HOSTILE, ZIP_BOMB])
def test_hostile_mail(name: str, live: Live) -> None:
    mail = (FOLDER / "mails/hostile-zip-bomb.eml").read_bytes() if name == ZIP_BOMB else HOSTILE[name]()
    before = live.processor()
    event = live.send(mail)
    assert live.processor() - before < PROCESSOR
    assert len(json.dumps(event)) < 512 * 1024
    assert not any("report this as a bug" in words for words in event["data"].get("truncated", ()))
