"""The receiving side of an SMTP session: bytes in, events and replies out; no I/O and no clock (RFC 5321).

The law of this file:

- 250 to a mail is never the session's own word. At the end of a mail it stops and waits until its owner has made the
  mail durable and calls `mail_done`. What was pipelined behind is kept and handled afterwards.
- Only CRLF . CRLF ends DATA, and only its count ends a chunk of BDAT. What is in there is given on as it came, less
  the one dot of a stuffed line (§4.5.2), and never runs as commands.
- A peer's mistake is a reply, never an exception; memory does not grow with what a peer sends; nothing that a peer
  sent is echoed.

It has two tempers. `strict` is the RFC. The default is for devices on a private network: what can be meant in one way
only is accepted (HELO without a name, LF at the end of a command, addresses without brackets or with blanks,
parameters that were not offered) and remarked once, so that somebody can mend the device.

The owner gives what it reads to `receive`, handles each event, then sends what `output` returns:

    for event in session.receive(data):
        ...
    transport.write(session.output())

`mail_done`, `mail_failed` and `auth_done` return events of the same kind. While `waiting` the owner stops reading. When
there is `more` it calls `go_on` after the peer has taken the output: who asks and never reads fills no memory.
MicroPython-safe, and on the hot path.
"""

from binascii import a2b_base64

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Event = tuple[Any, ...]

# An event is a tuple that begins with one of these.
BEGIN = 1
"""`(BEGIN,)`: a mail's content is about to come and its envelope is complete."""
BODY = 2
"""`(BODY, bytes)`: the next bytes of the mail."""
MAIL = 3
"""`(MAIL,)`: the mail is complete. The session waits for `mail_done` or `mail_failed`."""
ABORT = 4
"""`(ABORT,)`: what came since BEGIN is void: the mail is too big, or was given up by its sender. No MAIL follows."""
AUTH = 5
"""`(AUTH, mechanism, user, password)`, all str. The session waits for `auth_done`."""
STARTTLS = 6
"""`(STARTTLS,)`: send `output()`, start TLS, call `tls_started`. Until then whatever comes is thrown away."""
CLOSE = 7
"""`(CLOSE, reason)`: send `output()`, then close. The last event of a session. The reason is "quit", "bad-commands",
"commands", "logins", "bdat", "http" or "tls-hello"."""
REMARK = 8
"""`(REMARK, code, text)`: a peculiarity of this device and its remedy, for a person. Each code once a session."""

COMMAND_LINE = 4096
"""Octets in a command line: RFC 5321 §4.5.3.1.4 asks for 512, extensions for some hundred more."""
AUTH_LINE = 12288 + 32
"""Octets in a line of an AUTH exchange: of base64 (RFC 4954 §4), and of the command before it."""
PATH = 256
"""Octets in an address (RFC 5321 §4.5.3.1.3)."""
PARAMETERS = 32
"""Parameters of an address. All extensions together know ten; a line has room for two thousand, each an object here."""

REPLIES = 256
"""Replies that may be due before the session says that there is `more`."""

# States. In the first two the session reads lines; in the last four it reads nothing.
_COMMAND = 0
_LOGIN = 1
_SKIP = 2
_CONTENT = 3
_CHUNK = 4
_MAIL = 5
_VERDICT = 6
_TLS = 7
_CLOSED = 8

_BEGIN = (BEGIN,)
_ABORT = (ABORT,)
_DONE = (MAIL,)

# Replies of the hot path: the second of each is for a peer that said EHLO (RFC 2034).
_SENDER_OK = (b"250 Ok\r\n", b"250 2.1.0 Ok\r\n")
_RECIPIENT_OK = (b"250 Ok\r\n", b"250 2.1.5 Ok\r\n")
_GO_AHEAD = b"354 End with <CRLF>.<CRLF>\r\n"

_TOO_BIG = (552, "5.3.4", "Message too big")
_NO_ROOM = (452, "4.3.1", "Not enough storage now, try again later")
_BDAT_SYNTAX = (501, "5.5.4", "Syntax: BDAT size [LAST]")

# Verbs that have no handler, with blanks around each: a table of them would take a board's memory.
_NOT_HERE = b" EXPN TURN ETRN SEND SOML SAML "
_HTTP = b" GET POST PUT HEAD OPTIONS CONNECT DELETE PATCH TRACE PRI "

_END = b"\r\n.\r\n"
_BLANKS = b" \t\r\0"  # around a command; NULs because some firmware sends its whole buffer
_PLAIN = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789@.-_+="  # what most addresses are made of
_SMALL, _DOTS = 4096, 64  # see _line_dot
_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"


