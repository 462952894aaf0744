"""The archive on a real disk: every byte of a mail, every event once, also across kill -9 and a full disk."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import mailbox
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.api import Context, Device, Envelope, Event, NotReady, Retry
from gateway.integrations.archive import Archive, Config

MAIL = b"From: cam@lan\r\nSubject: Motion\r\n\r\nbare\nlf, bare\rcr, \x00\xff\xfe 8-bit, .dot\r\n"


def make_event(number: int, by_mail: bool = True, **changes: Any) -> Event:
    event: Event = {
        "v": 1,
        "id": f"01JD{number:022}",
        "time": "2026-11-22T19:11:28.123Z",
        "source": "lan-mail",
        "device": {"id": "cam", "name": "Cam", "manufacturer": None, "model": None, "profile": None},
        "kind": "motion",
        "state": None,
        "severity": "info",
        "title": "Bewegung \U0001f6aa",
        "text": "line 1\nline 2\u2028",
        "data": {},
        "attachments": [],
        "mail": None,
    }
    if by_mail:
        event["mail"] = {
            "from": "cam@lan",
            "to": ["a@gw"],
            "subject": "Motion",
            "message_id": None,
            "helo": "ipc",
            "peer": "192.168.1.20",
        }
    event.update(changes)  # type: ignore[typeddict-item]
    return event


class StandIn:
    """As much of `gateway.api.Gateway` as the archive asks."""

    def __init__(self) -> None:
        self.mails: dict[str, bytes] = {}

    async def raw_mail(self, event_id: str) -> tuple[Envelope, bytes]:
        if event_id not in self.mails:
            raise LookupError("the mail is no longer kept")
        return Envelope("lan-mail", "192.168.1.20", "ipc", "cam@lan", ["a@gw"]), self.mails[event_id]

    def devices(self) -> list[Device]:
        return []

    def info(self) -> dict[str, Any]:
        return {}

    def health(self) -> dict[str, Any]:
        return {}

    async def attachment(self, event_id: str, index: int) -> bytes:
        raise LookupError

    async def request(self, verb: str, payload: Mapping[str, Any]) -> dict[str, Any]:
        return {}


@pytest.fixture
def gateway() -> StandIn:
    return StandIn()


@asynccontextmanager
async def archive(gateway: StandIn, data: Path, **config: Any) -> AsyncIterator[Archive]:
    context = Context(
        "archive",
        data,
        logging.getLogger("test.archive"),
        gateway,
        None,  # type: ignore[arg-type]  # no mail comes from here
        None,  # type: ignore[arg-type]  # nor any event
        lambda: None,
        lambda _: None,
    )
    target = Archive(context, Config(**config))
    await target.start()
    try:
        yield target
    finally:
        await target.stop()


def lines(folder: Path) -> list[Any]:
    return [json.loads(line) for line in (folder / "events.jsonl").read_bytes().split(b"\n")[:-1]]


def files(folder: Path) -> dict[str, bytes]:
    assert list((folder / "Maildir" / "tmp").iterdir()) == []
    return {path.name: path.read_bytes() for path in (folder / "Maildir" / "new").iterdir()}


async def test_mail_is_kept_byte_for_byte_and_its_event_beside_it(gateway: StandIn, tmp_path: Path) -> None:
    event = make_event(1)
    gateway.mails[event["id"]] = MAIL
    async with archive(gateway, tmp_path) as target:
        assert target.describe() == f"mails in {tmp_path}/Maildir, events in {tmp_path}/events.jsonl"
        await target.deliver(event)
    assert files(tmp_path) == {f"{event['id']}.eml": MAIL}
    assert lines(tmp_path) == [event]
    [mail] = mailbox.Maildir(tmp_path / "Maildir", create=False)
    assert mail["subject"] == "Motion"


async def test_folder_of_choice(gateway: StandIn, tmp_path: Path) -> None:
    async with archive(gateway, tmp_path / "data", folder=tmp_path / "usb disk" / "mail") as target:
        await target.deliver(make_event(1, by_mail=False))
    assert lines(tmp_path / "usb disk" / "mail") == [make_event(1, by_mail=False)]
    assert files(tmp_path / "usb disk" / "mail") == {}


async def test_mail_that_is_no_longer_kept(gateway: StandIn, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    event = make_event(1)
    async with archive(gateway, tmp_path) as target:
        await target.deliver(event)
    assert lines(tmp_path) == [event]
    assert files(tmp_path) == {}
    assert caplog.messages == [f"event {event['id']} is archived without its mail: the mail is no longer kept"]


async def test_repeated_delivery_changes_nothing(gateway: StandIn, tmp_path: Path) -> None:
    events = [make_event(number) for number in range(3)]
    gateway.mails = {event["id"]: MAIL for event in events}
    for _ in range(2):  # the second time as after a crash, by an archive that must read what is there
        async with archive(gateway, tmp_path) as target:
            for event in events:
                await target.deliver(event)
            await target.deliver(events[-1])
    assert lines(tmp_path) == events
    assert len(files(tmp_path)) == 3


async def test_memory_is_bounded(gateway: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.integrations.archive._REMEMBERED", 5)
    async with archive(gateway, tmp_path) as target:
        for number in range(20):
            await target.deliver(make_event(number, by_mail=False))
        assert list(target._written) == [make_event(number)["id"] for number in range(15, 20)]


@pytest.mark.parametrize("torn", [b'{"id": "01JD', b'{"id": "x"}', b"x" * 200_000])
async def test_line_that_a_crash_cut_off_is_taken_away(gateway: StandIn, tmp_path: Path, torn: bytes) -> None:
    first, second = make_event(1, by_mail=False), make_event(2, by_mail=False)
    async with archive(gateway, tmp_path) as target:
        await target.deliver(first)
    with (tmp_path / "events.jsonl").open("ab") as file:
        file.write(torn)
    async with archive(gateway, tmp_path) as target:
        await target.deliver(second)
    assert lines(tmp_path) == [first, second]


async def test_lines_of_others_are_left_as_they_are(gateway: StandIn, tmp_path: Path) -> None:
    others = b"not json\n[]\n{}\n\xff\n"
    (tmp_path / "events.jsonl").write_bytes(others)
    event = make_event(1, by_mail=False)
    async with archive(gateway, tmp_path) as target:
        await target.deliver(event)
    assert (tmp_path / "events.jsonl").read_bytes().startswith(others)


async def test_file_that_was_rotated_away(gateway: StandIn, tmp_path: Path) -> None:
    async with archive(gateway, tmp_path) as target:
        await target.deliver(make_event(1, by_mail=False))
        (tmp_path / "events.jsonl").rename(tmp_path / "events.1.jsonl")
        await target.deliver(make_event(2, by_mail=False))
    assert [event["id"] for event in lines(tmp_path)] == [make_event(2)["id"]]


async def test_full_disk(gateway: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    event = make_event(1)
    gateway.mails[event["id"]] = MAIL
    write = os.write

    def no_room(file: int, data: bytes) -> int:
        if len(data) < 20:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(file, data[:-10])  # a disk takes what still fits

    async with archive(gateway, tmp_path) as target:
        with monkeypatch.context() as full:
            full.setattr(os, "write", no_room)
            with pytest.raises(Retry) as caught:
                await target.deliver(event)
        assert str(caught.value) == f"not archived: the disk of {tmp_path} is full"
        assert caught.value.after == 60
        assert (tmp_path / "events.jsonl").read_bytes() == b""
        await target.deliver(event)
    assert lines(tmp_path) == [event]
    assert files(tmp_path) == {f"{event['id']}.eml": MAIL}


async def test_disk_that_is_full_for_the_mail(gateway: StandIn, tmp_path: Path) -> None:
    """/dev/full is a real full disk, as far as a write is concerned."""
    event = make_event(1)
    gateway.mails[event["id"]] = MAIL
    async with archive(gateway, tmp_path) as target:
        draft = tmp_path / "Maildir" / "tmp" / f"{event['id']}.eml"
        draft.symlink_to("/dev/full")
        with pytest.raises(Retry) as caught:
            await target.deliver(event)
        assert str(caught.value) == f"not archived: the disk of {tmp_path} is full"
        assert lines(tmp_path) == []
        await target.deliver(event)
    assert files(tmp_path) == {f"{event['id']}.eml": MAIL}


async def test_sync_that_fails_leaves_no_line(
    gateway: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    event = make_event(1, by_mail=False)

    def broken(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    async with archive(gateway, tmp_path) as target:
        with monkeypatch.context() as disk:
            disk.setattr(os, "fsync", broken)
            with pytest.raises(Retry, match=r"^not archived: .*: Input/output error$"):
                await target.deliver(event)
        await target.deliver(event)
    assert lines(tmp_path) == [event]


async def test_folder_that_can_not_be_used(gateway: StandIn, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotReady) as caught:
        async with archive(gateway, tmp_path, folder=tmp_path / "file"):
            pass
    assert str(caught.value) == f"the archive can't be used: {tmp_path}/file/Maildir/tmp: Not a directory"


async def test_delivery_that_is_given_up_is_whole_or_not_there(gateway: StandIn, tmp_path: Path) -> None:
    events = [make_event(number) for number in range(50)]
    gateway.mails = {event["id"]: MAIL * 1000 for event in events}
    async with archive(gateway, tmp_path) as target:
        for event in events:
            delivery = asyncio.create_task(target.deliver(event))
            await asyncio.sleep(0)
            delivery.cancel()
            await asyncio.gather(delivery, return_exceptions=True)
            await target.deliver(event)
    assert sorted(event["id"] for event in lines(tmp_path)) == [event["id"] for event in events]


WRITER = """
import asyncio, sys
from pathlib import Path
from tests.integrations.archive.test_archive import MAIL, StandIn, archive, make_event

async def main():
    gateway = StandIn()
    async with archive(gateway, Path(sys.argv[1])) as target:
        for number in range(int(sys.argv[2]), 100_000):
            event = make_event(number)
            gateway.mails[event["id"]] = MAIL * 20
            await target.deliver(event)
            print(number, flush=True)

asyncio.run(main())
"""


def test_kill_9_loses_and_doubles_nothing(tmp_path: Path) -> None:
    done = 0
    for _ in range(5):
        command = [sys.executable, "-c", WRITER, str(tmp_path), str(done)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[3]) as writer:
            assert writer.stdout
            for _ in range(20):
                writer.stdout.readline()
            writer.kill()
            told = writer.stdout.read().split()
        done += 20 + len(told)  # the one under way is repeated by the next
    ids = [event["id"] for event in lines(tmp_path)]
    assert len(ids) == len(set(ids))
    assert set(ids) >= {make_event(number)["id"] for number in range(done)}
    assert len(ids) <= done + 1
    names = {path.name: path for path in (tmp_path / "Maildir" / "new").iterdir()}
    assert set(names) >= {f"{event_id}.eml" for event_id in ids}
    assert all(path.read_bytes() == MAIL * 20 for path in names.values())
