"""What a mail means: kind, state, severity, title and data of its event, by a profile.

If it is from a family that is known, and a mail that the family's profile names, that profile says it (`families`).
Everything else is said by the generic profile, `gateway/profiles/generic.toml`, which this file applies. The work is
bounded: texts are cut before they are searched, words are found by looking each one up, and data has a limited number
of short keys that no mail can choose freely (they are slugs).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from gateway.interpret import families, values
from gateway.interpret.families import GENERIC, Greeted, Library, Match, Said, words_of, words_of_line
from gateway.interpret.fields import one_line
from gateway.wire import event as vocabulary

if TYPE_CHECKING:
    from gateway.interpret import Reading

MAX_KEYS = 40
MAX_KEY = 40  # characters
MAX_VALUE = 200
MAX_TITLE = 200
_MAX_LINES = 200  # of a body that are looked at for keys
_SHORT = 4  # words

_DATE_KEY = re.compile("(?:^|_)(?:date|time|datetime|timestamp|datum|zeit|zeitpunkt|uhrzeit)(?:_|$)")
_NO_SLUG = re.compile(r"[^a-z0-9]+")
_UMLAUTS = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "ß": "ss"})
_BRACKETED = re.compile(r"\[(\w{1,20})\]")
_KEY = re.compile(r"[ \t>*-]*+([^\W\d_](?:[\w.#/&'+-]*+[ \t]*+){1,6}+)(?:\(([^()]*+)\))?+[ \t]*+")
_RESERVED = frozenset(("truncated",))  # ours, in `data`


@dataclass(slots=True)
class Meaning:
    """`device_name` and `serial` are hints for whoever names the device; None where the mail says nothing.

    `off_after`: seconds after which an `on` ends by itself, 0 if it never does; None: the profile doesn't say.
    """

    kind: str
    state: str | None
    severity: str
    title: str
    data: dict[str, Any] = field(default_factory=dict)
    manufacturer: str | None = None
    model: str | None = None
    profile: str | None = None
    device_name: str | None = None
    serial: str | None = None
    off_after: float | None = None


class _Rule(NamedTuple):
    kind: str
    state: str | None
    ends: bool
    severity: str | None
    vague: bool


class _Phrase(NamedTuple):
    """`rank` is the place of its rule in the file; `scope` is "anywhere", "title" or "short"."""

    words: tuple[str, ...]
    rank: int
    scope: str


class Profile:
    """A profile file made ready for use."""

    def __init__(self, source: dict[str, Any]) -> None:
        self.name: str = source["name"]
        self.dull = frozenset(source["dull"])
        self.boilerplate = tuple(source["boilerplate"])
        self.keys: dict[str, list[str]] = source["keys"]
        self.states = {word: state for state, words in source["states"].items() for word in words}
        self.severities = {word: severity for severity, words in source["severities"].items() for word in words}
        self.rules = [
            _Rule(
                rule["kind"], rule.get("state"), rule.get("ends", False), rule.get("severity"), rule.get("vague", False)
            )
            for rule in source["rule"]
        ]
        self.phrases = _by_words(
            _Phrase(words_of(phrase), rank, scope)
            for rank, rule in enumerate(source["rule"])
            for scope in ("anywhere", "title", "short")
            for phrase in rule.get(scope, ())
        )
        self.patterns = [
            (pattern["zone"], pattern["if"], re.compile(pattern["regex"], re.IGNORECASE | re.MULTILINE))
            for pattern in source["pattern"]
        ]
        self.maker_senders: dict[str, str] = {
            word: maker["name"] for maker in source["maker"] for word in maker.get("sender", ())
        }
        self.maker_texts: dict[str, str] = {
            phrase: maker["name"] for maker in source["maker"] for phrase in maker.get("text", ())
        }
        self.maker_keys: list[tuple[frozenset[str], str]] = [
            (frozenset(maker["keys"]), maker["name"]) for maker in source["maker"] if "keys" in maker
        ]


@cache
def profile() -> Profile:
    """The generic one; read once, when the first mail needs it."""
    import tomllib

    return Profile(tomllib.loads((families.OURS / f"{GENERIC}.toml").read_text("utf-8")))


def meaning(
    reading: Reading,
    envelope: Greeted,
    library: Library | None = None,
    *,
    family: str = "",
    why: list[Why] | None = None,
) -> Meaning:
    """The meaning of a mail. Unknown words make the kind `other`, never an alarm.

    `family`: the name of the one that it is from, if somebody said so; "generic" is one of them. If the profile names
    the picture among the attachments, `reading.picture` is set to it. `why` is given what led to it, for people.
    """
    rules = profile()
    said = Said(reading, envelope)
    library = library or families.ours()
    chosen = library.families.get(family) if family in library.families or family == GENERIC else library.family(said)
    lines = _data(reading.text, rules)
    match = library.match(chosen, said, lines) if chosen else None
    if why is not None:
        why.append(Why(library.scores(said), chosen, match, lines))
    result = _generic(said, lines, rules, envelope) if match is None else _of_family(said, lines, match, rules)
    if chosen:
        result.profile = chosen.name
        result.manufacturer = chosen.manufacturer or result.manufacturer
        result.model = result.model or chosen.model
    return result


def lines_of(text: str) -> dict[str, str]:
    """The `KEY: value` lines of a text, by slugs of their keys."""
    return _data(text, profile())


class Why(NamedTuple):
    """What led to a meaning: the families that fit, the one that was chosen, what it said; the lines with a key."""

    scores: list[families.Score]
    family: families.Family | None
    match: Match | None
    lines: dict[str, str]


def _of_family(said: Said, lines: dict[str, str], match: Match, rules: Profile) -> Meaning:
    """What the family says, and the lines that it doesn't speak of."""
    data: dict[str, Any] = dict(match.data)
    for key, value in _measured(lines).items():
        line = key.removesuffix("_unit")
        if key not in data and line not in match.data and line not in match.spoken:
            data[key] = value
    reading = said.reading
    result = Meaning(match.kind, match.state, match.severity, "", dict(list(data.items())[:MAX_KEYS]))
    result.off_after = match.off_after
    result.device_name = _hint("device_name", match.hints, match.kind, lines, rules)
    result.serial = _hint("serial", match.hints, match.kind, lines, rules)
    result.model = _hint("model", match.hints, match.kind, lines, rules)
    if match.picture is not None and (match.picture == "none" or reading.picture is not None):
        found = families.picture(match.picture, reading)
        reading.picture = found if found is not None or match.picture == "none" else reading.picture
    subject = reading.subject or ""
    dull = " ".join(words_of_line(subject)) in rules.dull
    event = _first(lines, rules.keys["event"]) or ""
    result.title = (
        _cut(one_line(match.title)) if match.title else _title(reading, "" if dull else subject, event, "", rules)
    )
    return result


