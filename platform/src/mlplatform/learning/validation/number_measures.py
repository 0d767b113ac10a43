"""Measures of a model of numbers: their distance from the labels, and its side."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from mlplatform.learning.validation.measures import Measure, mean_stakes, resampled
from mlplatform.learning.validation.statistics import Floats, Integers, Stakes

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
    have moved. Whole units are drawn with replacement, the same ones for both models (`resampled`).
    There are none without rows, or where a number is not finite.

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
    models = [_Model(found, y, position, quantile) for found in both]
    return resampled(NUMBER_NAMES, models, units=int(position.max()) + 1, seed=seed)


def plain_number_measures(numbers: Floats, y: Floats, *, quantile: float) -> dict[str, float]:
    """The measures of `number_measures` by name, without intervals."""
    model = _Model(numbers, y, np.zeros(len(y), np.intp), quantile)
    return dict(zip(NUMBER_NAMES, model.values(np.ones(1)), strict=True))


def absolute_errors(numbers: Floats, y: Floats) -> NDArray[np.float64]:
    """The distance of each number from its label. Their mean is the mean absolute error."""
    return np.abs(numbers - y)


class _Model:
    """One model's errors, summed by unit, ready to be measured under many weightings."""

    def __init__(
        self, numbers: Floats, y: Floats, position: NDArray[np.intp], quantile: float
    ) -> None:
        errors = numbers - y
        below = np.where(errors < 0, -quantile * errors, (1 - quantile) * errors)
        sums = (absolute_errors(numbers, y), np.square(errors), errors, below, np.ones(len(errors)))
        self._sums = np.array([np.bincount(position, found) for found in sums])

    def values(self, times: Floats) -> list[float]:
        """The measures in the order of `NUMBER_NAMES`, each unit counted so many times."""
        absolute, square, signed, loss, rows = (self._sums @ times).tolist()
        return [absolute / rows, (square / rows) ** 0.5, signed / rows, loss / rows]

    def stakes(self, other: _Model | None) -> list[Stakes]:
        """Returns what units have at stake: their errors."""
        both = [self] if other is None else [self, other]
        rows, absolute = self._sums[4], [one._sums[0] for one in both]
        found = []
        for parts, stake in (
            (absolute, absolute),
            ([one._roots() for one in both],) * 2,
            ([one._sums[2] for one in both], absolute),
            ([one._sums[3] for one in both],) * 2,
        ):
            others = None if other is None else parts[1]
            found.append(mean_stakes(parts[0], rows, others, stake=stake))
        return found

    def _roots(self) -> NDArray[np.float64]:
        """The parts of the root mean square error by unit: their mean over the rows is that error,
        and it changes by them if a unit is counted once more."""
        square, rows = self._sums[1], self._sums[4]
        root = (square.sum() / rows.sum()) ** 0.5
        found: NDArray[np.float64] = square if root == 0 else (square / root + rows * root) / 2
        return found
