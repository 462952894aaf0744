"""Families of devices: which one a mail is from, and what it means by that family's profile.

A profile is data (`gateway/profiles/*.toml`; the README beside them is the format); this file only knows how to apply
one. At the start the head of each file is read, its clues; the rest is read when the first mail of the family comes,
and a regular expression is compiled when it is needed first. Each clue names words, and the longest of them is looked
up among the words of the mail: so a mail that no family knows costs next to nothing, however many there are.

Whatever a profile says, the work is bounded: texts are cut before they are searched, expressions are asked line by
line, and one that could run away is refused (`gateway.patterns`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from functools import cache, lru_cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from gateway import patterns
from gateway.interpret import values
from gateway.interpret.fields import one_line
from gateway.letters import unaccented
from gateway.wire import event as vocabulary

if TYPE_CHECKING:
    from gateway.interpret import Reading

OURS = Path(__file__).parents[1] / "profiles"
OWN = "profiles"
"""The folder of a user's own, beside the configuration."""
GENERIC = "generic"
"""The profile of what no family knows; it has a form of its own (`gateway.interpret.meaning`)."""

ENOUGH = 10
"""Points that make a mail one of the family."""
MOST_STEPS = 4 * patterns.LONGEST**2
"""Of a regular expression, with one line."""
HINTS = ("device_name", "serial", "model")
"""Fields that say something of the device and not of what happened."""
SEARCHED = 4096  # characters of a body that are searched for words
_LINES = 200  # of a body that fields are looked for in
_LONGEST = 200  # characters of a value
_HEAD_ENDS = re.compile(r"^\[\[mail\]\]", re.MULTILINE)

_WORD = re.compile(r"\w+")
_PUNCTUATION = {number: " " for number in range(128) if not (chr(number).isalnum() or chr(number) == "_")}
UNSPACED = re.compile("[\u2e80-\ud7ff\uf900-\ufaff]")  # scripts that put no blanks between words
_IN_BRACES = re.compile(r"\{(\w+)\}")


class Greeted(Protocol):
    """What of an envelope (`gateway.api.Envelope`) tells something."""

    @property
    def helo(self) -> str: ...


class Found(NamedTuple):
    """A field, and where in the mail it was found: for people who want to know why."""

    name: str
    value: Any
    where: str


class Match(NamedTuple):
    """What a family's profile says of a mail. None where it says nothing; `hints` has those of `HINTS` that are said.

    `off_after`: seconds after which an `on` ends by itself; 0: it does not, for the device says when it is over.
    `spoken`: the slugs of lines that fields are made of, so that nothing is told twice.
    """

    mail: str
    kind: str
    state: str | None
    severity: str
    title: str | None
    data: dict[str, Any]
    hints: dict[str, str]
    off_after: float | None
    picture: str | None
    found: list[Found]
    spoken: frozenset[str] = frozenset()


class Score(NamedTuple):
    """How well a family fits a mail, and by which of its clues."""

    points: int
    family: Family
    clues: list[str]


def words_of(text: str) -> tuple[str, ...]:
    """Without case, accents, punctuation and spacing: what phrases are compared by."""
    text = text.lower()
    return tuple(text.translate(_PUNCTUATION).split() if text.isascii() else _WORD.findall(unaccented(text)))


words_of_line = lru_cache(maxsize=256)(words_of)  # devices repeat theirs


