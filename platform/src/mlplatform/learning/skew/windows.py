"""Real-time windows: the values that each decision should have read, by the SQL that training
joins.

A record names the log position of its windows, and they are counted again exactly there. Whether
that position is behind what had been recorded by then is a separate question.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, Final, NamedTuple

import duckdb
import pyarrow as pa

from mlplatform.learning.features.arrivals import OWN, ranked_sql
from mlplatform.learning.features.windows.sql import windows_sql
from mlplatform.learning.skew.cells import Cell, LateInterval, Note, exactly
from mlplatform.learning.skew.decision_reads import DecisionReads, Key
from mlplatform.learning.skew.raw_records import ARRIVAL
from mlplatform.model.definition import ModelDefinition
from mlplatform.model.windows.declaration import EntityWindows, by_entity
from mlplatform.model.windows.ratios import ratios_of
from mlplatform.model.windows.tiles import SeriesReader, fold, new_columns, series_of

MOST_REQUESTS: Final = 20_000
"""Most requests of an entity whose earlier states are looked for: all of them are in memory, and
added up."""
ROWS_AT_ONCE: Final = 10_000
MOST_FOLDED: Final = 1_000_000
"""Most requests that a pass adds up again for that; further values are reported as different."""
MOST_STATES: Final = 100
"""Number of an entity's newest earlier states with which a value is compared."""
Values = Mapping[str, float | None]


class _ReadBounds(NamedTuple):
    """The first request of an entity that a decision had not seen although it was recorded long
    enough before, and the last one that it had seen; wall times."""

    unseen_ms: int | None
    seen_ms: int | None


def window_cells(
    db: duckdb.DuckDBPyConnection,
    definition: ModelDefinition,
    served: Sequence[DecisionReads],
    late_after_ms: int,
) -> Iterator[Cell]:
    """A cell for every window and every decision.

    Args:
        db: a database with the tables of `raw_records.gather`.
        late_after_ms: a decision should include the records that were written at least so many
            milliseconds before it.
    """
    if not definition.windows or not served:
        return
    _rank(db, served)
    at_position = _values(db, definition, "ranked")
    sources = by_entity(definition.windows, definition.entities)
    behind = {source.name: _behind(db, source, late_after_ms) for source in sources}
    due = _due(db, definition, served, behind)
    for source in sources:
        odd: list[tuple[DecisionReads, Values]] = []
        for one in served:
            own = at_position[one.decision_id]
            found = behind[source.name][one.decision_id]
            is_behind = one.position is None or found.unseen_ms is not None
            right = due[one.decision_id] if is_behind else own
            if one.position is None or _has_all(source, one, right):
                yield from _plain(source, one, right)
            elif _has_all(source, one, own):
                yield from _late(source, one, own, right, found)
            else:
                odd.append((one, right))
        states = _states(db, definition, source, [one for one, _ in odd])
        for one, right in odd:
            yield from _strange(source, one, right, states.get(one.decision_id))


def _has_all(source: EntityWindows, one: DecisionReads, values: Values) -> bool:
    return all(
        name in one.features and exactly(one.features[name], values[name])
        for name in source.feature_names
    )


def _plain(source: EntityWindows, one: DecisionReads, right: Values) -> Iterator[Cell]:
    """Cells of equal values, and cells of a decision that read no windows."""
    for name in source.feature_names:
        value, wanted = one.features.get(name), right[name]
        note = _gap_note(source, one, name)
        if exactly(value, wanted) and note != "unserved":
            yield _cell(one, name, wanted, "equal")
        else:
            outcome = "missing" if value is None else "different"
            yield _cell(one, name, wanted, outcome, note=note)


def _late(
    source: EntityWindows, one: DecisionReads, own: Values, right: Values, behind: _ReadBounds
) -> Iterator[Cell]:
    for name in source.feature_names:
        if exactly(own[name], right[name]):
            yield _cell(one, name, right[name], "equal")
        else:
            unseen_ms = behind.unseen_ms
            late_ms = None if unseen_ms is None else one.recorded_ms - unseen_ms
            holds = LateInterval(behind.seen_ms, unseen_ms, late_ms)
            yield _cell(one, name, right[name], "late", holds=holds)


