"""The board's own inputs: readings for its state, and events when something has changed.

The law of this file:

- A sensor is data (settings `sensors`, checked in sensor_settings.py); this file knows its type and nothing else.
- A contact or a button counts once it has been the same for its `debounce` time.
- A number is an alarm between passing `on` and passing `off`, which is the hysteresis: `on` above `off` is an alarm of
  too much, `on` below `off` one of too little.
- What is on at the start is told, for somebody may be waiting for it; what is off is not.
- A sensor that can't be read three times in a row is told as lost, and again when it is back. Till then it has no
  reading: an old one would look like a fresh one.
- A change counts as told when its event is in flash. If there is no room, it stays to be told, as what is true then.

What measures is in measured.py. A read that takes its time (a DS18x20 needs 0.75 s) holds up other numbers, but
neither contacts nor the network.
"""

import asyncio

from firmware import board, pins
from firmware.log import say
from gateway.wire.event import slug

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from firmware.app import App

    Row = dict[str, Any]

LOOK = 20  # milliseconds between two looks at contacts
AGAIN = 1000  # milliseconds until a pin that is not there is tried again
LOST = 3  # reads that fail
SWITCHES = ("contact", "button")

# Kinds that Home Assistant has a class for; the others are shown as on and off.
_CLASSES = {
    "door": "door", "motion": "motion", "intrusion": "motion", "leak": "moisture", "smoke": "smoke", "fire": "smoke",
    "gas": "gas", "tamper": "tamper", "sound": "sound", "vehicle": "occupancy", "person": "occupancy",
}  # fmt: skip


class Sensors:
    """See the text at the top."""

    def __init__(self, app: "App") -> None:
        rows: list[Row] = app.settings["sensors"]
        self._app = app
        self._keep = app.keep("sensors")
        self._switches = [Switch(row) for row in rows if row["type"] in SWITCHES]
        self._numbers: list[Any] = []
        measuring = [row for row in rows if row["type"] not in SWITCHES]
        if measuring:
            from firmware.measured import Number

            self._numbers = [Number(row) for row in measuring]
        self._full = False

    def readings(self) -> "dict[str, Any]":
        """Key -> number, "on", "off", or None for what is lost or not read yet."""
        found: dict[str, Any] = {}
        for one in self._switches:
            if not one.button:
                found[one.key] = None if one.lost else one.state
        for one in self._numbers:
            found.update(one.values)
            if one.limits:
                found[one.key + "_alarm"] = None if one.lost else one.state
        return found

    def describe(self) -> "list[tuple[str, str, str, str | None, str | None]]":
        """Key in the readings, name, Home Assistant's platform, device class, unit."""
        contacts = [one for one in self._switches if not one.button]
        rows: list[tuple[str, str, str, str | None, str | None]] = [
            (one.key, one.name, "binary_sensor", _CLASSES.get(one.kind), None) for one in contacts
        ]
        for one in self._numbers:
            for quantity, kind, unit, _ in one.quantities:
                name = one.name if len(one.quantities) == 1 else f"{one.name} {quantity}"
                rows.append((one.value_key(quantity), name, "sensor", kind, one.row.get("unit") or unit))
            if one.limits:
                rows.append((one.key + "_alarm", one.name + " alarm", "binary_sensor", "problem", None))
        return rows

    async def run(self) -> None:
        """Look and measure until cancelled."""
        watching = asyncio.create_task(self._watch())
        try:
            await self._measure()
        finally:
            watching.cancel()

    async def _watch(self) -> None:
        while self._switches:
            for one in self._switches:
                self._look(one)
            await asyncio.sleep_ms(LOOK)

    async def _measure(self) -> None:
        while True:
            now = board.uptime()
            for one in self._numbers:
                if now >= one.due:
                    one.due = board.uptime() + int(one.row["every"] * 1000)
                    try:
                        values = await one.read()
                    except Exception as error:  # noqa: BLE001  # a driver raises what it likes
                        self._failed(one, error)
                        continue
                    self._back(one)
                    if one.take(values):
                        self._changed()
                    self._tell(one)
            wait = min([one.due for one in self._numbers] or [now + 3600000]) - board.uptime()
            await asyncio.sleep_ms(max(wait, LOOK))

    def _look(self, one: "Switch") -> None:
        if board.uptime() < one.due:
            return
        try:
            one.look()
        except Exception as error:  # noqa: BLE001  # as above: no such pin, no pins at all
            one.due = board.uptime() + AGAIN
            self._failed(one, error)
            return
        self._back(one)
        self._tell(one)

    def _tell(self, one: "Sensor") -> None:
        """The event that is due, if there is one."""
        draft = one.draft()
        if draft and self._kept(one, draft):
            one.told()
            self._changed()
        elif one.state is None and one.is_on is False:
            one.told()  # at the start, silently
            self._changed()

    def _failed(self, one: "Sensor", error: Exception) -> None:
        one.failures += 1
        if one.failures < one.patience or one.lost:
            return
        why = str(error) or type(error).__name__
        draft = {
            "kind": "hardware",
            "state": "on",
            "severity": "warning",
            "title": f"{one.name}: can't be read",
            "text": why,
            "data": {"sensor": one.key},
        }
        if self._kept(one, draft):
            say(f"sensors: {one.name} can't be read: {why}")
            one.lost = True
            one.forget()
            self._changed()

    def _back(self, one: "Sensor") -> None:
        one.failures = 0
        if one.lost:
            title = f"{one.name}: can be read again"
            draft = {"kind": "hardware", "state": "off", "title": title, "data": {"sensor": one.key}}
            if self._kept(one, draft):
                say("sensors: " + title)
                one.lost = False

    def _kept(self, one: "Sensor", draft: "dict[str, Any]") -> bool:
        try:
            self._keep(draft)
        except Exception as error:  # noqa: BLE001  # spool.Full, or the flash
            if not self._full:
                say(f"sensors: what {one.name} has to say waits: {error}")
            self._full = True
            return False
        self._full = False
        return True

    def _changed(self) -> None:
        mqtt = self._app.parts.get("mqtt")
        if mqtt:
            mqtt.changed()