class Said:
    """A mail by its zones: as it is, and as words. Worked out when asked for, once."""

    def __init__(self, reading: Reading, envelope: Greeted) -> None:
        self.reading = reading
        self.zones: dict[str, str] = {
            "helo": envelope.helo[:100],
            "from": reading.sender,
            "from_name": reading.sender_name,
            "subject": reading.subject or "",
            "text": reading.text,
            "attachment": " ".join([one["name"] for one in reading.attachments[:10]]),
            **reading.headers,
        }
        self.text_words = words_of(reading.text[:SEARCHED])
        self._spaced: dict[str, str] = {}
        self._lines: dict[str, list[tuple[str, str]]] = {}  # with the same in lower case

    def is_ascii(self) -> bool:
        return all(map(str.isascii, self.zones.values()))

    def words(self) -> Iterator[str]:
        """Every word of it."""
        lines = [words_of_line(text) for zone, text in self.zones.items() if text and zone != "text"]
        return chain(self.text_words, *lines)

    def has(self, zone: str, phrase: str) -> bool:
        """`phrase` as `spaced` makes it; `zone` may be "anywhere"."""
        if zone == "anywhere":
            return phrase in self.spaced("subject") or phrase in self.spaced("text")
        return phrase in self.spaced(zone)

    def find(self, zone: str, needed: tuple[str, ...], pattern: str) -> tuple[int, re.Match[str]] | None:
        """The first line in which the expression is found: (its number from 1, the match); `needed`: any is in it."""
        lines = self._lines.get(zone)
        if lines is None:
            text = self.zones.get(zone, "")
            split, lowered = text.split("\n", _LINES)[:_LINES], text.lower().split("\n", _LINES)[:_LINES]
            lines = self._lines[zone] = list(zip(split, lowered, strict=True))
        search = None
        for number, (line, lower) in enumerate(lines, 1):
            for one in needed or ("",):
                if one in lower:
                    search = search or _compiled(pattern)
                    if found := search(line[: patterns.LONGEST]):
                        return number, found
                    break
        return None

    def spaced(self, zone: str) -> str:
        """Its words, each between single blanks."""
        found = self._spaced.get(zone)
        if found is None:
            words = self.text_words if zone == "text" else words_of_line(self.zones.get(zone, ""))
            found = self._spaced[zone] = f" {' '.join(words)} "
        return found


@lru_cache(maxsize=4096)
def spaced(phrase: str) -> str:
    """A phrase in the form in which a zone has it; in scripts without blanks it may begin and end within a word."""
    words = " ".join(words_of(phrase))
    return words if UNSPACED.search(words) else f" {words} "


class _Clue(NamedTuple):
    family: Family
    zone: str
    phrases: tuple[str, ...]
    pattern: str | None
    points: int

    def fits(self, said: Said, phrases: Iterable[str]) -> str | None:
        """The phrase of these that is found; None: it does not fit."""
        words = said.spaced(self.zone)
        for phrase in phrases:
            if phrase in words:
                return phrase if self.pattern is None or said.find(self.zone, (), self.pattern) else None
        return None


class Family:
    """A profile file: its head at once, its mails when they are asked for."""

    def __init__(self, path: Path, text: str) -> None:
        """Raises ValueError, KeyError or TypeError for a file that `gateway.interpret.schema` would refuse."""
        self.path = path
        self._text = text
        self._ready: _Mails | None = None
        head = _toml(_HEAD_ENDS.split(text, maxsplit=1)[0])
        self.name: str = path.stem
        self.title: str = head["title"]
        self.manufacturer: str | None = head.get("manufacturer")
        self.model: str | None = head.get("model")
        self.clues = [
            _Clue(self, clue["in"], tuple(map(spaced, _listed(clue["words"]))), clue.get("regex"), int(clue["points"]))
            for clue in head["clue"]
        ]

    def source(self) -> dict[str, Any]:
        """The whole file."""
        return _toml(self._text)

    def match(self, said: Said, lines: Mapping[str, str]) -> Match | None:
        """The first of its mails that this is, with its fields; `lines` are the `KEY: value` lines, by slugs."""
        if self._ready is None:
            self._ready = _Mails(self.source())
        return self._ready.match(said, lines)


