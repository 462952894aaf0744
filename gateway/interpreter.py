"""The gateway's side of the process that interprets (`gateway.interpret.worker`).

Interpreting has a process of its own for two reasons. Receiving and delivering get a core to themselves. And a mail
that would crash, hang or eat memory takes nothing else down: the process has limits, and where it dies or does not
answer in time it is ended and started anew. Then the mails that it had are given to it once more, one by one; the one
that goes on doing it is the culprit, and its answer says so in words. Nothing is lost by any of that: a mail stays
in the store, open, till its event is written.

A start is a start of Python and not a fork: it is the same the first time and after a death, with and without
threads, on every system; the process knows none of our secrets and has none of our files and sockets. It takes a few
hundredths of a second, in which mails wait in the store.

Questions are answered in their order. A bounded number is under way, so that memory does not grow; who gives mails
looks whether there is `room`.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

from gateway.interpret import Meaning, Reading
from gateway.interpret.worker import VERSION, message, messages
from gateway.store import Mail

log = logging.getLogger(__name__)

_MOST = 64  # mails under way
_MOST_BYTES = 1024 * 1024  # of their contents
_DEATHS = 3  # that make a mail the culprit; one or two may be chance
_PATIENCE = 10.0  # seconds for a mail, and a second more for each MiB of it
_START_PATIENCE = 60.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 10.0  # seconds between attempts to start it
_STEADY = 1.0  # seconds; after a life of so long the next one begins at once
_CLOSING = 2.0  # seconds that mails under way have at the end
_TITLE = "The content of this mail could not be interpreted"
_PROGRAM = """
import sys
sys.path = [sys.argv[1], *sys.path, sys.argv[2]]
from gateway.interpret.worker import main
main(*sys.argv[3:])
"""


def _home(package: str) -> str:
    """The folder that it is imported from, found without importing it."""
    spec = find_spec(package)
    assert spec is not None
    return str(Path(str(spec.origin)).resolve().parents[1])


COMMAND = (sys.executable, "-I", "-S", "-c", _PROGRAM, _home("gateway"), _home("pybase64"))
# mallopt(3), where it is glibc's: what a picture's pieces took is used again for the next one, and not given back and
# fetched anew, page by page. The process is bounded as a whole.
_HEAP = {"MALLOC_TRIM_THRESHOLD_": str(8 * 1024 * 1024), "MALLOC_MMAP_THRESHOLD_": str(2 * 1024 * 1024)}

Answered = Callable[[Mail, Reading, Meaning], None]


@dataclass(slots=True)
class _Question:
    number: int
    mail: Mail
    said: bytes
    deaths: int = 0  # of processes that had it


class Interpreter:
    """One process at a time, started again for ever. `answered` is called on the event loop, in the order of `give`."""

    def __init__(self, answered: Answered, command: Sequence[str] = COMMAND) -> None:
        self.answered = answered
        self.profiles: Path | None = None
        """The folder of the user's own; set before the start."""
        self.restarts = 0
        self.not_interpreted = 0
        """Mails that it could not interpret, and said so."""
        self.trouble = ""
        """Why it can't be started now."""
        self._command = command
        self._waiting: deque[_Question] = deque()
        self._under_way: deque[_Question] = deque()
        self._bytes = 0
        self._number = 0
        self._silent = 0  # seconds since the last sign of life
        self._channel: _Channel | None = None  # to a process that is ready
        self._life: asyncio.Task[None] | None = None
        self._idle = asyncio.Event()
        self._idle.set()

    def start(self) -> None:
        """Beforehand, so that the first mail need not wait for it."""
        if self._life is None:
            self._life = asyncio.create_task(self._live(), name="interpreter")

    async def close(self) -> None:
        """Let it finish what is under way, for a moment; what has no answer then never gets one."""
        if self._life is None:
            return
        if not self.trouble:
            await asyncio.wait({idle := asyncio.create_task(self._idle.wait())}, timeout=_CLOSING)
            idle.cancel()
        self._life.cancel()
        await asyncio.gather(self._life, return_exceptions=True)

    @property
    def room(self) -> bool:
        """May another mail be given?"""
        return self.depth < _MOST and self._bytes < _MOST_BYTES

    @property
    def depth(self) -> int:
        """Mails without an answer."""
        return len(self._waiting) + len(self._under_way)

    def read_profiles(self) -> None:
        """Take note of changed ones, for the mails that are given from now on."""
        if self._channel:
            self._channel.say(message((0, "", None, "")))

    def give(self, mail: Mail, content: bytes | Path, family: str = "") -> None:
        """`content`: its bytes, or the absolute path of a spooled mail. `family`: the one that it is from, if known."""
        self.start()
        self._number += 1
        where = str(content) if isinstance(content, Path) else content
        said = message((self._number, mail.envelope.helo, where, family))
        self._waiting.append(_Question(self._number, mail, said))
        self._bytes += len(said)
        self._idle.clear()
        self._ask()

    # --- talking -----------------------------------------------------------------------------------------------

    def _ask(self) -> None:
        """Say what waits. A suspect is alone with it."""
        while self._channel and self._waiting:
            if self._under_way and (self._waiting[0].deaths or self._under_way[0].deaths):
                return
            question = self._waiting.popleft()
            if not self._under_way:
                self._silent = 0
            self._under_way.append(question)
            self._channel.say(question.said)

    def _heard(self, channel: _Channel, said: list[Any]) -> None:
        """Raises ValueError or TypeError for what is no answer."""
        self._silent = 0
        for answer in said:
            if self._channel is None:
                if answer != VERSION:
                    raise ValueError("it is of another version: Mailwire was updated, and must be restarted")
                self._channel, channel.ready = channel, True
                self.trouble = ""
                continue
            number, what, meant = answer
            if not self._under_way or number != self._under_way[0].number:
                raise ValueError("it was not asked that")
            if what is None:
                self._condemn(self._under_way.popleft(), str(meant))
            else:
                found = Reading(*what), Meaning(*meant)
                self._tell(self._under_way.popleft(), *found)
        self._ask()

    def _condemn(self, question: _Question, reason: str) -> None:
        self.not_interpreted += 1
        log.warning("mail %s could not be interpreted: %s", question.mail.id, reason, extra={"mail": question.mail.id})
        self._tell(question, *_not_interpreted(question.mail, reason))

    def _tell(self, question: _Question, reading: Reading, meaning: Meaning) -> None:
        self._bytes -= len(question.said)
        try:
            self.answered(question.mail, reading, meaning)
        except Exception:  # a fault of ours with one mail must not be taken for one of the process
            log.exception("mail %s stays as it is: no event could be made of it", question.mail.id)
        if not self._under_way and not self._waiting:
            self._idle.set()

    # --- the process -------------------------------------------------------------------------------------------

    async def _live(self) -> None:
        """One process after the other."""
        pause = _FIRST_PAUSE
        while True:
            began = time.monotonic()
            channel = _Channel(self._heard)
            try:
                reason = await self._one(channel)
            except Exception as error:  # noqa: BLE001  # whatever it is: without a process no mail is interpreted
                reason = f"can't be started: {type(error).__name__}: {error}"
            self.restarts += 1
            if channel.ready:
                log.warning("the process that interprets mails %s: starting another one", reason)
                self._take_back(f"the process that interprets {reason}", blame=not channel.blameless)
                pause = _FIRST_PAUSE
                if time.monotonic() - began >= _STEADY:
                    continue
            else:
                if not self.trouble:
                    log.error("the process that interprets mails %s; mails wait in the store", reason)
                self.trouble = f"the process that interprets {reason}"
                pause = min(2 * pause, _LONGEST_PAUSE)
            await asyncio.sleep(pause)

    async def _one(self, channel: _Channel) -> str:
        """From a process's start to its end; how it ended, in words. Raises OSError if there is none."""
        here, there = socket.socketpair()
        process: asyncio.subprocess.Process | None = None
        reason = ""
        try:
            with there:
                own = [str(self.profiles.absolute())] if self.profiles else []
                process = await asyncio.create_subprocess_exec(
                    *self._command,
                    *own,
                    stdin=there.fileno(),
                    stdout=asyncio.subprocess.DEVNULL,
                    start_new_session=True,
                    env=_HEAP | os.environ,
                )
            await asyncio.get_running_loop().create_unix_connection(lambda: channel, sock=here)
            self._silent = 0
            while not channel.ended.done():
                await asyncio.wait([channel.ended], timeout=1.0)
                # Counted and not looked up on a clock: had this process stood still, it would be no fault of that one.
                self._silent += 1
                patience = self._patience(channel)
                if self._silent > patience:
                    reason = f"did not answer within {patience:.0f} seconds"
                    process.kill()
                    await channel.ended
        finally:
            self._channel = None
            if channel.close():
                await channel.ended
            else:
                here.close()
            if process:
                await _gone(process)
        return reason or channel.wrong or _ending(process.returncode or 0)

    def _patience(self, channel: _Channel) -> float:
        if not channel.ready:
            return _START_PATIENCE
        return _PATIENCE + self._under_way[0].mail.size / 2**20 if self._under_way else math.inf

    def _take_back(self, reason: str, *, blame: bool) -> None:
        """What it had is asked again; but not what was the end of so many, and alone with all but the first."""
        left = list(self._under_way)
        self._under_way.clear()
        for question in left if blame else ():
            question.deaths += 1
        if len(left) == 1 and left[0].deaths >= _DEATHS:
            self._condemn(left.pop(), reason)
        self._waiting.extendleft(reversed(left))


