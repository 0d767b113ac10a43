"""Which adapter stands behind each port that a request's path and the rest have in common.

A port is embedded unless the settings name its server. What is imported for a server is imported
only where one is named.
"""

from __future__ import annotations

from mlplatform.clock import Clock
from mlplatform.drift.sql import SqlIncidents
from mlplatform.drift.sqlite import SqliteIncidents
from mlplatform.rollout.sql import SqlRollouts
from mlplatform.rollout.sqlite import SqliteRollouts
from mlplatform.settings import Settings

GATEWAY_ANSWER_S = 2.0
"""A gateway that follows its routes gives up sooner than a pass: its lease must not run out."""


def rollouts(
    settings: Settings, clock: Clock | None = None, *, answer_s: float = 10.0
) -> SqlRollouts:
    """The journal of rollouts.

    Args:
        answer_s: how long to wait for each answer of a server.
    """
    if settings.postgres is None:
        return SqliteRollouts(settings.home.rollouts_db, clock)
    from mlplatform.rollout.postgres import PostgresRollouts

    return PostgresRollouts(settings.postgres, clock, answer_s=answer_s)


def incidents(settings: Settings) -> SqlIncidents:
    """Drift incidents, in the same database as the rollouts that answer them."""
    if settings.postgres is None:
        return SqliteIncidents(settings.home.rollouts_db)
    from mlplatform.drift.postgres import PostgresIncidents

    return PostgresIncidents(settings.postgres)


def has_rollouts(settings: Settings) -> bool:
    """Whether there is a journal to read; asking makes none."""
    return settings.postgres is not None or settings.home.rollouts_db.exists()
