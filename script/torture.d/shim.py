"""The disk and the clock of the gateway, as far as they are in our hands: `shim.c`, compiled and steered."""

from __future__ import annotations

import mmap
import os
import shutil
import struct
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("shim.c")
_CONTROL = struct.Struct("<qii")  # struct control


class Unavailable(Exception):
    """Something can't be had on this machine; the text says what, and how to get it."""


def build(folder: Path) -> Path:
    """The shim, compiled into a folder. Raises Unavailable."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if not compiler:
        raise Unavailable("there is no C compiler: apt-get install gcc libc6-dev")
    library = folder / "shim.so"
    command = [compiler, "-shared", "-fPIC", "-O2", "-Wall", "-o", str(library), str(SOURCE), "-ldl", "-pthread"]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise Unavailable(f"shim.c can't be compiled: {done.stderr.strip()}")
    return library


class Shim:
    """What one gateway is started under. Each setting holds until it is changed, also over a restart."""

    def __init__(self, library: Path, folder: Path, state: Path, *, record: Path | None = None) -> None:
        control = state / "control"
        control.write_bytes(bytes(_CONTROL.size))
        with control.open("r+b") as file:
            self._page = mmap.mmap(file.fileno(), _CONTROL.size)
        self._values = [0, 0, 0]
        self._library = library.open("rb")
        self.environment = {
            # Not its path, which a blank would end (ld.so(8)).
            "LD_PRELOAD": f"/proc/{os.getpid()}/fd/{self._library.fileno()}",
            "TORTURE_CONTROL": str(control),
            "TORTURE_FOLDER": str(folder),
            **({"TORTURE_RECORD": str(record)} if record else {}),
        }

    def clock(self, seconds: float) -> None:
        """How far the clock is wrong."""
        self._set(0, int(seconds * 1e9))

    def slow(self, seconds: float) -> None:
        """How much longer each fsync takes."""
        self._set(1, int(seconds * 1e6))

    def fail(self, errno: int) -> None:
        """What each change of a file fails with; 0: nothing fails."""
        self._set(2, errno)

    def heal(self) -> None:
        self.slow(0)
        self.fail(0)

    def close(self) -> None:
        """After this nothing more can be started under it."""
        self._library.close()
        self._page.close()

    def _set(self, index: int, value: int) -> None:
        self._values[index] = value
        self._page[:] = _CONTROL.pack(*self._values)