make = Sensors  # what app.py starts


class Sensor:
    """What all have. `state`: the one that was told, "on", "off" or None; `is_on`: the one that is."""

    patience = LOST

    def __init__(self, row: "Row") -> None:
        self.row = row
        self.name: str = row["name"]
        self.key = slug(self.name)
        self.kind: str = row["kind"]
        self.state: str | None = None
        self.is_on: bool | None = None
        self.due = 0
        self.failures = 0
        self.lost = False

    def forget(self) -> None:
        """There is no reading any more."""
        self.is_on = None

    def told(self) -> None:
        self.state = "on" if self.is_on else "off"

    def draft(self) -> "dict[str, Any] | None":
        """The event that is due: the state is another one than what was told last."""
        if self.is_on is None or (self.state == "on") == self.is_on:
            return None
        on = self.is_on
        return {
            "kind": self.kind,
            "state": "on" if on else "off",
            "severity": self.row["severity"] if on else "info",
            "title": self.words(on),
            "data": self.data(),
        }

    def words(self, on: bool) -> str:
        return f"{self.row['title'] or self.name}: {'on' if on else 'off'}"

    def data(self) -> "dict[str, Any]":
        return {"sensor": self.key}


class Switch(Sensor):
    """A contact, or a button, which has no state: pressing it is the event."""

    patience = 1  # nothing about a pin gets better by itself

    def __init__(self, row: "Row") -> None:
        super().__init__(row)
        self.button = row["type"] == "button"
        self._active = row["active"] or ("low" if self.button else "high")
        self._pin: Any = None
        self._seen: bool | None = None
        self._since = 0

    def look(self) -> None:
        """Read the pin."""
        if self._pin is None:
            self._pin = pins.digital(self.row["pin"], self.row["pull"])
        level = bool(self._pin.value()) == (self._active == "high")
        now = board.uptime()
        if level is not self._seen:
            self._seen, self._since = level, now
        elif level is not self.is_on and now - self._since >= self.row["debounce"]:
            self.is_on = level

    def draft(self) -> "dict[str, Any] | None":
        due = super().draft()
        if due and self.button:
            if due["state"] == "off":
                self.state = "off"  # let go
                return None
            due["state"] = None
        return due

    def words(self, on: bool) -> str:
        title = self.row["title"] or self.name
        if self.button:
            return title if self.row["title"] else title + ": pressed"
        if self.kind == "door":
            return f"{title}: {'open' if on else 'closed'}"
        return super().words(on)
