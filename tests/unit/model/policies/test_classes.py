"""A model.yaml of classes: what it may say, what it may not and why, and how one is chosen."""

from __future__ import annotations

import numpy as np
import pytest
from tests.support.class_model import CLASSES, class_definition, template

from mlplatform.model.findings import DocumentInvalid
from mlplatform.model.folders import load_definition, model_folder, parse
from mlplatform.model.policies.classes import NOT_OF_CLASSES, ClassChoice, ClassProbability
from mlplatform.model.policies.decision_scale import DecisionScale

SCALE = DecisionScale(CLASSES, ("large",), by_class=True)


def refused(text: str) -> str:
    with pytest.raises(DocumentInvalid) as error:
        parse(text, "model.yaml")
    return str(error.value)


def test_the_template_declares_classes_and_no_binary_model_is_one() -> None:
    found = class_definition("sizes")
    assert (found.task, found.classes) == ("classes", CLASSES)
    assert found.decision.scale == DecisionScale(CLASSES, (), by_class=True)
    assert load_definition("fraud").classes == ()


@pytest.mark.parametrize(
    ("key", "line"),
    [
        ("decision.limit", "decision:\n  limit: {alert_share: 0.5, once_per_s: 60, "
         "decisions_per_false_stop: 1000}"),
        ("decision.thresholds", "decision:\n  thresholds: {shares: {usual: 0.5}}"),
        ("decision.hides_outcome", "decision:\n  hides_outcome: [small]"),
        ("training.hidden_outcomes", "training:\n  hidden_outcomes: leave_out"),
        ("training.small_model", "training:\n  small_model: {inputs: 2, bins: 5}"),
        ("gates.segments.average_precision_drop", "gates:\n  segments: {average_precision_drop: "
         "0.1, groups: [{name: large, input: amount, at_least: 9}]}"),
        ("gates.minimum_average_precision", "gates:\n  minimum_average_precision: 0.1"),
        ("label.review", "label:\n  review: {days: 3}"),
    ],
)  # fmt: skip
def test_what_is_of_two_outcomes_is_refused_with_the_reason(key: str, line: str) -> None:
    section = line.split("\n", maxsplit=1)[0]
    said = refused(template("sizes").replace(f"\n{section}\n", f"\n{line}\n", 1))
    assert f"{key} is " in said
    assert f"wanted: nothing, where task is classes: {NOT_OF_CLASSES[key]}" in said


def test_a_tolerance_of_alerts_is_refused_in_each_step() -> None:
    said = refused(template("sizes").replace("{failures: 0.05,", "{failures: 0.05, alerts: 1.0,"))
    assert "rollout.canary.0.tolerance.alerts" in said


@pytest.mark.parametrize(
    ("before", "after", "wanted"),
    [
        ("task: classes", "task: rank", "task is 'rank'; wanted: one of binary, classes, real"),
        ("safe: usual", "safe: huge", "of decision.outcomes (small, usual, large), each once"),
        ("alerts: []", "alerts: [huge]", "of decision.outcomes (small, usual, large), each once"),
        ("top: 3", "top: 6", "a whole number of 5 at most"),
        ("  top: 3", "  top: 4", "at most 3, the number of classes"),
        ("batch_rows: 1024", "batch_rows: 1024\n  runtime: triton", "not triton, where task is"),
    ],
)
def test_what_contradicts_itself_is_refused(before: str, after: str, wanted: str) -> None:
    text = template("sizes")
    assert before in text
    assert wanted in refused(text.replace(before, after, 1))


def test_a_binary_model_has_no_limit_on_accuracy() -> None:
    text = (model_folder("fraud") / "model.yaml").read_text()
    said = refused(text.replace("    recall: 0.05 ", "    accuracy: 0.05\n    recall: 0.05 ", 1))
    assert "rollout.stop.accuracy is 0.05; wanted: nothing, where task is binary" in said


def test_the_most_probable_class_is_chosen_and_of_equals_the_first() -> None:
    choice = ClassChoice(SCALE)
    rows = np.array([[0.2, 0.3, 0.5], [0.4, 0.4, 0.2], [0.0, 1.0, 0.0]])
    assert [choice.outcome(row) for row in rows.tolist()] == ["large", "small", "usual"]
    assert choice.places(rows, rows).tolist() == [2, 0, 1]
    assert choice.alerting(rows, rows).tolist() == [True, False, False]
    assert choice.certainty(rows).tolist() == [0.5, 0.4, 1.0]
    top = choice.top(rows[1].tolist(), 2)
    assert top == (ClassProbability("small", 0.4), ClassProbability("usual", 0.4))


def test_no_rows_are_no_decisions() -> None:
    nothing = np.empty((0, 3))
    assert ClassChoice(SCALE).places(nothing, nothing).shape == (0,)
    assert ClassChoice(SCALE).certainty(nothing).shape == (0,)


def test_a_probability_that_float32_rounds_above_1_counts_as_1() -> None:
    choice, row = ClassChoice(SCALE), (1.0000001, -1e-7, 0.0)
    assert choice.top(row, 1) == (ClassProbability(CLASSES[0], 1.0),)
    assert choice.certainty(np.array([row])).tolist() == [1.0]
    tied = (1.0, 1.0000001, 0.0)
    assert choice.outcome(tied) == choice.top(tied, 1)[0].class_ == CLASSES[0]
    assert choice.places(np.array([tied]), np.zeros((1, 0))).tolist() == [choice.place(tied)] == [0]


def test_keys_that_classes_do_not_have_are_not_offered() -> None:
    told = refused(template("sizes").replace("gates:\n", "gates:\n  fairnes: 1\n", 1))
    assert "gates.fairnes is an unknown key; wanted: one of calibration_error" in told
    assert "fairness" in told
    assert "average_precision" not in told
