"""A challenger with just as many alerts more as a step allows is rarely called healthy."""

from __future__ import annotations

import numpy as np

from mlplatform.rollouts.verdicts.comparison import alert_gate
from mlplatform.rollouts.verdicts.statistics import Clusters
from mlplatform.rollouts.verdicts.verdict import Bound, Errors, Prediction

RUNS, LOOKS = 400, (300, 600, 1_200, 2_400)
SHARE, TOLERANCE = 0.013, 1.5
ERRORS = Errors(stop=1 / 3000, missed=0.05)
PREDICTED = Prediction(alert_ratio=1.0, disagreement=0.3, alert_share=None)


def test_harm_at_the_margin_is_healthy_at_any_look_in_one_of_twenty_at_most() -> None:
    rng, healthy = np.random.default_rng(5), 0
    for _ in range(RUNS):
        alerts = rng.random(max(LOOKS)) < SHARE * (1 + TOLERANCE)
        of_champion = rng.random(max(LOOKS)) < SHARE
        healthy += any(_is_healthy(alerts[:n], of_champion[:n]) for n in LOOKS)
    assert healthy <= 0.05 * RUNS


def test_an_equal_challenger_is_healthy_in_time() -> None:
    rng = np.random.default_rng(6)
    alerts, of_champion = rng.random((2, 12_000)) < SHARE
    assert _is_healthy(alerts, of_champion)


def _is_healthy(mine: np.ndarray, other: np.ndarray) -> bool:
    """Requests of customers who are of one arm each."""
    none, one = np.zeros(len(mine), int), np.ones(len(mine), int)
    arms = [(mine, none), (one, none), (none, other), (none, one)]
    view = Clusters(*(np.concatenate(arm).astype(int) for arm in arms)).sums()
    return alert_gate(view, Bound(0.15, TOLERANCE), ERRORS, PREDICTED).verdict == "HEALTHY"
