"""Lines for people: on the console, and the newest ones kept for whoever asks later.

Nothing else prints. A console that nobody reads must not hold the program, and `print` would: so once a part owns the
console line (`sink`), it is given the lines, and writes them when the line takes them.
"""

import io
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

KEPT = 20  # lines
_LONGEST = 200  # characters of a line that is kept

sink: "Callable[[str], None] | None" = None
lines: "list[str]" = []
"""The newest last."""


def say(text: str) -> None:
    """One line; line ends and control characters in it are shown as `?`, for some of it came from outside."""
    try:
        text = plain(text)
        lines.append(text[:_LONGEST])
        if len(lines) > KEPT:
            lines.pop(0)
        if sink:
            sink(text)
        else:
            print(text)
    except MemoryError:
        pass  # a line less: who says why memory is out must not fail for it


def plain(text: str) -> str:
    """With `?` for each control character. In octets: MicroPython keeps each letter of a text that it is asked for."""
    octets = bytearray(text.encode())
    for at, octet in enumerate(octets):
        if octet < 32 or octet == 127:
            octets[at] = 63  # "?"
    return bytes(octets).decode()


def trace(error: Exception) -> None:
    """Where a fault of ours was, for whoever mends it."""
    text = io.StringIO()
    sys.print_exception(error, text)
    for line in text.getvalue().strip().split("\n"):
        say(line)