class Session:
    """One connection's session, from the greeting to CLOSE.

    `hostname` is ours. `tls` is "none", "offered" or "required" (by STARTTLS); `secure`: the connection is inside TLS
    already. `login` is "any" (offered, and whatever is sent is right), "none" (not offered), "optional" (right if
    used) or "required". `max_size` is in bytes; `max_commands` counts all commands (0: no limit), `max_bad` those
    since the last mail that were refused for their form or order. `recipient(address)` false means 550. `room()` is how
    many bytes a mail may have now: less means 452, and is never advertised, because a client takes SIZE for final (RFC
    1870 §6.1). `chunking`, `smtputf8`, `dsn` and `pipelining` are advertised if true; `dsn` is off because nobody here
    sends notifications. `bare_lf` is for the one device that ends its lines, and so its mails, with LF: every lone LF
    that it sends becomes CRLF.

    What the peer said is in attributes; the owner reads them while it handles BEGIN or MAIL, for the session forgets
    the mail's part when that is answered. `mail_from` is "" for the null sender and None outside of a transaction;
    `params` and, with `dsn`, `recipient_params[address]` hold ESMTP parameters as sent (upper-case name -> value; xtext
    is not decoded); `user` is the name that logged in or None; `size` counts the bytes of content given on. `more`:
    there is input that waits for `output` to be taken.
    """

    __slots__ = (
        "_bad", "_bare_lf", "_begun", "_chunking", "_commands", "_dsn", "_ended_in_cr", "_events", "_failed_logins",
        "_failure", "_greeted", "_hostname", "_kept", "_last", "_lead", "_left", "_login", "_max_auth_failures",
        "_max_bad", "_max_commands", "_max_recipients", "_max_size", "_mechanism", "_name", "_out", "_pipelining",
        "_recipient", "_refusal", "_remarked", "_room", "_smtputf8", "_state", "_strict", "_tail", "_tls", "esmtp",
        "helo", "mail_from", "more", "params", "recipient_params", "recipients", "secure", "size", "user",
    )  # fmt: skip

    def __init__(
        self,
        hostname: str,
        *,
        tls: str = "none",
        secure: bool = False,
        login: str = "any",
        strict: bool = False,
        max_size: int = 64 * 1024 * 1024,
        max_recipients: int = 1000,
        max_commands: int = 0,
        max_bad: int = 20,
        max_auth_failures: int = 3,
        chunking: bool = True,
        smtputf8: bool = True,
        dsn: bool = False,
        pipelining: bool = True,
        bare_lf: bool = False,
        recipient: "Callable[[str], bool] | None" = None,
        room: "Callable[[], int] | None" = None,
    ) -> None:
        self._hostname = hostname
        self._tls = tls
        self._login = login
        self._strict = _strict_rules() if strict else None
        self._max_size = max_size
        self._max_recipients = max_recipients
        self._max_commands = max_commands
        self._max_bad = max_bad
        self._max_auth_failures = max_auth_failures
        self._chunking = chunking and not bare_lf  # a chunk is counted in bytes, so none may be added
        self._smtputf8 = smtputf8
        self._dsn = dsn
        self._pipelining = pipelining
        self._bare_lf = bare_lf
        self._recipient = recipient
        self._room = room

        self.secure = secure
        self.helo = ""
        self.esmtp = False
        self.user: str | None = None
        self._greeted = False
        self._state = _COMMAND
        self.more = False
        self._kept = b""  # input not yet understood: the start of a line, or all while the owner is asked
        self._ended_in_cr = False
        self._out: list[bytes] = []
        self._events: list[Event] = []
        self._remarked: list[str] = []
        self._commands = 0
        self._bad = 0
        self._failed_logins = 0
        self._mechanism = ""
        self._name: str | None = None  # who wants to log in
        self._tail = b""  # DATA: the end of what came, while it may be the start of CRLF . CRLF
        self._lead = False  # DATA: `_tail` begins with the CRLF that ended the DATA command
        self._left = 0  # BDAT: octets of the chunk that are still to come
        self._last = False
        self._refusal: tuple[int, str, str] | None = None  # BDAT: the chunk is no part of a mail; the reply to it
        self._forget()

    def _forget(self) -> None:
        """There is no transaction."""
        self.mail_from: str | None = None
        self.recipients: list[str] = []
        self.params: dict[str, str] = {}
        self.recipient_params: dict[str, dict[str, str]] = {}
        self.size = 0
        self._begun = False
        self._failure: tuple[int, str, str] | None = None  # the answer that the end of a given-up mail will get

    # What the owner calls.

    def greeting(self) -> bytes:
        """The 220 line that opens the session."""
        return f"220 {self._hostname} ESMTP Mailwire\r\n".encode()

    def receive(self, data: bytes) -> "list[Event]":
        """Take what was read from the peer; return what happened, in order."""
        if self._bare_lf:
            data = self._with_crlf(data)
        if self._kept:
            data = self._kept + data
            self._kept = b""
        return self._read(data)

    def go_on(self) -> "list[Event]":
        """Read what was left when there was `more`, or an answer was owed."""
        kept = self._kept
        self._kept = b""
        return self._read(kept)

    def output(self) -> bytes:
        """The replies that are due, to be sent now. Empties them."""
        out = self._out
        if len(out) == 1:
            return out.pop()
        self._out = []
        return b"".join(out)

    def mail_done(self, mail_id: str) -> "list[Event]":
        """Answer MAIL: it is durable. Goes on with what was pipelined and returns its events."""
        return self._answer_mail(250, "2.0.0", "Ok: stored as " + mail_id)

    def mail_failed(self, code: int, enhanced: str, text: str) -> "list[Event]":
        """Answer MAIL: it is not durable; for instance `(451, "4.3.0", "Try again later")`. Goes on as above."""
        return self._answer_mail(code, enhanced, " ".join(text.split()))

    def _answer_mail(self, code: int, enhanced: str, text: str) -> "list[Event]":
        if self._state != _MAIL:
            return []
        self._state = _COMMAND
        if code == 250:  # who brings mails may keep its connection and its bad habits
            self._bad = 0
        self._say(code, enhanced, text)
        self._forget()
        return self.go_on()

    def fail_mail(self, code: int, enhanced: str, text: str) -> None:
        """Give up the mail whose content is coming: the rest is discarded, and this is the answer at its end.

        May be called at BEGIN and BODY. If the mail is complete by now its MAIL event still comes (answer it with
        `mail_failed`); otherwise no further event of this mail does.
        """
        if self._begun and self._failure is None and self._state != _MAIL:
            self._failure = (code, enhanced, " ".join(text.split()))

    def auth_done(self, ok: "bool | None") -> "list[Event]":
        """Answer AUTH; None: it could not be found out now. Goes on with what was pipelined and returns its events."""
        if self._state != _VERDICT:
            return []
        self._state = _COMMAND
        if ok:
            self._logged_in()
        elif ok is None:
            self._say(454, "4.7.0", "Temporary authentication failure, try again later")
        else:
            self._failed_logins += 1
            if self._failed_logins < self._max_auth_failures:
                self._say(535, "5.7.8", "Authentication credentials invalid")
            else:
                self._hang_up("logins", "Too many failed logins")
        return self.go_on()

    def tls_started(self) -> None:
        """Answer STARTTLS: the connection is inside TLS now, and nothing said before counts (RFC 3207 §4.2)."""
        self.secure = True
        self.helo = ""
        self.esmtp = False
        self.user = None
        if self._strict:  # some devices don't greet a second time
            self._greeted = False
        self._state = _COMMAND

    def timeout(self) -> bytes:
        """The 421 line for a peer that was silent too long. The session is over."""
        return self._farewell("4.4.2", "Timeout, closing")

    def shutdown(self) -> bytes:
        """The 421 line for a service that stops (RFC 5321 §3.8). The session is over."""
        return self._farewell("4.3.2", "Service shutting down")

    @property
    def in_mail(self) -> bool:
        """Content is being received."""
        return self._state == _CONTENT or self._state == _CHUNK

    @property
    def in_line(self) -> bool:
        """A command line has begun and has not ended."""
        return self._state == _SKIP or (self._state <= _LOGIN and self._kept != b"")

    @property
    def idle(self) -> bool:
        """No transaction is open: the connection may be closed without loss."""
        return self.mail_from is None and not self.waiting

    @property
    def waiting(self) -> bool:
        """The owner owes an answer to MAIL, AUTH or STARTTLS."""
        return _MAIL <= self._state <= _TLS

    # Reading.

    def _read(self, data: bytes) -> "list[Event]":
        pos = 0
        self.more = False
        while pos < len(data):
            state = self._state
            if state <= _LOGIN:
                if len(self._out) >= REPLIES:
                    self.more = True
                    break
                end = data.find(b"\n", pos)
                if end < 0 or end - pos > COMMAND_LINE:
                    if state == _COMMAND and _is_tls_hello(data[pos : pos + 4]):
                        self._tls_hello()
                        break
                    if (len(data) if end < 0 else end) - pos > self._line_limit(data, pos):
                        self._state = _SKIP
                        continue
                    if end < 0:
                        break
                line = data[pos:end].strip(_BLANKS)
                in_full = (end > pos and data[end - 1] == 13) or self._lone_lf(line)
                pos = end + 1
                if not in_full:
                    continue
                if state == _COMMAND:
                    self._command(line)
                else:
                    self._response(line)
            elif state == _CONTENT:
                pos = self._content(data, pos)
            elif state == _CHUNK:
                chunk = data[pos : pos + min(self._left, len(data))]  # a slice takes no number of thirty digits
                pos += len(chunk)
                self._left -= len(chunk)
                if self._refusal is None:
                    self._body(chunk)
                if not self._left:
                    self._chunk_end()
            elif state == _SKIP:
                end = data.find(b"\n", pos)
                if end < 0:
                    pos = len(data)
                    break
                pos = end + 1
                self._state = _COMMAND
                self._refuse(500, "5.5.2", "Line too long")
            else:
                break
        if pos < len(data) and self._state < _TLS:
            self._kept = data[pos:]
        events = self._events
        self._events = []
        return events

    def _line_limit(self, data: bytes, pos: int) -> int:
        login = self._state == _LOGIN or data[pos : pos + 4].upper() == b"AUTH"
        return AUTH_LINE if login else COMMAND_LINE

    def _lone_lf(self, line: bytes) -> bool:
        """Whether a line that ends in LF alone is taken."""
        if self._state == _COMMAND and _is_tls_hello(line):
            self._tls_hello()
            return False
        if not self._strict:
            self._remark("lf-commands")
            return True
        self._state = _COMMAND
        if line[:4].upper() == b"BDAT":
            self._lost_count()
        else:
            self._refuse(500, "5.5.2", "Lines must end in CRLF")
        return False

    def _with_crlf(self, data: bytes) -> bytes:
        """Every LF as CRLF, also where the CR came with the data before."""
        paired = b"\n" if self._ended_in_cr and data[:1] == b"\n" else b""
        self._ended_in_cr = data[-1:] == b"\r"
        return paired + data[len(paired) :].replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")

    def _content(self, data: bytes, pos: int) -> int:
        """DATA: give on what is certainly content; return where reading goes on."""
        if self._lead and len(self._tail) == 2 and data[pos] != 46:  # the first line has no dot, so it is no end
            self._lead = False
            self._tail = b""
        rest = data[pos:] if pos else data  # MicroPython copies what is sliced, whole as it may be
        chunk = self._tail + rest if self._tail else rest
        dot = _line_dot(chunk)
        end = chunk.find(_END, dot) if dot >= 0 else -1
        if end >= 0:
            size = end + 2
            pos += size + 3 - len(self._tail)
            self._tail = b""
        else:
            size = len(chunk)
            pos = len(data)
            last = chunk[-1]
            if last == 10:
                if chunk.endswith(b"\r\n"):
                    size -= 2
                elif chunk.endswith(b"\n.\n"):
                    self._remark("lf-end")
            elif last == 13:
                size -= 4 if chunk.endswith(b"\r\n.\r") else 1
            elif last == 46 and chunk.endswith(b"\r\n."):
                size -= 3
            self._tail = chunk[size:]
        body = chunk[:size] if size < len(chunk) else chunk
        if dot != end:  # a stuffed line
            body = body.replace(b"\r\n.", b"\r\n")
        if self._lead and size:
            self._lead = False
            body = body[2:]
        if body:
            self._body(body)
        if end >= 0:
            self._mail_end()
        return pos

    def _body(self, body: bytes) -> None:
        if self._failure is None:
            self.size += len(body)
            if self.size <= self._max_size:
                self._events.append((BODY, body))
            else:
                self._failure = _TOO_BIG
                self._events.append(_ABORT)

    def _chunk_end(self) -> None:
        self._state = _COMMAND
        if self._refusal is not None:
            self._reset()
            self._refuse(*self._refusal)
        elif self._last or self._failure is not None:
            self._mail_end()
        else:
            self._say(250, "2.0.0", "Ok: chunk taken")

    def _mail_end(self) -> None:
        if self._failure is None:
            self._state = _MAIL
            self._events.append(_DONE)
        else:
            self._state = _COMMAND
            self._say(*self._failure)
            self._forget()

    # Answering.

    def _line(self, code: int, enhanced: str, text: str) -> bytes:
        return (f"{code} {enhanced} {text}\r\n" if self.esmtp else f"{code} {text}\r\n").encode()

    def _say(self, code: int, enhanced: str, text: str) -> None:
        self._out.append(self._line(code, enhanced, text))

    def _refuse(self, code: int, enhanced: str, text: str) -> None:
        """Answer a command that was wrong in form or order; too many of them end the session."""
        self._bad += 1
        if self._bad > self._max_bad:
            self._hang_up("bad-commands", "Too many errors")
        else:
            self._say(code, enhanced, text)

    def _remark(self, code: str) -> None:
        if code not in self._remarked:
            from gateway.wire.smtp_remarks import REMARKS

            self._remarked.append(code)
            self._events.append((REMARK, code, REMARKS[code]))

    def _reset(self) -> None:
        if self._begun and self._failure is None:
            self._events.append(_ABORT)
        self._forget()

    def _farewell(self, enhanced: str, text: str) -> bytes:
        self._state = _CLOSED
        return self._line(421, enhanced, self._hostname + " " + text)

    def _hang_up(self, reason: str, text: str) -> None:
        self._out.append(self._farewell("4.7.0", text))
        self._close(reason)

    def _close(self, reason: str) -> None:
        self._reset()
        self._state = _CLOSED
        self._events.append((CLOSE, reason))

    # Commands. Each is given what stands behind its verb.

    def _command(self, line: bytes) -> None:
        self._commands += 1
        if self._commands > self._max_commands > 0:
            self._hang_up("commands", "Too many commands")
            return
        words = line.split(None, 1)
        verb = words[0].upper() if words else b""
        handler = self._VERBS.get(verb)
        if handler is not None:
            handler(self, words[1] if len(words) > 1 else b"")
        elif _is_tls_hello(line):
            self._tls_hello()
        elif b" " + verb + b" " in _HTTP:
            self._remark("http")
            self._hang_up("http", "This is SMTP, not HTTP")
        elif b" " + verb + b" " in _NOT_HERE:
            self._refuse(502, "5.5.1", "Command not implemented")
        else:
            self._refuse(500, "5.5.1", "Command not recognized")

    def _helo(self, rest: bytes) -> None:
        if self._greet(rest):
            self.esmtp = False
            self._say(250, "", self._hostname)

    def _ehlo(self, rest: bytes) -> None:
        if not self._greet(rest):
            return
        self.esmtp = True
        lines = [self._hostname, f"SIZE {self._max_size}", "8BITMIME", "ENHANCEDSTATUSCODES"]
        if self._pipelining:
            lines.append("PIPELINING")
        if self._chunking:
            lines.append("CHUNKING")
        if self._smtputf8:
            lines.append("SMTPUTF8")
        if self._dsn:
            lines.append("DSN")
        if self._tls != "none" and not self.secure:
            lines.append("STARTTLS")
        if self._login != "none" and not self._needs_tls():
            lines.append("AUTH PLAIN LOGIN")
        self._out.append(("250-" + "\r\n250-".join(lines) + "\r\n250 HELP\r\n").encode())

    def _greet(self, name: bytes) -> bool:
        if not name:
            if self._strict:
                self._refuse(501, "5.5.4", "Say your name")
                return False
            self._remark("empty-helo")
        self._reset()
        self.helo = _visible(_text(name))[:PATH]
        self._greeted = True
        return True

    def _mail(self, rest: bytes) -> None:
        if self.mail_from is not None:
            self._refuse(503, "5.5.1", "A mail is under way, RSET first")
        elif not self._greeted:
            self._refuse(503, "5.5.1", "Say HELO or EHLO first")
        elif self._needs_tls():
            self._refuse(530, "5.7.0", "Must issue a STARTTLS command first")
        elif self._login == "required" and self.user is None:
            self._refuse(530, "5.7.0", "Authentication required")
        else:
            found = self._path(rest, b"FROM")
            if found is None:
                return
            address, params = found
            size = number(params["SIZE"]) if "SIZE" in params else 0
            if size > self._max_size:
                self._say(*_TOO_BIG)
            elif size > 0 and self._lacks_room(size):
                self._say(*_NO_ROOM)
            else:
                self.mail_from = address
                self.params = params
                self._out.append(_SENDER_OK[self.esmtp])

    def _rcpt(self, rest: bytes) -> None:
        if self.mail_from is None:
            self._refuse(503, "5.5.1", "Need MAIL first")
        elif self._begun:
            self._refuse(503, "5.5.1", "The content has begun")
        else:
            found = self._path(rest, b"TO")
            if found is None:
                return
            address, params = found
            if len(self.recipients) >= self._max_recipients:
                self._say(452, "4.5.3", "Too many recipients")
            elif self._recipient is not None and not self._recipient(address):
                self._say(550, "5.1.1", "No such recipient here")
            else:
                self.recipients.append(address)
                if params and self._dsn:  # else a thousand lines of them would be kept for nobody
                    self.recipient_params[address] = params
                self._out.append(_RECIPIENT_OK[self.esmtp])

    def _data(self, rest: bytes) -> None:
        if self._begun:
            self._refuse(503, "5.5.1", "Not after BDAT")
        elif not self.recipients:
            self._refuse(503, "5.5.1", self._missing())
        elif rest and self._strict:
            self._refuse(501, "5.5.4", "DATA takes no argument")
        elif self._lacks_room(max(1, number(self.params["SIZE"])) if "SIZE" in self.params else 1):
            self._say(*_NO_ROOM)
        else:
            self._state = _CONTENT
            self._tail = b"\r\n"
            self._lead = True
            self._begun = True
            self._out.append(_GO_AHEAD)
            self._events.append(_BEGIN)

    def _bdat(self, rest: bytes) -> None:
        words = rest.upper().split()
        size = number(_text(words[0])) if words else -1
        if not self._chunking:
            self._say(502, "5.5.1", "BDAT is not offered")
            self._close("bdat")
        elif size < 0:
            self._lost_count()
        else:
            self._last = words[1:] == [b"LAST"]
            self._left = size
            self._refusal = None
            if len(words) > 1 and not self._last:
                self._refusal = _BDAT_SYNTAX
            elif not self.recipients:
                self._refusal = (503, "5.5.1", self._missing())
            elif not self._begun:
                if self._lacks_room(size):
                    self._refusal = _NO_ROOM
                else:
                    self._begun = True
                    self._events.append(_BEGIN)
            self._state = _CHUNK
            if not size:
                self._chunk_end()

    def _lost_count(self) -> None:
        """BDAT, and nobody can tell where its chunk ends: what follows must not be read as commands."""
        self._say(*_BDAT_SYNTAX)
        self._close("bdat")

    def _missing(self) -> str:
        return "Need MAIL first" if self.mail_from is None else "Need RCPT first"

    def _lacks_room(self, size: int) -> bool:
        return self._room is not None and self._room() < size

    def _needs_tls(self) -> bool:
        return self._tls == "required" and not self.secure

    def _rset(self, rest: bytes) -> None:
        if rest and self._strict:
            self._refuse(501, "5.5.4", "RSET takes no argument")
        else:
            self._reset()
            self._say(250, "2.0.0", "Ok")

    def _noop(self, rest: bytes) -> None:
        self._say(250, "2.0.0", "Ok")

    def _quit(self, rest: bytes) -> None:
        if rest and self._strict:
            self._refuse(501, "5.5.4", "QUIT takes no argument")
        else:
            self._say(221, "2.0.0", "Bye")
            self._close("quit")

    def _help(self, rest: bytes) -> None:
        self._say(214, "2.0.0", "This is Mailwire; it takes mail by RFC 5321")

    def _vrfy(self, rest: bytes) -> None:
        if rest:
            self._say(252, "2.0.0", "Can't verify, but mail for it will be tried")
        else:
            self._refuse(501, "5.5.4", "Syntax: VRFY address")

    def _tls_hello(self) -> None:
        """No reply: the peer could not read it."""
        self._remark("tls-hello")
        self._close("tls-hello")

    def _starttls(self, rest: bytes) -> None:
        if self._tls == "none":
            self._refuse(502, "5.5.1", "STARTTLS is not offered")
        elif self.secure:
            self._refuse(503, "5.5.1", "TLS is active already")
        elif rest:
            self._refuse(501, "5.5.4", "STARTTLS takes no argument")
        else:
            self._reset()
            self._say(220, "2.0.0", "Ready to start TLS")
            self._state = _TLS
            self._events.append((STARTTLS,))

    # Login (RFC 4954).

    def _auth(self, rest: bytes) -> None:
        words = rest.split()
        mechanism = _text(words[0].upper()) if words else ""
        if self._login == "none":
            self._refuse(502, "5.5.1", "AUTH is not offered")
        elif self._needs_tls():
            self._refuse(530, "5.7.0", "Must issue a STARTTLS command first")
        elif not self._greeted or (self._strict and not self.esmtp):
            self._refuse(503, "5.5.1", "Say EHLO first")
        elif self.user is not None:
            self._refuse(503, "5.5.1", "Already logged in")
        elif self.mail_from is not None:
            self._refuse(503, "5.5.1", "Not during a mail")
        elif not 1 <= len(words) <= 2:
            self._refuse(501, "5.5.4", "Syntax: AUTH mechanism [initial response]")
        elif mechanism not in ("PLAIN", "LOGIN"):
            self._remark("auth-unknown")
            self._refuse(504, "5.5.4", "Mechanism not offered: use PLAIN or LOGIN")
        else:
            self._state = _LOGIN
            self._mechanism = mechanism
            self._name = None
            if len(words) == 2:
                self._response(words[1])
            else:
                self._out.append(b"334 \r\n" if mechanism == "PLAIN" else b"334 VXNlcm5hbWU6\r\n")  # "Username:"

    def _response(self, line: bytes) -> None:
        given = None if line == b"*" else _from_base64(line)
        if given is None:
            self._state = _COMMAND
            if line == b"*":
                self._refuse(501, "5.7.0", "Authentication cancelled")
            else:
                self._refuse(501, "5.5.2", "This is not base64")
        elif self._mechanism == "LOGIN" and self._name is None:
            self._name = _text(given)
            self._out.append(b"334 UGFzc3dvcmQ6\r\n")  # "Password:"
        else:
            password = _text(given)
            if self._mechanism == "PLAIN":  # authorization identity NUL user NUL password; some leave out the first
                parts = password.rsplit("\0", 2)
                self._name = parts[-2] if len(parts) > 1 else ""
                password = parts[-1] if len(parts) > 1 else ""
            if self._login == "any":
                self._logged_in()
            else:
                self._state = _VERDICT
                self._events.append((AUTH, self._mechanism, self._name, password))

    def _logged_in(self) -> None:
        self._state = _COMMAND
        self.user = _visible(self._name or "")
        self._say(235, "2.7.0", "Authentication successful")

    _VERBS = {  # noqa: RUF012  # a constant, and MicroPython has no ClassVar
        b"HELO": _helo, b"EHLO": _ehlo, b"MAIL": _mail, b"RCPT": _rcpt, b"DATA": _data, b"BDAT": _bdat,
        b"RSET": _rset, b"NOOP": _noop, b"QUIT": _quit, b"HELP": _help, b"VRFY": _vrfy, b"AUTH": _auth,
        b"STARTTLS": _starttls,
    }  # fmt: skip

    # Addresses and parameters.

    def _path(self, rest: bytes, word: bytes) -> "tuple[str, dict[str, str]] | None":
        """The address and the parameters of `FROM:<address> parameters`; None if it was refused."""
        sender = word == b"FROM"
        start = len(word) + 2
        if rest[:start] == word + b":<" and rest[-1:] == b">" and not self._strict:  # nearly all
            plain = rest[start:-1]
            if plain and len(plain) <= PATH and not plain.strip(_PLAIN):
                return plain.decode(), {}
        enhanced = "5.1.7" if sender else "5.1.3"
        operand = rest[len(word) :].lstrip()
        if operand[:1] == b":":
            operand = operand[1:].lstrip()
        elif self._strict or operand[:1] != b"<":
            operand = b""
        if not operand or rest[: len(word)].upper() != word:
            self._refuse(501, enhanced, "Syntax: MAIL FROM:<address>" if sender else "Syntax: RCPT TO:<address>")
            return None
        clean = _without_controls(operand)
        if clean is None:
            self._refuse(501, enhanced, "Control character")
            return None
        path, words, oddity = _split(clean)
        if path[:1] == b"@" and b":" in path:  # a source route (RFC 5321 appendix C)
            path = path[path.find(b":") + 1 :]
        address = _text(path)
        params = self._parameters(words, sender) if words else {}
        if params is None:
            return None
        if max(clean) > 126 and _has_c1(address + "".join(params) + "".join(params.values())):
            self._refuse(501, enhanced, "Control character")
        elif len(path) > PATH:
            self._refuse(501, enhanced, "Address too long")
        elif not path and (not sender or oddity):
            self._refuse(501, enhanced, "Empty address")
        elif not self._strict:
            if oddity:
                self._remark(oddity)
            return address, params
        elif oddity or address.encode() != path or not self._strict.is_mailbox(address, sender):  # or it is no UTF-8
            self._refuse(501, enhanced, "Malformed address")
        elif path and max(path) > 127 and "SMTPUTF8" not in (params if sender else self.params):
            self._refuse(553, "5.6.7", "This address needs SMTPUTF8")
        else:
            return address, params
        return None

    def _parameters(self, words: bytes, sender: bool) -> "dict[str, str] | None":
        """ESMTP parameters as sent; None if they were refused."""
        params: dict[str, str] = {}
        sent = words.split()
        if len(sent) > PARAMETERS:
            self._refuse(501, "5.5.4", "Too many parameters")
            return None
        for word in sent:
            key, _, value = _text(word).partition("=")
            name = key.upper()
            if self._strict:
                if not self._strict.offers(name, sender, self._login != "none", self._smtputf8, self._dsn):
                    self._refuse(555, "5.5.4", "Parameter not recognized")
                    return None
                if name in params or not self._strict.is_value(name, value):
                    self._refuse(501, "5.5.4", "Malformed parameter")
                    return None
            params[name] = value
        return params


