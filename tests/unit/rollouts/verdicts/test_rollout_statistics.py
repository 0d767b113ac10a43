"""Bounds hold what they say, at every interim analysis, on clustered traffic too."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mlplatform.rollouts.verdicts.statistics import (
    SHRINKAGE_HITS,
    Clusters,
    ClusterSums,
    Counts,
    Difference,
    cluster_sums,
    sample_ratio_p_value,
    sequence_width,
    share_difference,
)

FAIR_SPLITS = 400


@pytest.mark.parametrize("percent", [1, 5, 50])
def test_a_fair_split_that_is_looked_at_after_each_customer_is_doubted_no_more_often_than_asked(
    percent: int,
) -> None:
    rng, share, looks = np.random.default_rng(percent), percent / 100, 5_000
    doubted = 0
    for _ in range(FAIR_SPLITS):
        challengers = (rng.random(looks) < share).cumsum()
        when = np.flatnonzero(np.diff(challengers, prepend=0))[:200]  # uneven when one arrives
        found = (sample_ratio_p_value(int(challengers[n]), int(n) + 1, share=share) for n in when)
        doubted += min(found, default=1.0) < 0.02
    assert doubted / FAIR_SPLITS <= 0.02 + 0.015


@pytest.mark.parametrize("percent", [1, 5, 50])
@pytest.mark.parametrize("factor", [0.5, 1.5])
def test_a_broken_split_is_seen_by_the_time_that_two_hundred_were_to_be_the_challengers(
    percent: int, factor: float
) -> None:
    units = 200 * 100 // percent
    assert sample_ratio_p_value(int(200 * factor), units, share=percent / 100) < 1e-3


def test_a_fixed_samples_p_value_would_doubt_what_comes_by_chance() -> None:
    """Ten of 245 at 1 %: once in a thousand at a sample that was fixed beforehand."""
    assert sample_ratio_p_value(10, 245, share=0.01) > 0.01


def test_a_split_that_is_far_off_is_seen_early() -> None:
    assert sample_ratio_p_value(50, 500, share=0.05) < 1e-3
    assert sample_ratio_p_value(50, 2500, share=0.05) < 1e-9
    assert math.isnan(sample_ratio_p_value(0, 0, share=0.05))


def test_no_event_leaves_open_what_that_many_trials_leave_open() -> None:
    # (1 - p)^n = 0.05 at n p = 3.0, the rule of three, is true of one interim analysis; this one is
    # of all
    assert sequence_width(0.0, error_share=0.05) == pytest.approx(math.sqrt(2) * math.log(20))


def test_a_width_grows_with_certainty_and_with_variance() -> None:
    assert sequence_width(50, error_share=0.001) > sequence_width(50, error_share=0.05)
    assert sequence_width(60, error_share=0.05) > sequence_width(50, error_share=0.05)


def test_what_both_arms_share_cancels_out() -> None:
    """On identical payments the arms' common ups and downs are no noise of their difference."""
    rng = np.random.default_rng(1)
    trials = rng.integers(1, 9, 2000)
    hits = rng.binomial(trials, rng.beta(0.1, 0.9, 2000))
    nobody = np.zeros(2000, dtype=np.int64)
    paired = difference(Clusters(hits, trials, hits, trials))
    apart = difference(
        Clusters(*(np.concatenate(pair) for pair in
                   ((hits, nobody), (trials, nobody), (nobody, hits), (nobody, trials))))
    )  # fmt: skip
    assert paired.value == apart.value == 0
    assert paired.pass_high < apart.pass_high / 3


def test_one_customer_is_one_event_however_many_requests() -> None:
    many = np.ones(200, dtype=np.int64)
    few = np.array([200], dtype=np.int64)
    spread = difference(Clusters(many, many, 0 * many, many))
    one = difference(Clusters(few, few, 0 * few, few))
    assert spread.stop_low > 0.5
    assert one.stop_low < 0


def test_no_trials_prove_nothing() -> None:
    empty = np.array([], dtype=np.int64)
    assert math.isnan(difference(Clusters(empty, empty, empty, empty)).stop_low)


def difference(
    *views: Clusters, stop: float = 0.001, missed: float = 0.05, ratio: float = 1.0
) -> Difference:
    sums = [view.sums() for view in views]
    return share_difference(sums, stop_error=stop, pass_error=missed, ratio=ratio)


def watched(
    rng: np.random.Generator,
    *,
    rate: float,
    extra: float,
    outage: int,
    looks: int = 30,
    ratio: float = 1.0,
) -> list[Difference]:
    """What each of many looks sees of two arms whose failures come in outages.

    Args:
        rate: of either arm; extra: of the challenger besides, independent of everything.
        outage: requests that one outage fails.
    """
    requests = 6000
    mine = rng.random(requests) < 0.25
    failed = np.zeros(requests, dtype=bool)
    for arm in (mine, ~mine):
        starts = rng.random(requests) < rate / outage
        inside = np.convolve(starts, np.ones(outage))[:requests] > 0
        failed |= arm & inside
    failed |= mine & (rng.random(requests) < extra)
    pieces = np.arange(requests) // max(outage, 1)
    found = []
    for seen in np.linspace(requests / looks, requests, looks).astype(int):
        keys = np.unique(pieces[:seen], return_inverse=True)[1]

        def per(flags: np.ndarray, keys: np.ndarray = keys, seen: int = seen) -> Counts:
            return np.bincount(keys[flags[:seen]], minlength=keys.max() + 1).astype(np.int64)

        view = Clusters(per(mine & failed), per(mine), per(~mine & failed), per(~mine))
        found.append(difference(view, stop=0.01, ratio=ratio))
    return found


