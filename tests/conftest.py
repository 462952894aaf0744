"""For all tests: how many run side by side."""

from __future__ import annotations

import os
from typing import Any


def pytest_xdist_auto_num_workers(config: Any) -> int:
    """Twice as many as there are cores: most tests wait for other programs."""
    return 2 * len(os.sched_getaffinity(0))
