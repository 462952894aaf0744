"""Devices seen and named: who sent this mail?

A configured device comes first. Otherwise a device is known by three things together: its address (From header, or
the reverse-path), the name it gives in HELO, and where it connects from. Two cameras that share a sender stay apart
when one of these tells them apart; a device whose address on the network changed is known again by a HELO name that
looks like its own (letters and digits, `NPIF65E56`), not by one that every unit of its make uses.

Learned devices are bounded, in total and for each peer. Beyond the bound a mail is still kept and its event still
goes out, as the device `unknown`: invented senders can flood neither the store nor Home Assistant.
"""

from __future__ import annotations

import dataclasses
import functools
import ipaddress
import itertools
import logging
import math
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import tzinfo
from fnmatch import fnmatchcase
from typing import Any, Protocol

from gateway import alarms, heartbeat
from gateway.alarms import Alarms
from gateway.api import Device, Envelope, Event
from gateway.letters import unaccented
from gateway.rhythm import Rhythm
from gateway.wire.devices import GENERIC
from gateway.wire.event import slug
from gateway.wire.topics import RESERVED_IDS

log = logging.getLogger(__name__)

# Kinds that begin with a mail and never say that they ended; the gateway ends them after this many seconds.
ENDS_BY_ITSELF = dict.fromkeys(
    ("motion", "line_crossing", "intrusion", "person", "vehicle", "animal", "face", "sound", "doorbell"), 60.0
)
_NO_TROUBLE = frozenset((*ENDS_BY_ITSELF, "login"))  # a warning of this kind is news, and is over with it
UNKNOWN = "unknown"
MOST_QUANTITIES = 24  # of a device: each becomes a sensor somewhere, and a stranger's mail may name any
_GENERIC_PROFILE = "generic"
_LONGEST_ID = 64
_LONGEST_EXTRA = 32  # characters of an id that tell devices apart whose names begin alike
_LONGEST_UNIT = 16
_LOOKED_AT = 64  # devices in a second: to learn the rhythm of one may take a millisecond
_SAVE_AFTER = 2.0  # seconds that "seen again" may wait for the disk
_NEWS = -math.inf  # longer than that

# Names that many devices give, and that so tell nothing about this one.
GENERIC_NAMES = frozenset(("", *GENERIC.split()))


@dataclasses.dataclass(slots=True)
class Sender:
    """What a mail says about who sent it: its From field, and what its text gave away."""

    sender: str
    sender_name: str
    device_name: str | None = None
    serial: str | None = None
    manufacturer: str | None = None
    model: str | None = None
    profile: str | None = None


class Configured(Protocol):
    """A device of the configuration (`gateway.config.DeviceSetting`)."""

    name: str | None
    manufacturer: str | None
    model: str | None
    profile: str | None
    off_after: float | None
    url: str | None
    expect: Rhythm | bool

    def patterns(self) -> Mapping[str, Iterable[str]]: ...


class Limits(Protocol):
    """`gateway.config.LearnSettings`."""

    @property
    def limit(self) -> int: ...
    @property
    def per_peer(self) -> int: ...
    @property
    def forget_days(self) -> float: ...


@dataclasses.dataclass(slots=True)
class Known:
    """A device with what the registry alone needs to know of it."""

    device: Device
    keys: list[list[str]] = dataclasses.field(default_factory=list)  # [sender, helo, peer] it was seen with
    alarms: Alarms = dataclasses.field(default_factory=Alarms)
    heart: heartbeat.Heart = dataclasses.field(default_factory=heartbeat.Heart)

    def document(self) -> dict[str, Any]:
        return {
            "device": dataclasses.asdict(self.device),
            "keys": self.keys,
            "alarms": self.alarms.document(),
            "heart": self.heart.document(),
        }


