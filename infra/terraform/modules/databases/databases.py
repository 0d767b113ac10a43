"""Make the roles and databases that the platform needs, or bring their passwords to what they are.

Run by a Job with files of a Secret: `username` and `password` of the administrator, and one a role.
It may be run again at any time, and may die at any moment.
"""

from __future__ import annotations

import os
import ssl
import sys
from pathlib import Path

import pg8000.native

DATABASES = {"mlplatform": "mlplatform", "mlflow": "mlflow", "prefect": "prefect"}
"""Database → the role that owns it."""


def main(secrets: Path) -> None:
    def connected() -> pg8000.native.Connection:
        tls = os.environ.get("PGSSLMODE", "verify-full") != "disable"
        return pg8000.native.Connection(
            host=os.environ["PGHOST"],
            port=int(os.environ["PGPORT"]),
            user=(secrets / "username").read_text().strip(),
            password=(secrets / "password").read_text().strip(),
            database="postgres",
            ssl_context=ssl.create_default_context(cafile=os.environ.get("PGSSLROOTCERT"))
            if tls
            else False,
            timeout=30,
        )

    server = connected()
    try:
        for database, role in DATABASES.items():
            _role(server, role, (secrets / role).read_text().strip())
            _database(server, database, role)
            print(f"{database} is there, of {role}", flush=True)
    finally:
        server.close()


def _role(server: pg8000.native.Connection, role: str, password: str) -> None:
    name, word = pg8000.native.identifier(role), pg8000.native.literal(password)
    if not server.run("SELECT 1 FROM pg_roles WHERE rolname = :role", role=role):
        server.run(f"CREATE ROLE {name} LOGIN")
    server.run(f"ALTER ROLE {name} PASSWORD {word}")
    # A role that gives a database to another must be able to become it.
    server.run(f"GRANT {name} TO CURRENT_USER")


def _database(server: pg8000.native.Connection, database: str, role: str) -> None:
    name, owner = pg8000.native.identifier(database), pg8000.native.identifier(role)
    if not server.run("SELECT 1 FROM pg_database WHERE datname = :name", name=database):
        server.run(f"CREATE DATABASE {name} OWNER {owner}")
    server.run(f"REVOKE ALL ON DATABASE {name} FROM PUBLIC")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
