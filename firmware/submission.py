"""A mail to a mail server: what it looks like, and the conversation in which it is submitted (RFC 5321, RFC 6409).

The law of this file:

- A password is sent inside TLS only, unless the settings say `"tls": "none"`.
- What an event says stands in the subject, which is encoded, and in the body, which is too. No header is made of it
  in any other way, and an address with anything but letters, digits and marks in it is refused by the settings.
- Whatever the server says or doesn't ends in time, and is bounded.

With `"verify": false` the server's certificate isn't looked at: who only listens hears nothing, but the server may be
anybody.
"""

import asyncio
import json
from binascii import b2a_base64

from firmware import reach
from firmware.smtp_client import Refused, Trouble
from firmware.url import POST, split

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    Reply = tuple[int, str]

CONNECT = 20  # seconds for TCP and TLS
PATIENCE = 60  # seconds for a reply
END = 600  # seconds for the reply to a mail (RFC 5321 §4.5.3.2.6): who gives up earlier sends it twice

_LINE = 1000  # octets of a line of a reply; §4.5.3.1.5 has 512
_LINES = 100  # of one reply
_SUBJECT = 200  # characters
_WORD = 45  # octets in an encoded word, of which RFC 2047 §2 allows 75 characters
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


# --- the conversation ------------------------------------------------------------------------------------------------


