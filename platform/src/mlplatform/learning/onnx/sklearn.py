"""Classifiers of scikit-learn as what training gives: raw scores, and the same as ONNX."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mlplatform.model.bundle import INPUT_NAME, OUTPUT_NAME

OPSET: Final = {"": 17, "ai.onnx.ml": 3}
GRAPH: Final = "model"


@dataclass(frozen=True, slots=True)
class FittedClassifier:
    """A fitted classifier of two classes, whose score is the second one's probability, 0-1."""

    classifier: Any
    inputs: int

    def scores(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """One raw score a row."""
        with one_thread():
            result: NDArray[np.float64] = self.classifier.predict_proba(x)[:, 1]
        return result

    @property
    def parameters(self) -> Mapping[str, Any]:
        """The classifier's, by scikit-learn's names."""
        told: Mapping[str, Any] = self.classifier.get_params()
        return told

    def onnx(self) -> bytes:
        """The model with input "inputs" float32 [n, F] and output "scores" float32 [n]."""
        return _export(self.classifier, self.inputs)


def fitted(
    classifier: Any,
    x: NDArray[np.float32],
    y: NDArray[np.int8],
    weights: NDArray[np.float64] | None = None,
) -> FittedClassifier:
    """The classifier, fitted on one thread, whose ONNX form scores float32 rows as it does.

    Args:
        classifier: not fitted yet; one that skl2onnx converts.
        weights: of the rows; None: all alike.
    """
    with one_thread():
        classifier.fit(x, y, sample_weight=weights)
    if hasattr(classifier, "_predictors"):
        _round_thresholds(classifier)
    return FittedClassifier(classifier, x.shape[1])


def one_thread() -> AbstractContextManager[Any]:
    """Beside a serving platform on two cores OpenMP's threads wait for each other, and what takes
    one thread 3 s took two of them 30 s."""
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    limits: AbstractContextManager[Any] = threadpool_limits(1, "openmp")
    return limits


def _round_thresholds(classifier: Any) -> None:
    """Give every split of boosted trees a float32 threshold, rounded down: for float32 inputs the
    same model.

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
        name=GRAPH,
        initial_types=[(INPUT_NAME, FloatTensorType([None, inputs]))],
        options={id(classifier): {"zipmap": False}},
        target_opset=OPSET,
    )
    model = select_model_inputs_outputs(whole, outputs=["probabilities"])
    graph = model.graph
    graph.name = GRAPH
    graph.initializer.append(helper.make_tensor("column", TensorProto.INT64, [], [1]))
    graph.node.append(
        helper.make_node("Gather", ["probabilities", "column"], [OUTPUT_NAME], axis=1)
    )
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, [None]))
    exported: bytes = model.SerializeToString(deterministic=True)
    return exported
