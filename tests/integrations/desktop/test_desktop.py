"""Notifications on a real daemon: what is on them, what replaces what, and what the person's buttons do."""

from __future__ import annotations

import asyncio
import base64
import errno
import itertools
import json
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from pydantic import ValidationError

from gateway import care
from gateway.api import Context, Event, NotReady
from gateway.integrations.desktop import Config, Desktop
from gateway.integrations.desktop.screen import Hooks, Words
from gateway.integrations.desktop.screen import Screen as PlainScreen
from gateway.integrations.desktop.shown import Memory
from gateway.pipeline import iso_time
from tests.desktop import Desktop as Screen
from tests.desktop import Notify, desktop
from tests.integrations.mqtt.stand_in_gateway import wait_until
from tests.live import until

__all__ = ["desktop"]

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
NOW = 1_795_600_000.0
_numbers = itertools.count(1)


def event(device: str = "front_door", title: str = "Motion", **changes: Any) -> Event:
    facts = {"id": device, "name": device.replace("_", " ").capitalize()}
    made: Any = {
        "v": 1, "id": f"01JD{next(_numbers):022}", "time": iso_time(NOW + next(_numbers)), "source": "broker",
        "device": facts, "kind": "motion", "state": "on", "severity": "warning", "title": title,
        "text": "In the <yard>", "data": {}, "attachments": [], "mail": None,
    }  # fmt: skip
    return made | changes  # type: ignore[no-any-return]


class StandIn:
    """The gateway, as far as this target asks it."""

    def __init__(self, folder: Path) -> None:
        self.requests: list[tuple[str, Mapping[str, Any]]] = []
        self.problems: list[str | None] = []
        self.readies = 0
        self.pictures: dict[str, bytes] = {}
        self.context = Context(
            "desk",
            folder / "data",
            logging.getLogger("test.desktop"),
            self,
            None,
            None,
            self._ready,
            self.problems.append,  # type: ignore[arg-type]
        )

    def _ready(self) -> None:
        self.readies += 1

    async def request(self, verb: str, payload: Mapping[str, Any]) -> dict[str, Any]:
        self.requests.append((verb, payload))
        return {}

    async def attachment(self, event_id: str, index: int) -> bytes:
        if event_id not in self.pictures:
            raise LookupError("it is no longer kept")
        return self.pictures[event_id]

    def summary(self, events: Sequence[Event]) -> Event:
        return care.summary(events, "S", iso_time(NOW), "", None)

    @asynccontextmanager
    async def target(self, **config: Any) -> AsyncIterator[Desktop]:
        one = Desktop(self.context, Config(**config))
        try:
            await one.start()
        except NotReady as error:  # it works all the same as soon as it can
            self.problems.append(str(error))
        try:
            yield one
        finally:
            await one.stop()


@pytest.fixture
def gateway(tmp_path: Path) -> StandIn:
    return StandIn(tmp_path)


async def tell(target: Desktop, *events: Event) -> None:
    await asyncio.gather(*[target.deliver(one) for one in events])


async def later(call: Callable[..., Any], *words: Any) -> Any:
    return await asyncio.to_thread(call, *words)


async def on_screen(desktop: Screen, count: int) -> None:
    await later(until, lambda: desktop.on_screen() == count)


def picture_of(told: Notify) -> Path:
    path = Path(unquote(told.hints["image-path"].removeprefix("file://")))
    assert path.read_bytes() == PNG
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    return path


@pytest.mark.parametrize(
    ("severity", "icon", "urgency"),
    [("info", "dialog-information", "0"), ("warning", "dialog-warning", "1"), ("critical", "dialog-error", "2")],
)
async def test_what_is_on_it(desktop: Screen, gateway: StandIn, severity: str, icon: str, urgency: str) -> None:
    desktop.start_daemon()
    one = event(
        severity=severity,
        attachments=[{"name": "a.png", "type": "image/png", "size": len(PNG), "sha256": ""}],
        data={"url": "https://cam.lan/live"},
    )
    gateway.pictures[one["id"]] = PNG
    async with gateway.target() as target:
        await tell(target, one)
        (told,) = await wait_until(desktop.heard)
        assert (told.icon, told.title, told.hints["urgency"]) == (icon, "Front door: Motion", urgency)
        assert told.text.endswith("In the &lt;yard&gt;")
        assert told.buttons == ["", "Acknowledge", "Mute device 1 h", "Open"]
        picture = await later(picture_of, told)
        await later(desktop.dismiss)
        await wait_until(lambda: not picture.exists(), "removing the picture")
    assert gateway.requests == []


async def test_an_alarm_is_one_notification_and_its_end_takes_its_place(desktop: Screen, gateway: StandIn) -> None:
    desktop.start_daemon()
    async with gateway.target() as target:
        await tell(target, event())
        await tell(target, event(title="Motion again"))
        await tell(target, event("cellar", "Wet", kind="leak", severity="critical"))
        assert await later(desktop.on_screen) == 2
        await tell(target, event(title="Motion ended", state="off"))
        told = await later(desktop.heard)
        assert [one.title.partition(": ")[2] for one in told] == ["Motion", "Motion again", "Wet", "Motion ended"]
        assert told[0].replaces == told[2].replaces == 0
        assert told[1].replaces == told[3].replaces != 0
        assert told[3].hints["urgency"] == "0"
        assert await later(desktop.on_screen) == 2
        await tell(target, event("hall", "Over", state="off"))  # of what nobody saw begin
        assert await later(desktop.on_screen) == 2


