"""Source and target: a serial line, with a board that talks in frames, or with equipment that prints lines.

The port is opened in the background, and again, for ever, when it is lost: unplugged and plugged in again, a board that
resets, a program that held it and ended. Reading has a thread of its own, and so has writing; what was read is taken in
before more is read, so a store that can't write holds up the line and not the memory. `frames.py` and `lines.py` are
the two formats; `README.md` beside this file is for who builds the other side.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from gateway import ports
from gateway.api import (
    Context,
    Event,
    Finding,
    Metric,
    NotReady,
    Refused,
    Retry,
    Source,
    Target,
)
from gateway.integrations.serial import lines
from gateway.integrations.serial.frames import Frames
from gateway.integrations.serial.noise import Noise
from gateway.ports import Line, NoSuchPort, PortError
from gateway.wire import frame, link

_ABSENT_WAIT = 1.0  # seconds between looks for a port that is not there: it may be plugged in at any moment
_FINISH = 2.0  # seconds that what was read has to be taken in, at a stop
_FIRST_WAIT, _LONGEST_WAIT = 1.0, 30.0  # seconds between tries to open one that can't be opened


class Config(lines.Settings):
    """Which port, how it is spoken, and what is said on it."""

    port: str = Field(
        min_length=1,
        description="Its path, a URL such as socket://host:port, or the serial number or VID:PID of a USB device",
    )
    format: Literal["frames", "lines"] = "frames"
    direction: Literal["both", "in", "out"] = Field(
        default="both", description="in: nothing is written but acknowledgements; out: what comes is no event"
    )
    baud: int = Field(default=115200, ge=50, le=4_000_000)
    bits: Literal[5, 6, 7, 8] = 8
    parity: Literal["none", "even", "odd", "mark", "space"] = "none"
    stop: Literal[1, 2] = 1
    flow: Literal["none", "rtscts", "xonxoff"] = "none"
    reset: bool = Field(default=False, description="Press the board's reset button when the port is opened")
    line: int = Field(
        default=frame.MAX_LINE, ge=frame.LINE, le=frame.MAX_LINE, description="Octets of the longest frame taken"
    )
    device: str | None = Field(
        default=None, min_length=1, description="The device of events that name none. Default: the board, or this entry"
    )

    @model_validator(mode="after")
    def _of_its_format(self) -> Self:
        given = self.model_fields_set
        if self.format == "frames":
            foreign = [key for key in lines.Settings.model_fields if key in given]
            if foreign:
                raise ValueError(f"{' and '.join(foreign)}: that is for 'format: lines'; frames are what they are")
        elif "line" in given:
            raise ValueError("line is for 'format: frames'; the longest line that is written is its width")
        if self.format == "lines" and self.direction == "out" and self.write is None:
            raise ValueError("with 'direction: out' there must be a template to write, such as write: '{{ title }}'")
        if "expect_within" in given and self.expect is None:
            raise ValueError("expect_within is how long the answer may take; say with expect what that is")
        if self.expect is not None and self.write is None:
            raise ValueError("expect is the answer to what is written, and there is no template to write")
        if self.direction == "in" and self.write is not None:
            raise ValueError("write says what goes out, and 'direction: in' that nothing does")
        if self.direction == "out" and self.read:
            raise ValueError("read says what comes in, and 'direction: out' that nothing does")
        return self

    def spoken(self) -> ports.Settings:
        return ports.Settings(self.baud, self.bits, self.parity, self.stop, self.flow)


class Serial(Source, Target):
    """See the text at the top."""

    concurrency: ClassVar[int] = link.WINDOW
    event_bus: ClassVar[bool] = True
    config: Config

    def __init__(self, context: Context, config: Config) -> None:
        super().__init__(context, config)
        self._noise = Noise(context.log, context.name)
        self._frames: Frames | None = None
        self._reader: lines.Reader | None = None
        self._writer: lines.Writer | None = None
        self._line: Line | None = None  # the open port
        self._trouble = "not opened yet"
        self._events = 0
        self._order = asyncio.Lock()  # lines are written one event after the other
        self._answered = asyncio.Event()
        self._wake = asyncio.Event()
        self._runner: asyncio.Task[None] | None = None
        self._writing = ThreadPoolExecutor(1, f"serial {context.name}")
        self._tried = asyncio.Event()

    @classmethod
    def takes_all(cls, config: Config) -> bool:
        return config.direction != "in" and (config.format == "frames" or config.write is not None)

    async def start(self) -> None:
        config = self.config
        if config.format == "frames":
            # A path through a network has a speed of its own.
            rate = 0 if "://" in config.port else int(config.spoken().rate)
            keep = self._keep if config.direction != "out" else None
            self._frames = Frames(self.context, self._noise, config.line, rate, self._wake.set, keep)
        else:
            self._reader = lines.Reader(self.context, self._noise, config, self._answered.set)
            self._writer = lines.Writer(self.context, config)
        self._runner = asyncio.create_task(self._run(), name=f"serial {self.context.name}")
        await self._tried.wait()
        self.context.ready()  # nobody need wait for a board that may never say hello

    async def stop(self) -> None:
        if self._runner:
            self._runner.cancel()
            await asyncio.gather(self._runner, return_exceptions=True)
        if self._frames:
            await self._frames.stop()
        self._noise.end()
        await asyncio.to_thread(self._writing.shutdown)

    def describe(self) -> str:
        spoken = "" if "://" in self.config.port else f" at {self.config.spoken()}"
        if self._line is None:
            return f"{self.config.format} on {self.config.port}{spoken}: {self._trouble}"
        who = f": {self._frames.about()}" if self._frames else ""
        return f"{self.config.format} on {self._line.where}{spoken}{who}"

    def health(self) -> dict[str, Any]:
        told: dict[str, Any] = {"open": self._line is not None, "port": self._line.where if self._line else None}
        told |= {"events": self._events, "noise": self._noise.lines}
        return told | ({"peer": self._frames.peer} if self._frames else {})

    def metrics(self) -> Iterator[Metric]:
        is_open, events, noise = int(self._line is not None), self._events, self._noise.lines
        yield Metric("mailwire_serial_open", "gauge", "1 if the port is open.", [({}, is_open)])
        yield Metric("mailwire_serial_events", "counter", "Events that came over the line.", [({}, events)])
        yield Metric("mailwire_serial_noise", "counter", "Lines that were no message.", [({}, noise)])

    @classmethod
    def examine(cls, name: str, config: Config, data_dir: Path) -> Iterator[Finding]:
        try:
            where = ports.look(config.port)
        except NoSuchPort as error:
            yield Finding(name, "warn", str(error))
        except PortError as error:
            yield Finding(name, "fail", str(error))
        else:
            yield Finding(name, "ok", f"the port {where} is there" if "://" not in where else f"the port is {where}")

    # --- events out --------------------------------------------------------------------------------------------

    async def deliver(self, event: Event) -> None:
        if event["source"] == self.context.name:
            return  # the other side knows: it comes from there
        if self.config.direction == "in":
            raise Refused("nothing is written on this line: its direction is 'in'")
        if self._line is None:
            raise NotReady(self._trouble)
        if self._frames:
            await self._frames.deliver(event)
        elif self._writer:
            data = self._writer.written(event)
            if data:
                async with self._order:
                    await self._write_line(data)

    async def _write_line(self, data: bytes) -> None:
        """Until the system has taken it, or the other side has answered."""
        self._answered.clear()
        await self._write(data)
        if self.config.expect is not None:
            try:
                async with asyncio.timeout(self.config.expect_within):
                    await self._answered.wait()
            except TimeoutError:
                raise Retry(f"no answer in {self.config.expect_within:g} s that looks like what is expected") from None

    async def _write(self, data: bytes) -> None:
        """Until the system has taken it."""
        if self._line is None:
            raise NotReady(self._trouble)
        try:
            await asyncio.get_running_loop().run_in_executor(self._writing, self._line.write, data)
        except PortError as error:
            raise NotReady(str(error)) from error

    # --- the port ----------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        """Open, serve, wait, again."""
        wait = _FIRST_WAIT
        while True:
            try:
                line = await asyncio.to_thread(
                    ports.open_port, self.config.port, self.config.spoken(), reset=self.config.reset
                )
            except Exception as error:
                if not isinstance(error, PortError):  # a fault of ours must not leave the line dead for good
                    self.context.log.exception("the port could not be opened")
                self._say(str(error) or type(error).__name__)
                absent = isinstance(error, NoSuchPort) and "://" not in self.config.port
                self._tried.set()
                await asyncio.sleep(_ABSENT_WAIT if absent else wait)
                wait = min(2 * wait, _LONGEST_WAIT)
                continue
            wait = _FIRST_WAIT
            try:
                await self._serve(line)
            except PortError as error:
                self._say(str(error))
            except Exception as error:  # a fault of ours must not leave the line dead for good
                self.context.log.exception("the serial line failed")
                self._say(f"the serial line failed ({type(error).__name__}: {error})")
            finally:
                self._line = None
                # In the thread that writes, so after what it is writing.
                await asyncio.get_running_loop().run_in_executor(self._writing, line.close)
                if self._frames:
                    self._frames.lost()
                if self._reader:
                    self._reader.lost()
            await asyncio.sleep(_FIRST_WAIT)

    def _say(self, trouble: str) -> None:
        self._trouble = trouble
        self.context.problem(trouble)

    async def _serve(self, line: Line) -> None:
        """One opening, until the port is gone, which is raised as PortError."""
        self._line = line
        self.context.problem(None)
        self.context.log.info("%s is open", line.where)
        self._tried.set()
        if not self._frames:
            self.context.ready()
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        stopping = threading.Event()
        reader = threading.Thread(
            target=self._read, args=(line, asyncio.get_running_loop(), ended, stopping), name=f"{self.context.name} in"
        )
        reader.start()
        writer = asyncio.create_task(self._pump(line))
        try:
            await asyncio.wait((ended, writer), return_when=asyncio.FIRST_COMPLETED)
            for one in (ended, writer):
                if one.done():
                    one.result()
        finally:
            stopping.set()
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)
            await asyncio.to_thread(reader.join)

    def _read(
        self, line: Line, loop: asyncio.AbstractEventLoop, ended: asyncio.Future[None], stopping: threading.Event
    ) -> None:
        """In the thread that reads."""
        try:
            while not stopping.is_set():
                if data := line.read():
                    taken = asyncio.run_coroutine_threadsafe(self._came(data), loop)
                    left = _FINISH  # after that, what was read and is not kept yet is lost: lines come once
                    while left > 0:
                        with contextlib.suppress(TimeoutError):
                            taken.result(ports.PATIENCE)
                            break
                        left -= ports.PATIENCE if stopping.is_set() else 0
                    else:
                        taken.cancel()
        except Exception as error:  # noqa: BLE001  # whatever it is, it is the runner's to deal with
            loop.call_soon_threadsafe(_fail, ended, error)

    async def _came(self, data: bytes) -> None:
        """Take in what was read."""
        if self._frames:
            await self._frames.came(data)
        elif self._reader:
            for draft in self._reader.came(data):
                if self.config.direction != "out":
                    # Equipment that prints does not repeat itself: the line waits, and is read on when this is kept.
                    await self._keep(draft, "a line that came in")

    async def _keep(self, draft: Mapping[str, Any], waiting: str) -> None:
        """See `Frames`."""
        draft = draft if draft.get("device") else {**draft, "device": self._own_device()}
        await (self.context.emit_at_last(draft, waiting) if waiting else self.context.emit(draft))
        self._events += 1

    def _own_device(self) -> str | dict[str, Any]:
        """Of events that name none: what the configuration says, else the board itself, else this entry."""
        peer = self._frames.peer if self._frames else None
        if not self.config.device and peer and (peer.get("id") or peer.get("name")):
            return {key: peer.get(key) for key in ("id", "name")}
        return self.config.device or self.context.name

    async def _pump(self, line: Line) -> None:
        """Write what the link has to say."""
        loop = asyncio.get_running_loop()
        while self._frames:
            self._wake.clear()
            while data := self._frames.take():
                await loop.run_in_executor(self._writing, line.write, data)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._frames.wait()):
                    await self._wake.wait()
        await loop.create_future()


def _fail(ended: asyncio.Future[None], error: Exception) -> None:
    if not ended.done():
        ended.set_exception(error)
