"""The three answers of every drift check."""

from __future__ import annotations

from enum import StrEnum


class Health(StrEnum):
    HEALTHY = "HEALTHY"
    UNHEALTHY = "UNHEALTHY"
    INCONCLUSIVE = "INCONCLUSIVE"
