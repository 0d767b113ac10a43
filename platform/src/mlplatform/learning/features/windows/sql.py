"""Windows as SQL for DuckDB: each request's windows when it was answered.

One pure function from declarations to text. The sums are those of `model.windows.tiles`, over
whole numbers, so that a value here is the value that was served, bit for bit.

The relation that it reads has a row for each request: `_row`, a number; `_event_ms`; `_rank`, its
place in the order in which requests became known; `_seen`, the rank of the last one that was known
when it was answered itself; and the request's fields. A request counts for another one if its rank
is at most the other's `_seen`, whatever their times are. This includes requests that are late or
out of order.

For nearly all requests, exactly the requests before them in time are known. Their windows are
differences of two sums: over all requests before the request, less all before the window's first
tile. Three more window functions find the others, among the entities whose requests became known in
another order. Each of these is counted again by a join (`_late`): of a tile of which it knew all
requests by the tile's sums, of another one request by request. So the work grows with the tiles of
a window and the requests of a tile, and not with all requests of a busy entity.

A window function with FILTER visits each row of its frame, one of a CASE does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from mlplatform.learning.features.arrivals import OWN
from mlplatform.model.windows.declaration import Aggregate, Filter, Window, span_ms
from mlplatform.model.windows.distinct_count import ESTIMATES, WORD_BITS
from mlplatform.model.windows.distinct_count import PLACES as BITMAP
from mlplatform.model.windows.ratios import Ratio
from mlplatform.model.windows.tiles import (
    BITS,
    HALF,
    LARGEST,
    LOW,
    Series,
    SeriesWindows,
    late_tiles,
)

PLAIN: Final = {"_row": "row_", "_event_ms": "event_ms", "_rank": "rank", "_seen": "seen"}


def windows_sql(
    shared: SeriesWindows, requests: str, wanted: str, ratios: Sequence[Ratio] = ()
) -> str:
    """Rows of `_row` and every window, in no order, null where there is no value.

    Args:
        ratios: ratios of two windows, which must be among those of `shared`.
        requests: the SQL relation of all requests that may count.
        wanted: SQL condition on its columns that selects the requests whose windows are returned.
    """
    parts = [
        f"s{number} AS ({_series_sql(series, windows, requests, wanted)})"
        for number, (series, windows) in enumerate(shared)
    ]
    cells = [f'"{w.name}"' for _, windows in shared for w in windows]
    cells += (f'CASE WHEN "{r.to}" <> 0 THEN "{r.of}" / "{r.to}" END AS "{r.name}"' for r in ratios)
    names = ", ".join(cells)
    joined = "s0" + "".join(f" JOIN s{n} USING (_row)" for n in range(1, len(parts)))
    return f"WITH {', '.join(parts)} SELECT _row, {names} FROM {joined}"


def tiles_sql(series: Series, requests: str) -> str:
    """Tiles of every entity: `key`, the columns of the series, and in the first row of each entity
    how many `tiles` it has, else 0; by key and tile.

    Args:
        requests: an SQL relation with `event_time` and the request's fields.
    """
    numbered = f"(SELECT *, epoch_ms(event_time) AS {OWN[1]} FROM {requests})"
    columns = {
        "count": "count(*)",
        "last": "max({t: event_ms, x: x}).x",
        "last_ms": "max(event_ms)",
        "first": "min({t: event_ms, x: x}).x",
        "first_ms": "min(event_ms)",
        "matched": "count(*) FILTER (matched)",
        "sum": "sum(x)",
        "squares_high": f"sum((CAST(x AS HUGEINT) * x) // {LOW})",
        "squares_low": f"sum((CAST(x AS HUGEINT) * x) % {LOW})",
        "min": "min(x)",
        "max": "max(x)",
    }
    for number, name in enumerate(BITS):
        bit = f"CAST(1 AS BIGINT) << (bit % {WORD_BITS})"
        one = f"{bit}) FILTER (bit // {WORD_BITS} = {number}"
        columns[name] = f"coalesce(bit_or({one}), 0)"
    cells = ", ".join(f'CAST({columns[n]} AS BIGINT) AS "{n}"' for n in series.columns[1:])
    return (
        f"WITH p AS ({_requests_sql(series, numbered, 'true', (OWN[1],))}), t AS (SELECT key, tile,"
        f" {cells} FROM p WHERE counted AND key IS NOT NULL GROUP BY key, tile)"
        " SELECT *, CASE WHEN row_number() OVER of_key = 1 THEN count(*) OVER (PARTITION BY key)"
        " ELSE 0 END AS tiles FROM t WINDOW of_key AS (PARTITION BY key ORDER BY tile)"
        " ORDER BY key, tile"
    )


def _series_sql(series: Series, windows: Sequence[Window], requests: str, wanted: str) -> str:
    frames = sorted({(w.tiles, w.delay_tiles) for w in windows})
    parts = [part for part in PARTS if any(part in _needed(windows, f) for f in frames)]
    late = ", ".join(_late(windows, frame) for frame in frames)
    reach = series.retained - 1 - late_tiles(series.tile_ms)
    values = ", ".join(f'{_value(w, series)} AS "{w.name}"' for w in windows)
    cells = [f"{n}_{a}_{b}" for a, b in frames for n in PARTS if n in _needed(windows, (a, b))]
    flat = ", ".join(f"coalesce({c}, 0)" if c.startswith(COUNTS) else c for c in cells)
    in_time = ", ".join(_in_time(windows, frame) for frame in frames)
    return (
        f"WITH p AS MATERIALIZED (SELECT *, tile * {PLACES} + rank AS place"
        f" FROM ({_requests_sql(series, requests, wanted)})),"
        f" c AS MATERIALIZED (SELECT {_carried(parts)}, {{{_running(parts)}}} AS past,"
        " coalesce(lag(rank) OVER (PARTITION BY key ORDER BY place) > least(seen, rank), false)"
        " AS is_crossed FROM p WINDOW before AS (PARTITION BY key ORDER BY place"
        " ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)),"
        # Only some entities need the check of each request: those whose requests did not become
        # known in the order of their tiles, each before the next one was answered
        " e AS MATERIALIZED (SELECT * FROM p SEMI JOIN"
        " (SELECT DISTINCT key FROM c WHERE is_crossed) crossed"
        " ON p.key IS NOT DISTINCT FROM crossed.key),"
        f" late AS MATERIALIZED ({_late_rows(series, reach)}),"
        f"{_known_sql(series, parts, reach)},"
        f" sums AS (SELECT row_, {late} FROM known GROUP BY row_),"
        " l AS (SELECT late.row_, late.event_ms, sums.* EXCLUDE (row_)"
        " FROM late LEFT JOIN sums USING (row_)),"
        f" f AS (SELECT row_, event_ms, is_wanted, past{_ends(frames, windows)} FROM c"
        f"{_frames(frames, windows)}),"
        f" u AS (SELECT row_, event_ms, {in_time} FROM f WHERE is_wanted"
        " AND row_ NOT IN (SELECT row_ FROM late)"
        f" UNION ALL SELECT row_, event_ms, {flat} FROM l)"
        f" SELECT row_ AS _row, {values} FROM u"
    )


def _known_sql(series: Series, parts: Sequence[str], reach: int) -> str:
    """The SQL of what each late row knew, within the tiles that were kept: whole tiles, and single
    requests of tiles of which it knew some."""
    width = reach + 1  # tiles of a reach lie in two neighbouring stretches of this width
    whole = {"places": "NULL"} | {n: a for n, a in _aggregates().items() if n != "places"}
    tiles = "".join(f", {whole[name]} AS {name}" for name in parts)
    one = "".join(f", {_ONE[name]} AS {name}" for name in parts)
    # a union of sets of places is no sum
    is_whole = "false" if "places" in parts else "pair.last_rank <= pair.seen"
    return (
        # the newest known tile decides which tiles were still kept
        " known_tiles AS (SELECT key, rank, max(tile) OVER (PARTITION BY key ORDER BY rank)"
        " AS newest FROM e WHERE counted AND key IS NOT NULL),"
        " newest AS (SELECT late.row_, known_tiles.newest FROM late ASOF JOIN known_tiles"
        " ON late.key = known_tiles.key AND late.seen >= known_tiles.rank),"
        f" t AS MATERIALIZED (SELECT key, tile, tile // {width} AS stretch,"
        f" max(rank) AS last_rank{tiles} FROM e"
        " WHERE counted AND key IS NOT NULL GROUP BY key, tile),"
        " pair AS (SELECT a.row_, a.tile AS own_tile, a.seen, t.* FROM"
        f" (SELECT *, unnest([tile // {width} - 1, tile // {width}]) AS stretch FROM late) a"
        " JOIN newest USING (row_) JOIN t ON t.key = a.key AND t.stretch = a.stretch"
        f" AND t.tile BETWEEN a.tile - {reach} AND a.tile"
        f" AND t.tile > newest.newest - {series.retained}),"
        f" known AS (SELECT row_, own_tile, tile, {', '.join(parts)} FROM pair WHERE {is_whole}"
        f" UNION ALL SELECT part.row_, own_tile, part.tile{one}"
        f" FROM (SELECT row_, own_tile, key, tile, seen FROM pair WHERE NOT ({is_whole})) part"
        " JOIN e ON e.key = part.key AND e.tile = part.tile AND e.counted AND e.rank <= part.seen)"
    )


def _late_rows(series: Series, reach: int) -> str:
    """Wanted rows for which other requests were known than exactly those before them."""
    return (
        "SELECT * FROM (SELECT row_, event_ms, key, tile, seen, is_wanted,"
        # earlier in time than this request, but not known when it was answered
        " coalesce(max(CASE WHEN counted THEN rank END) OVER past, -1) > seen"
        " OR coalesce(max(CASE WHEN counted THEN rank END) OVER now, -1) > seen"
        # known when this request was answered, and so much later in time that tiles were dropped
        # for it
        " OR coalesce(min(CASE WHEN counted THEN rank END) OVER ahead, seen + 1) <= seen"
        " AS is_late"
        " FROM e WINDOW"
        f" past AS (PARTITION BY key ORDER BY tile RANGE BETWEEN {reach} PRECEDING"
        " AND 1 PRECEDING),"
        " now AS (PARTITION BY key, tile ORDER BY rank ROWS BETWEEN UNBOUNDED PRECEDING"
        " AND 1 PRECEDING),"
        f" ahead AS (PARTITION BY key ORDER BY tile RANGE BETWEEN"
        f" {late_tiles(series.tile_ms) + 1} FOLLOWING AND UNBOUNDED FOLLOWING))"
        " WHERE is_wanted AND is_late"
    )


def _requests_sql(series: Series, requests: str, wanted: str, own: Sequence[str] = OWN) -> str:
    ms = series.tile_ms
    tile = f"(_event_ms - ((_event_ms % {ms}) + {ms}) % {ms}) // {ms}"
    counted, value = f"({_condition(series.where)})", ""
    if series.of is not None:
        scale = f"CAST('{series.scale!r}' AS DOUBLE)"
        steps = f"floor(CAST(\"{series.of}\" AS DOUBLE) * {scale} + CAST('0.5' AS DOUBLE))"
        fits = f"coalesce(abs({steps}) < CAST('{float(LARGEST)!r}' AS DOUBLE), false)"
        counted += f" AND {fits}"
        value = f", CASE WHEN {fits} THEN CAST({steps} AS BIGINT) END AS x"
    if series.matching is not None:
        value += f", coalesce({_condition(series.matching)}, false) AS matched"
    if series.distinct is not None:
        text = f"nullif(CAST(\"{series.distinct}\" AS VARCHAR), '')"
        value += f", CAST(md5_number_lower({text}) % {BITMAP} AS INTEGER) AS bit"
    return (
        f"SELECT {', '.join(f'{name} AS {PLAIN[name]}' for name in own)},"
        f' "{series.key}" AS key, {tile} AS tile, coalesce({counted}, false) AS counted,'
        f" ({wanted}) AS is_wanted{value} FROM {requests}"
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


PLACES: Final = 2**31
"""Number of ranks in one tile. Tile and rank make one number, which orders an entity's requests."""
_PARTS: Final = {
    "n": "count({})",
    "last": "max({})",
    "total": "sum({})",
    "squares": "sum({})",
    "low": "min({})",
    "high": "max({})",
    "matched": "sum({})",
    "latest": "max({})",
    "earliest": "min({})",
    "places": "count(DISTINCT {})",
}
"""Parts that are added up over a window; values are computed from them."""
PARTS: Final = tuple(_PARTS)
_ONE: Final = {
    "n": "1",
    "last": "event_ms",
    "total": "x",
    "squares": "CAST(x AS HUGEINT) * x",
    "low": "x",
    "high": "x",
    "matched": "CAST(matched AS BIGINT)",
    "latest": "{t: event_ms, x: x}",
    "earliest": "{t: event_ms, x: x}",
    "places": "bit",
}
"""Part → what one request adds to it, from its own columns."""
_OF_PARTS: Final = _PARTS | {"n": "sum({})"}
"""Part → its aggregate over parts of several tiles or requests."""
COUNTS: Final = ("n_", "matched_", "places_")
"""Beginnings of names of sums that are 0 where there is no request."""
NEEDED: Final[dict[Aggregate, tuple[str, ...]]] = {
    "count": ("n",),
    "rate": ("n",),
    "seconds_since": ("n", "last"),
    "sum": ("n", "total"),
    "mean": ("n", "total"),
    "std": ("n", "total", "squares"),
    "min": ("n", "low"),
    "max": ("n", "high"),
    "share": ("n", "matched"),
    "first": ("n", "earliest"),
    "last": ("n", "latest"),
    "distinct": ("places",),
}


