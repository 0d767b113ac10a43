"""The profile of a model: the distributions of its held-out days, small enough for its bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mlplatform.runtime.errors import InputInvalid

BINS = 10
LEVELS = 100  # of the stored quantiles: the midpoints 0.005, 0.015, … 0.995

# Served and trained values of one number may differ in the last digits of a float32. An edge a
# little above its decile keeps both on one side of it.
EDGE_TOLERANCE = 1e-5
WORD_SHARE = 0.01
NO_WORDS: Mapping[str, int] = {}
EMPTY_BIN_SHARE = 1e-4  # PSI has no value for an empty bin

Floats = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class Column:
    """The distribution of one number.

    Bin i holds the values in (edges[i-1], edges[i]]; the first and last bins are open. A value that
    fills a decile on its own has a bin of its own. Shares are of the present values and sum to 1.
    The places of a category have no order: it has no quantiles, and moves by its shares alone.
    """

    edges: tuple[float, ...]
    shares: tuple[float, ...]
    quantiles: tuple[float, ...]
    mean: float
    std: float
    missing_share: float

    @property
    def is_category(self) -> bool:
        return not self.quantiles


@dataclass(frozen=True, slots=True)
class Profile:
    """Inputs, calibrated score and alerts of a model on its held-out days."""

    rows: int
    units: int
    alert_share: float
    inputs: Mapping[str, Column]
    score: Column


def profile(
    matrix: Floats,
    names: Sequence[str],
    scores: Floats,
    alerts: npt.NDArray[np.bool_],
    units: npt.NDArray[np.int64],
    words: Mapping[str, int] = NO_WORDS,
) -> Profile:
    """The profile of a model, from requests that it was *not* fitted on.

    On its own training rows a model is surer than it will ever be again.

    Args:
        matrix: rows by inputs; a missing value is NaN.
        names: names of the matrix's columns.
        scores: calibrated scores, 0 to 1, one for each row.
        alerts: for each row, whether the decision was an alert.
        units: for each row, the assignment unit.
        words: category → number of words that it knows, for categories among the columns.

    Raises:
        InputInvalid: shapes differ, there are no rows, or a column has no value at all.
    """
    _check(matrix, names, scores, alerts, units)
    return Profile(
        rows=len(matrix),
        units=len(np.unique(units)),
        alert_share=float(np.mean(alerts)),
        inputs={
            name: category(matrix[:, i], name, words[name])
            if name in words
            else column(matrix[:, i], name)
            for i, name in enumerate(names)
        },
        score=column(scores, "score"),
    )


def column(values: Floats, name: str) -> Column:
    """The distribution of one column.

    Raises:
        InputInvalid: there is no finite value in it.
    """
    present = finite(values)
    if len(present) == 0:
        raise InputInvalid("training profile", None, f"{name} has no value at all")
    edges = _edges(present)
    return Column(
        edges=tuple(edges.tolist()),
        shares=tuple((bin_counts(present, edges) / len(present)).tolist()),
        quantiles=tuple(_short(q) for q in np.quantile(present, levels())),
        mean=_short(present.mean()),
        std=_short(present.std()),
        missing_share=1.0 - len(present) / len(values),
    )


def category(values: Floats, name: str, words: int) -> Column:
    """The distribution of the places of a category; place 1 is that of unknown values.

    That place has a bin of its own, as has each word of at least `WORD_SHARE`; rarer ones share
    bins of that share with the words beside them.

    Raises:
        InputInvalid: there is no value in it.
    """
    present = finite(values)
    if len(present) == 0:
        raise InputInvalid("training profile", None, f"{name} has no value at all")
    counts = np.bincount(present.astype(np.int64), minlength=words + 2)[2 : words + 2]
    edges, held = [1.5], 0
    for place, count in enumerate(counts.tolist(), 2):
        held += count
        if held >= WORD_SHARE * len(present):
            edges.append(place + 0.5)
            held = 0
    if len(edges) > 1:
        edges.pop()  # too little is left for a bin beyond the last edge
    return Column(
        edges=tuple(edges),
        shares=tuple((bin_counts(present, np.array(edges)) / len(present)).tolist()),
        quantiles=(),
        mean=_short(present.mean()),
        std=_short(present.std()),
        missing_share=1.0 - len(present) / len(values),
    )


def finite(values: Floats) -> npt.NDArray[np.float64]:
    """The present values as the model sees them: rounded to float32, held as float64."""
    as_seen = np.asarray(values).astype(np.float32, copy=False).astype(np.float64)
    there = np.isfinite(as_seen)
    return as_seen if there.all() else as_seen[there]


def bin_counts(
    values: npt.NDArray[np.float64], edges: npt.NDArray[np.float64]
) -> npt.NDArray[np.int64]:
    """The number of values in each of the len(edges) + 1 bins."""
    return np.bincount(np.searchsorted(edges, values, side="left"), minlength=len(edges) + 1)


def levels(count: int = LEVELS) -> npt.NDArray[np.float64]:
    """The levels of a column's quantiles: the midpoints of `count` equal parts of 0 to 1."""
    return (np.arange(count) + 0.5) / count


