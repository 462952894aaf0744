"""What a mail means: kind, state, severity, title and data of its event, by a profile.

If it is from a family that is known, and a mail that the family's profile names, that profile says it (`families`).
Everything else is said by the generic profile, `gateway/profiles/generic.toml`, which this file applies. The work is
bounded: texts are cut before they are searched, words are found by looking each one up, and data has a limited number
of short keys that no mail can choose freely (they are slugs).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache, lru_cache
from operator import add
from typing import TYPE_CHECKING, Any, NamedTuple

from gateway.interpret import families, values
from gateway.interpret.families import GENERIC, UNSPACED, Greeted, Library, Match, Said, words_of_line
from gateway.interpret.fields import one_line
from gateway.letters import unaccented
from gateway.wire import event as vocabulary

if TYPE_CHECKING:
    from gateway.interpret import Reading

MAX_KEYS = 40
MAX_KEY = 40  # characters
MAX_VALUE = 200
MAX_TITLE = 200
_MAX_LINES = 200  # of a body that are looked at for keys
_LONGEST_LINE = 1000  # characters of one that are looked at
_SHORT = 4  # words
_LINE = 8  # words of a text's first line that may be its title
_APART = 3  # words between the two of a phrase that is apart

_DATE_KEY = re.compile("(?:^|_)(?:date|time|datetime|timestamp|datum|zeit|zeitpunkt|uhrzeit)(?:_|$)")
_NO_SLUG = re.compile(r"[^a-z0-9]+")
# PUMP ON, pump: on
_SWITCHED = re.compile(r"(?:(?<=[\s:=])(?=[^a-z]{2,}$)|(?<=: )|(?<=[:=])|(?<=\d ))(\w{2,12})[.!]?$")
_BRACKETED = re.compile(r"\[(\w{1,20})\]")
_KEY = re.compile(r"[ \t>*•・●○■□◆◇▶※-]*+([^\W\d_](?:[\w.#/&'\u2019+-]*+[ \t]*+){1,6}+)(?:\(([^()]*+)\))?+[ \t]*+")
_FULL_WIDTH = {0xFF08: "(", 0xFF09: ")", 0xFF1A: ":", 0xFF1D: "="}
_RESERVED = frozenset(("truncated",))  # ours, in `data`


class Meaning:
    """`device_name` and `serial` are hints for whoever names the device; None where the mail says nothing.

    `off_after`: seconds after which an `on` ends by itself, 0 if it never does; None: the profile doesn't say.
    """

    def __init__(
        self,
        kind: str,
        state: str | None,
        severity: str,
        title: str,
        data: dict[str, Any] | None = None,
        manufacturer: str | None = None,
        model: str | None = None,
        profile: str | None = None,
        device_name: str | None = None,
        serial: str | None = None,
        off_after: float | None = None,
    ) -> None:
        self.kind, self.state, self.severity, self.title, self.data = kind, state, severity, title, data or {}
        self.manufacturer, self.model, self.profile = manufacturer, model, profile
        self.device_name, self.serial, self.off_after = device_name, serial, off_after


class _Rule(NamedTuple):
    kind: str
    state: str | None
    ends: bool
    severity: str | None
    vague: bool


class _Phrase(NamedTuple):
    """`rank` is the place of its rule in the file; `scope` is "anywhere", "title", "short" or "apart", where one of
    `then` follows at some distance.
    """

    words: tuple[str, ...]
    rank: int
    scope: str
    then: frozenset[str] = frozenset()


class _Hit(NamedTuple):
    """A phrase, and where it begins and ends among the words; (-1, -1) in scripts without blanks and over two lines."""

    phrase: _Phrase
    at: int
    end: int


SCOPES = {"anywhere": "anywhere", "more": "anywhere", "title": "title", "more_title": "title", "short": "short"}
"""Key of a rule -> scope of its phrases."""


class Profile:
    """A profile file made ready for use."""

    def __init__(self, source: dict[str, Any]) -> None:
        self.source = source
        self.name: str = source["name"]
        self.dull = frozenset(map(" ".join, _words_of_all(source["dull"])))
        self.boilerplate = tuple(listed(source["boilerplate"]))
        self.keys = {purpose: dict.fromkeys(keys) for purpose, keys in source["keys"].items()}  # in their order
        self.other_keys = frozenset(key for key in self.keys["event"] if not key.isascii())  # never in `data`
        self.slugs: dict[str, str] = {said: slug for slug, keys in source["slugs"].items() for said in keys}
        self.states = _stand_for(source["states"]) | _stand_for(source["more_states"])
        self.switches = _stand_for(source["switches"])
        self.unspaced_states = [(word, state) for word, state in self.states.items() if _is_unspaced(word)]
        self.severities = _stand_for(source["severities"]) | _stand_for(source["more_severities"])
        self.unspaced_severities = [(word, one) for word, one in self.severities.items() if _is_unspaced(word)]
        self.negations = _words(source["not"]["words"])
        self.unspaced_negations = tuple(_words(source["not"]["unspaced"]))
        self.turning = self.negations | _words(source["not"]["beyond"])
        self.fillers = _words(source["not"]["between"])
        self.places = _words(source["place"]["words"])
        self.machine = _words(source["place"]["machine"])
        self.happened = _words(source["place"]["happened"])
        self.rules = [
            _Rule(
                rule["kind"], rule.get("state"), rule.get("ends", False), rule.get("severity"), rule.get("vague", False)
            )
            for rule in source["rule"]
        ]
        phrases = [
            _Phrase(words, rank, scope)
            for rank, rule in enumerate(source["rule"])
            for key, scope in SCOPES.items()
            if key in rule
            for words in _words_of_all(rule[key])
        ]
        phrases += [
            _Phrase(words, rank, "apart", _words(pair["then"]))
            for rank, rule in enumerate(source["rule"])
            for pair in rule.get("apart", ())
            for words in _words_of_all(pair["first"])
        ]
        # By its first two letters: a text is asked which of these it has.
        self.unspaced: dict[str, list[tuple[str, _Phrase]]] = {}
        # By the first word, then by the second, which is "" for phrases of one word.
        self.phrases: dict[str, dict[str, list[_Phrase]]] = {}
        # Each once, though many differ in their accents alone; the longer ones first, for they say more.
        for phrase in sorted(dict.fromkeys(phrases), key=lambda phrase: -len(phrase.words)):
            first, second = phrase.words[0], phrase.words[1] if len(phrase.words) > 1 else ""
            if _is_unspaced(first):
                joined = "".join(phrase.words)
                self.unspaced.setdefault(joined[:2], []).append((joined, phrase))
            else:
                self.phrases.setdefault(first, {}).setdefault(second, []).append(phrase)
        self.vocabulary = frozenset(word for phrase in phrases for word in (*phrase.words[:2], *phrase.then))
        """What `_hopeful` asks for."""
        self.patterns = [(pattern["zone"], pattern["if"], pattern["regex"]) for pattern in source["pattern"]]
        self.maker_senders: dict[str, str] = {
            word: maker["name"] for maker in source["maker"] for word in maker.get("sender", ())
        }
        self.maker_texts: dict[str, str] = {
            phrase: maker["name"] for maker in source["maker"] for phrase in maker.get("text", ())
        }
        self.maker_keys: list[tuple[frozenset[str], str]] = [
            (frozenset(maker["keys"]), maker["name"]) for maker in source["maker"] if "keys" in maker
        ]


def listed(phrases: str) -> list[str]:
    """The phrases of a text that has commas between them."""
    return [phrase.strip() for phrase in phrases.split(",")] if phrases else []


def _words_of_all(phrases: str) -> list[tuple[str, ...]]:
    """`words_of` each, all at once: in the file they are written as they are compared, but for accents."""
    return [tuple(phrase.split()) for phrase in unaccented(phrases).split(",")]


def _words(phrases: str) -> frozenset[str]:
    """The same of phrases of one word."""
    return frozenset(word for (word,) in _words_of_all(phrases))


def _stand_for(table: dict[str, str]) -> dict[str, str]:
    return {word: meaning for meaning, said in table.items() for (word,) in _words_of_all(said)}


def _is_unspaced(word: str) -> bool:
    return not word.isascii() and UNSPACED.search(word) is not None


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
    lines = _data(reading.text)
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
    return {key: value for key, value in _data(text).items() if key.isascii()}


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
    dull = not subject or " ".join(words_of_line(subject)) in rules.dull
    headline = _headline(body, rules) if dull and not event else ""
    zones = [(event, True), (subject, True), (body, False)]
    if dull:
        zones = [(event, True), (headline, True), (body, False), (subject, True)]
    hit, line, in_title = _search(rules, zones, said.text_words)
    if hit is None:
        line = event or headline or subject
        state = _ending(line, rules)
        result = Meaning("other", state, _severity_of(words_of_line(subject), rules) or "info", "")
    else:
        rule = rules.rules[hit.phrase.rank]
        words = words_of_line(line)
        state = _state(rule, hit, words, lines, rules)
        severity = rule.severity or _severity_of(words, rules) or "info"
        if _is_negated(hit, words, rules):
            severity = "warning" if state == "on" else "info"
        result = Meaning(rule.kind, state, "info" if state == "off" else severity, "")
    if state != "off":  # what is over was once as bad as the line says
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
    result.title = _title(reading, "" if dull else subject, event, "" if in_title and line != headline else line, rules)
    return result


def _headline(text: str, rules: Profile) -> str:
    """The first line that says something, if it is a short one."""
    line = _first_line(text, rules)
    return line if len(words_of_line(line)) <= _LINE else ""


def _first_line(text: str, rules: Profile) -> str:
    for line in text.splitlines():
        line = one_line(line)
        if any(map(str.isalnum, line)) and not line.lower().startswith(rules.boilerplate):
            return line
    return ""


def _ending(line: str, rules: Profile) -> str | None:
    """The state that a short line says with its last word: "pump 3 stopped"; ON and OFF must be seen to be no prose."""
    words = words_of_line(line)
    if not 0 < len(words) <= _SHORT + 1:
        return None
    if joined := _unspaced(words):
        meanings = (*rules.unspaced_states, *rules.switches.items())
        return next((state for word, state in meanings if joined.endswith(word)), None)
    if (state := rules.states.get(words[-1])) is not None:
        return state if len(words) == 1 or words[-2] not in rules.turning else _turned(state)
    switched = _SWITCHED.search(line)
    return rules.switches.get(unaccented(switched[1].lower())) if switched else None


def _turned(state: str) -> str:
    return "on" if state == "off" else "off"


def _device_time(lines: dict[str, str]) -> str | None:
    """The first date of the device's own clock, as ISO 8601; its time of day may have a line of its own."""
    for key, text in lines.items():
        if _is_date(key) and (moment := values.date_of_stranger(text)):
            if "T" in moment:
                return moment
            clocks = (values.date_of_stranger(f"{moment} {lines[key]}") for key in ("time", "uhrzeit") if key in lines)
            return next((one for one in clocks if one), moment)
    return None


