"""Target: a mail to people for each event, through a smarthost or straight to a host of one's own network.

A delivery is done when the smarthost has said 250 to it for every recipient. 5yz ends it for the recipient concerned,
with the server's words; everything else is tried again, for that recipient alone, until `give_up`. A smarthost that
can't be reached, or refuses our login, is nobody's mail's fault: all wait, and nothing is counted against them.

What was taken may come back: a report of failure (RFC 3464) that arrives as a mail in this gateway is known by a token
in it, and makes the delivery a dead letter. Loops end here (`loops`).
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import ssl
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from email.utils import formatdate
from pathlib import Path
from typing import Any, ClassVar

from gateway.api import (
    Broken,
    ClientTls,
    Context,
    CredentialsRefused,
    Envelope,
    Event,
    Finding,
    Metric,
    NotReady,
    Refused,
    Retry,
    StoreTrouble,
    Target,
    about,
    words,
)
from gateway.integrations.smtp_relay import bounce, compose, loops
from gateway.integrations.smtp_relay.address import Address
from gateway.integrations.smtp_relay.compose import File, Look
from gateway.integrations.smtp_relay.config import MORE, Config
from gateway.integrations.smtp_relay.connections import Connections, Rate
from gateway.integrations.smtp_relay.delay import Delay
from gateway.integrations.smtp_relay.identity import Identity
from gateway.integrations.smtp_relay.outcome import Outcome, Reply
from gateway.integrations.smtp_relay.transport import Away, Line, LoginRefused, Offers, Stale

__all__ = ["Config", "SmtpRelay"]

LOGIN_WAIT = 900.0  # seconds after a refused login: a person must act, and a server counts our tries
REPORT_WAIT = 600.0  # seconds till a report is looked at again whose mail has still recipients to try
_ENCODED = 1.4  # base64 with its line ends, and some more for the fields of a part
_REST = 16 * 1024  # bytes of a mail beside its texts and files

Mail = tuple[Envelope, bytes]


class SmtpRelay(Target):
    """See the text at the top."""

    concurrency: ClassVar[int] = 2
    for_people: ClassVar[bool] = True
    config: Config

    def __init__(self, context: Context, config: Config) -> None:
        super().__init__(context, config)
        self.patience = config.give_up
        self._everyone = {address.wire: address for address in config.to}
        self._connections = Connections(self._open, config.idle)
        self._rate = Rate(config.rate)
        self._delay = Delay(context.data_dir, config.warn_after)
        self._warning: set[asyncio.Task[None]] = set()
        self._identity: Identity | None = None
        self._look: Look | None = None
        self._tls: ssl.SSLContext | None = None
        self._counts: Counter[str] = Counter(delivered=0, refused=0, put_off=0, bounced=0, not_sent_on=0)

    # --- life --------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        self._tls = _tls(self.config)
        self._delay.load()
        gateway, config = self.context.gateway, self.config
        self._look = Look(
            gateway.template(config.subject, more=MORE),
            gateway.template(config.text, more=MORE),
            gateway.template(config.html, html=True, more=MORE) if config.html else None,
        )
        try:
            self._identity = Identity.kept_in(self.context.data_dir)
        except OSError as error:
            raise NotReady(f"{self.context.data_dir}: {error.strerror}") from error
        where = config.where()
        if where.user and where.password is None and not config.token_command:
            raise CredentialsRefused(
                f"{where.host} wants more than the user {where.user}: add password or token_command"
            )

    async def stop(self) -> None:
        await self._connections.stop()
        if self._warning:
            await asyncio.gather(*self._warning, return_exceptions=True)

    def reload(self) -> None:
        try:
            self._tls = _tls(self.config)
        except Broken as error:
            self.context.log.warning("the certificates stay as they were: %s", error)

    def describe(self) -> str:
        where = self.config.where()
        return f"mails to {', '.join(self._everyone)} by {where.host}:{where.port}"

    def health(self) -> dict[str, Any]:
        return {**self._counts, "connections": self._connections.opened, "waiting_since": self._delay.since}

    def metrics(self) -> Iterable[Metric]:
        samples: list[tuple[dict[str, str], Any]] = [
            ({"outcome": outcome}, float(count)) for outcome, count in self._counts.items()
        ]
        yield Metric("mailwire_smtp_relay_recipients_total", "counter", "Recipients of mails to people.", samples)
        connections: list[tuple[dict[str, str], Any]] = [({}, float(self._connections.opened))]
        yield Metric("mailwire_smtp_relay_connections_total", "counter", "Connections to the smarthost.", connections)

    @classmethod
    def examine(cls, name: str, config: Config, data_dir: Path) -> Iterator[Finding]:
        """Connect, start TLS, log in, and leave again."""
        where = config.where()
        check = f"{name}: {where.host}:{where.port}"
        try:
            line = asyncio.run(_look_in(config))
        except LoginRefused as error:
            yield Finding(check, "fail", str(error), "Look at user and password, or token_command")
        except (Away, Broken) as error:
            yield Finding(check, "fail", str(error), "Mails wait in the store until that is mended")
        else:
            size = f", mails of up to {line.size} bytes" if line.size else ""
            yield Finding(check, "ok", f"takes mail from us{size}")

    # --- deliveries --------------------------------------------------------------------------------------------

    async def deliver(self, event: Event) -> None:
        await self.deliver_again(event, {})

    async def deliver_again(self, event: Event, memo: Mapping[str, Any]) -> None:
        if self._identity is None or self._look is None:
            raise NotReady("the relay is not started")
        mail = await self._mail_of(event)
        if self.claims(event):
            await self._take_report(event, mail[1] if mail else b"", self._identity)
            return
        fields = await asyncio.to_thread(loops.header, mail[1]) if mail else None
        if mail and fields is not None:
            if (hops := loops.hops(fields)) > loops.MOST_HOPS:
                raise Refused(f"the mail has {hops} Received fields, more than {loops.MOST_HOPS}: it goes in circles")
            if why := loops.reason_to_stop(fields, mail[0], self._identity):
                self._counts["not_sent_on"] += 1
                self.context.log.info("event %s is not sent on: %s", event["id"], why, extra=about(event))
                return
        marks = [*(loops.marks(fields) if fields is not None else ()), self._identity.mark]
        outcome = Outcome.of_memo(memo)
        try:
            await self._send(event, mail, marks, outcome)
        except ValueError as error:
            raise Refused(f"no mail can be made of this event: {error}") from error
        except Away as error:
            if not outcome.had:
                self._is_away(str(error), LOGIN_WAIT if isinstance(error, LoginRefused) else None)
            outcome.put_off = str(error)  # those who have had it must not have it again
        except asyncio.CancelledError:
            if not outcome.had:
                raise
            outcome.put_off = "the gateway was stopped"
        if outcome.put_off:
            self._warn_of(event, outcome)
        outcome.conclude(self.config.retries)

    async def _send(self, event: Event, mail: Mail | None, marks: list[str], outcome: Outcome) -> None:
        """Until each recipient who is open has an answer. Raises Away, and ValueError where there can be no mail."""
        light = fresh = False
        await self._rate.turn()
        while (open_ := [self._everyone[one] for one in outcome.open(self._everyone)]) and not outcome.put_off:
            line = await self._connections.take(fresh=fresh)
            try:
                able = _able(line.offers, self.config.sender, open_, outcome)
                most = min(line.offers.size or self.config.max_size, self.config.max_size)
                content, heavy = await self._content(event, mail, marks, line.offers, most, light=light)
                if able and len(content) > most:
                    raise ValueError(f"it would have {len(content)} bytes, and the smarthost takes {most}")
                replies = await line.send(self.config.sender, able, content, self._token(event)) if able else {}
            except Stale:
                fresh = True
                continue
            except BaseException:
                line.abort()
                raise
            self._connections.give_back(line)
            session = next((reply for reply in replies.values() if reply.about_session), None)
            # Some servers take their own recipients from anybody and want a login for others alone: who has had the
            # mail must not have it again, so then it is an answer to a recipient like any other.
            if session and not any(reply.good for reply in replies.values()):
                raise LoginRefused(f"{self.config.where().host}: {session}")
            if heavy and replies and all(reply.too_big for reply in replies.values()):
                light = True  # it did not say so before: once more, without what is large
                continue
            self._note(replies, outcome)

    def _note(self, replies: Mapping[Address, Reply], outcome: Outcome) -> None:
        """Those that the server had no room for stay open, if it took others: they are next."""
        some_went = any(reply.good for reply in replies.values())
        for address, reply in replies.items():
            if not (some_went and reply.too_many):
                outcome.note(address.wire, reply)
                self._counts["delivered" if reply.good else "refused" if reply.final else "put_off"] += 1
        if some_went or any(reply.final for reply in replies.values()):
            self._is_back()

    # --- the mail ----------------------------------------------------------------------------------------------

    async def _mail_of(self, event: Event) -> Mail | None:
        if event["mail"] is None:
            return None
        try:
            return await self.context.gateway.raw_mail(event["id"])
        except LookupError:
            return None

    def _token(self, event: Event) -> str:
        assert self._identity
        return self._identity.token(event["id"])

    def _message_id(self, event: Event) -> str:
        return f"<{self._token(event)}@{self.config.from_.wire.rpartition('@')[2]}>"

    async def _content(
        self, event: Event, mail: Mail | None, marks: Sequence[str], offers: Offers, most: int, *, light: bool
    ) -> tuple[bytes, bool]:
        """The mail as it is sent, and whether it could be made lighter. Raises ValueError."""
        notes = []
        if self.config.mode == "forward" and mail:
            content = b"" if light else await asyncio.to_thread(self._forwarded, event, mail, marks, offers)
            if content and len(content) <= most:
                return content, True
            light = True
            notes.append(f"The mail itself, of {len(mail[1])} bytes, is left out: it is too large for the smarthost.")
        files: list[File] = []
        if not light:
            files, notes = await self._files(event, most)
        elif not notes:
            notes.append("The attachments are left out: they are too large for the smarthost.")
        return await asyncio.to_thread(self._notice, event, files, notes, marks, offers), bool(files)

    async def _files(self, event: Event, most: int) -> tuple[list[File], list[str]]:
        """What fits, and in words what does not. Of several the smallest are taken first."""
        if not self.config.attachments:
            return [], []
        room = (most - _REST) / _ENCODED - len(event["text"].encode("utf-8", "replace")) * 2
        taken: dict[int, File] = {}
        notes = []
        for index, one in sorted(enumerate(event["attachments"]), key=lambda item: item[1]["size"]):
            name = compose.one_line(one["name"], 200)
            if one["size"] > room:
                notes.append(f"{name} is left out: it has {one['size']} bytes, which is too much for the smarthost.")
                continue
            try:
                content = await self.context.gateway.attachment(event["id"], index)
            except LookupError:
                notes.append(f"{name} is left out: its mail is no longer kept.")
                continue
            room -= one["size"]
            shown = bool(self.config.html) and one["type"].lower().startswith("image/")
            taken[index] = File(one["name"], one["type"], content, shown)
        return [taken[index] for index in sorted(taken)], notes

    def _notice(
        self, event: Event, files: Sequence[File], notes: Sequence[str], marks: Sequence[str], offers: Offers
    ) -> bytes:
        assert self._look
        link = self.context.gateway.acknowledge_url(event)
        subject, body = compose.notice(
            event, self._look, files, notes, link, unique=self._token(event), eightbit=offers.eightbit
        )
        return compose.with_header(self._header(event, subject, marks), body)

    def _header(self, event: Event, subject: str, marks: Sequence[str]) -> list[tuple[str, str]]:
        return [
            ("Date", compose.date(event)),
            ("From", compose.mailboxes("From", [self.config.from_])),
            ("To", compose.mailboxes("To", self.config.to)),
            ("Subject", compose.unstructured("Subject", subject)),
            ("Message-ID", self._message_id(event)),
            ("Auto-Submitted", "auto-generated"),
            *(("X-Loop", mark) for mark in marks[-loops.MOST_HOPS :]),
        ]

    def _forwarded(self, event: Event, mail: Mail, marks: Sequence[str], offers: Offers) -> bytes:
        """The device's mail with our fields before it (RFC 5322 §3.6.6), or, if no server takes it so, as a file."""
        envelope, raw = mail
        if not compose.can_go_as_it_is(raw, offers.eightbit):
            text = "The device's mail is attached as it came: it is not one that every mail server would take.\n"
            body = compose.wrapped(text, raw, f"{event['id']}.eml")
            return compose.with_header(self._header(event, compose.one_line(event["title"], 200), marks), body)
        come = f"from {compose.word(envelope.helo)} ([{compose.word(envelope.peer)}])"
        here = compose.word(self.config.hostname or socket.gethostname())
        fields = [
            ("Received", f"{come}\r\n by {here} (Mailwire) with ESMTP id {event['id']};\r\n {compose.date(event)}"),
            ("X-Loop", marks[-1]),
            ("Resent-Date", formatdate(time.time())),
            ("Resent-From", compose.mailboxes("Resent-From", [self.config.from_])),
            ("Resent-To", compose.mailboxes("Resent-To", self.config.to)),
            ("Resent-Message-ID", self._message_id(event)),
        ]
        return compose.with_header(fields, re.sub(rb"(?<!\r)\n", b"\r\n", raw))

    # --- reports -----------------------------------------------------------------------------------------------

    def claims(self, event: Event) -> bool:
        return bool(event["attachments"]) and event["mail"] is not None and bounce.is_report(event)

    async def _take_report(self, event: Event, raw: bytes, identity: Identity) -> None:
        """Mark as failed what a report says so of. Whatever else it is, it never goes out again."""
        failed = await asyncio.to_thread(bounce.failures, raw)
        ours = list(dict.fromkeys(identity.events_in(raw)))[:10] if failed else []
        if not ours:
            self.context.log.info(
                "the report %s is not about a mail of ours that failed", event["id"], extra=about(event)
            )
            return
        for event_id in ours:
            lost = [name for name in self._everyone if any(name.lower() in one.addresses for one in failed)]
            said = "; ".join(f"{', '.join(one.addresses[:1])}: {one.words}" for one in failed)
            memo = {"had": [name for name in self._everyone if name not in lost]} if lost else None
            try:
                if not await self.context.gateway.failed(self.context.name, event_id, f"came back: {said}", memo):
                    raise Retry(f"the mail of event {event_id}, which came back, is not done with yet", REPORT_WAIT)
            except LookupError as error:
                self.context.log.info("a mail came back (%s): %s", said, error, extra=about(event))
            else:
                self._counts["bounced"] += 1

    # --- when it is away ---------------------------------------------------------------------------------------

    async def _open(self) -> Line:
        assert self._tls
        return await Line.open(self.config, self._tls)

    def _is_back(self) -> None:
        self.context.problem(None)
        self._delay.ended()

    def _is_away(self, why: str, pause: float | None) -> None:
        """Raises NotReady."""
        self.context.problem(why)
        if self._delay.goes_on():
            since = formatdate(self._delay.since, localtime=True)
            self._warn("Mails to people are waiting", f"{why}\n\nNothing went out since {since}.")
        raise NotReady(why, pause)

    def _warn_of(self, event: Event, outcome: Outcome) -> None:
        """One mail waits for one recipient or more, while others go."""
        if not outcome.warned and time.time() - outcome.since >= self.config.warn_after:
            outcome.warned = True
            title = f"A mail is still waiting: {compose.one_line(event['title'], 100)}"
            self._warn(title, f"{outcome.put_off}\n\nIt is tried again.")

    def _warn(self, title: str, text: str) -> None:
        """An event, for everybody but ourselves; in the background, for nobody here waits for the store."""
        draft = {
            "device": {"id": f"target_{words.slug(self.context.name, 50)}", "name": f"Target {self.context.name}"},
            "kind": "network",
            "severity": "warning",
            "title": title,
            "text": text,
            "data": {"target": self.context.name},
            "apart_from": self.context.name,
        }
        task = asyncio.create_task(self._emit(draft))
        self._warning.add(task)
        task.add_done_callback(self._warning.discard)

    async def _emit(self, draft: Mapping[str, Any]) -> None:
        with contextlib.suppress(StoreTrouble):
            await self.context.emit(draft)


def _able(offers: Offers, sender: Address, recipients: Sequence[Address], outcome: Outcome) -> list[Address]:
    """Those whose address this smarthost can be told; the others never will have it."""
    if offers.utf8:
        return list(recipients)
    able = []
    for recipient in recipients:
        whose = sender if sender.needs_utf8 else recipient
        if whose.needs_utf8:
            outcome.failed[recipient.wire] = (
                f"{whose} has letters outside ASCII before its @, and the smarthost does not offer SMTPUTF8"
            )
        else:
            able.append(recipient)
    return able


def _tls(config: Config) -> ssl.SSLContext:
    """Raises Broken."""
    tls = config.tls or ClientTls()
    for path in tls.files():
        if not path.is_file():
            raise Broken(f"tls: there is no file {path}")
    try:
        return tls.context()
    except OSError as error:  # ssl.SSLError is one
        raise Broken(f"tls: the certificates can't be used: {error}") from error


async def _look_in(config: Config) -> Offers:
    try:
        line = await Line.open(config, _tls(config))
        await line.close()
    finally:
        await asyncio.sleep(0.05)  # a transport is closed in one of the loop's next rounds, and this loop ends here
    return line.offers
