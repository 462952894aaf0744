"""What becomes of a module's names before it is compiled for a board: shorter, few, and the same program."""

import ast
import re

from gateway.flash import application
from tests import needs
from tests.firmware.board import ROOT

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


def shortened(sources: dict[str, str], known: frozenset[str] | set[str] = frozenset()) -> dict[str, str]:
    return dict(zip(sources, application._lean([*sources.values()], [*sources], [], known), strict=True))


def outcome(source: str) -> list:
    names: dict = {"const": lambda value: value}
    exec(source, names)  # ours
    return names["result"]


def test_short_names_make_the_same_program() -> None:
    lean = shortened({"firmware.counter": SOURCE}, {"Counter", "told", "result"})["firmware.counter"]
    assert outcome(lean) == outcome(SOURCE)
    assert not re.search(r"_(twice|next|first|second|start|kind)\b", lean)
    assert re.search(r"^_\w = const\(3\)$", lean, re.MULTILINE), "a number is put in where it is used"


def test_a_name_behind_a_dot_and_one_before_none_are_the_same() -> None:
    """MicroPython keeps each name that it has ever met."""
    lean = shortened({"firmware.one": "def _used(_given): return _given._inner._outer\n_used._inner._outer"})
    assert set(re.findall(r"_\w+", lean["firmware.one"])) == {"_0", "_1"}


BASE = """
class Base:
    def __init__(self):
        self.told = "said"
        self._own = "base"

    def both(self):
        return self.told, self._own
"""
DERIVED = """
from firmware.base import Base


class Derived(Base):
    def __init__(self):
        super().__init__()
        self.size = 1
        self._mine = "derived"

    def all(self):
        return [*self.both(), self.size, self._mine, " a-b ".split("-")]


result = Derived().all()
"""


def test_what_several_modules_know_has_one_short_name_in_all_of_them() -> None:
    """And a class no name that the one it inherits from has for something else."""
    sources = {"firmware.base": BASE, "firmware.derived": DERIVED}
    lean = shortened(sources, {"result"})
    together = "".join(source.replace("from firmware.base import", "#") for source in lean.values())
    assert outcome(together) == outcome(BASE + DERIVED.replace("from firmware.base import", "#"))
    assert not re.search(r"\b(told|_own|both|Base|size|_mine|Derived)\b", together)


def test_names_that_are_not_ours_alone_stay() -> None:
    """What MicroPython's objects have too, keywords, texts, errors, modules, and what is said to be known."""
    source = (
        "class Lost(Exception): ...\ndef feed(dog, by): dog.feed()\nfeed(1, by=2)\ndef wants(): ...\n"
        "getattr(feed, 'wants')\ndef called(): ...\ndef app(): ...\n"
    )
    lean = shortened({"firmware.app": source, "firmware.other": "from firmware.app import called, wants"}, {"called"})
    assert all(name in lean["firmware.app"] for name in ("Lost", "feed", "by=2", "def wants", "def called", "def app"))


def test_what_nothing_on_a_board_mentions_is_left_out() -> None:
    """Of what is shared, the gateway alone has a use for some; a name in a text may be one that is looked up."""
    shared = (
        "class Shared:\n    @property\n    def idle(self): ...\n    def said(self): return 1\n"
        "    def looked_up(self): ...\nKINDS = all()\n"
    )
    using = "y.said()\ngetattr(y, 'looked_up')\n"
    left, user = application._without_unused([shared, using], [], set())
    assert left == shared.replace("    @property\n    def idle(self): ...\n", "\n\n").replace("KINDS = all()", "")
    assert user == using


# Names of ours that some object of MicroPython has, too, but none that the firmware uses.
ELSEWHERE = {
    "Server", "client_id", "code", "context", "end", "head", "lines", "peek", "publish", "put", "random", "server",
    "session", "stop", "subscribe", "word",
}  # fmt: skip


def test_no_name_that_a_boards_own_objects_have_becomes_another() -> None:
    """It would be missed on a board alone: a PC has no `machine` and no `network`."""
    stubs = [path for path in (ROOT / ".cache/stubs").glob("*/**/*.pyi") if path.parent.name != "mip"]
    if not stubs:
        needs.missing("the types of MicroPython are not here: script/firmware-types")
    theirs = set()
    for node in (node for path in stubs for node in ast.walk(ast.parse(path.read_text("utf-8")))):
        theirs |= {application._name(target) for target in getattr(node, "targets", [getattr(node, "target", node)])}
    paths = sorted(application._sources())
    others = [application.main_py().decode()]
    sources = application._without_unused([path.read_text("utf-8") for _, path in paths], others, set())
    modules = [*map(ast.parse, sources)]
    names = [application._module(name) for name, _ in paths]
    _, ours = application._public_and_shared(modules, names, others, set())
    assert len(theirs) > 3000
    assert len(ours) > 100
    assert {name for name in ours & theirs if name[:2] != "__"} <= ELSEWHERE, (
        "is it used on one of theirs? Then it belongs into application._FOREIGN"
    )
