"""What is wrong with a declared search is told by its key, before anything runs."""

from __future__ import annotations

from typing import Any

import pytest
from tests.support.class_model import template
from tests.unit.model.test_definition import changed, refused

from mlplatform.model.folders import parse

KEY = "training.search"
DEPTH = {"type": "int", "low": 2, "high": 8}
RATE = {"type": "float", "low": 0.01, "high": 0.3, "log": True}
GROWTH = {"type": "categorical", "choices": ["depthwise", "lossguide"]}
SEARCH: dict[str, Any] = {
    "space": {"depth": DEPTH, "rate": RATE, "growth": GROWTH},
    "trials": 30,
    "budget_s": 600,
}


def test_a_search_is_read_with_its_defaults() -> None:
    policy = parse(changed(KEY, SEARCH), "model.yaml").training.search
    assert policy is not None
    assert (policy.measure, policy.folds, policy.fold_days, policy.pruning) == (
        *("average_precision", 3, 1, "median"),
    )
    assert policy.space["growth"].choices == ("depthwise", "lossguide")


@pytest.mark.parametrize(
    ("kind", "usual", "measures"),
    [
        ("classes", "accuracy", ("macro_f1", "log_loss", "own")),
        ("real", "mae", ("rmse", "quantile_loss", "own")),
    ],
)
def test_a_search_of_another_task_has_measures_of_its_own(
    kind: str, usual: str, measures: tuple[str, ...]
) -> None:
    def text(more: str = "") -> str:
        search = (
            f"{{space: {{depth: {{type: int, low: 2, high: 8}}}}, trials: 3, budget_s: 9{more}}}"
        )
        return template("sizes", kind).replace(
            "\ntraining:\n", f"\ntraining:\n  search: {search}\n"
        )

    found = parse(text(), "model.yaml").training.search
    assert found is not None
    assert found.measure == usual
    for measure in measures:
        of_own = parse(text(f", measure: {measure}"), "model.yaml").training.search
        assert of_own is not None
        assert of_own.measure == measure
    refused(text(", measure: average_precision"), f"{KEY}.measure", "one of ", usual)


@pytest.mark.parametrize(
    ("parts", "named"),
    [
        ({"trials": 0}, "trials"),
        ({"trials": 1001}, "trials"),
        ({"budget_s": 1200}, "less than training.deadline_s (1200)"),
        ({"folds": 4, "fold_days": 9}, "fold_days"),
        ({"measure": "accuracy"}, "measure"),
        ({"pruning": "hyperband"}, "pruning"),
        ({"space": {}}, "space"),
        ({"space": {"Max-Depth": DEPTH}}, "Max-Depth"),
        ({"seconds": 3}, "seconds is an unknown key"),
    ],
)
def test_what_is_wrong_in_a_search_is_told(parts: dict[str, Any], named: str) -> None:
    refused(changed(KEY, SEARCH | parts), KEY, named)


@pytest.mark.parametrize(
    ("parameter", "key", "wanted"),
    [
        (DEPTH | {"low": 9}, "low", "less than high (8)"),
        (DEPTH | {"low": 2.5}, "low", "a whole number"),
        (DEPTH | {"low": 0, "log": True}, "low", "more than 0, where log is true"),
        (RATE | {"low": 0}, "low", "more than 0, where log is true"),
        (RATE | {"high": float("inf")}, "high", "a finite number"),
        (RATE | {"high": 2**60}, "high", "a number"),
        ({"type": "float", "low": 1}, "high", "a number"),
        (RATE | {"choices": [1, 2]}, "choices", "nothing: a parameter of type float"),
        (GROWTH | {"low": 1}, "low", "nothing: a categorical parameter has choices"),
        (GROWTH | {"log": True}, "log", "nothing: a categorical parameter has choices"),
        (GROWTH | {"choices": ["one"]}, "choices", "2 values or more that differ"),
        (GROWTH | {"choices": [1, 1]}, "choices", "2 values or more that differ"),
        (GROWTH | {"choices": [1, True]}, "choices", "2 values or more that differ"),
        (GROWTH | {"choices": [1.0, float("nan")]}, "choices.1", "a finite number"),
        ({"type": "categorical"}, "choices", "2 values or more that differ"),
        (RATE | {"type": "double"}, "type", "one of float, int, categorical"),
    ],
)
def test_what_is_wrong_in_the_space_is_told(
    parameter: dict[str, Any], key: str, wanted: str
) -> None:
    text = changed(KEY, SEARCH | {"space": {"depth": DEPTH, "tried": parameter}})
    refused(text, f"{KEY}.space.tried.{key}", wanted)
