"""Errors by protected group: what is proven, what is shown, and what a sample can't show."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from mlplatform.learning.fairness.errors import (
    MeasuredRows,
    group_measures,
    judge_group_errors,
)
from mlplatform.learning.validation.gate_report import GateReport
from mlplatform.learning.validation.gate_result import GateResult
from mlplatform.learning.validation.group_findings import GroupMeasures, MeasuredGroup
from mlplatform.learning.validation.report import to_dict, to_markdown
from mlplatform.model.policies.segments import ClassFairness, FairnessPolicy, NumberFairness

EACH = 4
VALUES = {"sex": ("female", "male")}
REFERENCE = {"sex": "female"}
BY_ACCURACY = ClassFairness(accuracy_difference=0.05, reference=REFERENCE)
BY_MAE = NumberFairness(mae_ratio=1.25, reference=REFERENCE)
BY_BIAS = NumberFairness(bias_difference=2.0, reference=REFERENCE)
POLICIES: dict[str, FairnessPolicy] = {"accuracy": BY_ACCURACY, "mae": BY_MAE, "bias": BY_BIAS}
LIMIT = {"accuracy": 0.05, "mae": 0.25, "bias": 2.0}

Floats = NDArray[Any]


def drawn(
    measure: str, worse: float, *, customers: int = 4000, seed: int = 1
) -> tuple[MeasuredRows, Floats]:
    """Rows of two groups of equal size; customers differ, and males are treated worse by so much:
    accuracy less, error by so large a share larger, or bias in the unit more."""
    random = np.random.default_rng(seed)
    group = np.arange(customers) % 2
    unit = np.repeat(np.arange(customers), EACH)
    if measure == "accuracy":
        chance = np.where(group == 1, 0.85 - worse, 0.85)
        chance = random.beta(chance / 0.3, (1 - chance) / 0.3)
        right = (random.random(len(unit)) < chance[unit]).astype(np.float64)
        return MeasuredRows({"accuracy": right}, None, unit), group[unit]
    size = 10 * random.lognormal(-0.125, 0.5, customers)
    if measure == "mae":
        size = size * np.where(group == 1, 1 + worse, 1.0)
    errors = random.normal(0, 1, len(unit)) * size[unit]
    if measure == "bias":
        errors = errors + worse * group[unit]
    return MeasuredRows({"mae": np.abs(errors), "bias": errors}, None, unit), group[unit]


def measured(
    rows: MeasuredRows, group: Floats, policy: FairnessPolicy | None
) -> tuple[GroupMeasures, MeasuredGroup, MeasuredGroup]:
    unit = "EUR" if "mae" in rows.own else ""
    found = group_measures(rows, {"sex": group}, VALUES, policy=policy, unit=unit, seed=1)
    female, male = found.attributes[0].groups
    return found, female, male


def judged(rows: MeasuredRows, group: Floats, policy: FairnessPolicy) -> GateResult:
    found = measured(rows, group, policy)[0]
    gate = judge_group_errors(found, policy, found.unit)
    assert gate is not None
    return gate


def test_means_and_comparisons_are_those_of_the_rows() -> None:
    rows, group = drawn("mae", 0.5)
    found, female, male = measured(rows, group, BY_MAE)
    own, other = (rows.own["mae"][group == place].mean() for place in (1, 0))
    assert [m.name for m in male.measures] == ["mae", "bias"]
    assert male.measures[0].candidate.value == pytest.approx(own)
    assert male.compared["mae_ratio"].value == pytest.approx(own / other)
    moved = rows.own["bias"][group == 1].mean() - rows.own["bias"][group == 0].mean()
    assert male.compared["bias_difference"].value == pytest.approx(moved)
    assert (female.compared, female.rows, female.units) == ({}, 8000, 2000)
    assert found.rows == 16_000
    assert found.level == pytest.approx(0.9)
    assert all(m.candidate.low < m.candidate.value < m.candidate.high for m in male.measures)


@pytest.mark.parametrize("measure", ["accuracy", "mae", "bias"])
@pytest.mark.parametrize(
    ("share", "customers", "refuses", "tells"),
    [
        pytest.param(2.0, 4000, "failed", "failed", id="twice the limit is proven"),
        pytest.param(0.0, 4000, "passed", "passed", id="alike is shown"),
        pytest.param(0.0, 80, "inconclusive", "passed", id="a sample too small for it"),
        pytest.param(9.0, 50, "inconclusive", "passed", id="25 of a group show nothing"),
    ],
)
def test_harm_fails_where_it_is_proven_and_a_small_sample_is_never_a_silent_pass(
    measure: str, share: float, customers: int, refuses: str, tells: str
) -> None:
    policy = POLICIES[measure]
    worse = min(share * LIMIT[measure], 0.8) if measure == "accuracy" else share * LIMIT[measure]
    rows, group = drawn(measure, worse, customers=customers)
    strict = judged(rows, group, policy)
    telling = judged(rows, group, msgspec.structs.replace(policy, not_shown="tell"))
    assert (strict.name, strict.verdict, telling.verdict) == ("fairness", refuses, tells)
    assert ("not shown" in telling.reason) == (refuses == "inconclusive")
    assert "sex male" in strict.reason
    assert "of female" in strict.reason


def test_reasons_have_the_measure_the_unit_and_what_is_allowed() -> None:
    told = judged(*drawn("accuracy", 0.1), BY_ACCURACY).reason
    assert told.startswith("accuracy of sex male: -0.09")
    assert ", -0.05 or more allowed, on 8,000 requests" in told
    told = judged(*drawn("mae", 0.5), BY_MAE).reason
    assert told.startswith("mean absolute error of sex male: 1.5")
    assert "times that of female (interval 1.4" in told
    assert ", at most 1.25 allowed" in told
    told = judged(*drawn("bias", 6.0), BY_BIAS).reason
    assert told.startswith("bias of sex male, in EUR: +")
    assert ", -2 to +2 allowed" in told


def test_a_bias_to_either_side_is_harm_and_a_better_group_is_none() -> None:
    assert judged(*drawn("bias", -6.0), BY_BIAS).verdict == "failed"
    assert judged(*drawn("accuracy", -0.1), BY_ACCURACY).verdict == "passed"
    assert judged(*drawn("mae", -0.5), BY_MAE).verdict == "passed"


def test_of_two_limits_the_one_that_is_broken_refuses() -> None:
    both = NumberFairness(mae_ratio=1.25, bias_difference=50.0, reference=REFERENCE)
    rows, group = drawn("mae", 0.5)
    assert measured(rows, group, both)[0].level == pytest.approx(0.95)
    gate = judged(rows, group, both)
    assert (gate.verdict, gate.limit) == ("failed", 1.25)


def test_numbers_beside_a_group_without_errors_are_no_pass() -> None:
    rows, group = drawn("mae", 0.0)
    exact = {name: np.where(group == 0, 0.0, found) for name, found in rows.own.items()}
    gate = judged(MeasuredRows(exact, None, rows.unit), group, BY_MAE)
    assert gate.verdict == "inconclusive"
    missing = {name: found * math.nan for name, found in rows.own.items()}
    gate = judged(MeasuredRows(missing, None, rows.unit), group, BY_MAE)
    assert (gate.verdict, gate.observed) == ("inconclusive", None)


def test_without_groups_or_labels_nothing_is_shown_and_without_a_limit_there_is_no_gate() -> None:
    rows, group = drawn("accuracy", 0.0)
    assert judge_group_errors(measured(rows, group, None)[0], None) is None
    unknown = group_measures(
        rows, {"sex": np.full_like(group, -1)}, VALUES, policy=BY_ACCURACY, seed=1
    )
    for nothing in (None, unknown):
        gate = judge_group_errors(nothing, BY_ACCURACY)
        assert gate is not None
        assert gate.verdict == "inconclusive"
        assert "no request of a second group is known" in gate.reason


def test_the_champion_stands_beside_each_group_on_the_same_rows() -> None:
    rows, group = drawn("accuracy", 0.0)
    random = np.random.default_rng(2)
    spoiled = np.where((group == 1) & (random.random(len(group)) < 0.3), 0.0, rows.own["accuracy"])
    beside = MeasuredRows({"accuracy": spoiled}, rows.own, rows.unit)
    found, female, male = measured(beside, group, BY_ACCURACY)
    (of_female,), (of_male,) = female.measures, male.measures
    assert of_female.difference is not None
    assert of_male.difference is not None
    assert (of_female.difference.value, of_female.difference.low < 0) == (0.0, True)
    assert of_male.difference.high < -0.2
    page = to_markdown(to_dict(GateReport("m", "a", "b", (), group_measures=found)))
    assert "### Protected attributes: errors by group" in page
    assert "- sex female, 8,000 requests of 2,000 customers: accuracy 0.8" in page
    assert "; the reference" in page
    assert "difference to the champion -0.2" in page
    assert "; accuracy beside that of female -0.2" in page


@pytest.mark.parametrize("measure", ["accuracy", "mae", "bias"])
def test_a_group_at_its_limit_passes_and_fails_no_more_often_than_the_gate_may_err(
    measure: str,
) -> None:
    """100 worlds of 300 customers at the limit: 5 % may fail, and 5 % pass. More than 10 of either
    have a chance of 1.1 %."""
    verdicts = [
        judged(*drawn(measure, LIMIT[measure], customers=300, seed=seed), POLICIES[measure]).verdict
        for seed in range(100)
    ]
    assert verdicts.count("failed") <= 10
    assert verdicts.count("passed") <= 10
