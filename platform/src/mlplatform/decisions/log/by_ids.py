"""Records of a few decisions in a sealed file: their ids are read first, then only the row groups
that hold them.

An id does not tell where in a file its record lies, and the rest of a record is far larger than its
id. So the column of ids is read alone, and other columns one row group at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mlplatform.decisions.records.port import RecordQuery
from mlplatform.decisions.records.record import arrow_schema

if TYPE_CHECKING:  # a gateway starts without pyarrow
    import pyarrow as pa
    import pyarrow.compute as pc

_ID: Final = "decision_id"
_FILTERED: Final = ("seq", "kind", "model", "event_ms", "generation", "rollout_id", "unit", _ID)
"""The columns for which a query can have conditions."""


def has_ids(query: RecordQuery) -> bool:
    """Whether a query asks for certain decisions only."""
    named = (query.decision_id, query.decision_id_starts, query.decision_ids)
    return any(one is not None for one in named)


def by_ids(path: Path, query: RecordQuery, matching: pc.Expression) -> Iterator[pa.Table]:
    """The records of a file that match, in order, with the query's columns.

    Args:
        query: a query that `has_ids`.
        matching: filter with all conditions of the query, over the columns `_FILTERED`.

    Raises:
        pyarrow.ArrowException, OSError, ValueError: the file is missing or not readable.
    """
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    columns = list(dict.fromkeys((*query.columns, *_FILTERED)))
    schema = arrow_schema(query.columns)
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            ids = file.read_row_group(group, columns=[_ID], use_threads=False).column(_ID)
            places = pc.indices_nonzero(_matches(ids, query))
            if not len(places):
                continue
            table = file.read_row_group(group, columns=columns, use_threads=False)
            found = table.take(places).filter(matching)
            yield found.select(list(query.columns)).cast(schema)


def _matches(ids: pa.ChunkedArray[Any], query: RecordQuery) -> pa.BooleanArray:
    import pyarrow as pa
    import pyarrow.compute as pc

    if query.decision_id is not None:
        return pc.equal(ids, pa.scalar(query.decision_id))
    if query.decision_ids is not None:
        return pc.is_in(ids, value_set=pa.array(query.decision_ids, pa.string()))
    return pc.starts_with(ids, query.decision_id_starts or "")
