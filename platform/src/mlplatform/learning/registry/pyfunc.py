"""A registered version as MLflow loads it: `mlflow.pyfunc.load_model("models:/<model>@champion")`.

MLflow imports this module by the name in a version's `MLmodel`. Nothing is unpickled: the model is
the bundle's ONNX file, run as training and gates run it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mlplatform.learning.onnx.confined import ConfinedModel
from mlplatform.learning.onnx.onnx_file import OnnxFile
from mlplatform.learning.registry.mlmodel import DECISION, RAW_SCORE, SCORE
from mlplatform.learning.registry.versions import TRAINED_HERE
from mlplatform.model.bundle import MODEL_FILE, Bundle, load_bundle
from mlplatform.model.tensors.categories import place, places
from mlplatform.runtime.errors import InputInvalid

if TYPE_CHECKING:
    import pandas as pd


class BundleModel:
    """A bundle that answers data frames.

    Args:
        folder: with the bundle's files, each of which is checked by its digest.

    Raises:
        BundleCorrupt: a file is missing, or not what its digest says.
        InputInvalid: ONNX Runtime does not take the model.
    """

    def __init__(self, folder: Path) -> None:
        self.bundle: Bundle = load_bundle(folder)
        load = OnnxFile if self.bundle.origin == TRAINED_HERE else ConfinedModel
        content = (folder / MODEL_FILE).read_bytes()
        tensors = self.bundle.tensors
        self._model = load(content, inputs=len(self.bundle.inputs), tensors=tensors)

    def predict(self, frame: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Raw score, calibrated score (0-1) and decision of each row, under the frame's index.

        The bits are those that a predictor and a gateway give. A row whose raw score is not finite
        has no score and no decision.

        Args:
            frame: a column for each input of the model, in any order; numbers, NaN where a value
                is missing; a category as its text.
            params: none is known.

        Raises:
            InputInvalid: a column is missing, or holds what is no number.
        """
        import pandas as pd

        raw = self._model.scores(self._rows(frame))
        scores = [self._score(value) for value in raw.tolist()]
        decisions = [None if s is None else self.bundle.decide(s) for s in scores]
        found = {
            RAW_SCORE: raw,
            SCORE: np.array([np.nan if s is None else s for s in scores], np.float64),
            DECISION: np.array(decisions, dtype=object),
        }
        return pd.DataFrame(found, index=frame.index)

    def get_raw_model(self) -> Bundle:
        """What MLflow's `get_raw_model` gives: the bundle, whose digest says which one it is."""
        return self.bundle

    def _score(self, raw: float) -> float | None:
        return self.bundle.calibrate(raw) if np.isfinite(raw) else None

    def _rows(self, frame: pd.DataFrame) -> NDArray[np.float32]:
        rows = np.empty((len(frame), len(self.bundle.inputs)), np.float32)
        for position, name in enumerate(self.bundle.input_names):
            if name not in frame.columns:
                raise InputInvalid(name, None, "a column of the data frame, one for each input")
            rows[:, position] = self._column(name, frame[name])
        return rows

    def _column(self, name: str, values: pd.Series[Any]) -> NDArray[np.float64]:
        import pandas as pd

        words = self.bundle.vocabularies.get(name)
        if words is None:
            try:
                return values.to_numpy(np.float64, na_value=np.nan)
            except (TypeError, ValueError) as error:
                raise InputInvalid(name, None, "numbers, NaN where one is missing") from error
        known = places(words)
        texts = (None if pd.isna(value) else value for value in values)
        return np.array([place(text, known) for text in texts], np.float64)


def _load_pyfunc(path: str) -> BundleModel:
    """Called by MLflow with the folder of a version."""
    return BundleModel(Path(path))
