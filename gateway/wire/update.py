"""An update over the air: what the gateway offers, what a board asks for, and how each is written; no I/O.

The law of this file:

- An offer is small and signed; it names a manifest by its SHA-256. The manifest names every file by its size and its
  SHA-256. So one signature covers every byte, and a board checks as it goes, with no more of it in memory than a chunk.
- Signed means HMAC-SHA256 (RFC 2104) with a key that this board and its gateway alone have: who can only write to the
  broker can't make an offer. The text that is signed names the board, so that no other takes it, and the moment it
  was made, so that an old one can't be played again.

    <base>/<board>/update          retained, to the board: the offer
    <base>/<board>/update/request  from the board: {"offer": its moment, "file": path, "at": offset}
    <base>/<board>/update/data     to the board: the request's line, LF, at most CHUNK bytes of the file
    <base>/<board>/update/state    retained, from the board: progress and outcome

The offer: {"made": seconds of Unix time, "version", "files": how many, "size": their bytes, "manifest": {"size",
"sha256"}, "hmac"}; digests are 64 lower-case hexadecimal digits. The manifest has a line for each file: digest, size,
path, with a blank between. Its own path is MANIFEST. MicroPython-safe.
"""

import json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Offer = dict[str, Any]

CHUNK = 512
"""Bytes of a file in one message: it is in a board's memory more than once while it comes, each time in one piece."""
MANIFEST = "manifest"
FOLDERS = ("gateway/", "firmware/")
"""What a slot may hold besides its manifest."""

# States of <base>/<board>/update/state. After one of the last four nothing more is to come.
WAITING, DOWNLOADING, RESTARTING, ON_TRIAL = "waiting", "downloading", "restarting", "on_trial"
CONFIRMED, REFUSED, FAILED, WENT_BACK = "confirmed", "refused", "failed", "went_back"
OUTCOMES = (CONFIRMED, REFUSED, FAILED, WENT_BACK)

_HEX = "0123456789abcdef"
_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-/"


class Malformed(ValueError):
    """It isn't what it should be; the text says in what."""


def signed_text(board: str, offer: "Offer") -> bytes:
    """What is signed: every field of an offer, a line each, after the board's id."""
    manifest = offer["manifest"]
    fields = (
        board,
        offer["made"],
        offer["version"],
        offer["files"],
        offer["size"],
        manifest["size"],
        manifest["sha256"],
    )
    return "\n".join(["mailwire update"] + [str(field) for field in fields]).encode()


def read_offer(payload: bytes) -> "Offer":
    """Raises Malformed. Whether it is signed is not looked at."""
    try:
        offer = json.loads(payload)
    except (ValueError, RuntimeError):
        raise Malformed("the offer is not JSON")
    if not isinstance(offer, dict):
        raise Malformed("the offer is not a JSON object")
    manifest = offer.get("manifest")
    if not isinstance(manifest, dict):
        raise Malformed("the offer names no manifest")
    for name, where in (("made", offer), ("files", offer), ("size", offer), ("size", manifest)):
        value = where.get(name)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise Malformed(f"'{name}' in the offer is not a number")
    version = offer.get("version")
    if not isinstance(version, str) or not 0 < len(version) <= 32 or version.strip(_LETTERS + "+"):
        raise Malformed("the offer names no version")
    if not _is_digest(manifest.get("sha256")):
        raise Malformed("the manifest's sha256 in the offer is none")
    return offer


def manifest_line(line: bytes) -> "tuple[str, int, str]":
    """(path, size, sha256) of a line of the manifest. Raises Malformed."""
    try:
        words = line.decode().split(" ")
    except UnicodeError:
        words = []
    if len(words) != 3 or not _is_digest(words[0]) or not words[1].isdigit():
        raise Malformed("a line of the manifest is not digest, size and path")
    path = words[2]
    inside = [folder for folder in FOLDERS if path.startswith(folder)]
    if (
        not inside
        or path.strip(_LETTERS)
        or len(path) > 80
        or [1 for name in path.split("/") if name in ("", ".", "..")]
    ):
        raise Malformed("the manifest has a path that no slot has")
    return path, int(words[1]), words[0]


def request(made: int, path: str, at: int) -> bytes:
    """The line of a request; the same stands at the beginning of its answer."""
    return f'{{"offer":{made},"file":"{path}","at":{at}}}'.encode()


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and len(value) == 64 and not value.strip(_HEX)
