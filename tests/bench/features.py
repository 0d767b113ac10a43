"""What features and training sets cost by how many payments there are: time, memory, rows.

    python -m tests.bench.features --payments 1000000 10000000

A history of card payments of four weeks with daily snapshots of the fraud model's views is made up.
Each row of the table is a process of its own, and tells its seconds, CPU seconds and peak memory.
Beside the point-in-time join stand the same join as one plain query of DuckDB and by the SDK of
Feast (`make feast`), beside windows the window functions of DuckDB. `--many 100000000` joins what
no memory holds. Online reads and updates are in `tests.bench.windows`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tests.bench import feature_joins as joins
from tests.bench import feature_windows
from tests.bench.feature_joins import DAYS, MODEL, START_MS
from tests.bench.passes import peak_mb
from tests.bench.scale import write_log

from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.learning.features.feast_sqlite import FeastSqlite
from mlplatform.learning.features.offline import OfflineTable
from mlplatform.learning.features.snapshots import snapshot
from mlplatform.learning.training import retrain
from mlplatform.learning.training.folder import load_folder
from mlplatform.learning.training_sets.join import training_join
from mlplatform.model.features.views import FeatureView
from mlplatform.runtime.units import DAY_MS

FRAUDS: Final = 0.008
SEGMENT_ROWS: Final = 50_000
JOINED: Final = 1_000_000
"""Payments of the point-in-time join."""
FEAST_JOINED: Final = 100_000
"""Payments of that which Feast joins; it takes more than ten times the memory."""
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


def import_history(folder: Path, payments: int) -> Figures:
    offline = _table(folder)
    offline.import_history(history(payments), KEY)
    offline.finish_history()
    requests = offline.requests()
    keys: dict[str, Any] = {
        key: requests.project(key).distinct().order(key).to_arrow_table().column(0)
        for key in ("customer_id", "terminal_id")
    }
    views = (*load_folder(MODEL).views, *joins.three_views())
    return {"payments": payments, "snapshot rows": joins.write_snapshots(offline, views, keys)}


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
    """14 features of three views of a million payments."""
    return _shape(joins.platform_join(_table(folder), _events(folder, JOINED)))


def plain_join(folder: Path, _: int) -> Figures:
    return _shape(joins.plain_join(_table(folder), _events(folder, JOINED)))


def feast_join(folder: Path, most: int) -> Figures:
    return joins.feast_join(_table(folder), _events(folder, most), folder / "feast")


def _events(folder: Path, most: int) -> pa.Table:
    return _table(folder).requests().order("event_time").limit(most).to_arrow_table()


def _shape(joined: pa.Table) -> Figures:
    return {"rows": len(joined), "columns": joined.num_columns}


def snapshots(folder: Path, _: int) -> Figures:
    """A midnight's snapshots of both views from the payments of 30 days."""
    offline = _table(folder)
    made = [snapshot(offline, view, START_MS + DAYS * DAY_MS) for view in load_folder(MODEL).views]
    return {"entities": sum(len(rows) for rows in made)}


def write_online(folder: Path, entities: int) -> Figures:
    """A snapshot of 20 features of so many entities into an empty online store."""
    view = twenty_features()
    rng = np.random.default_rng(3)
    at = pa.array(np.full(entities, START_MS * 1000), pa.timestamp("us"))
    values = {name: rng.random(entities) for name in view.feature_names}
    keys = {view.join_key: rng.integers(-(2**62), 2**62, entities)}
    rows = pa.table({**keys, "event_timestamp": at, "created": at, **values})
    with closing(FeastSqlite(folder / "online.db", "mlplatform", (view,))) as store:
        written = store.write(view.name, rows)
    return {"entities": written, "bytes": (folder / "online.db").stat().st_size}


def twenty_features() -> FeatureView:
    view = load_folder(MODEL).views[0]
    fields = tuple(
        msgspec.structs.replace(view.fields[1], name=f"feature_{n:02d}") for n in range(20)
    )
    return msgspec.structs.replace(view, name="bench_twenty", fields=fields)


def write_payments(folder: Path, payments: int) -> Figures:
    """One file of payments, for window functions."""
    pq.write_table(history(payments), folder / "payments.parquet")
    return {"payments": payments}


def count_windows(folder: Path, _: int) -> Figures:
    return feature_windows.counted(folder / "payments.parquet")


def plain_windows(folder: Path, _: int) -> Figures:
    return feature_windows.plain(folder / "payments.parquet")


def import_entities(folder: Path, entities: int) -> Figures:
    """A history in which each of so many customers paid five times."""
    table = history(5 * entities)
    keys = pa.array(np.arange(5 * entities) % entities)
    table = table.set_column(2, "customer_id", keys)
    offline = _table(folder / "entities")
    offline.import_history(table, KEY)
    offline.finish_history()
    return {"payments": len(table), "customers": entities}


def bootstrap(folder: Path, _: int) -> Figures:
    return feature_windows.bootstrap(_table(folder / "entities"), folder)


def write_many(folder: Path, payments: int) -> Figures:
    return joins.write_many(_table(folder / "many"), folder, payments)


