"""Exact intervals of shares."""

from __future__ import annotations

import random

import pytest
from scipy.stats import binomtest

from mlplatform.runtime.intervals import exact_share


@pytest.mark.parametrize(("hits", "others"), [(0, 7), (7, 0), (3, 397), (200, 200)])
def test_the_ends_are_those_of_clopper_and_pearson(hits: int, others: int) -> None:
    ends = binomtest(hits, hits + others).proportion_ci(0.98, "exact")
    assert exact_share(hits, others, 0.02) == pytest.approx((ends.low, ends.high), abs=1e-9)


def test_nothing_that_was_counted_tells_nothing() -> None:
    assert exact_share(0, 0, 0.02) == (0.0, 1.0)


def test_an_end_is_missed_no_more_often_than_half_of_the_error() -> None:
    chance, missed = random.Random(5), 0
    for _ in range(4_000):
        hits = sum(chance.random() < 0.01 for _ in range(400))
        low, high = exact_share(hits, 400 - hits, 0.02)
        missed += low > 0.01
        assert 0 <= low <= hits / 400 <= high <= 1
    assert missed <= 4_000 * 0.01 + 3 * (4_000 * 0.01) ** 0.5
