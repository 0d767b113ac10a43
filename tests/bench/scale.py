"""What the decision log costs by how much it holds: time, memory and bytes of each kind of work.

    python -m tests.bench.scale --segments 2000 20000 --rows 50

A log of so many sealed segments is made, with true digests and chains, so that it can be verified.
Each row of the table is a process of its own, and tells its seconds (the median of its tries) and
its peak memory. Then records are appended, sealed and read, and the bytes are told that they take.
With `--keys 1000000 10000000` idempotency keys are measured instead (`tests/bench/keys.py`).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import pyarrow.parquet as pq
from tests.bench import keys

from mlplatform.decisions.log import segments
from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.decisions.records.port import Entry, RecordQuery
from mlplatform.decisions.records.record import (
    GENESIS,
    Record,
    arrow_table,
    link,
    record_digest,
    stored_form,
)
from mlplatform.decisions.records.tables import DATABASE
from mlplatform.runtime.storage import sqlite

WRITER, MODEL = "gateway-1", "fraud"
START_MS = 1_760_000_000_000
VOID_EVERY, GENERATION_EVERY = 100_000, 1_000
APPENDED, BATCH = 50_000, 8
READS: Final[dict[str, RecordQuery]] = {
    "empty generation": RecordQuery(MODEL, generation=999_999),
    "one generation": RecordQuery(MODEL, generation=2),
    "voids": RecordQuery(MODEL, ("void",)),
    "one id": RecordQuery(decision_id="?"),
}
STATES: Final = ("as sealed", "merged")
CLASSES: Final = {
    "first seals": "records, once",
    "empty generation": "what is found",
    "one generation": "what is found",
    "voids": "what is found",
    "one id": "what is found",
    "idle seal": "1",
    "verify": "all",
    "append": "new",
    "seal": "new",
}


def record(number: int) -> Record:
    """The record of this number: a payment, or one in `VOID_EVERY` a void."""
    return Record(
        kind="void" if number % VOID_EVERY == 0 else "decision",
        decision_id=decision_id(number),
        model=MODEL,
        event_ms=START_MS + 10 * number,
        recorded_ms=START_MS + 10 * number + 8,
        generation=1 + number // GENERATION_EVERY,
        rollout_id="fraud-v2-1",
        arm="champion",
        answered_by="champion",
        unit=number * 7919 % 500_000,
        bucket=number % 1000,
        version=3,
        bundle="9f" * 32,
        score=number % 9973 / 9973,
        decision="approve",
        latency_us=1_800 + number % 700,
        payload={
            "request": {"customer_id": number * 7919 % 500_000, "terminal_id": 17, "amount": 12.5},
            "features": {f"feature_{i}": number / (i + 3) for i in range(12)},
            "feature_times": {"customer_stats": START_MS, "terminal_stats": START_MS},
            "client": "app",
        },
    )


def decision_id(number: int) -> str:
    """As the gateway makes them: what is random in it is at its front."""
    return hashlib.sha256(str(number).encode()).hexdigest()[:42]


def write_log(
    folder: Path,
    count: int,
    rows: int,
    made: Callable[[int], Record] = record,
    written: Callable[[Path, Sequence[Sequence[Any]]], str] | None = None,
) -> None:
    """A log of so many sealed segments of so many records each.

    Args:
        written: writes a segment; None: in large row groups, as earlier releases did.
    """
    SqliteDecisionLog(folder).close()
    chain = GENESIS
    with closing(sqlite.connect(folder / DATABASE)) as db, sqlite.transaction(db):
        for start in range(1, count * rows + 1, rows):
            stored = []
            for seq in range(start, start + rows):
                form = stored_form(made(seq))
                digest = record_digest(WRITER, seq, form.scalars, form.payload_digest)
                chain = link(chain, digest)
                held = (form.payload_digest, digest, chain, form.payload)
                stored.append((WRITER, seq, *form.scalars, *held))
            path = segments.path_of(folder, WRITER, stored)
            sha256 = (written or _large_groups)(path, stored)
            segments.enter(db, WRITER, stored, sha256=sha256)
        last = (WRITER, count * rows, chain, START_MS, 0, 0, 1)
        db.execute(f"INSERT INTO writers VALUES ({','.join('?' * 7)})", last)


def _large_groups(path: Path, stored: Sequence[Sequence[Any]]) -> str:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    table = arrow_table(stored, segments.stored_schema())
    pq.write_table(table, path, compression="zstd", row_group_size=32_768)
    return segments.file_sha256(path)


def timed(work: Callable[[], object], tries: int) -> dict[str, Any]:
    """The first and the median of at most so many tries within about 5 s: wall and CPU ms."""
    took: list[float] = []
    cpu = time.process_time()
    while len(took) < tries and sum(took) < 5e3:
        started = time.perf_counter()
        work()
        took.append((time.perf_counter() - started) * 1e3)
    return {
        "first_ms": round(took[0], 2),
        "median_ms": round(statistics.median(took), 2),
        "cpu_ms": round((time.process_time() - cpu) * 1e3 / len(took), 2),
    }


def measure(row: str, folder: Path, number: int, most_rows: int) -> dict[str, Any]:
    """One row of the table; to be called in a process of its own.

    Args:
        number: of a record whose id is looked for.
        most_rows: of a sealed file; with as many as the segments have, nothing is merged.
    """
    import pyarrow.dataset  # noqa: F401 -- its import is no part of a read

    with closing(SqliteDecisionLog(folder, segment_rows=(1_000, most_rows))) as log:
        if row == "first seals":
            found = timed(lambda: _settled(log, folder), 1)
            found["files"] = _bytes(folder)["files"]
        elif row == "verify":
            found = timed(lambda: _whole(log), 1)
        elif row == "idle seal":
            found = timed(log.seal, 5)
        elif row == "append and seal":
            found = appended(folder, log)
        else:
            query = READS[row] if row != "one id" else RecordQuery(decision_id=decision_id(number))
            counts: list[int] = []
            found = timed(lambda: counts.append(len(log.read(query))), 5)
            found["records"] = counts[-1]
    return found | {"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}


def _settled(log: SqliteDecisionLog, folder: Path) -> None:
    """Append and seal until nothing is left to be done: a seal does only so much at once."""
    last = max(mark.seq for mark in log.watermarks())
    log.append(WRITER, [Entry(record(last + i)) for i in range(1, 1_001)])
    unfinished = folder / segments.SEGMENTS / "unfinished"
    for _ in range(1_000):
        log.seal()
        if not unfinished.exists():
            return
    raise SystemExit("sealing does not come to rest")


def _whole(log: SqliteDecisionLog) -> None:
    report = log.verify()
    assert report.ok, report.findings


def appended(folder: Path, log: SqliteDecisionLog) -> dict[str, Any]:
    """Append records in small batches while the log is verified, then seal them while more come."""
    database = folder / DATABASE
    before = _bytes(folder)
    last = next(w.seq for w in log.watermarks() if w.writer == WRITER)
    entries = [Entry(record(last + i)) for i in range(1, 2 * APPENDED + 1)]
    first, second = entries[:APPENDED], entries[APPENDED:]
    with closing(SqliteDecisionLog(folder)) as reader:
        beside = threading.Thread(target=reader.verify)
        beside.start()
        commits, wal = _append(log, first, database)
        beside.join()
    hot = _bytes(folder)
    started = time.perf_counter()
    log.seal()
    sealed_s = time.perf_counter() - started
    sealed = _bytes(folder)
    calm, _ = _append(log, second, database)
    with closing(SqliteDecisionLog(folder, segment_rows=(1_000, 50_000))) as sealing:
        beside = threading.Thread(target=sealing.seal)
        beside.start()
        during, _ = _append(log, [Entry(record(last + i)) for i in range(30_000)], database)
        beside.join()
    log.seal()
    log.checkpoint()
    at_rest = _bytes(folder)
    return {
        "commit_p99_ms": {
            "verify beside": _p99(commits),
            "nothing beside": _p99(calm),
            "seal beside": _p99(during),
        },
        "commit_max_ms": {
            "verify beside": round(max(commits), 1),
            "nothing beside": round(max(calm), 1),
            "seal beside": round(max(during), 1),
        },
        "wal_peak_mb": round(wal / 1e6, 1),
        "seal_us_a_record": round(sealed_s / APPENDED * 1e6, 1),
        "hot_bytes_a_record": round((hot["database"] - before["database"]) / APPENDED),
        "sealed_bytes_a_record": round((sealed["segments"] - before["segments"]) / APPENDED),
        "bytes": {"before": before, "hot": hot, "sealed": sealed, "at rest": at_rest},
    }


def _append(
    log: SqliteDecisionLog, entries: list[Entry], database: Path
) -> tuple[list[float], int]:
    """What each commit took in ms, and the largest write-ahead log that was seen in bytes."""
    took, wal, path = [], 0, database.with_name(f"{DATABASE}-wal")
    for start in range(0, len(entries), BATCH):
        started = time.perf_counter()
        log.append(WRITER, entries[start : start + BATCH])
        took.append((time.perf_counter() - started) * 1e3)
        if start % (BATCH * 200) == 0:
            wal = max(wal, path.stat().st_size)
            log.checkpoint()
    return took, wal


def _p99(took: list[float]) -> float:
    return round(sorted(took)[int(len(took) * 0.99)], 2)


def _bytes(folder: Path) -> dict[str, int]:
    found = {"database": 0, "wal": 0, "segments": 0, "files": 0}
    for place, _, names in os.walk(folder):
        for name in names:
            size = (Path(place) / name).stat().st_size
            if name == DATABASE:
                found["database"] = size
            elif name == f"{DATABASE}-wal":
                found["wal"] = size
            elif name.endswith(".parquet"):
                found["segments"] += size
                found["files"] += 1
    return found


def one(row: str, folder: Path, number: int, most_rows: int) -> dict[str, Any]:
    """The row, measured in a process of its own."""
    command = [sys.executable, "-m", "tests.bench.scale", "--row", row, "--folder", str(folder)]
    command += ["--number", str(number), "--most-rows", str(most_rows)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    if row in CLASSES:
        found["grows_with"] = CLASSES[row]
    print(f"  {row:18} {json.dumps(found)}", flush=True)
    return found


def measured(count: int, rows: int, place: Path, states: Sequence[str]) -> dict[str, Any]:
    """The table of a log of so many segments, as they were sealed and when they were merged."""
    folder = place / f"{count}-{rows}"
    write_log(folder, count, rows)
    number = count * rows // 2 + 17
    figures: dict[str, Any] = {}
    for state in states:
        print(f"{count} segments of {rows} records, {state}", flush=True)
        most_rows = 50_000 if state == "merged" else rows
        table = ["first seals", "idle seal", *READS]
        table += ["verify", "append and seal"] if state == states[-1] else []
        figures[state] = {row: one(row, folder, number, most_rows) for row in table}
    shutil.rmtree(folder)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--segments", type=int, nargs="+", default=[1_000, 4_000])
    parser.add_argument("--rows", type=int, default=50, help="records of a segment")
    parser.add_argument("--keys", type=int, nargs="+", help="kept keys, instead of segments")
    parser.add_argument("--json", type=Path, default=Path("build/bench/scale.json"))
    parser.add_argument("--folder", type=Path, help="on the disk to be measured")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    parser.add_argument("--number", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--most-rows", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--states", nargs="+", choices=STATES, default=STATES)
    options = parser.parse_args()
    if options.row is not None:
        found = measure(options.row, options.folder, options.number, options.most_rows)
        print(json.dumps(found))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        figures: dict[str, Any] = {
            f"{count} keys": keys.measured(Path(name) / str(count), count)
            for count in options.keys or ()
        } or {
            f"{count} segments of {options.rows}": measured(
                count, options.rows, Path(name), options.states
            )
            for count in options.segments
        }
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
