"""A linear model of the network's inputs, beside which each version is measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.linear_model import LogisticRegression

INVERSE_PENALTY: Final = 3.0
MOST_ROUNDS: Final = 300
HOURS: Final = 24


class LinearModel:
    """Logistic regression over counts of tokens, the amount's logarithm with its square, and the
    hour as an angle.

    Args:
        texts: columns of the tokens of each text; the last two columns are amount and hour.
        classes: number of classes, of which some may not be among the rows to fit.
    """

    def __init__(self, texts: Sequence[slice], places: Sequence[int], classes: int) -> None:
        self._texts, self._places, self._count = texts, places, classes
        self._model = LogisticRegression(C=INVERSE_PENALTY, max_iter=MOST_ROUNDS)

    def fit(
        self,
        x: NDArray[np.float32],
        y: NDArray[np.int8],
        weight: NDArray[np.float64] | None = None,
    ) -> LinearModel:
        logs = np.log1p(x[:, -2])
        self._scale = float(np.nanmean(logs)), float(np.nanstd(logs)) + 1e-6
        self._model.fit(self._columns(x), y, sample_weight=weight)
        return self

    def scores(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """Probabilities of all classes, [n, classes]: 0 for one that was not among the rows."""
        found = np.zeros((len(x), self._count))
        found[:, self._model.classes_] = self._model.predict_proba(self._columns(x))
        return found

    def _columns(self, x: NDArray[np.float32]) -> Any:
        mean, spread = self._scale
        amount = np.nan_to_num((np.log1p(x[:, -2]) - mean) / spread)
        angle = np.nan_to_num(x[:, -1] * (2 * np.pi / HOURS))
        there = np.isfinite(x[:, -2:])
        numbers = [amount, amount**2 / 2, np.sin(angle), np.cos(angle) * there[:, 1]]
        counts = [_counts(x[:, t], n) for t, n in zip(self._texts, self._places, strict=True)]
        return sparse.hstack([*counts, sparse.csr_matrix(np.column_stack(numbers))]).tocsr()


def _counts(tokens: NDArray[np.float32], places: int) -> Any:
    """How often each token occurs in each row."""
    rows, columns = np.nonzero(np.isfinite(tokens))
    held = tokens[rows, columns].astype(np.int64)
    return sparse.csr_matrix((np.ones(len(rows)), (rows, held)), shape=(len(tokens), places))
