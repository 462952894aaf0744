"""The screen: notifications by a key of ours, shown, replaced and cleared. The only file that imports desktop-notifier.

On Linux that library speaks the Desktop Notifications Specification over D-Bus, and here it is taught three things
that it lacks: to raise what it would only log, to replace a notification in its place (`replaces_id`), and to be told
what an earlier run of this program has shown, so that it is replaced after a restart. (Its buttons work then if the
daemon tells everybody of them; dunst tells the program alone that is gone.) The numbers of notifications are the
daemon's own, so they are kept together with its name on the bus and the bus's own id.

Elsewhere the library's own front is used as it is: there a notification of the same key replaces the earlier one.
"""

from __future__ import annotations

import asyncio
import html
import sys
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from desktop_notifier import Attachment, Button, DesktopNotifier, Icon, Notification, Urgency
from desktop_notifier.backends.dbus import DBusDesktopNotifier

from gateway.api import Broken, NotReady

_NAME = "org.freedesktop.Notifications"
_BUS, _BUS_PATH = "org.freedesktop.DBus", "/org/freedesktop/DBus"
_CALL_TIMEOUT = 10.0  # seconds for a daemon to answer
_APP = "Mailwire"

_ICONS = {"info": "dialog-information", "warning": "dialog-warning", "critical": "dialog-error"}
_URGENCIES = {"info": Urgency.Low, "warning": Urgency.Normal, "critical": Urgency.Critical}

CLICKED = "open"
"""A click on the notification itself is as its button of this name."""


class Words(NamedTuple):
    """What a notification says. `buttons`: name -> what stands on it."""

    title: str
    text: str
    severity: str
    buttons: Mapping[str, str]
    picture: Path | None = None


class Hooks(NamedTuple):
    """What the owner is told, each by the key of a notification; all are called on the event loop."""

    pressed: Callable[[str, str], None]
    gone: Callable[[str], None]
    back: Callable[[], None]
    """A daemon is there (again)."""


class Screen:
    """See the text at the top. One at a time."""

    def __init__(self, hooks: Hooks) -> None:
        self._front = DesktopNotifier(_APP, None)
        self._front.on_button_pressed = hooks.pressed
        self._front.on_clicked = lambda key: hooks.pressed(key, CLICKED)
        self._front.on_dismissed = hooks.gone

    async def connect(self) -> None:
        """Raises NotReady, Broken."""
        if not await self._front.get_capabilities():
            raise Broken("notifications can't be shown here: this system shows those of signed applications alone")

    async def show(self, key: str, words: Words) -> None:
        """Raises NotReady."""
        sent: list[bool] = []
        await self._front.send_notification(_notification(key, words, lambda: sent.append(True)))
        if not sent:
            raise NotReady("the system does not take notifications; see the line above")

    async def clear(self, key: str) -> None:
        """Take it away, if it is there. Raises NotReady."""
        if key in await self._front.get_current_notifications():
            await self._front.clear(key)

    def close(self) -> None:
        """What is shown stays."""

    def numbers(self) -> tuple[str, dict[str, int]]:
        """Whose they are, and key -> number of what is shown: for a later run."""
        return "", {}


class BusScreen(Screen):
    """Over D-Bus. `before` and `whose` are the `numbers` of an earlier run."""

    def __init__(self, hooks: Hooks, whose: str, before: Mapping[str, int]) -> None:
        # Without the library's front, which hides what fails.
        self._bus = _Bus(hooks, whose, before)

    async def connect(self) -> None:
        await self._answered(self._bus.find())

    async def show(self, key: str, words: Words) -> None:
        await self._answered(self._bus.put(key, words))

    async def clear(self, key: str) -> None:
        await self._answered(self._bus.take(key))

    def close(self) -> None:
        self._bus.leave()

    def numbers(self) -> tuple[str, dict[str, int]]:
        return self._bus.whose, self._bus.numbers()

    async def _answered(self, call: Coroutine[Any, Any, None]) -> None:
        try:
            async with asyncio.timeout(_CALL_TIMEOUT):
                await call
        except Exception as error:  # the library and what is below it raise whatever they like
            self._bus.interface = None
            reason = "no answer" if isinstance(error, TimeoutError) else str(error) or type(error).__name__
            raise NotReady(
                f"no notification daemon answers on this desktop ({reason}): "
                "start the desktop's own one, or another such as dunst"
            ) from error