class Registry:
    """All devices, in memory; `save(id, document or None)` writes one through to the store."""

    def __init__(self, save: Callable[[str, dict[str, Any] | None], None]) -> None:
        self._save = save
        self._known: dict[str, Known] = {}
        self._by_key: dict[tuple[str, str, str], Known] = {}
        self._by_names: dict[tuple[str, str], Known] = {}  # [sender, helo] -> the first that was seen with them
        self._per_peer: dict[str, int] = {}
        self._unsaved: dict[str, float] = {}  # since when: seen again, which may wait, or `_NEWS`
        self._configured: Mapping[str, Configured] = {}
        self._limits: Limits | None = None
        self._listening = heartbeat.Listening()
        self._to_look_at: list[str] = []
        self.zone: tzinfo | None = None
        """Whose days the devices report by; None: the machine's."""

    def load(self, documents: Iterable[Mapping[str, Any]]) -> None:
        fields = {field.name for field in dataclasses.fields(Device)}
        for document in documents:
            values = {key: value for key, value in document["device"].items() if key in fields}
            if values.get("picture"):
                values["picture"] = (str(values["picture"][0]), int(values["picture"][1]))
            values["quantities"] = {key: tuple(pair) for key, pair in values.get("quantities", {}).items()}
            heart = heartbeat.loads(document.get("heart", {}))
            before_parts = [
                {"kind": kind, "part": {}, "on": True, "ends": at} for kind, at in document.get("ends", {}).items()
            ]
            on = alarms.loads(document.get("alarms", before_parts))
            self._add(Known(Device(**values), [list(key) for key in document["keys"]], on, heart))

    def configure(self, devices: Mapping[str, Configured], limits: Limits) -> list[Device]:
        """Take the names of a (new) configuration. Returns the devices that this changed."""
        self._configured = devices
        self._limits = limits
        changed = []
        for device_id, setting in devices.items():
            known = self._known.get(device_id) or self._add(Known(Device(device_id, device_id)))
            before = dataclasses.replace(known.device)
            known.device.learned = False
            known.device.name = setting.name or _friendly(device_id)
            known.device.manufacturer = setting.manufacturer or known.device.manufacturer
            known.device.model = setting.model or known.device.model
            known.device.profile = setting.profile or known.device.profile
            known.device.url = setting.url or known.device.url
            if known.device != before:
                changed.append(known.device)
                self._write(known)
        return changed

    # --- asking ------------------------------------------------------------------------------------------------

    def devices(self) -> list[Device]:
        return [known.device for known in self._known.values()]

    def get(self, device_id: str) -> Device | None:
        known = self._known.get(device_id)
        return known.device if known else None

    def find(self, envelope: Envelope, sender: Sender, subject: str = "") -> tuple[Device | None, str]:
        """The device that sent this, or None for one never seen; and why, in words, for `explain`."""
        for device_id, setting in self._configured.items():
            matched = _matches(setting.patterns(), envelope, sender, subject)
            if matched:
                return self._known[device_id].device, f"configured: {matched}"
        key = _key(envelope, sender)
        known = self._by_key.get(key)
        if known:
            return known.device, f"seen before from {_words(key)}"
        if _own_name(key[1]):
            moved = self._by_names.get(key[:2])
            if moved:
                return moved.device, f"the same sender and HELO name {key[1]}, now at {key[2]}"
        return None, f"never seen: {_words(key)}"

    def profile_of(self, envelope: Envelope) -> str:
        """The profile that the configuration says for who sends this; "" if none.

        It is asked before the mail is read, so it counts for devices that the envelope alone tells.
        """
        for setting in self._configured.values():
            if setting.profile and _matches(setting.patterns(), envelope, Sender("", "")):
                return setting.profile
        return ""

    # --- learning ----------------------------------------------------------------------------------------------

    def identify(self, envelope: Envelope, sender: Sender, subject: str, now: float) -> tuple[Device, bool]:
        """The device that sent this mail; an unknown one is learned. (device, whether it is new)"""
        device, _ = self.find(envelope, sender, subject)
        key = _key(envelope, sender)
        if device:
            known = self._known[device.id]
            if device.learned and list(key) not in known.keys and len(known.keys) < 8:
                known.keys.append(list(key))
                self._find_by(key, known)
            self._describe(known, sender)
            self._locate(known, envelope.peer)
            return device, False
        if not self._may_learn(key[2]):
            known = self._known.get(UNKNOWN) or self._add(Known(Device(UNKNOWN, "Unknown devices", first_seen=now)))
            return known.device, known.device.mails == 0
        device_id, name = self._name(envelope, sender)
        known = self._add(Known(Device(device_id, name, first_seen=now), [list(key)]))
        self._describe(known, sender)
        self._locate(known, envelope.peer)
        log.info("learned a new device: %s (%s), from %s", device_id, name, _words(key), extra={"device": device_id})
        return known.device, True

    def introduce(self, said: Device, source: str, now: float) -> Device:
        """The device that an event without a mail names by its id; an unknown one is learned, from this source.

        It is bounded as what mails bring is, with the source in the place of the peer.
        """
        device_id = f"{said.id[: _LONGEST_ID - 2]}_2" if said.id in RESERVED_IDS else said.id
        known = self._known.get(device_id)
        if known is None:
            if not self._may_learn(source):
                known = self._known.get(UNKNOWN) or self._add(Known(Device(UNKNOWN, "Unknown devices", first_seen=now)))
                return known.device
            device = Device(device_id, _friendly(said.name or device_id), first_seen=now)
            known = self._add(Known(device, [[device_id, "", source]]))
            log.info(
                "learned a new device: %s (%s), from %s", device.id, device.name, source, extra={"device": device.id}
            )
        facts = Sender("", "", None, None, said.manufacturer, said.model, said.profile)
        self._describe(known, facts)
        return known.device

    def saw(
        self,
        device: Device,
        event: Event,
        picture: int | None,
        now: float,
        off_after: float | None = None,
        *,
        heard: bool = True,
    ) -> bool:
        """Take note of an event of this device. True if a kind, a state, a quantity, a trouble or a picture is new.

        `off_after`: the seconds after which this `on` ends by itself, 0 if never; None: by its kind. What the
        configuration says of the device counts before it. An event that was not `heard` from it is about it: nothing
        that it says of itself changes.
        """
        known = self._known[device.id]
        if heard:
            device.last_seen = max(device.last_seen, now)  # of a mail that is replayed, long ago
            device.mails += 1
            device.online = None if device.online is None else True
            if device.id != UNKNOWN:
                known.heart.heard(event["kind"], event["state"], now)
        device.last_event = {key: event[key] for key in ("id", "time", "kind", "state", "severity", "title")}
        news = _note_trouble(known, event) | (heard and _note_quantities(device, event))
        if event["kind"] not in device.kinds:
            device.kinds.append(event["kind"])
            news = True
        if picture is not None:
            device.picture = (event["id"], picture)
            news = True
        if event["state"] and heard:
            if event["state"] == "on":
                seconds = self._off_after(device.id, event["kind"], off_after)
                known.alarms.begins(event, now + seconds if seconds else 0)
            else:
                known.alarms.ended(event)
            state = "on" if known.alarms.is_on(event["kind"]) else "off"
            news |= device.states.get(event["kind"]) != state
            device.states[event["kind"]] = state
        if news:
            self._unsaved[device.id] = _NEWS
        else:
            self._unsaved.setdefault(device.id, now)
        return news

    def save_news(self) -> None:
        """Save the devices of which `saw` had news: once for many events of a flood, and beside them."""
        for device_id in [key for key, since in self._unsaved.items() if since == _NEWS]:
            self._write(self._known[device_id])

    def tick(self, now: float) -> list[Device]:
        """Once a second: end what ends by itself, write what waits. Returns the devices whose state changed."""
        changed = []
        for known in self._known.values():
            if known.alarms.all and (ended := known.alarms.end_by_itself(now)):
                known.device.states.update((kind, "off") for kind in ended if not known.alarms.is_on(kind))
                known.device.troubles = known.alarms.troubles()
                changed.append(known.device)
                self._write(known)
        for device_id in [key for key, since in self._unsaved.items() if now - since >= _SAVE_AFTER or since > now]:
            self._write(self._known[device_id])
        return changed

    def look(self, now: float, *, well: bool = True) -> tuple[list[Device], list[dict[str, Any]]]:
        """Once a second: whose reports are missed, and whose are back. (devices that changed, drafts of events)

        `well`: mails can be taken; else their absence says nothing. Of many devices some are looked at in each second.
        """
        changed, drafts = [], []
        since = self._listening.since(now, well)
        self._to_look_at = self._to_look_at or list(self._known)
        some, self._to_look_at = self._to_look_at[:_LOOKED_AT], self._to_look_at[_LOOKED_AT:]
        for known in filter(None, map(self._known.get, some)):
            device = known.device
            device.last_seen = min(device.last_seen, now)
            setting = self._configured.get(device.id)
            expect = setting.expect if setting else True
            if not known.heart.pulses and expect is True:
                continue
            news = list(known.heart.look(now, since, device.last_seen, expect, self.zone))
            online = (device.online is not False) if known.heart.rhythms(expect, self.zone) else None
            if any(not one.back and device.last_seen < one.opened for one in news):
                online = False
            if online is not device.online:
                device.online = online
                changed.append(device)
            if news or device in changed[-1:]:
                self._write(known)
            drafts += [heartbeat.draft(one, device.id, self.zone) for one in news]
        return changed, drafts

    def expected(
        self, device_id: str, configured: Mapping[str, Configured], now: float
    ) -> dict[str, heartbeat.Expected]:
        """kind -> the report that is expected, by what is learned or (for any kind) `configured`."""
        known = self._known[device_id]
        setting = configured.get(device_id)
        return known.heart.expected(setting.expect if setting else True, known.device.last_seen, now, self.zone)

    def save_all(self) -> None:
        for device_id in list(self._unsaved):
            self._write(self._known[device_id])

    def rename(self, device_id: str, name: str) -> Device:
        """Raises LookupError for a device that is not there, ValueError for one that the configuration names."""
        known = self._known[device_id]
        if device_id in self._configured:
            raise ValueError(f"{device_id} is named in the configuration; change its name there")
        known.device.name = name
        self._write(known)
        return known.device

    def clear(self, device_id: str) -> Device:
        """A person says that all is well: for devices that never do. Raises LookupError."""
        known = self._known[device_id]
        known.device.states.update(dict.fromkeys(known.device.states, "off"))
        known.device.troubles.clear()
        known.alarms = Alarms()
        self._write(known)
        return known.device

    def forget(self, device_id: str) -> None:
        """Raises LookupError, or ValueError for a device of the configuration."""
        known = self._known[device_id]
        if device_id in self._configured:
            raise ValueError(f"{device_id} is in the configuration; remove it there")
        self._remove(known)

    def age(self, now: float) -> list[str]:
        """Forget learned devices that were silent for too long. Returns their ids."""
        assert self._limits
        oldest = now - self._limits.forget_days * 86400
        old = [
            known
            for known in self._known.values()
            if known.device.learned and known.device.last_seen < oldest and known.device.first_seen < oldest
        ]
        for known in old:
            self._remove(known)
        return [known.device.id for known in old]

    # --- inside ------------------------------------------------------------------------------------------------

    def _add(self, known: Known) -> Known:
        self._known[known.device.id] = known
        for sender, helo, peer in known.keys:
            self._find_by((sender, helo, peer), known)
        if known.keys:
            peer = known.keys[0][2]
            self._per_peer[peer] = self._per_peer.get(peer, 0) + 1
        self._write(known)
        return known

    def _find_by(self, key: tuple[str, str, str], known: Known) -> None:
        self._by_key[key] = known
        self._by_names.setdefault(key[:2], known)

    def _remove(self, known: Known) -> None:
        del self._known[known.device.id]
        self._unsaved.pop(known.device.id, None)
        for sender, helo, peer in known.keys:
            self._by_key.pop((sender, helo, peer), None)
            if self._by_names.get((sender, helo)) is known:
                del self._by_names[sender, helo]
                others = (
                    other for key, other in self._by_key.items() if key[:2] == (sender, helo) and other is not known
                )
                if other := next(others, None):
                    self._by_names[sender, helo] = other
        if known.keys:
            self._per_peer[known.keys[0][2]] -= 1
        self._save(known.device.id, None)

    def _write(self, known: Known) -> None:
        self._unsaved.pop(known.device.id, None)
        self._save(known.device.id, known.document())

    def _may_learn(self, peer: str) -> bool:
        limits = self._limits
        assert limits
        return len(self._known) < limits.limit and self._per_peer.get(peer, 0) < limits.per_peer

    def _describe(self, known: Known, sender: Sender) -> None:
        device = known.device
        before = (device.manufacturer, device.model, device.profile)
        device.manufacturer = device.manufacturer or sender.manufacturer
        device.model = device.model or sender.model
        if device.profile in (None, _GENERIC_PROFILE):  # a mail that says more may come later
            device.profile = sender.profile or device.profile
        if before != (device.manufacturer, device.model, device.profile):
            self._write(known)

    def _locate(self, known: Known, peer: str) -> None:
        """Devices of this kind have a page of their own, where mail is set up: at the address that they send from."""
        setting = self._configured.get(known.device.id)
        if setting and setting.url:
            return
        if (url := _page(peer)) and url != known.device.url:
            known.device.url = url
            self._write(known)

    def _off_after(self, device_id: str, kind: str, said: float | None) -> float | None:
        setting = self._configured.get(device_id)
        if setting and setting.off_after is not None:
            return setting.off_after
        return ENDS_BY_ITSELF.get(kind) if said is None else said

    def _name(self, envelope: Envelope, sender: Sender) -> tuple[str, str]:
        """A sensible id and name: the first thing the mail says that is not what every device says."""
        local, _, domain = (sender.sender or envelope.mail_from).partition("@")
        helo = _helo(envelope.helo)
        candidates = [
            sender.device_name or "",
            sender.sender_name,
            local,
            helo,
            domain.partition(".")[0],
            f"{local} {helo}",
            f"{local} {_peer(envelope.peer)}",
        ]
        telling = [text for text in candidates if slug(text) not in GENERIC_NAMES] or ["device"]
        name = base = telling[0]
        if not name.isascii():  # in letters that an id can't have: those of the name in ASCII, or else another's
            bases = [unaccented(text.lower()) for text in telling]
            base = next((one for one in bases if re.search("[a-z]", slug(one))), bases[0])
        for extra in itertools.chain(("", helo, _last_octet(envelope.peer)), map(str, itertools.count(2))):
            tail = slug(extra, _LONGEST_EXTRA)
            device_id = f"{slug(base, _LONGEST_ID - 1 - len(tail))}_{tail}" if tail else slug(base)
            if device_id and device_id not in self._known and device_id not in RESERVED_IDS:
                return device_id, _friendly(f"{name} {extra}".strip())
        raise AssertionError("unreachable: some number is free")


