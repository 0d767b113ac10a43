"""A gateway on a machine beside a cluster: its predictors are at addresses that it is told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.scoring_world import ScoringWorld, wait_for

pytestmark = pytest.mark.slow
ON_KSERVE = {
    "MLPLATFORM_KSERVE_NAMESPACE": "models",
    "MLPLATFORM_KSERVE_BUNDLES": "pvc://bundles",
}


class World(ScoringWorld):
    """Predictors as pods are: at addresses that are told, and without a token."""

    asks_for_token = False


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


def test_it_asks_where_the_supervisor_says_that_a_service_listens(world: World) -> None:
    arm = world.deploy(1)
    world.promote(arm)
    world.start_gateway("--supervised", **ON_KSERVE)
    wait_for(lambda: world.answered_by() == "champion")


def test_a_service_of_which_nothing_is_said_is_asked_once_it_is(world: World) -> None:
    arm = world.deploy(1)
    port = world.predictor_port(arm)
    (world.home.serving / "status" / f"{arm.service}.json").unlink()
    world.promote(arm)
    world.start_gateway("--supervised", **ON_KSERVE)
    assert world.answered_by() != "champion"

    world.tell_address(arm, port)
    wait_for(lambda: world.answered_by() == "champion")