def _generic(said: Said, lines: dict[str, str], rules: Profile, envelope: Greeted) -> Meaning:
    """By the words of many devices."""
    reading = said.reading
    subject = reading.subject or ""
    body = reading.text[: families.SEARCHED]
    data: dict[str, Any] = _measured(lines)
    if (moment := _device_time(lines)) and len(data) < MAX_KEYS:
        data.setdefault("device_time", moment)
    event = _first(lines, rules.keys["event"]) or ""
    dull = " ".join(words_of_line(subject)) in rules.dull
    zones = (("event", words_of_line(event)), ("subject", words_of_line(subject)), ("text", said.text_words))
    found, zone = _search(rules, (*zones[::2], zones[1]) if dull else zones)
    line = event if zone == "event" else subject
    if found is None:
        state = _ending(words_of_line(event or subject), rules)
        result = Meaning("other", state, _severity_of(words_of_line(subject), rules) or "info", "")
    else:
        rule = rules.rules[found.rank]
        if zone == "text":
            line = _line_with(found.words, body)
        words = words_of_line(line)
        state = rule.state
        if rule.ends:
            said_states = {rules.states[word] for word in words if word in rules.states}
            state = "off" if "off" in said_states else "on" if said_states else state
        severity = "info" if state == "off" else rule.severity or _severity_of(words, rules) or "info"
        result = Meaning(rule.kind, state, severity, "")
    result.severity = _stated_severity(subject, lines, rules) or result.severity
    result.profile = rules.name
    result.data = data
    lowered = {"subject": subject.lower(), "text": body.lower()}
    hints = _patterns(rules, lowered, {"subject": subject, "text": body}, data)
    if channel := _first(lines, rules.keys["channel"]):
        data.setdefault("channel", channel)
    result.device_name = _hint("device_name", hints, result.kind, lines, rules)
    result.serial = _hint("serial", hints, result.kind, lines, rules)
    result.model = _hint("model", hints, result.kind, lines, rules)
    result.manufacturer = _manufacturer(reading, envelope, lowered, lines, rules)
    result.title = _title(reading, "" if dull else subject, event, line if zone == "text" else "", rules)
    return result


