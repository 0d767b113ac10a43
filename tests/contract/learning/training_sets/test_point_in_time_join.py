"""Our ASOF join against Feast's own get_historical_features, cell by cell."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from mlplatform.learning.features.feast_sqlite import FeastSqlite
from mlplatform.learning.features.offline import OfflineTable
from mlplatform.learning.features.snapshots import materialize
from mlplatform.learning.training_sets.join import training_join
from mlplatform.model.features.views import load_views
from mlplatform.model.folders import load_definition, model_folder
from mlplatform.runtime.units import DAY_MS
from models.fraud.generator import Population, generate
from support import feast_sdk

FRAUD = load_definition("fraud")
VIEWS = load_views(model_folder("fraud"))
T_MS = 20_000 * DAY_MS
KEY = b"k" * 32
MISSED_DAYS = (12, 13, 14)  # no snapshot: some rows outlive their ttl
LAG_MS = {9: 5_400_000, 15: 30 * 3_600_000, 16: 7 * 3_600_000}  # 15 and 16 come in one go


@pytest.fixture
def offline(tmp_path: Path) -> OfflineTable:
    offline = OfflineTable(tmp_path / "offline" / "fraud", FRAUD)
    population = Population(customers=40, terminals=30, payments_per_day=60, fraud_share=0.1)
    table = generate(seed=3, start_ms=T_MS, days=20, population=population)
    offline.import_history(table, KEY)
    online = FeastSqlite(tmp_path / "online.db", "fraud", VIEWS)
    for day in range(5, 20):
        if day not in MISSED_DAYS:
            at_ms = T_MS + day * DAY_MS
            materialize(offline, VIEWS, at_ms, online, at_ms + LAG_MS.get(day, 0))
    online.close()
    return offline


def events(offline: OfflineTable) -> pa.Table:
    """Real payments, and made ones: unknown entities, ttl edges, ties with a row's own time."""
    real = offline.labelled_requests(T_MS, T_MS + 20 * DAY_MS, T_MS + 99 * DAY_MS)
    real = real.select(["event_time", "customer_id", "terminal_id"])
    customers = sorted(set(real.column("customer_id").to_pylist()))
    draw = random.Random(5)
    edges_ms = [
        T_MS + day * DAY_MS + lag + shift
        for day, lag in [(5, 0), (9, LAG_MS[9]), (11, 0), (14, 0), (15, LAG_MS[15])]
        for shift in (-1, 0, 1)
    ]
    made = pa.table(
        {
            "event_time": pa.array(
                [ms * 1000 for ms in edges_ms for _ in range(4)], "timestamp[us]"
            ),
            "customer_id": pa.array(
                [draw.choice([*customers[:10], 5]) for _ in range(4 * len(edges_ms))], pa.int64()
            ),
            "terminal_id": pa.array(
                [draw.choice([*range(30), -1]) for _ in range(4 * len(edges_ms))], pa.int64()
            ),
        }
    )
    return pa.concat_tables([real, made, made.slice(0, 5)])


@pytest.mark.slow
def test_the_training_join_equals_feasts_point_in_time_join(
    tmp_path: Path, offline: OfflineTable
) -> None:
    asked = events(offline)
    ours = training_join(offline, VIEWS, asked)
    frame = asked.to_pandas().rename(columns={"event_time": "event_timestamp"})
    frame["event_timestamp"] = frame["event_timestamp"].dt.tz_localize("UTC")
    frame["row"] = np.arange(len(frame))
    with contextlib.chdir(tmp_path):
        theirs = (
            feast_sdk.store(tmp_path, "fraud")
            .get_historical_features(
                entity_df=frame,
                features=[f"{v.name}:{name}" for v in VIEWS for name in v.feature_names],
                filter_by_created_timestamp=True,
            )
            .to_df()
            .sort_values("row")
        )
    assert len(theirs) == ours.num_rows == asked.num_rows
    missing = 0
    for name in (name for v in VIEWS for name in v.feature_names):
        expected = pd.to_numeric(theirs[name]).to_numpy(dtype=float)
        found = ours.column(name).to_numpy()
        np.testing.assert_array_equal(found, expected, err_msg=name)
        missing += int(np.isnan(expected).sum())
    assert 0 < missing < asked.num_rows * 12


@pytest.mark.slow
def test_serving_reads_what_training_joins(tmp_path: Path) -> None:
    """Play 12 days: what the online store answers at each payment is what the join gives it."""
    offline = OfflineTable(tmp_path / "offline" / "fraud", FRAUD)
    population = Population(customers=40, terminals=30, payments_per_day=60, fraud_share=0.1)
    offline.import_history(generate(seed=4, start_ms=T_MS, days=12, population=population), KEY)
    online = FeastSqlite(tmp_path / "online.db", "fraud", VIEWS)
    payments = offline.labelled_requests(T_MS, T_MS + 12 * DAY_MS, T_MS + 99 * DAY_MS)
    served = []
    day = 0
    events_ms = payments.column("event_time").cast(pa.int64()).to_numpy() // 1000
    for event_ms, payment in zip(events_ms.tolist(), payments.to_pylist(), strict=True):
        while event_ms >= T_MS + day * DAY_MS + LAG_MS[9]:
            if day != 5:
                at_ms = T_MS + day * DAY_MS
                materialize(offline, VIEWS, at_ms, online, at_ms + LAG_MS[9])
            day += 1
        keys = {"customer": payment["customer_id"], "terminal": payment["terminal_id"]}
        served.append(online.read(keys, event_ms).values)
    names = [name for v in VIEWS for name in v.feature_names]
    joined = training_join(offline, VIEWS, payments).select(names).to_pylist()
    assert joined == served
    online.close()