class _Bus(DBusDesktopNotifier):
    """desktop-notifier's own part for D-Bus, with what it lacks."""

    def __init__(self, hooks: Hooks, whose: str, before: Mapping[str, int]) -> None:
        super().__init__(_APP, None)
        self.whose = whose
        self.bus: Any = None
        self.interface: Any = None
        self.on_button_pressed = hooks.pressed
        self.on_clicked = lambda key: hooks.pressed(key, CLICKED)
        self._hooks = hooks
        self._replaces = 0
        self._ending: set[asyncio.Task[None]] = set()
        for key, number in before.items():
            self._platform_to_interface_notification_identifier[number] = key
            self._notification_cache[key] = Notification("", "", identifier=key)

    async def find(self) -> None:
        """Connect to the bus and the daemon, unless we are. Where there is none, its coming is waited for."""
        if self.interface is not None and self.bus.connected:
            return
        self.leave()
        try:
            self.interface = await self._init_dbus()
        finally:
            if self.bus is not None and self.bus.connected:
                await self._watch()

    async def _init_dbus(self) -> Any:
        interface: Any = await super()._init_dbus()
        notify = interface.call_notify

        async def replacing(app: str, _: int, *words: Any) -> int:
            return int(await notify(app, self._replaces, *words))

        interface.call_notify = replacing
        return interface

    async def _watch(self) -> None:
        """Whose numbers are those that we know; and be told when another daemon takes over."""
        names: Any = self.bus.get_proxy_object(_BUS, _BUS_PATH, await self.bus.introspect(_BUS, _BUS_PATH))
        names = names.get_interface(_BUS)
        names.on_name_owner_changed(self._owner_changed)
        if self.interface is not None:
            self._belongs_to(f"{await names.call_get_id()} {await names.call_get_name_owner(_NAME)}")

    def _owner_changed(self, name: str, _: str, new: str) -> None:
        if name == _NAME:
            self._belongs_to(f"{self.whose.partition(' ')[0]} {new}")
            if new:
                self._hooks.back()

    def _belongs_to(self, whose: str) -> None:
        """What another daemon has shown is gone: its numbers mean nothing to this one."""
        if whose != self.whose:
            self.whose = whose
            gone = list(self.numbers())
            self._platform_to_interface_notification_identifier.clear()
            self._notification_cache.clear()
            for key in gone:
                self._hooks.gone(key)

    def leave(self) -> None:
        if self.bus is not None and self.bus.connected:
            self.bus.disconnect()
        self.interface = None

    async def put(self, key: str, words: Words) -> None:
        await self.find()
        self._capabilities = None  # the daemon may be another one by now
        if "body-markup" in await self.interface.call_get_capabilities():
            words = words._replace(text=html.escape(words.text, quote=False))
        notification = _notification(key, words)
        self._replaces = self._platform_to_interface_notification_identifier.inverse.pop(key, 0)
        await self._send(notification)
        self._notification_cache[key] = notification

    async def take(self, key: str) -> None:
        await self.find()
        if key in self.numbers():
            await self.clear(key)

    def numbers(self) -> dict[str, int]:
        return dict(self._platform_to_interface_notification_identifier.inverse)

    def _on_action(self, nid: int, action_key: str) -> None:
        ours = nid in self._platform_to_interface_notification_identifier
        super()._on_action(nid, action_key)
        if ours:  # some daemons leave it there, and its buttons would do nothing any more
            task = asyncio.create_task(self._end(nid))
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    async def _end(self, nid: int) -> None:
        with suppress(Exception):  # it has gone, or the daemon has
            await self.interface.call_close_notification(nid)

    def _on_closed(self, nid: int, reason: int) -> None:
        key = self._platform_to_interface_notification_identifier.get(nid)
        super()._on_closed(nid, reason)
        if key is not None:
            self._hooks.gone(key)


def make(hooks: Hooks, whose: str, before: Mapping[str, int]) -> Screen:
    """The one for this system. `whose` and `before` are the `numbers` of an earlier run."""
    return BusScreen(hooks, whose, before) if sys.platform.startswith("linux") else Screen(hooks)


def _notification(key: str, words: Words, dispatched: Callable[[], None] | None = None) -> Notification:
    return Notification(
        title=words.title,
        message=words.text,
        urgency=_URGENCIES[words.severity],
        icon=Icon(name=_ICONS[words.severity]),
        buttons=tuple(Button(title, identifier=name) for name, title in words.buttons.items()),
        attachment=Attachment(path=words.picture) if words.picture else None,
        on_dispatched=dispatched,
        identifier=key,
    )
