"""Folds of a model of classes are held to accuracy, by the gate that holds others to precision."""

from __future__ import annotations

import pytest
from tests.support.class_model import class_definition

from mlplatform.learning.validation.fold_gate import FoldFinding, judge_folds
from mlplatform.learning.validation.measures import Measure
from mlplatform.learning.validation.statistics import Interval

GATES = class_definition().gates
"""Of a first version 0.4 or more is wanted; a loss beyond 0.01 is overlooked."""


def fold(number: int, value: float, lost: float | None = None) -> FoldFinding:
    gap = None if lost is None else Interval(-lost, -lost - 0.005, -lost + 0.005)
    own = Interval(value, value - 0.02, value + 0.02)
    measure = Measure("accuracy", own, own if gap else None, gap)
    return FoldFinding(
        number,
        0,
        1,
        rows=500,
        positives=500,
        units=60,
        is_unseen=lost is not None,
        measures=(measure,),
    )


@pytest.mark.parametrize(
    ("values", "lost", "verdict"),
    [
        ((0.8, 0.7, 0.2), (None, None, None), "passed"),
        ((0.8, 0.2, 0.2), (None, None, None), "failed"),
        ((0.8, 0.7, 0.7), (0.0, 0.1, 0.0), "passed"),
        ((0.8, 0.7, 0.7), (0.0, 0.1, 0.1), "failed"),
    ],
)
def test_most_folds_may_not_prove_a_loss(
    values: tuple[float, ...], lost: tuple[float | None, ...], verdict: str
) -> None:
    found = [fold(n, v, gap) for n, (v, gap) in enumerate(zip(values, lost, strict=True), 1)]
    gate = judge_folds(found, GATES, has_champion=lost[0] is not None)
    assert (gate.verdict, gate.name) == (verdict, "folds")
    assert gate.reason.startswith(f"accuracy {min(values):.3f} to 0.800 over 3 folds")
