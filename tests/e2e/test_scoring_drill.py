"""The drill of the scoring path, with the faults that end within seconds."""

from __future__ import annotations

import pytest
from tests.drills.scoring import drill_all

pytestmark = pytest.mark.slow
NAMES = ["features_locked", "features_held", "features_gone", "log_full", "log_held"]


def test_features_and_the_log_may_go_and_come_back() -> None:
    found = drill_all(NAMES, 50.0, 2.0, print)
    assert {name: f.broken for name, f in found.items()} == {name: [] for name in found}
    assert found["features_gone"].degraded_share_after == 0.0
    assert "log-unavailable" in {*found["log_full"].refused} or found["log_full"].retried > 0


def test_a_killed_gateway_leaves_no_request_without_an_answer() -> None:
    found = drill_all(["gateway_killed"], 50.0, 2.0, print)["gateway_killed"]
    assert found.broken == []
    assert (found.unanswered, found.lost, found.doubled) == (0, 0, 0)
