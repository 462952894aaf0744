"""One connection to the smarthost. The only file that knows aiosmtplib.

`open` greets, starts TLS, logs in; `send` is one transaction and always has an answer for each recipient. What the
server did not say, because it hung up or fell silent, counts as "not now". Nothing is sent in the clear that was meant
for TLS, and no certificate is taken on trust, unless the configuration says so in words.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
import ssl
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Any, Self, cast

import aiosmtplib

from gateway.integrations.smtp_relay.address import Address
from gateway.integrations.smtp_relay.config import Config
from gateway.integrations.smtp_relay.outcome import Reply

_TOKEN_PATIENCE = 60.0  # seconds that the token command may take
_SLOWEST = 16 * 1024  # bytes a second that a mail is sent at least
_GOODBYE = 2.0
_MOST_WORDS = 500


class Away(Exception):
    """The smarthost can't be used now; the text says why."""


class LoginRefused(Away):
    """It refused our login: trying it again soon may lock the account."""


class Stale(Exception):
    """The connection that was kept had been closed by the server: nothing was said on it yet."""


@dataclass(frozen=True)
class Offers:
    """What the smarthost can do. `size`: bytes of the largest mail, None: it does not say."""

    size: int | None
    eightbit: bool
    utf8: bool
    dsn: bool


