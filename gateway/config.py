"""The configuration: YAML in, checked records out; every mistake at once, with file, line and what to do about it.

No file is a valid configuration, and so is an empty one. What is known of an integration's own keys is in its own
`Config`, which the loader brings; everything else that may be configured is on this page. What came from a secret or
the environment never appears in a message or in the hash.
"""

from __future__ import annotations

import fnmatch
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, Self, TypeVar
from urllib.parse import unquote, urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationError,
    WithJsonSchema,
    create_model,
    model_validator,
)

from gateway import rhythm, template
from gateway.api import TARGET_NAMES, ConfigPath, Duration, seconds
from gateway.care import Escalation, Rule
from gateway.hours import Hours, Times, hours, times, zone_of
from gateway.interpret.families import OWN
from gateway.loader import Loader, LoadError
from gateway.logs import Form
from gateway.problem import Document, Finding, Place, Problem, Wrong, dotted, explain, nearest
from gateway.redact import Redactor
from gateway.wire.event import KINDS, SEVERITIES, slug
from gateway.wire.topics import RESERVED_IDS

DEFAULT_INTEGRATIONS: dict[str, dict[str, Any]] = {"lan-mail": {"type": "smtp_server"}, "broker": {"type": "mqtt"}}
_OWN_SOURCES = ("sendmail", "mailwire")  # of what no integration brought: `mailwire sendmail`, and the gateway itself

_T = TypeVar("_T")

_SHORTEST_EXPECTED, _LONGEST_EXPECTED = 60.0, 366 * 86400.0


class ConfigErrors(Exception):
    """All that is wrong with a configuration; `str()` has one line for each."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


def _many(value: object) -> object:
    return value if isinstance(value, list | tuple) else () if value is None else (value,)


def _word_of(words: Sequence[str], what: str) -> AfterValidator:
    def check(word: str) -> str:
        if word not in words:
            raise Wrong(f"there is no {what} '{word}'", nearest(word, words, "There are"))
        return word

    return AfterValidator(check)


def _device_id(text: str) -> str:
    if not re.fullmatch("[a-z0-9_]{1,64}", text):
        better = slug(text)
        raise Wrong("a device's id has at most 64 of a-z, 0-9 and _", f"Did you mean '{better}'?" if better else "")
    if text in RESERVED_IDS:
        raise Wrong(f"the gateway itself uses the id '{text}'", "Choose another one")
    return text


def _web_address(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise Wrong("an address of the web begins with http:// or https://", "Write it as in 'http://192.168.1.20/'")
    return text


def _template(text: str) -> str:
    template.condition(text)
    return text


_ONE_OR_MANY = (
    BeforeValidator(_many),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
)
_Text = Annotated[str, Field(min_length=1)]
Patterns = Annotated[tuple[_Text, ...], *_ONE_OR_MANY]
"""One or several; `*` stands for any text and `?` for any character; letter case does not count."""


_AS_TEXT = WithJsonSchema({"type": "string"})
_AS_TEXTS = _ONE_OR_MANY[1]


def _written_as(parse: Callable[[Iterable[str]], _T]) -> Callable[[object], _T]:
    """Text, or a list of it, through one of `gateway.hours`."""

    def read(value: object) -> _T:
        texts = _many(value)
        if not isinstance(texts, list | tuple) or not texts or not all(isinstance(text, str) for text in texts):
            raise Wrong("must be text, or a list of it")
        try:
            return parse(texts)
        except ValueError as error:
            raise Wrong(*_sentence(str(error))) from None

    return read


def _sentence(text: str) -> tuple[str, str]:
    """`what; hint` as its two parts."""
    what, _, hint = text.partition("; ")
    return what, hint[:1].upper() + hint[1:]


def _count_per_time(value: object) -> tuple[int, float]:
    match = (
        re.fullmatch(r"([1-9]\d{0,3}) *(?:per|in|/) *(.+)", value.strip().lower()) if isinstance(value, str) else None
    )
    try:
        if match:
            return int(match[1]), float(str(seconds(re.sub(r"^(?!\d)", "1 ", match[2]))))
    except ValueError:
        pass
    raise Wrong("must say how many in which time", "Write it as in '5 per hour' or '3 per 10 min'")


def _zone(text: str) -> str:
    try:
        zone_of(text)
    except ValueError as error:
        raise Wrong(*_sentence(str(error))) from None
    return text


def _expectation(value: object) -> object:
    if isinstance(value, bool) or value in ("on", "off"):
        return value in (True, "on")
    try:
        period = float(str(seconds(value)))
    except ValueError:
        try:
            return rhythm.of_text(str(value))
        except ValueError:
            raise Wrong(
                "must say how often a report is expected",
                "Write it as in 'daily 02:10', 'mon-fri 08:00', 'weekly' or '6 h', or false to expect none",
            ) from None
    if not _SHORTEST_EXPECTED <= period <= _LONGEST_EXPECTED:
        raise Wrong("must be a time from a minute to a year", "Write false to expect none")
    return rhythm.every(period)


_Hours = Annotated[Hours, BeforeValidator(_written_as(hours)), _AS_TEXTS]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, arbitrary_types_allowed=True)


class _Patterned(_Model):
    """A model some of whose keys are patterns."""

    def patterns(self) -> dict[str, tuple[str, ...]]:
        """key -> what was given for it, in small letters, for `fnmatch` (to which `[` must mean itself)."""
        fields = {field.alias or name: getattr(self, name) for name, field in type(self).model_fields.items()}
        return {
            key: tuple(glob.lower().replace("[", "[[]") for glob in globs)
            for key, globs in fields.items()
            if isinstance(globs, tuple) and globs
        }


class Match(_Patterned):
    """What a device's mails have in common; all keys that are given must match."""

    from_: Patterns = Field(default=(), alias="from")
    helo: Patterns = ()
    peer: Patterns = ()
    to: Patterns = ()
    subject: Patterns = ()
    serial: Patterns = ()


