"""State of an earlier release is taken forward where it lies; a newer one's is left as it is."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlplatform.decisions.log.sealed_form import whole
from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.decisions.records.record import STORED
from mlplatform.decisions.records.tables import unsealed_rows
from mlplatform.decisions.topics.local import LocalTopics
from mlplatform.learning.features.feast_sqlite import FeastSqlite
from mlplatform.learning.features.pushes.sqlite import SqlitePushes
from mlplatform.model.features.views import load_views
from mlplatform.model.folders import model_folder
from mlplatform.operations.backup.schemas import EMBEDDED
from mlplatform.rollouts.drift.sqlite import SqliteIncidents
from mlplatform.rollouts.events.sqlite import SqlitePositions
from mlplatform.rollouts.journal.sqlite import SqliteRollouts
from mlplatform.runtime.configuration.settings import Home
from mlplatform.runtime.errors import Refused
from mlplatform.runtime.storage.sql import Schema
from mlplatform.runtime.storage.sqlite import SqliteDatabase, connect
from mlplatform.scoring.admission.sqlite import SqliteAdmission
from support import earlier_state
from support.home_world import CLIENT, MODEL, WRITER, HomeWorld

VERSIONS = {schema.part: schema.version for schema in EMBEDDED}


def online(home: Home) -> FeastSqlite:
    return FeastSqlite(home.online_db, MODEL, load_views(model_folder(MODEL)))


OPEN: dict[str, tuple[Callable[[Home], Any], Callable[[Home], Path]]] = {
    "decisions": (
        lambda home: SqliteDecisionLog(home.decisions),
        lambda home: home.decisions / "decisions.db",
    ),
    "rollouts": (lambda home: SqliteRollouts(home.rollouts_db), lambda home: home.rollouts_db),
    "incidents": (lambda home: SqliteIncidents(home.rollouts_db), lambda home: home.rollouts_db),
    "outbox": (lambda home: SqlitePositions(home.rollouts_db), lambda home: home.rollouts_db),
    "admission": (lambda home: SqliteAdmission(home.admission_db), lambda home: home.admission_db),
    "topics": (lambda home: LocalTopics(home.topics_db), lambda home: home.topics_db),
    "pushes": (
        lambda home: SqlitePushes(home.pushes_db, durable=False),
        lambda home: home.pushes_db,
    ),
    "online": (online, lambda home: home.online_db),
}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def tables(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    """The columns of every table, and what else there is."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        found = db.execute("SELECT type, name FROM sqlite_schema ORDER BY name").fetchall()
        return {
            name: db.execute(f'PRAGMA table_xinfo("{name}")').fetchall() if kind == "table" else []
            for kind, name in found
        }


def unversioned(path: Path) -> None:
    """As the commit before versions left it: the same tables, and nothing that counts them."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("DROP TABLE schema_versions")


def moved(old: Path, new: Path, *names: str) -> None:
    """Fill the tables of an earlier database with the rows of one of now."""
    with contextlib.closing(sqlite3.connect(old, isolation_level=None)) as db:
        db.execute("ATTACH ? AS now", (str(new),))
        for name in names:
            db.execute(f"INSERT OR REPLACE INTO {name} SELECT * FROM now.{name}")


def stored_rows(database: Path, writer: str) -> list[tuple[Any, ...]]:
    """A writer's unsealed records with every column, as earlier releases stored them."""
    with contextlib.closing(sqlite3.connect(database)) as db:
        return [whole(row) for row in unsealed_rows(db, writer, after=0)]


def test_every_part_is_in_the_list_of_what_this_release_knows() -> None:
    assert set(OPEN) == set(VERSIONS)


@pytest.mark.parametrize("part", OPEN)
def test_a_new_store_says_its_version(part: str, home: Home) -> None:
    opened, path = OPEN[part]
    opened(home)
    assert earlier_state.version(path(home), part) == VERSIONS[part]


@pytest.mark.parametrize("part", OPEN)
def test_a_store_of_before_there_were_versions_is_adopted(part: str, home: Home) -> None:
    opened, path = OPEN[part]
    opened(home)
    before = tables(path(home))
    unversioned(path(home))
    opened(home)
    assert tables(path(home)) == before
    assert earlier_state.version(path(home), part) == VERSIONS[part]


@pytest.mark.parametrize("part", OPEN)
def test_a_newer_release_s_store_is_refused_and_stays_as_it_is(part: str, home: Home) -> None:
    opened, path = OPEN[part]
    opened(home)
    earlier_state.become_newer(path(home), part)
    newer = VERSIONS[part] + 1
    message = rf"{part} is at schema version {newer}, this release knows {newer - 1}"
    with pytest.raises(Refused, match=message) as refused:
        opened(home)
    assert path(home).name in str(refused.value)
    assert earlier_state.version(path(home), part) == newer


