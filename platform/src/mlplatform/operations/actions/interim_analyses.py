"""Interim analyses: the gates of a rollout's step as each pass saw them, kept for people.

The journal holds the evidence of the steps that were taken. These files hold the analyses in
between, fewer of them with time. Nothing is decided from them, and they may be deleted at any time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from mlplatform.rollouts.journal.evidence import Evidence
from mlplatform.rollouts.journal.state import RolloutState
from mlplatform.rollouts.verdicts.judgement import shown_values
from mlplatform.rollouts.verdicts.verdict import Gate
from mlplatform.runtime.storage.struct_files import read_struct, write_struct

MOST_ANALYSES: Final = 64
"""Most analyses kept of one step; if there are more, every second one is dropped, except the first
and the last."""
MOST_FILES: Final = 256
"""Most files kept of one model, each of one step of a rollout; the newest stay."""


class InterimAnalysis(msgspec.Struct, frozen=True):
    """The gates of a step as one pass judged them.

    Args:
        event_ms: event time of the analysis.
        records: number of records of the decision log that the analysis counted.
        gates: the gates with their numbers; only the newest one has reasons.
    """

    event_ms: int
    verdict: str
    records: int
    gates: tuple[Gate, ...]


class StepHistory(msgspec.Struct, frozen=True):
    """The analyses of one step of a rollout, oldest first.

    Args:
        percent: percent of the customers; None in shadow, and as champion.
        analyses: the analyses, named `looks` in the files.
        arms: arm → what the newest analysis counted of it.
    """

    rollout_id: str
    generation: int
    phase: str
    percent: float | None
    analyses: tuple[InterimAnalysis, ...] = msgspec.field(name="looks")
    arms: Mapping[str, Mapping[str, Any]] = {}


def analysis_of(evidence: Evidence, event_ms: int) -> InterimAnalysis | None:
    """The analysis that evidence holds; None if the evidence judged no traffic."""
    gates = evidence.get("gates")
    if not isinstance(gates, Mapping) or "verdict" not in evidence:
        return None
    found = tuple(
        Gate(
            name=str(name),
            verdict=gate["verdict"],
            reason=str(gate["reason"]),
            values=dict(shown_values(name, evidence)),
            holds=bool(gate.get("holds", True)),
        )
        for name, gate in gates.items()
    )
    return InterimAnalysis(
        event_ms, str(evidence["verdict"]), int(evidence.get("records") or 0), found
    )


def thinned(analyses: Sequence[InterimAnalysis]) -> tuple[InterimAnalysis, ...]:
    """At most `MOST_ANALYSES` of the analyses, always with the first and the last."""
    kept = tuple(analyses)
    while len(kept) > MOST_ANALYSES:
        kept = (*kept[:-1:2], kept[-1])
    return kept


def followed_by(history: StepHistory, newest: InterimAnalysis) -> StepHistory:
    """The history with one more analysis; it replaces the last one if neither the records nor the
    verdict changed."""
    earlier = history.analyses
    if earlier and (earlier[-1].records, earlier[-1].verdict) == (newest.records, newest.verdict):
        earlier = earlier[:-1]
    bare = (msgspec.structs.replace(one, gates=tuple(map(_bare, one.gates))) for one in earlier)
    return msgspec.structs.replace(history, analyses=thinned([*bare, newest]))


def keep(folder: Path, model: str, history: StepHistory) -> None:
    """Add the analyses of a history to its file in the model's folder."""
    path = _file(folder / model, history.rollout_id, history.generation)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    before = read_struct(path, StepHistory)
    if before is None:
        _forget_oldest(path.parent)
        before = msgspec.structs.replace(history, analyses=())
    for newest in history.analyses:
        before = followed_by(before, newest)
    kept = msgspec.structs.replace(before, arms=history.arms, phase=history.phase)
    write_struct(path, kept)


def step_histories(folder: Path, model: str, rollout_id: str) -> list[StepHistory]:
    """Stored histories of a rollout's steps, by generation.

    Raises:
        Corrupt: a file is not what `keep` writes.
    """
    names = (p.name for p in (folder / model).glob("*.json"))
    of_it = [name for name in names if name.rpartition("@")[0] == rollout_id]
    found = (read_struct(folder / model / name, StepHistory) for name in of_it)
    return sorted((c for c in found if c is not None), key=lambda c: c.generation)


def newest_analysis(folder: Path, state: RolloutState) -> InterimAnalysis | None:
    """The newest analysis of the rollout's present step; None before the first.

    Raises:
        Corrupt: a file is not what `keep` writes.
    """
    percent = state.percent if state.phase == "canary" else None
    histories = step_histories(folder, state.model, state.rollout_id)
    of_step = [h for h in histories if (h.phase, h.percent) == (state.phase, percent)]
    return of_step[-1].analyses[-1] if of_step and of_step[-1].analyses else None


def _bare(gate: Gate) -> Gate:
    return Gate(gate.name, gate.verdict, "", gate.values, gate.holds)


def _forget_oldest(folder: Path) -> None:
    files = sorted(folder.glob("*.json"), key=lambda p: p.stat().st_mtime)
    for old in files[: max(len(files) + 1 - MOST_FILES, 0)]:
        old.unlink(missing_ok=True)


def _file(folder: Path, rollout_id: str, generation: int) -> Path:
    return folder / f"{rollout_id}@{generation}.json"
