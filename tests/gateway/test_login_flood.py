"""Hundreds of peers guess logins at once at the live gateway: an honest device is served, and the memory is bounded.

Nothing here looks at the clock: the device is answered while the flood goes on, which it would not be behind it.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import smtplib
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway import users
from tests.live import Gateway

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere 127.2.0.1 is no address of this machine")

GUESSERS = 120
CONFIG = """
integrations:
  lan-mail:
    type: smtp_server
    listen: ["127.0.0.1:0"]
    tls: none
    login: required
    users: {{ups: "{ups}", nas: "{nas}"}}
"""
PASSWORD = "sesame"
ONE_HASH = 16 * 1024  # kilobytes that it takes while it is made: 120 at once would take 2 GB


class Flood:
    """`guesses` that were sent, and those that were `refused`, of peers that never stop."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.guesses = self.refused = 0
        self._one_more = asyncio.Event()

    async def guess(self, number: int) -> None:
        address = f"127.2.{number // 250}.{number % 250 + 1}"
        while True:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port, local_addr=(address, 0))
                try:
                    await reader.readuntil(b"\n")
                    writer.write(b"EHLO guess\r\n")
                    while not (await reader.readuntil(b"\n")).startswith(b"250 "):
                        pass
                    while True:
                        secret = f"\0{('ups', 'nas', 'nobody')[self.guesses % 3]}\0guess {self.guesses}".encode()
                        writer.write(b"AUTH PLAIN " + base64.b64encode(secret) + b"\r\n")
                        self.guesses += 1
                        assert (await reader.readuntil(b"\n")).startswith((b"535", b"421"))
                        self.refused += 1
                        self._one_more.set()
                finally:
                    writer.close()

    async def reaches(self, refused: int) -> None:
        while self.refused < refused:
            self._one_more.clear()
            await self._one_more.wait()


@contextlib.asynccontextmanager
async def flood(port: int) -> AsyncIterator[Flood]:
    """All guess at once, till the end of this; none of them may have failed on something else than the gateway."""
    made = Flood(port)
    tasks = [asyncio.create_task(made.guess(number)) for number in range(GUESSERS)]
    try:
        yield made
        assert not [task for task in tasks if task.done()]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def mail_of(port: int, user: str, subject: str) -> None:
    with smtplib.SMTP("127.0.0.1", port, f"{user}.lan", 60) as device:
        device.login(user, PASSWORD)
        device.sendmail(f"{user}@lan", ["me@gw"], f"From: {user}@lan\r\nSubject: {subject}\r\n\r\nInput 0 V\r\n")


def resident(gateway: Gateway) -> int:
    """Kilobytes."""
    status = Path(f"/proc/{gateway.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


async def test_an_honest_device_in_a_flood_of_logins(tmp_path: Path) -> None:
    hashes = {name: users.hashed(PASSWORD) for name in ("ups", "nas")}
    with Gateway(tmp_path / "gw", CONFIG.format(**hashes)) as gateway:
        await asyncio.to_thread(mail_of, gateway.port, "ups", "before it")
        before = resident(gateway)
        async with flood(gateway.port) as guesses:
            await guesses.reaches(1)
            waiting = guesses.guesses - guesses.refused
            assert waiting > GUESSERS / 2
            for user in ("ups", "nas"):  # one that is known to be right, and one that waits for its turn to be hashed
                refused = guesses.refused
                await asyncio.to_thread(mail_of, gateway.port, user, "in it")
                await guesses.reaches(refused + 1)
            await guesses.reaches(GUESSERS)
            grown = resident(gateway) - before
        events = await asyncio.to_thread(gateway.settled, 3)
        assert [event["mail"]["helo"] for event in events] == ["ups.lan", "ups.lan", "nas.lan"]
        assert grown < ONE_HASH + 4 * 1024
