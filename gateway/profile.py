"""Profiles as people write them, checked: each mistake in words, with its place and what to do about it.

`gateway/profiles/README.md` is the format. Ours are checked by the tests, a user's by `mailwire check` and at the
start; the way of a mail (`gateway.interpret.families`) only applies what passed here.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from gateway import patterns
from gateway.interpret import HEADERS
from gateway.interpret.families import ENOUGH, GENERIC, HINTS, MOST_STEPS, spaced
from gateway.interpret.values import ORDERS, TYPES, UNITS
from gateway.problem import Finding, Problem, Wrong, dotted, explain, nearest
from gateway.wire import event as words

GROUPS = ("cameras", "nas", "ups", "printers", "servers", "hosts", "monitoring", "network", "plant")
ZONES = ("helo", "from", "from_name", "subject", "text", "attachment", *HEADERS)

_NAME = re.compile(r"[a-z][a-z0-9_]{0,34}")
_IN_BRACES = re.compile(r"\{(\w*)\}")
_RESERVED = ("truncated",)


def _phrase(text: str) -> str:
    if not spaced(text).strip():
        raise Wrong(f"'{text}' has no letters or digits", "A phrase is compared by its words")
    return text


def _regex(text: str) -> str:
    patterns.compiled(text, re.IGNORECASE, MOST_STEPS)
    return text


def _word_of(options: tuple[str, ...], what: str) -> Callable[[str], str]:
    def check(value: str) -> str:
        if value not in options:
            raise Wrong(f"'{value}' is no {what}", nearest(value, options, "There are"))
        return value

    return check


_Phrase = Annotated[str, AfterValidator(_phrase)]
_Phrases = _Phrase | Annotated[tuple[_Phrase, ...], Field(min_length=1)]
_Regex = Annotated[str, AfterValidator(_regex)]
_Zone = Annotated[str, AfterValidator(_word_of(ZONES, "zone of a mail"))]
_ZoneOrAnywhere = Annotated[str, AfterValidator(_word_of((*ZONES, "anywhere"), "zone of a mail"))]
_Kind = Annotated[str, AfterValidator(_word_of(words.KINDS, "kind of event"))]
_Texts = str | Annotated[tuple[str, ...], Field(min_length=1)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Clue(_Model):
    """Something that speaks for the family."""

    zone: _Zone = Field(alias="in")
    words: _Phrases
    regex: _Regex | None = None
    points: Annotated[int, Field(ge=-100, le=100)]


class Pattern(_Model):
    """Where fields are that stand in no line with a key."""

    zone: _Zone = Field("text", alias="in")
    has: _Texts = ()
    regex: _Regex

    @model_validator(mode="after")
    def _whole(self) -> Pattern:
        for one in (self.has,) if isinstance(self.has, str) else self.has:
            if one != one.lower() or not one:
                raise Wrong(f"'{one}' in 'has' must be in lower case", f"Write '{one.lower()}'" if one else "")
        if not re.compile(self.regex).groupindex:
            raise Wrong("the expression has no named group", "Write (?P<name>...) around what is the field 'name'")
        return self


class FieldRule(_Model):
    """What a field's text is made of."""

    key: _Texts = ()
    type: Annotated[str, AfterValidator(_word_of(TYPES, "type of field"))] = "text"
    unit: Annotated[str, AfterValidator(_word_of(UNITS, "unit"))] | None = None
    order: Annotated[str, AfterValidator(_word_of(ORDERS, "order of a date"))] = "ymd"
    values: dict[str, str] | None = None

    @field_validator("key")
    @classmethod
    def _slugs(cls, value: Any) -> Any:
        for one in (value,) if isinstance(value, str) else value:
            if not re.fullmatch("[a-z0-9_]+", one):
                slug = re.sub("[^a-z0-9]+", "_", one.lower()).strip("_")
                raise Wrong(f"'{one}' is no slug of a key", f"Did you mean '{slug}'?")
        return value

    @model_validator(mode="after")
    def _whole(self) -> FieldRule:
        if self.unit and self.type not in ("number", "duration"):
            raise Wrong(f"a field of type '{self.type}' has no unit", "Did you mean type = 'number'?")
        if self.type == "duration" and self.unit not in (None, "ms", "s", "min", "h", "d"):
            raise Wrong(f"a duration can't be in '{self.unit}'", "There are ms, s, min, h, d")
        return self


