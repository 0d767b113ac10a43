"""Rollouts and their evidence as the page shows them, from the journal's values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlplatform.learning.validation.report import TITLES as VALIDATION_TITLES
from mlplatform.learning.validation.report import UNCHECKED, was_checked
from mlplatform.learning.validation.report import mark as validation_mark
from mlplatform.observing.page.pictures import scales
from mlplatform.observing.page.pictures.measures import measure
from mlplatform.observing.page.pictures.ramp import Ramp, ramp
from mlplatform.observing.page.pictures.steps import StepRow, steps
from mlplatform.observing.page.queries.plots import (
    PERCENT,
    POINTS,
    Plot,
    PlottedInterval,
    plot,
)
from mlplatform.operations.actions.interim_analyses import StepHistory
from mlplatform.rollouts.journal.evidence import Evidence
from mlplatform.rollouts.journal.state import RolloutState, apply
from mlplatform.rollouts.journal.transitions import Answered, Resumed, Transition
from mlplatform.rollouts.passes import plan_text
from mlplatform.rollouts.passes.summary import (
    ARM_COUNTS,
    MARKS,
    is_unchecked,
    mark,
    title,
)
from mlplatform.rollouts.verdicts.judgement import shown_values

TONES = {
    "HEALTHY": "good",
    "passed": "good",
    "UNHEALTHY": "bad",
    "failed": "bad",
    "confirmed": "good",
    "promoted": "good",
    "rolled_back": "bad",
}
"""Verdict or phase → its tone; others are neither good nor bad. Words say the same."""
CALIBRATION = "calibration"
"""The gate whose shares differ by percentage points. The low end of its interval is judged."""
_BY_PEOPLE = frozenset({"Answered", "Paused", "Resumed"})
"""Facts by people that begin no phase."""
_ORDER = {"UNHEALTHY": 0, "failed": 0, "INCONCLUSIVE": 1, "inconclusive": 1}


@dataclass(frozen=True, slots=True)
class GateRow:
    """One gate: its verdict in words, the reason, and its plot if it has an interval with a
    limit."""

    title: str
    mark: str
    tone: str
    reason: str
    plot: Plot | None


@dataclass(frozen=True, slots=True)
class EvidenceDetail:
    """The evidence of one transition.

    Args:
        arms: names of the arms.
        counts: name of a count, and its number for each arm, as text.
        rest: the whole evidence, as JSON.
    """

    digest: str
    rollout_id: str
    model: str
    version: int | None
    author: str
    verdict: str
    tone: str
    until_ms: int | None
    records: int | None
    validation: tuple[GateRow, ...]
    gates: tuple[GateRow, ...]
    arms: tuple[str, ...]
    counts: tuple[tuple[str, tuple[str, ...]], ...]
    rest: Evidence


@dataclass(frozen=True, slots=True)
class PhaseRow:
    """One entry of the journal: what began, when on both clocks, by whom, why, and the evidence."""

    phase: str
    tone: str
    event_ms: int
    wall_ms: int
    actor: str
    reason: str
    evidence: EvidenceDetail | None


@dataclass(frozen=True, slots=True)
class RolloutDetail:
    """One rollout with everything that happened to it, oldest first.

    Args:
        why: why it is in its phase; an answer, or a resumption, is no reason for that.
        answered: an answer that no pass has carried out yet, as a sentence; empty if there is none.
        expected: sentences on when it is decided, by its plan.
        ramp: the challenger's share of the customers over time.
        steps: the steps with a picture of each gate, newest first.
    """

    state: RolloutState
    tone: str
    why: str
    answered: str
    expected: tuple[str, ...]
    phases: tuple[PhaseRow, ...]
    validation: tuple[GateRow, ...]
    ramp: Ramp | None
    steps: tuple[StepRow, ...]


def rollout(facts: Sequence[Transition], histories: Sequence[StepHistory] = ()) -> RolloutDetail:
    """The details of a rollout, from its journal.

    Args:
        histories: analyses between the journal's transitions.

    Raises:
        Refused: a transition can't follow those before it.
        ValueError: there are no transitions.
    """
    state: RolloutState | None = None
    lines = []
    for fact in facts:
        state = apply(state, fact)
        lines.append(_line(state, fact))
    if state is None:
        raise ValueError("a rollout has at least one transition")
    newest_ms = max((c.analyses[-1].event_ms for c in histories if c.analyses), default=None)
    return RolloutDetail(
        state,
        TONES.get(state.phase, ""),
        why(state, facts),
        answered(state),
        plan_text.expected(state),
        tuple(lines),
        validation_gates(state.validation),
        ramp(facts, newest_ms),
        steps(facts, histories),
    )


def why(state: RolloutState, facts: Sequence[Transition]) -> str:
    """Why a rollout is in its phase, or paused in it."""
    if state.paused is not None:
        return state.paused.reason
    return next(f.reason for f in reversed(facts) if not isinstance(f, Answered | Resumed))


def answered(state: RolloutState) -> str:
    """An approver's answer that waits for the next pass, as a sentence; empty if none waits."""
    if state.answer is None or not state.awaits_answer:
        return ""
    answer = {"approve": "approved", "reject": "rejected"}[state.answer.answer]
    return (
        f"{state.answer.approver} has {answer} it: {state.answer.reason}. The next pass"
        " acts on it, within a minute."
    )


