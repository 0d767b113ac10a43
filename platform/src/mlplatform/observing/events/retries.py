"""When a failed delivery is tried again."""

from __future__ import annotations

from email.utils import parsedate_to_datetime
from typing import Final

from mlplatform.runtime.units import HOUR_S

FIRST_S: Final = 1.0
LONGEST_S: Final = 120.0
LONGEST_ASKED_S: Final = float(HOUR_S)
"""Longest Retry-After in seconds that is obeyed."""


def delay_s(failures: int, jitter: float, asked_s: float | None = None) -> float:
    """Seconds until the next attempt: doubles with each failure in a row, up to a limit.

    Args:
        failures: number of failures in a row, at least 1.
        jitter: random number, 0 to 1, drawn anew each time, so that receivers are not all called at
            once.
        asked_s: seconds for which the receiver asked to wait, a minimum; None if it did not ask.
    """
    doubled = min(FIRST_S * 2.0 ** min(failures - 1, 16), LONGEST_S)
    own = doubled * (0.5 + 0.5 * jitter)
    return max(own, min(asked_s or 0.0, LONGEST_ASKED_S))


def retry_after_s(header: str, now_s: float) -> float | None:
    """The seconds that a `Retry-After` asks for; None if it can't be read.

    Source: RFC 9110, section 10.2.3.
    """
    text = header.strip()
    if text.isascii() and text.isdigit() and len(text) <= 9:
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - now_s)
    except (ValueError, TypeError, OverflowError):
        return None
