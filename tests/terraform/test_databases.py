"""The script that makes roles and databases, on a real PostgreSQL, by no superuser."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pg8000.native
import pytest
from tests.terraform import tools

SCRIPT = tools.INFRA / "modules" / "databases" / "databases.py"
ROLES = ("mlplatform", "mlflow", "prefect")


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    from tests.servers.postgres import PostgresServer
    from tests.servers.process import ServerMissing

    try:
        made = PostgresServer()
    except ServerMissing as missing:
        pytest.skip(f"POSTGRES IS NOT TESTED: {missing}")
    yield made
    made.close()


@pytest.fixture
def secrets(server: Any, tmp_path: Path) -> Path:
    """An administrator as RDS gives one: may make roles and databases, and is no superuser."""
    there = {"host": "127.0.0.1", "port": server.port, "database": "postgres"}
    with pg8000.native.Connection("platform", password=server.password, **there) as own:
        if not own.run("SELECT 1 FROM pg_roles WHERE rolname = 'administrator'"):
            own.run("CREATE ROLE administrator LOGIN CREATEROLE CREATEDB PASSWORD 'first'")
    for name, content in {"username": "administrator", "password": "first"}.items():
        (tmp_path / name).write_text(content)
    for role in ROLES:
        (tmp_path / role).write_text(f"word of {role}'s\n")
    return tmp_path


def run(server: Any, secrets: Path) -> None:
    environment = {
        **os.environ,
        "PGHOST": "localhost",
        "PGPORT": str(server.port),
        "PGSSLROOTCERT": str(server.certificates.authority),
    }
    subprocess.run([sys.executable, str(SCRIPT), str(secrets)], env=environment, check=True)


def entered(server: Any, role: str, password: str, database: str) -> bool:
    try:
        with pg8000.native.Connection(
            role, host="127.0.0.1", port=server.port, password=password, database=database
        ) as own:
            own.run("CREATE TABLE IF NOT EXISTS mine (x int)")
    except pg8000.exceptions.DatabaseError:
        return False
    return True


def test_each_role_owns_its_database_and_enters_no_other(server: Any, secrets: Path) -> None:
    run(server, secrets)

    for role in ROLES:
        for database in ROLES:
            assert entered(server, role, f"word of {role}'s", database) is (role == database)


def test_run_again_it_changes_nothing_but_passwords(server: Any, secrets: Path) -> None:
    run(server, secrets)
    (secrets / "mlflow").write_text("another")
    run(server, secrets)

    assert entered(server, "mlflow", "another", "mlflow")
    assert not entered(server, "mlflow", "word of mlflow's", "mlflow")
    assert entered(server, "prefect", "word of prefect's", "prefect")
