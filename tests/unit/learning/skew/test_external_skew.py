"""What decisions read of an external view, counted again from the imported table."""

from __future__ import annotations

from pathlib import Path

from tests.support.external_world import BUREAU, T_S
from tests.unit.learning.features.external.test_external_join import NAMES, Values, World, values

from mlplatform.learning.skew.decision_reads import DecisionReads
from mlplatform.learning.skew.tables import table_cells
from mlplatform.runtime.units import DAY_S


def served(world: World, key: int, at_s: int, read: Values, **gaps: str) -> DecisionReads:
    return DecisionReads(
        decision_id=f"{key}-{at_s}",
        event_ms=(T_S + at_s) * 1000,
        recorded_ms=(T_S + at_s) * 1000,
        keys={"customer": world.stored_key(key)},
        features=read,
        times={},
        gaps=gaps,
    )


def test_right_values_are_equal_and_a_wrong_one_and_a_missing_one_are_named(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.now_s = DAY_S
    world.take([(1, 0, 0, 1.0), (2, 0, 0, 2.0)])
    world.now_s = 2 * DAY_S
    world.take([(1, DAY_S, DAY_S, 9.0)])
    decisions = [
        served(world, 1, DAY_S, values(1.0)),
        served(world, 1, 2 * DAY_S, values(9.0)),
        served(world, 1, 2 * DAY_S + 3600, values(1.0)),  # the store did not take the second
        served(world, 1, 2 * DAY_S - 60, values(9.0)),  # it ended a minute after the event
        served(world, 2, DAY_S, values(None), bureau="unavailable"),
        served(world, 3, DAY_S, values(None), bureau="missing"),
    ]
    cells = [c for c in table_cells(world.offline, [BUREAU], decisions) if c.feature == NAMES[0]]
    assert [(c.outcome, c.note) for c in cells] == [
        ("equal", None),
        ("equal", None),
        ("different", "table"),
        ("equal", None),
        ("missing", "unavailable"),
        ("equal", None),
    ]
    assert (cells[2].served, cells[2].expected) == (1.0, 9.0)
