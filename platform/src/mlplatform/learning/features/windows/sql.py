"""Windows as SQL: what each payment's windows were when it was answered, for DuckDB.

One pure function from declarations to text. The sums are those of `model.windows.tiles`, over
whole numbers, so that a value here is the value that was served, bit for bit.

The relation that it reads has a row for each payment: `_row`, a number; `_event_ms`; `_rank`, its
place in the order in which payments became known; `_seen`, the rank of the last one that was known
when it was answered itself; and the request's fields. A payment counts for another where its rank
is at most the other's `_seen`, whatever their times: late ones and ones out of order too.

Nearly all payments meet the same thing: whatever is before them in time is known, and nothing else
is. Their windows are window functions of the tile, in one pass. The others are found by three more
of those, and each is counted again by a join (`_late`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from mlplatform.model.windows.declaration import Filter, Window
from mlplatform.model.windows.tiles import HALF, LOW, Series, Shared, late_tiles

OWN: Final = ("_row", "_event_ms", "_rank", "_seen")
"""The columns of the relation that are not fields of the request, whose names begin with none."""


PLAIN: Final = {"_row": "row_", "_event_ms": "event_ms", "_rank": "rank", "_seen": "seen"}


def windows_sql(shared: Shared, payments: str, wanted: str) -> str:
    """Rows of `_row` and every window, in no order, null where there is no value.

    Args:
        payments: the relation of all payments that may count.
        wanted: a condition on its columns: for which of them windows are wanted.
    """
    parts = [
        f"s{number} AS ({_series_sql(series, windows, payments, wanted)})"
        for number, (series, windows) in enumerate(shared)
    ]
    names = ", ".join(f'"{w.name}"' for _, windows in shared for w in windows)
    joined = "s0" + "".join(f" JOIN s{n} USING (_row)" for n in range(1, len(parts)))
    return f"WITH {', '.join(parts)} SELECT _row, {names} FROM {joined}"


def tiles_sql(series: Series, requests: str) -> str:
    """Tiles of every entity: `key`, the columns of the series, and in the first row of each entity
    how many `tiles` it has, else 0; by key and tile.

    Args:
        requests: a relation of `event_time` and the request's fields.
    """
    numbered = f"(SELECT *, epoch_ms(event_time) AS {OWN[1]} FROM {requests})"
    columns = {
        "count": "count(*)",
        "last_ms": "max(event_ms)",
        "sum": "sum(x)",
        "squares_high": f"sum((CAST(x AS HUGEINT) * x) // {LOW})",
        "squares_low": f"sum((CAST(x AS HUGEINT) * x) % {LOW})",
        "min": "min(x)",
        "max": "max(x)",
    }
    cells = ", ".join(f'CAST({columns[n]} AS BIGINT) AS "{n}"' for n in series.columns[1:])
    return (
        f"WITH p AS ({_payments_sql(series, numbered, 'true', (OWN[1],))}), t AS (SELECT key, tile,"
        f" {cells} FROM p WHERE counted AND key IS NOT NULL GROUP BY key, tile)"
        " SELECT *, CASE WHEN row_number() OVER of_key = 1 THEN count(*) OVER (PARTITION BY key)"
        " ELSE 0 END AS tiles FROM t WINDOW of_key AS (PARTITION BY key ORDER BY tile)"
        " ORDER BY key, tile"
    )


def _series_sql(series: Series, windows: Sequence[Window], payments: str, wanted: str) -> str:
    frames = sorted({(w.tiles, w.delay_tiles) for w in windows})
    in_time = ", ".join(_in_time(windows, frame) for frame in frames)
    late = ", ".join(_late(windows, frame) for frame in frames)
    reach = series.retained - 1 - late_tiles(series.tile_ms)
    values = ", ".join(f'{_value(w, series)} AS "{w.name}"' for w in windows)
    flat = ", ".join(f"{name}_{a}_{b}" for a, b in frames for name in PARTS)
    return (
        f"WITH p AS ({_payments_sql(series, payments, wanted)}),"
        " f AS (SELECT *,"
        # known too late for this payment, though before it in time
        " coalesce(max(rank) FILTER (counted) OVER past, -1) > seen"
        " OR coalesce(max(rank) FILTER (counted) OVER now, -1) > seen"
        # known already, though so far after it that tiles were dropped for it
        " OR coalesce(min(rank) FILTER (counted) OVER ahead, seen + 1) <= seen AS is_late,"
        f" {in_time} FROM p WINDOW"
        f" past AS (PARTITION BY key ORDER BY tile RANGE BETWEEN {reach} PRECEDING"
        " AND 1 PRECEDING),"
        " now AS (PARTITION BY key, tile ORDER BY rank ROWS BETWEEN UNBOUNDED PRECEDING"
        " AND 1 PRECEDING),"
        f" ahead AS (PARTITION BY key ORDER BY tile RANGE BETWEEN {late_tiles(series.tile_ms) + 1}"
        f" FOLLOWING AND UNBOUNDED FOLLOWING){_frames(frames)}),"
        # the newest tile that was known decides what was still kept
        " newest AS (SELECT a.row_, max(e.tile) AS newest FROM f a JOIN p e ON e.key = a.key"
        " AND e.counted AND e.rank <= a.seen WHERE a.is_wanted AND a.is_late GROUP BY a.row_),"
        f" l AS (SELECT a.row_, any_value(a.event_ms) AS event_ms, {late}"
        " FROM f a LEFT JOIN newest USING (row_)"
        " LEFT JOIN p e ON e.key = a.key AND e.counted AND e.rank <= a.seen AND e.tile <= a.tile"
        f" AND e.tile >= a.tile - {reach} AND e.tile > newest.newest - {series.retained}"
        " WHERE a.is_wanted AND a.is_late GROUP BY a.row_),"
        f" u AS (SELECT row_, event_ms, {flat} FROM f WHERE is_wanted AND NOT is_late"
        f" UNION ALL SELECT row_, event_ms, {flat} FROM l)"
        f" SELECT row_ AS _row, {values} FROM u"
    )


def _payments_sql(series: Series, payments: str, wanted: str, own: Sequence[str] = OWN) -> str:
    ms = series.tile_ms
    tile = f"(_event_ms - ((_event_ms % {ms}) + {ms}) % {ms}) // {ms}"
    counted, value = f"({_condition(series.where)})", ""
    if series.of is not None:
        given = f'CAST("{series.of}" AS DOUBLE)'
        counted += f" AND coalesce(isfinite({given}), false)"
        scale = f"CAST('{series.scale!r}' AS DOUBLE)"
        rounded = f"CAST(floor({given} * {scale} + CAST('0.5' AS DOUBLE)) AS BIGINT)"
        value = f", CASE WHEN coalesce(isfinite({given}), false) THEN {rounded} END AS x"
    return (
        f"SELECT {', '.join(f'{name} AS {PLAIN[name]}' for name in own)},"
        f' "{series.key}" AS key, {tile} AS tile, coalesce({counted}, false) AS counted,'
        f" ({wanted}) AS is_wanted{value} FROM {payments}"
    )


def _condition(where: Filter | None) -> str:
    if where is None:
        return "true"
    if isinstance(where.value, bool):
        return f'"{where.field}" {where.op} {str(where.value).lower()}'
    if isinstance(where.value, str):
        quoted = where.value.replace("'", "''")
        return f"\"{where.field}\" {where.op} '{quoted}'"
    field = f'CAST("{where.field}" AS DOUBLE)'
    return f"NOT isnan({field}) AND {field} {where.op} CAST('{float(where.value)!r}' AS DOUBLE)"


PARTS: Final = ("n", "last", "total", "squares", "low", "high")
"""What is added up over a window; a value is made of them."""


def _aggregates(of: str = "") -> dict[str, str]:
    x = f"{of}x"
    every = ("count(*)", f"max({of}event_ms)", f"sum({x})", f"sum(CAST({x} AS HUGEINT) * {x})")
    return dict(zip(PARTS, (*every, f"min({x})", f"max({x})"), strict=True))


def _needed(windows: Sequence[Window], frame: tuple[int, int]) -> set[str]:
    """Which parts the windows of one frame need; the others are not added up."""
    parts = {
        "count": ("n",),
        "seconds_since": ("n", "last"),
        "sum": ("n", "total"),
        "mean": ("n", "total"),
        "std": ("n", "total", "squares"),
        "min": ("n", "low"),
        "max": ("n", "high"),
    }
    members = (w for w in windows if (w.tiles, w.delay_tiles) == frame)
    return {part for w in members for part in parts[w.aggregate]}


def _frames(frames: Sequence[tuple[int, int]]) -> str:
    """Windows of whole tiles: without a delay the open one is counted apart."""
    return "".join(
        f", w_{tiles}_{delay} AS (PARTITION BY key ORDER BY tile RANGE BETWEEN {tiles + delay}"
        f" PRECEDING AND {delay or 1} PRECEDING)"
        for tiles, delay in frames
    )


def _in_time(windows: Sequence[Window], frame: tuple[int, int]) -> str:
    tiles, delay = frame
    needed, cells = _needed(windows, frame), []
    for name, aggregate in _aggregates().items():
        cell = "NULL"
        if name in needed:
            closed = f"{aggregate} FILTER (counted) OVER w_{tiles}_{delay}"
            opened = f"{aggregate} FILTER (counted) OVER now"
            cell = closed if delay else _together(name, closed, opened)
        cells.append(f"{cell} AS {name}_{tiles}_{delay}")
    return ", ".join(cells)


def _together(name: str, closed: str, opened: str) -> str:
    match name:
        case "n" | "total" | "squares":
            return f"coalesce({closed}, 0) + coalesce({opened}, 0)"
        case "low":
            return f"least({closed}, {opened})"
        case _:
            return f"greatest({closed}, {opened})"


def _late(windows: Sequence[Window], frame: tuple[int, int]) -> str:
    tiles, delay = frame
    inside = f"e.tile BETWEEN a.tile - {tiles + delay} AND a.tile - {delay}"
    needed, cells = _needed(windows, frame), []
    for name, aggregate in _aggregates("e.").items():
        cell = f"{aggregate} FILTER ({inside})" if name in needed else "NULL"
        cells.append(f"{cell} AS {name}_{tiles}_{delay}")
    return ", ".join(cells)


def _value(window: Window, series: Series) -> str:
    at = f"{window.tiles}_{window.delay_tiles}"
    n, scale = f"CAST(n_{at} AS DOUBLE)", f"CAST('{series.scale!r}' AS DOUBLE)"
    total = f"CAST(CAST(coalesce(total_{at}, 0) AS BIGINT) AS DOUBLE)"
    match window.aggregate:
        case "count":
            return n
        case "sum":
            return f"{total} / {scale}"
        case "seconds_since":
            since = f"CAST(greatest(event_ms - last_{at}, 0) AS DOUBLE)"
            made = f"{since} / CAST('1000.0' AS DOUBLE)"
        case "mean":
            made = f"{total} / {n} / {scale}"
        case "min":
            made = f"CAST(low_{at} AS DOUBLE) / {scale}"
        case "max":
            made = f"CAST(high_{at} AS DOUBLE) / {scale}"
        case "std":
            whole = f"CAST({HALF} AS HUGEINT)"
            sums = f"CAST(total_{at} AS HUGEINT)"
            spread = f"(CAST(n_{at} AS HUGEINT) * squares_{at} - {sums} * {sums})"
            parts = (f"CAST(CAST({spread} {by} {whole} AS BIGINT) AS DOUBLE)" for by in ("//", "%"))
            made = f"sqrt({' * {whole} + '.join(parts)}) / {n} / {scale}".replace(
                "{whole}", f"CAST('{float(HALF)!r}' AS DOUBLE)"
            )
    return f"CASE WHEN n_{at} > 0 THEN {made} END"
