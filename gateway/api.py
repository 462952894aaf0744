"""All that an integration may import: the contract between the gateway and what plugs into it.

An integration is a folder with `manifest.json` and an `__init__.py` that holds a pydantic model named `Config` and
one class, a `Source`, a `Target` or both, or a `Service`. The gateway makes it with `(context, config)`, awaits
`start()`, and later `stop()`; the constructor does nothing but keep its arguments.

A target's `deliver` says one of four things: it returns (done, the other side has acknowledged), or raises `Retry`
(this event, later), `NotReady` (the whole target is away; nothing is counted against the event) or `Refused` (never;
the event becomes a dead letter). `start` says one of four as well: it returns, or raises `NotReady` (tried again),
`CredentialsRefused` (a person must act) or `Broken` (stop, say why).

A source of mail hands its bytes to `context.intake`; a source of anything else awaits `context.emit(draft)`. Neither
may acknowledge upstream before that has answered: "250 means stored".
"""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import re
import ssl
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Protocol, Self, TypedDict
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)

from gateway import bans, encoded_word, mailbox, notification, patterns, systemd, ulid, users
from gateway.kept_key import kept_key
from gateway.wire import event as words

__all__ = [
    "Attachment",
    "Broken",
    "ClientTls",
    "ConfigModel",
    "ConfigPath",
    "Context",
    "CredentialsRefused",
    "Device",
    "DeviceFacts",
    "Distribution",
    "Duration",
    "Envelope",
    "Event",
    "Finding",
    "Gateway",
    "Intake",
    "Integration",
    "MailFacts",
    "Metric",
    "NotReady",
    "Receipt",
    "Refused",
    "RequestRefused",
    "Retry",
    "Service",
    "Source",
    "StoreFull",
    "StoreTrouble",
    "Target",
    "TargetNames",
    "Template",
    "about",
    "bans",
    "encoded_word",
    "host_and_port",
    "kept_key",
    "mailbox",
    "not_opened",
    "notification",
    "part_of",
    "patterns",
    "same_part",
    "seconds",
    "systemd",
    "template_check",
    "to_json",
    "ulid",
    "users",
    "words",
]


class Attachment(TypedDict):
    """One attachment as an event shows it; its bytes are fetched with `Gateway.attachment(event, index)`."""

    name: str
    type: str
    size: int
    sha256: str


class DeviceFacts(TypedDict):
    """The device as an event shows it."""

    id: str
    name: str
    manufacturer: str | None
    model: str | None
    profile: str | None


# The envelope and the header fields that an event repeats, so that rules can use them ("from" is a keyword).
MailFacts = TypedDict(
    "MailFacts",
    {
        "from": str,
        "to": list[str],
        "subject": str | None,
        "message_id": str | None,
        "helo": str | None,
        "peer": str | None,
    },
)


class Event(TypedDict):
    """DESIGN §4.1; `gateway.wire.event` lists the words for kind, state and severity."""

    v: int
    id: str
    time: str
    source: str
    device: DeviceFacts
    kind: str
    state: str | None
    severity: str
    title: str
    text: str
    data: dict[str, Any]
    attachments: list[Attachment]
    mail: MailFacts | None


# Nothing in an event holds itself: `gateway.draft` sees to it, and to look would take a third of the time.
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), check_circular=False)


class MadeEvent(dict[str, Any]):
    """An event that the gateway has made, with its JSON: several parts of the gateway need it."""

    json: bytes | None = None


def to_json(event: Event) -> bytes:
    """An event as compact JSON in UTF-8. It is worked out once, for an event never changes."""
    made: object = event
    if isinstance(made, MadeEvent) and made.json is not None:
        return made.json
    text = _ENCODER.encode(event).encode("utf-8", "replace")
    if isinstance(made, MadeEvent):
        made.json = text
    return text