class DeviceSetting(_Model):
    """A name and overrides for one device."""

    match: Match = Match()
    name: _Text | None = None
    profile: _Text | None = None
    manufacturer: _Text | None = None
    model: _Text | None = None
    off_after: Duration | None = None
    """After so many seconds an `on` ends by itself; 0: never. None: as its profile says, else by its kind."""
    url: Annotated[str, AfterValidator(_web_address)] | None = None
    """Where the device is configured. None: at the address that it sends from."""
    expect: Annotated[
        rhythm.Rhythm | bool,
        BeforeValidator(_expectation),
        WithJsonSchema({"type": ["boolean", "number", "string"], "description": "'daily 02:10', '6 h', … or false"}),
    ] = True
    """How often it is to report; True: as it is learned to do, False: nothing is missed."""

    def patterns(self) -> dict[str, tuple[str, ...]]:
        return self.match.patterns()


class Condition(_Patterned):
    """What a route asks of an event; all keys that are given must hold. `severity: warning` means just that one."""

    device: Patterns = ()
    kind: Annotated[tuple[Annotated[str, _word_of(KINDS, "kind of event")], ...], *_ONE_OR_MANY] = ()
    severity: Annotated[tuple[Annotated[str, _word_of(SEVERITIES, "severity")], ...], *_ONE_OR_MANY] = ()
    source: Patterns = ()
    to: Patterns = ()
    from_: Patterns = Field(default=(), alias="from")
    subject: Patterns = ()
    template: Annotated[str, AfterValidator(_template)] | None = None


class EscalateSetting(_Model):
    """Who else is told of what nobody acknowledged `after` so long; `times` in all, `every` so often."""

    after: Duration
    to: Annotated[Patterns, Field(min_length=1)]
    every: Duration = 900
    times: Annotated[int, Field(ge=1)] = 1


