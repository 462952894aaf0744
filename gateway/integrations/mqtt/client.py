"""One connection to a broker, and the only door to paho-mqtt.

A `Connection` is never used again once it has ended, and neither is paho's client object in it: each is made new, so
that paho has nothing to replay. What the broker had not acknowledged fails with `Lost`, and the gateway's own queue,
which survives us, repeats it. That is the whole of QoS 1 here; there is no second queue. The other way the broker keeps
our session: what was sent to us at QoS 1 while we were away comes when we are back, until we have acknowledged it.

paho is driven from the asyncio loop (a thread of its own costs twice the CPU). Only connecting, which blocks in paho,
happens in a thread. MQTT 5 first; MQTT 3.1.1 when the broker refuses 5 or hangs up on it.

Its socket is a `_Tap`: all that is written in a turn of the loop leaves in one piece, and what comes is read in one.
PUBLISH and PUBACK, which there are thousands of, are written and read here; everything else is paho's. That saves
five system calls and two thirds of the time for each event (`script/bench.d/README.md`).
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar, cast
from zlib import crc32

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

CONNECT_TIMEOUT = 5.0  # seconds, for TCP and TLS, and once more for the broker's answer
WINDOW = 100  # publishes under way, unless the broker's Receive Maximum (MQTT 5 §3.2.2.3.3) is lower
GREATEST_REQUEST = 16 * 1024 * 1024  # bytes; our Maximum Packet Size: a notification with its attachments
SESSION = 7 * 86400  # seconds that a broker keeps what comes for us while we are away (MQTT 5)
RECEIVE_MAXIMUM = 20  # messages that we have not acknowledged yet

_PIECE = 256 * 1024  # bytes read at a time
_PUBLISH_QOS_1, _PUBACK = 0x32, 0x40  # first bytes of packets (MQTT 5 §2.1.2)
_FAILURE = 0x80  # reason codes from here on (§2.4)
_LONGEST_TOPIC = 0x3FFF  # characters: in UTF-8 they fit the two bytes of a length
_SHARED = "$share/"  # begins a filter for which No Local may not be asked (MQTT 5 §3.8.3.1)
_FIRST_IDENTIFIER = 0x1000  # of our packets; paho numbers its few own ones from 1

NOT_A_VERSION_WE_SPEAK = 0x84
PACKET_TOO_LARGE = 0x95
TOPIC_INVALID = 0x90
# Bad User Name or Password, Not authorized, Banned, Bad authentication method (MQTT 5 §3.2.2.2)
_CREDENTIALS = (0x86, 0x87, 0x8A, 0x8C)

_T = TypeVar("_T")


class Lost(Exception):
    """There is no connection (any more); what was to be published may or may not have arrived."""


class Refusal(Exception):
    """The broker said no to one thing: a publish, a subscription, our login. The text is its reason."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code

    @property
    def credentials(self) -> bool:
        return self.code in _CREDENTIALS


@dataclass(frozen=True, slots=True)
class Address:
    """Where a broker is and how it wants to be spoken to. `tls` makes the context, anew for each connection."""

    host: str
    port: int
    user: str | None = None
    password: str | None = None
    tls: Callable[[], ssl.SSLContext] | None = None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Will:
    """The last will: what the broker publishes, retained, when we go without a goodbye."""

    topic: str
    payload: bytes


@dataclass(slots=True)
class Message:
    """What came in. At QoS 1 it comes again, at the latest with the next connection, until `acknowledge` was called.

    `acknowledge` returns whether there was still a connection to say it on. `identifier` is the packet's, 0 at QoS 0;
    `again`: the broker may have sent it before. `subscriptions` are those that it was sent for, if the broker says so:
    it may send a message once for each that matches. `taken` is the receiver's.
    """

    topic: str
    payload: bytes
    retained: bool
    acknowledge: Callable[[], bool]
    identifier: int = 0
    again: bool = False
    subscriptions: tuple[int, ...] = ()
    taken: bool = False

    def is_for(self, topic_filter: str) -> bool:
        """Was it sent for the subscription to this filter (which it matches)?"""
        return not self.subscriptions or subscription_of(topic_filter) in self.subscriptions


