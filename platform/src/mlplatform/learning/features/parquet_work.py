"""The work of the confined process on Parquet files: it reads columns of plain numbers, truths,
texts and vectors (lists of floats) in batches of rows.

Types that lose nothing by it become plain ones: unsigned whole numbers, decimals, dates, float16,
and categories of texts.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mlplatform.runtime.errors import InputInvalid
from mlplatform.runtime.sandbox.protocol import Frame
from mlplatform.runtime.units import DAY_S, MIB

BATCH_ROWS: Final = 65_536
FULL_COLUMNS: Final = 64
"""Most columns of a batch of so many rows. A batch of more columns has fewer rows, so that it is no
larger."""
VECTOR_BATCH_ROWS: Final = 2048
"""Rows of a batch with vectors, of which a thousand numbers are 8 KiB a row."""
MOST_NUMBERS: Final = 2 * MIB
"""Most numbers of one column's vectors in one batch: 1,024 to a row."""
MOST_TEXT_BYTES: Final = 16 * MIB
"""Most bytes of one column's texts in one batch: 256 to a row."""
MOST_ROWS: Final = 20_000_000
MOST_ROW_GROUPS: Final = 10_000
MOST_COLUMNS: Final = 4_096
"""Most columns of a file; most of them may be columns that nothing reads."""
MOST_RATIO: Final = 1_000
"""Most bytes of pages for a byte of the file; only made-up data goes beyond a few hundred."""
MOST_DECODED_RATIO: Final = 200
"""Most bytes of values for a byte of the file. Pages of repeats are small, but all of their values
are held. Requests as banks write them have fewer than ten."""
RATIO_FREE_BYTES: Final = 16 * MIB
MOST_FOOTER_BYTES: Final = 16 * MIB
MOST_FOOTER_ENTRIES: Final = 1_000_000
STREAM_BYTES: Final = 64 * 1024
"""Bytes that are read of a column at a time where many columns are read at once. Their parts of a
row group would not fit into memory together."""
_OTHER_SIZE: Final = "Expected all lists to be of size="
"""What pyarrow says of a missing list of a fixed length, which it can write but not read."""
_FIELD_ID: Final = b"PARQUET:field_id"
_ID_DIGITS: Final = 10
VECTORS: Final = (pa.list_(pa.float32()), pa.list_(pa.float64()))
_NUMBERS: Final[tuple[pa.DataType, ...]] = (
    *(pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.float32(), pa.float64()),
    *(pa.timestamp(unit) for unit in ("s", "ms", "us", "ns")),
)
_UNSIGNED: Final = (pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64())
_HALF, _DATE = pa.float16(), pa.date32()
_EXACT: Final = 2**53
"""Greatest whole number up to which float64 has every one."""
_EXACT_SCALE: Final = 22
"""Greatest power of ten that a float64 is exactly."""


def prepare(files: Sequence[int]) -> Callable[[Frame], Frame]:
    """The function that answers requests about these open files; it has imported everything that
    libraries import late."""
    _try_out()
    return _Work([os.fdopen(number, "rb", buffering=0) for number in files]).handle


class _Work:
    """Open files, and the file that is being read."""

    def __init__(self, files: Sequence[Any]) -> None:
        self._files = files
        self._batches: Iterator[pa.RecordBatch] = iter(())

    def handle(self, frame: Frame) -> Frame:
        body = frame.body
        try:
            if body["deed"] == "next":
                return self._next()
            columns = body.get("columns", ())
            file = _opened(self._files[body["file"]], len(columns))
            if body["deed"] == "schema":
                schema = file.schema_arrow
                named = _plain if body["casts"] else _without_list_size
                types = [str(named(field.type))[:64] for field in schema]
                names = [name[:64] for name in schema.names]
                return Frame({"names": names, "types": types, "ids": _ids(schema)})
            self._batches = _from_row(file, columns, body.get("first", 0))
            return Frame({})
        except MemoryError:
            raise
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            if _OTHER_SIZE in str(error):
                problem = "a list of a fixed length is missing; wanted: lists of any length"
                raise InputInvalid("", None, problem) from error
            raise InputInvalid("", None, "no readable Parquet") from error

    def _next(self) -> Frame:
        batch = next(self._batches, None)
        if batch is None:
            return Frame({"rows": 0})
        arrays: list[NDArray[Any]] = []
        missing = []
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            if _is_category(column.type):
                arrays += _categories(column)
            elif column.type in (pa.string(), pa.large_string()):
                arrays += _texts(column)
            elif column.type == pa.bool_():
                arrays.append(_truths(column))
            elif _without_zone(column.type) in _NUMBERS:
                arrays.append(_values(column))
            elif column.type in (*_UNSIGNED, _HALF, _DATE):
                arrays.append(_widened(column, name))
            elif pa.types.is_decimal128(column.type):
                arrays.append(_decimals(column))
            elif _plain(column.type) in VECTORS:
                arrays += _vectors(column)
            else:
                raise InputInvalid("", None, f"column {name[:64]} holds no plain numbers or texts")
            if column.null_count:
                missing.append(name)
                arrays.append(_nulls(column))
        return Frame({"rows": batch.num_rows, "missing": missing}, arrays)