@dataclass(slots=True)
class Envelope:
    """What the SMTP conversation said (RFC 5321 §2.3.1): addresses are opaque text, `mail_from` is "" for `<>`.

    `source` is the integration's name in the configuration. `details` holds what else was learned on the way
    (ESMTP parameters, TLS version, user name, remarks), as JSON-able values, never a password.
    """

    source: str
    peer: str
    helo: str
    mail_from: str
    rcpt_to: list[str]
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Device:
    """A device as the registry knows it. Times are Unix seconds.

    `kinds` are the kinds of event seen so far; `states` maps a kind to its present state (`on` or `off`);
    `last_event` is the newest event without its text; `picture` is (event id, attachment index) of the newest one.
    `quantities` maps a key of its events' data to its newest number and that number's unit, if it has one; `troubles`
    maps a kind and part to the title of the event since which something is wrong; `url` is where it can be configured.
    `online` is known of a device that reports on a schedule: False when it did not, and nothing else came since.
    """

    id: str
    name: str
    manufacturer: str | None = None
    model: str | None = None
    profile: str | None = None
    learned: bool = True
    first_seen: float = 0.0
    last_seen: float = 0.0
    mails: int = 0
    kinds: list[str] = field(default_factory=list)
    states: dict[str, str] = field(default_factory=dict)
    last_event: dict[str, Any] | None = None
    picture: tuple[str, int] | None = None
    quantities: dict[str, tuple[int | float, str | None]] = field(default_factory=dict)
    troubles: dict[str, str] = field(default_factory=dict)
    url: str | None = None
    online: bool | None = None

    def facts(self) -> DeviceFacts:
        return {
            "id": self.id,
            "name": self.name,
            "manufacturer": self.manufacturer,
            "model": self.model,
            "profile": self.profile,
        }


class Distribution(NamedTuple):
    """A histogram. `counts[i]` values were at most `bounds[i]` (and above the bound before); the last one: the rest."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    sum: float


class Metric(NamedTuple):
    """Something counted, for people's monitoring; the name and the help follow Prometheus' conventions.

    A sample is its labels and its value. Labels take their values from a list that is known (integrations, kinds,
    reply codes), never from what a peer says, or a peer could fill the monitoring's memory.
    """

    name: str
    type: Literal["counter", "gauge", "histogram"]
    help: str
    samples: list[tuple[dict[str, str], float | Distribution]]


class Retry(Exception):
    """This event could not be delivered now; try it again, after `after` seconds or by the usual back-off.

    `memo`, a JSON-able mapping, is kept with the delivery: the next try is `Target.deliver_again(event, memo)`. For a
    target that has several others behind it, of which some have had the event.
    """

    def __init__(self, reason: str, after: float | None = None, memo: Mapping[str, Any] | None = None) -> None:
        super().__init__(reason)
        self.after = after
        self.memo = memo


class Refused(Exception):
    """This event will never be delivered to this target; the reason is kept with the dead letter.

    `memo` as for `Retry`: for the case that a person has it tried again.
    """

    def __init__(self, reason: str, memo: Mapping[str, Any] | None = None) -> None:
        super().__init__(reason)
        self.memo = memo


class NotReady(Exception):
    """The other side is away. From `start`: try again later. From `deliver`: pause the whole target.

    The pause is `after` seconds, or by the usual back-off. A target that learns by itself when the other side is back
    calls `Context.ready()` then.
    """

    def __init__(self, reason: str, after: float | None = None) -> None:
        super().__init__(reason)
        self.after = after


class CredentialsRefused(Exception):
    """The other side refused our login: a person must act; not retried until the configuration changes."""


class Broken(Exception):
    """This integration can't work as configured, and trying again won't help. The text says what to do."""


class RequestRefused(Exception):
    """A `bridge/request/<verb>` that can't be carried out; the text goes into the response."""


class StoreTrouble(Exception):
    """The mail could not be made durable now: the source answers 451 (or keeps it upstream)."""


class StoreFull(StoreTrouble):
    """As `StoreTrouble`, because the disk is full: 452."""


class Receipt(Protocol):
    """One mail on its way in. Not durable before `commit`'s callback was called with None."""

    def write(self, chunk: bytes) -> bool:
        """Take the next bytes. False: stop reading until `on_drain` (see `Intake.begin`) is called."""

    def commit(self, envelope: Envelope, done: Callable[[str, StoreTrouble | None], None]) -> None:
        """Make it durable; then `done(mail_id, None)`, or `done(mail_id, why)`, on the event loop. Never cancelled."""

    def abort(self) -> None:
        """Forget it: the peer left before the end, or the mail was refused."""