class RouteSetting(_Model):
    """Where the events go that meet a condition, and how often and when those there are told (`gateway.care`).

    `to: []` with `stop` keeps them from going anywhere.
    """

    name: _Text | None = None
    condition: Condition | None = Field(default=None, alias="if")
    to: Patterns = ()
    stop: bool = False
    expire: Duration | None = None
    repeat: Annotated[Duration, Field(gt=0)] | None = None
    """The same is told once in so many seconds."""
    at_most: Annotated[tuple[int, float], BeforeValidator(_count_per_time), _AS_TEXT] | None = None
    quiet: _Hours | None = None
    only: _Hours | None = None
    digest: Annotated[Times, BeforeValidator(_written_as(times)), _AS_TEXTS] | None = None
    urgent: Annotated[tuple[Annotated[str, _word_of(SEVERITIES, "severity")], ...], *_ONE_OR_MANY] = ()
    """Severities that no hours, digest or `at_most` hold back."""
    escalate: EscalateSetting | None = None
    _rule: Rule | None = PrivateAttr(None)

    def model_post_init(self, _: Any) -> None:
        asked = {key: getattr(self, key) for key in ("repeat", "at_most", "quiet", "only", "digest", "escalate")}
        if any(value is not None for value in asked.values()):
            escalate = Escalation(**self.escalate.model_dump()) if self.escalate else None
            self._rule = Rule(**asked | {"repeat": self.repeat or 0, "urgent": self.urgent, "escalate": escalate})

    @property
    def rule(self) -> Rule | None:
        """The care that is taken; None: everything is told at once."""
        return self._rule

    @model_validator(mode="after")
    def _does_something(self) -> Self:
        if not self.to and not self.stop:
            raise Wrong("this route does nothing", "Say where to, or 'stop: true' to keep events from the routes below")
        return self


class StoreSettings(_Model):
    """Where mails are kept, and for how long."""

    data: ConfigPath | None = None
    """The data folder; None: the platform's."""
    keep_days: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 30
    keep_size: Annotated[ByteSize, Field(gt=0)] = ByteSize(2 * 1024**3)
    reserve: Annotated[ByteSize, Field(ge=0)] = ByteSize(64 * 1024**2)
    """Free disk space that is never filled."""


class LearnSettings(_Model):
    """How many devices are learned from their mails, in all and of one peer, and how long a silent one is kept."""

    limit: Annotated[int, Field(ge=0)] = 1000
    per_peer: Annotated[int, Field(ge=0)] = 200
    forget_days: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 90


@dataclass(frozen=True)
class IntegrationSetting:
    """One integration of the configuration. Where it stands does not count in a comparison of two of them."""

    type: str
    config: BaseModel
    file: str = field(default="", compare=False)
    line: int | None = field(default=None, compare=False)


class Settings(_Model):
    """A configuration without a mistake."""

    integrations: dict[str, IntegrationSetting] = {}
    devices: dict[Annotated[str, AfterValidator(_device_id)], DeviceSetting] = {}
    routes: tuple[RouteSetting, ...] = ()
    store: StoreSettings = StoreSettings()
    learn: LearnSettings = LearnSettings()
    timezone: Annotated[str, AfterValidator(_zone)] | None = None
    """Of the hours in routes, as in `Europe/Berlin`; None: the machine's."""
    duplicates: Duration = 60
    """An equal event of a device within so many seconds is not told again; 0: it is."""
    log: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Form = "auto"
    """auto: text on a terminal and in systemd's journal, JSON elsewhere."""
    _hash: str = PrivateAttr("")
    _redactor: Redactor = PrivateAttr(default_factory=lambda: Redactor(()))

    def model_post_init(self, context: Any) -> None:
        configs = [setting.config.model_dump() for setting in self.integrations.values()]
        self._redactor = Redactor({*(context["secrets"] if context else ()), *_passwords(configs)})
        facts = self.model_dump(exclude={"integrations"})
        for name, setting in self.integrations.items():
            facts[f"integrations.{name}"] = [setting.type, setting.config.model_dump()]
        hide = context["hide"] if context else str
        self._hash = hashlib.sha256(repr(_leaves(facts, hide)).encode()).hexdigest()[:12]

    def hash(self) -> str:
        """12 hexadecimal digits that change when the effective configuration does, secrets and passwords apart."""
        return self._hash

    def hide(self, text: str) -> str:
        """The text without this configuration's secrets and passwords. See `gateway.redact`."""
        return self._redactor.hide(text)


