"""Models of scikit-learn for training: raw scores or numbers, and the same as ONNX."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mlplatform.model.bundle import INPUT_NAME, OUTPUT_NAME
from mlplatform.runtime.errors import InputInvalid

OPSET: Final = {"": 17, "ai.onnx.ml": 3}
GRAPH: Final = "model"


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

    def scores(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """One raw score a row [n], or probabilities [n, classes]."""
        with one_thread():
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

    def scores(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """One number a row [n]."""
        with one_thread():
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
        regressor: a regressor that is not fitted yet and that skl2onnx can convert.
        y: labels, in the model's unit.
        weights: weight of each row; None means that all rows count equally.
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
    """The classifier, fitted on one thread, whose ONNX form scores float32 rows as it does.

    An input without any value (a token place that no text reaches) is fitted as a constant 0:
    scikit-learn 1.9 fails without values, and no split reads a constant.

    Args:
        classifier: a classifier that is not fitted yet and that skl2onnx can convert.
        weights: weight of each row; None means that all rows count equally.
        classes: number of classes, if `y` holds their positions, from 0; 0 if the labels are 0 and
            1.

    Raises:
        InputInvalid: a class has no row.
    """
    if classes and (lacking := sorted({*range(classes)} - {*np.unique(y).tolist()})):
        raise InputInvalid("training rows", None, f"no row of class {lacking[0]}, counted from 0")
    _fit(classifier, x, y, weights)
    return FittedClassifier(classifier, x.shape[1], classes)


def _fit(
    estimator: Any,
    x: NDArray[np.float32],
    y: NDArray[Any],
    weights: NDArray[np.float64] | None,
) -> None:
    empty = np.isnan(x).all(axis=0)
    with one_thread():
        estimator.fit(np.where(empty, np.float32(0), x), y, sample_weight=weights)
    if hasattr(estimator, "_predictors"):
        _round_thresholds(estimator)


def one_thread() -> AbstractContextManager[Any]:
    """A context with one OpenMP thread; two threads took ten times as long beside a serving
    platform."""
    # only where scikit-learn is
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    limits: AbstractContextManager[Any] = threadpool_limits(1, "openmp")
    return limits


def _round_thresholds(estimator: Any) -> None:
    """Round every split's threshold of boosted trees down to a float32, which gives the same model
    for float32 inputs.

    ONNX holds float32. With rounding to nearest, a value between a threshold and its rounded form
    would take the other branch.
    """
    for trees in estimator._predictors:
        for tree in trees:
            exact = tree.nodes["num_threshold"]
            near = exact.astype(np.float32)
            above = near.astype(np.float64) > exact
            tree.nodes["num_threshold"] = np.where(
                above, np.nextafter(near, np.float32(-np.inf)), near
            )


def _export(
    estimator: Any, inputs: int, output: str, column: int | None, classes: int = 0
) -> bytes:
    """The estimator's output of that name: one column of it, or all of them."""
    from onnx import TensorProto, helper  # commands start without onnx
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import FloatTensorType
    from skl2onnx.helpers.onnx_helper import select_model_inputs_outputs

    whole = convert_sklearn(
        estimator,
        name=GRAPH,
        initial_types=[(INPUT_NAME, FloatTensorType([None, inputs]))],
        options={id(estimator): {"zipmap": False}} if output == "probabilities" else None,
        target_opset=OPSET,
    )
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
