"""What shadow saw of a pair of bundles, beside what a replay of the same pair predicts."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tests.support.class_model import class_definition
from tests.support.labelled_rollout import FLIPS, REQUESTS, World, affordable, class_pairs

from mlplatform.rollouts.journal.transitions import ApprovalAsked, Transition
from mlplatform.rollouts.whatif.report import PredictedDisagreement
from mlplatform.rollouts.whatif.shadow import shadow_disagreements
from rollout_world import arm

PAIR = (arm(1).bundle, arm(2).bundle)


def predicted(low: float | None, high: float | None) -> PredictedDisagreement:
    return PredictedDisagreement(1000, 50, 0.05, 0.2, low, high, 0.25)


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> list[Transition]:
    """Of a challenger of classes that decides otherwise as often as validation predicted."""
    world = World(tmp_path_factory.mktemp("world"), affordable(class_definition())).first_version()
    second = world.promoted(lambda: class_pairs(world, FLIPS))
    return list(world.rollouts.read(second))


def seen(facts: list[Transition], pair: tuple[str, str] = PAIR, **bounds: Any) -> Any:
    told = predicted(bounds.get("low", 0.04), bounds.get("high", 0.06))
    return shadow_disagreements([facts], told, reference=pair[0], candidate=pair[1])


def test_the_share_that_shadow_saw_stands_beside_what_was_predicted(
    facts: list[Transition],
) -> None:
    (found,) = seen(facts)
    assert found.rollout == facts[0].rollout_id
    assert (found.trials, found.share) == (REQUESTS, pytest.approx(FLIPS))
    assert found.low < FLIPS < found.high
    assert found.validation == FLIPS
    assert found.verdict == "HEALTHY"
    assert found.as_predicted


def test_a_share_beyond_the_predicted_band_is_told_as_such(facts: list[Transition]) -> None:
    assert not seen(facts, low=0.3, high=0.4)[0].as_predicted
    assert not seen(facts, low=0.0, high=0.001)[0].as_predicted
    assert seen(facts, low=0.3, high=0.4)[0].share == pytest.approx(FLIPS)


def test_without_a_band_nothing_is_said_of_it(facts: list[Transition]) -> None:
    (found,) = seen(facts, low=None, high=None)
    assert "as_predicted" not in msgspec.to_builtins(found)


def test_another_pair_was_never_in_shadow(facts: list[Transition]) -> None:
    assert seen(facts, (arm(3).bundle, arm(2).bundle)) == ()
    assert seen(facts, (arm(1).bundle, arm(3).bundle)) == ()


def test_evidence_of_an_earlier_release_without_its_basis_tells_nothing(
    facts: list[Transition],
) -> None:
    bare = [
        msgspec.structs.replace(f, evidence={k: v for k, v in f.evidence.items() if k != "basis"})
        for f in facts
    ]
    assert any(isinstance(f, ApprovalAsked) for f in bare)
    assert seen(bare) == ()
    strange = [msgspec.structs.replace(f, evidence=f.evidence | {"basis": {"x": 1}}) for f in facts]
    assert seen(strange) == ()