class Line:
    """See the text at the top."""

    def __init__(self, smtp: aiosmtplib.SMTP, config: Config, offers: Offers) -> None:
        self._smtp = smtp
        self._config = config
        self.offers = offers
        self.mails = 0
        self.fresh = True

    # --- beginning and end -------------------------------------------------------------------------------------

    @classmethod
    async def open(cls, config: Config, context: ssl.SSLContext) -> Self:
        """Raises Away, LoginRefused."""
        where = config.where()
        smtp = aiosmtplib.SMTP(
            hostname=where.host,
            port=where.port,
            use_tls=where.implicit,
            start_tls=False,
            tls_context=context,
            local_hostname="to.be.said.in.ehlo",
            timeout=config.timeouts.command,
        )
        try:
            await smtp.connect(timeout=config.timeouts.connect)
            name = config.hostname or _own_name(smtp.get_transport_info("sockname"))
            await _hello(smtp, name)
            await _secure(smtp, config, name)
            await _login(smtp, config)
        except Away:
            _cut(smtp)
            raise
        except (aiosmtplib.SMTPException, OSError, ValueError) as error:
            _cut(smtp)
            raise Away(f"{where.host}:{where.port}: {_words(error)}") from error
        except BaseException:
            _cut(smtp)
            raise
        size = smtp.esmtp_extensions.get("size", "")
        return cls(
            smtp,
            config,
            Offers(
                int(size) if size.isascii() and size.isdigit() and int(size) else None,
                smtp.supports_extension("8bitmime"),
                smtp.supports_extension("smtputf8"),
                smtp.supports_extension("dsn"),
            ),
        )

    @property
    def is_open(self) -> bool:
        return self._smtp.is_connected

    def abort(self) -> None:
        """Break it off: nobody knows what was said last."""
        _cut(self._smtp)

    async def close(self) -> None:
        """Say goodbye, if there is still somebody."""
        try:
            if self._smtp.is_connected:
                await self._smtp.quit(timeout=_GOODBYE)
        except (aiosmtplib.SMTPException, OSError):
            pass
        finally:
            _cut(self._smtp)

    # --- one mail ----------------------------------------------------------------------------------------------

    async def send(
        self, sender: Address, recipients: Sequence[Address], content: bytes, envelope_id: str
    ) -> dict[Address, Reply]:
        """One transaction: what the smarthost said for each recipient. Those that it has no room for come as 452.

        Raises Stale if the connection had been closed before: nobody has heard of the mail then.
        """
        utf8 = sender.needs_utf8 or any(recipient.needs_utf8 for recipient in recipients)
        encoding = "utf-8" if utf8 else "ascii"
        options = self._mail_options(content, utf8, envelope_id)
        smtp, was_fresh = self._smtp, self.fresh
        self.fresh = False
        self.mails += 1
        reply = await self._ask(smtp.mail(sender.wire, options=options, encoding=encoding))
        if reply.code in (0, 421) and not was_fresh and not self.is_open:
            raise Stale
        if not reply.good:
            await self._reset()
            return dict.fromkeys(recipients, reply)
        replies: dict[Address, Reply] = {}
        for recipient in recipients:
            if not self.is_open:
                replies[recipient] = Reply(0, f"not asked for any more: {reply}")
                continue
            reply = await self._ask(
                smtp.rcpt(recipient.wire, options=self._recipient_options(recipient), encoding=encoding)
            )
            replies[recipient] = reply
        accepted = [recipient for recipient, said in replies.items() if said.good]
        if not accepted or not self.is_open:
            await self._reset()
            lost = Reply(0, f"the connection ended before the mail was sent: {reply}")
            return {one: lost if said.good else said for one, said in replies.items()}
        patience = self._config.timeouts.data + len(content) / _SLOWEST
        reply = await self._ask(smtp.data(content, timeout=patience))
        if not reply.good:
            await self._reset()
        return replies | dict.fromkeys(accepted, reply)

    def _mail_options(self, content: bytes, utf8: bool, envelope_id: str) -> list[str]:
        options = []
        if self._smtp.supports_extension("size"):
            options.append(f"SIZE={len(content)}")
        if self.offers.eightbit and not content.isascii():
            options.append("BODY=8BITMIME")
        if utf8:
            options.append("SMTPUTF8")
        if self.offers.dsn:
            options += ["RET=HDRS", f"ENVID={envelope_id}"]
        return options

    def _recipient_options(self, recipient: Address) -> list[str]:
        if not self.offers.dsn:
            return []
        options = ["NOTIFY=FAILURE"]
        if not recipient.needs_utf8:
            options.append(f"ORCPT=rfc822;{_xtext(recipient.wire)}")
        return options

    async def _ask(self, question: Awaitable[aiosmtplib.SMTPResponse]) -> Reply:
        """The reply; of a connection that was lost, our words, and it is closed."""
        try:
            code, text = await question
        except aiosmtplib.SMTPResponseException as error:
            code, text = error.code, error.message
            if isinstance(error, aiosmtplib.SMTPDataError) and code == 250:  # to DATA itself: nothing was sent yet
                code = 0
        except (aiosmtplib.SMTPException, OSError) as error:
            self._smtp.close()
            return Reply(0, _words(error))
        if not 200 <= code < 600:
            self._smtp.close()
            return Reply(0, f"the smarthost's reply is none: {_clean(text)}")
        if code == 421:
            self._smtp.close()
        return Reply(code, _clean(text))

    async def _reset(self) -> None:
        if self.is_open:
            reply = await self._ask(self._smtp.rset(timeout=self._config.timeouts.command))
            if not reply.good:
                self._smtp.close()


def _cut(smtp: aiosmtplib.SMTP) -> None:
    """Close it without waiting for the other side's last word in TLS."""
    transport = smtp.transport
    smtp.close()
    if transport is not None:
        cast(asyncio.WriteTransport, transport).abort()  # uvloop's is not derived from it


async def _hello(smtp: aiosmtplib.SMTP, name: str) -> None:
    try:
        await smtp.ehlo(hostname=name)
    except aiosmtplib.SMTPHeloError as error:
        if error.code // 100 != 5 or not smtp.is_connected:
            raise
        await smtp.helo(hostname=name)  # a server of before 1995


async def _secure(smtp: aiosmtplib.SMTP, config: Config, name: str) -> None:
    """STARTTLS, as configured."""
    where = config.where()
    wanted = config.starttls or "required"
    if where.implicit or wanted == "never":
        return
    if not smtp.supports_extension("starttls"):
        if wanted == "required":
            raise Away(
                f"{where.host}:{where.port} offers no STARTTLS, and nothing goes out in the clear. "
                "For a host of your own network say 'starttls: never'"
            )
        return
    await smtp.starttls(timeout=config.timeouts.connect)
    await _hello(smtp, name)


