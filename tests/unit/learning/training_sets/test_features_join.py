"""The point-in-time join: every event once, valid rows alone, late rows named."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlplatform.learning.features.offline import OfflineTable
from mlplatform.learning.training_sets.join import training_join, view_join
from mlplatform.model.features.views import FeatureField, FeatureView
from mlplatform.model.folders import load_definition
from mlplatform.runtime.errors import InputInvalid
from mlplatform.runtime.units import DAY_MS

T_MS = 20_000 * DAY_MS
VIEW = FeatureView(
    name="stats",
    entity="customer",
    join_key="customer_id",
    ttl_ms=3 * DAY_MS,
    fields=(
        FeatureField(
            name="seen",
            dtype="float64",
            aggregate="count",
            column=None,
            window_days=1,
            delay_days=0,
            missing="default",
            default=None,
        ),
    ),
)
TIME = pa.timestamp("us")
Row = tuple[int, int, int, float | None]
"""Key, event time and availability (ms after T), value."""


def times(values_ms: list[int]) -> pa.Array:
    return pa.array([(T_MS + v) * 1000 for v in values_ms], TIME)


def joined(folder: Path, rows: list[Row], events: list[tuple[int, int]]) -> list[float | None]:
    offline = OfflineTable(folder, load_definition("fraud"))
    if rows:
        keys, at, available, values = (list(c) for c in zip(*rows, strict=True))
        table = pa.table(
            {
                "customer_id": pa.array(keys, pa.int64()),
                "event_timestamp": times(at),
                "created": times(available),
                "seen": pa.array(values, pa.float64()),
            }
        )
        offline.snapshot_folder("stats").mkdir(parents=True)
        pq.write_table(table, offline.snapshot_folder("stats") / "one.parquet")
    asked = pa.table(
        {
            "event_time": times([at for _, at in events]),
            "customer_id": pa.array([key for key, _ in events], pa.int64()),
        }
    )
    result = training_join(offline, [VIEW], asked)
    assert result.select(asked.column_names).equals(asked)
    return result.column("seen").to_pylist()


def test_an_event_reads_the_last_row_that_was_available(tmp_path: Path) -> None:
    rows: list[Row] = [(1, 0, 0, 1.0), (1, DAY_MS, DAY_MS + 50, 2.0), (2, 0, 0, 9.0)]
    events = [(1, DAY_MS + 50), (1, DAY_MS + 49), (1, 0), (1, -1), (3, DAY_MS), (1, DAY_MS + 50)]
    assert joined(tmp_path, rows, events) == [2.0, 1.0, 1.0, None, None, 2.0]


def test_a_row_is_valid_for_its_ttl_the_bound_included(tmp_path: Path) -> None:
    rows: list[Row] = [(1, 0, 0, 1.0)]
    assert joined(tmp_path, rows, [(1, 3 * DAY_MS), (1, 3 * DAY_MS + 1)]) == [1.0, None]


def test_of_rows_available_together_the_one_with_the_later_time_counts(tmp_path: Path) -> None:
    rows: list[Row] = [(1, 0, 2 * DAY_MS, 1.0), (1, DAY_MS, 2 * DAY_MS, 2.0)]
    assert joined(tmp_path, rows, [(1, 2 * DAY_MS)]) == [2.0]


def test_a_missing_value_stays_missing(tmp_path: Path) -> None:
    assert joined(tmp_path, [(1, 0, 0, 5.0), (1, DAY_MS, DAY_MS, None)], [(1, DAY_MS)]) == [None]


@pytest.mark.parametrize("key", ["order", "group", "customer_id"])
@pytest.mark.parametrize("has_rows", [True, False])
def test_a_key_may_be_a_text_and_have_a_word_of_sql_for_its_name(
    tmp_path: Path, key: str, has_rows: bool
) -> None:
    view = msgspec.structs.replace(VIEW, join_key=key)
    offline = OfflineTable(tmp_path, load_definition("fraud"))
    if has_rows:
        columns = {
            key: ["shop a", "shop b"], "event_timestamp": times([0, 0]),
            "created": times([0, 0]), "seen": [1.0, 2.0],
        }  # fmt: skip
        offline.snapshot_folder("stats").mkdir(parents=True)
        pq.write_table(pa.table(columns), offline.snapshot_folder("stats") / "one.parquet")
    asked = pa.table({"event_time": times([5, 6]), key: ["shop b", "shop c"]})
    seen = view_join(offline, [view], asked).column("seen").to_pylist()
    assert seen == ([2.0, None] if has_rows else [None, None])


def test_without_any_snapshot_every_feature_is_missing(tmp_path: Path) -> None:
    assert joined(tmp_path, [], [(1, 0), (2, 0)]) == [None, None]


@pytest.mark.parametrize(
    "rows",
    [[(1, 0, DAY_MS + 1, 1.0), (2, DAY_MS, DAY_MS, 2.0)], [(1, 0, -1, 1.0)]],
    ids=["available after a later row", "available before its own time"],
)
def test_late_rows_raise(tmp_path: Path, rows: list[Row]) -> None:
    with pytest.raises(InputInvalid, match="stats: the snapshot of"):
        joined(tmp_path, rows, [(1, 2 * DAY_MS)])
