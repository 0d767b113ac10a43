"""A batch over a table beside bare ONNX Runtime on the same rows: rate, CPU time and memory.

The model has 300 trees of 63 leaves and explains alerts by TreeSHAP. Bare is a session over rows
that lie in memory: what scores them, and what scores them and explains the same alerts, on one
thread and on as many as the batch has. The batch reads Parquet and writes results, in a process of
its own, and is measured from its first row read to its manifest.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from tests.bench.model import fraud_bundle, trees
from tests.bench.passes import peak_mb
from tests.support.table_world import promote, world

from mlplatform.decisions.records.pseudonym import pseudonym
from mlplatform.model.bundle import (
    EXPLAINER_FILE,
    INPUT_NAME,
    MODEL_FILE,
    Bundle,
    load_bundle,
    write_bundle,
)
from mlplatform.model.folders import load_definition
from mlplatform.model.routes import Arm
from mlplatform.operations import wiring
from mlplatform.operations.tables.batch import TableBatch, score_table
from mlplatform.operations.tables.input_files import blocks
from mlplatform.operations.tables.plan import PARTITION_ROWS
from mlplatform.operations.tables.request_rows import requests_of
from mlplatform.operations.tables.row_decisions import CALL_ROWS, EXPLAINED_ROWS, THREADS
from mlplatform.operations.tables.row_features import RowFeatures
from mlplatform.runtime.configuration.settings import load
from mlplatform.scoring.predictor.model import scorer, session

FILES: Final = 5
ROUNDS: Final = 3
"""Bare and batch in turn; the best of each, as others share the machine."""
CUSTOMERS, TERMINALS, ALERTS = 50_000, 10_000, 0.013
START_US: Final = 20_001 * 86_400_000_000
"""Within the days of the world's history, so that features are joined."""


def write_rows(folder: Path, rows: int) -> None:
    """Payments in files of equal size."""
    for number in range(FILES):
        rng, count = np.random.default_rng(number), rows // FILES
        first = number * count
        table = pa.table(
            {
                "request_id": pa.array(np.arange(first, first + count)),
                "event_time": pa.array(
                    START_US + rng.integers(0, 86_400_000_000, count), pa.timestamp("us")
                ),
                "customer_id": pa.array(rng.integers(0, CUSTOMERS, count)),
                "terminal_id": pa.array(rng.integers(0, TERMINALS, count)),
                "amount": pa.array(rng.exponential(1.0, count).round(2)),
            }
        )
        pq.write_table(table, folder / f"{number}.parquet")


def write_snapshots(platform: wiring.Platform) -> None:
    """One of each view at the midnight before: every customer and terminal has a row."""
    key, rng = platform.pseudonym_key(), np.random.default_rng(9)
    keys = {"customer_stats": range(CUSTOMERS), "terminal_stats": range(TERMINALS)}
    for view in platform.views("fraud"):
        ids = [pseudonym(n, key) if view.entity == "customer" else n for n in keys[view.name]]
        times = pa.array(np.full(len(ids), START_US), pa.timestamp("us"))
        columns = {view.join_key: pa.array(ids), "event_timestamp": times, "created": times}
        columns |= {name: pa.array(rng.normal(size=len(ids))) for name in view.feature_names}
        day = np.datetime64(START_US, "us").astype("datetime64[D]")
        pq.write_table(
            pa.table(columns),
            platform.offline("fraud").snapshot_folder(view.name) / f"{day}.parquet",
        )


def matrix(platform: wiring.Platform, bundle: Bundle, source: Path) -> NDArray[np.float32]:
    """The inputs of all rows, as the batch makes them."""
    definition, offline = platform.definition("fraud"), platform.offline("fraud")
    features = RowFeatures(definition, platform.views("fraud"), bundle, offline)
    found = []
    for path in sorted(source.glob("*.parquet")):
        for block in blocks(path, path.name, definition, {}, rows=PARTITION_ROWS, first=0):
            requests = requests_of(
                block.rows, {}, definition, as_of_ms=2**52, key=platform.pseudonym_key()
            )
            found.append(features.inputs(requests.table).x)
    return np.concatenate(found)


def made(platform: wiring.Platform, x: NDArray[np.float32], first: Path) -> Path:
    """The bundle with thresholds at which as many rows are alerts as model.yaml plans."""
    bundle, content = load_bundle(first), (first / MODEL_FILE).read_bytes()
    scores = bundle.calibrate_many(scorer(first / MODEL_FILE)(x[:200_000]))
    review, decline = np.quantile(scores, [1 - ALERTS, 1 - ALERTS / 4])
    thresholds = {"review": float(review), "decline": float(decline)}
    bundle = msgspec.structs.replace(bundle, thresholds=thresholds)
    target = platform.settings.home.bundles / bundle.digest
    write_bundle(bundle, content, target, (first / EXPLAINER_FILE).read_bytes())
    return target