def _aggregates(condition: str = "") -> dict[str, str]:
    """Part → its aggregate over requests, of those that meet a condition."""
    ones = _ONE.items()
    if not condition:
        return {name: _PARTS[name].format(one) for name, one in ones}
    cases = {name: f"CASE WHEN {condition} THEN {one} END" for name, one in ones}
    return {name: _PARTS[name].format(case) for name, case in cases.items()}


def _needed(windows: Sequence[Window], frame: tuple[int, int]) -> set[str]:
    """The parts that the windows of one frame need; others are not added up."""
    members = (w for w in windows if (w.tiles, w.delay_tiles) == frame)
    return {part for w in members for part in NEEDED[w.aggregate]}


SUMS: Final = ("n", "last", "total", "squares", "matched", "latest")
"""Parts that are differences of sums over all requests before two rows; other parts are looked up
by frame."""
BY_FRAME: Final = frozenset(PARTS) - frozenset(SUMS)


def _carried(parts: Sequence[str]) -> str:
    carried = ["row_, event_ms, key, rank, place, is_wanted"]
    carried += ["counted"] * (not BY_FRAME.isdisjoint(parts))
    carried += ["x"] * (not {"low", "high", "earliest"}.isdisjoint(parts))
    carried += ["bit"] * ("places" in parts)
    return ", ".join(carried)