@pytest.mark.parametrize(("ends", "left", "calls"), [("clear", 0, 1), ("replace", 1, 2), ("always", 1, 2)])
async def test_how_an_alarm_ends(desktop: Screen, gateway: StandIn, ends: str, left: int, calls: int) -> None:
    desktop.start_daemon()
    async with gateway.target(ends=ends) as target:
        await tell(target, event())
        await tell(target, event(state="off"))
        await on_screen(desktop, left)
        assert len(desktop.heard()) == calls
        await tell(target, event("hall", state="off"))
        assert len(desktop.heard()) == calls + (ends == "always")


async def test_buttons(desktop: Screen, gateway: StandIn, tmp_path: Path) -> None:
    desktop.start_daemon()
    opener = tmp_path / "opener"
    opener.write_text(f'#!/bin/sh\nprintf %s "$1" >"{tmp_path}/opened"\n')
    opener.chmod(0o755)
    async with gateway.target(opener=str(opener), mute="30 min") as target:
        first = event()
        await tell(target, first)
        await later(desktop.press, "Acknowledge")
        await wait_until(lambda: gateway.requests, "the acknowledgement")
        assert gateway.requests.pop() == ("ack", {"ids": [first["id"]]})
        await on_screen(desktop, 0)
        await tell(target, event())
        await later(desktop.press, "Mute device 30 min")
        await wait_until(lambda: gateway.requests, "the muting")
        assert gateway.requests.pop() == ("mute", {"device": "front_door", "seconds": 1800.0, "target": "desk"})
        await tell(target, event(data={"url": "http://cam.lan/"}))
        await later(desktop.press, "Open")
        await wait_until((tmp_path / "opened").exists, "opening")
        await wait_until((tmp_path / "opened").read_text, "opening")
        assert (tmp_path / "opened").read_text() == "http://cam.lan/"
        assert desktop.signals("ActionInvoked") == 3


