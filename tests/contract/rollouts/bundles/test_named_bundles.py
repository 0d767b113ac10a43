"""The bundles that no cache gives up: those of routes, open rollouts and this home's services."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mlplatform.model.folders import load_definition
from mlplatform.model.routes import Arm
from mlplatform.rollouts.bundles.references import named_bundles
from mlplatform.rollouts.journal.sqlite import SqliteRollouts
from mlplatform.rollouts.serving.local import LocalPlane
from mlplatform.rollouts.serving.manifest import render
from mlplatform.runtime.configuration.settings import Home, load
from mlplatform.runtime.errors import Unavailable
from mlplatform.scoring import wiring
from support.scoring_world import ScoringWorld, write_amount_bundle

DESIRED = "de" * 32


@pytest.fixture
def world(tmp_path: Path) -> Iterator[ScoringWorld]:
    made = ScoringWorld(tmp_path, has_snapshots=False)
    yield made
    made.close()


def named(home: Home) -> frozenset[str] | None:
    journal = SqliteRollouts(home.rollouts_db)
    return named_bundles(home.serving, lambda: journal)


def bundle_of(world: ScoringWorld, offset: float) -> str:
    draft = world.home.bundles / f"draft-{offset}"
    bundle = write_amount_bundle(draft, offset)
    draft.rename(world.home.bundles / bundle)
    return bundle


def test_champion_predecessor_challenger_and_services_are_named(world: ScoringWorld) -> None:
    assert named(world.home) == frozenset()
    first, second, third = (bundle_of(world, offset) for offset in (0.0, 0.1, 0.2))
    world.promote(arm(1, first))
    world.promote(arm(2, second))
    world.shadow(arm(3, third))
    assert named(world.home) == {first, second, third}

    plane = LocalPlane(world.home.serving)
    plane.apply(render(load_definition("fraud"), 9, DESIRED, f"bundle:{DESIRED}"))
    assert named(world.home) == {first, second, third, DESIRED}
    world.roll_back()
    plane.remove(plane.names()[0])
    assert named(world.home) == {first, second}
    settings = load({"MLPLATFORM_HOME": str(world.home.root)})
    assert wiring.bundle_cache(settings).store is None


def arm(version: int, bundle: str) -> Arm:
    return Arm(version, bundle, f"fraud-v{version}-{bundle[:8]}")


def test_where_nobody_knows_what_is_needed_nothing_is_said(tmp_path: Path) -> None:
    def away() -> SqliteRollouts:
        raise Unavailable("the journal")

    assert named_bundles(tmp_path, away) is None
    assert named_bundles(tmp_path, lambda: None) == frozenset()
    (tmp_path / "desired").mkdir()
    (tmp_path / "desired" / "fraud-v1-abababab.json").write_text("{")
    assert named_bundles(tmp_path, lambda: None) is None
