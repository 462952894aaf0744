"""What is still owed to the targets, and what they refused: list it, retry it, drop it.

The exit code of a list is 1 if any of it has failed so far, for scripts that watch.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gateway.cli import common, show

if TYPE_CHECKING:
    from gateway.store import Store

_STATES = ("waiting", "held", "dead", "expired")
_NEW_EXPIRY = 24 * 3600.0  # seconds that an expired delivery gets when it is retried
Row = tuple[Any, ...]  # event, target, device, state, attempts, due, expires, reason


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", nargs="?", choices=("list", "retry", "drop"), default="list", help="default: list")
    parser.add_argument("ids", nargs="*", metavar="ID", help="events; without: what the options say")
    parser.add_argument("--target", metavar="NAME", help="only what this target is owed")
    parser.add_argument(
        "--state", choices=_STATES, help="only these; held: for their time; dead: the target refused them for good"
    )
    parser.add_argument("--all", action="store_true", help="retry, drop: all there is")
    parser.add_argument("--yes", action="store_true", help="drop: don't ask")
    parser.add_argument("--json", action="store_true", help="list: one delivery a line")


def run(args: argparse.Namespace) -> int:
    if args.action != "list" and not (args.ids or args.target or args.state or args.all):
        show.fail(f"{args.action.capitalize()} what? Name ids, --target, --state, or --all.", 2)
    folder = common.data_folder(args)
    store = common.open_store_in(folder)
    rows = owed(store, args.ids, args.target, args.state)
    if args.action == "list":
        _list(rows, as_json=args.json)
        return 1 if any(state in ("dead", "expired") or attempts for _, _, _, state, attempts, *_ in rows) else 0
    found = {row[0] for row in rows}
    unknown = [event_id for event_id in args.ids if event_id not in found]
    for event_id in unknown:
        print(f"{show.plain(event_id)}: nothing like that is owed")
    if args.action == "drop":
        if rows and not args.yes and not _sure(len(rows)):
            print("Nothing was dropped.")
            return 1
        count = _drop(store, rows)
        print(f"{_deliveries(count)} dropped.")
    else:
        count = _retry(store, rows)
        print(f"{_deliveries(count)} tried again" + (f" {common.when(folder)}." if count else "."))
    return 1 if unknown else 0


def owed(store: Store, ids: Sequence[str] = (), target: str | None = None, state: str | None = None) -> list[Row]:
    """What is owed for these events, or for all, to this target, or to all, in this state, or in any."""
    these = json.dumps(ids) if ids else None
    return store.rows(
        "SELECT d.event, d.target, e.device, d.state, d.attempts, d.due, d.expires, d.reason "
        "FROM deliveries d LEFT JOIN events e ON e.id = d.event "
        "WHERE (? IS NULL OR d.event IN (SELECT value FROM json_each(?))) "
        "AND (? IS NULL OR d.target = ?) AND (? IS NULL OR d.state = ?) ORDER BY d.event, d.target",
        *(these, these, target, target, state, state),
    )


def _drop(store: Store, rows: list[Row]) -> int:
    sql = "DELETE FROM deliveries WHERE event || ' ' || target IN (SELECT value FROM json_each(?))"
    return common.alter(store, sql, [_keys(rows)])


def _retry(store: Store, rows: list[Row]) -> int:
    now = time.time()
    sql = (
        "UPDATE deliveries SET state = 'waiting', due = 0, expires = CASE WHEN expires <= ? THEN ? ELSE expires END "
        "WHERE event || ' ' || target IN (SELECT value FROM json_each(?))"
    )
    return common.alter(store, sql, [now, now + _NEW_EXPIRY, _keys(rows)])


def _keys(rows: list[Row]) -> str:
    return json.dumps([f"{event} {target}" for event, target, *_ in rows])


def _list(rows: list[Row], *, as_json: bool) -> None:
    if as_json:
        for row in rows:
            print(show.json_line(document(row)))
        return
    if not rows:
        print("Nothing is owed: all targets have had what they should.")
        return
    show.Table.print(
        ("ID", "TARGET", "DEVICE", "STATE", "TRIES", "NEXT TRY", "REASON"),
        [
            (event_id, target, device or "", state, str(attempts), _next_try(state, due), reason)
            for event_id, target, device, state, attempts, due, _, reason in rows
        ],
    )


def _next_try(state: str, due: float) -> str:
    if state not in ("waiting", "held"):
        return "never"
    return "now" if due <= time.time() else show.local_time(due)


def document(row: Row) -> dict[str, Any]:
    """One delivery for --json."""
    event_id, target, device, state, attempts, due, expires, reason = row
    return {
        "id": event_id,
        "target": target,
        "device": device,
        "state": state,
        "attempts": attempts,
        "due": common.iso_time(due) if state in ("waiting", "held") else None,
        "expires": common.iso_time(expires),
        "reason": reason,
    }


def _deliveries(count: int) -> str:
    return f"{count} delivery" if count == 1 else f"{count} deliveries"


def _sure(count: int) -> bool:
    if not sys.stdin.isatty():
        show.fail(f"{_deliveries(count)} would be dropped for good. Say --yes where nobody can be asked.", 2)
    try:
        return input(f"Drop {_deliveries(count)} for good? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False
