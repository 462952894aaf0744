"""Conditions and texts that a person writes in Jinja, with bounded work. The only file that imports jinja2, when asked.

A mail must never cost more than its own size, whatever a template does with it. So a condition is one expression:
no statement, no loop, no macro, no global function. It is at most 1000 characters long, it may only use the filters,
tests and methods listed here (each of them takes a time in proportion to the text that it is given), and arithmetic is
refused where its result would be large. jinja2's own sandbox does not do that: `'x' * 10**9` and `'%999999999d' % 1`
cost a gigabyte in it. A text (of a mail, say) may have `if`, and `for` over the few short lists of an event, one
inside no other, besides; and it ends where it becomes too long.

What an event lacks is false and no error: `mail.subject` of an event that was no mail, `data.channel` of one without.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

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
_METHODS = (*_TEXT_METHODS, "get", "items")
_MAX_PRODUCT = 10_000  # characters or items
_MAX_BASE, _MAX_EXPONENT = 1000, 6

MAX_TEXT_LENGTH = 20_000
"""Characters of a text's template."""
MAX_OUTPUT = 256 * 1024
"""Characters of what is made of it."""
_STATEMENTS = (
    "Output", "TemplateData", "If", "For", "Name", "Const", "Tuple", "List", "Getattr", "Getitem", "Slice", "Call",
    "Filter", "Test", "Compare", "Operand", "CondExpr", "Concat", "And", "Or", "Not", "Neg", "Pos", "Add", "Sub", "Mul",
    "Div", "FloorDiv", "Mod", "Pow",
)  # fmt: skip
_LOOPS = "attachments", "data", "data.items()", "mail.to"


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
    from jinja2 import TemplateSyntaxError

    environment = _environment("condition")
    try:
        expression = environment.compile_expression(text)
        tree = environment.parse("{{" + text + "}}")
    except TemplateSyntaxError as error:
        raise _syntax(
            str(error.message), "condition", "A condition is one expression, such as kind == 'motion'"
        ) from None
    except (SyntaxError, RecursionError, MemoryError):  # so says Python's own compiler
        raise TemplateError("this condition is nested too deeply", "Use several routes") from None
    _check(tree, NAMES, "condition")
    return expression


class Text:
    """A text with places that an event fills, made by `text`."""

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled

    def __call__(self, values: Mapping[str, Any]) -> str:
        """Filled with an event (and what else was named); cut at MAX_OUTPUT. Raises ValueError with what failed."""
        pieces: list[str] = []
        room = MAX_OUTPUT
        try:
            for piece in self._compiled.generate(values):
                pieces.append(piece[:room])
                room -= len(pieces[-1])
                if room <= 0:
                    break
        except Exception as error:  # any failure of what a person wrote is told alike
            raise ValueError(f"the template failed: {type(error).__name__}: {error}") from error
        return "".join(pieces)


def text(source: str, *, html: bool = False, more: Sequence[str] = ()) -> Text:
    """Compile a text. In `html`, what an event fills in is escaped. `more`: names beside those of an event, lists.

    Raises TemplateError.
    """
    from jinja2 import TemplateSyntaxError, nodes

    if len(source) > MAX_TEXT_LENGTH:
        raise TemplateError(f"this template has {len(source)} characters, more than {MAX_TEXT_LENGTH}")
    environment = _environment("html" if html else "text")
    try:
        tree = environment.parse(source)
        compiled = environment.from_string(tree)
    except TemplateSyntaxError as error:
        raise _syntax(str(error.message), "text", "A text looks like '{{ device.name }}: {{ title }}'") from None
    except (SyntaxError, RecursionError, MemoryError):
        raise TemplateError("this template is nested too deeply") from None
    loops = (*_LOOPS, *more)
    own: set[str] = set()
    for node in tree.find_all(nodes.Node):
        if type(node).__name__ not in _STATEMENTS:
            raise TemplateError(
                f"a template here has no '{type(node).__name__.lower()}'", "There are {{ }}, 'if' and 'for'"
            )
        if isinstance(node, nodes.For):
            own |= {name.name for name in node.find_all(nodes.Name) if name.ctx == "store"}
            over = _source(node.iter)
            if over not in loops:
                raise TemplateError("a loop can't go over this", f"It can over {', '.join(loops)}")
            if node.recursive or any(part.find(nodes.For) for part in node.body + node.else_):
                raise TemplateError("a loop inside another one is refused: its work would have no bound")
    _check(tree, (*NAMES, *more, *own), "template")
    return Text(compiled)


def _source(node: Any) -> str:
    """`data.items()` for the nodes of it."""
    from jinja2 import nodes

    if isinstance(node, nodes.Call) and not (node.args or node.kwargs or node.dyn_args or node.dyn_kwargs):
        return f"{_source(node.node)}()"
    if isinstance(node, nodes.Getattr):
        return f"{_source(node.node)}.{node.attr}"
    return node.name if isinstance(node, nodes.Name) else ""


def _check(tree: Any, names: Sequence[str], what: str) -> None:
    """Raises TemplateError for names and methods that are not there."""
    from jinja2 import nodes

    for used in tree.find_all(nodes.Name):
        if used.name not in names:
            raise TemplateError(f"an event has no '{used.name}'", nearest(used.name, names, "It has"))
    for call in tree.find_all(nodes.Call):
        method = call.node.attr if isinstance(call.node, nodes.Getattr) else ""
        if method not in _METHODS:
            hint = nearest(method, _METHODS, "There are")
            raise TemplateError(
                f"there is no method '{method}' in a {what}" if method else "only methods can be called", hint
            )


def _syntax(said: str, what: str, example: str) -> TemplateError:
    said = {"unexpected 'end of template'": "it ends too early"}.get(said, said.removesuffix("."))
    if said.startswith("No filter named"):
        hint = f"The filters are {', '.join(_FILTERS)}"
    elif said.startswith("No test named"):
        hint = f"The tests are {', '.join(name for name in _TESTS if name.isalpha())}"
    else:
        hint = example
    return TemplateError(f"this {what} can't be understood: {said}", hint)


@cache
def _environment(kind: Literal["condition", "text", "html"]) -> ImmutableSandboxedEnvironment:
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
            if isinstance(obj, Mapping) and attribute == "items" and (kind != "condition" or attribute not in obj):
                return obj.items  # a mail that brings a value of this name must not break a text's loop
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

    # Not optimized: nothing is worked out before it is asked for. A line with nothing but a statement leaves no trace.
    environment = Bounded(
        undefined=Missing,
        optimized=False,
        autoescape=kind == "html",
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals.clear()
    environment.filters = {name: environment.filters[name] for name in _FILTERS}
    environment.tests = {name: environment.tests[name] for name in _TESTS}
    environment.tests["none"] = lambda value: value is None or isinstance(value, Undefined)
    return environment


def _length(factor: Any) -> int:
    """How many times the other factor a factor of a product is; of what can't be a factor, its own length."""
    return abs(factor) if isinstance(factor, int) else len(factor)
