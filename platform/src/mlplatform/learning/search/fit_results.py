"""The interface of what the functions of a folder's `training.py` give."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class ScoringModel(Protocol):
    """A model that scores rows, as of `Fitted`."""

    def scores(self, x: NDArray[np.float32]) -> NDArray[np.float64]: ...


class Fitted(Protocol):
    """A fitted model and its ONNX form, which must agree. Its mapping `parameters`, if it has one,
    is shown with the run in MLflow."""

    def scores(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """One raw score of 0-1 a row; of classes their probabilities [n, classes]; of a model of
        numbers one number a row. NaN inputs are missing values."""
        ...

    def onnx(self) -> bytes:
        """Input "inputs" float32 [n, F], output "scores" float32 [n], of classes [n, classes]; the
        tensors of `signature` if model.yaml has one; the same bytes every time."""
        ...
