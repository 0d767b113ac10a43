"""What a record costs on its way into the decision log: rows/s, commit latency, CPU.

    python tests/bench/decision_log.py --json build/bench/decision-log.json

Where the log is locked ("spilling") the spill takes the records, and then catches up.

Records are those of a model with 20 features of two entities. One thread appends batches as group
commit does; `cpu_us` is CPU time of the process per record, everything included.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sqlite3
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.decisions.records.port import Entry, Idempotency
from mlplatform.decisions.records.record import Record, stored_form
from mlplatform.decisions.spill.writer import SpillingLog, SpillPolicy

BATCHES = (1, 8, 64)
RECORDS = {"process": 20_000, "disk": 1_500}
ANSWER = b'{"decision":"approve","score":0.0123,"reasons":[],"model_version":3}' + b" " * 250


def entry(number: int) -> Entry:
    """A scored payment, as the gateway records it."""
    payload: dict[str, Any] = {
        "request": {"customer_id": 8_131_552_119_003 + number, "terminal_id": 17, "amount": 12.5},
        "features": {f"feature_{i}": number / (i + 3) for i in range(20)},
        "feature_times": {"customer_stats": 1_700_000_000_000, "terminal_stats": 1_700_000_000_000},
        "raw": 0.0123456,
        "reasons": [],
        "client": "app",
        "idempotency_key": f"key-{number}",
    }
    record = Record(
        kind="decision",
        decision_id=f"0198c2f0a4-{number:012d}",
        model="fraud",
        event_ms=1_700_000_000_000 + number,
        recorded_ms=1_700_000_000_000 + number,
        generation=3,
        rollout_id="fraud-r3",
        arm="champion",
        answered_by="champion",
        unit=8_131_552_119_003 + number,
        bucket=number % 10_000,
        version=3,
        bundle="9f" * 32,
        score=0.0123 + number / 1e9,
        decision="approve",
        latency_us=1_812,
        payload=payload,
    )
    return Entry(record, Idempotency("app", f"key-{number}", "ab" * 32, ANSWER))


def appended(
    folder: Path, entries: Sequence[Entry], batch: int, *, durable: bool, spilling: bool
) -> dict[str, Any]:
    """Figures of one run over a fresh log, as a gateway writes: with keys, locks and a spill."""
    took: list[float] = []
    with closing(SqliteDecisionLog(folder, durable=durable, lock_wait_ms=0)) as inner:
        log = SpillingLog(inner, "bench", SpillPolicy(1 << 30, durable=durable))
        log.heartbeat("bench")
        if spilling:
            database = sqlite3.connect(folder / "decisions.db", isolation_level=None)
            database.execute("BEGIN IMMEDIATE")
        wall, cpu = time.perf_counter(), time.process_time()
        for start in range(0, len(entries), batch):
            begun = time.perf_counter()
            log.append("bench", entries[start : start + batch])
            took.append(time.perf_counter() - begun)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        if spilling:
            database.close()
        started = time.perf_counter()
        log.catch_up()
        while log.catch_up():
            pass
        caught_up_s = time.perf_counter() - started
        assert log.counts.written == len(entries)
    took.sort()
    return {
        "batch": batch,
        "spilling": spilling,
        "rows_per_s": round(len(entries) / wall),
        "cpu_us": round(cpu / len(entries) * 1e6, 1),
        "commit_p50_ms": round(took[len(took) // 2] * 1e3, 3),
        "commit_p99_ms": round(took[int(len(took) * 0.99)] * 1e3, 3),
        "catch_up_rows_per_s": round(len(entries) / caught_up_s) if spilling else None,
    }


def formed(entries: Sequence[Entry]) -> float:
    """CPU microseconds to bring one record into its stored form."""
    cpu = time.process_time()
    for one in entries:
        stored_form(one.record)
    return round((time.process_time() - cpu) / len(entries) * 1e6, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="where the figures go, besides the screen")
    parser.add_argument("--folder", type=Path, help="on the disk to be measured")
    options = parser.parse_args()
    entries = [entry(i) for i in range(max(RECORDS.values()))]
    figures: dict[str, Any] = {"stored_form_cpu_us": formed(entries)}
    for durability, count in RECORDS.items():
        figures[durability] = []
        for batch, spilling in itertools.product(BATCHES, (False, True)):
            with tempfile.TemporaryDirectory(dir=options.folder) as name:
                durable = durability == "disk"
                row = appended(
                    Path(name), entries[:count], batch, durable=durable, spilling=spilling
                )
            figures[durability].append(row)
            print(durability, row, flush=True)
    print("stored form", figures["stored_form_cpu_us"], "us")
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