def evidence(fact: Transition) -> EvidenceDetail | None:
    """The evidence of a transition; None if it carries none."""
    found = fact.evidence
    if not found:
        return None
    verdict = str(found.get("verdict", ""))
    arms = _object(found.get("arms"))
    return EvidenceDetail(
        digest=fact.evidence_digest,
        rollout_id=fact.rollout_id,
        model=fact.model,
        version=found.get("version"),
        author=str(found.get("author", "")),
        verdict=UNCHECKED if found.get("records") == 0 else MARKS.get(verdict, verdict),
        tone="" if found.get("records") == 0 else TONES.get(verdict, ""),
        until_ms=found.get("until_event_ms"),
        records=found.get("records"),
        validation=validation_gates(_object(found.get("validation"))),
        gates=_gates(found),
        arms=tuple(sorted(arms)),
        counts=_counts(arms),
        rest=found,
    )


def validation_gates(report: Mapping[str, Any]) -> tuple[GateRow, ...]:
    """The gates before traffic, with those that stopped the candidate first."""
    found = sorted(report.get("gates", ()), key=lambda g: _ORDER.get(g["verdict"], 2))
    return tuple(_validation_gate(gate) for gate in found)


def _line(state: RolloutState, fact: Transition) -> PhaseRow:
    kind = type(fact).__name__
    step = "" if state.step is None else f", step {state.step + 1}"
    phase = kind.lower() if kind in _BY_PEOPLE else state.phase + step
    shown = evidence(fact)
    tone = TONES.get(state.phase, "")
    return PhaseRow(phase, tone, fact.event_ms, fact.wall_ms, fact.actor, fact.reason, shown)


def _gates(evidence: Evidence) -> tuple[GateRow, ...]:
    found = _object(evidence.get("gates"))
    ordered = sorted(found.items(), key=lambda item: (_ORDER.get(item[1]["verdict"], 2), item[0]))
    return tuple(
        GateRow(
            title(name),
            mark(gate["verdict"], holds=gate.get("holds", True), reason=gate["reason"]),
            "" if is_unchecked(gate["reason"]) else TONES.get(gate["verdict"], ""),
            gate["reason"],
            _share_plot(name, shown_values(name, evidence)),
        )
        for name, gate in ordered
    )


def _share_plot(name: str, values: Mapping[str, Any]) -> Plot | None:
    if "share" not in values:
        return None
    # A gate by a limit of its own has no other: what it allows ends where it stops.
    limit = values["limit"] if "limit" in values else values.get("stop")
    allowed = (values.get("band_low"), values.get("band_high", limit))
    shape = measure(name, values)
    ends = None if shape is None else shape.allowed(values)
    if ends is not None and None not in ends:  # it tolerates no more below than above
        allowed = ends
    shown = PlottedInterval(values["share"], values.get("low"), values.get("high"), allowed)
    is_difference = shape is not None and shape.write is scales.points
    return plot(shown, share=True, unit=POINTS if is_difference else PERCENT)


def _validation_gate(gate: Mapping[str, Any]) -> GateRow:
    low, high = gate.get("interval") or (None, None)
    limit, observed = gate.get("limit"), gate.get("observed")
    drawn = None
    if low is not None and limit is not None and observed is not None:
        # A report holds a limit, but not which side of it is good: of an error it is below.
        is_calibration = gate["name"] == CALIBRATION
        shown = (
            PlottedInterval(observed, low, high, (None, limit), judged_by_low=True)
            if is_calibration
            else PlottedInterval(observed, low, high, limit=limit)
        )
        drawn = plot(shown, share=is_calibration, unit=POINTS)
    verdict = gate["verdict"]
    return GateRow(
        VALIDATION_TITLES.get(gate["name"], gate["name"]),
        validation_mark(gate),
        TONES.get(verdict, "") if was_checked(gate) else "",
        gate["reason"],
        drawn,
    )


def _counts(arms: Mapping[str, Any]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    names = sorted(arms)
    return tuple(
        (text, tuple(_count(key, arms[name]) for name in names)) for key, text in ARM_COUNTS
    )


def _count(key: str, counts: Mapping[str, Any]) -> str:
    if key == "flips" and not counts.get("pairs"):
        return "not compared"
    value = counts.get(key, 0)
    return f"{value:,}" if isinstance(value, int | float) and math.isfinite(value) else str(value)


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
