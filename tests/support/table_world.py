"""A model with a version, its features, and tables to score: for tests of batches over tables."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tests.support.onnx_bundles import sigmoid_bundle

from mlplatform.model.bundle import Bundle, View, load_bundle, write_bundle
from mlplatform.model.definition import InputSpec
from mlplatform.model.policies.calibration import Calibration
from mlplatform.model.routes import Arm, Routes
from mlplatform.model.rules import Reason
from mlplatform.operations import wiring
from mlplatform.operations.actions.features import import_history
from mlplatform.operations.tables.batch import TableBatch, score_table
from mlplatform.rollouts.journal.sql import SqlRollouts
from mlplatform.rollouts.journal.transitions import Opened, Promoted
from mlplatform.runtime.configuration.settings import load
from mlplatform.runtime.units import DAY_MS
from models.fraud.generator import Population, generate

START_MS = 20_000 * DAY_MS
DAYS = 3
CUSTOMERS = 20
INPUTS = (
    InputSpec(name="amount", kind="field", of="amount"),
    InputSpec(name="night", kind="is_night"),
    InputSpec(name="amount_to_mean_30d", kind="ratio", of="amount", to="customer_mean_30d"),
)
MEAN = {"customer_mean_30d": 50.0}


def world(
    home: Path, inputs: tuple[InputSpec, ...] = INPUTS, *, promoted: bool = True
) -> wiring.Platform:
    """A platform with three days of history, and a champion whose score rises with its inputs."""
    settings = load({"MLPLATFORM_HOME": str(home)})
    settings.home.create()
    made = wiring.Platform(settings)
    population = Population(customers=CUSTOMERS, payments_per_day=30)
    history = generate(seed=1, start_ms=START_MS, days=DAYS, population=population)
    import_history(made, "fraud", history, "history")
    if promoted:
        digest = bundle(settings.home.bundles, inputs)
        promote(made.rollouts, Arm(4, digest, digest))
    return made


def promote(rollouts: SqlRollouts, arm: Arm) -> None:
    """Have its bundle's version answer from now on."""
    said: dict[str, Any] = {
        "rollout_id": "fraud-v4-1",
        "model": "fraud",
        "event_ms": 0,
        "wall_ms": 0,
        "actor": "test",
        "reason": "test",
    }
    rollouts.commit(
        Opened(
            **said,
            challenger=arm,
            author="a",
            alert_low=0.0,
            alert_high=1.0,
            bootstrap=True,
            approval="none",
        ),
        None,
    )
    fence = rollouts.acquire("fraud", "test", 60.0)
    assert fence is not None
    routes = Routes("fraud", 1, arm, None, None, "fraud-v4-1", "steady", 0.0)
    rollouts.commit(Promoted(**said, predecessor=None), fence, routes)


def bundle(folder: Path, inputs: tuple[InputSpec, ...] = INPUTS) -> str:
    """Write the bundle below a folder; returns its digest."""
    draft = folder / "draft"
    sigmoid_bundle(draft)
    plain, content = load_bundle(draft), (draft / "model.onnx").read_bytes()
    names = [spec.name for spec in inputs]
    column = next(iter(plain.profile.inputs.values()))
    made: Bundle = msgspec.structs.replace(
        plain,
        inputs=inputs,
        calibration=Calibration(x=(0.5, 1.0), y=(0.0, 1.0)),
        reasons={n: Reason(code=n.upper(), customer=n, analyst=n) for n in names},
        reference=dict.fromkeys(names, 0.0),
        profile=replace(plain.profile, inputs=dict.fromkeys(names, column)),
        views=(View("customer_stats", 3 * DAY_MS, MEAN),) if inputs == INPUTS else (),
    )
    target = folder / made.digest
    if not target.exists():
        write_bundle(made, content, target)
    return made.digest


def table(rows: int, seed: int = 0, *, first: int = 0) -> pa.Table:
    """Payments of customers that the history knows, and of some that it does not."""
    rng = np.random.default_rng(seed)
    end_ms = START_MS + DAYS * DAY_MS
    event_us = rng.integers(START_MS, end_ms, rows) * 1000
    return pa.table(
        {
            "request_id": pa.array([f"r{first + n}" for n in range(rows)]),
            "event_time": pa.array(event_us, pa.timestamp("us")),
            "customer_id": pa.array(rng.integers(0, CUSTOMERS + 5, rows)),
            "terminal_id": pa.array(rng.integers(0, 30, rows)),
            "amount": pa.array(rng.exponential(3.0, rows)),
        }
    )


def write(path: Path, content: pa.Table) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(content, path, row_group_size=700)
    return path


def read(folder: Path) -> pa.Table:
    """All rows of an output, in order."""
    files = sorted(folder.glob("part-*.parquet"))
    return pa.concat_tables([pq.read_table(path) for path in files])


def run(home: str, source: str, output: str, partition_rows: int) -> None:
    """A batch as a process of its own runs it."""
    platform = wiring.Platform(load({"MLPLATFORM_HOME": home}))
    score_table(
        platform, TableBatch("fraud", source, output, partition_rows=partition_rows), lambda _: None
    )