class Intake(Protocol):
    """The one durable front door for raw mail."""

    coming: int
    """How many mails are about to come to their end: a commit waits a moment for them, and they go before those that
    wait to be interpreted. A source counts them up and down; one that can't leaves it alone."""

    def begin(self, on_drain: Callable[[], None] | None = None) -> Receipt: ...

    def room(self) -> int:
        """How many bytes a mail may have now, by free disk space (at least 0)."""


class Gateway(Protocol):
    """What the running gateway tells and does for its integrations."""

    def devices(self) -> list[Device]: ...

    def targets(self) -> dict[str, bool]:
        """The name of each target, and whether it tells people."""

    def muted_until(self, device_id: str) -> float:
        """The Unix time until which people are not told of a device; infinity: till somebody ends it; 0: they are."""

    def acknowledge_url(self, event: Event) -> str | None:
        """Where a person acknowledges it with a click, if it waits for that and something answers there."""

    def info(self) -> dict[str, Any]:
        """Version, configuration hash, integrations and their states: the payload of `bridge/info`."""

    def health(self) -> dict[str, Any]:
        """How the gateway is, and why (README, `bridge/health`)."""

    def metrics(self) -> list[Metric]:
        """All that is counted, a name once; those of integrations have the label `integration`. Seconds old at most."""

    async def attachment(self, event_id: str, index: int) -> bytes:
        """The decoded bytes of an attachment. Raises LookupError if the mail is no longer kept."""

    async def raw_mail(self, event_id: str) -> tuple[Envelope, bytes]:
        """The envelope and the bytes of the mail that an event came from. Raises LookupError as above."""

    def template(self, source: str, *, html: bool = False, more: Sequence[str] = ()) -> Template:
        """A text that events fill in, see `template_check`. In HTML, what they fill in is escaped."""

    async def failed(self, target: str, event_id: str, reason: str, memo: Mapping[str, Any] | None = None) -> bool:
        """A delivery that was done turns out to have failed: it becomes a dead letter, with a memo as for `Refused`.

        False: it is not done yet. Raises LookupError if the event is no longer kept.
        """

    async def kept_details(self, source: str, limit: int) -> list[dict[str, Any]]:
        """`Envelope.details` of the newest mails that this source has kept, the newest first."""

    def summary(self, events: Sequence[Event]) -> Event:
        """One event that tells of several (two or more, the oldest first). It is nowhere kept."""

    async def request(self, verb: str, payload: Mapping[str, Any]) -> dict[str, Any]:
        """Carry out a `bridge/request/<verb>`; raises RequestRefused with the reason."""


_EMIT_AGAIN = 5.0  # seconds until a store that can't write is asked again
_new_id = ulid.UlidMaker().new


@dataclass(slots=True)
class Context:
    """What one integration is given: its name in the configuration, a folder of its own, and its doors."""

    name: str
    data_dir: Path
    log: logging.Logger
    gateway: Gateway
    intake: Intake
    emit: Callable[[Mapping[str, Any]], Awaitable[str]]
    """`await emit(draft)`: an event that did not come by mail; its id, when it is durable. Raises StoreTrouble.

    The draft has any of an event's fields, `device` as its id or as its facts; what is missing or wrong is made good.
    `targets` names those that are told, in place of the routes. `files`: attachments, each (name, media type, bytes).
    `heard: False`: the device did not say so itself, so that it is no sign of life, and nothing that it says changes.
    With an `id` (a ULID) of its own it may be repeated after a crash, and is one event all the same.
    """
    ready: Callable[[], None]
    problem: Callable[[str | None], None]
    """`problem("text")` says that something is wrong (logged once, shown in health); `problem(None)`: well again."""

    async def emit_at_last(self, draft: Mapping[str, Any], what: str) -> str:
        """`emit` for `what` can't be sent again: tried until the store can write, and one event however often."""
        draft = {"id": _new_id(), **draft}
        while True:
            try:
                return await self.emit(draft)
            except StoreTrouble as error:
                self.log.warning("%s waits: %s", what, error)
                await asyncio.sleep(_EMIT_AGAIN)


def about(event: Event) -> dict[str, str]:
    """What a log line says of an event, for its `extra`: `log.warning("…", extra=about(event))`."""
    return {"mail": event["id"], "device": event["device"]["id"]}


