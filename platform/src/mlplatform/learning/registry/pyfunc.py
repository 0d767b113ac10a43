"""A registered version for MLflow: `mlflow.pyfunc.load_model("models:/<model>@champion")`.

MLflow imports this module by the name in a version's `MLmodel`. Nothing is unpickled: the model is
the bundle's ONNX file, run as training and gates run it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mlplatform.learning.onnx.confined_model import ConfinedModel
from mlplatform.learning.onnx.onnx_file import OnnxFile, ScoringSession
from mlplatform.learning.registry.mlmodel import DECISION, RAW_SCORE, SCORE
from mlplatform.learning.registry.versions import TRAINED_HERE
from mlplatform.model.bundle import MODEL_FILE, Bundle, load_bundle
from mlplatform.model.definition import InputSpec, by_declared
from mlplatform.model.tensors.categories import place, places
from mlplatform.model.tensors.remainders import column_remainders, remainder_places
from mlplatform.model.tensors.tokens import Tokenizer, Tokens
from mlplatform.model.tensors.vectors import Vector, length_of
from mlplatform.model.weights.data_files import data_of
from mlplatform.runtime.errors import InputInvalid


class BundleModel:
    """A bundle that scores data frames.

    Args:
        folder: the folder with the bundle's files; each file is checked by its digest.

    Raises:
        BundleCorrupt: a file is missing, or does not have its digest.
        InputInvalid: ONNX Runtime does not accept the model.
    """

    def __init__(self, folder: Path) -> None:
        self.bundle: Bundle = load_bundle(folder)
        content = (folder / MODEL_FILE).read_bytes()
        tensors, width, classes = self.bundle.tensors, len(self.bundle.inputs), self.bundle.classes
        self._exact = remainder_places(self.bundle.input_names)
        data = data_of(folder, self.bundle.files)
        self._model: ScoringSession
        if self.bundle.origin == TRAINED_HERE and not data:
            self._model = OnnxFile(content, inputs=width, tensors=tensors, classes=classes)
        else:
            self._model = ConfinedModel(
                content, inputs=width, tensors=tensors, data=data, classes=classes
            )

    def predict(self, frame: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Raw score, calibrated score (0-1) and decision of each row, under the frame's index.

        The bits are those that a predictor and a gateway give. A row whose raw score is not finite
        has no score and no decision.

        Args:
            frame: a column for each input of the model, in any order; numbers, NaN where a value
                is missing; a category as its text, a vector as a list.
            params: ignored.

        Raises:
            InputInvalid: a column is missing, or holds a value that is not a number.
        """
        x = self._rows(frame)
        raw = self._model.scores(x)
        if self.bundle.classes:
            return pd.DataFrame(self._of_classes(raw, x), index=frame.index)
        scores = [self._score(value) for value in raw.tolist()]
        decide, rows = self.bundle.decide, x.tolist()
        decisions = [
            None if s is None else decide(s, row) for s, row in zip(scores, rows, strict=True)
        ]
        found = {
            RAW_SCORE: raw,
            SCORE: np.array([np.nan if s is None else s for s in scores], np.float64),
            DECISION: np.array(decisions, dtype=object),
        }
        return pd.DataFrame(found, index=frame.index)

    def _of_classes(self, raw: NDArray[np.float64], x: NDArray[np.float32]) -> dict[str, Any]:
        """The decided class, and its probability as both scores."""
        sure = self.bundle.choice.certainty(raw)
        names = np.array(self.bundle.scale.names, dtype=object)
        decided = np.where(np.isfinite(sure), names[self.bundle.decide_many(raw, x)], None)
        return {RAW_SCORE: sure, SCORE: sure, DECISION: decided}

    def get_raw_model(self) -> Bundle:
        """The bundle, for MLflow's `get_raw_model`; its digest says which one it is."""
        return self.bundle

    def _score(self, raw: float) -> float | None:
        return self.bundle.calibrate(raw) if np.isfinite(raw) else None

    def _rows(self, frame: pd.DataFrame) -> NDArray[np.float32]:
        declared = by_declared(self.bundle.inputs)
        if lacking := [name for name in declared if name not in frame.columns]:
            raise InputInvalid(
                lacking[0], None, "is missing; wanted: a column of the data frame for each input"
            )
        return np.column_stack([self._column(s, frame[n]) for n, s in declared.items()])

    def _column(self, spec: InputSpec, values: pd.Series[Any]) -> NDArray[np.float32]:
        """One column; for a text one column for each token, for a vector one for each number."""
        name = spec.declared
        if name in self._exact:
            return _exact(name, values)
        if spec.kind == "vector":
            return _vectors(name, length_of(spec.name), values)
        words = self.bundle.vocabularies.get(name)
        if words is None:
            return _numbers(name, values).astype(np.float32)
        texts = (None if pd.isna(value) else value for value in values)
        if isinstance(spec.tokens, Tokens):
            tokenizer = Tokenizer(spec.tokens, words)
            found = [tokenizer.places(text) for text in texts]
            return np.array(found, np.float32).reshape(-1, spec.tokens.length)
        known = places(words)
        return np.array([place(text, known) for text in texts], np.float32)


def _numbers(name: str, values: pd.Series[Any]) -> NDArray[np.float64]:
    try:
        return values.to_numpy(np.float64, na_value=np.nan)
    except (TypeError, ValueError) as error:
        raise InputInvalid(name, None, "numbers, NaN where one is missing") from error


def _exact(name: str, values: pd.Series[Any]) -> NDArray[np.float32]:
    """The numbers of a column with their remainders, [rows, 3]; NaN where one is missing."""
    wide = _numbers(name, values)
    if not pd.api.types.is_integer_dtype(values.dtype):
        return np.column_stack([wide.astype(np.float32), column_remainders(wide)])
    whole = values.to_numpy(np.int64, na_value=0)
    missing = np.isnan(wide)[:, None]
    of_whole = np.where(missing, np.float32(np.nan), column_remainders(whole))
    return np.column_stack([wide.astype(np.float32), of_whole])


def _vectors(name: str, length: int, values: pd.Series[Any]) -> NDArray[np.float32]:
    """The vectors of a column, [rows, length]; NaN where one is missing."""
    vector = Vector(name, length)
    try:
        lists = [None if v is None or np.ndim(v) == 0 else [float(n) for n in v] for v in values]
    except (TypeError, ValueError) as error:
        raise InputInvalid(name, None, f"lists of {length} numbers") from error
    return np.array([vector.places(found) for found in lists], np.float32).reshape(-1, length)


def _load_pyfunc(path: str) -> BundleModel:
    """The model in a version's folder; MLflow calls this function."""
    return BundleModel(Path(path))
