"""Dialogs: SMTP conversations as text files, and two players for them. Nothing here needs pytest or the gateway.

A dialog (`tests/dialogs/*.dialog`, UTF-8) tells who speaks, what is said, and what must be the end of it:

    # A person types a mail over telnet

    device: a person
    listener: plain

    < 220
    > helo me
    < 250
    ...

    mails: 1
    from: me@lan.example

Steps, one a line. What is sent without a `<` between goes out in one piece.

    > TEXT               send a line; CRLF is added
    >> TEXT              send exactly this
    repeat COUNT TEXT    send exactly this so many times; `{n}` in it becomes the number of the time, from 0
    drip SECONDS TEXT    send exactly this byte by byte, with a pause after each
    mail FILE            send a mail's content from beside the dialog: dot-stuffed, ended by CRLF . CRLF
    < CODE [TEXT]        wait for a reply. A code is three digits, `.` stands for any; alternatives are divided by `|`,
                         and one of them may be `close`: the server hangs up. TEXT must be found in the reply
    << COUNT CODE        wait for so many replies, each of such a code
    silence SECONDS      nothing may come for so long
    wait SECONDS         pause
    starttls [TEXT]      send STARTTLS, and TEXT glued behind it; wait for 220; start TLS
    half-close           say that no more will be sent
    reset                break the connection off (RST)

In TEXT, a backslash begins an escape: `\\r \\n \\t \\0 \\\\ \\xNN`. Everything else is UTF-8 as it stands.

Before the steps: `device`, `source` (where the fact was published), `provenance` (which bytes are the device's own),
`listener` (a name of LISTENERS), `options` (a Python literal for each: `max_size=1000 bare_lf=True`). After them what
is expected; a key may carry the number of the mail it speaks of (`from 2: ...`), 1 if it carries none:

    mails: 1             how many are accepted in all; `0..1` leaves it to the server
    from, to, user, helo the envelope (`to` with `, ` between recipients)
    content, not-content bytes that are, or are not, in the mail as it was received (escapes as above)
    sha256               of the mail as it was received
    subject, text        of the event: the subject, and a text found in it
    attachment           of the event: NAME SIZE SHA256, in any order
    never-from           no mail may have this sender
    remark               what the device must be told to mend
    events               how many of the mails become events (the rest are duplicates)
    within               seconds that the server may take, at most, from the end of a mail to its event

That the server still answers afterwards goes without saying.
"""

import ast
import hashlib
import re
import socket
import ssl
import struct
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

FOLDER = Path(__file__).parent / "dialogs"
PATIENCE = 60.0  # seconds that any reply may take: the slowest is a board's that reads 8 MB while other tests run

# What each listener means to `gateway.wire.smtp.Session`. The user of all is cam, the password secret.
LISTENERS: dict[str, dict[str, object]] = {
    "plain": {},
    "no-login": {"login": "none"},
    "login-optional": {"login": "optional"},
    "login-required": {"login": "required"},
    "tls-offered": {"tls": "offered"},
    "tls-required": {"tls": "required"},
    "implicit": {"secure": True, "login": "optional"},
    "strict": {"strict": True, "login": "optional"},
}
TLS = ("tls-offered", "tls-required", "implicit")


class Mismatch(AssertionError):
    """The server did not do as the dialog says."""


@dataclass(frozen=True)
class Step:
    """One line: `verb` as above (`>` and `mail` have become `>>`), `data` its bytes, `number` its count or seconds."""

    line: int
    verb: str
    data: bytes = b""
    number: float = 0
    codes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Attachment:
    name: str
    size: int
    sha256: str


@dataclass
class Wanted:
    """What is expected of one mail; None and empty: anything."""

    sender: str | None = None
    recipients: list[str] | None = None
    user: str | None = None
    helo: str | None = None
    sha256: str | None = None
    subject: str | None = None
    content: list[bytes] = field(default_factory=list)
    not_content: list[bytes] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    attachments: list[Attachment] = field(default_factory=list)


