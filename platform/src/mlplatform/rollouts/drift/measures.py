"""How far numbers have moved, and how far chance alone could have moved them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy import special

from mlplatform.model.policies.monitoring import DriftPolicy
from mlplatform.model.profile import Column, Floats, bin_counts, distance, finite, rise, share_psi
from mlplatform.model.rhythm import Rhythm
from mlplatform.runtime.intervals import exact_share


@dataclass(frozen=True, slots=True)
class Shift:
    """The movement of one number. `distance` is in standard deviations of the profile, and so is
    `rise`, by which the mean lies above the profile's (None for a category). The limits are the
    policy's, raised where this few independent requests could reach them by chance."""

    name: str
    rows: int
    psi: float
    psi_limit: float
    distance: float
    distance_limit: float
    missing_share: float
    rise: float | None = None

    @property
    def drifted(self) -> bool:
        return self.psi > self.psi_limit or self.distance > self.distance_limit


def shift(
    name: str,
    column: Column,
    values: Floats,
    units: npt.NDArray[np.integer[Any]],
    policy: DriftPolicy,
    *,
    profile_rows: int,
    error_share: float,
    rhythm: Rhythm | None = None,
) -> Shift:
    """The movement of present values from a column of the profile.

    The limits grow where the policy's could be reached by chance. PSI of undrifted data is about a
    chi-square over n, and the distance about a normal over the root of n. This n is the number of
    independent values: those of the window and those of the profile, over the design effect by
    unit, which counts a customer's similar requests for less. The difference between days without
    drift is added: their spread with Student's t, for as many degrees of freedom as the days from
    which it was learned give.

    Args:
        column: column of the profile, as it is expected in this window; `profile_rows` is the
            number of rows behind it.
        rhythm: how the column differs between days; None if the bundle does not know it, and then
            only sampling noise widens the limits.

    Source: B. Yurdakul, J. Naranjo, "Statistical properties of the population stability index",
    Journal of Risk Model Validation 14 (2020); L. Kish, "Survey Sampling" (1965), design effect.
    """
    effect = design_effect(values, units)  # first: it needs the most memory
    present = finite(values)
    profiled = profile_rows * (1 - column.missing_share)
    independent = 1 / (effect * (1 / len(present) + 1 / profiled))
    psi_chance = special.chdtri(len(column.shares), error_share) / independent
    distance_chance = special.ndtri(1 - error_share / 2) / np.sqrt(independent)
    if rhythm is not None:
        between = rhythm.spread * np.sqrt(1 + _share_of_pool(rhythm))
        quantile = special.stdtrit(rhythm.degrees, 1 - error_share / 2)
        distance_chance = quantile * np.sqrt(1 / independent + between**2)
        psi_chance *= 1 + rhythm.psi * independent / len(column.shares)
    return Shift(
        name=name,
        rows=len(values),
        psi=psi(column, present),
        psi_limit=max(policy.psi, float(psi_chance)),
        distance=distance(column, present),
        distance_limit=max(policy.wasserstein, float(distance_chance)),
        missing_share=1 - len(present) / len(values),
        rise=rise(column, present),
    )


def _share_of_pool(rhythm: Rhythm) -> float:
    """The variance of the mean of the days that a day is compared with, as a share of one day's
    variance."""
    if rhythm.weekdays:
        return 1 / min(day.days for day in rhythm.weekdays)
    return 1 / (rhythm.degrees + 1)


def psi(column: Column, present: npt.NDArray[np.float64]) -> float:
    """Population stability index over the column's bins, without missing values."""
    counts = bin_counts(present, np.array(column.edges))
    return share_psi(np.array(column.shares), counts / len(present))


def design_effect(values: Floats, units: npt.NDArray[np.integer[Any]]) -> float:
    """Design effect: the variance of the mean of clustered values over that of independent ones; at
    least 1.

    Args:
        units: number of each value's customer, from 0 on (`unit_numbers`).
    """
    there = np.isfinite(values)
    centred = np.where(there, values, 0.0) - np.mean(values[there]) * there
    total = float(np.sum(centred**2))
    if total == 0.0:
        return 1.0
    return max(1.0, float(np.sum(np.bincount(units, weights=centred) ** 2)) / total)


def unit_numbers(units: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
    """The units, numbered from 0. A hash table is used, because sorting millions takes five times
    their size in memory."""
    numbers: npt.NDArray[np.int32] = pa.array(units).dictionary_encode().indices.to_numpy()
    return numbers


def share_interval(
    hits: npt.NDArray[np.bool_], units: npt.NDArray[np.integer[Any]], error_share: float
) -> tuple[float, float]:
    """An exact interval for a share in clustered data: Clopper-Pearson at the effective size.

    Source: E. Korn, B. Graubard, Survey Methodology 24 (1998), "Confidence intervals for
    proportions with small expected number of positive counts estimated from survey data".
    """
    effect = design_effect(hits.astype(np.float64), units)
    found = float(np.sum(hits))
    return exact_share(found / effect, (len(hits) - found) / effect, error_share)
