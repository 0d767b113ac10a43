"""Folds in time: which days they are, when they refuse a candidate, and where they are shown."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from mlplatform.learning.registry.mlflow_runs import batches
from mlplatform.learning.registry.run_record import RunRecord
from mlplatform.learning.validation.fold_gate import FoldFinding, judge_folds
from mlplatform.learning.validation.gate_report import GateReport
from mlplatform.learning.validation.measures import Measure
from mlplatform.learning.validation.report import to_dict, to_markdown
from mlplatform.learning.validation.statistics import Interval
from mlplatform.model.folders import load_definition
from mlplatform.model.folds import Fold, folds, history_days, training_day_ms
from mlplatform.runtime.units import DAY_MS

DEFINITION = load_definition("fraud")
GATES = msgspec.structs.replace(
    DEFINITION.gates, average_precision_loss=0.02, minimum_average_precision=0.3
)


def with_folds(number: int) -> Any:
    """Window of 20 days, of which 6 are held out; labels mature in 3 days."""
    training = msgspec.structs.replace(
        DEFINITION.training, folds=number, window_days=20, holdout_days=6
    )
    label = msgspec.structs.replace(DEFINITION.label, maturity_days=3)
    return msgspec.structs.replace(DEFINITION, training=training, label=label)


def test_folds_are_tested_on_the_last_matured_days_and_fitted_to_what_had_matured_before() -> None:
    now_ms = 100 * DAY_MS + 5
    assert folds(with_folds(1), now_ms) == ()
    assert folds(with_folds(2), now_ms) == (
        Fold(1, 68 * DAY_MS, 91 * DAY_MS, 94 * DAY_MS),
        Fold(2, 71 * DAY_MS, 94 * DAY_MS, 97 * DAY_MS),
    )
    assert history_days(with_folds(1)) == 24
    oldest = folds(with_folds(5), now_ms)[0].from_ms
    assert (100 * DAY_MS - oldest) // DAY_MS + 1 == history_days(with_folds(5))


@pytest.mark.parametrize(
    ("last_ms", "day"),
    [
        (95 * DAY_MS, 99),
        (96 * DAY_MS - 1, 99),
        (96 * DAY_MS, None),
        (100 * DAY_MS, None),
    ],
)
def test_a_history_that_ended_early_is_trained_on_as_of_when_its_last_day_matured(
    last_ms: int, day: int | None
) -> None:
    found = training_day_ms(with_folds(1), last_ms, 100 * DAY_MS + 5)
    assert found == (None if day is None else day * DAY_MS)


def fold(number: int, value: float, gap: float | None = None, half: float = 0.03) -> FoldFinding:
    around = Interval(value, value - half, value + half)
    other = gap_interval = None
    if gap is not None:
        other = Interval(value - gap, value - gap - half, value - gap + half)
        gap_interval = Interval(gap, gap - half, gap + half)
    measure = Measure("average_precision", around, other, gap_interval)
    return FoldFinding(
        number, number * DAY_MS, (number + 1) * DAY_MS, 900, 500, 40, 60, True, (measure,)
    )


def verdict(found: list[FoldFinding], *, has_champion: bool) -> str:
    result = judge_folds(found, GATES, has_champion=has_champion)
    assert result.reason
    return result.verdict


@pytest.mark.parametrize(
    ("gaps", "expected"),
    [
        ([0.0, 0.01, -0.01], "passed"),
        ([-0.1, -0.1, 0.0], "failed"),
        ([-0.1, 0.0, 0.0], "passed"),
        ([-0.04, -0.04, -0.04], "passed"),  # a loss, within chance
        ([-0.1, -0.1, 0.0, 0.0], "passed"),  # half is not most
    ],
)
def test_a_loss_that_most_folds_prove_is_refused(gaps: list[float], expected: str) -> None:
    found = [fold(number, 0.6, gap) for number, gap in enumerate(gaps, 1)]
    assert verdict(found, has_champion=True) == expected


def test_folds_that_the_champion_was_fitted_to_refuse_nothing() -> None:
    found = [replace(fold(number, 0.6, -0.2), is_unseen=number == 3) for number in (1, 2, 3)]
    result = judge_folds(found, GATES, has_champion=True)
    assert result.verdict == "passed"
    assert "The champion can be compared in 1 of these folds" in result.reason


def test_a_first_version_is_held_to_the_least_that_any_may_reach() -> None:
    low, well = fold(1, 0.2), fold(2, 0.5)
    assert verdict([low, low, well], has_champion=False) == "failed"
    result = judge_folds([low, well], GATES, has_champion=False)
    assert (result.verdict, result.observed) == ("passed", 0.2)
    assert "average precision 0.200 to 0.500 over 2 folds in time" in result.reason
    assert "standard deviation 0.212" in result.reason


@pytest.mark.parametrize(
    "bad",
    [
        FoldFinding(2, 0, DAY_MS, problem="requests are known from 2026-01-01 on"),
        replace(fold(2, 0.6), positives=9),
        replace(fold(2, 0.6), measures=()),
        fold(2, math.nan),
    ],
)
def test_a_fold_that_is_not_known_is_no_pass(bad: FoldFinding) -> None:
    assert verdict([fold(1, 0.6), bad], has_champion=False) == "inconclusive"
    assert verdict([], has_champion=True) == "inconclusive"


def test_each_fold_stands_in_the_report() -> None:
    found = (fold(1, 0.6, -0.1), FoldFinding(2, 2 * DAY_MS, 3 * DAY_MS, problem="no requests"))
    page = to_markdown(to_dict(GateReport("m", "a" * 64, "b" * 64, (), folds=found)))
    assert "- 1, 1970-01-02 to 1970-01-02: 0.600 (0.570 to 0.630) on 40 positives of 500" in page
    assert "difference to the champion -0.100 (-0.130 to -0.070)" in page
    assert "- 2, 1970-01-03 to 1970-01-03: no requests" in page


def test_mlflow_is_given_each_fold_as_a_step() -> None:
    record = RunRecord(metrics={"folds": 0.5}, steps=[{"folds/auc": 0.7}, {"folds/auc": 0.8}])
    (batch,) = batches({}, record, now_ms=1)
    told = [(m["key"], m["step"], m["value"]) for m in batch["metrics"]]
    assert told == [("folds", 0, 0.5), ("folds/auc", 1, 0.7), ("folds/auc", 2, 0.8)]
