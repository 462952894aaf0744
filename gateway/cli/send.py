"""Send a test mail to any SMTP server: text, files, a picture, or a whole mail from a file."""

from __future__ import annotations

import argparse
import getpass
import mimetypes
import struct
import sys
import zlib
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from pathlib import Path

from gateway import encoded_word
from gateway.cli import common, show, submit

_BUILT_IN = ""  # --picture without a path
_ASK = "-"  # --password from the person


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "server", nargs="?", default="127.0.0.1:2525", metavar="HOST[:PORT]", help="default: %(default)s"
    )
    parser.add_argument(
        "--from", dest="sender", default="test@localhost", metavar="ADDRESS", help="default: %(default)s"
    )
    parser.add_argument("--to", action="append", metavar="ADDRESS", help="again for more (default: gateway@localhost)")
    parser.add_argument("--subject", default="Test mail", help="default: %(default)s")
    parser.add_argument("--text", default="This is a test mail from Mailwire.", help="- for standard input")
    parser.add_argument("--file", type=Path, action="append", default=[], help="attach it; again for more")
    parser.add_argument("--picture", nargs="?", const=_BUILT_IN, metavar="FILE", help="attach it, or a built-in one")
    parser.add_argument("--eml", type=Path, metavar="FILE", help="a whole mail, sent byte for byte")
    parser.add_argument("--tls", choices=("none", "starttls", "implicit"), default="none", help="default: %(default)s")
    parser.add_argument("--insecure", action="store_true", help="take any certificate")
    parser.add_argument("--user", metavar="NAME", help="log in")
    parser.add_argument("--password", default=_ASK, help="- asks for it (default)")
    parser.add_argument("--helo", metavar="NAME", help="the name to greet with (default: this machine's)")
    parser.add_argument("--count", type=common.count, default=1, metavar="N", help="send so many, over one connection")


def run(args: argparse.Namespace) -> int:
    try:
        server = submit.Server(*submit.place(args.server), tls=args.tls, verify=not args.insecure, helo=args.helo)
    except ValueError as error:
        show.fail(str(error), 2)
    if args.user:
        password = getpass.getpass(f"Password of {args.user}: ") if args.password == _ASK else args.password
        server.login = (args.user, password)
    recipients = args.to or ["gateway@localhost"]
    if args.eml and (args.file or args.picture is not None):
        show.fail("--eml is a whole mail: leave out --file and --picture.", 2)
    for word in (args.subject, args.sender, *recipients):
        if len(word.splitlines()) > 1:
            show.fail(f"{word!r} has more than one line.", 2)
    whole = _bytes_of(args.eml) if args.eml else None
    text = common.text(sys.stdin.buffer.read() if args.text == "-" else args.text)
    subject = common.text(args.subject)
    files = [(path.name, _bytes_of(path)) for path in args.file]
    if args.picture is not None:
        files.append(_picture(args.picture))
    try:
        with submit.session(server) as session:
            for number in range(1, args.count + 1):
                count = f" {number} of {args.count}" if args.count > 1 else ""
                content = whole if whole is not None else _mail(args.sender, recipients, subject + count, text, files)
                answer = session.transmit(args.sender, recipients, content, refused=_say)
                print(show.plain(f"{count.strip()}  {answer}".lstrip()), flush=True)
    except submit.NotTaken as error:
        show.fail(str(error))
    return 0


def _say(text: str) -> None:
    print(show.plain(text), file=sys.stderr)


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        show.fail(f"{path}: can't be read: {error.strerror}", 2)


def _mail(sender: str, recipients: list[str], subject: str, text: str, files: list[tuple[str, bytes]]) -> bytes:
    """A mail as a well-behaved device makes it. Each has its own Message-ID, so none is taken for a repetition."""
    message = EmailMessage()
    message["From"] = sender
    message["To"] = ", ".join(recipients)
    message["Subject"] = encoded_word.broken(subject)
    message["Date"] = formatdate(localtime=True)
    message["Message-ID"] = make_msgid(domain="mailwire.invalid")
    message.set_content(text)
    for name, content in files:
        guessed, packed = mimetypes.guess_type(name)
        if (
            not guessed or packed or guessed.startswith(("message/", "multipart/"))
        ):  # which would need to be taken apart
            guessed = "application/octet-stream"
        kind, _, subtype = guessed.partition("/")
        message.add_attachment(content, maintype=kind, subtype=subtype, filename=encoded_word.broken(name))
    return message.as_bytes(policy=message.policy.clone(linesep="\r\n"))


def _picture(path: str) -> tuple[str, bytes]:
    if path != _BUILT_IN:
        return Path(path).name, _bytes_of(Path(path))
    return "test.png", picture()


def picture() -> bytes:
    """A small PNG of coloured squares (W3C PNG §5: signature, then length, type, data and CRC of each chunk)."""
    across, down, square = 320, 180, 20  # pixels
    line = [b"".join(bytes((x, 120, y)) * square for x in range(0, 256, 16)) for y in range(0, 252, 28)]
    rows = b"".join((b"\0" + row) * square for row in line)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", across, down, 8, 2, 0, 0, 0)  # 8 bits each of red, green and blue
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
