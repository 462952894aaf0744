"""The board's settings.json: what suits the board, then a file, then options, then single keys; checked as the board
itself will check it.

The check is the firmware's own (`firmware/settings.py`, plain Python that runs here too), so that a mistake is told
here and not on a line that nobody reads.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any

from gateway.flash import FlashError, WrongSettings, shipped
from gateway.flash.boards import Board
from gateway.flash.secret import Wanted

FILE = "settings.json"


def combined(board: Board, *layers: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, a later layer above an earlier one; the section `board` comes from board.json."""
    result: dict[str, Any] = {}
    for layer in (board.mailwire.settings, {"board": board.settings()}, *layers):
        _lay(result, layer)
    return result


def _lay(below: dict[str, Any], above: Mapping[str, Any]) -> None:
    for key, value in above.items():
        if isinstance(value, Mapping) and isinstance(below.get(key), dict):
            _lay(below[key], value)
        else:
            below[key] = _copied(value)


def _copied(value: Any) -> Any:
    return {key: _copied(inner) for key, inner in value.items()} if isinstance(value, Mapping) else value


def from_words(words: Iterable[str]) -> dict[str, Any]:
    """`mqtt.base=home` -> {"mqtt": {"base": "home"}}; a value that is JSON is meant as such. Raises FlashError."""
    result: dict[str, Any] = {}
    for word in words:
        path, equals, text = word.partition("=")
        keys = path.split(".")
        if not equals or not all(keys):
            raise WrongSettings(f"--set {word.partition('=')[0]}: write KEY=VALUE, such as mqtt.base=home.")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        for key in reversed(keys):
            value = {key: value}
        _lay(result, value)
    return result


def passwords(settings: Mapping[str, Any]) -> list[Wanted]:
    """Those that are needed and not given. An empty one is given."""
    wanted = []
    wifi, mqtt, post = (settings.get(key) for key in ("wifi", "mqtt", "post"))
    if isinstance(wifi, dict) and wifi.get("ssid") and "password" not in wifi:
        wanted.append(
            Wanted(("wifi", "password"), f"the password of the Wi-Fi '{wifi['ssid']}'", f"wifi {wifi['ssid']}")
        )
    for key, section in (("mqtt", mqtt), ("post", post)):
        if isinstance(section, dict) and section.get("user") and "password" not in section:
            account = f"{section['user']} at {section.get('url') or section.get('host')}"
            wanted.append(Wanted((key, "password"), f"the password of {account}", f"{key} {account}"))
    return wanted


def check(settings: Mapping[str, Any]) -> None:
    """Raises FlashError with a line for each mistake, as the board would tell it."""
    mistakes: list[str] = _firmware("settings").check(dict(settings))[1]
    if mistakes:
        raise WrongSettings(
            "\n".join(["The board would not take these settings:", *(f"  {line}" for line in mistakes)])
        )


def _firmware(name: str) -> ModuleType:
    """A module of the firmware's package, which is no part of this one and not on Python's path when installed."""
    folder = shipped("firmware")
    if "firmware" not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            "firmware", folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        if spec is None or spec.loader is None or not folder.is_dir():
            raise FlashError(f"{folder} is missing: this installation is not whole.")
        package = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(package)
        sys.modules["firmware"] = package
    return importlib.import_module(f"firmware.{name}")


def written(settings: Mapping[str, Any]) -> bytes:
    """As the file."""
    return json.dumps(settings, separators=(",", ":"), ensure_ascii=False).encode()
