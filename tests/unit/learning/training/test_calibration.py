"""Raw scores become probabilities that mean what they say, and thresholds that keep their share."""

import msgspec
import numpy as np
import pytest

from mlplatform.learning.training.calibration import KnownScores, fit_calibration, fit_thresholds
from mlplatform.learning.validation.statistics import calibration_error_interval
from mlplatform.model.folders import load_definition
from mlplatform.model.policies.cut_offs import CutOffs
from mlplatform.model.policies.decision_scale import EARLIER, ThresholdPolicy
from mlplatform.runtime.errors import InputInvalid

FRAUD = load_definition("fraud").decision


def drawn(rows, seed, slope=2.0, shift=-3.0):
    """Raw scores and labels whose true log odds are a line of the raw score's log odds."""
    rng = np.random.default_rng(seed)
    odds = rng.normal(-1.0, 1.5, rows)
    probability = 1 / (1 + np.exp(-(slope * odds + shift)))
    return 1 / (1 + np.exp(-odds)), probability, (rng.random(rows) < probability).astype(np.int8)


def calibration_error(scores, y):
    return calibration_error_interval(scores, y, np.arange(len(y)) % 500, seed=1).value


def test_the_table_finds_the_line_that_made_the_labels():
    raw, probability, y = drawn(200_000, seed=1)
    table = fit_calibration(raw, y)
    assert np.abs(table.probabilities(raw) - probability).max() < 0.03
    assert table.probabilities(raw).mean() == pytest.approx(y.mean(), rel=0.005)


def test_calibrated_scores_have_a_small_error_on_other_rows():
    raw, _, y = drawn(50_000, seed=2)
    other, _, labels = drawn(50_000, seed=3)
    table = fit_calibration(raw, y)
    assert calibration_error(table.probabilities(other), labels) < 0.004
    assert calibration_error(other, labels) > 0.1


def test_scores_twice_too_high_have_the_error_of_the_difference():
    _, probability, y = drawn(300_000, seed=4, slope=0.5, shift=-4.0)
    error = calibration_error(np.minimum(1.0, 2 * probability), y)
    assert error == pytest.approx(float(y.mean()), rel=0.1)


def test_the_table_rises_over_the_whole_range():
    raw, _, y = drawn(5_000, seed=5)
    table = fit_calibration(raw, y)
    assert (np.diff(table.x) > 0).all()
    assert (np.diff(table.y) >= 0).all()
    assert table.x[0] == 0
    assert table.x[-1] == 1


def test_frauds_that_all_score_above_the_rest_still_have_a_table():
    raw = np.concatenate([np.full(990, 0.01), np.full(10, 0.99)])
    y = np.concatenate([np.zeros(990), np.ones(10)]).astype(np.int8)
    low, high = fit_calibration(raw, y).probabilities(np.array([0.01, 0.99]))
    assert low < 0.01
    assert high > 0.9


def test_a_model_that_ranks_the_wrong_way_gets_a_table_that_tells_nothing():
    raw, _, y = drawn(20_000, seed=6, slope=-2.0)
    values = fit_calibration(raw, y).probabilities(np.array([0.01, 0.99]))
    assert values[1] - values[0] < 0.01


@pytest.mark.parametrize(
    ("raw", "y", "named"),
    [
        ([0.1, 0.2], [0, 0], "0 positives"),
        ([0.1, 0.2], [1, 1], "2 positives"),
        ([0.1, 1.2], [0, 1], "outside"),
        ([0.1, float("nan")], [0, 1], "outside"),
    ],
)
def test_what_cannot_be_calibrated_is_refused(raw, y, named):
    with pytest.raises(InputInvalid, match=named):
        fit_calibration(np.array(raw), np.array(y, np.int8))


def decided(scores, **shares):
    policy = msgspec.structs.replace(FRAUD, thresholds=ThresholdPolicy(shares=shares))
    known = KnownScores(scores[:0], np.zeros(0, np.int8))
    thresholds = fit_thresholds(policy.thresholds, policy.outcomes, scores, known)
    return CutOffs(EARLIER, thresholds).places(scores, scores[:, None])


def test_thresholds_keep_their_shares():
    scores = np.random.default_rng(7).random(10_000)
    decisions = decided(scores, review=0.01, decline=0.003)
    assert (decisions == 2).sum() == 30
    assert (decisions == 1).sum() == 100


def test_ties_never_push_a_share_over_its_limit():
    scores = np.repeat([0.1, 0.5, 0.9], [900, 90, 10])
    decisions = decided(scores, review=0.05, decline=0.005).tolist()
    assert (decisions.count(2), decisions.count(1)) == (0, 10)


def test_a_raw_score_that_float32_rounds_beyond_an_end_counts_as_the_end():
    raw, _, y = drawn(5_000, seed=4)
    beyond = np.where(raw > 0.9, 1.0000001, np.where(raw < 0.01, -1e-7, raw))
    table = fit_calibration(beyond, y)
    assert table == fit_calibration(np.clip(beyond, 0, 1), y)
    assert table.probability(1.0000001) == table.probability(1.0)
    assert table.probabilities(np.array([-1e-7]))[0] == table.probability(0.0)


def test_a_raw_score_that_is_no_probability_is_refused():
    raw, _, y = drawn(500, seed=4)
    with pytest.raises(InputInvalid, match=r"outside 0 to 1: .* to 1\.5"):
        fit_calibration(np.where(raw == raw.max(), 1.5, raw), y)