class Session:
    """One connection to the server."""

    def __init__(self, own: "dict[str, Any]", board_id: str) -> None:
        self._own = own
        self._helo = own["helo"] or board_id.replace("_", "-") + ".local"
        scheme, self._host, self._port, user, password = split(own["url"], POST)
        self._user, self._password = user or own["user"], password or own["password"]
        self._tls = "implicit" if scheme == "smtps" else own["tls"]
        self._where = f"{self._host}:{self._port}"
        self._stream: Any = None
        self._buffer = b""
        self._offers: list[str] = []

    async def open(self) -> None:
        """Connect, greet, start TLS, log in. Raises Trouble."""
        await self._connect()
        self._expect(await self._reply(), 220, "refuses the connection")
        await self._greet()
        if self._tls in ("required", "offered"):
            if "STARTTLS" in self._offers:
                self._expect(await self._ask("STARTTLS"), 220, "does not start TLS")
                await self._start_tls()
                await self._greet()
            elif self._tls == "required":
                raise Trouble(
                    f"{self._where} offers no TLS: if this network is to be trusted, set post.tls to 'none'", True
                )
            else:
                self._tls = "none"
                if self._user:
                    raise Trouble(f"{self._where} offers no TLS, so the password is not sent", True)
        if self._user:
            await self._log_in()

    async def mail(self, to: "list[str]", refused: "list[str]", mail: "Mail") -> "list[tuple[str, str]]":
        """Send it. What is returned, (address, words), is to be tried again; who is refused is added to `refused`.

        Raises Refused (of the mail, for all) or Trouble (nobody has it).
        """
        self._expect(await self._ask(f"MAIL FROM:<{self._own['from']}>"), 250, "refuses the sender", True)
        later, taken, no = [], [], []
        for address in to:
            code, words = await self._ask(f"RCPT TO:<{address}>")
            if 200 <= code < 300:
                taken.append(address)
            elif code >= 500:
                no.append(f"{address}: {code} {words}")
            else:
                later.append((address, f"{self._where} does not take mail for {address} now: {code} {words}"))
        if taken:
            self._expect(await self._ask("DATA"), 354, "refuses the mail", True)
            await self._content(mail)
            self._expect(await self._reply(END), 250, "refuses the mail", True)
        refused += no
        try:
            await asyncio.wait_for(self._ask("QUIT"), 5)
        except (Trouble, asyncio.TimeoutError):
            pass  # the mail is theirs
        return later

    def close(self) -> None:
        """Give the socket back; a second time does nothing."""
        if self._stream:
            try:
                self._stream.s.close()
            except OSError:
                pass  # it is gone, which is what was wanted
            self._stream = None

    async def _connect(self) -> None:
        implicit = self._tls == "implicit"
        try:
            secure = {"ssl": self._context(), "server_hostname": self._host} if implicit else {}
            opening = asyncio.open_connection(self._host, self._port, **secure)
            self._stream, _ = await asyncio.wait_for(opening, CONNECT)
            if implicit:
                # Begins the handshake; waiting for the server's greeting alone does not, and both sides would wait
                self._buffer = self._stream.s.read(1) or b""
        except asyncio.TimeoutError:
            raise Trouble(f"{self._where} does not answer")
        except (OSError, ValueError) as error:
            raise Trouble(_words(error, self._where))

    async def _start_tls(self) -> None:
        if self._buffer:  # was sent before TLS and would be read as if it came inside (CVE-2011-0411)
            raise Trouble(f"{self._where} says more than it was asked before TLS", True)
        try:
            socket = self._context().wrap_socket(
                self._stream.s, server_hostname=self._host, do_handshake_on_connect=False
            )
        except (OSError, ValueError) as error:
            raise Trouble(_words(error, self._where))
        self._stream = asyncio.StreamReader(socket)

    def _context(self) -> "Any":
        from firmware import trust

        return trust.context(self._own["ca"], self._own["verify"])

    async def _greet(self) -> None:
        code, words = await self._ask(f"EHLO {self._helo}")
        if code >= 500:  # it is old (RFC 5321 §3.2)
            self._offers = []
            self._expect(await self._ask(f"HELO {self._helo}"), 250, "refuses our greeting")
            return
        self._expect((code, words), 250, "refuses our greeting")
        self._offers = [line.upper() for line in words.split("\n")[1:]]

    async def _log_in(self) -> None:
        ways: list[str] = []
        for line in self._offers:
            if line.startswith(("AUTH ", "AUTH=")):
                ways += line[5:].split()
        if "PLAIN" in ways:
            answer = await self._ask("AUTH PLAIN " + _base64(f"\0{self._user}\0{self._password}".encode()))
        elif "LOGIN" in ways:
            answer = await self._ask("AUTH LOGIN")
            for word in (self._user, self._password):
                if answer[0] == 334:
                    answer = await self._ask(_base64(word.encode()))
        else:
            raise Trouble(f"{self._where} offers no login that is spoken here (PLAIN, LOGIN)", True)
        self._expect(answer, 235, "refuses the login")

    def _expect(self, reply: "Reply", code: int, words: str, of_mail: bool = False) -> None:
        """Raises Trouble, or Refused for a 5xx that is about this mail, unless the reply has the code."""
        if reply[0] == code:
            return
        told = f"{self._where} {words}: {reply[0]} " + reply[1].replace("\n", " ")
        if reply[0] >= 500 and of_mail:
            raise Refused(told)
        raise Trouble(told, reply[0] >= 500)

    async def _ask(self, line: str) -> "Reply":
        await self._write(line.encode() + b"\r\n")
        return await self._reply()

    async def _content(self, mail: "Mail") -> None:
        """With a dot doubled at the beginning of a line (§4.5.2)."""
        for line in mail.lines():
            await self._write((b"." if line[:1] == b"." else b"") + line + b"\r\n")
        await self._write(b".\r\n")

    async def _write(self, data: bytes) -> None:
        try:
            self._stream.write(data)
            await asyncio.wait_for(self._stream.drain(), PATIENCE)
        except asyncio.TimeoutError:
            raise Trouble(f"{self._where} does not read what we send")
        except (OSError, ValueError) as error:
            raise Trouble(_words(error, self._where))

    async def _reply(self, patience: int = PATIENCE) -> "Reply":
        """Code and words, a line each. Raises Trouble."""
        try:
            return await asyncio.wait_for(self._read_reply(), patience)
        except asyncio.TimeoutError:
            raise Trouble(f"{self._where} does not answer")
        except (OSError, ValueError) as error:
            raise Trouble(_words(error, self._where))

    async def _read_reply(self) -> "Reply":
        words: list[str] = []
        while len(words) < _LINES:
            line = await self._read_line()
            code = line[:3]
            if not code.isdigit() or code[0] not in "2345" or line[3:4] not in ("", " ", "-"):
                raise Trouble(f"{self._where} does not answer as a mail server")
            words.append(line[4:])
            if line[3:4] != "-":
                return int(code), "\n".join(words)
        raise Trouble(f"{self._where} does not end its answer")

    async def _read_line(self) -> str:
        while b"\n" not in self._buffer:
            if len(self._buffer) > _LINE:
                raise Trouble(f"{self._where} does not answer as a mail server")
            piece = await self._stream.read(256)
            if not piece:
                raise Trouble(f"{self._where} hung up")
            self._buffer += piece
        line, self._buffer = self._buffer.split(b"\n", 1)
        return "".join([chr(byte) if 32 <= byte < 127 else "" if byte == 13 else "?" for byte in line])


# --- the mail --------------------------------------------------------------------------------------------------------


