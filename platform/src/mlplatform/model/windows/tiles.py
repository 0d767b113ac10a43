"""The arithmetic of windows: requests become tiles, tiles become a value, in whole numbers.

The SQL of `learning.features.windows.sql` does the same sums over the same whole numbers, and the
same three floating-point operations in the same order at the end: values are equal bit for bit.
"""

from __future__ import annotations

import functools
import math
import operator
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple, get_args

import msgspec

from mlplatform.model.windows import distinct_count
from mlplatform.model.windows.declaration import OF_VALUES, Aggregate, Filter, Window, span_ms
from mlplatform.runtime.units import HOUR_MS

LATE_MS: Final = HOUR_MS
"""Milliseconds by which a request may be older than its entity's newest and still find its whole
window."""
HALF: Final = 2**53
"""Whole number from which on a float no longer holds every whole number."""
LOW: Final = 2**32
LARGEST: Final = 2**47
"""Largest value that a tile has room for: its square is stored in two whole numbers of 64 bits."""

Columns = list["array[int]"]
"""Tiles of one entity by column: numbers in ascending order, counts, then the columns of the
series; whole numbers of 64 bits."""

TileColumn = Literal[
    "last",
    "last_ms",
    "first",
    "first_ms",
    "sum",
    "squares_high",
    "squares_low",
    "min",
    "max",
    "matched",
    "bits_0",
    "bits_1",
    "bits_2",
    "bits_3",
]
BITS: Final[tuple[TileColumn, ...]] = ("bits_0", "bits_1", "bits_2", "bits_3")
KEPT: Final[dict[Aggregate, tuple[TileColumn, ...]]] = {
    "count": (),
    "seconds_since": ("last_ms",),
    "sum": ("sum",),
    "mean": ("sum",),
    "std": ("sum", "squares_high", "squares_low"),
    "min": ("min",),
    "max": ("max",),
    "rate": (),
    "share": ("matched",),
    "first": ("first", "first_ms"),
    "last": ("last", "last_ms"),
    "distinct": BITS,
    "ratio": (),
}
"""Aggregate → the columns of its tiles, besides the number of requests."""
_ORDER: Final[tuple[TileColumn, ...]] = get_args(TileColumn)
"""Order of columns. A value with a time lies before its time, because both are compared before
either is changed."""
_OFTEN: Final = ("count", "mean")
BETTER: Final[Mapping[str, Callable[[Any, Any], Any]]] = {
    "last_ms": max,
    "first_ms": min,
    "min": min,
    "max": max,
    "last": max,
    "first": min,
    **dict.fromkeys(BITS, operator.or_),
}
"""Functions that merge columns which do not add up, where two tiles meet."""
WITH_TIME: Final = ("last", "first")
"""Columns that are compared together with the next one, their time, which decides first. Of
requests with one time, the greatest value is the last one and the least value the first one."""


class Series(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True
):
    """Tiles that several windows share, kept for each key of one request field.

    Args:
        key: the request field that holds the entity's key.
        retained: number of tiles that are kept, counted back from the newest one that has a
            request.
        kept: columns of a tile besides its number and its number of requests.
        matching: condition on the counted requests; those that meet it are `matched`.
        distinct: the request field whose values the bitmap records.
    """

    key: str
    tile_ms: int
    retained: int
    of: str | None = None
    digits: int = 0
    where: Filter | None = None
    kept: tuple[TileColumn, ...] = ()
    matching: Filter | None = None
    distinct: str | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        return ("tile", "count", *self.kept)

    @property
    def width(self) -> int:
        """The number of columns."""
        return 2 + len(self.kept)

    @property
    def scale(self) -> float:
        return float(10**self.digits)


SeriesWindows = tuple[tuple[Series, tuple[Window, ...]], ...]


def series_of(windows: Sequence[Window], keys: Mapping[str, str]) -> SeriesWindows:
    """The series that windows need, each with the windows that read it, in a fixed order.

    Args:
        keys: entity → the request field that holds its key.
    """
    groups: list[_Group] = []
    tiled = (w for w in windows if w.aggregate != "ratio")
    for window in sorted(tiled, key=lambda w: w.aggregate not in OF_VALUES):
        group = _Group(keys[window.entity], window)
        found = next((g for g in groups if g.takes(group)), None)
        if found is None:
            groups.append(group)
        else:
            found.take(group)
    return tuple((group.series(), tuple(group.windows)) for group in groups)