def _running(parts: Sequence[str]) -> str:
    """Sums over all requests of the key before this one."""
    aggregates = _aggregates("counted")
    cells = [f"{n}: {aggregates[n]} OVER before" for n in SUMS if n in parts]
    return ", ".join(cells)


def _ends(frames: Sequence[tuple[int, int]], windows: Sequence[Window]) -> str:
    """Sums before the first tile of each window, and before the first tile after it."""
    found = "".join(f", first_value(past) OVER from_{k} AS past_{k}" for k in _offsets(frames))
    for tiles, delay in frames:
        for name in sorted(_needed(windows, (tiles, delay)) & BY_FRAME):
            cell = f"{_aggregates('counted')[name]} OVER w_{tiles}_{delay}"
            found += f", {cell} AS {name}_{tiles}_{delay}"
    return found


def _offsets(frames: Sequence[tuple[int, int]]) -> list[int]:
    """Distances of the windows' bounds from a request's own tile, in tiles."""
    return sorted({t + d for t, d in frames} | {d - 1 for _, d in frames if d})


def _frames(frames: Sequence[tuple[int, int]], windows: Sequence[Window]) -> str:
    """SQL frames of whole tiles, and of the earlier requests in the open tile."""
    ordered = "(PARTITION BY key ORDER BY place RANGE BETWEEN"
    found = [
        f"from_{k} AS {ordered} {k * PLACES} + rank PRECEDING AND CURRENT ROW)"
        for k in _offsets(frames)
    ]
    for tiles, delay in frames:
        if _needed(windows, (tiles, delay)) & BY_FRAME:
            last = f"{(delay - 1) * PLACES} + rank + 1" if delay else "1"
            first = f"{(tiles + delay) * PLACES} + rank"
            found.append(f"w_{tiles}_{delay} AS {ordered} {first} PRECEDING AND {last} PRECEDING)")
    return f" WINDOW {', '.join(found)}"


