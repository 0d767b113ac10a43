"""Keys and values as Feast stores them in every online store, written without importing it.

Source: https://github.com/feast-dev/feast/blob/master/docs/specs/online_store_format.md
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mlplatform.learning.features.online import CREATED, EVENT_TIMESTAMP
from mlplatform.model.feature_views import FeatureView
from mlplatform.runtime.errors import ConfigInvalid, Corrupt

if TYPE_CHECKING:
    import pyarrow as pa

STRING, INT64 = 2, 4  # feast.types.ValueType
DOUBLE_TAG = 0x29  # field 5, 64-bit
DOUBLE_BYTES = 9
_read_double = struct.Struct("<xd").unpack
_write_double = struct.Struct("<Bd").pack
key_value = struct.Struct("<q").pack
"""The last eight bytes of an entity key."""


def project_name(model: str) -> str:
    """The Feast project of a model: Feast allows no hyphen."""
    return model.replace("-", "_")


def entity_key_prefix(join_key: str) -> bytes:
    """An entity key of one INT64 join key (version 3) without its last eight bytes, the value."""
    name = join_key.encode()
    head = struct.pack("<III", 1, STRING, len(name))
    return head + name + struct.pack("<II", INT64, 8)


def encode(value: float | None) -> bytes:
    """A `feast.types.Value` of a double; nothing at all for a missing one."""
    return b"" if value is None or math.isnan(value) else _write_double(DOUBLE_TAG, value)


def decode(value: bytes, name: str) -> float | None:
    """The double of a `feast.types.Value`, None for a missing one.

    Raises:
        Corrupt: names the feature.
    """
    if not value:
        return None
    if len(value) != DOUBLE_BYTES or value[0] != DOUBLE_TAG:
        raise Corrupt(f"feature {name}: {value!r} is no double of Feast's")
    number: float = _read_double(value)[0]
    return None if number != number else number


def checked(view: FeatureView, rows: pa.Table) -> None:
    """Refuse rows that lack a column of the view.

    Raises:
        ConfigInvalid: names what is missing.
    """
    wanted = {view.join_key, EVENT_TIMESTAMP, CREATED, *view.feature_names}
    if missing := wanted - set(rows.column_names):
        raise ConfigInvalid(f"rows of {view.name}", sorted(rows.column_names), f"also {missing}")


def columns(
    view: FeatureView, rows: pa.Table
) -> Iterator[tuple[int, int, int, tuple[float | None, ...]]]:
    """Key, event time and making in microseconds, and the values in the view's order, row by row.

    Raises:
        ConfigInvalid: a column is missing.
    """
    import pyarrow as pa  # only writers need it; the gateway reads

    checked(view, rows)
    times = [
        rows.column(name).cast(pa.timestamp("us")).cast(pa.int64()).to_pylist()
        for name in (EVENT_TIMESTAMP, CREATED)
    ]
    values = [rows.column(n).cast(pa.float64()).to_pylist() for n in view.feature_names]
    keys = rows.column(view.join_key).to_pylist()
    for key, event_us, made_us, *row in zip(keys, *times, *values, strict=True):
        yield key, event_us, made_us, tuple(row)
