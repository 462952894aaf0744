"""Passwords for a board: from the environment, the keyring, or a person; never from a command line, never shown."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple

from gateway import keyring
from gateway.flash import FlashError, WrongSettings, need


class Wanted(NamedTuple):
    """A password that the settings need: its place in them, what a person calls it, and its name in the keyring."""

    place: tuple[str, str]
    about: str
    account: str

    @property
    def variable(self) -> str:
        """The environment variable it may be in."""
        return f"MAILWIRE_{self.place[0].upper()}_PASSWORD"


def find(wanted: Wanted, variable: str | None, ask: Callable[[Wanted], str] | None) -> str | None:
    """The password; None if it is nowhere and nobody can be asked. `variable`: one that a person has named.

    Raises WrongSettings when that one is not set.
    """
    if variable is not None:
        if variable not in os.environ:
            raise WrongSettings(f"There is no environment variable {variable}, which was to hold {wanted.about}.")
        return os.environ[variable]
    if wanted.variable in os.environ:
        return os.environ[wanted.variable]
    kept = _from_keyring(wanted)
    if kept is not None or ask is None:
        return kept
    return ask(wanted)


def remember(wanted: Wanted, password: str) -> None:
    """Put it into the keyring. Raises FlashError when there is none."""
    need("keyring")
    try:
        keyring.put(wanted.account, password)
    except keyring.NoKeyring as error:
        raise FlashError(f"The system's keyring does not take {wanted.about}: {error}. Leave out --remember.") from None


def _from_keyring(wanted: Wanted) -> str | None:
    try:
        return keyring.get(wanted.account)
    except keyring.NoKeyring:  # none on this machine, or locked
        return None
