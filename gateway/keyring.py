"""The system's keyring: passwords by a name, for this user. The only file that imports keyring.

It is there on a desktop; a machine without one has no keyring, and neither does one where nobody has unlocked it.
"""

from __future__ import annotations

import importlib.util
from typing import Any

SERVICE = "mailwire"


class NoKeyring(Exception):
    """There is none to be had, and why."""


def get(name: str) -> str | None:
    """The password of that name; None: there is none. Raises NoKeyring."""
    keyring, trouble = _library()
    try:
        password: str | None = keyring.get_password(SERVICE, name)
    except trouble as error:
        raise NoKeyring(_words(error)) from error
    return password


def put(name: str, password: str) -> None:
    """Keep it, in the place of an earlier one. Raises NoKeyring."""
    keyring, trouble = _library()
    try:
        keyring.set_password(SERVICE, name, password)
    except trouble as error:
        raise NoKeyring(_words(error)) from error


def remove(name: str) -> bool:
    """False: there was none. Raises NoKeyring."""
    if get(name) is None:
        return False
    keyring, trouble = _library()
    try:
        keyring.delete_password(SERVICE, name)
    except trouble as error:
        raise NoKeyring(_words(error)) from error
    return True


def _library() -> tuple[Any, type[Exception]]:
    if importlib.util.find_spec("keyring") is None:
        raise NoKeyring("the package keyring is not installed: pip install 'mailwire[desktop]'")
    import keyring
    from keyring.errors import KeyringError

    return keyring, KeyringError


def _words(error: Exception) -> str:
    """In one line: where there is none, the library gives advice about packages that no machine needs."""
    if type(error).__name__ == "NoKeyringError":
        return "this machine has no keyring (no desktop is running, or it brings none)"
    return str(error).strip().partition("\n")[0] or type(error).__name__
