"""How long answers took, in bins of about 1 %, so that any threshold can be asked for later.

Of a customer's day and of a stretch of wall time it is kept how many answers each bin holds. Sums
over clusters are kept as what each bin adds to them, so that the sum at a threshold is that of the
bins above it: a record that comes late or is taken back changes the bins of its own cluster alone.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Final

import numpy as np

from mlplatform.rollouts.verdicts.clusters import Grouped
from mlplatform.rollouts.verdicts.facts import Integers
from mlplatform.rollouts.verdicts.statistics import Clusters, ClusterSums

EDGES: Final = np.unique(np.rint(2 ** (np.arange(64 * 24) / 64)).astype(np.int64))
"""Lower edges in microseconds: whole ones, 64 bins an octave from 64 µs on, the last at 16 s."""
EDGES[0] = 0
BINS: Final = len(EDGES)


def bins_of(latency_us: Integers) -> Integers:
    """The bin of each latency."""
    return np.searchsorted(EDGES, latency_us, side="right") - 1


@dataclass(frozen=True, slots=True, eq=False)
class LatencySums:
    """Of answers by customer and day; the first index is the arm (challenger, champion).

    A threshold at the lower edge of a bin has, as its sums of squares of slow answers, the sum of
    `squares` from that bin on, and as its sums of slow answers times answers that of `products`.

    Args:
        squares, products: arms x bins.
        trials: clusters, and the sum of the squares of their answers; arms x 2.
    """

    squares: Integers
    products: Integers
    trials: Integers

    def plus(self, other: LatencySums, sign: int = 1) -> LatencySums:
        """With another's added, or taken away."""
        names = [field.name for field in dataclasses.fields(self)]
        return LatencySums(*(getattr(self, n) + sign * getattr(other, n) for n in names))


def latency_sums(answers: Grouped) -> LatencySums:
    """Of customers' days.

    Args:
        answers: how many, at least 1, by arm, day, unit and bin.
    """
    found = LatencySums(*(np.zeros((2, n), dtype=np.int64) for n in (BINS, BINS, 2)))
    (arm, day, unit, bins), number = answers.keys, answers.counts[:, 0]
    if not len(number):
        return found
    is_new = np.any([np.diff(key) != 0 for key in (arm, day, unit)], axis=0)
    starts = np.concatenate(([0], np.flatnonzero(is_new) + 1))
    lengths = np.diff(starts, append=len(number))
    total = np.add.reduceat(number, starts)
    before = np.cumsum(number) - number
    slower = np.repeat(total + before[starts], lengths) - before
    np.add.at(found.squares, (arm, bins), slower**2 - (slower - number) ** 2)
    np.add.at(found.products, (arm, bins), np.repeat(total, lengths) * number)
    for number_of_arm in (0, 1):
        of_arm = total[arm[starts] == number_of_arm]
        found.trials[number_of_arm] = len(of_arm), (of_arm**2).sum()
    return found


@dataclass(frozen=True, slots=True, eq=False)
class Latencies:
    """What the gates on latency are judged by.

    Args:
        days: sums over customers' days.
        outages: answers by arm, stretch of wall time and bin.
        answers: arms x bins.
    """

    days: LatencySums
    outages: Grouped
    answers: Integers

    @classmethod
    def of(cls, days: LatencySums, outages: Grouped) -> Latencies:
        """With the answers of all stretches of wall time."""
        arm, _, bins = outages.keys
        answers = np.zeros((2, BINS), dtype=np.int64)
        np.add.at(answers, (arm, bins), outages.counts[:, 0])
        return cls(days, outages, answers)

    def quantile(self, arm: int, share: float) -> int:
        """The bin of the answer below which this share of an arm's answers lies."""
        below = np.cumsum(self.answers[arm])
        return int(np.searchsorted(below, share * below[-1], side="left"))

    def slow(self, mine: int, other: int) -> list[ClusterSums]:
        """Answers in these bins or above, by customer and day and by stretch of wall time.

        Args:
            mine, other: the challenger's first slow bin, and the champion's.
        """
        days, answers = self.days, self.answers
        a, b = (int(answers[arm, first:].sum()) for arm, first in ((0, mine), (1, other)))
        aa, an, bb, bm = (
            int(values[arm, first:].sum())
            for arm, first in ((0, mine), (1, other))
            for values in (days.squares, days.products)
        )
        n, m = map(int, answers.sum(axis=1))
        # a customer is of one arm: what an odd one has in both arms is left out, on the safe side
        products = (aa, an, 0, 0, int(days.trials[0, 1]), 0, 0, bb, bm, int(days.trials[1, 1]))
        by_day = ClusterSums(int(days.trials[:, 0].sum()), a, n, b, m, products)
        return [by_day, self._by_time(mine, other).sums()]

    def _by_time(self, mine: int, other: int) -> Clusters:
        (arm, piece, bins), counts = self.outages.keys, self.outages.counts[:, 0]
        pieces, number = np.unique(piece, return_inverse=True)

        def per(of_arm: int, first: int) -> Integers:
            chosen = (arm == of_arm) & (bins >= first)
            sums = np.bincount(number[chosen], weights=counts[chosen], minlength=len(pieces))
            return sums.astype(np.int64)  # exact: far below 2^53

        return Clusters(per(0, mine), per(0, 0), per(1, other), per(1, 0))
