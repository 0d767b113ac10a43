"""What it costs to let the payloads of a model go by their age: seconds, memory and bytes.

    python -m tests.bench.retention --records 1000000 --due 0.5

A log of sealed files of 50 000 records is made, half of whose records are of another model. A pass
looks, puts on record what is due, and takes it out; then it looks again, with nothing left to do,
and the log is verified before and after.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import msgspec
from tests.bench import scale

from mlplatform.decisions.log import compaction, erasure, retention, retention_acts, seal, segments
from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.decisions.records.record import Record
from mlplatform.decisions.records.tables import DATABASE
from mlplatform.runtime.storage import sqlite
from mlplatform.runtime.units import DAY_MS

FILE_ROWS: Final = 50_000
DAYS: Final = 100
OTHER: Final = "credit"


def record(number: int, records: int) -> Record:
    """Of 200 days, and of two models in turn."""
    event_ms = scale.START_MS + number * 2 * DAYS * DAY_MS // records
    model = scale.MODEL if number % 2 else OTHER
    return msgspec.structs.replace(scale.record(number), event_ms=event_ms, model=model)


def timed(work: Callable[[], Any]) -> tuple[dict[str, float], Any]:
    wall, cpu = time.perf_counter(), time.process_time()
    found = work()
    took = {"s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
    return {name: round(value, 3) for name, value in took.items()}, found


def stored_bytes(folder: Path) -> dict[str, int]:
    return {
        "sealed": sum(path.stat().st_size for path in folder.rglob("*.parquet")),
        "database": sum(path.stat().st_size for path in folder.glob(f"{DATABASE}*")),
    }


def measure(folder: Path, records: int, due_share: float) -> dict[str, Any]:
    """The figures of one log."""
    found: dict[str, Any] = {"records": records}
    made = partial(record, records=records)
    scale.write_log(folder, records // FILE_ROWS, FILE_ROWS, made, segments.write)
    end_ms = scale.START_MS + 2 * DAYS * DAY_MS
    with closing(sqlite.connect(folder / DATABASE)) as db:
        db.execute("UPDATE writers SET event_ms = ?", (end_ms,))
    days = round(2 * DAYS * (1 - due_share))
    with closing(SqliteDecisionLog(folder)) as log:
        log.seal()  # catalogued
        found["verify before"], report = timed(log.verify)
        assert report.ok, report.findings
        found["bytes before"] = stored_bytes(folder)

        def look() -> Any:
            return retention_acts.due(log, folder, scale.MODEL, payload_days=days, wall_ms=end_ms)

        found["look"], _ = timed(look)
        found["record"], passed = timed(
            lambda: retention_acts.record(
                log, folder, scale.MODEL, act="a", payload_days=days, wall_ms=end_ms
            )
        )
        found["payloads"], found["later"] = passed.payloads, passed.later
        found["bites"] = bites(log, folder)
        found["carry out s"] = round(sum(one["s"] for one in found["bites"]), 3)
        found["carry out cpu s"] = round(sum(one["cpu_s"] for one in found["bites"]), 3)
        found["bytes after"] = stored_bytes(folder)
        log.seal()
        found["look again"], _ = timed(look)
        found["verify after"], report = timed(log.verify)
        assert report.ok, report.findings
        found["erased"] = report.erased
    found["peak MB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return found


def bites(log: SqliteDecisionLog, folder: Path) -> list[dict[str, float]]:
    """Of each seal that takes some of it out."""
    found = []
    with closing(sqlite.connect(folder / DATABASE)) as db, seal.lock(folder):
        while erasure.pending_erasures(db, folder) is not None:
            took, _ = timed(lambda: [*erasure.steps(db, folder, compaction.MOST_RECORDS)])
            found.append(took)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, nargs="+", default=[1_000_000])
    parser.add_argument("--due", type=float, default=0.5, help="share of the records' days")
    parser.add_argument("--month", action="store_true", help="as passes do, a month at most")
    parser.add_argument("--json", type=Path, default=Path("build/bench/retention.json"))
    given = parser.parse_args()
    most_days = retention.MOST_DAYS if given.month else 10_000
    results = []
    for records in given.records:
        folder = Path(tempfile.mkdtemp(prefix="bench-retention."))
        try:
            with patch.object(retention, "MOST_DAYS", most_days):
                results.append(measure(folder / "decisions", records, given.due))
        finally:
            shutil.rmtree(folder)
    given.json.parent.mkdir(parents=True, exist_ok=True)
    given.json.write_text(json.dumps(results, indent=1))
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
