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

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from typing import Any

    Payload = bytes | Callable[[], Iterator[str]]
    """Bytes, or what makes the same pieces of text each time it is called."""

PATIENCE = 10  # seconds for TCP and TLS, and once more for the broker's answer
WINDOW = 4  # publishes under way
LARGEST = 4096  # octets of a packet that we take; what is longer is skipped
PIECE = 512  # octets written at a time

# Packet types (MQTT 5 §2.1.2)
_CONNECT, _CONNACK, _PUBLISH, _PUBACK, _SUBSCRIBE, _SUBACK, _PING, _PONG, _DISCONNECT = 1, 2, 3, 4, 8, 9, 12, 13, 14

OTHER_VERSION, PASSWORD, NOT_ALLOWED, TOO_LARGE = 0x84, 0x86, 0x87, 0x95
_REASONS = {
    OTHER_VERSION: "it does not speak this version of MQTT",
    0x85: "it does not take our client identifier",
    PASSWORD: "user or password is wrong",
    NOT_ALLOWED: "we are not allowed to",
    0x88: "it is not available now",
    0x89: "it is busy",
    0x8A: "we are banned",
    0x8B: "it is shutting down",
    0x8D: "it heard nothing from us for too long",
    0x8E: "another client came with our name: are two boards called the same?",
    TOO_LARGE: "the packet is too large",
    0x97: "a quota is used up",
}
_OLD_CODES = (0, OTHER_VERSION, 0x85, 0x88, PASSWORD, NOT_ALLOWED)  # MQTT 3.1.1 §3.2.2.3 in the numbers of MQTT 5
# Lengths of properties by their identifier (MQTT 5 §2.2.2.2); 0: a text with its length, -1: a number of any length.
_PROPERTIES = {
    0x02: 4, 0x0B: -1, 0x11: 4, 0x13: 2, 0x18: 4, 0x21: 2, 0x22: 2, 0x23: 2, 0x27: 4,
    0x01: 1, 0x17: 1, 0x19: 1, 0x24: 1, 0x25: 1, 0x28: 1, 0x29: 1, 0x2A: 1,
    0x03: 0, 0x08: 0, 0x09: 0, 0x12: 0, 0x15: 0, 0x16: 0, 0x1A: 0, 0x1C: 0, 0x1F: 0,
}  # fmt: skip
_KEEP_ALIVE, _RECEIVE_MAXIMUM, _RETAIN_AVAILABLE, _LARGEST_PACKET, _REASON, _PAIR = 0x13, 0x21, 0x25, 0x27, 0x1F, 0x26


class Lost(Exception):
    """There is no connection, or none any more; what was published may or may not have arrived. Its text says why."""


class Refused(Exception):
    """The broker said no to one thing. `code` is its reason code (MQTT 5 §2.4)."""

    def __init__(self, what: str, code: int, words: str = "") -> None:
        super().__init__(f"{what}: {words or _REASONS.get(code, f'reason 0x{code:02x}')}")
        self.code = code


