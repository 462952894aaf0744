"""A real desktop for tests, as far as notifications go: a session bus, a screen, dunst as the daemon, and a person.

`dbus-monitor` listens on the bus and writes down what goes over it. The person presses a button through dunst's own
menu, whose program is a script here that picks the line it is told to; `dunstctl` closes and counts.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Self

import pytest

from tests import needs
from tests.live import until

_BUS = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>session</type><listen>unix:tmpdir=/tmp</listen><auth>EXTERNAL</auth>
<policy context="default">
<allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/>
</policy>
</busconfig>
"""
DUNST = """[global]
monitor = 0
follow = none
width = 420
height = 300
origin = top-right
offset = 12x12
font = DejaVu Sans 11
markup = full
format = "<b>%s</b>\\n%b"
max_icon_size = 128
show_indicators = yes
ignore_newline = no
sort = no
history_length = 50
[urgency_low]
timeout = 0
[urgency_normal]
timeout = 0
[urgency_critical]
timeout = 0
frame_color = "#d01010"
"""


_numbers = itertools.count()


class Notify(NamedTuple):
    """A call of Notify, as dbus-monitor saw it."""

    replaces: int
    icon: str
    title: str
    text: str
    buttons: list[str]
    hints: dict[str, str]


class Desktop:
    """`folder` is where it lives. Without `start_daemon` there is a bus, and nobody who shows anything.

    `services`: the bus starts what this machine has for it when somebody asks.
    """

    def __init__(self, folder: Path, *, services: bool = False) -> None:
        self.folder = folder
        self._services = "<standard_session_servicedirs/>" if services else ""
        self.environment = dict(os.environ)
        self._processes: list[subprocess.Popen[bytes]] = []
        self._daemon: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        folder = self.folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "bus.conf").write_text(_BUS.replace("</busconfig>", f"{self._services}</busconfig>"))
        (folder / "person").write_text(f'#!/bin/sh\ngrep -m 1 -F -- "$(cat "{folder}/choice")"\n')
        (folder / "person").chmod(0o755)
        (folder / "dunstrc").write_text(DUNST.replace("[global]", "[global]\ndmenu = person"))
        bus = self._start(
            "dbus-daemon", "dbus-daemon", f"--config-file={folder}/bus.conf", "--nofork", "--print-address"
        )
        screen = self._start("Xvfb", "xvfb", "-displayfd", "1", "-screen", "0", "800x600x24", "-nolisten", "tcp")
        self.environment |= {
            "DBUS_SESSION_BUS_ADDRESS": _line(bus),
            "DISPLAY": f":{_line(screen)}",
            "PATH": f"{folder}:{os.environ['PATH']}",  # where dunst finds the person: it takes no path with a blank
            "XDG_CONFIG_HOME": str(folder),
            "XDG_CACHE_HOME": str(folder),
        }
        with (folder / "heard").open("wb") as heard:
            self._start("dbus-monitor", "dbus-bin", "interface='org.freedesktop.Notifications'", out=heard)
        until(lambda: b"NameLost" in (folder / "heard").read_bytes(), "listening on the bus")
        return self

    def __exit__(self, *_: object) -> None:
        self.stop_daemon()
        for process in reversed(self._processes):
            process.terminate()
            process.wait(10)
            if process.stdout:
                process.stdout.close()

    def _start(self, program: str, package: str, *words: str, out: object = subprocess.PIPE) -> subprocess.Popen[bytes]:
        command = [needs.program(program, package), *words]
        with (self.folder / f"{program}.log").open("ab") as log:
            process = subprocess.Popen(command, stdout=out, stderr=log, env=self.environment)  # type: ignore[call-overload]
        self._processes.append(process)
        return process

    def start_daemon(self) -> Self:
        self._daemon = self._start("dunst", "dunst", "-conf", f"{self.folder}/dunstrc", out=subprocess.DEVNULL)
        until(lambda: self._dunstctl("is-paused").returncode == 0, "starting dunst")
        return self

    def stop_daemon(self) -> None:
        if self._daemon:
            self._daemon.kill()
            self._daemon.wait()
            self._processes.remove(self._daemon)
            self._daemon = None

    def _dunstctl(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [needs.program("dunstctl", "dunst"), *words]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=20, check=False)

    # --- the person --------------------------------------------------------------------------------------------

    def on_screen(self) -> int:
        """How many notifications are shown, or wait for room to be shown."""
        return sum(int(self._dunstctl("count", what).stdout or 0) for what in ("displayed", "waiting"))

    def press(self, button: str, title: str = "") -> None:
        """On a notification that has it, through dunst's menu."""
        (self.folder / "choice").write_text(f"#{button} ({title}")
        self._dunstctl("context")

    def click(self) -> None:
        """On the newest notification."""
        self._dunstctl("action", "0")

    def dismiss(self) -> None:
        """The newest one."""
        self._dunstctl("close")

    # --- what went over the bus --------------------------------------------------------------------------------

    def heard(self) -> list[Notify]:
        """All calls of Notify so far."""
        return [_notify(one) for one in self._messages("method call", "Notify")]

    def signals(self, member: str) -> int:
        return len(self._messages("signal", member))

    def _messages(self, kind: str, member: str) -> list[str]:
        """All so far: dbus-monitor has written what was said before a word of ours when it has written that."""
        word = f"until here {next(_numbers)}"
        send = [needs.program("dbus-send", "dbus-bin"), "--session", "--type=signal", "/tests"]
        command = [*send, "org.freedesktop.Notifications.Heard", f"string:{word}"]
        subprocess.run(command, env=self.environment, timeout=20, check=True)
        until(lambda: f'"{word}"'.encode() in (self.folder / "heard").read_bytes(), "writing down what was heard")
        text = (self.folder / "heard").read_text("utf-8", "replace")
        messages = re.split(r"(?m)^(?=(?:method call|signal|method return|error) time=)", text)
        return [one for one in messages if one.startswith(kind) and f"member={member}\n" in one]


def _line(process: subprocess.Popen[bytes]) -> str:
    assert process.stdout
    return process.stdout.readline().decode().strip()


def _notify(message: str) -> Notify:
    own = re.findall(r'(?ms)^   (?:string "(.*?)"|uint32 (\d+))$', message)
    actions = re.search(r"(?ms)^   array \[\n(.*?)^   \]", message)
    texts = re.findall(r'string "(.*?)"', actions[1] if actions else "")
    hints = re.findall(r'dict entry\(\s+string "(.*?)"\s+variant\s+\w+ "?(.*?)"?\n', message)
    _, (_, replaces), (icon, _), (title, _), (text, _) = own[:5]
    return Notify(int(replaces), icon, title, text, texts[1::2], dict(hints))


@pytest.fixture
def desktop(tmp_path: Path) -> Iterator[Desktop]:
    """A bus, a screen and a daemon; the environment is theirs."""
    with Desktop(tmp_path / "desk top") as one, contextlib.ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        for name in ("DBUS_SESSION_BUS_ADDRESS", "DISPLAY"):
            patch.setenv(name, one.environment[name])
        yield one
