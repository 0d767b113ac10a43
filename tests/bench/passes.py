"""What a pass costs on a log of so many decisions, of which 10 000 are new.

    python -m tests.bench.passes --decisions 100000 10000000

A log of sealed segments is counted once, as by the first pass of a release; 10 000 records are
appended; the next pass counts them; and everything is counted again beside it. Each is a process of
its own that reads the log, counts and judges, and tells its seconds and its peak memory.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from mlplatform.decisions.log.segments import SEGMENTS, stored_schema
from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.decisions.records.port import Entry
from mlplatform.decisions.records.record import SCALARS, Record
from mlplatform.decisions.records.tables import DATABASE
from mlplatform.model.folders import load_definition
from mlplatform.rollouts.journal.basis_evidence import Role
from mlplatform.rollouts.journal.journal import GatewayLease
from mlplatform.rollouts.passes.count_cache import LogCounts, count
from mlplatform.rollouts.passes.observe import step_limits
from mlplatform.rollouts.verdicts.facts import Subject
from mlplatform.rollouts.verdicts.judgement import Judgement, Sources, judge
from mlplatform.rollouts.verdicts.verdict import Prediction
from mlplatform.runtime.storage import sqlite

MODEL, WRITER, GENERATION, VERSION = "fraud", "gateway-1", 7, 2
NEW, SEGMENT_ROWS = 10_000, 50_000
START_MS = 1_760_000_000_000
NOW_MS = START_MS + 10**10
"""Wall time, at which the writer lives, however long a pass takes."""
WITHIN_US = 24_000.0


@dataclass(frozen=True, slots=True)
class Traffic:
    """Who pays, and how often: by default a bank's, of which a customer pays twice a day."""

    customers: int = 500_000
    rate_per_s: float = 12.0


def rows(
    rng: np.random.Generator, traffic: Traffic, role: Role, first: int, decisions: int
) -> pa.Table:
    """Records of so many decisions, the first of which has this number; in shadow with copies."""
    number = np.arange(first, first + decisions)
    draws = rng.pareto(1.2, decisions) * traffic.customers / 50
    unit = draws.astype(np.int64) % traffic.customers
    at_ms = START_MS + (number * 1000 / traffic.rate_per_s).astype(np.int64)
    mine = (unit % 4 == 0) & (role != "shadow")
    failed = rng.random(decisions) < 0.001
    columns = _columns(rng, number, at_ms, unit, mine, failed, "decision")
    table = pa.table(columns, schema=stored_schema())
    if role == "shadow":
        failed = rng.random(decisions) < 0.001
        copies = _columns(rng, number, at_ms, unit, ~mine, failed, "shadow")
        both = pa.concat_tables([table, pa.table(copies, schema=stored_schema())])
        order = np.arange(2 * decisions).reshape(2, decisions).T.ravel()
        table = both.take(order)
    seqs = first * (2 if role == "shadow" else 1) + np.arange(len(table)) + 1
    return table.set_column(table.schema.get_field_index("seq"), "seq", pa.array(seqs))


def _columns(
    rng: np.random.Generator,
    number: npt.NDArray[np.int64],
    at_ms: npt.NDArray[np.int64],
    unit: npt.NDArray[np.int64],
    mine: npt.NDArray[np.bool_],
    failed: npt.NDArray[np.bool_],
    kind: str,
) -> dict[str, Any]:
    size = len(number)
    arm = np.where(mine, "challenger", "champion")
    nothing = pa.nulls(size)
    zeros = [bytes(32)] * size
    return {
        "writer": [WRITER] * size,
        "seq": number,
        "kind": [kind] * size,
        "decision_id": [f"{at:012x}{n:030x}" for at, n in zip(at_ms, number, strict=True)],
        "model": [MODEL] * size,
        "event_ms": at_ms,
        "recorded_ms": at_ms + 8,
        "generation": np.full(size, GENERATION),
        "rollout_id": ["fraud-v2-1"] * size,
        "arm": arm,
        "answered_by": np.where(failed, "rules", arm),
        "unit": unit,
        "bucket": unit % 1000,
        "version": np.where(mine, VERSION, 1),
        "bundle": nothing,
        "score": pa.array(rng.random(size), mask=failed),
        "decision": np.where(rng.random(size) < 0.013, "review", "approve"),
        "degraded": failed,
        "degraded_reason": pa.array(np.where(failed, "deadline", None), pa.string()),
        "latency_us": rng.lognormal(np.log(4000), 0.3, size).astype(np.int64),
        "label": nothing,
        "payload_digest": zeros,
        "digest": zeros,
        "chain": zeros,
        "payload": nothing,
    }


def write_log(folder: Path, traffic: Traffic, role: Role, decisions: int) -> None:
    """A log of sealed segments with these decisions; nobody could verify its digests."""
    rng = np.random.default_rng(3)
    SqliteDecisionLog(folder).close()
    (folder / SEGMENTS / WRITER).mkdir(parents=True, exist_ok=True)
    last = 0
    with closing(sqlite.connect(folder / DATABASE)) as db:
        for number, start in enumerate(range(0, decisions, SEGMENT_ROWS), start=1):
            table = rows(rng, traffic, role, start, min(SEGMENT_ROWS, decisions - start))
            first, last = last + 1, last + len(table)
            name = f"{first:012d}-{last:012d}.parquet"
            path = folder / SEGMENTS / WRITER / name
            pq.write_table(table, path, compression="zstd", row_group_size=32_768)
            times = table.column("event_ms")
            entry = (number, WRITER, first, last, len(table), times[0].as_py(), times[-1].as_py(),
                     bytes(32), "", "", "")  # fmt: skip
            db.execute(f"INSERT INTO segments VALUES ({','.join('?' * 11)})", entry)
        head = (WRITER, last, bytes(32), times[-1].as_py(), NOW_MS, 0, 1)
        db.execute("INSERT INTO writers VALUES (?, ?, ?, ?, ?, ?, ?)", head)


