"""External views: what training joins is what serving read, in whatever order rows come."""

from __future__ import annotations

import itertools
import random
from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import pytest
from msgspec.structs import replace
from tests.support import iceberg_tables
from tests.support.delta_tables import appended
from tests.support.external_world import BUREAU, T_S, TIME, Row, fraud_like, table

from mlplatform.learning.features.external.columns import ExternalColumns
from mlplatform.learning.features.external.files import PlainFiles
from mlplatform.learning.features.external.point_in_time_join import NEVER_MS, newest_ms
from mlplatform.learning.features.external.table_import import ImportReport, import_table
from mlplatform.learning.features.feast_sqlite import FeastSqlite
from mlplatform.learning.features.offline import OfflineTable
from mlplatform.learning.features.policy import FeaturePolicies
from mlplatform.learning.training_sets.join import view_join
from mlplatform.model.features.views import check
from mlplatform.runtime.units import DAY_S

KEY = bytes(32)
NAMES = BUREAU.feature_names
KINDS = ("csv", "delta", "iceberg")
Values = dict[str, float | None]


class World:
    """A view's parts and its online store; time is what the test says."""

    def __init__(self, folder: Path, kind: str = "csv") -> None:
        self.folder, self.kind = folder, kind
        self.offline = OfflineTable(folder / "offline", fraud_like())
        self.online = FeastSqlite(folder / "online.db", "fraud", [BUREAU])
        self.now_s = 0

    def take(self, rows: list[Row]) -> ImportReport:
        path = self.folder / f"table.{self.kind}"
        if self.kind == "delta":
            appended(path, table(rows))
        elif self.kind == "iceberg":
            iceberg_tables.appended(path, table(rows))
        else:
            csv.write_csv(table(rows), path)
        now_ms = (T_S + self.now_s) * 1000
        columns = ExternalColumns.of(BUREAU, fraud_like(), KEY, now_ms)
        parts = self.offline.external("bureau")
        source = iceberg_tables.source_of(columns, path, parts)
        return import_table(columns, source, parts, self.online, lambda: now_ms)

    def stored_key(self, key: int) -> int:
        columns = ExternalColumns.of(BUREAU, fraud_like(), KEY, (T_S + 10**6) * 1000)
        batch = columns.stored(table([(key, 0, 0, 1.0)]).to_batches()[0], "", range(1))
        return batch.column("customer_id")[0].as_py()

    def served(self, key: int) -> Values:
        row = self.online.read({"customer": self.stored_key(key)}, (T_S + self.now_s) * 1000)
        return {name: row.values[name] for name in NAMES}

    def joined(self, asked: list[tuple[int, int]]) -> list[Values]:
        events = pa.table(
            {
                "event_time": pa.array([(T_S + s) * 10**6 for _, s in asked], TIME),
                "customer_id": pa.array([self.stored_key(key) for key, _ in asked], pa.int64()),
            }
        )
        found = view_join(self.offline, [BUREAU], events).select(list(NAMES))
        return [
            {name: None if row[name] is None else float(row[name]) for name in NAMES}
            for row in found.to_pylist()
        ]


def values(score: float | None) -> Values:
    if score is None:
        return dict.fromkeys(NAMES)
    return {"bureau_score": score, "open_loans": float(int(score)), "is_listed": float(score > 5)}


