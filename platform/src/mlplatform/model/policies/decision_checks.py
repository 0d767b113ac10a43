"""Whether calibration and thresholds of a bundle fit its outcomes, by its task."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from mlplatform.model.policies.calibration import UNCHANGED, Calibration
from mlplatform.model.policies.decision_scale import DecisionScale

Problems = dict[str, bool]
"""Whether each problem exists, with its text."""


def decision_problems(
    scale: DecisionScale, calibration: Calibration, thresholds: Mapping[str, float], whose: str = ""
) -> Problems:
    """Problems of a bundle's model, or of the small model that `whose` names."""
    found = _BY_TASK[scale.task](scale, calibration, thresholds)
    return {f"{whose}{problem}": present for problem, present in found.items()}


def rises(values: Sequence[float], *, strictly: bool) -> bool:
    """Whether no value is below the one before it; with `strictly`, none equal to it either."""
    return all(a < b if strictly else a <= b for a, b in itertools.pairwise(values))


def _of_probabilities(
    scale: DecisionScale, calibration: Calibration, thresholds: Mapping[str, float]
) -> Problems:
    x, y = calibration.x, calibration.y
    begins = [thresholds.get(name, math.nan) for name in scale.names[1:]]
    return {
        "calibration.x does not rise": not (len(x) >= 2 and rises(x, strictly=True)),
        "calibration.y does not rise within 0 to 1": not (
            len(y) == len(x) and rises(y, strictly=False) and y[0] >= 0 and y[-1] <= 1
        ),
        "thresholds are not one of 0 or more for each outcome but the first, which do not "
        "fall": not (
            set(thresholds) == set(scale.names[1:])
            and all(begin >= 0 for begin in begins)
            and rises(begins, strictly=False)
        ),
    }


def _of_classes(
    scale: DecisionScale, calibration: Calibration, thresholds: Mapping[str, float]
) -> Problems:
    found = calibration, thresholds
    return {"classes have calibration or thresholds": found != (UNCHANGED, {})}


def _of_numbers(
    scale: DecisionScale, calibration: Calibration, thresholds: Mapping[str, float]
) -> Problems:
    begins = [thresholds.get(name, math.nan) for name in scale.names[1:]]
    number = scale.number
    ends = () if number is None else (number.minimum, number.maximum)
    return {
        "numbers have a calibration": calibration != UNCHANGED,
        "the number's range is empty": not rises([e for e in ends if e is not None], strictly=True),
        "thresholds are not a number for each outcome but the first, which rise": not (
            set(thresholds) == set(scale.names[1:])
            and all(map(math.isfinite, begins))
            and rises(begins, strictly=True)
        ),
    }


_BY_TASK: Final[Mapping[str, Callable[..., Problems]]] = {
    "binary": _of_probabilities,
    "classes": _of_classes,
    "real": _of_numbers,
}