def _passwords(value: Any) -> Iterator[str]:
    """Those that are marked as such, and those in URLs, as they are written and as they are meant."""
    if isinstance(value, SecretStr):
        yield value.get_secret_value()
    elif isinstance(value, str):
        for written in re.findall(r"://[^/@\s:]*:([^/@\s]+)@", value):
            yield from (written, unquote(written))
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _passwords(item)
    elif isinstance(value, list | tuple | set | frozenset):
        for item in value:
            yield from _passwords(item)


def _leaves(value: Any, hide: Callable[[str], str]) -> Any:
    if isinstance(value, dict):
        return sorted((str(key), _leaves(item, hide)) for key, item in value.items())
    if isinstance(value, set | frozenset):
        return sorted(hide(str(item)) for item in value)
    return [_leaves(item, hide) for item in value] if isinstance(value, list | tuple) else hide(str(value))


def load(path: Path | None, *, loader: Loader) -> Settings:
    """Read and check a configuration; None: the defaults. Raises ConfigErrors."""
    document = Document("")
    if path:
        from gateway import yaml  # only now: most gateways have no file, and it takes its time to import

        document = yaml.read(path)
        document.problems += _profiles(path.parent / OWN)
    data = {} if document.data is None else document.data
    if not isinstance(data, dict):
        _refuse(document, [Finding((), "a configuration is a set of keys", "Begin with 'integrations:'")])
    raw = {"integrations": DEFAULT_INTEGRATIONS} | {key: value for key, value in data.items() if value is not None}
    secrets = document.secrets.values()
    context = {
        "folder": path.parent if path else Path(),
        "hide": document.hide,
        "secrets": secrets,
        "template": template.text,
    }
    integrations, findings = _integrations(raw, document, loader, context)
    if document.is_known(("integrations",)):
        findings += _routes(raw, loader, integrations)
    try:
        settings = Settings.model_validate(raw | {"integrations": integrations}, context=context)
    except ValidationError as error:
        _refuse(document, findings + explain(error, Settings, raw))
    if findings or document.problems:
        _refuse(document, findings)
    return settings


def _profiles(folder: Path) -> list[Problem]:
    """What is wrong with the user's own profiles."""
    if not folder.is_dir():
        return []
    from gateway.profile import check_folder  # only now: most have none

    return check_folder(folder)


def _refuse(document: Document, findings: list[Finding]) -> NoReturn:
    """Raise what was found; but nothing about a value that could not be read in the first place."""
    problems = document.problems + [
        Problem(
            *document.mark(found.at),
            dotted(found.at),
            *(document.hide(t, found.at) for t in (found.message, found.hint)),
        )
        for found in findings
        if document.is_known(found.at)
    ]
    raise ConfigErrors(sorted(problems, key=lambda one: (one.file != document.file, one.file, one.line or 0)))


def _integrations(
    raw: dict[str, Any], document: Document, loader: Loader, context: dict[str, Any]
) -> tuple[dict[str, IntegrationSetting], list[Finding]]:
    good: dict[str, IntegrationSetting] = {}
    findings: list[Finding] = []
    if not isinstance(raw["integrations"], dict):
        return {}, [Finding(("integrations",), "must be a set of keys", "Write 'name: {type: ...}', one a line")]
    for name, entry in raw["integrations"].items():
        at = ("integrations", name)
        if not re.fullmatch("[A-Za-z0-9_-]{1,64}", name):
            findings.append(Finding(at, "an integration's name has at most 64 letters, digits, '-' and '_'"))
        if not isinstance(entry, dict):
            kind = entry if isinstance(entry, str) else "..."
            findings.append(Finding(at, "must be a set of keys", f"Write '{name}: {{type: {kind}}}'"))
            continue
        if not isinstance(entry.get("type"), str):
            hint = f"There are {', '.join(loader.domains())}"
            findings.append(
                Finding((*at, "type") if "type" in entry else at, "the key 'type' must say what it is", hint)
            )
            continue
        keys = {key: value for key, value in entry.items() if key != "type"}
        try:
            config = loader.load(entry["type"]).config_model.model_validate(keys, context=context)
            good[name] = IntegrationSetting(entry["type"], config, *document.mark(at))
        except LoadError as error:
            findings.append(Finding((*at, "type"), str(error), error.hint))
        except ValidationError as error:
            findings += explain(error, loader.load(entry["type"]).config_model, keys, at)
        except Exception as error:  # noqa: BLE001  # a fault in an integration's checks is told like any other
            findings.append(Finding(at, f"could not be checked: {type(error).__name__}: {error}"))
    return good, findings


