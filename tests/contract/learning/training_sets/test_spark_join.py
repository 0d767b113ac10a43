"""The training join on Spark gives DuckDB's rows, bit for bit, in whatever buckets."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.contract.learning.training_sets.test_point_in_time_join import VIEWS, events
from tests.contract.learning.training_sets.test_point_in_time_join import offline as fraud
from tests.support.external_world import BUREAU, T_S
from tests.support.spark_local import local_spark
from tests.unit.learning.features.external.test_external_join import World
from tests.unit.learning.features.pushes.test_pushed_features import PushWorld
from tests.unit.learning.features.windows.test_windows_state import begun, offline_of, partly_read
from tests.unit.learning.training_sets.test_features_join import T_MS, VIEW, times

from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.decisions.records.port import Entry
from mlplatform.decisions.records.record import Record
from mlplatform.learning.features.offline import OfflineTable
from mlplatform.learning.features.rows import history_schema
from mlplatform.learning.training_sets.dataset import build_dataset
from mlplatform.learning.training_sets.join import training_join
from mlplatform.learning.training_sets.port import TrainingJoin
from mlplatform.model.definition import InputSpec
from mlplatform.model.features.views import FeatureView
from mlplatform.model.folders import load_definition
from mlplatform.runtime.errors import InputInvalid, JobFailed
from mlplatform.runtime.units import DAY_MS, DAY_S, MINUTE_MS
from support.windows_world import (
    NOON_MS,
    WINDOWS,
    decision,
    definition_with_windows,
    request,
    streamed,
)

offline = fraud
FRAUD = definition_with_windows()
BUCKET_ROWS = 60
"""So that the smallest world has many buckets, and a writer's records several ranges."""


@pytest.fixture(scope="module")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrainingJoin]:
    with local_spark(tmp_path_factory.mktemp("spark"), BUCKET_ROWS) as join:
        yield join


def cells(column: pa.ChunkedArray[Any]) -> list[Any]:
    """Values by which two columns are the same bit for bit: of numbers the bytes, None if null."""
    if not pa.types.is_float64(column.type):
        return column.to_pylist()
    known = column.is_valid().to_pylist()
    bits = column.combine_chunks().fill_null(0.0).to_numpy().view("int64").tolist()
    return [value if there else None for value, there in zip(bits, known, strict=True)]


def same(
    spark: TrainingJoin, offline: OfflineTable, views: Sequence[FeatureView], asked: pa.Table
) -> pa.Table:
    """The rows that both engines gave."""
    ours, theirs = training_join(offline, views, asked), spark(offline, views, asked)
    assert theirs.column_names == ours.column_names
    assert theirs.num_rows == asked.num_rows
    for name in ours.column_names:
        assert theirs.schema.field(name).type == ours.schema.field(name).type, name
        assert cells(theirs[name]) == cells(ours[name]), name
    return theirs


def shuffled(asked: pa.Table, seed: int) -> pa.Table:
    order = list(range(asked.num_rows))
    random.Random(seed).shuffle(order)
    return asked.take(order)


def requests_of(offline: OfflineTable) -> pa.Table:
    return offline.requests().order("event_time, request_id").to_arrow_table()


def known(table: pa.Table, name: str) -> int:
    return table.num_rows - table[name].null_count


@pytest.mark.parametrize("names", [("gateway-0",), ("gateway-0", "gateway-1", "gateway-2")])
def test_windows_of_gateways_that_die_late_requests_included(
    tmp_path: Path, spark: TrainingJoin, names: tuple[str, ...]
) -> None:
    home = begun(tmp_path)
    served = streamed(home, FRAUD, seed=7 + len(names), count=300, names=names)
    offline = offline_of(home)
    found = same(spark, offline, (), requests_of(offline))
    same(spark, offline, (), shuffled(requests_of(offline), 1).slice(0, 90))
    assert found.num_rows == len(served)
    assert all(known(found, window.name) for window in WINDOWS)


@pytest.mark.parametrize("seed", range(2))
def test_windows_of_requests_for_which_none_were_read(
    tmp_path: Path, spark: TrainingJoin, seed: int
) -> None:
    offline = offline_of(partly_read(tmp_path, seed, terminals=40))
    same(spark, offline, (), requests_of(offline))


