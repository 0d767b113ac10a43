"""Inputs that know what no model may know: the outcome, the future, or the identity of a customer
or request.

A leaked input improves every figure, so no gate on quality finds it. It shows by itself: alone it
tells positives nearly as well as anything could, it has another value in every row, or it grows
with time, so that later requests lie beyond all that was learned.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mlplatform.learning.training_sets.dataset import LabelledRows
from mlplatform.learning.validation.gates import LeakageEvidence
from mlplatform.learning.validation.statistics import average_precision
from mlplatform.model.definition import ModelDefinition
from mlplatform.model.tensors.remainders import remainder_of
from mlplatform.model.tensors.vectors import length_of

Floats = NDArray[np.float64]

BINS: Final = 50
PRIOR_ROWS: Final = 20.0
CHECKED_ROWS: Final = 20_000
GROWS: Final = 0.99
DISTINCT: Final = 0.95
SHARED: Final = 0.001
WHOLE_BELOW: Final = 2.0**24
"""Whole number from which on float32 merges neighbouring whole numbers."""
ROWS_OF_A_UNIT: Final = 3
LEAST_UNITS: Final = 50


def leakage_evidence(
    definition: ModelDefinition, names: Sequence[str], fitting: LabelledRows, held_out: LabelledRows
) -> LeakageEvidence:
    """The evidence of these inputs on rows with a known outcome."""
    learned, x = fitting.matrix.columns(names), held_out.matrix.columns(names)
    alone = {
        name: average_precision(_shares(learned[:, i], fitting.y, x[:, i]), held_out.y)
        for i, name in enumerate(names)
    }
    identifiers, growing = identifying_inputs(definition, names, fitting)
    return LeakageEvidence(alone, identifiers, growing, int(held_out.y.sum()))


def identifying_inputs(
    definition: ModelDefinition, names: Sequence[str], fitting: LabelledRows
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The inputs that identify a customer or a request, and those that rise or fall with event
    time. A number of a vector may be one for each customer: it describes the customer by place. The
    remainders of a number say nothing alone, and are left out."""
    learned = fitting.matrix.columns(names)
    step = max(1, len(fitting) // CHECKED_ROWS)
    rows, event_ms = learned[::step], fitting.matrix.event_ms[::step]
    unit = fitting.matrix.unit
    entities = {f for f, field in definition.request.items() if field.entity}
    declared = {i.name for i in definition.inputs if i.kind == "field" and i.of in entities}
    own = [(i, name) for i, name in enumerate(names) if remainder_of(name) is None]
    return (
        tuple(
            name
            for i, name in own
            if name in declared
            or is_serial_number(rows[:, i], unit[::step])
            or (not length_of(name) and names_units(learned[:, i], unit))
        ),
        tuple(n for i, n in own if grows(rows[:, i], event_ms)),
    )


def _shares(
    learned: NDArray[np.float32], y: NDArray[np.int8], values: NDArray[np.float32]
) -> Floats:
    """The share of positives in each value's bin, learned from the rows `learned` with labels
    `y`."""
    cuts = _cuts(learned, y)
    bins, size = _bins(learned, cuts), len(cuts) + 2
    rows = np.bincount(bins, minlength=size)
    positives = np.bincount(bins, y.astype(np.float64), minlength=size)
    overall = float(y.mean()) if len(y) else 0.0
    shares: Floats = (positives + PRIOR_ROWS * overall) / (rows + PRIOR_ROWS)
    return shares[_bins(values, cuts)]


def _cuts(values: NDArray[np.float32], y: NDArray[np.int8]) -> Floats:
    """Quantiles of all rows and of the positives; a value that many rows share gets a bin of its
    own."""
    inner = np.linspace(0, 1, BINS + 1)[1:-1]
    present = np.isfinite(values)
    parts = [values[present], values[present & (y == 1)]]
    found = [np.quantile(part, inner, method="lower") for part in parts if len(part)]
    if not found:
        return np.zeros(0)
    edges = np.concatenate(found)
    above = np.nextafter(edges, np.float32(np.inf))
    return np.unique(np.concatenate([edges, above])).astype(np.float64)


def _bins(values: NDArray[np.float32], cuts: Floats) -> NDArray[np.intp]:
    found = np.searchsorted(cuts, values.astype(np.float64), side="right")
    return np.where(np.isfinite(values), found, len(cuts) + 1)


def is_serial_number(values: NDArray[np.float32], unit: NDArray[np.int64]) -> bool:
    """Whether the input looks like a serial number of the rows: whole numbers of which nearly every
    row has its own, and which hardly two units share. Amounts are shared: two customers do owe the
    same sum, however rarely."""
    present = np.isfinite(values)
    rows, values, unit = len(values), values[present], unit[present]
    whole = len(values) > 0 and bool((values == np.round(values)).all())
    if not whole or len(np.unique(values)) < DISTINCT * rows:
        return False
    exact = np.abs(values) < WHOLE_BELOW
    values, unit = values[exact], unit[exact]
    order = np.lexsort((unit, values))
    shared = (np.diff(values[order]) == 0) & (np.diff(unit[order]) != 0)
    return int(shared.sum()) <= SHARED * rows


def names_units(values: NDArray[np.float32], unit: NDArray[np.int64]) -> bool:
    """Whether the input is the unit by another name: one value for each unit, and one unit for each
    value."""
    units = len(np.unique(unit))
    if units < LEAST_UNITS or len(values) < ROWS_OF_A_UNIT * units or np.isnan(values).any():
        return False
    order = np.lexsort((values, unit))
    changes = (np.diff(unit[order]) != 0) | (np.diff(values[order]) != 0)
    pairs = 1 + int(changes.sum())
    return pairs == units and len(np.unique(values)) == units


def grows(values: NDArray[np.float32], event_ms: NDArray[np.int64]) -> bool:
    """Whether ranks of values and of times are nearly the same, or the reverse (Spearman)."""
    present = np.isfinite(values)
    values, event_ms = values[present], event_ms[present]
    if len(values) < LEAST_UNITS or len(np.unique(values)) < LEAST_UNITS:
        return False
    first, second = (np.argsort(np.argsort(v, kind="stable")) for v in (values, event_ms))
    return abs(float(np.corrcoef(first, second)[0, 1])) >= GROWS
