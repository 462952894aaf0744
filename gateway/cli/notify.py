"""Tell people something, through a target of the configuration: `mailwire notify phone The cellar is wet`.

It is put into the store, where a running gateway finds it within a second, and one that starts finds it then.
"""

from __future__ import annotations

import argparse
import asyncio
import mimetypes
import sys
import time
from pathlib import Path
from typing import Any

from gateway import draft, interpret
from gateway.api import Device, Envelope, StoreTrouble, Target, to_json, words
from gateway.cli import common, show
from gateway.pipeline import iso_time
from gateway.problem import nearest
from gateway.registry import UNKNOWN
from gateway.store import Mail
from gateway.ulid import UlidMaker

_SOURCE = "notify"


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", metavar="TARGET", help="whom to tell: the name of a target in the configuration")
    parser.add_argument("message", nargs="*", metavar="WORD", help="what to tell; without: standard input")
    parser.add_argument("--title", metavar="TEXT", help="default: the first line")
    parser.add_argument("--severity", choices=words.SEVERITIES, default="info", help="default: info")
    parser.add_argument("--attach", type=Path, action="append", default=[], metavar="FILE", help="again for more")
    parser.add_argument("--json", action="store_true", help="print the event")


def run(args: argparse.Namespace) -> int:
    chosen = common.settings(args)
    patience = _target(chosen, args.target).patience
    text = common.text(" ".join(args.message) if args.message else sys.stdin.buffer.read())
    if not text.strip() and not args.title:
        show.fail("There is nothing to tell: write it after the target, or give it on standard input.", 2)
    try:
        files = [_file(path) for path in args.attach]
    except OSError as error:
        show.fail(f"{error.filename}: can't be attached: {error.strerror}.", 2)
    title, _, rest = text.strip().partition("\n")
    heading = common.text(args.title or "")
    said = {"title": heading or title, "text": text if heading else rest.strip() or title}
    said["severity"] = args.severity
    now = time.time()
    event = draft.to_event(said, UlidMaker().new(), iso_time(now), _SOURCE, Device(UNKNOWN, _SOURCE))
    mail = None
    if files:
        content = draft.to_mail(event, files)
        event["attachments"] = interpret.read(content).attachments
        mail = Mail(event["id"], now, Envelope(_SOURCE, "", "", "", []), len(content), "", "done", content)
    store = common.open_store_in(chosen.folder)
    try:
        asyncio.run(_keep(store, event, mail, args.target, now + patience))
    except StoreTrouble as error:
        show.fail(f"It could not be stored, so nobody is told: {error}. Try again later.")
    print(show.json_line(event) if args.json else f"{args.target} is told {common.when(chosen.folder)}: {event['id']}")
    return 0


def _target(chosen: common.Chosen, name: str) -> Any:
    targets = [
        one
        for one, setting in chosen.settings.integrations.items()
        if issubclass(chosen.loader.load(setting.type).factory, Target)
    ]
    if name not in targets:
        hint = nearest(name, targets, "Targets are") or "The configuration has no target."
        show.fail(f"There is no target '{show.plain(name)}'. {hint}", 2)
    return chosen.loader.load(chosen.settings.integrations[name].type).factory


def _file(path: Path) -> tuple[str, str, bytes]:
    media_type = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return path.name, media_type, path.read_bytes()


async def _keep(store: Any, event: Any, mail: Mail | None, target: str, expires: float) -> None:
    store.start()
    try:
        if mail:
            kept: asyncio.Future[StoreTrouble | None] = asyncio.get_running_loop().create_future()
            store.keep(mail, kept.set_result)
            if trouble := await kept:
                raise trouble
        facts = (event["id"], time.time(), event["device"]["id"], to_json(event).decode())
        store.note(
            lambda: (
                ("INSERT INTO events (id, time, device, event) VALUES (?, ?, ?, ?)", facts),
                (
                    "INSERT INTO deliveries (event, target, state, expires) VALUES (?, ?, 'waiting', ?)",
                    (event["id"], target, expires),
                ),
            )
        )
        if not await store.flush():
            raise store.writer.trouble or StoreTrouble("the store can't be written now")
    finally:
        await store.close()
