"""The drill of the scoring path, with the faults that end within seconds."""

from __future__ import annotations

import pytest
from tests.drills.scoring import drill_all

from mlplatform.model.folders import load_definition
from support.scoring_world import MODEL

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


def test_a_predictor_that_was_started_again_does_not_wait_for_the_breaker() -> None:
    found = drill_all(["predictor_restarted"], 50.0, 2.0, print)["predictor_restarted"]
    assert found.broken == []
    assert found.degraded_reasons.keys() & {"unavailable", "breaker_open"}
    assert found.recovery_s is not None
    assert found.recovery_s < load_definition(MODEL).breaker.open_s / 2
