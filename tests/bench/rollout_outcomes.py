"""What matured labels say of a challenger: in validation, and of a shadow phase by its size.

The payments and models of `labels`. Before shadow, the gate `quality` judges both models on the
held-out days. A promotion is held to the gate `recall`: three days after the shadow phase every
label has come, but for what the champion declined.
"""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any, Final

import numpy as np
from tests.bench.labels import (
    LONGEST_D,
    SOUND,
    STRONG,
    WEAK,
    Arms,
    Payments,
    PlayedPayments,
    payments_of,
    played,
)
from tests.bench.rollout_worlds import A_DAY

from mlplatform.learning.validation.gate_result import GateResult
from mlplatform.learning.validation.gates import QualityEvidence, judge_quality
from mlplatform.learning.validation.statistics import average_precision, average_precision_interval
from mlplatform.model.folders import load_definition
from mlplatform.model.policies.training import GatePolicy
from mlplatform.rollouts.passes.error_parts import outcome_errors
from mlplatform.rollouts.verdicts.outcomes import Outcomes, outcome_gate
from mlplatform.rollouts.verdicts.verdict import Bound, Errors

POOR: Final = 1.78
"""Half of the precision, and so of the recall, at as many alerts: .30."""
QUIET_CUSTOMERS, BUSY_CUSTOMERS = 5_000, 200_000
SHIPPED: Final = {QUIET_CUSTOMERS: 22_000, BUSY_CUSTOMERS: 60_000}
"""Payments of the shipped policy's shadow phase, at 10 000 a day and at 1 000/s."""
_ENDINGS: Final = {"UNHEALTHY": "stopped", "INCONCLUSIVE": "held", "HEALTHY": "promoted",
                   "failed": "stopped", "inconclusive": "held", "passed": "promoted"}  # fmt: skip
BY_VALIDATION: Final = "by validation"


@dataclasses.dataclass(frozen=True, slots=True)
class Cell:
    """Args: payments, customers: of the shadow phase, or of the held-out days before it."""

    arms: Arms
    payments: int
    customers: int = QUIET_CUSTOMERS
    before_shadow: bool = False


def _cells() -> dict[str, Cell]:
    models = {
        "as good by labels": Arms(0.0),
        "better by labels, declines more": Arms(0.0, challenger=STRONG),
        "recall - 20 %": Arms(0.0, challenger=WEAK),
        "precision halved": Arms(0.0, challenger=POOR),
    }
    nothing_hidden = {f"{n}, nothing declined": dataclasses.replace(a, declines=0.0)
                      for n, a in models.items()}  # fmt: skip
    sizes = [(22_000, QUIET_CUSTOMERS), (70_000, QUIET_CUSTOMERS), (280_000, QUIET_CUSTOMERS),
             (60_000, BUSY_CUSTOMERS), (1_000_000, BUSY_CUSTOMERS)]  # fmt: skip
    held_out = A_DAY * load_definition("fraud").training.holdout_days
    before = {f"{name}, {BY_VALIDATION}": Cell(arms, held_out, before_shadow=True)
              for name, arms in {**models, **nothing_hidden}.items()}  # fmt: skip
    return before | {
        f"{name}, {payments:,} payments{', 1 000/s' if customers == BUSY_CUSTOMERS else ''}": Cell(
            arms, payments, customers
        )
        for name, arms in {**models, **nothing_hidden}.items()
        for payments, customers in sizes
        if arms.challenger < SOUND or payments in SHIPPED.values()
    }


CELLS: Final[dict[str, Cell]] = _cells()


@cache
def _held_to() -> tuple[Bound, Errors, float]:
    fraud = load_definition("fraud")
    policy = fraud.rollout
    bound = Bound(policy.stop.recall, policy.confirm_recall_drop)
    return bound, outcome_errors(policy), fraud.decision.alert_share


def ending(name: str, seed: int) -> str:
    """Of one challenger. In validation "promoted" is let into shadow, and "held" is not. Of one
    that was promoted, by its shadow phase: "promoted" is confirmed."""
    cell, (bound, errors, capacity) = CELLS[name], _held_to()
    found = payments_of(seed, cell.payments, days=1, customers=cell.customers)
    found = dataclasses.replace(
        found,
        delay_ms=np.zeros_like(found.delay_ms),
        age_ms=np.full_like(found.age_ms, LONGEST_D * 86_400_000),
    )
    run = played(found, cell.arms)
    if cell.before_shadow:
        return _ENDINGS[_validated(found, run, seed).verdict]
    seen = Outcomes(run.payments, run.challenger_scores, run.scores, 0, False, {})
    return _ENDINGS[outcome_gate(seen, bound, errors, capacity=capacity).verdict]


def _validated(found: Payments, run: PlayedPayments, seed: int) -> GateResult:
    """The gate `quality`, on the held-out payments whose outcome is known."""
    known = run.payments.seen
    own, other = run.challenger_scores[known], run.scores[known]
    y, unit = found.fraud[known].astype(np.int64), found.unit[known]
    gap = average_precision_interval(own, y, unit, seed=seed, baseline=other)
    quality = QualityEvidence(
        candidate=average_precision_interval(own, y, unit, seed=seed),
        champion=average_precision(other, y),
        difference=gap,
        positives=int(y.sum()),
        units=len(np.unique(unit)),
        unseen=gap,
    )
    gates = load_definition("fraud").gates
    assert isinstance(gates, GatePolicy)
    return judge_quality(quality, gates)


def described(name: str) -> dict[str, Any]:
    """The sample of a cell."""
    cell = CELLS[name]
    phase = "before shadow" if cell.before_shadow else "promoted, once labels have matured"
    return {"payments": cell.payments, "phase": phase}
