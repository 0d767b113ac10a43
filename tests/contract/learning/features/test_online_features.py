"""What every online store of features keeps to, and that Feast and we read each other's rows."""

from __future__ import annotations

import contextlib
import math
import random
import sqlite3
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlplatform.decisions.records.pseudonym import pseudonym
from mlplatform.learning.features.external.columns import ExternalColumns
from mlplatform.learning.features.external.files import PlainFiles
from mlplatform.learning.features.external.table_import import import_table, serve_missing
from mlplatform.learning.features.external_parts import ExternalParts
from mlplatform.learning.features.feast_redis import FeastRedis
from mlplatform.learning.features.feast_sqlite import FeastSqlite
from mlplatform.learning.features.online import OnlineFeatures, OnlineWriter
from mlplatform.model.features.views import FeatureView, load_views
from mlplatform.model.folders import model_folder
from mlplatform.runtime.errors import ConfigInvalid, Corrupt, NotFound, StaleFence, Unavailable
from mlplatform.runtime.units import DAY_MS, DAY_S
from support import feast_sdk
from support.external_world import BUREAU, T_S, fraud_like, table, written
from support.stopped_writer import stopped_writer

CUSTOMERS, TERMINALS = VIEWS = load_views(model_folder("fraud"))
T_MS = 20_000 * DAY_MS
TIME = pa.timestamp("us")


REDIS = pytest.param("redis", marks=pytest.mark.redis)


@pytest.fixture(params=["sqlite", REDIS])
def online(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OnlineFeatures]:
    store: OnlineFeatures
    if request.param == "redis":
        redis = request.getfixturevalue("redis")
        redis.empty()
        store = FeastRedis(redis.address, "fraud", VIEWS, answer_s=10)
    else:
        store = FeastSqlite(tmp_path / "online.db", "fraud", VIEWS)
    yield store
    store.close()


def rows(
    view: FeatureView,
    values: dict[int, float | None],
    *,
    at_ms: int = T_MS,
    created_ms: int | None = None,
) -> pa.Table:
    count = len(values)
    created = at_ms if created_ms is None else created_ms
    return pa.table(
        {
            view.join_key: pa.array(list(values), pa.int64()),
            "event_timestamp": pa.array([at_ms * 1000] * count, TIME),
            "created": pa.array([created * 1000] * count, TIME),
            **{n: pa.array(list(values.values()), pa.float64()) for n in view.feature_names},
        }
    )


def one(online: OnlineFeatures, key: int, event_ms: int = T_MS) -> float | None:
    return online.read({"customer": key}, event_ms).values["customer_count_1d"]


def test_what_is_written_is_read(online: OnlineFeatures) -> None:
    assert online.write("customer_stats", rows(CUSTOMERS, {1: 1.5, -(2**63): -0.0, 3: None})) == 3
    assert one(online, 1) == 1.5
    assert one(online, -(2**63)) == 0.0
    assert one(online, 3) is None
    assert online.read({"customer": 3}, T_MS).times["customer_stats"] == T_MS


def test_a_file_that_was_moved_away_is_not_served_and_one_that_took_its_place_is(
    tmp_path: Path,
) -> None:
    path = tmp_path / "online.db"

    def move(here: str, there: str) -> None:
        for suffix in ("", "-wal", "-shm"):  # a file without its log is another one
            with contextlib.suppress(FileNotFoundError):
                (tmp_path / f"{here}{suffix}").rename(tmp_path / f"{there}{suffix}")

    store = FeastSqlite(path, "fraud", VIEWS, follow_s=0)
    store.write("customer_stats", rows(CUSTOMERS, {1: 1.5}))
    move("online.db", "away.db")
    with pytest.raises(Unavailable, match="gone"):
        one(store, 1)
    with contextlib.closing(FeastSqlite(path, "fraud", VIEWS)) as other:
        other.write("customer_stats", rows(CUSTOMERS, {1: 2.5}))
    assert one(store, 1) == 2.5
    move("online.db", "other.db")
    move("away.db", "online.db")
    assert one(store, 1) == 1.5
    store.close()


