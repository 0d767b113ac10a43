"""The three possible verdicts of a drift check."""

from __future__ import annotations

from enum import StrEnum


class Health(StrEnum):
    HEALTHY = "HEALTHY"
    UNHEALTHY = "UNHEALTHY"
    INCONCLUSIVE = "INCONCLUSIVE"
