"""What it costs to ask matured labels, of pairs of a shadow phase and of the champion's days.

    python -m tests.bench.outcomes --pairs 100000 1000000

A log of sealed segments is read once; 10 000 records are appended, half of them labels; then labels
are asked again, and everything is read again beside it. Each is a process of its own.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tests.bench import passes
from tests.bench.passes import GENERATION, MODEL, NEW, NOW_MS, SEGMENT_ROWS, START_MS, WRITER

from mlplatform.decisions.log.segments import SEGMENTS, stored_schema
from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.decisions.records.port import Entry
from mlplatform.decisions.records.record import SCALARS, Record
from mlplatform.decisions.records.tables import DATABASE
from mlplatform.model.folders import load_definition
from mlplatform.rollouts.cache.pair_cache import shadow_outcomes
from mlplatform.rollouts.drift.matured_outcomes import read_matured
from mlplatform.rollouts.drift.windows import ChampionTenure, drift_plan
from mlplatform.rollouts.passes.observe import OUTCOME_STEP_MS
from mlplatform.rollouts.verdicts.basis import OutcomeBasis, outcome_gates
from mlplatform.rollouts.verdicts.verdict import Bound, Errors
from mlplatform.runtime.storage import sqlite
from mlplatform.runtime.units import DAY_MS

FRAUD: Final = 0.008
CAPACITY: Final = 0.013
DAYS: Final = 38
"""Of the champion: 35 of them have matured."""
TRAFFIC: Final = passes.Traffic(customers=100_000, rate_per_s=200.0)


def labels(rng: np.random.Generator, decisions: pa.Table, share: float, until_ms: int) -> pa.Table:
    """Labels of frauds, which score high, and of a share of the rest, 1 hour to 2 days late."""
    score = decisions["score"].to_numpy(zero_copy_only=False)
    fraud = rng.random(len(score)) < np.where(score > 0.98, FRAUD * 20, FRAUD * 0.6)
    told = np.flatnonzero(fraud | (rng.random(len(score)) < share))
    rng.shuffle(told)
    rows = decisions.take(told)
    late_ms = rng.integers(3_600_000, 2 * DAY_MS, len(told))
    at_ms = np.minimum(rows["event_ms"].to_numpy() + late_ms, until_ms)
    said = {"kind": ["label"] * len(told), "event_ms": at_ms, "label": fraud[told].astype(np.int8)}
    empty = ("rollout_id", "arm", "answered_by", "unit", "bucket", "version", "score", "decision",
             "degraded", "degraded_reason", "latency_us", "generation")  # fmt: skip
    schema = stored_schema()
    columns = {
        name: pa.array(said[name], schema.field(name).type)
        if name in said
        else pa.nulls(len(told), schema.field(name).type)
        if name in empty
        else rows[name]
        for name in schema.names
    }
    return pa.table(columns, schema=schema)


def spread(table: pa.Table, first: int, total: int, per: int) -> pa.Table:
    """The records over so many days, whatever their number."""
    number = first + np.arange(len(table)) // per
    at_ms = START_MS // DAY_MS * DAY_MS + (number * (DAYS * DAY_MS / total)).astype(np.int64)
    return table.set_column(table.schema.get_field_index("event_ms"), "event_ms", pa.array(at_ms))


def write_log(folder: Path, what: str, decisions: int, share: float) -> None:
    """A log of sealed segments with these decisions and their labels; digests are of nothing."""
    rng = np.random.default_rng(3)
    SqliteDecisionLog(folder).close()
    (folder / SEGMENTS / WRITER).mkdir(parents=True, exist_ok=True)
    last = entry_number = 0
    with closing(sqlite.connect(folder / DATABASE)) as db:
        for start in range(0, decisions, SEGMENT_ROWS):
            found = records(
                rng, what, start, min(SEGMENT_ROWS, decisions - start), decisions, share
            )
            for table in found:
                entry_number, first, last = entry_number + 1, last + 1, last + len(table)
                numbers = pa.array(np.arange(first, last + 1))
                table = table.set_column(table.schema.get_field_index("seq"), "seq", numbers)
                path = folder / SEGMENTS / WRITER / f"{first:012d}-{last:012d}.parquet"
                pq.write_table(table, path, compression="zstd", row_group_size=32_768)
                times = table.column("event_ms").to_numpy()
                entry = (entry_number, WRITER, first, last, len(table), int(times.min()),
                         int(times.max()), bytes(32), "", "", "")  # fmt: skip
                db.execute(f"INSERT INTO segments VALUES ({','.join('?' * 11)})", entry)
        head = (WRITER, last, bytes(32), end_ms(what, decisions), NOW_MS, 0, 1)
        db.execute("INSERT INTO writers VALUES (?, ?, ?, ?, ?, ?, ?)", head)


def records(
    rng: np.random.Generator, what: str, start: int, count: int, total: int, share: float
) -> tuple[pa.Table, pa.Table]:
    """So many decisions, with copies where pairs are asked, and their labels."""
    role, per = ("shadow", 2) if what == "pairs" else ("champion", 1)
    table = passes.rows(rng, TRAFFIC, role, start, count)  # type: ignore[arg-type]
    if what == "days":
        table = spread(table, start, total, per)
    decided = table.filter(pa.array(np.arange(len(table)) % per == 0))
    return table, labels(rng, decided, share, end_ms(what, total))


def end_ms(what: str, decisions: int) -> int:
    """Event time at which labels are asked."""
    if what == "days":
        return START_MS // DAY_MS * DAY_MS + DAYS * DAY_MS
    return START_MS + round(decisions * 1000 / TRAFFIC.rate_per_s) + 3 * DAY_MS


def append(folder: Path, what: str, decisions: int, number: int) -> None:
    """As many records more as are new, half of them labels of any that are there."""
    rng, fields = np.random.default_rng(4 + number), [n for n in SCALARS if n in _FIELDS]
    per, known = 2 if what == "pairs" else 1, np.random.default_rng(3)
    new, _ = records(rng, what, decisions + number * NEW, NEW // 2 // per, decisions, 0.0)
    old, _ = records(known, what, 0, min(SEGMENT_ROWS, decisions), decisions, 0.0)
    old = old.filter(pa.array(np.arange(len(old)) % per == 0))
    picked = old.take(rng.choice(len(old), NEW // 2, replace=False))
    now_ms = end_ms(what, decisions)
    late = labels(rng, picked, 1.0, now_ms)
    late = late.set_column(
        late.schema.get_field_index("event_ms"), "event_ms", pa.array([now_ms - 1] * len(late))
    )
    with closing(SqliteDecisionLog(folder, lambda: NOW_MS)) as log:
        for table in (new, late):
            rows = table.select(fields).to_pylist()
            entries = [Entry(Record(**{k: v for k, v in r.items() if v is not None})) for r in rows]
            log.append(WRITER, entries)
        log.heartbeat(WRITER, now_ms)


_FIELDS: Final = Record.__struct_fields__


def of_pairs(folder: Path, counted: Path, decisions: int, step_ms: int) -> Any:
    """The gate of the shadow phase, and how many pairs it is of."""
    with closing(SqliteDecisionLog(folder, lambda: NOW_MS)) as log:
        basis = OutcomeBasis(
            generation=GENERATION, version=passes.VERSION, maturity_ms=DAY_MS,
            now_event_ms=end_ms("pairs", decisions),
            marks={mark.writer: mark.seq for mark in log.watermarks()},
            bound=Bound(0.05, 0.2), errors=Errors(0.001, 0.05), capacity=CAPACITY, due=True,
            step_ms=step_ms,
        )  # fmt: skip
        seen = shadow_outcomes(counted, log, MODEL, basis)
    return len(seen), outcome_gates(basis, seen)


def of_days(folder: Path, counted: Path, decisions: int, _: int) -> Any:
    """The champion's matured days."""
    definition = load_definition(MODEL)
    plan = drift_plan(definition, (), definition.inputs, set())
    with closing(SqliteDecisionLog(folder, lambda: NOW_MS)) as log:
        tenure, now_ms = ChampionTenure(1, 0), end_ms("days", decisions)
        found = read_matured(counted, log, definition, plan, tenure, now_ms)
    return len(found.days), [
        (day.start_ms, day.requests, day.hidden, [_told(h) for h in day.metrics.values()])
        for day in found.days
    ]


