"""Tables of requests in the order of event time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # a model's folder is read without pyarrow
    import pyarrow as pa


def in_order(table: pa.Table) -> pa.Table:
    """The rows by event time and id; a table that is in this order is not copied."""
    # a fit does without
    import pyarrow as pa
    import pyarrow.compute as pc

    steps = np.diff(table.column("event_time").cast(pa.int64()).to_numpy())
    same, ids = np.flatnonzero(steps == 0), table.column("request_id")
    if not (steps < 0).any() and pc.all(pc.less(ids.take(same), ids.take(same + 1))).as_py():
        return table
    return table.sort_by([("event_time", "ascending"), ("request_id", "ascending")])


def between(table: pa.Table, from_ms: int, to_ms: int) -> pa.Table:
    """The rows of a table in order whose event time is in [from_ms, to_ms)."""
    first, last = np.searchsorted(epoch_ms(table, "event_time"), [from_ms, to_ms])
    return table.slice(int(first), int(last - first))


def epoch_ms(table: pa.Table, column: str) -> NDArray[np.int64]:
    """Epoch milliseconds; for a missing time the smallest number of the type."""
    times = table.column(column).to_numpy()
    return times.astype("datetime64[ms]").astype(np.int64)