def _strict_rules() -> "Any":
    from gateway.wire import smtp_strict

    return smtp_strict


def _is_tls_hello(start: bytes) -> bool:
    """A TLS record with a handshake, or the older form that SSL 3.0 clients begin with (RFC 5246 appendix E.2)."""
    return start[:2] == b"\x16\x03" or (start[:1] >= b"\x80" and start[2:4] == b"\x01\x03")


def _line_dot(data: bytes) -> int:
    """Where CRLF and a dot stand first; -1: nowhere.

    Looking for one byte is a hundred times faster than looking for three, and a picture in base64 has no dot: so a long
    text is looked through for dots alone, as long as there are few.
    """
    dot = 0
    if len(data) > _SMALL:
        for _ in range(_DOTS):
            dot = data.find(b".", dot) + 1
            if not dot or data[dot - 3 : dot] == b"\r\n.":
                return dot - 3 if dot else -1
    return data.find(b"\r\n.", max(0, dot - 2))


def _split(operand: bytes) -> "tuple[bytes, bytes, str]":
    """Address, parameters and the remark due ("" if the form is right) of what stands behind FROM: or TO:.

    The address is in the last free-standing brackets. Parameters begin after a blank, so `AUTH=<>` is none of these.
    """
    quoted = quote_end(operand)
    opened = 0 if quoted else operand.rfind(b" <") + 1 or operand.find(b"<")
    if opened > 0 and operand[opened - 1] == 61:  # "="
        opened = -1
    closed = operand.find(b"> ", quoted or opened) if opened >= 0 else -1
    if closed < 0 <= opened:
        closed = len(operand) - 1 if operand.endswith(b">") else operand.find(b">", opened)
    if closed > opened >= 0:
        path = operand[opened + 1 : closed]
        inner = path if quoted else path[path.rfind(b"<") + 1 :].rstrip(b">")
        return inner.strip(), operand[closed + 1 :], "" if not opened and inner == path else "display-name"
    operand = operand.lstrip(b"< ")
    end = operand.find(b" ", max(0, operand.find(b"@")))
    if end < 0:
        end = len(operand)
    return operand[:end].rstrip(b">"), operand[end:], "no-brackets"


