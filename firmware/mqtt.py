"""The target `mqtt`: events from the spool to the broker, and what the broker holds about the board.

The law of this file:

- An event leaves the spool at its PUBACK, and in the order of the spool. While the broker is away it waits.
- An event that the broker will never take (its packet is too large there) would stop all others, so it is given up,
  and counted and told. Any other refusal is the broker's trouble: it is tried again.
- The board's last will says `offline`; what it says of itself and of the devices it hears (state, discovery) is
  retained, and sent again at each connection, and when Home Assistant says that it has started.

Memory: one event under way, or a few small ones; and the names of `DEVICES`.
"""

import asyncio
import gc
import json

from firmware import board
from firmware.borrowed import Borrowed
from firmware.health import health
from firmware.log import say
from firmware.mqtt_client import PIECE, TOO_LARGE, Connection, Lost, Refused
from gateway.wire.topics import Topics

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from firmware.app import App
    from firmware.mqtt_client import Out, Payload

    Callback = Callable[[str, bytes], None]

FIRST, LAST = 1, 60  # seconds until the next try to connect
SETTLED = 60  # seconds of connection after which the next try is soon again
AT_ONCE = 1024  # octets of events under way, before the newest
IN_FLIGHT = 4  # events under way
DEVICES = 24  # that were heard lately
REFRESH = 60  # seconds between two states of the board
PAUSE_MS = 200  # between two states of devices

_LONGEST_ANSWER = 2000  # octets

