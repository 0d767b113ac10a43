"""Counts by key, for requests in clusters, each of which counts as one observation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mlplatform.rollouts.verdicts.facts import Integers


@dataclass(frozen=True, slots=True, eq=False)
class KeyedCounts:
    """Counts by key; the keys are sorted and unique."""

    keys: tuple[Integers, ...]
    counts: Integers


def grouped(keys: Sequence[Integers], counts: Integers) -> KeyedCounts:
    """Counts by key: the sum of all rows with that key."""
    if not len(counts):
        return KeyedCounts(tuple(keys), counts)
    order = np.lexsort(tuple(reversed(keys)))
    ordered = [key[order] for key in keys]
    starts = group_starts(ordered)
    return KeyedCounts(tuple(k[starts] for k in ordered), np.add.reduceat(counts[order], starts))


def group_starts(keys: Sequence[Integers]) -> Integers:
    """Indices where a new key begins, in sorted keys."""
    size = len(keys[0])
    is_new = np.zeros(size, dtype=bool)
    is_new[:1] = True
    for key in keys:
        is_new[1:] |= key[1:] != key[:-1]
    return np.flatnonzero(is_new)


def changes(new: KeyedCounts, old: KeyedCounts) -> KeyedCounts:
    """The difference of two counts: added to the old counts, it gives the new ones."""
    keys = [np.concatenate(pair) for pair in zip(new.keys, old.keys, strict=True)]
    found = grouped(keys, np.concatenate((new.counts, -old.counts)))
    differs = found.counts.any(axis=1)
    return KeyedCounts(tuple(key[differs] for key in found.keys), found.counts[differs])
