"""`mailwire run`: the gateway itself, until a signal ends it.

SIGTERM and SIGINT stop it gracefully (a second one at once), SIGHUP makes it read its configuration again. What a
person needs to know at the start goes to standard output in a few lines, everything else to the log on standard error.
Under systemd it says when it is ready, and gives signs of life (see `gateway.systemd`).
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
import stat
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from gateway import __version__, logs, systemd
from gateway.api import Source, Target
from gateway.app import App
from gateway.cli import common, show
from gateway.config import ConfigErrors
from gateway.store import SPOOL, StoreBroken, is_damage

log = logging.getLogger("mailwire")

_GREETING_WAIT = 3.0  # seconds that the start-up message waits for a broker


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--log", choices=("debug", "info", "warning", "error"), help="how much to log (default: the configuration's)"
    )
    parser.add_argument(
        "--log-format",
        choices=("auto", "text", "json"),
        help="auto: text on a terminal and in systemd's journal, JSON elsewhere (default: the configuration's)",
    )


def run(args: argparse.Namespace) -> int:
    """Run until a signal; 1 if the store can't be used or no source of mail could start."""
    chosen = common.settings(args)
    app = App(chosen.settings, chosen.loader, chosen.folder, chosen.path)
    form, level = args.log_format or chosen.settings.log_format, args.log or chosen.settings.log
    logs.begin(form, level, sys.stderr, lambda text: app.settings.hide(text))  # the settings are others after a reload
    sys.excepthook = _log_fault  # what is printed otherwise is not looked through for secrets
    threading.excepthook = lambda fault: _log_fault(fault.exc_type, fault.exc_value, fault.exc_traceback)
    _keep_private(chosen.folder)
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            while (code := runner.run(_serve(app))) is None:
                # With the settings of the last reload.
                app = App(app.settings, chosen.loader, chosen.folder, chosen.path, condemned=app.damage)
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


def _log_fault(kind: type[BaseException], fault: BaseException | None, traceback: TracebackType | None) -> None:
    if not issubclass(kind, SystemExit | KeyboardInterrupt):
        log.critical("this must not happen", exc_info=(kind, fault or kind(), traceback))


def _keep_private(folder: Path) -> None:
    """What is made from now on is for this user alone, and so is what is there already."""
    os.umask(0o077)
    widened = []
    for path in _kept(folder):
        try:
            mode = stat.S_IMODE(path.lstat().st_mode)
            if mode & 0o077 and not path.is_symlink():
                path.chmod(mode & ~0o077)
                widened.append(path)
        except FileNotFoundError:  # a passing file
            continue
        except OSError as error:
            log.warning("other users may read %s, and this can't be changed: %s", path, error.strerror)
    if widened:
        more = f" and {len(widened) - 1} more below" if len(widened) > 1 else ""
        log.warning("other users could read %s%s: now they can't", widened[0], more)


def _kept(folder: Path) -> Iterator[Path]:
    """The data folder and what is in it; but spooled mails, which may be many, were made for this user alone."""
    if folder.is_dir():
        yield folder
        for root, folders, files in os.walk(folder):
            yield from (Path(root, name) for name in (*folders, *files))
            if Path(root) == folder and SPOOL in folders:
                folders.remove(SPOOL)


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
            print(app.settings.hide(f"{one.name}: {one.error}"), file=sys.stderr)
        await app.stop()
        return 1
    await _wait_for_targets(app, ended)
    for line in greeting(app):
        print(line, flush=True)
    gc.collect()
    gc.set_threshold(50_000, 50, 100)  # a mail hardly leaves a cycle behind: the collector may look more rarely
    gc.freeze()  # what is there now stays: the collector need not look at it again and again while mail comes in
    _say_unused()
    systemd.notify("READY=1", f"STATUS=Mailwire {__version__}, data in {app.folder}")
    watchdog = asyncio.create_task(_give_signs_of_life(app), name="watchdog")
    await _first(ended.wait(), app.is_damaged.wait())
    if app.damage and not ended.is_set():
        log.error("the store is damaged (%s): starting again with a new one", app.damage)
    else:
        systemd.notify("STOPPING=1")
        log.info("stopping: what is in flight is finished first")
    watchdog.cancel()
    await app.stop()
    return 0 if ended.is_set() else None


async def _give_signs_of_life(app: App) -> None:
    """Each proves that the event loop turns and that the store's writer answers; whether its disk is full or not."""
    within = systemd.watchdog_seconds()
    while within:
        await app.store.flush()
        systemd.notify("WATCHDOG=1")
        await asyncio.sleep(within / 3)


def _say_unused() -> None:
    for host, port in systemd.passed.unused():
        log.warning(
            "systemd listens on %s for this gateway, but no SMTP server does: add it to 'listen', or remove it from "
            "the socket unit. Who connects there waits in vain.",
            show.address(host, port),
        )


async def _wait_for_targets(app: App, ended: asyncio.Event) -> None:
    """The start-up message is better when it can name the broker; but it never waits long for one."""

    async def all_ready() -> None:
        for one in app.running.values():
            if isinstance(one.instance, Target) and one.instance.takes_all(one.setting.config):
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
        lines.append(app.settings.hide(f"  {one.name:<12} {about}"))
    lines.append(f"  {'data':<12} {app.folder}")
    if app.config_file:
        lines.append(f"  {'settings':<12} {app.config_file}")
    mailwire = shlex.quote(str(Path(sys.argv[0]).resolve())) if Path(sys.argv[0]).name == "mailwire" else "mailwire"
    for one in app.running.values():
        if one.state == "running" and (hint := one.instance.try_it(mailwire)):
            lines += ["", f"{hint[0]}:", f"  {hint[1]}"]
    return lines


async def _reload(app: App) -> None:
    systemd.notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
    try:
        await app.reload()
        _say_unused()
    except ConfigErrors as error:
        log.error("the new configuration is refused, the old one goes on")
        for problem in error.problems:
            log.error("%s", problem)
    except OSError as error:
        log.error("the configuration could not be read, the old one goes on: %s", error)
    finally:
        systemd.notify("READY=1")
