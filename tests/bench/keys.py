"""What idempotency keys cost by how many are kept: bytes, insert, look-up, and their end.

Part of `python -m tests.bench.scale --keys 1000000 10000000`. The keys are those of a week and
more, as 42-digit decisions and an answer without reasons leave them. No records are written, so the
bytes are those of keys alone. While the oldest of them end, another connection asks for the
write lock all the time: its longest wait is what a gateway sees.

All but the last `INSERTED` keys are written at once by SQL, in random order as real ones; what is
measured of inserts and of keys that are found is of the last.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.decisions.records import kept_keys, tables
from mlplatform.decisions.records.port import KEEP_MS, Entry, Idempotency
from mlplatform.decisions.records.prepared_record import StorableRecord, prepared
from mlplatform.decisions.records.record import Record
from mlplatform.runtime.storage import sqlite
from mlplatform.runtime.units import DAY_MS

MODEL, CLIENT = "fraud", "app"
START_MS: Final = 1_760_054_400_000 + 43_200_000
DAYS: Final = 8
BATCH: Final = 64
LOOKUPS: Final = 20_000
INSERTED: Final = 51_200
_RETRY_S: Final = 0.0002


def decision_id(number: int) -> str:
    """As the gateway makes them, and random."""
    return hashlib.sha256(str(number).encode()).hexdigest()[:42]


def key(number: int) -> str:
    """As applications make them: in no order."""
    return hashlib.sha256(f"key {number}".encode()).hexdigest()[:32]


def item(number: int) -> StorableRecord:
    """A decision with its key; the record is as small as one can be."""
    score, named = number % 9973 / 9973, decision_id(number)
    answer = {
        "decision": "approve",
        "score": score,
        "reasons": [],
        "model_version": 3,
        "bundle": "9f" * 32,
        "route": "champion",
        "answered_by": "champion",
        "generation": 1 + number // 1_000_000,
        "decision_id": named,
        "degraded": False,
        "degraded_reason": None,
        "reasons_omitted": None,
        "feature_gaps": None,
    }
    body = hashlib.blake2b(named.encode(), digest_size=32).hexdigest()
    idempotency = Idempotency(
        CLIENT,
        key(number),
        body,
        json.dumps(answer, separators=(",", ":")).encode(),
        impersonal=True,
    )
    record = Record(
        kind="decision",
        decision_id=named,
        model=MODEL,
        event_ms=START_MS,
        recorded_ms=START_MS,
        score=score,
        payload={},
    )
    return prepared(Entry(record, idempotency))


def measured(folder: Path, count: int) -> dict[str, Any]:
    """The figures at so many keys; `folder` is new."""
    now = [START_MS]
    SqliteDecisionLog(folder).close()
    _bulk(folder, count - INSERTED)
    with closing(SqliteDecisionLog(folder, lambda: now[0])) as log:
        inserted = _filled(folder, count)
        found: dict[str, Any] = {"bytes_a_key": round(_size(folder) / count, 1)}
        found |= inserted
        found["find_us"] = _looked_up(log, count - INSERTED)
        found["find_nothing_us"] = _looked_up(log, count)
        now[0] = START_MS + KEEP_MS + DAY_MS - 1
        found["expiry"] = _expired(log, folder)
        found["expiry"]["keys"] = count // DAYS
    found["grows_with"] = "keys kept"
    print(f"  {count} keys {json.dumps(found)}", flush=True)
    return found


def _bulk(folder: Path, count: int) -> None:
    """Keys of all days in their tables, by SQL."""
    with closing(sqlite.connect(folder / tables.DATABASE)) as db:
        for pragma in ("journal_mode=MEMORY", "synchronous=OFF", "cache_size=-1500000"):
            db.execute(f"PRAGMA {pragma}")
        with sqlite.transaction(db):
            writer = kept_keys.KeyWriter(db)
            for day in range(DAYS):
                now_ms = START_MS + day * DAY_MS
                writer.write([item(-1 - day)], now_ms)
                table = writer._tables[kept_keys._last_day(now_ms, KEEP_MS)].name
                db.execute(
                    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
                    f" INSERT INTO {table} SELECT randomblob(16), randomblob(16), randomblob(21),"
                    " 1, 1.0 / (i + 1.5), NULL FROM n",
                    (count // DAYS,),
                )


def _filled(folder: Path, count: int) -> dict[str, float]:
    """Insert the last in transactions of `BATCH`: CPU and wall of a key, and of a transaction."""
    late: list[tuple[float, float]] = []
    with closing(sqlite.connect(folder / tables.DATABASE)) as db:
        db.execute("PRAGMA wal_autocheckpoint=20000")
        writer = kept_keys.KeyWriter(db)
        now_ms = START_MS + (DAYS - 1) * DAY_MS
        for start in range(count - INSERTED, count, BATCH):
            items = [item(i) for i in range(start, min(start + BATCH, count))]
            cpu, wall = time.process_time(), time.perf_counter()
            with sqlite.transaction(db):
                writer.write(items, now_ms)
            late.append((time.process_time() - cpu, time.perf_counter() - wall))
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    keys = len(late) * BATCH
    return _moved(folder, keys) | {
        "insert_cpu_us": round(sum(cpu for cpu, _ in late) / keys * 1e6, 1),
        "insert_wall_us": round(sum(wall for _, wall in late) / keys * 1e6, 1),
        "insert_p99_ms": round(sorted(wall for _, wall in late)[len(late) * 99 // 100] * 1e3, 2),
    }


def _moved(folder: Path, keys: int) -> dict[str, float]:
    """What the move of the inserted keys to their tables costs, and how long its steps keep
    appends waiting."""
    steps: list[float] = []
    with closing(sqlite.connect(folder / tables.DATABASE)) as db:
        cpu = time.process_time()
        move = kept_keys.move_recent(db)
        while move.has_more:
            began = time.perf_counter()
            move.step()
            steps.append(time.perf_counter() - began)
        cpu = time.process_time() - cpu
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return {
        "move_cpu_us": round(cpu / keys * 1e6, 1),
        "move_step_p99_ms": round(sorted(steps)[len(steps) * 99 // 100] * 1e3, 2),
        "move_longest_step_ms": round(max(steps) * 1e3, 2),
    }


def _looked_up(log: SqliteDecisionLog, start: int) -> float:
    """CPU us of a look-up of keys from here on: all are kept, or none."""
    keys = [key(start + i * 7919 % INSERTED) for i in range(LOOKUPS)]
    cpu = time.process_time()
    hits = sum(log.find(CLIENT, MODEL, one) is not None for one in keys)
    cpu = time.process_time() - cpu
    assert hits in (0, LOOKUPS), hits
    return round(cpu / LOOKUPS * 1e6, 1)


def _expired(log: SqliteDecisionLog, folder: Path) -> dict[str, float]:
    """Seal once the oldest day is over, while a writer waits for its turn again and again."""
    waits: list[float] = []
    done = threading.Event()

    def write() -> None:
        with closing(sqlite.connect(folder / tables.DATABASE, busy_timeout_ms=0)) as db:
            while not done.is_set():
                waits.append(_waited(db))

    writer = threading.Thread(target=write)
    writer.start()
    wall = time.perf_counter()
    cpu = time.process_time()
    log.seal()
    took = {
        "wall_s": round(time.perf_counter() - wall, 1),
        "cpu_s": round(time.process_time() - cpu, 1),
    }
    done.set()
    writer.join()
    took["longest_wait_ms"] = round(max(waits) * 1e3, 1)
    return took


def _waited(db: Any) -> float:
    """Seconds until a small transaction is done."""
    began = time.perf_counter()
    for _ in _tries():
        try:
            with sqlite.transaction(db):
                db.execute("UPDATE files_token SET token = randomblob(16)")
        except sqlite.sqlite3.OperationalError:
            continue
        break
    took = time.perf_counter() - began
    time.sleep(0.001)
    return took


def _tries() -> Iterator[None]:
    while True:
        yield
        time.sleep(_RETRY_S)


def _size(folder: Path) -> int:
    return (folder / tables.DATABASE).stat().st_size