def _ending(words: tuple[str, ...], rules: Profile) -> str | None:
    """The state that a short line says with its last word: "pump 3 stopped"."""
    return rules.states.get(words[-1]) if 0 < len(words) <= _SHORT + 1 else None


def _device_time(lines: dict[str, str]) -> str | None:
    """The first date of the device's own clock, as ISO 8601; its time of day may have a line of its own."""
    for key, text in lines.items():
        if _DATE_KEY.search(key) and (moment := values.date_of_stranger(text)):
            if "T" in moment:
                return moment
            clocks = (values.date_of_stranger(f"{moment} {lines[key]}") for key in ("time", "uhrzeit") if key in lines)
            return next((one for one in clocks if one), moment)
    return None


def _measured(lines: dict[str, str]) -> dict[str, Any]:
    """As `data` has them: a number with a unit is a number, with the unit beside it."""
    data: dict[str, Any] = {}
    for key, text in lines.items():
        data[key] = text
        if (text[-1].isalpha() or text[-1] in "%³") and (text[0].isdigit() or text[0] in "+-"):
            found = values.of_stranger(text) if len(key) + len("_unit") <= MAX_KEY else None
            if found is not None and f"{key}_unit" not in lines:
                data[key], data[f"{key}_unit"] = found
        if len(data) >= MAX_KEYS:
            break
    return data


def _by_words(phrases: Iterable[_Phrase]) -> dict[str, dict[str, list[_Phrase]]]:
    """By the first word, then by the second, which is "" for phrases of one word."""
    table: dict[str, dict[str, list[_Phrase]]] = {}
    for phrase in phrases:
        second = phrase.words[1] if len(phrase.words) > 1 else ""
        table.setdefault(phrase.words[0], {}).setdefault(second, []).append(phrase)
    return table


def _find(table: dict[str, dict[str, list[_Phrase]]], words: tuple[str, ...], title: bool) -> _Phrase | None:
    """The phrase of the first rule that any place in `words` matches; `title`: it is an event or a subject."""
    best: _Phrase | None = None
    if table.keys().isdisjoint(words):  # most texts
        return None
    for at in [at for at, word in enumerate(words) if word in table]:
        branch = table[words[at]]
        for phrase in (*branch.get("", ()), *branch.get(words[at + 1] if at + 1 < len(words) else "", ())):
            if best is not None and phrase.rank >= best.rank:
                continue
            if phrase.scope != "anywhere" and (not title or (phrase.scope == "short" and len(words) > _SHORT)):
                continue
            if words[at : at + len(phrase.words)] == phrase.words:
                best = phrase
    return best


def _search(rules: Profile, zones: Iterable[tuple[str, tuple[str, ...]]]) -> tuple[_Phrase | None, str]:
    """The phrase that decides, and its zone: the first one found, but a vague one only if no zone has a better one."""
    vague: tuple[_Phrase | None, str] = None, ""
    for zone, words in zones:
        found = _find(rules.phrases, words, zone != "text")
        if found is not None and not rules.rules[found.rank].vague:
            return found, zone
        if found is not None and vague[0] is None:
            vague = found, zone
    return vague


def _line_with(words: tuple[str, ...], text: str) -> str:
    for line in text.splitlines():
        if all(word in line.lower() for word in words):
            return one_line(line).lstrip("-* ")
    return " ".join(words)  # broken over two lines