_LAST = ("id", "time", "kind", "state", "severity", "title")


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
        self._callbacks: list[tuple[str, Callback, bool]] = []
        self._connection: Connection | None = None
        self._connected = asyncio.Event()
        self._heard: list[_Heard] = []
        self._news = asyncio.Event()  # something about a device, or the board, is to be told
        self._all = asyncio.Event()  # all of it is
        self._state_due = True
        self._states: dict[str, str] = {}  # of the board's own events
        self._last: dict[str, Any] | None = None
        self._here = self.topic("availability")
        self.on_message(self._topics.status, self._home_assistant, retained=False)
        self.on_message(self.topic("request/+"), self._requested, retained=False)

    # --- for other parts ---------------------------------------------------------------------------------------

    def topic(self, rest: str) -> str:
        """`<base>/<this board>/<rest>`."""
        return self._topics.base + "/" + self._app.id + "/" + rest

    def on_message(self, topic: str, callback: "Callback", retained: bool = True) -> None:
        """Have `callback(topic, payload)` called for a topic; `+` and `#` as in MQTT.

        With `retained` false it is not told what was published before we came: a command would be carried out again
        at each connection.
        """
        self._callbacks.append((topic, callback, retained))
        if self._connection:
            self._connection.add(self._connection.subscribe([topic]))

    async def publish(self, topic: str, payload: "Payload", retain: bool = False) -> None:
        """Publish at QoS 1; returns when the broker has it, however long it is away. Raises Refused."""
        while True:
            await self._connected.wait()
            try:
                if self._connection:
                    await self._connection.publish(topic, payload, retain)
                    return
            except Lost:
                await asyncio.sleep(FIRST)  # until the session has seen it, too

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
            except Exception as error:
                self.trouble = str(error) or type(error).__name__  # told by app.py, which starts this again
                raise
            finally:
                self._connection = None
                self._connected.clear()
            gc.collect()
            if board.uptime() - began > SETTLED * 1000:
                pause = FIRST
            # A part by chance, so that many boards don't come back together
            await asyncio.sleep_ms(pause * 800 + pause * 400 * board.random(1)[0] // 255)
            pause = min(2 * pause, LAST)

    async def _session(self) -> None:
        scheme, host, port, user, password = self._server()
        client = self._topics.node + "_" + self._app.id
        connection = Connection(client, (self._here, b"offline"), self._own["keepalive"], self._received)
        await connection.open(host, port, user, password, self._context() if scheme == "mqtts" else None)
        await connection.run(self._work(connection, f"{host}:{port}"))

    def _server(self) -> "tuple[str, str, int, str, str]":
        """This and the next are functions of their own, so that none that lasts holds what was borrowed."""
        with Borrowed("url") as url:
            return url.broker(self._own)  # type: ignore[no-any-return]

    def _context(self) -> "Any":
        with Borrowed("trust") as trust:
            try:
                return trust.context(self._own["ca"], self._own["verify"])
            except ValueError as error:
                raise Lost(str(error))

    async def _work(self, connection: Connection, where: str) -> None:
        await connection.subscribe([topic for topic, _, _ in self._callbacks])
        await connection.publish(self._here, b"online", retain=True)
        self._connection = connection
        self._connected.set()
        self.trouble = None
        say(f"mqtt: connected to {where}, MQTT {'5' if connection.version == 5 else '3.1.1'}")
        self._all.set()
        self._news.set()
        connection.add(self._tell(connection))
        connection.add(self._tick())
        connection.add(self._drain(connection))

    # --- events ------------------------------------------------------------------------------------------------

    async def _drain(self, connection: Connection) -> None:
        spool = self._app.spool
        held: list[tuple[int, int, Any]] = []  # what is not acknowledged: number, octets, its packet
        size = 0
        while True:
            spool.news.clear()
            if len(held) < IN_FLIGHT and size < AT_ONCE:
                found = self._next(connection, held[-1][0] if held else 0)
                if isinstance(found, _Heard):
                    await self._introduce(connection, [found])
                    continue
                if found:
                    held.append(found)
                    size += found[1]
                    continue
            if held:
                number, length, out = held.pop(0)
                size -= length
                try:
                    await out.done()
                except Refused as error:
                    if error.code != TOO_LARGE:
                        raise
                    self.refused += 1
                    say(f"mqtt: an event is given up, for the broker will never take it: {error}")
                del out
                spool.done("mqtt", number)
            else:
                self.changed()  # nothing is owed now
                await spool.news.wait()

    def _next(self, connection: Connection, after: int) -> "tuple[int, int, Any] | _Heard | None":
        """Publish the next event, if there is one; or a device that Home Assistant must be told of before.

        A function of its own, for `_drain` lasts, and MicroPython keeps what a function has given to another.
        """
        found = self._app.spool.peek("mqtt", after)
        if not found:
            return None
        number, event = found
        identifier, new = self._learn(event)
        return new or (number, len(event), connection.put(self._topics.event(identifier), event))

    def _learn(self, event: bytes) -> "tuple[str, _Heard | None]":
        """Note what an event says: whose it is, and that device if Home Assistant does not know it yet."""
        facts = _head(event)
        device = facts["device"] or {"id": self._app.id}
        identifier = device["id"]
        last = {key: facts[key] for key in _LAST}
        new = None
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
                new = one
        self._news.set()
        return identifier, new

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
        """All that Home Assistant knows of us, again."""
        if self._own["discovery"]:
            sensors = self._app.parts.get("sensors")
            facts = self._app.own()
            wireless = self._app.settings["wifi"] is not None
            with Borrowed("discovery_board", "firmware.discovery", "gateway.wire.discovery") as discovery:
                document = discovery.board(self._topics, facts, wireless, sensors.describe() if sensors else [])
                await connection.publish(self._topics.config(self._app.id), document, retain=True)
        await self._introduce(connection, list(self._heard))

    async def _introduce(self, connection: Connection, heard: "list[_Heard]") -> None:
        """Tell Home Assistant of devices, before their events."""
        if not self._own["discovery"] or not heard:
            return
        for one in heard:
            one.told = True
            await self._document(connection, one).done()

    def _document(self, connection: Connection, one: "_Heard") -> "Out":
        """Publish what Home Assistant is told of a device. All of it, for it is smaller than the code that makes it,
        which must not stay while a broker takes its time; and in few pieces, for each takes more than its letters.
        """
        pieces, text = [], ""
        with Borrowed("discovery", "gateway.wire.discovery") as discovery:
            for piece in discovery.heard(self._topics, self._app.id, one.facts)():
                text += piece
                while len(text) > PIECE:
                    pieces.append(text[:PIECE])
                    text = text[PIECE:]
        pieces.append(text)
        return connection.put(self._topics.config(one.id), lambda: iter(pieces), retain=True)

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
        for pattern, callback, wants_retained in self._callbacks:
            if (wants_retained or not retained) and matches(pattern, topic):
                try:
                    callback(topic, payload)
                except Exception as error:  # noqa: BLE001  # what one part makes of a message must not end the connection
                    say(f"mqtt: {topic}: {type(error).__name__}: {error}")

    def _home_assistant(self, topic: str, payload: bytes) -> None:
        if payload == b"online":
            self._all.set()
            self._news.set()

    def _requested(self, topic: str, payload: bytes) -> None:
        """Answer `request/<verb>` on `response/<verb>`, with `transaction` as it came."""
        verb = topic.rsplit("/", 1)[1]
        try:
            request = json.loads(payload) if payload.strip() else {}
        except ValueError:
            request = None
        with Borrowed("console") as console:
            answer = console.answered(self._app, verb, request, _LONGEST_ANSWER, console.REMOTE)
        if isinstance(request, dict) and "transaction" in request:
            answer["transaction"] = request["transaction"]
        asyncio.create_task(self.publish(self.topic("response/" + verb), _json(answer)))  # noqa: RUF006  # nobody waits


make = Mqtt  # what app.py starts


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


def _head(event: bytes) -> "dict[str, Any]":
    """What an event says before its text, which is most of it, and stands behind all that is needed here.

    The bytes `,"text":` are not inside a string, where each quote has a backslash before it.
    """
    end = event.find(b',"text":')
    return json.loads(event[:end] + b"}" if end > 0 else event)


def _json(value: "Any") -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
