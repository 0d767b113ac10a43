"""What a pass keeps of a step's traffic, advanced by each interim analysis's new records alone, in
memory.

Sums over clusters change by what the touched clusters add now less what they added before, as in
passes. Clusters are numbered, so that they are counted without sorting; `recounted` counts all
records again, as a recount of the log does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mlplatform.model.policies.segments import SegmentSource
from mlplatform.rollouts.journal.basis_evidence import Role
from mlplatform.rollouts.verdicts.aggregates import (
    OUTAGE_SLICE_MS,
    RATE_WINDOW_MS,
    SEGMENT_WIDTH,
    TOTALS,
    Aggregates,
    Extent,
    aggregates_of,
    calls_changed,
    day_totals,
    outages,
    portion,
    segment_totals,
)
from mlplatform.rollouts.verdicts.clusters import KeyedCounts
from mlplatform.rollouts.verdicts.facts import Flags, Integers, Subject
from mlplatform.rollouts.verdicts.latencies import BINS, Latencies, bins_of
from mlplatform.rollouts.verdicts.statistics import Clusters, ClusterSums
from mlplatform.rollouts.verdicts.traffic import Traffic
from mlplatform.runtime.units import DAY_MS

Calls = dict[int, tuple[int, int, int]]

_UPPER: Final = np.triu_indices(4)
_FEW: Final = 20_000
"""Clusters that a look counts again; of more, it counts those that it has touched."""


class _Clusters:
    """Counts of clusters that are numbered from 0 on, with sums over them in floating point: whole
    numbers far below 2^53, and so exact.

    Args:
        either: two columns, of which one at least has to be there for a cluster to count.
    """

    def __init__(self, number: int, width: int, either: tuple[int, int]) -> None:
        self._counts, self._either = np.zeros((number, width)), list(either)
        self._sums, self._products = np.zeros(width), np.zeros((width, width))
        self._present, self._present_in_either = np.zeros(width), 0

    def add(self, cluster: Integers, flags: Sequence[Flags]) -> None:
        """Requests of these clusters, by column."""
        touched: Any = slice(None)
        if len(self._counts) > _FEW:
            touched, cluster = np.unique(cluster, return_inverse=True)
        before = self._counts[touched]
        self._count(before, -1)
        after = before.copy()
        for column, flag in enumerate(flags):
            after[:, column] += np.bincount(cluster[flag], minlength=len(before))
            self._sums[column] += np.count_nonzero(flag)
        self._count(after, 1)
        self._counts[touched] = after

    def _count(self, counts: npt.NDArray[np.float64], sign: int) -> None:
        self._products += sign * (counts.T @ counts)
        self._present += sign * np.count_nonzero(counts, axis=0)
        self._present_in_either += sign * int(counts[:, self._either].any(axis=1).sum())

    @property
    def counts(self) -> Integers:
        """By cluster and column."""
        return self._counts.astype(np.int64)

    @property
    def present(self) -> list[float]:
        """Clusters in which a column is not 0, by column."""
        return list(self._present)

    def sums(self, *view: int | None) -> list[float]:
        """What `cluster_sums` gives of four columns; None is one of zeros."""
        pairs = [(view[a], view[b]) for a, b in zip(*_UPPER, strict=True)]
        products = [0.0 if i is None or j is None else self._products[i, j] for i, j in pairs]
        totals = [0.0 if column is None else self._sums[column] for column in view]
        trials = [view[1], view[3]]
        in_one = self._present[trials[0]]
        clusters = self._present_in_either if trials == self._either else in_one
        return [clusters, *totals, *products]


class UnsignedAggregates(Aggregates):
    """Aggregates without their digest, which takes longer than a verdict and decides nothing."""

    __slots__ = ()

    @property
    def fingerprint(self) -> str:
        return ""


class _Answers:
    """All answers so far: arm, customer's day, moment and bin of latency."""

    def __init__(self) -> None:
        self._parts: list[Integers] = []
        self._binned = np.zeros((2, BINS), dtype=np.int64)

    def add(self, seen: Traffic, customers: int) -> None:
        arm, bins = np.where(seen.challenger, 0, 1), bins_of(seen.latency_us)
        day = seen.event_ms // DAY_MS * customers + seen.unit
        self._parts.append(np.stack((arm, day, seen.recorded_ms // OUTAGE_SLICE_MS, bins)))
        self._binned += np.bincount(arm * BINS + bins, minlength=2 * BINS).reshape(2, BINS)

    def latencies(self, bits: int) -> Latencies | None:
        if not self._parts:
            return None
        self._parts = [np.concatenate(self._parts, axis=1)]
        return _Latencies(self._parts[0], self._binned.copy(), bits)


class _Latencies(Latencies):
    """The sums at a threshold, counted when they are asked for."""

    __slots__ = ("_clusters", "_found")

    def __init__(self, found: Integers, answers: Integers, bits: int) -> None:
        arm, day, moment, _ = found
        _, numbered = np.unique(day, return_inverse=True)
        pieces = moment >> bits
        clusters = (2 * numbered + arm, 2 * (pieces - pieces.min(initial=0)) + arm)
        for name, value in (("answers", answers), ("_found", found), ("_clusters", clusters)):
            object.__setattr__(self, name, value)

    def slow(self, mine: int, other: int) -> list[ClusterSums]:
        arm, _, _, bins = self._found
        is_slow = bins >= np.where(arm == 0, mine, other)

        def sums(cluster: Integers) -> Integers:
            size = 2 * (int(cluster.max()) // 2 + 1)
            hits, trials = (np.bincount(c, minlength=size).reshape(-1, 2)
                            for c in (cluster[is_slow], cluster))  # fmt: skip
            kept = trials.any(axis=1)
            return np.stack((hits[:, 0], trials[:, 0], hits[:, 1], trials[:, 1]), axis=1)[kept]

        # a customer is of one arm, so a customer's day is a cluster of either
        return [Clusters(*sums(key).T).sums() for key in self._clusters]


class Counts:
    """Of one step, of customers that are numbered from 0 on; looks end with a whole moment.

    Args:
        hours: how long the step may become.
    """

    def __init__(
        self, customers: int, hours: float, *, in_canary: bool, segments: tuple[str, ...] = ()
    ) -> None:
        windows = int(hours * 3_600_000 / RATE_WINDOW_MS) + 2
        self._size, self._in_canary, self._segments = customers, in_canary, segments
        self._subject = _subject(in_canary=in_canary, segments=segments)
        self._customers = _Clusters(customers, 14, (2, 3))
        self._days = [_Clusters(customers, 4, (1, 3)) for _ in range(int(hours / 24) + 1)]
        self._moments = TOTALS["moments"](np.zeros((0, 6), dtype=np.int64))
        self._pieces = KeyedCounts((np.zeros(0, np.int64),), np.zeros((0, 4), np.int64))
        self._bits, self._windows = 0, np.zeros(windows, dtype=np.int64)
        self._counts, self._calls = np.zeros(15, dtype=np.int64), Calls()
        self._answers, self._first_ms, self._last_ms = _Answers(), 0, 0
        self._by_segment = np.zeros((len(segments) * customers, SEGMENT_WIDTH), dtype=np.int64)
        self._segment_sums = segment_totals(self._of_segments(np.zeros(0, np.int64)), len(segments))

    def add(self, seen: Traffic) -> None:
        """The records that are new at a look."""
        if not len(seen):
            return
        arms, asked = (seen.challenger, ~seen.challenger), ~seen.excused
        missed, every = (seen.failed | seen.late) & asked, np.ones(len(seen), dtype=bool)
        pairs = seen.paired & seen.challenger
        own, other = seen.alert & pairs, seen.other_alert & pairs
        of_arms = [f & arm for f in (asked, seen.scored, seen.alert, every) for arm in arms]
        requests = [flag & arm for arm in arms for flag in (missed, asked)]
        self._customers.add(
            seen.unit,
            [*of_arms, own, pairs, other, pairs, seen.flipped & (own | other), own | other],
        )
        day = seen.event_ms // DAY_MS
        for number in range(int(day[0]), int(day[-1]) + 1):
            first, last = np.searchsorted(day, (number, number + 1))
            self._days[number].add(seen.unit[first:last], [f[first:last] for f in requests])
        self._add_moments(seen, requests, [seen.failed & arm for arm in arms])
        window = seen.recorded_ms[~seen.challenger] // RATE_WINDOW_MS
        self._windows += np.bincount(window, minlength=len(self._windows))
        counts = [np.count_nonzero(flag & arm) for arm in arms for flag in
                  (asked, seen.failed, seen.excused, seen.scored, seen.alert, seen.paired,
                   seen.flipped)]  # fmt: skip
        self._counts = self._counts + np.array([*counts, len(seen)])
        self._calls = calls_changed(self._calls, by=_calls(seen), sign=1)
        if self._in_canary:
            self._answers.add(seen, self._size)
        if self._segments:
            self._add_segments(seen)
        if not self._counts[-1] - len(seen):
            self._first_ms = int(seen.recorded_ms[0])
        self._last_ms = int(seen.recorded_ms[-1])

    def aggregates(self) -> Aggregates:
        """What is judged now."""
        extent = Extent(self._last_ms, self._first_ms, self._last_ms)
        of = self._customers
        customers = [*of.present[:8], *of.sums(4, 2, 5, 3), *of.sums(8, 9, 10, 11),
                     *of.sums(12, 13, None, 13)]  # fmt: skip
        days = np.sum([day_totals(day.counts) for day in self._days], axis=0)
        totals = {"customers": np.array(customers).astype(np.int64), "days": days.astype(np.int64),
                  "moments": self._moments, "counts": self._counts}  # fmt: skip
        if self._segments:
            totals["segments"] = self._segment_sums
        more, self._bits = extent.outage_bits - self._bits, extent.outage_bits
        if more:
            self._pieces = outages(self._pieces, more)
        return UnsignedAggregates(
            generation=1,
            extent=extent,
            totals=totals,
            outages=self._pieces.counts,
            long_outages=outages(self._pieces, extent.longer_bits).counts,
            latencies=self._answers.latencies(self._bits),
            calls=self._calls,
            dropped={},
            uncopied=0,
            busiest=int(self._windows.max()),
            segments=self._segments,
        )

    def _add_moments(
        self, seen: Traffic, requests: Sequence[Flags], failed: Sequence[Flags]
    ) -> None:
        moment = seen.recorded_ms // OUTAGE_SLICE_MS
        found = _in_order(moment, [*requests, *failed])
        self._moments = self._moments + TOTALS["moments"](found.counts)
        new = _in_order(moment >> self._bits, requests)
        parts = [(a.keys[0], a.counts) for a in (self._pieces, new)]
        keys, counts = (np.concatenate(pair) for pair in zip(*parts, strict=True))
        at = len(self._pieces.counts)
        if at and keys[at] == keys[at - 1]:  # a stretch that a look has cut
            counts[at] += counts[at - 1]
            keys, counts = np.delete(keys, at - 1), np.delete(counts, at - 1, axis=0)
        self._pieces = KeyedCounts((keys,), counts)

    def _add_segments(self, seen: Traffic) -> None:
        found = portion(seen, self._subject).segments
        at = found.keys[0] * self._size + found.keys[1]
        before = segment_totals(self._of_segments(at), len(self._segments))
        self._by_segment[at] += found.counts
        after = segment_totals(self._of_segments(at), len(self._segments))
        self._segment_sums = self._segment_sums + after - before

    def _of_segments(self, at: Integers) -> KeyedCounts:
        return KeyedCounts((at // self._size, at % self._size), self._by_segment[at])


def _in_order(keys: Integers, flags: Sequence[Flags]) -> KeyedCounts:
    """Counts by key, of keys that rise."""
    starts = np.flatnonzero(np.diff(keys, prepend=-1))
    columns = [np.add.reduceat(flag, starts, dtype=np.int64) for flag in flags]
    return KeyedCounts((keys[starts],), np.stack(columns, axis=1))


def _calls(seen: Traffic) -> Calls:
    """Of calls that carried copies and answered: their numbers rise."""
    carried = (seen.call >= 0) & ~seen.failed
    call, latency_us = seen.call[carried], seen.latency_us[carried]
    starts = np.flatnonzero(np.diff(call, prepend=-1))
    sizes, found = np.diff(starts, append=len(call)), Calls()
    for size in np.unique(sizes).tolist():
        took = latency_us[starts[sizes == size]].astype(np.float64)
        found[size] = (len(took), int(took.sum()), int(took @ took))
    return found


def recounted(seen: Traffic, *, in_canary: bool, segments: tuple[str, ...] = ()) -> Aggregates:
    """Of all of these records, at once."""
    last_ms = int(seen.event_ms[-1]) if len(seen) else 0
    extent = Extent(last_ms, int(seen.event_ms[0]) if len(seen) else 0, last_ms)
    subject = _subject(in_canary=in_canary, segments=segments)
    return aggregates_of(portion(seen, subject), subject, extent)


def _subject(*, in_canary: bool, segments: tuple[str, ...]) -> Subject:
    sources = tuple(SegmentSource(name, "field") for name in segments)
    role: Role = "canary" if in_canary else "shadow"
    return Subject(1, role, 2, segments=sources, by_decision=True)
