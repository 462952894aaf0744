"""An address of a configuration: what it looks like in a command and in a header field.

Only a person's configuration makes one; nothing that comes in a mail ever does. So a recipient can't be injected, and
an address holds nothing that could end it: no blank, bracket, quote or control character.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

_MAILBOX = re.compile(r"(?:(?P<name>[^<>]*)<(?P<inner>[^<>]*)>|(?P<bare>[^<>]*))")
_LOCAL = re.compile(
    r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\-\u00a1-\U0010ffff]+(\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~\-\u00a1-\U0010ffff]+)*"
)
_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?")
_LITERAL = re.compile(r"\[(\d{1,3}(\.\d{1,3}){3}|IPv6:[0-9A-Fa-f:.]+)\]")


@dataclass(frozen=True)
class Address:
    """`name` is for people and may be empty; `local`@`domain` as they were written."""

    name: str
    local: str
    domain: str

    @cached_property
    def wire(self) -> str:
        """For a command: its domain by IDNA, which every server takes (RFC 5890)."""
        return f"{self.local}@{_to_ascii(self.domain)}"

    @property
    def needs_utf8(self) -> bool:
        """Letters outside ASCII before the @ can't be encoded: only SMTPUTF8 (RFC 6531) carries them."""
        return not self.local.isascii()

    def __str__(self) -> str:
        return f"{self.local}@{self.domain}"


def parse(text: str) -> Address:
    """`me@example.org` or `My name <me@example.org>`. Raises ValueError with words."""
    found = _MAILBOX.fullmatch(text.strip())
    if not found:
        raise ValueError("an address looks like me@example.org, or Name <me@example.org>")
    name = (found["name"] or "").strip().strip('"')
    local, at, domain = (found["inner"] if found["inner"] is not None else found["bare"]).rpartition("@")
    if not at or not local or not domain:
        raise ValueError("an address has a part before its @ and one behind it, such as me@example.org")
    if not name.isprintable():
        raise ValueError("a name has no control characters")
    if not _LOCAL.fullmatch(local) or not local.isprintable() or len(local.encode()) > 64:
        raise ValueError("before the @ an address has at most 64 letters, digits, dots and some signs, and no blank")
    if not _LITERAL.fullmatch(domain):
        try:
            ascii_domain = _to_ascii(domain)
        except UnicodeError:
            ascii_domain = ""
        if not all(map(_LABEL.fullmatch, ascii_domain.split("."))) or len(ascii_domain) > 255:
            raise ValueError("behind the @ there must be the name of a domain, such as example.org")
    return Address(name, local, domain)


def _to_ascii(domain: str) -> str:
    return domain if domain.isascii() else domain.encode("idna").decode("ascii")
