"""Intervals hold what they promise, shown by simulation with fixed seeds."""

from collections.abc import Callable

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from mlplatform.learning.training_sets.dataset import Matrix, share_of_units
from mlplatform.learning.validation.class_measures import class_measures
from mlplatform.learning.validation.measures import mean_measure
from mlplatform.learning.validation.number_measures import number_measures
from mlplatform.learning.validation.replay import Recent, flip_share, predicted_band
from mlplatform.learning.validation.statistics import (
    Interval,
    Stakes,
    average_precision,
    average_precision_interval,
    calibration_error_interval,
    effective_units,
    share_band,
)
from mlplatform.model.bundle import AlertBand
from mlplatform.runtime.units import DAY_MS

NO_FLAGS = np.empty(0, bool)
NO_UNITS = np.empty(0, np.int64)


def clustered_days(rng, *, days=7, units=400, rate=0.02, unit_spread=1.0, day_spread=0.1):
    """Alerts of customers who differ, on days that differ: flags, units, days."""
    personal = rate * rng.gamma(1 / unit_spread, unit_spread, units)
    daily = rng.normal(1.0, day_spread, days)
    unit = rng.integers(0, units, days * units * 3)
    day = np.repeat(np.arange(days), units * 3)
    chance = np.clip(personal[unit] * daily[day], 0, 1)
    return rng.random(len(unit)) < chance, unit, day


def scored(rng, *, customers=250, each=8, noise=1.0):
    """Payments of customers with frauds in bursts, and a noisy score of each."""
    unit = np.repeat(np.arange(customers), each)
    burst = rng.random(customers) < 0.08
    y = (burst[unit] & (rng.random(len(unit)) < 0.4)).astype(np.int8)
    common = rng.normal(0, 0.7, customers)[unit]
    return 2.0 * y + common + rng.normal(0, noise, len(unit)), y, unit


def test_average_precision_is_scikit_learn_s_also_with_ties():
    rng = np.random.default_rng(1)
    for digits in (1, 6):
        scores, y, _ = scored(rng)
        scores = np.round(scores, digits)
        assert average_precision(scores, y) == pytest.approx(average_precision_score(y, scores))


def test_nothing_to_rank_has_no_precision():
    assert np.isnan(average_precision(np.empty(0), np.empty(0, np.int8)))
    assert np.isnan(average_precision(np.ones(5), np.zeros(5, np.int8)))
    assert np.isnan(average_precision(np.full(5, np.nan), np.ones(5, np.int8)))


@pytest.mark.parametrize("case", ["no rows", "no fraud", "a score is missing"])
def test_an_interval_of_nothing_is_nothing(case):
    scores, y, unit = scored(np.random.default_rng(2))
    if case == "no rows":
        scores, y, unit = scores[:0], y[:0], unit[:0]
    elif case == "no fraud":
        y = np.zeros_like(y)
    else:
        scores[3] = np.nan
    interval = average_precision_interval(scores, y, unit, seed=1)
    assert np.isnan([interval.value, interval.low, interval.high]).all()


def test_the_same_seed_gives_the_same_interval():
    data = scored(np.random.default_rng(3))
    one, same, other = (average_precision_interval(*data, seed=s) for s in (1, 1, 2))
    assert one == same
    assert one != other


def test_a_model_against_itself_differs_by_nothing_but_a_customer_more():
    scores, y, unit = scored(np.random.default_rng(4))
    interval = average_precision_interval(scores, y, unit, seed=1, baseline=scores)
    with_frauds = len(np.unique(unit[y == 1]))
    assert interval.value == 0
    assert interval.high == -interval.low == pytest.approx(3 / with_frauds, rel=0.35), (
        "what a rare customer could lose, whom so few do not show"
    )


def test_the_low_end_of_a_difference_is_too_high_at_most_5_times_in_100():
    rng = np.random.default_rng(5)
    truth = np.mean([_difference(rng) for _ in range(1000)])
    lows = []
    for seed in range(100):
        scores, y, unit = scored(rng)
        worse = scores + rng.normal(0, 0.7, len(scores))
        lows.append(average_precision_interval(scores, y, unit, seed=seed, baseline=worse).low)
    assert np.mean(np.array(lows) > truth) <= 0.08


