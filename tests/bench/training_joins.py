"""What each engine of training sets takes for the same events: time, memory, and the same rows.

    python -m tests.bench.training_joins --payments 10000000

A history of four weeks with daily snapshots is made up. The events are its last million payments,
with the fraud model's views and four real-time windows. Each engine is a process of its own, with
all that it starts. Spark is configured by `SPARK_CONF_DIR`; without it, it takes two cores.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec
import psutil
import pyarrow as pa
from tests.bench.features import KEY, MODEL, Figures, history, write_snapshots
from tests.bench.passes import peak_mb

from mlplatform.learning.features.offline import OfflineTable
from mlplatform.learning.training.folder import load_folder
from mlplatform.model.windows.declaration import Window
from mlplatform.operations.compute.wiring import training_join

ENGINES: Final = ("duckdb", "spark")
EVENTS: Final = 1_000_000
MEGABYTE: Final = 1e6
WINDOWS: Final = (
    Window(name="c_n_21d", entity="customer", aggregate="count", window="21d", resolution="1d"),
    Window(
        name="c_mean_2d", entity="customer", aggregate="mean", of="amount", window="2d",
        resolution="1h",
    ),
    Window(name="t_n_21d", entity="terminal", aggregate="count", window="21d", resolution="1d"),
    Window(
        name="t_max_2d", entity="terminal", aggregate="max", of="amount", window="2d",
        resolution="1h",
    ),
)  # fmt: skip


def table_at(folder: Path) -> OfflineTable:
    definition = msgspec.structs.replace(load_folder(MODEL).definition, windows=WINDOWS)
    return OfflineTable(folder / "offline", definition)


@contextmanager
def usage() -> Iterator[Figures]:
    """Seconds, and the most memory and processor time of this process and all below it."""
    found: Figures = {"peak_mb": 0}
    over, this, spent = threading.Event(), psutil.Process(), dict[int, float]()

    def look() -> None:
        memory = 0.0
        for one in (this, *this.children(recursive=True)):
            try:
                times = one.cpu_times()
                spent[one.pid] = times.user + times.system
                memory += one.memory_full_info().pss / MEGABYTE
            except psutil.Error:
                continue
        found["peak_mb"] = max(found["peak_mb"], round(memory))

    def watch() -> None:
        while not over.wait(0.2):
            look()

    watcher, started = threading.Thread(target=watch), time.perf_counter()
    watcher.start()
    try:
        yield found
    finally:
        over.set()
        watcher.join()
        look()
        found["seconds"] = round(time.perf_counter() - started, 1)
        found["cpu_seconds"] = round(sum(spent.values()), 1)


def digest(table: pa.Table) -> str:
    """Of the rows' numbers and of which are missing, whatever chunks they are in."""
    found = hashlib.sha256()
    for column in table.itercolumns():
        found.update(column.is_valid().to_numpy().tobytes())
        found.update(column.fill_null(0.0).to_numpy().tobytes())
    return found.hexdigest()[:16]


def one(engine: Any, folder: Path) -> Figures:
    """An engine's figures, measured in this process."""
    offline = table_at(folder)
    rows = offline.requests().order("event_time DESC, request_id").limit(EVENTS)
    events = rows.to_arrow_table()
    with usage() as found:
        joined = training_join(engine)(offline, load_folder(MODEL).views, events)
    added = joined.drop_columns(events.column_names)
    return {"rows": len(added), "columns": added.num_columns, "digest": digest(added), **found,
            "own_peak_mb": peak_mb()}  # fmt: skip


def measured(folder: Path, payments: int) -> dict[str, Figures]:
    """Every engine, each in a process of its own."""
    offline = table_at(folder)
    offline.import_history(history(payments), KEY)
    offline.finish_history()
    found: dict[str, Figures] = {"snapshots": {"rows": write_snapshots(offline)}}
    (folder / "spark-defaults.conf").write_text("spark.master local[2]\nspark.driver.memory 3g\n")
    environment = {"SPARK_CONF_DIR": str(folder), **os.environ}
    for engine in ENGINES:
        command = [sys.executable, "-m", "tests.bench.training_joins", "--engine", engine]
        command += ["--folder", str(folder)]
        out = subprocess.run(
            command, check=True, stdout=subprocess.PIPE, text=True, env=environment
        ).stdout
        found[engine] = json.loads(out.splitlines()[-1])
        print(f"  {engine:10} {json.dumps(found[engine])}", file=sys.stderr, flush=True)
    assert len({found[engine]["digest"] for engine in ENGINES}) == 1, "the same rows"
    return found


def main() -> None:
    """Write build/bench/training_joins.json, and a line for each engine to standard error."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--payments", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="on the disk to be measured")
    parser.add_argument("--json", type=Path, default=Path("build/bench/training_joins.json"))
    parser.add_argument("--engine", choices=ENGINES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.engine:
        print(json.dumps(one(options.engine, options.folder)))
        return
    options.json.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        found = measured(Path(name), options.payments)
    at = datetime.now(UTC).isoformat(timespec="seconds")
    content = {"at": at, "payments": options.payments, **found}
    options.json.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