class Mail:
    """An event as a mail; its lines are made one after the other."""

    def __init__(self, own: "dict[str, Any]", board_name: str, event: bytes) -> None:
        self._own = own
        self._board = board_name
        self._facts = json.loads(event)

    def lines(self) -> "Iterator[bytes]":
        """Without their ends."""
        for header in self.headers():
            yield header.encode()
        body = self.text()
        if _is_plain(body):
            yield b"Content-Transfer-Encoding: 7bit"
            yield b""
            for line in body.split("\n"):
                yield line.encode()
            return
        yield b"Content-Transfer-Encoding: base64"
        yield b""
        data = body.replace("\n", "\r\n").encode()
        for at in range(0, len(data), 57):
            yield b2a_base64(data[at : at + 57]).strip()

    def headers(self) -> "Iterator[str]":
        """A line each, but for the last one; folded ones in several (RFC 5322 §2.2.3)."""
        facts, own = self._facts, self._own
        yield f"From: <{own['from']}>"
        to = own["to"]
        for number, address in enumerate(to):
            yield ("To: " if not number else " ") + f"<{address}>" + ("," if number + 1 < len(to) else "")
        yield from encoded("Subject: ", facts["title"] or facts["kind"])
        if facts["time"]:
            yield "Date: " + date(facts["time"])
        yield f"Message-ID: <{facts['id']}@{own['from'].split('@')[1]}>"
        yield "Auto-Submitted: auto-generated"
        if facts["severity"] == "critical":
            yield "Importance: high"
        yield "MIME-Version: 1.0"
        yield "Content-Type: text/plain; charset=utf-8"

    def text(self) -> str:
        """For people: what was said, then the facts."""
        facts = self._facts
        device = facts["device"]
        said = [facts["title"], ""] if facts["title"] else []
        if facts["text"]:
            said += [facts["text"].replace("\r\n", "\n").replace("\r", "\n"), ""]
        state = f", {facts['state']}" if facts["state"] else ""
        said.append(f"Device: {device.get('name') or device['id']}")
        said.append(f"Kind: {facts['kind']}{state} ({facts['severity']})")
        if facts["time"]:
            said.append(f"Time: {facts['time']}")
        for key in sorted(facts["data"]):
            value = facts["data"][key]
            said.append(f"{key}: {value if isinstance(value, str) else json.dumps(value)}")
        for one in facts["attachments"]:
            said.append(f"Attachment, not kept: {one.get('name')} ({one.get('type')}, {one.get('size')} bytes)")
        said += ["", "-- ", f"Mailwire on {self._board}"]
        return "\n".join(said)


def encoded(name: str, text: str) -> "list[str]":
    """A header of any text: as it is, or in words of base64 (RFC 2047 §4.1), a line each."""
    text = "".join([letter if " " <= letter != "\x7f" else " " for letter in text[:_SUBJECT]])
    if _is_ascii(text) and "=?" not in text:
        return [name + text]
    lines, piece = [], b""
    for letter in text:
        octets = letter.encode()
        if len(piece) + len(octets) > _WORD:
            lines.append(piece)
            piece = b""
        piece += octets
    lines.append(piece)
    return [(" " if number else name) + f"=?utf-8?B?{_base64(one)}?=" for number, one in enumerate(lines)]


def date(time: str) -> str:
    """`2026-11-22T19:11:28.123Z` as a mail has it (RFC 5322 §3.3)."""
    year, month, day = int(time[:4]), int(time[5:7]), int(time[8:10])
    # The day of the week, by Zeller's congruence with Monday as 0
    y, m = (year, month) if month > 2 else (year - 1, month + 12)
    weekday = (day + 13 * (m + 1) // 5 + y + y // 4 - y // 100 + y // 400 + 5) % 7
    return f"{_DAYS[weekday]}, {day:02d} {_MONTHS[month - 1]} {year} {time[11:19]} +0000"


def _is_ascii(text: str) -> bool:
    return len(text.encode()) == len(text)


def _is_plain(body: str) -> bool:
    """It may travel as it is: ASCII, in lines of 998 octets at most (RFC 5322 §2.1.1)."""
    if not _is_ascii(body):
        return False
    for line in body.split("\n"):
        if len(line) > 998 or [1 for letter in line if letter < " " and letter != "\t"]:
            return False
    return True


def _base64(data: bytes) -> str:
    return b2a_base64(data).decode().strip()


def _words(error: Exception, where: str) -> str:
    return reach.words(error, where, "a mail server", "post.ca")
