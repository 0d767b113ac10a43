"""What one drift window of many decisions costs: run as a process of its own, it prints JSON.

The log's records are made in another process, so that the memory that is measured is the check's.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pyarrow as pa

from mlplatform.decisions.records.port import RecordQuery, Watermark
from mlplatform.decisions.records.record import arrow_schema
from mlplatform.model import profile as profiles
from mlplatform.model.features.views import load_views
from mlplatform.model.folders import load_definition, model_folder
from mlplatform.rollouts.drift.verdict import Band, window_verdict
from mlplatform.rollouts.drift.windows import ChampionTenure, drift_plan, read_windows
from mlplatform.runtime.units import DAY_MS

FRAUD = load_definition("fraud")
REST = {
    "feature_times": {"customer_stats": 2 * DAY_MS, "terminal_stats": 2 * DAY_MS},
    "raw": 0.01,
    "reasons": ["AMOUNT_UNUSUAL", "TERMINAL_RISK"],
    "client": "cards",
    "trace_id": "0" * 32,
}


MAKE = "make"


class RemoteLog:
    """The reading half of a log whose records another process makes."""

    def __init__(self, rows: int) -> None:
        command = [sys.executable, "-m", "tests.bench.drift_memory", str(rows), MAKE]
        self._maker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def watermarks(self) -> list[Watermark]:
        return []

    def read(self, query: RecordQuery) -> pa.Table:
        assert self._maker.stdin is not None
        assert self._maker.stdout is not None
        wanted = [query.from_ms, query.to_ms, list(query.kinds), list(query.columns)]
        self._maker.stdin.write(json.dumps(wanted).encode() + b"\n")
        self._maker.stdin.flush()
        size = int(self._maker.stdout.readline())
        with pa.ipc.open_stream(self._maker.stdout.read(size)) as stream:
            return stream.read_all()

    def close(self) -> None:
        assert self._maker.stdin is not None
        self._maker.stdin.close()
        self._maker.wait()


def make(rows: int) -> None:
    """Answer each query on standard input with its records, as a length and an Arrow stream."""
    log = MadeLog(rows)
    for line in sys.stdin:
        from_ms, to_ms, kinds, columns = json.loads(line)
        query = RecordQuery(
            model="fraud", kinds=tuple(kinds), from_ms=from_ms, to_ms=to_ms, columns=tuple(columns)
        )
        table, sink = log.read(query), pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
        answer = sink.getvalue()
        sys.stdout.buffer.write(f"{answer.size}\n".encode())
        sys.stdout.buffer.write(answer)
        sys.stdout.buffer.flush()


class MadeLog:
    """The reading half of a log of `rows` decisions of the third day, made as they are read."""

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def read(self, query: RecordQuery) -> pa.Table:
        low, high = (self._number(at_ms) for at_ms in (query.from_ms, query.to_ms))
        if query.kinds != ("decision",):
            low = high = 0
        numbers = np.arange(low, high)
        event_ms = 2 * DAY_MS + numbers * DAY_MS // self.rows
        if query.columns == ("event_ms",):
            return pa.table({"event_ms": event_ms})
        rng = np.random.default_rng(low)
        amount, mean = rng.lognormal(3.5, 0.6, (2, len(numbers))).round(2)
        scores = rng.beta(1, 60, len(numbers))
        count = rng.poisson(1, (2, len(numbers)))
        payloads = [
            json.dumps({"request": {"amount": a, "customer_id": 7, "terminal_id": 9},
                        "features": {"customer_count_1d": int(c), "customer_mean_1d": m,
                                     "terminal_count_1d": int(t)}, **REST})
            for a, m, c, t in zip(amount.tolist(), mean.tolist(), *count.tolist(), strict=True)
        ]  # fmt: skip
        columns: dict[str, Any] = {
            "decision_id": [f"{n:042d}" for n in numbers],
            "event_ms": event_ms,
            "unit": rng.integers(0, 1_000_000, len(numbers)),
            "version": np.ones(len(numbers), dtype=np.int64),
            "score": scores,
            "decision": np.where(scores > 0.07, "review", "approve").tolist(),
            "degraded": np.zeros(len(numbers), dtype=bool),
            "degraded_reason": pa.nulls(len(numbers), pa.string()),
            "payload": payloads,
        }
        return pa.table({n: columns[n] for n in query.columns}).cast(arrow_schema(query.columns))

    def _number(self, at_ms: int | None) -> int:
        """Of the first decision at that time or later."""
        passed = min(max((at_ms or 0) - 2 * DAY_MS, 0), DAY_MS)
        return -(-passed * self.rows // DAY_MS)


def main() -> None:
    """Judge the one window, and print its rows, seconds and the process' largest memory."""
    rows = int(sys.argv[1])
    if MAKE in sys.argv[2:]:
        make(rows)
        return
    views = load_views(model_folder("fraud"))
    plan = drift_plan(FRAUD, views, FRAUD.inputs)
    log, tenure = RemoteLog(rows), ChampionTenure(1, 2 * DAY_MS)
    rng = np.random.default_rng(1)
    scores = rng.beta(1, 60, 30_000)
    amount, mean = rng.lognormal(3.5, 0.6, (2, 30_000))
    count, at = rng.poisson(1, (2, 30_000))
    matrix = np.column_stack([amount, count, mean, at])
    profile = profiles.profile(
        matrix, FRAUD.drift.inputs, scores, scores > 0.07, rng.integers(0, 20_000, 30_000)
    )
    before_mb = _peak_mb()
    started = time.monotonic()
    (window,) = read_windows(log, plan, FRAUD, tenure, 3 * DAY_MS)  # type: ignore[arg-type]
    verdict = window_verdict(profile, window, FRAUD.drift, Band(0.0, 1.0))
    found = {"rows": verdict.rows, "health": str(verdict.health), "before_mb": before_mb}
    seconds = round(time.monotonic() - started, 1)
    log.close()
    print(json.dumps({**found, "peak_mb": _peak_mb(), "seconds": seconds}))


def _peak_mb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


if __name__ == "__main__":
    main()