class ByField(BaseModel):
    """A word that a field decides: the others of its keys are the words, each with what the field says for it."""

    model_config = ConfigDict(extra="allow")
    field: str
    otherwise: str | None = None


class MailRule(_Model):
    """One of the mails that the family sends."""

    name: Annotated[str, Field(min_length=1, max_length=60)]
    when: Annotated[tuple[Annotated[dict[_ZoneOrAnywhere, _Phrases], Field(min_length=1)], ...], Field(min_length=1)]
    unless: tuple[_Phrase, ...] = ()
    kind: _Kind
    state: Literal["on", "off"] | ByField | None = None
    severity: Literal["info", "warning", "critical"] | ByField = "info"
    title: _Texts = ()
    off_after: Annotated[float, Field(ge=0, le=30 * 86400)] | None = None
    picture: str | None = None
    pattern: tuple[Pattern, ...] = ()
    fields: dict[str, FieldRule] = Field(default_factory=dict)
    data: dict[str, str | int | float | bool] = Field(default_factory=dict)


class Profile(_Model):
    """A file."""

    title: Annotated[str, Field(min_length=1)]
    group: Annotated[str, AfterValidator(_word_of(GROUPS, "group of families"))]
    manufacturer: str | None = None
    model: str | None = None
    picture: str | None = None
    sources: Annotated[tuple[str, ...], Field(min_length=1)]
    clue: Annotated[tuple[Clue, ...], Field(min_length=1)]
    fields: dict[str, FieldRule] = Field(default_factory=dict)
    pattern: tuple[Pattern, ...] = ()
    mail: Annotated[tuple[MailRule, ...], Field(min_length=1)]


def check(path: Path) -> list[Problem]:
    """All that is wrong with a file."""
    try:
        text = path.read_text("utf-8")
        data = tomllib.loads(text)
    except OSError as error:
        return [Problem(str(path), None, "", f"can't be read: {error.strerror}")]
    except (ValueError, RecursionError) as error:
        found = re.search(r"(?:\(at line (\d+), column \d+\)|\(at end of document\))$", str(error))
        line = int(found[1]) if found and found[1] else None
        message = str(error)[: found.start()].strip() if found else str(error)
        return [Problem(str(path), line, "", f"this is no TOML: {message}")]
    findings = [*_of_name(path.stem)]
    try:
        findings += _of_all(Profile.model_validate(data), text)
    except ValidationError as error:
        findings += explain(error, Profile, data)
    lines = _lines(text)
    return [Problem(str(path), lines.get(one.at[:2]), dotted(one.at), one.message, one.hint) for one in findings]


def check_folder(folder: Path) -> list[Problem]:
    """All that is wrong with the files of a folder, which need not be there."""
    return [problem for path in sorted(folder.glob("*.toml")) for problem in check(path)]


def _lines(text: str) -> dict[tuple[str | int, ...], int]:
    """The lines at which the parts of a list begin, as far as they are written as `[[part]]`."""
    found: dict[tuple[str | int, ...], int] = {}
    counted: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if part := re.match(r"\[\[(\w+)\]\]", line):
            found[part[1], counted.get(part[1], 0)] = number
            counted[part[1]] = counted.get(part[1], 0) + 1
    return found


def _of_name(name: str) -> Iterator[Finding]:
    if name == GENERIC:
        yield Finding((), "'generic' is the profile of what no family knows", "Give the file another name")
    elif not _NAME.fullmatch(name):
        yield Finding((), "the name of the file must be a family's: at most 35 of a-z, 0-9 and '_', a letter first")


