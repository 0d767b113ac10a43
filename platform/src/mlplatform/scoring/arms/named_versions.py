"""Requests that name a version: it must answer, or none does."""

from __future__ import annotations

from typing import Final

from mlplatform.model.routes import Routes
from mlplatform.runtime.http.problems import Problem
from mlplatform.scoring.arms.routing import Assignment, assign_named

SHOWN: Final = 64


def named_assignment(routes: Routes, unit: int, version: str) -> Assignment:
    """The assignment to the version that a request names.

    Raises:
        Problem: 404 if the version is not served.
    """
    found = assign_named(routes, unit, version)
    if found is None:
        raise unknown_version(routes, version)
    return found


def unknown_version(routes: Routes, version: str) -> Problem:
    """The problem of a version that is not served."""
    served = ", ".join(f"{arm.version} ({role})" for role, arm in routes.roles)
    detail = f"model {routes.model!r} serves no version {version[:SHOWN]!r}; served: {served}"
    return Problem(404, "unknown-version", detail)


def not_answered(version: str, reason: str | None) -> Problem:
    """The problem of a named version that gave no score."""
    detail = (
        f"version {version[:SHOWN]!r} gave no score ({reason}), and nothing else may answer a "
        "request that names its version"
    )
    return Problem(503, "version-unavailable", detail, retry_after_s=1)
