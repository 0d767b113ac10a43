"""Measures of a binary model, beside the champion's: ranking, separation and probability."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from mlplatform.learning.validation.statistics import (
    QUALITY_LEVEL,
    RESAMPLES,
    Floats,
    Integers,
    Interval,
    Ranking,
)

NAMES: Final = ("average_precision", "auc", "gini", "ks", "brier", "log_loss")
RANKING: Final = NAMES[:4]
"""Those that depend on the order of the scores alone."""
LESS_IS_BETTER: Final = frozenset(("brier", "log_loss"))
SMALLEST: Final = 1e-15
"""Least distance of probabilities from 0 and 1 in the log loss, as in scikit-learn."""


@dataclass(frozen=True, slots=True)
class Measure:
    """One measure on rows that no fit saw, with 90 % intervals by unit.

    Args:
        champion, difference: the champion's measure on the same rows, and the candidate's minus it;
            None if there is no champion, or if it can't be run any more.
    """

    name: str
    candidate: Interval
    champion: Interval | None = None
    difference: Interval | None = None

    @property
    def is_known(self) -> bool:
        """Whether all of its numbers have a value."""
        found = (self.candidate, self.champion, self.difference)
        return all(
            np.isfinite((one.value, one.low, one.high)).all() for one in found if one is not None
        )


class UnitSums(Protocol):
    """One model's answers, summed by unit."""

    def values(self, times: Floats) -> Any:
        """The measures, with each unit counted this many times."""


def binary_measures(
    scores: Floats, y: Integers, unit: Integers, *, seed: int, champion: Floats | None = None
) -> tuple[Measure, ...]:
    """Average precision, AUC, Gini, KS, Brier score and log loss of calibrated scores [n], 0 to 1.

    Whole units are drawn with replacement, the same ones for both models (bootstrap percentiles).
    There are no measures without rows or if a score is NaN. A measure that needs both labels is NaN
    if there is only one.

    Sources: Hanley and McNeil, Radiology 143 (1982) for the AUC; Gini = 2 AUC - 1; Brier, Monthly
    Weather Review 78 (1950); Field and Welsh (JRSS B, 2007) for the intervals.
    """
    both = [scores] if champion is None else [scores, champion]
    if len(y) == 0 or any(bool(np.isnan(s).any()) for s in both):
        return ()
    position = np.unique(unit, return_inverse=True)[1]
    models = [_Model(s, y, position) for s in both]
    return resampled(NAMES, models, units=int(position.max()) + 1, seed=seed)


def resampled(
    names: Sequence[str], models: Sequence[UnitSums], *, units: int, seed: int
) -> tuple[Measure, ...]:
    """Measures of a candidate, and beside a champion where `models` holds it second.

    Whole units are drawn with replacement, the same ones for both models (bootstrap percentiles).
    """
    rng = np.random.default_rng(seed)
    draws = np.empty((RESAMPLES, len(models), len(names)))
    for draw in draws:
        times = np.bincount(rng.integers(0, units, units), minlength=units).astype(np.float64)
        draw[:] = [model.values(times) for model in models]
    values = np.array([model.values(np.ones(units)) for model in models])
    own = intervals(values[0], draws[:, 0])
    if len(models) == 1:
        return tuple(Measure(name, found) for name, found in zip(names, own, strict=True))
    other = intervals(values[1], draws[:, 1])
    gap = intervals(values[0] - values[1], draws[:, 0] - draws[:, 1])
    return tuple(Measure(*parts) for parts in zip(names, own, other, gap, strict=True))


def plain_measures(scores: Floats, y: Integers) -> dict[str, float]:
    """The measures of `binary_measures` by name, without intervals; NaN where one is not told."""
    model = _Model(scores, y, np.arange(len(y)))
    return dict(zip(NAMES, model.values(np.ones(len(y))), strict=True))


def mean_measure(
    name: str, values: Floats, unit: Integers, *, seed: int, champion: Floats | None = None
) -> Measure:
    """The mean of one number a row [n], with 90 % intervals by unit, as of `binary_measures`.

    Args:
        champion: the champion's numbers on the same rows; None if there is none.
    """
    both = np.array([values] if champion is None else [values, champion], np.float64)
    if both.shape[1] == 0:
        nothing = Interval(np.nan, np.nan, np.nan)
        return Measure(name, nothing)
    position = np.unique(unit, return_inverse=True)[1]
    sums = np.array([np.bincount(position, of_one) for of_one in both])
    counts, rng = np.bincount(position).astype(np.float64), np.random.default_rng(seed)
    draws = np.empty((RESAMPLES, len(both)))
    for draw in draws:
        times = np.bincount(rng.integers(0, len(counts), len(counts)), minlength=len(counts))
        draw[:] = sums @ times / (counts @ times)
    means = both.mean(axis=1)
    own, *other = intervals(means, draws)
    if champion is None:
        return Measure(name, own)
    return Measure(name, own, other[0], *intervals(-np.diff(means), -np.diff(draws)))


class _Model:
    """The scores of one model, ready to be measured under many weightings of the units."""

    def __init__(self, scores: Floats, y: Integers, position: NDArray[np.intp]) -> None:
        self._ranking, self._position = Ranking(scores, y), position
        held = np.clip(scores, SMALLEST, 1 - SMALLEST)
        losses = (np.square(scores - y), -np.log(np.where(y == 1, held, 1 - held)))
        self._losses = np.array([np.bincount(position, loss) for loss in losses])
        self._rows = np.bincount(position).astype(np.float64)

    def values(self, times: Floats) -> list[float]:
        """The measures in the order of `NAMES`, each unit counted so many times."""
        precision, area, distance = self._ranking.measures(times[self._position])
        losses: Any = self._losses @ times / (self._rows @ times)
        return [precision, area, 2 * area - 1, distance, *losses.tolist()]


def intervals(values: Floats, draws: NDArray[np.float64]) -> list[Interval]:
    """Values with the 90 % percentiles of their draws [draws, values]."""
    ends = [(1 - QUALITY_LEVEL) / 2, (1 + QUALITY_LEVEL) / 2]
    found = []
    for value, drawn in zip(values.tolist(), draws.T, strict=True):
        held = drawn[np.isfinite(drawn)]
        low, high = np.quantile(held, ends).tolist() if len(held) else (np.nan, np.nan)
        found.append(Interval(value, low, high))
    return found
