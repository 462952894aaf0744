"""What an application knows of its slot: reports in, tells what main.py did, and says which version runs.

main.py is a program that runs, not a module; importing it here would compile it once more. So /slot.json, whose keys
main.py explains, is read and written in both.
"""

import asyncio
import json
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

FILE = "slot.json"

news = asyncio.Event()
"""Set when a version on trial has reported in."""
went_back: "dict[str, str] | None" = None
"""{"version", "why"} of what main.py went back from, for as long as this start lasts."""


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


def confirm() -> None:
    """This version has reported in: from now on it is the one that is started. Writes only if that is news."""
    state = read()
    trial = state.get("trial")
    if trial is None and not state.get("crashes"):
        return
    if trial is not None:
        state["slot"] = trial
        state["trial"] = None
        state["told"] = False
    state["crashes"] = 0
    state.pop("why", None)
    try:
        write(state)
    except OSError as error:
        print(f"slots: slot.json can't be written: {error!r}")
        return
    if trial is not None:
        print("slots: this version has reported in and stays")
        news.set()


def report(keep: "Callable[[dict[str, Any]], str]") -> None:
    """Tell what main.py did, with an event; to be called once at the start. Raises what `keep` raises, to try again."""
    global went_back
    state = read()
    back = state.get("back")
    if not isinstance(back, dict):
        return
    version = back.get("version") or "unknown"
    keep(
        {
            "kind": "update",
            "severity": "warning",
            "title": f"Went back from version {version}",
            "text": "The version that was on this board before runs again, because of {}: {}.".format(
                version, back.get("why")
            ),
            "data": {"version": version, "reason": str(back.get("why"))},
        }
    )
    went_back = {"version": version, "why": str(back.get("why"))}
    state["back"] = None
    write(state)


def facts() -> "dict[str, Any]":
    """For hello and status: which slot runs, whether on trial, and what was gone back from."""
    state = read()
    trial = state.get("trial")
    known: dict[str, Any] = {"slot": trial or state.get("slot"), "trial": trial is not None}
    if went_back:
        known["went_back"] = went_back
    return known
