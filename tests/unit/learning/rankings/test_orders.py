"""Measures of an order, beside those of scikit-learn, the best order and orders by chance."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score

from mlplatform.learning.rankings.orders import (
    Requests,
    figures,
    first_changes,
    order_measures,
    places,
    requests_of,
)


def _requests(sizes: list[int], units: list[int] | None = None) -> Requests:
    number = np.repeat(np.arange(len(sizes)), sizes)
    return Requests(number, np.array(units or range(len(sizes)), np.int64))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(2, 9), min_size=1, max_size=12), st.integers(1, 6), st.integers(0, 99))
def test_ndcg_is_that_of_scikit_learn(sizes: list[int], top: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    requests = _requests(sizes)
    scores = random.permutation(len(requests.number)).astype(np.float64)
    y = (random.random(len(scores)) < 0.4).astype(np.int8)
    found = figures(scores, y, requests, top=top, seed=0)
    expected = []
    for number in range(len(sizes)):
        own = requests.number == number
        if 0 < y[own].sum() < own.sum():
            expected.append(ndcg_score([y[own]], [scores[own]], k=top))
    assert found.values["ndcg"] == pytest.approx(expected)


def test_places_and_the_first_good_item() -> None:
    requests = _requests([4, 2, 3, 1])
    scores = np.array([0.1, 0.4, 0.3, 0.2, 0.5, 0.6, 0.1, 0.2, 0.3, 0.9])
    y = np.array([0, 0, 0, 1, 1, 0, 0, 0, 0, 1], np.int8)
    assert places(scores, requests, seed=0).tolist() == [3, 0, 1, 2, 1, 0, 2, 1, 0, 0]
    found = figures(scores, y, requests, top=2, seed=0)
    assert found.unit.tolist() == [0, 1], "of one item, or without a good one: they tell nothing"
    assert found.values["mrr"].tolist() == pytest.approx([1 / 3, 1 / 2])
    assert found.values["hit_rate"].tolist() == [0, 1]


def test_the_best_order_is_the_ceiling_and_equal_scores_are_chance() -> None:
    random = np.random.default_rng(3)
    requests = _requests([8] * 4_000)
    y = np.zeros(32_000, np.int8)
    y[np.arange(4_000) * 8] = 1  # the good item is always the first of the rows
    best = figures(y + random.random(32_000) / 2, y, requests, top=3, seed=1)
    assert {name: values.mean() for name, values in best.values.items()} == {
        "ndcg": 1,
        "mrr": 1,
        "hit_rate": 1,
    }
    equal = figures(np.zeros(32_000), y, requests, top=3, seed=1)
    by_chance = (1 + 1 / np.log2(3) + 1 / 2) / 8
    assert equal.by_chance.mean() == pytest.approx(by_chance)
    assert equal.values["ndcg"].mean() == pytest.approx(by_chance, abs=0.02)
    assert equal.values["hit_rate"].mean() == pytest.approx(3 / 8, abs=0.03)


def test_rows_of_one_unit_at_one_time_are_one_request() -> None:
    event_ms = np.array([5, 5, 6, 6, 5], np.int64)
    unit = np.array([1, 1, 1, 2, 2], np.int64)
    requests = requests_of(event_ms, unit)
    assert len(requests) == 4
    assert requests.number[0] == requests.number[1]
    assert len(set(requests.number[1:].tolist())) == 4
    assert requests.unit[requests.number].tolist() == unit.tolist()
    assert len(requests_of(np.zeros(0, np.int64), np.zeros(0, np.int64))) == 0


def test_intervals_are_by_unit_and_both_models_see_the_same_requests() -> None:
    """A customer's 50 equal requests are one fact: intervals widen as if there were 40 of them."""
    random = np.random.default_rng(4)
    alone, clustered = (
        _requests([4] * 2_000),
        _requests([4] * 2_000, [n // 50 for n in range(2_000)]),
    )
    y = np.tile(np.array([1, 0, 0, 0], np.int8), 2_000)
    each = random.random((2_000, 4))
    same = np.repeat(random.random((40, 4)), 50, axis=0)
    widths = []
    for scores, requests in ((each, alone), (same, clustered)):
        own = figures(scores.reshape(-1), y, requests, top=4, seed=0)
        (ndcg, *_) = order_measures(own, own, seed=0)
        assert ndcg.difference is not None
        units = len(np.unique(own.unit))
        assert (
            ndcg.difference.high == -ndcg.difference.low == pytest.approx(3 / (units + 3), rel=0.15)
        )
        widths.append(ndcg.candidate.high - ndcg.candidate.low)
    assert widths[1] > 4 * widths[0]


def test_no_request_that_tells_gives_no_measure() -> None:
    own = figures(np.ones(4), np.zeros(4, np.int8), _requests([2, 2]), top=1, seed=0)
    assert order_measures(own, None, seed=0) == ()


def test_changed_first_items_are_a_share_of_requests_with_a_choice() -> None:
    requests = _requests([2, 2, 1, 3])
    own = np.array([1, 2, 2, 1, 9, 1, 2, 3.0])
    other = np.array([2, 1, 2, 1, 0, 1, 2, 3.0])
    assert first_changes(own, other, requests, seed=0) == pytest.approx(1 / 3)
    assert np.isnan(first_changes(own[:1], other[:1], _requests([1]), seed=0))
