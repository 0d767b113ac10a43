"""What a drift check leaves for the exporter and the page, by the words that both know."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mlplatform.operations import wiring
from mlplatform.operations.actions import drift
from mlplatform.operations.actions.last_results import Check, last
from mlplatform.operations.traffic import input_windows
from mlplatform.rollouts.drift.execute import DriftCheck
from mlplatform.rollouts.drift.health import Health
from mlplatform.rollouts.drift.next_step import Observation
from mlplatform.rollouts.drift.observe import Champion
from mlplatform.rollouts.drift.verdict import (
    DriftFinding,
    DriftVerdict,
    NoDrift,
    UnclearDrift,
    Window,
    WindowVerdict,
)
from mlplatform.rollouts.drift.windows import ChampionTenure
from mlplatform.runtime.configuration.settings import load
from mlplatform.runtime.telemetry import signals
from mlplatform.runtime.units import DAY_MS
from support.kept_windows import MOVED, trained_profile

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


def test_a_check_keeps_what_its_windows_held_and_mends_a_damaged_file(
    platform: wiring.Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    values, units = np.arange(100.0), np.arange(100)
    window = Window(
        start_ms=0, end_ms=DAY_MS, inputs={MOVED: values}, units=units, scores=values / 100,
        alerts=np.zeros(100, dtype=bool), scored_units=units, stale=25,
    )  # fmt: skip
    judged = WindowVerdict(0, DAY_MS, 100, Health.INCONCLUSIVE, ("few",))
    champion = Champion(ChampionTenure(3, 0), (), trained_profile(), None)
    observation = Observation(3, 0, (window,), (judged,), VERDICTS["undecided"])
    monkeypatch.setattr(drift, "run_check", lambda *_, **__: DriftCheck(observation, champion, 0))
    folder = platform.settings.home.measured
    for damage in (None, "{"):
        if damage is not None:
            (folder / f"{MODEL}.inputs.json").write_text(damage)
        drift.watch(platform, MODEL, "test")
        (kept,) = input_windows.read(folder, MODEL).windows
        assert (kept.champion, kept.rows, kept.stale, kept.health) == (3, 100, 25, "INCONCLUSIVE")
        assert kept.inputs[MOVED].seen.middle == pytest.approx(49.5)
