"""The looks at a rollout's steps: bounded, in their order, and nobody's basis for a decision."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.rollouts.test_rollout_passes import World, to_canary

from mlplatform.operations.actions import looks
from mlplatform.operations.actions.looks import MOST_LOOKS, Course, Look
from mlplatform.rollouts.verdicts.verdict import Gate
from mlplatform.runtime.errors import Corrupt


def look(event_ms: int, records: int | None = None) -> Look:
    gate = Gate("failures", "INCONCLUSIVE", f"at {event_ms}", {"share": 0.1})
    return Look(event_ms, "INCONCLUSIVE", event_ms if records is None else records, (gate,))


def course(generation: int, *seen: Look) -> Course:
    return Course("fraud-v2-1", generation, "shadow", None, seen, {"challenger": {"units": 5}})


@settings(max_examples=30)
@given(st.integers(1, 300))
def test_a_course_is_thinned_out_and_keeps_its_ends(count: int) -> None:
    kept = looks.thinned([look(n) for n in range(count)])
    times = [one.event_ms for one in kept]
    assert len(kept) <= MOST_LOOKS
    assert len(kept) == count or len(kept) > MOST_LOOKS // 2
    assert (times[0], times[-1]) == (0, count - 1)
    assert times == sorted(set(times))


def test_looks_are_kept_by_step_with_the_newest_reason(tmp_path: Path) -> None:
    for event_ms in (1, 2, 3):
        looks.keep(tmp_path, "fraud", course(4, look(event_ms)))
    looks.keep(tmp_path, "fraud", course(5, look(9)))
    other = Course("fraud-v2-10", 6, "shadow", None, (look(1),))
    looks.keep(tmp_path, "fraud", other)

    found = looks.courses(tmp_path, "fraud", "fraud-v2-1")

    assert [c.generation for c in found] == [4, 5]
    assert [one.event_ms for one in found[0].looks] == [1, 2, 3]
    assert [one.gates[0].reason for one in found[0].looks] == ["", "", "at 3"]
    assert found[0].arms == {"challenger": {"units": 5}}
    assert looks.courses(tmp_path, "none", "fraud-v2-1") == []


def test_a_look_that_saw_nothing_new_replaces_the_one_before(tmp_path: Path) -> None:
    for event_ms in (1, 2, 3):
        looks.keep(tmp_path, "fraud", course(4, look(event_ms, records=7)))
    (found,) = looks.courses(tmp_path, "fraud", "fraud-v2-1")
    assert [one.event_ms for one in found.looks] == [3]


def test_the_oldest_files_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looks, "MOST_FILES", 4)
    for generation in range(7):
        looks.keep(tmp_path, "fraud", course(generation, look(1)))
    assert len(list((tmp_path / "fraud").iterdir())) == 4


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    looks.keep(tmp_path, "fraud", course(4, look(1)))
    (path,) = (tmp_path / "fraud").iterdir()
    path.write_text("{")
    with pytest.raises(Corrupt, match="fraud-v2-1@4"):
        looks.courses(tmp_path, "fraud", "fraud-v2-1")


def test_evidence_without_a_verdict_is_no_look() -> None:
    assert looks.look({}, 1) is None
    assert looks.look({"validation": {}}, 1) is None


def test_a_pass_tells_each_look_with_its_state_and_its_evidence(tmp_path: Path) -> None:
    world = World(tmp_path)
    rollout_id = to_canary(world)

    judged = world.run().looks

    assert [at.state.rollout_id for at in judged] == [rollout_id]
    newest = looks.look(judged[0].evidence, judged[0].event_ms)
    assert newest is not None
    assert {gate.name for gate in newest.gates} == set(judged[0].evidence["gates"]) != set()
