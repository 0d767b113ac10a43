"""The interim analyses of a rollout's steps: bounded, in their order, and nobody's basis for a
decision."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.rollouts.passes.test_rollout_passes import World, to_canary

from mlplatform.operations.actions import interim_analyses, rollouts
from mlplatform.operations.actions.interim_analyses import (
    MOST_ANALYSES,
    InterimAnalysis,
    StepHistory,
)
from mlplatform.rollouts.passes.summary import judged, undecided
from mlplatform.rollouts.verdicts.verdict import Gate
from mlplatform.runtime.errors import Corrupt


def analysis(event_ms: int, records: int | None = None) -> InterimAnalysis:
    gate = Gate("failures", "INCONCLUSIVE", f"at {event_ms}", {"share": 0.1})
    return InterimAnalysis(
        event_ms, "INCONCLUSIVE", event_ms if records is None else records, (gate,)
    )


def history(generation: int, *seen: InterimAnalysis) -> StepHistory:
    return StepHistory("fraud-v2-1", generation, "shadow", None, seen, {"challenger": {"units": 5}})


@settings(max_examples=30)
@given(st.integers(1, 300))
def test_a_history_is_thinned_out_and_keeps_its_ends(count: int) -> None:
    kept = interim_analyses.thinned([analysis(n) for n in range(count)])
    times = [one.event_ms for one in kept]
    assert len(kept) <= MOST_ANALYSES
    assert len(kept) == count or len(kept) > MOST_ANALYSES // 2
    assert (times[0], times[-1]) == (0, count - 1)
    assert times == sorted(set(times))


def test_looks_are_kept_by_step_with_the_newest_reason(tmp_path: Path) -> None:
    for event_ms in (1, 2, 3):
        interim_analyses.keep(tmp_path, "fraud", history(4, analysis(event_ms)))
    interim_analyses.keep(tmp_path, "fraud", history(5, analysis(9)))
    other = StepHistory("fraud-v2-10", 6, "shadow", None, (analysis(1),))
    interim_analyses.keep(tmp_path, "fraud", other)

    found = interim_analyses.step_histories(tmp_path, "fraud", "fraud-v2-1")

    assert [c.generation for c in found] == [4, 5]
    assert [one.event_ms for one in found[0].analyses] == [1, 2, 3]
    assert [one.gates[0].reason for one in found[0].analyses] == ["", "", "at 3"]
    assert found[0].arms == {"challenger": {"units": 5}}
    assert interim_analyses.step_histories(tmp_path, "none", "fraud-v2-1") == []


def test_a_look_that_saw_nothing_new_replaces_the_one_before(tmp_path: Path) -> None:
    for event_ms in (1, 2, 3):
        interim_analyses.keep(tmp_path, "fraud", history(4, analysis(event_ms, records=7)))
    (found,) = interim_analyses.step_histories(tmp_path, "fraud", "fraud-v2-1")
    assert [one.event_ms for one in found.analyses] == [3]


def test_the_oldest_files_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interim_analyses, "MOST_FILES", 4)
    for generation in range(7):
        interim_analyses.keep(tmp_path, "fraud", history(generation, analysis(1)))
    assert len(list((tmp_path / "fraud").iterdir())) == 4


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    interim_analyses.keep(tmp_path, "fraud", history(4, analysis(1)))
    (path,) = (tmp_path / "fraud").iterdir()
    path.write_text("{")
    with pytest.raises(Corrupt, match="fraud-v2-1@4"):
        interim_analyses.step_histories(tmp_path, "fraud", "fraud-v2-1")


def test_evidence_without_a_verdict_is_no_analysis() -> None:
    assert interim_analyses.analysis_of({}, 1) is None
    assert interim_analyses.analysis_of({"validation": {}}, 1) is None


def test_a_pass_tells_each_look_with_its_state_and_its_evidence(tmp_path: Path) -> None:
    world = World(tmp_path)
    rollout_id = to_canary(world)

    judged = world.run().judged_steps

    assert [at.state.rollout_id for at in judged] == [rollout_id]
    newest = interim_analyses.analysis_of(judged[0].evidence, judged[0].event_ms)
    assert newest is not None
    assert {gate.name for gate in newest.gates} == set(judged[0].evidence["gates"]) != set()


def test_the_newest_look_is_that_of_the_step_at_which_the_rollout_stands(tmp_path: Path) -> None:
    def at(phase: str, percent: float) -> Any:
        return SimpleNamespace(model="fraud", rollout_id="fraud-v2-1", phase=phase, percent=percent)

    def kept(generation: int, percent: float | None, *seen: InterimAnalysis) -> None:
        phase = "shadow" if percent is None else "canary"
        one = StepHistory("fraud-v2-1", generation, phase, percent, seen)
        interim_analyses.keep(tmp_path, "fraud", one)

    assert interim_analyses.newest_analysis(tmp_path, at("shadow", 0.0)) is None
    kept(2, None, analysis(1), analysis(2))
    kept(3, 5.0, analysis(3))
    for state, expected in ((at("shadow", 0.0), 2), (at("canary", 5.0), 3)):
        found = interim_analyses.newest_analysis(tmp_path, state)
        assert found is not None
        assert found.event_ms == expected
    assert interim_analyses.newest_analysis(tmp_path, at("canary", 25.0)) is None


def test_a_damaged_file_keeps_nobody_from_the_journal(tmp_path: Path) -> None:
    interim_analyses.keep(tmp_path, "fraud", history(4, analysis(1)))
    (path,) = (tmp_path / "fraud").iterdir()
    path.write_text("{")
    home = SimpleNamespace(interim_analyses=tmp_path)
    platform: Any = SimpleNamespace(settings=SimpleNamespace(home=home))
    state: Any = SimpleNamespace(
        model="fraud", rollout_id="fraud-v2-1", phase="shadow", percent=0.0
    )
    assert rollouts.newest_analysis(platform, state) is None


def test_what_keeps_a_rollout_is_said_by_gate_and_nothing_else_is() -> None:
    gates = [
        Gate("failures", "INCONCLUSIVE", "It may fail more often.", {}),
        Gate("alerts", "HEALTHY", "It flags as often.", {}),
        Gate("recall", "INCONCLUSIVE", "No label has matured.", {}, holds=False),
    ]
    assert undecided(gates) == "answers in time: It may fail more often."
    assert undecided(gates[1:]) == ""
    text = judged(gates, 0)
    assert text.startswith("### The newest interim analysis of this step, of 1970-01-01 00:00 UTC")
    assert "✔ healthy: **share of alerts**. It flags as often." in text
