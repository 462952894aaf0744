"""The source of mails: `gateway.wire.smtp` on sockets, each mail read while it comes.

The law of this file:

- 250 is said when `keep` has returned, and the event is in flash then. A full spool is 452, any other trouble 451.
- Memory is bounded: so many connections (one more is told 421), so many octets read at a time, shorter lines than the
  gateway takes, and of a mail what `gateway.wire.mime` keeps. A connection that memory runs out for is told 421.
  The code that reads mails is in memory while some come, and leaves it a little later; what makes an event of one
  is there only while it does.
- Time is bounded: a command, the silence within a mail, and a whole mail have their limits.
- Only peers on private networks are answered, unless the settings say otherwise.
"""

import asyncio
import gc
import hashlib
import sys

import gateway.wire
from firmware import board, events
from firmware.borrowed import Borrowed
from firmware.log import say, trace
from firmware.spool import Full
from gateway.wire import smtp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from firmware.app import App
    from gateway.wire.mime import Reader

READ = 192  # octets; so much heap must lie in one piece
COMMAND = 60  # seconds from a reply to the end of the next command
SILENCE = 60  # seconds within a mail
WHOLE = 900  # seconds for a mail
LINGER = 10  # seconds after a mail in which another may come that needs the same code
_NO_ROOM = (452, "4.3.1", "Not enough storage now, try again later")
_NO_MEMORY = (452, "4.3.1", "Not enough memory now, try again later")

_AT_MOMENTS = ("mime_fields", "charset", "html")
"""Code that is needed at the beginning and the end of a mail's parts, and not while one waits for the next octets."""

# A board has less to spare than the gateway: RFC 5321 §4.5.3.1.4 asks for 512 octets, and passwords are short.
smtp.COMMAND_LINE = 1024
smtp.AUTH_LINE = 2048
_RECIPIENTS = 100  # RFC 5321 §4.5.3.1.8

_PRIVATE = "10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 127.0.0.0/8 169.254.0.0/16 100.64.0.0/10"


class Server:
    """Listens, and serves each connection in a task of its own."""

    def __init__(self, app: "App") -> None:
        self.app = app
        self.settings = app.settings["smtp"]
        self.keep = app.keep("smtp")
        self.connections: list[Connection] = []
        self.context: Any = None
        self.latest = 0
        """The uptime when a mail was last read."""
        self._remarked: list[str] = []

    async def run(self) -> None:
        """Serve until cancelled."""
        tls = self.settings["tls"]
        if tls != "none" and self.context is None:
            self.context = _context(self.settings["certificate"], self.settings["key"])
        port = self.settings["port"]
        inside = self.context if tls == "implicit" else None
        server = await asyncio.start_server(self._accept, board.LISTEN, port, backlog=4, ssl=inside)
        say(f"smtp: listening on port {port}" + ("" if tls == "none" else f", TLS {tls}"))
        try:
            while True:
                await asyncio.sleep(1)
                if server.task.done():  # type: ignore[attr-defined]  # memory ran out while it took a connection
                    raise MemoryError("it does not listen any more")
                now = board.uptime()
                reading = False
                for connection in self.connections:
                    reading = reading or connection.mail is not None
                    if connection.deadline < now:
                        connection.task.cancel()
                if not reading and self.latest and self.latest + LINGER * 1000 < now:
                    self.latest = 0
                    _forget(_AT_MOMENTS + ("mime", "smtp_remarks"))  # noqa: RUF005  # no `(*a,)` here
        finally:
            server.close()
            for connection in self.connections:
                connection.leaving = True
                connection.task.cancel()

    async def _accept(self, reader: "Any", writer: "Any") -> None:
        peer = board.peer(writer.get_extra_info("peername"))
        refusal = b""
        if not self._allows(peer):
            refusal = b"554 5.7.1 Not from this network\r\n"
            say(f"smtp: {peer} is on no network that may send here; `allow` in the settings says which may")
        elif len(self.connections) >= self.settings["connections"]:
            refusal = b"421 4.3.2 Too many connections, try again later\r\n"
            say(f"smtp: too many connections for {peer}")
        if refusal:
            if self.settings["tls"] != "implicit":  # a handshake to say no is more than it is worth
                writer.write(refusal)
            await writer.wait_closed()
            return
        connection = Connection(self, reader, peer)
        self.connections.append(connection)
        try:
            await connection.serve()
        finally:
            self.connections.remove(connection)
            await connection.stream.wait_closed()
            connection = None  # type: ignore[assignment]  # what it held goes before the heap is put in order
            gc.collect()

    def _allows(self, peer: str) -> bool:
        """Networks are read each time: as numbers, which are objects, they would take more than as text."""
        allow = self.settings["allow"]
        if allow == "all" or not allow:
            return True
        address = _number(peer)
        for one in _PRIVATE.split() if allow == "private" else allow:
            base, mask = _network(one)
            if address >= 0 and address & mask == base:
                return True
        return False

    def remark(self, peer: str, code: str, text: str) -> None:
        """Tell a person about a device's peculiarity, once."""
        if code + peer not in self._remarked and len(self._remarked) < 32:
            self._remarked.append(code + peer)
            say(f"smtp: {peer}: {text}")


