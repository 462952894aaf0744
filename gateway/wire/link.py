"""Two sides of a serial line that talk in frames: each message reaches the other side's application; no I/O, no clock.

The law of this file:

- A numbered message (`event`, `notify`) is kept and repeated, ever more slowly, until its `ack` or a final `nak`.
- The receiver hands messages to its application one at a time and in the order of their numbers, and answers only when
  the application has said that it keeps the message, can't now, or never will. What it has had before, by (boot id, n),
  it answers again and hands to nobody.
- A side that restarts has a new boot id, and counts from 1. Each message names its sender's boot id and each answer
  repeats it, so nothing that is left on the line from before is taken for something new.
- Nothing grows with what the other side sends: a window of messages, and a few boot ids.
- A message that doesn't fit the line is refused when it is sent, with words.

Times are milliseconds of any counter that goes round at 2**30 or later (`time.ticks_ms()`, or `time.monotonic()`); a
link is called at least once a day. Each message is a frame (`gateway.wire.frame`) with its type in `t`:

| `t` | holds | says |
|---|---|---|
| `hello` | `boot`, `line`, `window`, `n`; in an answer `you`; and what its sender is (`firmware`, `board`, ...) | who I am, and what I take; without `you` it asks for an answer |
| `event` | `boot`, `n`, perhaps `from`; `event` | an event |
| `notify` | `boot`, `n`, perhaps `from`; `notify` | a notification for people |
| `ack` | `boot`, `n` | it is kept: forget it |
| `nak` | `boot`, `n`, `reason` (`busy`, `full`, `bad`), `text` | not kept: send it later; after `bad`, never again |
| `ping`, `pong` | `boot` of who asked | is anybody there? yes |
| `do`, `done` | anything | a command of the console, and its answer; once, if at all |

`line` is the octets of the longest line that the sender of the `hello` takes, and the smaller one of both sides counts.
`window` is how many messages it takes before it has answered the first. `n` in a `hello`, and `from` in a message (left
out where it is the same as `n`), is the lowest number that is not answered yet: a receiver that has just started begins
with it. An `event` or `notify` without `n` is not answered, for senders that can't read.

MicroPython-safe.
"""  # noqa: E501  # a table

from gateway.wire import frame

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeGuard

    Message = dict[str, Any]
    Event = tuple[Any, ...]

HELLO = 1
"""`(HELLO, message)`: somebody is there; not there before, or started anew."""
MESSAGE = 2
"""`(MESSAGE, boot, n, kind, body)`: `accept(boot, n)` or `refuse(boot, n, ...)` it. `n` 0: there is nobody to tell."""
ACKED = 3
"""`(ACKED, n)`: the other side keeps what we sent."""
REFUSED = 4
"""`(REFUSED, n, words)`: the other side never will."""
CONSOLE = 5
"""`(CONSOLE, message)`: a `do` or a `done`."""
NOISE = 6
"""`(NOISE, bytes)`: what was no frame."""
STRANGE = 7
"""`(STRANGE, message)`: a frame that is no message of these, or our own one come back."""

BUSY, FULL, BAD = "busy", "full", "bad"
NUMBERED = ("event", "notify")

WINDOW = 4
FIRST_REPEAT, LAST_REPEAT = 1000, 30000
FIRST_HELLO, LAST_HELLO = 1000, 10000
PING = 15000  # of silence; after three times as long nobody is there
BOOTS = 8  # of the other side, remembered
_BOOT_LENGTH = 32
# What a boot id is made of. Not compared letter by letter: MicroPython keeps each that it is asked for.
_VISIBLE = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
_WORDS = 160  # letters of a refusal
_REFUSALS = 16  # that are remembered, should the sender ask again
_ROUND = 1 << 30
_HIGHEST = 1 << 53  # what every reader of JSON counts to