def _strange(
    source: EntityWindows, one: DecisionReads, right: Values, found: LateInterval | Note | None
) -> Iterator[Cell]:
    """Cells of values that the position does not give: those of an earlier state, of the empty
    state, or of no state."""
    for name in source.feature_names:
        value, wanted = one.features.get(name), right[name]
        if exactly(value, wanted) and name in one.features:
            yield _cell(one, name, wanted, "equal")
        elif value is None or found == "empty":
            note = found if found == "empty" else _gap_note(source, one, name)
            yield _cell(one, name, wanted, "missing", note=note)
        elif isinstance(found, LateInterval):
            yield _cell(one, name, wanted, "late", holds=found)
        else:
            yield _cell(one, name, wanted, "different")


def _gap_note(source: EntityWindows, one: DecisionReads, name: str) -> Note | None:
    if one.features and name not in one.features:
        return "unserved"
    return one.gap(source.name)  # type: ignore[return-value]


def _cell(one: DecisionReads, name: str, expected: float | None, outcome: Any, **more: Any) -> Cell:
    value = one.features.get(name)
    return Cell(name, one.decision_id, one.event_ms, value, expected, outcome, one.position, **more)


def _rank(db: duckdb.DuckDBPyConnection, served: Sequence[DecisionReads]) -> None:
    """Create the relations `ranked`, requests in the order in which they became known to readers,
    and `recorded`, in the order of recording."""
    row, event_ms, rank, seen = OWN
    _draw(db, [one.decision_id for one in served])
    own = ", ".join(f"_{name}" for name in (*ARRIVAL, "stopped") if name != "recorded_ms")
    arrival = ", ".join(f"_{name} AS {name}" for name in ARRIVAL)
    db.execute(
        f"CREATE OR REPLACE VIEW asked AS SELECT * EXCLUDE ({own}) FROM events;"
        f"CREATE OR REPLACE VIEW arrivals AS SELECT request_id, {arrival}"
        " FROM events WHERE _writer IS NOT NULL"
    )
    db.execute(f"CREATE OR REPLACE TABLE ranked AS {ranked_sql('asked', 'arrivals')}")
    db.execute(
        "CREATE OR REPLACE TABLE recorded AS WITH ordered AS ("
        f" SELECT * EXCLUDE ({own}),"
        f" epoch_ms(event_time) AS {event_ms}, coalesce(_recorded_ms, -1) AS _at_ms,"
        " row_number() OVER (ORDER BY _recorded_ms NULLS FIRST, _writer, _seq, event_time,"
        f" request_id) - 1 AS {rank} FROM events),"
        f" reached AS (SELECT _at_ms, max({rank}) AS last FROM ordered GROUP BY _at_ms)"
        f" SELECT o.* EXCLUDE (_at_ms), {rank} AS {row}, CASE WHEN o._at_ms < 0 THEN {rank} - 1"
        f" ELSE coalesce(r.last, -1) END AS {seen}"
        " FROM ordered o ASOF LEFT JOIN reached r ON o._at_ms > r._at_ms"
    )


def _draw(db: duckdb.DuckDBPyConnection, decision_ids: Sequence[str]) -> None:
    db.register("drawn_", pa.table({"request_id": decision_ids}))
    db.execute("CREATE OR REPLACE TABLE drawn AS SELECT * FROM drawn_")
    db.unregister("drawn_")


def _values(
    db: duckdb.DuckDBPyConnection, definition: ModelDefinition, relation: str
) -> dict[str, Values]:
    """Windows of the decisions in `drawn`, by decision id."""
    shared = series_of(definition.windows, definition.entities)
    wanted = "request_id IN (SELECT request_id FROM drawn)"
    row = OWN[0]
    windows = windows_sql(shared, relation, wanted, ratios_of(definition.windows))
    found = db.sql(
        f"SELECT p.request_id, f.* EXCLUDE ({row}) FROM ({windows}) f"
        f" JOIN {relation} p ON p.{row} = f.{row}"
    ).to_arrow_table()
    return {one.pop("request_id"): one for one in found.to_pylist()}


def _behind(
    db: duckdb.DuckDBPyConnection, source: EntityWindows, late_after_ms: int
) -> dict[str, _ReadBounds]:
    rank, seen = OWN[2:]
    rows = db.execute(
        f'WITH p AS (SELECT request_id, "{source.key}" AS _key, {rank}, {seen}, _recorded_ms'
        " FROM ranked),"
        f" after_ AS (SELECT _key, {rank}, min(_recorded_ms) OVER (PARTITION BY _key ORDER BY"
        f" {rank} ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING) AS unseen_ms FROM p),"
        " w AS (SELECT * FROM p WHERE request_id IN (SELECT request_id FROM drawn))"
        " SELECT w.request_id, CASE WHEN a.unseen_ms <= w._recorded_ms - ? THEN a.unseen_ms END,"
        " b._recorded_ms FROM w"
        f" ASOF LEFT JOIN after_ a ON w._key = a._key AND w.{seen} < a.{rank}"
        f" ASOF LEFT JOIN p b ON w._key = b._key AND w.{seen} >= b.{rank}",
        [late_after_ms],
    ).fetchall()
    return {request_id: _ReadBounds(*found) for request_id, *found in rows}


