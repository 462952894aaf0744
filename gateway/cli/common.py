"""Where the configuration is and where the data is: decided here, and here only.

The configuration: `--config`, else `MAILWIRE_CONFIG`, else `mailwire.yaml` in this folder, else the platform's place.
The data: `--data`, else the configuration's `store.data`, else `MAILWIRE_DATA`, else the platform's place.
"""

from __future__ import annotations

import argparse
import mmap
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from gateway.cli.show import fail, number

if TYPE_CHECKING:
    from gateway.config import Settings
    from gateway.interpret.families import Library
    from gateway.loader import Loader
    from gateway.store import Mail, Store


class Chosen(NamedTuple):
    """What a command works with."""

    settings: Settings
    loader: Loader
    path: Path | None
    folder: Path


def add_options(parser: argparse.ArgumentParser) -> None:
    """Those that every command has."""
    group = parser.add_argument_group("where things are")
    group.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="the configuration (default: MAILWIRE_CONFIG, else mailwire.yaml here, else your own)",
    )
    group.add_argument(
        "--data",
        type=Path,
        metavar="FOLDER",
        help="the data folder (default: what the configuration says, else MAILWIRE_DATA, else your own)",
    )


def config_path(args: argparse.Namespace) -> Path | None:
    """The configuration file, there or not; None: there is none to be read."""
    from gateway import paths

    here = Path("mailwire.yaml")
    if args.config:
        return Path(args.config)
    return here if not os.environ.get("MAILWIRE_CONFIG") and here.exists() else paths.config_file()


def make_loader(path: Path | None) -> Loader:
    """The loader that goes with this configuration."""
    from gateway.loader import CUSTOM_DIR, Loader

    return Loader((path.parent if path else Path()) / CUSTOM_DIR)


def library(path: Path | None) -> Library:
    """The families of devices that go with this configuration file."""
    from gateway.interpret import families

    own = path.parent / families.OWN if path else None
    return families.Library(families.OURS, own) if own and own.is_dir() else families.ours()


def settings(args: argparse.Namespace) -> Chosen:
    """The checked configuration; ends the command with all of its mistakes, exit code 2, if there are any."""
    from gateway.config import ConfigErrors, load

    path = config_path(args)
    loader = make_loader(path)
    try:
        chosen = load(path, loader=loader)
    except ConfigErrors as errors:
        fail(str(errors), 2)
    return Chosen(chosen, loader, path, folder_of(args, chosen))


def data_folder(args: argparse.Namespace) -> Path:
    """Reads the configuration only if the answer can be there: that takes its time on a small machine."""
    if args.data or config_path(args) is None:
        return folder_of(args, None)
    return settings(args).folder


def folder_of(args: argparse.Namespace, settings: Settings | None) -> Path:
    """The data folder, there or not."""
    from gateway import paths

    configured = settings.store.data if settings else None
    return Path(args.data or configured or paths.data_dir())


def open_store(args: argparse.Namespace) -> Store:
    """The store, for looking and for `alter`. Makes nothing: where no gateway ever ran, it ends the command."""
    return open_store_in(data_folder(args))


def open_store_in(folder: Path) -> Store:
    """As `open_store`, where the folder is known."""
    from gateway.store import Store, StoreBroken

    if not has_store(folder):
        fail(
            f"{folder}: there is no store here yet. It is made when the gateway runs for the first time "
            "(`mailwire run`); if it keeps its data elsewhere, name that folder with --data."
        )
    store = Store(folder)
    try:
        store.open()
    except StoreBroken as error:
        fail(str(error))
    return store


def has_store(folder: Path) -> bool:
    """Ends the command if this user may not even look."""
    from gateway.store import FILE

    try:
        return (folder / FILE).exists()
    except PermissionError:
        fail(f"{folder}: this user may not look into the data folder. Run this as the user that the gateway runs as.")


def gateway_runs(folder: Path) -> bool:
    """Does a gateway hold this folder's lock?"""
    from gateway import store

    return store.gateway_runs(folder)


def when(folder: Path) -> str:
    """When a gateway will take note of what was altered in its store."""
    return "within a second" if gateway_runs(folder) else "when the gateway runs again: it does not run now"


def alter(store: Store, sql: str, values: Sequence[Any]) -> int:
    """`Store.alter`, with words for a person when it fails. How many rows were changed."""
    import sqlite3

    try:
        return store.alter(sql, values)
    except sqlite3.Error as error:
        fail(f"{store.folder}: the store could not be changed: {error}. Nothing was changed; try again.")


def content(store: Store, mail: Mail) -> bytes | mmap.mmap:
    """The bytes of a kept mail; ends the command if they are no longer there."""
    try:
        return store.content(mail)
    except LookupError as error:
        fail(f"{error}.")


def iso_time(seconds: float) -> str:
    """As events say it."""
    from gateway import pipeline  # the long way, so only where --json asks for it

    return pipeline.iso_time(seconds)


def count(text: str) -> int:
    """argparse's type for `how many`."""
    if text.isascii() and text.isdigit():
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is no count; write 0 or more")


def text(said: str | bytes) -> str:
    """What a command line or a pipe said; what is no UTF-8 in it is Latin-1, as scripts of old have it."""
    raw = said if isinstance(said, bytes) else said.encode("utf-8", "surrogateescape")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")


class Listener(NamedTuple):
    """An address on which the gateway takes mail."""

    integration: str
    host: str
    port: int
    tls: str
    login: str


def listeners(settings: Settings) -> list[Listener]:
    """Those of every SMTP server in the configuration, in its order."""
    found = []
    for name, setting in settings.integrations.items():
        if setting.type == "smtp_server":
            config: Any = setting.config  # its Config, which nothing outside its folder imports
            for address in config.listen:
                host, _, port = address.rpartition(":")
                found.append(Listener(name, host.strip("[]"), int(port), config.tls, config.login))
    return found


def nearby(host: str) -> str:
    """Where a listener that takes `host` is reached from this machine."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  # nothing is bound here


def summary(settings: Settings) -> str:
    """`2 integrations, 1 route, 3 devices`."""
    counted = (("integration", settings.integrations), ("route", settings.routes), ("device", settings.devices))
    return ", ".join(number(len(things), thing) for thing, things in counted)