class _Out:
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
        self._client_id = client_id
        self._will = will
        self._keepalive = keepalive
        self._received = received
        self._stream: Any = None
        self._controls: list[_Out] = []
        self._queue: list[_Out] = []
        self._under_way: dict[int, _Out] = {}
        self._more = asyncio.Event()
        self._number = 0
        self._window = WINDOW
        self._largest = 1 << 28
        self._may_retain = True
        self._heard = self._spoke = 0
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
            except ValueError as error:  # as mbedTLS tells of a certificate
                self.close()
                raise Lost(_not_trusted(where, str(error)))
            except OSError as error:
                self.close()
                raise Lost(_words(error, where))

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

    def put(self, topic: str, payload: "Payload", retain: bool = False) -> _Out:
        """Publish at QoS 1, in the order of the calls; `done()` of what is returned waits for the acknowledgement."""
        if self._error:
            raise Lost(str(self._error))
        self._number = self._number % 0xFFFF + 1
        while self._number in self._under_way:
            self._number = self._number % 0xFFFF + 1
        head = _text(topic) + self._number.to_bytes(2, "big") + self._nothing()
        first = _PUBLISH << 4 | 2 | (1 if retain and self._may_retain else 0)
        out = _Out(first, head, payload, self._number, topic)
        if len(head) + _length(payload) + 5 > self._largest:
            out.settle(Refused(topic, TOO_LARGE))
        else:
            self._queue.append(out)
            self._more.set()
        return out

    async def publish(self, topic: str, payload: "Payload", retain: bool = False) -> None:
        """Publish at QoS 1; returns when the broker has acknowledged. Raises Lost or Refused."""
        await self.put(topic, payload, retain).done()

    async def subscribe(self, filters: "list[str]") -> None:
        """Subscribe at QoS 1; returns when the broker has acknowledged. Raises Lost or Refused. For the beginning."""
        self._number = self._number % 0xFFFF + 1
        head = self._number.to_bytes(2, "big") + self._nothing()
        for one in filters:
            head += _text(one) + b"\x01"
        out = _Out(_SUBSCRIBE << 4 | 2, head, b"", self._number, "subscribing to " + ", ".join(filters))
        self._under_way[out.number] = out
        self._control(out)
        await out.done()

    async def goodbye(self) -> None:
        """Say that we leave on purpose: the broker forgets the last will."""
        self._stream.write(b"\xe0\x00")
        await self._stream.drain()

    def close(self) -> None:
        """Give the socket back; a second time does nothing."""
        if self._stream:
            try:
                self._stream.s.close()
            except OSError:
                pass  # it is gone, which is what was wanted
            self._stream = None

    # --- beginning and end -------------------------------------------------------------------------------------

    async def _connect(self, where: str, host: str, port: int, user: str, password: str, tls: "Any") -> None:
        try:
            opening = asyncio.open_connection(host, port, tls, host if tls else None)
            self._stream, _ = await asyncio.wait_for(opening, PATIENCE)
            await asyncio.wait_for(self._greet(where, user, password), PATIENCE)
        except asyncio.TimeoutError:
            self.close()
            gc.collect()  # a socket that was given up while connecting is closed by its finaliser
            raise Lost(f"{where} does not answer")

    async def _greet(self, where: str, user: str, password: str) -> None:
        topic, payload = self._will
        flags = 0x02 | 0x04 | 0x08 | 0x20  # clean start; a will, of QoS 1, retained
        flags |= (0x80 if user else 0) | (0x40 if password else 0)
        head = _text("MQTT") + bytes((self.version, flags)) + self._keepalive.to_bytes(2, "big")
        if self.version == 5:
            head += bytes((8, _RECEIVE_MAXIMUM)) + WINDOW.to_bytes(2, "big")
            head += bytes((_LARGEST_PACKET,)) + LARGEST.to_bytes(4, "big")
        head += _text(self._client_id) + self._nothing() + _text(topic) + len(payload).to_bytes(2, "big") + payload
        head += (_text(user) if user else b"") + (_text(password) if password else b"")
        await self._put(_Out(_CONNECT << 4, head))
        first, size = await self._header()
        if first >> 4 != _CONNACK or not 2 <= size <= LARGEST:
            raise Lost(f"{where} does not answer as an MQTT broker")
        body = await self._stream.readexactly(size)
        code = body[1]
        if self.version == 4 and code < 6:
            code = _OLD_CODES[code]
        elif self.version == 5 and code == 1 and size == 2:
            code = OTHER_VERSION  # said in the old way
        facts = _properties(body, 2) if size > 2 else {}
        if code:
            raise Refused(f"{where} refuses us", code, facts.get(_REASON, ""))
        self._keepalive = facts.get(_KEEP_ALIVE, self._keepalive)
        self._window = min(WINDOW, facts.get(_RECEIVE_MAXIMUM, WINDOW))
        self._largest = facts.get(_LARGEST_PACKET, self._largest)
        self._may_retain = bool(facts.get(_RETAIN_AVAILABLE, 1))

    async def _watched(self, work: "Coroutine[Any, Any, None]") -> None:
        try:
            await work
            return  # one that has nothing more to do
        except EOFError:
            error: Exception = Lost("the broker hung up")
        except OSError as reason:
            error = Lost(_words(reason, "the connection"))
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
        wait = max(1, self._keepalive) * 1000
        asked = False
        while True:
            await asyncio.sleep_ms(wait // 4)
            now = time.ticks_ms()
            silent = time.ticks_diff(now, self._heard)
            if silent >= wait and asked:
                raise Lost(f"no sign of the broker for {wait // 1000} s")
            asked = silent >= wait // 2
            if asked or time.ticks_diff(now, self._spoke) >= wait // 2:
                self._control(_Out(_PING << 4, b""))

    # --- out ---------------------------------------------------------------------------------------------------

    def _control(self, out: _Out) -> None:
        self._controls.append(out)
        self._more.set()

    async def _write(self) -> None:
        while True:
            if self._controls:
                await self._put(self._controls.pop(0))
            elif self._queue and len(self._under_way) < self._window:
                out = self._queue.pop(0)
                self._under_way[out.number] = out
                await self._put(out)
            else:
                self._more.clear()
                await self._more.wait()

    async def _put(self, out: _Out) -> None:
        stream = self._stream
        buffer = bytearray((out.kind,))
        buffer.extend(_varint(len(out.head) + _length(out.payload)))
        buffer.extend(out.head)
        for piece in _pieces(out.payload):
            buffer.extend(piece)
            if len(buffer) >= PIECE:
                stream.write(buffer)
                await stream.drain()
                buffer = bytearray()
        if buffer:
            stream.write(buffer)
        await stream.drain()
        self._spoke = time.ticks_ms()

    def _nothing(self) -> bytes:
        """No properties."""
        return b"\x00" if self.version == 5 else b""

    # --- in ----------------------------------------------------------------------------------------------------

    async def _header(self) -> "tuple[int, int]":
        first = (await self._stream.readexactly(1))[0]
        size = shift = 0
        while True:
            digit = (await self._stream.readexactly(1))[0]
            size |= (digit & 127) << shift
            shift += 7
            if digit < 128:
                return first, size
            if shift > 21:
                raise Lost("what the broker sends is no MQTT")

    async def _read(self) -> None:
        while True:
            first, size = await self._header()
            self._heard = time.ticks_ms()
            kind = first >> 4
            if kind == _PUBLISH:
                await self._take(first, size)
                continue
            if size > LARGEST:
                raise Lost("what the broker sends is no MQTT")
            body = await self._stream.readexactly(size)
            if kind in (_PUBACK, _SUBACK) and size >= 2:
                self._settle(kind, body)
            elif kind == _DISCONNECT:
                raise Lost("the broker ends the connection: " + _told(body))
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
        out.settle(Refused(out.what, code, "" if code != 0x80 else "refused") if code >= 0x80 else None)
        self._more.set()

    async def _take(self, first: int, size: int) -> None:
        """A message for us: the handler is called before the broker has the acknowledgement."""
        read = self._stream.readexactly
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
            self._control(_Out(_PUBACK << 4, number))

    async def _skip(self, size: int) -> None:
        while size > 0:
            size -= len(await self._stream.readexactly(min(size, 256)))


# --- bytes -----------------------------------------------------------------------------------------------------------


def _text(text: str) -> bytes:
    data = text.encode()
    return len(data).to_bytes(2, "big") + data


def _varint(number: int) -> bytes:
    out = b""
    while True:
        number, digit = number >> 7, number & 127
        out += bytes((digit | 128 if number else digit,))
        if not number:
            return out


def _read_varint(body: bytes, at: int) -> "tuple[int, int]":
    number = shift = 0
    while True:
        digit = body[at]
        at += 1
        number |= (digit & 127) << shift
        if digit < 128:
            return number, at
        shift += 7


def _after_properties(body: bytes, at: int) -> int:
    size, at = _read_varint(body, at)
    return at + size


def _properties(body: bytes, at: int) -> "dict[int, Any]":
    """Identifier -> number or text. Raises Lost for what is none."""
    found: dict[int, Any] = {}
    try:
        size, at = _read_varint(body, at)
        end = at + size
        while at < end:
            key = body[at]
            at += 1
            for _ in range(2 if key == _PAIR else 1):
                length = 0 if key == _PAIR else _PROPERTIES[key]
                if length < 0:
                    found[key], at = _read_varint(body, at)
                elif length:
                    found[key] = int.from_bytes(body[at : at + length], "big")
                    at += length
                else:
                    length = body[at] << 8 | body[at + 1]
                    found[key] = body[at + 2 : at + 2 + length].decode()
                    at += 2 + length
    except (IndexError, KeyError, UnicodeError):
        raise Lost("what the broker sends is no MQTT")
    return found


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


def _told(body: bytes) -> str:
    """Why, of a DISCONNECT."""
    code = body[0] if body else 0
    said = _properties(body, 1).get(_REASON) if len(body) > 1 else None
    return said or _REASONS.get(code, f"reason 0x{code:02x}")


_NO_NETWORK = "can't be reached: there is no network"
_ERRORS = {
    12: "needs more memory than is left",
    101: _NO_NETWORK,
    104: "hung up",
    110: "does not answer",
    111: "refuses the connection: does a broker run there?",
    113: "can't be reached from here: is it the right network?",
    116: "does not answer",
    118: _NO_NETWORK,
}


def _not_trusted(where: str, text: str) -> str:
    text = text.replace("\n", " ").strip()
    if "future" in text or "expired" in text:
        return f"{where} is not trusted ({text}): is this board's clock set? See ntp"
    return f"{where} is not trusted ({text}): is mqtt.ca who signed its certificate, for this host?"


def _words(error: OSError, where: str) -> str:
    """What an OSError means; its numbers are those of lwIP, Linux and mbedTLS."""
    number = error.args[0] if error.args else 0
    text = str(error.args[1]) if len(error.args) > 1 else ""
    if "X509" in text or "CERT" in text:
        return _not_trusted(where, text)
    if "MBEDTLS" in text or "SSL" in text:
        return f"{where} and we find no common TLS ({text})"
    if number in (-2, -202, -3, -5):
        return f"the host of {where} is not known here"
    return f"{where} {_ERRORS[number]}" if number in _ERRORS else f"{where}: {error}"
