"""What must hold at the end (DESIGN §1, "250 means stored"), in one assertion, and the count that it is held against.

Witnesses are the senders, the store's file as SQLite and the spool show it, the tap before the broker, and the
subscriber; never what the gateway says of itself.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from load import SUBJECT, Sent, content


class LawBroken(AssertionError):
    """The text says which part of the law, and with which mails."""


@dataclass(slots=True)
class Account:
    """One scenario's line in the closing table."""

    scenario: str
    faults: int = 0
    sent: int = 0
    acknowledged: int = 0
    stored: int = 0
    delivered: int = 0
    put_off: int = 0
    repeats: int = 0
    deaths: int = 0
    """Ends of the gateway that nobody asked for: allowed if nothing is lost by them, and said."""
    not_stored: list[int] = field(default_factory=list)
    lost: list[int] = field(default_factory=list)
    two_ids: list[int] = field(default_factory=list)
    permanent: list[str] = field(default_factory=list)
    trouble: list[str] = field(default_factory=list)
    """What else must not be: the gateway does not recover, the store is damaged."""
    notes: list[str] = field(default_factory=list)
    skipped: str = ""

    def check(self) -> None:
        """The law: what got a 250 is stored, becomes one event, and is delivered; nothing else was ever claimed."""
        broken = {
            "250 without a row": self.not_stored,
            "lost": self.lost,
            "events under two ids": self.two_ids,
            "5xx for a temporary trouble": self.permanent,
            "trouble": self.trouble,
        }
        if any(broken.values()):
            raise LawBroken("; ".join(f"{what}: {_some(which)}" for what, which in broken.items() if which))

    def row(self) -> dict[str, Any]:
        """Plain data: the columns of the closing table, and whatever explains them."""
        return {
            "scenario": self.scenario,
            "faults": self.faults,
            "sent": self.sent,
            "acknowledged": self.acknowledged,
            "stored": self.stored,
            "delivered": self.delivered,
            "put_off": self.put_off,
            "repeats": self.repeats,
            "deaths": self.deaths,
            "not_stored": len(self.not_stored),
            "lost": len(self.lost),
            "two_ids": len(self.two_ids),
            "permanent": len(self.permanent),
            "trouble": self.trouble,
            "notes": self.notes,
            "skipped": self.skipped,
        }


def _some(what: Iterable[Any]) -> str:
    found = [str(one) for one in what]
    return ", ".join(found[:8]) + (f" and {len(found) - 8} more" if len(found) > 8 else "")


@dataclass(slots=True)
class Kept:
    """What one data folder holds: the numbers of whole mails by id, and the ids of the events of each number."""

    mails: dict[str, int] = field(default_factory=dict)
    events: dict[int, set[str]] = field(default_factory=dict)
    fault: str = ""


def kept(*folders: Path) -> Kept:
    """Reads data folders by their file formats alone; a mail counts if its bytes are those its number stands for."""
    found = Kept()
    for data in folders:
        with contextlib.closing(sqlite3.connect(f"file:{data}/mailwire.db?mode=ro", uri=True)) as store:
            fault = store.execute("PRAGMA integrity_check").fetchone()[0]
            found.fault = found.fault if fault == "ok" else f"{data}: integrity_check: {fault}"
            for mail_id, bytes_, file in store.execute(
                "SELECT id, content, file FROM mails m JOIN contents c ON c.seq = m.seq"
            ):
                with contextlib.suppress(FileNotFoundError):
                    whole = (data / "mails" / file).read_bytes() if file else bytes(bytes_ or b"")
                    number = number_of(whole)
                    if number is not None:
                        found.mails[mail_id] = number
            for event_id, text in store.execute("SELECT id, event FROM events"):
                subject = (json.loads(text).get("mail") or {}).get("subject") or ""
                if subject.startswith("torture "):
                    found.events.setdefault(int(subject[8:]), set()).add(event_id)
    return found


def number_of(whole: bytes) -> int | None:
    """The number of a mail, if each of its bytes is as it was sent."""
    named = SUBJECT.search(whole[:300])
    return int(named[1]) if named and content(int(named[1])) == whole else None


def settle(
    account: Account,
    mails: dict[int, Sent],
    refusals: list[bytes],
    kept: Kept,
    *,
    acknowledged_by_broker: dict[str, int],
    heard: list[tuple[str, int]],
    must_hear: bool,
) -> None:
    """Fill in the account from the witnesses. `must_hear`: the broker was never killed, so the subscriber heard all."""
    replies = [reply for mail in mails.values() for reply in mail.replies] + refusals
    acked = {number: mail.ids for number, mail in mails.items() if mail.ids}
    stored = set(kept.mails.values())
    heard_ids = Counter(event_id for event_id, _ in heard)
    heard_numbers = {number for _, number in heard}
    reached = heard_numbers | (set() if must_hear else set(acknowledged_by_broker.values()))
    account.sent = sum(1 for mail in mails.values() if mail.dots)
    account.acknowledged = len(acked)
    account.stored = len(stored)
    account.delivered = len(reached)
    account.put_off = sum(1 for reply in replies if reply.startswith(b"4"))
    account.repeats = sum(count - 1 for count in heard_ids.values())
    account.permanent = [reply.decode(errors="replace") for reply in replies if reply.startswith(b"5")]
    account.not_stored = [number for number, ids in acked.items() if any(kept.mails.get(one) != number for one in ids)]
    account.lost = [number for number in acked if number not in reached]
    ids: dict[int, set[str]] = {number: set(found) for number, found in kept.events.items()}
    for event_id, number in [*heard, *acknowledged_by_broker.items()]:
        ids.setdefault(number, set()).add(event_id)
    account.two_ids = [number for number, found in ids.items() if len(found) > 1]
    if kept.fault:
        account.trouble.append(kept.fault)
