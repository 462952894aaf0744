"""Other boards: one that prints lines (its own small program), a folder on this machine, and steps by hand."""

from __future__ import annotations

from pathlib import Path

from gateway.flash import FlashError, mpremote, pico
from gateway.flash.plan import Job, Step, Way

PROGRAM = "main.py"


class Lines(Way):
    """A board too small for the firmware: the program in its folder says what happens, a line at a time."""

    NEEDS = ("mpremote",)

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.program = job.board.folder / PROGRAM

    def steps(self) -> list[Step]:
        job, drive = self.job, self.job.drive or self.job.board.mailwire.drive
        copy = Step(f"Copy MicroPython to its drive: cp {job.firmware} {drive}/", self._copy)
        return [
            *([copy] if job.firmware else []),
            Step(
                f"Write {self.program} to it as main.py, and start it: mpremote connect {job.port} exec ...",
                self._write,
            ),
        ]

    def _copy(self) -> None:
        drive = self.job.drive or pico.find_drive(self.job.board.mailwire.drive or "")
        if drive is None:
            raise FlashError(f"There is no drive {self.job.board.mailwire.drive}: name the folder with --drive.")
        self.job.confirm(f"This replaces the program on the board in {drive}. Go on?")
        pico.copy(self.job.micropython(), drive / "mailwire.hex")

    def _write(self) -> None:
        self.job.confirm("This replaces the program main.py on the board. Go on?")
        mpremote.prints(self.job.port, self.program.read_bytes())


class Folder(Way):
    """A folder that stands for a board's flash, for MicroPython's unix port."""

    NEEDS = ("mpy-cross",)

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.folder = job.drive or Path("mailwire-board")

    def steps(self) -> list[Step]:
        return [self.job.compile(), Step(f"Write the files into {self.folder.absolute()}", self._write)]

    def _write(self) -> None:
        try:
            if self.folder.is_dir() and any(self.folder.iterdir()):
                self.job.confirm(f"There is something in {self.folder} already. Write into it?")
            for path, content in self.job.files().items():
                file = self.folder / path
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content)
        except OSError as error:
            raise FlashError(f"{error.filename}: can't be written: {error.strerror}.") from None
        self.job.say(f"start it with: cd {self.folder.absolute()} && micropython main.py")
