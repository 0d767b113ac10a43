"""Numbers as people read them in reasons, reports and forms."""

from __future__ import annotations


def percent(share: float) -> str:
    """A share (0-1) in percent, to the hundredth: "1.20 %"."""
    return f"{100 * share:.2f} %"


def span(low: float, high: float) -> str:
    """Two shares (0-1) as a range: "0.10 % to 5.00 %"."""
    return f"{percent(low)} to {percent(high)}"
