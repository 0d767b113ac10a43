"""What makes every figure better is found by what it is: the outcome, a name, a clock."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec
import numpy as np
import pytest
from tests.unit.learning.validation.test_gates import GOOD

from mlplatform.learning.training_sets.dataset import LabelledRows
from mlplatform.learning.validation.gates import judge_leakage, judge_quality
from mlplatform.learning.validation.leakage import is_serial_number, leakage_evidence
from mlplatform.learning.validation.statistics import Interval
from mlplatform.model.definition import InputSpec
from mlplatform.model.folders import load_definition
from support.training_rows import payments

FRAUD = load_definition("fraud")
BUILT = payments(5, per_day=1000)
NAMES = BUILT.rows.matrix.names
PLACE = NAMES.index("night")  # an input that these payments do not depend on


def with_input(values: Any) -> Any:
    """The same payments with other values of one input."""
    matrix = BUILT.rows.matrix
    x = matrix.x.copy()
    x[:, PLACE] = values
    rows = LabelledRows(dataclasses.replace(matrix, x=x), BUILT.rows.y)
    return dataclasses.replace(BUILT, rows=rows)


def gate(built: Any, definition: Any = FRAUD) -> Any:
    evidence = leakage_evidence(definition, NAMES, built.fitting.known, built.holdout.known)
    return judge_leakage(evidence, FRAUD.gates)


def test_honest_inputs_pass_and_the_one_that_tells_most_is_named() -> None:
    found = gate(BUILT)
    assert found.verdict == "passed"
    assert "the strongest single input" in found.reason


def leaks() -> dict[str, Any]:
    y, rng = BUILT.rows.y, np.random.default_rng(1)
    count = len(y)
    return {
        "the label": y,
        "the label with noise": y * 5 + rng.normal(size=count) * 0.5,
        "the label, the wrong way round": 1 - y,
        "missing where it was fraud": np.where(y == 1, np.nan, rng.random(count)),
        "a value that only frauds have, among others": np.where(y == 1, 0.5, rng.random(count)),
    }


@pytest.mark.parametrize("name", [*leaks()])
def test_an_input_that_holds_the_outcome_is_found(name: str) -> None:
    found = gate(with_input(leaks()[name]))
    assert found.verdict == "failed"
    assert found.reason.startswith("night, the strongest single input")
    assert "it may hold the outcome" in found.reason


def test_a_number_of_the_payment_a_name_of_the_customer_and_a_clock_are_found() -> None:
    matrix, rng = BUILT.rows.matrix, np.random.default_rng(2)
    numbers = rng.permutation(len(matrix))
    names = rng.permutation(2000)[matrix.unit] * 7.0
    clock = matrix.event_ms / 1e9 + rng.normal(size=len(matrix)) * 1e-3
    for values in (numbers, names):
        found = gate(with_input(values))
        assert (found.verdict, found.observed) == ("failed", None)
        assert "night identifies a row's customer or request" in found.reason
    found = gate(with_input(clock))
    assert found.verdict == "failed"
    assert "night grows with time" in found.reason


def test_a_sum_in_whole_dollars_is_no_number_of_the_payment() -> None:
    rng = np.random.default_rng(3)
    bills = np.round(rng.lognormal(11.0, 1.2, 4000)).astype(np.float32)
    unit = rng.integers(0, 2000, 4000)
    assert len(np.unique(bills)) > 0.95 * len(bills)
    assert not is_serial_number(bills, unit)
    assert is_serial_number(rng.permutation(4000).astype(np.float32), unit)
    assert is_serial_number(rng.choice(10**9, 4000, replace=False).astype(np.float32), unit)


def test_an_entity_of_the_request_is_no_input() -> None:
    inputs = [
        InputSpec(name="night", kind="field", of="customer_id") if i.name == "night" else i
        for i in FRAUD.inputs
    ]
    declared = msgspec.structs.replace(FRAUD, inputs=tuple(inputs))
    assert gate(BUILT, declared).verdict == "failed"


@pytest.mark.parametrize(
    ("unseen", "verdict"),
    [
        (Interval(-0.048, -0.067, -0.032), "failed"),  # 8 trees instead of 150
        (Interval(-0.02, -0.04, -0.009), "passed"),
        (None, "passed"),  # the champion was fitted to all of the days
    ],
)
def test_a_loss_that_is_proven_is_refused_though_it_is_within_what_is_tolerated(
    unseen: Interval | None, verdict: str
) -> None:
    quality = dataclasses.replace(
        GOOD.quality, difference=Interval(-0.048, -0.067, -0.032), unseen=unseen
    )
    found = judge_quality(quality, FRAUD.gates)
    assert found.verdict == verdict
    assert ("The loss is proven" in found.reason) == (verdict == "failed")
