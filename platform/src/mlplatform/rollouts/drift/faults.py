"""Is the data broken rather than changed? What a retrain would only learn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt

from mlplatform.model.profile import Column, Floats, finite, share_psi
from mlplatform.runtime.figures import percent

STUCK_SHARE = 0.5
"""Of the values that are there, that must be one and the same before it is called stuck …"""
STUCK_ODDS = 9.0
"""… and by how much the odds of that value must have grown: behaviour changes by less."""
LEAST_SHARE = 0.01
"""The share of a value that none of a profile's 100 quantiles shows."""
STALE_SHARE = 0.5
"""Of a window's decisions, that were made without fresh features."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What is broken: an input, or a view and with it the inputs that it feeds.

    Args:
        source: the name of the input or view.
        reason: what was seen, and what to do, in words.
    """

    source: str
    reason: str


@dataclass(frozen=True, slots=True)
class ViewReading:
    """A view as the decisions of a window read it.

    Args:
        newest_ms: of the snapshots that they read, the newest; None where no row was found.
        late_ms: age at which the newest snapshot is late.
    """

    newest_ms: int | None
    late_ms: int


def missing_fault(name: str, column: Column, values: Floats, limit: float) -> Fault | None:
    """Whether an input is missing far more often than was to be expected.

    Args:
        column: as it is to be expected in that window.
        limit: of the population stability index of present and missing.
    """
    missing = 1 - len(finite(values)) / len(values)
    before, now = (np.array([share, 1 - share]) for share in (column.missing_share, missing))
    if missing <= column.missing_share or share_psi(before, now) <= limit:
        return None
    reason = (
        f"{name} is missing in {percent(missing)} of {len(values):,} requests, in "
        f"{percent(column.missing_share)} of those that the model learned from; mend what fills it"
    )
    return Fault(name, reason)


def stuck_fault(name: str, column: Column, values: Floats) -> Fault | None:
    """Whether an input holds one value (its default, or the last one before a feed froze) far more
    often than the profile says."""
    present = finite(values)
    if not len(present) or column.is_category:
        return None  # a category's shares tell it
    value, share = _commonest(present)
    close = np.isclose(np.array(column.quantiles), value, rtol=1e-5, atol=1e-9)
    before = max(float(close.mean()), LEAST_SHARE)
    usual = before >= 1 or (share < 1 and _odds(share) <= STUCK_ODDS * _odds(before))
    if share < STUCK_SHARE or usual:
        return None
    reason = (
        f"{name} is {value:g} in {percent(share)} of {len(present):,} requests, in "
        f"{percent(before)} of those that the model learned from: it is at a default, or its feed "
        "has stopped; mend what fills it"
    )
    return Fault(name, reason)


def _commonest(present: npt.NDArray[np.float64]) -> tuple[float, float]:
    """The value of at least half of all, with its share; where there is none, some value.

    Such a value is a median, so the others need no count.
    """
    middle = [(len(present) - 1) // 2, len(present) // 2]
    medians = np.partition(present, middle)[middle].tolist()
    shares = [float(np.mean(present == median)) for median in medians]
    return max(zip(medians, shares, strict=True), key=lambda found: found[1])


def view_faults(views: Mapping[str, ViewReading], start_ms: int) -> list[Fault]:
    """Views whose newest snapshot was late before the window began."""
    return [
        Fault(
            name,
            f"the newest snapshot of {name} is of {_time(seen.newest_ms)}: it has not moved since; "
            "look for the job that writes it",
        )
        for name, seen in views.items()
        if seen.newest_ms is not None and seen.newest_ms < start_ms - seen.late_ms
    ]


def stale_fault(stale: int, fresh: int) -> Fault | None:
    """Whether most decisions of a window were made without fresh features."""
    if stale <= STALE_SHARE * (stale + fresh):
        return None
    reason = (
        f"{stale:,} of {stale + fresh:,} decisions were made without fresh features; look for the "
        "job that writes them, and for their store"
    )
    return Fault("features", reason)


def _odds(share: float) -> float:
    return share / (1 - share)


def _time(at_ms: int) -> str:
    return f"{datetime.fromtimestamp(at_ms / 1000, UTC):%Y-%m-%d %H:%M}"