def _told(hits: Any) -> tuple[int, float, float]:
    return len(hits.units), float(np.sum(hits.hits)), hits.base


ASKED: Final[dict[str, Callable[[Path, Path, int, int], Any]]] = {
    "pairs": of_pairs,
    "days": of_days,
}


def asked_once(what: str, folder: Path, counted: Path, decisions: int, step_ms: int) -> Any:
    """Seconds, memory, and what was found."""
    started, started_cpu = time.perf_counter(), time.process_time()
    size, found = ASKED[what](folder, counted, decisions, step_ms)
    return {
        "seconds": round(time.perf_counter() - started, 3),
        "cpu_seconds": round(time.process_time() - started_cpu, 3),
        "peak_mb": passes.peak_mb(),
        "of": size,
        "found": hashlib.sha256(msgspec.json.encode(found)).hexdigest()[:16],
    }


def measured(what: str, decisions: int, options: argparse.Namespace) -> dict[str, Any]:
    """The first time, the next ones with so many new records each, and all again."""
    root = Path(tempfile.mkdtemp(prefix="outcomes."))
    folder, counted = root / "decisions", root / "counted"

    def in_a_process(counted: Path) -> dict[str, Any]:
        command = [sys.executable, "-m", "tests.bench.outcomes", "--ask", what, str(folder)]
        command += [str(counted), str(decisions), "--step-ms", str(options.step_ms)]
        out = subprocess.run(command, check=True, stdout=subprocess.PIPE)
        print(out.stdout.decode().strip(), file=sys.stderr, flush=True)
        return dict(json.loads(out.stdout))

    try:
        write_log(folder, what, decisions, options.labelled)
        found: dict[str, Any] = {"first": in_a_process(counted), "next": []}
        for number in range(options.times):
            append(folder, what, decisions, number)
            found["next"].append(in_a_process(counted))
        found["file_mb"] = round(sum(f.stat().st_size for f in counted.rglob("*.db")) / 1e6)
        if not options.no_recount:
            found["recount"] = in_a_process(root / "again")
            found["same_as_recount"] = found["recount"]["found"] == found["next"][-1]["found"]
        return found
    finally:
        shutil.rmtree(root)


def main() -> None:
    """Write build/bench/outcomes.json, and a line for each size to standard error."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, nargs="*", default=[100_000, 1_000_000])
    parser.add_argument("--days", type=int, nargs="*", default=[100_000, 1_000_000])
    parser.add_argument("--times", type=int, default=3, help="with 10 000 new records each")
    parser.add_argument("--labelled", type=float, default=0.02, help="share of genuine payments")
    parser.add_argument("--step-ms", type=int, default=OUTCOME_STEP_MS)
    parser.add_argument("--no-recount", action="store_true", help="do not read everything twice")
    parser.add_argument("--ask", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path("build/bench/outcomes.json"))
    options = parser.parse_args()
    if options.ask is not None:
        what, folder, counted, decisions = options.ask
        one = asked_once(what, Path(folder), Path(counted), int(decisions), options.step_ms)
        print(json.dumps(one))
        return
    options.out.parent.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {}
    for what, sizes in (("pairs", options.pairs), ("days", options.days)):
        for decisions in sizes:
            name = f"{what}, {decisions:,} decisions"
            found[name] = measured(what, decisions, options)
            print(f"{name}: {json.dumps(found[name])}", file=sys.stderr, flush=True)
            options.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
