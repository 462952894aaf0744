"""The target `mqtt`: events from the spool to the broker, and what the broker holds about the board.

The law of this file:

- An event leaves the spool at its PUBACK, and in the order of the spool. While the broker is away it waits.
- An event that the broker will never take (its packet is too large there) would stop all others, so it is given up,
  and counted and told. Any other refusal is the broker's trouble: it is tried again.
- The board's last will says `offline`; what it says of itself and of the devices it hears (state, discovery) is
  retained, and sent again at each connection, and when Home Assistant says that it has started.

Memory: a few events under way, at most `AT_ONCE` octets of them if they are small; and the names of `DEVICES`.
"""

import asyncio
import gc
import json

from firmware import board, discovery
from firmware.health import health
from firmware.log import say
from firmware.mqtt_client import TOO_LARGE, Connection, Lost, Refused
from firmware.url import broker
from gateway.wire.topics import Topics

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from firmware.app import App
    from firmware.mqtt_client import Payload

    Handler = Callable[[str, bytes, bool], None]

FIRST, LAST = 1, 60  # seconds until the next try to connect
SETTLED = 60  # seconds of connection after which the next try is soon again
AT_ONCE = 4096  # octets of events under way, if one alone isn't more
IN_FLIGHT = 4  # events under way
DEVICES = 24  # that were heard lately
REFRESH = 60  # seconds between two states of the board
PAUSE_MS = 200  # between two states of devices

_LAST = ("id", "time", "kind", "state", "severity", "title")


def make(app: "App") -> "Mqtt":
    """What app.py starts."""
    return Mqtt(app)


