"""Regular expressions that people write: compiled, and refused where a line could keep them busy for minutes.

Python's matcher tries every way to divide a line among the repeats of a pattern, and nothing can interrupt it. So the
ways are counted beforehand, from above. A repeat of something that may itself be matched in several ways, `(a+)+`, has
no bound and is refused. Repeats that follow each other multiply, `.*.*.*`, as long as what stands between them could
belong to either: in `\\d+ \\d+` the blank decides. What is left is at most `most` steps on a line of `LONGEST`.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

LONGEST = 512
"""Letters of a line that a pattern is asked about; the rest is cut off."""
_COPIES = 8  # a group that repeats up to so often, `(\\d+\\.){3}`, is looked at as if it were written out
_BEYOND = 256  # stands for every letter above U+00FF
_ALL = frozenset(range(_BEYOND + 1))
_REPEATS = ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT")

# Python's own reading of a pattern. It has no public name, but has kept its form for many versions.
_parser = importlib.import_module("re._parser")


def compiled(pattern: str, flags: int = 0, most: int = LONGEST**3) -> re.Pattern[str]:
    """Raises ValueError with words, also for a pattern that could run away, and take more than `most` steps."""
    try:
        tree = _parser.parse(pattern, flags)
        made = re.compile(pattern, flags)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"this is no regular expression: {error}") from None
    items = list(tree)
    ways = _Ways(bool(made.flags & re.IGNORECASE))
    anchored = bool(items) and str(items[0][0]) == "AT" and str(items[0][1]) in ("AT_BEGINNING", "AT_BEGINNING_STRING")
    if ways.of(items) * (1 if anchored else LONGEST) > most:
        raise ValueError(
            "a line could keep this regular expression busy for minutes: its repeats can divide the same letters among "
            "them in too many ways. Put no repeat inside a repeat, such as (a+)+; and between .* and .* something that "
            "belongs to neither, as [^,]*,[^,]* has"
        )
    return made


class _Ways:
    """In how many ways a line can be matched, at most."""

    def __init__(self, ignore_case: bool) -> None:
        self._ignore_case = ignore_case

    def of(self, items: Iterable[Any]) -> float:
        """The most of any run of elements whose division is open."""
        most = run = 1.0
        letters: frozenset[int] = frozenset()  # those that the open repeats may take
        for options, fixed, own in self._elements(items):
            if letters & own:
                run, letters = run * options, letters | own
            elif fixed:  # here everything before it has to end
                run, letters = options, own if options > 1 else frozenset()
            elif options > 1:  # where it begins is decided by what is before it, where it ends is not
                run, letters = (run if letters else 0.0) + options, letters | own
            most = max(most, run)
        return most

    def _elements(self, items: Iterable[Any]) -> Iterable[tuple[float, bool, frozenset[int]]]:
        """(ways, must it be there, its letters) of each element; groups are taken apart."""
        for operator, value in items:
            name = str(operator)
            if name in _REPEATS:
                yield from self._repeat(*value)
            elif name == "SUBPATTERN":
                yield from self._elements(value[3])
            elif name in ("ATOMIC_GROUP", "ASSERT", "ASSERT_NOT"):
                inner = value if name == "ATOMIC_GROUP" else value[1]
                yield self.of(inner), False, self._letters(inner)
            elif name == "BRANCH":
                branches = value[1]
                yield sum(self.of(branch) for branch in branches), False, self._letters([(operator, value)])
            elif name == "GROUPREF_EXISTS":
                yield 2 * max(self.of(branch or ()) for branch in value[1:]), False, _ALL
            elif name != "AT":
                yield 1.0, name != "GROUPREF", self._letters([(operator, value)])

    def _repeat(self, least: int, most: int, body: Sequence[Any]) -> Iterable[tuple[float, bool, frozenset[int]]]:
        inner = self.of(body)
        letters = self._letters(body)
        if inner > 1 and most > _COPIES:
            yield float("inf"), False, letters
        elif inner > 1:
            for _ in range(most):
                yield from self._elements(body)
            yield float(most - least + 1), False, letters
        else:
            yield float(max(1, min(most - least + 1, LONGEST))), least > 0, letters

    def _letters(self, items: Iterable[Any]) -> frozenset[int]:
        """All that may occur in it."""
        found: set[int] = set()
        for operator, value in items:
            match str(operator):
                case "LITERAL":
                    found.add(min(value, _BEYOND))
                case "NOT_LITERAL":
                    found |= _ALL - {value}
                case "IN":
                    found |= _of_set(value)
                case name if name in _REPEATS:
                    found |= self._letters(value[2])
                case "SUBPATTERN":
                    found |= self._letters(value[3])
                case "ATOMIC_GROUP":
                    found |= self._letters(value)
                case "BRANCH":
                    for branch in value[1]:
                        found |= self._letters(branch)
                case "AT":
                    pass
                case _:
                    found |= _ALL
        if self._ignore_case:
            found |= {ord(other) for code in found if code < _BEYOND for other in _cases(code)}
        return frozenset(found)


def _cases(code: int) -> set[str]:
    letter = chr(code)
    return {one for one in (letter.lower(), letter.upper()) if len(one) == 1 and ord(one) < _BEYOND}


def _of_set(items: Iterable[Any]) -> frozenset[int]:
    found: set[int] = set()
    negated = False
    for operator, value in items:
        match str(operator):
            case "NEGATE":
                negated = True
            case "LITERAL":
                found.add(min(value, _BEYOND))
            case "RANGE":
                found.update(range(min(value[0], _BEYOND), min(value[1], _BEYOND) + 1))
            case "CATEGORY":
                found |= _of_category(str(value))
    return _ALL - (found - {_BEYOND}) if negated else frozenset(found)


@cache
def _of_category(name: str) -> frozenset[int]:
    kind = {"DIGIT": r"\d", "SPACE": r"\s", "WORD": r"\w"}[name.rpartition("_")[2]]
    inside = {code for code in range(_BEYOND) if re.match(kind, chr(code))}
    return frozenset(_ALL - inside if "_NOT_" in name else inside | {_BEYOND})
