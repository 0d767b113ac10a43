"""Known labels of a joined table, for tasks in which a missing label means nothing: classes, as
places, and numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from mlplatform.model.definition import ModelDefinition

if TYPE_CHECKING:  # a model's folder is read without pyarrow
    import pyarrow as pa

Labels = NDArray[Any]
"""Labels by a model's task: int8 with 0 and 1 or with places, or float64."""


def class_labels(table: pa.Table, definition: ModelDefinition) -> tuple[Labels, NDArray[np.bool_]]:
    """The place of each row's class, 0 if unknown; and whether it is known."""
    import pyarrow as pa
    import pyarrow.compute as pc

    found = pc.index_in(table.column("label"), value_set=pa.array(definition.classes, pa.string()))
    places = found.fill_null(-1).to_numpy().astype(np.int8)
    return np.where(places >= 0, places, np.int8(0)), places >= 0


def number_labels(table: pa.Table, _: ModelDefinition) -> tuple[Labels, NDArray[np.bool_]]:
    """The number of each row, 0 if unknown; and whether it is known."""
    numbers = table.column("label").to_numpy().astype(np.float64)  # a missing label is NaN there
    known = np.isfinite(numbers)
    return np.where(known, numbers, 0.0), known


KNOWN: Final[
    Mapping[str, Callable[[pa.Table, ModelDefinition], tuple[Labels, NDArray[np.bool_]]]]
] = {"classes": class_labels, "real": number_labels}
"""Tasks in which a matured request without a label is unknown and teaches nothing → the function
that reads the labels."""