def _note_quantities(device: Device, event: Event) -> bool:
    """Each number of its data, with `<key>_unit`. True if one is new, or has another unit."""
    news = False
    data = event["data"]
    for key, value in data.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            continue
        if key not in device.quantities and (len(device.quantities) >= MOST_QUANTITIES or slug(key) != key):
            continue
        said = data.get(f"{key}_unit")
        unit = said if isinstance(said, str) and said.isprintable() and 0 < len(said) <= _LONGEST_UNIT else None
        news |= key not in device.quantities or device.quantities[key][1] != unit
        device.quantities[key] = (value, unit)
    return news


def _note_trouble(known: Known, event: Event) -> bool:
    """A warning begins a trouble, the next event of its kind and part that is none ends it. A motion is no trouble."""
    before = known.device.troubles
    if event["state"] == "off" or event["severity"] == "info":
        known.alarms.is_well(event)
    elif event["kind"] not in _NO_TROUBLE:
        known.alarms.goes_wrong(event)
    known.device.troubles = known.alarms.troubles()
    return known.device.troubles != before


@functools.lru_cache(maxsize=4096)
def _page(peer: str) -> str | None:
    """The address of a device's own page; None if it sends from where no browser of the house gets to it."""
    try:
        address = ipaddress.ip_address(peer)
    except ValueError:
        return None
    if not address.is_private or address.is_loopback or address.is_link_local or address.is_unspecified:
        return None
    return f"http://[{address}]/" if address.version == 6 else f"http://{address}/"


