"""A version of classes as MLflow loads it decides nothing where its graph gives nothing."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tests.support.class_model import CLASSES, class_definition

from mlplatform.learning.registry.pyfunc import BundleModel
from mlplatform.model.bundle import load_bundle
from support.scoring_world import write_amount_bundle


class Graph:
    """Probabilities of three classes for one row, and none for another."""

    def scores(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        return np.array([[0.2, 0.7, 0.1], [np.nan, np.nan, np.nan]])


def test_a_row_without_probabilities_has_no_class(tmp_path: Path) -> None:
    write_amount_bundle(tmp_path)
    model = BundleModel(tmp_path)
    model.bundle = msgspec.structs.replace(
        load_bundle(tmp_path), scale=class_definition().decision.scale
    )
    model._model = Graph()  # type: ignore[assignment]
    frame = pd.DataFrame({spec.name: [1.0, 2.0] for spec in model.bundle.inputs})
    told = model.predict(frame)
    assert told["decision"].tolist() == [CLASSES[1], None]
    assert told["score"].isna().tolist() == [False, True]
