"""One connection: bytes between a socket, TLS, the SMTP session and the intake.

The law: whoever hangs up cancels nothing. What the peer has sent is worked off to its end, mail by mail, and each
complete mail is kept whether or not anybody is left to hear the 250. Only a mail whose end never came is dropped.

Memory for a connection is bounded: content goes on piece by piece, and reading is paused while the disk is behind,
while a mail is being kept and much has come behind it, and while the peer does not read our replies.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import ssl
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from gateway.api import Envelope, Intake, Receipt, StoreFull, StoreTrouble, bans, users
from gateway.wire.smtp import ABORT, AUTH, BEGIN, BODY, CLOSE, MAIL, REMARK, STARTTLS, Session

from . import crowd
from .access import Access, Peers, matcher
from .config import Config
from .counts import Counts
from .tls import Tls, failure

Events = Sequence[tuple[Any, ...]]

_DISK, _STORE, _PEER, _REPLIES = 1, 2, 4, 8  # whom, or what, reading waits for: bits
AHEAD = 64 * 1024
"""Bytes that may come while a mail is being kept, before reading is paused."""
PROBE = 2.0
"""Seconds within which a peer that leaves a TLS port without a word only looked whether anybody is there."""
COMING = 1.0
"""Seconds of silence after which nobody counts on a mail of this peer any more."""
BROKEN_OFF = 20
"""Mails of one peer that break off within an hour, each with a line in the log: more would only fill the disk."""
LINGER = 10.0
"""Seconds that a peer has to take our last words."""
_FULL = (452, "4.3.1", "The gateway's disk is full, try again later")
_TROUBLE = (451, "4.3.0", "The gateway could not keep this mail, try again later")
# Why a session was ended by us, as far as no remark has said it already.
_REASONS = {
    "bad-commands": "it sent more than {max_bad} commands that make no sense",
    "bdat": "it sent a BDAT that can't be followed",
    "commands": "it sent more than {max_commands} commands ('max_commands')",
    "logins": "{max_auth_failures} logins of it failed",
}
FIRST_LOGIN, SLOWEST_LOGIN = 0.5, 30.0
"""Seconds that the answer to a wrong password takes: to a peer's first one, then always doubled, and at most."""


class Shared:
    """What the connections of one server have in common."""

    def __init__(
        self,
        name: str,
        config: Config,
        intake: Intake,
        log: logging.Logger,
        limit: int,
        folder: Path,
    ) -> None:
        self.name = name
        self.config = config
        self.intake = intake
        self.log = log
        self.modern: ssl.SSLContext | None = None
        self.old: ssl.SSLContext | None = None
        """For everybody, and for the peers of 'old_tls'; None as long as there are none."""
        self.loop = asyncio.get_running_loop()
        self.counts = Counts()
        self.access = Access(config.allow, config.old_tls, config.bare_lf, config.bans.never)
        self.peers = Peers(limit, config.max_connections_per_peer, config.bans.within)
        self.bans = bans.Bans(folder / bans.FOLDER, config.bans.first, config.bans.longest)
        given = {user: password.get_secret_value() for user, password in config.users.items()}
        self.users = users.Users(given, folder / users.FILE, lambda text: log.error("%s", text), self.loop)
        self.implicit = config.tls == "implicit"
        self.starttls = "none" if self.implicit else config.tls
        self.options: dict[str, Any] = {
            "secure": self.implicit,
            "login": config.login,
            "strict": config.tolerance == "strict",
            "max_size": int(config.max_size),
            "max_recipients": config.max_recipients,
            "max_commands": config.max_commands,
            "max_bad": config.max_bad,
            "max_auth_failures": config.max_auth_failures,
            "recipient": matcher(config.recipients),
            "room": intake.room,
        }
        self.connections: set[Connection] = set()
        self.crowd = crowd.Crowd(self.connections, time.monotonic)
        self.stopping = False
        self.empty = asyncio.Event()
        """Set when the last connection is done, once `stopping`."""

    def banned(self, peer: str) -> bool:
        return self.bans.left(peer) > 0 and self.access.rights(peer).banned