def append(folder: Path, traffic: Traffic, role: Role, decisions: int) -> None:
    """As many records more as are new at a pass, by the log itself."""
    of_decisions = NEW // 2 if role == "shadow" else NEW
    table = rows(np.random.default_rng(4), traffic, role, decisions, of_decisions)
    fields = [name for name in SCALARS if name in Record.__struct_fields__]
    with closing(SqliteDecisionLog(folder, lambda: NOW_MS)) as log:
        entries = [Entry(Record(**row)) for row in table.select(fields).to_pylist()]
        log.append(WRITER, entries)
        log.heartbeat(WRITER, table.column("event_ms")[-1].as_py() + 1)


def judged(
    folder: Path, counted: Path, subject: Subject, writers: Sequence[str], now_ms: int
) -> tuple[LogCounts, Judgement]:
    """Read, count and judge, as a pass does for a rollout in its shadow step or its second one."""
    policy = load_definition(MODEL).rollout
    asked = policy.shadow if subject.role == "shadow" else policy.canary[1]
    limits = step_limits(policy, asked, Prediction(1.0, 1.0), pods=2)
    leases = tuple(GatewayLease(writer, subject.generation) for writer in writers)
    with closing(SqliteDecisionLog(folder, lambda: now_ms)) as log:
        sources = Sources(tuple(log.watermarks()), leases)
        found = count(counted, log, MODEL, subject, sources.watermarks)
    return found, judge(found.seen, found.complete, limits, sources)


def one_pass(folder: Path, counted: Path, role: Role) -> dict[str, Any]:
    """What `judged` costs."""
    started, started_cpu = time.perf_counter(), time.process_time()
    subject = Subject(GENERATION, role, VERSION, WITHIN_US)
    found, judgement = judged(folder, counted, subject, [WRITER], NOW_MS)
    seconds, cpu = time.perf_counter() - started, time.process_time() - started_cpu
    evidence = hashlib.sha256(msgspec.json.encode(judgement.evidence["gates"], order="sorted"))
    return {
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu, 2),
        "peak_mb": peak_mb(),
        "records": found.seen.records,
        "verdict": judgement.verdict,
        "gates": evidence.hexdigest()[:16],
        "counted": judgement.evidence["counted"][:16],
    }


def peak_mb() -> int:
    """Of this program alone: `ru_maxrss` counts the process that started it, too."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return round(int(found.group(1)) / 1024)


def in_a_process(folder: Path, counted: Path, role: Role) -> dict[str, Any]:
    """`one_pass` in a process of its own, whose memory is that of nothing else."""
    command = [sys.executable, "-m", "tests.bench.passes", "--pass", str(folder), str(counted)]
    out = subprocess.run([*command, "--role", role], check=True, stdout=subprocess.PIPE)
    found: dict[str, Any] = json.loads(out.stdout)
    print(json.dumps(found), file=sys.stderr, flush=True)
    return found


def measured(
    role: Role, decisions: int, traffic: Traffic, *, passes: int, recount: bool
) -> dict[str, Any]:
    """The first pass, the next ones with so many new records each, and a recount."""
    root = Path(tempfile.mkdtemp(prefix="passes."))
    folder, counted = root / "decisions", root / "counted"
    try:
        write_log(folder, traffic, role, decisions)
        found: dict[str, Any] = {"first": in_a_process(folder, counted, role)}
        new = NEW // 2 if role == "shadow" else NEW
        found["next"] = []
        for number in range(passes):
            append(folder, traffic, role, decisions + number * new)
            found["next"].append(in_a_process(folder, counted, role))
        files = [path.stat().st_size for path in counted.rglob("*") if path.is_file()]
        found["file_mb"] = round(sum(files) / 1e6)
        if recount:
            found["recount"] = in_a_process(folder, root / "again", role)
            kept, again = found["next"][-1], found["recount"]
            names = ("records", "verdict", "gates", "counted")
            found["same_as_recount"] = all(kept[name] == again[name] for name in names)
        return found
    finally:
        shutil.rmtree(root)


def main() -> None:
    """Write build/bench/passes.json, and a line for each size to standard error."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--decisions", type=int, nargs="*", default=[100_000, 1_000_000])
    parser.add_argument("--role", choices=get_args(Role), default="canary")
    parser.add_argument("--passes", type=int, default=3, help="with 10 000 new records each")
    usual = Traffic()
    parser.add_argument("--customers", type=int, default=usual.customers)
    parser.add_argument("--rate", type=float, default=usual.rate_per_s, help="decisions a second")
    parser.add_argument("--no-recount", action="store_true", help="do not count everything twice")
    parser.add_argument("--pass", nargs=2, type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path("build/bench/passes.json"))
    options = parser.parse_args()
    here = getattr(options, "pass")
    if here is not None:
        print(json.dumps(one_pass(*here, options.role)))
        return
    options.out.parent.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {}
    for decisions in options.decisions:
        name = f"{options.role}, {decisions:,} decisions"
        found[name] = measured(
            options.role,
            decisions,
            Traffic(options.customers, options.rate),
            passes=options.passes,
            recount=not options.no_recount,
        )
        print(f"{name}: {json.dumps(found[name])}", file=sys.stderr, flush=True)
        options.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
