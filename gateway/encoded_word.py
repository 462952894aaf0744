"""Text that comes from outside is no encoded word (RFC 2047), whatever it looks like.

`email.message.EmailMessage` decodes what looks like one in the value of a field and in a file's name, line ends and
all, and writes what it found: `=?utf-8?q?=0D=0ABcc:_x@example.net?=` becomes a field of its own (seen with Python 3.11
and 3.13). So no text goes into one without going through here.
"""

from __future__ import annotations


def broken(text: str) -> str:
    """The text with a blank in what would begin an encoded word."""
    return text.replace("=?", "= ?")
