"""What starts `mailwire desktop` when a person logs in: its text for each system, and where that belongs.

XDG autostart (Desktop Application Autostart Specification) or a systemd user unit, launchd's agent, a file in Windows'
start-up folder. The texts are made by functions of nothing but the command line, so that all are tested everywhere.
"""

from __future__ import annotations

import os
import plistlib
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from gateway.cli import service

_ABOUT = "Shows the alarms of your devices on this desktop"
_LABEL = "org.mailwire.desktop"


class Kind(NamedTuple):
    """One way to be started. `then`: what a person must type after it was written; "" for nothing."""

    path: Callable[[], Path]
    text: Callable[[Sequence[str]], str]
    then: str = ""


def xdg(command: Sequence[str]) -> str:
    """A desktop entry (Desktop Entry Specification 1.5, "The Exec key")."""
    return (
        "[Desktop Entry]\nType=Application\nName=Mailwire\n"
        f"Comment={_ABOUT}\nExec={' '.join(map(_exec_word, command))}\n"
        "Icon=mail-unread\nTerminal=false\nX-GNOME-Autostart-enabled=true\n"
    )


def _exec_word(word: str) -> str:
    quoted = "".join(f"\\{letter}" if letter in '"`$\\' else letter for letter in word).replace("%", "%%")
    # Of a string in such a file, a backslash is written as two.
    return f'"{quoted}"'.replace("\\", "\\\\")


def systemd(command: Sequence[str]) -> str:
    """A user unit."""
    program, *words = command
    line = " ".join([service.program_word(Path(program)), *map(service.quoted, words)])
    return (
        f"[Unit]\nDescription=Mailwire: {_ABOUT[0].lower()}{_ABOUT[1:]}\n"
        "PartOf=graphical-session.target\nAfter=graphical-session.target\n\n"
        f"[Service]\nExecStart={line}\nRestart=on-failure\nRestartSec=5\n\n"
        "[Install]\nWantedBy=graphical-session.target\n"
    )


def launchd(command: Sequence[str]) -> str:
    """An agent (launchd.plist(5)): started at login, and again if it fails."""
    agent = {
        "Label": _LABEL,
        "ProgramArguments": list(command),
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},
        "ProcessType": "Background",
    }
    return plistlib.dumps(agent).decode()


def windows(command: Sequence[str]) -> str:
    """A batch file: `%` stands for itself when there are two."""
    line = subprocess.list2cmdline(command).replace("%", "%%")
    return f'@rem {_ABOUT}\r\n@start "Mailwire" /min {line}\r\n'


def _config_home() -> Path:
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")


def _start_up() -> Path:
    roaming = os.environ.get("APPDATA") or Path.home() / "AppData/Roaming"
    return Path(roaming) / "Microsoft/Windows/Start Menu/Programs/Startup/Mailwire.cmd"


KINDS = {
    "xdg": Kind(lambda: _config_home() / "autostart/mailwire-desktop.desktop", xdg),
    "systemd": Kind(
        lambda: _config_home() / "systemd/user/mailwire-desktop.service",
        systemd,
        "systemctl --user daemon-reload && systemctl --user enable --now mailwire-desktop.service",
    ),
    "launchd": Kind(lambda: Path.home() / f"Library/LaunchAgents/{_LABEL}.plist", launchd),
    "windows": Kind(_start_up, windows),
}
DEFAULT = {"darwin": "launchd", "win32": "windows"}.get(sys.platform, "xdg")


def command(config: Path | None) -> list[str]:
    """The command line that it is to be: this program's, as it is installed. `config`: if it is not the usual file."""
    called = Path(sys.argv[0])
    own = [str(called.resolve())] if called.name == "mailwire" else [sys.executable, "-m", "gateway"]
    return [*own, "desktop", *(["--config", str(config.absolute())] if config else [])]


def install(kind: str, words: Sequence[str]) -> Path:
    """Write it, in the place of an earlier one of any kind. Raises OSError."""
    remove()
    path = KINDS[kind].path()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(KINDS[kind].text(words), encoding="utf-8", newline="")
    return path


def remove() -> list[Path]:
    """All that `install` may have written; what was there. Raises OSError."""
    there = [path for path in (kind.path() for kind in KINDS.values()) if path.exists()]
    for path in there:
        path.unlink()
    return there
