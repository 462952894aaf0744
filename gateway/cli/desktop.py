"""Run Mailwire on a desktop, for the person there; `setup` asks five questions first, `uninstall` undoes it.

It is `mailwire run` with a configuration and a data folder of its own, so that a gateway may run on the same machine.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from gateway import keyring, paths
from gateway.cli import autostart, common, desktop_setup, show
from gateway.cli import run as gateway


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", nargs="?", choices=("run", "setup", "uninstall"), default="run", help="default: run")
    gateway.add(parser)
    desktop_setup.add(parser.add_argument_group("setup: what is not given is asked"))


def run(args: argparse.Namespace) -> int:
    path = args.config or paths.desktop_config_file()
    if args.action == "setup":
        return desktop_setup.run(args, path)
    if args.action == "uninstall":
        return _uninstall(path)
    if not path.exists():
        show.fail(f"{path}: there is no such file yet. `mailwire desktop setup` asks five questions and writes it.", 2)
    args.config = path
    args.data = args.data or common.settings(args).settings.store.data or paths.desktop_data_dir()
    return gateway.run(args)


def _uninstall(path: Path) -> int:
    try:
        for gone in autostart.remove():
            print(f"{gone}: removed")
    except OSError as error:
        show.fail(f"{error.filename}: {error.strerror}.")
    for name in desktop_setup.SECRETS:
        try:
            if keyring.remove(name):
                print(f"{name}: removed from the keyring")
        except keyring.NoKeyring:
            break
    print(f"{path}, what it names, and {paths.desktop_data_dir()} stay: they are yours. Remove them by hand.")
    print("If it runs now, it goes on until you log out.")
    return 0
