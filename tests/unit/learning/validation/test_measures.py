"""The measures of a binary model are the field's own, on the champion's rows, by unit."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ks_2samp
from sklearn import metrics

from mlplatform.learning.validation.measures import NAMES, binary_measures

Rows = tuple[np.ndarray, np.ndarray, np.ndarray]


def drawn(seed: int, *, units: int = 300, each: int = 4, digits: int = 6) -> Rows:
    """Scores, labels and units; one unit's labels are alike."""
    random = np.random.default_rng(seed)
    unit = np.repeat(np.arange(units), each)
    chance = random.beta(0.5, 1.5, units)[unit]
    y = (random.random(len(unit)) < chance).astype(np.int8)
    scores = 1 / (1 + np.exp(-(1.5 * y - 1 + random.normal(0, 1, len(unit)))))
    return np.round(scores, digits), y, unit


@pytest.mark.parametrize("is_reversed", [False, True], ids=["good", "worse than guessing"])
@pytest.mark.parametrize("digits", [1, 6], ids=["ties", "no ties"])
def test_each_measure_is_that_of_scikit_learn_or_scipy(digits: int, is_reversed: bool) -> None:
    scores, y, unit = drawn(1, digits=digits)
    scores = np.clip(1 - scores if is_reversed else scores, 0.01, 0.99)
    found = {m.name: m.candidate.value for m in binary_measures(scores, y, unit, seed=1)}
    area = metrics.roc_auc_score(y, scores)
    assert list(found) == list(NAMES)
    assert found == pytest.approx(
        {
            "average_precision": metrics.average_precision_score(y, scores),
            "auc": area,
            "gini": 2 * area - 1,
            "ks": ks_2samp(scores[y == 1], scores[y == 0]).statistic,
            "brier": metrics.brier_score_loss(y, scores),
            "log_loss": metrics.log_loss(y, scores),
        }
    )


def test_a_champion_is_measured_on_the_same_draws() -> None:
    """Equal scores differ by nothing but one more customer; worse ones are proven to be worse."""
    scores, y, unit = drawn(2)
    for same in binary_measures(scores, y, unit, seed=1, champion=scores):
        assert same.difference is not None
        low, high = same.difference.low, same.difference.high
        assert same.difference.value == 0
        assert -0.1 < low < 0 < high == pytest.approx(-low)
    shuffled = np.random.default_rng(1).permutation(scores)
    found = {m.name: m for m in binary_measures(scores, y, unit, seed=1, champion=shuffled)}
    assert found["auc"].difference is not None
    assert found["brier"].difference is not None
    assert found["auc"].difference.low > 0
    assert found["brier"].difference.high < 0


def test_intervals_count_units_and_not_rows() -> None:
    """Four copies of each row say no more than one."""
    scores, y, unit = drawn(3, units=400, each=1)
    once = binary_measures(scores, y, unit, seed=1)
    copied = binary_measures(np.repeat(scores, 4), np.repeat(y, 4), np.repeat(unit, 4), seed=1)
    for one, four in zip(once, copied, strict=True):
        width = one.candidate.high - one.candidate.low
        assert four.candidate.high - four.candidate.low == pytest.approx(width, rel=0.05)


def test_nothing_is_measured_without_rows_or_with_a_missing_score() -> None:
    scores, y, unit = drawn(4)
    assert binary_measures(scores[:0], y[:0], unit[:0], seed=1) == ()
    assert binary_measures(np.where(unit == 0, np.nan, scores), y, unit, seed=1) == ()
    one_kind = {m.name: m.candidate for m in binary_measures(scores, 0 * y, unit, seed=1)}
    assert np.isnan([one_kind[name].value for name in ("average_precision", "auc", "ks")]).all()
    assert one_kind["brier"].low < one_kind["brier"].value < one_kind["brier"].high
