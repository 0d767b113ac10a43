"""The label of a decision that counts: the last to arrive, for every reader."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from mlplatform.decisions.records.record import LABEL_VALUES

_ARRIVAL: Final = ("event_ms", "recorded_ms", "seq")
RANK: Final = (*_ARRIVAL, LABEL_VALUES["binary"])
"""Sort key of labels; of two labels of a decision the one with the larger key counts. It arrived
later in event time; at equal event time it was recorded later; if that is equal too, its writer
gave it a larger number; and at last, it is the positive one. Event time may stand still between a
label and its correction; the wall clock does not."""


@dataclass(frozen=True, slots=True)
class LabelCounts:
    """Counts of requests: all of them, those with a label, and those with a positive one (0 if
    labels are classes or numbers)."""

    requests: int
    labelled: int
    positives: int


def label_columns(task: str = "binary") -> tuple[str, ...]:
    """The columns of the log that the rule reads, the label's value last."""
    return ("decision_id", *_ARRIVAL, LABEL_VALUES[task])


LABEL_COLUMNS: Final = label_columns()


def in_order(labels: pa.Table, task: str = "binary") -> pa.Table:
    """The labels that have a value, ordered so that the last row of each decision counts.

    Args:
        labels: table with the `label_columns` of the task, in any order.
    """
    known = labels.filter(pc.is_valid(labels[LABEL_VALUES[task]]))
    return known.sort_by([(name, "ascending") for name in (*_ARRIVAL, LABEL_VALUES[task])])


def last_labels(labels: pa.Table, *, until_ms: int | None = None) -> dict[str, int]:
    """Decision → its last label, 0 or 1.

    Args:
        labels: table with `LABEL_COLUMNS`, in any order.
        until_ms: event time; labels that arrived later are left out. None means that all labels
            count.
    """
    return {i: label for i, (_, label) in dated_labels(labels, until_ms=until_ms).items()}


def dated_labels(
    labels: pa.Table, *, until_ms: int | None = None, task: str = "binary"
) -> dict[str, tuple[int, Any]]:
    """Decision → event time at which its last label arrived, and that label: 0 or 1, a class or a
    number, by the model's task. The rule is that of `last_labels`."""
    ordered = in_order(labels, task)
    names = ("decision_id", "event_ms", LABEL_VALUES[task])
    rows = zip(*(ordered[name].to_pylist() for name in names), strict=True)
    return {i: (at_ms, label) for i, at_ms, label in rows if until_ms is None or at_ms <= until_ms}