class _Channel(asyncio.Protocol):
    """The socket to one process. `ended` is done when it is closed; `wrong`: what was said that no worker says."""

    def __init__(self, heard: Callable[[_Channel, list[Any]], None]) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.ready = False
        self.blameless = False
        self.wrong = ""
        self._heard = heard
        self._pending = bytearray()
        self._transport: asyncio.Transport | None = None

    def say(self, data: bytes) -> None:
        assert self._transport
        if not self._transport.is_closing():
            self._transport.write(data)

    def close(self) -> bool:
        """False: it was never open."""
        if self._transport:
            self._transport.abort()
        return self._transport is not None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            self._pending += data
            self._heard(self, messages(self._pending))
        except MemoryError:
            self.blameless = True  # it is we who have none
            self.close()
        except (ValueError, TypeError, EOFError) as error:
            self.wrong = f"said what can't be understood ({error})"
            self.close()

    def connection_lost(self, error: Exception | None) -> None:
        self.ended.set_result(None)


async def _gone(process: asyncio.subprocess.Process) -> None:
    """Its socket is closed, which ends it; if not, kill -9."""
    try:
        async with asyncio.timeout(_CLOSING):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


def _ending(code: int) -> str:
    if code >= 0:
        return f"ended with code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


def _not_interpreted(mail: Mail, reason: str) -> tuple[Reading, Meaning]:
    """What stands for the content of a mail that nobody could read."""
    text = f"{_TITLE}: {reason}. It is kept as it came: `mailwire mails {mail.id} --raw` shows it."
    return Reading(text=text, truncated=[_TITLE]), Meaning("other", None, "warning", _TITLE)
