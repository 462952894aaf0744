"""List the peers that are kept out because their logins failed; `lift ADDRESS` lets one in again."""

from __future__ import annotations

import argparse
from pathlib import Path

from gateway.cli import common, show


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", nargs="?", choices=("list", "lift"), default="list", help="default: list")
    parser.add_argument("peers", nargs="*", metavar="ADDRESS", help="lift: who is let in again")
    parser.add_argument("--all", action="store_true", help="lift: everybody")
    parser.add_argument("--json", action="store_true", help="list: one ban a line")


def run(args: argparse.Namespace) -> int:
    from gateway import bans

    data = common.data_folder(args)
    common.has_store(data)
    folders = {path.parent.name: path for path in sorted(data.glob(f"integrations/*/{bans.FOLDER}"))}
    if args.action == "lift":
        if not args.peers and not args.all:
            show.fail("Lift which? Name addresses, or --all.", 2)
        return _lift(folders, args.peers or sorted({ban.peer for one in folders.values() for ban in bans.active(one)}))
    if args.peers:
        show.fail(f"mailwire bans lists all. To let somebody in: mailwire bans lift {args.peers[0]}", 2)
    found = [(name, ban) for name, folder in folders.items() for ban in bans.active(folder)]
    if args.json:
        for name, ban in found:
            until = common.iso_time(ban.until)
            print(show.json_line({"peer": ban.peer, "server": name, "until": until, "failures": ban.failures}))
    else:
        show.Table.print(
            ("ADDRESS", "SERVER", "UNTIL", "FAILED LOGINS"),
            [(ban.peer, name, show.local_time(ban.until), str(ban.failures)) for name, ban in found],
        )
    return 0


def _lift(folders: dict[str, Path], peers: list[str]) -> int:
    from gateway import bans

    code = 0
    for peer in peers:
        try:
            lifted = sum(bans.lift(folder, peer) for folder in folders.values())
        except OSError as error:
            show.fail(f"{peer}: its ban can't be lifted: {error.strerror}. Run this as the gateway's user, or as root.")
        print(show.plain(f"{peer} is let in again." if lifted else f"{peer}: no such address is kept out."))
        code |= not lifted
    return code
