"""The first file that runs on a board: chooses a slot, starts the application in it, and goes back when it is no good.

The law of this file:

- What an update may break is in a slot (/a, /b); this file is in none, is never sent over the air, stays source and
  imports nothing of ours before it has chosen.
- Whatever /slot.json holds, or if it is gone: a slot that is whole is started. One that holds a file `void` is not
  whole; it is being written, or what is in it was no good.
- A version on trial has one start. If it has not reported in by the next one (`slots.confirm`), that is the old
  version's again; a clock of this file's own resets the board when its minutes are over or it hangs.
- An application that falls down, or is reset by the watchdog, three times without reporting in is left for the other
  slot, if that is whole.
- Why it went back is kept in /slot.json until the application has told it.

/slot.json: {"slot": the one that has reported in, "trial": the one that has yet to or null, "tried": whether it was
started, "version", "minutes": of the trial, "crashes": in a row, "why": the last one's words, "counted": whether the
last reset has been, "offer": see update.py, "back": {"version", "why"}}.
"""

import json
import os
import sys
import time

FILE = "slot.json"
SLOTS = ("a", "b")
CRASHES = 3
MINUTES = 10
PAUSE = 5  # seconds before a reset, for a person with Ctrl-C

_clock = None  # a timer that nobody holds may be collected


def read() -> dict:
    """What /slot.json says; nothing if it can't be read."""
    try:
        with open(FILE) as file:
            state = json.load(file)
    except Exception:
        return {}
    return state if isinstance(state, dict) else {}


def write(state: dict) -> bool:
    """Replace /slot.json: after a power cut there is the old one or the new one. False: the flash takes nothing."""
    try:
        with open(FILE + ".new", "w") as file:
            json.dump(state, file)
        os.rename(FILE + ".new", FILE)
    except OSError:
        return False
    return True


def whole(slot: object) -> bool:
    """Whether there is an application in this slot that may be started."""
    return slot in SLOTS and _is_there(f"{slot}/firmware") and not _is_there(f"{slot}/void")


def choose(state: dict, watchdog: bool = False) -> "str | None":
    """The slot to start, or None if there is none; `state` is brought up to date. `watchdog`: it made this start."""
    slot, trial = state.get("slot"), state.get("trial")
    if not whole(slot):
        slot = "a" if whole("a") else "b" if whole("b") else None
    state["slot"] = slot
    if trial is not None:
        if whole(trial) and trial != slot:
            if state.get("tried") is not True:
                state["tried"] = True
                return trial
            _leave(state, trial, "it did not report in")
        state["trial"] = None
        state["crashes"] = 0
        return slot
    crashes = state.get("crashes")
    crashes = crashes if isinstance(crashes, int) else 0
    if watchdog and not state.get("counted"):
        crashes += 1
        state["why"] = "the watchdog reset it"
    state["counted"] = False
    state["crashes"] = crashes
    other = "b" if slot == "a" else "a"
    if crashes >= CRASHES and whole(other):
        _leave(state, slot, f"it fell down {crashes} times")
        state["slot"] = slot = other
        state["crashes"] = 0
    return slot


def _leave(state: dict, slot: object, what: str) -> None:
    """Make a slot void, and keep in mind what to tell of it."""
    why = state.pop("why", None)
    state["back"] = {"version": state.pop("version", None), "why": f"{what}: {why}" if why else what}
    try:
        open(f"{slot}/void", "w").close()
    except OSError:
        pass  # /slot.json says the same, and is written before anything is started


def _is_there(path: str) -> bool:
    try:
        os.stat(path)
    except OSError:
        return False
    return True


def _by_watchdog() -> bool:
    """RP2 says so after any reset that a program asked for; reporting in forgets what was counted too much."""
    try:
        import machine

        return machine.reset_cause() == machine.WDT_RESET
    except Exception:
        return False  # there is no such thing here


def _limit(minutes: object) -> None:
    """Reset in some minutes unless the version on trial has reported in. It runs whatever the application does."""
    global _clock
    try:
        from machine import Timer
    except ImportError:
        return  # not a board
    period = int(minutes * 60000) if isinstance(minutes, (int, float)) and minutes > 0 else MINUTES * 60000
    for number in (0, -1):  # ESP32 has timers in hardware, RP2 in software
        try:
            _clock = Timer(number)
            _clock.init(mode=Timer.ONE_SHOT, period=period, callback=_time_is_over)
            return
        except Exception as error:
            print(f"main: no timer {number} for the trial: {error!r}")


def _time_is_over(_: object) -> None:
    if read().get("trial") is not None:
        print("main: the version on trial has not reported in")
        _reset()


def _reset() -> None:
    try:
        import machine

        machine.reset()
    except (ImportError, AttributeError):
        sys.exit(3)  # as board.reset on a PC


def _fell(why: str) -> None:
    """The application has ended: note it, and start anew."""
    state = read()
    state["why"] = why[:200]
    if state.get("trial") is None:
        crashes = state.get("crashes")
        state["crashes"] = crashes + 1 if isinstance(crashes, int) else 1
        state["counted"] = True
    write(state)
    print(f"main: {why}; starting anew in {PAUSE} s")
    time.sleep(PAUSE)
    _reset()


def start() -> None:
    """Choose, and run the application; comes back only where there is none."""
    state = read()
    before = dict(state)
    slot = choose(state, _by_watchdog())
    if slot is None:
        print("main: there is no application here; write one with: mailwire flash --update")
        return
    if state != before and not write(state) and slot == state["trial"]:
        slot = state["slot"]  # a trial that can't be noted would be one for ever
        if slot is None:
            return
    if slot == state.get("trial"):
        print(f"main: slot {slot} is on trial")
        _limit(state.get("minutes"))
    sys.path.insert(0, slot)
    try:
        from firmware import app

        app.main()
    except KeyboardInterrupt:
        raise  # a person wants the prompt
    except SystemExit:
        raise  # the application wants a reset, or its end
    except BaseException as error:
        sys.print_exception(error)
        _fell(f"{type(error).__name__}: {error}")
    else:
        _fell("the application ended")


if __name__ == "__main__":
    start()
