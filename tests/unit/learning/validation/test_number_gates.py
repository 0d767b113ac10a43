"""Measures of numbers are those of scikit-learn, and a worse version is refused by them."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import mean_absolute_error, mean_pinball_loss, root_mean_squared_error
from tests.support.class_model import real_definition

from mlplatform.learning.validation.gates import (
    DataEvidence,
    ModelEvidence,
    ReplayEvidence,
    SchemaEvidence,
)
from mlplatform.learning.validation.labelled_evidence import LabelledEvidence
from mlplatform.learning.validation.number_gates import judge_numbers
from mlplatform.learning.validation.number_measures import number_measures
from mlplatform.learning.validation.replay_result import ReplayResult
from mlplatform.learning.validation.statistics import Interval
from mlplatform.model.bundle import AlertBand
from mlplatform.model.policies.decision_scale import DecisionScale, Quantity

DEFINITION = real_definition("loss")
ROWS = 4000
UNIT = np.arange(ROWS) // 2
Y = np.random.default_rng(1).gamma(2.0, 100.0, ROWS)


def numbers(error: float, seed: int, bias: float = 0.0) -> NDArray[np.float64]:
    return Y + bias + np.random.default_rng(seed).normal(0, error, ROWS)


def evidence(
    error: float, champion: float | None, *, bias: float = 0.0, labelled: int = ROWS
) -> LabelledEvidence:
    other = None if champion is None else numbers(champion, 3)
    measures = number_measures(
        numbers(error, 2, bias), Y, UNIT, quantile=0.5, seed=0, champion=other
    )
    nothing = Interval(float("nan"), float("nan"), float("nan"))
    return LabelledEvidence(
        model="loss",
        bundle="b" * 64,
        champion=None if champion is None else "c" * 64,
        data=DataEvidence(ROWS + 5000, labelled, {"amount": 0.0}, 10, 10, 10),
        schema=SchemaEvidence(DEFINITION.inputs, None, DEFINITION.inputs),
        running=ModelEvidence(nothing, 0, 0.0, "the fitted model", 0.0, 1e-5, 0.1, 1000),
        replay=ReplayEvidence(
            ROWS, "held-out days", AlertBand(0, 0, 0, ""), 0.0, None if champion is None else 0.1
        ),
        labelled=labelled,
        units=len(np.unique(UNIT)),
        of_class={},
        identifiers=(),
        growing=(),
        measures=measures,
        unseen=measures if champion is not None else (),
    )


def verdicts(found: LabelledEvidence) -> dict[str, str]:
    report = judge_numbers(found, DEFINITION.gates, DEFINITION.training, "EUR")
    return {gate.name: gate.verdict for gate in report.gates if gate.verdict != "passed"}


@pytest.mark.parametrize("quantile", [0.5, 0.9])
def test_measures_are_those_of_scikit_learn_within_their_intervals(quantile: float) -> None:
    own = numbers(30, 2, bias=5)
    found = {m.name: m.candidate for m in number_measures(own, Y, UNIT, quantile=quantile, seed=0)}
    wanted = {
        "mae": mean_absolute_error(Y, own),
        "rmse": root_mean_squared_error(Y, own),
        "bias": float((own - Y).mean()),
        "quantile_loss": mean_pinball_loss(Y, own, alpha=quantile),
    }
    assert {name: interval.value for name, interval in found.items()} == pytest.approx(wanted)
    assert all(i.low < i.value < i.high for i in found.values())
    assert 3.5 < found["bias"].low < found["bias"].high < 6.5


def test_intervals_of_differences_hold_for_nine_in_ten_of_clustered_samples() -> None:
    """90 % intervals by unit cover the true difference of 0, with two alike rows a unit."""
    covered = 0
    for seed in range(60):
        random = np.random.default_rng(seed)
        units = np.repeat(np.arange(300), 2)
        y, shared = np.zeros(600), np.repeat(random.normal(0, 1, (300, 2)), 2, axis=0)
        own, other = shared[:, 0], shared[:, 1]
        mae = number_measures(own, y, units, quantile=0.5, seed=seed, champion=other)[0]
        assert mae.difference is not None
        covered += mae.difference.low <= 0 <= mae.difference.high
    assert 48 <= covered <= 60


def test_no_measure_without_rows_or_with_a_number_that_is_none() -> None:
    nothing = np.zeros(0)
    assert number_measures(nothing, nothing, UNIT[:0], quantile=0.5, seed=0) == ()
    broken = np.where(np.arange(ROWS) == 7, np.nan, Y)
    assert number_measures(broken, Y, UNIT, quantile=0.5, seed=0) == ()


def test_a_good_version_passes_first_and_beside_its_equal() -> None:
    assert verdicts(evidence(30, None)) == {}
    assert verdicts(evidence(30, 30)) == {}
    report = judge_numbers(evidence(30, 30), DEFINITION.gates, DEFINITION.training, "EUR")
    mae = next(gate for gate in report.gates if gate.name == "mae")
    assert "EUR, the champion's" in mae.reason
    assert "which is 5 % of the champion's error" in mae.reason


def test_worse_versions_are_refused_by_name() -> None:
    worse = verdicts(evidence(60, 30))
    assert worse == {"mae": "failed", "rmse": "failed", "quantile_loss": "failed"}
    assert verdicts(evidence(200, None)) == {"mae": "failed"}
    assert verdicts(evidence(10, 60, bias=25)) == {"bias": "failed"}
    assert verdicts(evidence(10, 60, bias=15)) == {}


def test_too_few_labels_prove_nothing() -> None:
    few = verdicts(evidence(30, None, labelled=50))
    assert few == {
        "labelled": "failed",
        **dict.fromkeys(("mae", "rmse", "quantile_loss", "bias"), "inconclusive"),
    }


def test_numbers_move_where_they_lie_further_apart_than_the_tolerance() -> None:
    def answers(shift: float, unit: str = "EUR") -> ReplayResult:
        scale = DecisionScale(("none",), (), number=Quantity(unit, 20.0))
        shifted = np.array([0.0, 0.0, 0.0]) + np.array([0.0, 20.0, 20.1]) * shift
        return ReplayResult(scale, shifted, np.zeros(3, np.int8))

    moved = answers(1.0).changed(answers(0.0))
    assert moved is not None
    assert moved.tolist() == [False, False, True]
    assert answers(1.0).changed(answers(0.0, "USD")) is None, "another unit"
