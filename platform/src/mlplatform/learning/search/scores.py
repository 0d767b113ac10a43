"""The scores of a folder's Python, as the model's task wants them, and their measures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlplatform.learning.training_sets.known_labels import Labels
from mlplatform.learning.validation.class_measures import plain_class_measures
from mlplatform.learning.validation.measures import plain_measures
from mlplatform.learning.validation.number_measures import plain_number_measures
from mlplatform.model.definition import ClassesDefinition, ModelDefinition, RealDefinition
from mlplatform.model.policies.calibration import are_probabilities
from mlplatform.runtime.errors import InputInvalid

Scores = NDArray[np.float64]
"""By a model's task: scores [n], probabilities [n, classes], or numbers [n]."""
OwnMeasure = Callable[[Labels, Scores], float]


def checked_scores(
    key: str, scores: object, rows: int, definition: ModelDefinition
) -> NDArray[np.float64]:
    """The scores of a model of a folder's Python, if they are what the model's task asks for.

    Raises:
        InputInvalid: they have another shape, or are no such numbers; the message begins with the
            key.
    """
    found = np.asarray(scores, np.float64)
    shape = (rows, len(definition.classes)) if definition.classes else (rows,)
    is_number = definition.task == "real"
    admitted = np.isfinite(found).all() if is_number else are_probabilities(found)
    if found.shape != shape or not admitted:
        wanted = " by ".join(map(str, shape))
        kind = "finite numbers" if is_number else "numbers of 0 to 1"
        raise InputInvalid(key, None, f"scores of shape {found.shape}; wanted: {wanted} {kind}")
    return found


def plain_of_task(
    definition: ModelDefinition, scores: Scores, y: NDArray[Any]
) -> Mapping[str, float]:
    """The measures of scores by the model's task, by name, without intervals."""
    match definition:
        case ClassesDefinition():
            return plain_class_measures(scores, y)
        case RealDefinition():
            return plain_number_measures(scores, y, quantile=definition.gates.quantile)
        case _:
            return plain_measures(scores, y)
