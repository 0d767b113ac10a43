"""Real-time windows of many payments: as training counts them, as an import builds their state, and
beside DuckDB's own window functions."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any, Final

import duckdb
import msgspec
from tests.bench.windows import DAYS, in_order, windows

from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.decisions.records.tables import DATABASE
from mlplatform.learning.features.offline import OfflineTable
from mlplatform.learning.features.windows.build import build
from mlplatform.learning.features.windows.sql import windows_sql
from mlplatform.model.folders import load_definition
from mlplatform.model.windows.declaration import Window
from mlplatform.model.windows.tiles import series_of

WINDOWS: Final = 20
Figures = dict[str, Any]


def counted(history: Path) -> Figures:
    """14 windows of each payment, as a training set has them."""
    definition = msgspec.structs.replace(load_definition("fraud"), windows=windows())
    shared = series_of(definition.windows, definition.entities)
    with duckdb.connect(config={"threads": 2}) as db:
        in_order(db, f"read_parquet('{history}')", "event_time", "request_id")
        found = db.sql(windows_sql(shared, "payments", "true")).to_arrow_table()
    return {"rows": len(found), "windows": len(definition.windows)}


def plain(history: Path) -> Figures:
    """Twelve counts and means over exact ranges of time, and the time since the last payment, by
    window functions of DuckDB. A payment counts for itself here."""
    made = []
    for entity in ("customer", "terminal"):
        for days in DAYS:
            over = (
                f"OVER (PARTITION BY {entity}_id ORDER BY event_time"
                f" RANGE BETWEEN INTERVAL {days} DAY PRECEDING AND CURRENT ROW)"
            )
            made += [
                f"count(*) {over} AS {entity}_n_{days}d",
                f"avg(amount) {over} AS {entity}_mean_{days}d",
            ]
        since = f"lag(event_time) OVER (PARTITION BY {entity}_id ORDER BY event_time)"
        made.append(f"date_diff('second', {since}, event_time) AS {entity}_since")
    with duckdb.connect(config={"threads": 2}) as db:
        query = f"SELECT request_id, {', '.join(made)} FROM read_parquet('{history}')"
        found = db.sql(query).to_arrow_table()
    return {"rows": len(found), "windows": len(made)}


def bootstrap(table: OfflineTable, folder: Path) -> Figures:
    """The state of 20 windows of each customer, built from history, beside an empty log."""
    twenty = tuple(
        Window(
            name=f"customer_{aggregate}_{days}d",
            entity="customer",
            aggregate=aggregate,  # type: ignore[arg-type]
            of=None if aggregate in ("count", "seconds_since") else "amount",
            window=f"{days}d",
            resolution="6h",
        )
        for days in (1, 7, 14, 30)
        for aggregate in ("count", "mean", "sum", "max", "seconds_since")
    )
    assert len(twenty) == WINDOWS
    table.definition = msgspec.structs.replace(table.definition, windows=twenty)
    with closing(SqliteDecisionLog(folder / "bootstrap")) as log:
        states = build(folder / "bootstrap" / DATABASE, table, log)
    return {"windows": WINDOWS, "states": states}