@pytest.mark.parametrize("made_by_feast", [False, True])
def test_a_read_finds_all_in_one_place_also_where_feast_made_the_tables(
    tmp_path: Path, made_by_feast: bool
) -> None:
    path = tmp_path / "online.db"
    with contextlib.closing(sqlite3.connect(path if made_by_feast else ":memory:")) as db:
        db.execute(
            'CREATE TABLE "fraud_customer_stats" (entity_key BLOB, feature_name TEXT, value BLOB,'
            " value_text TEXT, vector_value BLOB, event_ts timestamp, created_ts timestamp,"
            " PRIMARY KEY(entity_key, feature_name))"
        )
    with contextlib.closing(FeastSqlite(path, "fraud", VIEWS)) as store:
        plan = store._db.execute(f"EXPLAIN QUERY PLAN {store._select}", [b"", b""]).fetchall()
        searches = [detail for *_, detail in plan if "SEARCH" in detail]
        ways = ["COVERING INDEX" in one or "PRIMARY KEY" in one for one in searches]
        assert ways == [True] * len(VIEWS), searches
        assert sum("COVERING INDEX" in one for one in searches) == made_by_feast


def test_a_value_has_no_text_of_another_value(tmp_path: Path) -> None:
    """Feast stores a value's text as well, for its search of documents, and we do not."""
    path, table = tmp_path / "online.db", '"fraud_customer_stats"'
    with contextlib.closing(FeastSqlite(path, "fraud", VIEWS)) as store:
        store.write("customer_stats", rows(CUSTOMERS, {1: 1.5}))
        with contextlib.closing(sqlite3.connect(path)) as feast, feast:
            feast.execute(f"UPDATE {table} SET value_text='1.5'")
        store.write("customer_stats", rows(CUSTOMERS, {1: 2.5}))
        assert one(store, 1) == 2.5
    with contextlib.closing(sqlite3.connect(path)) as db:
        texts = db.execute(f"SELECT DISTINCT value_text FROM {table}").fetchall()
    assert texts == [(None,)]


def test_a_store_says_that_a_stopped_writer_holds_up_its_readers(tmp_path: Path) -> None:
    path = tmp_path / "online.db"
    with (
        contextlib.closing(FeastSqlite(path, "fraud", VIEWS)) as store,
        contextlib.closing(FeastSqlite(path, "fraud", VIEWS)) as writer,
    ):
        writer.write("customer_stats", rows(CUSTOMERS, {1: 1.5}))
        assert not store.is_held_up()
        with stopped_writer(path):
            assert store.is_held_up()
        assert not store.is_held_up()
        assert one(store, 1) == 1.5


def test_every_feature_of_every_view_is_in_the_answer(online: OnlineFeatures) -> None:
    online.write("terminal_stats", rows(TERMINALS, {1: 2.0}))
    read = online.read({"customer": 1, "terminal": 1}, T_MS)
    assert list(read.values) == [f for v in VIEWS for f in v.feature_names]
    assert read.times == {"customer_stats": None, "terminal_stats": T_MS}
    assert read.values["terminal_risk_7d"] == 2.0
    assert read.values["customer_mean_7d"] is None


def test_a_key_that_is_not_asked_for_has_missing_features(online: OnlineFeatures) -> None:
    online.write("customer_stats", rows(CUSTOMERS, {1: 2.0}))
    assert set(online.read({}, T_MS).values.values()) == {None}


def test_nan_is_missing(online: OnlineFeatures) -> None:
    online.write("customer_stats", rows(CUSTOMERS, {1: math.nan}))
    assert one(online, 1) is None


def test_a_row_is_valid_for_its_ttl_the_bound_included(online: OnlineFeatures) -> None:
    online.write("customer_stats", rows(CUSTOMERS, {1: 2.0}))
    assert one(online, 1, T_MS + CUSTOMERS.ttl_ms) == 2.0
    assert one(online, 1, T_MS + CUSTOMERS.ttl_ms + 1) is None
    read = online.read({"customer": 1}, T_MS + CUSTOMERS.ttl_ms + 1)
    assert read.times["customer_stats"] is None


def test_an_older_row_never_replaces_a_newer_one(online: OnlineFeatures) -> None:
    online.write("customer_stats", rows(CUSTOMERS, {1: 2.0}))
    assert online.write("customer_stats", rows(CUSTOMERS, {1: 1.0}, at_ms=T_MS - 1000)) == 0
    assert one(online, 1) == 2.0


