"""Format `frames`: events and notifications over `gateway.wire.link`, both ways, each until it is acknowledged.

What comes in is acknowledged when `emit` has returned, that is when it is durable; an event with an id of its own that
comes again after a crash is one event all the same. What goes out is delivered when the other side's ack has come. A
message that is under way when the line is lost stays so: the link repeats it when the line is back, and the delivery
that is tried again meets it there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import gateway
from gateway import ports
from gateway.api import Context, Event, NotReady, Refused, StoreFull, StoreTrouble, notification, ulid
from gateway.integrations.serial.noise import Noise
from gateway.wire import link

Keep = Callable[[Mapping[str, Any], str], Awaitable[None]]

_new_id = ulid.UlidMaker().new
_FIELDS = (
    "id", "time", "device", "kind", "state", "severity", "title", "text", "data", "attachments", "mail",
)  # fmt: skip
_AT_ONCE = 100  # messages that are being kept
_NOTED = 100  # outcomes that nobody has asked for
_CUT = "the text was cut for a serial line"


class Frames:
    """See the text at the top. `wake` is called when there is something to take. Made on the event loop."""

    def __init__(
        self, context: Context, noise: Noise, line: int, rate: int, wake: Callable[[], None], keep: Keep | None
    ) -> None:
        """`keep` makes an event of what comes in, and returns when it is durable; None: nothing is taken in.

        Its second argument names what waits until the store can write; with "" StoreTrouble is raised.
        """
        self._context = context
        self._keep = keep
        self._noise = noise
        self._wake = wake
        ourselves = {"firmware": f"mailwire {gateway.__version__}", "board": "gateway"}
        self._link = link.Link(ports.boot_id(), ourselves, ports.milliseconds(), line, link.WINDOW, rate)
        self._numbers: dict[int, str] = {}  # of messages under way: the event
        self._outcomes: dict[str, asyncio.Future[None]] = {}  # event -> done when it is acknowledged or refused
        self._lost = asyncio.get_running_loop().create_future()
        self._room = asyncio.Event()
        self._ids: dict[tuple[str, int], str] = {}  # of messages that could not be kept yet
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def peer(self) -> dict[str, Any] | None:
        """The other side's `hello`; None while nobody is there."""
        return self._link.peer

    def about(self) -> str:
        """Who is there, for people."""
        return said(self.peer) if self.peer else "nobody has said hello yet"

    # --- in ----------------------------------------------------------------------------------------------------

    async def came(self, data: bytes) -> None:
        """These bytes were read."""
        self._handle(self._link.feed(data, ports.milliseconds()))
        if len(self._tasks) > _AT_ONCE:  # of senders that wait for no answer
            await asyncio.wait(self._tasks)

    def lost(self) -> None:
        """The line was lost."""
        self._link.cut(ports.milliseconds())
        self._say_lost()

    async def stop(self) -> None:
        """What was not acknowledged yet will come again."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _handle(self, events: list[tuple[Any, ...]]) -> None:
        for kind, *values in events:
            match kind:
                case link.MESSAGE:
                    task = asyncio.create_task(self._take_in(*values))
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)
                case link.ACKED:
                    self._end(values[0], None)
                case link.REFUSED:
                    self._end(*values)
                case link.NOISE:
                    self._noise.heard(values[0].decode("utf-8", "replace"))
                case link.HELLO:
                    self._context.log.info("%s says hello", said(values[0]))
                    self._context.ready()
                case _:  # a console's answer that nobody waits for, a frame of tomorrow, an echo
                    self._context.log.debug("a frame that says nothing to a gateway: %s", values[0])
        self._room.set()
        self._wake()

    async def _take_in(self, boot: str, n: int, kind: str, body: dict[str, Any]) -> None:
        """Keep it, then acknowledge it."""
        if self._keep is None:
            self._handle(self._link.refuse(boot, n, link.BAD, "nothing is taken in on this line"))
            return
        try:
            draft = _of_event(body) if kind == "event" else notification.of_object(body)
        except (ValueError, TypeError) as error:
            self._handle(self._link.refuse(boot, n, link.BAD, str(error)))
            return
        # A sender that gives no ids repeats what could not be kept, and that is to be one event, too.
        if not draft.get("id"):
            draft = draft | {"id": self._ids.setdefault((boot, n), _new_id()) if n else _new_id()}
        # A sender that can't read does not send again: what it said waits here, and in the end holds up the line.
        waiting = "" if n else "a message without a number"
        try:
            await self._keep(draft, waiting)
        except StoreFull as error:
            events = self._link.refuse(boot, n, link.FULL, str(error))
        except StoreTrouble as error:
            events = self._link.refuse(boot, n, link.BUSY, str(error))
        except Exception:  # a fault of ours is no reason to lose an event, nor to leave a board without an answer
            self._context.log.exception("a message could not be taken in: %s", body)
            events = self._link.refuse(boot, n, link.BUSY, "the gateway failed on this")
        else:
            self._ids.pop((boot, n), None)
            events = self._link.accept(boot, n)
        self._handle(events)

    # --- out ---------------------------------------------------------------------------------------------------

    def take(self) -> bytes:
        """The next line to write."""
        was_there = self.peer is not None
        line = self._link.take(ports.milliseconds())
        if was_there and self.peer is None:
            self._context.log.warning("nobody answers on the line any more")
            self._say_lost()
        return line

    def wait(self) -> float:
        """Seconds until there may be one."""
        return self._link.wait(ports.milliseconds()) / 1000

    async def deliver(self, event: Event) -> None:
        """Until the other side has acknowledged it."""
        while event["id"] not in self._outcomes:
            if self.peer is None:
                raise NotReady("nobody has said hello on the line")
            if "event" not in _takes(self.peer):
                self._context.log.debug("%s takes no events", said(self.peer))
                return
            if self._link.room:
                self._send(event)
            else:
                self._room.clear()
                await self._room.wait()
        outcome = self._outcomes[event["id"]]
        await asyncio.wait((outcome, self._lost), return_when=asyncio.FIRST_COMPLETED)
        if not outcome.done():
            raise NotReady("the line was lost before the other side acknowledged")
        self._outcomes.pop(event["id"], None)
        outcome.result()

    def _send(self, event: Event) -> None:
        body = self._cut_to_fit(event)
        try:
            n = self._link.send("event", body)
        except ValueError as error:
            raise Refused(f"even without its text, {error}") from error
        self._numbers[n] = event["id"]
        self._outcomes[event["id"]] = asyncio.get_running_loop().create_future()
        self._wake()

    def _cut_to_fit(self, event: Event) -> dict[str, Any]:
        """As it is, or with as much of its text as the line takes."""
        body = dict(event)
        if self._fits(body):
            return body
        known = event["data"].get("truncated")
        body["data"] = event["data"] | {"truncated": [*(known if isinstance(known, list) else []), _CUT]}
        shortest, longest = 0, min(len(event["text"]), self._link.line)
        while shortest < longest:
            middle = (shortest + longest + 1) // 2
            if self._fits(body | {"text": event["text"][:middle]}):
                shortest = middle
            else:
                longest = middle - 1
        return body | {"text": event["text"][:shortest]}

    def _fits(self, body: dict[str, Any]) -> bool:
        try:
            return bool(self._link.framed("event", body))
        except ValueError:
            return False

    def _end(self, n: int, refusal: str | None) -> None:
        outcome = self._outcomes.get(self._numbers.pop(n, ""))
        if outcome is None:
            return
        if refusal is None:
            outcome.set_result(None)
        else:
            outcome.set_exception(Refused(refusal))
            outcome.exception()  # the delivery asks for it, perhaps at its next try, perhaps never
        for event_id in [event_id for event_id, one in self._outcomes.items() if one.done()][:-_NOTED]:
            del self._outcomes[event_id]

    def _say_lost(self) -> None:
        self._lost.set_result(None)
        self._lost = asyncio.get_running_loop().create_future()
        self._room.set()


def said(hello: Mapping[str, Any]) -> str:
    """What a `hello` says of its sender, for people: `attic (ESP32_GENERIC, firmware 0.1.0)`."""
    name, board, firmware = (ascii(str(hello.get(key) or ""))[1:-1][:60] for key in ("name", "board", "firmware"))
    facts = ", ".join(filter(None, (board, f"firmware {firmware}" if firmware else "")))
    if name and facts:
        return f"{name} ({facts})"
    return name or facts or f"a board that started as {hello['boot']}"


def _takes(hello: Mapping[str, Any]) -> list[str]:
    """The kinds of messages that the other side has a use for: all, if it does not say."""
    takes = hello.get("takes")
    return takes if isinstance(takes, list) else list(link.NUMBERED)


def _of_event(body: Mapping[str, Any]) -> dict[str, Any]:
    """A draft with what a board may say of an event: it does not choose who is told."""
    return {key: body[key] for key in _FIELDS if key in body}
