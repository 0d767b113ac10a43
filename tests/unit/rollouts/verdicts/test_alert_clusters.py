"""What replay leaves open of the ratio of alerts follows how its alerts of one arm cluster."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from mlplatform.learning.validation.statistics import flip_design_effect, paired_design_effect
from mlplatform.rollouts.verdicts.comparison import alert_gate, disagreement_gate
from mlplatform.rollouts.verdicts.statistics import Clusters
from mlplatform.rollouts.verdicts.verdict import Bound, Errors, Prediction

REQUESTS, COMMON, ALONE, RUNS = 60_000, 600, 160, 200
BOUND, ERRORS = Bound(0.0, 0.3), Errors(stop=0.04, missed=0.05)


def alerts(
    rng: np.random.Generator, *, alone: int, alike: int, more: float = 1.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Alerts of both arms, and whose: those of one arm alone come `alone` at a time of a customer,
    those of both `alike` at a time."""
    own, other = (rng.poisson(times * ALONE / alone) for times in (more, 1.0))
    both = rng.poisson(COMMON / alike)
    bursts = np.array([[1, 0], [0, 1], [1, 1]])
    of_burst = np.repeat([0, 1, 2], [own, other, both])
    size = np.repeat([alone, alone, alike], [own, other, both])
    raised = np.zeros((REQUESTS, 2), dtype=bool)
    raised[: size.sum()] = np.repeat(bursts[of_burst], size, axis=0)
    unit = np.arange(REQUESTS) // 5 + len(size)
    unit[: size.sum()] = np.repeat(np.arange(len(size)), size)
    return raised[:, 0], raised[:, 1], unit


def predicted(own: np.ndarray, other: np.ndarray, unit: np.ndarray) -> Prediction:
    both, either = (own & other).sum(), (own | other).sum()
    effect = paired_design_effect(own, other, unit)
    ratio, share = float(own.sum() / other.sum()), float(own.mean())
    return Prediction(ratio, float(1 - both / either), share, True, len(own), effect)


def stops(rng: np.random.Generator, *, alone: int, alike: int, more: float = 1.0) -> float:
    """Of challengers that raise so many times the alerts of one arm alone that replay saw."""
    stopped = 0
    for _ in range(RUNS):
        prediction = predicted(*alerts(rng, alone=alone, alike=alike))
        own, other, unit = alerts(rng, alone=alone, alike=alike, more=more)
        _, place = np.unique(unit, return_inverse=True)
        one = np.bincount(place)
        mine, theirs = (np.bincount(place, arm).astype(np.int64) for arm in (own, other))
        gate = alert_gate(Clusters(mine, one, theirs, one).sums(), BOUND, ERRORS, prediction)
        stopped += gate.verdict == "UNHEALTHY"
    return stopped / RUNS


@pytest.mark.parametrize(("alone", "alike"), [(1, 8), (20, 1), (20, 8)])
def test_an_equal_challenger_is_stopped_no_more_often_than_asked(alone: int, alike: int) -> None:
    assert stops(np.random.default_rng(alone), alone=alone, alike=alike) <= ERRORS.stop


def test_alerts_of_both_arms_that_cluster_hide_no_harm() -> None:
    rng = np.random.default_rng(7)
    apart = stops(rng, alone=1, alike=1, more=2.0)
    assert apart >= 0.9
    assert stops(rng, alone=1, alike=8, more=2.0) >= apart - 0.1


def test_the_effect_is_that_of_the_difference() -> None:
    rng = np.random.default_rng(8)
    assert paired_design_effect(*alerts(rng, alone=1, alike=8)) == pytest.approx(1.0, abs=0.1)
    assert paired_design_effect(*alerts(rng, alone=8, alike=1)) == pytest.approx(8.0, rel=0.1)


def test_where_nothing_shows_how_alerts_cluster_no_effect_is_told() -> None:
    none, some = np.zeros(4, dtype=bool), np.array([True, False, False, True])
    unit = np.array([1, 1, 2, 3])
    assert paired_design_effect(some, none, unit) is None
    assert paired_design_effect(some, ~some, np.ones(4, dtype=np.int64)) is None
    assert flip_design_effect(some, none, unit) is None
    assert paired_design_effect(some, some, unit) == 1.0, "and the assumed one counts"


def test_few_alerts_of_one_arm_leave_the_assumed_effect() -> None:
    said = Prediction(1.0, 0.5, 0.01, True, 300, design_effect=1.0)  # 2 alerts of one arm
    silent = dataclasses.replace(said, design_effect=None)
    assert said.ratio_variance(4.0) > silent.ratio_variance(4.0), "two more are assumed"
    many = dataclasses.replace(said, requests=300_000)
    told = dataclasses.replace(silent, requests=300_000)
    assert many.ratio_variance(4.0) / told.ratio_variance(4.0) == pytest.approx(0.25, rel=0.01)
    alike = Prediction(1.0, 0.0, 0.01, True, 300, design_effect=1.0)  # none of one arm
    assert alike.ratio_variance(1.0) > 0
    assert dataclasses.replace(alike, design_effect=None).ratio_variance(1.0) == 0, "as before"


@pytest.mark.parametrize(("replayed", "burst"), [(20, 1), (50, 4), (200, 20)])
def test_an_equal_challenger_is_not_stopped_for_what_few_replayed_alerts_said(
    replayed: int, burst: int
) -> None:
    """A third of the alerts are of one arm, in replay as in shadow; before, replay's share was
    taken for exact, and up to 20 in 100 were stopped."""
    rng, errors = np.random.default_rng(replayed), Errors(stop=0.00167, missed=0.05)
    stopped = 0
    for _ in range(300):
        before, shadow = one_sided(rng, replayed, burst), one_sided(rng, 3_000, burst)
        times = before.challenger_trials
        differ = np.repeat(before.challenger_hits > 0, times)
        unit = np.repeat(np.arange(len(times)), times)
        effect = flip_design_effect(differ, np.ones_like(differ), unit)
        share, count = float(differ.mean()), len(differ)
        said = Prediction(1.0, share, None, True, count, None, effect)
        gate = disagreement_gate(shadow.sums(), Bound(0.15, 0.25), errors, said)
        stopped += gate.verdict == "UNHEALTHY"
    assert stopped <= 2


def one_sided(rng: np.random.Generator, alerts: int, burst: int) -> Clusters:
    """Alerts of one arm alone among those of either: a third, so many at a time of a customer."""
    bursts, both = rng.poisson(alerts / 3 / burst), rng.poisson(alerts * 2 / 3)
    hits = np.repeat([burst, 0], [bursts, both])
    trials = np.repeat([burst, 1], [bursts, both])
    none = np.zeros_like(hits)
    return Clusters(hits, trials, none, none)
