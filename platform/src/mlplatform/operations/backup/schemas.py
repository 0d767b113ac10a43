"""Schema versions of every part of the platform's state that this release can read."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

from mlplatform.decisions.records import tables as decisions
from mlplatform.decisions.topics import local as topics
from mlplatform.learning.features import feast_sqlite as online
from mlplatform.learning.features.pushes import postgres as pushes_on_postgres
from mlplatform.learning.features.pushes import sqlite as pushes
from mlplatform.rollouts.drift import postgres as incidents_on_postgres
from mlplatform.rollouts.drift import sqlite as incidents
from mlplatform.rollouts.events import postgres as receivers_on_postgres
from mlplatform.rollouts.events import sqlite as receivers
from mlplatform.rollouts.journal import postgres as rollouts_on_postgres
from mlplatform.rollouts.journal import sqlite as rollouts
from mlplatform.runtime.errors import Refused, Unavailable
from mlplatform.runtime.storage.sql import NEWER, Schema
from mlplatform.scoring.admission import postgres as keys_on_postgres
from mlplatform.scoring.admission import sqlite as admission

EMBEDDED: Final[tuple[Schema, ...]] = (
    decisions.SCHEMA,
    rollouts.SCHEMA,
    incidents.SCHEMA,
    receivers.SCHEMA,
    admission.SCHEMA,
    topics.SCHEMA,
    online.SCHEMA,
    pushes.SCHEMA,
)

DATABASES: Final = (
    *("rollouts.db", "admission.db", "topics.db", "online.db", "pushes.db"),
    "decisions/decisions.db",
)
"""The databases of a home that hold these schemas."""

ON_POSTGRES: Final[tuple[Schema, ...]] = (
    rollouts_on_postgres.SCHEMA,
    incidents_on_postgres.SCHEMA,
    receivers_on_postgres.SCHEMA,
    keys_on_postgres.SCHEMA,
    pushes_on_postgres.SCHEMA,
)


def check_known(
    found: Mapping[str, Mapping[str, int | str]], schemas: Sequence[Schema] = EMBEDDED
) -> None:
    """Raises unless this release can read, or upgrade, every found schema.

    Args:
        found: database → part → version.
        schemas: the schemas that this release knows.

    Raises:
        Refused: a schema is newer; the message names the database, the part and both versions.
    """
    known = {schema.part: schema.version for schema in schemas}
    for database, versions in found.items():
        for part, version in versions.items():
            if isinstance(version, int) and version > known.get(part, 0):
                raise Refused(
                    f"{part} in {database} is at schema version {version}, this release knows"
                    f" {known.get(part, 0)}: {NEWER}"
                )


def check_home(root: Path) -> None:
    """Raises unless this release can read, or upgrade, the databases of a home; changes nothing.

    Raises:
        Refused: for the same reason as in `check_known`.
        Unavailable: a database can't be read.
    """
    for name in DATABASES:
        if (path := root / name).is_file():
            try:
                check_known({str(path): _versions(path)})
            except sqlite3.Error as error:
                raise Unavailable(f"{path} can't be read: {error}") from error


def _versions(path: Path) -> dict[str, int | str]:
    # a reader of a database without a write-ahead log would make one, and leave it behind
    as_it_is = "" if Path(f"{path}-wal").exists() else "&immutable=1"
    place = f"{path.absolute().as_uri()}?mode=ro{as_it_is}"
    with closing(sqlite3.connect(place, uri=True)) as db:
        if not db.execute("SELECT 1 FROM sqlite_schema WHERE name = 'schema_versions'").fetchone():
            return {}
        return dict(db.execute("SELECT part, version FROM schema_versions").fetchall())
