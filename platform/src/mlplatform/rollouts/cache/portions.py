"""The next records of a decision log, in portions that fit into memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import pyarrow as pa

from mlplatform.decisions.records.port import DecisionLog, RecordQuery

PORTION: Final = 20_000
"""The number of records of each writer that are counted in one transaction."""


def next_portion(log: DecisionLog, query: RecordQuery) -> tuple[pa.Table, dict[str, int]]:
    """The records after the query's positions, and the last number read of each writer that may
    have more.

    Args:
        query: query with `after` and `limit`; its columns include writer and seq.
    """
    table = log.read(query)
    pa.default_memory_pool().release_unused()  # otherwise the pool keeps all of it
    full: dict[str, int] = {}
    assert query.limit is not None
    if len(table) >= query.limit:
        groups = table.select(["writer", "seq"]).group_by("writer", use_threads=False)
        for row in groups.aggregate([("seq", "max"), ("seq", "count")]).to_pylist():
            if row["seq_count"] >= query.limit:
                full[row["writer"]] = row["seq_max"]
    return table, full


def common_positions(marks: Mapping[str, int], *full: Mapping[str, int]) -> dict[str, int]:
    """The number of each writer that all of several reads have reached: its mark, or the lowest
    last number of a read that may have more."""
    return {
        writer: min(seq, *(found.get(writer, seq) for found in full))
        for writer, seq in marks.items()
    }


def up_to(table: pa.Table, marks: Mapping[str, int]) -> pa.Table:
    """The records up to the marks. Later records are dropped, because not every read has reached
    them."""
    if not len(table):
        return table
    last = np.array([marks.get(str(w), 0) for w in table.column("writer").to_pylist()])
    return table.filter(pa.array(table.column("seq").to_numpy() <= last))