def _in_time(windows: Sequence[Window], frame: tuple[int, int]) -> str:
    tiles, delay = frame
    needed, cells = _needed(windows, frame), []
    before, upto = f"past_{tiles + delay}", f"past_{delay - 1}" if delay else "past"
    for name in PARTS:
        cell = f"{name}_{tiles}_{delay}"
        match name:
            case _ if name not in needed:
                continue
            case "last" | "latest":  # before the window's end: within the window, if it has any
                cells.append(f"{upto}.{name} AS {cell}")
            case _ if name in BY_FRAME:
                cells.append(cell)
            case _:
                both = (f"coalesce({end}.{name}, 0)" for end in (upto, before))
                cells.append(f"{' - '.join(both)} AS {cell}")
    return ", ".join(cells)


def _late(windows: Sequence[Window], frame: tuple[int, int]) -> str:
    """The parts of one frame, of what a late row knew."""
    tiles, delay = frame
    inside = f"tile BETWEEN own_tile - {tiles + delay} AND own_tile - {delay}"
    needed = _needed(windows, frame)
    return ", ".join(
        f"{_OF_PARTS[name].format(name)} FILTER ({inside}) AS {name}_{tiles}_{delay}"
        for name in PARTS
        if name in needed
    )


def _value(window: Window, series: Series) -> str:
    at = f"{window.tiles}_{window.delay_tiles}"
    n, scale = f"CAST(n_{at} AS DOUBLE)", f"CAST('{series.scale!r}' AS DOUBLE)"
    total = f"CAST(CAST(coalesce(total_{at}, 0) AS BIGINT) AS DOUBLE)"
    match window.aggregate:
        case "count":
            return n
        case "sum":
            return f"{total} / {scale}"
        case "rate":
            ms = window.tile_ms
            open_ms = f"{ms}" if window.delay else f"((event_ms % {ms}) + {ms}) % {ms}"
            covered = f"CAST({window.length_ms} + {open_ms} AS DOUBLE)"
            per = float(span_ms(window.per or ""))
            return f"{n} * CAST('{per!r}' AS DOUBLE) / {covered}"
        case "distinct":
            return f"CAST({[*ESTIMATES]}[places_{at} + 1] AS DOUBLE)"
        case "share":
            made = f"CAST(matched_{at} AS DOUBLE) / {n}"
        case "first" | "last":
            name = "earliest" if window.aggregate == "first" else "latest"
            made = f"CAST({name}_{at}.x AS DOUBLE) / {scale}"
        case "seconds_since":
            since = f"CAST(greatest(event_ms - last_{at}, 0) AS DOUBLE)"
            made = f"{since} / CAST('1000.0' AS DOUBLE)"
        case "mean":
            made = f"{total} / {n} / {scale}"
        case "min":
            made = f"CAST(low_{at} AS DOUBLE) / {scale}"
        case "max":
            made = f"CAST(high_{at} AS DOUBLE) / {scale}"
        case _:  # std
            whole = f"CAST({HALF} AS HUGEINT)"
            sums = f"CAST(total_{at} AS HUGEINT)"
            spread = f"(CAST(n_{at} AS HUGEINT) * squares_{at} - {sums} * {sums})"
            parts = (f"CAST(CAST({spread} {by} {whole} AS BIGINT) AS DOUBLE)" for by in ("//", "%"))
            made = f"sqrt({' * {whole} + '.join(parts)}) / {n} / {scale}".replace(
                "{whole}", f"CAST('{float(HALF)!r}' AS DOUBLE)"
            )
    return f"CASE WHEN n_{at} > 0 THEN {made} END"
