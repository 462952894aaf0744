"""A board on this machine: the compiled application in a temporary folder, run by the real MicroPython (unix port).

The folder stands for the board's flash: `main.py`, `settings.json`, slot `a`, and the spool. Both builds of the
interpreter come from `script/micropython`: `x86_64`, and `i386`, whose heap is laid out as a board's, with words of
four bytes. Nothing here is a fake but the absence of hardware.
"""

import contextlib
import json
import os
import re
import select
import signal
import subprocess
import time
from pathlib import Path

from mpremote.romfs import VfsRomWriter

from gateway.flash import application
from tests import needs
from tests.mosquitto import free_port

ROOT = Path(__file__).parent.parent.parent
__all__ = ["BUILDS", "Board", "free_port", "install", "interpreter"]
BUILDS = ("x86_64", "i386")
HEAPS = {"x86_64": "384K", "i386": "144K"}  # what an ESP32 has left once it has joined a network; twice as long words
PATIENCE = 30.0  # seconds that anything may take before a test gives up


def interpreter(build: str = "x86_64") -> Path:
    run = ROOT / ".cache" / ("micropython" if build == "x86_64" else f"micropython-{build}") / "run"
    if not run.exists():
        needs.missing(f"No MicroPython for {build} here; script/micropython fetches one")
    return run


def install_in_rom(folder: Path) -> None:
    """The application outside of the heap: in a ROMFS image that MicroPython executes in place, as a board does whose
    firmware has a partition for one, or has the application frozen into it. The image is mapped into memory.
    """
    image = VfsRomWriter()
    files = application.files()
    for package in ("firmware", "gateway"):
        image.opendir(package)
        inside = {name: content for name, content in files.items() if name.startswith(package + "/")}
        for name, content in inside.items():
            if name.count("/") == 1:
                image.mkfile(name.split("/")[1], content)
        if package == "gateway":
            image.opendir("wire")
            for name, content in inside.items():
                if name.count("/") == 2:
                    image.mkfile(name.split("/")[2], content)
            image.closedir()
        image.closedir()
    content = image.finalise()
    (folder / "rom").write_bytes(content)
    (folder / "main.py").write_text(ROM_MAIN.format(size=len(content)))


ROM_MAIN = """\
import ffi, sys, uctypes, vfs
libc = ffi.open("libc.so.6")
there = libc.func("p", "mmap", "pIiiii")(0, {size}, 1, 2, libc.func("i", "open", "si")("rom", 0), 0)
vfs.mount(vfs.VfsRom(uctypes.bytearray_at(there, {size})), "/rom")
sys.path.insert(0, "/rom")
del there, libc, ffi, uctypes, vfs
from firmware import app
app.main()
"""


def install(folder: Path, slot: str = "a", known: str = "") -> None:
    """What `mailwire flash` puts on a board; with the names in `known`, for scripts that call it by them."""
    for name, content in application.files(known).items():
        path = folder / slot / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (folder / "main.py").write_bytes(application.main_py())


class Board:
    """One board. `settings` is what settings.json holds; `output` all that it printed so far."""

    def __init__(
        self,
        folder: Path,
        settings: dict,
        *,
        build: str = "x86_64",
        heap: str | None = None,
        rom: bool = False,
        env: dict | None = None,
    ) -> None:
        self.folder = folder
        self.build = build
        self.heap = heap or HEAPS[build]
        self.env = env or {}
        self.output = b""
        self.process: subprocess.Popen | None = None
        folder.mkdir(parents=True, exist_ok=True)
        (install_in_rom if rom else install)(folder)
        self.set(settings)

    def set(self, settings: dict) -> None:
        self.settings = settings
        (self.folder / "settings.json").write_text(json.dumps(settings))

    def __enter__(self) -> "Board":
        return self if self.process and self.process.poll() is None else self.start()

    def __exit__(self, *_) -> None:
        self.stop()

    def start(self) -> "Board":
        self.output = b""
        command = [str(interpreter(self.build)), "-X", f"heapsize={self.heap}", "main.py"]
        self.process = subprocess.Popen(
            command,
            cwd=self.folder,
            env=os.environ | self.env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        os.set_blocking(self.process.stdout.fileno(), False)
        return self

    def started(self) -> "Board":
        """Start, and wait until its SMTP server answers."""
        self.start()
        try:
            self.wait_for(r"smtp: listening on port \d+")
        except BaseException:
            self.kill()
            raise
        return self

    def read(self, patience: float = 0.0) -> bytes:
        """What it has printed since the last time; waits for something at most so long."""
        if not select.select([self.process.stdout], [], [], patience)[0]:
            return b""
        new = self.process.stdout.read() or b""
        self.output += new
        return new

    def wait_for(self, pattern: str) -> re.Match:
        """Wait until it has printed something like this."""
        deadline = time.monotonic() + PATIENCE
        while not (found := re.search(pattern.encode(), self.output)):
            new = self.read(0.2)
            dead = not new and self.process.poll() is not None
            if dead or time.monotonic() > deadline:
                raise AssertionError(f"no {pattern!r} in:\n{self.output.decode(errors='replace')}")
        return found

    def kill(self) -> None:
        """As a power cut would: SIGKILL."""
        self.process.kill()
        self._gone()

    def stop(self) -> int | None:
        """Ctrl-C on the console; a person whom nobody answers presses it again."""
        for _ in range(2):
            if self.process and self.process.poll() is None:
                self.process.send_signal(signal.SIGINT)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.process.wait(PATIENCE / 3)
        return self._gone()

    def _gone(self) -> int | None:
        if self.process is None:
            return None
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.read()
            raise AssertionError(f"it goes on after Ctrl-C:\n{self.output.decode(errors='replace')}") from None
        finally:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
            self.process.wait()
            with contextlib.suppress(ValueError):
                self.read()
            self.process.stdin.close()
            self.process.stdout.close()

    # What is in its flash.

    def spool(self) -> list[tuple[int, list[str], dict]]:
        """(number, who owes it, event), in order."""
        found = []
        for path in sorted((self.folder / "spool").glob("[0-9]*")):
            number, *owing = path.name.split(".")
            found.append((int(number), owing, json.loads(path.read_bytes())))
        return found

    def events(self) -> list[dict]:
        return [event for _, _, event in self.spool()]
