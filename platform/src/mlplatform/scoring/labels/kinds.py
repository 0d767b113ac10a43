"""The kinds of labels, one for each task of a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from mlplatform.decisions.records.record import LABEL_VALUES
from mlplatform.model.definition import ModelDefinition
from mlplatform.runtime.http.problems import Problem
from mlplatform.scoring.request.payloads import (
    ClassLabelItem,
    LabelItem,
    NumberLabelItem,
)

AnyLabel = LabelItem | ClassLabelItem | NumberLabelItem
ITEMS: Final[Mapping[str, type[AnyLabel]]] = {
    "binary": LabelItem,
    "classes": ClassLabelItem,
    "real": NumberLabelItem,
}
"""Task of a model → the body of a label."""


@dataclass(frozen=True, slots=True)
class LabelKind:
    """The labels of one model.

    Args:
        item: type of one label in a request.
        column: the record's column that holds the label's value.
    """

    definition: ModelDefinition
    item: type[AnyLabel]
    column: str

    @classmethod
    def of(cls, definition: ModelDefinition) -> LabelKind:
        """The kinds of labels of a model."""
        return cls(definition, ITEMS[definition.task], LABEL_VALUES[definition.task])

    def problem(self, label: Any) -> Problem | None:
        """Why the model can have no such label; None if it can."""
        wanted = None
        if self.definition.classes and label not in self.definition.classes:
            wanted = f"one of {', '.join(self.definition.classes)}"
        number = self.definition.decision.scale.number
        if number is not None and not number.admits(np.array([label], np.float64))[0]:
            wanted = f"{number.span}, in {number.unit}"
        if wanted is None:
            return None
        return Problem(422, "invalid-field", f"label must be {wanted}", field="label")

    def others(self, label: Any) -> tuple[object, ...]:
        """The labels that a label without a time replaces. A number replaces none, because each
        comes with its time."""
        match self.definition.task:
            case "binary":
                return (1 - label,)
            case "classes":
                return tuple(name for name in self.definition.classes if name != label)
            case "real":
                return ()