def bare(folder: Path, x: NDArray[np.float32], threads: int) -> dict[str, float]:
    """What ONNX Runtime alone takes to score all rows, and to explain the alerts among them."""
    bundle, score = load_bundle(folder), scorer(folder / MODEL_FILE)
    explain = session(folder / EXPLAINER_FILE)
    score(x[:CALL_ROWS])

    def explain_all(rows: NDArray[np.int64]) -> None:
        for row in rows.tolist():
            explain.run(None, {INPUT_NAME: x[row : row + 1]})

    with ThreadPoolExecutor(threads) as pool:
        each: Callable[..., Iterable[Any]] = map if threads == 1 else pool.map
        began_s, began_cpu_s = time.perf_counter(), time.process_time()
        starts = range(0, len(x), CALL_ROWS)
        raw = np.concatenate(list(each(lambda at: score(x[at : at + CALL_ROWS]), starts)))
        scored_s, scored_cpu_s = time.perf_counter(), time.process_time()
        places = bundle.decide_many(bundle.calibrate_many(raw), x)
        alerts = np.flatnonzero(bundle.scale.alerting(places))
        explaining_s, explaining_cpu_s = time.perf_counter(), time.process_time()
        parts = range(0, len(alerts), EXPLAINED_ROWS)
        list(each(explain_all, [alerts[p : p + EXPLAINED_ROWS] for p in parts]))
    return {
        "scoring_s": scored_s - began_s,
        "explaining_s": time.perf_counter() - explaining_s,
        "scoring_cpu_s": scored_cpu_s - began_cpu_s,
        "explaining_cpu_s": time.process_time() - explaining_cpu_s,
        "alerts": len(alerts),
    }


def batch(home: str, source: str, output: str, answer: Any) -> None:
    """The batch, in a process of its own."""
    platform = wiring.Platform(load({"MLPLATFORM_HOME": home}))
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    manifest = score_table(platform, TableBatch("fraud", source, output), lambda one: None)
    took_s, cpu_s = time.perf_counter() - began_s, time.process_time() - began_cpu_s
    child = resource.getrusage(resource.RUSAGE_CHILDREN)
    answer.put(
        {
            "took_s": took_s,
            "cpu_s": cpu_s,
            "reading_cpu_s": child.ru_utime + child.ru_stime,
            "peak_mb": peak_mb(),
            "output": manifest["output"],
        }
    )


def measured(home: Path, source: Path, rows: int) -> dict[str, Any]:
    write_rows(source, rows)
    content, fitted = trees(len(load_definition("fraud").inputs))
    platform = world(home, promoted=False)
    fraud_bundle(content, fitted, home / "first")
    write_snapshots(platform)
    x = matrix(platform, load_bundle(home / "first"), source)
    folder = made(platform, x, home / "first")
    promote(platform.rollouts, Arm(4, folder.name, folder.name))
    context = multiprocessing.get_context("spawn")
    rounds = []
    for number in range(ROUNDS):
        alone, together = (bare(folder, x, threads) for threads in (1, THREADS))
        answer = context.Queue()
        words = (str(home), str(source), str(home.parent / f"out{number}"), answer)
        process = context.Process(target=batch, args=words)
        process.start()
        process.join()
        if process.exitcode:
            sys.exit(f"the batch of round {number} ended with {process.exitcode}")
        rounds.append({"bare": alone, "bare_on_as_many_threads": together, "batch": answer.get()})
    best = {"batch": rows / min(r["batch"]["took_s"] for r in rounds)}
    for kind in ("bare", "bare_on_as_many_threads"):
        took_s = [r[kind]["scoring_s"] + r[kind]["explaining_s"] for r in rounds]
        best[kind] = rows / min(took_s)
    cpu_s = min(r["bare"]["scoring_cpu_s"] + r["bare"]["explaining_cpu_s"] for r in rounds)
    return {
        "rows": rows,
        "rows_per_s": best,
        "share_of_bare": best["batch"] / best["bare"],
        "share_on_as_many_threads": best["batch"] / best["bare_on_as_many_threads"],
        "share_by_cpu": cpu_s / min(r["batch"]["cpu_s"] for r in rounds),
        "load_average": os.getloadavg()[0],
        "rounds": rounds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--out", type=Path, default=Path("build/bench/batch.json"))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="batch.") as name:
        (source := Path(name) / "in").mkdir()
        found = measured(Path(name) / "home", source, given.rows)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(found, indent=2))
    json.dump({k: v for k, v in found.items() if k != "rounds"}, sys.stdout, indent=2)


if __name__ == "__main__":
    main()
