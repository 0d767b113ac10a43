"""Bounds on the rise of a mean error hold at every interim analysis, also where few errors make
most of it."""

from __future__ import annotations

import numpy as np
import pytest

from mlplatform.rollouts.verdicts.statistics import rise_of_mean

RUNS, ERROR = 200, 0.05
LOOKS = (100, 200, 400, 800, 1600)


def errors(random: np.random.Generator, tail: float) -> tuple[np.ndarray, ...]:
    """Of customers with two requests each, whose errors are alike; the same law for both arms."""
    customers = LOOKS[-1] // 2
    own, other = np.repeat(random.lognormal(0, tail, (2, customers)), 2, axis=1)
    return np.repeat(np.arange(customers), 2), own, other


@pytest.mark.parametrize("tail", [0.5, 1.0])
def test_equal_arms_are_seldom_proven_to_be_worse_at_any_look(tail: float) -> None:
    wrong = 0
    for run in range(RUNS):
        unit, own, other = errors(np.random.default_rng(run), tail)
        wrong += any(
            rise_of_mean(unit[:n], own[:n], other[:n], stop_error=ERROR, pass_error=ERROR).stop_low
            > 0
            for n in LOOKS
        )
    assert wrong <= 1.5 * ERROR * RUNS


def test_a_rise_is_found_and_bounded() -> None:
    random = np.random.default_rng(1)
    unit, own, other = np.arange(4000), *random.gamma(2.0, 1.0, (2, 4000))
    found = rise_of_mean(unit, 1.5 * own, other, stop_error=0.001, pass_error=0.05)
    assert 0.3 < found.stop_low < found.value < 0.6
    assert found.value < found.pass_high < 0.7
    same = rise_of_mean(unit, own, own, stop_error=0.001, pass_error=0.05)
    assert (same.value, same.challenger, same.champion) == (0, 1, 1)
    assert same.pass_high < 0.01
