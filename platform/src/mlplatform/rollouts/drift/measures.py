"""How far numbers have moved, and how far they could have moved by chance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

from mlplatform.model.definition import DriftPolicy
from mlplatform.model.profile import Column, Floats, bin_counts, finite, levels

EMPTY_BIN_SHARE = 1e-4  # PSI has no value for an empty bin


@dataclass(frozen=True, slots=True)
class Shift:
    """How far one number has moved.

    `distance` is in standard deviations of the profile. The limits are the policy's, raised where
    so few independent payments could reach it by chance.
    """

    name: str
    rows: int
    psi: float
    psi_limit: float
    distance: float
    distance_limit: float
    missing_share: float

    @property
    def drifted(self) -> bool:
        return self.psi > self.psi_limit or self.distance > self.distance_limit


def shift(
    name: str,
    column: Column,
    values: Floats,
    units: npt.NDArray[np.int64],
    policy: DriftPolicy,
    *,
    profile_rows: int,
    error_share: float,
) -> Shift:
    """How far the values have moved from a column of the profile.

    PSI has a bin for missing values. The limits grow where the policy's could be reached by chance:
    PSI of undrifted data is about a chi-square over n, and the distance about a normal over the
    root of n, n being the number of independent values: those of the window and those of the
    profile, over the design effect by unit, which counts a customer's similar payments for less.

    Source: B. Yurdakul, J. Naranjo, "Statistical properties of the population stability index",
    Journal of Risk Model Validation 14 (2020); L. Kish, "Survey Sampling" (1965), design effect.
    """
    present = finite(values)
    effect = design_effect(values, units)
    profiled = profile_rows * (1 - column.missing_share)
    independent = 1 / (effect * (1 / len(present) + 1 / profiled))
    psi_chance = special.chdtri(len(column.shares), error_share) / independent
    distance_chance = special.ndtri(1 - error_share / 2) / np.sqrt(independent)
    return Shift(
        name=name,
        rows=len(values),
        psi=psi(column, values),
        psi_limit=max(policy.psi, float(psi_chance)),
        distance=distance(column, present),
        distance_limit=max(policy.wasserstein, float(distance_chance)),
        missing_share=1 - len(present) / len(values),
    )


def psi(column: Column, values: Floats) -> float:
    """Population stability index over the column's bins and one bin for missing values."""
    present = finite(values)
    counts = bin_counts(present, np.array(column.edges))
    now = np.append(counts, len(values) - len(present)) / len(values)
    there = 1 - column.missing_share
    then = np.append(np.array(column.shares) * there, column.missing_share)
    now, then = np.maximum(now, EMPTY_BIN_SHARE), np.maximum(then, EMPTY_BIN_SHARE)
    return float(np.sum((now - then) * np.log(now / then)))


def distance(column: Column, present: npt.NDArray[np.float64]) -> float:
    """1-Wasserstein distance over the profile's standard deviation.

    W1 is the integral of |F⁻¹(u) - G⁻¹(u)| over u in 0 to 1. Here it is the mean of that difference
    at the levels of the stored quantiles (the midpoint rule, 100 levels), so what moves only within
    the outermost half percent is not seen. A constant column is measured in its own units.
    """
    now = np.quantile(present, levels(len(column.quantiles)))
    return float(np.mean(np.abs(now - np.array(column.quantiles)))) / (column.std or 1.0)


def design_effect(values: Floats, units: npt.NDArray[np.int64]) -> float:
    """Variance of the mean of clustered values over that of independent ones; at least 1."""
    there = np.isfinite(values)
    centred = np.where(there, values, 0.0) - np.mean(values[there]) * there
    total = float(np.sum(centred**2))
    if total == 0.0:
        return 1.0
    _, cluster = np.unique(units, return_inverse=True)
    return max(1.0, float(np.sum(np.bincount(cluster, weights=centred) ** 2)) / total)


def share_interval(
    hits: npt.NDArray[np.bool_], units: npt.NDArray[np.int64], error_share: float
) -> tuple[float, float]:
    """An exact interval for a share in clustered data: Clopper-Pearson at the effective size.

    Source: E. Korn, B. Graubard, Survey Methodology 24 (1998), "Confidence intervals for
    proportions with small expected number of positive counts estimated from survey data".
    """
    effect = design_effect(hits.astype(np.float64), units)
    n, x = len(hits) / effect, float(np.sum(hits)) / effect
    low = special.betaincinv(x, n - x + 1, error_share / 2) if x > 0 else 0.0
    high = special.betaincinv(x + 1, n - x, 1 - error_share / 2) if x < n else 1.0
    return float(low), float(high)
