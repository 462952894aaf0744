"""List devices; `rename ID NAME` and `forget ID` change what was learned.

A running gateway holds its devices in memory, so the two are for when it does not run; it takes the same requests over
MQTT.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shlex
import time
from typing import TYPE_CHECKING, Any

from gateway.cli import common, show

if TYPE_CHECKING:
    from gateway.config import Settings
    from gateway.store import Store


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", nargs="?", choices=("list", "rename", "forget"), default="list", help="default: list")
    parser.add_argument("id", nargs="?", metavar="ID", help="rename, forget: the device")
    parser.add_argument("name", nargs="?", metavar="NAME", help="rename: what it shall be called")
    parser.add_argument("--json", action="store_true", help="list: one device a line")


def run(args: argparse.Namespace) -> int:
    if args.action == "list":
        if args.id:
            show.fail(f"mailwire devices lists all; what shall become of {args.id}: rename or forget?", 2)
        return _list(args)
    if not args.id or (args.action == "rename" and not args.name):
        show.fail(f"Write: mailwire devices {args.action} ID" + (" NAME" if args.action == "rename" else ""), 2)
    return _change(args)


def _list(args: argparse.Namespace) -> int:
    from gateway.hours import zone_of
    from gateway.registry import Registry

    settings = common.settings(args).settings
    registry = Registry(lambda *_: None)
    registry.zone = zone_of(settings.timezone) if settings.timezone else None
    documents = list(common.open_store(args).devices())
    registry.load(documents)
    devices = [document["device"] for document in documents]
    expected = {device["id"]: registry.expected(device["id"], settings.devices, time.time()) for device in devices}
    if args.json:
        for device in devices:
            for key in ("first_seen", "last_seen"):
                device[key] = common.iso_time(device[key]) if device[key] else None
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
    show.Table.print(heads, rows)
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
        show.fail(f"{args.id}: no such device is known. `mailwire devices` lists those that are.")
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