class Library:
    """The families of some folders; one in a later folder takes the place of an earlier one of its name.

    `broken`: file -> why it can't be used. Such a file is left out.
    """

    def __init__(self, *folders: Path) -> None:
        self.families: dict[str, Family] = {}
        self.broken: dict[Path, str] = {}
        for folder in folders:
            for path in sorted(folder.glob("*.toml")):
                if path.stem == GENERIC:
                    continue
                try:
                    self.families[path.stem] = Family(path, path.read_text("utf-8"))
                except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
                    self.broken[path] = f"{type(error).__name__}: {error}"
        self._by_word: dict[str, list[tuple[_Clue, str]]] = {}
        self._unspaced: list[tuple[_Clue, str]] = []  # may be within a word, so that they can't be looked up
        for family in self.families.values():
            for clue in family.clues:
                for phrase in clue.phrases:
                    if phrase[0] == " ":
                        self._by_word.setdefault(max(phrase.split(), key=len), []).append((clue, phrase))
                    else:
                        self._unspaced.append((clue, phrase))
        self._words = frozenset(self._by_word)
        # The mails of a device differ in numbers and times, and have the same few of these words.
        self._hopeful = lru_cache(maxsize=256)(self._hopeful_of)

    def scores(self, said: Said) -> list[Score]:
        """Those above 0, the best first; of equals the first by name."""
        found = []
        for family, clues in self._fitting(said, 1).items():
            points = sum(clue.points for clue, _ in clues)
            words = [f"{clue.points} for '{phrase.strip()}' in {clue.zone.replace('_', ' ')}" for clue, phrase in clues]
            if points > 0:
                found.append(Score(points, family, words))
        return sorted(found, key=lambda score: (-score.points, score.family.name))

    def family(self, said: Said) -> Family | None:
        """The one that this mail is from."""
        best, most = None, ENOUGH - 1
        for family, clues in self._fitting(said, ENOUGH).items():
            points = sum([clue.points for clue, _ in clues])
            if points > most or (best and points == most and family.name < best.name):
                best, most = family, points
        return best

    def _fitting(self, said: Said, least: int) -> dict[Family, list[tuple[_Clue, str]]]:
        """The clues that fit, and by which phrase; of families that may have so many points."""
        found: dict[Family, list[tuple[_Clue, str]]] = {}
        for clue, phrases in self._hopeful(self._words.intersection(said.words()), said.is_ascii(), least):
            try:
                # Words are looked up in any order; people are told the first phrase of the file.
                fitting = clue.fits(said, phrases if least == ENOUGH else clue.phrases)
            except ValueError as error:  # its expression; nobody checked the file
                self.broken[clue.family.path] = str(error)
                continue
            if fitting is not None:
                found.setdefault(clue.family, []).append((clue, fitting))
        return found

    def _hopeful_of(self, words: frozenset[str], ascii_only: bool, least: int) -> list[tuple[_Clue, list[str]]]:
        """The clues that a mail with these words may fit, and by which phrases."""
        asked: dict[int, tuple[_Clue, list[str]]] = {}
        for clue, phrase in chain(() if ascii_only else self._unspaced, *(self._by_word[word] for word in words)):
            asked.setdefault(id(clue), (clue, []))[1].append(phrase)
        most: dict[Family, int] = {}
        for clue, _ in asked.values():
            if clue.points > 0:
                most[clue.family] = most.get(clue.family, 0) + clue.points
        return [one for one in asked.values() if most.get(one[0].family, 0) >= least]

    def match(self, family: Family, said: Said, lines: Mapping[str, str]) -> Match | None:
        """`Family.match`; a file that was not checked, and is wrong, says nothing, and is never asked again."""
        if family.path in self.broken:
            return None
        try:
            return family.match(said, lines)
        except (ValueError, LookupError, TypeError, AttributeError, re.error) as error:
            self.broken[family.path] = f"{type(error).__name__}: {error}"
            return None


@cache
def ours() -> Library:
    """The families that come with Mailwire."""
    return Library(OURS)


class _Mails:
    """The mails of a family, ready for use."""

    def __init__(self, source: Mapping[str, Any]) -> None:
        self._mails = [_Mail(mail, source) for mail in source["mail"]]

    def match(self, said: Said, lines: Mapping[str, str]) -> Match | None:
        for mail in self._mails:
            if mail.fits(said):
                return mail.told(said, lines)
        return None


