"""Measures of a binary model, beside the champion's: ranking, separation and probability."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from mlplatform.learning.validation.statistics import (
    Floats,
    Integers,
    Interval,
    Ranking,
    Stakes,
    drawn_units,
)

NAMES: Final = ("average_precision", "auc", "gini", "ks", "brier", "log_loss")
RANKING: Final = NAMES[:4]
"""Those that depend on the order of the scores alone."""
LESS_IS_BETTER: Final = frozenset(("brier", "log_loss", "mae", "rmse", "quantile_loss"))
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

    def stakes(self, other: Any) -> Sequence[Stakes]:
        """Returns what units have at stake in each measure, or in its difference to another's."""


def binary_measures(
    scores: Floats, y: Integers, unit: Integers, *, seed: int, champion: Floats | None = None
) -> tuple[Measure, ...]:
    """Average precision, AUC, Gini, KS, Brier score and log loss of calibrated scores [n], 0 to 1.

    Whole units are drawn with replacement, the same ones for both models (`resampled`). There are
    no measures without rows or if a score is NaN. A measure that needs both labels is NaN
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
    names: Sequence[str],
    models: Sequence[UnitSums],
    *,
    units: int,
    seed: int,
    parts: int = 1,
) -> tuple[Measure, ...]:
    """Measures of a candidate, and beside a champion where `models` holds it second.

    Whole units are drawn with replacement, the same ones for both models, and one more that is
    against each end (`Stakes`).

    Args:
        parts: number of intervals that share the error of one (`shared_error`).
    """

    def measured(times: Floats) -> list[Floats]:
        found: list[Floats] = [np.asarray(model.values(times), np.float64) for model in models]
        return found if len(found) == 1 else [*found, found[0] - found[1]]

    stakes = [model.stakes(None) for model in models]
    if len(models) == 2:
        stakes.append(models[0].stakes(models[1]))
    sizes = np.array([one.sizes for one in stakes[0]])
    values, drawn, weights, more = measured(np.ones(units)), [], [], []
    for times, again in drawn_units(units, seed=seed, parts=parts):
        drawn.append(measured(times))
        weights.append(sizes @ times)
        more.append(again)
    draws, weighed, extra = np.array(drawn), np.array(weights), np.array(more)

    def found(place: int) -> Iterator[Interval]:
        for which, (of_one, value) in enumerate(zip(stakes, values, strict=True)):
            of_draws = draws[:, which, place]
            own = float(value[place])
            yield of_one[place].interval(own, of_draws, weighed[:, place], extra, parts=parts)

    return tuple(Measure(name, *found(place)) for place, name in enumerate(names))


def plain_measures(scores: Floats, y: Integers) -> dict[str, float]:
    """The measures of `binary_measures` by name, without intervals; NaN where one is not told."""
    model = _Model(scores, y, np.arange(len(y)))
    return dict(zip(NAMES, model.values(np.ones(len(y))), strict=True))


def mean_measure(
    name: str,
    values: Floats,
    unit: Integers,
    *,
    seed: int,
    champion: Floats | None = None,
    bounds: tuple[float, float] | None = None,
    parts: int = 1,
) -> Measure:
    """The mean of one number a row [n], with 90 % intervals by unit, as of `binary_measures`.

    Args:
        champion: the champion's numbers on the same rows; None if there is none.
        bounds: the range of the numbers, such as 0 to 1 for right answers; None without one.
        parts: number of intervals that share the error of one (Bonferroni).
    """
    if len(values) == 0:
        nothing = Interval(np.nan, np.nan, np.nan)
        return Measure(name, nothing)
    position = np.unique(unit, return_inverse=True)[1]
    both = [values] if champion is None else [values, champion]
    models = [_Mean(of_one, position, bounds) for of_one in both]
    return resampled((name,), models, units=int(position.max()) + 1, seed=seed, parts=parts)[0]


class _Mean:
    """The numbers of one model, summed by unit."""

    def __init__(
        self, values: Floats, position: NDArray[np.intp], bounds: tuple[float, float] | None
    ) -> None:
        self._sums: Floats = np.bincount(position, values).astype(np.float64)
        self._stake: Floats = np.bincount(position, np.abs(values)).astype(np.float64)
        self._rows, self._bounds = np.bincount(position).astype(np.float64), bounds

    def values(self, times: Floats) -> list[float]:
        """The mean, each unit counted so many times."""
        return [float(self._sums @ times / (self._rows @ times))]

    def stakes(self, other: _Mean | None) -> list[Stakes]:
        """Returns what units have at stake in the mean."""
        if self._bounds is not None:
            return [bounded_stakes(self._rows, *self._bounds, beside=other)]
        if other is None:
            return [mean_stakes(self._sums, self._rows, None, stake=[self._stake])]
        stake = [self._stake, other._stake]
        return [mean_stakes(self._sums, self._rows, other._sums, stake=stake)]


class _Model:
    """The scores of one model, ready to be measured under many weightings of the units."""

    def __init__(self, scores: Floats, y: Integers, position: NDArray[np.intp]) -> None:
        self._ranking, self._position = Ranking(scores, y), position
        held = np.clip(scores, SMALLEST, 1 - SMALLEST)
        losses = (np.square(scores - y), -np.log(np.where(y == 1, held, 1 - held)))
        self._losses = np.array([np.bincount(position, loss) for loss in losses])
        self._rows = np.bincount(position).astype(np.float64)
        self._positives = np.bincount(position, y == 1).astype(np.float64)

    def values(self, times: Floats) -> list[float]:
        """The measures in the order of `NAMES`, each unit counted so many times."""
        precision, area, distance = self._ranking.measures(times[self._position])
        losses: Any = self._losses @ times / (self._rows @ times)
        return [precision, area, 2 * area - 1, distance, *losses.tolist()]

    def stakes(self, other: _Model | None) -> list[Stakes]:
        """Returns what units have at stake: their positives in orders, their losses in others."""
        ranges = ((0.0, 1.0), (0.0, 1.0), (-1.0, 1.0), (0.0, 1.0))
        others = [None] * len(self._losses) if other is None else other._losses
        return [
            *(bounded_stakes(self._positives, *ends, beside=other) for ends in ranges),
            *(mean_stakes(o, self._rows, c) for o, c in zip(self._losses, others, strict=True)),
        ]


def bounded_stakes(sizes: Floats, least: float, most: float, *, beside: object) -> Stakes:
    """The stakes of a measure within a range; of its difference, if there is a model beside."""
    if beside is None:
        return Stakes.bounded(sizes, least, most)
    return Stakes.bounded(sizes, least - most, most - least)


def mean_stakes(
    parts: Floats, sizes: Floats, other: Floats | None, *, stake: Sequence[Floats] | None = None
) -> Stakes:
    """The stakes of a mean without a range; of its difference, if there are the other model's
    parts.

    Args:
        parts, other: each unit's part of the dividend [units].
        stake: what units have at stake by each model, 0 or more; None: their parts.
    """
    both = [parts] if other is None else [parts, other]
    of_all = np.mean(both if stake is None else stake, axis=0)
    if other is not None:
        return Stakes.of_sums(parts - other, sizes, of_all)
    least = 0.0 if (parts >= 0).all() else -np.inf
    return Stakes.of_sums(parts, sizes, of_all, least=least)
