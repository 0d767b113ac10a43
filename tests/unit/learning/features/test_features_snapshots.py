"""Snapshots: windows as documented, written once, and never touched by what comes later."""

from __future__ import annotations

import hashlib
import math
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.learning.features.test_features_offline import MemoryLog, decision, label, void

from mlplatform.decisions.records.pseudonym import pseudonym
from mlplatform.learning.features.feast_sqlite import FeastSqlite
from mlplatform.learning.features.offline import OfflineTable
from mlplatform.learning.features.rows import history_schema
from mlplatform.learning.features.snapshots import backfill, materialize, snapshot, snapshot_path
from mlplatform.learning.training_sets.join import training_join
from mlplatform.model.features.views import Aggregate, FeatureField, load_views
from mlplatform.model.folders import load_definition, model_folder
from mlplatform.runtime.errors import InputInvalid, Refused
from mlplatform.runtime.units import DAY_MS, HOUR_MS

FRAUD = load_definition("fraud")
CUSTOMERS, TERMINALS = VIEWS = load_views(model_folder("fraud"))
KEY = b"k" * 32
T_MS = 20_000 * DAY_MS

Payment = tuple[int, int, int, float, int, int]
"""Event time and arrival of the label (ms before or after T), customer, amount, label, terminal."""


def filled(folder: Path, payments: Sequence[Payment]) -> OfflineTable:
    rows = [
        {
            "request_id": f"r{n}",
            "event_time": (T_MS + event) * 1000,
            "customer_id": customer,
            "terminal_id": terminal,
            "amount": amount,
            "label": label,
            "label_time": (T_MS + arrival) * 1000,
        }
        for n, (event, arrival, customer, amount, label, terminal) in enumerate(sorted(payments))
    ]
    offline = OfflineTable(folder / "fraud", FRAUD)
    offline.import_history(pa.Table.from_pylist(rows, schema=history_schema(FRAUD)), KEY)
    return offline


def row(table: pa.Table, key: str, value: int) -> dict[str, Any]:
    (found,) = [r for r in table.to_pylist() if r[key] == value]
    return found


@pytest.fixture
def online(tmp_path: Path) -> Iterator[FeastSqlite]:
    store = FeastSqlite(tmp_path / "online.db", "fraud", VIEWS)
    yield store
    store.close()


def test_counts_and_means_are_of_windows_that_end_at_the_snapshot(tmp_path: Path) -> None:
    later = DAY_MS * 40
    offline = filled(
        tmp_path,
        [
            (-31 * DAY_MS, later, 1, 1000.0, 0, 1),
            (-30 * DAY_MS, later, 1, 5.0, 0, 1),
            (-DAY_MS - 1, later, 1, 10.0, 0, 1),
            (-DAY_MS, later, 1, 20.0, 0, 1),
            (-1, later, 1, 40.0, 0, 1),
            (0, later, 1, 1000.0, 0, 1),
            (-20 * DAY_MS, later, 2, 7.0, 0, 2),
        ],
    )
    table = snapshot(offline, CUSTOMERS, T_MS)
    busy = row(table, "customer_id", pseudonym(1, KEY))
    assert [busy[f"customer_count_{w}d"] for w in (1, 7, 30)] == [2, 3, 4]
    assert [busy[f"customer_mean_{w}d"] for w in (1, 7, 30)] == [30.0, 70 / 3, 75 / 4]
    quiet = row(table, "customer_id", pseudonym(2, KEY))
    assert quiet["customer_count_1d"] == 0
    assert quiet["customer_mean_1d"] is None
    assert quiet["customer_mean_30d"] == 7.0


def test_deviations_and_largest_amounts_are_of_the_window_alone(tmp_path: Path) -> None:
    kinds: tuple[tuple[str, Aggregate, int], ...] = (
        ("deviation", "std", 30),
        ("largest", "max", 7),
        ("largest_month", "max", 30),
    )
    fields = tuple(
        FeatureField(
            name=name, dtype="float64", aggregate=aggregate, column="amount", window_days=days,
            delay_days=0, missing="default", default=None,
        )
        for name, aggregate, days in kinds
    )  # fmt: skip
    view = msgspec.structs.replace(CUSTOMERS, fields=fields)
    past = [(-31, 1, 1000.0), (-30, 1, 50.0), (-7, 1, 20.0), (-1, 1, 20.0), (-8, 2, 7.0)]
    offline = filled(tmp_path, [(d * DAY_MS, 0, c, amount, 0, 1) for d, c, amount in past])
    table = snapshot(offline, view, T_MS)
    busy, quiet = (row(table, "customer_id", pseudonym(c, KEY)) for c in (1, 2))
    assert busy["deviation"] == pytest.approx(200**0.5)  # of 50, 20 and 20, which are all
    assert (busy["largest"], busy["largest_month"]) == (20.0, 50.0)
    assert (quiet["deviation"], quiet["largest"], quiet["largest_month"]) == (0.0, None, 7.0)


