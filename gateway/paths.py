"""Where the configuration and the data live: the platform's own folders, unless the environment says otherwise.

`MAILWIRE_CONFIG` names the configuration file, `MAILWIRE_DATA` the data folder, `MAILWIRE_CACHE` that of downloads.
The only file that imports platformdirs.
"""

from __future__ import annotations

import os
from pathlib import Path

from platformdirs import PlatformDirs

_DIRS = PlatformDirs("mailwire", appauthor=False)
_NAME, _DESKTOP = "mailwire.yaml", "desktop.yaml"


def config_file() -> Path | None:
    """The configuration file: the one `MAILWIRE_CONFIG` names (even if it isn't there), else the person's own, else
    the machine's, else None.
    """
    named = os.environ.get("MAILWIRE_CONFIG")
    if named:
        return Path(named).expanduser()
    return next((path for path in (default_config_file(), machines_config_file()) if path.exists()), None)


def default_config_file() -> Path:
    """Where a person's first configuration file belongs."""
    return _DIRS.user_config_path / _NAME


def machines_config_file() -> Path:
    """Where the configuration of a gateway for the whole machine belongs."""
    return _DIRS.site_config_path / _NAME


def desktop_config_file() -> Path:
    """Where the configuration of `mailwire desktop` belongs: a gateway may run on the same machine."""
    return _DIRS.user_config_path / _DESKTOP


def desktop_data_dir() -> Path:
    """The data folder of `mailwire desktop`, unless its configuration names another."""
    return PlatformDirs("mailwire-desktop", appauthor=False).user_data_path


def data_dir() -> Path:
    """The data folder; not made here."""
    named = os.environ.get("MAILWIRE_DATA")
    return Path(named).expanduser() if named else _DIRS.user_data_path


def cache_dir() -> Path:
    """Where what can be had again is kept; not made here."""
    named = os.environ.get("MAILWIRE_CACHE")
    return Path(named).expanduser() if named else _DIRS.user_cache_path
