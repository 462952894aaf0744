"""A board of the RP2 family: MicroPython's UF2 file is copied to the drive that its boot loader shows, then the files
go over MicroPython's prompt. Of any board, with `--files-only`: just the files.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from gateway import ports
from gateway.flash import FlashError, application, image, mpremote
from gateway.flash.plan import Job, Step, Way

_INFO = "INFO_UF2.TXT"  # in the root of each UF2 drive (github.com/microsoft/uf2)
_PLACES = ("/media/*/{0}", "/media/{0}", "/run/media/*/{0}", "/mnt/{0}", "/Volumes/{0}")
_RP2040 = 0xE48BFF56  # the family of its files; RP2350 has others (pico-sdk, boot/uf2.h)
_PATIENCE = 60.0  # seconds for a drive or a port to appear


class Pico(Way):
    """The steps for one board."""

    NEEDS = ("mpy-cross", "mpremote")

    def steps(self) -> list[Step]:
        job = self.job
        drive = job.drive or f"the drive {job.board.mailwire.drive}"
        look = f"mpremote connect {job.port} exec ..."
        first = [
            job.take_micropython(),
            Step(f"Find {drive}. {job.board.mailwire.start}", self._drive),
            Step(f"Copy MicroPython to it: cp MICROPYTHON.uf2 {job.drive or job.board.mailwire.drive}/", self._copy),
        ]
        return [
            *([] if job.files_only else first),
            job.compile(),
            Step(f"Wait for MicroPython at {job.port}", self._port),
            Step(f"Look at what is on it, and ask before anything is overwritten: {look}", self._look),
            Step(
                f"Write the files, and start: mpremote connect {job.port} cp -r a main.py settings.json :", self._write
            ),
            *job.wait_for_hello(),
        ]

    def _drive(self) -> None:
        if self.job.drive is None:
            end = time.monotonic() + _PATIENCE
            while (found := find_drive(self.job.board.mailwire.drive or "")) is None:
                if not self.job.on_terminal or time.monotonic() > end:
                    raise FlashError(
                        f"There is no drive {self.job.board.mailwire.drive}. {self.job.board.mailwire.start} If it is "
                        "mounted elsewhere, name the folder with --drive; if MicroPython is on the board already, "
                        "--files-only leaves that as it is."
                    )
                time.sleep(0.5)
            self.job.drive = found
        if not (self.job.drive / _INFO).is_file():
            raise FlashError(f"{self.job.drive} is no board's drive: there is no {_INFO} in it.")
        self.job.say(f"{self.job.drive}")

    def _copy(self) -> None:
        assert self.job.drive is not None  # _drive has run
        content = self.job.micropython()
        check(content, self.job.board.mcu, str(self.job.firmware or (self.job.source and self.job.source.url)))
        self.job.confirm("What is on the board can't be seen in this mode. Overwrite the program on it?")
        copy(content, self.job.drive / "mailwire.uf2")

    def _port(self) -> None:
        end = time.monotonic() + _PATIENCE
        while True:
            try:
                self.job.port = ports.find(self.job.port)
                with ports.open_port(self.job.port):
                    return
            except ports.NoSuchPort as error:
                if time.monotonic() > end or "://" in self.job.port:
                    raise FlashError(f"{error}") from None
                time.sleep(0.5)
            except ports.PortError as error:
                raise FlashError(f"{error}") from None

    def _look(self) -> None:
        found = mpremote.look(self.job.port)
        if found.is_ours:
            self.job.say("it runs Mailwire already")
            self.job.confirm(
                "Its settings would be replaced; `mailwire flash --update` keeps them. Write the files anew?"
            )
        elif not found.is_empty:
            self.job.confirm(f"There are other files on this board ({', '.join(found.files)}). Write ours beside them?")

    def _write(self) -> None:
        mpremote.install(self.job.port, application.files(), self.job.beside(), visibly=self.job.on_terminal)


def check(uf2: bytes, chip: str, name: str) -> None:
    """Raises FlashError unless this is a UF2 file for this chip: the boot loader takes another's, and does nothing."""
    if uf2[:4] != b"UF2\n":
        raise FlashError(f"{name}: this is no UF2 file. Use the .uf2 file for the board.")
    family = int.from_bytes(uf2[28:32], "little")
    if (family == _RP2040) != (chip == "rp2040"):
        raise FlashError(f"{name}: this is a UF2 file for another chip than {chip} (its family is {family:#x}).")


def find_drive(label: str) -> Path | None:
    """Where the drive of this label is mounted."""
    for place in _PLACES:
        for path in Path("/").glob(place.format(label).lstrip("/")):
            if (path / _INFO).is_file():
                return path
    return None


def copy(content: bytes, to: Path) -> None:
    """A file onto a drive that goes away once it has it. Raises FlashError."""
    try:
        with to.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise FlashError(f"{to}: can't be written: {error.strerror}.") from None


def image_only(job: Job) -> bytes:
    """The file system alone."""
    size = job.board.mailwire.file_system
    if not size:
        raise FlashError(f"{job.board.name} has no file system of a known size.")
    return image.build(job.files(), size)
