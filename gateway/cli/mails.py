"""List the mails that are kept, the newest last; with an ID show that one, or with --raw its very bytes.

With --anonymous the bytes have other addresses, names, numbers and dates, so that they can be shown to somebody.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from gateway.cli import common, show

if TYPE_CHECKING:
    from gateway.interpret import Meaning
    from gateway.interpret.families import Library
    from gateway.store import Mail, Store

_PIECE = 1024 * 1024  # bytes written at once: a mail may be larger than the memory that is free


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("id", nargs="?", metavar="ID", help="this mail only, with all that is known of it")
    parser.add_argument("--raw", action="store_true", help="with an ID: its bytes, exactly as they came")
    parser.add_argument(
        "--anonymous", action="store_true", help="with an ID: its bytes without who and where, to share as a sample"
    )
    parser.add_argument("--json", action="store_true", help="one mail a line")
    parser.add_argument("--device", metavar="ID", help="only those of this device")
    parser.add_argument("--limit", "-n", type=common.count, default=50, metavar="N", help="how many (default 50)")


def run(args: argparse.Namespace) -> int:
    if args.raw and not args.id:
        show.fail("Which mail? Write: mailwire mails ID --raw", 2)
    if args.anonymous and (args.raw or not args.id):
        show.fail("Which mail? Write: mailwire mails ID --anonymous", 2)
    store = common.open_store(args)
    if args.id:
        mail = store.mail(args.id)
        if mail is None:
            show.fail(f"{args.id}: no such mail is kept. `mailwire mails` lists those that are.")
        if args.raw:
            return _write_raw(store, mail)
        if args.anonymous:
            return _write_anonymous(store, mail, common.library(common.config_path(args)))
        return _show(store, mail, as_json=args.json)
    mails = _of_device(store, args.device, args.limit) if args.device else store.mails(args.limit)
    mails.reverse()
    if args.json:
        for mail in mails:
            print(show.json_line(document(mail)))
        return 0
    if not mails:
        print("No mails are kept.")
        return 0
    show.Table.print(
        ("ID", "RECEIVED", "FROM", "TO", "SIZE", "PEER", "HELO", "STATE"),
        [
            (
                mail.id,
                show.local_time(mail.received),
                mail.envelope.mail_from or "<>",
                ", ".join(mail.envelope.rcpt_to),
                show.size(mail.size),
                mail.envelope.peer,
                mail.envelope.helo,
                mail.state,
            )
            for mail in mails
        ],
    )
    return 0


def _of_device(store: Store, device: str, limit: int) -> list[Mail]:
    ids = store.rows(
        "SELECT m.id FROM mails m JOIN events e ON e.id = m.id WHERE e.device = ? ORDER BY m.seq DESC LIMIT ?",
        *(device, limit),
    )
    found = [store.mail(row[0]) for row in ids]
    return [mail for mail in found if mail]


def document(mail: Mail) -> dict[str, Any]:
    """DESIGN §4.5 names the keys."""
    envelope = mail.envelope
    return {
        "id": mail.id,
        "received": common.iso_time(mail.received),
        "mail_from": envelope.mail_from,
        "rcpt_to": envelope.rcpt_to,
        "size": mail.size,
        "sha256": mail.sha256,
        "peer": envelope.peer,
        "helo": envelope.helo,
        "state": mail.state,
    }


def _write_raw(store: Store, mail: Mail) -> int:
    content = memoryview(common.content(store, mail))
    for start in range(0, len(content), _PIECE):
        sys.stdout.buffer.write(content[start : start + _PIECE])
    sys.stdout.buffer.flush()
    return 0


def _write_anonymous(store: Store, mail: Mail, library: Library) -> int:
    """Fails if a profile would take the result for something else: as a sample it would be of no use."""
    import secrets

    from gateway import interpret
    from gateway.anonymous import anonymous
    from gateway.interpret.families import Said

    content = common.content(store, mail)[:]
    reading = interpret.read(content)
    family = library.family(Said(reading, mail.envelope))
    changed = anonymous(content, family, secrets.token_bytes(32))
    before = _kind(interpret.meaning(reading, mail.envelope, library))
    after = _kind(interpret.meaning(interpret.read(changed), mail.envelope, library))
    sys.stdout.buffer.write(changed)
    sys.stdout.buffer.flush()
    told = "Read it before you give it away: a name in a sentence may be left"
    if before != after:
        print(f"It was {before}, and would now be {after}. {told}.", file=sys.stderr)
        return 1
    print(f"It is {after}, as before. {told}.", file=sys.stderr)
    return 0


def _kind(meaning: Meaning) -> str:
    state = f" {meaning.state}" if meaning.state else ""
    return f"{meaning.kind}{state}, {meaning.severity}, by the profile {meaning.profile}"


def _show(store: Store, mail: Mail, *, as_json: bool) -> int:
    from gateway import interpret
    from gateway.cli import queue

    reading = interpret.read(common.content(store, mail))
    event = store.event(mail.id)
    owed = [queue.document(row) for row in queue.owed(store, [mail.id])]
    envelope = mail.envelope
    if as_json:
        more = {
            "source": envelope.source,
            "details": envelope.details,
            "subject": reading.subject,
            "attachments": reading.attachments,
            "event": event,
            "owed": owed,
        }
        print(show.json_line(document(mail) | more))
        return 0
    lines = [
        ("mail", mail.id),
        ("received", f"{show.local_time(mail.received)}, by {envelope.source}"),
        ("peer", f"{envelope.peer}, HELO {envelope.helo}"),
        ("from", envelope.mail_from or "<>"),
        ("to", ", ".join(envelope.rcpt_to)),
        *[(key, value if isinstance(value, str) else show.json_line(value)) for key, value in envelope.details.items()],
        ("size", f"{mail.size} bytes"),
        ("sha256", mail.sha256),
        ("state", mail.state),
        ("subject", reading.subject or ""),
        *[
            (f"attachment {number}", f"{item['name']}, {item['type']}, {show.size(item['size'])}")
            for number, item in enumerate(reading.attachments)
        ],
        *[("repaired", words) for words in reading.truncated],
    ]
    if event:
        about = f"{event['device']['id']}: {event['kind']} {event['state'] or ''}".rstrip()
        lines.append(("event", f"{about}, {event['severity']}: {event['title']}"))
    else:
        lines.append(("event", "none"))
    for item in owed:
        tries = f" after {show.number(item['attempts'], 'attempt')}" if item["attempts"] else ""
        lines.append(
            (f"owed to {item['target']}", f"{item['state']}{tries}" + (f": {item['reason']}" if item["reason"] else ""))
        )
    show.facts(lines)
    return 0
