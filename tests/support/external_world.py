"""A model with an external view beside its own, and tables for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
from msgspec.structs import replace
from tests.support.model_folders import copied

from mlplatform.model.features.views import (
    ExternalSource,
    FeatureField,
    FeatureView,
    source_digest,
)
from mlplatform.model.folders import load_definition
from mlplatform.runtime.units import DAY_S

NAME = "scored-by-bureau"
T_S = 20_000 * DAY_S
TIME = pa.timestamp("us")
FEATURES = """

PURPOSES = ("fraud-prevention",)
bureau = FeatureView(
    name="bureau",
    entities=[customer],
    ttl=timedelta(days=10),
    schema=[
        Field(name="bureau_score", dtype=Float64, tags={"missing": "default", "default": "500.0"}),
        Field(name="open_loans", dtype=Int64, tags={"missing": "default"}),
        Field(name="is_listed", dtype=Bool, tags={"missing": "degrade"}),
    ],
    source=FileSource(
        name="bureau_table",
        path="offline/bureau/*.parquet",
        timestamp_field="as_of",
        created_timestamp_column="known_at",
    ),
    owner="bureau-data@bank.example",
    tags={"external": "true", "purposes": "fraud-prevention, credit-decision", **STALE},
)
FEATURE_VIEWS = (*FEATURE_VIEWS, bureau)
"""
BUREAU = FeatureView(
    name="bureau",
    entity="customer",
    join_key="customer_id",
    ttl_ms=10 * DAY_S * 1000,
    fields=tuple(
        FeatureField(
            name=name,
            dtype=dtype,
            aggregate=None,
            column=None,
            window_days=0,
            delay_days=0,
            missing=missing,
            default=default,
        )
        for name, dtype, missing, default in (
            ("bureau_score", "float64", "default", 500.0),
            ("open_loans", "int64", "default", None),
            ("is_listed", "bool", "degrade", None),
        )
    ),
    external=ExternalSource(
        key="int64",
        event_time="as_of",
        available_time="known_at",
        owner="bureau-data@bank.example",
        purposes=("fraud-prevention", "credit-decision"),
    ),
)


def model_with_table(root: Path, topic: str | None = None) -> Path:
    """A copy of the fraud model's folder with an external view, which two of its inputs read.

    Args:
        topic: of the view.
    """
    folder = copied(root, NAME)
    features = folder / "features.py"
    text = features.read_text().replace("Float64\n", "Bool, Float64, Int64\n", 1)
    tagged = (
        FEATURES if topic is None else FEATURES.replace("**STALE", f'"topic": "{topic}", **STALE')
    )
    features.write_text(text + tagged)
    listed = json.loads((folder / "features.json").read_text())
    source = replace(BUREAU.external, topic=topic)
    listed["views"].append(msgspec.to_builtins(replace(BUREAU, external=source)))
    listed |= {"purposes": ["fraud-prevention"], "source": source_digest(folder)}
    (folder / "features.json").write_text(json.dumps(listed))
    model, reasons = folder / "model.yaml", folder / "reasons.yaml"
    last = "  - {name: amount_to_mean_30d, kind: ratio, of: amount, to: customer_mean_30d}\n"
    read = ("bureau_score", "open_loans")
    inputs = "".join(f"  - {{name: {name}, kind: view, of: bureau}}\n" for name in read)
    model.write_text(model.read_text().replace(last, last + inputs))
    told = "".join(
        f"{n}: {{code: {n.upper()}, customer: About {n}., analyst: See {n}.}}\n" for n in read
    )
    reasons.write_text(reasons.read_text() + told)
    return folder


Row = tuple[int, int, int, float | None]
"""Key, event and availability time (s after T), and what the features are made of."""


def table(rows: list[Row], **changes: Any) -> pa.Table:
    """The bank's table: a score, of which the other columns follow."""
    keys, events, known, values = (list(c) for c in zip(*rows, strict=True)) if rows else [[]] * 4
    columns = {
        "customer_id": pa.array(keys, pa.int64()),
        "as_of": pa.array([(T_S + s) * 10**6 for s in events], TIME),
        "known_at": pa.array([(T_S + s) * 10**6 for s in known], TIME),
        "bureau_score": pa.array(values, pa.float64()),
        "open_loans": pa.array([None if v is None else int(v) for v in values], pa.int64()),
        "is_listed": pa.array([None if v is None else v > 5 for v in values], pa.bool_()),
    }
    return pa.table(columns | changes)


def written(path: Path, content: pa.Table) -> Path:
    pq.write_table(content, path)
    return path


def fraud_like() -> Any:
    """The definition of the fraud model, whose customer is stored as a pseudonym."""
    return load_definition("fraud")
