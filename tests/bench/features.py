"""What features and training sets cost by how many payments there are: time, memory, rows.

    python -m tests.bench.features --payments 1000000 10000000

A history of card payments of four weeks with daily snapshots of the fraud model's views is made up.
Each row of the table is a process of its own, and tells its seconds, CPU seconds and peak memory.
Beside the point-in-time join stands the same join as one plain query of DuckDB.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tests.bench.passes import peak_mb
from tests.bench.scale import write_log

from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.learning.features.feast_sqlite import FeastSqlite
from mlplatform.learning.features.offline import OfflineTable
from mlplatform.learning.features.snapshots import snapshot
from mlplatform.learning.training import retrain
from mlplatform.learning.training.folder import load_folder
from mlplatform.learning.training_sets.join import training_join, view_join
from mlplatform.runtime.units import DAY_MS

MODEL: Final = "fraud"
START_MS: Final = 20_500 * DAY_MS
DAYS: Final = 28
FRAUDS: Final = 0.008
SEGMENT_ROWS: Final = 50_000
JOINED: Final = 1_000_000
"""Payments of the point-in-time join."""
KEY: Final = b"0" * 32

Figures = dict[str, Any]


def history(payments: int) -> pa.Table:
    """So many payments in order; a customer makes 50 of them, a terminal 500."""
    rng = np.random.default_rng(1)
    at_ms = START_MS + np.sort(rng.integers(0, DAYS * DAY_MS, payments))
    fraud = rng.random(payments) < FRAUDS
    return pa.table(
        {
            "request_id": pa.array([f"p{n:09d}" for n in range(payments)]),
            "event_time": pa.array(at_ms * 1000, pa.timestamp("us")),
            "customer_id": rng.integers(0, max(payments // 50, 100), payments),
            "terminal_id": rng.integers(0, max(payments // 500, 100), payments),
            "amount": np.round(rng.lognormal(3.5, 0.8, payments), 2),
            "label": pa.array(np.ones(payments, np.int8), mask=~fraud),
            "label_time": pa.array((at_ms + DAY_MS) * 1000, pa.timestamp("us"), mask=~fraud),
        }
    )


def write_snapshots(offline: OfflineTable) -> int:
    """A snapshot of each view at each midnight, of every entity, with made-up values."""
    rng, written = np.random.default_rng(2), 0
    for view in load_folder(MODEL).views:
        keys = offline.requests().project(view.join_key).distinct().to_arrow_table()
        keys = keys.sort_by(view.join_key).column(0).combine_chunks()
        offline.snapshot_folder(view.name).mkdir(parents=True, exist_ok=True)
        values = {name: pa.array(rng.random(len(keys))) for name in view.feature_names}
        for day in range(DAYS + 1):
            at = pa.array(np.full(len(keys), (START_MS + day * DAY_MS) * 1000), pa.timestamp("us"))
            rows = pa.table({view.join_key: keys, "event_timestamp": at, "created": at, **values})
            pq.write_table(rows, offline.snapshot_folder(view.name) / f"{day:03d}.parquet")
            written += len(keys)
    return written


def import_history(folder: Path, payments: int) -> Figures:
    offline = _table(folder)
    offline.import_history(history(payments), KEY)
    offline.finish_history()
    return {"payments": payments, "snapshot rows": write_snapshots(offline)}


def project(folder: Path, payments: int) -> Figures:
    """The log's records as rows of the offline table."""
    with closing(SqliteDecisionLog(folder / "decisions")) as log:
        found = _table(folder / "projected").project(log)
    return {"requests": found.requests, "voids": found.voids}


def training_set(folder: Path, _: int) -> Figures:
    """What a retrain reads: matured payments with labels, and recent ones to be replayed."""
    model, as_of_ms = load_folder(MODEL), START_MS + DAYS * DAY_MS
    asked: Any = {"as_of_ms": as_of_ms, "champion": None, "join": training_join}
    found = retrain.build_dataset(model, _table(folder), **asked)
    recent = retrain.recent_requests(model, _table(folder), **asked)
    return {
        "rows": len(found.rows),
        "positives": int(found.rows.y.sum()),
        "replayed": len(recent.matrix) if recent else 0,
        "digest": found.digest[:16],
    }


