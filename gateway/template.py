"""Conditions that a person writes in Jinja, with bounded work. The only file that imports jinja2, and only when asked.

A mail must never cost more than its own size, whatever a condition does with it. So a condition is one expression:
no statement, no loop, no macro, no global function. It is at most 1000 characters long, it may only use the filters,
tests and methods listed here (each of them takes a time in proportion to the text that it is given), and arithmetic is
refused where its result would be large. jinja2's own sandbox does not do that: `'x' * 10**9` and `'%999999999d' % 1`
cost a gigabyte in it.

What an event lacks is false and no error: `mail.subject` of an event that was no mail, `data.channel` of one without.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from gateway.problem import Wrong, nearest

if TYPE_CHECKING:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

log = logging.getLogger(__name__)

MAX_LENGTH = 1000
NAMES = (
    "id", "time", "source", "device", "kind", "state", "severity", "title", "text", "data", "attachments", "mail",
)  # fmt: skip
"""The keys of an event (DESIGN §4.1) that a condition can use."""
_FILTERS = (
    "abs", "capitalize", "count", "d", "default", "first", "float", "int", "last", "length", "lower", "string",
    "trim", "upper",
)  # fmt: skip
_TESTS = (
    "!=", "<", "<=", "==", ">", ">=", "boolean", "defined", "divisibleby", "eq", "equalto", "even", "false", "float",
    "ge", "greaterthan", "gt", "in", "integer", "le", "lessthan", "lower", "lt", "mapping", "ne", "none", "number",
    "odd", "sequence", "string", "true", "undefined", "upper",
)  # fmt: skip
_TEXT_METHODS = (
    "casefold", "count", "endswith", "find", "isalnum", "isalpha", "isdigit", "isspace", "lower", "lstrip",
    "removeprefix", "removesuffix", "rfind", "rstrip", "split", "splitlines", "startswith", "strip", "upper",
)  # fmt: skip
_METHODS = (*_TEXT_METHODS, "get")
_MAX_PRODUCT = 10_000  # characters or items
_MAX_BASE, _MAX_EXPONENT = 1000, 6


class TemplateError(Wrong):
    """This is no condition that can be used."""


class Condition:
    """A test of an event, made by `condition`. One that fails while it runs is false, and says so once in the log."""

    def __init__(self, text: str, expression: Any) -> None:
        self._text = text
        self._expression = expression
        self._told: set[str] = set()

    def __call__(self, event: Mapping[str, Any]) -> bool:
        holds, reason = self.judge(event)
        if reason and reason not in self._told and len(self._told) < 10:
            self._told.add(reason)
            log.warning("the condition %r failed and counts as false: %s", self._text, reason)
        return holds

    def judge(self, event: Mapping[str, Any]) -> tuple[bool, str | None]:
        """Whether it holds; and if it failed, the reason, in words."""
        try:
            return bool(self._expression(event)), None
        except Exception as error:  # noqa: BLE001  # any failure of what a person wrote is an answer: no
            return False, f"{type(error).__name__}: {error}"


def condition(text: str) -> Condition:
    """Compile a condition, with or without `{{ }}` around it. Raises TemplateError."""
    inner = text.strip()
    if inner.startswith("{{") and inner.endswith("}}"):
        inner = inner[2:-2].strip()
    if not inner:
        raise TemplateError("this condition is empty", "Write an expression, such as kind == 'motion'")
    if len(inner) > MAX_LENGTH:
        raise TemplateError(f"this condition has {len(inner)} characters, more than {MAX_LENGTH}", "Use several routes")
    return Condition(text, _compile(inner))


def _compile(text: str) -> Any:
    from jinja2 import TemplateSyntaxError, nodes

    environment = _environment()
    try:
        expression = environment.compile_expression(text)
        tree = environment.parse("{{" + text + "}}")
    except TemplateSyntaxError as error:
        raise _syntax(str(error.message)) from None
    except (SyntaxError, RecursionError, MemoryError):  # so says Python's own compiler
        raise TemplateError("this condition is nested too deeply", "Use several routes") from None
    for used in tree.find_all(nodes.Name):
        if used.name not in NAMES:
            raise TemplateError(f"an event has no '{used.name}'", nearest(used.name, NAMES, "It has"))
    for call in tree.find_all(nodes.Call):
        method = call.node.attr if isinstance(call.node, nodes.Getattr) else ""
        if method not in _METHODS:
            hint = nearest(method, _METHODS, "There are")
            raise TemplateError(
                f"there is no method '{method}' in a condition" if method else "only methods can be called", hint
            )
    return expression


def _syntax(said: str) -> TemplateError:
    said = {"unexpected 'end of template'": "it ends too early"}.get(said, said.removesuffix("."))
    if said.startswith("No filter named"):
        hint = f"The filters are {', '.join(_FILTERS)}"
    elif said.startswith("No test named"):
        hint = f"The tests are {', '.join(name for name in _TESTS if name.isalpha())}"
    else:
        hint = "A condition is one expression, such as kind == 'motion'"
    return TemplateError(f"this condition can't be understood: {said}", hint)


@cache
def _environment() -> ImmutableSandboxedEnvironment:
    from jinja2 import ChainableUndefined, Undefined
    from jinja2.exceptions import SecurityError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Missing(ChainableUndefined):
        """What an event lacks, and what is null in it: equal to none, false in every other comparison."""

        def __eq__(self, other: object) -> bool:
            return other is None or isinstance(other, Undefined)

        def __ne__(self, other: object) -> bool:
            return not self == other

        def __hash__(self) -> int:
            return hash(None)

    for names, answer in (
        ("lt le gt ge", lambda missing, other: False),
        ("add radd sub rsub truediv rtruediv floordiv rfloordiv", lambda missing, other: missing),
        ("neg pos abs", lambda missing: missing),
        ("call", lambda missing, *given, **named: missing),
        ("int", lambda missing: 0),
        ("float", lambda missing: 0.0),
    ):
        for name in names.split():
            setattr(Missing, f"__{name}__", answer)

    class Bounded(ImmutableSandboxedEnvironment):
        intercepted_binops = frozenset(("*", "**", "%"))

        def getattr(self, obj: Any, attribute: str) -> Any:
            if isinstance(obj, str) and attribute in _TEXT_METHODS:
                return getattr(obj, attribute)
            if isinstance(obj, Mapping) and attribute == "get" and attribute not in obj:
                return obj.get
            return self.getitem(obj, attribute)

        def getitem(self, obj: Any, argument: Any) -> Any:
            try:
                value = obj[argument]
            except (TypeError, LookupError):
                value = None
            return self.undefined(name=str(argument)) if value is None else value

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            if isinstance(left, Undefined) or isinstance(right, Undefined):
                return self.undefined()
            numbers = isinstance(left, int | float) and isinstance(right, int | float)
            if operator == "%" and not numbers:
                raise SecurityError("'%' is for numbers")
            if operator == "*" and not numbers and _length(left) * _length(right) > _MAX_PRODUCT:
                raise SecurityError("this product would be too long")
            if operator == "**" and not (abs(left) <= _MAX_BASE and abs(right) <= _MAX_EXPONENT):
                raise SecurityError("this power would be too large")
            return self.binop_table[operator](left, right)

    environment = Bounded(undefined=Missing, optimized=False)  # nothing is worked out before it is asked for
    environment.globals.clear()
    environment.filters = {name: environment.filters[name] for name in _FILTERS}
    environment.tests = {name: environment.tests[name] for name in _TESTS}
    environment.tests["none"] = lambda value: value is None or isinstance(value, Undefined)
    return environment


def _length(factor: Any) -> int:
    """How many times the other factor a factor of a product is; of what can't be a factor, its own length."""
    return abs(factor) if isinstance(factor, int) else len(factor)