def history(count: int) -> pa.Table:
    """Payments, a minute apart, that end at `NOON_MS`; without labels."""
    chance = random.Random(3)
    made = [request(chance) for _ in range(count)]
    at_us = [(NOON_MS - (count - n) * MINUTE_MS) * 1000 for n in range(count)]
    schema = history_schema(FRAUD)
    columns = {
        "request_id": [f"h{n}" for n in range(count)],
        "event_time": pa.array(at_us, pa.timestamp("us")),
        **{name: [abs(one[name]) for one in made] for name in made[0]},
        **{name: pa.nulls(count, schema.field(name).type) for name in ("label", "label_time")},
    }
    return pa.table({name: columns[name] for name in schema.names}, schema=schema)


def test_windows_over_history_and_log_with_voids(tmp_path: Path, spark: TrainingJoin) -> None:
    offline = OfflineTable(tmp_path / "offline", FRAUD)
    offline.import_history(history(300), b"k" * 32)
    past = requests_of(offline)
    same(spark, offline, (), past)
    again = {"customer_id": past["customer_id"][299].as_py(), "terminal_id": 1, "amount": 9.0}
    with closing(SqliteDecisionLog(tmp_path)) as log:
        made = [decision(f"d{n}", NOON_MS + n, again) for n in range(9)]
        void = Record(
            kind="void", decision_id="d3", model="fraud", event_ms=NOON_MS + 50,
            recorded_ms=NOON_MS + 50, payload={},
        )  # fmt: skip
        log.append("gateway-0", [Entry(one) for one in (*made, void)])
        offline.project(log)
    asked = requests_of(offline)
    assert asked.num_rows == 308
    found = same(spark, offline, (), asked)
    last, earlier = found["c_n_10m"].to_pylist()[-1], found["c_n_10m"].to_pylist()[-2]
    assert last == earlier + 1