class _Mail:
    def __init__(self, mail: Mapping[str, Any], family: Mapping[str, Any]) -> None:
        self.name: str = mail["name"]
        self._when = [
            [(zone, tuple(map(spaced, _listed(phrases)))) for zone, phrases in one.items()] for one in mail["when"]
        ]
        self._unless = tuple(map(spaced, mail.get("unless", ())))
        self._kind: str = vocabulary.known_kind(mail["kind"])
        self._state = mail.get("state")
        self._severity = mail.get("severity", "info")
        self._titles = _listed(mail.get("title", ()))
        self._off_after: float | None = mail.get("off_after")
        self._picture: str | None = mail.get("picture", family.get("picture"))
        self._fields: dict[str, Any] = {**family.get("fields", {}), **mail.get("fields", {})}
        self._patterns = [
            (pattern.get("in", "text"), _listed(pattern.get("has", ())), pattern["regex"])
            for pattern in (*mail.get("pattern", ()), *family.get("pattern", ()))
        ]
        self._always: dict[str, Any] = mail.get("data", {})
        self._keys = [(name, key) for name, field in self._fields.items() for key in _listed(field.get("key", ()))]
        self._spoken = frozenset(key for _, key in self._keys)

    def fits(self, said: Said) -> bool:
        for zones in self._when:
            for zone, phrases in zones:
                for phrase in phrases:
                    if said.has(zone, phrase):
                        break
                else:
                    break  # this zone does not fit, so these zones together do not
            else:
                return not any(said.has("anywhere", phrase) for phrase in self._unless)
        return False

    def told(self, said: Said, lines: Mapping[str, str]) -> Match:
        found: dict[str, Found] = {name: Found(name, value, "by the profile") for name, value in self._always.items()}
        hints: dict[str, str] = {}
        for name, text, where in self._texts(said, lines):
            if name in found or name in hints:
                continue
            field = self._fields.get(name, {})
            if name in HINTS:
                hints[name] = text
                found[name] = Found(name, text, where)
                continue
            for key, value in values.typed(name, text, field):
                found[key] = Found(key, value, where)
        data = {one.name: one.value for one in found.values() if one.name not in hints}
        return Match(
            self.name,
            self._kind,
            _by_field(self._state, data, vocabulary.STATES),
            _by_field(self._severity, data, vocabulary.SEVERITIES) or "info",
            self._title(data | hints),
            data,
            hints,
            self._off_after,
            self._picture,
            list(found.values()),
            self._spoken,
        )

    def _texts(self, said: Said, lines: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
        """(field, its text, where it stands): the patterns first, for they say the most exactly."""
        for zone, needed, expression in self._patterns:
            if (match := said.find(zone, needed, expression)) is None:
                continue
            where = f"line {match[0]} of the text" if zone == "text" else f"the {zone.replace('_', ' ')}"
            for name, text in match[1].groupdict().items():
                if text and (text := one_line(text)[:_LONGEST]):
                    yield name, text, where
        for name, key in self._keys:
            if key in lines:  # of a field with several, the first is taken
                yield name, lines[key], f"the line {key.replace('_', ' ')}"

    def _title(self, data: Mapping[str, Any]) -> str | None:
        """The first whose fields are all there."""
        for title in self._titles:
            if all(name in data for name in _IN_BRACES.findall(title)):
                return _IN_BRACES.sub(lambda name: str(data[name[1]]), title)
        return None


def picture(glob: str, reading: Reading) -> int | None:
    """The index of the first attachment whose name is of this form; "none" has no picture."""
    for index, one in enumerate(reading.attachments):
        if one["type"].startswith("image/") and fnmatchcase(one["name"].lower(), glob.lower()):
            return index
    return None


def _toml(text: str) -> dict[str, Any]:
    import tomllib  # only in the process that interprets

    return tomllib.loads(text)


def _by_field(rule: Any, data: Mapping[str, Any], words: tuple[str, ...]) -> str | None:
    """One of the words, or none. A table says it by a field: `{field = "level", critical = ["disaster", "high"]}`."""
    if isinstance(rule, Mapping):
        said = str(data.get(rule["field"], "")).lower()
        fitting = (word for word in words if said in [text.lower() for text in _listed(rule.get(word, ()))])
        rule = next(fitting, rule.get("otherwise"))
    return str(rule) if rule in words else None


@cache
def _compiled(pattern: str) -> Callable[[str], re.Match[str] | None]:
    return patterns.compiled(pattern, re.IGNORECASE, MOST_STEPS).search


def _listed(value: Any) -> tuple[str, ...]:
    """A text, or several."""
    return (value,) if isinstance(value, str) else tuple(value)
