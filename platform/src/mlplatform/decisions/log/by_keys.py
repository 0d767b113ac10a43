"""Records of a few decisions or of one customer in a sealed file: keys are read first, then only
the row groups that hold them.

A key does not tell where in a file its record lies, and the rest of a record is far larger than its
key. So the column of keys is read alone, other columns only of row groups with a match, and several
files at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from mlplatform.decisions.log.sealed_form import ID, id_columns, matching_ids, with_ids
from mlplatform.decisions.records.port import RecordQuery
from mlplatform.decisions.records.record import arrow_schema

if TYPE_CHECKING:  # a gateway starts without pyarrow
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

_UNIT: Final = "unit"
_FILTERED: Final = ("seq", "kind", "model", "event_ms", "generation", "rollout_id", _UNIT, ID)
"""The columns for which a query can have conditions."""
_KEYS_AT_ONCE: Final = 65_536
_AHEAD: Final = 2
"""Files that each thread reads ahead of the result: after a query's limit they are not needed."""


def has_keys(query: RecordQuery) -> bool:
    """Whether a query asks for certain decisions, or for those of one customer."""
    return _has_ids(query) or query.unit is not None


def by_keys(
    paths: Sequence[Path], query: RecordQuery, matching: pc.Expression
) -> Iterator[pa.Table]:
    """The records of files that match, in order, with the query's columns; where the query has a
    limit, the first ones up to it.

    Args:
        query: a query that `has_keys`.
        matching: filter with all conditions of the query, over the columns `_FILTERED`.

    Raises:
        pyarrow.ArrowException, OSError, ValueError: a file is missing or not readable.
    """
    import pyarrow as pa

    left = query.limit
    read = partial(_of_file, query=query, matching=matching)
    for found in _in_order(read, paths, threads=pa.cpu_count()):
        yield found.slice(0, left)
        if left is not None:
            left -= len(found)
            if left <= 0:
                return


def _in_order(
    read: Callable[[Path], pa.Table], paths: Sequence[Path], threads: int
) -> Iterator[pa.Table]:
    """The records that `read` gives of each file, in the order of the files."""
    if len(paths) == 1:
        yield read(paths[0])
        return
    rest, ahead = iter(paths), deque[Future[Any]]()
    with ThreadPoolExecutor(threads) as pool:
        ahead.extend(pool.submit(read, path) for path in islice(rest, _AHEAD * threads))
        try:
            while ahead:
                found = ahead.popleft().result()
                ahead.extend(pool.submit(read, path) for path in islice(rest, 1))
                yield found
        finally:
            pool.shutdown(cancel_futures=True)


def _of_file(path: Path, query: RecordQuery, matching: pc.Expression) -> pa.Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = arrow_schema(query.columns)
    columns = id_columns(tuple(dict.fromkeys((*query.columns, *_FILTERED))))
    parts = []
    with pq.ParquetFile(path, pre_buffer=False) as file:
        for group, places in _places(file, query):
            table = file.read_row_group(group, columns=columns, use_threads=False)
            parts.append(with_ids(table.take(places)))
    if not parts:
        return schema.empty_table()
    found = pa.concat_tables(parts).filter(matching)
    return found.select(list(query.columns)).cast(schema)


def _places(file: pq.ParquetFile, query: RecordQuery) -> Iterator[tuple[int, pa.Array[Any]]]:
    """The row groups of a file that hold wanted keys, each with the keys' places in it."""
    import pyarrow as pa
    import pyarrow.compute as pc

    keys = id_columns((ID if _has_ids(query) else _UNIT,))
    begun, parts = 0, []
    for batch in file.iter_batches(_KEYS_AT_ONCE, columns=keys, use_threads=False):
        places = pc.indices_nonzero(_matches(batch, query))
        parts.append(places.to_numpy().astype(np.int64) + begun)
        begun += len(batch)
    every = np.concatenate(parts) if parts else np.empty(0, np.int64)
    sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    ends = np.cumsum(sizes, dtype=np.int64)
    for group, end in enumerate(ends):
        start = end - sizes[group]
        inside = every[(every >= start) & (every < end)]
        if len(inside):
            yield group, pa.array(inside - start)


def _has_ids(query: RecordQuery) -> bool:
    named = (query.decision_id, query.decision_id_starts, query.decision_ids)
    return any(one is not None for one in named)


def _matches(batch: pa.RecordBatch, query: RecordQuery) -> pa.BooleanArray:
    import pyarrow as pa
    import pyarrow.compute as pc

    if not _has_ids(query):
        return pc.equal(batch.column(0), pa.scalar(query.unit, pa.int64()))
    one_of = query.decision_ids if query.decision_id is None else (query.decision_id,)
    return matching_ids(batch, one_of=one_of, starts=query.decision_id_starts)