def test_of_rows_of_one_time_the_one_made_last_counts(online: OnlineFeatures) -> None:
    later = T_MS + DAY_MS
    online.write("customer_stats", rows(CUSTOMERS, {1: 2.0}, created_ms=later))
    assert online.write("customer_stats", rows(CUSTOMERS, {1: 1.0}, created_ms=T_MS)) == 0
    assert online.write("customer_stats", rows(CUSTOMERS, {1: 3.0}, created_ms=later)) == 1
    assert one(online, 1) == 3.0


def test_a_view_or_column_that_is_not_defined_is_refused(online: OnlineFeatures) -> None:
    with pytest.raises(NotFound, match="nobody"):
        online.write("nobody", rows(CUSTOMERS, {1: 2.0}))
    with pytest.raises(ConfigInvalid, match="customer_mean_7d"):
        online.write("customer_stats", rows(CUSTOMERS, {1: 2.0}).drop(["customer_mean_7d"]))


def test_a_batch_is_seen_whole_or_not_at_all(tmp_path: Path) -> None:
    store = FeastSqlite(tmp_path / "online.db", "fraud", VIEWS)
    broken = rows(CUSTOMERS, {1: 2.0, 2: 3.0})
    keys = pa.array([1, None], pa.int64())
    with pytest.raises(Exception, match="required argument is not an integer"):
        store.write("customer_stats", broken.set_column(0, "customer_id", keys))
    assert one(store, 1) is None
    store.close()


def test_a_reader_is_not_held_up_by_a_writer(tmp_path: Path) -> None:
    path = tmp_path / "online.db"
    store = FeastSqlite(path, "fraud", VIEWS)
    store.write("customer_stats", rows(CUSTOMERS, {1: 2.0}))
    with sqlite3.connect(path) as writer:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("DELETE FROM fraud_customer_stats")
        assert one(store, 1) == 2.0
        writer.rollback()
    store.close()


def test_a_value_that_is_no_double_is_corrupt(tmp_path: Path) -> None:
    path = tmp_path / "online.db"
    store = FeastSqlite(path, "fraud", VIEWS)
    store.write("customer_stats", rows(CUSTOMERS, {1: 2.0}))
    with sqlite3.connect(path) as other:
        other.execute("UPDATE fraud_customer_stats SET value = x'0801'")
    with pytest.raises(Corrupt, match="customer_count_1d"):
        one(store, 1)
    store.close()


# --- Feast's own SDK over the same file


def random_rows(view: FeatureView, count: int, seed: int) -> pa.Table:
    draw = random.Random(seed)
    table = rows(view, dict.fromkeys((draw.randrange(-(2**63), 2**63) for _ in range(count)), 0.0))
    for name in view.feature_names:
        values = [draw.choice([None, 0.0, draw.gauss(0, 1e6)]) for _ in range(count)]
        position = table.schema.get_field_index(name)
        table = table.set_column(position, name, pa.array(values, pa.float64()))
    return table


def sdk_read(store: Any, view: FeatureView, keys: list[int]) -> list[dict[str, float | None]]:
    answer = store.get_online_features(
        features=[f"{view.name}:{name}" for name in view.feature_names],
        entity_rows=[{view.join_key: key} for key in keys],
    ).to_dict()
    return [{n: answer[n][row] for n in view.feature_names} for row in range(len(keys))]


def our_read(store: OnlineFeatures, view: FeatureView, keys: list[int]) -> list[dict[str, Any]]:
    reads = [store.read({view.entity: key}, T_MS) for key in keys]
    return [{n: r.values[n] for n in view.feature_names} for r in reads]


Opener = Callable[[], OnlineFeatures]


@pytest.fixture(scope="module", params=["sqlite", REDIS])
def sdk(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Opener, Any]]:
    """How to open our store, and Feast's own over the same rows."""
    home = tmp_path_factory.mktemp("feast")
    for view in VIEWS:
        folder = home / "offline" / "fraud" / "snapshots" / view.name
        folder.mkdir(parents=True)
        pq.write_table(random_rows(view, 300, seed=1), folder / "2024-10-04.parquet")
    with contextlib.chdir(home):
        if request.param == "sqlite":
            path = home / "online.db"
            yield lambda: FeastSqlite(path, "fraud", VIEWS), feast_sdk.store(home, "fraud")
            return
        redis = request.getfixturevalue("redis")
        redis.empty()
        address = redis.address
        where = f"{address.host}:{address.port},password={address.password() or ''}"
        online = {"type": "redis", "redis_type": "redis", "connection_string": where}
        store = feast_sdk.store(home, "fraud", online)
        yield lambda: FeastRedis(address, "fraud", VIEWS, answer_s=10), store