def join_many(folder: Path, _: int) -> Figures:
    return joins.join_many(_table(folder / "many"), folder)


def plain_join_many(folder: Path, _: int) -> Figures:
    return joins.plain_join_many(_table(folder / "many"), folder)


ROWS: Final[dict[str, tuple[Callable[[Path, int], Figures], str]]] = {
    "history and snapshots, written": (import_history, "payments"),
    "projection of the log": (project, "log_records"),
    "what a retrain reads": (training_set, "payments"),
    "point-in-time join": (join, "payments"),
    "the same in plain DuckDB": (plain_join, "payments"),
    "the same by Feast's SDK": (feast_join, "feast"),
    "a day's snapshots, computed": (snapshots, "payments"),
    "a snapshot into the online store": (write_online, "entities"),
    "payments, written": (write_payments, "windowed"),
    "windows of each payment": (count_windows, "windowed"),
    "the same in DuckDB's functions": (plain_windows, "windowed"),
    "history of entities, written": (import_entities, "entities"),
    "state of windows, built": (bootstrap, "entities"),
    "many payments, written": (write_many, "many"),
    "join of many payments": (join_many, "many"),
    "the same in DuckDB, spilling": (plain_join_many, "many"),
}
"""What is measured → how, and the size that it depends on, without which it is left out."""
GOALS: Final[dict[str, dict[str, float]]] = {
    "projection of the log": {"seconds": 20, "peak_mb": 1_000},
    "point-in-time join": {"seconds": 3, "peak_mb": 1_500},
    "a snapshot into the online store": {"seconds": 10},
    "windows of each payment": {"seconds": 5},
    "state of windows, built": {"seconds": 10},
    "join of many payments": {"peak_mb": 8_000},
}
"""What a row is to stay within, on two quiet cores: of 5,000,000 records, 1,000,000 payments and 14
features, 200,000 entities and 20 features, and 1,750,000 payments."""


def _table(folder: Path) -> OfflineTable:
    return OfflineTable(folder / "offline", load_folder(MODEL).definition)


def one(row: str, folder: Path, size: int) -> Figures:
    """The row, measured in this process."""
    started, cpu = time.perf_counter(), time.process_time()
    found = ROWS[row][0](folder, size)
    return {
        **found,
        "seconds": round(time.perf_counter() - started, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "peak_mb": peak_mb(),
        **({"goal": GOALS[row]} if row in GOALS else {}),
    }


def measured(folder: Path, sizes: Mapping[str, int]) -> dict[str, Figures]:
    """Every row, each in a process of its own."""
    found: dict[str, Figures] = {}
    if sizes["log_records"]:
        write_log(folder / "decisions", sizes["log_records"] // SEGMENT_ROWS, SEGMENT_ROWS)
    for row, (_, size) in ROWS.items():
        if not sizes[size]:
            continue
        command = [sys.executable, "-m", "tests.bench.features", "--row", row]
        command += ["--folder", str(folder), "--size", str(sizes[size])]
        out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        found[row] = json.loads(out.splitlines()[-1])
        print(f"  {row:34} {json.dumps(found[row])}", file=sys.stderr, flush=True)
    return found


def main() -> None:
    """Write build/bench/features.json, and a line for each row to standard error."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--payments", type=int, nargs="+", default=[1_000_000])
    parser.add_argument("--log-records", type=int, default=5_000_000, help="0: no projection")
    parser.add_argument("--windowed", type=int, default=1_750_000, help="payments with windows")
    parser.add_argument("--entities", type=int, default=200_000, help="of a bootstrap")
    parser.add_argument("--feast", type=int, default=FEAST_JOINED, help="payments that Feast joins")
    parser.add_argument("--many", type=int, default=0, help="payments that no memory holds")
    parser.add_argument("--folder", type=Path, help="on the disk to be measured")
    parser.add_argument("--json", type=Path, default=Path("build/bench/features.json"))
    parser.add_argument("--row", choices=tuple(ROWS), help=argparse.SUPPRESS)
    parser.add_argument("--size", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row:
        print(json.dumps(one(options.row, options.folder, options.size)))
        return
    names = ("log_records", "windowed", "entities", "feast", "many")
    sizes = {name: int(getattr(options, name)) for name in names}
    if sizes["feast"] and importlib.util.find_spec("feast") is None:
        print("Feast is not installed (make feast): its row is left out", file=sys.stderr)
        sizes["feast"] = 0
    options.json.parent.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"at": datetime.now(UTC).isoformat(timespec="seconds")}
    for payments in options.payments:
        print(f"{payments:,} payments", file=sys.stderr, flush=True)
        found["load average"] = os.getloadavg()
        with tempfile.TemporaryDirectory(dir=options.folder) as name:
            of_this = measured(Path(name), {**sizes, "payments": payments})
        found[f"{payments} payments"] = of_this
        options.json.write_text(json.dumps(found, indent=2) + "\n")
        sizes = dict.fromkeys(sizes, 0)  # once is enough of what does not depend on payments


if __name__ == "__main__":
    main()