def _opened(file: Any, columns: int) -> pq.ParquetFile:
    """The file, if its metadata is within the limits; no page has been read yet.

    Args:
        columns: number of columns that will be read.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    found = parquet_file(file, STREAM_BYTES if columns > FULL_COLUMNS else 0)
    metadata = found.metadata
    _most("rows", metadata.num_rows, MOST_ROWS)
    _most("row groups", metadata.num_row_groups, MOST_ROW_GROUPS)
    _most("columns", metadata.num_columns, MOST_COLUMNS)
    if metadata.num_columns != len(found.schema_arrow.names):
        raise InputInvalid("", None, "it has columns within columns; wanted: plain ones")
    pages = 0
    for group in range(metadata.num_row_groups):
        pages += max(0, metadata.row_group(group).total_byte_size)
    _most("bytes of pages", pages, RATIO_FREE_BYTES + MOST_RATIO * size)
    decoded = metadata.num_rows * sum(_width(kind) for kind in found.schema_arrow.types)
    decoded += _bytes_of_vectors(found)
    _most("bytes of values", decoded, RATIO_FREE_BYTES + MOST_DECODED_RATIO * size)
    return found


def _from_row(file: pq.ParquetFile, columns: Sequence[str], first: int) -> Iterator[pa.RecordBatch]:
    """Batches from a row on; earlier row groups are not decoded."""
    group, groups = 0, file.metadata.num_row_groups
    while group < groups and first >= (rows := file.metadata.row_group(group).num_rows):
        first, group = first - rows, group + 1
    wanted = list(range(group, groups))
    schema = file.schema_arrow
    has_vectors = any(_plain(f.type) in VECTORS for f in schema if f.name in columns)
    rows = VECTOR_BATCH_ROWS if has_vectors else BATCH_ROWS
    rows = min(rows, BATCH_ROWS * FULL_COLUMNS // max(FULL_COLUMNS, len(columns)))
    for batch in file.iter_batches(rows, row_groups=wanted, columns=list(columns)):
        left = batch.slice(first)
        first = max(0, first - batch.num_rows)
        if left.num_rows:
            yield left


def parquet_file(file: Any, stream_bytes: int = 0) -> pq.ParquetFile:
    """An open file, whose footer is within the limits.

    Args:
        stream_bytes: bytes that are read of a column at a time; 0 reads its part of a row group.
    """
    return pq.ParquetFile(
        file,
        buffer_size=stream_bytes,
        pre_buffer=False,  # pre-buffering would read in threads
        thrift_string_size_limit=MOST_FOOTER_BYTES,
        thrift_container_size_limit=MOST_FOOTER_ENTRIES,
    )


def _values(column: pa.Array[Any]) -> NDArray[Any]:
    """A column's values, without pyarrow.compute, whose import takes as long as everything else
    together."""
    kind = np.dtype(f"i{column.type.bit_width // 8}")
    if pa.types.is_floating(column.type):
        kind = np.dtype(f"f{column.type.bit_width // 8}")
    values: Any = column.buffers()[1]
    return np.frombuffer(values, kind)[column.offset : column.offset + len(column)]


def _widened(column: pa.Array[Any], name: str) -> NDArray[Any]:
    """The values in the type that `_plain` says."""
    if column.type == _DATE:
        return _values(column).astype(np.int64) * DAY_S
    if column.type == _HALF:
        return _values(column).astype(np.float32)
    kind = np.dtype(f"u{column.type.bit_width // 8}")
    values = _values(column).view(kind).astype(np.int64)
    wrong = values < 0 if not column.null_count else (values < 0) & (_nulls(column) == 0)
    if wrong.any():
        raise InputInvalid("", None, f"column {name[:64]} has a value of more than {2**63 - 1}")
    return values


def _decimals(column: Any) -> NDArray[np.float64]:
    """The nearest float64 of each number, which JSON with its digits would give."""
    stored: Any = column.buffers()[1]
    halves = np.frombuffer(stored, np.dtype("<i8")).reshape(-1, 2)
    halves = halves[column.offset : column.offset + len(column)]
    low, high = halves[:, 0], halves[:, 1]
    scale = column.type.scale
    if not 0 <= scale <= _EXACT_SCALE or (high != low >> 63).any() or (abs(low) > _EXACT).any():
        whole = [int(h) * 2**64 + int(n) % 2**64 for h, n in zip(high, low, strict=True)]
        return np.array([n / 10**scale if scale > 0 else float(n * 10**-scale) for n in whole])
    values: NDArray[np.float64] = low / 10.0**scale  # both exact, so rounded once
    return values


def _categories(column: Any) -> list[NDArray[Any]]:
    """The texts of a column of categories, as `_texts` gives them."""
    bounds, content = _texts(column.dictionary)
    held = content.tobytes()
    words = [held[bounds[at] : bounds[at + 1]] for at in range(len(column.dictionary))]
    places = _values(column.indices).astype(np.int64)
    if column.null_count:
        places, words = np.where(_nulls(column) != 0, len(words), places), [*words, b""]
    lengths = np.array([len(word) for word in words], np.int64)[places]
    _most("bytes of texts in a batch", int(lengths.sum()), MOST_TEXT_BYTES)
    ends = np.concatenate(([0], np.cumsum(lengths))).astype(np.int32)
    return [ends, np.frombuffer(b"".join(words[place] for place in places), np.uint8)]


def _texts(column: pa.Array[Any]) -> list[NDArray[Any]]:
    """The offsets of a column's texts, the last one their end, and the bytes of all texts."""
    _, bounds, content = column.buffers()
    stored: Any = bounds
    kind = np.int64 if column.type == pa.large_string() else np.int32
    found = np.frombuffer(stored, kind)[column.offset : column.offset + len(column) + 1]
    first, last = int(found[0]), int(found[-1])
    _most("bytes of texts in a batch", last - first, MOST_TEXT_BYTES)
    held: Any = b"" if content is None else content
    return [(found - first).astype(np.int32), np.frombuffer(held, np.uint8)[first:last]]


