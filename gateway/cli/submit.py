"""Handing a mail to an SMTP server: for `send` and `sendmail`, with words for all that goes wrong.

smtplib does the talking. The content goes by a way of our own, because smtplib alters it: it adds dots after bare
line feeds, where RFC 5321 §4.5.2 knows lines that end with CRLF only.
"""

from __future__ import annotations

import contextlib
import re
import smtplib
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from gateway.cli import show

_PATIENCE = 60.0  # seconds for each answer
_AFTER_DOT = 600.0  # seconds for the answer to the final dot (RFC 5321 §4.5.3.2.6)
_PIECE = 64 * 1024  # bytes


class NotTaken(Exception):
    """The mail was not taken; the text says why. `code`: the reply's, or 0.

    `reached`: somebody answered there who takes mail from us, though not this one.
    """

    def __init__(self, text: str, *, reached: bool = True, code: int = 0) -> None:
        super().__init__(text)
        self.reached = reached
        self.code = code


@dataclass(slots=True)
class Server:
    """Where to and how. `tls`: none, starttls, implicit. `verify`: the certificate must be one that is trusted."""

    host: str
    port: int
    tls: str = "none"
    verify: bool = True
    helo: str | None = None
    login: tuple[str, str] | None = None

    def __str__(self) -> str:
        return show.address(self.host, self.port)


def place(text: str) -> tuple[str, int]:
    """`HOST[:PORT]`, IPv6 with a port as `[HOST]:PORT` -> (host, port); raises ValueError."""
    host, port = text, "2525"
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        port = rest.removeprefix(":") or port
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"{text!r} is no HOST[:PORT]; write 192.168.1.10:2525 or [fd00::10]:2525")
    return host, int(port)


@dataclass(slots=True)
class Session:
    """A server that has greeted us."""

    server: Server
    smtp: smtplib.SMTP

    def transmit(
        self,
        mail_from: str,
        recipients: Sequence[str],
        content: bytes,
        *,
        refused: Callable[[str], None] = lambda _: None,
    ) -> str:
        """One transaction; the server's answer to the content. `refused` is told of recipients that were not taken.

        Raises NotTaken.
        """
        with _in_words(self.server):
            try:
                return _transaction(self.smtp, mail_from, recipients, content, refused)
            except NotTaken:
                self.smtp.rset()
                raise


@contextlib.contextmanager
def session(server: Server) -> Iterator[Session]:
    """Greeted, encrypted and logged in as `server` says. Raises NotTaken."""
    context = ssl.create_default_context()
    if not server.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    try:
        smtp: smtplib.SMTP
        if server.tls == "implicit":
            smtp = smtplib.SMTP_SSL(server.host, server.port, server.helo, timeout=_PATIENCE, context=context)
        else:
            smtp = smtplib.SMTP(server.host, server.port, server.helo, timeout=_PATIENCE)
    except OSError as error:  # smtplib's own are among them
        code = getattr(error, "smtp_code", 0)
        reached = isinstance(error, smtplib.SMTPResponseException | ssl.SSLError) and code // 100 != 5
        raise NotTaken(_words(error, server), reached=reached, code=code) from error
    try:
        with _in_words(server):
            smtp.ehlo_or_helo_if_needed()
            if server.tls == "starttls":
                smtp.starttls(context=context)
                smtp.ehlo_or_helo_if_needed()
            if server.login:
                smtp.login(*server.login)
        yield Session(server, smtp)
        with contextlib.suppress(OSError):
            smtp.quit()
    finally:
        smtp.close()


@contextlib.contextmanager
def _in_words(server: Server) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise NotTaken(_words(error, server), code=getattr(error, "smtp_code", 0)) from error
    except UnicodeEncodeError as error:  # smtplib says hello and logs in with ASCII alone
        raise NotTaken("User, password and --helo can be sent in ASCII only.") from error