def join(folder: Path, _: int) -> Figures:
    """The views' values of a million payments, as serving could have read them."""
    model, offline = load_folder(MODEL), _table(folder)
    events = offline.requests().order("event_time").limit(JOINED).to_arrow_table()
    joined = view_join(offline, model.views, events)
    return {"rows": len(joined), "columns": joined.num_columns}


def plain_join(folder: Path, _: int) -> Figures:
    """The same rows by DuckDB's own join over the same files, checked for nothing."""
    model, offline = load_folder(MODEL), _table(folder)
    events = offline.requests().order("event_time").limit(JOINED).to_arrow_table()
    with duckdb.connect(config={"threads": 2}) as db:
        db.register("events", events)
        joins = " ".join(
            f"ASOF LEFT JOIN read_parquet('{offline.snapshot_folder(view.name)}/*.parquet') v{n}"
            f" ON e.{view.join_key} = v{n}.{view.join_key} AND e.event_time >= v{n}.created"
            for n, view in enumerate(model.views)
        )
        names = ", ".join(
            f"v{n}.{name}" for n, view in enumerate(model.views) for name in view.feature_names
        )
        joined = db.sql(f"SELECT e.*, {names} FROM events e {joins}").to_arrow_table()
    return {"rows": len(joined), "columns": joined.num_columns}


def snapshots(folder: Path, _: int) -> Figures:
    """A midnight's snapshots of both views from the payments of 30 days."""
    offline = _table(folder)
    made = [snapshot(offline, view, START_MS + DAYS * DAY_MS) for view in load_folder(MODEL).views]
    return {"entities": sum(len(rows) for rows in made)}


def write_online(folder: Path, _: int) -> Figures:
    """A midnight's snapshot of every customer into the embedded online store."""
    view = load_folder(MODEL).views[0]
    rows = pq.read_table(_table(folder).snapshot_folder(view.name) / f"{DAYS:03d}.parquet")
    with closing(
        FeastSqlite(folder / "online.db", "mlplatform", load_folder(MODEL).views)
    ) as store:
        written = store.write(view.name, rows)
    return {"entities": written, "bytes": (folder / "online.db").stat().st_size}


ROWS: Final[dict[str, Callable[[Path, int], Figures]]] = {
    "history and snapshots, written": import_history,
    "projection of the log": project,
    "what a retrain reads": training_set,
    "point-in-time join": join,
    "the same in plain DuckDB": plain_join,
    "a day's snapshots, computed": snapshots,
    "a snapshot into the online store": write_online,
}


def _table(folder: Path) -> OfflineTable:
    return OfflineTable(folder / "offline", load_folder(MODEL).definition)


def one(row: str, folder: Path, payments: int) -> Figures:
    """The row, measured in this process."""
    started, cpu = time.perf_counter(), time.process_time()
    found = ROWS[row](folder, payments)
    return {
        **found,
        "seconds": round(time.perf_counter() - started, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "peak_mb": peak_mb(),
    }


def measured(folder: Path, payments: int, log_records: int) -> dict[str, Figures]:
    """Every row, each in a process of its own."""
    found: dict[str, Figures] = {}
    if log_records:
        write_log(folder / "decisions", log_records // SEGMENT_ROWS, SEGMENT_ROWS)
    for row in ROWS:
        if row == "projection of the log" and not log_records:
            continue
        count = log_records if row == "projection of the log" else payments
        command = [sys.executable, "-m", "tests.bench.features", "--row", row]
        command += ["--folder", str(folder), "--payments", str(count)]
        out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        found[row] = json.loads(out)
        print(f"  {row:34} {json.dumps(found[row])}", file=sys.stderr, flush=True)
    return found


def main() -> None:
    """Write build/bench/features.json, and a line for each row to standard error."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--payments", type=int, nargs="+", default=[1_000_000])
    parser.add_argument("--log-records", type=int, default=500_000, help="0: no projection")
    parser.add_argument("--folder", type=Path, help="on the disk to be measured")
    parser.add_argument("--json", type=Path, default=Path("build/bench/features.json"))
    parser.add_argument("--row", choices=tuple(ROWS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row:
        print(json.dumps(one(options.row, options.folder, options.payments[0])))
        return
    options.json.parent.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"at": datetime.now(UTC).isoformat(timespec="seconds")}
    for payments in options.payments:
        print(f"{payments:,} payments", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(dir=options.folder) as name:
            found[f"{payments} payments"] = measured(Path(name), payments, options.log_records)
        options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
