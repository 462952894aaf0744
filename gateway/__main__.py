"""The command line's front door: finds the command, imports its module and no other, and returns its exit code.

Exit codes: 0 fine, 1 failed, 2 wrong use or configuration. What is read on a slow machine should be there at once, so
this file imports nothing that is not needed to say which commands there are.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from gateway import __version__

COMMANDS = {
    "run": "run the gateway",
    "check": "find the mistakes in a configuration",
    "explain": "show what would become of a mail, and why",
    "notify": "tell people something, through a target of the configuration",
    "send": "send a test mail to any SMTP server",
    "events": "list events, or follow them as they come",
    "mails": "list the mails that are kept, or show one",
    "profile": "list, test and draft profiles: what the mails of a device mean",
    "replay": "have kept mails interpreted and delivered once more",
    "queue": "list, retry or drop what is still owed to the targets",
    "ack": "list what nobody has acknowledged, or acknowledge it",
    "devices": "list, rename, forget or mute devices",
    "integrations": "list integrations, or begin a new one",
    "desktop": "run it on a desktop, for a person: notifications, and mail out; set that up",
    "boards": "list the boards that can do the same, or show one",
    "flash": "put it on a board: MicroPython, the application, the settings",
    "monitor": "show what a board says on its serial port, and send it commands",
    "update": "update the firmware of a board over MQTT",
    "user": "add, list, check or remove those who may log in",
    "bans": "list the peers that are kept out, or let one in again",
    "service": "make the gateway a service of this machine (systemd)",
    "doctor": "check this machine, and say what to do",
    "sendmail": "take a mail on standard input, as /usr/sbin/sendmail does",
}


def main(argv: Sequence[str] | None = None) -> int:
    """`argv` begins with the program's name: called as `sendmail`, through a link, it is that command."""
    program, *words = sys.argv if argv is None else argv
    if program.rpartition("/")[2] == "sendmail":
        words = ["sendmail", *words]
    name = words[0] if words else ""
    if name in ("-h", "--help", "help"):
        print(overview())
        return 0
    if name in ("-V", "--version"):
        print(f"mailwire {__version__}")
        return 0
    if name not in COMMANDS:
        print(_no_command(name), file=sys.stderr)
        return 2
    try:
        try:
            return _run(name, words[1:])
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # whoever read our output has seen enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would try once more at its end
        return 0
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130
    except Exception as error:
        if type(error).__module__ != "sqlite3":  # named, for importing it to ask takes its time
            raise
        print(f"The store can't be read: {error}. `mailwire doctor` tells more.", file=sys.stderr)
        return 1


def _run(name: str, words: list[str]) -> int:
    import importlib
    import io

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that lacks a letter is no reason to fail
    module = importlib.import_module(f"gateway.cli.{name}")
    if name == "sendmail":  # its options are sendmail's, which argparse can't read
        return int(module.main(words))
    import argparse

    from gateway.cli import common

    parser = argparse.ArgumentParser(f"mailwire {name}", description=(module.__doc__ or "").partition("\n\n")[0])
    common.add_options(parser)
    module.add(parser)
    if "--help" in words or "-h" in words:  # before the line below, which hides what is positional from its help
        parser.print_help()
        return 0
    return int(module.run(parser.parse_intermixed_args(words)))


def overview() -> str:
    """What `mailwire --help` prints."""
    lines = [f"  {name:<14}{about}" for name, about in COMMANDS.items()]
    return "\n".join(
        [
            "usage: mailwire COMMAND [OPTION...]",
            "",
            "Takes the mail of devices on your network, keeps it safe, and turns it into events.",
            "",
            *lines,
            "",
            "`mailwire COMMAND --help` tells more. Every command takes --config FILE and --data FOLDER.",
        ]
    )


def _no_command(name: str) -> str:
    if not name:
        return overview()
    if name.startswith("-"):
        return f"mailwire: the command comes first: mailwire COMMAND {name} ...\n`mailwire --help` lists the commands."
    from difflib import get_close_matches

    near = get_close_matches(name, COMMANDS, n=1)
    hint = f"Did you mean '{near[0]}'?" if near else "`mailwire --help` lists the commands."
    return f"mailwire: there is no command '{name}'. {hint}"


if __name__ == "__main__":
    sys.exit(main())
