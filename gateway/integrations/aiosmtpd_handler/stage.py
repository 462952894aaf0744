"""A thread with an event loop of its own, as aiosmtpd's Controller gives its handlers.

Handlers are written for that: many are `async def` and block all the same (aiosmtpd's own Proxy speaks smtplib), which
stops nobody but themselves here.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")


class TooSlow(Exception):
    """What was played took longer than it may."""


class Stage:
    """`run` runs coroutines in the thread; `stop` ends it."""

    def __init__(self, name: str) -> None:
        self.loop = asyncio.new_event_loop()
        # A daemon: a handler that never comes back must not keep the gateway from ending.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    async def run(self, play: Callable[[], Coroutine[Any, Any, _T]], patience: float) -> _T:
        """The result of `await play()`, played in the thread. Raises TooSlow after `patience` seconds."""
        outcome = asyncio.wrap_future(asyncio.run_coroutine_threadsafe(play(), self.loop))
        try:
            async with asyncio.timeout(patience) as limit:
                return await outcome
        except TimeoutError as error:
            if limit.expired():
                raise TooSlow from error
            raise

    async def stop(self, patience: float) -> None:
        """End the thread; if a handler blocks it for longer than `patience` seconds it is left behind."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        await asyncio.to_thread(self._thread.join, patience)

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
            tasks = asyncio.all_tasks(self.loop)
            for task in tasks:
                task.cancel()
            self.loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        finally:
            self.loop.close()
