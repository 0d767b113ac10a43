"""Whether data is broken rather than changed. A retrain would only learn the fault."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mlplatform.model.profile import Column, Floats, finite, share_psi
from mlplatform.runtime.figures import percent
from mlplatform.runtime.times import minute_text

STUCK_SHARE = 0.5
"""Least share of the present values that must be equal before an input is called stuck.
`STUCK_ODDS` must hold too."""
STUCK_ODDS = 9.0
"""Least factor by which the odds of that value must have grown: behaviour changes by less."""
LEAST_SHARE = 0.01
"""The share assumed for a value that none of a profile's 100 quantiles shows."""
STALE_SHARE = 0.5
"""Least share of a window's decisions without fresh features that makes a fault."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A broken input, or a broken view with the inputs that it feeds.

    Args:
        source: name of the input or view.
        reason: text that says what was seen and what to do.
    """

    source: str
    reason: str


@dataclass(frozen=True, slots=True)
class ViewReading:
    """A view, as the decisions of a window read it.

    Args:
        newest_ms: time of the newest snapshot that the decisions read, in epoch milliseconds; None
            if they found no row.
        late_ms: age in milliseconds from which the newest snapshot is late.
    """

    newest_ms: int | None
    late_ms: int


def missing_fault(name: str, column: Column, values: Floats, limit: float) -> Fault | None:
    """The fault of an input that is missing far more often than expected; None if there is none.

    Args:
        column: column of the profile, as it is expected in this window.
        limit: limit of the population stability index over two classes: present and missing.
    """
    missing = 1 - len(finite(values)) / len(values)
    before, now = (np.array([share, 1 - share]) for share in (column.missing_share, missing))
    if missing <= column.missing_share or share_psi(before, now) <= limit:
        return None
    reason = (
        f"{name} is missing in {percent(missing)} of {len(values):,} requests; it was missing in "
        f"{percent(column.missing_share)} of those that the model learned from. Mend its source"
    )
    return Fault(name, reason)


def stuck_fault(name: str, column: Column, values: Floats) -> Fault | None:
    """The fault of an input that holds one value far more often than the profile says (its default,
    or the last value before a feed froze); None if there is none."""
    present = finite(values)
    if not len(present) or column.is_category:
        return None  # the shares of a category show it
    value, share = _commonest(present)
    close = np.isclose(np.array(column.quantiles), value, rtol=1e-5, atol=1e-9)
    before = max(float(close.mean()), LEAST_SHARE)
    usual = before >= 1 or (share < 1 and _odds(share) <= STUCK_ODDS * _odds(before))
    if share < STUCK_SHARE or usual:
        return None
    reason = (
        f"{name} is {value:g} in {percent(share)} of {len(present):,} requests; it was so in "
        f"{percent(before)} of those that the model learned from. It may be at its default, or its "
        "feed may have stopped: look at its source"
    )
    return Fault(name, reason)


def _commonest(present: npt.NDArray[np.float64]) -> tuple[float, float]:
    """The value that at least half of all have, with its share; if there is no such value, any
    value with its share. Such a value is a median, so the others need no count."""
    middle = [(len(present) - 1) // 2, len(present) // 2]
    medians = np.partition(present, middle)[middle].tolist()
    shares = [float(np.mean(present == median)) for median in medians]
    return max(zip(medians, shares, strict=True), key=lambda found: found[1])


def view_faults(views: Mapping[str, ViewReading], start_ms: int) -> list[Fault]:
    """The faults of views whose newest snapshot was late before the window began."""
    return [
        Fault(
            name,
            f"the newest snapshot of {name} is of {minute_text(seen.newest_ms)}: it has not moved"
            " since; look for the job that writes it",
        )
        for name, seen in views.items()
        if seen.newest_ms is not None and seen.newest_ms < start_ms - seen.late_ms
    ]


def stale_fault(stale: int, fresh: int) -> Fault | None:
    """The fault of a window in which most decisions were made without fresh features; None if there
    is none."""
    if stale <= STALE_SHARE * (stale + fresh):
        return None
    reason = (
        f"{stale:,} of {stale + fresh:,} decisions were made without fresh features; look for the "
        "job that writes them, and for their store"
    )
    return Fault("features", reason)


def _odds(share: float) -> float:
    return share / (1 - share)
