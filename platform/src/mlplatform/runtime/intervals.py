"""Intervals of a share, by what was counted."""

from __future__ import annotations


def exact_share(hits: float, others: float, error_share: float) -> tuple[float, float]:
    """The exact interval of a share (0-1), each end missed with half of the error's chance; 0 to 1
    if nothing was counted.

    Args:
        hits, others: number of hits and of all others. For clustered data these are not whole
            numbers (the effective size of Korn and Graubard, Survey Methodology 24, 1998).
        error_share: chance (0-1) that the share lies outside of the interval.

    Source: Clopper and Pearson, Biometrika 26 (1934).
    """
    from scipy.special import betaincinv  # not in processes that judge nothing

    half = error_share / 2
    low = float(betaincinv(hits, others + 1, half)) if hits > 0 else 0.0
    high = float(betaincinv(hits + 1, others, 1 - half)) if others > 0 else 1.0
    return low, high
