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
        generation: generation of the shadow phase.
        version: version that is judged.
        now_event_ms: present event time; labels that arrived later do not count.
        marks: writer → last number that was read.
        capacity: share (0-1) of requests that people can look at.
        due: the promotion can be confirmed now. Before that, only proven harm is reported.
        hides: decisions that prevent a label.
        explores: whether records may show that such requests were let through.
        task: task of the model, which determines what labels are.
        step_ms: ages and delays are counted in whole steps of this length. Earlier releases used 1:
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
        sources: log writers and gateways; the marks of the writers are the numbers up to which the
            log was read.
        line_ms: event time up to which records were complete; None means that all of them were.
        outcomes: basis of the gate on labels; None if that gate was not asked.
        policy: policy of model.yaml at that time. `limits` follow from it; it is kept to show later
            changes.
        code: version of the platform.
        unrouted: reason why raw callers were not routed by the judged routes; None if they were.
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
        seen, complete, slow_gates: as in `judge`.
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
        msgspec.ValidationError: the basis does not have the form of this release.
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
