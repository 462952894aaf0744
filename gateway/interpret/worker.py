"""The process that interprets, one mail after the other: what it is given comes on its standard input, a socket.

It is started by `gateway.interpreter`, which says why. It imports next to nothing, holds no secret and opens no file
but a spooled mail. A mail that needs too much memory is answered so; whatever else happens to this process, its
parent notices, and starts another one. It ends with its parent.

A message is four bytes of length and a value in Python's own `marshal` format, which both ends read in the same
version of Python, as the first message makes sure. Questions are (number, HELO name, content or path of a spooled
mail, name of the family that it is from or ""), answers (number, fields of `Reading`, fields of `Meaning`) or (number,
None, why), in the same order. A question without content means: read the profiles again; it has no answer.
"""

from __future__ import annotations

import gc
import marshal
import os
import resource
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from gateway import __version__, interpret
from gateway.interpret import families
from gateway.interpret.meaning import profile
from gateway.spooled import spooled

MEMORY = 256 * 1024 * 1024
"""Bytes of its own that it may use at most; what a file is mapped to does not count. All mails that we know, the
hostile ones among them, take less than a tenth of it."""

VERSION = f"{__version__} {sys.version}"
LENGTH = 4  # bytes
_CHANNEL = 0
_PIECE = 256 * 1024  # bytes read at a time
_LONGEST = 16 * 1024 * 1024  # bytes of a message; nobody says so much
_HOLD_BACK = 0.0005  # seconds that answers may wait for the next ones
_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


class _Greeted(NamedTuple):
    helo: str


def message(value: Any) -> bytes:
    """One message of either side."""
    body = marshal.dumps(value)
    return len(body).to_bytes(LENGTH) + body


def messages(pending: bytearray) -> list[Any]:
    """The whole messages in it, which are taken from it. Raises ValueError, EOFError or TypeError if one is none."""
    found: list[Any] = []
    at = 0
    while len(pending) - at >= LENGTH:
        length = int.from_bytes(pending[at : at + LENGTH])
        if length > _LONGEST:
            raise ValueError(f"a message of {length} bytes")
        end = at + LENGTH + length
        if len(pending) < end:
            break
        found.append(marshal.loads(memoryview(pending)[at + LENGTH : end]))  # noqa: S302  # both ends are ours
        at = end
    del pending[:at]
    return found


def main(folder: str = "") -> None:
    """Until the parent closes the socket. `folder`: a user's own profiles; it need not be there."""
    library = _library(folder)
    _settle()
    try:
        _write(message(VERSION))
    except BrokenPipeError:  # it has ended before this began
        return
    pending = bytearray()
    while piece := os.read(_CHANNEL, _PIECE):
        pending += piece
        answers: list[bytes] = []
        since = time.perf_counter()
        for number, helo, content, family in messages(pending):
            if content is None:
                library = _library(folder)
                continue
            answers.append(message((number, *answer(helo, content, library, family))))
            if (now := time.perf_counter()) - since > _HOLD_BACK:
                _write(b"".join(answers))
                answers, since = [], now
        if answers:
            _write(b"".join(answers))


def _library(folder: str) -> families.Library:
    """Ours, and those of the user; what is wrong with these the gateway has said before."""
    return families.Library(families.OURS, Path(folder)) if folder and Path(folder).is_dir() else families.ours()


def answer(helo: str, content: bytes | str, library: families.Library, family: str) -> tuple[Any, Any]:
    """What it says and what it means, as plain tuples; or None and why not."""
    try:
        reading = interpret.read(spooled(Path(content)) if isinstance(content, str) else content)
        meaning = interpret.meaning(reading, _Greeted(helo), library, family=family)
        return tuple(vars(reading).values()), tuple(vars(meaning).values())  # in the order of their constructors
    except MemoryError:
        return None, f"it takes more than {MEMORY >> 20} MiB of memory"
    except Exception as error:  # noqa: BLE001  # a fault of ours, or of the disk; the next mail is another one
        return None, f"{type(error).__name__}: {error}"


def _settle() -> None:
    """See to it that this process harms nobody, and is there as long as its parent, which ends it, and no longer."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # meant for the gateway, which finishes what it has begun
    if sys.platform == "linux":
        import ctypes  # here alone: the gateway imports this module for its messages, and never needs it

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # elsewhere it notices between two mails
        with suppress(OSError):  # receiving is not to be interrupted whenever a mail comes here (sched(7))
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    with suppress(OSError, ValueError):  # a lower limit than ours is there already
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    with suppress(OSError):  # where memory runs out, this process is the one to go
        Path("/proc/self/oom_score_adj").write_text("500")
    gc.set_threshold(50_000, 50, 100)  # neither the profile nor a mail leaves many cycles behind
    profile()
    gc.collect()
    gc.freeze()


def _write(data: bytes) -> None:
    while data:
        data = data[os.write(_CHANNEL, data) :]
