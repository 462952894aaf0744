from __future__ import annotations

from pathlib import Path

import pytest

from gateway.integrations.mqtt import mirror
from tests.integrations.mqtt.stand_in_gateway import StandIn
from tests.mosquitto import mosquitto

__all__ = ["gateway", "mosquitto"]


@pytest.fixture(autouse=True)
def _no_time_to_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests have no Home Assistant that would need it."""
    monkeypatch.setattr(mirror, "MEETING", 0.0)


@pytest.fixture
def gateway(tmp_path: Path) -> StandIn:
    return StandIn(tmp_path)