def _data(text: str, rules: Profile) -> dict[str, str]:
    """The `KEY: value` lines of a body, by slugs of their keys; the first of a key wins, empty values are left out."""
    data: dict[str, str] = {}
    # What is repeated says nothing new.
    for line in dict.fromkeys(text[: 4 * families.SEARCHED].split("\n", _MAX_LINES)[:_MAX_LINES]):
        key, separator, value = line.partition(":")
        if "(" in key and ")" not in key:  # this colon is inside (D/M/Y H:M:S)
            inside, _, rest = line.partition(")")
            rest, separator, value = rest.partition(":")
            key = f"{inside}){rest}"
        elif not separator:
            key, separator, value = line.partition(" = ")
            if not separator:
                continue
        slug, unit = _key(key) if len(key) <= 2 * MAX_KEY else ("", "")
        if not slug or (slug in data and not unit):
            continue
        value = value.strip()
        if not separator or value.startswith("//") or not any(map(str.isalnum, value)):
            continue
        if key[-1].isdigit() and value[0].isdigit() and not line[len(key) + 1 :].startswith(" "):
            continue  # prose, or a time of day
        if unit and unit in rules.keys["numbered"] and value.endswith(")"):
            value, _, number = value[:-1].rpartition("(")
            data.setdefault("channel", one_line(number)[:MAX_VALUE])
        value = one_line(value)[:MAX_VALUE]
        if value:
            data.setdefault(slug, value)
            if len(data) >= MAX_KEYS:
                break
    return data


@lru_cache(maxsize=1024)  # devices repeat their keys in every mail
def _key(key: str) -> tuple[str, str]:
    """The slug of a key, "" if it can't be one: it is a few words, and may have a unit in parentheses behind them."""
    found = _KEY.fullmatch(key)
    if found is None:
        return "", ""
    slug = _NO_SLUG.sub("_", found[1].lower().translate(_UMLAUTS)).strip("_")
    return ("" if slug in _RESERVED or len(slug) > MAX_KEY else slug), (found[2] or "").strip().lower()


def _first(data: dict[str, str], keys: Iterable[str]) -> str | None:
    if data:
        for key in keys:
            if key in data:
                return data[key]
    return None


def _patterns(rules: Profile, lowered: dict[str, str], zones: dict[str, str], data: dict[str, Any]) -> dict[str, str]:
    """Named groups into `data`, except hints on the device, which are returned."""
    hints: dict[str, str] = {}
    for zone, needed, pattern in rules.patterns:
        found = pattern.search(zones[zone]) if needed in lowered[zone] else None
        for name, value in found.groupdict().items() if found is not None else ():
            if value:
                (hints if name in ("device_name", "serial", "model") else data).setdefault(name, value[:MAX_VALUE])
    return hints


def _hint(name: str, hints: dict[str, str], kind: str, lines: dict[str, str], rules: Profile) -> str | None:
    """What the mail says about its device, by a pattern or a key; a factory's default name says nothing."""
    said = hints.get(name) or _first(lines, rules.keys[name])
    if not said and kind not in rules.keys["not_about"]:
        said = _first(lines, rules.keys[f"{name}_alone"])
    return said if said and " ".join(words_of_line(said)) not in rules.dull else None


def _severity_of(words: Iterable[str], rules: Profile) -> str | None:
    """The worst severity that any of the words stands for."""
    found = [rules.severities[word] for word in words if word in rules.severities]
    return max(found, key=vocabulary.severity_rank, default=None)


def _stated_severity(subject: str, data: dict[str, str], rules: Profile) -> str | None:
    stated = [word.lower() for word in _BRACKETED.findall(subject)]
    stated += words_of_line(_first(data, rules.keys["severity"]) or "")
    return _severity_of(stated, rules)


def _manufacturer(
    reading: Reading, envelope: Greeted, lowered: dict[str, str], data: dict[str, str], rules: Profile
) -> str | None:
    for word in words_of_line(f"{reading.sender_name} {reading.headers.get('x-mailer', '')} {envelope.helo[:100]}"):
        if word in rules.maker_senders:
            return rules.maker_senders[word]
    subject, text = lowered["subject"], lowered["text"]
    for phrase, name in rules.maker_texts.items():
        if phrase in subject or phrase in text:
            return name
    return next((name for keys, name in rules.maker_keys if keys <= data.keys()), None)


def _title(reading: Reading, subject: str, event: str, line: str, rules: Profile) -> str:
    """One line that tells a person what it is about: the subject, unless that (given as "") is the same every time."""
    title = subject or event or line
    if not title:
        lines = (one_line(text) for text in reading.text[: families.SEARCHED].splitlines())
        title = next((text for text in lines if text and not text.lower().startswith(rules.boilerplate)), "")
    if not title:
        title = reading.subject or (reading.attachments[0]["name"] if reading.attachments else "Mail without text")
    return _cut(title)


def _cut(title: str) -> str:
    return title if len(title) <= MAX_TITLE else title[: MAX_TITLE - 1] + "…"
