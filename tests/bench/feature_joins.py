"""The point-in-time join of three views beside DuckDB's own and the SDK of Feast; and one of so
many payments that no memory holds them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import duckdb
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mlplatform.learning.features.offline import OfflineTable
from mlplatform.learning.training.folder import load_folder
from mlplatform.learning.training_sets.join import KeptRows, view_join
from mlplatform.model.features.views import FeatureView
from mlplatform.runtime.units import DAY_MS

MODEL: Final = "fraud"
START_MS: Final = 20_500 * DAY_MS
DAYS: Final = 28
PORTION: Final = 1_000_000
MEMORY: Final = "6GB"
"""DuckDB's limit in the plain join of many payments; the process takes some more."""

Figures = dict[str, Any]


def three_views() -> tuple[FeatureView, ...]:
    """14 features: five of a customer, four more of a customer, five of a terminal."""
    customer, terminal = load_folder(MODEL).views
    return tuple(
        msgspec.structs.replace(view, name=f"bench_{name}", fields=view.fields[first:last])
        for name, view, first, last in (
            ("customer", customer, 0, 5),
            ("customer_more", customer, 5, 9),
            ("terminal", terminal, 0, 5),
        )
    )


def write_snapshots(
    offline: OfflineTable, views: Sequence[FeatureView], entities: dict[str, Any]
) -> int:
    """A snapshot of each view at each midnight, of every entity, with made-up values.

    Args:
        entities: join key → keys.
    """
    rng, written = np.random.default_rng(2), 0
    for view in views:
        keys = entities[view.join_key]
        offline.snapshot_folder(view.name).mkdir(parents=True, exist_ok=True)
        for day in range(DAYS + 1):
            at = pa.array(np.full(len(keys), (START_MS + day * DAY_MS) * 1000), pa.timestamp("us"))
            values = {name: pa.array(rng.random(len(keys))) for name in view.feature_names}
            rows = pa.table({view.join_key: keys, "event_timestamp": at, "created": at, **values})
            pq.write_table(rows, offline.snapshot_folder(view.name) / f"{day:03d}.parquet")
            written += len(keys)
    return written


def platform_join(offline: OfflineTable, events: pa.Table) -> pa.Table:
    """The views' values, as serving could have read them."""
    return view_join(offline, three_views(), events)


def plain_join(offline: OfflineTable, events: pa.Table) -> pa.Table:
    """The same rows by DuckDB's own join over the same files, checked for nothing."""
    with duckdb.connect(config={"threads": 2}) as db:
        db.register("events", events)
        return db.sql(_plain_sql(offline, "events")).to_arrow_table()


def _plain_sql(offline: OfflineTable, events: str) -> str:
    views = three_views()
    joins = " ".join(
        f"ASOF LEFT JOIN read_parquet('{offline.snapshot_folder(view.name)}/*.parquet') v{n}"
        f" ON e.{view.join_key} = v{n}.{view.join_key} AND e.event_time >= v{n}.created"
        for n, view in enumerate(views)
    )
    names = ", ".join(
        f"CASE WHEN v{n}.event_timestamp >= e.event_time - INTERVAL {view.ttl_ms} MILLISECOND"
        f" THEN v{n}.{name} END AS {name}"
        for n, view in enumerate(views)
        for name in view.feature_names
    )
    return f"SELECT e.*, {names} FROM {events} e {joins}"


