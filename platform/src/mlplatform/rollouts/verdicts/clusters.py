"""Requests in clusters, of which each counts as one observation: counts by key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mlplatform.rollouts.verdicts.facts import Integers


@dataclass(frozen=True, slots=True, eq=False)
class Grouped:
    """Counts by key; keys are sorted and none is there twice."""

    keys: tuple[Integers, ...]
    counts: Integers


def grouped(keys: Sequence[Integers], counts: Integers) -> Grouped:
    """Sums of the rows of counts that have one key."""
    if not len(counts):
        return Grouped(tuple(keys), counts)
    order = np.lexsort(tuple(reversed(keys)))
    ordered = [key[order] for key in keys]
    is_new = np.any([np.diff(key) != 0 for key in ordered], axis=0)
    starts = np.concatenate(([0], np.flatnonzero(is_new) + 1))
    return Grouped(tuple(k[starts] for k in ordered), np.add.reduceat(counts[order], starts))


def changes(new: Grouped, old: Grouped) -> Grouped:
    """What is to be added to counts that hold the old ones, so that they hold the new ones."""
    keys = [np.concatenate(pair) for pair in zip(new.keys, old.keys, strict=True)]
    found = grouped(keys, np.concatenate((new.counts, -old.counts)))
    differs = found.counts.any(axis=1)
    return Grouped(tuple(key[differs] for key in found.keys), found.counts[differs])