@dataclass
class Received:
    """A mail as a server took it."""

    sender: str
    recipients: list[str]
    content: bytes
    helo: str | None = None
    user: str | None = None


@dataclass
class Dialog:
    path: Path
    title: str
    head: dict[str, str] = field(default_factory=dict)
    options: dict[str, object] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    mails: tuple[int, int] = (0, 0)
    wanted: dict[int, Wanted] = field(default_factory=dict)
    never_from: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    events: int | None = None
    within: float | None = None

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def listener(self) -> str:
        return self.head["listener"]

    @property
    def session_options(self) -> dict[str, object]:
        return LISTENERS[self.listener] | self.options


# --- reading ---------------------------------------------------------------------------------------------------------

_ESCAPES = {"r": b"\r", "n": b"\n", "t": b"\t", "0": b"\0", "\\": b"\\"}
_KEY = re.compile(r"([a-z][a-z0-9-]*)(?: (\d+))?: ?(.*)")
_HEAD = ("device", "source", "provenance", "listener", "options")
_CODE = re.compile(r"([0-9.]{3}|close)(\|([0-9.]{3}|close))*")


def load_all(folder: Path = FOLDER) -> list[Dialog]:
    return [load(path) for path in sorted(folder.glob("*.dialog"))]


def load(path: Path) -> Dialog:
    """Read a dialog; ValueError with file:line if it can't be understood."""
    return _Reader(path).read()


class _Reader:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines = path.read_text("utf-8").split("\n")
        self.number = 1

    def fail(self, why: str) -> ValueError:
        return ValueError(f"{self.path}:{self.number}: {why}")

    def read(self) -> Dialog:
        if not self.lines[0].startswith("# "):
            raise self.fail("a dialog begins with `# ` and its title")
        dialog = Dialog(self.path, self.lines[0][2:])
        stated = False
        while self.number < len(self.lines):
            line = self.lines[self.number]
            self.number += 1
            if not line or line.startswith("#"):
                continue
            key = _KEY.fullmatch(line)
            if key is None:
                dialog.steps.append(self.step(line))
            elif key[1] in _HEAD:
                dialog.head[key[1]] = key[3]
            else:
                stated |= key[1] == "mails"
                self.expectation(dialog, key[1], int(key[2] or 1), key[3])
        if not stated or dialog.head.get("listener") not in LISTENERS:
            raise self.fail("a dialog needs `listener:`, one of " + ", ".join(LISTENERS) + ", and `mails:`")
        for option in dialog.head.get("options", "").split():
            name, _, value = option.partition("=")
            dialog.options[name] = ast.literal_eval(value)
        return dialog

    def step(self, line: str) -> Step:
        number = self.number
        verb, _, rest = line.partition(" ")
        match verb:
            case ">" | ">>":
                return Step(number, ">>", self.bytes(rest) + (b"\r\n" if verb == ">" else b""))
            case "<":
                code, _, text = rest.partition(" ")
                return Step(number, verb, self.bytes(text), codes=self.codes(code))
            case "<<":
                count, _, code = rest.partition(" ")
                return Step(number, verb, number=int(count), codes=self.codes(code))
            case "repeat" | "drip":
                count, _, text = rest.partition(" ")
                return Step(number, verb, self.bytes(text), float(count))
            case "silence" | "wait":
                return Step(number, verb, number=float(rest))
            case "mail":
                return Step(number, ">>", stuffed((self.path.parent / rest).read_bytes()))
            case "starttls":
                return Step(number, verb, self.bytes(rest))
            case "half-close" | "reset" if not rest:
                return Step(number, verb)
        raise self.fail(f"not a step: {line}")

    def codes(self, text: str) -> tuple[str, ...]:
        if not _CODE.fullmatch(text):
            raise self.fail(f"not a reply code: {text}")
        return tuple(text.split("|"))

    def bytes(self, text: str) -> bytes:
        def escape(found: re.Match[bytes]) -> bytes:
            code = found[1].decode()
            if code[0] == "x" and len(code) == 3:
                return bytes.fromhex(code[1:])
            if code not in _ESCAPES:
                raise self.fail(f"not an escape: \\{code}")
            return _ESCAPES[code]

        return re.sub(rb"\\(x[0-9a-fA-F]{2}|.)", escape, text.encode())

    def expectation(self, dialog: Dialog, key: str, index: int, value: str) -> None:
        wanted = dialog.wanted.setdefault(index, Wanted()) if key not in ("mails", "never-from") else Wanted()
        match key:
            case "mails":
                least, _, most = value.partition("..")
                dialog.mails = (int(least), int(most or least))
            case "from":
                wanted.sender = self.bytes(value).decode()
            case "to":
                wanted.recipients = self.bytes(value).decode().split(", ")
            case "user":
                wanted.user = value
            case "helo":
                wanted.helo = self.bytes(value).decode()
            case "sha256":
                wanted.sha256 = value
            case "content":
                wanted.content.append(self.bytes(value))
            case "not-content":
                wanted.not_content.append(self.bytes(value))
            case "subject":
                wanted.subject = value
            case "text":
                wanted.texts.append(self.bytes(value).decode())
            case "attachment":
                name, size, digest = value.rsplit(" ", 2)
                wanted.attachments.append(Attachment(name, int(size), digest))
            case "never-from":
                dialog.never_from.append(value)
            case "remark":
                dialog.remarks.append(value)
            case "events":
                dialog.events = int(value)
            case "within":
                dialog.within = float(value)
            case _:
                raise self.fail(f"not a key: {key}")


