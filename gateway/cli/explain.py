"""Show what would become of a mail, and why. Nothing is stored, sent or learned.

From its bytes to the topics: what was read, what it means, which device it is from, the event, and where that goes.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from gateway import care, interpret, template
from gateway.api import Device, Envelope, Event, Target, part_of
from gateway.cli import common, show
from gateway.hours import zone_of
from gateway.interpret.families import ENOUGH, Found
from gateway.interpret.meaning import Why
from gateway.noise import muted_until, mutes
from gateway.pipeline import build_event, sender_of
from gateway.registry import ENDS_BY_ITSELF, Registry, Sender
from gateway.route import Plan, Router
from gateway.store import Mail, Store
from gateway.ulid import UlidMaker
from gateway.wire.topics import Topics

_STANDARD_INPUT = "-"


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("mail", metavar="FILE|ID", help="a mail in a file, - for standard input, or a kept mail's id")
    parser.add_argument("--from", dest="sender", metavar="ADDRESS", help="the reverse-path (default: From)")
    parser.add_argument("--to", action="append", metavar="ADDRESS", help="a recipient; again for more (default: To)")
    parser.add_argument("--helo", metavar="NAME", help="the name that the device gives in HELO")
    parser.add_argument("--peer", metavar="IP", help="where the device connects from (default: 127.0.0.1)")
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(args: argparse.Namespace) -> int:
    chosen = common.settings(args)
    store = common.open_store_in(chosen.folder) if common.has_store(chosen.folder) else None
    mail, content = _mail(args, chosen, store)
    reading = interpret.read(content)
    _complete(mail.envelope, args, reading)
    registry = _registry(chosen, store)
    told_family = registry.profile_of(mail.envelope)
    whys: list[Why] = []
    library = common.library(chosen.path)
    meaning = interpret.meaning(reading, mail.envelope, library, family=told_family, why=whys)
    why_so = whys[0]
    device, why, learned = _device(registry, mail, sender_of(reading, meaning), reading.subject or "")
    event = build_event(mail, reading, meaning, device)
    verdict = _router(chosen).verdict(event)
    told = _told(chosen, store, event, verdict.plan)
    topics = _topics(chosen, list(verdict.targets), event, picture=reading.picture is not None)
    if args.json:
        said = {
            "reading": {
                "subject": reading.subject,
                "sender": reading.sender,
                "sender_name": reading.sender_name,
                "to": reading.to,
                "date": reading.date,
                "charsets": reading.charsets,
                "attachments": reading.attachments,
                "picture": reading.picture,
                "truncated": reading.truncated,
            },
            "profiles": [
                {"profile": score.family.name, "score": score.points, "clues": score.clues} for score in why_so.scores
            ],
            "mail": why_so.match.mail if why_so.match else None,
            "fields": [one._asdict() for one in _fields(why_so, meaning)],
            "device": {"id": device.id, "name": device.name, "new": learned, "why": why},
            "event": event,
            "targets": list(verdict.targets),
            "reasons": verdict.reasons + told,
            "topics": topics,
        }
        print(show.json_line(said))
        return 0
    _print_reading(reading)
    _print_profile(why_so, meaning, told_family)
    print("\nMeaning")
    show.facts(
        [
            ("kind", event["kind"]),
            ("state", event["state"] or "none"),
            ("severity", event["severity"]),
            ("title", event["title"]),
            ("about", _part(event)),
            ("ends", _end(meaning)),
            *[(f"data.{one.name}", f"{_shown(one.value)}  ({one.where})") for one in _fields(why_so, meaning)],
        ]
    )
    print("\nDevice")
    show.facts(
        [
            ("id", device.id + (" (would be learned)" if learned else "")),
            ("name", device.name),
            ("profile", device.profile or "none"),
            ("why", why),
        ]
    )
    print("\nEvent")
    print(show.json_line(event, indent=2))
    print("\nRoutes")
    for reason in verdict.reasons + told:
        print(show.plain(reason))
    print(f"to: {', '.join(verdict.targets) or 'nobody'}")
    if topics:
        print("\nTopics")
        for topic in topics:
            print(topic)
    return 0


def _mail(args: argparse.Namespace, chosen: common.Chosen, store: Store | None) -> tuple[Mail, Any]:
    """The mail, and its bytes."""
    path = Path(args.mail)
    if args.mail == _STANDARD_INPUT:
        content = sys.stdin.buffer.read()
    elif path.exists():
        try:
            content = path.read_bytes()
        except OSError as error:
            show.fail(f"{path}: can't be read: {error.strerror}.", 2)
    elif store and (kept := store.mail(args.mail)):
        return kept, common.content(store, kept)
    else:
        show.fail(f"{args.mail}: there is no such file, and no mail of that id is kept.", 2)
    source = next((listener.integration for listener in common.listeners(chosen.settings)), "explain")
    envelope = Envelope(source, "127.0.0.1", "", "", [])
    return Mail(UlidMaker().new(), time.time(), envelope, len(content)), content


def _complete(envelope: Envelope, args: argparse.Namespace, reading: interpret.Reading) -> None:
    """What the options say of the envelope; else what the mail itself says; a kept mail has one already."""
    envelope.mail_from = args.sender or envelope.mail_from or reading.sender
    envelope.rcpt_to = args.to or envelope.rcpt_to or reading.to
    envelope.helo = args.helo or envelope.helo
    envelope.peer = args.peer or envelope.peer


def _registry(chosen: common.Chosen, store: Store | None) -> Registry:
    """The devices that the gateway knows, in a copy that is saved nowhere."""
    registry = Registry(lambda *_: None)
    if store:
        registry.load(store.devices())
    registry.configure(chosen.settings.devices, chosen.settings.learn)
    return registry


def _device(registry: Registry, mail: Mail, sender: Sender, subject: str) -> tuple[Device, str, bool]:
    """(device, why it is that one, whether it would be learned)"""
    _, why = registry.find(mail.envelope, sender, subject)
    device, new = registry.identify(mail.envelope, sender, subject, mail.received)
    return device, why, new


def _router(chosen: common.Chosen) -> Router:
    buses = []
    for name, setting in chosen.settings.integrations.items():
        factory = chosen.loader.load(setting.type).factory
        if issubclass(factory, Target) and factory.takes_all(setting.config):
            buses.append(name)
    return Router(chosen.settings.routes, buses, template.condition)


def _told(chosen: common.Chosen, store: Store | None, event: Event, plan: Plan) -> list[str]:
    """What the care of the routes would do with it now, as far as the store knows what was told before."""
    zone = zone_of(chosen.settings.timezone) if chosen.settings.timezone else None
    rows = store.rows("SELECT key, document FROM care") if store else []
    memories = {key: care.loads(text) for key, text in rows}
    said = []
    now = time.time()
    muted = mutes(store) if store else {}
    told = {}
    for target in plan.targets:
        until = muted_until(muted, event["device"]["id"], target, now) if _tells_people(chosen, target) else 0.0
        if until:
            said.append(f"{target}: would not be told: the device is muted {show.till(until)}")
        elif target in plan.cares:
            told[target] = plan.cares[target]
    for target, (label, rule) in told.items():
        due, why = care.decide(rule, memories.get(f"{label} {target}", care.Memory()), event, now, zone)
        if due is None:
            what = "would be told now"
        elif due:
            what = f"would be told at {show.local_time(due)}: it waits {why}"
        else:
            what = f"would not be told: {why}"
        escalates = f"; then {', '.join(rule.escalate.to)}, if nobody acknowledges" if rule.escalate else ""
        said.append(f"{target}: {what}{escalates}")
    return said


def _tells_people(chosen: common.Chosen, target: str) -> bool:
    setting = chosen.settings.integrations[target]
    factory = chosen.loader.load(setting.type).factory
    return issubclass(factory, Target) and factory.for_people


def _topics(chosen: common.Chosen, targets: list[str], event: Event, *, picture: bool) -> list[str]:
    """Where MQTT will have it, for each broker that is a target."""
    found = []
    for name in targets:
        setting = chosen.settings.integrations[name]
        if setting.type == "mqtt":
            config: Any = setting.config  # its Config, which nothing outside its folder imports
            topics = Topics(config.base_topic)
            device = event["device"]["id"]
            found += [topics.event(device), topics.state(device), *([topics.image(device)] if picture else [])]
    return found


def _fields(why: Why, meaning: interpret.Meaning) -> list[Found]:
    """What is in `data`, in its order, and where in the mail it was found."""
    places = {one.name: one.where for one in why.match.found} if why.match else {}
    found = []
    for key, value in meaning.data.items():
        base = key.removesuffix("_unit")
        where = places.get(key) or places.get(base)
        if where is None:
            where = f"the line {base.replace('_', ' ')}" if key in why.lines or base in why.lines else "the words"
        found.append(Found(key, value, where))
    return found


def _print_profile(why: Why, meaning: interpret.Meaning, told: str) -> None:
    print("\nProfile")
    for score in why.scores:
        chosen = " <- it is one of these" if why.family is score.family and not told else ""
        print(show.plain(f"{score.points:>4}  {score.family.name}: {', '.join(score.clues)}{chosen}"))
    if told:
        print(show.plain(f"      the configuration says that it is one of {told}"))
    elif why.family is None:
        best = f"no more than {why.scores[0].points} points of the {ENOUGH} needed" if why.scores else "nothing"
        print(f"      {best} speaks for a family that is known: the generic words decide")
    if why.family and why.match:
        print(show.plain(f"      the mail '{why.match.mail}' of {why.family.path.name}"))
    elif why.family:
        print(show.plain(f"      none of the mails in {why.family.path.name}: the generic words decide"))


def _part(event: Event) -> str:
    part = part_of(event)
    return ", ".join(f"{key} {value}" for key, value in part.items()) or "the whole device"


def _end(meaning: interpret.Meaning) -> str:
    if meaning.state != "on":
        return "nothing to end"
    if meaning.off_after is None:
        seconds = ENDS_BY_ITSELF.get(meaning.kind)
        return f"by itself, {seconds:.0f} seconds after the last" if seconds else "when the device says so"
    return (
        f"by itself, {meaning.off_after:.0f} seconds after the last" if meaning.off_after else "when the device says so"
    )


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else show.json_line(value)


def _print_reading(reading: interpret.Reading) -> None:
    print("Mail")
    sender = f"{reading.sender_name} <{reading.sender}>" if reading.sender_name else reading.sender
    show.facts(
        [
            ("subject", reading.subject or "none"),
            ("from", sender or "none"),
            ("date", reading.date or "none"),
            ("charsets", ", ".join(reading.charsets) or "nothing unusual"),
            *[
                (f"attachment {number}", f"{item['name']}, {item['type']}, {show.size(item['size'])}")
                for number, item in enumerate(reading.attachments)
            ],
            *[("repaired", words) for words in reading.truncated],
        ]
    )
    print("\nText")
    for line in reading.text.splitlines():
        print(f"  {show.plain(line)}".rstrip())