def feast_join(offline: OfflineTable, events: pa.Table, folder: Path) -> Figures:
    """The same by `get_historical_features` of Feast's SDK on DuckDB; its import is not counted."""
    from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
    from feast.types import Float64

    folder.mkdir()
    (folder / "feature_store.yaml").write_text(
        f"project: bench\nprovider: local\nregistry: {{path: {folder}/registry.db}}\n"
        f"online_store: {{type: sqlite, path: {folder}/online.db}}\noffline_store: {{type: duckdb}}"
        "\nentity_key_serialization_version: 3\n"
    )
    store, made, names = FeatureStore(str(folder)), list[Any](), list[str]()
    entities = {
        view.join_key: Entity(
            name=view.entity, join_keys=[view.join_key], value_type=ValueType.INT64
        )
        for view in three_views()
    }
    for view in three_views():
        file = folder / f"{view.name}.parquet"
        with duckdb.connect() as db:
            found = f"read_parquet('{offline.snapshot_folder(view.name)}/*.parquet')"
            zoned = "event_timestamp::TIMESTAMPTZ AS event_timestamp, created::TIMESTAMPTZ"
            db.sql(f"SELECT * REPLACE ({zoned} AS created) FROM {found}").write_parquet(str(file))
        source = FileSource(
            name=view.name, path=str(file), timestamp_field="event_timestamp",
            created_timestamp_column="created",
        )  # fmt: skip
        schema = [Field(name=name, dtype=Float64) for name in view.feature_names]
        made.append(
            FeatureView(
                name=view.name, entities=[entities[view.join_key]], schema=schema, source=source,
                ttl=timedelta(milliseconds=view.ttl_ms),
            )
        )  # fmt: skip
        names += [f"{view.name}:{name}" for name in view.feature_names]
    store.apply([*entities.values(), *made])
    asked = events.select(["event_time", *entities]).to_pandas()
    asked = asked.rename(columns={"event_time": "event_timestamp"})
    asked["event_timestamp"] = asked["event_timestamp"].dt.tz_localize("UTC")
    started, cpu = time.perf_counter(), time.process_time()
    found = store.get_historical_features(asked, names).to_arrow()
    return {
        "rows": len(found),
        "join_seconds": round(time.perf_counter() - started, 1),
        "join_cpu_seconds": round(time.process_time() - cpu, 1),
    }


def _portions(payments: int, customers: int, terminals: int) -> Iterator[pa.Table]:
    """So many payments of four weeks in order, in portions."""
    for number in range(0, payments, PORTION):
        rng, rows = np.random.default_rng(number), min(PORTION, payments - number)
        from_ms = START_MS + DAYS * DAY_MS * number // payments
        length_ms = DAYS * DAY_MS * rows // payments
        at = np.sort(rng.integers(0, length_ms, rows)) + from_ms
        yield pa.table(
            {
                "event_time": pa.array(at * 1000, pa.timestamp("us")),
                "customer_id": rng.integers(0, customers, rows),
                "terminal_id": rng.integers(0, terminals, rows),
            }
        )


def write_many(offline: OfflineTable, folder: Path, payments: int) -> Figures:
    """Payments and snapshots of the join of many payments; a customer makes 200 of them."""
    customers, terminals = max(payments // 200, 100), max(payments // 2_000, 100)
    keys: dict[str, Any] = {
        "customer_id": pa.array(np.arange(customers)), "terminal_id": pa.array(np.arange(terminals))
    }  # fmt: skip
    with pq.ParquetWriter(folder / "many.parquet", next(_portions(1, 1, 1)).schema) as file:
        for portion in _portions(payments, customers, terminals):
            file.write_table(portion)
    return {"payments": payments, "snapshot rows": write_snapshots(offline, three_views(), keys)}


def join_many(offline: OfflineTable, folder: Path) -> Figures:
    """The join in portions, each written as it is made: as a batch does it."""
    rows, kept, file = 0, KeptRows(), pq.ParquetFile(folder / "many.parquet")
    writer: pq.ParquetWriter | None = None
    for batch in file.iter_batches(PORTION):
        joined = view_join(offline, three_views(), pa.Table.from_batches([batch]), kept)
        writer = writer or pq.ParquetWriter(folder / "joined.parquet", joined.schema)
        writer.write_table(joined)
        rows += len(joined)
    assert writer is not None
    writer.close()
    (folder / "joined.parquet").unlink()
    return {"rows": rows}


def plain_join_many(offline: OfflineTable, folder: Path) -> Figures:
    """The same in one query of DuckDB, which spills."""
    config: Any = {"threads": 2, "memory_limit": MEMORY, "temp_directory": str(folder / "spill")}
    with duckdb.connect(config=config) as db:
        db.execute("SET preserve_insertion_order=false")
        query = _plain_sql(offline, f"read_parquet('{folder}/many.parquet')")
        (rows,) = db.execute(
            f"COPY ({query}) TO '{folder}/plain.parquet' (FORMAT parquet)"
        ).fetchall()[0]
    (folder / "plain.parquet").unlink()
    return {"rows": rows}
