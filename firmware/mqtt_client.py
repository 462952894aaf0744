"""One connection to an MQTT broker, in asyncio, for a board.

Why our own: micropython-lib's umqtt waits for each acknowledgement with the whole program, and holds what it reads
unbounded; mqtt_as imports `machine` and `network` (nothing of it runs off a board) and takes the network over.
Here a connection is a few tasks that end with it.

MQTT 5, for Home Assistant drops 3 in 2027, and because only 5 lets us tell the broker how much we can hold (Maximum
Packet Size): nobody's message can use up the memory. 3.1.1 for brokers that refuse 5; it differs by a number and by the
properties that are missing, so it costs a few lines.

The law of this file:

- A connection is never used again once it has ended. `publish` returns at the PUBACK, or raises; there is no queue
  that outlives the connection: that is the spool's business.
- At most a window of publishes is under way. Payloads are written in pieces, and may be made while they are written.
- What is silent for the keep-alive time is lost: a pulled cable looks like that.
"""

import asyncio
import gc
import time

from firmware.borrowed import Borrowed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from typing import Any

    Payload = bytes | Callable[[], Iterator[str]]
    """Bytes, or what makes the same pieces of text each time it is called."""

PATIENCE = 10  # seconds for TCP and TLS, and once more for the broker's answer
WINDOW = 4  # publishes under way
LARGEST = 4096  # octets of a packet that we take; what is longer is skipped
PIECE = 256  # octets written at a time

# Packet types (MQTT 5 §2.1.2)
_PUBLISH, _PUBACK, _SUBSCRIBE, _SUBACK, _PING, _PONG, _DISCONNECT = 3, 4, 8, 9, 12, 13, 14

OTHER_VERSION, TOO_LARGE = 0x84, 0x95  # reason codes (MQTT 5 §2.4)


class Lost(Exception):
    """There is no connection, or none any more; what was published may or may not have arrived. Its text says why."""


class Refused(Exception):
    """The broker said no to one thing. `code` is its reason code (MQTT 5 §2.4)."""

    def __init__(self, what: str, code: int, words: str) -> None:
        super().__init__(f"{what}: {words}")
        self.code = code


class Out:
    """A packet that is to be written. `settled` is set when it is acknowledged, or never will be (`error`)."""

    def __init__(self, kind: int, head: bytes, payload: "Payload" = b"", number: int = 0, what: str = "") -> None:
        self.kind = kind
        self.head = head
        self.payload = payload
        self.number = number
        self.what = what
        self.settled = asyncio.Event()
        self.error: Exception | None = None

    def settle(self, error: "Exception | None" = None) -> None:
        self.error = error
        self.payload = b""  # a dict of MicroPython keeps what was taken out of it until the place is used again
        self.settled.set()

    async def done(self) -> None:
        """Wait for it. Raises Lost or Refused."""
        await self.settled.wait()
        if self.error:
            raise self.error


