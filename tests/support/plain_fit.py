"""A folder's fit of rows that are given as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlplatform.authoring import Dataset, Fitted
from mlplatform.learning.search.context import last_fit
from mlplatform.learning.training.folder import call_fit


def plain_dataset(
    x: NDArray[np.float32],
    y: NDArray[Any],
    *,
    weight: NDArray[np.float64] | None = None,
    classes: Sequence[str] = (),
) -> Dataset:
    """Rows of one unit each, a millisecond apart, whose columns have their numbers for names."""
    numbers = np.arange(len(y), dtype=np.int64)
    names = tuple(f"input_{number}" for number in range(x.shape[1]))
    return Dataset(
        x=x,
        y=y,
        weight=weight,
        inputs=names,
        unit=numbers,
        event_ms=numbers,
        classes=tuple(classes),
    )


def plain_fit(
    training: Any,
    x: NDArray[np.float32],
    y: NDArray[Any],
    *,
    seed: int,
    classes: Sequence[str] = (),
) -> Fitted:
    """The model that a training module makes of the rows, outside of any search."""
    context = last_fit({}, x.shape[1], seed=seed)
    return call_fit(training, plain_dataset(x, y, classes=classes), context)
