"""Times in columns whose heading says that they are UTC."""

from __future__ import annotations

from datetime import UTC, datetime


def minute(ms: int) -> str:
    """An epoch time in milliseconds: "2026-05-05 02:13"."""
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")


def second(ms: int) -> str:
    """An epoch time in milliseconds: "2026-05-05 02:13:59"."""
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
