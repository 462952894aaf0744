"""Add, list, check or remove those who may log in to an SMTP server of the gateway.

They are kept as hashes in the data folder; a gateway that runs knows of a change at the next login. Users may stand in
the configuration too: `hash` makes what is to be written there.
"""

from __future__ import annotations

import argparse
import getpass
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from gateway.cli import common, show

if TYPE_CHECKING:
    from gateway.users import Hash

_LONGEST = 255  # characters of a name, and of a password


class _Server(NamedTuple):
    """The SMTP server in question: its name, its checked configuration, and the file of its users."""

    name: str
    config: Any  # its Config, which nothing outside its folder imports
    file: Path


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "action",
        choices=("add", "passwd", "remove", "list", "check", "hash"),
        help="hash: print what stands for a password in the configuration; check: is a password right?",
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="the user")
    parser.add_argument("--server", metavar="NAME", help="the SMTP server, where the configuration has several")
    parser.add_argument("--stdin", action="store_true", help="read the password from the first line of standard input")
    parser.add_argument("--generate", action="store_true", help="add, passwd: make a password up, and print it")
    parser.add_argument("--json", action="store_true", help="list: one user a line")


def run(args: argparse.Namespace) -> int:
    from gateway import users

    if args.action == "hash":
        if args.name:
            show.fail("A hash is made of a password alone, and that is never written on a command line.", 2)
        print(users.hashed(_new_password(args)))
        return 0
    if args.action != "list" and not args.name:
        show.fail(f"Whom? mailwire user {args.action} NAME", 2)
    server = _server(args)
    if args.action in ("add", "passwd"):
        return _set(args, server)
    known = _known(server)
    if args.action == "list":
        _list(server, known, as_json=args.json)
        return 0
    if args.name not in known and args.name not in server.config.users:
        show.fail(_nobody(args.name, server))
    return _check(args, server, known) if args.action == "check" else _remove(args, server)


def _server(args: argparse.Namespace) -> _Server:
    """The one that is named; else the only one, or the only one that checks logins."""
    from gateway import users

    chosen = common.settings(args)
    configs: dict[str, Any] = {
        name: setting.config
        for name, setting in chosen.settings.integrations.items()
        if setting.type == "smtp_server" and args.server in (None, name)
    }
    if len(configs) > 1:
        configs = {name: config for name, config in configs.items() if _checks(config)} or configs
    if len(configs) > 1:
        show.fail(f"There are several SMTP servers: say which with --server ({', '.join(configs)}).", 2)
    if not configs:
        wanted = f" named '{args.server}'" if args.server else ""
        show.fail(f"The configuration has no SMTP server{wanted}: there is nothing to log in to.", 2)
    ((name, config),) = configs.items()
    return _Server(name, config, chosen.folder / "integrations" / name / users.FILE)


def _checks(config: Any) -> bool:
    return config.login in ("required", "optional")


def _known(server: _Server) -> dict[str, Hash]:
    from gateway import users

    try:
        return users.read(server.file)
    except (OSError, ValueError) as error:
        show.fail(_trouble(server, error))


def _trouble(server: _Server, error: OSError | ValueError) -> str:
    if isinstance(error, PermissionError):
        return f"{server.file}: this user may not do that. Run this as the user that the gateway runs as, or as root."
    what = error.strerror if isinstance(error, OSError) else error
    return f"{server.file}: can't be used: {what}."


def _nobody(name: str, server: _Server) -> str:
    return f"'{name}' is no user of {server.name}. `mailwire user list` names those that are."


# --- actions -------------------------------------------------------------------------------------------------------


def _set(args: argparse.Namespace, server: _Server) -> int:
    from gateway import users

    if not args.name.isprintable() or len(args.name) > _LONGEST:
        show.fail(f"A name has at most {_LONGEST} characters, and each can be seen.", 2)
    if args.name in server.config.users:
        show.fail(f"'{args.name}' stands in the configuration of {server.name}: change the password there.")
    _is_new(args, server, _known(server))  # before a password is asked for
    hash_ = users.hashed(_new_password(args))
    try:
        _make_folder(server.file.parent)
        with users.changing(server.file) as known:
            _is_new(args, server, known)
            known[args.name] = hash_
    except (OSError, ValueError) as error:
        show.fail(_trouble(server, error))
    print(
        f"'{args.name}' may log in to {server.name}." if args.action == "add" else f"'{args.name}' has a new password."
    )
    if not _checks(server.config):
        advice = f"But {server.name} checks no logins ('login: {server.config.login}'): set 'login: required' there."
        print(advice, file=sys.stderr)
    return 0


def _is_new(args: argparse.Namespace, server: _Server, known: dict[str, Hash]) -> None:
    if args.action == "add" and args.name in known:
        show.fail(f"'{args.name}' is a user of {server.name} already. A new password: mailwire user passwd {args.name}")
    if args.action == "passwd" and args.name not in known:
        show.fail(_nobody(args.name, server))


def _make_folder(folder: Path) -> None:
    """As the gateway would make it; by root, for the one to whom the folder above belongs."""
    import os

    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(mode=0o700)
    if os.geteuid() == 0:
        owner = folder.parent.stat()
        os.chown(folder, owner.st_uid, owner.st_gid)


def _remove(args: argparse.Namespace, server: _Server) -> int:
    from gateway import users

    if args.name in server.config.users:
        show.fail(f"'{args.name}' stands in the configuration of {server.name}: remove it there.")
    try:
        with users.changing(server.file) as known:
            known.pop(args.name, None)
    except (OSError, ValueError) as error:
        show.fail(_trouble(server, error))
    print(f"'{args.name}' may no longer log in to {server.name}.")
    return 0


def _list(server: _Server, known: dict[str, Hash], *, as_json: bool) -> None:
    configured = dict.fromkeys(server.config.users, "configuration")
    rows = sorted((dict.fromkeys(known, "file") | configured).items())
    if as_json:
        for name, where in rows:
            print(show.json_line({"name": name, "server": server.name, "where": where}))
    else:
        show.Table.print(("NAME", "SERVER", "WHERE"), [(name, server.name, where) for name, where in rows])


def _check(args: argparse.Namespace, server: _Server, known: dict[str, Hash]) -> int:
    import hmac

    from gateway import users

    given = _password(args).encode("utf-8", "surrogateescape")
    configured = server.config.users.get(args.name)
    if configured:
        text = configured.get_secret_value()
        hash_ = users.parse(text)
        right = hash_.matches(given) if hash_ else hmac.compare_digest(text.encode(), given)
    else:
        right = known[args.name].matches(given)
    print("right" if right else "wrong")
    return 0 if right else 1


# --- passwords -----------------------------------------------------------------------------------------------------


def _new_password(args: argparse.Namespace) -> str:
    if args.generate:
        password = secrets.token_urlsafe(15)
        print(f"The password is: {password}", file=sys.stderr)
        return password
    password = _password(args)
    if not args.stdin and getpass.getpass("The same once more: ") != password:
        show.fail("These were two different passwords. Nothing was changed.")
    return password


def _password(args: argparse.Namespace) -> str:
    if not args.stdin and not sys.stdin.isatty():
        show.fail("There is no terminal to ask for the password: give it on standard input, with --stdin.", 2)
    try:
        password = sys.stdin.readline().rstrip("\r\n") if args.stdin else getpass.getpass("Password: ")
    except EOFError:
        password = ""
    if not password:
        show.fail("The password is empty. Nothing was changed.")
    if len(password) > _LONGEST:
        show.fail(f"A password has at most {_LONGEST} characters. Nothing was changed.")
    return password
