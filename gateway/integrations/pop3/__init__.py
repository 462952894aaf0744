"""Source: a mailbox by POP3 (RFC 1939), for devices that can only write to an address in the cloud.

It is looked into every `every` seconds. Each mail is fetched once, told apart by its UIDL; a server without UIDL needs
`then: delete`. Only when a mail is in the store is it deleted there, or left.
"""

from __future__ import annotations

import contextlib
import poplib
import secrets
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, ByteSize, Field, SecretStr, model_validator

from gateway.api import Broken, ClientTls, ConfigModel, Context, Duration, Envelope, Source, mailbox

_TIMEOUT = 60.0  # seconds for one answer
_EXAMPLE = "pop3s://user@pop.example.org"

poplib._MAXLINE = 16 * 1024**2  # type: ignore[attr-defined]  # noqa: SLF001  # devices send lines beyond its 2048 octets


def _place(url: str) -> mailbox.Place:
    return mailbox.place(url, "pop3", 110, 995)


def _url(text: str) -> str:
    _place(text)
    return text


class Config(ConfigModel):
    """Whose mailbox, and what becomes of its mails."""

    url: Annotated[str, AfterValidator(_url)] = Field(
        repr=False, description=f"{_EXAMPLE}; pop3:// begins TLS with STLS"
    )
    password: SecretStr | None = None
    tls: ClientTls = ClientTls()
    starttls: bool = Field(default=True, description="For pop3://; false: without TLS, also the password")
    then: Literal["leave", "delete"] = "leave"
    every: Duration = Field(default=60, ge=1, le=86400, description="Seconds between two looks")
    max_size: ByteSize = Field(default=ByteSize(64 * 1024**2), description="Larger mails stay where they are")

    @model_validator(mode="after")
    def _knows_a_password(self) -> Self:
        if self.password is None:
            raise ValueError("a mailbox has a password")
        return self


class Pop3(Source):
    """See the text at the top."""

    config: Config

    def __init__(self, context: Context, config: Config) -> None:
        super().__init__(context, config)
        self._at = _place(config.url)
        self._odd: set[str] = set()  # what broke the conversation; it would break the next one as well
        self._fetcher = mailbox.Fetcher(context, self._at.host, Envelope, self._visit)

    async def start(self) -> None:
        await self._fetcher.start()

    async def stop(self) -> None:
        await self._fetcher.stop()

    def describe(self) -> str:
        return f"mail of {self._at.user} on {self._at.host}, every {self.config.every:g} s"

    # --- in the thread -----------------------------------------------------------------------------------------

    def _visit(self, fetcher: mailbox.Fetcher) -> None:
        while not fetcher.stopping.is_set():
            box = self._connect()
            try:
                self._fetch(fetcher, box)
                box.quit()  # only this deletes what was marked for it
            finally:
                box.close()
            fetcher.is_well()
            fetcher.stopping.wait(self.config.every)

    def _connect(self) -> poplib.POP3:
        box: poplib.POP3
        context = self.config.tls.context()
        if self._at.secure:
            box = poplib.POP3_SSL(self._at.host, self._at.port, timeout=_TIMEOUT, context=context)
        else:
            box = poplib.POP3(self._at.host, self._at.port, timeout=_TIMEOUT)
        try:
            if not self._at.secure and self.config.starttls:
                box.stls(context)
            assert self.config.password
            try:
                box.user(self._at.user)
                box.pass_(self.config.password.get_secret_value())
            except poplib.error_proto as error:
                raise mailbox.LoginRefused(_words(error)) from error
        except BaseException:
            with contextlib.suppress(OSError):  # it may be closed already
                box.close()
            raise
        return box

    def _fetch(self, fetcher: mailbox.Fetcher, box: poplib.POP3) -> None:
        keys = self._keys(box)
        fetcher.remember(fetcher.taken & set(keys.values()))
        sizes = {int(number): int(size) for number, size, *_ in map(bytes.split, box.list()[1])}
        for number, key in keys.items():
            if fetcher.stopping.is_set():
                return
            if key in self._odd:
                continue
            if key not in fetcher.taken:
                if sizes.get(number, 0) > self.config.max_size:
                    fetcher.too_large(key, f"a mail of {self._at.user}", sizes[number])
                    continue
                try:
                    lines = box.retr(number)[1]
                except poplib.error_proto as error:
                    if error.args == ("line too long",):  # our own limit: what is left of it would be the next answer
                        self._odd.add(key)
                    elif not isinstance(error.args[0], bytes):  # the connection has ended
                        raise
                    fetcher.refused(key, f"a mail of {self._at.user}", _words(error))
                    if key in self._odd:
                        raise
                    continue
                fetcher.keep(key, b"".join(line + b"\r\n" for line in lines))
            if self.config.then == "delete":
                box.dele(number)

    def _keys(self, box: poplib.POP3) -> dict[int, str]:
        """Number in this session -> key for ever."""
        try:
            lines = box.uidl()[1]
        except poplib.error_proto:
            if self.config.then != "delete":
                raise Broken(
                    f"{self._at.host} has no UIDL, so what was fetched can't be known: use 'then: delete'"
                ) from None
            # Never known again: a crash between keeping and deleting brings a mail twice, and none is lost.
            return {int(line.split()[0]): f"no-uidl.{secrets.token_hex(8)}" for line in box.list()[1]}
        return {int(number): key.decode("ascii", "replace") for number, key in (line.split(None, 1) for line in lines)}


def _words(error: poplib.error_proto) -> str:
    said = error.args[0] if error.args else b""
    return said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)