class Connection(asyncio.Protocol):
    """See the module's text."""

    __slots__ = (
        "_behind",
        "_coming",
        "_ended",
        "_fresh",
        "_held",
        "_helo",
        "_line",
        "_more",
        "_over",
        "_peer",
        "_receipt",
        "_remarks",
        "_seen",
        "_session",
        "_shared",
        "_since",
        "_tls",
        "_transport",
        "_working",
    )

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._transport: asyncio.Transport | None = None
        self._receipt: Receipt | None = None
        self._tls: Tls | None = None
        self._remarks: list[str] | None = None
        self._more: Events = ()
        self._behind = 0
        self._coming = False  # it is about to bring a mail
        self._fresh = True  # it has brought none yet
        self._held = 0
        self._line = 0.0  # when a command line was first seen begun and not ended; 0: none is
        self._helo = ""  # what it called itself before STARTTLS: some don't say it again
        self._working = False
        self._ended = False  # the peer will send nothing more
        self._over = False  # we have said our last word

    # --- from the socket ---------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        peer = cast(str, transport.get_extra_info("peername")[0])
        if peer.startswith("::ffff:") and "." in peer:  # by IPv4 to a socket for both, as systemd opens them
            peer = peer[7:]
        self._peer = peer
        self._since = self._seen = time.monotonic()
        shared = self._shared
        peers = shared.peers
        rights = shared.access.rights(peer)
        if not rights.allowed:
            self._refuse(
                f"554 5.7.1 {peer} may not send mail to this gateway",
                f"{peer} was refused: it is in none of the networks under 'allow'. To let it in, add '{peer}' there.",
                "not_allowed",
            )
            return
        if shared.banned(peer):
            self._refuse(
                "421 4.7.0 Too many failed logins, try again later",
                f"{peer} is kept out: too many of its logins failed. To let it in now: mailwire bans lift {peer}",
                "banned",
            )
            return
        full = peers.enter(peer, rights.counted, shared.crowd.make_room)
        if full:
            self._refuse("421 4.3.2 Too many connections, try again later", f"{peer} was put off: {full}.", "full")
            return
        shared.counts.connections += 1
        shared.connections.add(self)
        self._count(True)
        starttls = shared.starttls
        if starttls == "offered" and (shared.modern is None or not peers.manages_tls(peer)):
            starttls = "none"
        self._session = Session(shared.config.hostname, tls=starttls, bare_lf=rights.bare_lf, **shared.options)
        if shared.implicit:
            self._start_tls()
        elif not shared.stopping:
            self._transport.write(self._session.greeting())
        if shared.stopping:  # it was accepted just before
            self.stop()

    def data_received(self, data: bytes) -> None:
        if self._tls is None:
            self._take(data)
            return
        tls = self._tls
        data = self._decrypt(tls, data)
        if data:
            if not tls.used:
                tls.used = True
                self._shared.peers.worked_tls.note(self._peer)
            self._take(data)
        if tls.error:
            self._close()
        elif tls.peer_ended:
            self.eof_received()

    def eof_received(self) -> bool:
        """The peer will send nothing more. It may well listen yet: our side stays open until all is answered."""
        self._ended = True
        session = self._session
        if not (session.waiting or session.more) or self._handshaking():
            self._close()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        transport, self._transport = self._transport, None
        if self not in self._shared.connections:
            return
        if isinstance(exc, OSError) and not self._over and transport is not None:
            self._read_rest(transport)
        session = self._session
        if self._over or not (session.waiting or session.more) or self._handshaking():
            self._finish()
        elif session.more:
            self._shared.loop.call_soon(self._go_on)

    def pause_writing(self) -> None:
        self._hold(_PEER)

    def resume_writing(self) -> None:
        self._release(_PEER)
        self._go_on()

    def _read_rest(self, transport: asyncio.Transport) -> None:
        """A failed write makes asyncio close the socket, but what the peer sent before it left is still in there."""
        with transport.get_extra_info("socket").dup() as rest:
            rest.setblocking(False)
            with contextlib.suppress(OSError):  # would block, or reset: there is no more
                while data := rest.recv(AHEAD):
                    self.data_received(data)

    # --- the session -------------------------------------------------------------------------------------------

    def _take(self, data: bytes) -> None:
        session = self._session
        if session.waiting:
            self._behind += len(data)
            if self._behind > AHEAD:
                self._hold(_STORE)
            session.receive(data)
        else:
            self._work(session.receive(data))

    def _work(self, events: Events) -> None:
        """Carry out the session's events and those that follow from our answers; then reply in one piece."""
        session = self._session
        progress = bool(events) or session.in_mail
        starttls = close = False
        self._working = True
        while events:
            for event in events:
                kind = event[0]
                if kind == BODY:
                    assert self._receipt is not None
                    if not self._receipt.write(event[1]):
                        self._hold(_DISK)
                elif kind == MAIL:
                    self._commit()
                elif kind == BEGIN:
                    self._receipt = self._shared.intake.begin(self._drained)
                    self._since = time.monotonic()
                elif kind == ABORT:
                    self._abort()
                elif kind == REMARK:
                    self._remark(event[1], event[2])
                elif kind == AUTH:
                    self._login(event[2], event[3])
                elif kind == STARTTLS:
                    starttls = True
                elif kind == CLOSE:
                    close = True
                    self._log_reason(event[1])
            events, self._more = self._more, ()
        self._working = False
        if self._coming is not (not self._over and (self._fresh or session.mail_from is not None)):
            self._count(not self._coming)
        replies = session.output()
        if replies:
            self._send(replies)
            progress = True
        if progress:
            self._seen = time.monotonic()
        if not session.more:
            self._release(_REPLIES)
        if close:
            self._close()
        elif starttls:
            self._start_tls()
        elif session.more:
            self._hold(_REPLIES)
            self._shared.loop.call_soon(self._go_on)
        else:
            self._settle()

    def _go_on(self) -> None:
        """With what is left over, when the peer has taken the replies to what was before it."""
        if self._session.more and not self._over and (self._transport is None or not self._held & _PEER):
            self._work(self._session.go_on())

    def _count(self, coming: bool) -> None:
        """Whether it is about to bring a mail (`Intake.coming`): from its beginning on, and from MAIL to the answer."""
        self._coming = coming
        self._shared.intake.coming += 1 if coming else -1

    def _settle(self) -> None:
        """After each piece of work: is there a reason to end here, or to read on?"""
        session = self._session
        if self._over or session.waiting:
            return
        if self._behind:
            self._behind = 0
            self._release(_STORE)
        if self._transport is None:
            self._finish()
        elif self._ended:
            self._close()
        elif self._shared.stopping and session.idle:
            self._say_goodbye(session.shutdown())

    def _abort(self) -> None:
        if self._receipt is not None:
            self._receipt.abort()
            self._receipt = None
        self._release(_DISK)
        most = self._shared.config.max_size.human_readable()
        self._warn("given up", f"A mail from %s was given up: it has more than {most} ('max_size'), or was taken back.")

    def _remark(self, code: str, text: str) -> None:
        if self._remarks is None:
            self._remarks = []
        self._remarks.append(code)
        if self._shared.peers.said_today.note((self._peer, code)) == 1:
            self._shared.log.warning("%s: %s", self._who(), plain(text), extra={"peer": self._peer})

    def _log_reason(self, reason: str) -> None:
        words = _REASONS.get(reason)
        if words:
            self._warn(reason, f"%s was cut off: {words.format_map(self._shared.options)}.")

    def _warn(self, what: str, line: str) -> None:
        """Log it once an hour for a peer, which is named where `line` has its %s."""
        if self._shared.peers.said_this_hour.note((self._peer, what)) == 1:
            self._shared.log.warning(line, self._who(), extra={"peer": self._peer})

    # --- login -------------------------------------------------------------------------------------------------

    def _login(self, user: str, password: str) -> None:
        shared, peer = self._shared, self._peer
        shared.users.check(user, password, lambda right: self._checked(user, right), lambda: not shared.banned(peer))

    def _checked(self, user: str, right: bool | None) -> None:
        """The verdict, perhaps from within `_login`. None: there was not the memory to find out."""
        shared, peer = self._shared, self._peer
        if right is None:
            shared.log.error("A login from %s could not be checked: there is not enough memory.", self._who())
        elif right:
            shared.peers.failed_logins.forget(peer)
        else:
            count = shared.peers.failed_logins.note(peer)
            # A name that is not known may be a password, typed into the wrong field: it is not repeated.
            who, what = (plain(repr(user)), "wrong password") if user in shared.users else ("a user", "no such user")
            shared.counts.login_failures += 1
            words = "Login of %s from %s refused: %s."
            shared.log.warning(words, who, self._who(), what, extra={"peer": peer})
            self._count_against(peer)
            wait = min(FIRST_LOGIN * 2 ** min(count - 1, 10), SLOWEST_LOGIN)
            shared.loop.call_later(wait, self._answer_login, False)
            return
        self._answer_login(right)

    def _count_against(self, peer: str) -> None:
        shared = self._shared
        rules, failures = shared.config.bans, shared.peers.failed_in_all.note(peer)
        if not rules.after or failures < rules.after or shared.banned(peer) or not shared.access.rights(peer).banned:
            return
        shared.peers.failed_in_all.forget(peer)
        minutes = shared.bans.impose(peer, failures) / 60
        shared.log.warning(
            "%s is kept out for %.3g minutes: %d of its logins failed. To let it in now: mailwire bans lift %s",
            self._who(),
            minutes,
            failures,
            peer,
        )

    def _answer_login(self, right: bool | None) -> None:
        if self._working:
            self._more = self._session.auth_done(right)
        elif not self._over:
            self._work(self._session.auth_done(right))

    # --- the mail ----------------------------------------------------------------------------------------------

    def _commit(self) -> None:
        session = self._session
        receipt, self._receipt = self._receipt, None
        assert receipt is not None
        self._release(_DISK)
        details: dict[str, Any] = {}
        if session.params:
            details["params"] = dict(session.params)
        if session.user and self._shared.config.login != "any":  # or nobody vouches that it is no password
            details["user"] = session.user
        if self._tls is not None:
            details["tls"] = self._tls.facts
        if self._remarks:
            details["remarks"] = list(self._remarks)
        envelope = Envelope(
            self._shared.name,
            self._peer,
            session.helo or self._helo,
            session.mail_from or "",
            list(session.recipients),
            details,
        )
        receipt.commit(envelope, self._kept)

    def _kept(self, mail_id: str, trouble: StoreTrouble | None) -> None:
        """The intake's answer, perhaps from within `commit`, perhaps long after the peer has left."""
        session, log = self._session, self._shared.log
        self._since = time.monotonic()
        self._fresh = False
        if trouble is None:
            if log.isEnabledFor(logging.DEBUG):  # it has a line of its own once it is known what it means
                self._log_mail(mail_id)
            events = session.mail_done(mail_id)
        else:
            if self._shared.peers.said_this_hour.note("put off") == 1:
                words = "A mail from %s was put off, not kept: %s."
                log.warning(words, self._who(), trouble, extra={"peer": self._peer})
            events = session.mail_failed(*(_FULL if isinstance(trouble, StoreFull) else _TROUBLE))
        if self._working:
            self._more = events
        elif not self._over:
            self._work(events)

    def _log_mail(self, mail_id: str) -> None:
        session = self._session
        self._shared.log.debug(
            "mail %s from %s: sender <%s>, recipients: %d, bytes: %d",
            mail_id,
            self._who(),
            plain(session.mail_from or ""),
            len(session.recipients),
            session.size,
            extra={"mail": mail_id, "peer": self._peer},
        )

    # --- TLS ---------------------------------------------------------------------------------------------------

    def _start_tls(self) -> None:
        shared = self._shared
        old = shared.old if shared.access.rights(self._peer).old_tls else None
        context = old or shared.modern
        assert context is not None
        self._tls = Tls(context)
        self._seen = time.monotonic()

    def _handshaking(self) -> bool:
        return self._tls is not None and not self._tls.established

    def _decrypt(self, tls: Tls, data: bytes) -> bytes:
        before = tls.established
        data = tls.receive(data)
        self._write(tls.outgoing())
        if tls.established and not before:
            if self._shared.implicit:
                self._send(self._session.greeting())
            else:
                self._helo = self._session.helo
                self._session.tls_started()
        return data

    def _tls_failed(self, tls: Tls) -> None:
        """Logged once an hour; and for that hour a device that may go without TLS is not tempted to try it again."""
        shared = self._shared
        if shared.implicit and not tls.first and time.monotonic() - self._since < PROBE:
            return
        shared.counts.tls_failures += 1
        if shared.peers.failed_tls.note(self._peer) > 1:
            return
        what, remedy = failure(tls, implicit=shared.implicit, old=shared.access.rights(self._peer).old_tls)
        withheld = shared.starttls == "offered" and not shared.peers.manages_tls(self._peer)
        then = " For an hour it is not offered STARTTLS." if withheld else ""
        words = "TLS with %s failed: %s. Remedy: %s.%s"
        shared.log.warning(words, self._who(), what, remedy, then, extra={"peer": self._peer})

    # --- to the socket -----------------------------------------------------------------------------------------

    def _send(self, replies: bytes) -> None:
        self._shared.counts.replies(replies)
        if self._tls is not None:
            replies = self._tls.send(replies)
        self._write(replies)

    def _write(self, data: bytes) -> None:
        if data and self._transport is not None:
            self._transport.write(data)

    def _hold(self, why: int) -> None:
        if not self._held and self._transport is not None:
            self._transport.pause_reading()
        self._held |= why

    def _release(self, why: int) -> None:
        if self._held & why:
            self._held ^= why
            if not self._held and self._transport is not None and not self._ended:
                self._transport.resume_reading()

    def _drained(self) -> None:
        self._release(_DISK)

    def _refuse(self, reply: str, line: str, reason: str) -> None:
        """Turn away a peer before its session begins."""
        shared = self._shared
        shared.counts.turned_away[reason] += 1
        if shared.peers.said_this_hour.note((self._peer, reply)) == 1:
            shared.log.warning(line, extra={"peer": self._peer})
        if not shared.implicit:
            self._write(reply.encode() + b"\r\n")
        if self._transport is not None:
            self._transport.close()

    def _say_goodbye(self, line: bytes) -> None:
        if not (self._over or self._handshaking()):
            self._send(line)
        self._close()

    def _close(self) -> None:
        if self._over:
            return
        self._over = True
        self._seen = time.monotonic()
        if self._transport is None:
            self._finish()
            return
        if self._tls is not None:
            self._write(self._tls.end())
        self._transport.close()

    def _finish(self) -> None:
        """Nobody is there any more, and nothing is left to do."""
        shared = self._shared
        if self not in shared.connections:
            return
        self._over = True
        shared.connections.remove(self)
        shared.peers.leave(self._peer)
        if self._coming:
            self._count(False)
        self._drop("it hung up")
        if self._tls is not None and not self._tls.used and not shared.stopping:
            self._tls_failed(self._tls)
        if shared.stopping and not shared.connections:
            shared.empty.set()

    def _drop(self, why: str) -> None:
        """Forget the mail whose end has not come."""
        if self._receipt is not None:
            self._receipt.abort()
            self._receipt = None
            session, shared = self._session, self._shared
            shared.counts.broken_off += 1
            times = shared.peers.said_this_hour.note((self._peer, "broken off"))
            if times <= BROKEN_OFF:
                shared.log.warning(
                    "A mail from %s, sender <%s>, broke off after %d bytes and was dropped: %s.%s",
                    self._who(),
                    plain(session.mail_from or ""),
                    session.size,
                    why,
                    " More of them are only counted, for an hour." if times == BROKEN_OFF else "",
                    extra={"peer": self._peer},
                )

    # --- from the server ---------------------------------------------------------------------------------------

    def check(self, now: float) -> None:
        """Once a second: has the peer used up its time? What we owe ourselves is never counted against it."""
        transport = self._transport
        if transport is None:
            return
        if self._held & _DISK:
            self._seen = now
        silent = now - self._seen
        if self._over:
            if silent > LINGER:
                transport.abort()
            return
        if self._coming and silent > COMING:
            self._count(False)
        session, times = self._session, self._shared.config.timeouts
        if self._handshaking():
            patience, whole = times.handshake, math.inf
        elif session.in_mail:
            patience, whole = times.data if session.size else times.data_start, times.mail
        elif session.waiting:
            return
        else:
            patience, whole = times.command, times.session
        if not session.in_line:
            self._line = 0.0
        elif self._line <= self._seen:
            self._line = now
        if self._line and now - self._line > times.line:
            why = f"a command was not complete after {times.line:g} seconds"
        elif silent > patience:
            why = f"nothing came for {patience:g} seconds"
        elif now - self._since > whole:
            why = f"it took more than {whole:g} seconds"
        else:
            return
        self._shared.log.debug("%s is cut off: %s", self._who(), why, extra={"peer": self._peer})
        self._drop(why)
        self._say_goodbye(session.timeout())

    def spare(self, now: float) -> tuple[bool, float] | None:
        """See `crowd.Guest`: without a mail, the longest time counts most; with one, the lowest speed."""
        session, lasted = self._session, now - self._since
        if self._held & _DISK or (session.waiting and not self._handshaking()):
            return None
        if self._receipt is not None:
            speed = session.size / lasted if lasted > crowd.SLOW_AFTER else crowd.SLOW
            return (True, speed) if speed < crowd.SLOW else None
        if session.user is not None and self._shared.config.login != "any":
            return None
        # What comes of a mail that is refused already is no progress.
        idle = now - self._seen > crowd.SILENT or lasted > crowd.NO_MAIL
        return (False, -lasted) if idle else None

    def make_room(self) -> None:
        """Another needs this place."""
        shared = self._shared
        if shared.peers.said_this_hour.note("crowded") == 1:
            shared.log.warning(
                "All connections are taken ('max_connections'): those that bring no mail make room for others, "
                "%s was the first.",
                self._who(),
            )
        self._drop("it came too slowly, and all connections are taken")
        self._say_goodbye(self._session.timeout())
        if self._transport is not None and self._transport.get_write_buffer_size():
            self._transport.abort()
        self._finish()

    def stop(self) -> None:
        """The server stops: end now, unless a mail is under way."""
        if self._handshaking() or self._session.idle:
            self._say_goodbye(self._session.shutdown())

    def cut(self) -> None:
        """The server has waited long enough."""
        self._drop("the gateway stops")
        self._say_goodbye(self._session.shutdown())

    def abort(self) -> None:
        """Let go of a peer that does not even take our last words."""
        if self._transport is not None:
            self._transport.abort()

    def _who(self) -> str:
        """The peer, as a person can find it."""
        helo = self._session.helo or self._helo
        return f"{self._peer} ({plain(helo)})" if helo else self._peer


def plain(text: str) -> str:
    """Fit for one line of a log: control characters, bidi marks and stray bytes are escaped, length is bounded."""
    if len(text) > 256:
        text = text[:255] + "…"
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape", "surrogatepass").decode() for one in text)
