"""The versions of the scoring API and their ends: one table."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from email.utils import format_datetime
from typing import Final, Literal

from mlplatform.runtime.http.messages import Line, line

VersionName = Literal["v1", "v2"]


@dataclass(frozen=True, slots=True)
class Retirement:
    """The end of a version.

    Args:
        deprecated: day from which on new clients should not use it.
        sunset: day from which on it may no longer exist.
        successor: the version to use instead; its document states the differences.
    """

    deprecated: date
    sunset: date
    successor: VersionName


@dataclass(frozen=True, slots=True)
class ApiVersion:
    name: VersionName
    retirement: Retirement | None = None

    @property
    def models(self) -> str:
        """The path under which this version's models lie."""
        return f"/api/{self.name}/models"

    @property
    def decisions(self) -> str:
        """The path under which callers poll for decisions on accepted requests."""
        return f"/api/{self.name}/decisions"

    @property
    def document(self) -> str:
        """The path of this version's OpenAPI document."""
        return f"/openapi/{self.name}.json"

    @property
    def headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """The headers that every answer of this version carries.

        Source: RFC 9745 (Deprecation), RFC 8594 (Sunset), RFC 8288 (Link).
        """
        if self.retirement is None:
            return ()
        deprecated_s = int(_midnight(self.retirement.deprecated).timestamp())
        successor = by_name(self.retirement.successor).document
        links = ", ".join(
            f'<{successor}>; rel="{relation}"; type="application/json"'
            for relation in ("successor-version", "deprecation")
        )
        sunset = format_datetime(_midnight(self.retirement.sunset), usegmt=True)
        return (
            (b"deprecation", f"@{deprecated_s}".encode()),
            (b"sunset", sunset.encode()),
            (b"link", links.encode()),
        )

    @property
    def lines(self) -> tuple[Line, ...]:
        """The headers as lines of bytes."""
        return tuple(line(name, value) for name, value in self.headers)


VERSIONS: Final = (
    ApiVersion("v1", Retirement(date(2026, 12, 1), date(2027, 6, 1), successor="v2")),
    ApiVersion("v2"),
)
LATEST: Final = VERSIONS[-1]


def by_name(name: VersionName) -> ApiVersion:
    return next(version for version in VERSIONS if version.name == name)


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)
