from __future__ import annotations

from pathlib import Path

import pytest

from tests.integrations.mqtt.stand_in_gateway import StandIn
from tests.mosquitto import mosquitto

__all__ = ["gateway", "mosquitto"]


@pytest.fixture
def gateway(tmp_path: Path) -> StandIn:
    return StandIn(tmp_path)
