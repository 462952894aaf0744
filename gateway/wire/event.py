"""The event: the one value that flows from `interpret` on, and the words it is made of.

An event is a plain dict that `json.dumps` can write; `gateway.api.Event` types it for CPython. This file is the
only place that names kinds, states and severities. MicroPython-safe.
"""

VERSION = 1

# One text, for on a board a tuple of them takes three times the memory, and leaves out KINDS, which it does not use.
_KINDS = (
    " motion line_crossing intrusion person vehicle animal face sound doorbell"
    " tamper video_loss alarm door login smoke gas leak fire"
    " disk raid storage backup update job print scan"
    " power battery temperature humidity fan hardware network security"
    " report test other "
)
STATES = ("on", "off")
SEVERITIES = ("info", "warning", "critical")


def known_kind(kind: str) -> str:
    """The kind itself when it is on the list, else `other`."""
    return kind if " " not in kind and f" {kind} " in _KINDS else "other"


def kinds() -> "list[str]":
    """All that there are."""
    return _KINDS.split()


KINDS = tuple(kinds())


def severity_rank(severity: str) -> int:
    """0 for info, 1 for warning, 2 for critical; an unknown word counts as warning."""
    return SEVERITIES.index(severity) if severity in SEVERITIES else 1


_ID_LETTERS = b"abcdefghijklmnopqrstuvwxyz0123456789"


def slug(text: str, limit: int = 64) -> str:
    """`[a-z0-9_]{0,64}` out of any text: the only characters that a device id, and so an MQTT topic level, has."""
    out = bytearray()
    for octet in text.lower().encode("utf-8", "replace"):  # not letters: MicroPython keeps each
        if octet in _ID_LETTERS:
            out.append(octet)
        elif out and out[-1] != 95:  # "_"
            out.append(95)
        if len(out) >= limit:
            break
    return bytes(out).strip(b"_").decode()
