"""The join in memory: what the ASOF join gives, for events in any parts and rows in any order."""

from __future__ import annotations

import random
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlplatform.learning.features.offline import OfflineTable
from mlplatform.learning.training_sets import join, memory_join
from mlplatform.learning.training_sets.join import view_join
from mlplatform.learning.training_sets.memory_join import HeldRows, KeptRows
from mlplatform.model.features.views import FeatureField, FeatureView
from mlplatform.model.folders import load_definition
from mlplatform.runtime.units import DAY_MS

T_MS, DAYS, ENTITIES = 20_000 * DAY_MS, 6, 9
FIELD = FeatureField(
    name="seen",
    dtype="float64",
    aggregate="count",
    column=None,
    window_days=1,
    delay_days=0,
    missing="default",
    default=None,
)
VIEW = FeatureView(
    name="stats",
    entity="customer",
    join_key="customer_id",
    ttl_ms=2 * DAY_MS,
    fields=(FIELD, msgspec.structs.replace(FIELD, name="sum")),
)
TIME = pa.timestamp("us")


def at(values_ms: list[int]) -> pa.Array:
    return pa.array([(T_MS + v) * 1000 for v in values_ms], TIME)


def offline_of(folder: Path, draw: random.Random, name: str = "stats") -> OfflineTable:
    """Daily snapshots; each holds some entities, becomes available late, and misses some values."""
    offline = OfflineTable(folder, load_definition("fraud"))
    offline.snapshot_folder(name).mkdir(parents=True)
    for day in range(DAYS):
        keys = draw.sample(range(ENTITIES), draw.randint(1, ENTITIES))
        late = draw.choice([0, 0, 5, DAY_MS])  # a day late is together with the next one
        values = [draw.choice([None, -0.0, float(draw.randint(0, 9))]) for _ in keys]
        columns = {
            "customer_id": pa.array(keys, pa.int64()),
            "event_timestamp": at([day * DAY_MS] * len(keys)),
            "created": at(
                [max(day * DAY_MS + late, (day + 1) * DAY_MS * (late == DAY_MS))] * len(keys)
            ),
            "seen": pa.array(values, pa.float64()),
            "sum": pa.array([day * 100.0 + key for key in keys], pa.float64()),
        }
        pq.write_table(pa.table(columns), offline.snapshot_folder(name) / f"{day}.parquet")
    return offline


def events_of(draw: random.Random, count: int, days: tuple[int, int] = (-1, DAYS + 3)) -> pa.Table:
    """Events at the edges of snapshots and of their ttl, and between, some of unknown entities."""
    first, last = days
    times = [
        draw.randint(first, last) * DAY_MS + draw.choice([-1, 0, 1, 4, 5, 6, DAY_MS // 2])
        for _ in range(count)
    ]
    keys = [draw.choice([None, -1, *range(ENTITIES)]) for _ in range(count)]
    return pa.table({"event_time": at(times), "customer_id": pa.array(keys, pa.int64())})


def bits(table: pa.Table) -> list[list[str | None]]:
    """All values by which two tables are the same bit for bit; -0.0 equals 0.0 in Arrow."""
    return [[None if v is None else v.hex() for v in column.to_pylist()] for column in table]


def by_asof(offline: OfflineTable, events: pa.Table, monkeypatch: pytest.MonkeyPatch) -> pa.Table:
    with monkeypatch.context() as no_room:
        no_room.setattr(memory_join, "MOST_VALUES", -1)
        return view_join(offline, [VIEW], events)


@pytest.mark.parametrize("seed", range(12))
def test_it_gives_what_the_asof_join_gives(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = random.Random(seed)
    offline, events = offline_of(tmp_path, draw), events_of(draw, 300)
    expected = by_asof(offline, events, monkeypatch)
    monkeypatch.setattr(join, "snapshot_values", None)  # so that only the other one answers
    found = view_join(offline, [VIEW], events)
    assert found.schema == expected.schema
    assert bits(found.select(VIEW.feature_names)) == bits(expected.select(VIEW.feature_names))
    assert 0 < expected.column("sum").null_count < len(events)


def test_parts_of_the_events_get_what_all_of_them_get(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw, kept = random.Random(7), KeptRows()
    offline, events = offline_of(tmp_path, draw), events_of(draw, 400)
    expected = by_asof(offline, events, monkeypatch)
    starts = range(0, 400, 50)
    parts = [view_join(offline, [VIEW], events.slice(at, 50), kept) for at in starts]
    assert pa.concat_tables(parts).combine_chunks().equals(expected.combine_chunks())


def test_rows_are_read_once_for_the_same_days_and_again_for_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    draw, kept = random.Random(3), KeptRows()
    offline = offline_of(tmp_path, draw)

    def counted(*given: object) -> list[str]:
        read.append("once")
        return paths(*given)  # type: ignore[arg-type]

    paths = join.snapshot_paths
    monkeypatch.setattr(join, "snapshot_paths", counted)
    noon = DAY_MS // 2
    for days, times in [((2,), 1), ((2,), 1), ((1, 2), 2), ((1,), 2), ((3,), 3)]:
        events = pa.table(
            {
                "event_time": at([day * DAY_MS + noon for day in days]),
                "customer_id": pa.array([1] * len(days), pa.int64()),
            }
        )
        view_join(offline, [VIEW], events, kept)
        assert len(read) == times, days


def test_of_views_that_are_too_many_together_only_the_last_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    draw = random.Random(1)
    events = events_of(draw, 5, (1, 1))
    rows = pa.table({
        "customer_id": pa.array([1, 2], pa.int64()), "event_timestamp": at([0, 0]),
        "created": at([0, 0]), "seen": [1.0, 2.0], "sum": [1.0, 2.0],
    })  # fmt: skip
    kept, other = KeptRows(), msgspec.structs.replace(VIEW, name="other")
    held = HeldRows(VIEW, rows)
    assert held.values == 4
    monkeypatch.setattr(memory_join, "MOST_KEPT_VALUES", 7)
    for view in (VIEW, other):
        kept.keep(view, events, held)
    assert kept.get(other, events) is held
    assert kept.get(VIEW, events) is None


@pytest.mark.parametrize("change", ["a key of another type", "an event without a time"])
def test_what_only_sql_compares_goes_to_the_asof_join(
    tmp_path: Path, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw, kept = random.Random(5), KeptRows()
    offline, events = offline_of(tmp_path, draw), events_of(draw, 40, (2, 3))
    view_join(offline, [VIEW], events, kept)
    if change == "a key of another type":
        narrow = events.column("customer_id").cast(pa.int32())
        events = events.set_column(1, "customer_id", narrow)
    else:
        times = events.column("event_time").to_pylist()
        events = events.set_column(0, "event_time", pa.array([None, *times[1:]], TIME))
    expected = by_asof(offline, events, monkeypatch)
    assert view_join(offline, [VIEW], events, kept).equals(expected)
