"""The rows that a fit of a model's folder learns from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from mlplatform.learning.training_sets.known_labels import Labels
from mlplatform.model.tensors.categories import Vocabularies
from mlplatform.model.tensors.tokens import text_of
from mlplatform.model.tensors.vectors import vector_of
from mlplatform.runtime.errors import InputInvalid


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """Labelled rows in order of event time. The arrays are the fit's own: it may change them.

    Args:
        x: the inputs, float32 [n, columns], NaN where a value is missing.
        y: the labels [n]: int8 with 0 and 1; of a model of classes, int8 with places in `classes`,
            from 0; of a model of numbers, float64 in the unit of model.yaml.
        weight: the weight of each row, float64 [n], above 0; None if all rows weigh 1. A request
            that exploration let through weighs more, because it stands for stopped requests.
        inputs: the name of each column of `x`, in order. A text or a vector has several columns.
        words: category or text → its words. In `x` the first word is 2; 1 is a word that is not
            among them, and NaN is a missing one.
        unit: the customer or other unit of assignment of each row, int64 [n].
        event_ms: when each request was made, epoch milliseconds, int64 [n], rising.
        classes: the names of the classes, in the order of probabilities; empty for other models.
    """

    x: NDArray[np.float32]
    y: Labels
    weight: NDArray[np.float64] | None = None
    inputs: tuple[str, ...]
    words: Vocabularies = field(default_factory=dict)
    unit: NDArray[np.int64]
    event_ms: NDArray[np.int64]
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.x)

    @property
    def categories(self) -> tuple[str, ...]:
        """The inputs that are places of words, one column each."""
        return tuple(name for name in self.inputs if name in self.words)

    def columns(self, *names: str) -> list[int]:
        """Positions in `x` of these inputs, so that a fit need not count them.

        Args:
            names: inputs of model.yaml; a text or a vector stands for all of its columns.

        Raises:
            InputInvalid: model.yaml has no such input; the message names those that it has.
        """
        declared = [text_of(name) or vector_of(name) or name for name in self.inputs]
        if unknown := [name for name in names if name not in declared]:
            known = ", ".join(dict.fromkeys(declared))
            problem = f"no input {', '.join(unknown)}; wanted: {known}"
            raise InputInvalid("training.py: dataset.columns", None, problem)
        return [at for name in names for at, of in enumerate(declared) if of == name]

    def rows(self, chosen: slice | NDArray[np.bool_] | NDArray[np.int64]) -> Dataset:
        """A data set of these rows: a slice, a mask [n], or their positions in rising order."""
        return replace(
            self,
            x=self.x[chosen],
            y=self.y[chosen],
            weight=None if self.weight is None else self.weight[chosen],
            unit=self.unit[chosen],
            event_ms=self.event_ms[chosen],
        )

    def of_columns(self, x: NDArray[np.float32], inputs: Sequence[str]) -> Dataset:
        """A data set of the rows with other columns, as a second stage of a stacked model needs it.

        Args:
            x: float32 [n, columns].
            inputs: the name of each column.
        """
        return replace(self, x=x, inputs=tuple(inputs), words={})
