"""Events in flash: what `put` has taken outlives a power cut, until every target that owes it has delivered it.

The law of this file:

- An event is a file of its own, written under another name, flushed, closed, and renamed. A name that counts is a
  whole event: LittleFS and POSIX rename in one step. What a power cut left under the other is removed at the start.
- Who still owes an event stands in its file's name (`00000012.mqtt.post`), so that a delivery costs a rename and the
  last one a removal; nothing is ever written twice.
- Numbers rise, and each target gets its events in their order.
- It is bounded: by `limit_bytes`, counted in blocks of the file system as the flash is used, and by what that has
  free. What does not fit is refused with `Full`, and nothing that was taken is given up for it.

In memory an event is one small number; its bytes are read when their turn has come. One that was kept before the clock
was set gets its time when it is read (`events.timed`).
"""

import asyncio
import os

from firmware import board, events

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_TMP = "new"
_MAX_TARGETS = 8  # a bit each in a small integer: 30 bits on a board
_SPARE = 4  # blocks that are left to settings, updates and the file system's own needs


class Full(Exception):
    """There is no room for another event now."""


class Spool:
    """`targets` are the names of all that are configured, in any order; each `[a-z0-9_]+`.

    An event that is owed to a target which is no longer configured is not owed to it any more.
    """

    def __init__(self, folder: str, limit_bytes: int, targets: "list[str] | tuple[str, ...]") -> None:
        if len(targets) > _MAX_TARGETS:
            raise ValueError(f"{len(targets)} targets: a spool knows {_MAX_TARGETS} at most")
        self._folder = folder
        self._targets = tuple(targets)
        self._limit = limit_bytes
        self._owed: list[int] = []  # number << 8 | bits of the targets, in order
        self.used = 0
        """Bytes of flash, in whole blocks."""
        self.news = asyncio.Event()
        """Set by `put`. Who waits for it clears it, then looks, then waits."""
        self._next = 1
        self._born: dict[int, int] = {}  # number -> uptime at `put`, of events that don't know their time
        self._start()

    def _start(self) -> None:
        try:
            os.mkdir(self._folder)
        except OSError:
            pass  # it is there
        self._block = os.statvfs(self._folder)[0]
        while self._mend():
            pass
        for name in self._names():
            number, bits = self._read(name)
            self._owed.append(number << 8 | bits)
            self.used += self._blocks(os.stat(self._path(name))[6])
        self._owed.sort()
        if self._owed:
            self._next = (self._owed[-1] >> 8) + 1

    def _mend(self) -> bool:
        """Rename and remove what is not named as it should be; whether there may be more. A folder that is being read
        must not change, and the names of all its files may not fit in memory.
        """
        odd = []
        for name in self._names():
            number, bits = self._read(name)
            if not bits or name != self._name(number, bits):
                odd.append(name)
                if len(odd) == 16:
                    break
        for name in odd:
            number, bits = self._read(name)
            if bits:  # a target of it is no longer configured, or the order of the targets is another
                os.rename(self._path(name), self._path(self._name(number, bits)))
            else:
                os.remove(self._path(name))
        return bool(odd)

    def _names(self) -> "Iterator[str]":
        for entry in os.ilistdir(self._folder):
            if entry[1] & 0x4000 == 0:
                yield entry[0]

    def _read(self, name: str) -> "tuple[int, int]":
        """Number and bits of a file's name; no bits for what never was a whole event, or is owed to nobody now."""
        number, _, rest = name.partition(".")
        if len(number) != 8 or number.strip("0123456789"):
            return 0, 0
        return int(number), self._bits(rest.split("."))

    def put(self, event: "list[bytes]", targets: "list[str] | tuple[str, ...] | None" = None) -> int:
        """When this returns, the event is in flash, owed to `targets` (None: to all). Its number. It is given in
        pieces, of which the first says whether it knows its time: the whole would need a gap in the heap.

        Raises Full, and OSError for a flash that can't be written for another reason.
        """
        bits = self._bits(self._targets if targets is None else targets)
        if not bits:
            raise ValueError("an event is owed to somebody")
        size = sum([len(piece) for piece in event])
        if not self.has_room(size):
            raise Full("the spool is full")
        number = self._next
        new = self._path(_TMP)
        try:
            with open(new, "wb") as file:
                for piece in event:  # noqa: FURB122  # there is no `writelines` here
                    file.write(piece)
                file.flush()
            os.rename(new, self._path(self._name(number, bits)))
        except OSError as error:
            try:
                os.remove(new)
            except OSError:
                pass  # it is removed at the next start
            if error.errno == 28:  # ENOSPC
                raise Full("the flash is full") from None
            raise
        self._next += 1
        if events.lacks_time(event[0]):
            self._born[number] = board.uptime()
        self._owed.append(number << 8 | bits)
        self.used += self._blocks(size)
        self.news.set()
        return number

    def has_room(self, size: int = 1) -> bool:
        """Whether an event of so many bytes fits now."""
        need = self._blocks(size)
        if self.used + need > self._limit:
            return False
        facts = os.statvfs(self._folder)
        return facts[3] * facts[0] >= need + _SPARE * self._block

    def peek(self, target: str, after: int = 0) -> "tuple[int, bytes] | None":
        """The oldest event that `target` owes, as (number, bytes), or the oldest behind the number `after`."""
        bit = self._bits((target,))
        at = 0
        while at < len(self._owed):
            entry = self._owed[at]
            if entry & bit and entry >> 8 > after:
                path = self._path(self._name(entry >> 8, entry & 255))
                try:
                    with open(path, "rb") as file:
                        event = file.read(os.stat(path)[6])  # without a size it would read into twice the room
                except OSError as error:
                    if error.errno != 2:  # ENOENT: somebody took it away, and there is nothing left to deliver
                        raise
                    self._owed.pop(at)
                    continue
                return entry >> 8, events.timed(event, self._born.get(entry >> 8))
            at += 1
        return None

    def done(self, target: str, number: int) -> None:
        """`target` has delivered it."""
        bit = self._bits((target,))
        for at, entry in enumerate(self._owed):
            if entry >> 8 != number or not entry & bit:
                continue
            left = entry & ~bit
            old = self._path(self._name(number, entry & 255))
            if left & 255:
                os.rename(old, self._path(self._name(number, left & 255)))
                self._owed[at] = left
            else:
                size = os.stat(old)[6]
                os.remove(old)
                self._owed.pop(at)
                self._born.pop(number, None)
                self.used -= self._blocks(size)
            return

    def owed(self, target: str) -> int:
        """How many events `target` has still to deliver."""
        bit = self._bits((target,))
        return sum(1 for entry in self._owed if entry & bit)

    def __len__(self) -> int:
        return len(self._owed)

    def _bits(self, names: "list[str] | tuple[str, ...]") -> int:
        bits = 0
        for name in names:
            if name in self._targets:
                bits |= 1 << self._targets.index(name)
        return bits

    def _name(self, number: int, bits: int) -> str:
        owing = [name for at, name in enumerate(self._targets) if bits >> at & 1]
        return f"{number:08d}." + ".".join(owing)

    def _path(self, name: str) -> str:
        return self._folder + "/" + name

    def _blocks(self, size: int) -> int:
        return (size + self._block - 1) // self._block * self._block
