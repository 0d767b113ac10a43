"""The spent share of a model's error budgets, by what was counted of the decision log."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from mlplatform.model.definition import ModelDefinition
from mlplatform.observing.page.queries.burn_rates import SpentShares
from mlplatform.observing.slo.objectives import Objective, Objectives
from mlplatform.operations.traffic.buckets import EDGES, SHADOW
from mlplatform.operations.traffic.projection import TrafficReport

NO_DATA: Final = "no data"
TOO_FEW: Final = "too few answers to say"
NEARLY: Final = 0.8
"""Share of a budget; more than this is shown as bad."""
UNCOUNTED: Final = (
    "The decision log cannot tell: a request that was answered 5xx leaves no record. The "
    "gateways' metrics count those; MLPLATFORM_PROMETHEUS_URL names no Prometheus that has them."
)
UNSEEN: Final = "Prometheus has counted no request of this model in this time."

UNWRITTEN: Final = (
    "The log does not know how long the writing took: Grafana shows the latency with the writing."
)


@dataclass(frozen=True, slots=True)
class BudgetRow:
    """The spending of one error budget.

    Args:
        objective: the share that is the objective, as text.
        text: how much is spent, or that nothing is known.
        note: what was counted.
        tone: good, bad, or neither.
    """

    name: str
    objective: str
    text: str
    note: str
    tone: str


@dataclass(frozen=True, slots=True)
class BudgetTable:
    """The error budgets of a model, over the window of slo.yaml."""

    window_days: int
    budgets: tuple[BudgetRow, ...]


def budget_table(
    definition: ModelDefinition,
    objectives: Objectives,
    found: TrafficReport | None,
    burned: SpentShares | str | None,
) -> BudgetTable:
    """The budgets of availability and latency.

    Args:
        found: the traffic of the window before the newest event; None if nothing was counted yet.
        burned: the spent shares by Prometheus; a text if Prometheus can't be asked, with the
            reason; None if no setting names it.
    """
    tier = objectives.tiers[definition.tier]
    latency = _latency(tier.latency, float(definition.latency_slo_ms), found)
    availability = _availability(definition.name, tier.availability, burned)
    return BudgetTable(objectives.window_days, (availability, latency))


def _availability(model: str, objective: Objective, burned: SpentShares | str | None) -> BudgetRow:
    name = "availability"
    sentence = f"{_share(objective.objective)} of the requests are not answered 5xx"
    if burned is None or isinstance(burned, str):
        return BudgetRow(name, sentence, NO_DATA, burned or UNCOUNTED, "")
    if (spent := burned.get((model, name))) is None:
        return BudgetRow(name, sentence, NO_DATA, UNSEEN, "")
    note = (
        f"{_share(spent * objective.budget)} of the requests were answered 5xx, by the gateways' "
        f"metrics in Prometheus; the budget is {_share(objective.budget)} of them."
    )
    return BudgetRow(name, sentence, spend(spent), note, tone(spent))


def slower(latency: npt.NDArray[np.int64], goal_ms: float) -> int:
    """The number of answers that took longer than the goal.

    The bin of the goal is divided as if its answers were spread evenly over it, so that at most the
    answers within 9 % of the goal are on the wrong side.

    Args:
        latency: number of answers in each bin of `EDGES`.
    """
    goal_us = 1000 * goal_ms
    place = int(np.searchsorted(EDGES, goal_us, side="right"))
    beyond = int(latency[place + 1 :].sum())
    low = EDGES[place - 1] if place else 0.0
    if place == len(EDGES):  # the last bin has no end
        return int(latency[place])
    return beyond + round(
        int(latency[place]) * float((EDGES[place] - goal_us) / (EDGES[place] - low))
    )


def _latency(objective: Objective, goal_ms: float, found: TrafficReport | None) -> BudgetRow:
    sentence = f"{_share(objective.objective)} of the decisions are durable within {goal_ms:g} ms"
    timed = [] if found is None else [b for b in found.buckets if b.role != SHADOW]
    latency = sum((b.counts.latency for b in timed), np.zeros(len(EDGES) + 1, dtype=np.int64))
    total = int(latency.sum())
    if not total:
        why = "No answer was counted in this time."
        return BudgetRow("latency", sentence, NO_DATA, why, "")
    bad = slower(latency, goal_ms)
    if (least := answers_to_judge(objective.budget)) > total:
        note = (
            f"{bad:,} of {total:,} answers took longer than {goal_ms:g} ms before their record was "
            f"written. With fewer than {least:,} answers, one slow answer is more than the budget."
        )
        return BudgetRow("latency", sentence, TOO_FEW, note, "")
    spent = bad / total / objective.budget
    note = (
        f"{bad:,} of {total:,} answers ({_share(bad / total)}) took longer than {goal_ms:g} ms "
        f"before their record was written; the budget is {round(total * objective.budget):,} "
        f"({_share(objective.budget)}). {UNWRITTEN}"
    )
    return BudgetRow("latency", sentence, spend(spent), note, tone(spent))


def answers_to_judge(budget: float) -> int:
    """The least number of answers of which one may be bad without more being spent than there is.

    Args:
        budget: share (0-1, above 0) of the answers that may be bad.
    """
    return math.ceil(round(1 / budget, 6))


def spend(spent: float) -> str:
    """The spent share in words; 1 is all of the budget."""
    if spent > 1:
        return f"spent {spent:.1f} times over"
    return f"{_share(spent)} spent"


def tone(spent: float) -> str:
    """The tone of a spent share; its words say the same."""
    return "bad" if spent > NEARLY else "good"


def _share(share: float) -> str:
    return f"{100 * share:.4g} %"
