"""Format `lines`: equipment that just prints, and equipment that is printed on.

In: each line is held against the patterns, in order; the first that is found in it makes the event. Its named groups
are fields of the event (`kind`, `state`, `severity`, `title`, `text`, `device`), and all other names are its `data`.
What the pattern's own settings say of a field comes first. Without any patterns every line is an event of kind
`report`.
Out: a template makes the text, which is brought to the charset, the width and the line end of what reads it. What an
event fills in can hold no control character: a mail must not steer a printer.
"""

from __future__ import annotations

import codecs
import contextlib
import re
import textwrap
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from gateway.api import ConfigModel, Context, Duration, Event, Refused, patterns, template_check, words
from gateway.integrations.serial.noise import Noise

Filled = Annotated[str, template_check("line")]

FIELDS = ("kind", "state", "severity", "title", "text", "device")
# Letters and signs that Unicode takes for whole, as people spell them where they lack them.
_SPELLED = {
    "ß": "ss", "æ": "ae", "Æ": "AE", "œ": "oe", "Œ": "OE", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L", "đ": "d", "Đ": "D",
    "°": "", "€": "EUR", "µ": "u", "\u2013": "-", "\u2014": "-", "\u2018": "'", "\u2019": "'", "\u201c": '"',
    "\u201d": '"', "\u201e": '"', "\u2022": "*",
}  # fmt: skip
_NUMBER = re.compile(r"[-+]?(0|[1-9]\d{0,14})(\.\d{1,15})?")
_ON = ("on", "1", "true", "yes", "high", "open", "active", "alarm")
_OFF = ("off", "0", "false", "no", "low", "closed", "close", "inactive", "ok", "normal")
_LONGEST_LINE = 4096  # octets that may come without a line end


class Pattern(ConfigModel):
    """One way in which a line may read, and the event that it means."""

    pattern: str = Field(description="A regular expression; its named groups are fields of the event, or its data")
    kind: Filled | None = None
    state: Filled | None = None
    severity: Filled | None = None
    title: Filled | None = None
    text: Filled | None = None
    device: Filled | None = Field(default=None, description="The device's id")
    ignore: bool = Field(default=False, description="Such a line means nothing")

    @field_validator("kind", "state", "severity")
    @classmethod
    def _is_a_word(cls, value: str | None, info: ValidationInfo) -> str | None:
        known = {"kind": words.KINDS, "state": words.STATES, "severity": words.SEVERITIES}[info.field_name or ""]
        if value is not None and "{" not in value and value not in known:
            raise ValueError(f"there is no {info.field_name} '{value}'; there are {', '.join(known)}")
        return value

    @field_validator("pattern")
    @classmethod
    def _is_bounded(cls, value: str) -> str:
        patterns.compiled(value)
        return value


class Settings(ConfigModel):
    """How lines are read and written."""

    charset: str = Field(default="utf-8", description="Such as ascii, latin-1, cp437, cp850, cp1252")
    line_end: str = Field(default="\n", min_length=1, max_length=16, description="What ends a line that is written")
    read: tuple[Pattern, ...] = Field(default=(), description="Patterns of lines, and the events they mean")
    write: Annotated[str, template_check()] | None = Field(
        default=None, description="What is written of an event; a blank one is not written"
    )
    expect: str | None = Field(
        default=None, description="A regular expression of what the other side answers to what it has taken"
    )
    expect_within: Duration = Field(default=5.0, gt=0, le=600, description="Seconds that it has for its answer")
    width: int | None = Field(default=None, ge=1, le=1000, description="Characters that fit on a line")
    too_long: Literal["cut", "wrap"] = Field(default="cut", description="What is done with more than that")

    @field_validator("expect")
    @classmethod
    def _is_bounded(cls, value: str | None) -> str | None:
        if value is not None:
            patterns.compiled(value)
        return value

    @field_validator("charset")
    @classmethod
    def _known(cls, value: str) -> str:
        try:
            # As it is used: `idna` knows no replacing, and with `unicode_escape` a line would never end.
            if codecs.lookup(value).encode("a\n", "replace")[0] != b"a\n":
                raise LookupError
        except (LookupError, TypeError, UnicodeError, AssertionError):
            raise ValueError("this is no charset of a serial line; write ascii, latin-1, cp437 or utf-8, say") from None
        return value


