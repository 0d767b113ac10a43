"""The steps of a rollout, each with all of its analyses: those in the journal and those between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mlplatform.learning.validation.report import UNCHECKED
from mlplatform.observing.page.pictures.gates import TONES, GatePicture, gate_pictures
from mlplatform.operations.actions.interim_analyses import InterimAnalysis, StepHistory, analysis_of
from mlplatform.rollouts.journal.state import RolloutState, apply
from mlplatform.rollouts.journal.transitions import Transition
from mlplatform.rollouts.passes.summary import MARKS, title


@dataclass(frozen=True, slots=True)
class StepRow:
    """One step that was judged by its traffic.

    Args:
        name: name of the step, as text.
        key: id that is unique on the page.
        mark, tone: mark and tone of the verdict that ended the step, or of the newest verdict while
            it lasts.
        records: records of the decision log that it was counted in.
        waits: titles of the gates whose verdict an inconclusive step waits for.
    """

    name: str
    key: str
    mark: str
    tone: str
    records: int
    gates: tuple[GatePicture, ...]
    waits: tuple[str, ...] = ()

    @property
    def is_drawn(self) -> bool:
        """Whether a gate has a picture."""
        return any(gate.drawing is not None for gate in self.gates)

    @property
    def limit_only(self) -> bool:
        """Whether a picture shows a gate without a tolerance, which has a limit alone."""
        drawn = (gate.drawing for gate in self.gates)
        return any(d is not None and d.well is None and bool(d.stops) for d in drawn)


@dataclass(slots=True)
class _Step:
    name: str
    begun_ms: int | None
    analyses: list[InterimAnalysis]
    ended_by: InterimAnalysis | None = None


def steps(facts: Sequence[Transition], histories: Sequence[StepHistory]) -> tuple[StepRow, ...]:
    """The steps in a rollout's journal, newest first.

    Args:
        histories: stored analyses that led to no transition.
    """
    found: dict[int, _Step] = {}
    state: RolloutState | None = None
    for fact in facts:
        analysis, before = analysis_of(fact.evidence, fact.event_ms), state
        state = apply(before, fact)
        if before is not None and analysis is not None:
            name = _name(before.phase, before.percent if before.phase == "canary" else None)
            generation = int(fact.evidence.get("generation") or 0)
            step = found.setdefault(generation, _Step(name, before.since_event_ms, []))
            step.analyses.append(analysis)
            if (state.phase, state.percent) != (before.phase, before.percent):
                step.ended_by = analysis
    for history in histories:
        name = _name(history.phase, history.percent)
        begun_ms = None if state is None or history.phase != state.phase else state.since_event_ms
        step = found.setdefault(history.generation, _Step(name, begun_ms, []))
        # The journal's analysis comes last, because it has the reasons.
        step.analyses = sorted([*history.analyses, *step.analyses], key=lambda at: at.event_ms)
    newest_first = sorted((g for g in found if found[g].analyses), reverse=True)
    return tuple(_row_of(generation, found[generation]) for generation in newest_first)


def _row_of(generation: int, step: _Step) -> StepRow:
    last, key = step.ended_by or step.analyses[-1], f"g{generation}"
    return StepRow(
        name=step.name,
        key=key,
        mark=MARKS.get(last.verdict, last.verdict) if last.records else UNCHECKED,
        tone=TONES.get(last.verdict, "") if last.records else "",
        records=last.records,
        gates=tuple(gate_pictures(key, step.analyses, step.begun_ms)),
        waits=tuple(title(g.name) for g in last.gates if g.holds and g.verdict == "INCONCLUSIVE")
        if last.verdict == "INCONCLUSIVE"
        else (),
    )


def _name(phase: str, percent: float | None) -> str:
    if percent is not None:
        return f"canary, {percent:g} % of the customers"
    return "as champion" if phase == "promoted" else "shadow, copies of every request"