def _of_all(profile: Profile, text: str) -> Iterator[Finding]:
    """What only the whole shows."""
    if sum(clue.points for clue in profile.clue if clue.points > 0) < ENOUGH:
        yield Finding(("clue",), f"all clues together have less than {ENOUGH} points: no mail would be the family's")
    if _head_differs(text.partition("\n[[mail]]")[0], profile):
        yield Finding(("mail",), "mails come last, each as [[mail]] at the beginning of a line", "Move the rest above")
    known = {*profile.fields, *_groups(profile.pattern)}
    for name in (*profile.fields, *_groups(profile.pattern)):
        yield from _of_field(name, ("fields", name))
    ended = {mail.kind for mail in profile.mail if mail.state == "off" or _can_be(mail.state, "off")}
    names: set[str] = set()
    for number, mail in enumerate(profile.mail):
        at = ("mail", number)
        if mail.name in names:
            yield Finding((*at, "name"), f"there is another mail '{mail.name}'")
        names.add(mail.name)
        for name in (*mail.fields, *_groups(mail.pattern), *mail.data):
            yield from _of_field(name, (*at, "fields", name))
        here = known | {*mail.fields, *_groups(mail.pattern), *mail.data}
        for title in (mail.title,) if isinstance(mail.title, str) else mail.title:
            for name in _IN_BRACES.findall(title):
                if name not in here:
                    yield Finding((*at, "title"), f"there is no field '{name}'", nearest(name, here, "There are"))
        yield from _of_choice(mail.state, (*at, "state"), words.STATES, here)
        yield from _of_choice(mail.severity, (*at, "severity"), words.SEVERITIES, here)
        starts = mail.state == "on" or _can_be(mail.state, "on")
        if starts and mail.off_after is None and mail.kind not in ended:
            yield Finding(
                at,
                f"nothing ends the state 'on' of the kind '{mail.kind}'",
                "Give off_after in seconds (0: it stays on), or a mail of this kind with state = 'off'",
            )
        if not starts and mail.off_after is not None:
            yield Finding((*at, "off_after"), "only a mail with state = 'on' ends by itself")


def _head_differs(head: str, profile: Profile) -> bool:
    """Is anything of the family below its mails? There, nobody reads it at the start."""
    try:
        alone = tomllib.loads(head)
    except tomllib.TOMLDecodeError:
        return True
    return len(alone.get("clue", ())) != len(profile.clue) or "mail" in alone


def _groups(given: tuple[Pattern, ...]) -> Iterator[str]:
    for pattern in given:
        yield from re.compile(pattern.regex).groupindex


def _can_be(rule: Any, word: str) -> bool:
    return isinstance(rule, ByField) and (word in (rule.model_extra or {}) or rule.otherwise == word)


def _of_field(name: str, at: tuple[str | int, ...]) -> Iterator[Finding]:
    if name in _RESERVED:
        yield Finding(at, f"'{name}' is a name of ours", "Take another")
    elif not _NAME.fullmatch(name) or (name.endswith("_unit") and name not in HINTS):
        yield Finding(at, f"'{name}' can't be the name of a field", "At most 35 of a-z, 0-9 and '_', not *_unit")


def _of_choice(rule: Any, at: tuple[str | int, ...], options: tuple[str, ...], fields: set[str]) -> Iterator[Finding]:
    if not isinstance(rule, ByField):
        return
    if rule.field not in fields:
        yield Finding((*at, "field"), f"there is no field '{rule.field}'", nearest(rule.field, fields, "There are"))
    for key, said in (rule.model_extra or {}).items():
        if key not in options:
            yield Finding((*at, key), f"must be one of {', '.join(options)}", nearest(key, options))
        elif not isinstance(said, str) and not (isinstance(said, list) and all(isinstance(one, str) for one in said)):
            yield Finding((*at, key), "must be text or a list of texts")
    if rule.otherwise is not None and rule.otherwise not in options:
        yield Finding((*at, "otherwise"), f"must be one of {', '.join(options)}", nearest(rule.otherwise, options))
