"""An entity's rows are gone from every store, and all else is as if they had never been."""

from __future__ import annotations

import itertools
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from tests.support.external_world import BUREAU, fraud_like, table, written
from tests.unit.learning.features.external.test_external_join import KEY, values
from tests.unit.learning.features.pushes.test_pushed_features import (
    MODEL,
    DyingProcess,
    Killed,
    PushWorld,
)

from mlplatform.learning.features.external import compaction
from mlplatform.learning.features.external.columns import ExternalColumns
from mlplatform.learning.features.external.compaction import compact
from mlplatform.learning.features.external.files import PlainFiles
from mlplatform.learning.features.external.table_import import import_table, serve_missing
from mlplatform.learning.features.external_parts import ExternalParts
from mlplatform.learning.features.feast_sqlite import FeastSqlite
from mlplatform.learning.features.pushes import erasure
from mlplatform.learning.features.pushes.erasure import (
    RowCounts,
    ViewStores,
    erase_rows,
    known_keys,
    rows_of,
)
from mlplatform.learning.features.pushes.serving import serve
from mlplatform.runtime.errors import Unavailable
from mlplatform.runtime.units import DAY_S

ERASED, OTHER = 1, 2
LEAST_STEPS = 11
"""Calls of stores, and renames, of an act that ends."""
SCORE = 481516.25
"""No other number of the test has its bytes."""