def _routes(raw: Mapping[str, Any], loader: Loader, checked: Mapping[str, IntegrationSetting]) -> Iterator[Finding]:
    """Names of integrations in routes and in integrations. Whatever else may be wrong there, pydantic tells."""
    integrations = raw["integrations"] if isinstance(raw["integrations"], dict) else {}
    kinds = {name: _provides(entry, loader) for name, entry in integrations.items()}
    targets = [name for name, provides in kinds.items() if "target" in provides]
    told = [one for name, setting in checked.items() for one in _told(setting.config, ("integrations", name))]
    routes = raw.get("routes")
    for number, route in enumerate(routes if isinstance(routes, list) else ()):
        at = ("routes", number)
        escalate = route.get("escalate") if isinstance(route, dict) else None
        told += [*_names(route, "to", at), *_names(escalate, "to", (*at, "escalate"))]
        for place, name in _names(route.get("if") if isinstance(route, dict) else None, "source", (*at, "if")):
            if not fnmatch.filter([*kinds, *_OWN_SOURCES], name):
                yield Finding(place, f"there is no integration named '{name}'", nearest(name, kinds, "There are"))
    for place, name in told:
        if name not in kinds:
            yield Finding(place, f"there is no integration named '{name}'", nearest(name, targets, "Targets are"))
        elif "target" not in kinds[name]:
            hint = nearest("", targets, "Targets are")
            yield Finding(place, f"nothing can be sent to '{name}', which is a {kinds[name][0]}", hint)


def _told(value: Any, at: Place) -> Iterator[tuple[Place, str]]:
    """The names of targets in an integration's configuration (`api.TargetNames`), wherever they stand in it."""
    if isinstance(value, BaseModel):
        for key, about in type(value).model_fields.items():
            inner, place = getattr(value, key), (*at, about.alias or key)
            if TARGET_NAMES in about.metadata:
                yield from (((*place, number), name) for number, name in enumerate(inner))
            else:
                yield from _told(inner, place)
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _told(inner, (*at, str(key)))
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from _told(inner, (*at, number))


def _names(entry: Any, key: str, at: Place) -> Iterator[tuple[Place, str]]:
    value = entry.get(key) if isinstance(entry, dict) else None
    if isinstance(value, str):
        yield (*at, key), value
    for number, item in enumerate(value if isinstance(value, list) else ()):
        if isinstance(item, str):
            yield (*at, key, number), item


def _provides(entry: Any, loader: Loader) -> tuple[str, ...]:
    """What an integration provides; of one that is wrong itself, everything: one complaint is enough."""
    try:
        return loader.find(entry["type"]).manifest.provides
    except (LoadError, LookupError, TypeError):
        return ("source", "target")


def json_schema(loader: Loader) -> dict[str, Any]:
    """The JSON Schema of a configuration with the integrations there are, for editors. Imports them all."""
    members = []
    for domain in loader.manifests():
        kind: Any = Literal[domain]
        base = loader.load(domain, installed=False).config_model
        members.append(create_model(domain, __base__=base, type=(kind, ...)))
    one: Any = Annotated[reduce(or_, members), Field(discriminator="type")]
    return create_model("Mailwire", __base__=Settings, integrations=(dict[str, one], {})).model_json_schema()
