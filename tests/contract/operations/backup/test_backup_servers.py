"""What servers keep is part of the same moment, and goes back into empty servers only."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mlplatform.operations.backup import servers
from mlplatform.operations.backup import snapshot as snapshots
from mlplatform.operations.backup.manifest import Manifest
from mlplatform.operations.backup.restore import check, restore
from mlplatform.operations.backup.take import back_up
from mlplatform.rollouts.drift.postgres import PostgresIncidents
from mlplatform.rollouts.journal.postgres import PostgresRollouts
from mlplatform.runtime.configuration.settings import Settings, load
from mlplatform.runtime.errors import NotFound, Refused, Unavailable
from mlplatform.runtime.storage import addresses
from mlplatform.runtime.storage.addresses import Address
from mlplatform.runtime.storage.objects import Objects
from mlplatform.scoring.admission.clients import parse_scope
from mlplatform.scoring.admission.keyring import create_key
from mlplatform.scoring.admission.postgres import PostgresKeys
from support.home_world import MODEL, HomeWorld

pytestmark = [pytest.mark.postgres, pytest.mark.s3]

BUNDLE = "1/run/artifacts/bundle/bundle.json"


@dataclass
class Installation:
    """A home folder, and what its servers keep of it."""

    settings: Settings
    postgres: Address
    mlflow: Address
    s3: Any
    bucket: str
    prefix: str

    def run(self, statement: str) -> list[list[object]]:
        """A statement on MLflow's database."""
        with servers.hold_database(self.mlflow) as database:
            return [list(row) for row in database.rows(statement)]

    def objects(self) -> dict[str, bytes]:
        found = Objects(self.settings.mlflow_artifacts)
        contents = {}
        for name in found.names():
            with found.open(name) as file:
                contents[name] = file.read()
        return contents


@pytest.fixture(scope="module")
def bucket(s3: Any) -> str:
    """One for all tests: each takes its server room of its own."""
    return str(s3.bucket())


@pytest.fixture
def install(
    postgres: Any, s3: Any, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], Installation]]:
    """An installation on servers that are empty."""
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    made: list[Address] = []

    def install(name: str) -> Installation:
        ours, mlflows = postgres.database(), postgres.database()
        made.extend((ours, mlflows))
        prefix = f"{uuid.uuid4().hex}/mlflow"
        variables = {
            "MLPLATFORM_HOME": str(tmp_path / name),
            **addresses.variables("MLPLATFORM_POSTGRES", ours),
            **addresses.variables("MLPLATFORM_MLFLOW_POSTGRES", mlflows),
            "MLPLATFORM_MLFLOW_ARTIFACTS": f"s3://{bucket}/{prefix}",
        }
        return Installation(load(variables), ours, mlflows, s3, bucket, prefix)

    yield install
    for address in made:
        postgres.drop(address)


@pytest.fixture
def here(install: Callable[[str], Installation], postgres: Any) -> Iterator[Installation]:
    """One with a promoted version, a key, and a registry."""
    here = install("home")
    world = HomeWorld(here.settings.home.root, PostgresRollouts(here.postgres))
    world.fill()
    with contextlib.closing(PostgresKeys(here.postgres)) as keys:
        scopes = frozenset({parse_scope("fraud:score")})
        create_key(keys, "shop", scopes, priority="standard", limit=None, now_ms=1)
    PostgresIncidents(here.postgres)
    postgres.run("CREATE TABLE alembic_version (version_num TEXT)", here.mlflow)
    postgres.run("INSERT INTO alembic_version VALUES ('abc')", here.mlflow)
    postgres.run("CREATE TABLE runs (run_uuid TEXT)", here.mlflow)
    postgres.run("INSERT INTO runs VALUES ('one')", here.mlflow)
    here.s3.client().put_object(Bucket=here.bucket, Key=f"{here.prefix}/{BUNDLE}", Body=b"{}")
    here.s3.client().put_object(
        Bucket=here.bucket, Key=f"{here.prefix}-elsewhere/file", Body=b"not ours"
    )
    yield here
    world.close()


def taken(here: Installation, target: Path) -> Manifest:
    return back_up(here.settings, target, now_ms=7)


