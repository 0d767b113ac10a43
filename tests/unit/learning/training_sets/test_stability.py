"""The stability of inputs over the days of a training set names the one that moved."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import msgspec
import numpy as np
import pytest

from mlplatform.learning.training_sets.dataset import TrainingSet
from mlplatform.learning.training_sets.moved_inputs import STRETCHES, stability
from mlplatform.learning.training_sets.stability import Stability
from mlplatform.learning.validation.feature_gates import judge_stability
from mlplatform.model.definition import InputSpec
from support.training_rows import DEFINITION, NAMES, payments


def moved(data: TrainingSet, name: str, change: Any) -> TrainingSet:
    """The data with this input changed on the last two fifths of its rows."""
    matrix = data.rows.matrix
    x = matrix.x.copy()
    later = slice(len(x) * 3 // 5, None)
    x[later, NAMES.index(name)] = change(x[later, NAMES.index(name)])
    changed = dataclasses.replace(matrix, x=x)
    return dataclasses.replace(data, rows=dataclasses.replace(data.rows, matrix=changed))


@pytest.mark.parametrize(
    ("change", "least"),
    [(lambda v: 3 * v, 0.25), (lambda v: np.full_like(v, np.nan), 1.0)],
    ids=["other values", "no value at all"],
)
def test_an_input_that_moved_has_the_largest_index_and_others_have_hardly_any(
    change: Any, least: float
) -> None:
    data = payments(2, per_day=500)
    calm = stability(data, DEFINITION.inputs)
    assert max(calm.largest.values()) < 0.03
    found = stability(moved(data, "amount", change), DEFINITION.inputs)
    assert next(iter(found.largest)) == "amount"
    assert found.largest["amount"] > least
    assert len(found.from_ms) == STRETCHES
    before, *_, last = found.indices["amount"]
    assert before < 0.03 < least < last
    other = "terminal_count_7d"
    assert found.largest[other] == calm.largest[other]
    assert not {"hour", "weekend"} & set(calm.largest)


def test_the_index_is_that_of_its_definition() -> None:
    """Half of the rows in each of two values, then three quarters in one."""
    data = payments(2, per_day=400)
    matrix = data.rows.matrix
    x = np.zeros_like(matrix.x)
    even = np.arange(len(x))
    first = matrix.event_ms < data.window.from_ms + (data.window.to_ms - data.window.from_ms) // 5
    x[:, 0] = np.where(first, even % 2, even % 4 == 0)
    rows = dataclasses.replace(data.rows, matrix=dataclasses.replace(matrix, x=x))
    found = stability(dataclasses.replace(data, rows=rows), DEFINITION.inputs[:1])
    expected = 0.25 * math.log(0.75 / 0.5) - 0.25 * math.log(0.25 / 0.5)
    assert found.indices[NAMES[0]][-1] == pytest.approx(expected, abs=0.01)


def test_a_gate_tells_what_moved_and_refuses_beyond_a_limit_alone() -> None:
    found = Stability((0, 86_400_000), {"amount": (0.3,), "hour": (0.01,)})
    gates = DEFINITION.gates
    report = judge_stability(found, gates)
    assert (report.verdict, report.observed, report.limit) == ("passed", 0.3, None)
    assert report.reason.endswith(
        "amount 0.300, hour 0.010 (no limit: gates.stability_index sets none, so it is reported"
        " only)"
    )
    for limit, verdict in ((0.2, "failed"), (0.4, "passed")):
        limited = msgspec.structs.replace(gates, stability_index=limit)
        judged = judge_stability(found, limited)
        assert judged.verdict == verdict
        assert judged.reason.endswith(f"hour 0.010 (at most {limit} allowed)")
    nothing = Stability((), {})
    limited = msgspec.structs.replace(gates, stability_index=0.2)
    assert judge_stability(nothing, gates).verdict == "passed"
    assert judge_stability(nothing, limited).verdict == "inconclusive"


def test_vectors_texts_and_inputs_without_any_value_are_left_out() -> None:
    data = payments(2, per_day=100)
    empty = dataclasses.replace(data.rows.matrix, x=np.full_like(data.rows.matrix.x, np.nan))
    rows = dataclasses.replace(data.rows, matrix=empty)
    assert stability(dataclasses.replace(data, rows=rows), DEFINITION.inputs).indices == {}
    vector = InputSpec(name="amount", kind="vector", of="amount")
    assert stability(data, (vector,)).indices == {}
