"""What brokers were told to keep of each device, in a file for each, so that all of it can be taken back.

Home Assistant keeps a component that a later document leaves out, and a broker keeps what nobody empties. What has
vanished since (a device forgotten, a target taken from the configuration, another base topic) may have done so while
the gateway was stopped; so what was told is written down before it is told.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from gateway.wire.topics import Topics

BRIDGE = "bridge"  # what the gateway itself is called among the devices


class Announced:
    """A folder of files. `load` first; a file that can't be read, or was never written, is as if nothing was told."""

    def __init__(self, folder: Path, topics: Topics) -> None:
        self._folder = folder
        self._topics = topics
        self._components: dict[str, dict[str, str]] = {}  # device -> component -> platform
        self._elsewhere: dict[str, Topics] = {}  # device -> the topics it was told on, which are no longer ours

    def load(self) -> None:
        for path in self._folder.glob("*.json"):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                told = json.loads(path.read_text("utf-8"))
                self._components[path.stem] = dict(told["components"])
                if (told["base"], told["discovery"]) != (self._topics.base, self._topics.discovery):
                    self._elsewhere[path.stem] = Topics(told["base"], told["discovery"])

    def knows(self, device_id: str) -> bool:
        """Was it told of this one, on these topics?"""
        return device_id in self._components and device_id not in self._elsewhere

    def with_component(self, key: str) -> list[str]:
        """The devices that were told of with this one."""
        return [device_id for device_id, components in self._components.items() if key in components]

    def vanished(self, device_id: str, components: Mapping[str, Any]) -> dict[str, dict[str, str]]:
        """What Home Assistant has, and this document has no longer: sent with its platform alone, it is removed."""
        told = self._components[device_id] if self.knows(device_id) else {}
        return {key: {"platform": platform} for key, platform in told.items() if key not in components}

    def note(self, device_id: str, components: Mapping[str, Any]) -> None:
        """Before it is told. Raises OSError."""
        platforms = {key: str(component["platform"]) for key, component in components.items()}
        if self.knows(device_id) and self._components[device_id] == platforms:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        document = {"base": self._topics.base, "discovery": self._topics.discovery, "components": platforms}
        beside = self._folder / f"{device_id}.part"
        beside.write_text(json.dumps(document), "utf-8")
        beside.replace(self._folder / f"{device_id}.json")
        self._components[device_id] = platforms

    def forget(self, device_id: str) -> None:
        self._components.pop(device_id, None)
        self._elsewhere.pop(device_id, None)
        (self._folder / f"{device_id}.json").unlink(missing_ok=True)

    def left_over(self, known: Collection[str]) -> Iterator[tuple[str, list[str]]]:
        """The devices that are no more, or were told on other topics: (device, the topics to empty)."""
        for device_id in list(self._components):
            topics = self._elsewhere.get(device_id)
            if topics or device_id not in known:
                kept = kept_topics(self._topics, device_id) if device_id in known else []
                yield device_id, [one for one in kept_topics(topics or self._topics, device_id) if one not in kept]


def kept_topics(topics: Topics, device_id: str) -> list[str]:
    """All that a broker keeps of a device, or of the gateway itself; the first takes it from Home Assistant."""
    config = [topics.config(device_id)] if topics.discovery else []
    if device_id == BRIDGE:
        return [*config, topics.bridge_state, topics.bridge_info, topics.bridge_devices, topics.bridge_health]
    return [*config, topics.state(device_id), topics.image(device_id), topics.availability(device_id)]
