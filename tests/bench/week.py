"""What days of steady traffic cost the decision log of one machine, in fast time.

    python -m tests.bench.week --days 7 --rate 100

The records of two gateways are appended as group commits do, each with a retry's key, and some with
a label; the log's clock is that of the records. Each minute the log is checkpointed and sealed, as
by a rollout's pass; each hour a pass counts and judges what is new; each day the log is verified
since the last check. During the first days a challenger answers in shadow, one record more a
decision, then every fourth request of a canary. A day tells its processor time, its peak memory,
the largest write-ahead log, and the bytes on disk. The gateways' own work for a request (reading
features, the model, HTTP) is measured by `tests.bench.scoring` and is no part of it.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
from tests.bench import keys, passes, scale

from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.decisions.records.port import Entry
from mlplatform.decisions.records.record import Record
from mlplatform.decisions.records.tables import DATABASE
from mlplatform.rollouts.verdicts.facts import Subject
from mlplatform.runtime.units import DAY_MS, HOUR_MS, MINUTE_MS

WRITERS: Final = ("gateway-1", "gateway-2")
BATCH: Final = 32
"""Records of a transaction: at 100 a second a gateway commits each alone, for more processor time
(`tests.bench.decision_log`) and the same bytes."""
LABELS: Final = 0.02
"""Labels a decision, of decisions about a day ago."""
SHADOW_DAYS: Final = 2
VERSION: Final = 4
CHALLENGER: Final[dict[str, Any]] = {
    "arm": "challenger", "answered_by": "challenger", "version": VERSION,
}  # fmt: skip


@dataclass(slots=True)
class Day:
    """What a day has cost."""

    number: int
    records: int = 0
    wal_mb: int = 0
    pass_s: list[float] = field(default_factory=list)
    started: float = field(default_factory=time.perf_counter)
    cpu: float = field(default_factory=time.process_time)

    def told(self, folder: Path, verify_s: float) -> dict[str, Any]:
        files = [(path, path.stat().st_size) for path in folder.rglob("*") if path.is_file()]
        sealed = sum(size for path, size in files if path.suffix == ".parquet")
        return {
            "day": self.number,
            "records": self.records,
            "wall_s": round(time.perf_counter() - self.started, 1),
            "cpu_s": round(time.process_time() - self.cpu, 1),
            "cores": round((time.process_time() - self.cpu) / 86_400, 4),
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            "largest_wal_mb": self.wal_mb,
            "pass_s": [round(s, 2) for s in (min(self.pass_s), max(self.pass_s))],
            "verify_new_s": round(verify_s, 1),
            "disk_mb": round(sum(size for _, size in files) / 1e6),
            "sealed_mb": round(sealed / 1e6),
            "database_mb": round((folder / DATABASE).stat().st_size / 1e6),
            "sealed_files": sum(path.suffix == ".parquet" for path, _ in files),
        }


def entries(first: int, count: int, rate: float, *, in_shadow: bool) -> Iterator[Entry]:
    """Decisions from this number on with their keys, copies and labels, at so many a second."""
    drawn = random.Random(first)
    for number in range(first, first + count):
        at_ms = scale.START_MS + int(number * 1000 / rate)
        made = scale.record(number)
        to_challenger = not in_shadow and (made.unit or 0) % 4 == 0
        record = msgspec.structs.replace(
            made,
            kind="decision",
            event_ms=at_ms,
            recorded_ms=at_ms + 8,
            generation=1 if in_shadow else 2,
            decision="review" if drawn.random() < 0.013 else "approve",
            **(CHALLENGER if to_challenger else {}),
        )
        yield Entry(record, keys.item(number).idempotency)
        if in_shadow:
            yield Entry(msgspec.structs.replace(record, kind="shadow", **CHALLENGER))
        if drawn.random() < LABELS and number > rate * 86_400:
            labelled = scale.decision_id(number - int(rate * 86_400))
            yield Entry(
                Record(
                    kind="label",
                    decision_id=labelled,
                    model=scale.MODEL,
                    event_ms=at_ms,
                    recorded_ms=at_ms,
                    label=int(drawn.random() < 0.3),
                    payload={"source": "chargebacks"},
                )
            )


def play(root: Path, days: int, rate: float) -> Iterator[dict[str, Any]]:
    """The figures of each day."""
    folder, counted, now = root / "decisions", root / "counted", [scale.START_MS]
    wal = folder / f"{DATABASE}-wal"
    a_minute, number = round(rate * 60), 1
    with closing(SqliteDecisionLog(folder, lambda: now[0])) as log:
        for day in range(1, days + 1):
            told = Day(day)
            for minute in range(DAY_MS // MINUTE_MS):
                made = list(entries(number, a_minute, rate, in_shadow=day <= SHADOW_DAYS))
                number += a_minute
                now[0] += MINUTE_MS
                for turn, start in enumerate(range(0, len(made), BATCH)):
                    log.append(WRITERS[turn % 2], made[start : start + BATCH])
                told.records += len(made)
                told.wal_mb = max(told.wal_mb, wal.stat().st_size >> 20)
                for writer in WRITERS:
                    log.heartbeat(writer, now[0])
                log.checkpoint()
                log.seal()
                if (minute + 1) % (HOUR_MS // MINUTE_MS) == 0:
                    began = time.perf_counter()
                    passes.judged(folder, counted, subject_of(day), WRITERS, now[0])
                    told.pass_s.append(time.perf_counter() - began)
                    shown = f"\rday {day}: {(minute + 1) // 60} of 24 h"
                    if sys.stderr.isatty():
                        print(shown, end="\r", file=sys.stderr, flush=True)
            began = time.perf_counter()
            report = log.check(None, new_only=True)
            assert report.ok, report.findings
            yield told.told(folder, time.perf_counter() - began)


def subject_of(day: int) -> Subject:
    if day <= SHADOW_DAYS:
        return Subject(1, "shadow", VERSION, passes.WITHIN_US)
    return Subject(2, "canary", VERSION, passes.WITHIN_US)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--days", type=int, default=7)
    parser.add_argument("--rate", type=float, default=100.0, help="decisions a second")
    parser.add_argument("--out", type=Path, default=Path("build/bench/week.json"))
    given = parser.parse_args()
    given.out.parent.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"rate": given.rate, "days": []}
    root = Path(tempfile.mkdtemp(prefix="bench-week."))
    try:
        for day in play(root, given.days, given.rate):
            found["days"].append(day)
            print(json.dumps(day), flush=True)
            given.out.write_text(json.dumps(found, indent=2) + "\n")
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
