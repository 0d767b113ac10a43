"""Gates on the order of a candidate's items: pure, over measured evidence."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from mlplatform.learning.rankings.orders import NDCG
from mlplatform.learning.validation.gate_result import (
    GateResult,
    floor_gate,
    not_shown,
    too_few_units,
)
from mlplatform.learning.validation.gates import MINIMUM_REPLAYED, at_most
from mlplatform.learning.validation.measures import Measure
from mlplatform.learning.validation.statistics import Interval
from mlplatform.model.policies.ranking import RankingPolicy
from mlplatform.runtime.figures import percent

ORDER, FIRST = "order", "first_items"
MINIMUM_REQUESTS = 100
"""Fewest requests that tell good orders from bad ones, to judge by."""


@dataclass(frozen=True, slots=True)
class OrderEvidence:
    """The evidence about the order that a candidate gives.

    Args:
        requests, units: on the days for the gates, those with good and other items, and the number
            of units of whom they are.
        measures: means over these requests; empty without any.
        over_chance: NDCG less the mean NDCG of all orders of the same items.
        has_champion: whether there is a champion; it may be incomparable.
        replayed: number of replayed rows.
        changes: share of replayed requests whose first item differs from the champion's; None
            without a champion.
    """

    requests: int
    units: int
    measures: tuple[Measure, ...]
    over_chance: Interval
    has_champion: bool
    replayed: int
    changes: float | None


def judge_order(evidence: OrderEvidence, policy: RankingPolicy) -> Iterator[GateResult]:
    """The gate on NDCG, against the champion or against chance, and that on changed first items."""
    yield _judge_ndcg(evidence, policy)
    name, limit = FIRST, policy.first_changes
    if evidence.changes is None:
        yield GateResult(name, "passed", None, limit, "a first version has nothing to differ from")
        return
    if evidence.replayed < MINIMUM_REPLAYED:
        lacking = (
            f"only {evidence.replayed:,} items replayed (at least {MINIMUM_REPLAYED:,} wanted)"
        )
        value = None if math.isnan(evidence.changes) else evidence.changes
        yield GateResult(name, "inconclusive", value, limit, lacking)
        return
    finding = f"{percent(evidence.changes)} of replayed requests would have another first item"
    yield at_most(name, evidence.changes, limit, finding, percent(limit))


def _judge_ndcg(evidence: OrderEvidence, policy: RankingPolicy) -> GateResult:
    if evidence.requests < MINIMUM_REQUESTS:
        reason = (
            f"only {evidence.requests:,} requests with good and other items to judge by (at least "
            f"{MINIMUM_REQUESTS} wanted)"
        )
        return GateResult(ORDER, "inconclusive", None, None, reason)
    if (few := too_few_units(evidence.units)) is not None:
        return GateResult(ORDER, "inconclusive", None, None, few)
    more = not_shown(evidence.units)
    ndcg = next(one for one in evidence.measures if one.name == NDCG)
    text = f"NDCG at {policy.top} {ndcg.candidate.value:.3f} on {evidence.requests:,} requests"
    if not evidence.has_champion:
        chance = ndcg.candidate.value - evidence.over_chance.value
        text += f", {chance:.3f} by chance; difference {evidence.over_chance.value:+.3f}"
        return floor_gate(ORDER, evidence.over_chance, 0.0, text, "{:+.3f}", more, "NDCG")
    if ndcg.champion is None or ndcg.difference is None:
        reason = f"{text}; the champion can't be compared on these requests"
        return GateResult(ORDER, "inconclusive", None, -policy.ndcg_drop, reason)
    text += f", the champion's {ndcg.champion.value:.3f}; difference {ndcg.difference.value:+.3f}"
    limit, more = -policy.ndcg_drop, not_shown(evidence.units, "ranking.ndcg_drop")
    return floor_gate(ORDER, ndcg.difference, limit, text, "{:+.3f}", more, "NDCG")