class _Group:
    """Windows that read the same tiles, at first a single one."""

    def __init__(self, key: str, window: Window) -> None:
        self.requests = (key, window.tile_ms, window.where)
        is_of_value = window.aggregate in OF_VALUES
        self.value = (window.of, window.digits) if is_of_value else (None, 0)
        self.matching = window.matching
        self.distinct = window.of if window.aggregate == "distinct" else None
        self.windows = [window]

    def takes(self, one: _Group) -> bool:
        """Whether another group can share these tiles. Windows without a value fit any tiles with
        their requests."""
        return (
            self.requests == one.requests
            and one.value in (self.value, (None, 0))
            and (one.matching is None or self.matching in (None, one.matching))
            and (one.distinct is None or self.distinct in (None, one.distinct))
        )

    def take(self, one: _Group) -> None:
        self.matching = self.matching or one.matching
        self.distinct = self.distinct or one.distinct
        self.windows += one.windows

    def series(self) -> Series:
        key, tile_ms, where = self.requests
        of, digits = self.value
        needed = {column for w in self.windows for column in KEPT[w.aggregate]}
        reach = max(w.tiles + w.delay_tiles for w in self.windows)
        return Series(
            key=key,
            tile_ms=tile_ms,
            retained=reach + 1 + late_tiles(tile_ms),
            of=of,
            digits=digits,
            where=where,
            kept=tuple(column for column in _ORDER if column in needed),
            matching=self.matching,
            distinct=self.distinct,
        )


