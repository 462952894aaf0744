"""What puts the firmware on a board: boards, images, and the tools that write them.

Its libraries and tools are the extra `flash`, since a gateway needs none of them. What is lacking is told with the line
that installs it.
"""

from __future__ import annotations

import re
import sys
from importlib import metadata
from pathlib import Path
from shlex import quote

_HERE = Path(__file__).parent


class FlashError(Exception):
    """A board can't be made as asked for; the text says what, where, and what to do."""

    exit_code = 1


class WrongSettings(FlashError):
    """What was asked for is no setting that a board takes."""

    exit_code = 2


def shipped(name: str) -> Path:
    """The folder `firmware` or `boards`: beside this package in a checkout, inside it when installed from a wheel."""
    inside = _HERE / "shipped" / name
    return inside if inside.is_dir() else _HERE.parent.parent / name


def need(*distributions: str) -> None:
    """Raises FlashError with the line to type if one of these members of the extra `flash` is not installed."""
    lacking = [name for name in distributions if not _installed(name)]
    if lacking:
        wanted = [text for text in _extra() if re.split(r"[^\w.-]", text)[0] in lacking]
        raise FlashError(
            f"This needs {', '.join(lacking)}, which is not installed here. Install it with:\n"
            f"  {quote(sys.executable)} -m pip install {' '.join(map(quote, wanted or lacking))}"
        )


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _extra() -> list[str]:
    """The requirements of the extra, as pip takes them."""
    try:
        texts = metadata.requires("mailwire") or []
    except metadata.PackageNotFoundError:  # run from a checkout that was never installed
        return []
    return [text.partition(";")[0].strip() for text in texts if re.search(r"extra == ['\"]flash['\"]", text)]
