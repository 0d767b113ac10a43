"""A model.yaml of numbers: what it may say, what it may not and why, and what it decides."""

from __future__ import annotations

import math

import numpy as np
import pytest
from tests.support.class_model import real_definition, template

from mlplatform.model.findings import DocumentInvalid
from mlplatform.model.folders import load_definition, parse
from mlplatform.model.policies.calibration import UNCHANGED, Calibration, score_map
from mlplatform.model.policies.cut_offs import CutOffs
from mlplatform.model.policies.decision_checks import decision_problems
from mlplatform.model.policies.decision_scale import DecisionScale, Quantity
from mlplatform.model.policies.real import NOT_OF_NUMBERS

EUR = Quantity("EUR", 20.0, 0.0, 100_000.0)
ALONE = DecisionScale(("none",), (), number=EUR)
OUTCOMES = (
    "  outcomes: [usual, high]",
    "  alerts: [high]",
    "  safe: usual",
    "  thresholds: {scores: {high: 500}}",
)


def text() -> str:
    return template("loss", "real")


def without_outcomes() -> str:
    lines = [line for line in text().splitlines() if not line.startswith(OUTCOMES)]
    return "\n".join(lines)


def refused(changed: str) -> str:
    with pytest.raises(DocumentInvalid) as error:
        parse(changed, "model.yaml")
    return str(error.value)


def test_the_template_gives_a_number_and_outcomes_by_it() -> None:
    found = real_definition("loss")
    assert (found.task, found.classes) == ("real", ())
    assert found.decision.scale == DecisionScale(("usual", "high"), ("high",), number=EUR)
    assert found.decision.scale.task == "real"
    assert load_definition("fraud").decision.scale.task == "binary"


def test_a_number_may_be_all_there_is() -> None:
    found = parse(without_outcomes(), "model.yaml")
    assert found.decision.scale == ALONE
    assert ALONE.can_decide
    assert found.decision.safe == "none"


@pytest.mark.parametrize(
    ("key", "line"),
    [
        ("decision.capacity", "decision:\n  capacity: 0.1"),
        ("decision.hides_outcome", "decision:\n  hides_outcome: [high]"),
        ("training.class_weight", "training:\n  class_weight: balanced"),
        ("training.small_model", "training:\n  small_model: {inputs: 2, bins: 5}"),
        ("gates.calibration_error", "gates:\n  calibration_error: 0.1"),
        ("label.review", "label:\n  review: {days: 3}"),
        ("drift.calibration_drift", "drift:\n  calibration_drift: 0.2"),
    ],
)
def test_what_is_of_two_outcomes_is_refused_with_the_reason(key: str, line: str) -> None:
    section = line.split("\n", maxsplit=1)[0]
    found = refused(text().replace(f"\n{section}\n", f"\n{line}\n", 1))
    assert f"{key} is " in found
    assert f"wanted: nothing, where task is real: {NOT_OF_NUMBERS[key]}" in found


@pytest.mark.parametrize(
    ("before", "after", "wanted"),
    [
        ("{high: 500}", "{high: 200000}", "more than 0 and at most 100000, decision"),
        ("{scores: {high: 500}}", "{shares: {high: 0.1}}", "thresholds.scores says"),
        ("{scores: {high: 500}}", "{}", "decision.thresholds.scores is []; wanted: each of high"),
        ("alerts: [high]", "alerts: [usual]", "the last of usual, high, in this order"),
        ("safe: usual ", "safe: low ", "of decision.outcomes (usual, high), each once"),
        ("minimum: 0, maximum: 100000, t", "minimum: 7, maximum: 6, t", "less than maximum"),
        ("unit: EUR, ", "", "decision.number.unit is missing"),
        ("tolerance: 20}", "tolerance: 0}", "decision.number.tolerance"),
        ("batch_rows: 1024", "batch_rows: 1024\n  runtime: triton", "not triton, where task is"),
    ],
)  # fmt: skip
def test_what_contradicts_itself_is_refused(before: str, after: str, wanted: str) -> None:
    assert before in text()
    assert wanted in refused(text().replace(before, after, 1))


def test_everything_that_is_wrong_is_reported_at_once() -> None:
    changed = text().replace("maximum_mae: 60", "maximum_mae: -1")
    changed = changed.replace("tolerance: 20", "toleranse: 20")
    changed = changed.replace("    error: 0.05", "    accuracy: 0.05\n    error: 0.05")
    found = refused(changed)
    for key in ("gates.maximum_mae", "decision.number.toleranse", "rollout.stop.accuracy"):
        assert key in found


def test_numbers_are_held_to_the_range_and_decided_by_thresholds() -> None:
    scale = DecisionScale(("usual", "high"), ("high",), number=EUR)
    one, many = score_map(scale, UNCHANGED)
    raw = np.array([-5.0, 499.9, 500.0, 1e9])
    assert many(raw).tolist() == [0.0, 499.9, 500.0, 100_000.0] == [one(v) for v in raw.tolist()]
    cut = CutOffs(scale, {"high": 500.0})
    assert cut.places(many(raw), raw[:, None]).tolist() == [0, 0, 1, 1]
    assert CutOffs(ALONE, {}).outcome(1e9, ()) == "none"
    assert not CutOffs(ALONE, {}).alerting(raw, raw[:, None]).any()
    with pytest.raises(ValueError, match="nan"):
        one(math.nan)
    assert np.isnan(many(np.array([math.inf, math.nan]))).all()


def test_labels_are_finite_and_within_the_range() -> None:
    numbers = np.array([0.0, 100_000.0, -0.1, 100_000.1, math.nan, math.inf])
    assert EUR.admits(numbers).tolist() == [True, True, False, False, False, False]
    assert Quantity("days", 1.0).admits(numbers).tolist() == [True] * 4 + [False] * 2
    assert EUR.span == "0 or more and 100000 or less"


@pytest.mark.parametrize(
    ("scale", "calibration", "thresholds"),
    [
        (ALONE, UNCHANGED, {"none": 1.0}),
        (ALONE, Calibration(x=(0.0, 1.0), y=(0.0, 0.5)), {}),
        (DecisionScale(("low", "high"), (), number=EUR), UNCHANGED, {}),
        (DecisionScale(("low", "high"), (), number=EUR), UNCHANGED, {"high": math.nan}),
        (DecisionScale(("none",), (), number=Quantity("EUR", 1.0, 2.0, 1.0)), UNCHANGED, {}),
    ],
)
def test_a_bundle_whose_number_decides_otherwise_is_refused(
    scale: DecisionScale, calibration: Calibration, thresholds: dict[str, float]
) -> None:
    assert any(decision_problems(scale, calibration, thresholds).values())
    assert not any(decision_problems(ALONE, UNCHANGED, {}).values())
