"""The capacity model against queues whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from tests.bench.capacity import Speed, p99_ms, plan, times_s


def steady(per_s: float, lanes: int = 1) -> Speed:
    """Each of the lanes completes as many a second, whoever else is there."""
    return Speed.measured([(n, n * per_s) for n in range(1, lanes + 1)])


def mean_inside(rate: float, speed: Speed) -> float:
    """Of a birth-death process, from its balance equations."""
    table = speed.table()
    weights, weight = [1.0], 1.0
    for n in range(1, 3000):
        weight *= rate / table[min(n, len(table) - 1)]
        weights.append(weight)
    return float(np.dot(range(3000), weights) / sum(weights))


@pytest.mark.parametrize("busy", [0.3, 0.6, 0.8])
def test_one_lane_waits_as_the_formula_says(busy: float) -> None:
    expected_ms = math.log(100) / (1000 * (1 - busy)) * 1000
    assert p99_ms(1000 * busy, steady(1000)) == pytest.approx(expected_ms, rel=0.08)


@pytest.mark.parametrize(
    "speed", [steady(500), steady(200, lanes=4), Speed((0, 1, 8, 64), (0, 250, 600, 800))]
)
def test_the_mean_is_that_of_the_balance_equations(speed: Speed) -> None:
    rate = 0.6 * speed.highest
    expected_s = mean_inside(rate, speed) / rate  # Little's law
    assert times_s(rate, speed).mean() == pytest.approx(expected_s, rel=0.05)


def test_even_arrivals_wait_less_than_random_ones() -> None:
    assert p99_ms(700, steady(1000), evenly=True) < p99_ms(700, steady(1000))


def test_more_than_there_is_room_for_is_refused() -> None:
    with pytest.raises(ValueError, match="more than"):
        times_s(1000, steady(1000))


def test_more_inside_is_never_slower() -> None:
    assert Speed.measured([(32, 2000.0), (1, 1000.0), (64, 1900.0)]).per_s == (0, 1000, 2000, 2000)


def test_a_plan_keeps_its_limit_with_as_few_processes_as_it_can() -> None:
    found = plan(50_000, steady(1000, lanes=4), 50e-6, 10.0)
    assert found is not None
    assert found.p99_ms <= 10.0
    assert found.gateways * 4000 >= 50_000
    assert found.predictors * found.busy_share >= 2.5
    assert plan(50_000, steady(100), 50e-6, 10.0) is None
