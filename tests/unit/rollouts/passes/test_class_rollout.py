"""A challenger of classes goes from shadow to confirmed, or is stopped by flips or by labels."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.class_model import CLASSES, class_definition
from tests.support.labelled_rollout import FLIPS, REQUESTS, World, affordable, class_pairs

from mlplatform.rollouts.passes.replay import replay_verdict


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, affordable(class_definition())).first_version()


def test_one_that_flips_as_often_as_predicted_is_promoted_and_confirmed_by_its_labels(
    world: World,
) -> None:
    second = world.promoted(lambda: class_pairs(world, FLIPS))
    for number in range(REQUESTS):
        world.label(f"s{number}", CLASSES[1])  # the flipped ones it decides wrongly, 1 in 20
    policy = world.tolerating(confirm_accuracy_drop=0.1, accuracy=0.1)
    world.live_on()
    world.settle()
    world.settle()
    assert world.state(second).phase == "confirmed", world.state(second).reason
    judged = [f for f in world.rollouts.read(second) if "verdict" in f.evidence]
    gates = judged[0].evidence["gates"]
    assert set(gates) == {"failures", "disagreement", "utilisation"}
    assert gates["disagreement"]["values"]["share"] == pytest.approx(0.0, abs=1e-9)
    accuracy = judged[-1].evidence["gates"]["accuracy"]
    assert (accuracy["values"]["right"], accuracy["values"]["champion_right"]) == (1900, 2000)
    assert "decided 1,900 of 2,000 labelled requests right" in accuracy["reason"]
    for number, fact in enumerate(judged):
        folder = world.folder / f"again-{number}"
        folder.mkdir()
        again = replay_verdict(folder, world.log, fact, policy)  # type: ignore[arg-type]
        assert again is not None
        assert again.differences == ()


def test_one_whose_labels_prove_fewer_right_classes_is_taken_back(world: World) -> None:
    second = world.promoted(lambda: class_pairs(world, FLIPS))
    generation = world.state(second).shadow_generation
    assert generation is not None
    world.log.rows[generation] = [
        row | {"generation": generation} for row in class_pairs(world, 0.3)
    ]
    for number in range(REQUESTS):
        world.label(f"s{number}", "usual")
    world.tolerating(confirm_accuracy_drop=0.005, accuracy=0.005)
    world.live_on()
    world.settle()
    assert world.state(second).phase == "rolled_back"
    assert "The new version decides the right class for at least" in world.state(second).reason


def test_one_that_decides_other_classes_than_predicted_is_stopped_in_shadow(world: World) -> None:
    second = world.open(2)
    world.settle()
    world.log.rows[world.generation] = class_pairs(world, 0.5)
    world.clock.event += 3_600_000
    world.settle()
    assert world.state(second).phase == "rolled_back"
    assert "disagree on classes by at least" in world.state(second).reason
