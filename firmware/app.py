"""Joins the parts that the settings name, and keeps them running.

Sources make drafts and give them to `keep`, which returns when the event is in flash; targets take events from the
spool and give them up when the other side has them. Each is a task of its own: one that fails is told on the console
and started again, later each time, and the others don't notice.
"""

import asyncio
import gc
from binascii import hexlify

from firmware import VERSION, board, events, slots
from firmware.borrowed import Borrowed
from firmware.log import say, trace
from firmware.spool import Spool
from gateway.wire.event import slug

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_FIRST, _LAST = 1, 60  # seconds until a part that failed is started again
_SETTLED = 600000  # milliseconds after which it counts as failing for the first time

# Each part is a module with `make(app)`, which returns an object with `async def run(self)`; it is imported only
# if the settings name its section. A target's events are kept under the name of its section. One that does not want all
# of them has `wants(draft)`. As texts, for tables take ten times the memory.
_TARGETS = " mqtt=mqtt serial=frames post=smtp_client "
_OTHERS = " board=alive wifi=net ethernet=net smtp=smtp_server sensors=sensors update=update "


class App:
    """What runs on this board, and what its parts may ask of it. `settings` as `settings.py` has checked them."""

    def __init__(self, settings: "dict[str, Any]", mistakes: "list[str]") -> None:
        self.settings = settings
        self.mistakes = mistakes
        """In the settings, a line each."""
        self.name = settings["name"] or "mailwire-" + hexlify(board.unique_id()[-3:]).decode()
        self.id = slug(self.name)
        """The device id of the board itself."""
        wanted = [section for section, _ in _pairs(_TARGETS) if self.is_target(section)]
        self.spool = Spool("spool", settings["spool"] or board.flash() // 2, wanted)
        self.parts: dict[str, Any] = {}
        """By module: what `make` returned."""

    def is_target(self, section: str) -> bool:
        """Whether events are owed to it: to the serial line only if there is no broker, or if it says so."""
        own = self.settings.get(section)
        if section == "serial":
            return bool(own and own.get("events")) or not self.settings.get("mqtt")
        return bool(own)

    def own(self) -> "dict[str, Any]":
        """The board as the device of an event."""
        return {"id": self.id, "name": self.name, "manufacturer": None, "model": board.NAME, "profile": None}

    def keep(self, source: str) -> "Callable[[dict[str, Any]], str]":
        """A function for a source of this name: it takes a draft (a dict with some of the fields of an event; see
        `events.complete`) and returns the event's id when that is in flash. It raises spool.Full, or OSError.
        """

        def kept(draft: "dict[str, Any]") -> str:
            owing = []
            for section, module in _pairs(_TARGETS):
                if self.is_target(section):
                    wants = getattr(self.parts.get(module), "wants", None)
                    if wants is None or wants(draft):
                        owing.append(section)
            identifier, event = events.complete(draft, source, self.own())
            if owing:
                self.spool.put(event, owing)
            return identifier

        return kept

    async def run(self) -> None:
        """Until the board is reset."""
        say(f"Mailwire {VERSION} on {board.NAME}: {self.name}")
        for line in self.mistakes:
            say("settings.json: " + line)
        names = [module for section, module in _pairs(_OTHERS) if self.settings.get(section)]
        if not board.SOCKETS:
            names.remove("smtp_server")  # it is there by default, and nobody could reach it
        names += [module for section, module in _pairs(_TARGETS) if section == "serial" or self.is_target(section)]
        names = [name for at, name in enumerate(names) if name not in names[:at]]
        for name in names:
            self._make(name)
        for name in names:
            asyncio.create_task(self._keep_running(name))  # noqa: RUF006  # MicroPython's loop holds its tasks
        while True:
            board.uptime()
            gc.collect()
            try:
                slots.report(self.keep("update"))
                if [1 for _, name in _pairs(_TARGETS) if getattr(self.parts.get(name), "trouble", "") is None]:
                    slots.confirm()  # the other side is there: this version does its job
            except MemoryError:
                pass  # there may be more the next time
            await asyncio.sleep(10 if slots.confirmed else 1)

    def _make(self, name: str) -> None:
        gc.collect()  # the code stays: it lies closer together where nothing passing does
        try:
            self.parts[name] = __import__("firmware." + name, None, None, (name,)).make(self)
        except Exception as error:  # noqa: BLE001  # whatever it was, the others must go on
            _tell(name, error)

    async def _keep_running(self, name: str) -> None:
        """Run a part again whenever it ends, and make it again if that failed."""
        pause = _FIRST
        while True:
            began = board.uptime()
            if name not in self.parts:
                self._make(name)
            if name in self.parts:
                try:
                    await self.parts[name].run()
                except Exception as error:  # noqa: BLE001  # as above
                    _tell(name, error)
            gc.collect()
            if board.uptime() - began > _SETTLED:
                pause = _FIRST
            try:
                say(f"{name}: starts again in {pause} s")
            except MemoryError:
                pass  # it does all the same
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LAST)


def _pairs(text: str) -> "list[list[str]]":
    """Section and module."""
    return [pair.split("=") for pair in text.split()]


def _tell(name: str, error: Exception) -> None:
    """Of a mistake of a person's, its words; of anything else also where it was, for whoever mends it. Never fails:
    it must not be what ends a part for good.
    """
    try:
        say(f"{name}: {str(error) or type(error).__name__}")
        if not isinstance(error, (ValueError, OSError, MemoryError)):
            trace(error)
    except MemoryError:
        gc.collect()


def _app() -> App:
    """A function of its own, so that nothing here holds what was borrowed."""
    with Borrowed("settings", "firmware.url") as settings:
        return App(*settings.read())


def main() -> None:
    """What /main.py calls; it does not return."""
    gc.threshold(4096)  # an early sweep leaves wider gaps than one at the last moment
    app = _app()
    try:
        asyncio.run(app.run())
    except KeyboardInterrupt:
        board.release_watchdog()
        raise
