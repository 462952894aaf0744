"""Target: each mail as a file in a Maildir, byte for byte as it came, and each event as a line of JSON.

`<folder>/Maildir/new/<event id>.eml` and `<folder>/events.jsonl`. A delivery is done when both are on disk: the mail
is written in `tmp`, synced, and renamed into `new` (the Maildir convention); then its event is appended and synced. A
crash in between repeats the delivery. The mail then takes the same name again, and the line is not written twice:
deliveries come one at a time, so only the newest lines can be repeated, and those are read at the start.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from pydantic import Field

from gateway.api import ConfigModel, ConfigPath, Context, Event, NotReady, Retry, Target, about, to_json

_NEWEST = 1024 * 1024  # bytes at the end of events.jsonl in which a repeated event is looked for
_REMEMBERED = 10_000  # events of which it is known that they are archived
_FULL = (errno.ENOSPC, errno.EDQUOT)
_WAIT = 60.0  # seconds until a full or broken disk is tried again


class Config(ConfigModel):
    """Where the archive is."""

    folder: ConfigPath | None = Field(default=None, description="Default: in the gateway's data folder")


class Archive(Target):
    """See the text at the top."""

    config: Config

    def __init__(self, context: Context, config: Config) -> None:
        super().__init__(context, config)
        self._folder = config.folder or context.data_dir
        self._maildir = self._folder / "Maildir"
        self._lines = self._folder / "events.jsonl"
        self._writer = ThreadPoolExecutor(1, "archive")  # one, for a write that nobody waits for any more goes on
        self._written: dict[str, None] = {}  # in the order of writing

    async def start(self) -> None:
        try:
            await asyncio.get_running_loop().run_in_executor(self._writer, self._prepare)
        except OSError as error:  # a disk that is not mounted yet may come
            raise NotReady(f"the archive can't be used: {_words(error, self._folder)}") from error

    async def stop(self) -> None:
        await asyncio.to_thread(self._writer.shutdown)

    def describe(self) -> str:
        return f"mails in {self._maildir}, events in {self._lines}"

    async def deliver(self, event: Event) -> None:
        mail: bytes | None = None
        if event["mail"]:
            try:
                _, mail = await self.context.gateway.raw_mail(event["id"])
            except LookupError as error:
                words = "event %s is archived without its mail: %s"
                self.context.log.warning(words, event["id"], error, extra=about(event))
        try:
            await asyncio.get_running_loop().run_in_executor(self._writer, self._write, event, mail)
        except OSError as error:
            raise Retry(f"not archived: {_words(error, self._folder)}", _WAIT) from error

    # --- in the writer's thread -------------------------------------------------------------------------------

    def _prepare(self) -> None:
        for name in ("tmp", "new", "cur"):
            (self._maildir / name).mkdir(parents=True, exist_ok=True)
        with self._open_lines() as file:
            size = os.fstat(file).st_size
            newest = os.pread(file, _NEWEST, max(0, size - _NEWEST))
        for line in newest.splitlines():
            try:
                self._remember(json.loads(line)["id"])
            except (ValueError, TypeError, KeyError):  # the first one may be cut off; others are not ours
                continue

    def _write(self, event: Event, mail: bytes | None) -> None:
        if event["id"] in self._written:
            return
        if mail is not None:
            self._write_mail(f"{event['id']}.eml", mail)
        line = to_json(event) + b"\n"
        with self._open_lines() as file:
            before = os.fstat(file).st_size
            try:
                _write_all(file, line)
                os.fsync(file)
            except OSError:
                os.ftruncate(file, before)  # else the next try would write it twice
                raise
        self._remember(event["id"])

    def _remember(self, event_id: str) -> None:
        self._written[event_id] = None
        if len(self._written) > _REMEMBERED:
            del self._written[next(iter(self._written))]

    def _write_mail(self, name: str, mail: bytes) -> None:
        draft = self._maildir / "tmp" / name
        try:
            with draft.open("wb") as file:
                file.write(mail)
                file.flush()
                os.fsync(file.fileno())
            draft.rename(self._maildir / "new" / name)
        except OSError:
            draft.unlink(missing_ok=True)
            raise
        _sync_folder(self._maildir / "new")

    @contextmanager
    def _open_lines(self) -> Iterator[int]:
        """events.jsonl, to append to. A line that a crash or a full disk has cut off is taken away first."""
        known = self._lines.exists()
        file = os.open(self._lines, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            if not known:
                _sync_folder(self._folder)
            os.ftruncate(file, _whole_lines(file))
            yield file
        finally:
            os.close(file)


def _whole_lines(file: int) -> int:
    """The size of the file without an unfinished last line."""
    end = os.fstat(file).st_size
    while end:
        start = max(0, end - 65536)
        newline = os.pread(file, end - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


def _write_all(file: int, data: bytes) -> None:
    while data:
        data = data[os.write(file, data) :]


def _sync_folder(folder: Path) -> None:
    """Make a new name in it durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _words(error: OSError, folder: Path) -> str:
    if error.errno in _FULL:
        return f"the disk of {folder} is full"
    return f"{error.filename or folder}: {error.strerror}"