def _transaction(
    smtp: smtplib.SMTP,
    mail_from: str,
    recipients: Sequence[str],
    content: bytes,
    refused: Callable[[str], None],
) -> str:
    addresses = [mail_from, *recipients]
    for address in addresses:
        if any(letter < " " or letter == "\x7f" for letter in address):
            raise NotTaken(f"{address!r} is no address: it has a control character.", code=501)
        if not address.isascii() and not smtp.has_extn("smtputf8"):
            raise NotTaken(f"The server takes no addresses beyond ASCII, such as {address}.", code=553)
    options = [f"SIZE={len(content)}"] if smtp.has_extn("size") else []
    if smtp.has_extn("8bitmime") and not content.isascii():
        options.append("BODY=8BITMIME")
    if not "".join(addresses).isascii():
        options.append("SMTPUTF8")
    code, answer = smtp.mail(mail_from, options)
    if code != 250:
        words = f"The server refused the sender {mail_from or '<>'}: {_reply(code, answer)}"
        raise NotTaken(words, reached=code != 530, code=code)  # 530: it wants a login (RFC 4954 §6)
    taken = 0
    for recipient in recipients:
        code, answer = smtp.rcpt(recipient)
        if code in (250, 251):
            taken += 1
        else:
            refused(f"The server refused the recipient {recipient}: {_reply(code, answer)}")
    if not taken:
        raise NotTaken("The server took none of the recipients.", code=code)
    code, answer = _content(smtp, content)
    if code != 250:
        raise NotTaken(f"The server did not take the mail: {_reply(code, answer)}", code=code)
    return _reply(code, answer)


def _content(smtp: smtplib.SMTP, content: bytes) -> tuple[int, bytes]:
    """By BDAT (RFC 3030) where it is offered, which leaves every byte as it is; else by DATA."""
    assert smtp.sock is not None
    if smtp.has_extn("chunking"):
        smtp.send(b"BDAT %d LAST\r\n" % len(content))
        _send(smtp, content)
    else:
        code, answer = smtp.docmd("DATA")
        if code != 354:
            return code, answer
        stuffed = re.sub(rb"(\A|\r\n)\.", rb"\1..", content)
        _send(smtp, stuffed + (b".\r\n" if stuffed.endswith(b"\r\n") or not stuffed else b"\r\n.\r\n"))
    smtp.sock.settimeout(_AFTER_DOT)
    code, answer = smtp.getreply()
    smtp.sock.settimeout(_PATIENCE)
    return code, answer


def _send(smtp: smtplib.SMTP, content: bytes) -> None:
    """In pieces, for Python's time limit is for each call as a whole."""
    for start in range(0, len(content), _PIECE):
        smtp.send(content[start : start + _PIECE])


def _reply(code: int, answer: bytes | str) -> str:
    text = answer if isinstance(answer, str) else answer.decode(errors="replace")
    return f"{code} {' '.join(text.split())}"


def _words(error: OSError, server: Server) -> str:
    """What happened, and what to do about it."""
    hint = " A port that wants TLS from the first byte does that: try --tls implicit." if server.tls == "none" else ""
    match error:
        case smtplib.SMTPAuthenticationError():
            answer = _reply(error.smtp_code, error.smtp_error)
            return f"{server} refused the login: {answer}. Check --user and --password."
        case smtplib.SMTPNotSupportedError() if "STARTTLS" in str(error):
            hour = "A Mailwire that TLS has just failed with here does so again after an hour, or after its restart."
            return f"{server} does not offer STARTTLS. Try --tls implicit, or --tls none. {hour}"
        case smtplib.SMTPNotSupportedError():
            return f"{server} offers no login. Leave out --user; some offer it after --tls starttls only."
        case smtplib.SMTPResponseException():
            return f"{server} turned us away: {_reply(error.smtp_code, error.smtp_error)}"
        case smtplib.SMTPServerDisconnected() if "timed out" in str(error):
            return f"{server} does not answer.{hint}"
        case smtplib.SMTPServerDisconnected() | ConnectionResetError() | BrokenPipeError():
            return f"{server} hung up before it had taken the mail.{hint}"
        case smtplib.SMTPException():
            return f"{server}: {error}"
        case ssl.SSLCertVerificationError():
            why = error.verify_message
            return f"{server} has a certificate that is not trusted here: {why}. With --insecure it is not checked."
        case ssl.SSLError() if server.tls == "implicit" and error.reason == "WRONG_VERSION_NUMBER":
            return f"{server} does not speak TLS from its first byte. Try --tls starttls, or --tls none."
        case ssl.SSLError():
            return f"{server}: TLS could not be agreed: {error.reason or error}."
        case ConnectionRefusedError():
            return f"Nothing listens at {server}. Does the gateway run (mailwire run)?"
        case socket.gaierror():
            return f"There is no host {server.host}: {error.strerror}."
        case TimeoutError():
            return f"{server} does not answer."
        case _:
            return f"{server} can't be reached: {error.strerror or error}."
