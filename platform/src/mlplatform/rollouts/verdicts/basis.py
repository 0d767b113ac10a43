"""The basis of a verdict: everything besides the log that it follows from. With both, a verdict can
be computed again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from mlplatform.model.policies.decision_scale import EARLIER_HIDE, Task
from mlplatform.model.policies.rollout import RolloutPolicy
from mlplatform.rollouts.journal.evidence import Evidence
from mlplatform.rollouts.verdicts.aggregates import Aggregates
from mlplatform.rollouts.verdicts.facts import Integers, Subject
from mlplatform.rollouts.verdicts.judgement import GateLimits, Judgement, Sources, judge
from mlplatform.rollouts.verdicts.outcomes import (
    LabelledClasses,
    LabelledNumbers,
    Outcomes,
    accuracy_gate,
    error_gate,
    outcome_gate,
)
from mlplatform.rollouts.verdicts.verdict import Bound, Errors, Gate


@dataclass(frozen=True, slots=True)
class OutcomeBasis:
    """The outcomes that count for a verdict, and its requirements for them.

    Args:
        generation: of the shadow phase. version: that is judged.
        now_event_ms: labels that arrived later do not count.
        marks: per writer, the last number that was read.
        capacity: share (0-1) of requests that people can look at.
        due: the promotion could be confirmed. Before, only proven harm is reported.
        hides: decisions after which no label can come.
        explores: whether records may hold that such requests were let through.
        task: of the model, which says what labels are.
        step_ms: ages and delays are counted in whole steps of it. 1 is what earlier releases did:
            every request counts on its own.
    """

    generation: int
    version: int
    maturity_ms: int
    now_event_ms: int
    marks: dict[str, int]
    bound: Bound
    errors: Errors
    capacity: float
    due: bool
    hides: tuple[str, ...] = EARLIER_HIDE
    explores: bool = False
    task: Task = "binary"
    step_ms: int = 1

    def age_ms(self, event_ms: Integers) -> Integers:
        """Ages of requests now, in milliseconds, in whole steps."""
        return (self.now_event_ms // self.step_ms - event_ms // self.step_ms) * self.step_ms


@dataclass(frozen=True, slots=True)
class Basis:
    """The basis of a verdict.

    Args:
        sources: the marks of the writers are the numbers up to which the log was read.
        line_ms: event time up to which records were complete; None: all of them.
        outcomes: None where no labels were asked.
        policy: as model.yaml had it. `limits` follow from it; it is kept to say what has changed.
        code: the version of the platform.
        unrouted: why raw callers were not routed by what was judged; None: they were.
    """

    subject: Subject
    limits: GateLimits
    sources: Sources
    line_ms: int | None
    outcomes: OutcomeBasis | None
    policy: RolloutPolicy
    code: str
    unrouted: str | None = None


def verdict(
    basis: Basis, seen: Aggregates, complete: Aggregates, slow_gates: Sequence[Gate]
) -> Judgement:
    """The judgement, with its basis in its evidence.

    A healthy one holds only if raw callers are routed by the routes that were judged. An unhealthy
    one always stays so: a Gateway that does not follow must not keep a challenger.

    Args:
        seen, complete, slow_gates: as for `judge`.
    """
    found = judge(seen, complete, basis.limits, basis.sources, slow_gates)
    evidence = found.evidence | {"basis": msgspec.to_builtins(basis)}
    if basis.unrouted is not None and found.verdict == "HEALTHY":
        reasons = (basis.unrouted,)
        return Judgement("INCONCLUSIVE", reasons, evidence | {"verdict": "INCONCLUSIVE"})
    return Judgement(found.verdict, found.reasons, evidence)


def basis_of(evidence: Evidence) -> Basis | None:
    """The basis in evidence; None if an earlier release kept none.

    Raises:
        msgspec.ValidationError: it is not one of this release.
    """
    kept = evidence.get("basis")
    return None if kept is None else msgspec.convert(kept, Basis)


LabelledRequests = Outcomes | LabelledClasses | LabelledNumbers
"""Labelled requests, one type for each task of a model."""


def outcome_gates(basis: OutcomeBasis, outcomes: LabelledRequests) -> list[Gate]:
    """The gate on matured labels, if there is one. Before the promotion could be confirmed, only an
    UNHEALTHY gate is returned."""
    if not basis.due and outcomes.immature:
        return []
    match outcomes:
        case Outcomes():
            gate = outcome_gate(outcomes, basis.bound, basis.errors, capacity=basis.capacity)
        case LabelledClasses():
            gate = accuracy_gate(outcomes, basis.bound, basis.errors)
        case LabelledNumbers():
            gate = error_gate(outcomes, basis.bound, basis.errors)
    return [gate] if basis.due or gate.verdict == "UNHEALTHY" else []