class Link:
    """One side. `about` is what its `hello` says of it; `rate` is octets a second, 0 where the line is never the limit.

    Give it what was read (`feed`), write what `take` returns until that is empty, and be back after `wait`.
    `peer` is the other side's `hello`, None while nobody is known to be there. `line` is what was agreed on.
    """

    __slots__ = (
        "_answered", "_asked", "_clear", "_decoder", "_heard", "_hello_wait", "_inbound", "_limit", "_next", "_out",
        "_sent", "_taken", "_window", "about", "boot", "line", "peer", "rate",
    )  # fmt: skip

    def __init__(
        self, boot: str, about: "Message", now: int, line: int = frame.MAX_LINE, window: int = WINDOW, rate: int = 0
    ) -> None:
        self.boot = boot
        self.about = about
        self.rate = rate
        self.peer: Message | None = None
        self.line = frame.LINE
        self._limit = max(frame.LINE, min(line, frame.MAX_LINE))
        self._taken = window
        self._window = window
        self._decoder = frame.Decoder()
        self._decoder.agree(self._limit)
        self._out: list[bytes] = []
        self._sent: list[_Sent] = []
        self._next = 1
        self._inbound: list[_Inbound] = []
        self._answered = False  # has the other side answered our hello?
        self._hello_wait = 0
        self._asked = now  # when the last hello or ping went out
        self._heard = now
        self._clear = now  # when all that was taken will have left
        self._hello("~" * _BOOT_LENGTH)  # raises ValueError now, if `about` is too much for a line

    # --- out ---------------------------------------------------------------------------------------------------

    @property
    def room(self) -> int:
        """How many messages may be sent now."""
        return max(0, self._window - len(self._sent)) if self.peer else 0

    @property
    def unanswered(self) -> "list[int]":
        """The numbers of what was sent and is not answered yet."""
        return [one.n for one in self._sent]

    def send(self, kind: str, body: "Message") -> int:
        """Its number; what became of it comes out of `feed`. To call where there is `room`.

        ValueError, with words, if it doesn't fit the line.
        """
        if not self.room:
            raise RuntimeError("there is no room in the window")
        n = self._next
        self._sent.append(_Sent(n, self.framed(kind, body)))
        self._next += 1
        return n

    def framed(self, kind: str, body: "Message") -> bytes:
        """The line that `send` would make. ValueError as there: it can be asked what fits."""
        message = {"t": kind, "boot": self.boot, "n": self._next, kind: body}
        if self._sent:
            message["from"] = self._sent[0].n
        return frame.encode(message, self.line)

    def tell(self, message: "Message") -> None:
        """A `do` or a `done`. ValueError if it can't be framed."""
        self._out.append(frame.encode(message, self.line))

    def accept(self, boot: str, n: int) -> "list[Event]":
        """The application keeps this message. Returns what comes after it, if that waits."""
        events: list[Event] = []
        state = self._handed(boot, n)
        if state:
            state.settle("")
            self._answer(state, n)
            self._hand(state, events)
        return events

    def refuse(self, boot: str, n: int, reason: str, words: str = "") -> "list[Event]":
        """It does not: `BUSY` or `FULL`, send it later; `BAD`, never. Returns as `accept`."""
        events: list[Event] = []
        state = self._handed(boot, n)
        if state and reason == BAD:
            state.settle(_plain(words) or BAD)
            self._answer(state, n)
            self._hand(state, events)
        elif state:
            state.handed = False
            self._put({"t": "nak", "boot": boot, "n": n, "reason": reason, "text": _plain(words)})
        return events

    def cut(self, now: int) -> None:
        """The line was cut: nobody is known to be there, and half a line is none. What was sent is still owed."""
        self.peer = None
        self._answered = False
        self._hello_wait = 0
        self._asked = now
        self._out = []
        self._decoder = frame.Decoder()
        self._decoder.agree(self._limit)

    def take(self, now: int) -> bytes:
        """The next line to write; empty when that was all for now."""
        line = self._due(now)
        if line:
            if _passed(now, self._clear):
                self._clear = now
            if self.rate:
                self._clear = (self._clear + len(line) * 1000 // self.rate) % _ROUND
        return line

    def wait(self, now: int) -> int:
        """Milliseconds until there may be something to take."""
        if self._out:
            return 0
        if not self._answered:
            least = self._left(now, self._asked, self._hello_wait)
        else:
            least = self._left(now, self._heard, PING)
            if not least:
                least = self._left(now, self._asked, PING)
        if self.peer:
            for one in self._sent:
                least = min(least, self._left(now, one.at, one.wait))
        return least

    def _due(self, now: int) -> bytes:
        if self._out:
            return self._out.pop(0)
        if self.peer and self._answered and not self._left(now, self._heard, 3 * PING):
            self.cut(now)
        if not self._answered:
            if not self._left(now, self._asked, self._hello_wait):
                self._hello_wait = min(max(FIRST_HELLO, 2 * self._hello_wait), LAST_HELLO)
                self._asked = self._after(now)
                return self._hello(None)
        elif not self._left(now, self._heard, PING) and not self._left(now, self._asked, PING):
            self._asked = now
            return frame.encode({"t": "ping", "boot": self.boot})
        if self.peer:
            for one in self._sent:
                if not self._left(now, one.at, one.wait):
                    one.wait = min(max(FIRST_REPEAT, 2 * one.wait), LAST_REPEAT)
                    one.at = self._after(now, len(one.line))
                    return one.line
        return b""

    def _left(self, now: int, since: int, wait: int) -> int:
        """How much of a wait is left; `since` may be to come, by what the line still has to carry."""
        if not wait:
            return 0
        if not _passed(now, since):
            return wait + (since - now) % _ROUND
        return max(0, wait - (now - since) % _ROUND)

    def _after(self, now: int, octets: int = 0) -> int:
        """When a line that is taken now will have left."""
        begin = now if _passed(now, self._clear) else self._clear
        return (begin + octets * 1000 // self.rate) % _ROUND if self.rate else begin

    def _hello(self, you: "str | None") -> bytes:
        message = dict(self.about)
        message["t"] = "hello"
        message["boot"] = self.boot
        message["line"] = self._limit
        message["window"] = self._taken
        message["n"] = self._sent[0].n if self._sent else self._next
        if you:
            message["you"] = you
        return frame.encode(message)

    def _put(self, message: "Message") -> None:
        self._out.append(frame.encode(message))

    def _answer(self, state: "_Inbound", n: int) -> None:
        words = state.refused.get(n)
        if words is None:
            self._put({"t": "ack", "boot": state.boot, "n": n})
        else:
            self._put({"t": "nak", "boot": state.boot, "n": n, "reason": BAD, "text": words})

    # --- in ----------------------------------------------------------------------------------------------------

    def feed(self, data: bytes, now: int) -> "list[Event]":
        """Take what was read; return what it means. There may be something to take afterwards."""
        events: list[Event] = []
        for kind, value in self._decoder.feed(data):
            if kind == frame.NOISE:
                events.append((NOISE, value))
            elif not self._message(value, now, events):
                events.append((STRANGE, value))
        return events

    def _message(self, message: "Message", now: int, events: "list[Event]") -> bool:
        """False for what is none of ours."""
        kind = message.get("t")
        boot = message.get("boot")
        if kind in ("ack", "nak", "pong"):
            if boot != self.boot:
                return False
            if kind != "pong":
                self._settle(message, now, events)
        elif boot == self.boot:
            return False  # an echo
        elif kind == "hello":
            if not _is_boot(boot):
                return False
            self._greet(message, now, events)
        elif kind in NUMBERED:
            if not self._take_in(message, str(kind), events):
                return False
        elif kind == "ping":
            self._put({"t": "pong", "boot": boot if _is_boot(boot) else None})
        elif kind in ("do", "done"):
            events.append((CONSOLE, message))
        else:
            return False
        self._heard = now
        return True

    def _greet(self, message: "Message", now: int, events: "list[Event]") -> None:
        boot = message["boot"]
        line, window, n, you = message.get("line"), message.get("window"), message.get("n"), message.get("you")
        news = self.peer is None or self.peer["boot"] != boot
        self.peer = message
        self.line = max(frame.LINE, min(self._limit, line)) if _is_number(line) else frame.LINE
        self._window = max(1, min(self._taken, window)) if _is_number(window) else 1
        if _is_number(n):
            self._hand(self._state(boot, n), events)
        if news:
            for one in [one for one in self._sent if len(one.line) > self.line]:
                self._sent.remove(one)
                words = f"this message makes a line of {len(one.line)} octets, and {self.line} are agreed on"
                events.append((REFUSED, one.n, words))
            for one in self._sent:
                one.at, one.wait = now, 0
            events.append((HELLO, message))
        if you is None:
            self._out.append(self._hello(boot))
        elif you == self.boot:
            self._answered = True

    def _settle(self, message: "Message", now: int, events: "list[Event]") -> None:
        for one in self._sent:
            if one.n == message.get("n"):
                break
        else:
            return
        if message["t"] == "ack":
            self._sent.remove(one)
            events.append((ACKED, one.n))
        elif message.get("reason") == BAD:
            self._sent.remove(one)
            events.append((REFUSED, one.n, str(message.get("text") or BAD)[:_WORDS]))
        else:  # those behind it can't be taken before it
            wait = min(max(FIRST_REPEAT, one.wait), LAST_REPEAT)
            for other in self._sent:
                if other.n >= one.n:
                    other.at, other.wait = now, max(wait, other.wait)

    def _take_in(self, message: "Message", kind: str, events: "list[Event]") -> bool:
        boot, n, body = message.get("boot"), message.get("n"), message.get(kind)
        if n is None and isinstance(body, dict):
            events.append((MESSAGE, "", 0, kind, body))
            return True
        begin = message.get("from", n)
        if not _is_boot(boot) or not _is_number(n) or not _is_number(begin) or begin > n:
            return False
        state = self._state(boot, begin)
        if n < state.expected:
            self._answer(state, n)
        elif n < state.expected + self._taken and not (state.handed and n == state.expected):
            state.ahead[n] = (kind, body)
        self._hand(state, events)
        return True

    def _state(self, boot: str, begin: int) -> "_Inbound":
        """What is known of the messages of this boot of the other side, which answers for none below `begin`."""
        for state in self._inbound:
            if state.boot == boot:
                break
        else:
            state = _Inbound(boot, begin)
        # The one that was heard of last is the last to be forgotten.
        self._inbound = [one for one in self._inbound if one is not state][1 - BOOTS :]
        self._inbound.append(state)
        state.begin = max(state.begin, begin)
        state.skip()
        return state

    def _hand(self, state: "_Inbound", events: "list[Event]") -> None:
        """The next message to the application, if it is there and the one before is done with."""
        while not state.handed and state.expected in state.ahead:
            n = state.expected
            kind, body = state.ahead.pop(n)
            state.handed = True
            if isinstance(body, dict):
                events.append((MESSAGE, state.boot, n, kind, body))
            else:
                state.settle(f"there is no object '{kind}' in this message")
                self._answer(state, n)

    def _handed(self, boot: str, n: int) -> "_Inbound | None":
        """Its state, if this message is in the application's hands."""
        for state in self._inbound:
            if state.boot == boot and state.handed and state.expected == n:
                return state
        return None


class _Sent:
    """A message of ours that is not answered. `wait` milliseconds after `at` it is due."""

    __slots__ = ("at", "line", "n", "wait")

    def __init__(self, n: int, line: bytes) -> None:
        self.n = n
        self.line = line
        self.at = 0
        self.wait = 0


class _Inbound:
    """What comes from one boot of the other side.

    `expected` is the number that the application is given next, or has in its hands (`handed`); those above it that
    are here wait in `ahead`. The sender has an answer to, or gave up, all below `begin`.
    """

    __slots__ = ("ahead", "begin", "boot", "expected", "handed", "refused")

    def __init__(self, boot: str, begin: int) -> None:
        self.boot = boot
        self.begin = begin
        self.expected = begin
        self.handed = False
        self.ahead: dict[int, tuple[str, Any]] = {}
        self.refused: dict[int, str] = {}  # those that the sender may still ask for

    def settle(self, refusal: str) -> None:
        """The one in the application's hands is done with."""
        if refusal:
            self.refused[self.expected] = refusal
            if len(self.refused) > _REFUSALS:
                del self.refused[min(self.refused)]
        self.expected += 1
        self.handed = False
        self.skip()

    def skip(self) -> None:
        """Pass over what the sender gave up, but not what the application has in its hands."""
        if not self.handed and self.expected < self.begin:
            self.expected = self.begin
        for numbers in (self.ahead, self.refused):
            for n in [n for n in numbers if n < self.begin]:
                del numbers[n]


def _passed(now: int, then: int) -> bool:
    return (now - then) % _ROUND < _ROUND // 2


def _plain(words: str) -> str:
    """Letters of one octet, so that a refusal fits every line."""
    return "".join([letter if " " <= letter <= "~" else "?" for letter in words[:_WORDS]])


def _is_boot(value: "Any") -> "TypeGuard[str]":
    return isinstance(value, str) and 0 < len(value) <= _BOOT_LENGTH and not value.strip(_VISIBLE)


def _is_number(value: "Any") -> "TypeGuard[int]":
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < _HIGHEST