async def _login(smtp: aiosmtplib.SMTP, config: Config) -> None:
    where = config.where()
    if where.user is None:
        return
    offered = smtp.server_auth_methods
    if config.token_command:
        wanted = ["xoauth2"]
    elif config.auth != "auto":
        wanted = [config.auth]
    else:
        wanted = ["plain", "login", "cram-md5"]
        if smtp.get_transport_info("sslcontext") is None:
            wanted.sort(key=lambda one: one != "cram-md5")  # the one that does not show the password
    ways = [one for one in wanted if one in offered]
    if not ways:
        there = f"it offers {', '.join(offered)}" if offered else "it offers none at all, perhaps only with TLS"
        raise LoginRefused(f"{where.host}:{where.port} does not offer the login {' or '.join(wanted)}: {there}")
    secret = await _token(config.token_command) if config.token_command else where.password or ""
    log_in = {
        "plain": smtp.auth_plain,
        "login": smtp.auth_login,
        "cram-md5": smtp.auth_crammd5,
        "xoauth2": smtp.auth_xoauth2,
    }[ways[0]]
    try:
        await log_in(where.user, secret)
    except aiosmtplib.SMTPAuthenticationError as error:
        words = f"{where.host}:{where.port} refused the login of {where.user} ({ways[0]}): {_said(error)}"
        raise (LoginRefused if error.code // 100 == 5 else Away)(words) from error


async def _token(command: Sequence[str]) -> str:
    """The first line that the program prints. Raises Away."""
    try:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
    except OSError as error:
        raise LoginRefused(f"token_command: {command[0]}: {error.strerror}") from error
    try:
        async with asyncio.timeout(_TOKEN_PATIENCE):
            out, errors = await process.communicate()
    except TimeoutError:
        raise LoginRefused(f"token_command: {command[0]} gave no token in {_TOKEN_PATIENCE:.0f} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    token = out.decode("utf-8", "replace").strip().partition("\n")[0].strip()
    if process.returncode or not token:
        why = _clean(errors.decode("utf-8", "replace")) or "it said nothing"
        raise LoginRefused(f"token_command: {command[0]} ended with {process.returncode}: {why}")
    return token


def _own_name(address: Any) -> str:
    """This machine's name if it is a whole one, else the literal of its address (RFC 5321 §4.1.4)."""
    name = socket.gethostname()
    if "." in name.strip(".") and name.isascii() and all(part.replace("-", "").isalnum() for part in name.split(".")):
        return name
    ip = ipaddress.ip_address(str(address[0]).partition("%")[0])
    return f"[{ip}]" if ip.version == 4 else f"[IPv6:{ip}]"


def _xtext(text: str) -> str:
    """RFC 3461 §4."""
    return "".join(letter if "!" <= letter <= "~" and letter not in "+=" else f"+{ord(letter):02X}" for letter in text)


def _said(error: aiosmtplib.SMTPResponseException) -> str:
    return f"{error.code} {_clean(error.message)}" if error.code > 0 else _clean(error.message)


def _words(error: BaseException) -> str:
    if isinstance(error, aiosmtplib.SMTPResponseException):
        return _said(error)
    cause = error.__cause__ if isinstance(error, aiosmtplib.SMTPException) and error.__cause__ else None
    if isinstance(cause, ssl.SSLCertVerificationError):
        error = cause
    if isinstance(error, ssl.SSLCertVerificationError):
        why = error.verify_message
        return f"its certificate can't be trusted: {why}. If it is your own, name its authority: tls: {{ca: FILE}}"
    if isinstance(cause, OSError) and not isinstance(cause, ssl.SSLError | socket.gaierror) and cause.errno:
        return os.strerror(cause.errno)  # asyncio says "connect call failed" whatever the reason
    return _clean(str(cause if isinstance(cause, OSError) and str(cause) else error)) or type(error).__name__


def _clean(text: str) -> str:
    """What a server said, on one line, as text that can be kept and shown."""
    text = " ".join(text.encode("utf-8", "surrogateescape").decode("utf-8", "replace").split())[:_MOST_WORDS]
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)
