"""main.py and slots.py under the real MicroPython: which application starts, and when the other one does again.

The applications here are a few lines each; the real one is in test_update.py. The clock of a trial and the cause of a
reset come from the stand-in of `machine`.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.firmware.board import BUILDS, ROOT, interpreter

STAND_INS = Path(__file__).parent / "stand_ins"
GOOD = 'def main(): print("good"); raise SystemExit'
REPORTS_IN = """
def main():
    from firmware import slots
    print("starts", slots.facts())
    slots.report(lambda draft: print("event", draft["title"]))
    slots.confirm()
    print("then", slots.facts())
    raise SystemExit
"""
WRITES_A_TRIAL = 'slots.write(dict(slots.read(), trial="b", tried=False))'
RAISES = 'def main(): raise TypeError("no such thing")'
BROKEN = "def main(: oh"
ENDS = "def main(): pass"
HANGS = """
def main():
    print("hangs")
    while True: pass
"""
INTERRUPTED = "def main(): raise KeyboardInterrupt"


class Flash:
    """A board's flash with small applications, and the board that starts from it."""

    def __init__(self, folder: Path, build: str) -> None:
        self.folder = folder
        self.build = build
        # A board waits so long for a person with Ctrl-C; a test does not.
        main = (ROOT / "firmware" / "main.py").read_text()
        assert "PAUSE = 5 " in main
        (folder / "main.py").write_text(main.replace("PAUSE = 5 ", "PAUSE = 0 "))

    def put(self, slot: str, app: str) -> None:
        package = self.folder / slot / "firmware"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("")
        (package / "app.py").write_text(app)
        for name in ("slots", "log"):
            (package / f"{name}.py").write_text((ROOT / "firmware" / f"{name}.py").read_text())

    def say(self, state: object) -> None:
        (self.folder / "slot.json").write_text(state if isinstance(state, str) else json.dumps(state))

    def state(self) -> dict:
        return json.loads((self.folder / "slot.json").read_text())

    def cause(self, number: int) -> None:
        (self.folder / "world").mkdir(exist_ok=True)
        (self.folder / "world" / "reset_cause").write_text(str(number))

    def start(self, expected: int = 0) -> str:
        done = subprocess.run(
            [str(interpreter(self.build)), "main.py"],
            cwd=self.folder,
            env=os.environ | {"MICROPYPATH": f"{STAND_INS}:.frozen"},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == expected, done.stdout + done.stderr
        return done.stdout + done.stderr


@pytest.fixture(params=BUILDS)
def flash(request, tmp_path):
    return Flash(tmp_path, request.param)


BROKEN_STATES = [
    "",
    "{",
    '{"slot": "a"',
    "[]",
    "null",
    "7",
    "\0\xff",
    '{"slot": "c"}',
    '{"slot": null, "trial": 7, "crashes": "many"}',
    '{"slot": ["a"], "trial": {"a": 1}, "tried": "no", "minutes": "ten", "back": 3}',
    '{"slot": "b"}',
    '{"slot": "../a", "trial": "a"}',
    "[" * 10000,
]


@pytest.mark.parametrize("state", BROKEN_STATES, ids=range(len(BROKEN_STATES)))
def test_no_state_keeps_a_whole_slot_from_starting(flash, state):
    flash.put("a", GOOD)
    flash.say(state)
    assert "good" in flash.start()
    assert flash.state()["slot"] == "a"


def test_a_new_board_starts_slot_a_and_writes_nothing_at_the_second_start(flash):
    flash.put("a", GOOD)
    assert "good" in flash.start()
    before = (flash.folder / "slot.json").stat().st_mtime_ns
    assert "good" in flash.start()
    assert (flash.folder / "slot.json").stat().st_mtime_ns == before


def test_a_slot_that_is_being_written_is_not_started(flash):
    flash.put("a", RAISES)
    (flash.folder / "a" / "void").write_text("")
    flash.put("b", GOOD)
    flash.say({"slot": "a"})
    assert "good" in flash.start()
    assert flash.state()["slot"] == "b"


def test_without_an_application_it_says_what_to_do(flash):
    assert "there is no application here; write one with: mailwire flash --update" in flash.start()


def test_a_version_that_reports_in_stays(flash):
    flash.put("a", GOOD)
    flash.put("b", REPORTS_IN)
    flash.say({"slot": "a", "trial": "b", "tried": False, "version": "2"})
    said = flash.start()
    assert "main: slot b is on trial" in said
    assert "this version has reported in and stays" in said
    for _ in range(2):
        assert flash.state()["slot"] == "b"
        assert flash.state().get("trial") is None
        assert "on trial" not in flash.start()


def on_trial(flash, app):
    flash.put("a", REPORTS_IN)
    flash.put("b", app)
    flash.say({"slot": "a", "trial": "b", "tried": False, "version": "2", "minutes": 0.01})


def went_back(flash, why):
    said = flash.start()
    assert "event Went back from version 2" in said
    assert flash.state()["slot"] == "a"
    assert flash.state().get("trial") is None
    assert why in said
    assert "event" not in flash.start()  # told once
    assert (flash.folder / "b" / "void").exists()


@pytest.mark.parametrize(
    ("app", "why"),
    [
        (RAISES, "it did not report in: TypeError: no such thing"),
        (BROKEN, "it did not report in: SyntaxError"),
        (ENDS, "it did not report in: the application ended"),
    ],
    ids=["raises", "broken", "ends"],
)
def test_a_version_that_falls_down_on_trial_is_gone_back_from(flash, app, why):
    on_trial(flash, app)
    flash.start(3)
    went_back(flash, why)


def test_a_version_that_hangs_on_trial_is_gone_back_from(flash):
    on_trial(flash, HANGS)
    said = flash.start(3)
    assert "hangs" in said
    assert "the version on trial has not reported in" in said
    went_back(flash, "it did not report in")


def test_a_power_cut_during_a_trial_goes_back_too(flash):
    on_trial(flash, GOOD)  # which does not report in
    flash.start()
    went_back(flash, "it did not report in")


def test_the_clock_of_a_trial_does_nothing_to_one_that_has_reported_in(flash):
    waits = REPORTS_IN.replace(
        "    raise SystemExit", "    import time; time.sleep(1.5); print('still here'); raise SystemExit"
    )
    on_trial(flash, waits)
    assert "still here" in flash.start()


def test_the_old_version_does_not_report_in_for_the_new_one(flash):
    """It may do so for the first time after the new one has arrived, before the restart."""
    flash.put("a", REPORTS_IN.replace("    slots.confirm()", "    " + WRITES_A_TRIAL + "; slots.confirm()"))
    flash.put("b", REPORTS_IN)
    flash.start()
    assert flash.state()["trial"] == "b"
    assert "main: slot b is on trial" in flash.start()


def test_a_trial_that_cannot_be_noted_does_not_begin(flash):
    on_trial(flash, RAISES)
    (flash.folder / "slot.json.new").mkdir()  # so that it can't be written, for root, too
    assert "starts" in flash.start()


def test_a_crash_loop_goes_back_to_the_other_slot(flash):
    flash.put("a", REPORTS_IN)
    flash.put("b", RAISES)
    flash.say({"slot": "b", "trial": None, "version": "2"})
    for _ in range(3):
        flash.start(3)
    went_back(flash, "it fell down 3 times: TypeError: no such thing")


def test_a_crash_loop_without_another_slot_goes_on_trying(flash):
    flash.put("a", RAISES)
    for _ in range(5):
        assert "starting anew" in flash.start(3)


def test_crashes_are_forgotten_when_it_reports_in(flash):
    flash.put("a", GOOD)
    flash.put("b", REPORTS_IN)
    flash.say({"slot": "b", "crashes": 2, "why": "something"})
    flash.start()
    assert flash.state()["crashes"] == 0
    assert "why" not in flash.state()


def test_the_watchdog_counts_as_a_crash_and_a_noted_one_counts_once(flash):
    flash.put("a", REPORTS_IN)
    flash.put("b", GOOD)
    flash.say({"slot": "b", "version": "2"})
    flash.cause(3)
    assert "good" in flash.start()
    assert "good" in flash.start()
    assert flash.state()["crashes"] == 2
    flash.say(
        flash.state() | {"counted": True, "why": "x"}
    )  # as after an exception, on a port that says "watchdog" then
    assert "good" in flash.start()
    assert flash.state()["crashes"] == 2
    went_back(flash, "it fell down 3 times: the watchdog reset it")


def test_ctrl_c_is_for_a_person_and_no_crash(flash):
    flash.put("a", INTERRUPTED)
    assert "KeyboardInterrupt" in flash.start(1)
    assert not flash.state()["crashes"]