@pytest.mark.parametrize(
    ("kind", "seed"), [*itertools.product(("csv", "delta"), range(8)), ("iceberg", 0)]
)
def test_training_joins_what_serving_read_in_any_order_of_arrival(
    tmp_path: Path, kind: str, seed: int
) -> None:
    """Rows come late, in another order than their events, corrected, and more than once."""
    draw = random.Random(seed)
    world, asked, read = World(tmp_path, kind), [], []
    taken: dict[tuple[int, int, int], float] = {}
    for day in range(1, 16):
        world.now_s = day * DAY_S
        for _ in range(draw.randrange(12)):
            event = draw.randrange(-12 * DAY_S, world.now_s, DAY_S // 2)
            known = draw.randrange(event, world.now_s + 1, DAY_S // 4)
            taken.setdefault((draw.randrange(4), event, known), draw.randrange(100) / 4)
        again = draw.sample(sorted(taken), draw.randrange(len(taken) + 1))
        if again:
            world.take([(*row, taken[row]) for row in again])
        world.now_s += draw.choice([0, 1, DAY_S // 3])
        if not world.offline.external("bureau").served_parts():
            continue
        for key in range(5):
            asked.append((key, world.now_s))
            read.append(world.served(key))
    assert world.joined(asked) == read
    assert any(row["bureau_score"] is not None for row in read)


@pytest.mark.parametrize("kind", KINDS)
def test_before_a_view_was_served_its_rows_count_from_when_they_were_known(
    tmp_path: Path, kind: str
) -> None:
    world = World(tmp_path, kind)
    world.now_s = 5 * DAY_S
    world.take([(1, 0, 100, 1.0), (1, 0, 2 * DAY_S, 2.0), (1, DAY_S, 3 * DAY_S, 3.0)])
    asked = [
        (1, 99),
        (1, 100),
        (1, 2 * DAY_S),
        (1, 3 * DAY_S),
        (1, 11 * DAY_S),
        (1, 11 * DAY_S + 1),
    ]
    expected = [None, 1.0, 2.0, 3.0, 3.0, None]  # the last one is older than the ttl
    assert world.joined(asked) == [values(one) for one in expected]


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_that_came_later_than_it_was_known_is_read_by_nobody_before(
    tmp_path: Path, kind: str
) -> None:
    world = World(tmp_path, kind)
    world.now_s = 2 * DAY_S
    world.take([(1, 0, 0, 1.0)])
    world.now_s = 4 * DAY_S
    world.take([(1, DAY_S, DAY_S, 2.0)])
    asked = [(1, 2 * DAY_S - 1), (1, 2 * DAY_S), (1, 4 * DAY_S - 1), (1, 4 * DAY_S)]
    assert world.joined(asked) == [values(one) for one in (2.0, 1.0, 1.0, 2.0)]


@pytest.mark.parametrize("kind", KINDS)
def test_the_newest_row_of_a_view_is_known_for_every_moment(tmp_path: Path, kind: str) -> None:
    world = World(tmp_path, kind)
    parts = world.offline.external("bureau")
    at = np.array([(T_S + s) * 1000 for s in (-1, 0, DAY_S, 3 * DAY_S)])
    assert newest_ms(parts, at).tolist() == [NEVER_MS] * 4
    world.now_s = 2 * DAY_S
    world.take([(1, 0, 0, 1.0), (2, DAY_S, DAY_S, 1.0), (3, 0, 2 * DAY_S, 1.0)])
    expected = [NEVER_MS, T_S * 1000, (T_S + DAY_S) * 1000, (T_S + DAY_S) * 1000]
    assert newest_ms(parts, at).tolist() == expected


@pytest.mark.parametrize("name", ["limit", "order", "default", "end"])
def test_a_column_may_have_a_word_of_sql_as_its_name(tmp_path: Path, name: str) -> None:
    """A credit limit is `limit` in many a bank's tables."""
    view = replace(BUREAU, fields=(replace(BUREAU.fields[0], name=name),))
    check((view,))
    rows = table([(1, 0, 0, 7.0)]).rename_columns({"bureau_score": name})
    path, now_ms = tmp_path / "table.csv", (T_S + DAY_S) * 1000
    csv.write_csv(rows, path)
    columns = ExternalColumns.of(view, fraud_like(), KEY, now_ms)
    offline = OfflineTable(tmp_path / "offline", fraud_like())
    with closing(FeastSqlite(tmp_path / "online.db", "fraud", [view])) as online:
        import_table(columns, PlainFiles(path), offline.external("bureau"), online, lambda: now_ms)
    (key,) = columns.stored(rows.to_batches()[0], "", range(1)).column("customer_id").to_pylist()
    times = pa.array([(T_S + s) * 10**6 for s in (-1, 0, 2 * DAY_S)], TIME)
    events = pa.table({"event_time": times, "customer_id": [key] * 3})
    assert view_join(offline, [view], events).column(name).to_pylist() == [None, 7.0, 7.0]


def test_missing_and_stale_are_told_by_the_views_name(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.now_s = DAY_S
    world.take([(1, 0, 0, 7.0)])
    policies = FeaturePolicies([BUREAU], NAMES)
    for key, at_s, told in ((1, DAY_S, None), (2, DAY_S, "missing"), (1, 11 * DAY_S, "stale")):
        event_ms = (T_S + at_s) * 1000
        row = world.online.read({"customer": world.stored_key(key)}, event_ms)
        gaps = policies.gaps(row, event_ms, world.online.newest())
        assert (told is None and gaps.by_cause is None) or getattr(gaps.by_cause, told) == (
            "bureau",
        )


def test_a_key_that_is_a_text_is_stored_as_feast_does(tmp_path: Path) -> None:
    source = replace(BUREAU.external, key="string")
    view = replace(BUREAU, external=source)
    with closing(FeastSqlite(tmp_path / "online.db", "fraud", [view])) as store:
        rows = pa.table(
            {
                "customer_id": ["grün"],
                "event_timestamp": pa.array([T_S * 10**6], TIME),
                "created": pa.array([T_S * 10**6], TIME),
                "bureau_score": [1.5],
                "open_loans": [-(2**53)],
                "is_listed": [False],
            }
        )
        assert store.write("bureau", rows) == 1
        read = store.read({"customer": "grün"}, T_S * 1000).values
        assert read == {"bureau_score": 1.5, "open_loans": -(2.0**53), "is_listed": 0.0}
        assert store.read({"customer": "grun"}, T_S * 1000).values == dict.fromkeys(read)