make = Server  # what app.py starts


class Connection:
    """One peer: its session, and the reader of the mail that is coming."""

    def __init__(self, server: Server, stream: "Any", peer: str) -> None:
        settings = server.settings
        self.server = server
        self.stream = stream
        self.peer = peer
        self.task: Any = asyncio.current_task()
        self.leaving = False
        self.deadline = board.uptime() + COMMAND * 1000
        self._latest = 0  # when the mail must be complete; 0: not told yet
        self.mail: Reader | None = None
        """That is coming."""
        self.session = smtp.Session(
            server.app.name,
            tls="none" if settings["tls"] == "implicit" else settings["tls"],
            secure=settings["tls"] == "implicit",
            login=settings["login"],
            max_size=settings["max_size"],
            max_recipients=_RECIPIENTS,
            room=self._room,
        )

    def _room(self) -> int:
        """Of a mail only the event is kept: where that fits, any mail does."""
        return 0x3FFFFFFF if self.server.app.spool.has_room(events.LIMIT) else 0

    async def serve(self) -> None:
        """From greeting to goodbye."""
        try:
            await self._send(self.session.greeting())
            while await self._take():
                pass
        except asyncio.CancelledError:
            self._last_word(self.session.shutdown() if self.leaving else self.session.timeout())
        except MemoryError:
            self.mail = None
            gc.collect()
            say(f"smtp: {self.peer} was sent away: not enough memory")
            self._last_word(b"421 4.3.2 Not enough memory now, try again later\r\n")
        except OSError:
            pass  # it is gone; what was not answered it will send again

    async def _take(self) -> bool:
        """Read some, and handle it; False at the end."""
        data = await self.stream.read(READ)
        if not data:
            return False
        session = self.session
        happened = session.receive(data)
        del data  # the heap is small
        while True:
            going = self._handle(happened)
            out = session.output()
            if out:
                await self._send(out)
            if going == smtp.STARTTLS:
                self._start_tls()
            elif going == smtp.CLOSE:
                return False
            if not session.more:
                break
            happened = session.go_on()
        now = board.uptime()
        if session.in_mail:  # or in a chunk that is no part of one, and has no BEGIN
            self._latest = self._latest or now + WHOLE * 1000
            self.deadline = min(now + SILENCE * 1000, self._latest)
        else:
            self._latest = 0
            if out:
                self.deadline = now + COMMAND * 1000
        return True

    def _handle(self, happened: "list[Any]") -> int:
        """Do what events ask for; the kind of one that the caller must act on, or 0."""
        session = self.session
        while happened:
            answered: list[Any] = []
            for event in happened:
                kind = event[0]
                if kind == smtp.BODY:
                    if self.mail:
                        self._read(event[1])
                elif kind == smtp.BEGIN:
                    gc.collect()
                    from gateway.wire.mime import Reader

                    self.mail = Reader(digest=hashlib.sha256)
                    self._latest = 0
                elif kind == smtp.ABORT:
                    self.mail = None
                elif kind == smtp.MAIL:
                    answered = self._keep()
                elif kind == smtp.AUTH:
                    answered = session.auth_done(self._knows(event[2], event[3]))
                elif kind == smtp.REMARK:
                    self.server.remark(self.peer, event[1], event[2])
                else:
                    return kind
            happened = answered
        return 0

    def _knows(self, user: str, password: str) -> bool:
        users: dict[str, str] = self.server.settings["users"]
        return user in users and users[user] == password

    def _read(self, data: bytes) -> None:
        try:
            self.mail.feed(data)  # type: ignore[union-attr]
        except MemoryError:
            self.mail = None
            self.session.fail_mail(*self._too_little())

    def _keep(self) -> "list[Any]":
        """A mail is complete: into flash with its event, and only then 250."""
        mail, self.mail = self.mail, None
        session = self.session
        self.server.latest = board.uptime()
        if mail is None:  # memory ran out at its beginning
            return session.mail_failed(*_NO_MEMORY)
        app = self.server.app
        try:
            mail.close()
            _forget(_AT_MOMENTS)
            identifier = self.server.keep(_draft(mail, session, self.peer, app.id))
        except Full:
            say(f"smtp: a mail of {self.peer} was sent back: the spool is full")
            return session.mail_failed(*_NO_ROOM)
        except MemoryError:
            mail = None
            return session.mail_failed(*self._too_little())
        except Exception as error:  # noqa: BLE001  # the peer keeps its mail and sends it again
            trace(error)
            return session.mail_failed(451, "4.3.0", "Could not be stored now, try again later")
        return session.mail_done(identifier)

    def _too_little(self) -> "tuple[int, str, str]":
        """The answer to a mail that memory has run out for."""
        gc.collect()
        say(f"smtp: a mail of {self.peer} was sent back: not enough memory")
        return _NO_MEMORY

    def _start_tls(self) -> None:
        """Wrap the running connection. The session has thrown away what came behind STARTTLS."""
        inside = self.server.context.wrap_socket(self.stream.s, server_side=True, do_handshake_on_connect=False)
        inside.setblocking(False)
        self.stream = asyncio.StreamReader(inside)
        self.session.tls_started()

    async def _send(self, data: bytes) -> None:
        self.stream.write(data)
        await self.stream.drain()

    def _last_word(self, data: bytes) -> None:
        """As much of it as goes at once: nobody waits for this peer any more."""
        try:
            self.stream.s.write(data)
        except OSError:
            pass