def _vectors(column: Any) -> list[NDArray[Any]]:
    """The offsets of a column's vectors, the last one their end, and all their numbers; a missing
    number is NaN."""
    if pa.types.is_fixed_size_list(column.type):
        size = column.type.list_size
        found = np.arange(column.offset, column.offset + len(column) + 1, dtype=np.int64) * size
    else:
        kind = np.int64 if pa.types.is_large_list(column.type) else np.int32
        stored: Any = column.buffers()[1]
        found = np.frombuffer(stored, kind)[column.offset : column.offset + len(column) + 1]
    first, last = int(found[0]), int(found[-1])
    _most("numbers of vectors in a batch", last - first, MOST_NUMBERS)
    numbers = column.values.slice(first, last - first)
    kind_of_number = np.float32 if numbers.type == pa.float32() else np.float64
    values = _values(numbers) if last > first else np.zeros(0, kind_of_number)
    if numbers.null_count:
        values = np.where(_nulls(numbers) != 0, np.nan, values).astype(values.dtype)
    return [(found - first).astype(np.int32), values]


def _truths(column: pa.Array[Any]) -> NDArray[np.uint8]:
    """1 where the value is true, else 0."""
    stored: Any = column.buffers()[1]
    bits = np.unpackbits(np.frombuffer(stored, np.uint8), bitorder="little")
    return bits[column.offset : column.offset + len(column)]


def _ids(schema: pa.Schema) -> list[int]:
    """The field id of each column, by which Iceberg knows it; -1 where it has none."""
    texts = [(field.metadata or {}).get(_FIELD_ID, b"") for field in schema]
    return [int(text) if text.isdigit() and len(text) <= _ID_DIGITS else -1 for text in texts]


