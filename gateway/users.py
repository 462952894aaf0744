"""Users who log in: scrypt hashes, the file that `mailwire user` keeps them in, and how a password is checked.

The law: a login holds up nobody else, and its answer takes equally long whether the name or the password is wrong.
Hashing takes 50 ms and 16 MiB, so it is done on one thread, one at a time; a login that was right once is known again
by a keyed digest in memory (never on disk), because many devices log in for each mail.

A hash is text in the PHC string format, `$scrypt$ln=14,r=8,p=1$<salt>$<hash>`, base64 without padding; the function is
RFC 7914's. The parameters are those of its §2 for a login; a Raspberry Pi Zero has room for them.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import hmac
import json
import os
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import asyncio

FILE = "users.json"
"""In the folder of the integration that asks for a login: `{name: hash}`."""

_FORM = re.compile(r"\$scrypt\$ln=(\d{1,2}),r=(\d{1,2}),p=(\d{1,2})\$([A-Za-z0-9+/]{11,86})\$([A-Za-z0-9+/]{22,86})")
_FOREIGN = re.compile(r"\$(argon2|2[abxy]?|5|6|y|gy|7|pbkdf2)[^$]*\$")  # how other kinds of hashes begin
_MOST = 64 * 1024 * 1024  # bytes that one check may take
_REMEMBERED = 1024  # logins


class Hash(NamedTuple):
    """What stands for a password. `n` is the cost (2 to the power of `ln`)."""

    n: int
    r: int
    p: int
    salt: bytes
    digest: bytes

    def __str__(self) -> str:
        return f"$scrypt$ln={self.n.bit_length() - 1},r={self.r},p={self.p}${_base64(self.salt)}${_base64(self.digest)}"

    def matches(self, password: bytes) -> bool:
        """Slow on purpose. Raises MemoryError or ValueError where the memory for it is not to be had."""
        return hmac.compare_digest(_scrypt(password, self.n, self.r, self.p, self.salt, len(self.digest)), self.digest)


def hashed(password: str) -> Hash:
    """A new hash, with a salt of its own."""
    salt = secrets.token_bytes(16)
    return Hash(1 << 14, 8, 1, salt, _scrypt(_bytes(password), 1 << 14, 8, 1, salt, 32))


def parse(text: str) -> Hash | None:
    """The hash that a text is; None: it is a password as it stands. Raises ValueError with what is wrong."""
    if not text.startswith("$scrypt$"):
        if _FOREIGN.match(text):
            raise ValueError("this is a hash of a kind that is not read here: make one with `mailwire user hash`")
        return None
    found = _FORM.fullmatch(text)
    if not found:
        raise ValueError("this hash is not whole: make one with `mailwire user hash`, and copy all of it")
    ln, r, p = (int(number) for number in found.groups()[:3])
    if not ln or not r or not 0 < p <= 16 or 128 * r << ln > _MOST:
        raise ValueError("checking this hash would take more than 64 MiB, or nothing: use `mailwire user hash`")
    return Hash(1 << ln, r, p, *(base64.b64decode(part + "=" * (-len(part) % 4)) for part in found.groups()[3:]))


def _scrypt(password: bytes, n: int, r: int, p: int, salt: bytes, length: int) -> bytes:
    room = 128 * r * (n + p + 2) + 1024 * 1024  # what OpenSSL reckons, and some more
    return hashlib.scrypt(password, salt=salt, n=n, r=r, p=p, maxmem=room, dklen=length)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode().rstrip("=")


def _bytes(password: str) -> bytes:
    return password.encode("utf-8", "surrogateescape")


# --- the file ------------------------------------------------------------------------------------------------------


def read(path: Path) -> dict[str, Hash]:
    """The users of a file; none if it isn't there. Raises ValueError if it is damaged, OSError if it can't be read."""
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    found = {}
    for name, text in document.items() if isinstance(document, dict) else [("", "")]:
        hash_ = parse(text) if isinstance(text, str) else None
        if hash_ is None:
            raise ValueError("it is to hold names and hashes")
        found[name] = hash_
    return found


@contextlib.contextmanager
def changing(path: Path) -> Iterator[dict[str, Hash]]:
    """What is done to the users inside is written at the end, whole or not at all. Others wait meanwhile.

    Done by root, the file belongs to whom its folder belongs: the gateway must be able to read it.
    """
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        users = read(path)
        yield users
        draft = path.with_suffix(".new")
        draft.unlink(missing_ok=True)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            if os.geteuid() == 0:
                owner = os.fstat(folder)
                os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
            json.dump({name: str(hash_) for name, hash_ in sorted(users.items())}, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
        os.fsync(folder)
    finally:
        os.close(folder)


# --- checking ------------------------------------------------------------------------------------------------------


class Users:
    """Those of a configuration, which come first, and those of a file, which is read again when it has changed."""

    def __init__(
        self, given: Mapping[str, str], path: Path, trouble: Callable[[str], None], loop: asyncio.AbstractEventLoop
    ) -> None:
        """`given`: name -> password or hash, as `parse` takes it. `trouble` is told when the file can't be used."""
        self._given: dict[str, bytes | Hash] = {name: parse(text) or _bytes(text) for name, text in given.items()}
        self._path = path
        self._trouble = trouble
        self._loop = loop
        self._known = self._given
        self._dummy: Hash | None = None
        self._seen: tuple[int, ...] | None = None
        self._key = secrets.token_bytes(32)
        self._right: dict[bytes, None] = {}  # logins that were right, by their digest; the oldest first
        self._thread = ThreadPoolExecutor(1, "login")
        self._read_again(None)
        self.look()

    def __contains__(self, name: str) -> bool:
        return name in self._known

    def __len__(self) -> int:
        return len(self._known)

    def look(self) -> None:
        """Has the file changed? Cheap enough for each login."""
        try:
            facts = self._path.stat()
        except OSError:
            seen = None
        else:
            seen = facts.st_ino, facts.st_mtime_ns, facts.st_size
        if seen != self._seen:
            self._read_again(seen)

    def _read_again(self, seen: tuple[int, ...] | None) -> None:
        self._seen = seen
        try:
            self._known = {**(read(self._path) if seen else {}), **self._given}
        except (OSError, ValueError) as error:
            what = error.strerror if isinstance(error, OSError) else error
            self._trouble(f"{self._path} can't be used, and what was known of its users goes on: {what}")
        hashes = [known for known in self._known.values() if isinstance(known, Hash)]
        # Nobody's password. It costs what the dearest one costs.
        self._dummy = max(hashes)._replace(digest=secrets.token_bytes(32)) if hashes else None

    def check(
        self, name: str, password: str, done: Callable[[bool | None], None], wanted: Callable[[], bool] = lambda: True
    ) -> None:
        """`done(right)`, from within or later on the event loop; None: it could not be found out now.

        `wanted` is asked, on another thread, when the turn has come: false means that it is wrong without a look.
        """
        self.look()
        known, given = self._known.get(name), _bytes(password)
        if isinstance(known, Hash):
            mark = hmac.digest(self._key, b"%s\0%s" % (str(known).encode(), given), "sha256")
            if mark in self._right:
                done(True)
                return
            self._slowly(known, given, wanted, lambda right: self._answer(done, mark, right))
            return
        right = hmac.compare_digest(given if known is None else known, given) and known is not None
        if right or self._dummy is None:
            done(right)
        else:
            self._slowly(self._dummy, given, wanted, lambda right: done(None if right is None else False))

    def _slowly(
        self, hash_: Hash, given: bytes, wanted: Callable[[], bool], done: Callable[[bool | None], None]
    ) -> None:
        def ended(future: Future[bool]) -> None:
            right = None if future.cancelled() or future.exception() else future.result()
            self._loop.call_soon_threadsafe(done, right)

        self._thread.submit(lambda: wanted() and hash_.matches(given)).add_done_callback(ended)

    def _answer(self, done: Callable[[bool | None], None], mark: bytes, right: bool | None) -> None:
        if right:
            if len(self._right) >= _REMEMBERED:
                del self._right[next(iter(self._right))]
            self._right[mark] = None
        done(right)

    def close(self) -> None:
        """Logins that still wait get None. Waits for the one that is being checked."""
        self._thread.shutdown(cancel_futures=True)
