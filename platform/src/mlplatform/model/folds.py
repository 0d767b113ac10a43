"""Folds in time: the moments as of which a model is fitted again, and the days on which each fit is
tested."""

from __future__ import annotations

from dataclasses import dataclass

from mlplatform.model.definition import ModelDefinition
from mlplatform.runtime.units import DAY_MS


@dataclass(frozen=True, slots=True)
class Fold:
    """One fold, numbered from 1 for the oldest.

    Args:
        as_of_ms: a UTC midnight, epoch milliseconds. The fit uses what was known then; the test
            begins there.
        to_ms: the midnight at which the test ends. All of its requests have matured.
    """

    number: int
    from_ms: int
    as_of_ms: int
    to_ms: int


def fold_days(definition: ModelDefinition) -> int:
    """The number of days on which a fold is tested: as many as the gates have of the held-out
    days."""
    return definition.training.holdout_days // 2


def folds(definition: ModelDefinition, as_of_ms: int) -> tuple[Fold, ...]:
    """The folds of a model whose candidate is fitted as of a moment, oldest first; empty if
    model.yaml wants one hold-out.

    Source: rolling-origin evaluation; Tashman, International Journal of Forecasting 16 (2000).
    """
    training, mature = definition.training, definition.label.maturity_days
    if training.folds == 1:
        return ()
    days = fold_days(definition)
    last_ms = (as_of_ms - mature * DAY_MS) // DAY_MS * DAY_MS
    found = []
    for number in range(1, training.folds + 1):
        to_ms = last_ms - (training.folds - number) * days * DAY_MS
        origin_ms = to_ms - days * DAY_MS
        from_ms = origin_ms - (mature + training.window_days) * DAY_MS
        found.append(Fold(number, from_ms, origin_ms, to_ms))
    return tuple(found)


def training_day_ms(definition: ModelDefinition, last_ms: int, now_ms: int) -> int | None:
    """The midnight as of which to train, for a training set that ends with the day of the last
    request; None if the present does as well. A later set would end in days without any request."""
    matured_ms = (last_ms // DAY_MS + 1 + definition.label.maturity_days) * DAY_MS
    return matured_ms if matured_ms < now_ms // DAY_MS * DAY_MS else None


def history_days(definition: ModelDefinition) -> int:
    """The number of days before now of which training reads requests, the fits of its folds
    included."""
    training, mature = definition.training, definition.label.maturity_days
    one = mature + training.window_days + 1
    if training.folds == 1:
        return one
    return one + training.folds * fold_days(definition) + mature
