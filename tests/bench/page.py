"""How long the page's overview takes after how many decisions: `make bench-page`.

The decisions are drawn, not read of a log: 31 days of two arms and a shadow, counted into the
projection in the portions of passes. Then each period is read and rendered again and again.
"""

from __future__ import annotations

import argparse
import json
import resource
import sqlite3
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow as pa

from mlplatform.decisions.records.port import Span, Watermark
from mlplatform.decisions.records.record import arrow_schema
from mlplatform.model.decision_scale import EARLIER
from mlplatform.model.folders import load_definition
from mlplatform.model.routes import no_routes
from mlplatform.observing.page import traffic
from mlplatform.observing.page.rendering import render
from mlplatform.observing.page.sources import ModelShown
from mlplatform.operations.traffic import projection
from mlplatform.operations.traffic.buckets import DAY_MS

BEGUN_MS = 20_000 * DAY_MS
DAYS = 31
LOOKS = 40


class DrawnLog:
    """One writer's decisions, evenly over the days, drawn anew wherever they are read."""

    def __init__(self, decisions: int) -> None:
        self._decisions = decisions

    def watermarks(self) -> Sequence[Watermark]:
        return [Watermark("gateway-0", self._decisions, 0, 0, live=True)]

    def read(self, span: Span) -> pa.Table:
        first = (span.after or {}).get("gateway-0", 0)
        seq = np.arange(first + 1, min(first + (span.limit or 0), self._decisions) + 1)
        rng = np.random.default_rng(first)
        kinds = np.where(rng.random(len(seq)) < 0.1, "shadow", "decision")
        arms = np.where(rng.random(len(seq)) < 0.25, "challenger", "champion")
        columns = {
            "writer": pa.array(["gateway-0"] * len(seq)).dictionary_encode().cast(pa.string()),
            "seq": seq,
            "kind": kinds,
            "event_ms": BEGUN_MS + seq * (DAYS * DAY_MS) // self._decisions,
            "arm": arms,
            "version": np.where(arms == "challenger", 2, 1),
            "decision": np.where(rng.random(len(seq)) < 0.02, "review", "approve"),
            "degraded": rng.random(len(seq)) < 0.001,
            "latency_us": (3000 + rng.exponential(1500, len(seq))).astype(np.int64),
        }
        return pa.table(columns).cast(arrow_schema(tuple(columns)))


def measured(decisions: int, folder: Path) -> dict[str, object]:
    """Seconds and bytes for so many decisions."""
    path, log = folder / f"{decisions}.db", DrawnLog(decisions)
    begun = time.perf_counter()
    assert projection.advance(path, log, "fraud", alerting=EARLIER.alerts, budget_s=3600)
    counted_s = time.perf_counter() - begun
    model = ModelShown(load_definition("fraud"), no_routes("fraud"))
    views = {}
    for period, (back_ms, _) in traffic.PERIODS.items():
        took: list[float] = []
        cpu: list[float] = []
        for _ in range(LOOKS):
            begun, worked = time.perf_counter(), time.process_time()
            shown = traffic.shown(model.definition, projection.read(path, back_ms), period)
            render("model.html", here="", model=model, traffic=shown, versions=[], rollouts=[],
                   tones={})  # fmt: skip
            took.append(1000 * (time.perf_counter() - begun))
            cpu.append(1000 * (time.process_time() - worked))
        views[period] = {
            "p50_ms": round(float(np.median(took)), 1),
            "max_ms": round(max(took), 1),
            "cpu_p50_ms": round(float(np.median(cpu)), 1),
        }
    with closing(sqlite3.connect(path)) as db:
        rows = db.execute("SELECT count(*) FROM buckets").fetchone()[0]
    return {
        "decisions": decisions,
        "rows": rows,
        "counted_s": round(counted_s, 1),
        "file_mb": round(path.stat().st_size / 1e6, 2),
        "views": views,
        "most_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--decisions", type=int, nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument("--out", type=Path, default=Path("build/bench/page.json"))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = [measured(count, Path(folder)) for count in given.decisions]
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(found, indent=2) + "\n")
    print(given.out.read_text())


if __name__ == "__main__":
    main()