def test_risk_is_of_all_payments_by_the_labels_that_had_arrived(tmp_path: Path) -> None:
    offline = filled(
        tmp_path,
        [
            (0, HOUR_MS, 1, 1.0, 1, 9),  # not before the snapshot
            (-1, 0, 1, 1.0, 1, 9),
            (-2, 1, 1, 1.0, 1, 9),  # its label came too late
            (-DAY_MS, 0, 1, 1.0, 0, 9),
            (-2 * DAY_MS, 0, 1, 1.0, 1, 9),
        ],
    )
    risk = row(snapshot(offline, TERMINALS, T_MS), "terminal_id", 9)
    assert risk["terminal_risk_1d"] == pytest.approx(1 / 3)
    assert risk["terminal_risk_7d"] == pytest.approx(2 / 4)
    assert risk["terminal_count_1d"] == 3
    assert risk["terminal_count_7d"] == 4


def test_a_delay_ends_the_window_before_the_snapshot(tmp_path: Path) -> None:
    fields = tuple(msgspec.structs.replace(f, delay_days=3) for f in TERMINALS.fields)
    delayed = msgspec.structs.replace(TERMINALS, fields=fields)
    edge = -3 * DAY_MS
    offline = filled(
        tmp_path, [(edge, 0, 1, 1.0, 1, 9), (edge - 1, 0, 1, 1.0, 0, 9), (-1, 0, 1, 1.0, 1, 9)]
    )
    risk = row(snapshot(offline, delayed, T_MS), "terminal_id", 9)
    assert (risk["terminal_count_1d"], risk["terminal_risk_1d"]) == (1, 0.0)


def test_an_entity_without_a_payment_in_the_longest_window_has_no_row(tmp_path: Path) -> None:
    offline = filled(
        tmp_path,
        [(-30 * DAY_MS, 0, 1, 1.0, 0, 8), (-30 * DAY_MS - 1, 0, 2, 1.0, 0, 9)],
    )
    assert snapshot(offline, CUSTOMERS, T_MS).num_rows == 1
    table = snapshot(offline, TERMINALS, T_MS)
    assert table.column("terminal_id").to_pylist() == [8]
    assert row(table, "terminal_id", 8)["terminal_risk_30d"] == 0.0


payments = st.tuples(
    st.integers(-36 * DAY_MS, -1),
    st.integers(0, 6 * DAY_MS),
    st.integers(1, 3),
    st.floats(0, 1000).map(lambda a: round(a, 2)),
    st.integers(0, 1),
    st.integers(1, 3),
)


@settings(max_examples=25, deadline=None)
@given(
    past=st.lists(payments, min_size=1, max_size=12),
    future=st.lists(payments, max_size=6),
)
def test_nothing_later_than_the_snapshot_changes_it(
    past: list[Payment], future: list[Payment]
) -> None:
    known = [(e, e + wait, c, a, y, t) for e, wait, c, a, y, t in past]
    unseen = [(e + 36 * DAY_MS, e + 36 * DAY_MS + wait, *rest) for e, wait, *rest in future]
    other = [
        (e, later + DAY_MS if later > 0 else later, c, a, 1 - y if later > 0 else y, t)
        for e, later, c, a, y, t in known
    ]
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
        before, after = filled(Path(one), known), filled(Path(two), [*other, *unseen])
        for view in VIEWS:
            assert snapshot(before, view, T_MS).equals(snapshot(after, view, T_MS))


def test_a_void_takes_its_payment_out_of_the_snapshots_from_its_own_time_on(
    tmp_path: Path, online: FeastSqlite
) -> None:
    offline, log = filled(tmp_path, [(-40 * DAY_MS, 0, 1, 1.0, 0, 8)]), MemoryLog()
    log.add(decision(1, event_ms=T_MS - 5 * DAY_MS), decision(2, event_ms=T_MS - 4 * DAY_MS))
    log.add(label(1, 1, arrives_ms=T_MS - 3 * DAY_MS))
    offline.project(log)
    days = [T_MS + n * DAY_MS for n in range(-2, 3)]
    before = {day: snapshot(offline, TERMINALS, day) for day in days}
    log.add(void(1, T_MS))
    offline.project(log)

    backfill(offline, VIEWS, days, online)
    for day in days:
        stored = pq.read_table(snapshot_path(offline, TERMINALS, day))
        assert stored.equals(snapshot(offline, TERMINALS, day))
        assert stored.equals(before[day]) == (day < T_MS)
        risk = row(stored, "terminal_id", 3)
        assert risk["terminal_count_30d"] == (2 if day < T_MS else 1)
        assert risk["terminal_risk_30d"] == (0.5 if day < T_MS else 0.0)


