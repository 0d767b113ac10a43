"""Which label of a decision counts: the last to arrive, for every reader alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import pyarrow as pa

RANK: Final = ("event_ms", "recorded_ms", "seq", "label")
"""Of two labels the one that is larger here counts: it arrived later in event time; at one event
time, it was recorded later; where even that is equal, its writer numbered it higher, and at last it
says positive. Event time may stand still between a label and its correction, the wall clock does
not.
"""
LABEL_COLUMNS: Final = ("decision_id", *RANK)
"""The columns of the log that the rule reads."""


def in_order(labels: pa.Table) -> pa.Table:
    """The labels that say something, of which each decision's last row counts.

    Args:
        labels: with `LABEL_COLUMNS`, in any order.
    """
    import pyarrow.compute as pc

    said = labels.filter(pc.is_valid(labels["label"]))
    return said.sort_by([(name, "ascending") for name in RANK])


def last_labels(labels: pa.Table, *, until_ms: int | None = None) -> dict[str, int]:
    """Decision → its last label, 0 or 1.

    Args:
        labels: with `LABEL_COLUMNS`, in any order.
        until_ms: labels that arrived later, in event time, are not known.
    """
    return {i: label for i, (_, label) in dated_labels(labels, until_ms=until_ms).items()}


def dated_labels(labels: pa.Table, *, until_ms: int | None = None) -> dict[str, tuple[int, int]]:
    """Decision → when its last label arrived, in event time, and that label; as `last_labels`."""
    ordered = in_order(labels)
    rows = zip(*(ordered[n].to_pylist() for n in ("decision_id", "event_ms", "label")), strict=True)
    return {i: (at_ms, label) for i, at_ms, label in rows if until_ms is None or at_ms <= until_ms}