@pytest.mark.parametrize("outage", [1, 20])
def test_arms_that_fail_alike_are_called_unlike_no_more_often_than_said(outage: int) -> None:
    rng = np.random.default_rng(41)
    runs = [watched(rng, rate=0.01, extra=0.0, outage=outage) for _ in range(400)]
    wrong = sum(any(look.stop_low > 0 for look in run) for run in runs) / len(runs)
    assert wrong <= 0.01 + 0.015  # three standard errors of 400 runs at 1 %


@pytest.mark.parametrize("outage", [1, 20])
def test_harm_at_the_tolerance_is_called_health_no_more_often_than_said(outage: int) -> None:
    """However often somebody looks: a repeated test of fixed size would pass it in the end."""
    rng = np.random.default_rng(42)
    runs = [watched(rng, rate=0.002, extra=0.02, outage=outage) for _ in range(400)]
    passed = sum(any(look.pass_high < 0.02 for look in run) for run in runs) / len(runs)
    assert passed <= 0.05 + 0.03


@pytest.mark.parametrize("outage", [1, 20])
def test_an_arm_that_fails_as_often_as_it_may_is_called_worse_no_more_often_than_said(
    outage: int,
) -> None:
    """The guardrail of a champion, beside whom nobody answers."""
    rng = np.random.default_rng(43)
    runs = [watched(rng, rate=0.01, extra=0.0, outage=outage, ratio=0.0) for _ in range(300)]
    wrong = sum(any(look.stop_low > 0.01 for look in run) for run in runs) / len(runs)
    assert wrong <= 0.01 + 0.017  # three standard errors of 300 runs at 1 %


def test_an_arm_that_fails_five_times_as_often_as_it_may_is_called_worse() -> None:
    rng = np.random.default_rng(44)
    runs = [watched(rng, rate=0.05, extra=0.0, outage=1, ratio=0.0) for _ in range(50)]
    assert all(any(look.stop_low > 0.01 for look in run) for run in runs)


def test_sums_of_portions_give_the_bounds_of_the_whole() -> None:
    rng = np.random.default_rng(45)
    counts = rng.integers(0, 900_000, (400, 4))
    counts[:, 0::2] %= counts[:, 1::2] + 1
    whole = ClusterSums.of(cluster_sums(counts))
    parts = ClusterSums.of(cluster_sums(counts[:150]) + cluster_sums(counts[150:]))
    assert whole == parts
    residuals = counts[:, 0] - whole.challenger_hits / whole.challenger_trials * counts[:, 1]
    found = share_difference([whole], stop_error=0.5, pass_error=0.5, ratio=0.0)
    size = (counts[:, 1] ** 2).sum() / counts[:, 1].sum()
    variance = (residuals**2).sum() * 400 / 399
    plain = whole.challenger_hits * (1 - found.challenger)
    estimated, hits = min(max(variance / plain, 1.0), size), whole.challenger_hits
    event = (hits * estimated + SHRINKAGE_HITS * size) / (hits + SHRINKAGE_HITS)
    width = event * sequence_width(variance / event**2, error_share=0.5)
    assert found.challenger - found.stop_low == pytest.approx(width / whole.challenger_trials)


def test_a_ratio_that_one_sample_has_told_adds_no_error_at_any_look() -> None:
    share, error, spread, paths = 0.05, 0.05, 0.1, 4_000
    looks = np.unique(np.geomspace(500, 100_000, 60).astype(int))
    widths = []
    for n in looks:
        hits, one = (np.arange(n) % 20 == 0).astype(np.int64), np.ones(n, dtype=np.int64)
        mine, other = (np.concatenate(arm) for arm in ((hits, 0 * hits), (0 * hits, hits)))
        asked = [np.concatenate(arm) for arm in ((one, 0 * one), (0 * one, one))]
        found = share_difference(
            [Clusters(mine, asked[0], other, asked[1]).sums()],
            stop_error=error,
            pass_error=error,
            noise=(spread * hits.mean()) ** 2,
        )
        widths.append(found.value - found.stop_low)
    rng = np.random.default_rng(3)
    deviation = np.sqrt(np.diff(looks, prepend=0) * 2 * share * (1 - share))
    live = (rng.normal(size=(paths, len(looks))) * deviation).cumsum(axis=1) / looks
    once = spread * share * rng.standard_normal((paths, 1))
    assert (live + once > np.array(widths)).any(axis=1).mean() <= error
