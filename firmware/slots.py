"""What an application knows of its slot: reports in, tells what main.py did, and says which version runs.

main.py is a program that runs, not a module; importing it here would compile it once more. So /slot.json, whose keys
main.py explains, is read and written in both.
"""

import json
import os

import asyncio

FILE = "slot.json"

news = asyncio.Event()
"""Set when a version on trial has reported in."""
went_back = None
"""{"version", "why"} of what main.py went back from, for as long as this start lasts."""


def read():
    """What /slot.json says; nothing if it can't be read."""
    try:
        with open(FILE) as file:
            state = json.load(file)
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}


def write(state):
    """Raises OSError."""
    with open(FILE + ".new", "w") as file:
        json.dump(state, file)
    os.rename(FILE + ".new", FILE)


def confirm():
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
        print("slots: slot.json can't be written: %r" % error)
        return
    if trial is not None:
        print("slots: this version has reported in and stays")
        news.set()


def report(keep):
    """Tell what main.py did, with an event; to be called once at the start. Raises what `keep` raises, to try again."""
    global went_back
    state = read()
    back = state.get("back")
    if not isinstance(back, dict):
        return
    version = back.get("version") or "unknown"
    keep(
        {
            "device": None,
            "kind": "update",
            "state": None,
            "severity": "warning",
            "title": "Went back from version %s" % version,
            "text": "The version that was on this board before runs again, because of %s: %s." % (version, back.get("why")),
            "data": {"version": version, "reason": str(back.get("why"))},
        }
    )
    went_back = {"version": version, "why": str(back.get("why"))}
    state["back"] = None
    write(state)


def facts():
    """For hello and status: which slot runs, whether on trial, and what was gone back from."""
    state = read()
    trial = state.get("trial")
    known = {"slot": trial or state.get("slot"), "trial": trial is not None}
    if went_back:
        known["went_back"] = went_back
    return known
