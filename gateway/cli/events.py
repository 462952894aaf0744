"""List events, the newest last; with --follow, print new ones as they come."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING

from gateway.cli import common, show

if TYPE_CHECKING:
    from gateway.api import Event
    from gateway.store import Store

_LOOK_ROUND = 0.3  # seconds between looks at whether the store has changed
_PAGE = 200  # events read at once while following


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--follow", "-f", action="store_true", help="go on with new events until Ctrl-C")
    parser.add_argument("--json", action="store_true", help="one event a line, as MQTT carries it")
    parser.add_argument("--device", metavar="ID", help="only this device's")
    parser.add_argument(
        "--limit", "-n", type=common.count, default=50, metavar="N", help="how many old ones (default 50)"
    )


def run(args: argparse.Namespace) -> int:
    store = common.open_store(args)
    last = store.rows("SELECT coalesce(max(seq), 0) FROM events")[0][0]
    found = store.events(args.limit, device=args.device)
    last = max([last, *(seq for seq, _ in found)])  # one may have come between the two
    events = [event for _, event in found]
    if args.json:
        write = _write_json
    else:
        table = show.Table("TIME", "DEVICE", "KIND", "STATE", "SEVERITY", "TITLE", least=(19, 16, 13, 5, 8))
        table.fit(_row(event) for event in events)
        print(table.head())

        def write(event: Event) -> None:
            print(table.line(_row(event)))

    for event in events:
        write(event)
    if args.follow:
        sys.stdout.flush()
        with contextlib.suppress(KeyboardInterrupt):
            for event in _new_events(store, last, args.device):
                write(event)
    return 0


def _write_json(event: Event) -> None:
    print(show.json_line(event))


def _row(event: Event) -> list[str]:
    when = show.local_time(datetime.fromisoformat(event["time"]).timestamp())
    return [when, event["device"]["id"], event["kind"], event["state"] or "", event["severity"], event["title"]]


def _new_events(store: Store, last: int, device: str | None) -> Iterator[Event]:
    """Every event above `last`, for ever. Whatever was printed is flushed before each wait."""
    seen = None
    while True:
        version = store.rows("PRAGMA data_version")[0][0]  # a change by anybody else; costs no reading
        page = seen != version
        while page:
            rows = store.rows(
                "SELECT seq, event FROM events WHERE seq > ? AND (? IS NULL OR device = ?) ORDER BY seq LIMIT ?",
                *(last, device, device, _PAGE),
            )
            for last, text in rows:  # noqa: B007  # `last` is where the next page begins
                yield json.loads(text)
            page = len(rows) == _PAGE
        seen = version
        sys.stdout.flush()
        time.sleep(_LOOK_ROUND)
