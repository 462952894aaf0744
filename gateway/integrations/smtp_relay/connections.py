"""The connections to the smarthost, kept for the next mail while they are idle; and how many mails may go a minute."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable

from gateway.integrations.smtp_relay.transport import Line

MOST_MAILS = 100  # on one connection, as OpenSMTPD does; some servers count


class Connections:
    """`open` makes one; it is kept for `idle` seconds. `stop` when all that were taken are back."""

    def __init__(self, open_line: Callable[[], Awaitable[Line]], idle: float) -> None:
        self._open = open_line
        self._idle = idle
        self._kept: deque[tuple[Line, asyncio.TimerHandle]] = deque()
        self._closing: set[asyncio.Task[None]] = set()
        self.opened = 0

    async def take(self, *, fresh: bool = False) -> Line:
        """Raises what `open` raises. `fresh`: not one that was kept."""
        while self._kept and not fresh:
            line, timer = self._kept.pop()
            timer.cancel()
            if line.is_open:
                return line
        line = await self._open()
        self.opened += 1
        return line

    def give_back(self, line: Line) -> None:
        if not line.is_open or line.mails >= MOST_MAILS or not self._idle:
            self._close(line)
            return
        entry = (line, asyncio.get_running_loop().call_later(self._idle, self._tired))
        self._kept.append(entry)

    async def stop(self) -> None:
        while self._kept:
            line, timer = self._kept.popleft()
            timer.cancel()
            self._close(line)
        if self._closing:
            await asyncio.gather(*self._closing, return_exceptions=True)

    def _tired(self) -> None:
        """The one that is kept longest has been idle for long enough."""
        line, _ = self._kept.popleft()
        self._close(line)

    def _close(self, line: Line) -> None:
        task = asyncio.create_task(line.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


class Rate:
    """At most `most` mails within any minute; None: as many as there are."""

    def __init__(self, most: int | None) -> None:
        self._sent: deque[float] = deque(maxlen=most or 1)
        self._most = most
        self._turn = asyncio.Lock()

    async def turn(self) -> None:
        """Wait until one may go."""
        if self._most is None:
            return
        async with self._turn:
            if len(self._sent) == self._most:
                await asyncio.sleep(max(0.0, self._sent[0] + 60.0 - time.monotonic()))
            self._sent.append(time.monotonic())
