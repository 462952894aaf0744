"""Devices that report on a schedule, at a gateway with a real store and real mails; only its clock is the test's."""

import json
import smtplib
import time
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from gateway import app as module
from gateway.api import Device, StoreTrouble
from gateway.app import App
from gateway.config import load
from gateway.loader import Loader
from gateway.store import Store
from tests.live import DEFAULT, Gateway, until
from tests.mosquitto import Listener, mosquitto

__all__ = ["mosquitto"]  # a fixture

STEP = 50.0  # seconds between two looks; a longer pause would be a break in listening
ZONE = "\ntimezone: UTC\n"


def daily(count, last):
    """So many days at 02:10 in UTC, up to the one before `last`."""
    day = datetime.fromtimestamp(last, UTC).replace(hour=2, minute=10, second=0, microsecond=0)
    return [int((day - timedelta(days=number)).timestamp()) for number in range(count, 0, -1)]


def document(device_id, times, online=None):
    device = Device(device_id, device_id, first_seen=times[0], last_seen=times[-1], mails=len(times), online=online)
    return {
        "device": asdict(device),
        "keys": [[f"{device_id}@lan", f"{device_id}7", "127.0.0.1"]],
        "alarms": [],
        "heart": {"backup": [times, 0, None]},
    }


async def prepare(folder, *documents):
    """A store that knows these devices."""
    store = Store(folder)
    store.open()
    for one in documents:
        values = (one["device"]["id"], json.dumps(one))
        store.alter("INSERT OR REPLACE INTO devices (id, document) VALUES (?, ?)", values)
    await store.close()


@asynccontextmanager
async def running(folder, monkeypatch, config=DEFAULT):
    """The gateway, and a clock that starts three days ago."""
    path = folder / "mailwire.yaml"
    path.write_text(config + ZONE)
    loader = Loader(folder)
    clock = SimpleNamespace(now=time.time() - 3 * 86400)
    monkeypatch.setattr(module, "time", SimpleNamespace(time=lambda: clock.now, monotonic=time.monotonic))
    app = App(load(path, loader=loader), loader, folder / "data", path)
    await app.start()
    try:
        yield app, clock
    finally:
        await app.stop()


async def go_on(app, clock, seconds, trouble=None):
    end = clock.now + seconds
    while clock.now < end:
        app.store.writer.trouble = trouble
        await app._look_for_reports()
        clock.now += STEP
    await app.store.flush()


def told(app):
    return [(one["source"], one["device"]["id"], one["kind"], one["state"], one["title"].partition(": ")[2])
            for _, one in app.store.events(1000)]  # fmt: skip


async def test_missed_told_once_and_back(tmp_path, monkeypatch):
    times = daily(20, time.time() - 3 * 86400)
    await prepare(tmp_path / "data", document("nas", times), document("box", times, online=False))
    config = DEFAULT + "devices: {box: {expect: false}}\n"
    async with running(tmp_path, monkeypatch, config) as (app, clock):
        assert told(app) == []
        await go_on(app, clock, 2.2 * 86400)
        missing = ("mailwire", "nas", "backup", "on", "expected every day at about 02:10")
        assert told(app) == [missing]
        device = app.registry.get("nas")
        assert (device.online, device.states, device.mails, device.last_seen) == (False, {}, 20, times[-1])
        assert device.last_event["title"].startswith("No report since ")
        assert app.registry.get("box").online is None
    async with running(tmp_path, monkeypatch, config) as (app, clock):  # a restart tells nothing anew
        clock.now = time.time()
        await go_on(app, clock, STEP)
        assert told(app) == [missing]
        assert app.registry.get("nas").online is False
        clock.now = time.time()
        await app.pipeline.emit("serial", {"device": {"id": "nas"}, "kind": "backup", "title": "Backup complete"})
        assert app.registry.get("nas").online is True
        await go_on(app, clock, 2 * STEP)
        assert told(app)[-1] == ("mailwire", "nas", "backup", "off", "expected every day at about 02:10")
        assert len(told(app)) == 3


async def test_a_store_that_can_not_be_written_hears_nothing(tmp_path, monkeypatch):
    await prepare(tmp_path / "data", document("nas", daily(20, time.time() - 3 * 86400)))
    async with running(tmp_path, monkeypatch) as (app, clock):
        await go_on(app, clock, 2.5 * 86400, StoreTrouble("the disk is full"))
        await go_on(app, clock, 3600)
        assert told(app) == []


@pytest.mark.parametrize("expect", ["daily 02:10", "false"])
async def test_the_commands_show_what_is_expected(tmp_path, expect):
    times = daily(20, time.time())
    await prepare(tmp_path / "gw" / "data", document("nas", times), document("box", times))
    gateway = Gateway(tmp_path / "gw", f"devices: {{box: {{expect: {expect}}}}}{ZONE}")
    lines = gateway.cli("devices").stdout.decode().splitlines()
    devices = {one["id"]: one["expected"] for one in gateway.json("devices")}
    assert lines[0].split()[-2:] == ["REPORTS", "NEXT"]
    assert "backup daily 02:10" in lines[2]
    assert list(devices["nas"]) == ["backup"]
    known = devices["nas"]["backup"]
    assert (known["every"], known["missing"], known["next"][11:16]) == ("daily 02:10", False, "02:10")
    if expect == "false":
        assert devices["box"] == {}
    else:
        assert list(devices["box"]) == ["any"]
        assert devices["box"]["any"]["every"] == "daily 02:10"


async def test_a_real_gateway_tells_a_real_broker_who_reports(tmp_path, mosquitto):
    await prepare(tmp_path / "gw" / "data", document("nas", daily(20, time.time())))
    config = DEFAULT + f'  broker: {{type: mqtt, url: "mqtt://127.0.0.1:{mosquitto.port}"}}\n{ZONE}'
    with Listener(mosquitto.port, "#") as listener, Gateway(tmp_path / "gw", config) as gateway:
        until(lambda: b"online" in listener.payloads("mailwire/nas/availability"), "the availability")
        discovery = "homeassistant/device/mailwire_nas/config"
        until(lambda: any(b'"reports"' in one for one in listener.payloads(discovery)), "its entity")
        with smtplib.SMTP("127.0.0.1", gateway.port, local_hostname="nas7", timeout=30) as smtp:
            smtp.sendmail("nas@lan", ["me@gw"], "From: nas@lan\r\nSubject: Backup complete\r\n\r\nAll 3 disks\r\n")
        gateway.settled(1)
        gateway.terminate()
        newest = gateway.json("devices")[0]
        assert (newest["id"], newest["mails"], newest["online"]) == ("nas", 21, True)