def stuffed(mail: bytes) -> bytes:
    """A mail as DATA carries it (RFC 5321 §4.5.2), with its end."""
    mail = (b"\r\n" + mail).replace(b"\r\n.", b"\r\n..")[2:]
    return mail + (b".\r\n" if mail.endswith(b"\r\n") or not mail else b"\r\n.\r\n")


# --- playing ---------------------------------------------------------------------------------------------------------


def play(dialog: Dialog, line: "MemoryLine | TcpLine") -> list[str]:
    """Play the client's part on a fresh line; return the transcript. Raises Mismatch with file:line."""
    transcript: list[str] = []
    try:
        _play(dialog.steps, line, transcript)
        if dialog.steps[-1].verb in ("<", "<<"):
            line.finished()
    except Mismatch as mismatch:
        said = "\n  ".join(transcript[-12:])
        raise Mismatch(f"{dialog.path}:{line.at}: {mismatch}\n  {said}") from None
    finally:
        line.close()
    return transcript


def _play(steps: Sequence[Step], line: "MemoryLine | TcpLine", transcript: list[str]) -> None:
    unsent = b""
    for step in steps:
        line.at = step.line
        if step.verb == ">>":
            unsent += step.data
            transcript.append("> " + _shown(step.data))
            continue
        if unsent:
            line.send(unsent)
            unsent = b""
        match step.verb:
            case "<" | "<<":
                for _ in range(int(step.number) or 1):
                    reply = line.reply()
                    transcript.append("< " + (_shown(reply) or "close"))
                    code = reply[:3].decode("ascii", "replace") or "close"
                    if not any(re.fullmatch(wanted, code) for wanted in step.codes) or step.data not in reply:
                        wanted = " ".join(filter(None, ("|".join(step.codes), _shown(step.data))))
                        raise Mismatch(f"expected {wanted}, got {_shown(reply) or 'close'}")
            case "starttls":
                line.send(b"STARTTLS\r\n" + step.data)
                reply = line.reply()
                if not reply.startswith(b"220"):
                    raise Mismatch(f"expected 220, got {_shown(reply) or 'close'}")
                line.start_tls()
            case "repeat":
                count = int(step.number)
                if b"{n}" in step.data:
                    line.send(b"".join(step.data.replace(b"{n}", b"%d" % n) for n in range(count)))
                else:
                    line.send(step.data, count)
            case "drip":
                for byte in step.data:
                    line.send(bytes([byte]))
                    line.wait(step.number)
            case "silence":
                if said := line.heard(step.number):
                    raise Mismatch(f"expected silence, got {_shown(said)}")
            case "wait":
                line.wait(step.number)
            case "half-close":
                line.half_close()
            case "reset":
                line.reset()
    if unsent:
        line.send(unsent)


