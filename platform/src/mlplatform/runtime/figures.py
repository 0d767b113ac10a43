"""Numbers and times as people read them in reasons, reports and forms."""

from __future__ import annotations

from datetime import UTC, datetime


def percent(share: float) -> str:
    """A share (0-1) in percent, to the hundredth: "1.20 %"."""
    return f"{100 * share:.2f} %"


def span(low: float, high: float) -> str:
    """Two shares (0-1) as a range: "0.10 % to 5.00 %"."""
    return f"{percent(low)} to {percent(high)}"


def utc_day(at_ms: int) -> str:
    """The UTC day of an epoch time in milliseconds: "2026-05-05"."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).date().isoformat()


def utc_minute(at_ms: int) -> str:
    """An epoch time in milliseconds, to the minute: "2026-05-05 02:13 UTC"."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
