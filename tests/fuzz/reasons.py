"""Why `wire.smtp` and aiosmtpd may differ: one rule for each reason, as narrow as it can be said.

"It" is aiosmtpd. A rule looks at what was said, where the two stood and what they did. What keeps to RFC 5321 to the
letter is explained by those rules alone that speak of a limit or of an extension; no other may hold for it.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from gateway.wire import smtp
from tests.dialog import Received

LINE = 1001  # octets that aiosmtpd takes in a line of content, its CRLF included
COMMAND = 512  # octets that aiosmtpd takes in a command, at least

_ATOMS = rb"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*"
_LABEL = rb"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_MAILBOX = rb"<" + _ATOMS + rb"@" + _LABEL + rb"(?:\." + _LABEL + rb")*>"
_PATHS = {
    b"MAIL": re.compile(rb"FROM:(<>|" + _MAILBOX + rb")", re.IGNORECASE),
    b"RCPT": re.compile(rb"TO:(" + _MAILBOX + rb")", re.IGNORECASE),
}
_KNOWN = re.compile(rb"SIZE=\d{1,20}|BODY=(?:7BIT|8BITMIME)|SMTPUTF8", re.IGNORECASE)
_CONTROL = re.compile("[\0-\x08\x0a-\x1f\x7f-\x9f]")
_BLANKS = b" \t\r\0"


@dataclass
class Difference:
    """A unit that the two servers took differently: what was said, where they stood before, what each did."""

    unit: bytes
    where: str  # "command", "login" or "content"
    options: dict[str, Any]
    esmtp: bool
    open: bool  # MAIL has been accepted
    ours: str  # the first digits of the replies, and "x" for hanging up
    theirs: str
    ended: str  # why we hung up
    codes: str  # theirs in full
    our_mails: list[Received] = field(default_factory=list)
    their_mails: list[Received] = field(default_factory=list)
    states: tuple[Any, ...] = ()  # sender, recipients, and whether somebody is logged in: ours and theirs

    def __post_init__(self) -> None:
        self.strict = self.options.get("strict", False)
        self.line = self.unit.rstrip(b"\r\n")
        self.verb, _, rest = self.line.partition(b" ")
        self.verb = self.verb.upper()
        self.rest = rest.strip()
        words = self.line.strip(_BLANKS).split(None, 1) if self.where == "command" else []
        self.our_verb = words[0].upper() if words else b""
        self.our_rest = words[1] if len(words) > 1 else b""
        path = _PATHS[self.our_verb].match(self.our_rest) if self.our_verb in _PATHS else None
        self.by_the_book = path is not None and self.our_rest[path.end() : path.end() + 1] in (b"", b" ")
        self.parameters = self.our_rest[path.end() :].split() if path and self.by_the_book else []

    def was(self, ours: str, theirs: str) -> bool:
        return self.ours == ours and self.theirs == theirs

    @property
    def is_path(self) -> bool:
        return self.our_verb in _PATHS


class Reason(NamedTuple):
    why: str
    holds: Callable[[Difference], bool]


def _longest_line(content: bytes) -> int:
    return max(len(line) + 2 for line in content.split(b"\r\n"))


def _unstuffed(content: bytes) -> int:
    return len((b"\r\n" + content[:-3]).replace(b"\r\n.", b"\r\n")[2:])


def _odd_name(name: str | None) -> bool:
    return (
        name is None
        or not name.isprintable()
        or len(name) >= smtp.PATH
        or bool(re.search("[\ud800-\udfff\ufffd]", name))
    )


def _names_alone(one: Difference) -> bool:
    """Both took the same mails, but for a name in HELO that is odd."""
    pairs = list(zip(one.our_mails, one.their_mails, strict=False))
    return (
        one.ours == one.theirs
        and one.our_mails != one.their_mails
        and len(one.our_mails) == len(one.their_mails)
        and all(
            (ours.sender, ours.recipients, ours.content) == (theirs.sender, theirs.recipients, theirs.content)
            and (ours.helo == theirs.helo or _odd_name(ours.helo) or _odd_name(theirs.helo))
            for ours, theirs in pairs
        )
    )


REASONS = {
    # Limits.
    "long-command": Reason(
        "It takes commands of 512 octets, we of 4096, and 12288 for a login, because devices send long addresses.",
        lambda one: one.where != "content" and len(one.line) > COMMAND and one.theirs == "5" and one.codes == "500",
    ),
    "long-content-line": Reason(
        "It refuses a mail with a line above 1,001 octets for ever; devices send HTML on one line, so we take any.",
        lambda one: (
            one.where == "content" and one.codes == "500" and _longest_line(one.unit) > LINE and one.was("2", "5")
        ),
    ),
    "size-of-dots": Reason(
        "It counts the dots that stuffing adds, we the octets of the mail.",
        lambda one: (
            one.where == "content"
            and one.codes == "552"
            and one.was("2", "5")
            and _unstuffed(one.unit) <= one.options["max_size"] < len(one.unit) - 3
        ),
    ),
    "unknown-commands": Reason(
        "It hangs up with 502 after five unknown commands; we count everything that was refused, up to twenty.",
        lambda one: one.codes.endswith("502") and one.theirs == "5x",
    ),
    "errors": Reason(
        "We hang up with 421 after twenty refused commands or three failed logins; it has no such limits.",
        lambda one: one.ended in ("bad-commands", "logins") and one.ours == "4x",
    ),
    "long-address": Reason(
        "We hold addresses to the 256 octets of RFC 5321 §4.5.3.1.3; it has no limit.",
        lambda one: one.is_path and one.was("5", "2") and len(one.our_rest) > smtp.PATH,
    ),
    # What is no SMTP.
    "http": Reason(
        "We hang up on HTTP, and tell a person to check the port number.",
        lambda one: one.ended == "http" and one.where == "command",
    ),
    "tls-hello": Reason(
        "We see that a peer begins TLS, and hang up, for it can't read a reply; it waits for a line, and says 500.",
        lambda one: one.ended == "tls-hello" and smtp._is_tls_hello(one.unit.lstrip(_BLANKS)[:4]),
    ),
    "separators": Reason(
        "It reads the separators of ASCII and the blanks of Unicode as blanks between words.",
        lambda one: (
            one.where == "command"
            and one.line.decode("utf-8", "replace").split()
            != [word.decode("utf-8", "replace") for word in one.line.split()]
        ),
    ),
    "digits": Reason(
        "It takes the digits of any script for a SIZE.",
        lambda one: (
            one.is_path
            and one.was("5", "2")
            and bool(
                re.search(r"SIZE=(?=\S*[^\0-\x7f])\d+(\s|$)", one.our_rest.decode("utf-8", "replace"), re.IGNORECASE)
            )
        ),
    ),
    # Extensions.
    "bdat": Reason(
        "It does not know BDAT (RFC 3030), so the octets of a chunk run as commands there.",
        lambda one: one.our_verb == b"BDAT" and one.theirs == "5",
    ),
    "starttls": Reason(
        "Where TLS is not offered it says 454, which asks a peer to try again; we say 502.",
        lambda one: one.our_verb == b"STARTTLS" and one.was("5", "4"),
    ),
    "help": Reason(
        "HELP has one answer here; there it lists commands, or wants to be asked of one, and may want a login.",
        lambda one: one.our_verb == b"HELP" and one.was("2", "5"),
    ),
    "vrfy": Reason(
        "VRFY never looks at an address here; it refuses those that it can't read, and may want a login.",
        lambda one: one.our_verb == b"VRFY" and one.was("2", "5"),
    ),
    "auth-parameter": Reason(
        "It does not know AUTH= (RFC 4954 §5), which we offer with a login, and refuses the mail.",
        lambda one: (
            one.is_path
            and one.was("2", "5")
            and any(word.upper().startswith(b"AUTH=") for word in one.our_rest.split())
        ),
    ),
    # Logging in.
    "auth-after-helo": Reason(
        "It takes a login after EHLO only; cameras say HELO, EHLO and HELO again.",
        lambda one: one.our_verb == b"AUTH" and not one.esmtp and not one.strict and one.theirs == "5",
    ),
    "auth-in-a-mail": Reason(
        "It allows a login in the middle of a mail, against RFC 4954 §4.",
        lambda one: one.our_verb == b"AUTH" and one.open and one.ours == "5",
    ),
    "auth-mechanism": Reason(
        "It takes mechanisms in upper case only; .NET sends `login`.",
        lambda one: (
            one.our_verb == b"AUTH"
            and one.codes == "504"
            and one.theirs == "5"
            and one.our_rest.split()[0].upper() in (b"PLAIN", b"LOGIN")
        ),
    ),
    "auth-response": Reason(
        "It is strict about base64 and does not know `=` for an empty response; devices leave out padding, or a NUL.",
        lambda one: (
            (one.where == "login" or one.our_verb == b"AUTH")
            and one.codes == "501"
            and one.ours in ("2", "3")
            and one.theirs == "5"
        ),
    ),
    # Lenience: what can be meant in one way only is taken from a device. Not in a strict session.
    "blanks": Reason(
        "It wants a verb first and one blank behind it; we take blanks, tabs and NULs around a command.",
        lambda one: (
            one.where == "command"
            and (one.our_verb != one.verb or one.line.endswith((b"\t", b"\0")))
            and one.theirs in ("5", "5x")
        ),
    ),
    "nuls": Reason(
        "NULs behind a verb are blanks here, and leave it without its name or address; there they are one.",
        lambda one: (
            one.our_verb in (b"HELO", b"EHLO", b"VRFY") and not one.our_rest and b"\0" in one.line and one.was("5", "2")
        ),
    ),
    "auth-separators": Reason(
        "It takes the separators of ASCII around a response for blanks; they are no base64.",
        lambda one: (
            one.where == "login" and one.ours == "5" and one.line.strip(b"\x0b\x0c\x1c\x1d\x1e\x1f") != one.line
        ),
    ),
    "comments": Reason(
        "It passes over a comment behind an address, also an open one; a strict session takes parameters there.",
        lambda one: one.is_path and one.strict and one.was("5", "2") and b"(" in one.our_rest,
    ),
    "arguments": Reason(
        "It wants nothing behind DATA, RSET and QUIT; some firmware sends its whole buffer.",
        lambda one: (
            one.our_verb in (b"DATA", b"RSET", b"QUIT")
            and one.our_rest != b""
            and not one.strict
            and one.codes == "501"
        ),
    ),
    "hello-without-name": Reason(
        "It refuses HELO without a name, and with it the mail; some printers have none.",
        lambda one: one.our_verb in (b"HELO", b"EHLO") and not one.our_rest and not one.strict and one.was("2", "5"),
    ),
    "address-form": Reason(
        "We take addresses without brackets or domain, with display names or blanks; it knows RFC 5322.",
        lambda one: one.is_path and not one.by_the_book and not one.strict and one.was("2", "5"),
    ),
    "parameters": Reason(
        "We take parameters that we did not offer or that say nothing, for they harm nobody; it refuses the mail.",
        lambda one: (
            one.is_path
            and one.by_the_book
            and not one.strict
            and one.was("2", "5")
            and one.parameters != []
            and (not one.esmtp or one.our_verb == b"RCPT" or not all(map(_KNOWN.fullmatch, one.parameters)))
        ),
    ),
    "outlines": Reason(
        "A strict session checks addresses in their outlines; it refuses empty labels, odd routes, blanks at a colon.",
        lambda one: (
            one.is_path
            and one.strict
            and one.was("2", "5")
            and bool(re.search(rb"\.[.@>\s]|[<@]\.|<@[^>]*:|\s:|:\s|<[\s@>]|\s>|>\t", one.our_rest))
        ),
    ),
    # Severity: a strict session wants the RFC, where aiosmtpd is lenient or normalises.
    "lone-lf": Reason(
        "A strict session wants CRLF; it takes LF at the end of a command.",
        lambda one: (
            one.strict and one.where != "content" and one.unit.endswith(b"\n") and not one.unit.endswith(b"\r\n")
        ),
    ),
    "strict-parameters": Reason(
        "A strict session refuses what was not offered, and what is given twice; it does not see the second.",
        lambda one: (
            one.is_path
            and one.by_the_book
            and one.strict
            and one.was("5", "2")
            and len({word.upper().partition(b"=")[0] for word in one.parameters}) < len(one.parameters)
        ),
    ),
    "strict-helo-parameters": Reason(
        "It takes parameters after EHLO only; so does the RFC, but devices say HELO and SIZE=.",
        lambda one: (
            one.is_path
            and one.strict
            and one.was("2", "5")
            and not one.esmtp
            and re.search(rb">\s*[^>\s]", one.our_rest) is not None
        ),
    ),
    "control-characters": Reason(
        "We refuse an address with a control character, of ASCII or of Unicode; it takes it, and who logs it has it.",
        lambda one: one.is_path and one.was("5", "2") and bool(_CONTROL.search(one.line.decode("utf-8", "replace"))),
    ),
    "empty-path": Reason(
        "It takes the null path <> as a recipient, and blanks in brackets as a sender.",
        lambda one: one.is_path and one.was("5", "2") and bool(re.search(rb"<[ \t]*>|:[ \t]*>", one.our_rest)),
    ),
    "size-as-address": Reason(
        "We read the SIZE behind an odd address, and refuse what is too big; it takes it for a part of the address.",
        lambda one: (
            one.is_path
            and not one.by_the_book
            and one.was("5", "2")
            and re.search(rb"\sSIZE=\d", one.our_rest, re.IGNORECASE) is not None
        ),
    ),
    "strict-address": Reason(
        "A strict session wants <brackets>, a domain, and SMTPUTF8 for what is not ASCII; it does not.",
        lambda one: one.is_path and not one.by_the_book and one.strict and one.was("5", "2"),
    ),
    # What was taken.
    "name": Reason(
        "We keep a name in HELO without control characters, as text and up to 256 characters; it keeps what came.",
        _names_alone,
    ),
    "address-text": Reason(
        "We keep an address as it came; it adds quotes, drops comments and routes, and has lone surrogates for bytes.",
        lambda one: one.is_path and not one.by_the_book and one.was("2", "2"),
    ),
}


def reason(difference: Difference) -> str:
    """The name of the first rule that explains it, "" if none does."""
    return next((name for name, (_, holds) in REASONS.items() if holds(difference)), "")
