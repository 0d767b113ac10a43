"""Parquet files from outside, read in a confined process that returns plain columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mlplatform.learning.features.input_files import open_files
from mlplatform.learning.features.parquet_work import (
    BATCH_ROWS,
    FULL_COLUMNS,
    MOST_COLUMNS,
    MOST_ROWS,
    VECTORS,
    prepare,
)
from mlplatform.runtime.errors import InputInvalid
from mlplatform.runtime.sandbox.limits import ProcessLimits
from mlplatform.runtime.sandbox.process import Sandbox, WorkRefused
from mlplatform.runtime.sandbox.protocol import Frame
from mlplatform.runtime.units import GIB

LIMITS: Final = ProcessLimits(memory_bytes=GIB, cpu_s=600)
"""Limits of the process, beyond what the libraries take. A row group is decoded page by page; 65
536 rows of a file of a million rows in one group took 40 MiB."""
OPEN_CPU_S: Final = 20.0
BATCH_CPU_S: Final = 20.0


class ParquetFiles:
    """A group of Parquet files of columns of plain numbers, truths, texts and vectors; to be used
    as a context.

    Args:
        rows_of_each: whether the limit on rows is for each file, and not for all together.
        casts: whether types that lose nothing by it are told and read as plain ones.

    Raises:
        InputInvalid: a file is not a plain file or is too large, or there are too many files.
        NotFound: a file can't be read.
        Unavailable: the confined process can't be started.
    """

    def __init__(
        self, paths: Sequence[Path], *, rows_of_each: bool = False, casts: bool = True
    ) -> None:
        self._names = [path.name for path in paths]
        self._rows, self._rows_of_each, self._casts = 0, rows_of_each, casts
        with ExitStack() as until:
            self._sandbox = Sandbox(prepare, LIMITS, open_files(paths, until))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._sandbox.close()

    @property
    def sandbox(self) -> Sandbox:
        """The confined process, for code that measures its use."""
        return self._sandbox

    def types(self, number: int) -> Mapping[str, str]:
        """The columns of a file and their types, in Arrow's terms.

        Raises:
            InputInvalid: the file is not Parquet, or it exceeds the limits; the message names the
                file.
        """
        asked = {"deed": "schema", "file": number, "casts": self._casts}
        body = self._ask(number, asked, OPEN_CPU_S).body
        names, types = body.get("names", ()), body.get("types", ())
        if not 0 < len(names) == len(types) <= MOST_COLUMNS or len(set(names)) < len(names):
            raise InputInvalid(self._names[number], None, "its columns have no names of their own")
        return {str(name): str(kind) for name, kind in zip(names, types, strict=True)}

    def field_ids(self, number: int) -> Mapping[int, str]:
        """Field id → column of a file, of those columns that have an id.

        Raises:
            InputInvalid: as `types` does, or two columns have one id.
        """
        names = list(self.types(number))
        found = self._ask(
            number, {"deed": "schema", "file": number, "casts": self._casts}, OPEN_CPU_S
        ).body
        ids = [one for one in found.get("ids", ()) if isinstance(one, int)]
        known = [one for one in ids if one >= 0]
        if len(ids) != len(names) or len(set(known)) < len(known):
            raise InputInvalid(self._names[number], None, "its columns have no ids of their own")
        return {one: name for one, name in zip(ids, names, strict=True) if one >= 0}

    def read(self, number: int, wanted: Mapping[str, pa.DataType]) -> pa.Table:
        """Columns of a file whose types are known.

        Raises:
            InputInvalid: the file is damaged, or it exceeds the limits; the message names the file.
        """
        schema = pa.schema(list(wanted.items()))
        return pa.Table.from_batches(self.batches(number, wanted), schema=schema)

    def batches(
        self, number: int, wanted: Mapping[str, pa.DataType], first: int = 0
    ) -> Iterator[pa.RecordBatch]:
        """The columns that `read` gives in batches of rows, from the row `first` on."""
        columns = list(wanted)
        asked = {"deed": "read", "file": number, "columns": columns, "first": first}
        self._ask(number, asked, OPEN_CPU_S)
        if self._rows_of_each:
            self._rows = 0
        while (frame := self._ask(number, {"deed": "next"}, BATCH_CPU_S)).arrays:
            batch = self._batch(number, frame, wanted)
            self._rows += batch.num_rows
            if self._rows > MOST_ROWS:
                problem = f"more than {MOST_ROWS} rows with the files above"
                raise InputInvalid(self._names[number], None, problem)
            yield batch

    def _ask(self, number: int, body: dict[str, Any], cpu_s: float) -> Frame:
        room = BATCH_ROWS * FULL_COLUMNS * 9
        try:
            return self._sandbox.ask(body, cpu_s=cpu_s, reply_bytes=room)
        except WorkRefused as error:
            raise InputInvalid(self._names[number], None, str(error)) from None

    def _batch(
        self, number: int, frame: Frame, wanted: Mapping[str, pa.DataType]
    ) -> pa.RecordBatch:
        missing = frame.body.get("missing", ())
        arrays = iter(frame.arrays)
        read = [
            _column([next(arrays, None) for _ in range(_parts(kind, name in missing))], kind)
            for name, kind in wanted.items()
        ]
        columns = [column for column in read if column is not None]
        lengths = {len(column) for column in columns}
        if len(columns) < len(read) or len(lengths) != 1 or not 0 < max(lengths) <= BATCH_ROWS:
            raise InputInvalid(
                self._names[number], None, "the sandbox process sent an invalid response"
            )
        return pa.RecordBatch.from_arrays(columns, names=list(wanted))


def _parts(kind: pa.DataType, has_missing: bool) -> int:
    """The number of arrays in which a column comes."""
    return 1 + (_is_text(kind) or kind in VECTORS) + has_missing


def _is_text(kind: pa.DataType) -> bool:
    return kind in (pa.string(), pa.large_string())


def _column(parts: Sequence[NDArray[Any] | None], kind: pa.DataType) -> pa.Array[Any] | None:
    """The column of these arrays; None if they are no arrays of such values."""
    if _is_text(kind):
        return None if (found := _texts(*parts)) is None else found.cast(kind)
    if kind in VECTORS:
        return _vectors(kind, *parts)
    values, nulls = parts[0], parts[1] if len(parts) > 1 else None
    stored = pa.int64() if pa.types.is_timestamp(kind) else kind
    stored = pa.uint8() if kind == pa.bool_() else stored
    if values is None or values.ndim != 1 or values.dtype != stored.to_pandas_dtype():
        return None
    if nulls is not None and (nulls.shape != values.shape or nulls.dtype != np.uint8):
        return None
    mask = None if nulls is None else nulls != 0
    if kind == pa.bool_():
        return pa.array(values != 0, type=kind, mask=mask)
    return pa.array(values, type=stored, mask=mask).view(kind)


def _texts(
    bounds: NDArray[Any] | None, content: NDArray[Any] | None, nulls: NDArray[Any] | None = None
) -> pa.Array[Any] | None:
    if bounds is None or content is None or bounds.dtype != np.int32 or content.dtype != np.uint8:
        return None
    if bounds.ndim != 1 or content.ndim != 1 or not len(bounds) or int(bounds[0]) != 0:
        return None
    if (np.diff(bounds) < 0).any() or int(bounds[-1]) != len(content):
        return None
    count, valid = len(bounds) - 1, None
    if nulls is not None:
        if nulls.shape != (count,) or nulls.dtype != np.uint8:
            return None
        valid = pa.py_buffer(np.packbits(nulls == 0, bitorder="little").tobytes())
    buffers = [valid, pa.py_buffer(bounds.tobytes()), pa.py_buffer(content.tobytes())]
    column: pa.Array[Any] = pa.Array.from_buffers(pa.string(), count, buffers)
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:  # no UTF-8
        return None
    return column


def _vectors(
    kind: pa.DataType,
    bounds: NDArray[Any] | None,
    numbers: NDArray[Any] | None,
    nulls: NDArray[Any] | None = None,
) -> pa.Array[Any] | None:
    lists: Any = kind
    if bounds is None or numbers is None or bounds.dtype != np.int32 or numbers.ndim != 1:
        return None
    if numbers.dtype != lists.value_type.to_pandas_dtype() or bounds.ndim != 1 or not len(bounds):
        return None
    if int(bounds[0]) != 0 or (np.diff(bounds) < 0).any() or int(bounds[-1]) != len(numbers):
        return None
    mask: Any = None
    if nulls is not None:
        if nulls.shape != (len(bounds) - 1,) or nulls.dtype != np.uint8:
            return None
        mask = pa.array(nulls != 0)
    offsets: Any = pa.array(bounds, pa.int32())
    return pa.ListArray.from_arrays(offsets, pa.array(numbers), mask=mask)