def quote_end(operand: bytes) -> int:
    """Where the quoted local part of `<"…"@…` ends, 0 without one: brackets and blanks mean nothing inside it."""
    if operand[:2] != b'<"':
        return 0
    at = 2
    while at < len(operand) and operand[at] != 34:
        at += 2 if operand[at] == 92 else 1
    return at + 1 if operand[at + 1 : at + 2] == b"@" else 0


def number(digits: str) -> int:
    """The value of decimal digits; -1 for anything else."""
    return int(digits) if digits and not digits.strip("0123456789") else -1


def _without_controls(operand: bytes) -> "bytes | None":
    """With tabs as blanks; None if there is another control character of ASCII but DEL."""
    if min(operand) < 32:
        operand = operand.replace(b"\t", b" ")
        if min(operand) < 32:
            return None
    return operand


def _has_c1(text: str) -> bool:
    """DEL, or a control character of Unicode. Bytes don't tell: a text may be UTF-8 where its line is not."""
    return any("\x7f" <= letter <= "\x9f" for letter in text)


def _text(raw: bytes) -> str:
    """UTF-8, else Latin-1 without its control characters."""
    try:
        return raw.decode()
    except UnicodeError:
        return "".join([chr(byte) if byte < 0x80 or byte > 0x9F else "\ufffd" for byte in raw])


def _visible(text: str) -> str:
    return "".join(["\ufffd" if letter < " " or "\x7f" <= letter <= "\x9f" else letter for letter in text])


def _from_base64(line: bytes) -> "bytes | None":
    """What a line of an AUTH exchange stands for; `=` is the empty response, and padding may lack. None: not base64."""
    line = line.rstrip(b"=")
    if line.strip(_BASE64) or len(line) % 4 == 1:
        return None
    return a2b_base64(line + b"=" * (-len(line) % 4))
