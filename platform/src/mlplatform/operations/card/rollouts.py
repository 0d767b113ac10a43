"""Rollouts of a version in its card: steps with their gates, approvals, and labels of its pairs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import assert_never

from mlplatform.operations.actions.interim_analyses import InterimAnalysis, analysis_of
from mlplatform.operations.card.card import (
    Approval,
    CardAnalysis,
    CardEvent,
    NamedEstimate,
    Pairs,
    Rollout,
    TrafficGate,
)
from mlplatform.rollouts.journal.state import fold
from mlplatform.rollouts.journal.transitions import (
    Answered,
    ApprovalAsked,
    CanaryStepped,
    Confirmed,
    DeployRefused,
    Opened,
    Paused,
    Promoted,
    Resumed,
    RolledBack,
    RolloutPlan,
    ShadowStarted,
    Superseded,
    Transition,
)
from mlplatform.rollouts.verdicts.outcomes import LABELS, POSITIVES
from mlplatform.rollouts.verdicts.outcomes import NAME as RECALL
from mlplatform.rollouts.verdicts.verdict import Gate

Journal = Sequence[Transition]
_WORST_FIRST = {"UNHEALTHY": 0, "INCONCLUSIVE": 1}
_ENDS = Confirmed | Superseded | RolledBack


def card_rollout(facts: Journal, analyses: Mapping[str, InterimAnalysis]) -> Rollout:
    """One rollout as its journal tells it, with its newest interim analysis.

    Args:
        analyses: rollout → its newest interim analysis, of rollouts that have one.

    Raises:
        Refused: the journal is empty, or a transition can't follow those before it.
    """
    state = fold(facts)
    opened = next(fact for fact in facts if isinstance(fact, Opened))
    promoted = [fact.event_ms for fact in facts if isinstance(fact, Promoted)]
    ended = [fact.event_ms for fact in facts if isinstance(fact, _ENDS)]
    return Rollout(
        id=state.rollout_id,
        phase=state.phase,
        opened_by=state.opened_by,
        author=state.author,
        emergency=state.emergency,
        first=state.bootstrap,
        approval=opened.approval,
        planned=_planned(state.plan),
        promoted_ms=promoted[0] if promoted else None,
        ended_ms=ended[-1] if ended else None,
        steps=tuple(map(_step, facts)),
        analysis=_newest(analyses.get(state.rollout_id)),
    )


def _newest(analysis: InterimAnalysis | None) -> CardAnalysis | None:
    if analysis is None:
        return None
    return CardAnalysis(
        event_ms=analysis.event_ms, verdict=analysis.verdict, records=analysis.records
    )


def approvals(journals: Iterable[Journal]) -> tuple[Approval, ...]:
    """All answers of people, in order."""
    return tuple(
        Approval(
            rollout=fact.rollout_id,
            approver=fact.approver,
            answer=fact.answer,
            proven_by=fact.proven_by or None,
            bound_to=fact.bound_to,
            at_ms=fact.wall_ms,
            reason=fact.reason,
        )
        for facts in journals
        for fact in facts
        if isinstance(fact, Answered)
    )


def newest_pairs(journals: Iterable[Journal]) -> Pairs | None:
    """The newest comparison by labels on requests that both versions scored; None if there is none
    yet."""
    found = [p for facts in journals for p in _pairs(facts)]
    return max(found, key=lambda p: p.event_ms, default=None)


def label_arrivals(journals: Iterable[Journal]) -> dict[str, float | int | None]:
    """The newest numbers of the gate on labels; empty if it was never evaluated."""
    found = [
        (fact.event_ms, gate.values)
        for facts in journals
        for fact in facts
        for gate in _gates(fact)
        if gate.name == RECALL and f"{LABELS[1]}_labels_share" in gate.values
    ]
    return max(found, key=lambda each: each[0], default=(0, {}))[1]


def _pairs(facts: Journal) -> Iterator[Pairs]:
    for fact in facts:
        for gate in _gates(fact):
            if gate.name == RECALL and "challenger_recall_value" in gate.values:
                yield Pairs(
                    rollout=fact.rollout_id,
                    event_ms=fact.event_ms,
                    headline=gate.headline,
                    positives=int(gate.values.get(POSITIVES) or 0),
                    hidden=int(gate.values.get("hidden") or 0),
                    challenger=_of_arm(gate, "challenger"),
                    champion=_of_arm(gate, "champion"),
                )


def _of_arm(gate: Gate, arm: str) -> tuple[NamedEstimate, ...]:
    return tuple(
        NamedEstimate(
            name=what,
            value=gate.values.get(f"{arm}_{what}_value"),
            low=gate.values.get(f"{arm}_{what}_low"),
            high=gate.values.get(f"{arm}_{what}_high"),
        )
        for what in ("recall", "precision")
    )


def _planned(plan: RolloutPlan | None) -> str | None:
    if plan is None:
        return None
    despite = f"; opened all the same: {plan.despite}" if plan.despite else ""
    return f"{plan.refusal or plan.missing}{despite}"


def _step(fact: Transition) -> CardEvent:
    analysis = analysis_of(fact.evidence, fact.event_ms)
    gates = sorted(_gates(fact), key=lambda g: (_WORST_FIRST.get(g.verdict, 2), g.name))
    return CardEvent(
        what=_what(fact),
        event_ms=fact.event_ms,
        wall_ms=fact.wall_ms,
        actor=fact.actor,
        reason=fact.reason,
        verdict=None if analysis is None else analysis.verdict,
        records=None if analysis is None else analysis.records,
        evidence=None if not fact.evidence else fact.evidence_digest,
        gates=tuple(
            TrafficGate(name=g.name, verdict=g.verdict, holds=g.holds, headline=g.headline)
            for g in gates
        ),
    )


def _gates(fact: Transition) -> tuple[Gate, ...]:
    analysis = analysis_of(fact.evidence, fact.event_ms)
    return () if analysis is None else analysis.gates


def _what(fact: Transition) -> str:
    match fact:
        case Opened():
            return "opened"
        case DeployRefused():
            return "its service could not start"
        case ShadowStarted():
            return "shadow began"
        case ApprovalAsked():
            return "an approval was asked for"
        case Answered(answer=answer, approver=approver):
            return f"{approver} answered: {answer}"
        case Paused():
            return "paused"
        case Resumed():
            return "resumed"
        case CanaryStepped(percent=percent):
            return f"canary of {percent:g} % began"
        case Promoted():
            return "promoted, provisionally"
        case Confirmed():
            return "confirmed"
        case Superseded():
            return "superseded"
        case RolledBack():
            return "rolled back"
        case _:
            assert_never(fact)
