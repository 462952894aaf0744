"""Target and source: events, pictures and states to an MQTT broker, with discovery for Home Assistant; and from it
notifications for people, and events of any topic.

A delivery is done when the broker has acknowledged (QoS 1) the event and, before it, its picture. While there is no
connection every delivery is told `NotReady` and waits in the gateway's store; nothing is queued here. The connection
is made in the background and made again, with a back-off, for ever. The topics are the table in the README.

With `publish: false` this one only listens: what is on the broker is another gateway's, and its name is not used. What
a person acknowledges of that gateway's events is requested of it, when there is a connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
import secrets
import time
from typing import Annotated, Any, ClassVar, Self
from urllib.parse import unquote, urlsplit

from pydantic import (
    BeforeValidator,
    ByteSize,
    Field,
    SecretStr,
    ValidationError,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from gateway.api import (
    Broken,
    ClientTls,
    ConfigModel,
    Context,
    Device,
    Event,
    NotReady,
    Refused,
    Retry,
    Source,
    Target,
    seconds,
    to_json,
)
from gateway.integrations.mqtt import client
from gateway.integrations.mqtt.broker import LocalBroker, NoBroker
from gateway.integrations.mqtt.client import Address, Connection, Lost, Message, Refusal, Will
from gateway.integrations.mqtt.commands import Commands
from gateway.integrations.mqtt.inbox import Inbox, Listen
from gateway.integrations.mqtt.mirror import Mirror
from gateway.integrations.mqtt.pictures import Pictures
from gateway.integrations.mqtt.requests import LATE, Requests
from gateway.wire.topics import Topics

AUTO = "auto"
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0  # seconds between two tries to connect
LOGIN_WAIT = 60.0  # seconds after a refused login: a person must act, and a broker may count our tries
STEADY = 10.0  # seconds; after a connection that held for so long the back-off begins anew
GOODBYE = 2.0  # seconds for the last words at a stop

ONLINE, OFFLINE = b'{"state":"online"}', b'{"state":"offline"}'

# The broker will never take this event: Topic Name invalid, Packet too large, Payload format invalid (MQTT 5 §3.4.2.1)
_FOR_EVER = (0x90, client.PACKET_TOO_LARGE, 0x99)
_NOT_AUTHORIZED = 0x87
_BIRTH = "homeassistant/status"  # Home Assistant's default, whatever its discovery prefix is
_TOPIC = re.compile(r"[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*")
_EXAMPLE = "mqtt://user:password@host:1883"


def _seconds(value: object) -> object:
    """A time as people write it; anything else is left to be refused as no whole number."""
    try:
        return seconds(value)
    except ValueError:
        return value


_WholeSeconds = Annotated[int, BeforeValidator(_seconds), WithJsonSchema({"type": ["integer", "string"]})]
"""As `Duration`, but MQTT knows no part of a second."""


class Config(ConfigModel):
    """Where the broker is, and what is published."""

    url: str = Field(
        default=AUTO, repr=False, description=f"{_EXAMPLE}, mqtts://host:8883, or auto: the broker on this machine"
    )
    user: str | None = None
    password: SecretStr | None = None
    tls: ClientTls | None = None
    client_id: str | None = Field(
        default=None, min_length=1, max_length=128, description="Default: one made up and kept"
    )
    keepalive: _WholeSeconds = Field(
        default=30, ge=1, le=3600, description="Seconds after which a silent broker is asked for a sign"
    )
    base_topic: str = "mailwire"
    discovery: str | bool = Field(
        default="homeassistant",
        description="Home Assistant's discovery prefix; false: no discovery, true: its usual prefix",
    )
    expiry: Annotated[_WholeSeconds, Field(ge=1, lt=2**32)] | None = Field(
        default=None, description="Seconds after which a broker forgets an event (MQTT 5)"
    )
    publish: bool = Field(
        default=True, description="false: only listen, beside another gateway whose topics these are (mailwire desktop)"
    )
    listen: tuple[Listen, ...] = Field(default=(), description="Topics whose messages are events")
    image_limit: ByteSize = Field(
        default=ByteSize(4 * 1024 * 1024), ge=0, description="Bytes of the largest picture published; 0: none"
    )

    @field_validator("url")
    @classmethod
    def _known_form(cls, value: str) -> str:
        if value == AUTO:
            return value
        if "://" not in value:
            raise ValueError(f"write it with its scheme: mqtt://{value}")
        try:
            parts = urlsplit(value)
            port = parts.port
        except ValueError as error:
            raise ValueError(f"that is no URL of a broker ({error}); it looks like {_EXAMPLE}") from None
        if parts.scheme not in ("mqtt", "mqtts"):
            raise ValueError(f"{parts.scheme}:// is not spoken here; write mqtt:// or, with TLS, mqtts://")
        if not parts.hostname or port == 0:
            raise ValueError(f"there is no host or no port in it; it looks like {_EXAMPLE}")
        if parts.path not in ("", "/") or parts.query or parts.fragment:
            raise ValueError("nothing may follow the port; the topics begin with base_topic")
        if parts.password and not parts.username:
            raise ValueError("a password needs a user before it: mqtt://user:password@host")
        return value

    @field_validator("base_topic")
    @classmethod
    def _plain_topic(cls, value: str) -> str:
        if not _TOPIC.fullmatch(value):
            raise ValueError("a topic here is made of letters, digits, _ and -, with / between its levels")
        return value

    @field_validator("discovery")
    @classmethod
    def _prefix(cls, value: str | bool) -> str | bool:
        if value is True:
            return "homeassistant"
        if isinstance(value, str) and value.lower() in ("on", "off", "yes", "no", "none", "true", "false"):
            raise ValueError("write true or false (without quotes), or Home Assistant's discovery prefix")
        return value if value is False else cls._plain_topic(str(value))

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        parts = urlsplit(self.url)
        if self.tls and parts.scheme != "mqtts":
            raise ValueError("tls is for a url that begins with mqtts://")
        if parts.username and (self.user is not None or self.password is not None):
            raise ValueError("user and password are given twice: in url, and beside it")
        if self.password is not None and self.user is None:
            raise ValueError("a password needs a user")
        if not self.publish and not self.listen:
            raise ValueError("with 'publish: false' and nothing in listen, there is nothing to do")
        return self

    @classmethod
    def of(cls, url: str) -> Self:
        """Of an address that a person typed. Raises ValueError with what is wrong with it."""
        try:
            return cls(url=url)
        except ValidationError as error:
            raise ValueError(error.errors()[0]["msg"].removeprefix("Value error, ")) from None

    def address(self, host: str, port: int) -> Address:
        """With our login; for `url: auto`, where the host is found out."""
        return Address(host, port, self.user, self.password.get_secret_value() if self.password else None)

    def named_address(self) -> Address | None:
        """The address in `url`; None for `auto`."""
        if self.url == AUTO:
            return None
        parts = urlsplit(self.url)
        secure = parts.scheme == "mqtts"
        own = self.address("", 0)
        return Address(
            parts.hostname or "",
            parts.port or (8883 if secure else 1883),
            unquote(parts.username) if parts.username else own.user,
            unquote(parts.password) if parts.password else own.password,
            (self.tls or ClientTls()).context if secure else None,
        )


class Mqtt(Source, Target):
    """See the text at the top."""

    concurrency: ClassVar[int] = client.WINDOW
    event_bus: ClassVar[bool] = True
    config: Config

    def __init__(self, context: Context, config: Config) -> None:
        super().__init__(context, config)
        prefix = config.discovery if config.publish and config.discovery else ""
        self._topics = Topics(config.base_topic, str(prefix))
        self._births = {self._topics.status, _BIRTH} if prefix else set()
        self._pictures = Pictures(context.gateway, self._topics, context.log, config.image_limit)
        self._mirror = Mirror(context, self._topics, bool(prefix), self._pictures.media_type)
        self._requests = Requests(context.gateway, self._topics, context.log)
        self._inbox = Inbox(context, self._topics, config.listen, notify=config.publish)
        # (base topic, event) of which that gateway is still to be told, in order; kept in a file
        self._acknowledged: dict[tuple[str, str], None] = {}
        self._to_acknowledge = asyncio.Event()
        self._commands = Commands(context, self._topics)
        self._broker = LocalBroker(context.data_dir / "broker", context.log)
        self._devices: dict[str, Device] = {}
        # device -> set when its newest event that had to wait for something is on its way
        self._preparing: dict[str, asyncio.Event] = {}
        self._client_id = ""
        self._connection: Connection | None = None
        self._runner: asyncio.Task[None] | None = None
        self._reported: str | None = None  # the kind of trouble that was reported last
        self._trouble = "not connected yet"

    @classmethod
    def takes_all(cls, config: Config) -> bool:
        return config.publish

    async def start(self) -> None:
        if self.config.tls:
            for path in self.config.tls.files():
                if not path.is_file():
                    raise Broken(f"tls: there is no file {path}")
        self._client_id = self.config.client_id or self._kept_client_id()
        self._devices = {device.id: device for device in self.context.gateway.devices()}
        self._mirror.load()
        with contextlib.suppress(OSError, ValueError):  # none, or one that a power cut has emptied
            kept = (self.context.data_dir / "acknowledged.json").read_text("utf-8")
            self._acknowledged = dict.fromkeys(map(tuple, json.loads(kept)))
            self._to_acknowledge.set()
        self._inbox.start()
        self._commands.start()
        self._runner = asyncio.create_task(self._run(), name=f"mqtt {self.context.name}")

    async def stop(self) -> None:
        await self._inbox.stop()
        await self._commands.stop()
        if self._runner:
            self._runner.cancel()
            await asyncio.gather(self._runner, return_exceptions=True)
        await self._requests.stop()
        await self._broker.stop()

    def describe(self) -> str:
        own = " (mosquitto, started by Mailwire)" if self._broker.ours else ""
        if self._connection:
            return f"connected to the MQTT broker on {self._connection.address}{own}, topics {self._topics.base}/#"
        where = self.config.named_address() or "this machine"
        return f"connecting to the MQTT broker on {where}{own}, topics {self._topics.base}/#"

    def try_it(self, mailwire: str) -> tuple[str, str] | None:
        """A line for brokers that ask for no login; a password is no thing to print."""
        if self._connection is None:
            return None
        at = self._connection.address
        if at.user or at.tls:
            return None
        topic = self._topics.event("+")
        return "Watch events arrive", f"mosquitto_sub -h {at.host} -p {at.port} -t '{topic}' -v"

    # --- events ------------------------------------------------------------------------------------------------

    async def deliver(self, event: Event) -> None:
        if not self.config.publish:
            raise Refused("publish: false says that nothing is published here")
        connection = self._connection
        if connection is None:
            raise NotReady(self._trouble)
        try:
            await (await self._begin(connection, event))
        except Lost as error:
            raise NotReady(f"the connection to the broker was lost: {error}") from error
        except Refusal as error:
            if error.code in _FOR_EVER:
                raise Refused(str(error)) from error
            raise Retry(str(error), LOGIN_WAIT if error.code == _NOT_AUTHORIZED else None) from error

    def begin(self, event: Event) -> asyncio.Future[None] | None:
        """At once, where nothing has to be published or waited for before it."""
        connection = self._connection if self.config.publish else None
        device = self._devices.get(event["device"]["id"])
        if connection is None or device is None or event["attachments"] or device.id in self._preparing:
            return None
        if not self._mirror.introduced(device):
            return None
        return connection.publish(self._topics.event(device.id), to_json(event), expiry=self.config.expiry)

    async def _begin(self, connection: Connection, event: Event) -> asyncio.Future[None]:
        """Publish the event after what has to be there before it, and after the events of this device before it."""
        device_id = event["device"]["id"]
        device = self._devices.get(device_id)
        payload = to_json(event)
        before = self._preparing.get(device_id)
        if before or event["attachments"] or (device and not self._mirror.introduced(device)):
            prepared = self._preparing[device_id] = asyncio.Event()
            try:
                if before:
                    await before.wait()
                if device and not self._mirror.introduced(device):
                    await self._mirror.introduce(connection, device)
                if event["attachments"] and await self._pictures.publish(connection, event, device) and device:
                    self._mirror.device_changed(device)
                return connection.publish(self._topics.event(device_id), payload, expiry=self.config.expiry)
            finally:
                prepared.set()
                if self._preparing[device_id] is prepared:
                    del self._preparing[device_id]
        return connection.publish(self._topics.event(device_id), payload, expiry=self.config.expiry)

    async def acknowledged(self, event: Event) -> None:
        bases = [one.base for one in self.config.listen if one.events]
        if bases:
            self._acknowledged |= {(base, event["id"]): None for base in bases}
            self._keep_acknowledged()
            self._to_acknowledge.set()

    def _keep_acknowledged(self) -> None:
        """What that gateway has not heard of yet is not forgotten when this one ends first."""
        self._keep("acknowledged.json", list(self._acknowledged))

    def _keep(self, name: str, value: Any) -> None:
        """In a file. Where the disk takes none, it is known until we end."""
        path = self.context.data_dir / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            new = path.with_suffix(".new")
            new.write_text(json.dumps(value), "utf-8")
            new.replace(path)
        except OSError as error:
            self.context.log.warning("%s can't be written: %s", path, error.strerror)

    def device_changed(self, device: Device) -> None:
        self._devices[device.id] = device
        self._mirror.device_changed(device)

    def device_forgotten(self, device_id: str) -> None:
        self._devices.pop(device_id, None)
        self._pictures.forget(device_id)
        self._mirror.device_forgotten(device_id)

    # --- the connection ----------------------------------------------------------------------------------------

    async def _run(self) -> None:
        """Connect, serve, wait, again."""
        wait = FIRST_WAIT
        while True:
            began = time.monotonic()
            try:
                reason = await self._connect_and_serve()
                self._report("away", f"the connection to the MQTT broker was lost: {reason}; events wait in the store")
            except (Lost, NoBroker) as error:
                self._report("away", f"{error}; events wait in the store")
            except Refusal as error:
                self._report("refused", self._refused(error))
                wait = LOGIN_WAIT if error.credentials else LONGEST_WAIT
            except Exception as error:  # a fault of ours must not leave the gateway without MQTT for good
                self.context.log.exception("the MQTT connection failed")
                self._report("fault", f"the MQTT connection failed ({type(error).__name__}: {error})")
            if time.monotonic() - began > STEADY:
                wait = FIRST_WAIT
            await asyncio.sleep(wait * random.uniform(0.5, 1.0))  # noqa: S311  # jitter, not a secret
            wait = min(2 * wait, LONGEST_WAIT)

    async def _connect_and_serve(self) -> str:
        """One connection, from its beginning to its end, whose reason is returned."""
        address = self.config.named_address()
        if address is None:
            address = self.config.address(*await self._broker.locate())
        will = Will(self._topics.bridge_state, OFFLINE) if self.config.publish else None
        connection = await client.connect(address, self._client_id, will, self.config.keepalive, self._received)
        passing = asyncio.create_task(self._pass_on(connection), name=f"acknowledgements {self.context.name}")
        try:
            if self.config.publish:
                try:
                    await connection.publish(self._topics.bridge_state, ONLINE, retain=True)
                except Refusal as error:  # of this one topic, not of us
                    self.context.log.warning("%s; what else we may publish goes out", error)
                self._mirror.begin()
            self._connection = connection
            await self._subscribe(connection)
            self._report(None, f"connected to {address} with MQTT {'5' if connection.mqtt5 else '3.1.1'}")
            self.context.ready()
            await (self._serve(connection) if self.config.publish else asyncio.wait({connection.ended}))
        except asyncio.CancelledError:
            await self._say_goodbye(connection)
            raise
        finally:
            self._connection = None
            passing.cancel()
            await asyncio.gather(passing, return_exceptions=True)
            await connection.close()
        return connection.ended.result()

    async def _serve(self, connection: Connection) -> None:
        """Keep the mirror true until the connection ends. A fault in that costs no event."""
        while not connection.ended.done():
            mirror = asyncio.create_task(self._mirror.run(connection))
            ends: set[asyncio.Future[Any]] = {mirror, connection.ended}
            try:
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            finally:
                mirror.cancel()
                [fault] = await asyncio.gather(mirror, return_exceptions=True)
            if isinstance(fault, Exception):
                self.context.log.error("what is retained at the broker could not be kept up to date", exc_info=fault)
                await asyncio.wait({connection.ended}, timeout=LONGEST_WAIT)
                self._mirror.begin()

    async def _pass_on(self, connection: Connection) -> None:
        """Tell other gateways of what was acknowledged here, now or while there was no connection."""
        while not connection.ended.done():
            await self._to_acknowledge.wait()
            self._to_acknowledge.clear()
            for base, event_id in list(self._acknowledged):
                try:
                    await connection.publish(Topics(base).request("ack"), json.dumps({"id": event_id}).encode())
                except Refusal as error:
                    self.context.log.warning("the gateway of %s can't be told of an acknowledgement: %s", base, error)
                except Lost:
                    self._to_acknowledge.set()
                    return
                self._acknowledged.pop((base, event_id), None)
                self._keep_acknowledged()

    async def _subscribe(self, connection: Connection) -> None:
        # A request that comes late is none that anybody waits for; what is to be told is told late, too, and so is what
        # a person has acknowledged somewhere else.
        at_once = [self._topics.request_filter, *sorted(self._births)] if self.config.publish else []
        late = [self._asked_on(LATE)] if self.config.publish else []
        commanded = [self._topics.command_filter] if self._births else []
        wanted = dict.fromkeys([*at_once, *late, *commanded], False) | self._inbox.filters
        before = self._subscribed()
        if before != wanted:
            self._keep("subscribed.json", wanted | before)  # till the broker has answered, either may be true
        for topic, retained in before.items():
            if wanted.get(topic) is not retained:  # what was retained comes to a new subscription alone
                await connection.unsubscribe(topic)
        asked = [connection.subscribe(topic, qos=0 if topic in at_once else 1) for topic in wanted]
        for error in filter(None, await asyncio.gather(*asked, return_exceptions=True)):
            if not isinstance(error, Refusal):
                raise error
            self.context.log.warning("%s; everything else works", error)
        if before != wanted:
            self._keep("subscribed.json", wanted)

    def _asked_on(self, verb: str) -> str:
        """The filter by which requests of this kind come."""
        return self._topics.request(verb) if verb == LATE else self._topics.request_filter

    def _subscribed(self) -> dict[str, bool]:
        """The topics of earlier connections, with which a broker goes on; and was what is retained there taken?"""
        try:
            return dict(json.loads((self.context.data_dir / "subscribed.json").read_text("utf-8")))
        except (OSError, ValueError, TypeError):
            return {}

    async def _say_goodbye(self, connection: Connection) -> None:
        if not self.config.publish:
            return
        try:
            async with asyncio.timeout(GOODBYE):
                await connection.publish(self._topics.bridge_state, OFFLINE, retain=True)
        except (Lost, Refusal, TimeoutError):
            return

    def _received(self, message: Message) -> None:
        verb = self._topics.request_verb(message.topic) if self.config.publish else None
        if verb is not None and message.is_for(self._asked_on(verb)):
            if self._connection or verb == LATE:
                self._requests.received(self._connection, verb, message.payload, message.retained)
            message.acknowledge()
            return
        if verb is not None and message.is_for(self._topics.request_filter):
            return  # what has a filter of its own, once more, at QoS 0
        if self._births and message.is_for(self._topics.command_filter) and self._commands.received(message):
            return
        if message.topic in self._births and message.payload == b"online" and not message.retained:
            self._mirror.home_assistant_started()
        self._inbox.received(message)

    def _report(self, trouble: str | None, text: str) -> None:
        """Say once that the broker is away, or why it refuses us, and once that all is well again."""
        self._trouble = text
        if trouble is None:
            self.context.log.info("%s", text)
            self.context.problem(None)
        elif trouble != self._reported:
            self.context.problem(text)
        self._reported = trouble

    def _refused(self, error: Refusal) -> str:
        named = self.config.named_address()
        where = named or f"localhost:{self._broker.port}"
        if not error.credentials:
            return f"the MQTT broker on {where} refuses us: {error}; events wait in the store"
        known = (named or self.config.address("", 0)).user is not None
        hint = "check user and password" if known else "it wants a user and a password"
        return f"the MQTT broker on {where} refuses our login ({error}): {hint}; events wait in the store"

    def _kept_client_id(self) -> str:
        """Always the same one, so that a broker that has not noticed our end yet ends the old connection for the new.

        Otherwise its last will ("offline") could come after our "online".
        """
        path = self.context.data_dir / "client_id"
        kept = path.read_text("ascii").strip() if path.exists() else ""
        if not kept:
            kept = f"mailwire-{secrets.token_hex(4)}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{kept}\n", "ascii")
        return kept