@pytest.mark.parametrize("name", ["backup", "backup.tar"])
def test_servers_come_back_with_the_home_folder(
    here: Installation, install: Callable[[str], Installation], tmp_path: Path, name: str
) -> None:
    manifest = taken(here, tmp_path / name)
    assert manifest.schemas[servers.PLATFORM] == {"incidents": 2, "keys": 1, "rollouts": 2}
    assert manifest.schemas[servers.MLFLOW] == {"alembic": "abc"}
    assert check(tmp_path / name).findings == ()
    there = install("restored")
    done = restore(tmp_path / name, there.settings, now_ms=7)
    assert done.findings == ()
    assert done.contents is not None
    assert done.contents.champions == {MODEL: 1}
    assert done.contents.keys == 1
    before, after = PostgresRollouts(here.postgres), PostgresRollouts(there.postgres)
    assert after.routes(MODEL) == before.routes(MODEL)
    assert after.active(finished=True) == before.active(finished=True)
    assert after.verify() == ()
    assert there.run("SELECT run_uuid FROM runs") == [["one"]]
    assert there.objects() == {BUNDLE: b"{}"}
    assert not (there.settings.home.root / servers.FOLDER).exists()
    again = HomeWorld(there.settings.home.root, after)
    assert again.promote(2).generation == 2
    again.close()
    before.close()
    with contextlib.closing(PostgresKeys(there.postgres)) as keys:
        create_key(
            keys,
            "other",
            frozenset({parse_scope("fraud:score")}),
            priority="standard",
            limit=None,
            now_ms=2,
        )
        assert len(keys.all_keys()) == 2


def test_a_promotion_on_the_server_while_the_log_is_looked_at_is_seen(
    here: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opens, real = [], snapshots.database_snapshot
    world = HomeWorld(here.settings.home.root, PostgresRollouts(here.postgres))
    world.number = 100

    def promoted_in_between(path: Path) -> Any:
        if path.name == "decisions.db" and not opens:
            opens.append(path)
            world.promote(2)
            world.decide(1)
        return real(path)

    monkeypatch.setattr(snapshots, "database_snapshot", promoted_in_between)
    manifest = taken(here, tmp_path / "backup")
    world.close()
    assert manifest.journal is not None
    assert manifest.journal.generations == {MODEL: 2}


def test_what_is_not_empty_is_not_touched(
    here: Installation, install: Callable[[str], Installation], postgres: Any, tmp_path: Path
) -> None:
    taken(here, tmp_path / "backup")
    there = install("restored")
    postgres.run("CREATE TABLE theirs (x TEXT)", there.mlflow)
    with pytest.raises(Refused, match="theirs"):
        restore(tmp_path / "backup", there.settings, now_ms=7)
    postgres.run("DROP TABLE theirs", there.mlflow)
    key = f"{there.prefix}/theirs"
    there.s3.client().put_object(Bucket=there.bucket, Key=key, Body=b"")
    with pytest.raises(Refused, match="not empty"):
        restore(tmp_path / "backup", there.settings, now_ms=7)
    there.s3.client().delete_object(Bucket=there.bucket, Key=key)
    home_alone = load({"MLPLATFORM_HOME": str(there.settings.home.root)})
    with pytest.raises(Refused, match="MLPLATFORM_MLFLOW_ARTIFACTS"):
        restore(tmp_path / "backup", home_alone, now_ms=7)
    assert not there.settings.home.root.exists()
    assert restore(tmp_path / "backup", there.settings, now_ms=7).contents is not None


def test_without_postgresql_s_programs_or_its_server_it_says_so(
    here: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotFound, match="pg_dump is not on this machine"):
        taken(here, tmp_path / "backup")
    closed = load(
        {
            "MLPLATFORM_HOME": str(here.settings.home.root),
            "MLPLATFORM_POSTGRES": "postgresql://somebody@127.0.0.1:1/none?sslmode=disable",
        }
    )
    with pytest.raises(Unavailable, match="PostgreSQL"):
        back_up(closed, tmp_path / "backup", now_ms=7)
    assert not (tmp_path / "backup").exists()
