"""How the fraud model is fitted, and its form as ONNX."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlplatform.model.bundle import INPUT_NAME, OUTPUT_NAME

# Average precision on held-out days, means over the Fraud Detection Handbook's simulated payments
# and over this project's generator (two and six windows, the last four days held out): small trees
# with the square root of balanced weights 0.82 and 0.55; balanced weights 0.82 and 0.51; none 0.78
# and 0.54. Calibration undoes the weights.
SETTINGS = {
    "max_iter": 150,
    "learning_rate": 0.05,
    "max_leaf_nodes": 8,
    "min_samples_leaf": 40,
    "l2_regularization": 10.0,
    "early_stopping": False,
}
OPSET = {"": 17, "ai.onnx.ml": 3}


@dataclass(frozen=True, slots=True)
class Fitted:
    """A fitted model: raw scores 0-1, not yet probabilities, and the same as ONNX."""

    classifier: Any
    inputs: int

    def scores(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """One raw score a row."""
        with _one_thread():
            result: NDArray[np.float64] = self.classifier.predict_proba(x)[:, 1]
        return result

    def onnx(self) -> bytes:
        """The model with input "inputs" float32 [n, F] and output "scores" float32 [n]."""
        return _export(self.classifier, self.inputs)


def fit(x: NDArray[np.float32], y: NDArray[np.int8], *, seed: int) -> Fitted:
    """Boosted trees that take missing values (NaN) as they are; same rows, same model.

    On one thread: beside a serving platform on two cores OpenMP's threads wait for each other, and
    what takes one thread 3 s took two of them 30 s.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier

    with _one_thread():
        classifier = HistGradientBoostingClassifier(random_state=seed, **SETTINGS)
        classifier.fit(x, y, sample_weight=_weights(y))
    _round_thresholds(classifier)
    return Fitted(classifier, x.shape[1])


def _one_thread() -> AbstractContextManager[Any]:
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    limits: AbstractContextManager[Any] = threadpool_limits(1, "openmp")
    return limits


def _weights(y: NDArray[np.int8]) -> NDArray[np.float64]:
    share = float(y.mean())
    return np.where(y == 1, np.sqrt((1 - share) / share), 1.0)


def _round_thresholds(classifier: Any) -> None:
    """Give every split a float32 threshold, rounded down: for float32 inputs the same model.

    ONNX holds float32. Rounded to nearest, a value between a threshold and its rounding would
    take the other branch there.
    """
    for trees in classifier._predictors:
        for tree in trees:
            exact = tree.nodes["num_threshold"]
            near = exact.astype(np.float32)
            above = near.astype(np.float64) > exact
            tree.nodes["num_threshold"] = np.where(
                above, np.nextafter(near, np.float32(-np.inf)), near
            )


def _export(classifier: Any, inputs: int) -> bytes:
    from onnx import TensorProto, helper
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import FloatTensorType
    from skl2onnx.helpers.onnx_helper import select_model_inputs_outputs

    whole = convert_sklearn(
        classifier,
        name="fraud",
        initial_types=[(INPUT_NAME, FloatTensorType([None, inputs]))],
        options={id(classifier): {"zipmap": False}},
        target_opset=OPSET,
    )
    model = select_model_inputs_outputs(whole, outputs=["probabilities"])
    graph = model.graph
    graph.name = "fraud"
    graph.initializer.append(helper.make_tensor("fraud_column", TensorProto.INT64, [], [1]))
    graph.node.append(
        helper.make_node("Gather", ["probabilities", "fraud_column"], [OUTPUT_NAME], axis=1)
    )
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, [None]))
    exported: bytes = model.SerializeToString(deterministic=True)
    return exported
