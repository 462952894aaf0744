"""Source: a mailbox by IMAP (RFC 9051), for devices that can only write to an address in the cloud.

New mail is told at once where the server has IDLE (RFC 2177), and looked for every `every` seconds otherwise. Each mail
is fetched once, in the order of its UID, and only when it is in the store does `then` happen to it there: `leave` it,
`delete` it, or move it to a folder. With `leave` it is marked as read unless `seen: false`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import AfterValidator, ByteSize, Field, SecretStr

from gateway.api import ClientTls, ConfigModel, Context, Duration, Envelope, Source, mailbox

_TIMEOUT = 60.0  # seconds for one answer
_POLL = 2.0  # seconds after which IDLE looks whether we are to stop
_IDLE = 9 * 60.0  # seconds of one IDLE; servers and routers end what is silent for longer
_OWED = "owed"  # in a key: UIDVALIDITY, this, UID
_EXAMPLE = "imaps://user@imap.example.org/INBOX"


def _place(url: str) -> mailbox.Place:
    return mailbox.place(url, "imap", 143, 993)


def _url(text: str) -> str:
    _place(text)
    return text


class Config(ConfigModel):
    """Whose mailbox, and what becomes of its mails."""

    url: Annotated[str, AfterValidator(_url)] = Field(
        repr=False, description=f"{_EXAMPLE}; imap:// begins TLS with STARTTLS"
    )
    password: SecretStr | None = None
    tls: ClientTls = ClientTls()
    starttls: bool = Field(default=True, description="For imap://; false: without TLS, also the password")
    then: str = Field(default="leave", min_length=1, description="leave, delete, or the folder to move it to")
    seen: bool = Field(default=True, description="Mark as read what is left")
    every: Duration = Field(default=60, ge=1, le=3600, description="Seconds between two looks, where there is no IDLE")
    max_size: ByteSize = Field(default=ByteSize(64 * 1024**2), description="Larger mails stay where they are")


class Imap(Source):
    """See the text at the top."""

    config: Config

    def __init__(self, context: Context, config: Config) -> None:
        super().__init__(context, config)
        self._at = _place(config.url)
        self._folder = self._at.folder or "INBOX"
        self._fetcher = mailbox.Fetcher(context, self._at.host, Envelope, self._visit)

    async def start(self) -> None:
        await self._fetcher.start()

    async def stop(self) -> None:
        await self._fetcher.stop()

    def describe(self) -> str:
        return f"mail of {self._at.user} on {self._at.host}, {self._folder}"

    # --- in the thread -----------------------------------------------------------------------------------------

    def _visit(self, fetcher: mailbox.Fetcher) -> None:
        with self._connect() as box:
            validity = str(box.folder.status(self._folder, ["UIDVALIDITY"])["UIDVALIDITY"])
            look = self._look_on if self.config.then == "leave" else self._look_at_all
            while not fetcher.stopping.is_set():
                look(fetcher, box, validity)
                fetcher.is_well()
                self._wait(fetcher, box)

    def _look_on(self, fetcher: mailbox.Fetcher, box: Any, validity: str) -> None:
        """What is left grows for ever, so only the last UID is remembered (UIDs rise, RFC 9051 §2.3.1.1).

        And those before it that the server did not give: they stay owed.
        """
        taken = {int(uid) for kind, uid in _split(fetcher.taken) if kind == validity}
        owed = {int(uid) for kind, uid in _split(fetcher.taken) if kind == f"{validity}.{_OWED}"} - taken
        last = max(taken, default=0)
        found = map(int, box.uids(f"UID {last + 1}:*"))
        for uid in sorted(owed.union(uid for uid in found if uid > last)):  # `n:*` has the last mail in any case
            if fetcher.stopping.is_set():
                break
            if self._take(fetcher, box, validity, str(uid)):
                owed.discard(uid)
            else:
                owed.add(uid)
                fetcher.remember(fetcher.taken | {f"{validity}.{_OWED}.{uid}"})
            last = max(last, uid)
        fetcher.remember([f"{validity}.{last}", *(f"{validity}.{_OWED}.{uid}" for uid in owed)])

    def _look_at_all(self, fetcher: mailbox.Fetcher, box: Any, validity: str) -> None:
        uids = sorted(box.uids(), key=int)
        fetcher.remember(fetcher.taken & {f"{validity}.{uid}" for uid in uids})
        for uid in uids:
            if fetcher.stopping.is_set():
                return
            if f"{validity}.{uid}" in fetcher.taken:  # kept, and not moved yet: that was when we ended
                self._finish(box, uid)
            else:
                self._take(fetcher, box, validity, uid)

    def _connect(self) -> Any:
        from imap_tools import MailBox, MailBoxStartTls, MailBoxUnencrypted
        from imap_tools.errors import MailboxLoginError

        context = self.config.tls.context()
        if self._at.secure:
            box: Any = MailBox(self._at.host, self._at.port, timeout=_TIMEOUT, ssl_context=context)
        elif self.config.starttls:
            box = MailBoxStartTls(self._at.host, self._at.port, timeout=_TIMEOUT, ssl_context=context)
        else:
            box = MailBoxUnencrypted(self._at.host, self._at.port, timeout=_TIMEOUT)
        try:
            password = self.config.password.get_secret_value() if self.config.password else ""
            return box.login(self._at.user, password, self._folder)
        except MailboxLoginError as error:
            box.client.shutdown()
            raise mailbox.LoginRefused(_words(error)) from error
        except Exception:
            box.client.shutdown()
            raise

    def _take(self, fetcher: mailbox.Fetcher, box: Any, validity: str, uid: str) -> bool:
        """False: the server does not give it now."""
        key, what = f"{validity}.{uid}", f"mail {uid} in {self._folder}"
        _, found = box.client.uid("FETCH", uid, "(RFC822.SIZE)")
        size = _size(found)
        if size > self.config.max_size:
            fetcher.too_large(key, what, size)
            return True
        status, found = box.client.uid("FETCH", uid, "(BODY.PEEK[])")
        content = next((part[1] for part in found if isinstance(part, tuple)), None)
        if content is not None:
            fetcher.keep(key, content)
            self._finish(box, uid)
        elif status != "OK":  # else somebody has removed it
            fetcher.refused(key, what, " ".join(_text(part) for part in found if part))
            return False
        return True

    def _finish(self, box: Any, uid: str) -> None:
        if self.config.then == "delete":
            box.delete(uid)
        elif self.config.then != "leave":
            if not box.folder.exists(self.config.then):
                box.folder.create(self.config.then)
            box.move(uid, self.config.then)
        elif self.config.seen:
            box.client.uid("STORE", uid, "+FLAGS", r"(\Seen)")

    def _wait(self, fetcher: mailbox.Fetcher, box: Any) -> None:
        """Until there may be something new."""
        if "IDLE" not in box.client.capabilities:
            fetcher.stopping.wait(self.config.every)
            box.client.noop()
            return
        until = time.monotonic() + _IDLE
        with box.idle as idle:
            while time.monotonic() < until and not fetcher.stopping.is_set() and not idle.poll(_POLL):
                pass


def _split(keys: Iterable[str]) -> Iterable[tuple[str, str]]:
    for key in keys:
        validity, _, uid = key.rpartition(".")
        if uid.isdigit():
            yield validity, uid


def _size(found: Iterable[Any]) -> int:
    """A server may speak of the flags of other mails in between (RFC 9051 §7.5.2)."""
    told = next((line for line in found if isinstance(line, bytes) and b"RFC822.SIZE " in line), None)
    return int(told.rpartition(b"RFC822.SIZE ")[2].split(b")")[0].split()[0]) if told else 0


def _words(error: Any) -> str:
    """What the server answered."""
    result = getattr(error, "command_result", None)
    return _text(result[1][0]) if result and result[1] and result[1][0] else str(error)


def _text(said: Any) -> str:
    return said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)