def test_the_training_set_as_of_a_time_is_the_same_after_a_later_void(
    tmp_path: Path, spark: TrainingJoin
) -> None:
    training = msgspec.structs.replace(FRAUD.training, window_days=8, holdout_days=2)
    inputs = (*FRAUD.inputs[:4], InputSpec(name="c_n_10m", kind="window", of="customer"))
    small = msgspec.structs.replace(FRAUD, training=training, inputs=inputs)
    offline, chance = OfflineTable(tmp_path / "offline", small), random.Random(4)
    as_of_ms = NOON_MS + 12 * DAY_MS
    void = Record(
        kind="void", decision_id="d60", model="fraud", event_ms=as_of_ms, recorded_ms=0, payload={}
    )

    def digests(at_ms: int) -> set[str]:
        joins = (training_join, spark)
        return {
            build_dataset(small, (), offline, as_of_ms=at_ms, join=join).digest for join in joins
        }

    with closing(SqliteDecisionLog(tmp_path)) as log:
        made = [decision(f"d{n}", NOON_MS + n * DAY_MS // 10, request(chance)) for n in range(120)]
        log.append("gateway-0", [Entry(one) for one in made])
        offline.project(log)
        before = digests(as_of_ms - 1)
        log.append("gateway-0", [Entry(void)])
        offline.project(log)
    assert len(before) == len(digests(as_of_ms)) == 1
    assert digests(as_of_ms - 1) == before != digests(as_of_ms)


def test_views_of_every_edge(offline: OfflineTable, spark: TrainingJoin) -> None:
    """Unknown entities, bounds of ttl, rows that became available together, missed days."""
    found = same(spark, offline, VIEWS, shuffled(events(offline), 2))
    names = [name for view in VIEWS for name in view.feature_names]
    assert all(0 < known(found, name) < found.num_rows for name in names)


def test_the_training_set_has_the_same_digest(offline: OfflineTable, spark: TrainingJoin) -> None:
    definition = load_definition("fraud")
    training = msgspec.structs.replace(definition.training, window_days=8, holdout_days=2)
    small = msgspec.structs.replace(definition, training=training)
    as_of_ms = T_MS + 20 * DAY_MS
    ours = build_dataset(small, VIEWS, offline, as_of_ms=as_of_ms, join=training_join)
    theirs = build_dataset(small, VIEWS, offline, as_of_ms=as_of_ms, join=spark)
    assert len(ours.rows) > 100
    assert theirs.digest == ours.digest


def test_the_values_of_an_online_store_that_was_given_rows_late(
    tmp_path: Path, spark: TrainingJoin
) -> None:
    draw, world, asked = random.Random(5), World(tmp_path), []
    for day in range(1, 12):
        world.now_s = day * DAY_S
        rows = []
        for number in range(draw.randrange(9)):
            event = draw.randrange(-12 * DAY_S, world.now_s, DAY_S // 2)
            score = draw.choice([None, draw.randrange(100) / 4])
            rows.append((number, event, draw.randrange(event, world.now_s + 1), score))
        if rows:
            world.take(rows)
        asked += [(key, world.now_s + draw.randrange(DAY_S)) for key in range(10)]
    check(world, spark, asked)


def test_the_values_of_pushes_and_imports(tmp_path: Path, spark: TrainingJoin) -> None:
    draw, world, asked = random.Random(6), PushWorld(tmp_path), []
    for _ in range(40):
        world.now_ms += draw.choice([1_000, 7_000, 90_000, DAY_S * 400])
        world.now_ms -= world.now_ms % 1_000
        world.now_s = world.now_ms // 1_000
        if draw.random() < 0.3:
            world.take([(draw.randrange(3), world.now_s, world.now_s, draw.randrange(9) / 4)])
        elif draw.random() < 0.3:
            world.project()
        else:
            world.push([(key, world.now_s, draw.choice([None, 2.5])) for key in range(3)])
        asked += [(key, world.now_s) for key in range(4)]
    world.project()
    check(world, spark, asked)


def check(world: World, spark: TrainingJoin, asked: list[tuple[int, int]]) -> None:
    keys = [world.stored_key(key) for key, _ in asked]
    at = [(T_S + second) * 10**6 for _, second in asked]
    table = pa.table(
        {"customer_id": pa.array(keys, pa.int64()), "event_time": pa.array(at, pa.timestamp("us"))}
    )
    found = same(spark, world.offline, (BUREAU,), shuffled(table, 4))
    assert all(0 < known(found, name) < found.num_rows for name in BUREAU.feature_names)


def test_a_view_that_was_never_served_has_no_value(tmp_path: Path, spark: TrainingJoin) -> None:
    asked = pa.table({"event_time": times([0, 1]), "customer_id": pa.array([1, 2], pa.int64())})
    found = same(spark, OfflineTable(tmp_path, load_definition("fraud")), (VIEW, BUREAU), asked)
    assert found["seen"].null_count == found["bureau_score"].null_count == 2


def snapshots(folder: Path, **columns: Any) -> OfflineTable:
    """Two snapshots of `stats`; `columns` are the second one's."""
    offline = OfflineTable(folder, load_definition("fraud"))
    place = offline.snapshot_folder("stats")
    place.mkdir(parents=True)
    first = {"customer_id": ["a", "b"], "event_timestamp": times([0, 0]), "created": times([0, 0])}
    pq.write_table(pa.table({**first, "seen": [-0.0, None]}), place / "one.parquet")
    then = {"event_timestamp": times([5, 5]), "created": times([9, 9])}
    pq.write_table(pa.table({**first, **then, **columns}), place / "two.parquet")
    return offline


ASKED = pa.table({"event_time": times([*range(12)] * 3), "customer_id": [*"abc" * 12]})
LATER = msgspec.structs.replace(VIEW.fields[0], name="later")


def test_features_declared_later_null_values_and_a_negative_zero(
    tmp_path: Path, spark: TrainingJoin
) -> None:
    offline = snapshots(tmp_path, seen=[float("nan"), 3.5], later=[1.0, None])
    view = msgspec.structs.replace(VIEW, fields=(*VIEW.fields, LATER))
    found = same(spark, offline, (view,), ASKED)
    assert known(found, "later") == sum(at >= 9 for at in [*range(12)] * 3) // 3


def test_a_table_without_rows(tmp_path: Path, spark: TrainingJoin) -> None:
    found = same(spark, snapshots(tmp_path, seen=[1.0, 2.0]), (VIEW,), ASKED.slice(0, 0))
    assert found.column_names == ["event_time", "customer_id", "seen"]
    windows = OfflineTable(tmp_path / "windows", FRAUD)
    same(spark, windows, (), requests_of(windows))


def test_a_late_snapshot_is_refused_in_the_same_words(tmp_path: Path, spark: TrainingJoin) -> None:
    offline = snapshots(tmp_path, seen=[1.0, 2.0], created=times([4, 9]))
    said = []
    for join in (training_join, spark):
        with pytest.raises(InputInvalid, match="stats: the snapshot of") as caught:
            join(offline, (VIEW,), ASKED)
        said.append(str(caught.value))
    assert said[0] == said[1]


def test_what_a_task_failed_of_is_said(tmp_path: Path, spark: TrainingJoin) -> None:
    offline = snapshots(tmp_path, seen=[1.0, 2.0])
    (offline.snapshot_folder("stats") / "three.parquet").write_bytes(b"no parquet")
    with pytest.raises(JobFailed, match=r"without rows: .*three\.parquet.*; docs/training\.md"):
        spark(offline, (VIEW,), ASKED)
