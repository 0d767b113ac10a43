"""State of an installation that servers hold: PostgreSQL by its own programs, S3 object by
object."""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pg8000.native
from pg8000.exceptions import DatabaseError, InterfaceError

from mlplatform.runtime.configuration.settings import Settings
from mlplatform.runtime.errors import NotFound, PlatformError, Refused, Unavailable
from mlplatform.runtime.storage.addresses import Address
from mlplatform.runtime.storage.objects import Objects
from mlplatform.runtime.storage.postgres import ANSWER_S, connect, unavailable

FOLDER: Final = "servers"
"""Folder of a backup whose content is restored into servers, not into the home folder."""
PLATFORM: Final = f"{FOLDER}/platform.dump"
MLFLOW: Final = f"{FOLDER}/mlflow.dump"
ARTIFACTS: Final = f"{FOLDER}/mlflow-artifacts"
ERROR_BYTES: Final = 500
_TABLES = (
    "SELECT table_name FROM information_schema.tables"
    " WHERE table_schema NOT IN ('pg_catalog', 'information_schema')"
)


@dataclass(frozen=True, slots=True)
class HeldDatabase:
    """A PostgreSQL database in a read transaction that `pg_dump` can join.

    Args:
        snapshot: the snapshot's name, by which another connection can join the transaction.
    """

    address: Address
    snapshot: str
    connection: pg8000.native.Connection

    def rows(self, statement: str) -> Sequence[Sequence[Any]]:
        with _translated(self.address):
            return self.connection.run(statement) or []

    def has(self, table: str) -> bool:
        return [table] in [list(row) for row in self.rows(_TABLES)]

    def dump(self, path: Path) -> None:
        """Write the database as this transaction sees it, in PostgreSQL's custom format.

        Raises:
            NotFound: there is no `pg_dump` on this machine.
            Unavailable: `pg_dump` failed; the message says why.
        """
        options = ("--format=custom", f"--snapshot={self.snapshot}", f"--file={path}")
        _run("pg_dump", self.address, *options)


@contextmanager
def hold_database(address: Address) -> Iterator[HeldDatabase]:
    """Hold a read transaction: it sees the database as it is now, however long it lasts.

    Raises:
        Unavailable: the server does not answer.
    """
    with _translated(address):
        connection = connect(address, "backup", address.password())
        try:
            connection.run("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            ((snapshot,),) = connection.run("SELECT pg_export_snapshot()")
        except BaseException:
            connection.close()
            raise
    try:
        yield HeldDatabase(address, str(snapshot), connection)
    finally:
        connection.close()


def server_settings(settings: Settings) -> dict[str, str]:
    """Setting → address of each server that holds a part of the installation's state."""
    found = {
        "MLPLATFORM_POSTGRES": settings.postgres,
        "MLPLATFORM_MLFLOW_POSTGRES": settings.mlflow_postgres,
        "MLPLATFORM_MLFLOW_ARTIFACTS": settings.mlflow_artifacts,
    }
    return {name: str(place) for name, place in found.items() if place}


def check_empty(settings: Settings, before: Mapping[str, str]) -> None:
    """Raises unless the settings name a server for each server of the backup, and all of them are
    empty.

    Args:
        before: name of a setting → address of the server, when the backup was taken.

    Raises:
        Refused: a server is not empty, or the settings name other servers than the backup has.
        Unavailable: a server does not answer.
    """
    configured = server_settings(settings)
    for name in sorted({*configured, *before}):
        if name not in configured:
            raise Refused(
                f"the backup has the data of {name} ({before[name]}): set {name} to the new server"
            )
        if name not in before:
            raise Refused(f"{name} is set, and the backup has no data for it: unset it")
    for address in (settings.postgres, settings.mlflow_postgres):
        if address is not None:
            _check_no_table(address)
    if settings.mlflow_artifacts and Objects(settings.mlflow_artifacts).names():
        raise Refused(f"{settings.mlflow_artifacts} is not empty: a backup goes to a new prefix")


def fill(settings: Settings, folder: Path) -> None:
    """Restore the servers' parts of a backup, and remove them from the folder.

    Objects come first. The journal comes last, because it refers to the others.

    Raises:
        Unavailable: a server did not accept its part; the servers before it have theirs.
    """
    try:
        if settings.mlflow_artifacts:
            objects, root = Objects(settings.mlflow_artifacts), folder / ARTIFACTS
            for path in sorted(path for path in root.rglob("*") if path.is_file()):
                objects.put(path.relative_to(root).as_posix(), path)
        if settings.mlflow_postgres is not None:
            _restore_dump(settings.mlflow_postgres, folder / MLFLOW)
        if settings.postgres is not None:
            _restore_dump(settings.postgres, folder / PLATFORM)
    except PlatformError as error:
        problem = "some servers were restored and others not; empty those, then restore again"
        raise Unavailable(problem) from error
    shutil.rmtree(folder / FOLDER, ignore_errors=True)


def _check_no_table(address: Address) -> None:
    with hold_database(address) as database:
        found = sorted(row[0] for row in database.rows(_TABLES))
    if found:
        raise Refused(
            f"the database {address} is not empty ({', '.join(found[:5])}): a backup goes into an"
            " empty one only"
        )


def _restore_dump(address: Address, path: Path) -> None:
    options = ("--single-transaction", "--exit-on-error", f"--dbname={address.name}")
    _run("pg_restore", address, *options, str(path))


@contextmanager
def _translated(address: Address) -> Iterator[None]:
    try:
        yield
    except (DatabaseError, InterfaceError, OSError) as error:
        raise unavailable(address, error) from error


def _run(name: str, address: Address, *options: str) -> None:
    program = shutil.which(name)
    if program is None:
        raise NotFound(
            f"{name} is not on this machine; to copy {address}, install PostgreSQL's client"
            " programs, of the server's release or a later one"
        )
    argv = [program, "--no-owner", "--no-privileges", "--no-password", *options]
    done = subprocess.run(argv, env=_environment(address), capture_output=True, check=False)
    if done.returncode != 0:
        message = done.stderr.decode(errors="replace").strip()[-ERROR_BYTES:]
        raise Unavailable(f"{name} of {address} ended with {done.returncode}: {message}")


def _environment(address: Address) -> dict[str, str]:
    """Environment variables of PostgreSQL's programs; other users could read a password on a
    command line."""
    variables = {
        "PGHOST": address.host,
        "PGPORT": str(address.port),
        "PGUSER": address.user or "",
        "PGDATABASE": address.name,
        "PGCONNECT_TIMEOUT": str(int(ANSWER_S)),
        "PGSSLMODE": "verify-full" if address.tls else "disable",
    }
    password = address.password()
    if password is not None:
        variables["PGPASSWORD"] = password
    authority = address.authority or ssl.get_default_verify_paths().cafile
    if address.tls and authority is not None:
        variables["PGSSLROOTCERT"] = str(authority)
    return {**os.environ, **variables}
