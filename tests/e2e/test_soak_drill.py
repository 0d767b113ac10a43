"""The soak drill, for seconds: what client, gateways and log count is the same."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.drills.soak import drill

from support.gateways_world import GatewaysWorld

pytestmark = pytest.mark.slow
SECONDS = 4.0


def test_the_books_balance_under_full_load(tmp_path: Path) -> None:
    world = GatewaysWorld(tmp_path)
    try:
        found = drill(world, SECONDS, 16)
    finally:
        world.close()
    # Memory has no time to settle in seconds; the rule itself is tested by tests/unit.
    broken = {name for name, holds in found["promises"].items() if not holds}
    assert broken <= {"memory is flat"}, found
    assert found["books"]["copied"] > 0
    assert found["log"]["segments"] > 0