def _shown(data: bytes) -> str:
    text = repr(data[:300])[2:-1] + (" ..." if len(data) > 300 else "")
    return text.removesuffix("\\r\\n")


def replies(data: bytes) -> Iterator[bytes]:
    """The whole replies at the start of `data`; each ends with its last line (RFC 5321 §4.2.1)."""
    start = 0
    for found in re.finditer(rb"[^\n]*\n", data):
        if found[0][3:4] != b"-":
            yield data[start : found.end()]
            start = found.end()


class MemoryLine:
    """A line to an owner of a session (`feed`, `session`, `ended`) in this process, cut into chunks of `size` bytes.

    `feeds` records what the owner was given: (bytes, times), or None where TLS began.
    """

    PATIENCE = 20000  # bytes of one piece that are cut small at either end; what is between goes in blocks

    def __init__(self, owner, size: int | None = None) -> None:  # type: ignore[no-untyped-def]  # on two Pythons
        self.owner = owner
        self.size = size
        self.at = 0
        self.output: bytes = owner.session.greeting()
        self.feeds: list[tuple[bytes, int] | None] = []
        self._read = 0

    def send(self, data: bytes, count: int = 1) -> None:
        if count > 1:
            block = max(1, 4096 // len(data))
            self._feed(data * block, count // block)
            data *= count % block
        if self.size is None or not data:
            self._feed(data)
            return
        at = 0
        while at < len(data):
            far = self.PATIENCE // 2 < at < len(data) - self.PATIENCE // 2
            chunk = data[at : at + (max(self.size, 4096) if far else self.size)]
            self._feed(chunk)
            at += len(chunk)

    def _feed(self, data: bytes, times: int = 1) -> None:
        self.feeds.append((data, times))
        for _ in range(times):
            self.output += self.owner.feed(data)

    def reply(self) -> bytes:
        reply = next(replies(self.output[self._read :]), b"")
        if not reply and not self.owner.ended:
            raise Mismatch("no reply")
        self._read += len(reply)
        return reply

    def heard(self, seconds: float) -> bytes:
        return self.output[self._read :]

    def start_tls(self) -> None:
        self.feeds.append(None)
        self.owner.session.tls_started()

    def finished(self) -> None:
        if self._read < len(self.output):
            raise Mismatch("a reply too many: " + _shown(self.output[self._read :]))

    def wait(self, seconds: float) -> None:
        pass

    def half_close(self) -> None:
        pass

    def reset(self) -> None:
        pass

    def close(self) -> None:
        pass


class TcpLine:
    """A line to a server over TCP. `patience`: seconds that any reply may take.

    `size`: what is short enough goes out in pieces of so many bytes, each in a segment and TLS record of its own.
    """

    SHORT = 4096

    def __init__(
        self, host: str, port: int, *, implicit: bool = False, patience: float = PATIENCE, size: int | None = None
    ) -> None:
        self.at = 0
        self.size = size
        self.host = host
        self._socket = socket.create_connection((host, port), patience)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._patience = patience
        self._data = b""
        self._closed = False
        if implicit:
            self.start_tls()

    def start_tls(self) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        self._data = b""
        self._socket = context.wrap_socket(self._socket, server_hostname=self.host)

    def send(self, data: bytes, count: int = 1) -> None:
        block = max(1, 65536 // max(1, len(data)))
        try:
            if self.size and count == 1 and len(data) <= self.SHORT:
                for at in range(0, len(data), self.size):
                    self._socket.sendall(data[at : at + self.size])
                return
            for _ in range(count // block):
                self._socket.sendall(data * block)
            self._socket.sendall(data * (count % block))
        except TimeoutError:
            raise Mismatch("the server no longer reads") from None
        except OSError:
            self._closed = True  # a reply may have come before, so it is `reply` that tells

    def _receive(self, patience: float) -> bool:
        """Take what comes within `patience`; False if nothing did."""
        self._socket.settimeout(max(0.001, patience))
        try:
            data = self._socket.recv(65536)
        except TimeoutError:
            return False
        except OSError:
            data = b""
        finally:
            self._socket.settimeout(self._patience)
        self._closed |= not data
        self._data += data
        return bool(data)

    def reply(self) -> bytes:
        deadline = time.monotonic() + self._patience
        while not (reply := next(replies(self._data), b"")):
            if not self._receive(deadline - time.monotonic()):
                if self._closed:
                    return b""
                raise Mismatch(f"no reply within {self._patience:g} s")
        self._data = self._data[len(reply) :]
        return reply

    def heard(self, seconds: float) -> bytes:
        if not self._data:
            self._receive(seconds)
        return self._data

    def finished(self) -> None:
        if said := self.heard(0.01):
            raise Mismatch("a reply too many: " + _shown(said))

    def wait(self, seconds: float) -> None:
        time.sleep(seconds)

    def half_close(self) -> None:
        self._socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def close(self) -> None:
        self._socket.close()


def play_over_tcp(
    dialog: Dialog,
    host: str,
    port: int,
    patience: float = PATIENCE,
    *,
    implicit: bool | None = None,
    size: int | None = None,
) -> list[str]:
    """Play a dialog at a server; return the transcript. Raises Mismatch. `size` as for `TcpLine`.

    The listener should be as the dialog wants it; `implicit`: it has TLS, although the dialog does not ask for that.
    """
    inside = dialog.listener == "implicit" if implicit is None else implicit
    return play(dialog, TcpLine(host, port, implicit=inside, patience=patience, size=size))


def answers(host: str, port: int, *, implicit: bool = False) -> bool:
    """Whether a server greets, and says goodbye to one who quits."""
    line = TcpLine(host, port, implicit=implicit)
    try:
        greeting = line.reply()
        line.send(b"QUIT\r\n")
        return greeting.startswith(b"220") and line.reply().startswith(b"221")
    finally:
        line.close()


# --- the end of it ---------------------------------------------------------------------------------------------------


def check(dialog: Dialog, mails: Sequence[Received]) -> None:
    """Compare what a server took with what the dialog expects of envelopes and bytes. Raises Mismatch.

    Events are for the gateway's own tests: `subject`, `texts`, `attachments`, `events` and `within` are not looked at.
    """

    def same(what: str, wanted: object, got: object) -> None:
        if wanted is not None and got is not None and wanted != got:
            raise Mismatch(f"{dialog.path}: {what} should be {wanted!r}, is {got!r}")

    least, most = dialog.mails
    if not least <= len(mails) <= most:
        raise Mismatch(f"{dialog.path}: {least} to {most} mails should be accepted, {len(mails)} were")
    for mail in mails:
        if mail.sender in dialog.never_from:
            raise Mismatch(f"{dialog.path}: a mail from {mail.sender} was accepted")
    for number, mail in enumerate(mails, 1):
        wanted = dialog.wanted.get(number, Wanted())
        same("the sender", wanted.sender, mail.sender)
        same("the recipients", wanted.recipients, mail.recipients)
        same("the user", wanted.user, mail.user)
        same("the name in HELO", wanted.helo, mail.helo)
        same("the SHA-256", wanted.sha256, hashlib.sha256(mail.content).hexdigest())
        for content in wanted.content:
            if content not in mail.content:
                raise Mismatch(f"{dialog.path}: {content!r} is not in {mail.content[:2000]!r}")
        for content in wanted.not_content:
            if content in mail.content:
                raise Mismatch(f"{dialog.path}: {content!r} is in {mail.content[:2000]!r}")
