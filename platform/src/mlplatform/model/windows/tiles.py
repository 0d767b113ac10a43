"""The arithmetic of windows: payments become tiles, tiles become a value, in whole numbers.

The SQL of `learning.features.windows.sql` does the same sums over the same whole numbers, and the
same three floating-point operations in the same order at the end: values are equal bit for bit.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from mlplatform.model.request_transforms import HOUR_MS
from mlplatform.model.windows.declaration import Filter, Window

LATE_MS: Final = HOUR_MS
"""So much older than an entity's newest payment a request may be, and find its whole window."""
HALF: Final = 2**53
"""From here on a float holds no longer every whole number."""
LOW: Final = 2**32

Columns = list[list[int]]
"""Tiles of one entity, by column: numbers in rising order, counts, then what the series keeps."""

COUNTS: Final = ("tile", "count", "last_ms")
VALUES: Final = ("tile", "count", "sum", "squares_high", "squares_low", "min", "max")


class Series(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Tiles that several windows share, kept for each key of one request field.

    Args:
        key: the request field that holds the entity's key.
        retained: tiles that are kept, counted back from the newest that has a payment.
    """

    key: str
    tile_ms: int
    retained: int
    of: str | None = None
    digits: int = 0
    where: Filter | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        return COUNTS if self.of is None else VALUES

    @property
    def scale(self) -> float:
        return float(10**self.digits)


Shared = tuple[tuple[Series, tuple[Window, ...]], ...]


def series_of(windows: Sequence[Window], keys: Mapping[str, str]) -> Shared:
    """The series that windows need, each with those that read it, in a fixed order.

    Args:
        keys: entity → the request field that holds its key.
    """
    groups: dict[tuple[Any, ...], list[Window]] = {}
    for window in windows:
        digits = window.digits if window.of is not None else 0
        group = (keys[window.entity], window.tile_ms, window.of, digits, window.where)
        groups.setdefault(group, []).append(window)
    found = []
    for (key, tile_ms, of, digits, where), members in groups.items():
        reach = max(w.tiles + w.delay_tiles for w in members)
        retained = reach + 1 + late_tiles(tile_ms)
        one = Series(key=key, tile_ms=tile_ms, retained=retained, of=of, digits=digits, where=where)
        found.append((one, tuple(members)))
    return tuple(found)


def late_tiles(tile_ms: int) -> int:
    return -(-LATE_MS // tile_ms)


def steps(value: float, scale: float) -> int | None:
    """A value in steps of its last digit, halves upward; None for one that is no number."""
    if not math.isfinite(value):
        return None
    return math.floor(value * scale + 0.5)


def counts(where: Filter | None, request: Mapping[str, Any]) -> bool:
    """Whether a payment passes the filter; one without the field does not."""
    if where is None:
        return True
    value, wanted = request.get(where.field), where.value
    if isinstance(value, int | float) and not isinstance(wanted, bool | str):
        value, wanted = float(value), float(wanted)  # a number that is none compares as false
    return value is not None and value == value and _COMPARE[where.op](value, wanted)


def new_columns(series: Series) -> Columns:
    """No tiles."""
    return [[] for _ in series.columns]


def fold(columns: Columns, series: Series, event_ms: int, request: Mapping[str, Any]) -> bool:
    """Add one payment to an entity's tiles, in place; whether it counts for them at all.

    A payment that is further behind the entity's newest than what is retained is left out, and
    what falls behind with a new one is dropped: what is kept depends on the payments alone, never
    on their order.
    """
    if not counts(series.where, request):
        return False
    change = _change(series, event_ms, request)
    if change is None:
        return False
    numbers, tile = columns[0], event_ms // series.tile_ms
    if not numbers or tile > numbers[-1]:
        behind = bisect_right(numbers, tile - series.retained)
        for column, value in zip(columns, (tile, *change), strict=True):
            if behind:
                del column[:behind]
            column.append(value)
        return True
    if tile <= numbers[-1] - series.retained:
        return False
    place = bisect_left(numbers, tile)
    if numbers[place] != tile:
        for column, value in zip(columns, (tile, *change), strict=True):
            column.insert(place, value)
    else:
        _add(columns, place, change)
    return True


def _change(series: Series, event_ms: int, request: Mapping[str, Any]) -> tuple[int, ...] | None:
    """The columns of a tile that holds this payment alone."""
    if series.of is None:
        return 1, event_ms
    given = request.get(series.of)
    x = None if given is None else steps(float(given), series.scale)
    if x is None:
        return None
    squared = x * x
    return 1, x, squared // LOW, squared % LOW, x, x


def _add(columns: Columns, place: int, change: tuple[int, ...]) -> None:
    columns[1][place] += 1
    if len(change) == len(COUNTS) - 1:
        columns[2][place] = max(columns[2][place], change[1])
        return
    columns[2][place] += change[1]
    columns[3][place] += change[2]
    columns[4][place] += change[3]
    columns[5][place] = min(columns[5][place], change[4])
    columns[6][place] = max(columns[6][place], change[5])


def value(columns: Sequence[Sequence[int]], series: Series, window: Window, at_ms: int) -> float:
    """A window's value at a time; NaN where there is none, before any default."""
    numbers = columns[0]
    top = at_ms // series.tile_ms - window.delay_tiles
    first, last = bisect_left(numbers, top - window.tiles), bisect_right(numbers, top)
    count = sum(columns[1][first:last])
    match window.aggregate:
        case "count":
            return float(count)
        case "sum":
            return float(sum(columns[2][first:last])) / series.scale
        case _ if not count:
            return math.nan
        case "seconds_since":
            return float(max(at_ms - max(columns[2][first:last]), 0)) / 1000.0
        case "mean":
            return float(sum(columns[2][first:last])) / float(count) / series.scale
        case "min":
            return float(min(columns[5][first:last])) / series.scale
        case "max":
            return float(max(columns[6][first:last])) / series.scale
        case "std":
            total = sum(columns[2][first:last])
            squares = sum(columns[3][first:last]) * LOW + sum(columns[4][first:last])
            spread = count * squares - total * total
            return math.sqrt(_float(spread)) / float(count) / series.scale


def _float(whole: int) -> float:
    """A large whole number as a float, by steps that any engine repeats."""
    return float(whole // HALF) * float(HALF) + float(whole % HALF)


_COMPARE: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
}