def _without_zone(kind: pa.DataType) -> pa.DataType:
    """The type without its time zone: the time is one of UTC, and its zone only displays it
    differently."""
    return pa.timestamp(kind.unit) if pa.types.is_timestamp(kind) else kind


def _width(kind: pa.DataType) -> int:
    """Bytes of a value; of a text, which is not read, those of a number."""
    kind = _without_zone(kind)
    return kind.bit_width // 8 if kind in _NUMBERS else 8


def _is_category(kind: Any) -> bool:
    return pa.types.is_dictionary(kind) and kind.value_type in (pa.string(), pa.large_string())


def _plain(kind: Any) -> pa.DataType:
    """The type in which a column's values leave this process; any other type as it is."""
    if kind in _UNSIGNED:
        return pa.int64()
    if pa.types.is_decimal128(kind):
        return pa.float64()
    if kind == _HALF:
        return pa.float32()
    if kind == _DATE:
        return pa.timestamp("s")
    if _is_category(kind) or kind == pa.large_string():
        return pa.string()
    return _without_list_size(kind)


def _without_list_size(kind: Any) -> pa.DataType:
    """The type of a vector, however its lists are written; any other type as it is."""
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if is_list or pa.types.is_fixed_size_list(kind):
        return pa.list_(kind.value_type)
    found: pa.DataType = kind
    return found


def _bytes_of_vectors(file: pq.ParquetFile) -> int:
    metadata, found = file.metadata, 0
    for place, kind in enumerate(file.schema_arrow.types):
        if _plain(kind) in VECTORS:
            for group in range(metadata.num_row_groups):
                found += max(0, metadata.row_group(group).column(place).num_values) * 8
    return found


def _nulls(column: pa.Array[Any]) -> NDArray[np.uint8]:
    """1 where there is no value, else 0."""
    valid: Any = column.buffers()[0]
    bits = np.unpackbits(np.frombuffer(valid, np.uint8), bitorder="little")
    nulls: NDArray[np.uint8] = 1 - bits[column.offset : column.offset + len(column)]
    return nulls


def _most(what: str, found: int, limit: int) -> None:
    if found > limit:
        raise InputInvalid("", None, f"{found} {what}; the limit is {limit}")


def _try_out() -> None:
    """Read a small file of every type. Libraries import and open files at their first use, which
    must come before this process is locked."""
    # Not by pa.array, which imports pandas and takes half a second.
    valid, two = pa.py_buffer(b"\x01"), pa.py_buffer(bytes(32))
    others = (*_UNSIGNED, _HALF, _DATE, pa.decimal128(9, 2))
    arrays = [pa.Array.from_buffers(kind, 2, [valid, two]) for kind in (*_NUMBERS, *others)]
    arrays.append(pa.Array.from_buffers(pa.bool_(), 2, [valid, two]))
    for texts, kind in ((pa.string(), np.int32), (pa.large_string(), np.int64)):
        offsets = pa.py_buffer(np.array([0, 1, 2], kind).tobytes())
        arrays.append(pa.Array.from_buffers(texts, 2, [valid, offsets, pa.py_buffer(b"ab")]))
    offsets = pa.py_buffer(np.array([0, 1, 2], np.int32).tobytes())
    words = pa.Array.from_buffers(pa.string(), 2, [None, offsets, pa.py_buffer(b"ab")])
    categories: Any = pa.DictionaryArray
    arrays.append(categories.from_arrays(arrays[2], words))
    numbers, offsets = arrays[5], pa.py_buffer(np.array([0, 1, 2], np.int32).tobytes())
    for child in (numbers, arrays[4]):
        lists: Any = pa.list_(child.type)
        arrays.append(pa.Array.from_buffers(lists, 2, [valid, offsets], children=[child]))
    columns = [str(array.type) for array in arrays]
    for compression in ("none", "snappy", "zstd", "gzip", "brotli", "lz4"):
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_arrays(arrays, columns), sink, compression=compression)
        file = parquet_file(pa.BufferReader(sink.getvalue()))
        work = _Work([])
        work._batches = file.iter_batches(BATCH_ROWS, columns=columns)
        work.handle(Frame({"deed": "next"}))
    try:
        parquet_file(pa.BufferReader(b"PAR1 no file PAR1"))
    except pa.ArrowException:
        return
    raise AssertionError("pyarrow took a file that is not Parquet")
