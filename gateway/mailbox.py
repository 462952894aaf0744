"""Fetches mail from a mailbox on somebody else's server: each mail once, also over a crash at any moment.

What is left on a server can't be recognised by its bytes alone, so each mail has a key there (an IMAP UID, a POP3
UIDL), and the keys that were taken are kept in a file, one a line. A key is written after its mail is in the store; if
the power goes in between, the store knows it, for a mail's key is among its details.

The conversation blocks, so it has a thread of its own, never one of those that all share: some mailboxes would take
them all, and the whole gateway would wait. `imap` and `pop3` bring it as a function; whatever it raises ends the
connection, and it is begun anew after a while.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from email import utils
from email.parser import BytesHeaderParser
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from gateway.api import Context, Envelope, StoreTrouble

DETAIL = "mailbox"
"""Under this name a mail's key is among its envelope's details."""
FIRST_WAIT, LONGEST_WAIT = 5.0, 300.0  # seconds until a mailbox that failed is asked again
_NEWEST = 100  # mails of the store whose keys may be missing from the file
_HEAD = 64 * 1024  # bytes of a mail that are searched for its addresses


class Place(NamedTuple):
    """Whose mailbox, and where. `secure`: TLS from the first byte."""

    host: str
    port: int
    user: str
    folder: str
    secure: bool


def place(url: str, scheme: str, port: int, secure_port: int) -> Place:
    """`imaps://user@host:993/folder`, for the schemes `imap` and `imaps`. Raises ValueError."""
    example = f"{scheme}s://user@{scheme}.example.org"
    try:
        parts = urlsplit(url)
        secure = parts.scheme == f"{scheme}s"
        right = parts.scheme.removesuffix("s") == scheme and parts.hostname and parts.username and parts.port != 0
    except ValueError:
        right = False
    if not right:
        raise ValueError(f"that is no mailbox; it looks like {example}")
    host, folder = parts.hostname or "", unquote(parts.path.strip("/"))
    return Place(host, parts.port or (secure_port if secure else port), unquote(parts.username or ""), folder, secure)


class LoginRefused(Exception):
    """The server does not take our user and password; the text says what it answered."""


class Fetcher:
    """One mailbox. `visit(fetcher)` connects, fetches, waits and fetches, until `stopping` is set or it raises."""

    def __init__(self, context: Context, peer: str, envelope: type[Envelope], visit: Callable[[Fetcher], None]) -> None:
        self.taken: set[str] = set()
        self.stopping = threading.Event()
        self.log = context.log
        self._context = context
        self._peer = peer
        self._envelope = envelope
        self._visit = visit
        self._file = context.data_dir / "taken"
        self._recorded: set[str] = set()  # what the file says
        self._left: set[str] = set()
        self._went_well = False
        self._thread = ThreadPoolExecutor(1, f"mailbox {context.name}")
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin; reads what was taken before."""
        self._loop = asyncio.get_running_loop()
        self._recorded = set(self._file.read_text().split()) if self._file.exists() else set()
        newest = await self._context.gateway.kept_details(self._context.name, _NEWEST)
        self.taken = self._recorded | {str(details[DETAIL]) for details in newest if DETAIL in details}
        self._task = asyncio.create_task(self._run(), name=f"mailbox {self._context.name}")

    async def stop(self) -> None:
        """End the conversation; what is being kept is finished."""
        self.stopping.set()
        if self._task:
            await asyncio.gather(self._task, return_exceptions=True)
        self._thread.shutdown(wait=False)

    async def _run(self) -> None:
        wait = FIRST_WAIT
        while not self.stopping.is_set():
            self._went_well = False
            try:
                await self._loop.run_in_executor(self._thread, self._visit, self)
            except LoginRefused as error:
                self._context.problem(f"{self._peer} refuses our login: {error}")
                wait = LONGEST_WAIT
            except Exception as error:  # noqa: BLE001  # a server may say anything, and the library raise it
                self._context.problem(f"{self._peer}: {str(error) or type(error).__name__}")
                if self._went_well:  # else the hour's hang-up of an idle server makes each wait longer than the last
                    wait = FIRST_WAIT
            await self._loop.run_in_executor(self._thread, self.stopping.wait, wait)
            wait = min(2 * wait, LONGEST_WAIT)

    # --- in the thread -----------------------------------------------------------------------------------------

    def is_well(self) -> None:
        """Connected, and all that is there has been fetched."""
        self._went_well = True
        self._loop.call_soon_threadsafe(self._context.problem, None)

    def keep(self, key: str, content: bytes) -> None:
        """Into the store; after this it may be moved or deleted there. Raises StoreTrouble."""
        asyncio.run_coroutine_threadsafe(self._keep(key, content), self._loop).result()
        self._went_well = True
        self.taken.add(key)
        with self._file.open("a") as file:
            file.write(f"{key}\n")
            file.flush()
            os.fsync(file.fileno())
        self._recorded.add(key)

    def too_large(self, key: str, what: str, size: int) -> None:
        self._stays(key, f"{what} has {size} bytes, and is left where it is ('max_size')")

    def refused(self, key: str, what: str, why: str) -> None:
        """The server does not give it, perhaps for ever: that keeps nobody from the others."""
        self._stays(key, f"{what} can't be fetched, and is left where it is for now: {why}")

    def _stays(self, key: str, text: str) -> None:
        """Said once: what stays is met again at every look."""
        if key not in self._left:
            self._left.add(key)
            self.log.warning("%s", text)

    def remember(self, keys: Iterable[str]) -> None:
        """Only these are still to be known. Looks are many and changes few, so the file is written for these alone."""
        self.taken = set(keys)
        if self.taken == self._recorded:
            return
        fresh = self._file.with_suffix(".new")
        with fresh.open("w") as file:
            file.writelines(f"{key}\n" for key in sorted(self.taken))
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._file)
        self._recorded = set(self.taken)

    async def _keep(self, key: str, content: bytes) -> None:
        receipt = self._context.intake.begin()
        receipt.write(content)
        kept: asyncio.Future[StoreTrouble | None] = self._loop.create_future()
        sender, recipients = addresses(content)
        envelope = self._envelope(self._context.name, self._peer, "", sender, recipients, {DETAIL: key})
        receipt.commit(envelope, lambda _, trouble: kept.set_result(trouble))
        if trouble := await kept:
            raise trouble


def addresses(content: bytes) -> tuple[str, list[str]]:
    """(reverse-path, recipients) as the server that delivered it wrote them down, else as the mail itself says."""
    fields = BytesHeaderParser().parsebytes(content[:_HEAD])

    def all_of(*names: str) -> list[str]:
        for name in names:
            values = [str(value) for value in fields.get_all(name, ())]
            if found := [address for address in addresses_in(values) if "@" in address]:
                return list(dict.fromkeys(found))
        return []

    senders = all_of("Return-Path", "Sender", "From")
    return senders[0] if senders else "", all_of("Delivered-To", "X-Original-To", "Envelope-To", "To")


def addresses_in(lists: Sequence[str]) -> list[str]:
    """The addresses in these texts. For a comma too many a newer Python would answer that there is none at all."""
    lenient = {"strict": False} if getattr(utils, "supports_strict_parsing", False) else {}
    return [address for _, address in utils.getaddresses(lists, **lenient) if address]
