"""A challenger with just as many alerts more as a step allows is rarely called healthy, and never
one that has fallen silent."""

from __future__ import annotations

import numpy as np

from mlplatform.rollouts.verdicts.comparison import alert_gate
from mlplatform.rollouts.verdicts.statistics import Clusters, ClusterSums
from mlplatform.rollouts.verdicts.verdict import Bound, Errors, Prediction

RUNS, LOOKS = 400, (300, 600, 1_200, 2_400)
SHARE, TOLERANCE = 0.013, 1.5
ERRORS = Errors(stop=1 / 3000, missed=0.05)
PREDICTED = Prediction(alert_ratio=1.0, disagreement=0.3, alert_share=None)
REPLAYED = Prediction(alert_ratio=1.0, disagreement=0.3, alert_share=SHARE, requests=60_000)


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


def test_four_alerts_beside_the_champions_48_are_no_health() -> None:
    """The tolerance of 150 % alone would allow them."""
    view = _of_customers(4, 48, 3_696, each=8)
    for errors in (ERRORS, Errors(stop=1e-12, missed=0.05)):  # the second proves nothing
        assert alert_gate(view, Bound(0.15, TOLERANCE), errors, REPLAYED).verdict != "HEALTHY"


def test_alerts_that_are_shown_to_be_fewer_are_said_to_be_at_least_so_far_below() -> None:
    view = _of_customers(17, 40, 3_112, each=8)
    gate = alert_gate(view, Bound(0.15, TOLERANCE), ERRORS, REPLAYED)
    assert gate.headline == (
        "The challenger's alerts are at least 14 % below the number expected (95 % certain)."
    )


def test_a_challenger_without_alerts_is_stopped_whatever_replay_saw() -> None:
    """Without an alert of its own, the champion's tell how large one event is."""
    view = _of_customers(0, 325, 25_000, each=50)
    gate = alert_gate(view, Bound(0.15, TOLERANCE), ERRORS, REPLAYED)
    assert gate.verdict == "UNHEALTHY"


def _of_customers(mine: int, other: int, requests: int, *, each: int) -> ClusterSums:
    """Requests of either arm, by customers with so many of them and an alert or none."""
    customers = requests // each
    none, every = np.zeros(customers, int), np.full(customers, each)
    own, theirs = ((np.arange(customers) < alerts).astype(int) for alerts in (mine, other))
    arms = [(own, none), (every, none), (none, theirs), (none, every)]
    return Clusters(*(np.concatenate(arm) for arm in arms)).sums()


def _is_healthy(mine: np.ndarray, other: np.ndarray) -> bool:
    """Requests of customers who are of one arm each."""
    none, one = np.zeros(len(mine), int), np.ones(len(mine), int)
    arms = [(mine, none), (one, none), (none, other), (none, one)]
    view = Clusters(*(np.concatenate(arm).astype(int) for arm in arms)).sums()
    return alert_gate(view, Bound(0.15, TOLERANCE), ERRORS, PREDICTED).verdict == "HEALTHY"
