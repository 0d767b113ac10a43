"""A week's rhythm is learned from days, and a bundle without one keeps its digest."""

from __future__ import annotations

import numpy as np
import pytest

from mlplatform.model import profile as profiles
from mlplatform.model.rhythm import rhythm, weekday, weekday_of
from mlplatform.runtime.units import DAY_MS

RETAIL = np.array([0.90, 0.93, 0.96, 1.0, 1.10, 1.24, 0.87])
MONDAY = 4  # 1970-01-05


def weeks(days: int, factors: np.ndarray, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    numbers = np.repeat(np.arange(MONDAY, MONDAY + days), 4000)
    return rng.lognormal(3, 0.6, len(numbers)) * factors[(numbers + 3) % 7], numbers


def test_days_of_the_week_begin_with_monday() -> None:
    assert [weekday(day) for day in range(MONDAY, MONDAY + 7)] == list(range(7))
    assert weekday_of(MONDAY * DAY_MS, (MONDAY + 1) * DAY_MS) == 0
    assert weekday_of(MONDAY * DAY_MS, MONDAY * DAY_MS + DAY_MS // 2) is None
    assert weekday_of(MONDAY * DAY_MS + 1, (MONDAY + 1) * DAY_MS + 1) is None


def test_three_weeks_tell_each_weekday_and_how_much_days_differ_besides() -> None:
    values, days = weeks(21, RETAIL)
    column = profiles.column(values, "amount")
    found = rhythm(column, values, days)
    assert found is not None
    assert (len(found.weekdays), found.degrees) == (7, 14)
    medians = [day.quantiles[len(day.quantiles) // 2] for day in found.weekdays]
    assert np.array(medians) / medians[3] == pytest.approx(RETAIL, rel=0.06)
    assert found.spread < 0.04


def test_what_the_week_does_is_spread_where_weekdays_are_not_compared() -> None:
    values, days = weeks(21, RETAIL)
    column = profiles.column(values, "score")
    found = rhythm(column, values, days, by_weekday=False)
    assert found is not None
    assert (found.weekdays, found.degrees) == ((), 20)
    assert found.spread > 0.1


def test_ten_days_know_no_weekdays_and_five_know_nothing() -> None:
    for count, expected in ((10, 9), (5, None)):
        values, days = weeks(count, RETAIL)
        found = rhythm(profiles.column(values, "amount"), values, days)
        assert (found and found.degrees) == expected


def test_a_day_without_a_value_is_no_day() -> None:
    values, days = weeks(14, RETAIL)
    values = np.where(days == MONDAY, np.nan, values)
    found = rhythm(profiles.column(values, "amount"), values, days)
    assert found is not None
    assert (found.weekdays, found.degrees) == ((), 12)