async def test_a_picture_stays_for_the_program_that_shows_it(
    desktop: Screen, gateway: StandIn, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    desktop.start_daemon()
    one = event(attachments=[{"name": "a.png", "type": "image/png", "size": len(PNG), "sha256": ""}])
    gateway.pictures[one["id"]] = PNG
    async with gateway.target(opener="/nowhere/opener") as target:
        await tell(target, one)
        await later(desktop.click)
        await wait_until(lambda: "/nowhere/opener can't be started" in caplog.text, "opening")
        (picture,) = gateway.context.data_dir.glob("*.png")
        assert picture.read_bytes() == PNG
    async with gateway.target():
        assert list(gateway.context.data_dir.glob("*.png")) == []  # a new run knows of nobody who looks at it


async def test_what_has_no_picture_any_more_is_told_without(desktop: Screen, gateway: StandIn) -> None:
    desktop.start_daemon()
    async with gateway.target() as target:
        await tell(target, event(attachments=[{"name": "a.png", "type": "image/png", "size": 1, "sha256": ""}]))
        (told,) = desktop.heard()
        assert "image-path" not in told.hints
        assert told.buttons == ["", "Acknowledge", "Mute device 1 h"]


async def test_a_full_disk_keeps_nothing_from_the_screen_and_tells_nothing_twice(
    desktop: Screen, gateway: StandIn, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    desktop.start_daemon()
    monkeypatch.setattr(Path, "write_text", full)
    monkeypatch.setattr(Path, "write_bytes", full)
    one = event(attachments=[{"name": "a.png", "type": "image/png", "size": len(PNG), "sha256": ""}])
    gateway.pictures[one["id"]] = PNG
    caplog.set_level(logging.INFO, "test.desktop")
    async with gateway.target() as target:
        await tell(target, one)
        assert len(await later(desktop.heard)) == 1
    assert "what is shown can't be written down: No space left on device" in caplog.messages
    assert "shown without its picture: [Errno 28] No space left on device" in caplog.messages


@pytest.mark.parametrize("url", ["file:///etc/passwd", "javascript:alert(1)", "smb://x/y", "https://", "-x", 7, None])
async def test_nobody_opens_what_is_no_page(desktop: Screen, gateway: StandIn, url: Any) -> None:
    desktop.start_daemon()
    async with gateway.target() as target:
        await tell(target, event(data={"url": url}))
        assert "Open" not in desktop.heard()[0].buttons


async def test_what_a_person_has_us_tell_replaces_nothing(desktop: Screen, gateway: StandIn) -> None:
    desktop.start_daemon()
    async with gateway.target() as target:
        await tell(target, event("unknown", "One", state=None))
        await tell(target, event("unknown", "Two", state=None))
        assert await later(desktop.on_screen) == 2
        assert [one.title for one in desktop.heard()] == ["One", "Two"]
        assert desktop.heard()[0].buttons == ["", "Acknowledge"]


async def test_without_a_daemon_all_waits_and_is_one_notification_when_it_is_back(
    desktop: Screen, gateway: StandIn
) -> None:
    events = [event(f"cam_{number}") for number in range(40)]
    async with gateway.target() as target:
        assert "no notification daemon answers on this desktop" in str(gateway.problems[-1])
        with pytest.raises(NotReady, match="start the desktop's own one, or another such as dunst"):
            await tell(target, *events)
        assert gateway.readies == 0
        await later(desktop.start_daemon)
        await wait_until(lambda: gateway.readies, "hearing of the daemon")
        await tell(target, *events)
        (told,) = desktop.heard()
        assert told.title == "Motion (Cam 0), and 39 more of 40 devices"
        assert told.buttons == ["", "Acknowledge"]
        await tell(target, event("cam_40"))  # the flood goes on
        assert await later(desktop.on_screen) == 1
        assert desktop.heard()[-1].title == "Motion (Cam 0), and 40 more of 41 devices"
        await later(desktop.press, "Acknowledge")
        await wait_until(lambda: gateway.requests, "the acknowledgement")
        assert len(gateway.requests[0][1]["ids"]) == 41
        assert gateway.problems[-1] is None


async def test_another_daemon_takes_over(desktop: Screen, gateway: StandIn) -> None:
    desktop.start_daemon()
    async with gateway.target() as target:
        await tell(target, event())
        await later(desktop.stop_daemon)
        await wait_until(lambda: not target._memory.shown, "noticing that all is gone")
        before = gateway.readies
        await later(desktop.start_daemon)
        await wait_until(lambda: gateway.readies > before, "noticing the new one")
        await tell(target, event())
        assert [one.replaces for one in desktop.heard()] == [0, 0]
        await later(desktop.press, "Acknowledge")
        await wait_until(lambda: gateway.requests, "the button")


async def test_no_bus_at_all(gateway: StandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", f"unix:path={tmp_path}/none")
    async with gateway.target() as target:
        with pytest.raises(NotReady, match="no notification daemon answers"):
            await tell(target, event())


async def test_a_later_run_goes_on_with_what_is_on_the_screen(desktop: Screen, gateway: StandIn) -> None:
    desktop.start_daemon()
    first, second = event(), event("hall")
    async with gateway.target() as target:
        await tell(target, first)
        await tell(target, second)
    async with gateway.target() as target:
        await tell(target, first)  # as after a crash, which left it owed
        assert len(desktop.heard()) == 2
        await tell(target, event(title="Motion again"))
        assert desktop.heard()[-1].replaces != 0
        assert await later(desktop.on_screen) == 2
        await later(desktop.press, "Acknowledge", "Front door: Motion again")
        await wait_until(lambda: gateway.requests, "the button")
        await on_screen(desktop, 1)
    async with gateway.target() as target:
        await tell(target, first)
        assert len(desktop.heard()) == 3
        await tell(target, first)  # asked for once more: `mailwire replay`
        assert len(desktop.heard()) == 4


@pytest.mark.parametrize("left", ["", "{", "[]", '{"shown": 3}', '{"shown": {"a": {"x": 1}}}'])
def test_a_memory_that_can_not_be_read_is_none(tmp_path: Path, left: str) -> None:
    (tmp_path / "shown.json").write_text(left)
    memory = Memory.load(tmp_path)
    assert memory.shown == {}
    memory.save("me", {"a/b": 7})
    assert json.loads((tmp_path / "shown.json").read_text())["numbers"] == {"a/b": 7}
    assert (tmp_path / "shown.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"mute": 0}, "greater than 0"),
        ({"mute": "soon"}, "must be a number of seconds, or a time"),
        ({"ends": "never"}, "'replace', 'clear' or 'always'"),
        ({"sound": "bell"}, "Extra inputs are not permitted"),
    ],
)
def test_mistakes(config: Any, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Config(**config)


async def test_the_library_s_own_front_which_other_systems_have(desktop: Screen) -> None:
    """On Linux, where it can be run; there it replaces nothing."""
    desktop.start_daemon()
    pressed: list[tuple[str, str]] = []
    gone: list[str] = []
    front = PlainScreen(Hooks(lambda *words: pressed.append(words), gone.append, lambda: None))
    await front.connect()
    for key in ("a", "b", "c"):
        await front.show(key, Words(key, "text", "warning", {"ack": "Acknowledge"}))
    await front.clear("b")
    await front.clear("nothing")
    await on_screen(desktop, 2)
    await later(desktop.press, "Acknowledge", "a")
    await wait_until(lambda: pressed == [("a", "ack")], "the button")
    assert front.numbers() == ("", {})
    await later(desktop.stop_daemon)
    with pytest.raises(NotReady, match="the system does not take notifications"):
        await front.show("d", Words("d", "text", "warning", {}))
    await front.close()
    bus = front._front._backend.bus  # which the library would leave to the collector
    bus.disconnect()
    await bus.wait_for_disconnect()
