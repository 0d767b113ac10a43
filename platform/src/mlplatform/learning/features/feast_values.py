"""Keys and values as Feast stores them in every online store, written without importing it.

Source: https://github.com/feast-dev/feast/blob/master/docs/specs/online_store_format.md
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from mlplatform.learning.features.online import CREATED, EVENT_TIMESTAMP, FeatureRow
from mlplatform.model.features.views import FeatureField, FeatureView, ValueType
from mlplatform.runtime.errors import ConfigInvalid, Corrupt

if TYPE_CHECKING:
    import pyarrow as pa

STRING, INT64 = 2, 4  # feast.types.ValueType
DOUBLE_TAG, INT64_TAG, BOOL_TAG = 0x29, 0x20, 0x38  # fields 5, 4 and 7 of feast.types.Value
DOUBLE_BYTES = 9
_VARINT_BYTES = 10
_read_double = struct.Struct("<xd").unpack
_write_double = struct.Struct("<Bd").pack
_write_key = struct.Struct("<IIq").pack


def project_name(model: str) -> str:
    """The Feast project of a model: Feast allows no hyphen."""
    return model.replace("-", "_")


def entity_key_prefix(join_key: str) -> bytes:
    """The beginning of an entity key with one join key (version 3), before its value's type, length
    and bytes."""
    name = join_key.encode()
    return struct.pack("<III", 1, STRING, len(name)) + name


def key_value(key: int | str) -> bytes:
    """The end of an entity key: its value as INT64 or STRING."""
    if isinstance(key, str):
        text = key.encode()
        return struct.pack("<II", STRING, len(text)) + text
    return _write_key(INT64, 8, key)


def encode(value: float | None, dtype: ValueType = "float64") -> bytes:
    """The bytes of a `feast.types.Value`; empty for a missing one.

    Args:
        value: the number; a whole number within 64 bits for int64, true or false for bool.
    """
    if value is None or value != value:
        return b""
    if dtype == "float64":
        return _write_double(DOUBLE_TAG, value)
    if dtype == "bool":
        return bytes((BOOL_TAG, bool(value)))
    return bytes((INT64_TAG, *_varint(int(value) % 2**64)))


def decode(value: bytes, name: str) -> float | None:
    """The number in a `feast.types.Value`: 1 or 0 for a bool, None for a missing value.

    Raises:
        Corrupt: the value is not a number; the message names the feature.
    """
    if not value:
        return None
    if value[0] == DOUBLE_TAG and len(value) == DOUBLE_BYTES:
        number: float = _read_double(value)[0]
        return None if number != number else number
    if value[0] == BOOL_TAG and value[1:] in (b"\0", b"\1"):
        return float(value[1])
    if value[0] == INT64_TAG and (whole := _whole(value[1:])) is not None:
        return float(whole)
    raise Corrupt(f"feature {name}: {value!r} is not a number of Feast's")


def _varint(number: int) -> Iterator[int]:
    while number > 0x7F:
        yield number & 0x7F | 0x80
        number >>= 7
    yield number


def _whole(content: bytes) -> int | None:
    """The signed number of a varint; None if the bytes are none."""
    ends = [place for place, byte in enumerate(content) if byte < 0x80]
    if len(content) > _VARINT_BYTES or ends != [len(content) - 1]:
        return None
    number = sum((byte & 0x7F) << 7 * place for place, byte in enumerate(content)) % 2**64
    return number - 2**64 if number >= 2**63 else number


def check_columns(view: FeatureView, rows: pa.Table) -> None:
    """Refuse rows that lack a column of the view.

    Raises:
        ConfigInvalid: a column is missing; the message names it.
    """
    wanted = {view.join_key, EVENT_TIMESTAMP, CREATED, *view.feature_names}
    if missing := wanted - set(rows.column_names):
        raise ConfigInvalid(f"rows of {view.name}", sorted(rows.column_names), f"also {missing}")


def columns(view: FeatureView, rows: pa.Table) -> Iterator[FeatureRow]:
    """The rows of a table.

    Raises:
        ConfigInvalid: a column is missing.
    """
    import pyarrow as pa  # only writers need it; the gateway reads

    check_columns(view, rows)
    times = [
        rows.column(name).cast(pa.timestamp("us")).cast(pa.int64()).to_pylist()
        for name in (EVENT_TIMESTAMP, CREATED)
    ]
    values = [cells(rows, field) for field in view.fields]
    keys = rows.column(view.join_key).to_pylist()
    for key, event_us, made_us, *row in zip(keys, *times, *values, strict=True):
        yield key, event_us, made_us, tuple(row)


def cells(rows: pa.Table, field: FeatureField) -> list[float | None]:
    """A feature's values, in its type."""
    import pyarrow as pa

    kinds: dict[ValueType, pa.DataType] = {
        "float64": pa.float64(),
        "int64": pa.int64(),
        "bool": pa.bool_(),
    }
    column: Any = rows.column(field.name).cast(kinds[field.dtype])
    found: list[float | None] = column.to_pylist()
    return found
