"""The thresholds found are those at which the held-out requests cost least."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.costs import mean_cost

from mlplatform.learning.training.calibration import KnownScores, fit_thresholds
from mlplatform.learning.training.costs import cheapest_thresholds
from mlplatform.model.folders import load_definition
from mlplatform.model.policies.cut_offs import CutOffs
from mlplatform.model.policies.decision_scale import (
    DecisionScale,
    LabelCosts,
    ThresholdPolicy,
)

COSTS = (
    LabelCosts(negative=-120.0, positive=900.0),
    LabelCosts(negative=-70.0, positive=300.0),
    LabelCosts(negative=0.0, positive=0.0),
)
ROWS = st.lists(
    st.tuples(st.integers(0, 5).map(lambda n: n / 5), st.integers(0, 1), st.floats(0.1, 3)),
    min_size=1,
    max_size=12,
)
MATRICES = st.lists(
    st.builds(LabelCosts, negative=st.integers(-9, 9), positive=st.integers(-9, 9)),
    min_size=2,
    max_size=4,
)


def cost(
    begins: Sequence[float], rows: Sequence[tuple[float, int, float]], costs: Sequence[LabelCosts]
) -> float:
    scores, y, weight = (np.array(column) for column in zip(*rows, strict=True))
    names = tuple(map(str, range(len(costs))))
    cut_offs = CutOffs(DecisionScale(names, names[-1:]), dict(zip(names[1:], begins, strict=True)))
    return mean_cost(cut_offs.places(scores, scores[:, None]), y, costs, weight)


@settings(deadline=None)
@given(ROWS, MATRICES)
def test_no_thresholds_cost_less(
    rows: list[tuple[float, int, float]], costs: list[LabelCosts]
) -> None:
    scores, y, weight = (np.array(column) for column in zip(*rows, strict=True))
    found = cheapest_thresholds(scores, y, costs, weight)
    assert found == sorted(found)
    places = [*sorted(set(scores.tolist())), 2.0]
    every = itertools.combinations_with_replacement(places, len(costs) - 1)
    least = min(cost(begins, rows, costs) for begins in every)
    assert cost(found, rows, costs) == pytest.approx(least, abs=1e-9)


def test_of_thresholds_that_cost_the_same_the_highest_are_chosen() -> None:
    indifferent = [LabelCosts(negative=1, positive=1)] * 2
    (begin,) = cheapest_thresholds(np.array([0.2, 0.7]), np.array([0, 1]), indifferent)
    assert begin > 0.7


def test_on_many_scores_that_mean_what_they_say_they_are_the_probabilities_of_equal_cost() -> None:
    """Between grant and refer costs are equal at 50/650, between refer and refuse at 70/370."""
    random = np.random.default_rng(5)
    scores = random.beta(1, 4, 200_000)
    y = (random.random(len(scores)) < scores).astype(np.int8)
    refer, refuse = cheapest_thresholds(scores, y, COSTS)
    assert refer == pytest.approx(50 / 650, abs=0.02)
    assert refuse == pytest.approx(70 / 370, abs=0.02)


def test_a_policy_gives_its_thresholds_by_shares_scores_or_costs() -> None:
    random = np.random.default_rng(7)
    scores = random.random(4_000)
    y = (random.random(len(scores)) < scores).astype(np.int8)
    policy = msgspec.structs.replace(
        load_definition("fraud").decision, outcomes=("grant", "refer", "refuse")
    )

    def given_shares(thresholds: ThresholdPolicy) -> list[float]:
        by = msgspec.structs.replace(policy, thresholds=thresholds)
        begins = fit_thresholds(by.thresholds, by.outcomes, scores, KnownScores(scores, y))
        places = CutOffs(by.scale, begins).places(scores, scores[:, None])
        return [float((places == place).mean()) for place in range(3)]

    shares = {"refuse": 0.2, "refer": 0.05}
    assert given_shares(ThresholdPolicy(shares=shares)) == [0.75, 0.05, 0.2]
    fixed = ThresholdPolicy(scores={"refer": 0.9, "refuse": 2.0})
    assert given_shares(fixed) == [float((scores < 0.9).mean()), float((scores >= 0.9).mean()), 0.0]
    costs = dict(zip(policy.outcomes, COSTS, strict=True))
    granted, referred, refused = given_shares(ThresholdPolicy(costs=costs, currency="EUR"))
    assert granted < 0.15
    assert 0.02 < referred < 0.2
    assert refused > 0.7