def _key(envelope: Envelope, sender: Sender) -> tuple[str, str, str]:
    return (sender.sender or envelope.mail_from).lower()[:254], _helo(envelope.helo), _peer(envelope.peer)


@functools.lru_cache(maxsize=4096)
def _helo(name: str) -> str:
    """The HELO name if it may tell devices apart: an address literal repeats the peer, a generic one says nothing."""
    bare = name.strip("[]").lower().removeprefix("ipv6:")
    try:
        ipaddress.ip_address(bare.partition("%")[0])
    except ValueError:
        return "" if slug(bare.partition(".")[0]) in GENERIC_NAMES else bare[:100]
    return ""


@functools.lru_cache(maxsize=4096)
def _peer(peer: str) -> str:
    """Where it connects from; of a global IPv6 address the network only, for the rest changes by itself."""
    try:
        address = ipaddress.ip_address(peer.partition("%")[0])
    except ValueError:
        return peer
    if address.version == 6 and address.is_global:
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)


def _last_octet(peer: str) -> str:
    return re.split(r"[.:]", peer)[-1]


def _own_name(helo: str) -> bool:
    """Does this HELO name look like one unit's own? A host name with a domain, or letters with digits."""
    return bool(re.search(r"\d", helo) and re.search(r"[a-z]", helo) and len(helo) >= 6)


