"""`mailwire desktop setup`: five questions, a test of what was answered, and then a configuration and an autostart.

Every question has an option, so that it works without a terminal as well. Passwords are never on the command line: they
are in the URL that is given, in the environment (MAILWIRE_BROKER_PASSWORD, MAILWIRE_MAIL_PASSWORD), or asked for; they
are kept in the system's keyring, or, where there is none, in `secrets.yaml` beside the configuration, which this user
alone may read. Nothing is written before all has been tried with it, by the gateway itself.
"""

from __future__ import annotations

import argparse
import asyncio
import getpass
import json
import logging
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

from gateway import keyring, paths, ports
from gateway.cli import autostart, common, show

if TYPE_CHECKING:
    from gateway.app import App

BROKER, MAIL = "desktop-broker", "desktop-mail"
SECRETS = (BROKER, MAIL)
_PATIENCE = 20.0  # seconds for a broker, a board or a mail server to answer
_LOOK = 0.1  # seconds between two looks at them
_NAMES = {"home": "broker", "board": "board", "desktop": "notifications", "post": "mail"}


@dataclass
class Answers:
    """What was answered; "" and None for no."""

    broker: str = ""
    broker_user: str = ""
    board: str = ""
    mail: str = ""
    mail_user: str = ""
    mail_from: str = ""
    mail_to: str = ""
    quiet: str = ""
    passwords: dict[str, str] = field(default_factory=dict)


def add(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--broker", metavar="URL", help="the broker of a gateway: mqtt://user@host; '' for none")
    group.add_argument("--board", metavar="PORT", help="a board on USB; '' for none")
    group.add_argument(
        "--mail", metavar="URL", help="your mail provider, for mails to you: smtps://user@host; '': none"
    )
    group.add_argument("--mail-from", metavar="ADDRESS", help="(default: the user of --mail)")
    group.add_argument("--mail-to", metavar="ADDRESS", help="(default: --mail-from)")
    group.add_argument("--quiet", metavar="HOURS", help="when only what is critical is told: 22:00-07:00; '' for never")
    group.add_argument(
        "--autostart", choices=("xdg", "systemd", "launchd", "windows", "no"), help=f"(default: {autostart.DEFAULT})"
    )
    group.add_argument("--secrets", choices=("keyring", "file"), help="where passwords are kept (default: keyring)")
    group.add_argument("--yes", action="store_true", help="ask nothing: what is not given is no, or the default")
    group.add_argument("--no-test", action="store_true", help="write it without having tried it")
    group.add_argument("--force", action="store_true", help="replace a configuration that is there (kept as .old)")


def run(args: argparse.Namespace, path: Path) -> int:
    asks = sys.stdin.isatty() and not args.yes
    if (
        path.exists()
        and not args.force
        and not (asks and _yes(f"{path} is there. Replace it (it is kept as .old)?", False))
    ):
        show.fail(f"{path}: is there, and stays as it is. With --force it is replaced, and kept as .old.")
    if not asks and args.broker is None and args.board is None:
        show.fail("There is no terminal to ask on: say it with --broker or --board (`mailwire desktop --help`).", 2)
    answers = _asked(args) if asks else _given(args)
    if not answers.broker and not answers.board:
        show.fail("Without a broker and without a board there is nothing to show.", 2)
    data = args.data or paths.desktop_data_dir()
    in_keyring = _has_keyring(args, answers, asks)
    if not (args.no_test or _works(answers, data)) and not (asks and _yes("Write it all the same?", False)):
        show.fail("Nothing was written. With --no-test it is written untried.")
    _write(path, answers, data, in_keyring=in_keyring)
    start = args.autostart or (autostart.DEFAULT if not asks or _yes("5. Start it when you log in?", True) else "no")
    if start == "no":
        print("It is not started by itself: type `mailwire desktop`.")
    else:
        usual = path == paths.desktop_config_file()
        print(f"{autostart.install(start, autostart.command(None if usual else path))}: written; it starts at login")
        if then := autostart.KINDS[start].then:
            print(f"Now type: {then}")
    print(f"Start it now with `mailwire desktop`. Others take it as well: mailwire events --config {path}")
    return 0


# --- the questions -------------------------------------------------------------------------------------------------


def _given(args: argparse.Namespace) -> Answers:
    return _with(args, lambda _, value: value or "", lambda _: None)


def _asked(args: argparse.Namespace) -> Answers:
    """Those that no option answers."""
    there = ", ".join(str(port) for port in ports.list_ports()) or "none is connected now"
    questions = {
        "broker": "1. The MQTT broker of your gateway (mqtt://user@host; empty for none): ",
        "board": f"2. A board on USB (its port; there: {there}; empty for none): ",
        "mail": "3. Your mail provider, to have alarms mailed (smtps://user@host; empty for none): ",
        "mail_from": "   From whom (you@example.org): ",
        "mail_to": "   To whom (empty for the same): ",
        "quiet": "4. Quiet hours, when only what is critical is told (22:00-07:00; empty for none): ",
    }
    return _with(
        args,
        lambda key, value: input(questions[key]).strip() if value is None else value,
        lambda whose: getpass.getpass(f"   The password of {whose} (empty for none): ") or None,
    )


def _with(
    args: argparse.Namespace, ask: Callable[[str, str | None], str], ask_password: Callable[[str], str | None]
) -> Answers:
    answers = Answers()

    def login(key: str, scheme: str) -> tuple[str, str]:
        """(URL without a login, user); the password is put aside."""
        url = ask(key, getattr(args, key))
        if not url:
            return "", ""
        parts = _parts(url if "://" in url else f"{scheme}://{url}")
        user = unquote(parts.username or "")
        name = BROKER if key == "broker" else MAIL
        password = os.environ.get(f"MAILWIRE_{key.upper()}_PASSWORD") or unquote(parts.password or "")
        if user and (password := password or ask_password(f"{user} at {parts.hostname}") or ""):
            answers.passwords[name] = password
        return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])), user

    answers.broker, answers.broker_user = login("broker", "mqtt")
    answers.board = ask("board", args.board)
    answers.mail, answers.mail_user = login("mail", "smtps")
    if answers.mail:
        of_user = answers.mail_user if "@" in answers.mail_user else None
        answers.mail_from = ask("mail_from", args.mail_from or of_user)
        answers.mail_to = ask("mail_to", args.mail_to or (args.mail_from and answers.mail_from)) or answers.mail_from
        if not answers.mail_from:
            show.fail("--mail needs --mail-from, the address that the mails are from.", 2)
    answers.quiet = ask("quiet", args.quiet)
    return answers


