"""What a drift check leaves for the exporter and the page, by the words that both know."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlplatform.operations import wiring
from mlplatform.operations.actions import drift
from mlplatform.operations.actions.last_results import Check, last
from mlplatform.rollouts.drift.execute import DriftCheck
from mlplatform.rollouts.drift.next_step import Observation
from mlplatform.rollouts.drift.observe import Champion
from mlplatform.rollouts.drift.verdict import DriftFinding, DriftVerdict, NoDrift, UnclearDrift
from mlplatform.runtime.configuration.settings import load
from mlplatform.runtime.telemetry import signals

MODEL = "fraud"
VERDICTS: dict[str, DriftVerdict] = {
    "drifted": DriftFinding(0, ("3 of 3",)),
    "steady": NoDrift(("0 of 3",)),
    "undecided": UnclearDrift(("0 of 3",)),
}


@pytest.fixture
def platform(tmp_path: Path) -> wiring.Platform:
    settings = load({"MLPLATFORM_HOME": str(tmp_path / "home")})
    settings.home.create()
    return wiring.Platform(settings)


@pytest.mark.parametrize("outcome", signals.DRIFT_VERDICT.labels[1].values)
def test_a_check_is_kept_with_the_outcome_that_the_exporter_knows(
    platform: wiring.Platform, monkeypatch: pytest.MonkeyPatch, outcome: str
) -> None:
    observation = Observation(1, 0, (), (), VERDICTS[outcome])
    check = DriftCheck(observation, Champion(None, None, None, None), 0)  # type: ignore[arg-type]
    monkeypatch.setattr(drift, "run_check", lambda *_, **__: check)

    assert drift.watch(platform, MODEL, "test").summary.startswith(f"{outcome}: ")

    kept = last(platform.settings.home.measured, MODEL, Check)
    assert kept is not None
    assert kept.verdict == outcome
    assert (kept.undecided_since_ms is not None) == (outcome == "undecided")