@pytest.mark.slow
@pytest.mark.parametrize("view", VIEWS, ids=[v.name for v in VIEWS])
def test_feast_reads_what_we_write(sdk: tuple[Opener, Any], view: FeatureView) -> None:
    opener, store = sdk
    ours = opener()
    table = random_rows(view, 200, seed=2)
    ours.write(view.name, table)
    keys = table.column(view.join_key).to_pylist()
    expected = [{n: row[n] for n in view.feature_names} for row in table.to_pylist()]
    assert sdk_read(store, view, keys) == expected == our_read(ours, view, keys)
    ours.close()


@pytest.mark.slow
@pytest.mark.parametrize("view", VIEWS, ids=[v.name for v in VIEWS])
def test_we_read_what_feast_pushes(sdk: tuple[Opener, Any], view: FeatureView) -> None:
    opener, store = sdk
    table = random_rows(view, 200, seed=3)
    store.write_to_online_store(view.name, table.to_pandas())
    ours = opener()
    keys = table.column(view.join_key).to_pylist()
    expected = [{n: row[n] for n in view.feature_names} for row in table.to_pylist()]
    assert our_read(ours, view, keys) == expected
    ours.close()


@pytest.mark.slow
@pytest.mark.parametrize("view", VIEWS, ids=[v.name for v in VIEWS])
def test_we_read_what_feast_materializes(sdk: tuple[Opener, Any], view: FeatureView) -> None:
    opener, store = sdk
    table = random_rows(view, 300, seed=1)
    at = datetime.fromtimestamp(T_MS / 1000, UTC)
    store.materialize(at.replace(year=at.year - 1), at, feature_views=[view.name])
    ours = opener()
    keys = table.column(view.join_key).to_pylist()
    expected = [{n: row[n] for n in view.feature_names} for row in table.to_pylist()]
    assert our_read(ours, view, keys) == expected
    read = ours.read({view.entity: keys[0]}, T_MS)
    assert read.times[view.name] == T_MS
    ours.close()


@pytest.mark.slow
def test_of_two_writers_the_later_row_stays_whoever_wrote_it(sdk: tuple[Opener, Any]) -> None:
    opener, store = sdk
    ours = opener()
    older = rows(CUSTOMERS, {77: 1.0}, created_ms=T_MS + DAY_MS)
    newer = rows(CUSTOMERS, {77: 2.0}, at_ms=T_MS + 1000, created_ms=T_MS)
    newest = rows(CUSTOMERS, {77: 3.0}, at_ms=T_MS + 2000)
    ours.write(CUSTOMERS.name, older)
    store.write_to_online_store(CUSTOMERS.name, newer.to_pandas())
    assert ours.write(CUSTOMERS.name, older) == 0
    assert one(ours, 77) == 2.0
    assert ours.write(CUSTOMERS.name, newest) == 1
    assert one(ours, 77) == 3.0
    ours.close()


@pytest.mark.slow
def test_the_generated_definitions_are_those_of_feast(sdk: tuple[Opener, Any]) -> None:
    from mlplatform.learning.features.feast_repo import render, views

    assert views("fraud") == VIEWS
    assert render("fraud") == (model_folder("fraud") / "features.json").read_text()


def test_the_newest_row_of_each_view_is_known(online: OnlineFeatures) -> None:
    assert online.newest() == {"customer_stats": None, "terminal_stats": None}
    online.write("customer_stats", rows(CUSTOMERS, {1: 2.0}, at_ms=T_MS + DAY_MS))
    online.write("customer_stats", rows(CUSTOMERS, {2: 2.0}))
    online.write("terminal_stats", rows(TERMINALS, {}))
    assert online.newest() == {"customer_stats": T_MS + DAY_MS, "terminal_stats": None}


def test_a_mark_is_replaced_by_who_knows_it_and_no_row_makes_one(online: OnlineWriter) -> None:
    online.put("customer_stats", [(1, T_MS * 1000, T_MS * 1000, (1.0,) * len(CUSTOMERS.fields))])
    assert online.mark("customer_stats") is None
    assert not online.set_mark("customer_stats", "another", "a")
    assert online.set_mark("customer_stats", None, "a")
    assert not online.set_mark("customer_stats", None, "b")
    assert online.set_mark("customer_stats", "a", "b")
    assert (online.mark("customer_stats"), online.mark("terminal_stats")) == ("b", None)