def filled(folder: Path, *, without: bool = False) -> PushWorld:
    """Rows of two entities in a merged part, those that it replaced, parts of imports and pushes,
    one whose import was killed before it was served, and the journal, served and not."""
    world = PushWorld(folder)

    def both(rows: list[Any]) -> list[Any]:
        return [row for row in rows if not without or row[0] != ERASED]

    for day in range(3):
        world.now_s, world.now_ms = day * DAY_S, day * DAY_S * 1000
        rows = [(key, day * DAY_S, day * DAY_S, SCORE + key) for key in (ERASED, OTHER)]
        world.take(both(rows))
    compact(BUREAU, parts_of(world), horizon_ms=None)
    world.now_ms += 60_000
    world.push(both([(ERASED, 3 * DAY_S // 2, SCORE), (OTHER, 3 * DAY_S // 2, 3.0)]), "a")
    world.project()
    world.now_s, world.now_ms = 3 * DAY_S, 3 * DAY_S * 1000
    world.take(both([(ERASED, DAY_S, 3 * DAY_S, SCORE), (OTHER, DAY_S, 3 * DAY_S, 5.0)]))
    parts_of(world).every()[-1].with_suffix(".json").unlink()
    world.now_ms += 60_000
    world.push(both([(ERASED, 2 * DAY_S, SCORE), (OTHER, 2 * DAY_S, 7.0)]), "b")
    world.push(both([(ERASED, 2 * DAY_S, SCORE), (OTHER, 2 * DAY_S, 8.0)]))
    push = world.push_of(both([(ERASED, 2 * DAY_S, SCORE + 1), (OTHER, 2 * DAY_S, 9.0)]))
    world.journal.add([push], world.clock_ms())  # and then it died
    return world


def parts_of(world: PushWorld) -> ExternalParts:
    return world.offline.external("bureau")


def stores_of(world: PushWorld, online: Any = None, journal: Any = None) -> ViewStores:
    return ViewStores(
        MODEL, BUREAU, journal or world.journal, parts_of(world), online or world.online
    )


def dying(dies_at: int) -> Iterator[bool]:
    return (n == dies_at for n in itertools.count())


@pytest.fixture(autouse=True)
def merged_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "MOST_SMALL", 2)
    monkeypatch.setattr(erasure, "GIVEN_S", 0.0)


def settled(world: PushWorld) -> tuple[list[Any], list[Any]]:
    """What training joins and serving reads once all is taken, at many moments."""
    world.now_ms += 3_600_000
    serve_missing(BUREAU, parts_of(world), world.online, world.clock_ms)
    world.project()
    asked = [
        (key, at_ms) for key in (ERASED, OTHER) for at_ms in range(0, world.now_ms + 1, DAY_S * 250)
    ]
    return world.joined_ms(asked), [world.served_now(key) for key in (ERASED, OTHER)]


@pytest.mark.parametrize("dies_at", range(16))
def test_training_is_as_if_the_entity_had_never_been_wherever_the_act_is_killed(
    tmp_path: Path, dies_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, never = filled(tmp_path / "world"), filled(tmp_path / "never", without=True)
    keys, steps = {world.stored_key(ERASED)}, dying(dies_at)
    real = erasure.os.rename

    def rename(*paths: Any) -> None:
        if next(steps):
            raise Killed
        real(*paths)

    with monkeypatch.context() as patch, suppress(Killed):
        patch.setattr(erasure.os, "rename", rename)
        online, journal = DyingProcess(world.online, steps), DyingProcess(world.journal, steps)
        erase_rows(stores_of(world, online, journal), keys, world.clock_ms)
        assert dies_at >= LEAST_STEPS
    erase_rows(stores_of(world), keys, world.clock_ms)
    assert rows_of(stores_of(world), keys, world.clock_ms()) == RowCounts()
    assert erase_rows(stores_of(world), keys, world.clock_ms) == RowCounts()
    joined, served = settled(world)
    assert (joined, served) == settled(never)
    assert served == [values(None), values(9.0)]
    assert not any(ERASED_BYTES in path.read_bytes() for path in files(tmp_path / "world"))


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and path.name != "table.csv"]


ERASED_BYTES = str(SCORE).encode()


def test_each_place_is_counted_and_other_rows_keep_their_place(tmp_path: Path) -> None:
    world = filled(tmp_path)
    key = world.stored_key(ERASED)
    there = RowCounts(journal=3, table=3 + 3 + 1 + 1, online=1)
    assert rows_of(stores_of(world), {key}, world.clock_ms()) == there
    notes, others = parts_of(world).parts_and_notes(), other_rows(world)
    assert erase_rows(stores_of(world), {key}, world.clock_ms) == there
    assert parts_of(world).parts_and_notes() == notes
    assert other_rows(world) == others
    assert known_keys(stores_of(world), lambda _: True) == {world.stored_key(OTHER)}


def other_rows(world: PushWorld) -> list[Any]:
    key = world.stored_key(OTHER)
    return [
        row
        for path in parts_of(world).files()
        for row in pq.read_table(path).to_pylist()
        if row["customer_id"] == key
    ]


def test_a_push_that_is_sent_again_brings_nothing_back(tmp_path: Path) -> None:
    world = filled(tmp_path)
    erase_rows(stores_of(world), {world.stored_key(ERASED)}, world.clock_ms)
    rows = [(ERASED, 2 * DAY_S, SCORE), (OTHER, 2 * DAY_S, 7.0)]
    (again,) = world.journal.add([world.push_of(rows, "b")], world.clock_ms())
    assert (again.is_new, again.served_ms is None) == (False, False)
    assert world.served_now(ERASED) == values(None)


def with_unserved(folder: Path) -> PushWorld:
    """A journal with a push of both that an outage of the online store left."""
    world = PushWorld(folder)
    push = world.push_of([(ERASED, 0, SCORE), (OTHER, 0, 2.0)])
    world.journal.add([push], world.clock_ms())
    return world


def test_a_gateway_with_an_old_page_of_the_journal_brings_nothing_back(tmp_path: Path) -> None:
    world = with_unserved(tmp_path)
    page = world.journal.waiting(MODEL, "bureau", most=9, unserved=True)
    erase_rows(stores_of(world), {world.stored_key(ERASED)}, world.clock_ms)
    for kept in page:
        served = serve(world.journal, BUREAU, kept, world.online, world.clock_ms)
        assert [row.key for row in served.push.rows] == [world.stored_key(OTHER)]
    assert (world.served_now(ERASED), world.served_now(OTHER)) == (values(None), values(2.0))
    world.project()
    (gone,) = page
    served = serve(world.journal, BUREAU, gone, world.online, world.clock_ms)
    assert (served.push.rows, world.served_now(ERASED)) == ((), values(None))


class SlowStore:
    """A gateway's online store: its first rows are there after the event alone."""

    def __init__(self, real: FeastSqlite, until: threading.Event) -> None:
        self._real, self._until, self.putting = real, until, threading.Event()

    def put(self, *rows: Any, **fence: Any) -> int:
        self.putting.set()
        assert self._until.wait(9.0)
        return self._real.put(*rows, **fence)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


class SlowRead:
    """A gateway's journal: what it has read comes after the event alone."""

    def __init__(self, real: Any, until: threading.Event) -> None:
        self._real, self._until, self.putting = real, until, threading.Event()

    def waiting(self, *of: Any, **named: Any) -> Any:
        found = self._real.waiting(*of, **named)
        self.putting.set()
        assert self._until.wait(9.0)
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


@pytest.mark.parametrize("slow", ["store", "journal"])
@pytest.mark.parametrize("times", [1, 2])
def test_a_gateway_that_puts_the_row_long_after_the_act_brings_nothing_back(
    tmp_path: Path, slow: str, times: int
) -> None:
    world, ended = with_unserved(tmp_path), threading.Event()
    (kept,) = world.journal.waiting(MODEL, "bureau", most=9, unserved=True)
    store: Any = FeastSqlite(tmp_path / "online.db", "fraud", [BUREAU])
    journal: Any = world.journal
    if slow == "store":
        held = store = SlowStore(store, ended)
    else:
        held = journal = SlowRead(journal, ended)
    gateway = threading.Thread(target=serve, args=(journal, BUREAU, kept, store, world.clock_ms))
    gateway.start()
    assert held.putting.wait(9.0)
    for _ in range(times):
        erase_rows(stores_of(world), {world.stored_key(ERASED)}, world.clock_ms)
    ended.set()
    gateway.join()
    assert (world.served_now(ERASED), world.served_now(OTHER)) == (values(None), values(2.0))
    assert world.journal.waiting(MODEL, "bureau", most=9, unserved=True) == []


def test_rows_of_others_that_an_act_kept_from_being_put_are_put_after_it(tmp_path: Path) -> None:
    """A push of the other alone, which the act neither serves nor changes."""
    world, ended = PushWorld(tmp_path), threading.Event()
    world.push([(ERASED, 0, SCORE)])
    world.journal.add([world.push_of([(OTHER, 0, 2.0)])], world.clock_ms())
    (kept,) = world.journal.waiting(MODEL, "bureau", most=9, unserved=True)
    store: Any = SlowStore(FeastSqlite(tmp_path / "online.db", "fraud", [BUREAU]), ended)
    gateway = threading.Thread(
        target=serve, args=(world.journal, BUREAU, kept, store, world.clock_ms)
    )
    gateway.start()
    assert store.putting.wait(9.0)
    erase_rows(stores_of(world), {world.stored_key(ERASED)}, world.clock_ms)
    ended.set()
    gateway.join()
    assert (world.served_now(ERASED), world.served_now(OTHER)) == (values(None), values(2.0))
    assert world.journal.waiting(MODEL, "bureau", most=9, unserved=True) == []


def test_acts_without_end_leave_a_push_for_the_next_call(tmp_path: Path) -> None:
    world = with_unserved(tmp_path)
    (kept,) = world.journal.waiting(MODEL, "bureau", most=9, unserved=True)

    class EverErasedStore:
        """The online store, which is erased from before each put."""

        def put(self, *rows: Any, **fence: Any) -> int:
            world.online.remove("bureau", {world.stored_key(ERASED)})
            return world.online.put(*rows, **fence)

        def __getattr__(self, name: str) -> Any:
            return getattr(world.online, name)

    store: Any = EverErasedStore()
    with pytest.raises(Unavailable, match="rows of bureau are being erased; call again"):
        serve(world.journal, BUREAU, kept, store, world.clock_ms)
    assert serve(world.journal, BUREAU, kept, world.online, world.clock_ms).served_ms is not None


@pytest.mark.parametrize("world_of", [filled, with_unserved])
def test_a_locked_online_store_is_unavailable_and_the_next_call_does_the_rest(
    tmp_path: Path, world_of: Callable[[Path], PushWorld]
) -> None:
    world = world_of(tmp_path)
    keys, file = {world.stored_key(ERASED)}, tmp_path / "online.db"
    store = FeastSqlite(file, "fraud", [BUREAU], busy_timeout_ms=0)
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable, match=r"online\.db: database is locked"):
            store.remove("bureau", keys)
        with pytest.raises(Unavailable, match=r"online\.db: database is locked"):
            erase_rows(stores_of(world, store), keys, world.clock_ms)
    erase_rows(stores_of(world, store), keys, world.clock_ms)
    assert rows_of(stores_of(world), keys, world.clock_ms()) == RowCounts()


def test_first_rows_of_an_import_at_work_are_found_by_their_keys(tmp_path: Path) -> None:
    world, importing = PushWorld(tmp_path), threading.Event()
    source = written(tmp_path / "table.parquet", table([(ERASED, 0, 0, SCORE)]))
    columns = ExternalColumns.of(BUREAU, fraud_like(), KEY, world.clock_ms())
    online = FeastSqlite(tmp_path / "online.db", "fraud", [BUREAU])

    def slow(_: str) -> None:
        importing.set()
        time.sleep(0.2)

    importer = threading.Thread(
        target=import_table,
        args=(columns, PlainFiles(source), parts_of(world), online, world.clock_ms, slow),
    )
    importer.start()
    assert importing.wait(9.0)
    key = world.stored_key(ERASED)
    recorded: list[bool] = []

    def record() -> None:
        recorded.append(parts_of(world).files() != [] and world.served_now(ERASED) != values(None))

    erased = erase_rows(stores_of(world), lambda found: found == key, world.clock_ms, record)
    importer.join()
    assert recorded == [True]
    assert erased == RowCounts(table=1, online=1)
    assert erase_rows(stores_of(world), lambda _: True, world.clock_ms, record) == RowCounts()
    assert recorded == [True]


class RemovingParts(ExternalParts):
    """Parts of which those that were replaced go right after they are listed."""

    def files(self) -> list[Path]:
        found = super().files()
        self.removed = ExternalParts(self.folder).remove_replaced(float("inf"))
        return found


def test_a_part_that_is_removed_meanwhile_is_not_missed(tmp_path: Path) -> None:
    both, table_rows = filled(tmp_path / "keys"), filled(tmp_path / "rows")
    keys = {both.stored_key(key) for key in (ERASED, OTHER)}
    removing = RemovingParts(parts_of(both).folder)
    assert known_keys(replace(stores_of(both), parts=removing), lambda _: True) == keys
    assert removing.removed
    removing = RemovingParts(parts_of(table_rows).folder)
    stores = replace(stores_of(table_rows), parts=removing)
    merged_and_later = 3 + 1 + 1
    assert rows_of(stores, {both.stored_key(ERASED)}, 0).table == merged_and_later
    assert removing.removed


def test_an_entity_whose_rows_are_all_of_a_push_leaves_an_empty_one(tmp_path: Path) -> None:
    world = PushWorld(tmp_path)
    world.push([(ERASED, 0, SCORE)])
    erase_rows(stores_of(world), {world.stored_key(ERASED)}, world.clock_ms)
    assert world.project() == 0
    assert world.journal.waiting(MODEL, "bureau", most=9) == []
    world.now_ms += 1
    world.push([(OTHER, 0, 2.0)])
    assert world.project() == 1
    assert world.joined_ms([(ERASED, 5_000), (OTHER, 5_000)]) == [values(None), values(2.0)]


def test_a_store_that_was_lost_gets_everybody_else_back(tmp_path: Path) -> None:
    world = filled(tmp_path)
    erase_rows(stores_of(world), {world.stored_key(ERASED)}, world.clock_ms)
    (tmp_path / "online.db").unlink()
    world.online = FeastSqlite(tmp_path / "online.db", "fraud", [BUREAU])
    serve_missing(BUREAU, parts_of(world), world.online, world.clock_ms)
    assert world.served_now(ERASED) == values(None)
    assert world.served_now(OTHER) == values(SCORE + OTHER)


def test_the_search_of_bytes_finds_what_is_not_erased(tmp_path: Path) -> None:
    filled(tmp_path)
    assert any(ERASED_BYTES in path.read_bytes() for path in files(tmp_path))