@lru_cache(maxsize=1024)
def _is_date(key: str) -> bool:
    return _DATE_KEY.search(key) is not None


def _measured(lines: dict[str, str]) -> dict[str, Any]:
    """As `data` has them: a number with a unit is a number, with the unit beside it."""
    data: dict[str, Any] = {}
    for key, text in lines.items():
        if not key.isascii():
            continue
        data[key] = text
        if not text[-1].isdigit() and (text[0].isdigit() or text[0] in "+-\u2212"):
            found = values.of_stranger(text) if len(key) + len("_unit") <= MAX_KEY else None
            if found is not None and f"{key}_unit" not in lines:
                data[key], data[f"{key}_unit"] = found
        if len(data) >= MAX_KEYS:
            break
    return data


def _find(rules: Profile, words: tuple[str, ...], title: bool) -> _Hit | None:
    """The phrase of the first rule that any place in `words` matches; `title`: it is an event, subject or headline."""
    best: _Hit | None = None
    rank = len(rules.rules)
    hopeful = _hopeful(rules, rules.vocabulary.intersection(words), title)
    for at in [at for at, word in enumerate(words) if word in hopeful] if hopeful else ():
        for phrase in hopeful[words[at]]:
            if phrase.rank > rank or not (end := _end_of(rules, phrase, words, at, title)):
                continue
            # Of one rule's phrases the longest, and one that is negated: "smoke alarm: no smoke detected".
            negated = at > 0 and words[at - 1] in rules.negations
            if best is None or phrase.rank < rank or negated or (at == best.at and end > best.end):
                best, rank = _Hit(phrase, at, end), phrase.rank
    if (joined := _unspaced(words)) and (unspaced := _find_unspaced(rules, joined, rank, len(words), title)):
        best = _Hit(unspaced, -1, -1)
    return best


