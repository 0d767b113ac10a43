"""A challenger of numbers goes from shadow to confirmed, or is stopped by moves or by labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.support.class_model import real_definition
from tests.support.labelled_rollout import FLIPS, REQUESTS, World, affordable

from mlplatform.rollouts.passes.replay import replay_verdict

LABELS = np.random.default_rng(1).gamma(2.0, 50.0, REQUESTS)


def shadow(world: World, moved: float, noise: float = 10.0) -> list[dict[str, Any]]:
    """Requests whose number lies 30 EUR from the champion's for a share, else within 5 EUR; the
    champion's is `noise` off the label on average."""
    random = np.random.default_rng(2)
    own = LABELS + random.normal(0, noise, REQUESTS)
    rows = []
    for number in range(REQUESTS):
        shared = {
            "decision_id": f"s{number}",
            "unit": number % 500,
            "generation": world.generation,
            "event_ms": world.clock.event + number,
            "decision": "usual",
        }
        gap = 30.0 if number % 100 < 100 * moved else float(random.uniform(-5, 5))
        rows.append(shared | {"score": float(own[number])})
        copy = {"kind": "shadow", "arm": "challenger", "version": 2}
        rows.append(shared | copy | {"score": float(own[number]) + gap})
    return rows


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, affordable(real_definition())).first_version()


def test_one_that_moves_as_often_as_predicted_is_promoted_and_confirmed_by_its_labels(
    world: World,
) -> None:
    second = world.promoted(lambda: shadow(world, FLIPS))
    for number, label in enumerate(LABELS.tolist()):
        world.label(f"s{number}", label)
    policy = world.tolerating(confirm_error_rise=0.5, error=0.5)
    world.live_on()
    world.settle()
    world.settle()
    assert world.state(second).phase == "confirmed", world.state(second).reason
    judged = [f for f in world.rollouts.read(second) if "verdict" in f.evidence]
    gates = judged[0].evidence["gates"]
    assert set(gates) == {"failures", "disagreement", "utilisation"}
    assert gates["disagreement"]["values"]["share"] == pytest.approx(0.0, abs=1e-9)
    assert "further apart than the tolerance for 100 of 2,000" in gates["disagreement"]["reason"]
    error = judged[-1].evidence["gates"]["error"]
    assert 7 < error["values"]["champion_error"] < 9 < error["values"]["error"] + 1
    assert 1 < error["values"]["shift"] < 2
    assert "on 2,000 labelled requests" in error["reason"]
    for number, fact in enumerate(judged):
        folder = world.folder / f"again-{number}"
        folder.mkdir()
        again = replay_verdict(folder, world.log, fact, policy)  # type: ignore[arg-type]
        assert again is not None
        assert again.differences == ()


def test_one_whose_labels_prove_larger_errors_is_taken_back(world: World) -> None:
    second = world.promoted(lambda: shadow(world, FLIPS))
    generation = world.state(second).shadow_generation
    assert generation is not None
    world.log.rows[generation] = [row | {"generation": generation} for row in shadow(world, 0.6)]
    for number, label in enumerate(LABELS.tolist()):
        world.label(f"s{number}", label)
    world.tolerating(confirm_error_rise=0.1, error=0.1)
    world.live_on()
    world.settle()
    assert world.state(second).phase == "rolled_back"
    assert "The new version's mean absolute error is at least" in world.state(second).reason


def test_one_whose_numbers_move_more_than_predicted_is_stopped_in_shadow(world: World) -> None:
    second = world.open(2)
    world.settle()
    world.log.rows[world.generation] = shadow(world, 0.5)
    world.clock.event += 3_600_000
    world.settle()
    assert world.state(second).phase == "rolled_back"
    assert "disagree on numbers by at least" in world.state(second).reason
