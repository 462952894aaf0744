"""What an application knows of its slot: reports in, tells what main.py did, and says which version runs.

main.py is a program that runs, not a module; importing it here would compile it once more. So /slot.json, whose keys
main.py explains, is read and written in both.
"""

import asyncio
import json
import os

from firmware.log import say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

FILE = "slot.json"

news = asyncio.Event()
"""Set when a version on trial has reported in."""
went_back: "dict[str, str] | None" = None
"""{"version", "why"} of what main.py went back from, for as long as this start lasts."""

confirmed = False
"""This version has reported in since the start."""

_reported = False


def read() -> "dict[str, Any]":
    """What /slot.json says; nothing if it can't be read."""
    try:
        with open(FILE) as file:
            state = json.load(file)
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}


def write(state: "dict[str, Any]") -> None:
    """Raises OSError."""
    with open(FILE + ".new", "w") as file:
        json.dump(state, file)
    os.rename(FILE + ".new", FILE)


def trial_of(state: "dict[str, Any]") -> "Any":
    """The slot that runs on trial now; None if none does. One that is yet to be started has `tried` false."""
    return state.get("trial") if state.get("tried") is True else None


def confirm() -> None:
    """This version has reported in: from now on it is the one that is started. Writes only if that is news."""
    global confirmed
    if confirmed:
        return
    state = read()
    trial = trial_of(state)
    if trial is not None or state.get("crashes"):
        if trial is not None:
            state["slot"] = trial
            state["trial"] = None
            state["told"] = False
        state["crashes"] = 0
        state.pop("why", None)
        try:
            write(state)
        except OSError as error:
            say(f"slots: slot.json can't be written: {error!r}")
            return
    confirmed = True
    if trial is not None:
        say("slots: this version has reported in and stays")
        news.set()


def report(keep: "Callable[[dict[str, Any]], str]") -> None:
    """Tell, once, what main.py went back from. If there is no room for the event, the next call tries again."""
    global _reported, went_back
    if _reported:
        return
    state = read()
    back = state.get("back")
    if isinstance(back, dict):
        version, why = str(back.get("version") or "unknown"), str(back.get("why"))
        went_back = {"version": version, "why": why}
        draft = {
            "kind": "update",
            "severity": "warning",
            "title": f"Went back from version {version}",
            "text": f"The version that was on this board before runs again, because of {version}: {why}.",
            "data": {"version": version, "reason": why},
        }
        state["back"] = None
        try:
            keep(draft)
            _reported = True
            write(state)
        except Exception as error:  # noqa: BLE001  # of the spool or the flash: nothing here is worth a crash
            say(f"slots: what was gone back from is told later: {error!r}")
            return
    _reported = True


def facts() -> "dict[str, Any]":
    """For hello and status: which slot runs, whether on trial, and what was gone back from."""
    state = read()
    trial = trial_of(state)
    known: dict[str, Any] = {"slot": trial or state.get("slot"), "trial": trial is not None}
    if went_back:
        known["went_back"] = went_back
    return known