class Connection:
    """`received(topic, payload, retained)` is called for what comes; `will` is published, retained, when we vanish."""

    def __init__(
        self, client_id: str, will: "tuple[str, bytes]", keepalive: int, received: "Callable[[str, bytes, bool], None]"
    ) -> None:
        self.version = 5
        self.client_id = client_id
        self.will = will
        self.keepalive = keepalive
        self._received = received
        self.stream: Any = None
        self._controls: list[Out] = []
        self._queue: list[Out] = []
        self._under_way: dict[int, Out] = {}
        self._more = asyncio.Event()
        self._number = 0
        self.window = WINDOW
        self.largest = 1 << 28
        self.may_retain = True
        self._heard: Any = 0
        self._spoke: Any = 0
        self._tasks: list[Any] = []
        self._over = asyncio.Event()
        self._error: Exception | None = None

    # --- what the owner asks -----------------------------------------------------------------------------------

    async def open(self, host: str, port: int, user: str = "", password: str = "", tls: "Any" = None) -> None:
        """Connect. `tls`: an SSLContext, or None for none. Raises Lost, or Refused with the broker's reason."""
        where = f"{host}:{port}"
        for version in (5, 4):
            self.version = version
            try:
                await self._connect(where, host, port, user, password, tls)
                return
            except Refused as error:
                self.close()
                if version == 4 or error.code != OTHER_VERSION:
                    raise
            except EOFError:  # old brokers hang up on what they don't know
                self.close()
                if version == 4:
                    raise Lost(f"{where} hangs up")
            except (OSError, ValueError) as error:  # ValueError: as mbedTLS tells of a certificate
                self.close()
                raise _lost(error, where)

    async def run(self, work: "Coroutine[Any, Any, None]") -> None:
        """Keep the connection until it is lost, or `work` fails, or what that `add`s; raises why."""
        self._heard = self._spoke = time.ticks_ms()
        for one in (self._read(), self._write(), self._look_after(), work):
            self.add(one)
        try:
            await self._over.wait()
        finally:
            for task in self._tasks:
                task.cancel()
            self._end(Lost("closed"))
            self.close()
        assert self._error
        raise self._error

    def add(self, work: "Coroutine[Any, Any, None]") -> None:
        """One more task that ends with the connection."""
        self._tasks.append(asyncio.create_task(self._watched(work)))

    def put(self, topic: str, payload: "Payload", retain: bool = False) -> Out:
        """Publish at QoS 1, in the order of the calls; `done()` of what is returned waits for the acknowledgement."""
        if self._error:
            raise Lost(str(self._error))
        self._number = self._number % 0xFFFF + 1
        while self._number in self._under_way:
            self._number = self._number % 0xFFFF + 1
        head = text(topic) + self._number.to_bytes(2, "big") + self.nothing()
        first = _PUBLISH << 4 | 2 | (1 if retain and self.may_retain else 0)
        out = Out(first, head, payload, self._number, topic)
        if len(head) + _length(payload) + 5 > self.largest:
            out.settle(_refused(topic, TOO_LARGE))
        else:
            self._queue.append(out)
            self._more.set()
        return out

    async def publish(self, topic: str, payload: "Payload", retain: bool = False) -> None:
        """Publish at QoS 1; returns when the broker has acknowledged. Raises Lost or Refused."""
        out = self.put(topic, payload, retain)
        del payload
        await out.done()

    async def subscribe(self, filters: "list[str]") -> None:
        """Subscribe at QoS 1; returns when the broker has acknowledged. Raises Lost or Refused. For the beginning."""
        self._number = self._number % 0xFFFF + 1
        head = self._number.to_bytes(2, "big") + self.nothing()
        for one in filters:
            head += text(one) + b"\x01"
        out = Out(_SUBSCRIBE << 4 | 2, head, b"", self._number, "subscribing to " + ", ".join(filters))
        self._under_way[out.number] = out
        self._control(out)
        await out.done()

    def close(self) -> None:
        """Give the socket back; a second time does nothing."""
        if self.stream:
            try:
                self.stream.s.close()
            except OSError:
                pass  # it is gone, which is what was wanted
            self.stream = None

    # --- beginning and end -------------------------------------------------------------------------------------

    async def _connect(self, where: str, host: str, port: int, user: str, password: str, tls: "Any") -> None:
        try:
            opening = asyncio.open_connection(host, port, ssl=tls, server_hostname=host if tls else None)
            self.stream, _ = await asyncio.wait_for(opening, PATIENCE)
            with Borrowed("mqtt_greeting") as greeting:
                await asyncio.wait_for(greeting.greet(self, where, user, password), PATIENCE)
        except asyncio.TimeoutError:
            self.close()
            gc.collect()  # a socket that was given up while connecting is closed by its finaliser
            raise Lost(f"{where} does not answer")

    async def _watched(self, work: "Coroutine[Any, Any, None]") -> None:
        try:
            await work
            return  # one that has nothing more to do
        except EOFError:
            error: Exception = Lost("the broker hung up")
        except OSError as reason:
            error = _lost(reason, "the connection")
        except Exception as reason:  # noqa: BLE001  # told by whoever awaits `run`
            error = reason
        self._end(error)

    def _end(self, error: Exception) -> None:
        if not self._error:
            self._error = error
        for out in self._queue + self._controls + list(self._under_way.values()):
            out.settle(Lost(str(self._error)))
        self._queue, self._controls, self._under_way = [], [], {}
        self._over.set()

    async def _look_after(self) -> None:
        """Ask for a sign of life in good time, and give up after `keepalive` seconds without one."""
        wait = max(1, self.keepalive) * 1000
        asked = False
        while True:
            await asyncio.sleep_ms(wait // 4)
            now = time.ticks_ms()
            silent = time.ticks_diff(now, self._heard)
            if silent >= wait and asked:
                raise Lost(f"no sign of the broker for {wait // 1000} s")
            asked = silent >= wait // 2
            if asked or time.ticks_diff(now, self._spoke) >= wait // 2:
                self._control(Out(_PING << 4, b""))

    # --- out ---------------------------------------------------------------------------------------------------

    def _control(self, out: Out) -> None:
        self._controls.append(out)
        self._more.set()

    async def _write(self) -> None:
        while True:
            if self._controls:
                await self.write(self._controls.pop(0))
            elif self._queue and len(self._under_way) < self.window:
                out = self._queue.pop(0)
                self._under_way[out.number] = out
                await self.write(out)
                del out  # it may hold much, and this function lasts
            else:
                self._more.clear()
                await self._more.wait()

    async def write(self, out: "Out") -> None:
        """Write a packet now."""
        stream = self.stream
        buffer = bytearray((out.kind,))
        buffer.extend(_varint(len(out.head) + _length(out.payload)))
        buffer.extend(out.head)
        for piece in _pieces(out.payload):
            buffer.extend(piece)
            if len(buffer) >= PIECE:
                stream.write(buffer)
                await stream.drain()
                buffer = bytearray()
        out.payload = b""  # nothing is written twice
        if buffer:
            stream.write(buffer)
        await stream.drain()
        self._spoke = time.ticks_ms()

    def nothing(self) -> bytes:
        """No properties."""
        return b"\x00" if self.version == 5 else b""

    # --- in ----------------------------------------------------------------------------------------------------

    async def header(self) -> "tuple[int, int]":
        """First octet and size of the next packet."""
        first = (await self.stream.readexactly(1))[0]
        size = shift = 0
        while True:
            digit = (await self.stream.readexactly(1))[0]
            size |= (digit & 127) << shift
            shift += 7
            if digit < 128:
                return first, size
            if shift > 21:
                raise Lost("what the broker sends is no MQTT")

    async def _read(self) -> None:
        while True:
            first, size = await self.header()
            self._heard = time.ticks_ms()
            kind = first >> 4
            if kind == _PUBLISH:
                await self._take(first, size)
                continue
            if size > LARGEST:
                raise Lost("what the broker sends is no MQTT")
            body = await self.stream.readexactly(size)
            if kind in (_PUBACK, _SUBACK) and size >= 2:
                self._settle(kind, body)
            elif kind == _DISCONNECT:
                with Borrowed("mqtt_greeting") as greeting:
                    raise Lost("the broker ends the connection: " + greeting.told(body))
            elif kind != _PONG:
                raise Lost("what the broker sends is no MQTT")

    def _settle(self, kind: int, body: bytes) -> None:
        out = self._under_way.pop(body[0] << 8 | body[1], None)
        if out is None:
            return
        code = 0
        if kind == _SUBACK:
            code = max(body[_after_properties(body, 2) if self.version == 5 else 2 :] or b"\x80")
        elif len(body) > 2:
            code = body[2]
        out.settle(_refused(out.what, code) if code >= 0x80 else None)
        self._more.set()

    async def _take(self, first: int, size: int) -> None:
        """A message for us: the handler is called before the broker has the acknowledgement."""
        read = self.stream.readexactly
        length = int.from_bytes(await read(2), "big")
        left = size - 2 - length
        number = b""
        if size > LARGEST or left < 0:  # MQTT 3.1.1: a broker that does not know what we can hold
            await self._skip(length)
            topic = ""
        else:
            topic = (await read(length)).decode()
        if first & 6:
            number = await read(2)
            left -= 2
        if topic:
            payload = await read(left)
            if self.version == 5:
                payload = payload[_after_properties(payload, 0) :]
            self._received(topic, payload, bool(first & 1))
        else:
            await self._skip(left)
        if number:
            self._control(Out(_PUBACK << 4, number))

    async def _skip(self, size: int) -> None:
        while size > 0:
            size -= len(await self.stream.readexactly(min(size, 256)))


# --- bytes -----------------------------------------------------------------------------------------------------------


def text(given: str) -> bytes:
    """A text as packets carry it."""
    data = given.encode()
    return len(data).to_bytes(2, "big") + data


def _varint(number: int) -> bytes:
    out = b""
    while True:
        number, digit = number >> 7, number & 127
        out += bytes((digit | 128 if number else digit,))
        if not number:
            return out


def read_varint(body: bytes, at: int) -> "tuple[int, int]":
    """A number of any length (MQTT 5 §1.5.5), and where it ends."""
    number = shift = 0
    while True:
        digit = body[at]
        at += 1
        number |= (digit & 127) << shift
        if digit < 128:
            return number, at
        shift += 7


def _after_properties(body: bytes, at: int) -> int:
    size, at = read_varint(body, at)
    return at + size


def _length(payload: "Payload") -> int:
    if callable(payload):
        return sum(len(piece.encode()) for piece in payload())
    return len(payload)


def _pieces(payload: "Payload") -> "Iterator[bytes | memoryview]":
    if callable(payload):
        for piece in payload():
            yield piece.encode()
        return
    view = memoryview(payload)
    for at in range(0, len(payload), PIECE):
        yield view[at : at + PIECE]


# --- words -----------------------------------------------------------------------------------------------------------


def _refused(what: str, code: int) -> Refused:
    with Borrowed("mqtt_greeting") as greeting:
        return Refused(what, code, greeting.reason(code))


def _lost(error: Exception, where: str) -> Lost:
    with Borrowed("mqtt_greeting") as greeting:
        return Lost(greeting.words(error, where))
