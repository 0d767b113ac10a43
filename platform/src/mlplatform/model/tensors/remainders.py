"""A number that float32 can't hold, as three numbers of a row that it can.

A row is float32. An input that goes into an int64 or float64 tensor has two columns beside its own:
what rounding took from the number, and what it took from that. The three add up to every int64, and
to every float64 from 1e-29 to 3.4e38. All that reads one number of a row reads the first.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from mlplatform.model.tensors.categories import MISSING

if TYPE_CHECKING:
    import pyarrow as pa  # a gateway starts without pyarrow

COLUMNS: Final = 3
"""Columns of a row that such a number has, its own among them."""
_COLUMN: Final = re.compile(r"(.+)\.r[12]")
_SINGLE: Final = struct.Struct("f")
_MOST: Final = 2.0**63
_APART: Final = 2.0**53
"""Size from which on float64 holds whole numbers alone, and not all of them."""


def remainder_columns(name: str) -> tuple[str, str]:
    """The names of the two columns beside an input's own."""
    return f"{name}.r1", f"{name}.r2"


def remainder_of(column: str) -> str | None:
    """The input of which a column holds a remainder, by the column's name; None for another."""
    found = _COLUMN.fullmatch(column)
    return None if found is None else found[1]


def remainder_places(names: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Input → the places of its two remainders in a row, for inputs that have them."""
    at = {name: place for place, name in enumerate(names)}
    pairs = ((name, remainder_columns(name)) for name in names)
    return {name: (at[one], at[other]) for name, (one, other) in pairs if one in at and other in at}


def remainders(value: float | None) -> tuple[float, float]:
    """The remainders of a number, NaN for a missing one. A whole number is exact whatever its
    size."""
    if value is None:
        return MISSING, MISSING
    head = _single(float(value))
    if not math.isfinite(head):
        return (MISSING, MISSING) if math.isnan(head) else (0.0, 0.0)
    rest = float(value - int(head)) if isinstance(value, int) else value - head
    first = _single(rest)
    return first, _single(rest - first)


def column_remainders(values: NDArray[np.int64] | NDArray[np.float64]) -> NDArray[np.float32]:
    """The remainders of a column, [rows, 2], as of each number alone."""
    with np.errstate(over="ignore", invalid="ignore"):
        head = values.astype(np.float64).astype(np.float32)
        if values.dtype.kind == "i":
            # the difference is small, so what overflows on the way to it comes back
            rest = (values - _int64(head.astype(np.float64))).astype(np.float64)
        else:
            rest = np.where(np.isinf(head), 0.0, values - head.astype(np.float64))
        first = rest.astype(np.float32)
        return np.stack([first, (rest - first).astype(np.float32)], axis=1)


def whole_column(values: pa.ChunkedArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The whole numbers of a column, 0 for a missing one, and whether each is missing."""
    import pyarrow as pa  # only training needs it

    missing = values.is_null().to_numpy(zero_copy_only=False)
    nothing: Any = 0
    whole = values.cast(pa.int64()).fill_null(nothing).to_numpy(zero_copy_only=False)
    return whole, missing


def numbers(parts: NDArray[np.float32]) -> NDArray[np.float64]:
    """The numbers of three columns [rows, 3]; NaN where the first is."""
    wide = parts.astype(np.float64)
    rest = np.nan_to_num(wide[:, 1]) + np.nan_to_num(wide[:, 2])
    return np.where(rest == 0, wide[:, 0], wide[:, 0] + rest)


def whole_numbers(parts: NDArray[np.float32], missing: int = 0) -> NDArray[np.int64]:
    """The whole numbers of three columns [rows, 3], without a fraction.

    Args:
        missing: the number for a missing one, where the first column is NaN.
    """
    found = numbers(parts)
    absent = np.isnan(found)
    small = np.abs(found) < _APART
    near = np.where(small & ~absent, found, 0.0).astype(np.int64)
    head, one, other = np.where(small | absent, 0.0, np.nan_to_num(parts.astype(np.float64).T))
    head, rest = np.clip(head, -_MOST, _MOST), _int64(one) + _int64(other)
    far = _int64(head) + rest
    ends = np.iinfo(np.int64)
    far = np.where((head == _MOST) & (rest >= 0), ends.max, far)
    far = np.where((head == -_MOST) & (rest < 0), ends.min, far)
    return np.where(absent, missing, np.where(small, near, far))


def joined_number(values: Sequence[float]) -> float | int | None:
    """The number of three values, for a reader: a whole one beyond float64 as it is; None for a
    missing one."""
    head, one, other = (0.0 if math.isnan(value) else _single(value) for value in values)
    if math.isnan(values[0]):
        return None
    if abs(head) >= _APART and math.isfinite(abs(head) + abs(one) + abs(other)):
        return int(head) + int(one) + int(other)
    return head + (one + other)


def _single(value: float) -> float:
    """The float32 next to a number, infinite beyond the largest."""
    try:
        found: float = _SINGLE.unpack(_SINGLE.pack(value))[0]
    except OverflowError:
        return math.copysign(math.inf, value)
    return found


def _int64(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Whole numbers of up to ±2**63, of which 2**63 becomes -2**63: it is the same modulo 2**64."""
    half = values / 2.0
    odd = values - 2.0 * np.trunc(half)
    return np.trunc(half).astype(np.int64) * 2 + odd.astype(np.int64)
