"""What replay predicted excuses a challenger only where the champion has left what replay saw."""

from __future__ import annotations

import numpy as np

from mlplatform.rollouts.verdicts.comparison import alert_gate
from mlplatform.rollouts.verdicts.statistics import Clusters
from mlplatform.rollouts.verdicts.verdict import Bound, Errors, Prediction

SHARE, ALIKE, REQUESTS, REPLAYED, RUNS = 0.013, 0.8, 60_000, 30_000, 60
BOUND, ERRORS = Bound(0.15, 0.3), Errors(1 / 3000, 0.05)


def verdicts(
    rng: np.random.Generator, *, more: float = 0.0, champion: float = 1.0, replayed: int = REPLAYED
) -> dict[str, int]:
    """Of challengers that raise this share of alerts more than replay saw, beside a champion that
    raises so many times those that replay saw."""
    found: dict[str, int] = {}
    for _ in range(RUNS):
        own, other = alerts(rng, replayed, 1.0, 1.0)
        both, either = (own & other).sum(), (own | other).sum()
        predicted = Prediction(
            float(own.sum() / other.sum()), float(1 - both / either), float(own.mean()),
            requests=replayed,
        )  # fmt: skip
        mine, theirs = alerts(rng, REQUESTS, 1 + more, champion)
        one = np.ones(REQUESTS, dtype=np.int64)
        view = Clusters(mine.astype(np.int64), one, theirs.astype(np.int64), one).sums()
        verdict = alert_gate(view, BOUND, ERRORS, predicted).verdict
        found[verdict] = found.get(verdict, 0) + 1
    return found


def alerts(
    rng: np.random.Generator, count: int, mine: float, other: float
) -> tuple[np.ndarray, np.ndarray]:
    """Of two arms that agree on most of them."""
    common = rng.random(count) < SHARE * ALIKE * min(mine, other)
    own, theirs = (
        common | (rng.random(count) < SHARE * (times - ALIKE * min(mine, other)))
        for times in (mine, other)
    )
    return own, theirs


def test_half_a_point_more_alerts_are_proven_and_hardly_ever_health() -> None:
    found = verdicts(np.random.default_rng(1), more=0.385)  # one in 1000 is excused by chance
    assert found.get("UNHEALTHY", 0) >= 0.7 * RUNS
    assert found.get("HEALTHY", 0) <= 1


def test_an_equal_challenger_is_not_stopped_for_what_few_replayed_payments_did_not_know() -> None:
    rng = np.random.default_rng(2)
    assert "UNHEALTHY" not in verdicts(rng, replayed=4_000)
    assert verdicts(rng).get("HEALTHY", 0) >= 0.9 * RUNS


def test_a_challenger_as_predicted_is_no_harm_beside_a_champion_that_has_left() -> None:
    for champion in (0.3, 3.0):
        found = verdicts(np.random.default_rng(3), champion=champion)
        assert "UNHEALTHY" not in found
        assert found["HEALTHY"] >= 0.5 * RUNS
