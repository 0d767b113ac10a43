"""Opening a rollout plans it, and says so; the drift watch is told where the plan is refused."""

from __future__ import annotations

import types
from pathlib import Path

import pytest

from mlplatform.operations import wiring
from mlplatform.operations.actions import drift
from mlplatform.operations.actions import rollouts as job
from mlplatform.rollouts.journal.state import fold
from mlplatform.runtime.configuration.settings import load
from mlplatform.runtime.errors import Busy, InputInvalid, PlanRefused


@pytest.fixture
def platform(tmp_path: Path) -> wiring.Platform:
    settings = load({"MLPLATFORM_HOME": str(tmp_path / "home")})
    settings.home.create()
    made = wiring.Platform(settings)
    facts = types.SimpleNamespace(author="ann", alert_low=0.001, alert_high=0.03, report={})
    version = types.SimpleNamespace(version=1, digest="b" * 64, facts=facts)
    # a cached property: what stands in the instance's own dictionary is what it gives
    made.__dict__["registry"] = types.SimpleNamespace(get=lambda _model, _version: version)
    return made


def test_a_first_version_opens_without_a_plan_and_says_why(
    platform: wiring.Platform, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    found = job.open_rollout(platform, "fraud", 1, actor="ann", reason="first version")
    plan = fold(platform.rollouts.read(found)).plan
    assert plan is not None
    assert plan.missing == "no plan: there is no champion to compare a first version with"
    assert f"plan of version 1 of fraud: {plan.missing}" in caplog.text


def test_why_somebody_goes_on_despite_the_plan_is_a_reason(platform: wiring.Platform) -> None:
    with pytest.raises(InputInvalid, match="despite_plan"):
        job.open_rollout(platform, "fraud", 1, actor="ann", reason="hurry", despite_plan="no")
    assert platform.rollouts.active("fraud", finished=True) == []


def test_the_drift_watch_is_told_why_a_plan_is_refused(
    platform: wiring.Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> str:
        raise PlanRefused("shadow can't decide")

    monkeypatch.setattr(drift.rollouts, "open_rollout", refused)
    assert drift.ports(platform, "fraud").open_rollout(2) == "shadow can't decide"


@pytest.mark.parametrize("refusal", [PlanRefused("shadow can't decide"), Busy("one at a time")])
def test_a_retrain_that_answers_drift_does_not_fail_for_want_of_a_rollout(
    platform: wiring.Platform,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    refusal: Exception,
) -> None:
    def refused(*_: object, **__: object) -> str:
        raise refusal

    monkeypatch.setattr(drift.rollouts, "open_rollout", refused)
    asked = {"actor": "drift-watch", "reason": "labels have matured"}
    drift.open_retrained(platform, "fraud", 2, **asked, incident="drift-1")
    assert f"version 2 answers drift-1, and has no rollout yet: {refusal}" in caplog.text
    with pytest.raises(type(refusal)):
        drift.open_retrained(platform, "fraud", 2, **asked, incident=None)
