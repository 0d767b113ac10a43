"""When a retrain may answer an incident: once it would learn the new pattern."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from mlplatform.decisions.records.last_labels import LabelCounts
from mlplatform.model.policies.decision_scale import Task
from mlplatform.model.policies.monitoring import DriftPolicy
from mlplatform.rollouts.drift.incidents import Incident
from mlplatform.runtime.times import day_text
from mlplatform.runtime.units import DAY_MS

BUDGET_DAYS = 30
MAX_CLAIMS = 3  # retrains of an incident that may die before a person is asked


@dataclass(frozen=True, slots=True)
class MaturedRequests:
    """The requests since the change that a retrain would learn from: their number, and the number
    of positives; of classes and numbers the number of labelled ones."""

    rows: int
    positives: int
    counted: str = "positive"


@dataclass(frozen=True, slots=True)
class Wait:
    """A retrain is not due; `until_ms` is event time, None where no date can be named.

    Args:
        noted: the reason stays the same for days, so the incident's journal records it.
    """

    reason: str
    until_ms: int | None = None
    noted: bool = False


@dataclass(frozen=True, slots=True)
class Retrain:
    """A retrain is due now, on what is known at `as_of_ms`."""

    as_of_ms: int
    reason: str


@dataclass(frozen=True, slots=True)
class Page:
    """A person must look, because waiting longer does not help."""

    reason: str


RetrainDecision = Wait | Retrain | Page
Retrains = Sequence[tuple[int, str]]
"""Wall times at which retrains were asked for, and the incidents that asked."""


class LabelledRequests(Protocol):
    """The part of `learning.features.offline.OfflineTable` that is read here."""

    def label_counts(self, from_ms: int, to_ms: int, as_of_ms: int) -> LabelCounts:
        """The counts of requests in [from_ms, to_ms), by the labels known at `as_of_ms`."""
        ...


def retrain_when(
    incident: Incident,
    matured: MaturedRequests,
    *,
    now_ms: int,
    wall_ms: int,
    policy: DriftPolicy,
    lag_days: int,
    answer_lives: bool = True,
    fault: str | None = None,
    retrains: Retrains = (),
) -> RetrainDecision:
    """Whether to retrain for an incident.

    A retrain fits on matured requests, and holds the last days of them out. While the new pattern
    is only in the held-out days, a retrain would learn the old one and be measured on the new.

    Args:
        matured: result of `matured_since` for the incident's `changed_ms`.
        lag_days: age in days from which a training run can learn from a request: label maturity and
            held-out days together.
        now_ms, wall_ms: present event time and wall time, in epoch milliseconds; claims expire in
            wall time.
        answer_lives: for an answered incident, whether the version that answers it is in a rollout
            or about to get one. It is False after a rollback.
        fault: id of the open incident about the model's data; None if there is none. With a fault,
            a retrain would learn from broken data.
        retrains: retrains that the model's other incidents asked for. If they have not helped, one
            more may not help either.
    """
    match incident.state:
        case "closed":
            return Wait(f"incident {incident.id} is closed: {incident.note}")
        case "answered" if incident.answer is None:
            return Page(f"the retrain made no version: {incident.note}")
        case "answered" if not answer_lives:
            return Page(
                f"version {incident.answer} was trained for it, but did not pass its rollout"
            )
        case "answered":
            return Wait(
                f"version {incident.answer} was trained for it; its rollout shows whether it helps"
            )
        case "claimed" if incident.claim >= MAX_CLAIMS and incident.until_ms <= wall_ms:
            return Page(f"{incident.claim} retrains were started and none finished")
        case "open" | "claimed" if fault is not None:
            return Wait(f"no retrain starts while {fault} is open: it would learn from broken data",
                        noted=True)  # fmt: skip
        case "open" | "claimed":
            decision = _labels_decide(incident, matured, now_ms, policy, lag_days)
            if isinstance(decision, Retrain):
                return _budget_decides(retrains, wall_ms, policy) or decision
            return decision


def _budget_decides(retrains: Retrains, wall_ms: int, policy: DriftPolicy) -> Wait | Page | None:
    """Why the budget of retrains forbids or delays this one; None if the retrain is within the
    budget."""
    recent = sorted(r for r in retrains if wall_ms - r[0] < BUDGET_DAYS * DAY_MS)
    if len(recent) >= policy.retrain_budget:
        asked = ", ".join(incident for _, incident in recent)
        return Page(
            f"{len(recent)} retrains within {BUDGET_DAYS} days ({asked}) have not mended it: "
            "drift.retrain_budget allows no more; retrain by hand, or change the model"
        )
    if not recent:
        return None
    last_ms, incident = recent[-1]
    next_ms = last_ms + policy.retrain_cooldown_days * DAY_MS
    if wall_ms >= next_ms:
        return None
    return Wait(
        f"{incident} asked for a retrain on {day_text(last_ms)}; the next one may be from "
        f"{day_text(next_ms)} on (drift.retrain_cooldown_days)",
        noted=True,
    )


def matured_since(
    offline: LabelledRequests, changed_ms: int, *, fitted_until_ms: int, now_ms: int, task: Task
) -> MaturedRequests:
    """The number of requests since the change that a retrain would fit on, by the labels known now.

    Args:
        fitted_until_ms: event time at which the held-out days of a training set of today begin. All
            requests before it have matured: without a label they count as negative, or as unknown
            if labels are classes or numbers.
        task: task of the model, which determines what labels are.
    """
    counted = "positive" if task == "binary" else "labelled"
    if fitted_until_ms <= changed_ms:
        return MaturedRequests(0, 0, counted)
    found = offline.label_counts(changed_ms, fitted_until_ms, now_ms)
    useful = found.positives if task == "binary" else found.labelled
    return MaturedRequests(found.requests, useful, counted)


def _labels_decide(
    incident: Incident,
    matured: MaturedRequests,
    now_ms: int,
    policy: DriftPolicy,
    lag_days: int,
) -> RetrainDecision:
    found = incident.found
    needed = policy.matured_positives
    is_enough = matured.positives >= needed
    count = (
        f"{matured.rows:,} requests of the new pattern have matured, {matured.positives:,} of them "
        f"{matured.counted}; a retrain needs {needed:,} {matured.counted} ones"
        f"{', so it may start' if is_enough else ''}"
    )
    if is_enough:
        return Retrain(now_ms, count)
    waited_days = (now_ms - found.opened_ms) / DAY_MS
    if waited_days >= policy.page_after_days:
        return Page(f"{waited_days:.0f} days have passed since the incident: {count}")
    first_ms = found.changed_ms + lag_days * DAY_MS
    return Wait(count, first_ms if first_ms > now_ms else None)