class Reader:
    """Bytes in, drafts of events out. `answered` is called for each line that is an answer to what was written."""

    def __init__(
        self, context: Context, noise: Noise, settings: Settings, answered: Callable[[], None] = lambda: None
    ) -> None:
        self._noise = noise
        self._answered = answered
        self._answer = patterns.compiled(settings.expect) if settings.expect is not None else None
        self._charset = settings.charset
        self._patterns = [(patterns.compiled(one.pattern), one, _templates(context, one)) for one in settings.read]
        ends = {"\r\n", "\n", "\r", settings.line_end}
        encoded = sorted((re.escape(end.encode(self._charset, "replace")) for end in ends), key=len, reverse=True)
        self._end = re.compile(b"|".join(encoded))
        self._kept = b""
        self._skipping = False  # the rest of a line that was too long

    def came(self, data: bytes) -> Iterator[dict[str, Any]]:
        """What these bytes complete."""
        *lines, self._kept = self._end.split(self._kept + data)
        too_long = len(self._kept) > _LONGEST_LINE
        if too_long:
            lines.append(self._kept)
            self._kept = b""
        for line in lines:
            skipping, self._skipping = self._skipping, False
            if not skipping and (draft := self.draft(line.decode(self._charset, "replace"))):
                yield draft
        self._skipping |= too_long

    def lost(self) -> None:
        """The port was lost: half a line is none."""
        self._kept = b""
        self._skipping = False

    def draft(self, line: str) -> dict[str, Any] | None:
        """The event that a line means; None for a blank one, and for one that is no event."""
        line = "".join(letter if letter.isprintable() else " " for letter in line).strip()
        if not line:
            return None
        if self._answer and self._answer.search(line[: patterns.LONGEST]):
            self._answered()
            return None
        if not self._patterns:
            return {"kind": "report", "title": line, "text": line}
        for pattern, settings, templates in self._patterns:
            if found := pattern.search(line[: patterns.LONGEST]):
                return None if settings.ignore else _event(line, found, templates)
        self._noise.heard(line)
        return None


def _templates(context: Context, one: Pattern) -> dict[str, Any]:
    """The fields that a pattern's settings say."""
    told = {field: getattr(one, field) for field in FIELDS}
    return {field: context.gateway.template(text, more=("line",)) for field, text in told.items() if text is not None}


def _event(line: str, found: re.Match[str], templates: Mapping[str, Any]) -> dict[str, Any]:
    draft: dict[str, Any] = {"title": line, "text": line}
    data: dict[str, Any] = {}
    for name, value in found.groupdict().items():
        if value is None:
            continue
        if name in FIELDS:
            draft[name] = value
        else:
            data[name.removeprefix("data_")] = _number(value)
    draft["data"] = data
    for field, template in templates.items():
        draft[field] = template({**draft, "line": line}).strip()
    if "state" in draft:
        draft["state"] = _state(draft["state"])
    for field in ("kind", "severity"):
        if field in draft:
            draft[field] = draft[field].strip().lower()
    return draft


def _state(said: str) -> str | None:
    word = said.strip().lower()
    return "on" if word in _ON else "off" if word in _OFF else None


def _number(text: str) -> str | int | float:
    if not _NUMBER.fullmatch(text):
        return text
    return float(text) if "." in text else int(text)


class Writer:
    """Events in, bytes out."""

    def __init__(self, context: Context, settings: Settings) -> None:
        self._settings = settings
        self._template = context.gateway.template(settings.write) if settings.write is not None else None

    def written(self, event: Event) -> bytes:
        """What is to be written of it; nothing, if the template leaves nothing."""
        if self._template is None:
            raise Refused("there is nothing to write of it: this line has no 'write' in its configuration")
        try:
            text = self._template(_without_controls(event))
        except ValueError as error:
            raise Refused(str(error)) from error
        lines = _spelled(text.removesuffix("\n"), self._settings.charset).split("\n")
        if not any(line.strip() for line in lines):
            return b""
        end = self._settings.line_end
        return b"".join((line + end).encode(self._settings.charset, "replace") for line in self._fitted(lines))

    def _fitted(self, lines: list[str]) -> Iterator[str]:
        width = self._settings.width
        for line in lines:
            if width is None or len(line) <= width:
                yield line
            elif self._settings.too_long == "cut":
                yield line[:width]
            else:
                yield from textwrap.wrap(line, width, break_on_hyphens=False) or [""]


def _without_controls(value: Any) -> Any:
    """With a blank for each control character but line ends."""
    if isinstance(value, str):
        if value.isprintable():
            return value
        value = value.replace("\r\n", "\n").replace("\r", "\n")
        return "".join(" " if unicodedata.category(one) == "Cc" and one != "\n" else one for one in value)
    if isinstance(value, Mapping):
        return {key: _without_controls(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_controls(item) for item in value]
    return value


def _spelled(text: str, charset: str) -> str:
    """With letters that the charset has: others become what they are made of (`ü`: `u`), or a question mark."""
    try:
        text.encode(charset)
    except UnicodeEncodeError:
        return "".join(_letter(letter, charset) for letter in text)
    return text


def _letter(letter: str, charset: str) -> str:
    bare = "".join(one for one in unicodedata.normalize("NFKD", letter) if not unicodedata.combining(one))
    bare = bare.replace("\u2044", "/")  # of ½
    for form in (letter, _SPELLED.get(letter, bare)):
        with contextlib.suppress(UnicodeEncodeError):
            form.encode(charset)
            return form
    return "?"
