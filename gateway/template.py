"""Conditions that a person writes in Jinja, with bounded work. The only file that imports jinja2, and only when asked.

A mail must never cost more than its own size, whatever a condition does with it. So a condition is one expression:
no statement, no loop, no macro, no global function. It is at most 1000 characters long, it may only use the filters,
tests and methods listed here (each of them takes a time in proportion to the text that it is given, and gives back
hardly more than it took), and arithmetic is refused where its result would be large. jinja2's own sandbox does not
do that: `'x' * 10**9` and `'%999999999d' % 1` cost a gigabyte in it.

What an event lacks is false and no error: `mail.subject` of an event that was no mail, `data.channel` of one without.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from gateway.problem import nearest

if TYPE_CHECKING:
    from jinja2.runtime import Context, Undefined
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
_MAX_NUMBER = 10**18
_MAX_TEXT = 10_000  # characters, of a product


class TemplateError(ValueError):
    """This is no condition that can be used; `hint` says what to do about it."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


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
            return bool(self._expression({name: event[name] for name in NAMES})), None
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
    if "{%" in inner or "{{" in inner or "{#" in inner:
        raise TemplateError("a condition is one expression", "Write it without '{%', '{#' and inner '{{'")
    return Condition(text, _compile(inner))


def _compile(text: str) -> Any:
    from jinja2 import TemplateSyntaxError, nodes
    from jinja2.meta import find_undeclared_variables
    from jinja2.parser import Parser

    environment = _environment()
    try:
        expression = environment.compile_expression(text)
        parser = Parser(environment, text, state="variable")
        used = find_undeclared_variables(nodes.Template([nodes.Output([parser.parse_expression()], lineno=1)], lineno=1))
    except TemplateSyntaxError as error:
        raise TemplateError(f"this condition can't be understood: {error.message}") from None
    except (SyntaxError, RecursionError, MemoryError):  # from Python's own compiler
        raise TemplateError("this condition is nested too deeply", "Use several routes") from None
    for name in sorted(used.difference(NAMES)):
        raise TemplateError(f"an event has no '{name}'", nearest(name, NAMES, "It has"))
    return expression
