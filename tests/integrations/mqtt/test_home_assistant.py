"""Every payload of the sample library in Home Assistant itself: `in_home_assistant.py`, in its own environment."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from gateway.api import Device, words
from gateway.integrations.mqtt import discovery
from gateway.wire.topics import Topics
from tests import needs
from tests.integrations.mqtt import library

TOPICS = Topics()


def everything() -> dict[str, object]:
    """A device with all that there is: each kind on, each unit."""
    units = [*discovery._CLASSES, "%", "rpm", "pages", "kVA", "ppm", "Wh", "kWh", None]
    quantities = {f"q{number}_charge": (number + 0.5, unit) for number, unit in enumerate(units)}
    device = Device("everything", "Everything", kinds=list(words.KINDS), quantities=quantities)
    device.states = dict.fromkeys(words.KINDS, "on")
    device.last_event = {"time": "2026-11-22T19:11:28.123Z", "title": "x" * 200}
    document = discovery.device_config(TOPICS, device, "1.0", None)
    event = {
        "id": "01",
        "time": "T",
        "kind": "other",
        "state": None,
        "severity": "info",
        "title": "t",
        "text": "",
        "data": {"event_types": ["none"], "icon": "mdi:skull", "device_class": "doorbell"},
    }
    shows = {
        "last_seen": "2026-11-22T19:11:28+00:00",
        **{f"state_{kind}": "on" for kind in words.KINDS},
        **{f"value_{key}": str(value) for key, (value, _) in quantities.items()},
    }
    messages = [
        (TOPICS.bridge_state, '{"state":"online"}', False),
        (TOPICS.state(device.id), json.dumps(discovery.state(device, 0.0)), False),
        (TOPICS.event(device.id), json.dumps(event), False),
    ]
    return {"config": (TOPICS.config(device.id), document), "messages": messages, "kind": "other", "shows": shows}


@pytest.mark.timeout(600)  # two minutes where nothing else runs
def test_home_assistant_loads_every_payload_of_the_library(tmp_path: Path) -> None:
    harness = needs.home_assistant()
    payloads = [*library.payloads(TOPICS), everything()]
    file = tmp_path / "payloads.jsonl"
    file.write_text("".join(json.dumps(one) + "\n" for one in payloads), "utf-8")
    check = tmp_path / "test_in_home_assistant.py"
    check.write_bytes(Path(__file__).with_name("in_home_assistant.py").read_bytes())
    options = ["-q", "-s", "--tb=short", "--show-capture=no", "-p", "no:cacheprovider", "-o", "asyncio_mode=auto"]
    options += ["--log-level=WARNING"]  # no test looks at more, and to write it takes a third of the time
    done = subprocess.run(
        [harness / "bin" / "pytest", "-c", "/dev/null", f"--rootdir={tmp_path}", *options, check],
        cwd=tmp_path,
        env=os.environ | {"PAYLOADS": str(file)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2000:]
    assert (tmp_path / "loaded").read_text() == str(len(payloads))
