"""A history in Parquet files with the columns of the model: for folders without `sources.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from mlplatform.learning.features.parquet_files import ParquetFiles
from mlplatform.learning.features.rows import history_schema, is_missing, refuse
from mlplatform.model.definition import ModelDefinition
from mlplatform.runtime.errors import InputInvalid

_INTEGERS: Final = (pa.int64(), pa.int32(), pa.int16(), pa.int8())
_TIMES: Final = tuple(pa.timestamp(unit) for unit in ("us", "ns", "ms", "s"))
_TAKEN: Final[dict[str, tuple[pa.DataType, ...]]] = {
    "request_id": _INTEGERS,
    "event_time": _TIMES,
    "label": _INTEGERS,
    "label_time": _TIMES,
}
_FIELDS: Final[dict[str, tuple[pa.DataType, ...]]] = {
    "int64": _INTEGERS,
    "float64": (pa.float64(), pa.float32(), *_INTEGERS),
}


def read_history(path: Path, definition: ModelDefinition, *, now_ms: int | None) -> pa.Table:
    """All rows of a Parquet file, or of a folder's Parquet files by name, as `history_schema` says.

    Columns are `request_id` (a whole number), `event_time`, the request's fields, `label` (0, 1 or
    missing) and `label_time`; times are UTC.

    Args:
        now_ms: no row may be later; None where the data is from another time than ours.

    Raises:
        InputInvalid: names the file and the column; nothing was read. Or the model has a field of
            texts or yes and no, which its own `sources.py` must read.
    """
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise InputInvalid(str(path), None, "there is no Parquet file")
    taken = _taken(definition)
    with ParquetFiles(files) as parquet:
        tables = [_table(parquet, n, file.name, taken) for n, file in enumerate(files)]
    table = pa.concat_tables([_canonical(table, definition) for table in tables])
    if now_ms is not None:
        late = table.column("event_time").cast(pa.int64()).to_numpy() > now_ms * 1000
        refuse(late, str(path), "event_time is in the future", table.column("event_time"))
    return table


def _taken(definition: ModelDefinition) -> dict[str, tuple[pa.DataType, ...]]:
    for name, field in definition.request.items():
        if field.type not in _FIELDS:
            problem = f"a history with field {name} ({field.type}) needs a sources.py"
            raise InputInvalid(definition.name, None, problem)
    fields = {name: _FIELDS[field.type] for name, field in definition.request.items()}
    return {**_TAKEN, **fields}


def _table(
    parquet: ParquetFiles, number: int, source: str, taken: dict[str, tuple[pa.DataType, ...]]
) -> pa.Table:
    found, wanted = parquet.types(number), {}
    for name, kinds in taken.items():
        if name not in found:
            raise InputInvalid(source, None, f"column {name} is missing")
        kind = next((kind for kind in kinds if str(kind) == found[name]), None)
        if kind is None:
            problem = f"column {name} is {found[name]}; wanted: {' or '.join(map(str, kinds))}"
            raise InputInvalid(source, None, problem)
        wanted[name] = kind
    table = parquet.read(number, wanted)
    refuse(is_missing(table.column("request_id")), source, "request_id is missing")
    return table


def _canonical(table: pa.Table, definition: ModelDefinition) -> pa.Table:
    schema = history_schema(definition)
    columns: list[Any] = [
        pc.cast(table.column(field.name), field.type, safe=not pa.types.is_timestamp(field.type))
        for field in schema
    ]
    return pa.table(columns, schema=schema)
