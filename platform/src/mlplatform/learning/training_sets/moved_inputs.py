"""Measures how much each input of a training set moved over its days."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mlplatform.learning.training_sets.dataset import TrainingSet
from mlplatform.learning.training_sets.stability import Stability
from mlplatform.model.definition import InputSpec
from mlplatform.model.profile import Column, bin_counts, category, column, finite, share_psi
from mlplatform.runtime.units import DAY_MS

STRETCHES: Final = 5
MOST_ROWS: Final = 50_000
"""Most rows of a stretch that are compared."""
MEASURED: Final = frozenset(("field", "category", "ratio", "view", "window"))
"""Kinds of inputs that are one number which may move: of vectors and texts no place means anything
by itself, and hours and weekdays follow the calendar."""


def stability(dataset: TrainingSet, inputs: Sequence[InputSpec]) -> Stability:
    """The stability of these inputs; without indices where fewer than two stretches have rows.

    A missing value is a bin of its own, as is each frequent word of a category. Places of words are
    those of the model to be fitted.
    """
    matrix = dataset.by(dataset.vocabularies).rows.matrix
    window = dataset.window
    days = (window.to_ms - window.from_ms) // DAY_MS
    parts = [days * n // STRETCHES for n in range(STRETCHES + 1)]
    bounds = sorted({window.from_ms + part * DAY_MS for part in parts})
    stretches = list(pairwise(bounds))
    rows = [_some(matrix.event_ms, *stretch) for stretch in stretches]
    kept = [place for place, held in enumerate(rows) if len(held)]
    starts = tuple(stretches[place][0] for place in kept)
    if len(kept) < 2:
        return Stability(starts, {})
    found = {}
    for spec in inputs:
        if spec.kind not in MEASURED:
            continue
        values = matrix.columns([spec.name])[:, 0]
        first, *later = (values[rows[place]] for place in kept)
        if not len(finite(first)):  # it has no value at all
            continue
        words = dataset.vocabularies.get(spec.name)
        then = column(first, spec.name) if words is None else category(first, spec.name, len(words))
        found[spec.name] = tuple(_index(then, now) for now in later)
    return Stability(starts, found)


def _some(event_ms: NDArray[np.int64], from_ms: int, to_ms: int) -> NDArray[np.int64]:
    """The rows of a stretch, or as many of them as are compared, evenly apart."""
    first, last = np.searchsorted(event_ms, [from_ms, to_ms])
    step = max(1, -(-int(last - first) // MOST_ROWS))
    return np.arange(first, last, step)


def _index(then: Column, values: NDArray[np.float32]) -> float:
    present = finite(values)
    there = len(present) / len(values)
    now = bin_counts(present, np.array(then.edges)) / len(values)
    before = np.array(then.shares) * (1.0 - then.missing_share)
    return share_psi(np.append(before, then.missing_share), np.append(now, 1.0 - there))
