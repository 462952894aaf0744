"""The beginning of an MQTT connection, and what to say of its end: borrowed when it is needed (`mqtt_client`).

CONNECT asks for a clean start; the will is of QoS 1 and retained. With MQTT 5 we say how much we can hold: the window
(Receive Maximum) and the largest packet.
"""

from firmware.borrowed import Borrowed
from firmware.mqtt_client import LARGEST, OTHER_VERSION, TOO_LARGE, WINDOW, Lost, Out, Refused, read_varint, text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from firmware.mqtt_client import Connection

_CONNECT, _CONNACK = 1, 2
_KEEP_ALIVE, _RECEIVE_MAXIMUM, _RETAIN_AVAILABLE, _LARGEST_PACKET, _REASON, _PAIR = 0x13, 0x21, 0x25, 0x27, 0x1F, 0x26

_REASONS = {
    0x80: "it does not say why",
    OTHER_VERSION: "it does not speak this version of MQTT",
    0x85: "it does not take our client identifier",
    0x86: "user or password is wrong",
    0x87: "we are not allowed to",
    0x88: "it is not available now",
    0x89: "it is busy",
    0x8A: "we are banned",
    0x8B: "it is shutting down",
    0x8D: "it heard nothing from us for too long",
    0x8E: "another client came with our name: are two boards called the same?",
    TOO_LARGE: "the packet is too large",
    0x97: "a quota is used up",
}
_OLD_CODES = (0, OTHER_VERSION, 0x85, 0x88, 0x86, 0x87)  # MQTT 3.1.1 §3.2.2.3 in the numbers of MQTT 5
# Lengths of properties by their identifier (MQTT 5 §2.2.2.2); 0: a text with its length, -1: a number of any length.
_PROPERTIES = {
    0x02: 4, 0x0B: -1, 0x11: 4, 0x13: 2, 0x18: 4, 0x21: 2, 0x22: 2, 0x23: 2, 0x27: 4,
    0x01: 1, 0x17: 1, 0x19: 1, 0x24: 1, 0x25: 1, 0x28: 1, 0x29: 1, 0x2A: 1,
    0x03: 0, 0x08: 0, 0x09: 0, 0x12: 0, 0x15: 0, 0x16: 0, 0x1A: 0, 0x1C: 0, 0x1F: 0,
}  # fmt: skip


async def greet(own: "Connection", where: str, user: str, password: str) -> None:
    """CONNECT, and what the broker answers. Raises Lost, Refused, EOFError."""
    topic, payload = own.will
    flags = 0x02 | 0x04 | 0x08 | 0x20  # clean start; a will, of QoS 1, retained
    flags |= (0x80 if user else 0) | (0x40 if password else 0)
    head = text("MQTT") + bytes((own.version, flags)) + own.keepalive.to_bytes(2, "big")
    if own.version == 5:
        head += bytes((8, _RECEIVE_MAXIMUM)) + WINDOW.to_bytes(2, "big")
        head += bytes((_LARGEST_PACKET,)) + LARGEST.to_bytes(4, "big")
    head += text(own.client_id) + own.nothing() + text(topic) + len(payload).to_bytes(2, "big") + payload
    head += (text(user) if user else b"") + (text(password) if password else b"")
    await own.write(Out(_CONNECT << 4, head))
    first, size = await own.header()
    if first >> 4 != _CONNACK or not 2 <= size <= LARGEST:
        raise Lost(f"{where} does not answer as an MQTT broker")
    body = await own.stream.readexactly(size)
    code = body[1]
    if own.version == 4 and code < 6:
        code = _OLD_CODES[code]
    elif own.version == 5 and code == 1 and size == 2:
        code = OTHER_VERSION  # said in the old way
    facts = _properties(body, 2) if size > 2 else {}
    if code:
        # Not authorized: Mosquitto means the login
        said = "user or password is wrong" if code == 0x87 else reason(code)
        raise Refused(f"{where} refuses us", code, facts.get(_REASON) or said)
    own.keepalive = facts.get(_KEEP_ALIVE, own.keepalive)
    own.window = max(1, min(WINDOW, facts.get(_RECEIVE_MAXIMUM, WINDOW)))
    own.largest = facts.get(_LARGEST_PACKET, own.largest)
    own.may_retain = bool(facts.get(_RETAIN_AVAILABLE, 1))


def _properties(body: bytes, at: int) -> "dict[int, Any]":
    """Identifier -> number or text. Raises Lost for what is none."""
    found: dict[int, Any] = {}
    try:
        size, at = read_varint(body, at)
        end = at + size
        while at < end:
            key = body[at]
            at += 1
            for _ in range(2 if key == _PAIR else 1):
                length = 0 if key == _PAIR else _PROPERTIES[key]
                if length < 0:
                    found[key], at = read_varint(body, at)
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


def told(body: bytes) -> str:
    """Why, of a DISCONNECT."""
    code = body[0] if body else 0
    said = _properties(body, 1).get(_REASON) if len(body) > 1 else None
    return said or reason(code)


def reason(code: int) -> str:
    """What a reason code means (MQTT 5 §2.4)."""
    return _REASONS.get(code, f"reason 0x{code:02x}")


def words(error: Exception, where: str) -> str:
    """Why the broker can't be reached."""
    with Borrowed("reach") as reach:
        return str(reach.words(error, where, "a broker", "mqtt.ca"))
