"""Labels of a joined table that say nothing by being absent: classes, as places, and numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from mlplatform.model.definition import ModelDefinition

if TYPE_CHECKING:  # a model's folder is read without pyarrow
    import pyarrow as pa

Labels = NDArray[Any]
"""Of a model's task: int8 of 0 and 1 or of places, or float64."""


def class_labels(table: pa.Table, definition: ModelDefinition) -> tuple[Labels, NDArray[np.bool_]]:
    """The place of each row's class, 0 where none is known, and where one is."""
    import pyarrow as pa
    import pyarrow.compute as pc

    found = pc.index_in(table.column("label"), value_set=pa.array(definition.classes, pa.string()))
    places = found.fill_null(-1).to_numpy().astype(np.int8)
    return np.where(places >= 0, places, np.int8(0)), places >= 0


def number_labels(table: pa.Table, _: ModelDefinition) -> tuple[Labels, NDArray[np.bool_]]:
    """Each row's number, 0 where none is known, and where one is."""
    numbers = table.column("label").to_numpy().astype(np.float64)  # a missing label is NaN there
    known = np.isfinite(numbers)
    return np.where(known, numbers, 0.0), known


KNOWN: Final[
    Mapping[str, Callable[[pa.Table, ModelDefinition], tuple[Labels, NDArray[np.bool_]]]]
] = {"classes": class_labels, "real": number_labels}
"""By the tasks of which a matured request without a label is unknown: it teaches nothing."""
