"""The order in which requests became known, and which of them were known when each was answered.

A record says which records its windows were made of: per writer of the log, the last one
(`windows_at`). The state changes with the log's transactions, one after the other, so these
positions have an order: of two positions, one includes all records of the other. A request became
known at the first position that includes it. If no position lies between two requests, no decision
saw one without the other. These positions give an order of all requests, and for each request the
place up to which its decision saw them, whichever gateway wrote them and however late.

History comes before the log, in the order of its event times.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import pyarrow as pa

OWN: Final = ("_row", "_event_ms", "_rank", "_seen")
"""Columns of the relation besides the request's fields, whose names never begin like these."""
_COLUMNS: Final[list[tuple[str, pa.DataType]]] = [
    ("request_id", pa.string()),
    ("writer", pa.string()),
    ("seq", pa.int64()),
    ("recorded_ms", pa.int64()),
    ("windows_at", pa.map_(pa.string(), pa.int64())),
]
ARRIVALS: Final = pa.schema(_COLUMNS)
"""Columns of decisions that the log recorded; `windows_at` is null if no windows were read."""


def arrivals_of(decisions: pa.Table, positions: Iterable[Mapping[str, int] | None]) -> pa.Table:
    """Decision records as rows of `ARRIVALS`.

    Args:
        positions: `windows_at` of each record's payload; None if no windows were read.
    """
    columns = [decisions.column(name) for name in ("decision_id", "writer", "seq", "recorded_ms")]
    read = [None if position is None else [*position.items()] for position in positions]
    return pa.table([*columns, pa.array(read, _COLUMNS[-1][1])], schema=ARRIVALS)


def with_positions(arrivals: pa.Table) -> pa.Table:
    """The rows; none if no windows were read for any of them."""
    is_none = arrivals.column("windows_at").null_count == len(arrivals)
    return ARRIVALS.empty_table() if is_none else arrivals


def positions_sql(arrivals: str) -> str:
    """SQL of the first position that includes so many records of a writer: `writer`, `upto`, and
    the position's `total` of records."""
    return f"""
SELECT entry.key AS writer, entry.value AS upto, CAST(min(total) AS BIGINT) AS total
FROM (
    SELECT unnest(map_entries(windows_at)) AS entry, list_sum(map_values(windows_at)) AS total
    FROM {arrivals} WHERE windows_at IS NOT NULL
) GROUP BY ALL
"""


KNOWN: Final = ("_arrival_ms", "_arrival_writer", "_arrival_seq", "_known_at", "_saw")
"""Columns of `known_sql` besides `request_id`. The first three say when a request was recorded, by
whom, and as which of the writer's records. `_known_at` is the total of the first position that
includes it, null if there is none. `_saw` is that of its own position, null if no windows were read
for it."""


def known_sql(arrivals: str, positions: str) -> str:
    """SQL of `request_id` and `KNOWN`, a row for each row of `ARRIVALS`.

    Args:
        positions: a relation of `positions_sql`. For the arrivals of one writer with a `seq` in a
            range, that writer's positions in it and the first one after it are enough.
    """
    recorded_ms, writer, seq, known_at, saw = KNOWN
    return f"""
SELECT a.request_id, a.recorded_ms AS {recorded_ms}, a.writer AS {writer}, a.seq AS {seq},
    p.total AS {known_at}, CASE WHEN a.windows_at IS NOT NULL
        THEN CAST(coalesce(list_sum(map_values(a.windows_at)), 0) AS BIGINT) END AS {saw}
FROM {arrivals} a ASOF LEFT JOIN {positions} p ON a.writer = p.writer AND a.seq <= p.upto
"""


def ranks_sql(requests: str) -> str:
    """SQL of every request with `OWN`: its number, time, rank, and the last rank that it saw.

    Of the requests of some entities alone, the ranks are others, but their order is the same, and
    so are the requests that each one saw.

    Args:
        requests: a relation of `request_id`, `event_time`, the request's fields, and `KNOWN`, null
            for requests that come before those of the log.
    """
    row, event_ms, rank, seen = OWN
    recorded_ms, writer, seq, known_at, saw = KNOWN
    return f"""
WITH ranked AS (
    SELECT *, epoch_ms(event_time) AS {event_ms},
        row_number() OVER (ORDER BY {seq} IS NOT NULL, {known_at} NULLS LAST, {recorded_ms},
            {writer}, {seq}, event_time, request_id) - 1 AS {rank}
    FROM {requests}
), reached AS (
    SELECT -1 AS {known_at}, coalesce(max({rank}) FILTER ({seq} IS NULL), -1) AS last FROM ranked
    UNION ALL
    SELECT {known_at}, max({rank}) FROM ranked WHERE {known_at} IS NOT NULL GROUP BY {known_at}
)
SELECT ranked.* EXCLUDE ({", ".join(KNOWN)}), {rank} AS {row},
    CASE WHEN {saw} IS NULL THEN {rank} - 1 ELSE reached.last END AS {seen}
FROM ranked ASOF LEFT JOIN reached ON coalesce(ranked.{saw}, 0) >= reached.{known_at}
"""


def ranked_sql(requests: str, arrivals: str, positions: str | None = None) -> str:
    """SQL of every request with `OWN`, as from `ranks_sql`.

    Args:
        requests: a relation of `request_id`, `event_time` and the request's fields.
        arrivals: one of `ARRIVALS`; requests that it does not name come before those it names.
        positions: a relation of `positions_sql` over the arrivals of all requests; None: of these.
            A request without a position of its own has seen what became known before it, and when
            that was depends on the positions of others.
    """
    own = positions_sql(arrivals) if positions is None else f"SELECT * FROM {positions}"
    return f"""
WITH positions_ AS ({own}), known_ AS ({known_sql(arrivals, "positions_")}),
known_requests_ AS (
    SELECT r.*, k.* EXCLUDE (request_id)
    FROM {requests} r LEFT JOIN known_ k ON r.request_id = k.request_id
)
SELECT * FROM ({ranks_sql("known_requests_")})
"""