def _friendly(text: str) -> str:
    """A name for people: what a mail said, fit for one line of a screen; an id with its underscores as blanks."""
    text = "".join(one if one.isprintable() else " " for one in text[:200].replace("_", " "))
    text = re.sub(r" +", " ", text).strip()[:80]
    return text[:1].upper() + text[1:]


def _words(key: tuple[str, str, str]) -> str:
    sender, helo, peer = key
    return f"{sender or 'no sender'}" + (f", HELO {helo}" if helo else "") + f", at {peer}"


def _matches(
    patterns: Mapping[str, Iterable[str]], envelope: Envelope, sender: Sender, subject: str = ""
) -> str | None:
    """All keys must match, each by one of its globs; the words say by what. None if not, or if there are none."""
    values = {
        "from": [sender.sender, envelope.mail_from],
        "helo": [envelope.helo],
        "peer": [envelope.peer],
        "to": envelope.rcpt_to,
        "subject": [subject],
        "serial": [sender.serial or ""],
    }
    words = []
    for key, globs in patterns.items():
        for value in values[key]:
            found = next((glob for glob in globs if fnmatchcase(value.lower(), glob.lower())), None)
            if found is not None:
                words.append(f"{key} {value!r} matches {found!r}")
                break
        else:
            return None
    return ", ".join(words) or None
