"""What people ask of a rollout or a model and are refused stands in the audit, as answers do."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.unit.operations.actions.test_rollout_opened import platform

from mlplatform.operations.actions import controls
from mlplatform.operations.actions import rollouts as job
from mlplatform.operations.wiring import Platform
from mlplatform.rollouts.journal.transitions import ProvenIdentity
from mlplatform.runtime.errors import Refused
from mlplatform.runtime.telemetry.refusals import MOST_IN_A_WHILE, Refusal, Refusals

__all__ = ["platform"]

EVA = ProvenIdentity(issuer="https://id.example.com", subject="s-7")
Act = Callable[[Platform, str], object]


def by_eva(act: str) -> Act:
    """An act of a rollout or, where it is one, of a model."""
    if act in ("kill", "lift", "clear"):
        return lambda platform, _: controls.control_model(
            *(platform, "fraud", act), actor="eva", reason="to be sure", identity=EVA
        )  # type: ignore[call-overload]
    if act == "roll-back":
        return lambda platform, rollout: job.take_back(
            *(platform, "fraud"), actor="eva", reason="to be sure", only=rollout, identity=EVA
        )
    return lambda platform, rollout: controls.control_rollout(
        *(platform, rollout, act), actor="eva", reason="to be sure", identity=EVA
    )  # type: ignore[call-overload]


def kept(platform: Platform) -> list[Refusal]:
    return list(Refusals(platform.settings.home.audit).since(0))


@pytest.mark.parametrize(
    ("act", "asked", "why"),
    [
        ("pause", "pause of ROLLOUT", "rolled_back"),
        ("resume", "resume of ROLLOUT", "rolled_back"),
        ("abort", "abort of ROLLOUT", "nothing to abort"),
        ("kill", "kill of fraud", "has no champion"),
        ("lift", "lift of fraud", "is not switched off"),
        ("clear", "clear of fraud", "nothing to clear"),
        ("roll-back", "roll-back of fraud", "there is nothing to roll back"),
    ],
)
def test_what_cannot_follow_is_refused_and_kept_with_who_asked_and_why(
    platform: Platform, act: str, asked: str, why: str
) -> None:
    rollout = job.open_rollout(platform, "fraud", 1, actor="ann", reason="first version")
    controls.control_rollout(platform, rollout, "abort", actor="ann", reason="wrong data")
    assert kept(platform) == []
    with pytest.raises(Refused, match=why):
        by_eva(act)(platform, rollout)
    (refusal,) = kept(platform)
    assert (refusal.door, refusal.who) == ("control", "eva")
    assert refusal.asked == f"{asked.replace('ROLLOUT', rollout)}: to be sure"
    assert why in refusal.why
    assert refusal.proof == "subject s-7 of https://id.example.com"


def test_a_rollout_of_another_model_is_refused_and_kept(platform: Platform) -> None:
    rollout = job.open_rollout(platform, "fraud", 1, actor="ann", reason="first version")
    with pytest.raises(Refused, match="not of churn"):
        controls.control(platform, "churn", "pause", rollout, actor="eva", reason="to be sure")
    assert [(r.who, r.proof) for r in kept(platform)] == [("eva", "")]


def test_a_rollout_that_nobody_names_is_the_one_under_way(platform: Platform) -> None:
    rollout = job.open_rollout(platform, "fraud", 1, actor="ann", reason="first version")
    asked = {"actor": "eva", "reason": "to be sure"}
    assert controls.control(platform, "fraud", "pause", "", **asked).startswith(
        f"pause {rollout}: "
    )
    assert platform.rollouts.active("fraud")[0].paused is not None
    assert controls.control(platform, "fraud", "abort", "", **asked) == (
        f"abort {rollout}: rolled_back"
    )
    with pytest.raises(Refused, match="no rollout of fraud is under way"):
        controls.control(platform, "fraud", "abort", "", **asked)
    (refusal,) = kept(platform)
    assert refusal.asked == "abort of the rollout of fraud: to be sure"


def test_of_several_rollouts_under_way_one_has_to_be_named(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    job.open_rollout(platform, "fraud", 1, actor="ann", reason="first version")
    twice = platform.rollouts.active("fraud") * 2
    monkeypatch.setattr(platform.rollouts, "active", lambda model: twice)
    with pytest.raises(Refused, match="name one: fraud-v1-1, fraud-v1-1"):
        controls.control(platform, "fraud", "pause", "", actor="eva", reason="to be sure")
    assert len(kept(platform)) == 1


def test_a_flood_of_refusals_leaves_a_bounded_trace(platform: Platform) -> None:
    for number in range(MOST_IN_A_WHILE + 50):
        with pytest.raises(Refused):
            controls.control_model(platform, "fraud", "lift", actor="eva", reason=f"try {number}")
    assert len(kept(platform)) == MOST_IN_A_WHILE
    assert platform.rollouts.controls("fraud") == ()
