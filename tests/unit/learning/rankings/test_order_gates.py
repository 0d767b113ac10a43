"""Gates on the order of items: against the champion, against chance, and changed first items."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from mlplatform.learning.rankings.gates import MINIMUM_REQUESTS, OrderEvidence, judge_order
from mlplatform.learning.validation.gate_result import GateResult
from mlplatform.learning.validation.measures import Measure
from mlplatform.learning.validation.statistics import Interval
from mlplatform.model.policies.ranking import RankingPolicy

POLICY = RankingPolicy(items=("offer",), most=20, top=3, ndcg_drop=0.02, first_changes=0.3)
FIRST = OrderEvidence(
    requests=500,
    units=200,
    measures=(Measure("ndcg", Interval(0.6, 0.57, 0.63)),),
    over_chance=Interval(0.2, 0.17, 0.23),
    has_champion=False,
    replayed=5_000,
    changes=None,
)


def _beside(low: float, high: float, changes: float = 0.1) -> OrderEvidence:
    difference = Interval((low + high) / 2, low, high)
    ndcg = Measure("ndcg", Interval(0.6, 0.57, 0.63), Interval(0.61, 0.58, 0.64), difference)
    return replace(FIRST, measures=(ndcg,), has_champion=True, changes=changes)


def _judged(evidence: OrderEvidence) -> dict[str, GateResult]:
    return {gate.name: gate for gate in judge_order(evidence, POLICY)}


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(0.01, 0.05, "passed"), (-0.01, 0.02, "inconclusive"), (-0.2, -0.1, "failed")],
)
def test_a_first_version_is_better_than_chance(low: float, high: float, verdict: str) -> None:
    over = Interval((low + high) / 2, low, high)
    gate = _judged(replace(FIRST, over_chance=over))["order"]
    assert gate.verdict == verdict
    assert "by chance" in gate.reason
    assert "NDCG at 3 0.600 on 500 requests" in gate.reason


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(-0.019, 0.01, "passed"), (-0.03, 0.01, "inconclusive"), (-0.09, -0.03, "failed")],
)
def test_a_loss_to_the_champion_is_within_what_is_tolerated(
    low: float, high: float, verdict: str
) -> None:
    gate = _judged(_beside(low, high))["order"]
    assert (gate.verdict, gate.limit) == (verdict, -0.02)
    assert "the champion's 0.610" in gate.reason


def test_too_few_requests_or_no_comparison_decide_nothing() -> None:
    few = _judged(replace(FIRST, requests=MINIMUM_REQUESTS - 1))["order"]
    assert few.verdict == "inconclusive"
    gone = _judged(replace(FIRST, has_champion=True, changes=math.nan))
    assert gone["order"].verdict == gone["first_items"].verdict == "inconclusive"


def test_changed_first_items_are_limited() -> None:
    assert _judged(FIRST)["first_items"].verdict == "passed"
    assert _judged(_beside(0, 0.1, 0.3))["first_items"].verdict == "passed"
    assert _judged(_beside(0, 0.1, 0.31))["first_items"].verdict == "failed"
    few = replace(_beside(0, 0.1, 0.1), replayed=999)
    assert _judged(few)["first_items"].verdict == "inconclusive"
