"""Latencies of answers in bins of about 1 %, so that any threshold can be asked for later.

For each customer's day and each stretch of wall time, the number of answers in each bin is stored.
Sums over clusters are stored as each bin's contribution, so that the sum at a threshold is that of
the bins above it. A record that comes late, or is taken back, changes only the bins of its own
cluster.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Final

import numpy as np

from mlplatform.rollouts.verdicts.clusters import KeyedCounts, group_starts
from mlplatform.rollouts.verdicts.facts import Integers
from mlplatform.rollouts.verdicts.statistics import Clusters, ClusterSums

EDGES: Final = np.unique(np.rint(2 ** (np.arange(64 * 24) / 64)).astype(np.int64))
"""Lower edges of the bins in whole microseconds: 64 bins an octave from 64 µs on, the last at 16
s."""
EDGES[0] = 0
BINS: Final = len(EDGES)


def bins_of(latency_us: Integers) -> Integers:
    """The bin of each latency."""
    return np.searchsorted(EDGES, latency_us, side="right") - 1


@dataclass(frozen=True, slots=True, eq=False)
class LatencySums:
    """Sums over answers by customer and day; the first index is the arm (challenger, champion).

    For a threshold at the lower edge of a bin, the sum of `squares` from that bin on is the sum of
    squares of slow answers, and the sum of `products` from that bin on is that of slow answers
    times answers.

    Args:
        squares, products: sums for each bin [arms, bins].
        trials: number of clusters, and sum of the squares of their answers [arms, 2].
    """

    squares: Integers
    products: Integers
    trials: Integers

    def plus(self, other: LatencySums, sign: int = 1) -> LatencySums:
        """The sums with another's added, or with sign -1 taken away."""
        names = [field.name for field in dataclasses.fields(self)]
        return LatencySums(*(getattr(self, n) + sign * getattr(other, n) for n in names))


@dataclass(frozen=True, slots=True, eq=False)
class BinnedAnswers:
    """The number of answers of each cluster in each bin.

    Args:
        arm: arm of each cluster.
        starts: position at which each cluster begins in `bins` and `number`.
        bins: bins of each cluster, ascending.
        number: number of answers in each bin; 0 means none.
    """

    arm: Integers
    starts: Integers
    bins: Integers
    number: Integers

    def sums(self) -> LatencySums:
        """The contribution of these clusters to the sums over clusters."""
        found = LatencySums(*(np.zeros((2, n), dtype=np.int64) for n in (BINS, BINS, 2)))
        number, starts = self.number, self.starts
        if not len(number):
            return found
        lengths = np.diff(starts, append=len(number))
        total = np.add.reduceat(number, starts)
        before = np.cumsum(number) - number
        slower = np.repeat(total + before[starts], lengths) - before
        place = np.repeat(self.arm * BINS, lengths) + self.bins
        # slower^2 - (slower - number)^2
        np.add.at(found.squares.reshape(-1), place, number * (2 * slower - number))
        np.add.at(found.products.reshape(-1), place, np.repeat(total, lengths) * number)
        for arm in (0, 1):
            of_arm = total[self.arm == arm]
            found.trials[arm] = np.count_nonzero(of_arm), (of_arm**2).sum()
        return found


def latency_sums(answers: KeyedCounts) -> LatencySums:
    """The sums over customers' days.

    Args:
        answers: number of answers by arm, day, unit and bin.
    """
    arm, day, unit, bins = answers.keys
    starts = group_starts((arm, day, unit))
    return BinnedAnswers(arm[starts], starts, bins, answers.counts[:, 0]).sums()


@dataclass(frozen=True, slots=True, eq=False)
class Latencies:
    """The latencies by which gates judge.

    Args:
        days: sums by customer and day.
        outages: number of answers by arm, stretch of wall time and bin.
        answers: number of answers [arms, bins].
    """

    days: LatencySums
    outages: KeyedCounts
    answers: Integers

    @classmethod
    def of(cls, days: LatencySums, outages: KeyedCounts) -> Latencies:
        """The latencies with the answers of all stretches of wall time."""
        arm, _, bins = outages.keys
        answers = np.zeros((2, BINS), dtype=np.int64)
        np.add.at(answers.reshape(-1), arm * BINS + bins, outages.counts[:, 0])
        return cls(days, outages, answers)

    def quantile(self, arm: int, share: float) -> int:
        """The bin of the quantile: below it lies this share of an arm's answers."""
        below = np.cumsum(self.answers[arm])
        return int(np.searchsorted(below, share * below[-1], side="left"))

    def slow(self, mine: int, other: int) -> list[ClusterSums]:
        """Answers in these bins or above, clustered by customer and day and by stretch of wall
        time.

        Args:
            mine, other: first slow bin of the challenger, and of the champion.
        """
        days, answers = self.days, self.answers
        a, b = (int(answers[arm, first:].sum()) for arm, first in ((0, mine), (1, other)))
        aa, an, bb, bm = (
            int(values[arm, first:].sum())
            for arm, first in ((0, mine), (1, other))
            for values in (days.squares, days.products)
        )
        n, m = map(int, answers.sum(axis=1))
        # a customer is in one arm; products of a customer in both are left out, which is safe
        products = (aa, an, 0, 0, int(days.trials[0, 1]), 0, 0, bb, bm, int(days.trials[1, 1]))
        by_day = ClusterSums(int(days.trials[:, 0].sum()), a, n, b, m, products)
        return [by_day, self._by_time(mine, other).sums()]

    def _by_time(self, mine: int, other: int) -> Clusters:
        """Slow answers and answers by stretch of wall time, from differences of running totals over
        all bins."""
        arm, piece, bins = self.outages.keys
        cut = int(arm.searchsorted(1))
        arms = slice(0, cut), slice(cut, len(arm))
        pieces = np.unique(np.concatenate([piece[a][group_starts([piece[a]])] for a in arms]))
        columns = []
        for own, first in zip(arms, (mine, other), strict=True):
            place = (piece[own] - pieces[0]) * BINS + bins[own]
            total = np.concatenate(([0], np.cumsum(self.outages.counts[own, 0])))
            begins = (pieces - pieces[0]) * BINS
            below, slow, all_ = (
                total[place.searchsorted(begins + more)] for more in (0, first, BINS)
            )
            columns += [all_ - slow, all_ - below]
        return Clusters(*columns)
