"""What `gateway.wire.mime` found in a mail, and what SMTP said around it, as the draft of an event."""

from firmware.meaning import meaning
from gateway.wire.devices import is_generic
from gateway.wire.event import slug
from gateway.wire.topics import RESERVED_IDS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from gateway.wire.mime import Reader
    from gateway.wire.smtp import Session


def draft(reader: "Reader", session: "Session", peer: str, own_id: str) -> "dict[str, Any]":
    """The draft of a complete mail; `own_id` is the board's own device id, which no mail may take."""
    attachments = reader.attachments
    first = attachments[0]["name"] if attachments else ""
    kind, state, severity, title = meaning(reader.subject or "", reader.text, first)
    sender = reader.sender or session.mail_from or ""
    identifier, name = device(reader.sender_name, sender, session.helo, peer, own_id)
    data: dict[str, Any] = {"truncated": reader.truncated} if reader.truncated else {}
    return {
        "device": {"id": identifier, "name": name, "manufacturer": None, "model": None, "profile": None},
        "kind": kind,
        "state": state,
        "severity": severity,
        "title": title,
        "text": reader.text,
        "data": data,
        "attachments": attachments,
        "mail": {
            "from": sender,
            "to": session.recipients,
            "subject": reader.subject,
            "message_id": reader.message_id,
            "helo": session.helo or None,
            "peer": peer or None,
        },
    }


def device(sender_name: str, sender: str, helo: str, peer: str, own_id: str) -> "tuple[str, str]":
    """Id and name: the first thing said that is not what every device says. A board keeps no register: two devices
    that say the same are one to it.
    """
    local, _, domain = sender.partition("@")
    helo = "" if helo.strip("[]").replace(".", "").isdigit() or is_generic(slug(helo.split(".")[0])) else helo
    ending = peer.split(".")[-1]
    for name in (sender_name, local, helo, domain.split(".")[0], f"{local} {helo or ending}"):
        identifier = slug(name)
        if not is_generic(identifier):
            break
    else:
        name = "device " + ending
        identifier = slug(name)
    if identifier in RESERVED_IDS or identifier == own_id:
        identifier = "device_" + identifier[:57]
    name = " ".join(bytes([max(octet, 32) for octet in name[:200].replace("_", " ").encode()]).decode().split())[:80]
    return identifier, name[:1].upper() + name[1:]
