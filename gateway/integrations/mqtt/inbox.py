"""What comes in from MQTT: notifications for people, and the topics that are listened to, as drafts of events.

`<base>/notify/<target>` goes to that target, `<base>/notify` where the routes say. The payload is a JSON object or
plain text: its first line is the title. That is how a Home Assistant automation keeps its subject, for its MQTT notify
entity sends a message and nothing else. A message is acknowledged when its event is in the store, and not before.

With `events: true` the messages are another gateway's events, taken as they are: with their id, so that a repeat is
none, their time and their device; and with their picture, which that gateway publishes just before.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import Field, field_validator, model_validator

from gateway.api import ConfigModel, Context, TargetNames, Template, notification, template_check
from gateway.integrations.mqtt.client import Message
from gateway.wire.topics import Topics

NAMES = ("topic", "payload", "value")
"""What a template may name beside an event's keys: the levels of the topic, its payload, and that read as JSON."""
_MOST_WAITING = 1000  # messages
_FILTER = re.compile(r"(?:[^#+\0]+|\+)(?:/(?:[^#+/\0]*|\+))*(?:/#)?|#")
_EVENT, _IMAGE = "/event", "/image"  # how the topics of a gateway's events and pictures end
_PICTURES = 32 * 1024 * 1024  # bytes of pictures whose event has not come yet
_FINISH = 2.0  # seconds that what is being taken in has for its end, when we stop
_FIELDS = ("device", "kind", "state", "severity", "title", "text")
_WHOLE = ("id", "time", *_FIELDS, "data", "attachments", "mail")

_Text = Annotated[str, template_check(*NAMES)]


class Listen(ConfigModel):
    """A topic whose messages are events. Each field is a text with places: '{{ value.level }}', '{{ topic[1] }}'."""

    topic: str = Field(description="A topic filter: 'plant/+/alarm'")
    device: _Text = "{{ topic[-1] }}"
    kind: _Text = "other"
    state: _Text = ""
    severity: _Text = "info"
    title: _Text = "{{ payload }}"
    text: _Text = "{{ payload }}"
    when: _Text = Field(
        default="true", description="Only messages for which this becomes 'true', 'yes', 'on' or a number but 0"
    )
    data: tuple[str, ...] = Field(default=(), description="Keys of the JSON object that the event keeps as its data")
    retained: bool = Field(default=False, description="Take what was retained before we came, too")
    to: TargetNames = Field(default=(), description="Targets; without, the routes say")
    events: bool = Field(
        default=False, description="The messages are events of another gateway: 'mailwire/+/event', taken as they are"
    )

    @field_validator("topic")
    @classmethod
    def _filter(cls, value: str) -> str:
        if not _FILTER.fullmatch(value):
            raise ValueError("this is no topic filter; '+' stands for one level, '#' at the end for all that follow")
        return value

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.events:
            if not self.topic.endswith(f"/+{_EVENT}"):
                raise ValueError(
                    "with 'events: true' the topic is that of a gateway's events, such as mailwire/+/event"
                )
            if foreign := [key for key in ("data", *_FIELDS) if key in self.model_fields_set]:
                raise ValueError(f"{' and '.join(foreign)}: with 'events: true' events are taken as they are")
        return self

    @property
    def pictures(self) -> str | None:
        """The topic filter of the pictures that belong to them."""
        return self.topic.removesuffix(_EVENT) + _IMAGE if self.events else None

    @property
    def base(self) -> str:
        """Of whole events: the base topic of the gateway that makes them."""
        return self.topic.removesuffix(f"/+{_EVENT}")