class Mqtt:
    """`trouble` says in words why there is no connection; None when there is one. `refused` counts events given up."""

    name = "mqtt"

    def __init__(self, app: "App") -> None:
        own = app.settings["mqtt"]
        self.trouble: str | None = "not connected yet"
        self.refused = 0
        self._app = app
        self._own = own
        self._topics = Topics(own["base"], own["discovery"] or "homeassistant")
        self._handlers: list[tuple[str, Handler]] = []
        self._connection: Connection | None = None
        self._heard: list[_Heard] = []
        self._news = asyncio.Event()  # something about a device, or the board, is to be told
        self._all = asyncio.Event()  # all of it is
        self._state_due = True
        self._states: dict[str, str] = {}  # of the board's own events
        self._last: dict[str, Any] | None = None
        self.on(self._topics.status, self._home_assistant)

    # --- for other parts ---------------------------------------------------------------------------------------

    def topic(self, rest: str) -> str:
        """`<base>/<this board>/<rest>`."""
        return self._topics.base + "/" + self._app.id + "/" + rest

    def on(self, pattern: str, handler: "Handler") -> None:
        """Have `handler(topic, payload, retained)` called for a topic; `+` and `#` as in MQTT. Before `run`."""
        self._handlers.append((pattern, handler))

    async def publish(self, topic: str, payload: "Payload", retain: bool = False) -> None:
        """Publish at QoS 1; returns when the broker has it. Raises Lost, Refused."""
        if self._connection is None:
            raise Lost(self.trouble or "not connected")
        await self._connection.publish(topic, payload, retain)

    def changed(self) -> None:
        """A reading of the board's is another one: its state is sent soon."""
        self._state_due = True
        self._news.set()

    # --- the connection ----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Connect, again and again; does not return."""
        pause = FIRST
        while True:
            began = board.uptime()
            try:
                await self._session()
            except (Lost, Refused) as error:
                if str(error) != self.trouble:
                    say(f"mqtt: {error}")
                self.trouble = str(error)
            self._connection = None
            gc.collect()
            if board.uptime() - began > SETTLED * 1000:
                pause = FIRST
            # A part by chance, so that many boards don't come back together
            await asyncio.sleep_ms(pause * 800 + pause * 400 * board.random(1)[0] // 255)
            pause = min(2 * pause, LAST)

    async def _session(self) -> None:
        scheme, host, port, user, password = broker(self._own)
        here = discovery.availability(self._topics, self._app.id)
        client = discovery.own(self._topics, self._app.id)
        connection = Connection(client, (here, b"offline"), self._own["keepalive"], self._received)
        await connection.open(host, port, user, password, self._tls if scheme == "mqtts" else None)
        await connection.run(self._work(connection, here, f"{host}:{port}"))

    async def _work(self, connection: Connection, here: str, where: str) -> None:
        await connection.subscribe([pattern for pattern, _ in self._handlers])
        await connection.publish(here, b"online", retain=True)
        self._connection = connection
        self.trouble = None
        say(f"mqtt: connected to {where}, MQTT {'5' if connection.version == 5 else '3.1.1'}")
        self._all.set()
        self._news.set()
        connection.add(self._tell(connection))
        connection.add(self._tick())
        connection.add(self._drain(connection))

    def _tls(self) -> "Any":
        from firmware import trust

        return trust.context(self._own["ca"], self._own["verify"])

    # --- events ------------------------------------------------------------------------------------------------

    async def _drain(self, connection: Connection) -> None:
        spool = self._app.spool
        held: list[tuple[int, int, Any]] = []  # what is not acknowledged: number, octets, its packet
        size = 0
        while True:
            spool.news.clear()
            found = None
            if len(held) < IN_FLIGHT and size < AT_ONCE:
                found = spool.peek("mqtt", held[-1][0] if held else 0)
            if found and (not held or size + len(found[1]) <= AT_ONCE):
                number, event = found
                held.append((number, len(event), await self._put(connection, event)))
                size += len(event)
            elif held:
                number, length, out = held.pop(0)
                size -= length
                try:
                    await out.done()
                except Refused as error:
                    if error.code != TOO_LARGE:
                        raise
                    self.refused += 1
                    say(f"mqtt: an event is given up, for the broker will never take it: {error}")
                spool.done("mqtt", number)
            else:
                await spool.news.wait()

    async def _put(self, connection: Connection, event: bytes) -> "Any":
        """Publish an event, after what has to be there before it."""
        facts = json.loads(event)
        device = facts["device"] or {"id": self._app.id}
        identifier = device["id"]
        last = {key: facts[key] for key in _LAST}
        facts = None
        gc.collect()
        if identifier == self._app.id:
            self._last = last
            self._note(self._states, last)
            self._state_due = True
        else:
            one = self._device(identifier, device)
            one.last = last
            self._note(one.states, last)
            if not one.told:
                one.told = True
                if self._own["discovery"]:
                    await connection.publish(
                        self._topics.config(identifier),
                        discovery.heard(self._topics, self._app.id, identifier, device),
                        retain=True,
                    )
        self._news.set()
        return connection.put(self._topics.event(identifier), event)

    def _device(self, identifier: str, facts: "dict[str, Any]") -> "_Heard":
        for one in self._heard:
            if one.id == identifier:
                break
        else:
            one = _Heard(identifier)
            if len(self._heard) >= DEVICES:
                self._heard.pop(0)
        if one.facts != facts:
            one.facts, one.told = facts, False
        self._heard = [other for other in self._heard if other is not one]
        self._heard.append(one)
        return one

    @staticmethod
    def _note(states: "dict[str, str]", last: "dict[str, Any]") -> None:
        if last["state"]:
            states[last["kind"]] = last["state"]

    # --- what the broker holds about us ------------------------------------------------------------------------

    async def _tell(self, connection: Connection) -> None:
        """Discovery and states, when there is something new to say."""
        while True:
            await self._news.wait()
            self._news.clear()
            if self._all.is_set():
                self._all.clear()
                self._state_due = True
                await self._announce(connection)
            if self._state_due:
                self._state_due = False
                await connection.publish(self.topic("state"), self._state(), retain=True)
            for one in [one for one in self._heard if one.last]:
                state: dict[str, Any] = {"last": one.last}
                one.last = None
                state.update(one.states)
                await connection.publish(self._topics.state(one.id), _json(state), retain=True)
            await asyncio.sleep_ms(PAUSE_MS)

    async def _announce(self, connection: Connection) -> None:
        if not self._own["discovery"]:
            return
        sensors = self._app.parts.get("sensors")
        document = discovery.board(
            self._topics,
            self._app.id,
            self._app.name,
            board.NAME,
            self._app.settings["wifi"] is not None,
            sensors.describe() if sensors else [],
        )
        await connection.publish(self._topics.config(self._app.id), document, retain=True)
        for one in list(self._heard):
            one.told = True
            document = discovery.heard(self._topics, self._app.id, one.id, one.facts)
            await connection.publish(self._topics.config(one.id), document, retain=True)

    def _state(self) -> bytes:
        state: dict[str, Any] = {"last": self._last}
        state.update(self._states)
        state.update(health(self._app))
        sensors = self._app.parts.get("sensors")
        if sensors:
            state.update(sensors.readings())
        return _json(state)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(REFRESH)
            self.changed()

    # --- what comes --------------------------------------------------------------------------------------------

    def _received(self, topic: str, payload: bytes, retained: bool) -> None:
        for pattern, handler in self._handlers:
            if matches(pattern, topic):
                try:
                    handler(topic, payload, retained)
                except Exception as error:  # noqa: BLE001  # what one part makes of a message must not end the connection
                    say(f"mqtt: {topic}: {type(error).__name__}: {error}")

    def _home_assistant(self, topic: str, payload: bytes, retained: bool) -> None:
        if payload == b"online" and not retained:
            self._all.set()
            self._news.set()


class _Heard:
    """A device that was heard since the start. `last` waits to be told; `told`: Home Assistant knows it."""

    def __init__(self, identifier: str) -> None:
        self.id = identifier
        self.facts: dict[str, Any] = {}
        self.states: dict[str, str] = {}
        self.last: dict[str, Any] | None = None
        self.told = False


def matches(pattern: str, topic: str) -> bool:
    """Whether a topic is one that a subscription asks for (MQTT 5 §4.7)."""
    levels = topic.split("/")
    for at, level in enumerate(pattern.split("/")):
        if level == "#":
            return True
        if at >= len(levels) or level not in ("+", levels[at]):
            return False
    return at + 1 == len(levels)


def _json(value: "Any") -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
