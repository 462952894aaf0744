"""`mailwire run`: the gateway itself, until a signal ends it.

SIGTERM and SIGINT stop it gracefully (a second one at once), SIGHUP makes it read its configuration again. What a
person needs to know at the start goes to standard output in a few lines, everything else to the log on standard error.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import shlex
import signal
import sqlite3
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from gateway import __version__
from gateway.api import Source, Target
from gateway.app import App
from gateway.cli import common
from gateway.config import ConfigErrors
from gateway.store import StoreBroken, is_damage

log = logging.getLogger("mailwire")

_GREETING_WAIT = 3.0  # seconds that the start-up message waits for a broker


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--log", choices=("debug", "info", "warning", "error"), help="how much to log (default: the configuration's)"
    )


def run(args: argparse.Namespace) -> int:
    """Run until a signal; 1 if the store can't be used or no source of mail could start."""
    chosen = common.settings(args)
    level = (args.log or chosen.settings.log).upper()
    logging.basicConfig(format="%(asctime)s %(levelname)-7s %(name)s: %(message)s", level=level, stream=sys.stderr)
    # What the format above never shows is not worked out (logging's own advice, "Optimization" in the Python manual).
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    where = (chosen.settings, chosen.loader, chosen.folder, chosen.path)
    app = App(*where)
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            while (code := runner.run(_serve(app))) is None:
                app = App(*where, condemned=app.damage)
            return code
    except StoreBroken as error:
        print(error, file=sys.stderr)
        return 1


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's where it is installed: a connection and a reply cost half as much in it. Everything runs without."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


async def _serve(app: App) -> int | None:
    """The exit code; None: start anew, with a new store in the place of a damaged one."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    reloads: set[asyncio.Task[None]] = set()

    def stop() -> None:
        if ended.is_set():
            os._exit(130)  # asked twice: the person does not want to wait; nothing acknowledged is lost by it
        ended.set()

    def reload() -> None:
        task = asyncio.create_task(_reload(app))
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    try:
        await app.start()
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            raise
        app.damage = str(error)
        await app.stop()
        return None
    loop.add_signal_handler(signal.SIGTERM, stop)
    loop.add_signal_handler(signal.SIGINT, stop)
    loop.add_signal_handler(signal.SIGHUP, reload)
    sources = [one for one in app.running.values() if isinstance(one.instance, Source)]
    if sources and all(one.state == "broken" for one in sources):
        for one in sources:
            print(f"{one.name}: {one.error}", file=sys.stderr)
        await app.stop()
        return 1
    await _wait_for_targets(app, ended)
    for line in greeting(app):
        print(line, flush=True)
    gc.collect()
    gc.freeze()  # what is there now stays: the collector need not look at it again and again while mail comes in
    await _first(ended.wait(), app.is_damaged.wait())
    if app.damage and not ended.is_set():
        log.error("the store is damaged (%s): starting again with a new one", app.damage)
    else:
        log.info("stopping: what is in flight is finished first")
    await app.stop()
    return 0 if ended.is_set() else None


async def _wait_for_targets(app: App, ended: asyncio.Event) -> None:
    """The start-up message is better when it can name the broker; but it never waits long for one."""

    async def all_ready() -> None:
        for one in app.running.values():
            if isinstance(one.instance, Target) and one.instance.event_bus:
                await one.is_ready.wait()

    await _first(all_ready(), ended.wait(), asyncio.sleep(_GREETING_WAIT))


async def _first(*waits: Coroutine[Any, Any, Any]) -> None:
    """Until one of them is over; the others are given up."""
    tasks = [asyncio.create_task(wait) for wait in waits]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def greeting(app: App) -> list[str]:
    """The start-up message: what runs where, and two lines to copy."""
    lines = [f"Mailwire {__version__} is running. Ctrl-C stops it."]
    for one in app.running.values():
        about = one.instance.describe() if one.state == "running" else f"{one.state}: {one.error}"
        lines.append(f"  {one.name:<12} {about}")
    lines.append(f"  {'data':<12} {app.folder}")
    if app.config_file:
        lines.append(f"  {'settings':<12} {app.config_file}")
    mailwire = shlex.quote(str(Path(sys.argv[0]).resolve())) if Path(sys.argv[0]).name == "mailwire" else "mailwire"
    for one in app.running.values():
        if one.state == "running" and (hint := one.instance.try_it(mailwire)):
            lines += ["", f"{hint[0]}:", f"  {hint[1]}"]
    return lines


async def _reload(app: App) -> None:
    try:
        await app.reload()
    except ConfigErrors as error:
        log.error("the new configuration is refused, the old one goes on:\n%s", error)
    except OSError as error:
        log.error("the configuration could not be read, the old one goes on: %s", error)