class Inbox:
    """Takes messages, and makes events of them, in the order in which they come."""

    def __init__(self, context: Context, topics: Topics, listens: tuple[Listen, ...], notify: bool = True) -> None:
        """`notify`: take what is to be told to people, too."""
        self._context = context
        self._notify_filters = [topics.notify, f"{topics.notify}/+"] if notify else []
        self._pictures: dict[str, tuple[str, bytes]] = {}  # SHA-256 -> (topic, picture), the oldest first
        self._topics = topics
        self._listens = listens
        self._templates: list[dict[str, Template]] = []
        self._waiting: asyncio.Queue[Message] = asyncio.Queue()
        self._open: dict[int, Message] = {}  # by packet identifier: what the broker has no acknowledgement of
        self._taking_in = asyncio.Lock()
        self._overflows = False
        self._worker: asyncio.Task[None] | None = None

    @property
    def filters(self) -> dict[str, bool]:
        """The topic filters to subscribe to, and whether what is retained there is taken."""
        pictures = [one.pictures for one in self._listens if one.pictures]
        taken = dict.fromkeys([*self._notify_filters, *pictures, *(one.topic for one in self._listens)], False)
        return taken | {one.topic: True for one in self._listens if one.retained}

    def start(self) -> None:
        make = self._context.gateway.template
        self._templates = [
            {field: make(getattr(one, field), more=NAMES) for field in (*_FIELDS, "when")} for one in self._listens
        ]
        self._worker = asyncio.create_task(self._work(), name=f"inbox {self._context.name}")

    async def stop(self) -> None:
        """Before the connection ends: what is in the store by then is acknowledged, or it would come again."""
        if self._worker:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_FINISH):
                    await self._taking_in.acquire()
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)

    def received(self, message: Message) -> None:
        """At QoS 1 no more come than may be unacknowledged; at QoS 0 there is no such bound.

        What was not acknowledged when the connection was lost comes again, and may still wait here, or be in the store:
        it is told once. By its identifier alone it is not known, for a broker uses that again.
        """
        before = self._open.get(message.identifier) if message.again else None
        if before and (before.topic, before.payload) == (message.topic, message.payload):
            before.acknowledge = message.acknowledge
            if before.taken:
                self._acknowledge(before)
            return
        full = self._waiting.qsize() >= _MOST_WAITING
        if not full:
            self._waiting.put_nowait(message)
            if message.identifier:
                self._open[message.identifier] = message
        elif not self._overflows:
            self._context.log.warning("%s: too much comes in at QoS 0: what can't wait here is lost", message.topic)
        self._overflows = full

    async def _work(self) -> None:
        while True:
            message = await self._waiting.get()
            async with self._taking_in:
                try:
                    for draft in self._drafts(message):
                        await self._context.emit_at_last(draft, f"a message on {message.topic}")
                except Exception:  # a fault in one message must not end the others, nor come with each connection
                    self._context.log.exception("%s: no event is made of this message", message.topic)
                self._acknowledge(message)

    def _acknowledge(self, message: Message) -> None:
        message.taken = True
        if message.acknowledge() and self._open.get(message.identifier) is message:
            del self._open[message.identifier]

    def _drafts(self, message: Message) -> list[dict[str, Any]]:
        """What becomes of a message; what is wrong with it is said in the log, for there is nobody to tell."""
        try:
            levels = message.topic.split("/")
            drafts = []
            if any(one.pictures and _came_for(one.pictures, levels, message) for one in self._listens):
                self._keep_picture(message)
            if any(_came_for(one, levels, message) for one in self._notify_filters):
                if message.retained:  # it would be told again at each connection
                    self._context.log.warning("%s: a retained notification is ignored: don't retain it", message.topic)
                else:
                    drafts.append(self._notification(message))
            for one, templates in zip(self._listens, self._templates, strict=True):
                if _came_for(one.topic, levels, message) and (one.retained or not message.retained):
                    found = _listened(one, templates, levels, message)
                    drafts += [self._with_picture(draft) for draft in found] if one.events else found
        except (ValueError, LookupError) as error:
            self._context.log.warning("%s: no event is made of this message: %s", message.topic, error)
            return []
        return drafts

    def _keep_picture(self, message: Message) -> None:
        """Until its event comes; a newer one of the same topic does not replace it, for several may be on their way."""
        if message.payload:
            self._pictures[hashlib.sha256(message.payload).hexdigest()] = message.topic, message.payload
        while sum(len(picture) for _, picture in self._pictures.values()) > _PICTURES:
            del self._pictures[next(iter(self._pictures))]

    def _with_picture(self, draft: dict[str, Any]) -> dict[str, Any]:
        """With those of its attachments that have come; the others are named, and can't be had."""
        files = []
        named = draft.get("attachments")
        for one in named if isinstance(named, list) else ():
            digest = one.get("sha256") if isinstance(one, dict) else None
            if isinstance(digest, str) and digest in self._pictures:
                files.append((str(one.get("name")), str(one.get("type")), self._pictures[digest][1]))
        return draft | ({"files": files} if files else {})

    def _notification(self, message: Message) -> dict[str, Any]:
        target = message.topic.removeprefix(self._topics.notify).removeprefix("/")
        targets = self._context.gateway.targets()
        if target and target not in targets:
            raise LookupError(f"there is no target '{target}', but {', '.join(targets)}")
        return notification.draft(message.payload) | ({"targets": [target]} if target else {})


def _listened(
    one: Listen, templates: Mapping[str, Template], levels: list[str], message: Message
) -> list[dict[str, Any]]:
    payload = message.payload.decode("utf-8", "replace")
    try:
        value = json.loads(payload)
    except (ValueError, RecursionError):
        value = None
    values = {"topic": levels, "payload": payload.strip(), "value": value}
    if templates["when"](values).strip().lower() in ("", "0", "false", "no", "off", "none"):
        return []
    to = {"targets": list(one.to)} if one.to else {}
    if one.events:
        if not isinstance(value, dict) or not isinstance(value.get("id"), str):
            raise ValueError("this is no event of a gateway: it has no id")
        return [{key: value[key] for key in _WHOLE if key in value} | to]
    draft: dict[str, Any] = {field: templates[field](values).strip() for field in _FIELDS}
    draft["state"] = {"true": "on", "1": "on", "false": "off", "0": "off"}.get(
        draft["state"].lower(), draft["state"].lower()
    )
    if isinstance(value, dict):
        draft["data"] = {key: value[key] for key in one.data if key in value}
    return [draft | to]


def _came_for(pattern: str, levels: list[str], message: Message) -> bool:
    return message.is_for(pattern) and matches(pattern, levels)


def matches(pattern: str, levels: list[str]) -> bool:
    """Does a topic filter match a topic's levels (MQTT 5 §4.7)? One that begins with `$` only if that is written.

    Of a shared subscription (`$share/group/filter`, §4.8.2) it is the filter that says what comes.
    """
    asked = pattern.split("/")
    asked = asked[2:] if asked[0] == "$share" and len(asked) > 2 else asked
    if levels[0].startswith("$") and asked[0] in ("#", "+"):
        return False
    for number, level in enumerate(asked):
        if level == "#":
            return True
        if number >= len(levels) or level not in ("+", levels[number]):
            return False
    return len(asked) == len(levels)