def late_tiles(tile_ms: int) -> int:
    return -(-LATE_MS // tile_ms)


def steps(value: object, scale: float) -> int | None:
    """A value in steps of its last digit, rounded half up; None if it is no number, or larger than
    any declared window allows, because a field may have been declared differently since."""
    if not isinstance(value, int | float) or not abs(value) < LARGEST:
        return None
    found = math.floor(float(value) * scale + 0.5)
    return found if abs(found) < LARGEST else None


def counts(where: Filter | None, request: Mapping[str, Any]) -> bool:
    """Whether a request passes the filter; one without the field does not."""
    if where is None:
        return True
    value, wanted = request.get(where.field), where.value
    try:
        if isinstance(value, int | float) and not isinstance(wanted, bool | str):
            value, wanted = float(value), float(wanted)  # NaN compares as false
        return value is not None and value == value and _COMPARE[where.op](value, wanted)
    except (TypeError, OverflowError):  # the field's type has changed
        return False


def new_columns(series: Series) -> Columns:
    """Columns without tiles."""
    return [array("q") for _ in series.columns]


def fold(columns: Columns, series: Series, event_ms: int, request: Mapping[str, Any]) -> bool:
    """Add one request to an entity's tiles, in place. Returns whether it counts for them.

    A request that is further behind the entity's newest than the retained tiles is left out, and
    tiles that fall behind with a new request are dropped: the result depends on the requests alone,
    never on their order.
    """
    made = request_tile(series, event_ms, request)
    if made is None:
        return False
    numbers, tile = columns[0], made[0]
    if not numbers or tile > numbers[-1]:
        behind = bisect_right(numbers, tile - series.retained)
        for column, value in zip(columns, made, strict=True):
            if behind:
                del column[:behind]
            column.append(value)
        return True
    if tile <= numbers[-1] - series.retained:
        return False
    place = bisect_left(numbers, tile)
    if numbers[place] != tile:
        for column, value in zip(columns, made, strict=True):
            column.insert(place, value)
    else:
        _add(columns, series, place, made)
    return True


def request_tile(
    series: Series, event_ms: int, request: Mapping[str, Any]
) -> tuple[int, ...] | None:
    """The columns of a tile that holds only this request; None if it does not count."""
    if series.where is not None and not counts(series.where, request):
        return None
    x = 0
    if series.of is not None:
        value = request.get(series.of)
        found = steps(value, series.scale)
        if found is None:
            return None
        x = found
    made = [event_ms // series.tile_ms, 1]
    for column in series.kept:
        match column:
            case "last_ms" | "first_ms":
                made.append(event_ms)
            case "sum" | "min" | "max" | "last" | "first":
                made.append(x)
            case "squares_high":
                made.append(x * x // LOW)
            case "squares_low":
                made.append(x * x % LOW)
            case "matched":
                made.append(int(counts(series.matching, request)))
            case _:  # all words of the bitmap at once: they are the last ones
                made += _bitmap(request.get(series.distinct or ""))
                break
    return tuple(made)


def _bitmap(value: object) -> list[int]:
    """The words of `BITS` for one value; no bit is set without a value."""
    words, place = [0] * distinct_count.WORDS, distinct_count.place(value)
    if place is not None:
        words[place // distinct_count.WORD_BITS] = 1 << place % distinct_count.WORD_BITS
    return words


def _add(columns: Columns, series: Series, place: int, made: tuple[int, ...]) -> None:
    columns[1][place] += 1
    for column, name, more in zip(columns[2:], series.kept, made[2:], strict=True):
        better = BETTER.get(name)
        if better is None:
            column[place] += more
        elif name in WITH_TIME:  # the time comes next, so it is still unchanged
            at = series.columns.index(name) + 1
            mine = (columns[at][place], column[place])
            column[place] = better(mine, (made[at], more))[1]
        else:
            column[place] = better(column[place], more)


class _Frame(NamedTuple):
    """Windows of the same tiles, by how their value is computed."""

    tiles: int
    delay: int
    counts: tuple[str, ...]
    means: tuple[str, ...]
    others: tuple[Window, ...]


class SeriesReader:
    """Values of the windows of one series, from the tiles of one entity."""

    def __init__(self, series: Series, windows: Sequence[Window]) -> None:
        self._tile_ms, self._scale = series.tile_ms, series.scale
        self._place = {name: number for number, name in enumerate(series.columns)}
        self._sum = self._place.get("sum", 0)
        self._frames = []
        for delay, tiles in sorted({(w.delay_tiles, w.tiles) for w in windows}):
            of = [w for w in windows if (w.delay_tiles, w.tiles) == (delay, tiles)]
            self._frames.append(
                _Frame(
                    tiles,
                    delay,
                    tuple(w.name for w in of if w.aggregate == "count"),
                    tuple(w.name for w in of if w.aggregate == "mean"),
                    tuple(w for w in of if w.aggregate not in _OFTEN),
                )
            )

    def fill(self, values: dict[str, float | None], columns: Columns, at_ms: int) -> None:
        """Set each window's value at a time, by name; None if it has none, before any default."""
        numbers, newest = columns[0], at_ms // self._tile_ms
        delay_before, first = -1, 0
        for tiles, delay, counted, means, others in self._frames:
            low = bisect_left(numbers, newest - delay - tiles)
            if delay != delay_before:
                delay_before, end = delay, bisect_right(numbers, newest - delay)
                first, count, total = end, 0, 0
            if low < first:  # the shorter window before is a part of this one
                count += sum(columns[1][low:first])
                total += sum(columns[self._sum][low:first]) if self._sum else 0
                first = low
            for name in counted:
                values[name] = float(count)
            for name in means:
                values[name] = float(total) / float(count) / self._scale if count else None
            for window in others:
                part = slice(first, end)
                found = self._value(window, columns, part, (count, total), at_ms)
                values[window.name] = found

    def _value(
        self,
        window: Window,
        columns: Columns,
        part: slice,
        sums: tuple[int, int],
        at_ms: int,
    ) -> float | None:
        count, total = sums
        match window.aggregate:
            case "seconds_since" if count:  # the last tile holds it
                since_ms = at_ms - columns[self._place["last_ms"]][part.stop - 1]
                return float(max(since_ms, 0)) / 1000.0
            case "sum":
                return float(total) / self._scale
            case "rate":
                per_ms, covered_ms = span_ms(window.per or ""), self._covered_ms(window, at_ms)
                return float(count) * float(per_ms) / float(covered_ms)
            case "distinct":
                return self._distinct(columns, part)
            case _ if not count:
                return None
            case "min":
                return float(min(columns[self._place["min"]][part])) / self._scale
            case "max":
                return float(max(columns[self._place["max"]][part])) / self._scale
            case "first":
                return float(columns[self._place["first"]][part.start]) / self._scale
            case "last":
                return float(columns[self._place["last"]][part.stop - 1]) / self._scale
            case "share":
                return float(sum(columns[self._place["matched"]][part])) / float(count)
            case _:
                squares = sum(columns[self._place["squares_high"]][part]) * LOW
                squares += sum(columns[self._place["squares_low"]][part])
                spread = count * squares - total * total
                return math.sqrt(_float(spread)) / float(count) / self._scale

    def _covered_ms(self, window: Window, at_ms: int) -> int:
        """The time from the beginning of the first tile to now, or to the end of the last tile."""
        open_ms = self._tile_ms if window.delay_tiles else at_ms % self._tile_ms
        return window.tiles * self._tile_ms + open_ms

    def _distinct(self, columns: Columns, part: slice) -> float:
        words = (columns[self._place[name]][part] for name in BITS)
        taken = sum(functools.reduce(operator.or_, word, 0).bit_count() for word in words)
        return float(distinct_count.ESTIMATES[taken])


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