@pytest.mark.redis
def test_a_server_that_was_emptied_and_pushed_to_has_the_table_again(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    redis, parts = request.getfixturevalue("redis"), ExternalParts(tmp_path / "external")
    redis.empty()
    path = written(tmp_path / "1.parquet", table([(1, 0, 10, 7.0)]))
    now_ms = (T_S + DAY_S) * 1000
    columns = ExternalColumns.of(BUREAU, fraud_like(), bytes(32), now_ms)
    with contextlib.closing(FeastRedis(redis.address, "fraud", [BUREAU], answer_s=10)) as store:
        import_table(columns, PlainFiles(path), parts, store, lambda: now_ms)
        assert serve_missing(BUREAU, parts, store, lambda: now_ms) == 0
        redis.empty()
        store.put("bureau", [(2, now_ms * 1000, now_ms * 1000, (1.0, 1.0, 1.0))])
        assert serve_missing(BUREAU, parts, store, lambda: now_ms) == 1
        assert serve_missing(BUREAU, parts, store, lambda: now_ms) == 0
        assert (
            store.read({"customer": pseudonym(1, bytes(32))}, now_ms).values["bureau_score"] == 7.0
        )


def test_the_newest_row_of_a_file_of_before_is_looked_for(tmp_path: Path) -> None:
    path = tmp_path / "online.db"
    with contextlib.closing(FeastSqlite(path, "fraud", VIEWS)) as store:
        store.write("customer_stats", rows(CUSTOMERS, {1: 2.0}))
        with contextlib.closing(sqlite3.connect(path)) as db, db:
            db.execute("DELETE FROM mlplatform_newest")
        assert store.newest() == {"customer_stats": T_MS, "terminal_stats": None}


def test_a_store_that_is_gone_says_so(tmp_path: Path) -> None:
    path = tmp_path / "online.db"
    with contextlib.closing(FeastSqlite(path, "fraud", VIEWS)) as store:
        path.unlink()
        with pytest.raises(Unavailable):
            store.newest()


def test_a_removal_fences_off_rows_that_were_read_before_it(online: OnlineWriter) -> None:
    """Of the view alone, also for entities of whom nothing was removed."""
    made = {1: 2.0, 2: 3.0}
    row = [(key, T_MS * 1000, T_MS * 1000, (v,) * len(CUSTOMERS.fields)) for key, v in made.items()]
    before = {name: online.fence(name) for name in ("customer_stats", "terminal_stats")}
    assert online.put("customer_stats", row, fence=before["customer_stats"]) == 2
    assert online.fence("customer_stats") == before["customer_stats"]
    for _ in range(2):
        online.remove("customer_stats", [1])
        assert online.fence("customer_stats") != before["customer_stats"]
        with pytest.raises(StaleFence, match="rows of customer_stats were erased"):
            online.put("customer_stats", row, fence=before["customer_stats"])
        assert online.read({"customer": 1}, T_MS).times["customer_stats"] is None
    assert online.fence("terminal_stats") == before["terminal_stats"]
    assert online.put("customer_stats", row[:1], fence=online.fence("customer_stats")) == 1
    online.remove("customer_stats", [2])
    assert online.put("customer_stats", row) == 2  # of a caller for whom nothing can be erased


def test_a_row_that_is_removed_is_missing_and_all_others_are_there(online: OnlineWriter) -> None:
    """Of the view alone; a row that comes later is read, older ones too."""
    online.write("customer_stats", rows(CUSTOMERS, {1: 1.0, 2: 2.0}))
    online.write("terminal_stats", rows(TERMINALS, {1: 3.0}))
    assert online.remove("customer_stats", [1, 7]) == 1
    assert online.remove("customer_stats", [1]) == 0
    read = online.read({"customer": 1, "terminal": 1}, T_MS)
    assert read.times == {"customer_stats": None, "terminal_stats": T_MS}
    assert not read.stale
    assert (read.values["customer_count_1d"], one(online, 2)) == (None, 2.0)
    online.write("customer_stats", rows(CUSTOMERS, {1: 4.0}, at_ms=T_MS - DAY_MS))
    assert one(online, 1) == 4.0
