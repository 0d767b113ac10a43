"""Measures of a model of numbers: their distance from the labels, and its side."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from mlplatform.learning.validation.measures import Measure, resampled
from mlplatform.learning.validation.statistics import Floats, Integers

NUMBER_NAMES: Final = ("mae", "rmse", "bias", "quantile_loss")


def number_measures(
    numbers: Floats,
    y: Floats,
    unit: Integers,
    *,
    quantile: float,
    seed: int,
    champion: Floats | None = None,
) -> tuple[Measure, ...]:
    """Mean absolute error, root mean square error, bias and quantile loss of numbers [n], in the
    unit of the labels y [n].

    Bias is the mean of numbers less labels: that of a champion's difference is how far all numbers
    have moved. Whole units are drawn with replacement, the same ones for both models (bootstrap
    percentiles). There are none without rows, or where a number is not finite.

    Sources: Koenker and Bassett, Econometrica 46 (1978) for the quantile loss; Field and Welsh
    (JRSS B, 2007) for the intervals.

    Args:
        quantile: the quantile (0 to 1) of the labels at which the quantile loss is least; at 0.5
            the loss is half of the mean absolute error.
        champion: the champion's numbers on the same rows; None if there is none.
    """
    both = [numbers] if champion is None else [numbers, champion]
    if len(y) == 0 or not all(bool(np.isfinite(found).all()) for found in both):
        return ()
    position = np.unique(unit, return_inverse=True)[1]
    models = [_Model(found - y, position, quantile) for found in both]
    return resampled(NUMBER_NAMES, models, units=int(position.max()) + 1, seed=seed)


class _Model:
    """One model's errors, summed by unit, ready to be measured under many weightings."""

    def __init__(self, errors: Floats, position: NDArray[np.intp], quantile: float) -> None:
        below = np.where(errors < 0, -quantile * errors, (1 - quantile) * errors)
        sums = (np.abs(errors), np.square(errors), errors, below, np.ones(len(errors)))
        self._sums = np.array([np.bincount(position, found) for found in sums])

    def values(self, times: Floats) -> list[float]:
        """The measures in the order of `NUMBER_NAMES`, each unit counted so many times."""
        absolute, square, signed, loss, rows = (self._sums @ times).tolist()
        return [absolute / rows, (square / rows) ** 0.5, signed / rows, loss / rows]
