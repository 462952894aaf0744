"""What becomes of a module's names before it is compiled for a board: shorter, few, and the same program."""

import re

from gateway.flash import application

SOURCE = """
LIMIT = 3
_first = "first"
_second = "second"


def _twice(value):
    return value * 2


class Counter:
    _kind = _first

    def __init__(self, start=LIMIT, *, _label=_second):
        self._start = start
        self._label = _label

    def _next(self):
        global _first
        self._start += 1
        _first = f"{self._start} {_twice(self._start)}"
        return self._start

    def told(self, _twice=_twice):
        return [self._next(), _first, self._kind, self._label, _twice(self._start), f"{LIMIT}{_second!r}"]


result = Counter().told() + Counter(10).told()
"""


def outcome(source: str) -> list:
    names: dict = {"const": lambda value: value}
    exec(source, names)  # ours
    return names["result"]


def test_short_names_make_the_same_program() -> None:
    lean = application._lean(SOURCE, frozenset({"Counter", "told", "result", "_label"}))
    assert outcome(lean) == outcome(SOURCE)
    assert not re.search(r"_(twice|next|first|second|start|kind)\b", lean)
    assert re.search(r"^_\w = const\(3\)$", lean, re.MULTILINE), "a number is put in where it is used"


def test_a_name_behind_a_dot_and_one_before_none_are_the_same() -> None:
    """MicroPython keeps each name that it has ever met."""
    lean = application._lean("def _used(_given): return _given._inner._outer\n_used._inner._outer", frozenset())
    assert set(re.findall(r"_\w+", lean)) == {"_0", "_1"}


def test_what_nothing_on_a_board_mentions_is_left_out() -> None:
    """Of what is shared, the gateway alone has a use for some; a name in a text may be one that is looked up."""
    shared = (
        "class Shared:\n    @property\n    def idle(self): ...\n    def said(self): return 1\n"
        "    def looked_up(self): ...\n"
    )
    left, user = application._without_unused([shared, "x = y.said()\nz = getattr(y, 'looked_up')\n"], [])
    assert left == shared.replace("    @property\n    def idle(self): ...\n", "\n\n")
    assert user == "x = y.said()\nz = getattr(y, 'looked_up')\n"
