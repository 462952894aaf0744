"""What the strict temper of `smtp` asks of addresses and parameters (RFC 5321 and its extensions).

A file of its own because the lenient temper does without, and a board has little memory. MicroPython-safe.
"""

from gateway.wire.smtp import number, quote_end

_SPECIALS = '<>()[]\\,;:@"'  # RFC 5322 §3.2.3, where the dot is one, too


def is_mailbox(address: str, sender: bool) -> bool:
    """Mailbox, null sender or postmaster, as RFC 5321 §4.1.2 in its outlines: no special stands outside of quotes."""
    if not address:
        return True
    if "@" not in address:
        return not sender and address.lower() == "postmaster"
    at = address.rfind("@")
    local, domain = address[:at], address[at + 1 :]
    quoted = quote_end(b"<" + address.encode()) == len(local.encode()) + 1
    literal = domain[:1] == "[" and domain[-1:] == "]"
    inner = domain[1:-1] if literal else domain
    return (
        local != ""
        and inner != ""
        and (quoted or not _has_any(_SPECIALS + " ", local))
        and not _has_any("[\\] " if literal else _SPECIALS + " ", inner)
    )


def _has_any(letters: str, text: str) -> bool:
    return any(letter in letters for letter in text)


def offers(name: str, sender: bool, login: bool, smtputf8: bool, dsn: bool) -> bool:
    """Whether an EHLO with these extensions offered this parameter to MAIL (else to RCPT)."""
    if not sender:
        return dsn and name in ("NOTIFY", "ORCPT")
    if name == "AUTH":
        return login
    if name == "SMTPUTF8":
        return smtputf8
    return name in ("SIZE", "BODY") or (dsn and name in ("RET", "ENVID"))


def is_value(name: str, value: str) -> bool:
    """Whether a parameter's value has the form that its extension asks for."""
    if name == "SIZE":
        return number(value) >= 0
    if name == "BODY":
        return value.upper() in ("7BIT", "8BITMIME")
    if name == "SMTPUTF8":
        return not value
    if name == "RET":
        return value.upper() in ("FULL", "HDRS")
    if name == "NOTIFY":
        words = value.upper().split(",")
        return words == ["NEVER"] or not [word for word in words if word not in ("SUCCESS", "FAILURE", "DELAY")]
    if name == "ORCPT":
        return value.find(";") > 0 and _is_xtext(value)
    return (name == "AUTH" and value == "<>") or (value != "" and _is_xtext(value))


def _is_xtext(value: str) -> bool:
    """RFC 3461 §4, and nothing in it stands for a control character."""
    at = value.find("+")
    while at >= 0:
        code = value[at + 1 : at + 3]
        if len(code) < 2 or code.strip("0123456789ABCDEF") or code < "20" or code == "7F":
            return False
        at = value.find("+", at + 3)
    return True
