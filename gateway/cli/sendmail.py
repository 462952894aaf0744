"""Take a mail on standard input, as /usr/sbin/sendmail does: for cron, smartd, mdadm and all that only know that way.

The mail goes to the gateway by SMTP. When nothing answers there, or it takes no mail from here (`allow`, `login`), it
goes straight into the gateway's store, with the same law: exit code 0 means stored. Exit codes are those that callers
of sendmail know (sysexits.h): 64 wrong use, 69 refused for good, 75 try again later, 78 wrong configuration. Options
that mean nothing here are passed over.
"""

from __future__ import annotations

import asyncio
import getpass
import os
import re
import shutil
import socket
import sys
import time
from argparse import Namespace
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from email.utils import formataddr, formatdate, make_msgid
from pathlib import Path
from typing import BinaryIO

from gateway.api import Envelope, StoreTrouble
from gateway.cli import common, show, submit
from gateway.mailbox import addresses_in
from gateway.store import Mail, Store, StoreBroken
from gateway.ulid import UlidMaker

EX_USAGE, EX_UNAVAILABLE, EX_TEMPFAIL, EX_CONFIG = 64, 69, 75, 78

_VALUED = "ABCFLNORVXbefhopr"  # letters whose value is the rest of the word or, if that is empty, the next word
_ATTACHED = "dq"  # letters whose value can only be the rest of the word
_HELP = """\
usage: mailwire sendmail [-t] [-i] [-f FROM] [-F NAME] [--config FILE] [--data FOLDER] [RECIPIENT...]

Takes a mail on standard input, as /usr/sbin/sendmail does; as a link of that name, it is a drop-in for it.

  -t       take recipients from To, Cc and Bcc, and remove Bcc
  -i, -oi  a line with only a dot does not end the mail
  -f FROM  the reverse-path (also -r)
  -F NAME  the sender's name, when the mail has no From
Other options of sendmail are passed over."""


@dataclass(slots=True)
class Options:
    """What the command line said."""

    sender: str | None = None
    name: str = ""
    from_headers: bool = False
    dot_ends: bool = True
    recipients: list[str] = field(default_factory=list)
    config: Path | None = None
    data: Path | None = None


def main(words: list[str]) -> int:
    """The whole command, in place of `add` and `run`."""
    if "--help" in words:
        print(_HELP)
        return 0
    options = parse(words)
    content, recipients, sender = prepare(_read(sys.stdin.buffer, dot_ends=options.dot_ends), options)
    if not recipients:
        show.fail("sendmail: no recipients. Name them, or take them from the mail with -t.", EX_USAGE)
    try:
        chosen = common.settings(Namespace(config=options.config, data=options.data))
    except SystemExit:  # the mistakes were printed
        return EX_CONFIG
    try:
        _submit(_server(chosen), sender, recipients, content)
    except submit.NotTaken as error:
        if error.reached:
            show.fail(f"sendmail: {error}", EX_UNAVAILABLE if 500 <= error.code < 600 else EX_TEMPFAIL)
        _keep(chosen, sender, recipients, content, str(error))
    return 0


def parse(words: Iterable[str]) -> Options:
    """Options and recipients in any order. Ends the command for a mode that only a mail server has."""
    options = Options()
    rest = iter(words)
    for word in rest:
        if word == "--":
            options.recipients += rest
        elif word.startswith("--"):
            key, equals, value = word[2:].partition("=")
            if key in ("config", "data"):
                setattr(options, key, Path(value if equals else next(rest, "")))
        elif len(word) > 1 and word.startswith("-"):
            _letters(word[1:], rest, options)
        else:
            options.recipients.append(word)
    return options


def _letters(word: str, rest: Iterator[str], options: Options) -> None:
    """One word of options: `-ti`, `-fme@here`, `-f me@here`, `-oi`, `-odb`."""
    for index, letter in enumerate(word):
        if letter in _VALUED or letter in _ATTACHED:
            value = word[index + 1 :]
            if not value and letter in _VALUED:
                value = next(rest, "")
            if letter in "fr":
                options.sender = value
            elif letter == "F":
                options.name = value
            elif letter == "o" and value == "i":
                options.dot_ends = False
            elif letter == "b" and value != "m":
                show.fail(f"sendmail: -b{value} is not known here: this sendmail takes mails only.", EX_USAGE)
            return
        if letter == "t":
            options.from_headers = True
        elif letter == "i":
            options.dot_ends = False


# --- the mail ------------------------------------------------------------------------------------------------------


def _read(stream: BinaryIO, *, dot_ends: bool) -> bytes:
    """The mail with CRLF at every line's end, as SMTP wants it."""
    lines = []
    for line in stream:
        if dot_ends and line in (b".\n", b".\r\n", b"."):
            break
        lines.append(line.removesuffix(b"\n").removesuffix(b"\r") + b"\r\n")
    return b"".join(lines)