PARTS = (
    "alert", "alertname", "array", "camera", "channel", "disk", "gateway", "host", "inverter", "pool", "problem_id",
    "sensor", "service", "target", "ups", "volume", "zone",
)  # fmt: skip
"""The keys of an event's data that tell of which part of its device it speaks."""


def part_of(event: Event) -> dict[str, str]:
    """What part of its device an event is about: the values of the keys in `PARTS`; {}: the whole."""
    return {key: str(event["data"][key]) for key in PARTS if key in event["data"]}


def same_part(one: dict[str, str], other: dict[str, str]) -> bool:
    """Can they be the same? One names all that the other does, or more."""
    return one.items() <= other.items() or one.items() >= other.items()


def _beside(path: Path, info: ValidationInfo) -> Path:
    try:
        return Path((info.context or {}).get("folder", "")) / path.expanduser()
    except RuntimeError:
        raise ValueError("there is no such home folder. Write the whole path") from None


TARGET_NAMES = "names of targets"
TargetNames = Annotated[tuple[str, ...], TARGET_NAMES]
"""Targets that are told, in a configuration: each is looked up when all of it is checked (`gateway.config`)."""

ConfigPath = Annotated[Path, AfterValidator(_beside)]
"""A path in a configuration; a relative one is meant from the folder of the configuration file."""


_SECONDS = {
    "": 1, "s": 1, "sec": 1, "second": 1, "min": 60, "minute": 60, "h": 3600, "hour": 3600, "d": 86400, "day": 86400,
}  # fmt: skip
_TIME = re.compile(rf"(\d+(?:\.\d+)?) *({'|'.join(_SECONDS)})s?")


def seconds(value: object) -> object:
    """A time of a configuration in seconds. Raises ValueError for what is none."""
    match = _TIME.fullmatch(value.strip().lower()) if isinstance(value, str) else None
    if match:
        return float(match[1]) * _SECONDS[match[2]]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("must be a number of seconds, or a time such as '90 s', '15 min', '1 h' or '7 days'")
    return value


Duration = Annotated[
    float,
    BeforeValidator(seconds),
    Field(ge=0, allow_inf_nan=False),
    WithJsonSchema({"type": ["number", "string"], "description": "seconds, or a time such as '15 min'"}),
]
"""Seconds, in a configuration also written as '90 s', '15 min', '1 h' or '7 days'."""


class ConfigModel(BaseModel):
    """Base of every integration's `Config`: unknown keys are errors, values don't change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class Template(Protocol):
    """A text with places that an event fills."""

    def __call__(self, values: Mapping[str, Any]) -> str:
        """Filled with an event, and what else the template may name. Raises ValueError with what failed."""


def template_check(*more: str) -> AfterValidator:
    """For a text in a configuration, in Jinja, with the keys of an event and of `more`: '{{ title }} on {{ state }}'.

    As `Annotated[str, template_check()]`; `Gateway.template` makes a Template of it.
    """

    def check(text: str, info: ValidationInfo) -> str:
        if compile_text := (info.context or {}).get("template"):
            compile_text(text, more=more)
        return text

    return AfterValidator(check)


def host_and_port(example: str) -> AfterValidator:
    """For an address and a port in a configuration, as '[::1]:9925'; `urlsplit(f"//{text}")` takes it apart."""
    port = example.rpartition(":")[2]

    def check(text: str) -> str:
        try:
            parts = urlsplit(f"//{text}")
            complete = parts.netloc == text and parts.hostname and parts.port is not None and not parts.username
        except ValueError:
            complete = False
        if not complete:
            raise ValueError(f"'{text}' is not an address and a port: write it like '{example}' or '[::1]:{port}'")
        return text

    return AfterValidator(check)


def not_opened(where: str, error: OSError) -> NotReady | Broken:
    """What a person can do about an address that can't be listened on. NotReady where waiting may help."""
    if error.errno == errno.EADDRINUSE:
        return NotReady(f"{where} is taken by another program: choose another port under 'listen'")
    if error.errno == errno.EACCES:
        return Broken(f"{where} may not be opened: choose a port from 1024 up under 'listen'")
    return NotReady(f"{where} can't be opened: {error.strerror or error}")