def test_materialize_writes_offline_and_online_the_same(
    tmp_path: Path, online: FeastSqlite
) -> None:
    offline = filled(tmp_path, [(-HOUR_MS, 0, 1, 12.0, 0, 5), (-2 * HOUR_MS, 0, 1, 8.0, 0, 6)])
    done = materialize(offline, VIEWS, T_MS, online, T_MS + HOUR_MS)
    assert done.rows == done.online == {"customer_stats": 1, "terminal_stats": 2}
    read = online.read({"customer": pseudonym(1, KEY), "terminal": 5}, T_MS + 2 * HOUR_MS)
    assert read.times == {"customer_stats": T_MS, "terminal_stats": T_MS}
    assert read.values["customer_mean_1d"] == 10.0
    assert read.values["terminal_risk_30d"] == 0.0
    for view in VIEWS:
        table = pq.read_table(snapshot_path(offline, view, T_MS))
        assert table.column("created").cast(pa.int64()).to_pylist()[0] == (T_MS + HOUR_MS) * 1000


def test_a_second_run_leaves_the_snapshot_as_it_is(tmp_path: Path, online: FeastSqlite) -> None:
    offline = filled(tmp_path, [(-HOUR_MS, 0, 1, 12.0, 0, 5)])
    first = materialize(offline, VIEWS, T_MS, online, T_MS)
    paths = [snapshot_path(offline, v, T_MS) for v in VIEWS]
    before = [hashlib.sha256(p.read_bytes()).digest() for p in paths]
    assert materialize(offline, VIEWS, T_MS, online, T_MS + HOUR_MS) == first
    assert [hashlib.sha256(p.read_bytes()).digest() for p in paths] == before


def test_a_snapshot_that_is_older_than_a_feature_is_served_and_joined_without_it(
    tmp_path: Path, online: FeastSqlite
) -> None:
    offline = filled(tmp_path, [(-HOUR_MS, 0, 1, 12.0, 0, 5)])
    before, new = CUSTOMERS.fields[:-1], CUSTOMERS.fields[-1]
    earlier = [msgspec.structs.replace(CUSTOMERS, fields=before), TERMINALS]
    store = FeastSqlite(tmp_path / "online.db", "fraud", earlier)
    materialize(offline, earlier, T_MS, store, T_MS)
    store.close()
    assert materialize(offline, VIEWS, T_MS, online, T_MS).online["customer_stats"] == 1
    keys = {"customer": pseudonym(1, KEY), "terminal": 5}
    served = online.read(keys, T_MS).values
    assert (served[before[0].name], served[new.name]) == (1.0, None)
    asked = pa.table(
        {
            "event_time": pa.array([T_MS * 1000, (T_MS + DAY_MS) * 1000], "timestamp[us]"),
            "customer_id": [keys["customer"]] * 2,
            "terminal_id": [keys["terminal"]] * 2,
        }
    )
    assert training_join(offline, VIEWS, asked)[new.name].to_pylist() == [None, None]
    materialize(offline, VIEWS, T_MS + DAY_MS, online, T_MS + DAY_MS)
    assert training_join(offline, VIEWS, asked)[new.name].to_pylist() == [
        None, online.read(keys, T_MS + DAY_MS).values[new.name]
    ]  # fmt: skip
    assert online.read(keys, T_MS + DAY_MS).values[new.name] is not None


def test_a_snapshot_after_a_later_one_is_refused(tmp_path: Path, online: FeastSqlite) -> None:
    offline = filled(tmp_path, [(-HOUR_MS, 0, 1, 12.0, 0, 5)])
    materialize(offline, VIEWS, T_MS + DAY_MS, online, T_MS + DAY_MS)
    with pytest.raises(Refused, match="is older than"):
        materialize(offline, VIEWS, T_MS, online, T_MS)


@pytest.mark.parametrize(
    ("at_ms", "available_ms", "problem"),
    [(T_MS + 1, T_MS + 1, "a UTC midnight"), (T_MS, T_MS - 1, "available_ms is before")],
    ids=["not at midnight", "available before its time"],
)
def test_an_impossible_time_is_refused(
    tmp_path: Path, online: FeastSqlite, at_ms: int, available_ms: int, problem: str
) -> None:
    offline = filled(tmp_path, [(-HOUR_MS, 0, 1, 12.0, 0, 5)])
    with pytest.raises(InputInvalid, match=problem):
        materialize(offline, VIEWS, at_ms, online, available_ms)


def test_a_backfill_gives_each_day_what_a_snapshot_of_that_day_gives(
    tmp_path: Path, online: FeastSqlite
) -> None:
    rows: list[Payment] = [
        (-d * DAY_MS - d, -d * DAY_MS + DAY_MS, d % 3, 1.5 * d, d % 2, d % 4) for d in range(1, 40)
    ]
    offline = filled(tmp_path, rows)
    days = [T_MS - d * DAY_MS for d in range(3)]
    backfill(offline, VIEWS, days, online)
    for view in VIEWS:
        for day in days:
            stored = pq.read_table(snapshot_path(offline, view, day))
            assert stored.equals(snapshot(offline, view, day))
    served = online.read({"customer": pseudonym(1, KEY), "terminal": 1}, T_MS)
    assert served.times == {"customer_stats": T_MS, "terminal_stats": T_MS}
    assert not any(v is not None and math.isnan(v) for v in served.values.values())