_FIELD = re.compile(rb"([!-9;-~]+)[ \t]*:(.*(?:\r\n[ \t].*)*)\r\n")


def prepare(content: bytes, options: Options) -> tuple[bytes, list[str], str]:
    """(the mail with what was missing, recipients, reverse-path)"""
    content = re.sub(rb"\AFrom .*\r\n", b"", content)  # an mbox line, which some programs put first
    fields = []
    end = 0
    while found := _FIELD.match(content, end):
        fields.append((found[1].decode("ascii").lower(), found[2], found[0]))
        end = found.end()
    body = content[end:] if content.startswith(b"\r\n", end) else b"\r\n" + content[end:]
    recipients: list[str | bytes] = [*options.recipients]
    if options.from_headers:
        recipients += [value.replace(b"\r\n", b"") for name, value, _ in fields if name in ("to", "cc", "bcc")]
        fields = [one for one in fields if one[0] != "bcc"]
    sender = _addresses([options.sender])[:1] if options.sender not in (None, "", "<>") else []
    reverse_path = sender[0] if sender else "" if options.sender is not None else _qualified(_user())
    there = {name for name, _, _ in fields}
    missing = {
        "From": formataddr((options.name, reverse_path or _qualified("MAILER-DAEMON"))),
        "Date": formatdate(localtime=True),
        "Message-ID": make_msgid(domain=socket.gethostname()),
    }
    added = b"".join(f"{name}: {value}\r\n".encode() for name, value in missing.items() if name.lower() not in there)
    return added + b"".join(whole for _, _, whole in fields) + body, _addresses(recipients), reverse_path


def _addresses(values: Iterable[str | bytes | None]) -> list[str]:
    """The addresses in these lists, each once, with this machine's name where they have no domain."""
    found = addresses_in([common.text(value) for value in values if value])
    return list(dict.fromkeys(_qualified(address) for address in found))


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as containers have them
        return f"uid{os.getuid()}"


def _qualified(address: str) -> str:
    return address if "@" in address else f"{address}@{socket.gethostname()}"


# --- its way -------------------------------------------------------------------------------------------------------


def _server(chosen: common.Chosen) -> submit.Server:
    """The configuration's first SMTP server, of those without a login if there are any. Its certificate is ours."""
    for listener in sorted(common.listeners(chosen.settings), key=lambda one: one.login == "required"):
        tls = {"implicit": "implicit", "required": "starttls"}.get(listener.tls, "none")
        return submit.Server(common.nearby(listener.host), listener.port, tls, verify=False, helo=socket.gethostname())
    return submit.Server("127.0.0.1", 2525)


def _submit(server: submit.Server, sender: str, recipients: list[str], content: bytes) -> None:
    def refused(text: str) -> None:
        print(f"sendmail: {show.plain(text)}", file=sys.stderr)

    with submit.session(server) as session:
        session.transmit(sender, recipients, content, refused=refused)


def _keep(chosen: common.Chosen, sender: str, recipients: list[str], content: bytes, why: str) -> None:
    """Into the gateway's store. Where there is none, nobody would ever find the mail."""
    try:
        there = common.has_store(chosen.folder)
    except SystemExit:  # this user may not even look, which was said
        show.fail(f"sendmail: {why} Try again later.", EX_TEMPFAIL)
    if not there:
        show.fail(f"sendmail: {why} And there is no store in {chosen.folder} either. Try again later.", EX_TEMPFAIL)
    try:
        if shutil.disk_usage(chosen.folder).free < chosen.settings.store.reserve + len(content):
            raise StoreTrouble("the disk is full")
        asyncio.run(_store(chosen.folder, sender, recipients, content))
    except (StoreBroken, StoreTrouble, OSError) as error:
        show.fail(f"sendmail: {why} And the mail could not be stored: {error}. Try again later.", EX_TEMPFAIL)


async def _store(folder: Path, sender: str, recipients: list[str], content: bytes) -> None:
    """In one row, however large: a spool file of ours could be swept away by a gateway that starts just now."""
    store = Store(folder)
    store.open()
    store.start()
    kept: asyncio.Future[StoreTrouble | None] = asyncio.get_running_loop().create_future()
    mail = Mail(
        id=UlidMaker().new(),
        received=time.time(),
        envelope=Envelope("sendmail", "127.0.0.1", socket.gethostname(), sender, recipients, {"user": _user()}),
        size=len(content),
        content=content,
        state="replay",  # a gateway that runs all the same looks for these, and one that starts does too
    )
    store.keep(mail, kept.set_result)
    trouble = await kept
    await store.close()
    if trouble:
        raise trouble
