"""Folds of a model of numbers are held to the mean absolute error, of which less is better."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest
from tests.support.class_model import real_definition

from mlplatform.learning.validation.fold_gate import FoldFinding, judge_folds
from mlplatform.learning.validation.gate_report import GateReport
from mlplatform.learning.validation.measures import Measure
from mlplatform.learning.validation.number_measures import number_measures
from mlplatform.learning.validation.report import to_dict, to_markdown
from mlplatform.learning.validation.statistics import Interval

GATES = msgspec.structs.replace(real_definition().gates, maximum_mae=60.0, mae_loss=0.02)
"""Of a first version 60 EUR or less is wanted; a rise by 2 % of the champion's is overlooked."""


def fold(number: int, value: float, rise: float | None = None) -> FoldFinding:
    """A fold whose error is `value`, and more than the champion's by a share of the latter's."""
    other = gap = None
    if rise is not None:
        whole = value / (1 + rise)
        other = Interval(whole, whole, whole)
        gap = Interval(rise * whole, (rise - 0.01) * whole, (rise + 0.01) * whole)
    own = Interval(value, value - 2, value + 2)
    measures = (Measure("mae", own, other, gap), Measure("rmse", own, other, gap))
    return FoldFinding(
        number,
        0,
        1,
        rows=500,
        positives=500,
        units=60,
        is_unseen=rise is not None,
        measures=measures,
    )


@pytest.mark.parametrize(
    ("values", "rises", "verdict"),
    [
        ((30, 40, 90), (None, None, None), "passed"),
        ((30, 61, 61), (None, None, None), "passed"),  # more than 60, within chance
        ((30, 90, 90), (None, None, None), "failed"),
        ((30, 40, 40), (-0.5, 0.1, -0.5), "passed"),  # half or less prove a rise
        ((30, 40, 40), (0.025, 0.025, 0.025), "passed"),  # a rise, within chance
        ((30, 40, 40), (0.0, 0.1, 0.1), "failed"),
    ],
)
def test_most_folds_may_not_prove_a_rise(
    values: tuple[float, ...], rises: tuple[float | None, ...], verdict: str
) -> None:
    found = [fold(n, v, rise) for n, (v, rise) in enumerate(zip(values, rises, strict=True), 1)]
    is_beside = rises[0] is not None
    gate = judge_folds(found, GATES, has_champion=is_beside, unit="EUR")
    assert (gate.verdict, gate.name) == (verdict, "folds")
    assert gate.reason.startswith(f"mean absolute error 30 to {max(values)} EUR over 3 folds")
    if is_beside:
        assert gate.observed == pytest.approx(max(rise for rise in rises if rise is not None))
        assert gate.limit == 0.02
        assert "A rise beyond +2.0 % is proven in" in gate.reason
    else:
        assert (gate.observed, gate.limit) == (max(values), 60)
        assert "proven to be more than 60 EUR in" in gate.reason


def test_folds_that_the_champion_was_fitted_to_refuse_nothing() -> None:
    found = [replace(fold(number, 40, 0.2), is_unseen=number == 3) for number in (1, 2, 3)]
    gate = judge_folds(found, GATES, has_champion=True, unit="EUR")
    assert (gate.verdict, gate.observed) == ("passed", 40)
    assert "The gate `mae` compares it" in gate.reason


def test_a_fold_of_few_labels_is_no_pass() -> None:
    few = replace(fold(2, 40), rows=99, positives=99)
    gate = judge_folds([fold(1, 40), few], GATES, has_champion=False, unit="EUR")
    assert gate.verdict == "inconclusive"
    assert "only 99 labelled requests (at least 100 wanted)" in gate.reason


def test_each_fold_stands_in_the_report_by_its_error() -> None:
    page = to_markdown(to_dict(GateReport("m", "a", "b", (), folds=(fold(1, 44, 0.1),))))
    assert "### Folds in time: mean absolute error" in page
    assert "44.000 (42.000 to 46.000) on 500 requests" in page
    assert "difference to the champion +4.000 (+3.600 to +4.400)" in page


@pytest.mark.parametrize(("factor", "refused"), [(1.0, 0), (1.25, 40)])
def test_folds_of_equal_fits_are_not_refused_and_those_of_worse_ones_are(
    factor: float, refused: int
) -> None:
    """40 worlds of three folds of 200 customers with two requests: a rise by a quarter is refused
    in all, none in none (by chance in less than 1 of 100)."""
    failed = 0
    for seed in range(40):
        random, found = np.random.default_rng(seed), []
        unit = np.repeat(np.arange(200), 2)
        for number in (1, 2, 3):
            y = random.normal(100, 20, 400)
            own, other = (y + random.normal(0, 10 * f, 400) for f in (factor, 1.0))
            measures = number_measures(own, y, unit, quantile=0.5, seed=1, champion=other)
            found.append(FoldFinding(number, 0, 1, 9, 400, 400, 100, True, measures))
        failed += judge_folds(found, GATES, has_champion=True, unit="EUR").verdict == "failed"
    assert failed == refused
