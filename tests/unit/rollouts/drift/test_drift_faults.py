"""Broken data is told apart from customers who changed."""

from __future__ import annotations

import numpy as np
import pytest

from mlplatform.model import profile as profiles
from mlplatform.rollouts.drift.faults import (
    ViewReading,
    missing_fault,
    stale_fault,
    stuck_fault,
    view_faults,
)
from mlplatform.runtime.units import DAY_MS

RNG = np.random.default_rng(1)
COUNTS = RNG.poisson(1.0, 20_000).astype(float)  # 37 % are 0
MEANS = np.where(RNG.random(20_000) < 0.4, np.nan, RNG.lognormal(3, 0.6, 20_000))
COUNT, MEAN = profiles.column(COUNTS, "count"), profiles.column(MEANS, "mean")


@pytest.mark.parametrize(
    ("missing", "broken"), [(0.3, False), (0.4, False), (0.5, False), (0.7, True), (1.0, True)]
)
def test_missing_far_more_often_than_before_is_a_fault(missing: float, broken: bool) -> None:
    values = np.where(RNG.random(5000) < missing, np.nan, RNG.lognormal(3, 0.6, 5000))
    found = missing_fault("mean", MEAN, values, 0.2)
    assert (found is not None) == broken


def test_a_value_that_was_always_there_may_hardly_be_missing() -> None:
    amount = profiles.column(RNG.lognormal(3, 0.6, 5000), "amount")
    values = RNG.lognormal(3, 0.6, 5000)
    assert missing_fault("amount", amount, values, 0.2) is None
    values[:250] = np.nan
    found = missing_fault("amount", amount, values, 0.2)
    assert found is not None
    assert found.reason.endswith("Mend its source")


@pytest.mark.parametrize(
    ("values", "broken"),
    [
        (RNG.poisson(1.0, 5000), False),
        (RNG.poisson(0.5, 5000), False),  # customers who pay half as often are a change
        (np.zeros(5000), True),
        (np.where(RNG.random(5000) < 0.9, 0, RNG.poisson(1.0, 5000)), True),
        (np.full(5000, 3), True),
    ],
    ids=["as ever", "half as often", "at its default", "nine in ten at it", "frozen"],
)
def test_a_value_that_stopped_varying_is_a_fault(values: np.ndarray, broken: bool) -> None:
    found = stuck_fault("count", COUNT, values.astype(float))
    assert (found is not None) == broken


@pytest.mark.parametrize("share", [0.49, 0.5, 0.51, 0.9])
@pytest.mark.parametrize("rows", [1000, 1001])
@pytest.mark.parametrize("place", [0.0, 0.5, 99.0], ids=["lowest", "amid", "highest"])
def test_a_value_is_stuck_that_half_or_more_are_wherever_it_lies(
    share: float, rows: int, place: float
) -> None:
    usual = profiles.column(RNG.random(5000), "usual")
    values = RNG.random(rows)
    stuck = int(np.ceil(share * rows))
    values[:stuck] = place
    found = stuck_fault("usual", usual, RNG.permutation(values))
    assert (found is not None) == (stuck >= rows / 2)
    assert found is None or found.reason.startswith(f"usual is {place:g} in")


def test_an_input_that_never_varied_is_none() -> None:
    constant = profiles.column(np.ones(1000), "flag")
    assert stuck_fault("flag", constant, np.ones(1000)) is None
    assert stuck_fault("flag", constant, np.full(1000, np.nan)) is None


@pytest.mark.parametrize(("age_days", "broken"), [(0, False), (1, False), (1.5, False), (2, True)])
def test_a_view_is_at_fault_whose_newest_snapshot_was_late_already(
    age_days: float, broken: bool
) -> None:
    seen = ViewReading(newest_ms=int((10 - age_days) * DAY_MS), late_ms=int(1.5 * DAY_MS))
    assert bool(view_faults({"customer_stats": seen}, 10 * DAY_MS)) == broken
    assert view_faults({"customer_stats": ViewReading(None, 1)}, 10 * DAY_MS) == []


@pytest.mark.parametrize(("stale", "broken"), [(0, False), (50, False), (51, True)])
def test_most_decisions_without_fresh_features_are_a_fault(stale: int, broken: bool) -> None:
    assert (stale_fault(stale, 100 - stale) is not None) == broken
