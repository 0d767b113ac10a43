"""Lengths of time and sizes in their smaller units: the one home of these numbers."""

from __future__ import annotations

from typing import Final

SECOND_US: Final = 1_000_000
"""A second in microseconds."""
SECOND_MS: Final = 1_000
"""A second in milliseconds."""
MINUTE_MS: Final = 60_000
"""A minute in milliseconds."""
HOUR_MS: Final = 3_600_000
"""An hour in milliseconds."""
DAY_MS: Final = 86_400_000
"""A day of UTC in milliseconds."""
MINUTE_S: Final = 60
"""A minute in seconds."""
HOUR_S: Final = 3_600
"""An hour in seconds."""
DAY_S: Final = 86_400
"""A day of UTC in seconds."""
DAY_H: Final = 24
"""A day of UTC in hours."""
KIB: Final = 1024
"""A kibibyte in bytes."""
MIB: Final = 1024 * 1024
"""A mebibyte in bytes."""
GIB: Final = 1024 * 1024 * 1024
"""A gibibyte in bytes."""