def _parts(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        show.fail(f"that is no URL ({error}); it looks like mqtt://user@host or smtps://user@host.", 2)
    return parts


def _yes(question: str, default: bool) -> bool:
    answer = input(f"{question} [{'Y/n' if default else 'y/N'}] ").strip().lower()
    return answer.startswith("y") if answer else default


def _has_keyring(args: argparse.Namespace, answers: Answers, asks: bool) -> bool:
    """Where the passwords go; ends the command where there is no keyring, and nobody has said that a file will do."""
    if not answers.passwords or args.secrets == "file":
        return False
    try:
        keyring.get(BROKER)
    except keyring.NoKeyring as error:
        what = f"The keyring can't be used: {error}"
        if (
            args.secrets != "keyring"
            and asks
            and _yes(f"{what}. Keep passwords in a file that you alone may read?", True)
        ):
            return False
        show.fail(f"{what}. With --secrets file passwords are kept in secrets.yaml, which you alone may read.")
    return True


# --- the configuration ---------------------------------------------------------------------------------------------


def text(answers: Answers, data: Path, tag: str) -> str:
    """The configuration. `tag`: `!keyring` or `!secret`, for the passwords."""

    def login(user: str, name: str) -> str:
        password = f"    password: {tag} {name}\n" if name in answers.passwords else ""
        return (f"    user: {_quoted(user)}\n" if user else "") + password

    lines = ["# Written by `mailwire desktop setup`, and yours to change. `mailwire desktop` runs it.\nintegrations:\n"]
    if answers.broker:
        lines.append(
            f"  home:\n    type: mqtt\n    url: {_quoted(answers.broker)}\n{login(answers.broker_user, BROKER)}"
            "    publish: false\n    listen: [{topic: mailwire/+/event, events: true}]\n"
        )
    if answers.board:
        lines.append(f"  board: {{type: serial, port: {_quoted(answers.board)}, direction: in}}\n")
    lines.append("  desktop: {type: desktop}\n")
    if answers.mail:
        lines.append(
            f"  post:\n    type: smtp_relay\n    url: {_quoted(answers.mail)}\n{login(answers.mail_user, MAIL)}"
            f"    from: {_quoted(answers.mail_from)}\n    to: {_quoted(answers.mail_to)}\n"
        )
    quiet = f", quiet: {_quoted(answers.quiet)}, urgent: [critical]" if answers.quiet else ""
    lines.append(f"routes:\n  - {{to: [desktop]{quiet}}}\n")
    if answers.mail:
        lines.append("  - {if: {severity: critical}, to: [post]}    # and `mailwire/notify/post`\n")
    lines.append(f"store: {{data: {_quoted(str(data.absolute()))}, keep_days: 7}}\n")
    return "".join(lines)


def _quoted(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)


def _secrets(answers: Answers) -> str:
    return "".join(f"{name}: {_quoted(password)}\n" for name, password in answers.passwords.items())


def _write(path: Path, answers: Answers, data: Path, *, in_keyring: bool) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if in_keyring:
            for name, password in answers.passwords.items():
                keyring.put(name, password)
        elif answers.passwords:
            _private(path.with_name("secrets.yaml"), _merged(path.with_name("secrets.yaml"), answers))
            print(f"{path.with_name('secrets.yaml')}: the passwords, for you alone")
        if path.exists():
            path.replace(path.with_name(f"{path.name}.old"))
        _private(path, text(answers, data, "!keyring" if in_keyring else "!secret"))
    except keyring.NoKeyring as error:
        show.fail(f"The keyring does not take the password: {error}. Nothing else was written; see --secrets file.")
    except OSError as error:
        show.fail(f"{error.filename}: {error.strerror}.")
    print(f"{path}: written")


def _merged(path: Path, answers: Answers) -> str:
    """What is in the file already, for a gateway say, stays; lines of ours are made anew."""
    there = path.read_text("utf-8").splitlines(keepends=True) if path.exists() else []
    return "".join(line for line in there if not line.startswith(tuple(f"{name}:" for name in SECRETS))) + _secrets(
        answers
    )


def _private(path: Path, content: str) -> None:
    """For this user alone, from its first moment; whole, or not at all."""
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    new.touch(0o600)
    new.write_text(content, encoding="utf-8")
    new.replace(path)


# --- the test ------------------------------------------------------------------------------------------------------


class _Tried(NamedTuple):
    name: str
    trouble: str | None
    about: str


def _works(answers: Answers, data: Path) -> bool:
    """Run it for a moment, as it will be, and say what answered."""
    from gateway.app import App
    from gateway.config import ConfigErrors, load
    from gateway.store import StoreBroken

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "desktop.yaml"
        _private(path, text(answers, data, "!secret"))
        _private(path.with_name("secrets.yaml"), _secrets(answers))
        loader = common.make_loader(path)
        try:
            settings = load(path, loader=loader)
        except ConfigErrors as errors:
            # Without the file that nobody has seen.
            show.fail("\n".join(str(replace(problem, file="", line=None)) for problem in errors.problems), 2)
        print("Trying it ...", flush=True)
        logging.disable()  # what is wrong is said below
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            tried = asyncio.run(_try(App(settings, loader, data), answers))
        except StoreBroken as error:
            show.fail(str(error))
        finally:
            logging.disable(logging.NOTSET)
        for one in tried:
            print(
                f"{'fail ' if one.trouble else 'ok   '} {_NAMES[one.name]:<14} {show.plain(one.trouble or one.about)}"
            )
        # A desktop may be set up from afar, with nobody at its screen.
        return not any(one.trouble for one in tried if one.name != "desktop")


async def _try(app: App, answers: Answers) -> list[_Tried]:
    await app.start()
    test = ""
    try:
        if answers.mail:
            draft = {"title": "Mailwire can reach you by mail", "text": "This is its test.", "targets": ["post"]}
            test = await app.pipeline.emit("desktop", draft)
        waiting, tried = list(app.running), {}
        end = asyncio.get_running_loop().time() + _PATIENCE
        while waiting:
            for name in list(waiting):
                if (found := _look_at(app, name)) or asyncio.get_running_loop().time() > end:
                    tried[name] = found or _Tried(name, f"no answer within {_PATIENCE:g} s", "")
                    waiting.remove(name)
            await asyncio.sleep(_LOOK)
        return list(tried.values())
    finally:
        app.store.note_one("DELETE FROM deliveries WHERE event = ?", test)  # one that failed does not come later
        await app.stop()


def _look_at(app: App, name: str) -> _Tried | None:
    """None: it is not known yet."""
    one = app.running[name]
    trouble = one.error or (one.worker.last_error if one.worker else None)
    if not trouble and one.worker and name == "post" and one.worker.ended["dead"] and one.worker.trouble:
        trouble = one.worker.trouble[1]
    about = one.instance.describe()
    if trouble:
        return _Tried(name, trouble, "")
    if name == "post":
        return _Tried(name, None, "a test mail was taken") if one.worker and one.worker.delivered else None
    return _Tried(name, None, about) if one.is_ready.is_set() else None