@lru_cache(maxsize=256)  # the mails of a device differ in numbers and times, and have the same few of these words
def _hopeful(rules: Profile, words: frozenset[str], title: bool) -> dict[str, list[_Phrase]]:
    """By its first word, each phrase that these words may hold in some order: of most texts none, at little cost."""
    found: dict[str, list[_Phrase]] = {}
    for first in rules.phrases.keys() & words:
        phrases = [
            phrase
            for second, some in rules.phrases[first].items()
            if not second or second in words
            for phrase in some
            if (not phrase.then.isdisjoint(words) if phrase.then else title or phrase.scope == "anywhere")
        ]
        if phrases:
            found[first] = phrases
    return found


def _end_of(rules: Profile, phrase: _Phrase, words: tuple[str, ...], at: int, title: bool) -> int:
    """Where a hopeful one ends if it begins at `at`; 0 if it doesn't."""
    if phrase.scope == "apart":
        after = at + len(phrase.words)
        if words[at:after] != phrase.words:
            return 0
        for end in range(after, min(after + _APART + 1, len(words))):
            word = words[end]
            if word in phrase.then:
                return end + 1
            if word == "0" or word in rules.negations or (not title and word.isalpha()):
                break  # in a letter anything may stand between; "door 3 open" is no letter's
        return 0
    if phrase.scope == "short" and len(words) > _SHORT:
        return 0
    end = at + len(phrase.words)
    return end if words[at:end] == phrase.words else 0


