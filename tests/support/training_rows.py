"""Training sets of made-up payments, with frauds that can be learned."""

from __future__ import annotations

import numpy as np

from mlplatform.learning.training_sets.dataset import (
    LabelledRows,
    Matrix,
    TrainingSet,
    rows_digest,
    window,
)
from mlplatform.model.folders import load_definition
from mlplatform.runtime.units import DAY_MS

DEFINITION = load_definition("fraud")
NAMES = tuple(i.name for i in DEFINITION.inputs)
TO_MS = 20_000 * DAY_MS


def payments(seed: int, per_day: int = 2500, to_ms: int = TO_MS) -> TrainingSet:
    """Payments whose fraud depends on the amount and on the terminal's past."""
    rng = np.random.default_rng(seed)
    as_of_ms = to_ms + DEFINITION.label.maturity_days * DAY_MS
    bounds = window(DEFINITION, as_of_ms)
    days = (bounds.to_ms - bounds.from_ms) // DAY_MS
    count = days * per_day
    event_ms = np.sort(rng.integers(bounds.from_ms, bounds.to_ms, count))
    x = rng.gamma(2.0, 1.0, (count, len(NAMES))).astype(np.float32)
    amount, risk = NAMES.index("amount"), NAMES.index("terminal_risk_7d")
    x[:, amount] = rng.lognormal(3.5, 0.7, count)
    x[:, risk] = np.where(rng.random(count) < 0.02, rng.random(count), 0.0)
    odds = -6.0 + 7.0 * x[:, risk] + 0.012 * x[:, amount]
    y = (rng.random(count) < 1 / (1 + np.exp(-odds))).astype(np.int8)
    x[rng.random(x.shape) < 0.05] = np.nan
    matrix = Matrix(NAMES, x, event_ms, rng.integers(0, 800, count))
    return TrainingSet(
        model="fraud",
        rows=LabelledRows(matrix, y),
        window=bounds,
        as_of_ms=as_of_ms,
        labels_until_ms=as_of_ms,
        digest=rows_digest(matrix, y),
    )
