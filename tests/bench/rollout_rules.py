"""Rules that others judge a rollout by, read at the same looks of the same streams.

Each stops a challenger at the first interim analysis that speaks against it, once the step's
minimum sample is there, and passes a step after the time in which the platform's rule passes an
equal challenger.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from tests.bench.rollout_traffic import Floats, Integers

from mlplatform.rollouts.verdicts.aggregates import Aggregates
from mlplatform.rollouts.verdicts.judgement import StepPolicy
from mlplatform.rollouts.verdicts.latencies import EDGES

CERTAIN_Z: Final = 1.959964
"""Two-sided at 5 %, at each interim analysis."""
ONE_SIDED_Z: Final = 1.644854
SCORE_BINS: Final = 400


@dataclass(frozen=True, slots=True)
class Look:
    """What a rule reads.

    Args:
        failure_share: the limit. scores: histograms of the challenger's and the champion's.
    """

    found: Aggregates
    step: StepPolicy
    failure_share: float
    scores: Integers


Rule = Callable[[Look], bool]
"""Whether the challenger is stopped."""


def binned_scores(scores: Floats) -> Integers:
    """Of scores around 1, by 20 bins an octave."""
    bins = np.clip(np.log2(np.maximum(scores, 1e-9)) * 20 + SCORE_BINS / 2, 0, SCORE_BINS - 1)
    return np.bincount(bins.astype(np.int64), minlength=SCORE_BINS)


def fixed_threshold(look: Look) -> bool:
    """The estimate of any gate is above its limit."""
    found, stop, predicted = look.found, look.step.stop, look.step.predicted
    (a, n), (b, m) = _failures(found)
    view, only = found.alerts, found.disagreements
    worse = [a / n - b / m > look.failure_share]
    if view.champion_trials and view.challenger_trials:
        raised = view.challenger_hits / view.challenger_trials
        theirs = view.champion_hits / view.champion_trials
        expected = [theirs * predicted.alert_ratio, predicted.alert_share or 0.0]
        worse.append(min(abs(raised / e - 1) for e in expected if e) > stop.alerts)
    if only.challenger_trials and predicted.replayed:
        share = only.challenger_hits / only.challenger_trials
        worse.append(share - predicted.disagreement > stop.disagreement)
    if found.latencies is not None and found.latencies.answers.any(axis=1).all():
        for quantile, limit in ((0.5, stop.latency_p50), (0.99, stop.latency_p99)):
            mine, other = (EDGES[found.latencies.quantile(arm, quantile)] for arm in (0, 1))
            worse.append(bool(mine > limit * other))
    return any(worse)


def repeated_test(look: Look) -> bool:
    """Two proportions differ by a z-test of a fixed sample, asked at every interim analysis: of
    failures on the one side, of alerts on both."""
    failures, view = _failures(look.found), look.found.alerts
    alerts = ((view.challenger_hits, view.challenger_trials),
              (view.champion_hits, view.champion_trials))  # fmt: skip
    ratio = look.step.predicted.alert_ratio
    return _z(*failures, 1.0) > ONE_SIDED_Z or abs(_z(*alerts, ratio)) > CERTAIN_Z


def mann_whitney(look: Look) -> bool:
    """Scores are of two distributions, or in canary latencies are higher, by ranks, at every
    interim analysis."""
    latencies = look.found.latencies
    slower = latencies is not None and rank_z(latencies.answers) > ONE_SIDED_Z
    return slower or abs(rank_z(look.scores)) > CERTAIN_Z


RULES: Final[dict[str, Rule]] = {
    "fixed threshold": fixed_threshold,
    "repeated test": repeated_test,
    "Mann-Whitney": mann_whitney,
}


def rank_z(histograms: Integers) -> float:
    """Mann and Whitney's U of the first sample, standardised, with ties of one bin; 0: no sample.

    Source: Lehmann (1975), Nonparametrics, section 1.4, with the variance under ties.
    """
    mine, other = histograms.astype(np.float64)
    n, m = mine.sum(), other.sum()
    if not n or not m:
        return 0.0
    below = np.cumsum(other) - other
    greater = float((mine * (below + other / 2)).sum())
    both, total = mine + other, n + m
    ties = float((both**3 - both).sum()) / (total * (total - 1))
    variance = n * m / 12 * (total + 1 - ties)
    return (greater - n * m / 2) / math.sqrt(variance) if variance > 0 else 0.0


def _failures(found: Aggregates) -> tuple[tuple[int, int], tuple[int, int]]:
    days = found.failures[0]
    return (
        (days.challenger_hits, max(days.challenger_trials, 1)),
        (days.champion_hits, max(days.champion_trials, 1)),
    )


def _z(mine: tuple[int, int], other: tuple[int, int], ratio: float) -> float:
    (a, n), (b, m) = mine, other
    if not n or not m:
        return 0.0
    p, q = a / n, b / m
    variance = p * (1 - p) / n + ratio**2 * q * (1 - q) / m
    return (p - ratio * q) / math.sqrt(variance) if variance > 0 else 0.0