def subscription_of(topic_filter: str) -> int:
    """The identifier of a subscription (MQTT 5 §3.8.2.1.2): the same in each run, for the broker keeps messages."""
    return crc32(topic_filter.encode()) % 0x0FFFFFFE + 1


Received = Callable[[Message], None]


async def connect(
    address: Address,
    client_id: str,
    will: Will | None,
    keepalive: int,
    received: Received,
    session: int = SESSION,
) -> Connection:
    """A connection that the broker has accepted. `received(message)` is called for what comes in.

    `session`: seconds that the broker keeps what comes for this client id when we are away; 0: nothing.

    Raises Lost (in words: nobody there, no answer, not trusted) or Refusal.
    """
    for version in (MQTTProtocolVersion.MQTTv5, MQTTProtocolVersion.MQTTv311):
        connection = Connection(address, client_id, will, keepalive, received, version, session)
        try:
            await connection.open()
        except Refusal as error:
            if error.code != NOT_A_VERSION_WE_SPEAK:
                raise
            refusal: Exception = error
        except _HungUp as error:
            refusal = error
        else:
            return connection
    raise refusal


class Connection:
    """See the text at the top. `ended` becomes the reason, in words, when the connection is over."""

    def __init__(
        self,
        address: Address,
        client_id: str,
        will: Will | None,
        keepalive: int,
        received: Received,
        version: MQTTProtocolVersion,
        session: int,
    ) -> None:
        self.address = address
        self.mqtt5 = version == MQTTProtocolVersion.MQTTv5
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._keepalive = keepalive
        self._session = session
        self._received = received
        self._loop = asyncio.get_running_loop()
        self._tap: _Tap | None = None
        self._reading = -1  # the file descriptor that the loop watches
        self._writing = False  # the loop tells when the socket takes more
        self._flushing = False
        self._rest = bytearray()  # the beginning of a packet whose end has not come
        self._awaited = 0  # bytes of that packet, as soon as its length is known
        self._timer: asyncio.TimerHandle | None = None
        self._accepted: asyncio.Future[None] = self._loop.create_future()
        self._queue: deque[tuple[asyncio.Future[None], str, bytes, bool, int | None]] = deque()
        self._under_way: dict[int, tuple[asyncio.Future[None], str]] = {}  # by packet identifier
        self._identifier = _FIRST_IDENTIFIER
        self._subscriptions: dict[int, asyncio.Future[list[ReasonCode]]] = {}
        self._window = WINDOW
        self._may_retain = True
        self._may_number = True  # our subscriptions
        self._largest = 2**28  # bytes that the broker takes as one packet
        self._paho = _Paho(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            clean_session=None if self.mqtt5 else not session,
            protocol=version,
            reconnect_on_failure=False,
            manual_ack=True,
        )
        self._paho.connect_timeout = CONNECT_TIMEOUT
        if will:
            self._paho.will_set(will.topic, will.payload, qos=1, retain=True)
        if address.user is not None:
            self._paho.username_pw_set(address.user, address.password)

    # --- what the owner asks -----------------------------------------------------------------------------------

    async def open(self) -> None:
        """Connect and wait for the broker's answer. Raises Lost or Refusal."""
        try:
            await _in_thread(self._connect)
        except (OSError, ValueError) as error:  # ValueError: a host name that can't be one
            raise Lost(_words(error, self.address)) from error
        try:
            self._attach()
            async with asyncio.timeout(CONNECT_TIMEOUT):
                await self._accepted
        except TimeoutError:
            self._end("no answer")
            raise Lost(f"{self.address} takes the connection but does not answer as an MQTT broker") from None
        except BaseException:
            self._accepted.cancel()
            self._end("given up")
            raise

    def publish(
        self, topic: str, payload: bytes, *, retain: bool = False, expiry: int | None = None
    ) -> asyncio.Future[None]:
        """Publish at QoS 1, in the order of the calls. What is returned is done when the broker has acknowledged.

        At most a window of publishes is under way, the rest waits here. `expiry` is the message expiry interval in
        seconds (MQTT 5 only). The future raises Lost or Refusal.
        """
        outcome: asyncio.Future[None] = self._loop.create_future()
        if self.ended.done():
            outcome.set_exception(Lost(self.ended.result()))
        elif len(topic) > _LONGEST_TOPIC:
            outcome.set_exception(Refusal(f"a topic of {len(topic)} characters is too long", TOPIC_INVALID))
        elif len(payload) + len(topic) + 32 > self._largest:
            outcome.set_exception(Refusal(f"{len(payload)} bytes are more than the broker takes", PACKET_TOO_LARGE))
        else:
            self._queue.append((outcome, topic, payload, retain and self._may_retain, expiry))
            self._fill_window()
        return outcome

    async def subscribe(self, topic: str, qos: int = 1) -> None:
        """Returns when the broker has acknowledged. Raises Lost or Refusal. At QoS 0 it keeps nothing for us.

        What is retained comes with the first subscription, and not with each connection that goes on with it. What we
        publish ourselves does not come, or a filter wide enough would make events of our events. (Both: MQTT 5.)
        """
        if self.mqtt5:
            options = SubscribeOptions(
                qos, noLocal=not topic.startswith(_SHARED), retainHandling=SubscribeOptions.RETAIN_SEND_IF_NEW_SUB
            )
            properties = None
            if self._may_number:
                properties = Properties(PacketTypes.SUBSCRIBE)  # type: ignore[no-untyped-call]  # paho's
                properties.SubscriptionIdentifier = subscription_of(topic)
            result, mid = self._paho.subscribe([(topic, options)], properties=properties)
        else:
            result, mid = self._paho.subscribe([(topic, qos)])
        for code in await self._answered(result, mid):
            if code.is_failure:
                raise Refusal(f"the broker refused our subscription to {topic}: {code}", code.value)

    async def unsubscribe(self, topic: str) -> None:
        """Returns when the broker has answered, whatever it says. Raises Lost."""
        await self._answered(*self._paho.unsubscribe(topic))

    async def _answered(self, result: MQTTErrorCode, mid: int | None) -> list[ReasonCode]:
        if result != MQTTErrorCode.MQTT_ERR_SUCCESS or mid is None:
            raise Lost(f"not sent: {result.name}")
        answer: asyncio.Future[list[ReasonCode]] = self._loop.create_future()
        self._subscriptions[mid] = answer
        return await answer

    async def close(self) -> None:
        """Say goodbye, so that the broker keeps the last will to itself."""
        if not self.ended.done():
            self._paho.disconnect()
            with suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await asyncio.shield(self.ended)
            self._end("closed")

    # --- paho, driven by the loop ------------------------------------------------------------------------------

    def _connect(self) -> None:
        """In a thread: look up, connect, shake hands, send CONNECT."""
        if self.address.tls:
            context = self.address.tls()
            context.sslsocket_class = _TlsSocket
            self._paho.tls_set_context(context)
        if self.mqtt5:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho's
            properties.MaximumPacketSize = GREATEST_REQUEST
            properties.SessionExpiryInterval = self._session
            properties.ReceiveMaximum = RECEIVE_MAXIMUM
            self._paho.connect(
                self.address.host, self.address.port, self._keepalive, clean_start=False, properties=properties
            )
        else:
            self._paho.connect(self.address.host, self.address.port, self._keepalive)

    def _attach(self) -> None:
        paho = self._paho
        paho.on_connect = self._on_connect
        paho.on_disconnect = self._on_disconnect
        paho.on_subscribe = self._on_subscribed
        paho.on_unsubscribe = self._on_subscribed
        paho.on_message = self._on_message
        self._tap = cast("_Tap | None", paho.socket())
        if self._tap is None:
            raise _HungUp(f"{self.address} closed the connection at once")
        # asyncio sets this for its own transports only; without it a small publish may wait 40 ms for an ACK of TCP.
        self._tap.real.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._tap.out = self._send
        self._reading = self._tap.real.fileno()
        self._loop.add_reader(self._reading, self._read)
        self._timer = self._loop.call_later(1.0, self._tick)
        paho.loop_write()

    def _read(self) -> None:
        """All that has come."""
        tap = self._tap
        assert tap
        while self._reading >= 0:
            try:
                data = tap.real.recv(_PIECE)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                break
            except OSError:
                data = b""
            try:
                if data:
                    self._take(data)
                else:
                    tap.ended = True
                    self._give(b"")
            except Exception as error:  # noqa: BLE001  # paho's parser raises whatever a malformed packet provokes
                self._end(f"what came from it is not MQTT ({type(error).__name__})")
            # What TLS has decrypted already doesn't make the socket readable again.
            if not isinstance(tap.real, ssl.SSLSocket):
                break
        if self._reading >= 0:
            self._paho.loop_write()
            self._fill_window()

    def _take(self, data: bytes) -> None:
        """Packet by packet (MQTT 5 §2.1): acknowledgements of what is under way are ours, the others paho's."""
        if self._rest:
            self._rest += data  # some megabytes come in thousands of pieces
            if len(self._rest) < self._awaited:
                return
            data = bytes(self._rest)
            self._rest.clear()
        at, size = 0, len(data)
        self._awaited = 0
        while size - at >= 2 and self._reading >= 0:
            length, body = _remaining_length(data, at + 1)
            end = body + length
            if length > GREATEST_REQUEST:
                raise ValueError("packet too large")
            if length < 0 or end > size:
                self._awaited = end - at if length >= 0 else 0
                break
            known = self._under_way.pop(int.from_bytes(data[body : body + 2]), None) if data[at] == _PUBACK else None
            if known is None:
                self._give(data[at:end])
            else:
                self._acknowledged(*known, data[body + 2] if length > 2 else 0)
            at = end
        if at < size:
            self._rest += data[at:]

    def _give(self, packet: bytes) -> None:
        """Have paho read a packet, or the end of all."""
        assert self._tap
        self._tap.incoming = packet
        self._paho.loop_read()

    def _send(self, data: bytes) -> None:
        """To the broker, with what else is sent in this turn of the loop."""
        assert self._tap
        self._tap.outgoing.append(data)
        if not (self._flushing or self._writing):
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if self._reading < 0 or not (tap := self._tap):
            return
        data = tap.outgoing[0] if len(tap.outgoing) == 1 else b"".join(tap.outgoing)
        try:
            sent = tap.real.send(data)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            sent = 0
        except OSError:
            sent = len(data)  # reading tells why, and what came before
        tap.outgoing = [data[sent:]] if sent < len(data) else []
        if bool(tap.outgoing) != self._writing:
            self._writing = not self._writing
            if self._writing:
                self._loop.add_writer(self._reading, self._flush)
            else:
                self._loop.remove_writer(self._reading)

    def _tick(self) -> None:
        """Once a second: paho pings, and gives up when keepalive passes without an answer."""
        self._timer = self._loop.call_later(1.0, self._tick)
        self._paho.loop_misc()
        self._paho.loop_write()

    def _end(self, reason: str) -> None:
        if self.ended.done():
            return
        self.ended.set_result(reason)
        if self._reading >= 0:
            self._loop.remove_reader(self._reading)
            self._loop.remove_writer(self._reading)
            self._reading = -1
        if self._timer:
            self._timer.cancel()
        if self._tap:
            self._tap.close()
        waiting: list[asyncio.Future[Any]] = [self._accepted, *self._subscriptions.values()]
        waiting += [outcome for outcome, _ in self._under_way.values()]
        waiting += [entry[0] for entry in self._queue]
        for future in waiting:
            if not future.done():
                future.set_exception(_HungUp(f"{self.address}: {reason}") if future is self._accepted else Lost(reason))

    def _fill_window(self) -> None:
        while self._queue and len(self._under_way) < self._window:
            outcome, topic, payload, retain, expiry = self._queue.popleft()
            if outcome.done():  # nobody waits for it any more
                continue
            while self._identifier in self._under_way:
                self._identifier = _after(self._identifier)
            self._under_way[self._identifier] = outcome, topic
            self._send(_publish(topic, payload, retain, self._identifier, expiry if self.mqtt5 else None, self.mqtt5))
            self._identifier = _after(self._identifier)

    def _acknowledged(self, outcome: asyncio.Future[None], topic: str, code: int) -> None:
        if outcome.done():
            return
        if code >= _FAILURE:
            reason = ReasonCode(PacketTypes.PUBACK, identifier=code)
            outcome.set_exception(Refusal(f"the broker refused {topic}: {reason}", code))
        else:
            outcome.set_result(None)

    # --- what paho tells ---------------------------------------------------------------------------------------

    def _on_connect(self, _: Client, __: Any, ___: Any, code: ReasonCode, properties: Properties | None) -> None:
        if self._accepted.done():
            return
        if code.is_failure:
            self._accepted.set_exception(Refusal(str(code), code.value))
            return
        if properties is not None:
            self._window = min(WINDOW, getattr(properties, "ReceiveMaximum", WINDOW))
            self._largest = getattr(properties, "MaximumPacketSize", self._largest)
            self._may_retain = bool(getattr(properties, "RetainAvailable", 1))
            self._may_number = bool(getattr(properties, "SubscriptionIdentifierAvailable", 1))
            if getattr(properties, "MaximumQoS", 1) < 1:
                self._accepted.set_exception(Refusal("it takes QoS 0 only, so nothing sent to it is sure", 0x9B))
                return
        self._accepted.set_result(None)

    def _on_disconnect(self, _: Client, __: Any, flags: Any, code: ReasonCode, ___: Any) -> None:
        if code.value == 0x8E:  # Session taken over
            self._end("another client has connected with our client id")
        elif flags.is_disconnect_packet_from_server:
            self._end(f"the broker ended the connection: {code}")
        elif code.value == 0x8D:  # Keep Alive timeout
            self._end(f"the broker did not answer for {self._keepalive} s")
        else:
            self._end("the connection broke off")

    def _on_subscribed(self, _: Client, __: Any, mid: int, codes: list[ReasonCode], ___: Any) -> None:
        answer = self._subscriptions.pop(mid, None)
        if answer and not answer.done():
            answer.set_result(codes)

    def _on_message(self, _: Client, __: Any, message: MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            self._acknowledge(message.mid, message.qos)
            return
        acknowledge = partial(self._acknowledge, message.mid, message.qos)
        subscriptions = tuple(getattr(message.properties, "SubscriptionIdentifier", ()))
        identifier = message.mid if message.qos else 0
        self._received(
            Message(topic, bytes(message.payload), message.retain, acknowledge, identifier, message.dup, subscriptions)
        )

    def _acknowledge(self, identifier: int, qos: int) -> bool:
        if self._reading < 0:
            return False
        if qos:
            self._paho.ack(identifier, qos)
            self._paho.loop_write()
        return True


class _Tap:
    """paho's socket. Once `out` is set, what paho writes goes there, and what it reads is what it was given."""

    def __init__(self, real: socket.socket) -> None:
        self.real = real
        self.out: Callable[[bytes], None] | None = None
        self.incoming = b""
        self.outgoing: list[bytes] = []
        self.ended = False

    def recv(self, size: int) -> bytes:
        if self.out is None:
            return self.real.recv(size)
        data, self.incoming = self.incoming[:size], self.incoming[size:]
        if not data and not self.ended:
            raise BlockingIOError
        return data

    def send(self, data: bytes | bytearray) -> int:
        if self.out is None:
            return self.real.send(data)
        self.out(bytes(data))
        return len(data)

    def setblocking(self, blocking: bool) -> None:
        self.real.setblocking(blocking)

    def pending(self) -> int:
        return 0

    def fileno(self) -> int:
        return self.real.fileno()

    def close(self) -> None:
        """With a last try to send what waits: paho closes as soon as it has written its DISCONNECT."""
        with suppress(OSError):
            self.real.send(b"".join(self.outgoing))
        self.outgoing = []
        self.real.close()


class _Paho(Client):
    """paho's client on a `_Tap`."""

    def _create_socket(self) -> Any:
        return _Tap(super()._create_socket())  # type: ignore[arg-type]  # a socket unless it is websockets


def _publish(topic: str, payload: bytes, retain: bool, identifier: int, expiry: int | None, mqtt5: bool) -> bytes:
    """A PUBLISH at QoS 1 (MQTT 5 §3.3, MQTT 3.1.1 §3.3); `expiry` becomes the Message Expiry Interval."""
    name = topic.encode()
    properties = b""
    if mqtt5:
        properties = b"\0" if expiry is None else b"\x05\x02" + expiry.to_bytes(4)
    body = b"%b%b%b%b" % (len(name).to_bytes(2), name, identifier.to_bytes(2), properties)
    length = len(body) + len(payload)
    head = bytearray((_PUBLISH_QOS_1 | retain,))
    while length > 127:
        head.append(length & 127 | 128)
        length >>= 7
    head.append(length)
    return b"".join((head, body, payload))


def _remaining_length(data: bytes, at: int) -> tuple[int, int]:
    """(the length that a packet states, where its body begins); a length of -1: not all of it is there (§2.1.4)."""
    length = 0
    for number, byte in enumerate(data[at : at + 4]):
        length |= (byte & 127) << 7 * number
        if byte < 128:
            return length, at + number + 1
    if len(data) - at >= 4:
        raise ValueError("a length of more than four bytes")
    return -1, at


def _after(identifier: int) -> int:
    return identifier + 1 if identifier < 0xFFFF else _FIRST_IDENTIFIER


class _HungUp(Lost):
    """The other side closed the connection before it answered."""


class _TlsSocket(ssl.SSLSocket):
    """Closes itself when the handshake fails; paho only forgets it then."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except BaseException:
            self.close()
            raise


async def _in_thread(call: Callable[[], _T]) -> _T:
    """`call()` in a thread that nobody has to wait for at the end: a name look-up may hang for half a minute."""
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[_T] = loop.create_future()

    def settle(result: Callable[[], None]) -> None:
        if not outcome.done():
            result()

    def run() -> None:
        try:
            value = call()
        except Exception as error:  # noqa: BLE001  # raised again where it is awaited
            failure = error
            result = lambda: outcome.set_exception(failure)  # noqa: E731
        else:
            result = lambda: outcome.set_result(value)  # noqa: E731
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, result)

    threading.Thread(target=run, name="mqtt connect", daemon=True).start()
    return await outcome


def _words(error: Exception, address: Address) -> str:
    """Why a connection could not be made, for a person."""
    if isinstance(error, ConnectionRefusedError):
        return f"nothing listens on {address}"
    if isinstance(error, socket.gaierror):
        return f"the name {address.host} is not known here"
    if isinstance(error, TimeoutError):
        return f"{address} does not answer"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate of {address} is not trusted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"no TLS with {address}: {error.reason or error}"
    return f"{address}: {getattr(error, 'strerror', None) or error}"
