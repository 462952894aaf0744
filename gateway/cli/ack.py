"""List what nobody has acknowledged yet; or acknowledge it, so that nobody else is told (`escalate` in a route)."""

from __future__ import annotations

import argparse
import json
import time
from typing import TYPE_CHECKING

from gateway.cli import common, show

if TYPE_CHECKING:
    from gateway.noise import Unacknowledged


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "ids", nargs="*", metavar="ID", help="events, reminders of them, or summaries that tell of them"
    )
    parser.add_argument("--device", metavar="ID", help="all of this device")
    parser.add_argument("--all", action="store_true", help="all there is")
    parser.add_argument("--json", action="store_true", help="list: one event a line")


def run(args: argparse.Namespace) -> int:
    from gateway.noise import told_of, unacknowledged

    folder = common.data_folder(args)
    store = common.open_store_in(folder)
    found = unacknowledged(store)
    if not (args.ids or args.device or args.all):
        _list(found, as_json=args.json)
        return 0
    meant = told_of(store, args.ids)
    these = [one.event for one in found if args.all or one.event in meant or one.device == args.device]
    sql = "DELETE FROM escalations WHERE event IN (SELECT value FROM json_each(?))"
    count = common.alter(store, sql, [json.dumps(these)])
    print(f"{show.number(count, 'event')} acknowledged" + (f" {common.when(folder)}." if count else "."))
    return 0 if count or args.all else 1


def _list(found: list[Unacknowledged], *, as_json: bool) -> None:
    if as_json:
        for one in found:
            times = {"since": common.iso_time(one.since), "next": None if one.is_over else common.iso_time(one.due)}
            print(show.json_line({"id": one.event, "device": one.device, "kind": one.kind, "told": one.step, **times}))
        return
    if not found:
        print("Nothing waits to be acknowledged.")
        return
    show.Table.print(
        ("ID", "DEVICE", "KIND", "SINCE", "NEXT", "THEN TOLD"),
        [
            (
                one.event,
                one.device,
                one.kind,
                show.local_time(one.since),
                _next(one),
                ", ".join(one.how.to),
            )
            for one in found
        ],
    )


def _next(one: Unacknowledged) -> str:
    if one.is_over:
        return "never"
    return "now" if one.due <= time.time() else show.local_time(one.due)
