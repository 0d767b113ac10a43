"""Jobs to submit in tests, whose results are known, and the pool as a process."""

from __future__ import annotations

import contextlib
import json
import math
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from tests.support.onnx_bundles import INPUTS, SLOW, sigmoid_bundle

from mlplatform.operations.compute.jobs import ITEMS, SHARED, Job, Jobs, JobStatus
from mlplatform.operations.compute.scoring import BATCH_ROWS, BUNDLE, ID, ORDER

MODEL = "fraud"
WITHIN_S = 60.0


def score_job(
    folder: Path,
    name: str,
    items: Sequence[str] = ("a.parquet", "b.parquet"),
    *,
    batches: int = 0,
    deadline_s: int = 120,
    broken: str = "",
) -> Job:
    """A job whose rows have known scores; `batches` of a slow model take 0.3 s each, and item.

    Args:
        broken: an item that lacks a column.
    """
    inputs = folder / name
    if not inputs.exists():
        (inputs / SHARED).mkdir(parents=True)
        (inputs / ITEMS).mkdir()
        digest = sigmoid_bundle(inputs / SHARED / BUNDLE, heaviness=SLOW if batches else 0)
        (inputs / SHARED / ORDER).write_text(json.dumps({"version": 7, "bundle": digest}))
        for number, item in enumerate(items):
            table = rows(number, batches * BATCH_ROWS if batches else 5)
            kept = table.drop_columns(["hour"]) if item == broken else table
            pq.write_table(kept, inputs / ITEMS / item)
    return Job(name, "score", MODEL, inputs, tuple(items), deadline_s)


def rows(number: int, count: int) -> pa.Table:
    """Requests whose inputs sum up to `number` + i / 10."""
    amounts = [float(number) + i % 5 / 10 for i in range(count)]
    zeros = [0.0] * count
    columns = dict(zip(INPUTS, (amounts, zeros, zeros), strict=True))
    return pa.table({ID: [f"{number}-{i}" for i in range(count)], **columns})


def expected_scores(number: int) -> list[float]:
    """Of the five rows of an item that is not slow."""
    return [1 / (1 + math.exp(-(number + i / 10))) for i in range(5)]


def until(
    jobs: Jobs, name: str, holds: Callable[[JobStatus], bool], within_s: float = WITHIN_S
) -> JobStatus:
    """The first status that holds."""
    deadline = time.monotonic() + within_s
    while not holds(status := jobs.status(name)):
        assert time.monotonic() < deadline, status
        time.sleep(0.05)
    return status


def ended(jobs: Jobs, name: str) -> JobStatus:
    return until(jobs, name, lambda status: status.final)


def at_work(folder: Path) -> list[psutil.Process]:
    """Processes of items whose command line names a path in this folder."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            line = process.cmdline()
            if "job-item" in line and any(str(folder) in part for part in line):
                found.append(process)
    return found


class PoolProcess:
    """`python -m mlplatform.process jobs` over a folder."""

    def __init__(self, folder: Path, slots: int = 2) -> None:
        command = [sys.executable, "-m", "mlplatform.process", "jobs", f"--folder={folder}"]
        self._process = subprocess.Popen([*command, f"--slots={slots}"], start_new_session=True)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def stop(self) -> int:
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(timeout=10)


@contextlib.contextmanager
def pool(folder: Path, slots: int = 2) -> Iterator[PoolProcess]:
    process = PoolProcess(folder, slots)
    try:
        yield process
    finally:
        process.kill()
