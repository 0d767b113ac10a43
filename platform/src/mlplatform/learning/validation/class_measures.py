"""Measures of a model of classes: accuracy of all and of each class, and probabilities."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mlplatform.learning.validation.measures import (
    SMALLEST,
    Measure,
    bounded_stakes,
    mean_stakes,
    resampled,
)
from mlplatform.learning.validation.statistics import Floats, Integers, Stakes

TOP: Final = 3
CLASS_NAMES: Final = ("accuracy", "macro_f1", "log_loss", "top_3_accuracy")


def class_measures(
    probabilities: Floats,
    y: Integers,
    unit: Integers,
    *,
    seed: int,
    champion: Floats | None = None,
) -> tuple[Measure, ...]:
    """Accuracy, macro F1, log loss and accuracy of the three most probable classes, of
    probabilities [n, classes] and the places of the right classes [n].

    Whole units are drawn with replacement, the same ones for both models (`resampled`).
    Macro F1 is the mean over the classes that a request has or is decided as. There are
    none without rows, or where a probability is NaN.

    Sources: Opitz and Burst, Macro F1 and Macro F1 (2019), for the mean of the classes' F1; Field
    and Welsh (JRSS B, 2007) for the intervals.

    Args:
        champion: the champion's probabilities for the same rows, with the same order of classes;
            None if there is none.
    """
    both = [probabilities] if champion is None else [probabilities, champion]
    if len(y) == 0 or any(bool(np.isnan(p).any()) for p in both):
        return ()
    position = np.unique(unit, return_inverse=True)[1]
    models = [_Model(p, y, position) for p in both]
    return resampled(CLASS_NAMES, models, units=int(position.max()) + 1, seed=seed)


def plain_class_measures(probabilities: Floats, y: Integers) -> dict[str, float]:
    """The measures of `class_measures` by name, without intervals."""
    model = _Model(probabilities, y, np.zeros(len(y), np.intp))
    return dict(zip(CLASS_NAMES, model.values(np.ones(1)), strict=True))


def right_classes(probabilities: Floats, y: Integers) -> NDArray[np.float64]:
    """1 for each row whose most probable class is the right one, else 0; NaN where a probability
    is NaN. Their mean is the accuracy."""
    right = probabilities.argmax(axis=1) == y
    return np.where(np.isnan(probabilities).any(axis=1), np.nan, right)


def in_order_of(
    probabilities: Floats, names: tuple[str, ...], wanted: tuple[str, ...]
) -> NDArray[np.float64]:
    """Probabilities [n, names] in another order of classes; 0 for a class that these lack."""
    places = {name: place for place, name in enumerate(names)}
    found = np.zeros((len(probabilities), len(wanted)))
    for place, name in enumerate(wanted):
        if name in places:
            found[:, place] = probabilities[:, places[name]]
    return found


class _Model:
    """One model's answers, summed by unit, ready to be measured under many weightings."""

    def __init__(self, probabilities: Floats, y: Integers, position: NDArray[np.intp]) -> None:
        rows, classes = probabilities.shape
        decided = probabilities.argmax(axis=1)
        of_right = np.clip(probabilities[np.arange(rows), y], SMALLEST, 1.0)
        rank = (probabilities > probabilities[np.arange(rows), y][:, None]).sum(axis=1)
        right = right_classes(probabilities, y)
        loss = -np.log(of_right)
        self._losses = [
            (loss[right == is_right].sum(), (right == is_right).sum()) for is_right in (1, 0)
        ]
        sums = (right, loss, rank < TOP, np.ones(rows))
        self._sums = np.array([np.bincount(position, found) for found in sums])
        units = self._sums.shape[1]

        def by_class(places: NDArray[Any]) -> NDArray[np.float64]:
            cells = np.zeros((units, classes))
            np.add.at(cells, (position[: len(places)], places), 1.0)
            return cells

        hits = np.zeros((units, classes))
        np.add.at(hits, (position, y), right)
        own = by_class(y)
        self._hits, self._both = hits, by_class(decided) + own
        there = own[:, own.any(axis=0)]
        self._weights = (there / there.sum(axis=0)).mean(axis=1)

    def values(self, times: Floats) -> list[float]:
        """The measures in the order of `CLASS_NAMES`, each unit counted so many times."""
        right, loss, near, rows = self._sums @ times
        hits, both = times @ self._hits, times @ self._both
        f1 = 2 * hits[both > 0] / both[both > 0]
        return [right / rows, float(f1.mean()), loss / rows, near / rows]

    def stakes(self, other: _Model | None) -> list[Stakes]:
        """Returns what units have at stake: all of their rows may be decided wrong. In macro F1, a
        row counts by the number of its class; in log loss, by how much dearer wrong ones are."""
        rows, loss = self._sums[3], self._sums[1]
        models = [self] if other is None else [self, other]
        sums = np.sum([model._losses for model in models], axis=0)
        usual, wrong = sums[:, 0] / np.maximum(sums[:, 1], 1)
        dearer = max(float(wrong - usual), 0.0) if sums[1, 1] else math.log(self._hits.shape[1])
        beside = None if other is None else other._sums[1]
        return [
            bounded_stakes(rows, 0.0, 1.0, beside=other),
            bounded_stakes(self._weights, 0.0, 1.0, beside=other),
            mean_stakes(loss, rows, beside, stake=[dearer * rows]),
            bounded_stakes(rows, 0.0, 1.0, beside=other),
        ]
