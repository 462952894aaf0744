"""A module for a while: code that is seldom needed leaves the heap again.

On a board the code of a module stands in the heap, where mail and events want to be. Only its names stay behind.
"""

import gc
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Borrowed:
    """`with Borrowed("console") as console:`; what was made with it may not live longer than the block.

    The name is that of a module of the firmware; `more` are the full names of others that it alone imports.
    """

    def __init__(self, name: str, *more: str) -> None:
        self._name = "firmware." + name
        self._more = more

    def take(self) -> "Any":
        """The module. It is loaded between what lives on: so what does not goes first."""
        gc.collect()
        return __import__(self._name, None, None, (self._name.rsplit(".", 1)[1],))

    def give_back(self) -> None:
        """What was made with it must be gone."""
        for name in (self._name,) + self._more:  # noqa: RUF005  # no `(*a,)` here
            sys.modules.pop(name, None)
            package, _, last = name.rpartition(".")
            if hasattr(sys.modules.get(package), last):  # another borrower may have given it back
                delattr(sys.modules[package], last)
        gc.collect()

    def __enter__(self) -> "Any":
        return self.take()

    def __exit__(self, *_: object) -> None:
        self.give_back()