def _unspaced(words: tuple[str, ...]) -> str:
    """The words in one, if any is of a script that puts no blanks between them; else ""."""
    joined = "".join(words)
    return joined if not joined.isascii() and UNSPACED.search(joined) else ""


def _find_unspaced(rules: Profile, joined: str, rank: int, count: int, title: bool) -> _Phrase | None:
    best: _Phrase | None = None
    for pair in dict.fromkeys(map(add, joined, joined[1:])):  # of one rule's phrases the first of the text
        for text, phrase in rules.unspaced.get(pair, ()):
            if phrase.rank >= rank or text not in joined:
                continue
            if phrase.scope == "anywhere" or (title and (phrase.scope == "title" or count <= _SHORT)):
                best, rank = phrase, phrase.rank
    return best


def _search(
    rules: Profile, zones: Iterable[tuple[str, bool]], text_words: tuple[str, ...]
) -> tuple[_Hit | None, str, bool]:
    """The phrase that decides, the line that it is in, whether that is a title: of the first zone where one is found,
    but a vague one only if no zone has a better one.
    """
    vague: tuple[_Hit | None, str, bool] = None, "", False
    for zone, title in zones:
        found = _find(rules, words_of_line(zone) if title else text_words, title) if zone else None
        if found is None:
            continue
        line = zone
        if not title:
            line = _line_with(found.phrase.words, zone)
            again = _find(rules, words_of_line(line), title)
            same = again is not None and again.phrase.rank == found.phrase.rank
            found = again if again and same else _Hit(found.phrase, -1, -1)
        if not rules.rules[found.phrase.rank].vague:
            return found, line, title
        if vague[0] is None:
            vague = found, line, title
    return vague


def _line_with(words: tuple[str, ...], text: str) -> str:
    """The line of a text that has all of them."""
    for line in text.splitlines():
        lowered = unaccented(line.lower())
        if all(word in lowered for word in words):
            return one_line(line).lstrip("-* ")
    return " ".join(words)  # broken over two lines


def _state(rule: _Rule, hit: _Hit, words: tuple[str, ...], lines: dict[str, str], rules: Profile) -> str | None:
    """What the words beside the phrase make of its state; if they say nothing, a line that is there for it does."""
    if _is_negated(hit, words, rules):
        return "on" if rule.state == "off" else "off" if rule.ends or rule.state else None
    if not rule.ends:
        return rule.state
    said = _states_in(words, rules, hit)
    if not said and (stated := _first(lines, rules.keys["state"])):
        stated_words = words_of_line(stated)
        if len(stated_words) <= 2:
            said = _states_in(stated_words, rules, None)
    return "off" if "off" in said else "on" if said else rule.state


def _is_negated(hit: _Hit, words: tuple[str, ...], rules: Profile) -> bool:
    """ "No smoke detected"."""
    return hit.at > 0 and words[hit.at - 1] in rules.negations


def _states_in(words: tuple[str, ...], rules: Profile, hit: _Hit | None) -> set[str]:
    """What the words stand for, turned round behind a "not" ("not yet cleared", "above normal").

    Some are places as well ("at the north end"): beside what has happened they count next to it only.
    """
    said: set[str] = set()
    for at, word in enumerate(words):
        state = rules.states.get(word)
        if state is None:
            continue
        before = at - 1
        while before >= 0 and words[before] in rules.fillers:
            before -= 1
        if before >= 0 and words[before] in rules.turning:
            state = _turned(state)
        elif hit and not (at == hit.end or hit.at - _APART <= at < hit.end):
            if word in rules.places and not rules.happened.isdisjoint(words):
                continue
            if word in rules.machine and rules.rules[hit.phrase.rank].vague:
                continue
        said.add(state)
    if joined := _unspaced(words):
        for word, state in rules.unspaced_states:
            at = joined.find(word)
            if at >= 0:
                negated = joined[:at].endswith(rules.unspaced_negations)
                said.add(_turned(state) if negated else state)
    return said


