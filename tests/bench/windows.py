"""What real-time windows cost: in a commit, in a request's read, in a build and in a training join.

Medians of this thread's CPU time, as other work may share the machine; the log is on its disk. The
training join reads the handbook's simulated payments where their folder is given.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from statistics import median
from typing import Any, Final

import duckdb
import msgspec
from tests.servers import instances

from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.decisions.records.port import Entry
from mlplatform.decisions.records.record import Record
from mlplatform.decisions.records.tables import DATABASE
from mlplatform.learning.features.windows.online import WindowReads
from mlplatform.learning.features.windows.projector import WindowProjector
from mlplatform.learning.features.windows.redis import RedisWindowReads, RedisWindows, state_of
from mlplatform.learning.features.windows.sql import windows_sql
from mlplatform.learning.features.windows.state import WindowProjection, begin
from mlplatform.model.definition import ModelDefinition
from mlplatform.model.folders import load_definition
from mlplatform.model.windows.declaration import Window
from mlplatform.model.windows.tiles import series_of
from mlplatform.runtime.clock import SystemClock
from mlplatform.runtime.storage import sqlite
from mlplatform.runtime.storage.redis import client

NOON_MS: Final = 1_790_000_000_000
DAYS: Final = (1, 7, 30)
BATCH: Final = 32


def windows() -> tuple[Window, ...]:
    """How often, how much and when last, of a customer and of a terminal: 14 windows."""
    found = []
    for entity in ("customer", "terminal"):
        for days in DAYS:
            same: dict[str, Any] = {
                "entity": entity, "window": f"{days}d", "resolution": "6h"
            }  # fmt: skip
            found.append(Window(name=f"{entity}_n_{days}d", aggregate="count", **same))
            found.append(
                Window(name=f"{entity}_mean_{days}d", aggregate="mean", of="amount", **same)
            )
        found.append(Window(name=f"{entity}_since", aggregate="seconds_since", **same))
    return tuple(found)


def records(count: int, customers: int, terminals: int) -> list[Record]:
    """Payments over 30 days, in order."""
    chance, step_ms, found = random.Random(1), 30 * 86_400_000 // count, []
    for number in range(count):
        request = {
            "customer_id": chance.randrange(customers), "terminal_id": chance.randrange(terminals),
            "amount": round(chance.random() * 200, 2),
        }  # fmt: skip
        at_ms = NOON_MS + number * step_ms
        found.append(
            Record(
                kind="decision", decision_id=f"d{number}", model="fraud", event_ms=at_ms,
                recorded_ms=at_ms, payload={"request": request, "features": {}},
            )
        )  # fmt: skip
    return found


def appended(
    folder: Path, payments: Sequence[Record], projection: WindowProjection | None
) -> list[float]:
    """CPU microseconds a payment, of each transaction of a busy gateway's size."""
    took = []
    with closing(SqliteDecisionLog(folder, projection=projection)) as log:
        for start in range(0, len(payments), BATCH):
            part = [Entry(one) for one in payments[start : start + BATCH]]
            began_s = time.thread_time()
            log.append("gateway-0", part)
            took.append((time.thread_time() - began_s) / len(part) * 1e6)
    return took[len(took) // 2 :]  # entities have their tiles by then


def commits(root: Path, definition: ModelDefinition, customers: int, count: int) -> dict[str, Any]:
    payments = records(count, customers, customers // 10)
    plain = median(appended(root / "plain", payments, None))
    SqliteDecisionLog(root / "followed").close()
    begin(root / "followed" / DATABASE, definition, has_history=False)
    followed = median(appended(root / "followed", payments, WindowProjection()))
    database = root / "followed" / DATABASE
    at_ms, took = payments[-1].event_ms, []
    with closing(WindowReads(database, "fraud", definition.windows, definition.entities)) as reads:
        for one in random.Random(2).choices(payments, k=10_000):
            asked = one.payload["request"]
            keys = {"customer": asked["customer_id"], "terminal": asked["terminal_id"]}
            began_s = time.thread_time()
            reads.read(keys, at_ms)
            took.append((time.thread_time() - began_s) * 1e6)
    return {
        "customers": customers, "payments": count, "commit us": round(plain, 1),
        "update us": round(followed - plain, 1), "read us": round(median(took), 1),
        "bytes an entity": _size(database),
    }  # fmt: skip


def _size(database: Path) -> int:
    with closing(sqlite.connect(database)) as db:
        (size,) = db.execute("SELECT avg(length(tiles)) FROM window_tiles").fetchone()
    return round(size)


def shared(root: Path, definition: ModelDefinition, customers: int, count: int) -> dict[str, Any]:
    """The same on a server of its own: what the projector takes, after the commit, and a read."""
    payments = records(count, customers, customers // 10)
    redis = instances.redis()
    own = state_of(definition.windows, definition.entities)
    store = RedisWindows(redis.address, "fraud", own, answer_s=10.0)
    store.build({}, [])
    projector = WindowProjector(root / "shared", "gateway-0", [store], SystemClock())
    server = client(redis.address, answer_s=10.0)
    took, walls, cpu_s = [], [], _server_cpu_s(server)
    with closing(SqliteDecisionLog(root / "shared")) as log:
        for start in range(0, len(payments), BATCH):
            part = payments[start : start + BATCH]
            log.append("gateway-0", [Entry(one) for one in part])
            began_s, wall_s = time.thread_time(), time.perf_counter()
            projector.step()
            took.append((time.thread_time() - began_s) / len(part) * 1e6)
            walls.append((time.perf_counter() - wall_s) * 1e3)
    served_us = (_server_cpu_s(server) - cpu_s) / len(payments) * 1e6
    reads = RedisWindowReads(store, definition.windows, definition.entities)
    at_ms, read_cpu, read_wall = payments[-1].event_ms, [], []
    for one in random.Random(2).choices(payments, k=10_000):
        asked = one.payload["request"]
        keys = {"customer": asked["customer_id"], "terminal": asked["terminal_id"]}
        began_s, wall_s = time.thread_time(), time.perf_counter()
        reads.read(keys, at_ms)
        read_cpu.append((time.thread_time() - began_s) * 1e6)
        read_wall.append((time.perf_counter() - wall_s) * 1e6)
    names = [name for name, _ in zip(server.scan_iter("*:t:*"), range(2_000), strict=False)]
    found = {
        "customers": customers, "payments": count,
        "update us": round(median(took[len(took) // 2 :]), 1),
        "server's us": round(served_us, 1),
        f"wall ms of {BATCH}": round(median(walls), 2),
        "read us": round(median(read_cpu), 1), "read wall us": round(median(read_wall), 1),
        "bytes an entity": round(sum(server.memory_usage(n) for n in names) / len(names)),
        "of it tiles": round(sum(server.strlen(n) for n in names) / len(names)),
    }  # fmt: skip
    projector.close()
    server.close()
    if redis.server is not None:
        redis.server.close()
    return found


def _server_cpu_s(server: Any) -> float:
    info = server.info("cpu")
    return float(info["used_cpu_sys"]) + float(info["used_cpu_user"])


def in_order(db: duckdb.DuckDBPyConnection, source: str, time: str, number: str) -> None:
    """Make the table `payments`, as the query of windows reads it, of a source's rows: each is
    known at its time, and to all that come after it."""
    db.execute(
        f"CREATE TABLE payments AS SELECT row_number() OVER (ORDER BY {time}, {number}) - 1"
        f" AS _row, epoch_ms({time}) AS _event_ms, _row AS _rank, _row - 1 AS _seen,"
        " CAST(customer_id AS BIGINT) AS customer_id, CAST(terminal_id AS BIGINT) AS terminal_id,"
        f" amount FROM {source}"
    )


def join(definition: ModelDefinition, data: Path) -> dict[str, Any]:
    """Windows of every payment of the handbook, all in order."""
    shared = series_of(definition.windows, definition.entities)
    with duckdb.connect(config={"threads": 2}) as db:
        columns = "CUSTOMER_ID AS customer_id, TERMINAL_ID AS terminal_id, TX_AMOUNT AS amount"
        source = f"(SELECT *, {columns} FROM read_parquet('{data}/tx_*.parquet'))"
        in_order(db, source, "CAST(TX_DATETIME AS TIMESTAMP)", "TRANSACTION_ID")
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        found = db.sql(windows_sql(shared, "payments", "true")).to_arrow_table()
        return {
            "payments": found.num_rows, "windows": len(definition.windows),
            "wall s": round(time.perf_counter() - wall_s, 1),
            "cpu s": round(time.process_time() - cpu_s, 1),
        }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?", help="folder of the handbook's transactions")
    parser.add_argument("--redis", action="store_true", help="also on a server that is started")
    parser.add_argument("--payments", type=int, default=100_000)
    parser.add_argument("--out", type=Path, default=Path("build/bench/windows.json"))
    arguments = parser.parse_args()
    definition = msgspec.structs.replace(load_definition("fraud"), windows=windows())
    results: dict[str, Any] = {"online": [], "shared": []}
    for customers in (1_000, 100_000):
        with tempfile.TemporaryDirectory() as root:
            found = commits(Path(root), definition, customers, arguments.payments)
        results["online"].append(found)
        print(found, flush=True)
        if arguments.redis:
            with tempfile.TemporaryDirectory() as root:
                found = shared(Path(root), definition, customers, arguments.payments)
            results["shared"].append(found)
            print(found, flush=True)
    if arguments.data is not None:
        results["join"] = join(definition, arguments.data)
        print(results["join"], flush=True)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    sys.exit(main())
