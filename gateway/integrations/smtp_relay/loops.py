"""What never goes out again: mails that this relay sent, answers of machines, and mails that go round in circles.

A machine's own alarm is no answer: cron says `Auto-Submitted: auto-generated` of what a person wants to read. So that
word stops a mail only together with the empty sender of a notice or a bounce (RFC 3834 §2, RFC 5321 §4.5.5).
"""

from __future__ import annotations

import re
from email.message import Message
from email.parser import BytesHeaderParser
from email.policy import compat32

from gateway.api import Envelope
from gateway.integrations.smtp_relay.identity import Identity

MOST_HOPS = 25
_HEADER = 256 * 1024  # bytes at the beginning of a mail in which its header is looked for
_BULK = ("bulk", "junk", "list")


def header(raw: bytes) -> Message:
    """The fields of a mail."""
    return BytesHeaderParser(policy=compat32).parsebytes(raw[:_HEADER])


def reason_to_stop(fields: Message, envelope: Envelope, identity: Identity) -> str | None:
    """Why a mail must not go out again, in words; None: it may."""
    own = " ".join(_all(fields, "Message-ID") + _all(fields, "Resent-Message-ID"))
    if identity.mark in marks(fields) or any(identity.events_in(own.encode("utf-8", "replace"))):
        return "this relay has sent that mail itself"
    submitted = _word(fields, "Auto-Submitted")
    if submitted not in ("", "no", "auto-generated"):
        return f"the mail is an automatic answer (Auto-Submitted: {submitted})"
    if envelope.mail_from == "" and submitted == "auto-generated":
        return "the mail was made by a machine and has no sender"
    if envelope.mail_from == "" and (precedence := _word(fields, "Precedence")) in _BULK:
        return f"the mail was made by a machine (Precedence: {precedence}) and has no sender"
    return None


def hops(fields: Message) -> int:
    """How many servers it has come through."""
    return len(_all(fields, "Received"))


def marks(fields: Message) -> list[str]:
    """Of all Mailwire relays that it has come through."""
    return re.findall(r"\bmailwire-[a-z2-7]{16}\b", " ".join(_all(fields, "X-Loop")))


def _all(fields: Message, name: str) -> list[str]:
    return [str(value) for value in fields.get_all(name, [])]


def _word(fields: Message, name: str) -> str:
    """The first word of a field, in small letters: `auto-replied; owner=...` is `auto-replied`."""
    words = " ".join(_all(fields, name)[:1]).replace(";", " ").replace("(", " ").split()
    return words[0].lower()[:40] if words and words[0].isprintable() else ""
