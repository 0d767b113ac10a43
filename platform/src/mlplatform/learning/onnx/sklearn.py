"""Models of scikit-learn for training: raw scores or numbers, and the same as ONNX."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mlplatform.learning.onnx.sklearn_trees import round_thresholds, route_missing_values
from mlplatform.model.bundle import INPUT_NAME, OUTPUT_NAME
from mlplatform.runtime.errors import ConfigUnusable, InputInvalid

OPSET: Final = {"": 17, "ai.onnx.ml": 3}
GRAPH: Final = "model"
MOST_CHARACTERS: Final = 300
"""Most characters of a library's error in a message."""
COMPOSED: Final = {"Voting": "mean", "Stacking": "stacked"}
"""First word of an ensemble's name → the function of `learning/onnx/compose.py` in its place."""


@dataclass(frozen=True, slots=True)
class FittedClassifier:
    """A fitted classifier of two classes, whose score is the second one's probability, 0-1; or of
    several, whose scores are all their probabilities.

    Args:
        classes: number of classes whose probabilities are scores; 0: two classes, of which the
            second one's probability is the score.
    """

    classifier: Any
    inputs: int
    classes: int = 0

    @property
    def kind(self) -> str:
        """The classifier's name in scikit-learn; of a pipeline its last step's."""
        return type(_last_step(self.classifier)).__name__

    def scores(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """One raw score a row [n], or probabilities [n, classes]."""
        with one_thread(), _missing_values(self.classifier):
            result: NDArray[np.float64] = self.classifier.predict_proba(x)
        return result if self.classes else result[:, 1]

    @property
    def parameters(self) -> Mapping[str, Any]:
        """The classifier's parameters, by scikit-learn's names."""
        parameters: Mapping[str, Any] = self.classifier.get_params()
        return parameters

    def onnx(self) -> bytes:
        """The model with input "inputs" float32 [n, F] and output "scores" float32 [n], or
        [n, classes]."""
        column = None if self.classes else 1
        return _export(self.classifier, self.inputs, "probabilities", column, self.classes)


@dataclass(frozen=True, slots=True)
class FittedRegressor:
    """A fitted regressor, whose score is its number."""

    regressor: Any
    inputs: int

    @property
    def kind(self) -> str:
        """The regressor's name in scikit-learn; of a pipeline its last step's."""
        return type(_last_step(self.regressor)).__name__

    def scores(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """One number a row [n]."""
        with one_thread(), _missing_values(self.regressor):
            result: NDArray[np.float64] = np.asarray(self.regressor.predict(x), np.float64)
        return result.reshape(len(x))

    @property
    def parameters(self) -> Mapping[str, Any]:
        """The regressor's parameters, by scikit-learn's names."""
        parameters: Mapping[str, Any] = self.regressor.get_params()
        return parameters

    def onnx(self) -> bytes:
        """The model with input "inputs" float32 [n, F] and output "scores" float32 [n]."""
        return _export(self.regressor, self.inputs, "variable", 0)


def fitted_regressor(
    regressor: Any,
    x: NDArray[np.float32],
    y: NDArray[np.float64],
    weights: NDArray[np.float64] | None = None,
) -> FittedRegressor:
    """The regressor, fitted on one thread, whose ONNX form gives the numbers of float32 rows as it
    does.

    Args:
        regressor: a regressor, or a pipeline that ends with one, that is not fitted yet and that
            skl2onnx can convert.
        y: labels, in the model's unit.
        weights: weight of each row, for a pipeline's last step; None means that all rows count
            equally.

    Raises:
        ConfigInvalid: for the same reasons as in `fitted`.
    """
    _fit(regressor, x, y, weights)
    return FittedRegressor(regressor, x.shape[1])


def fitted(
    classifier: Any,
    x: NDArray[np.float32],
    y: NDArray[np.int8],
    weights: NDArray[np.float64] | None = None,
    *,
    classes: int = 0,
) -> FittedClassifier:
    """The classifier or pipeline, fitted on one thread, whose ONNX form scores float32 rows as it
    does.

    An input without any value (a token place that no text reaches) is fitted as a constant 0:
    scikit-learn 1.9 fails without values, and no split reads a constant.

    Args:
        classifier: a classifier, or a pipeline that ends with one, that is not fitted yet and that
            skl2onnx can convert.
        weights: weight of each row, for a pipeline's last step; None means that all rows count
            equally.
        classes: number of classes, if `y` holds their positions, from 0; 0 if the labels are 0 and
            1.

    Raises:
        InputInvalid: a class has no row.
        ConfigInvalid: the estimator takes no weights or no missing values, gives no probabilities,
            or has no ONNX form that scores alike; the message names it and the way out.
    """
    check_classes(y, classes)
    _fit(classifier, x, y, weights)
    if not hasattr(classifier, "predict_proba"):
        raise _unusable(classifier, "it gives no probabilities", "one that has predict_proba")
    return FittedClassifier(classifier, x.shape[1], classes)


def check_classes(y: NDArray[Any], classes: int) -> None:
    """Check that each class has a row: a library would number those that have some.

    Args:
        classes: number of classes; 0 if the labels are 0 and 1, or numbers.

    Raises:
        InputInvalid: a class has none.
    """
    if classes and (lacking := sorted({*range(classes)} - {*np.unique(y).tolist()})):
        raise InputInvalid("training rows", None, f"no row of class {lacking[0]}, counted from 0")


def _fit(
    estimator: Any,
    x: NDArray[np.float32],
    y: NDArray[Any],
    weights: NDArray[np.float64] | None,
) -> None:
    last, empty = _last_step(estimator), np.isnan(x).all(axis=0)
    for word, function in COMPOSED.items():
        if type(last).__name__.startswith(word):
            composed = f"`{function}` of learning/onnx/compose.py, of models fitted one by one"
            raise _unusable(estimator, "its ONNX form is another model", composed)
    more = {} if weights is None else {_weights_name(estimator): weights}
    with one_thread(), _missing_values(estimator):
        estimator.fit(np.where(empty, np.float32(0), x), y, **more)
    if np.any(getattr(last, "is_categorical_", None)):
        wanted = "none: a category is a number here, its place in the vocabulary"
        raise _unusable(estimator, "ONNX has no splits by categorical_features", wanted)
    round_thresholds(last)


def _last_step(estimator: Any) -> Any:
    while hasattr(estimator, "steps"):
        estimator = estimator.steps[-1][1]
    return estimator


def _weights_name(estimator: Any) -> str:
    """The argument of `fit` by which weights reach the last step."""
    from sklearn.utils.validation import has_fit_parameter  # only where scikit-learn is

    name, last = "sample_weight", estimator
    steps: list[str] = []
    while hasattr(last, "steps"):
        step, last = last.steps[-1]
        steps.append(step)
    if not has_fit_parameter(last, name):
        wanted = "an estimator whose fit has sample_weight, or no weights in `fitted(…)`"
        raise _unusable(estimator, "it takes no weights of rows", wanted)
    return "__".join([*steps, name])


@contextmanager
def _missing_values(estimator: Any) -> Iterator[None]:
    """Name the estimator and the way out where it refuses missing values."""
    try:
        yield
    except ValueError as error:
        if "contains NaN" not in str(error):
            raise
        name = type(_last_step(estimator)).__name__
        wanted = f"make_pipeline(SimpleImputer(), {name}(…))"
        raise _unusable(estimator, "it takes no missing values (NaN)", wanted) from error


def _unusable(estimator: Any, problem: str, wanted: str) -> ConfigUnusable:
    return ConfigUnusable(f"training.py: {type(_last_step(estimator)).__name__}", problem, wanted)


def one_thread() -> AbstractContextManager[Any]:
    """A context with one OpenMP thread; two threads took ten times as long beside a serving
    platform."""
    # only where scikit-learn is
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    limits: AbstractContextManager[Any] = threadpool_limits(1, "openmp")
    return limits


def _export(
    estimator: Any, inputs: int, output: str, column: int | None, classes: int = 0
) -> bytes:
    """The estimator's output of that name: one column of it, or all of them."""
    from onnx import TensorProto, helper  # commands start without onnx
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import FloatTensorType
    from skl2onnx.helpers.onnx_helper import select_model_inputs_outputs

    try:
        whole = convert_sklearn(
            estimator,
            name=GRAPH,
            initial_types=[(INPUT_NAME, FloatTensorType([None, inputs]))],
            options={id(estimator): {"zipmap": False}} if output == "probabilities" else None,
            target_opset=OPSET,
        )
    except (NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        problem = f"skl2onnx can't convert it: {' '.join(str(error).split())[:MOST_CHARACTERS]}"
        wanted = "an estimator and steps that it converts (docs/adding-a-model.md)"
        raise _unusable(estimator, problem, wanted) from error
    route_missing_values(whole.graph, _last_step(estimator))
    model = select_model_inputs_outputs(whole, outputs=[output])
    graph = model.graph
    graph.name = GRAPH
    shape: list[int | None] = [None] if column is not None else [None, classes]
    if column is None:
        graph.node.append(helper.make_node("Identity", [output], [OUTPUT_NAME]))
    else:
        graph.initializer.append(helper.make_tensor("column", TensorProto.INT64, [], [column]))
        graph.node.append(helper.make_node("Gather", [output, "column"], [OUTPUT_NAME], axis=1))
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, shape))
    exported: bytes = model.SerializeToString(deterministic=True)
    return exported
