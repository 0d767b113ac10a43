"""Schema versions of every part of the platform's state that this release can read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from mlplatform.runtime.errors import Refused
from mlplatform.runtime.storage.sql import Schema
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
                    f" {known.get(part, 0)}: a newer release has written it"
                )
