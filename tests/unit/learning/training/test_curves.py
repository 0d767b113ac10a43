"""Figures and curves of scores against labels."""

import numpy as np
import pytest

from mlplatform.learning.training.curves import (
    CURVE_POINTS,
    calibration_bins,
    permutation_importances,
    precision_recall,
    score_histogram,
)
from mlplatform.learning.validation.statistics import calibration_error_interval

RNG = np.random.default_rng(5)
Y = (RNG.random(20_000) < 0.05).astype(np.int8)
SCORES = np.round(np.clip(0.3 * Y + RNG.random(20_000) * 0.6, 0, 1), 3)  # with ties
UNIT = np.arange(20_000)


def test_a_curve_is_thin_rises_in_recall_and_ends_with_every_positive():
    curve = precision_recall(SCORES, Y)
    assert len(curve) <= CURVE_POINTS
    assert (np.diff(curve[:, 0]) > 0).all()
    assert curve[-1, 0] == 1.0
    assert precision_recall(np.array([0.9, 0.5]), np.array([1, 0])).tolist() == [[1.0, 1.0]]
    assert precision_recall(np.array([0.9]), np.array([0])).shape == (0, 2)


def test_the_error_of_the_bins_is_that_of_the_gate():
    gate = calibration_error_interval(SCORES, Y, UNIT, seed=1)
    assert calibration_bins(SCORES, Y).error == pytest.approx(gate.value)


def test_a_histogram_counts_every_row_once():
    counts = score_histogram(SCORES, Y)
    assert counts.sum(axis=0).tolist() == [int((Y == 0).sum()), int(Y.sum())]


class FirstColumn:
    """A model that looks at one input alone."""

    def scores(self, x):
        return x[:, 0].astype(np.float64)

    def seconds(self, x):
        return 1e-6 * len(x)


def test_an_input_that_no_score_depends_on_is_worth_nothing():
    x = np.column_stack([SCORES, RNG.random(len(SCORES))]).astype(np.float32)
    how = {"names": ("first", "second"), "seed": 1, "budget_s": 1}
    lost = permutation_importances(FirstColumn(), x, Y, **how)
    assert lost["first"] > 0.1
    assert lost["second"] == 0.0
    assert permutation_importances(FirstColumn(), x[:50], Y[:50], **how) == {}


def test_the_numbers_of_a_vector_are_worth_what_they_are_together():
    x = np.column_stack([SCORES, SCORES, RNG.random(len(SCORES))]).astype(np.float32)
    names = ("face.v2.1", "face.v2.2", "other")
    lost = permutation_importances(FirstColumn(), x, Y, names=names, seed=1, budget_s=1)
    assert list(lost) == ["face", "other"]
    assert lost["face"] > 0.1
    assert lost["other"] == 0.0
