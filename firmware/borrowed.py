"""A module for a while: code that is seldom needed leaves the heap again.

On a board the code of a module stands in the heap, where mail and events want to be. Only its names stay behind.
"""

import gc
import sys

import firmware

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Borrowed:
    """`with Borrowed("console") as console:`; what was made with it may not live longer than the block."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> "Any":
        return __import__("firmware." + self._name, None, None, (self._name,))

    def __exit__(self, *_: object) -> None:
        sys.modules.pop("firmware." + self._name, None)
        if hasattr(firmware, self._name):  # another borrower may have given it back
            delattr(firmware, self._name)
        gc.collect()
