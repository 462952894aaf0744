"""A report that a mail could not be delivered (RFC 3464), read from a mail that came in.

Nothing in it is believed but a token that only we can have made (`identity`): the rest is words for people.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from email import message_from_bytes
from email.message import Message
from email.policy import compat32

from gateway.api import Event
from gateway.integrations.smtp_relay.compose import one_line

_STATUS = ("message/delivery-status", "message/global-delivery-status")
_MOST = 2 * 1024 * 1024  # bytes of a report that are read
_MOST_RECIPIENTS = 100


@dataclass(frozen=True)
class Failure:
    """Of one recipient: `addresses` are the names that the report has for it, in small letters."""

    addresses: tuple[str, ...]
    words: str


def is_report(event: Event) -> bool:
    """Quick: by the parts of the mail that it came from."""
    return any(part["type"] in _STATUS for part in event["attachments"])


def failures(raw: bytes) -> list[Failure]:
    """The recipients that a report gives up; none, if it is about a delay or a success."""
    return [
        _failure(block)
        for part in message_from_bytes(raw[:_MOST], policy=compat32).walk()
        if part.get_content_type() in _STATUS
        for block in _blocks(part)[:_MOST_RECIPIENTS]
        if str(block.get("Action", "")).strip().lower().startswith("failed")
    ]


def _blocks(part: Message) -> list[Message]:
    """The groups of fields: the first is about the mail, each other one about a recipient."""
    blocks = []
    for block in part.get_payload():
        if isinstance(block, Message):
            blocks.append(block)
            rest = block.get_payload()  # of `global`, the standard library knows no groups: it sees a mail and its body
            groups = re.split(r"\r?\n\r?\n", rest) if isinstance(rest, str) and rest.strip() else ()
            blocks += [message_from_bytes(group.encode("utf-8", "replace"), policy=compat32) for group in groups]
    return blocks


def _failure(block: Mapping[str, str] | Message) -> Failure:
    names = [_behind_semicolon(str(block.get(name, ""))) for name in ("Original-Recipient", "Final-Recipient")]
    # Some servers repeat an ORCPT as it was sent, in xtext; in plain, `me+25@example.org` is what it looks like.
    names = [*map(_undone, names), *names]
    status = one_line(str(block.get("Status", "")), 20)
    why = one_line(_behind_semicolon(str(block.get("Diagnostic-Code", ""))), 400)
    addresses = dict.fromkeys(one_line(name.strip("<>").lower()) for name in names if name)
    return Failure(tuple(addresses), why or status or "no reason is given")


def _behind_semicolon(text: str) -> str:
    """`rfc822; me@example.org` is `me@example.org`."""
    return text.partition(";")[2].strip() or text.strip()


def _undone(text: str) -> str:
    """What xtext (RFC 3461 §4) stands for."""
    return re.sub(r"\+([0-9A-F]{2})", lambda found: chr(int(found[1], 16)), text)
