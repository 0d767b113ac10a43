"""A search of a model of classes or of numbers: what scores are there, and which trial is best."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.support.class_model import class_definition, real_definition
from tests.support.train_libraries import needed
from tests.support.training_rows import payments

from mlplatform.learning.search.context import Context
from mlplatform.learning.search.folds import search_folds
from mlplatform.learning.training_sets.dataset import LabelledRows, TrainingSet
from mlplatform.learning.validation.search_report import SearchReport
from mlplatform.model.definition import ModelDefinition
from mlplatform.model.policies.search import ClassSearch, NumberSearch, SearchParameter
from mlplatform.runtime.errors import InputInvalid

SPACE = {"error": SearchParameter(type="float", low=0.0, high=1.0)}
NUMBER, CLASS = real_definition(), class_definition()
BY_CLASS = ClassSearch(space=SPACE, trials=8, budget_s=600, folds=2)
BY_NUMBER = NumberSearch(space=SPACE, trials=8, budget_s=600, folds=2)


def rows(y: Callable[[NDArray[np.float32]], NDArray[Any]]) -> TrainingSet:
    """Requests whose first input tells the label."""
    built = payments(1, per_day=60)
    x = np.random.default_rng(2).random(built.rows.matrix.x.shape).astype(np.float32)
    return replace(built, rows=LabelledRows(replace(built.rows.matrix, x=x), y(x[:, 0])))


NUMBERS = rows(lambda first: first.astype(np.float64) * 100)
PLACES = rows(lambda first: (first * 3).astype(np.int8))


def number_fit(fitted: LabelledRows, context: Context) -> Callable[..., NDArray[np.float64]]:
    off = 100 * float(context.parameters["error"])
    context.report(0, context.rows[:, 0].astype(np.float64) * 100 + off)
    return lambda x: x[:, 0].astype(np.float64) * 100 + off


def class_fit(fitted: LabelledRows, context: Context) -> Callable[..., NDArray[np.float64]]:
    """Probabilities of 0.9 for the right class, or for the next one in a share of the rows."""
    wrong = float(context.parameters["error"])

    def score(x: NDArray[np.float32]) -> NDArray[np.float64]:
        places = ((x[:, 0] * 3).astype(int) + (x[:, 1] < wrong)) % 3
        return np.where(np.arange(3) == places[:, None], 0.9, 0.05)

    context.report(0, score(context.rows))
    return score


@pytest.fixture
def searching() -> ModuleType:
    needed("optuna")
    from mlplatform.learning.search import search

    return search


def found(
    searching: ModuleType, definition: ModelDefinition, data: TrainingSet, policy: Any, fit: Any
) -> SearchReport:
    folds = search_folds(definition, data, policy)
    asked = searching.Search(
        policy, definition, folds, data.rows.matrix.names, fit, 7, clock_s=lambda: 0.0
    )
    report: SearchReport = searching.search(asked, None)
    return report


def test_numbers_are_searched_by_their_error(searching: ModuleType) -> None:
    data = replace(NUMBERS, rows=replace(NUMBERS.rows, matrix=one_input(NUMBERS)))
    report = found(searching, NUMBER, data, BY_NUMBER, number_fit)
    best = report.best
    complete = [trial for trial in report.trials if trial.state == "complete"]
    assert best.parameters["error"] == min(trial.parameters["error"] for trial in complete)
    assert best.value == pytest.approx(100 * float(best.parameters["error"]), rel=1e-3)


def test_classes_are_searched_by_accuracy_or_by_log_loss(searching: ModuleType) -> None:
    data = replace(PLACES, rows=replace(PLACES.rows, matrix=one_input(PLACES, 2)))
    for policy in (BY_CLASS, ClassSearch(space=SPACE, trials=8, budget_s=600, measure="log_loss")):
        report = found(searching, CLASS, data, policy, class_fit)
        complete = [trial for trial in report.trials if trial.state == "complete"]
        error = float(report.best.parameters["error"])
        assert error == min(trial.parameters["error"] for trial in complete)
        right = -np.log(0.9), -np.log(0.05)
        loss = (1 - error) * right[0] + error * right[1]
        wanted = 1 - error if policy.measure == "accuracy" else loss
        assert report.best.value == pytest.approx(wanted, abs=0.15)


def one_input(data: TrainingSet, count: int = 1) -> Any:
    """The matrix with its first inputs alone."""
    matrix = data.rows.matrix
    return replace(matrix, x=matrix.x[:, :count], names=("a", "b")[:count])


@pytest.mark.parametrize(
    ("definition", "data", "policy", "scores"),
    [
        (CLASS, PLACES, BY_CLASS, lambda x: np.full(len(x), 0.5)),
        (CLASS, PLACES, BY_CLASS, lambda x: np.full((len(x), 3), 2.0)),
        (NUMBER, NUMBERS, BY_NUMBER, lambda x: np.full(len(x), np.nan)),
        (NUMBER, NUMBERS, BY_NUMBER, lambda x: np.zeros((len(x), 1))),
    ],
)
def test_what_are_no_scores_of_the_task_fails_a_trial(
    searching: ModuleType, definition: ModelDefinition, data: TrainingSet, policy: Any, scores: Any
) -> None:
    data = replace(data, rows=replace(data.rows, matrix=one_input(data)))
    with pytest.raises(InputInvalid, match=r"all 8 trials failed; the last one: .*scores of shape"):
        found(searching, definition, data, policy, lambda fitted, context: scores)


def test_a_fold_without_a_class_to_learn_is_refused_with_the_way_out() -> None:
    data = replace(PLACES, rows=replace(PLACES.rows, y=np.minimum(PLACES.rows.y, 1)))
    wanted = "no request of class large to learn from in fold 1 of the search; raise fold_days"
    with pytest.raises(InputInvalid, match=re.escape(wanted)):
        search_folds(CLASS, data, BY_CLASS)