def _data(text: str) -> dict[str, str]:
    """The `KEY: value` lines of a body, by slugs of their keys; the first of a key wins, empty values are left out."""
    data: dict[str, str] = {}
    # What is repeated says nothing new.
    for line in dict.fromkeys(text[: 4 * families.SEARCHED].split("\n", _MAX_LINES)[:_MAX_LINES]):
        slug, value, channel = _line(line[:_LONGEST_LINE])
        if channel:
            data.setdefault("channel", channel)
        if slug:
            data.setdefault(slug, value)
            if len(data) >= MAX_KEYS:
                break
    return data


@lru_cache(maxsize=1024)  # devices repeat their lines in every mail
def _line(line: str) -> tuple[str, str, str]:
    """Slug of its key, its value, the channel that it is about; "" for what it doesn't say."""
    if "\uff1a" in line:
        line = line.translate(_FULL_WIDTH)
    key, separator, value = line.partition(":")
    if "(" in key and ")" not in key:  # this colon is inside (D/M/Y H:M:S)
        inside, _, rest = line.partition(")")
        rest, separator, value = rest.partition(":")
        key = f"{inside}){rest}"
    elif not separator:
        key, separator, value = line.partition(" = ")
    slug, unit = _key(key) if separator and len(key) <= 2 * MAX_KEY else ("", "")
    value = value.strip()
    if not slug or value.startswith("//") or not any(map(str.isalnum, value)):
        return "", "", ""
    if key[-1].isdigit() and value[0].isdigit() and not line[len(key) + 1 :].startswith(" "):
        return "", "", ""  # prose, or a time of day
    channel = ""
    if unit and unit in profile().keys["numbered"] and value.endswith(")"):
        value, _, channel = value[:-1].rpartition("(")
    value = one_line(value)[:MAX_VALUE]
    return slug if value else "", value, one_line(channel)[:MAX_VALUE]


@lru_cache(maxsize=1024)  # devices repeat their keys in every mail
def _key(key: str) -> tuple[str, str]:
    """The slug of a key, "" if it can't be one: it is a few words, and may have a unit in parentheses behind them."""
    found = _KEY.fullmatch(key)
    if found is None:
        return "", ""
    said = unaccented(found[1].strip().lower())
    rules = profile()
    if said in rules.other_keys:
        return said, ""
    slug = rules.slugs.get(said) or _NO_SLUG.sub("_", said).strip("_")
    return ("" if slug in _RESERVED or len(slug) > MAX_KEY else slug), (found[2] or "").strip().lower()


def _first(data: dict[str, str], keys: dict[str, None]) -> str | None:
    return None if data.keys().isdisjoint(keys.keys()) else next(data[key] for key in keys if key in data)


def _patterns(rules: Profile, lowered: dict[str, str], zones: dict[str, str], data: dict[str, Any]) -> dict[str, str]:
    """Named groups into `data`, except hints on the device, which are returned."""
    hints: dict[str, str] = {}
    for zone, needed, pattern in rules.patterns:
        if needed not in lowered[zone]:
            continue
        found = re.search(pattern, zones[zone], re.IGNORECASE | re.MULTILINE)  # compiled once, when it is needed first
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


def _severity_of(words: tuple[str, ...], rules: Profile) -> str | None:
    """The worst severity that any of the words stands for, but for "no errors"."""
    found = [
        rules.severities[word]
        for at, word in enumerate(words)
        if word in rules.severities and not (at and (words[at - 1] in rules.negations or words[at - 1] == "0"))
    ]
    if joined := _unspaced(words):
        found += [severity for word, severity in rules.unspaced_severities if word in joined]
    return max(found, key=vocabulary.severity_rank, default=None)


def _stated_severity(subject: str, data: dict[str, str], rules: Profile) -> str | None:
    stated = " ".join(_BRACKETED.findall(subject)) if "[" in subject else ""
    stated += " " + (_first(data, rules.keys["severity"]) or "")
    return _severity_of(words_of_line(stated), rules) if stated != " " else None


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
        title = _first_line(reading.text[: families.SEARCHED], rules)
    if not title:
        title = reading.subject or (reading.attachments[0]["name"] if reading.attachments else "Mail without text")
    return _cut(title)


def _cut(title: str) -> str:
    return title if len(title) <= MAX_TITLE else title[: MAX_TITLE - 1] + "…"
