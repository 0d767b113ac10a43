"""Curves and figures of scores against labels, of a whole sample and never of one row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mlplatform.learning.onnx.onnx_file import ScoringSession
from mlplatform.learning.validation.gates import MINIMUM_POSITIVES
from mlplatform.learning.validation.statistics import CALIBRATION_BINS, Ranking, average_precision
from mlplatform.model.tensors.vectors import spans

Floats = NDArray[np.floating[Any]]
Integers = NDArray[np.integer[Any]]

CURVE_POINTS: Final = 200
HISTOGRAM_BINS: Final = 40
TRIAL_ROWS: Final = 128


@dataclass(frozen=True, slots=True)
class CalibrationBins:
    """Rows in bins of equal counts by score; of each bin the mean score, the share of positives,
    and the number of rows."""

    predicted: Floats
    actual: Floats
    rows: Integers

    @property
    def error(self) -> float:
        """The expected calibration error; NaN without rows."""
        total = self.rows.sum()
        gaps = np.abs(self.predicted - self.actual) * self.rows
        return float(gaps.sum() / total) if total else float("nan")


def precision_recall(scores: Floats, y: Integers) -> NDArray[np.float64]:
    """Recall and precision [points, 2], recall rising, at most `CURVE_POINTS` cut-offs evenly over
    the positives; no points without a positive."""
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    if not y.any():
        return np.empty((0, 2))
    ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
    hits = np.cumsum(y[order], dtype=np.float64)[ends]
    precision, recall = hits / (ends + 1.0), hits / hits[-1]
    step = np.linspace(0, 1, CURVE_POINTS)
    kept = np.unique(np.minimum(np.searchsorted(recall, step), len(recall) - 1))
    return np.column_stack([recall[kept], precision[kept]])


def calibration_bins(scores: Floats, y: Integers) -> CalibrationBins:
    """The bins of `statistics.calibration_error_interval`."""
    order = np.argsort(scores, kind="stable")
    parts = np.array_split(order, min(CALIBRATION_BINS, max(1, len(order))))
    parts = [part for part in parts if len(part)]
    return CalibrationBins(
        np.array([scores[part].mean() for part in parts]),
        np.array([y[part].mean() for part in parts]),
        np.array([len(part) for part in parts], np.int64),
    )


def score_histogram(scores: Floats, y: Integers) -> NDArray[np.int64]:
    """Negatives and positives [bins, 2] in `HISTOGRAM_BINS` equal parts of 0-1."""
    edges = np.linspace(0, 1, HISTOGRAM_BINS + 1)
    counts = [np.histogram(scores[y == label], edges)[0] for label in (0, 1)]
    return np.column_stack(counts).astype(np.int64)


def permutation_importances(
    model: ScoringSession,
    x: NDArray[np.float32],
    y: Integers,
    *,
    names: Sequence[str],
    seed: int,
    budget_s: float,
) -> dict[str, float]:
    """Input → the loss of average precision if its values are shuffled among the rows; all numbers
    of a vector are shuffled together.

    Nothing is measured where the rows that can be scored in time hold too few positives.

    Args:
        names: the names of the inputs, in the order of a row.
        budget_s: about how many seconds all inputs together may take; if they are too few, fewer
            rows are scored.

    Source: Breiman, Random Forests (Machine Learning, 2001), section 10.
    """
    if not len(x):
        return {}
    inputs = spans(names)
    trial = x[:TRIAL_ROWS]
    row_s = model.seconds(trial) / len(trial)
    most = int(budget_s / max(row_s * (len(inputs) + 1), 1e-12))
    rng = np.random.default_rng(seed)
    kept = np.sort(rng.permutation(len(x))[:most])
    x, y = x[kept], y[kept]
    if int(y.sum()) < MINIMUM_POSITIVES:
        return {}
    whole, lost = average_precision(model.scores(x), y), {}
    for name, columns in inputs:
        shuffled = x.copy()
        shuffled[:, columns] = x[rng.permutation(len(x)), columns]
        lost[name] = whole - Ranking(model.scores(shuffled), y).average_precision()
    return lost
