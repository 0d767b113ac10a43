"""Whether a process's memory is flat over a run, and what its growth would be a request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np

SETTLED_SHARE = 0.2
"""Of the run, at its beginning, that does not count: caches and pools fill up then."""
GROWTH_SHARE = 0.05
GROWTH_MB = 4.0
FEWEST = 20


class Sample(NamedTuple):
    """Resident memory at one moment."""

    at_s: float
    rss_mb: float


class Growth(msgspec.Struct, kw_only=True):
    """How the memory of one process went over the part of the run that counts.

    Args:
        slope_mb_per_min: by Theil and Sen.
        growth_mb: what that slope makes of the whole part.
        allowed_mb: a twentieth of the median, or four megabytes if that is more.
        bytes_per_request: the growth, for each request of that part.
        is_flat: None where there are too few samples to say.
    """

    samples: int
    median_mb: float
    highest_mb: float
    slope_mb_per_min: float
    growth_mb: float
    allowed_mb: float
    bytes_per_request: float
    is_flat: bool | None


def growth(samples: Sequence[Sample], requests: int) -> Growth:
    """The growth that a line through the later samples shows; a moment's peak moves it little.

    Args:
        requests: of the whole run.

    Source: P. K. Sen (1968), Estimates of the regression coefficient based on Kendall's tau.
    """
    first_s, last_s = samples[0].at_s, samples[-1].at_s
    from_s = first_s + SETTLED_SHARE * (last_s - first_s)
    counted = [sample for sample in samples if sample.at_s >= from_s]
    at_s = np.array([sample.at_s for sample in counted])
    rss_mb = np.array([sample.rss_mb for sample in counted])
    slope = _theil_sen(at_s, rss_mb)
    grown_mb = slope * (last_s - from_s)
    median_mb = float(np.median(rss_mb))
    allowed_mb = max(GROWTH_MB, GROWTH_SHARE * median_mb)
    of_part = max(1.0, requests * (1 - SETTLED_SHARE))
    return Growth(
        samples=len(counted),
        median_mb=round(median_mb, 1),
        highest_mb=round(float(rss_mb.max()), 1),
        slope_mb_per_min=round(slope * 60, 3),
        growth_mb=round(grown_mb, 2),
        allowed_mb=round(allowed_mb, 2),
        bytes_per_request=round(grown_mb * 1e6 / of_part, 1),
        is_flat=grown_mb <= allowed_mb if len(counted) >= FEWEST else None,
    )


def _theil_sen(x: np.ndarray, y: np.ndarray) -> float:
    """The median of the slopes between all pairs of points; 0 for fewer than two."""
    first, second = np.triu_indices(len(x), 1)
    if not len(first):
        return 0.0
    return float(np.median((y[second] - y[first]) / (x[second] - x[first])))
