"""Peculiarities of devices in SMTP, by the codes of `smtp.REMARK`, and their remedies, for a person.

A file of its own because few connections need it, and a board has little memory. MicroPython-safe.
"""

REMARKS = {
    "auth-unknown": "It asks for a way to log in that is not offered; PLAIN and LOGIN are.",
    "display-name": "It sends a display name together with an address: enter the bare address in its settings.",
    "empty-helo": "It says HELO without a name; its network address stands in for it.",
    "http": "It speaks HTTP to an SMTP port: check the port number in its settings.",
    "lf-commands": "Its lines end in LF instead of CRLF.",
    "lf-end": "It ends its mail with LF.LF, which is no end: set it to CRLF, or list its address under `bare_lf`.",
    "no-brackets": "It writes addresses without <brackets> around them.",
    "tls-hello": "It begins TLS on a port without: set it to no encryption or STARTTLS, or to the port that has TLS.",
}
