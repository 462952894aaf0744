"""What is wrong with something that a person wrote: where it stands, what it is, and what to do about it.

Configuration, manifests and templates are all refused through here, so that every refusal reads alike:
`file:line: path: message. hint`. pydantic's errors are put into words here and nowhere else. A value is repeated only
where a word or a number was expected: anything else may be a password.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

Place = tuple[str | int, ...]
"""Where a value stands in its file: `("routes", 0, "to", 1)`, printed as `routes[0].to[1]`."""


_QUOTED = re.compile(r"(?<!\w)(['\"`])(.+?)\1(?!\w)")


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake. `file`, `line` (from 1) and `path` are empty where there are none; texts end without a dot."""

    file: str
    line: int | None
    path: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        told = ". ".join(text for text in (self.message, self.hint) if text)
        text = ": ".join(part for part in (place, self.path, told) if part) + ("" if told.endswith("?") else ".")
        return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)  # one line, always


@dataclass(frozen=True, slots=True)
class Finding:
    """A mistake whose file and line are still to be looked up."""

    at: Place
    message: str
    hint: str = ""


@dataclass
class Document:
    """What a file says, as plain data: dicts with text keys, lists, str, int, float, bool, None; and where it says so.

    `marks`: path -> (file, line from 1). `unknown`: paths whose value could not be had; `problems` tells why.
    `secrets`: path -> text that no message may repeat.
    """

    file: str
    data: Any = None
    marks: dict[Place, tuple[str, int]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    unknown: set[Place] = field(default_factory=set)
    secrets: dict[Place, str] = field(default_factory=dict)

    def mark(self, at: Place) -> tuple[str, int | None]:
        """The file and line of a value, or of the nearest one around it."""
        for end in range(len(at), -1, -1):
            if at[:end] in self.marks:
                return self.marks[at[:end]]
        return self.file, None

    def is_known(self, at: Place) -> bool:
        return not any(at[:end] in self.unknown for end in range(len(at) + 1))

    def hide(self, text: str, at: Place = ()) -> str:
        """The text without secrets; near the place of one, without quoted pieces of it either."""
        if text in self.secrets.values():
            return "***"
        for secret in sorted({value for value in self.secrets.values() if len(value) > 3}, key=len, reverse=True):
            text = text.replace(secret, "***").replace(repr(secret)[1:-1], "***")
        text = re.sub(r"(?<=://)[^/@\s]+@", "***@", text)  # a user and a password typed into a URL
        own = [value for place, value in self.secrets.items() if place[: len(at)] == at or at[: len(place)] == place]
        return _QUOTED.sub(lambda quote: "'***'" if any(quote[2] in value for value in own) else quote[0], text)


class Wrong(ValueError):
    """Raised by a validator of ours that also knows what to do about it."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


def dotted(path: Place) -> str:
    """`routes[0].to[1]`."""
    out = ""
    for part in path:
        out += f"[{part}]" if isinstance(part, int) else f".{part}" if out else part
    return out


def nearest(word: str, options: Iterable[str], otherwise: str = "") -> str:
    """The hint with the nearest right word; with none near enough, all of them, if `otherwise` introduces them."""
    from difflib import get_close_matches  # only when something is wrong: it takes its time to import

    choices = {option.lower(): option for option in options}
    near = get_close_matches(word.lower(), choices, n=1)
    if near:
        return _meant(choices[near[0]])
    return f"{otherwise} {', '.join(choices.values())}" if otherwise and choices else ""


def _meant(word: str) -> str:
    return f"Did you mean '{word}'?"


def explain(error: ValidationError, model: type[BaseModel], data: object, at: Place = ()) -> list[Finding]:
    """pydantic's errors about `data`, which stands at `at`, in plain words.

    Of a value that is wrong as a whole and inside, the inside is told. What each member of a union refuses is one
    mistake, and so is a key that is missing because it is misspelt.
    """
    missing: dict[Place, str] = {}
    wrong: dict[Place, Finding] = {}
    for item in error.errors(include_url=False):
        if item["type"] == "missing":
            *parent, key = item["loc"]
            missing[(*at, *_in_data(parent, data), key)] = str(key)
            continue
        finding = _reworded(item, model, at + _in_data(item["loc"], data))
        before = wrong.get(finding.at)
        if before and finding.message != before.message:
            joined = f"{before.message}, or {finding.message.removeprefix('must be ')}"
            finding = Finding(finding.at, joined, before.hint or finding.hint)
        wrong[finding.at] = finding
    misspelt = {(*finding.at[:-1], finding.hint) for finding in wrong.values()}
    lacking = [
        Finding(place[:-1], f"the key '{key}' is missing")
        for place, key in missing.items()
        if (*place[:-1], _meant(key)) not in misspelt
    ]
    places = [*wrong, *missing]
    return lacking + [one for one in wrong.values() if not any(_below(place, one.at) for place in places)]


def _below(place: Place, other: Place) -> bool:
    return len(place) > len(other) and place[: len(other)] == other


def _in_data(loc: Sequence[str | int], data: Any) -> Place:
    """Where an error stands in the data: `loc` without the names of a union's members, which the data lacks."""
    place: list[str | int] = []
    for part in loc:
        if isinstance(data, Mapping):
            found = part in data
        else:
            found = isinstance(data, list) and isinstance(part, int) and part < len(data)
        if found:
            data = data[part]
            place.append(part)
    return tuple(place)


_WANTED = {  # how pydantic's error types begin: what they wanted, and whether the value given may be repeated
    "int_": ("a whole number", True),
    "float_": ("a number", True),
    "finite_number": ("a number", True),
    "bool_": ("true or false", True),
    "string_": ("text", False),
    "list_": ("a list", False),
    "tuple_": ("a list", False),
    "set_": ("a list", False),
    "frozen_set_": ("a list", False),
    "dict_": ("a set of keys", False),
    "model_": ("a set of keys", False),
    "dataclass_": ("a set of keys", False),
    "path_type": ("a path", False),
    "byte_size": ("a size such as '500 KiB' or '2 GiB'", True),
    "url_type": ("a URL", False),
    "ip_v4_address": ("an IPv4 address such as 192.168.1.20", True),
    "ip_v6_address": ("an IPv6 address such as fd00::20", True),
    "ip_any_address": ("an IP address such as 192.168.1.20", True),
    "ip_any_network": ("a network such as 192.168.1.0/24", True),
}
_LIMITS = {  # pydantic's error types, and the words for them
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "string_pattern_mismatch": "must have the form {pattern}",
    "too_short": "must have at least {min_length} of them, not {actual_length}",
    "too_long": "must have at most {max_length} of them, not {actual_length}",
    "url_parsing": "must be a URL",
    "url_scheme": "must be a URL that begins with {expected_schemes}",
    "path_not_file": "there is no such file",
    "path_not_directory": "there is no such folder",
}


def _reworded(item: Mapping[str, Any], model: type[BaseModel], at: Place) -> Finding:
    kind, loc, given, facts = item["type"], item["loc"], item["input"], item.get("ctx", {})
    if kind == "extra_forbidden":
        keys = [key for owner in _models(model, loc[:-1]) for key in _keys(owner)]
        return Finding(at, "there is no such key here", nearest(str(loc[-1]), keys, "The keys are"))
    if kind in ("value_error", "assertion_error"):
        cause = facts["error"]
        return Finding(at, str(cause).removesuffix("."), cause.hint if isinstance(cause, Wrong) else "")
    if kind in ("literal_error", "enum"):
        hint = nearest(given, re.findall("'([^']*)'", facts["expected"])) if isinstance(given, str) else ""
        return Finding(at, f"must be {facts['expected']}, not {_shown(given)}", hint)
    if kind in _LIMITS:
        return Finding(
            at, _LIMITS[kind].format(**{k: f"{v:g}" if isinstance(v, float) else v for k, v in facts.items()})
        )
    for start, (wanted, may_show) in _WANTED.items():
        if kind.startswith(start):
            hint = "Put it in quotes" if wanted == "text" and isinstance(given, bool | int | float) else ""
            return Finding(at, f"must be {wanted}{_but(given, may_show)}", hint)
    return Finding(at, item["msg"].removeprefix("Input ").removesuffix("."))


def _but(given: object, may_show: bool) -> str:
    if given is None:
        return ", but nothing is given"
    if may_show and isinstance(given, bool | int | float | str):
        return f", not {_shown(given)}"
    for kinds, word in _KINDS:
        if isinstance(given, kinds):
            return f", not {word}"
    return ""


_KINDS: tuple[tuple[type | UnionType, str], ...] = (
    (bool, "true or false"),
    (int | float, "a number"),
    (list | tuple, "a list"),
    (dict, "a set of keys"),
    (str, "text"),
)


def _shown(given: object) -> str:
    if isinstance(given, bool):
        return str(given).lower()
    return f"'{given[:40]}'" if isinstance(given, str) else str(given)[:40]


def _keys(model: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


def _models(annotation: Any, loc: Place) -> Iterator[type[BaseModel]]:
    """The models that pydantic's `loc` leads to from `annotation`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        if not loc:
            yield annotation
        for name, field in annotation.model_fields.items():
            if loc and loc[0] in (name, field.alias):
                yield from _models(field.annotation, loc[1:])
        return
    origin = get_origin(annotation)
    for inner in get_args(annotation):
        if origin in (Union, UnionType):
            yield from _models(inner, loc)
            yield from _models(inner, loc[1:])  # pydantic puts the member's name into `loc` where there are several
        elif origin is Annotated:
            yield from _models(inner, loc)
        elif loc:
            yield from _models(inner, loc[1:])