@pytest.mark.parametrize(
    "scripts",
    [(earlier_state.RECORDS,), (earlier_state.RECORDS, earlier_state.SPILLS)],
    ids=["1bc2605", "ebd8cb6"],
)
def test_an_earlier_decision_log_is_whole_and_is_written_on(
    scripts: tuple[str, ...], home: Home, tmp_path: Path
) -> None:
    world = HomeWorld(tmp_path / "now")
    world.decide(3)
    world.close()
    old = home.decisions / "decisions.db"
    earlier_state.write(old, *scripts)
    moved(old, world.home.decisions / "decisions.db", "writers")
    rows = stored_rows(world.home.decisions / "decisions.db", WRITER)
    with contextlib.closing(sqlite3.connect(old)) as db, db:
        db.executemany(f"INSERT INTO records VALUES ({','.join('?' * len(STORED))})", rows)
    earlier_state.keep(old, CLIENT, MODEL, *(f"d{number}" for number in (1, 2, 3)))
    again = HomeWorld(home.root)
    again.number = world.number
    found = again.log.find(CLIENT, MODEL, "d2")
    assert found is not None
    assert found.answer == b"answer to d2"
    again.decide(2)
    again.spill(1)
    report = again.log.verify()
    assert (report.records, report.findings, report.spilled) == (5, (), 1)
    assert again.log.watermarks()[0].writer == WRITER
    again.log.seal()
    again.close()
    (keys,) = {name for name in tables(old) if name.startswith("keys_")}
    earlier_state.write(old, f"DROP TABLE {keys}")
    fresh = SqliteDecisionLog(tmp_path / "fresh")
    fresh.close()
    assert tables(old) == tables(tmp_path / "fresh" / "decisions.db")


def test_an_earlier_journal_keeps_routes_and_rollouts_and_takes_incidents(
    home: Home, tmp_path: Path
) -> None:
    world = HomeWorld(tmp_path / "now")
    world.promote(1)
    before = world.rollouts.routes(MODEL), world.rollouts.active(finished=True)
    world.close()
    earlier_state.write(home.rollouts_db, earlier_state.JOURNAL)
    parts = ("journal", "rollouts", "routes", "passes", "gateways")
    moved(home.rollouts_db, world.home.rollouts_db, *parts)
    again = HomeWorld(home.root)
    assert (again.rollouts.routes(MODEL), again.rollouts.active(finished=True)) == before
    assert again.promote(2).generation == 2
    assert again.rollouts.verify() == ()
    again.close()
    SqliteIncidents(home.rollouts_db)
    for part in ("rollouts", "incidents"):
        assert earlier_state.version(home.rollouts_db, part) == VERSIONS[part]


def test_earlier_keys_still_open_the_door(home: Home, tmp_path: Path) -> None:
    world = HomeWorld(tmp_path / "now")
    world.fill()
    world.close()
    earlier_state.write(home.admission_db, earlier_state.KEYS)
    moved(home.admission_db, world.home.admission_db, "keys", "keys_version", "buckets")
    with contextlib.closing(SqliteAdmission(home.admission_db)) as admission:
        (key,) = admission.all_keys()
        assert key.client == CLIENT
        assert admission.version() == 1
        assert [key.id for key in admission.revoke(CLIENT, 5)] == [key.id]


def test_many_processes_may_open_an_earlier_store_at_once(home: Home) -> None:
    path = home.decisions / "decisions.db"
    earlier_state.write(path, earlier_state.RECORDS)
    failures: list[BaseException] = []

    def opened() -> None:
        try:
            SqliteDecisionLog(home.decisions).close()
        except BaseException as error:  # noqa: BLE001 -- shown by the test
            failures.append(error)

    threads = [threading.Thread(target=opened) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert earlier_state.version(path, "decisions") == VERSIONS["decisions"]


def test_steps_that_fail_on_the_way_leave_the_version_and_the_tables_of_before(
    tmp_path: Path,
) -> None:
    path = tmp_path / "part.db"
    first = Schema("part", (("CREATE TABLE a (x)",),))
    SqliteDatabase(path, first).close()
    before = tables(path)
    second = Schema("part", (*first.steps, ("CREATE TABLE b (x)",), ("CREATE TABLE c (",)))
    with pytest.raises(sqlite3.OperationalError):
        SqliteDatabase(path, second)
    assert tables(path) == before
    assert earlier_state.version(path, "part") == 1
    SqliteDatabase(path, Schema("part", second.steps[:2])).close()
    assert set(tables(path)) >= {"a", "b"}
    with pytest.raises(Refused, match="knows 1"):
        connect(path, schema=first)


def test_the_columns_of_records_are_those_that_are_written(home: Home) -> None:
    SqliteDecisionLog(home.decisions).close()
    with contextlib.closing(sqlite3.connect(home.decisions / "decisions.db")) as db:
        columns = {column[1] for column in db.execute("PRAGMA table_xinfo(unsealed)")}
    assert columns >= {*STORED}
