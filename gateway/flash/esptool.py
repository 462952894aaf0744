"""esptool, run as a program: its licence is the GPL, so no code of ours imports it.

Nothing secret is ever on its command line: what is written to the board is in files that only this user can read.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from shlex import join
from typing import NamedTuple

from gateway.flash import FlashError, need

_SIZE = re.compile(r"Detected flash size: (\d+)(KB|MB)")
_FATAL = re.compile(r"A fatal error occurred: *(.*(?:\n\(.*)?)")
_LAST = 12  # lines of its output that are shown when it said no fatal error
_ERASED = b"\xff"


class Target(NamedTuple):
    """The board, and how to reach it. `before`, `after`: esptool's words for how it is reset."""

    chip: str
    port: str
    baud: int | None = None
    before: str = "default-reset"
    after: str = "hard-reset"
    stub: bool = True

    def command(self, *words: str, after: str | None = None) -> list[str]:
        """The command line for some of esptool's words."""
        return [
            *(sys.executable, "-m", "esptool", "--chip", self.chip, "--port", self.port),
            *(["--baud", str(self.baud)] if self.baud else []),
            *([] if self.stub else ["--no-stub"]),
            *("--before", self.before, "--after", after or self.after),
            *words,
        ]


def shown(command: Sequence[str]) -> str:
    """As a person would type it."""
    return join(["esptool", *command[3:]])


def flash_size(target: Target, start: str) -> int:
    """Bytes of the board's flash. Raises FlashError; `start` is told with it: how to reach the boot loader."""
    text = _run(target, ["flash-id"], start)
    found = _SIZE.search(text)
    if not found:
        raise FlashError(f"{target.port}: the board does not say how large its flash is. Name it with --flash-size.")
    return int(found[1]) << (20 if found[2] == "MB" else 10)


def read(target: Target, at: int, size: int) -> bytes:
    """What is in the flash. Raises FlashError, also where esptool has no way to read."""
    with tempfile.TemporaryDirectory(prefix="mailwire-") as folder:
        path = Path(folder) / "read"
        _run(target, ["read-flash", hex(at), hex(size), str(path)], "")
        return path.read_bytes()


def write_command(target: Target, parts: Sequence[tuple[int, str]], *, erase: bool) -> list[str]:
    """One call that writes all parts (offset, path); with `erase` after everything else was erased."""
    words = ["write-flash", "--flash-size", "detect", *(["--erase-all"] if erase else [])]
    return target.command(*words, *(word for at, path in parts for word in (hex(at), path)))


def write(target: Target, parts: Sequence[tuple[int, bytes]], *, erase: bool, on_terminal: bool) -> None:
    """Write the parts (offset, content) in one call; esptool reads all of it back as checksums.

    `on_terminal`: it shows its own progress there. Raises FlashError.
    """
    with tempfile.TemporaryDirectory(prefix="mailwire-") as folder:  # only this user may look into it
        files = []
        for at, content in parts:
            path = Path(folder) / f"{at:#x}.bin"
            path.write_bytes(content)
            files.append((at, str(path)))
        command = write_command(target, files, erase=erase)
        if on_terminal:
            need("esptool")
            if subprocess.run(command, check=False).returncode:  # noqa: S603  # our own words
                raise FlashError(
                    "esptool did not write the board; it says why above. Nothing on it may run now: repeat."
                )
        else:
            command.insert(command.index("write-flash") + 1, "--no-progress")
            _call(target, command, "")


def _run(target: Target, words: Sequence[str], start: str) -> str:
    """It stays in the boot loader, for the next call."""
    return _call(target, target.command(*words, after="no-reset"), start)


def _call(target: Target, command: Sequence[str], start: str) -> str:
    need("esptool")
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)  # noqa: S603
    text = done.stdout + done.stderr
    if done.returncode:
        fatal = _FATAL.search(text)
        said = " ".join(fatal[1].split()) if fatal else "\n".join(text.strip().splitlines()[-_LAST:])
        raise FlashError(_explained(target, said, start))
    return text


def _explained(target: Target, said: str, start: str) -> str:
    wrong = re.search(r"This chip is (\S+), not (\S+?)\.", said)
    if wrong:
        return (
            f"{target.port}: the board has the chip {wrong[1]}, and this one would be for {wrong[2]}. "
            "`mailwire boards` lists those for each chip."
        )
    if "permission" in said.lower():
        return f"{target.port}: this user may not open it. sudo usermod -aG dialout $USER, then log in anew."
    hint = f" {start}" if start and "failed to connect" in said.lower() else ""
    return f"{target.port}: esptool says: {said}{'' if said.endswith('.') else '.'}{hint}"
