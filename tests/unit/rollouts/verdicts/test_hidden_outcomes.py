"""Recall and precision where declines hide outcomes: bounds, draws, and labels that are late."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.delays import delay_curve

from mlplatform.rollouts.verdicts.delays import arrived_share
from mlplatform.rollouts.verdicts.hidden_outcomes import (
    Estimate,
    PartialOutcomes,
    as_seen,
    doubly_robust,
    interval,
    inverse_propensity,
    precision,
    recall,
    recall_difference,
)
from mlplatform.rollouts.verdicts.statistics import ClusterSums, cluster_sums, share_difference

ERROR = 0.025


def payments(
    fraud: list[int], seen: list[int], chance: list[float], guess: float = 0.5
) -> PartialOutcomes:
    count = len(fraud)
    known = np.array(seen, dtype=bool)
    return PartialOutcomes(
        unit=np.arange(count),
        positive=np.array(fraud, dtype=bool) & known,
        seen=known,
        chance=np.array(chance),
        guess=np.full(count, guess),
        came=np.ones(count),
    )


def test_without_a_draw_hidden_payments_are_taken_as_all_and_as_none() -> None:
    found = payments([1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 0, 0])
    flagged = np.array([True, False, False, True, True])
    known = interval(recall(flagged), found, ERROR)
    assert (known.value, known.lowest, known.highest) == (1 / 2, 1 / 2, 3 / 4)
    exact = interval(precision(flagged), found, ERROR)
    assert (exact.lowest, exact.highest) == (1 / 3, 1.0)


def test_what_one_model_alone_flags_of_the_hidden_decides_the_difference() -> None:
    found = payments([1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0])
    mine = np.array([True, False, True, False])
    other = np.array([False, False, False, True])
    known = interval(recall_difference(mine, other), found, ERROR)
    assert (known.lowest, known.highest) == (0.0, 2 / 3)


@given(
    st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans(), st.booleans()), min_size=1,
             max_size=7),
)  # fmt: skip
@settings(max_examples=30, deadline=None)
def test_the_extremes_are_those_of_all_outcomes_that_hidden_payments_can_have(
    rows: list[tuple[bool, bool, bool, bool]],
) -> None:
    fraud, seen, mine, other = (np.array(column) for column in zip(*rows, strict=True))
    fraud, seen = np.append(fraud, True), np.append(seen, True)
    mine, other = np.append(mine, True), np.append(other, False)
    found = payments(fraud.tolist(), seen.tolist(), seen.astype(float).tolist())
    metric = recall_difference(mine, other)
    hidden = np.flatnonzero(~seen)
    shares = []
    for number in range(2 ** len(hidden)):
        filled = found.positive.copy()
        filled[hidden] = [number >> bit & 1 for bit in range(len(hidden))]
        shares.append((metric.hits @ filled) / filled.sum())
    known = interval(metric, found, ERROR)
    assert known.lowest == pytest.approx(min(shares))
    assert known.highest == pytest.approx(max(shares))


def test_each_bound_holds_where_what_is_hidden_is_its_own_extreme() -> None:
    """The upper one where all that would lower the difference is negative, the rest positive."""
    rng, error, runs = np.random.default_rng(7), 0.05, 300
    missed = 0
    for _ in range(runs):
        kind = rng.random(2_000)
        mine, other = kind < 0.04, (kind > 0.02) & (kind < 0.08)
        fraud = rng.random(2_000) < np.where(mine | other, 0.5, 0.02)
        hidden = other & (rng.random(2_000) < 0.3)
        fraud[hidden] = mine[hidden]
        found = payments(fraud.tolist(), (~hidden).tolist(), (~hidden).astype(float).tolist())
        # of what the other flagged, 30 % are hidden: negative, or positive where both flagged it
        ours, both, theirs = 0.02 * 0.5, 0.02 * (0.7 * 0.5 + 0.3), 0.04 * 0.7 * 0.5
        truth = (ours - theirs) / (ours + both + theirs + 0.92 * 0.02)
        missed += truth > interval(recall_difference(mine, other), found, error).high
    assert missed / runs <= error + 3 * (error / runs) ** 0.5


@pytest.mark.parametrize("estimate", [inverse_propensity, doubly_robust])
@pytest.mark.parametrize("guess", [0.0, 0.6, 1.0], ids=["no guess", "a fair guess", "a wrong one"])
def test_draws_stand_for_what_they_were_drawn_from_whatever_the_guess(
    estimate: Estimate, guess: float
) -> None:
    """Over all draws of two payments with chance 1/4, the mean is the truth."""
    fraud, total = [1, 0], 0.0
    for first in (0, 1):
        for second in (0, 1):
            likely = (0.25 if first else 0.75) * (0.25 if second else 0.75)
            found = payments(fraud, [first, second], [0.25, 0.25], guess)
            total += likely * float(estimate(found).sum())
    assert total == pytest.approx(1.0)


def test_with_everything_seen_it_is_the_bound_on_two_shares() -> None:
    rng = np.random.default_rng(3)
    count = 4000
    fraud, mine, other = (rng.random(count) < share for share in (0.05, 0.3, 0.3))
    unit = rng.integers(0, 500, count)
    one = np.ones(count)
    found = PartialOutcomes(unit, fraud, one > 0, one, one, one)
    known = interval(recall_difference(mine, other), found, ERROR)
    hits = np.stack((fraud & mine, fraud, fraud & other, fraud), axis=1).astype(np.int64)
    by_unit = np.stack([np.bincount(unit, weights=h) for h in hits.T], axis=1).astype(np.int64)
    plain = share_difference(
        [ClusterSums.of(cluster_sums(by_unit))], stop_error=ERROR, pass_error=ERROR
    )
    assert known.value == pytest.approx(plain.value)
    assert known.high - known.low == pytest.approx(plain.pass_high - plain.pass_low, rel=0.02)


def test_intervals_hold_the_truth_where_the_share_of_what_was_seen_does_not() -> None:
    rng = np.random.default_rng(4)
    held, naive = 0, 0
    for _ in range(60):
        count = 20_000
        fraud = rng.random(count) < 0.02
        score = 2.5 * fraud + rng.normal(0, 1, count)
        flagged, declined = score > 2.0, score > 2.6
        through = rng.random(count) < 0.05
        seen = ~declined | through
        guess = 1 / (1 + np.exp(-(2.5 * score - 3.1 - 3.9)))
        chance = np.where(declined, 0.05, 1.0)
        unit = rng.integers(0, 4000, count)
        found = PartialOutcomes(unit, fraud & seen, seen, chance, guess, np.ones(count))
        truth = (fraud & flagged).sum() / fraud.sum()
        known = interval(recall(flagged), found, ERROR)
        held += known.low <= truth <= known.high
        left = found.of(seen)
        plain = PartialOutcomes(
            left.unit, left.positive, left.seen, left.came, left.guess, left.came
        )
        other = interval(recall(flagged[seen]), plain, ERROR, as_seen)
        naive += other.low <= truth <= other.high
    assert held >= 57
    assert naive <= 3


def test_a_curve_of_delays_counts_what_is_too_young_to_have_a_label() -> None:
    """Kaplan and Meier by hand: of four, one label at 1 (4 at risk), one at 3 (2 at risk)."""
    curve = delay_curve(np.array([5, 2, 5, 5]), np.array([1, -1, 3, -1]))
    assert curve.delay_ms.tolist() == [1, 3]
    assert (-np.expm1(-curve.hazard)).tolist() == pytest.approx([1 / 4, 1 - 3 / 4 * 1 / 2])
    assert curve.variance.tolist() == pytest.approx([1 / 12, 1 / 12 + 1 / 2])
    assert curve.share(np.array([0, 1, 2, 9])).tolist() == pytest.approx([0, 0.4, 0.4, 1])


def test_the_share_of_labels_to_come_is_found_from_payments_of_all_ages() -> None:
    rng = np.random.default_rng(5)
    errors = []
    for _ in range(60):
        age = rng.integers(0, 60, 20_000)
        delay = rng.integers(1, 61, 20_000)
        came = (rng.random(20_000) < 0.02) & (delay <= age)
        curve = delay_curve(age, np.where(came, delay, -1))
        at = np.array([30])
        found, error = float(curve.share(at)[0]), float(curve.error(at)[0])
        errors.append((found - 30 / 59) / error)
    assert abs(np.mean(errors)) < 0.5
    assert 0.7 < np.std(errors) < 1.3


def test_no_label_leaves_no_curve() -> None:
    curve = delay_curve(np.array([5, 2]), np.array([-1, -1]))
    assert np.isnan(curve.share(np.array([3]))).all()
    assert np.isnan(curve.error(np.array([3]))).all()
    assert arrived_share(curve, np.array([3])) is None