def _due(
    db: duckdb.DuckDBPyConnection,
    definition: ModelDefinition,
    served: Sequence[DecisionReads],
    behind: Mapping[str, Mapping[str, _ReadBounds]],
) -> dict[str, Values]:
    """The values that decisions should have read whose position is behind, or that had no
    position."""
    late = [
        one.decision_id
        for one in served
        if one.position is None
        or any(found[one.decision_id].unseen_ms is not None for found in behind.values())
    ]
    if not late:
        return {}
    _draw(db, late)
    return _values(db, definition, "recorded")


def _states(
    db: duckdb.DuckDBPyConnection,
    definition: ModelDefinition,
    source: EntityWindows,
    odd: Sequence[DecisionReads],
) -> dict[str, LateInterval | Note | None]:
    """The earlier state of the entity that gives the values of each decision: its interval; `empty`
    for the state without requests; None if no earlier state gives all of its windows."""
    by_key: dict[Key, list[DecisionReads]] = {}
    for one in odd:
        if all(name in one.features for name in source.feature_names):
            by_key.setdefault(one.keys[source.entity], []).append(one)
    rank, seen = OWN[2:]
    _draw(db, [one.decision_id for of in by_key.values() for one in of])
    key = f'"{source.key}"'
    rows = db.sql(
        f"SELECT * FROM ranked SEMI JOIN (SELECT {key} FROM ranked SEMI JOIN drawn"
        f" USING (request_id)) USING ({key}) QUALIFY count(*) OVER (PARTITION BY {key})"
        f" <= {MOST_REQUESTS} ORDER BY {key}, {rank}"
    ).to_arrow_reader(ROWS_AT_ONCE)
    found: dict[str, LateInterval | Note | None] = {}
    left = MOST_FOLDED
    every = (row for batch in rows for row in batch.to_pylist())
    for of, requests in groupby(every, lambda row: row[source.key]):
        past = list(requests)
        upto = {row["request_id"]: row[seen] for row in past}
        for one in by_key[of]:
            if len(past) > left:
                return found
            left -= len(past)
            known = [row for row in past if row[rank] <= upto[one.decision_id]]
            found[one.decision_id] = _earlier(definition, source, one, known)
    return found


def _earlier(
    definition: ModelDefinition,
    source: EntityWindows,
    one: DecisionReads,
    events: Sequence[dict[str, Any]],
) -> LateInterval | Note | None:
    shared = series_of(definition.windows, definition.entities)
    mine = [(series, windows) for series, windows in shared if series.key == source.key]
    states = [
        (new_columns(series), series, SeriesReader(series, windows)) for series, windows in mine
    ]
    ratios = ratios_of(source.fields)
    first = max(len(events) - MOST_STATES, 0)
    alike: list[int] = []
    for number, event in enumerate(events):
        if number == 0 or number >= first:
            values: dict[str, float | None] = {}
            for columns, _, reader in states:
                reader.fill(values, columns, one.event_ms)
            for ratio in ratios:
                values[ratio.name] = ratio.of_values(values)
            if all(exactly(values[n], one.features[n]) for n in source.feature_names):
                alike.append(number)
        for columns, series, _ in states:
            fold(columns, series, event[OWN[1]], event)
    if not alike or alike[-1] == 0:
        return "empty" if alike else None
    return _between(one, events, alike)


def _between(
    one: DecisionReads, events: Sequence[dict[str, Any]], alike: Sequence[int]
) -> LateInterval:
    """The certain interval of a state that equals those of several numbers of requests in a row: it
    includes the requests of the first, and lacks those that the last one lacks."""
    last = alike[-1]
    first = next(n for n in range(last, -1, -1) if n == 0 or n - 1 not in set(alike))
    without_ms = events[last]["_recorded_ms"]
    until_ms = events[first - 1]["_recorded_ms"] if first else None
    return LateInterval(
        until_ms, without_ms, None if without_ms is None else one.recorded_ms - without_ms
    )