def distance(column: Column, present: npt.NDArray[np.float64]) -> float:
    """1-Wasserstein distance over the column's standard deviation.

    W1 is the integral of |F⁻¹(u) - G⁻¹(u)| over u in 0 to 1. Here it is the mean of that difference
    at the levels of the stored quantiles (the midpoint rule, 100 levels), so what moves only within
    the outermost half percent is not seen. A constant column is measured in its own units, and a
    category not at all.
    """
    if column.is_category:
        return 0.0
    now = np.quantile(present, levels(len(column.quantiles)))
    return float(np.mean(np.abs(now - np.array(column.quantiles)))) / (column.std or 1.0)


def rise(column: Column, present: npt.NDArray[np.float64]) -> float | None:
    """The signed part of `distance`: by how much values lie above the profile's, at the same
    levels. None for a category."""
    if column.is_category:
        return None
    now = np.quantile(present, levels(len(column.quantiles)))
    return float(np.mean(now - np.array(column.quantiles))) / (column.std or 1.0)


def share_psi(then: npt.NDArray[np.float64], now: npt.NDArray[np.float64]) -> float:
    """Population stability index of shares of the same bins, each summing to 1."""
    now, then = np.maximum(now, EMPTY_BIN_SHARE), np.maximum(then, EMPTY_BIN_SHARE)
    return float(np.sum((now - then) * np.log(now / then)))


def _edges(present: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    levels = np.arange(1, BINS) / BINS
    deciles = np.unique(np.quantile(present, levels, method="inverted_cdf"))
    spread = float(present.std())
    above = [v + _tolerance(v, spread) for v in deciles]
    below = [v - _tolerance(v, spread) for v in deciles if np.mean(present == v) >= 1 / BINS]
    return np.unique(np.array([*above, *below], dtype=np.float64))


def _tolerance(value: float, spread: float) -> float:
    return EDGE_TOLERANCE * max(abs(value), spread) or EDGE_TOLERANCE


def _short(value: float) -> float:
    return float(f"{value:.8g}")  # float32 has no more digits, and JSON stays readable


def _check(
    matrix: Floats,
    names: Sequence[str],
    scores: Floats,
    alerts: npt.NDArray[np.bool_],
    units: npt.NDArray[np.int64],
) -> None:
    if matrix.ndim != 2 or matrix.shape[1] != len(names):
        problem = f"matrix is {matrix.shape}, names are {len(names)}"
    elif not len(matrix) == len(scores) == len(alerts) == len(units):
        counts = len(scores), len(alerts), len(units)
        problem = f"{len(matrix)} rows; scores, alerts and units are {counts}"
    elif len(matrix) == 0:
        problem = "no rows"
    else:
        return
    raise InputInvalid("training profile", None, problem)