def _difference(rng):
    scores, y, _ = scored(rng)
    worse = scores + rng.normal(0, 0.7, len(scores))
    return average_precision(scores, y) - average_precision(worse, y)


def probable(rng, *, rows, share=0.01):
    """Payments with the probability of fraud, which comes in bursts of customers: p, y, unit."""
    unit = rng.integers(0, rows // 6, rows)
    p = 1 / (1 + np.exp(7.0 - rng.normal(0, 2.0, rows)))
    p *= share / p.mean()
    burst = rng.gamma(1.0, 1.0, rows // 6)[unit]
    return p, (rng.random(rows) < p * burst).astype(np.int8), unit


def refusals(times_too_high, limit, *, rows, seed, trials=100):
    """How many candidates a limit refuses by the low end, and by the error as it is found."""
    rng = np.random.default_rng(seed)
    found = []
    for trial in range(trials):
        p, y, unit = probable(rng, rows=rows)
        scores = np.minimum(1.0, times_too_high * p)
        found.append(calibration_error_interval(scores, y, unit, seed=trial))
    return sum(i.low > limit for i in found), sum(i.value > limit for i in found)


@pytest.mark.parametrize("rows", [1500, 6000])
def test_a_calibration_error_of_the_limit_is_refused_about_5_times_in_100(rows):
    by_low_end, as_found = refusals(2.0, 0.01, rows=rows, seed=8)
    assert by_low_end <= 12
    assert as_found >= 45


@pytest.mark.parametrize("rows", [1500, 6000])
def test_an_error_of_two_and_a_half_limits_is_refused_also_by_few_frauds(rows):
    assert refusals(3.5, 0.01, rows=rows, seed=9)[0] >= 95


def test_probabilities_that_are_right_are_not_refused_for_chance():
    by_low_end, _ = refusals(1.0, 0.01, rows=1500, seed=10)
    assert by_low_end == 0


def test_no_probabilities_have_no_calibration_error():
    p, y, unit = probable(np.random.default_rng(11), rows=600)
    for scores, labels in ((p[:0], y[:0]), (np.full_like(p, np.nan), y)):
        found = calibration_error_interval(scores, labels, unit[: len(labels)], seed=1)
        assert np.isnan([found.value, found.low, found.high]).all()


@pytest.mark.parametrize("days", [4, 7])
def test_a_band_holds_the_share_of_a_coming_day_in_at_least_95_of_100(days):
    rng = np.random.default_rng(6)
    inside = 0
    for _ in range(300):
        flags, unit, day = clustered_days(rng, days=days + 1)
        coming = day == days
        band = share_band(flags[~coming], unit[~coming], day[~coming])
        inside += band.low <= flags[coming].mean() <= band.high
    assert inside / 300 >= 0.93


def test_ignoring_customers_would_make_the_band_too_narrow():
    flags, unit, day = clustered_days(np.random.default_rng(7), unit_spread=20.0, day_spread=0.0)
    by_customer = share_band(flags, unit, day)
    by_payment = share_band(flags, np.arange(len(flags)), day)
    assert by_customer.high - by_customer.low > by_payment.high - by_payment.low


@pytest.mark.parametrize(
    ("flags", "unit", "day"),
    [
        pytest.param(NO_FLAGS, NO_UNITS, NO_UNITS, id="nothing"),
        pytest.param(np.ones(9, bool), np.arange(9), np.zeros(9, int), id="one day"),
        pytest.param(np.ones(9, bool), np.zeros(9, int), np.arange(9), id="one customer"),
    ],
)
def test_too_little_has_no_band(flags, unit, day):
    assert share_band(flags, unit, day) is None


def test_a_predicted_band_is_the_day_s_interval_widened_by_the_factor():
    flags, unit, day = clustered_days(np.random.default_rng(8))
    matrix = Matrix(("amount",), np.zeros((len(unit), 1), np.float32), day * DAY_MS, unit)
    plain = share_band(flags, unit, day)
    band = predicted_band(flags.astype(np.int8), Recent(matrix, "a test"), factor=2.0)
    assert band == AlertBand(
        low=plain.low / 2, high=plain.high * 2, share=plain.share, how=band.how
    )
    assert f"{len(unit):,} requests" in band.how


def test_flips_count_decisions_that_differ():
    one, other = np.array([0, 1, 2, 0], np.int8), np.array([0, 2, 2, 1], np.int8)
    assert flip_share(one != other) == 0.5
    assert np.isnan(flip_share((one != other)[:0]))


def test_a_share_of_customers_keeps_them_whole_and_nests():
    unit = np.random.default_rng(9).integers(-(2**62), 2**62, 2000).repeat(5)
    small, large = share_of_units(unit, 0.2), share_of_units(unit, 0.5)
    assert (small & ~large).sum() == 0
    assert len(np.unique(unit[small])) * 5 == small.sum()
    assert large.mean() == pytest.approx(0.5, abs=0.04)


Compare = Callable[[np.ndarray, np.ndarray, np.ndarray, int], Interval]


def _accuracy(own: np.ndarray, other: np.ndarray, unit: np.ndarray, seed: int) -> Interval:
    gap = mean_measure("accuracy", own, unit, seed=seed, champion=other, bounds=(0, 1)).difference
    assert gap is not None
    return gap


def _macro_f1(own: np.ndarray, other: np.ndarray, unit: np.ndarray, seed: int) -> Interval:
    return _of_classes(own, other, unit, seed)[1]


def _log_loss(own: np.ndarray, other: np.ndarray, unit: np.ndarray, seed: int) -> Interval:
    """In units of what a wrong class costs more than a right one; a gain, as of the others."""
    found, dearer = _of_classes(own, other, unit, seed)[2], np.log(8)
    return Interval(-found.value / dearer, -found.high / dearer, -found.low / dearer)


def _of_classes(own: np.ndarray, other: np.ndarray, unit: np.ndarray, seed: int) -> list[Interval]:
    y = np.arange(len(unit)) % 3
    both = [
        np.where((y + (right == 0))[:, None] % 3 == np.arange(3), 0.8, 0.1)
        for right in (own, other)
    ]
    found = class_measures(both[0], y, unit, seed=seed, champion=both[1])
    return [measure.difference for measure in found if measure.difference is not None]


def _precision(own: np.ndarray, other: np.ndarray, unit: np.ndarray, seed: int) -> Interval:
    """Of positives that are above all other rows where they are right, and else below."""
    y = np.repeat([1, 0], len(own)).astype(np.int8)
    scores = [np.concatenate([2.0 * right - 1, np.zeros(len(own))]) for right in (own, other)]
    both = np.concatenate([unit, unit])
    return average_precision_interval(scores[0], y, both, seed=seed, baseline=scores[1])


@pytest.mark.parametrize("units", [30, 100])
@pytest.mark.parametrize("compare", [_accuracy, _macro_f1, _log_loss])
def test_a_rare_loss_of_whole_customers_is_seldom_ruled_out(compare: Compare, units: int) -> None:
    """1 customer in 20 loses all: 5 % lie above the low end, by promise. A bootstrap of these
    customers alone has 20 % with 30 of them, because often none of them loses."""
    rng, runs, wrong = np.random.default_rng(5), 80, 0
    unit = np.repeat(np.arange(units), 4)
    for seed in range(runs):
        lost = (rng.random(units) < 0.05)[unit]
        other = lost | (rng.random(len(unit)) < 0.9)
        wrong += compare((other & ~lost) * 1.0, other * 1.0, unit, seed).low > -0.05
    assert wrong <= 9, "of 80; more has a chance of 1 % at 5 %"


@pytest.mark.parametrize("units", [30, 100])
def test_a_rare_loss_of_precision_is_seldom_ruled_out(units: int) -> None:
    """1 customer in 10 loses half of the precision: 0.05 in all."""
    rng, runs, wrong = np.random.default_rng(6), 60, 0
    unit = np.repeat(np.arange(units), 4)
    for seed in range(runs):
        lost = (rng.random(units) < 0.1)[unit]
        found = _precision(~lost * 1.0, np.ones(len(unit)), unit, seed)
        wrong += found.low > -0.05
    assert wrong <= 7, "of 60; more has a chance of 1 % at 5 %"


@pytest.mark.parametrize("sigma", [0.0, 1.1])
@pytest.mark.parametrize("units", [30, 100])
def test_a_rise_of_errors_is_seldom_ruled_out_also_with_long_tails(
    sigma: float, units: int
) -> None:
    """Errors rise by a fifth; with sigma 1.1 a third of the customers counts."""
    rng, runs, passed, failed = np.random.default_rng(7), 150, 0, 0
    unit = np.repeat(np.arange(units), 4)
    for seed in range(runs):
        usual = np.exp(rng.normal(0, sigma, units))[unit]
        own, other = np.abs(rng.normal(0, 1, (2, len(unit)))) * usual
        found = mean_measure("mae", 1.2 * own, unit, seed=seed, champion=other)
        assert found.champion is not None
        assert found.difference is not None
        limit = 0.2 * found.champion.value
        passed += found.difference.high <= limit
        failed += found.difference.low > limit
    assert max(passed, failed) <= 14


def test_a_rare_rise_of_errors_is_seldom_ruled_out_by_customers_of_whom_none_has_it() -> None:
    rng, runs, passed, unit = np.random.default_rng(8), 150, 0, np.repeat(np.arange(30), 4)
    for seed in range(runs):
        other = np.abs(rng.normal(0, 1, len(unit)))
        own = np.where((rng.random(30) < 0.05)[unit], 3 * other, other)
        found = mean_measure("mae", own, unit, seed=seed, champion=other)
        assert found.difference is not None
        passed += found.difference.high <= 0.1 * other.mean()
    assert passed <= 14, "of 150; a bootstrap of the 30 alone passes 21 % where none has it"


def test_customers_who_are_enough_let_an_equal_version_pass() -> None:
    rng, unit = np.random.default_rng(9), np.repeat(np.arange(250), 4)
    right = (rng.random(len(unit)) < 0.9) * 1.0
    for compare in (_accuracy, _macro_f1, _log_loss):
        assert compare(right, right, unit, 1).low > -0.02


def test_an_interval_with_more_parts_is_wider_and_has_the_same_value() -> None:
    rng = np.random.default_rng(1)
    own, unit = rng.normal(0, 1, 600), np.arange(600) // 3
    one, four = (mean_measure("mean", own, unit, seed=1, parts=n).candidate for n in (1, 4))
    assert one.value == four.value == pytest.approx(own.mean())
    assert four.low < one.low < one.value < one.high < four.high


def test_one_large_customer_counts_as_one() -> None:
    """The effective number of customers (Kish), which few large ones make small."""
    assert effective_units(np.ones(40)) == pytest.approx(40)
    assert effective_units(np.array([1000.0, *np.ones(40)])) == pytest.approx(1.08, abs=0.01)
    alike = Stakes.bounded(np.array([1000.0, *np.ones(40)]), -1, 1)
    assert alike.against[1][1] == pytest.approx(961.5, abs=1), "the one more is as large"


@pytest.mark.parametrize("units", [1, 2, 3])
def test_one_customer_has_an_interval_too(units: int) -> None:
    """A resample of the one more alone says nothing, and divides by no 0."""
    unit = np.arange(12) % units
    y = np.linspace(1, 9, 12)
    for found in number_measures(y + 1, y, unit, quantile=0.5, seed=1, champion=y + 2):
        assert found.is_known
    gap = _accuracy(np.ones(12), np.ones(12), unit, 1)
    assert gap.low < -0.4
    assert gap.high > 0.4
