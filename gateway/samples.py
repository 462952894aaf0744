"""Sample mails of device families: NAME.eml, byte for byte, and NAME.json, the event that it must become.

`gateway/profiles/README.md` says what is in the JSON. What is exact in an event is what the mail and the profile say:
its id, its times and where it came from are a gateway's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from gateway import interpret
from gateway.interpret.families import Library

KEYS = ("about", "source", "provenance", "envelope", "held_back", "event")


class Greeting(NamedTuple):
    """What of a sample's envelope is told."""

    helo: str


class Sample(NamedTuple):
    """`told` is the file's JSON; {} if there is none."""

    path: Path
    told: dict[str, Any]

    @property
    def family(self) -> str:
        return self.path.parent.name

    def event(self, library: Library) -> dict[str, Any]:
        """What becomes of it now."""
        reading = interpret.read(self.path.read_bytes())
        meaning = interpret.meaning(reading, Greeting(self.told.get("envelope", {}).get("helo", "")), library)
        return {
            "device": {
                "name": meaning.device_name,
                "manufacturer": meaning.manufacturer,
                "model": meaning.model,
                "profile": meaning.profile,
                "serial": meaning.serial,
            },
            "kind": meaning.kind,
            "state": meaning.state,
            "severity": meaning.severity,
            "title": meaning.title,
            "data": meaning.data,
            "off_after": meaning.off_after,
            "picture": reading.picture,
        }


def samples(folder: Path) -> Iterator[Sample]:
    """All below a folder of families. Raises ValueError for a JSON that is none, with its file."""
    for path in sorted(folder.glob("*/*.eml")):
        beside = path.with_suffix(".json")
        try:
            told = json.loads(beside.read_text("utf-8")) if beside.exists() else {}
        except ValueError as error:
            raise ValueError(f"{beside}: this is no JSON: {error}") from error
        if not isinstance(told, dict) or told.keys() - set(KEYS):
            raise ValueError(f"{beside}: must be a set of keys: {', '.join(KEYS)}")
        yield Sample(path, told)


def differences(expected: Any, actual: Any, at: str = "") -> list[str]:
    """In words, key by key."""
    if isinstance(expected, dict) and isinstance(actual, dict):
        found = []
        for key in [*expected, *(key for key in actual if key not in expected)]:
            place = f"{at}.{key}" if at else str(key)
            if key not in actual:
                found.append(f"{place} is missing: {_shown(expected[key])}")
            elif key not in expected:
                found.append(f"{place} is not expected: {_shown(actual[key])}")
            else:
                found += differences(expected[key], actual[key], place)
        return found
    same = expected == actual and isinstance(expected, bool) == isinstance(actual, bool)
    return [] if same else [f"{at} is {_shown(actual)}, not {_shown(expected)}"]


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