class ClientTls(ConfigModel):
    """How a server's certificate is verified, and our own. Without `ca` the system's authorities are asked."""

    ca: ConfigPath | None = Field(
        default=None, description="File with the certificate of the authority that signed the server's"
    )
    cert: ConfigPath | None = Field(default=None, description="File with our certificate, if the server asks for one")
    key: ConfigPath | None = Field(default=None, description="File with its key, if that is not in the same file")
    insecure: bool = Field(default=False, description="Take any certificate, of anybody")

    @model_validator(mode="after")
    def _key_needs_cert(self) -> Self:
        if self.key and not self.cert:
            raise ValueError("key is the key of cert; name that file, too")
        return self

    def files(self) -> list[Path]:
        return [path for path in (self.ca, self.cert, self.key) if path]

    def context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.ca)
        if self.ca:
            # An authority of one's own is rarely made by the letter of RFC 5280, which Python 3.13 insists on.
            context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        if self.cert:
            context.load_cert_chain(self.cert, self.key)
        if self.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


class Finding(NamedTuple):
    """What one check of `mailwire doctor` found; `advice` says what to do, if anything."""

    check: str
    result: Literal["ok", "warn", "fail"]
    text: str
    advice: str = ""


class Integration:
    """Common to sources and targets."""

    def __init__(self, context: Context, config: Any) -> None:
        self.context = context
        self.config = config

    async def start(self) -> None:
        """Begin. See the module's text for what may be raised."""

    async def stop(self) -> None:
        """Finish what is in flight, release everything. Called once, also after a failed start."""

    def reload(self) -> None:
        """The configuration was read again, and ours is as it was: look again at the files that it names. Quick."""

    @classmethod
    def examine(cls, name: str, config: Any, data_dir: Path) -> Iterator[Finding]:
        """What `mailwire doctor` is to say about it, whether the gateway runs or not; `data_dir` may not be there."""
        yield from ()

    def describe(self) -> str:
        """One friendly line for the start-up message: where it listens, what it is connected to."""
        return ""

    def try_it(self, mailwire: str) -> tuple[str, str] | None:
        """What a person may try, and the shell line for it; `mailwire` is how this program is called."""
        return None

    def health(self) -> dict[str, Any]:
        """What else `bridge/health` says of it: JSON-able values, nothing secret. Asked every few seconds."""
        return {}

    def acknowledge_url(self, event_id: str) -> str | None:
        """Where a person acknowledges this event with a click, if this integration answers there."""
        return None

    def metrics(self) -> Iterable[Metric]:
        """What it counts, for people's monitoring. Asked at each of their looks; must be quick."""
        return ()


class Source(Integration):
    """Makes events or mail. See `Context.intake` and `Context.emit`."""

    async def acknowledged(self, event: Event) -> None:
        """A person knows of this event, which came through us: whoever it came from may want to hear of that."""


class Service(Integration):
    """Neither: it shows the gateway to people or programs. Started last and stopped last."""


class Target(Integration):
    """Is given events. `concurrency`: how many deliveries may be under way at once."""

    concurrency: ClassVar[int] = 1
    event_bus: ClassVar[bool] = False
    """True for targets (mqtt, serial) that get everything when no routes are configured."""

    for_people: ClassVar[bool] = False
    """True for targets that tell people; Home Assistant is offered them."""

    @classmethod
    def takes_all(cls, config: Any) -> bool:
        """`event_bus`, for a target of which that depends on how it is configured."""
        return cls.event_bus

    patience: float = 24 * 3600.0
    """Seconds that an event may wait for this target, if its route does not say; later it would be a stale alarm."""

    async def deliver(self, event: Event) -> None:
        raise NotImplementedError

    async def deliver_again(self, event: Event, memo: Mapping[str, Any]) -> None:
        """As `deliver`, when the try before this one left a memo."""
        await self.deliver(event)

    def claims(self, event: Event) -> bool:
        """Is this event our business, whatever the routes say? Asked of each event; must be quick."""
        return False

    def begin(self, event: Event) -> asyncio.Future[None] | None:
        """The quick way, for targets that may offer it: what is returned is done when the event is delivered.

        None: use `deliver`. So does the gateway when the future fails or is cancelled; it must not raise.
        """
        return None

    def device_changed(self, device: Device) -> None:
        """A device was learned, renamed, changed state or was seen. Must be quick."""

    def device_forgotten(self, device_id: str) -> None:
        """A device is gone: withdraw what was published about it."""
