"""Have kept mails interpreted and delivered once more: after a change of routes or profiles, say.

The mails keep their ids, and so do their events.
"""

from __future__ import annotations

import argparse
import json
from datetime import datetime

from gateway.cli import common, show
from gateway.store import REPLAY


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("ids", nargs="*", metavar="ID", help="mails, as `mailwire mails` lists them")
    parser.add_argument("--since", type=_moment, metavar="TIME", help="all since then: 2026-11-22, or 2026-11-22T19:11")
    parser.add_argument("--device", metavar="ID", help="all of this device (with --since: of those)")


def run(args: argparse.Namespace) -> int:
    if not args.ids and args.since is None and args.device is None:
        show.fail("Which mails? Name their ids (`mailwire mails` lists them), or say --since TIME or --device ID.", 2)
    folder = common.data_folder(args)
    store = common.open_store_in(folder)
    ids = json.dumps(args.ids) if args.ids else None
    found = [
        row[0]
        for row in store.rows(
            "SELECT id FROM mails WHERE (? IS NULL OR id IN (SELECT value FROM json_each(?))) "
            "AND (? IS NULL OR received >= ?) AND (? IS NULL OR id IN (SELECT id FROM events WHERE device = ?))",
            *(ids, ids, args.since, args.since, args.device, args.device),
        )
    ]
    unknown = [mail_id for mail_id in args.ids if mail_id not in found]
    count = common.alter(store, REPLAY, [json.dumps(found)])
    for mail_id in unknown:
        print(f"{show.plain(mail_id)}: no such mail is kept")
    print(f"{show.number(count, 'mail')} to be interpreted once more" + (f", {common.when(folder)}." if count else "."))
    return 1 if unknown or not count else 0


def _moment(text: str) -> float:
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no time; write 2026-11-22 or 2026-11-22T19:11") from None