def _draft(mail: "Reader", session: "smtp.Session", peer: str, own_id: str) -> "dict[str, Any]":
    """A function of its own, so that what is borrowed is gone when the event is made."""
    with Borrowed("mail", "firmware.meaning", "gateway.wire.devices") as module:
        return module.draft(mail, session, peer, own_id)  # type: ignore[no-any-return]


def _forget(names: "tuple[str, ...]") -> None:
    """Take code that reads mails out of memory."""
    for name in names:
        if sys.modules.pop("gateway.wire." + name, None) and hasattr(gateway.wire, name):
            delattr(gateway.wire, name)
    gc.collect()


def _context(certificate: str, key: str) -> "Any":
    """For the server's side of TLS. Raises ValueError with words for a person."""
    import tls  # only where it is asked for: it takes memory

    pieces = []
    for what, path in (("certificate", certificate), ("key", key)):
        try:
            with open(path, "rb") as file:
                pieces.append(file.read())
        except OSError:
            raise ValueError(
                f"smtp.{what}: there is no file {path} on the board; README.md tells how to make one"
            ) from None
    context = tls.SSLContext(tls.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*pieces)
    return context


def _number(address: str) -> int:
    """An IPv4 address as a number; -1 for anything else."""
    parts = address.split(".")
    number = 0
    for part in parts:
        if not part.isdigit() or int(part) > 255:
            return -1
        number = number << 8 | int(part)
    return number if len(parts) == 4 else -1


def _network(text: str) -> "tuple[int, int]":
    """(base, mask) of `192.168.1.0/24`; settings.py has checked its form."""
    address, _, bits = text.partition("/")
    mask = (0xFFFFFFFF << (32 - int(bits or "32"))) & 0xFFFFFFFF
    return _number(address) & mask, mask
