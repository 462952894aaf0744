"""List devices; `rename ID NAME` and `forget ID` change what was learned; `mute ID [TIME]` and `unmute ID`.

A running gateway holds its devices in memory, so renaming and forgetting are for when it does not run; it takes the
same requests over MQTT. Muting is for either: people are not told of the device for that time (an hour).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import shlex
import time
from typing import TYPE_CHECKING, Any

from gateway.cli import common, show

if TYPE_CHECKING:
    from gateway.config import Settings
    from gateway.store import Store


_UNKNOWN = "{}: no such device is known. `mailwire devices` lists those that are."
_ACTIONS = ("list", "rename", "forget", "mute", "unmute")


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", nargs="?", choices=_ACTIONS, default="list", help="default: list")
    parser.add_argument("id", nargs="?", metavar="ID", help="all but list: the device")
    parser.add_argument(
        "name", nargs="?", metavar="NAME|TIME", help="rename: what it shall be called; mute: for how long (1 h)"
    )
    parser.add_argument("--json", action="store_true", help="list: one device a line")


def run(args: argparse.Namespace) -> int:
    if args.action == "list":
        if args.id:
            show.fail(f"mailwire devices lists all; what shall become of {args.id}: rename, forget or mute?", 2)
        return _list(args)
    if not args.id or (args.action == "rename" and not args.name):
        show.fail(f"Write: mailwire devices {args.action} ID" + (" NAME" if args.action == "rename" else ""), 2)
    return _mute(args) if args.action in ("mute", "unmute") else _change(args)


def _list(args: argparse.Namespace) -> int:
    from gateway.hours import zone_of
    from gateway.registry import Registry

    settings = common.settings(args).settings
    registry = Registry(lambda *_: None)
    registry.zone = zone_of(settings.timezone) if settings.timezone else None
    store = common.open_store(args)
    documents = list(store.devices())
    registry.load(documents)
    devices = [document["device"] for document in documents]
    expected = {device["id"]: registry.expected(device["id"], settings.devices, time.time()) for device in devices}
    muted = _muted(store)
    if args.json:
        for device in devices:
            for key in ("first_seen", "last_seen"):
                device[key] = common.iso_time(device[key]) if device[key] else None
            device["muted"] = {
                target: common.iso_time(until) if until < math.inf else None  # it has no end
                for target, until in muted.get(device["id"], {}).items()
            }
            device["expected"] = {
                kind: {"every": str(one.every), "next": common.iso_time(one.next), "missing": one.missing}
                for kind, one in expected[device["id"]].items()
            }
            print(show.json_line(device))
        return 0
    if not devices:
        print("No devices are known yet: the first mail of each one makes it known.")
        return 0
    heads = ["ID", "NAME", "MANUFACTURER", "MODEL", "PROFILE", "KINDS", "LAST SEEN", "MAILS", "STATES"]
    rows = [
        [
            device["id"],
            device["name"],
            device["manufacturer"] or "",
            device["model"] or "",
            device["profile"] or "",
            ", ".join(device["kinds"]),
            show.local_time(device["last_seen"]) if device["last_seen"] else "never",
            str(device["mails"]),
            ", ".join(f"{kind} {state}" for kind, state in device["states"].items()),
        ]
        for device in devices
    ]
    if any(expected.values()):
        heads += ["REPORTS", "NEXT"]
        for row, reports in zip(rows, map(dict.items, expected.values()), strict=True):
            row.append(", ".join(f"{kind} {one.every}" for kind, one in reports))
            row.append(", ".join("missing" if one.missing else show.local_time(one.next) for _, one in reports))
    if muted:
        heads.append("MUTED")
        for row, device in zip(rows, devices, strict=True):
            row.append(_till(muted.get(device["id"], {})))
    show.Table.print(heads, rows)
    return 0


def _till(mutes: dict[str, float]) -> str:
    return ", ".join(show.till(until) + (f" ({target})" if target else "") for target, until in mutes.items())


def _muted(store: Store) -> dict[str, dict[str, float]]:
    """Device -> target ("": all that tell people) -> Unix time."""
    from gateway.noise import mutes

    found: dict[str, dict[str, float]] = {}
    for (device, target), until in mutes(store).items():
        if until > time.time():
            found.setdefault(device, {})[target] = until
    return found


def _mute(args: argparse.Namespace) -> int:
    from gateway.api import seconds

    folder = common.data_folder(args)
    store = common.open_store_in(folder)
    if args.id not in [document["device"]["id"] for document in store.devices()]:
        show.fail(_UNKNOWN.format(args.id))
    if args.action == "unmute":
        count = common.alter(store, "DELETE FROM mutes WHERE device = ?", [args.id])
        print(f"People are told of {args.id} again {common.when(folder)}." if count else f"{args.id} was not muted.")
        return 0
    try:
        until = time.time() + float(str(seconds(args.name or "1 h")))
    except ValueError as error:
        show.fail(f"{args.name}: this {error}.", 2)
    common.alter(store, "INSERT OR REPLACE INTO mutes (device, target, until) VALUES (?, '', ?)", [args.id, until])
    print(f"People are not told of {args.id} until {show.local_time(until)}, beginning {common.when(folder)}.")
    return 0


def _change(args: argparse.Namespace) -> int:
    from gateway.store import StoreBroken

    chosen = common.settings(args)
    store = common.open_store_in(chosen.folder)
    if common.gateway_runs(chosen.folder):
        show.fail(_over_mqtt(args))
    try:
        store.open(exclusive=True)  # so that no gateway starts meanwhile, with the devices as they were
        document = _changed(store, chosen.settings, args)
        if document is None:
            common.alter(store, "DELETE FROM devices WHERE id = ?", [args.id])
        else:
            common.alter(store, "UPDATE devices SET document = ? WHERE id = ?", [json.dumps(document), args.id])
    except StoreBroken as error:
        show.fail(str(error))
    except LookupError:
        show.fail(_UNKNOWN.format(args.id))
    except ValueError as error:
        show.fail(f"{error}.")
    finally:
        asyncio.run(store.close())
    done = f"is now called {show.plain(args.name)}" if args.action == "rename" else "is forgotten"
    print(f"{args.id} {done}.")
    return 0


def _changed(store: Store, settings: Settings, args: argparse.Namespace) -> dict[str, Any] | None:
    """What the device becomes, None for nothing; the registry knows what is allowed. Raises LookupError, ValueError."""
    from gateway.registry import Registry

    saved: dict[str, dict[str, Any] | None] = {}
    registry = Registry(saved.__setitem__)
    registry.load(store.devices())
    registry.configure(settings.devices, settings.learn)
    if args.action == "rename":
        registry.rename(args.id, args.name)
    else:
        registry.forget(args.id)
    return saved[args.id]


def _over_mqtt(args: argparse.Namespace) -> str:
    payload = {"device": args.id} | ({"name": args.name} if args.action == "rename" else {})
    return (
        "The gateway runs, and holds its devices in memory. Ask it over MQTT (or stop it first):\n"
        f"  mosquitto_pub -t mailwire/bridge/request/{args.action} -m {shlex.quote(show.json_line(payload))}"
    )
