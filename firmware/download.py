"""An offer, from its signature to the restart of the new version; see update.py.

The law of this file:

- Nothing is taken that isn't signed with this board's key (settings `update.key`); what the signature covers is in
  `gateway.wire.update`. No key: no updates.
- The running slot is never written. The other one holds a file `void` from the first byte to the last hash, so that
  main.py would not start it half written.
- Every file is read back from flash and compared with its hash. What a slot holds already is not sent again: neither
  what is the same in the running version, nor what had arrived before a power cut.

The signature proves where the files come from, not that nobody reads them: without TLS to the broker they travel
open, and they hold no secrets. Who has the board's key, or its USB socket, can write to it whatever he wants.
"""

import asyncio
import binascii
import hashlib
import os

from firmware import board, slots
from firmware.update import PATIENCE, Silent, Superseded
from gateway.wire.update import (
    CHUNK,
    DOWNLOADING,
    FAILED,
    MANIFEST,
    REFUSED,
    RESTARTING,
    WAITING,
    Malformed,
    manifest_line,
    read_offer,
    signed_text,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from firmware.update import Updater
    from gateway.wire.update import Offer

TRIES = 4  # of a file whose hash is wrong
LONGEST_WAIT = 600  # seconds between two tries to find somebody who sends


class Refused(Exception):
    """The offer is none for us; another try would change nothing."""


class Failed(Exception):
    """It was begun and can't be finished."""


# --- hashes ----------------------------------------------------------------------------------------------------------


def hmac_sha256(key: bytes, message: bytes) -> bytes:
    """HMAC (RFC 2104) with SHA-256, whose block is 64 bytes; MicroPython has hashlib alone."""
    if len(key) > 64:
        key = hashlib.sha256(key).digest()
    key = key + bytes(64 - len(key))
    inner = hashlib.sha256(bytes([byte ^ 0x36 for byte in key]))
    inner.update(message)
    outer = hashlib.sha256(bytes([byte ^ 0x5C for byte in key]))
    outer.update(inner.digest())
    return outer.digest()


def _same(one: bytes, other: bytes) -> bool:
    """Compares in a time that doesn't tell where they differ."""
    if len(one) != len(other):
        return False
    differs = 0
    for a, b in zip(one, other):
        differs |= a ^ b
    return not differs


def _holds(path: str, size: int, digest: str) -> bool:
    """Whether the file in flash is this one."""
    try:
        if os.stat(path)[6] != size:
            return False
        made = hashlib.sha256()
        piece = bytearray(512)
        with open(path, "rb") as file:
            while True:
                count = file.readinto(piece)
                if not count:
                    break
                made.update(memoryview(piece)[:count])
    except OSError:
        return False
    return binascii.hexlify(made.digest()).decode() == digest


# --- an update -------------------------------------------------------------------------------------------------------


class Download:
    """One offer, as it came."""

    def __init__(self, updater: "Updater", payload: bytes) -> None:
        self._updater = updater
        self._payload = payload
        self._done = self._all = self._percent = 0

    async def run(self) -> None:
        """From the offer to the restart, or to the words why not."""
        wait = PATIENCE
        version = None
        while True:
            try:
                offer = self._accept()
                if offer is None:
                    return
                version = offer["version"]
                await self._install(offer)
                await self._updater.say(RESTARTING, None, version)
                await asyncio.sleep(1)  # for the message to leave
                board.reset()
            except Superseded:
                return
            except Silent:
                await self._updater.say(WAITING, f"nobody sends the files; asking again in {wait} s", version)
                try:
                    await self._updater.asked_again(wait)
                except Superseded:
                    return
                wait = min(2 * wait, LONGEST_WAIT)
                continue
            except (Refused, Malformed) as error:
                await self._updater.say(REFUSED, str(error), version)
            except Failed as error:
                await self._updater.say(FAILED, str(error), version)
            except OSError as error:
                await self._updater.say(FAILED, f"the flash can't be written or read: {error!r}", version)
            return

    def _accept(self) -> "Offer | None":
        """The offer, or None if it was tried before. Raises Refused or Malformed."""
        offer = read_offer(self._payload)
        self._updater.made = offer["made"]
        if not self._updater.key:
            raise Refused("this board has no key for updates: mailwire flash writes one to update.key in its settings")
        right = binascii.hexlify(hmac_sha256(self._updater.key, signed_text(self._updater.id, offer)))
        if not _same(right, str(offer.get("hmac")).encode()):
            raise Refused("the offer isn't signed with this board's key")
        state = slots.read()
        before = state.get("offer") or 0
        if offer["made"] == before:
            return None
        if offer["made"] < before:
            raise Refused("the offer is older than the last one that was taken")
        if slots.trial_of(state) is not None:
            raise Refused("this version is on trial itself; offer again when it has reported in")
        if state.get("slot") not in ("a", "b"):
            raise Refused("there are no slots here: main.py did not start this version")
        return offer

    async def _install(self, offer: "Offer") -> None:
        """Fill the other slot, and have it started next."""
        state = slots.read()
        old = state["slot"]
        new = "b" if old == "a" else "a"
        _make_folder(new)
        open(new + "/void", "w").close()
        manifest = offer["manifest"]
        self._done, self._all, self._percent = 0, manifest["size"] + offer["size"], -1
        await self._updater.say(DOWNLOADING, None, offer["version"], 0)
        await self._file(old, new, MANIFEST, manifest["size"], manifest["sha256"], offer)
        await self._clear(new, offer)
        with open(new + "/" + MANIFEST, "rb") as lines:
            for line in lines:
                path, size, digest = manifest_line(line[:-1])
                await self._file(old, new, path, size, digest, offer)
        os.remove(new + "/void")
        state["trial"] = new
        state["tried"] = False
        state["offer"] = offer["made"]
        state["version"] = offer["version"]
        state["minutes"] = self._updater.minutes
        state.pop("why", None)
        slots.write(state)

    async def _clear(self, new: str, offer: "Offer") -> None:
        """Check the manifest, remove from the slot what isn't in it, and see that the rest fits.

        It is read again for each file in the slot: a list of them all would want more memory in one piece.
        """
        _remove_others(new, "")
        block, _, _, free = os.statvfs(new)[:4]
        count = total = lacking = 0
        with open(new + "/" + MANIFEST, "rb") as lines:
            for line in lines:
                path, size, _ = manifest_line(line[:-1])
                count += 1
                total += size
                if not _is_file(new + "/" + path, size):
                    lacking += size // block + 2
        if (count, total) != (offer["files"], offer["size"]):
            raise Failed("the manifest doesn't have the files that the offer tells of")
        if lacking > free:
            raise Failed(
                f"there is no room: the new version needs {lacking * block // 1024} KiB more of flash, "
                f"and {free * block // 1024} KiB are free"
            )

    async def _file(self, old: str, new: str, path: str, size: int, digest: str, offer: "Offer") -> None:
        """See that the new slot holds the file: it does, or the old one does, or it is fetched."""
        at = new + "/" + path
        for _ in range(TRIES):
            if _holds(at, size, digest):
                break
            _make_folder(at.rpartition("/")[0])
            if _holds(old + "/" + path, size, digest):
                _copy(old + "/" + path, at)
            else:
                await self._fetch(at, path, size)
        else:
            raise Failed(f"{path} arrives with a wrong hash")
        self._done += size
        percent = 100 * self._done // self._all
        if percent // 5 > self._percent // 5:
            self._percent = percent
            await self._updater.say(DOWNLOADING, None, offer["version"], percent)
        await asyncio.sleep(0)

    async def _fetch(self, at: str, path: str, size: int) -> None:
        with open(at, "wb") as file:
            have = 0
            while have < size:
                piece = await self._updater.chunk(path, have, min(CHUNK, size - have))
                file.write(piece)
                have += len(piece)


# --- files -----------------------------------------------------------------------------------------------------------


def _is_file(path: str, size: int) -> bool:
    try:
        facts = os.stat(path)
    except OSError:
        return False
    return not facts[0] & 0x4000 and facts[6] == size


def _make_folder(path: str) -> None:
    made = ""
    for name in path.split("/"):
        made = made + "/" + name if made else name
        try:
            os.mkdir(made)
        except OSError as error:
            if error.errno != 17:  # EEXIST
                raise


def _copy(old: str, new: str) -> None:
    piece = bytearray(512)
    with open(old, "rb") as source, open(new, "wb") as target:
        while True:
            count = source.readinto(piece)
            if not count:
                break
            target.write(memoryview(piece)[:count])


def _remove_others(slot: str, folder: str) -> None:
    """Remove what the manifest doesn't list."""
    for entry in list(os.ilistdir(slot + "/" + folder if folder else slot)):
        inside = folder + "/" + entry[0] if folder else entry[0]
        if entry[1] & 0x4000:
            _remove_others(slot, inside)
            try:
                os.rmdir(slot + "/" + inside)
            except OSError:
                pass  # it is not empty
        elif inside not in (MANIFEST, "void") and not _is_listed(slot, inside):
            os.remove(slot + "/" + inside)


def _is_listed(slot: str, path: str) -> bool:
    with open(slot + "/" + MANIFEST, "rb") as lines:
        for line in lines:
            if manifest_line(line[:-1])[0] == path:
                return True
    return False
