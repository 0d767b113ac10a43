"""The sums of a generation that gates need: exact integers that add up in any order and in any
portions.

Requests are put into clusters: customers, a customer's days, outage slices. A `Portion` holds the
clusters of some requests, `totals` are sums over clusters, `Aggregates` is what is judged.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from mlplatform.rollouts.verdicts.clusters import KeyedCounts, grouped
from mlplatform.rollouts.verdicts.facts import Flags, Integers, RecordFacts, Subject
from mlplatform.rollouts.verdicts.latencies import Latencies, bins_of, latency_sums
from mlplatform.rollouts.verdicts.statistics import (
    ClusterSums,
    RareEvents,
    champion_events,
    cluster_sums,
    first_of_each,
)
from mlplatform.rollouts.verdicts.traffic import Traffic, traffic
from mlplatform.runtime.canonical import digest
from mlplatform.runtime.units import DAY_MS

OUTAGE_SLICE_MS = 250
"""Length of an outage slice in wall time. One pause of a machine or a process fails all requests
that it meets, of many customers at once: within a slice all failures count as one event."""
MOST_OUTAGES = 2000
"""Most stretches of wall time that a generation is cut into. Their length doubles as the generation
grows. Failures within one stretch may be one outage, and count as one event."""
LONG_OUTAGES = 125
"""Most stretches of a second, longer kind, used for proof. Early in a generation the others are
short, and one outage would be the proof of many events. Long ones alone would leave too much open
to show health."""
RATE_WINDOW_MS = 10_000
COPY_WITHIN_MS = 30_000
"""Milliseconds of wall time within which a decision's copy is recorded, or never: a call may take 5
seconds."""

ARMS: Final = ("challenger", "champion")
ARM_COUNTS: Final = ("requests", "failures", "excused", "answers", "alerts", "pairs", "flips")
_REQUESTS, _ANSWERS, _ALERTS, _SEEN, _PAIRS = 0, 2, 4, 6, slice(8, 12)
"""Columns of a customer: the challenger's number and beside it the champion's; then those of pairs,
as (hits, trials) of both arms."""
_EITHER = slice(12, 14)
SEGMENT_WIDTH = 6
"""Columns of a customer in a segment: the challenger's alerts and answers; the champion's, which in
shadow are those of pairs; in pairs, alerts on which the arms disagree and those of either."""
SEGMENT_SUMS = 30
"""Number of sums of one segment: fifteen over the first four columns, and fifteen over the last
two."""


Calls = Mapping[int, tuple[int, int, int]]
"""Number of rows in a call → the number of such calls, their total microseconds, and the sum of
squares of their microseconds."""


@dataclass(frozen=True, slots=True, eq=False)
class Portion:
    """The counts of some requests, by cluster.

    Args:
        customers: counts by unit; the columns are described above.
        days: counts by day and unit: the challenger's failures and requests, then the champion's.
        moments: counts by outage slice: the four columns of `days`, then each arm's failures
            without late answers.
        windows: counts by ten seconds: the champion's requests, and those of them without a copy.
        answers: number of answers by arm, day, unit, outage slice and bin of latency; empty in
            shadow.
        counts: `ARM_COUNTS` of the challenger, then of the champion, then the number of records.
        segments: counts by number of the segment and unit; the columns are described above.
    """

    customers: KeyedCounts
    days: KeyedCounts
    moments: KeyedCounts
    windows: KeyedCounts
    answers: KeyedCounts
    calls: Calls
    counts: Integers
    dropped: Mapping[str, int]
    segments: KeyedCounts


def portion(traffic: Traffic, subject: Subject) -> Portion:
    """The clusters of these requests. In shadow the latencies of the two arms can't be compared."""
    is_timed, by_pair = subject.role == "canary", subject.scale.task != "binary"
    arms, asked = (traffic.challenger, ~traffic.challenger), ~traffic.excused
    missed = (traffic.failed | traffic.late) & asked
    requests = [flag & arm for arm in arms for flag in (missed, asked)]
    pairs = traffic.paired & traffic.challenger
    own, other = traffic.alert & pairs, traffic.other_alert & pairs
    alone, either = (traffic.flipped & pairs, pairs) if by_pair else _apart(traffic, pairs, subject)
    every = np.ones(len(traffic), dtype=bool)
    of_arms = [f & arm for f in (asked, traffic.scored, traffic.alert, every) for arm in arms]
    customers = _columns(*of_arms, own, pairs, other, pairs, alone, either)
    return Portion(
        customers=grouped([traffic.unit], customers),
        days=grouped([traffic.event_ms // DAY_MS, traffic.unit], _columns(*requests)),
        moments=grouped(
            [traffic.recorded_ms // OUTAGE_SLICE_MS],
            _columns(*requests, *(traffic.failed & arm for arm in arms)),
        ),
        windows=_windows(traffic),
        answers=_answers(traffic, is_timed=is_timed),
        calls=_calls(traffic),
        counts=_counts(traffic, arms),
        dropped=traffic.dropped,
        segments=_segments(traffic, subject),
    )


def _apart(traffic: Traffic, pairs: Flags, subject: Subject) -> tuple[Flags, Flags]:
    """The pairs with an alert of either arm on which the arms disagree, and all of them."""
    own, other = traffic.alert & pairs, traffic.other_alert & pairs
    either = own | other
    return (traffic.flipped & either if subject.by_decision else own ^ other), either


def _segments(traffic: Traffic, subject: Subject) -> KeyedCounts:
    """Alerts by segment and unit; a request in several segments counts in each."""
    number, in_pairs = len(subject.segments), subject.role != "canary"
    mine, other = traffic.challenger & traffic.scored, ~traffic.challenger & traffic.scored
    a, b, alone, either = (
        traffic.alert & mine,
        traffic.alert & other,
        *np.zeros((2, len(traffic)), bool),
    )
    if in_pairs:
        mine = other = traffic.paired & traffic.challenger
        a, b = traffic.alert & mine, traffic.other_alert & mine
        alone, either = _apart(traffic, mine, subject)
    columns, counts = _columns(a, mine, b, other, alone, either), mine | other
    inside = [np.flatnonzero(counts & (traffic.segments >> n & 1 > 0)) for n in range(number)]
    rows = np.concatenate([*inside, np.zeros(0, dtype=np.int64)]).astype(np.int64)
    numbers = np.repeat(np.arange(number, dtype=np.int64), [len(rows) for rows in inside])
    return grouped([numbers, traffic.unit[rows]], columns[rows])


def segment_totals(found: KeyedCounts, number: int) -> Integers:
    """Sums over the customers of each segment. Totals of portions add up."""
    parts = (found.counts[found.keys[0] == n] for n in range(number))
    return np.array([_segment_sums(counts) for counts in parts], dtype=np.int64)


def _segment_sums(counts: Integers) -> Integers:
    one, either = counts[:, 4:].T
    alone = np.stack((one, either, 0 * one, either), axis=1)
    return np.concatenate((cluster_sums(counts[:, :4]), cluster_sums(alone)))


def _columns(*flags: Flags) -> Integers:
    return np.stack(flags, axis=1).astype(np.int64)


def _counts(traffic: Traffic, arms: Sequence[Flags]) -> Integers:
    flags = (~traffic.excused, traffic.failed, traffic.excused, traffic.scored, traffic.alert,
             traffic.paired, traffic.flipped)  # fmt: skip
    counts = [int((flag & arm).sum()) for arm in arms for flag in flags]
    return np.array([*counts, len(traffic)], dtype=np.int64)


def _windows(traffic: Traffic) -> KeyedCounts:
    decided, uncopied = traffic.recorded_ms[~traffic.challenger], traffic.uncopied_ms
    counts = np.zeros((len(decided) + len(uncopied), 2), dtype=np.int64)
    counts[: len(decided), 0] = counts[len(decided) :, 1] = 1
    return grouped([np.concatenate((decided, uncopied)) // RATE_WINDOW_MS], counts)


def _answers(traffic: Traffic, *, is_timed: bool) -> KeyedCounts:
    timed = is_timed & (traffic.latency_us >= 0) & ~traffic.excused
    keys = (
        np.where(traffic.challenger, 0, 1),
        traffic.event_ms // DAY_MS,
        traffic.unit,
        traffic.recorded_ms // OUTAGE_SLICE_MS,
        bins_of(traffic.latency_us),
    )
    return grouped([key[timed] for key in keys], np.ones((int(timed.sum()), 1), dtype=np.int64))


def _calls(traffic: Traffic) -> dict[int, tuple[int, int, int]]:
    """The latencies of answered calls that carried copies."""
    carried = (traffic.call >= 0) & (traffic.latency_us >= 0) & ~traffic.failed
    _, first, rows = np.unique(traffic.call[carried], return_index=True, return_counts=True)
    latency_us, found = traffic.latency_us[carried][first], {}
    for size in np.unique(rows).tolist():
        # squares of microseconds do not fit into 64 bits once there are many
        took = latency_us[rows == size].tolist()
        found[size] = (len(took), sum(took), sum(us * us for us in took))
    return found


def calls_changed(calls: Calls, *, by: Calls, sign: int) -> dict[int, tuple[int, int, int]]:
    """The counts of calls with others added, or with sign -1 taken away."""
    nothing = (0, 0, 0)
    sizes = {*calls, *by}
    pairs = {size: zip(calls.get(size, nothing), by.get(size, nothing), strict=True)
             for size in sizes}  # fmt: skip
    found = {size: tuple(a + sign * b for a, b in pair) for size, pair in pairs.items()}
    return {size: (n, us, squares) for size, (n, us, squares) in found.items() if n}


def customer_totals(counts: Integers) -> Integers:
    """Sums over customers: customers whom each arm could answer, whose answers count, and who
    appeared in each arm; then the sums of alerts between arms, of alerts in pairs, and of pairs on
    which the arms disagree."""
    alerts = counts[:, [_ALERTS, _ANSWERS, _ALERTS + 1, _ANSWERS + 1]]
    one, either = counts[:, _EITHER].T
    alone = np.stack((one, either, 0 * one, either), axis=1)
    views = (alerts, counts[:, _PAIRS], alone)
    present = (counts[:, :8] > 0).sum(axis=0)
    return np.concatenate((present, *map(cluster_sums, views))).astype(np.int64)


def day_totals(counts: Integers) -> Integers:
    """Sums over customers' days; the days on which the challenger failed; and its requests up to
    the first failure of each day, as many as there are on average over all orders."""
    failures, requests = counts[:, 0], counts[:, 1]
    until_first = np.where(failures > 0, -(-(requests + 1) // (failures + 1)), requests)
    return np.concatenate(
        (cluster_sums(counts), [np.count_nonzero(failures), until_first.sum()])
    ).astype(np.int64)


def slice_totals(counts: Integers) -> Integers:
    """The number of outage slices in which each arm was asked, and in which it failed."""
    return np.asarray((counts[:, [1, 3, 4, 5]] > 0).sum(axis=0), dtype=np.int64)


_SUMS: Final = 15
"""Number of `cluster_sums` with which the totals of customers' days begin."""
TOTALS: Final[Mapping[str, Callable[[Integers], Integers]]] = {
    "customers": customer_totals,
    "days": day_totals,
    "moments": slice_totals,
}
"""Kind of a portion's clusters → the function that sums them up; the sums add up over clusters."""


def outage_bits(slices: int, most: int = MOST_OUTAGES) -> int:
    """The number of doublings that make an outage's length of a slice, if the generation spans this
    many slices.

    Args:
        most: largest number of stretches into which the slices are joined.
    """
    return max(-(-slices // most) - 1, 0).bit_length()


@dataclass(frozen=True, slots=True)
class Extent:
    """The extent of some records, voided decisions included.

    Args:
        until_event_ms: latest event time; None if there are no records.
        first_ms, last_ms: wall times at which the first and the last record was written.
        ranges: writer → first and last number.
    """

    until_event_ms: int | None = None
    first_ms: int = 0
    last_ms: int = 0
    ranges: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    @classmethod
    def of(cls, facts: RecordFacts) -> Extent:
        if not len(facts):
            return cls()
        recorded, event_ms = facts.rows["recorded_ms"], facts.rows["event_ms"]
        numbers = {w: facts.seq[facts.writer == w] for w in sorted(set(facts.writer))}
        ranges = {writer: (int(n.min()), int(n.max())) for writer, n in numbers.items()}
        return cls(int(event_ms.max()), int(recorded.min()), int(recorded.max()), ranges)

    def and_of(self, other: Extent) -> Extent:
        """The extent of both together."""
        if self.until_event_ms is None or other.until_event_ms is None:
            return other if self.until_event_ms is None else self
        ranges = {
            writer: (min(pair[0] for pair in pairs), max(pair[1] for pair in pairs))
            for writer in sorted({*self.ranges, *other.ranges})
            if (pairs := [e.ranges[writer] for e in (self, other) if writer in e.ranges])
        }
        return Extent(
            max(self.until_event_ms, other.until_event_ms),
            min(self.first_ms, other.first_ms),
            max(self.last_ms, other.last_ms),
            ranges,
        )

    @property
    def outage_bits(self) -> int:
        """The number of doublings that make an outage's length of a slice."""
        return outage_bits(self._slices)

    @property
    def longer_bits(self) -> int:
        """The number of further doublings that make a long outage's length."""
        return outage_bits(self._slices, LONG_OUTAGES) - self.outage_bits

    @property
    def _slices(self) -> int:
        return self.last_ms // OUTAGE_SLICE_MS - self.first_ms // OUTAGE_SLICE_MS + 1

    @property
    def copies_due(self) -> int:
        """Number of the first ten seconds of which copies may still be on their way."""
        return (self.last_ms - COPY_WITHIN_MS) // RATE_WINDOW_MS


@dataclass(frozen=True, slots=True, eq=False)
class Aggregates:
    """The sums of a generation by which it is judged.

    Args:
        totals: name → sums: the names of `TOTALS`, and `counts` of the portion; also `segments` if
            there are any.
        outages, long_outages: counts by stretch of wall time: the challenger's failures and
            requests, then the champion's. The long stretches are only for proof.
        latencies: latencies of both arms; None in shadow.
        uncopied: number of the champion's decisions that have no copy although its time is over.
        busiest: number of the champion's requests in the busiest ten seconds.
        position: writer → number up to which the log was read.
        segments: names of the segments, in the order of their totals.
    """

    generation: int
    extent: Extent
    totals: Mapping[str, Integers]
    outages: Integers
    long_outages: Integers
    latencies: Latencies | None
    calls: Calls
    dropped: Mapping[str, int]
    uncopied: int
    busiest: int
    position: Mapping[str, int] = field(default_factory=dict)
    segments: tuple[str, ...] = ()

    @property
    def records(self) -> int:
        return int(self.totals["counts"][-1])

    def count(self, name: str, *, arm: str = "challenger") -> int:
        """One of `ARM_COUNTS`; or "units": customers with a request that the arm could answer."""
        number = ARMS.index(arm)
        if name == "units":
            return int(self.totals["customers"][_REQUESTS + number])
        return int(self.totals["counts"][number * len(ARM_COUNTS) + ARM_COUNTS.index(name)])

    @property
    def counted(self) -> int:
        """The number of the challenger's customers whose answers count."""
        return int(self.totals["customers"][_ANSWERS])

    @property
    def appeared(self) -> tuple[int, int]:
        """Customers by arm. Customers whose requests were excused count: a customer is in the arm
        that the split gave, whether or not the arm was asked."""
        mine, other = self.totals["customers"][_SEEN : _SEEN + 2].tolist()
        return mine, other

    @property
    def alerts(self) -> ClusterSums:
        """Alerts among the answers that count; where there are pairs, on the same requests."""
        pairs = ClusterSums.of(self.totals["customers"][23:38])
        return pairs if pairs.clusters else ClusterSums.of(self.totals["customers"][8:23])

    @property
    def disagreements(self) -> ClusterSums:
        """Requests on which the arms disagree, among those with an alert of either; of classes and
        numbers, among all pairs."""
        return ClusterSums.of(self.totals["customers"][38:53])

    def segment(self, name: str) -> tuple[ClusterSums, ClusterSums]:
        """The `alerts` and the `disagreements` of one segment."""
        vector = self.totals["segments"][self.segments.index(name)]
        return ClusterSums.of(vector[:15]), ClusterSums.of(vector[15:])

    @property
    def failures(self) -> list[ClusterSums]:
        """Requests not answered in time, by customer and day and by stretch of wall time."""
        by_time = ClusterSums.of(cluster_sums(self.outages))
        return [ClusterSums.of(self.totals["days"][:15]), by_time]

    @property
    def provable_failures(self) -> list[ClusterSums]:
        """The failures also by long stretches of wall time, for proof: one outage proves little."""
        return [*self.failures, ClusterSums.of(cluster_sums(self.long_outages))]

    @property
    def failure_events(self) -> tuple[list[RareEvents], RareEvents]:
        """The challenger's separate failures, by stretch of wall time and by customer and day, and
        those of the champion."""
        days = RareEvents(*self.totals["days"][_SUMS:].tolist())
        return [first_of_each(self.outages[:, :2]), days], champion_events(self.failures)

    def arm(self, name: str) -> dict[str, int]:
        """The counts of one arm, as the journal keeps them."""
        asked, failed = self.totals["moments"].reshape(2, 2)[:, ARMS.index(name)].tolist()
        counts = {count: self.count(count, arm=name) for count in ("units", *ARM_COUNTS)}
        return counts | {"moments": asked, "failed_moments": failed}

    def plain(self) -> dict[str, Any]:
        """All counts as JSON, with the digest of each array of latencies."""
        found = {
            "generation": self.generation,
            "extent": dataclasses.asdict(self.extent),
            "totals": {name: values.tolist() for name, values in self.totals.items()},
            "outages": cluster_sums(self.outages).tolist(),
            "calls": {str(rows): list(self.calls[rows]) for rows in sorted(self.calls)},
            "dropped": dict(self.dropped),
            "uncopied": self.uncopied,
            "busiest": self.busiest,
        }
        if self.segments:
            found["segments"] = list(self.segments)
        if self.latencies is not None:
            days, by_time = self.latencies.days, self.latencies.outages
            arrays = (days.squares, days.products, days.trials, *by_time.keys, by_time.counts)
            found["latencies"] = [
                digest(np.ascontiguousarray(a, dtype="<i8").tobytes()) for a in arrays
            ]
        return found

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the counts. It leaves out sums that verdicts from before 0.3.0 did not use, so
        that the fingerprints of those verdicts still hold."""
        found = self.plain()
        found["totals"]["days"] = found["totals"]["days"][:_SUMS]
        return digest(found)


def aggregates(
    facts: RecordFacts, subject: Subject, voided: frozenset[str] = frozenset()
) -> Aggregates:
    """The aggregates of all these records."""
    kept = facts.without(set(voided))
    found = portion(traffic(kept, subject), subject)
    return aggregates_of(found, subject, Extent.of(facts))


def aggregates_of(found: Portion, subject: Subject, extent: Extent) -> Aggregates:
    """The aggregates of a generation, from all of it in one portion."""
    totals = {name: sums(getattr(found, name).counts) for name, sums in TOTALS.items()}
    if subject.segments:
        totals["segments"] = segment_totals(found.segments, len(subject.segments))
    pieces = outages(found.moments, extent.outage_bits)
    latencies = None
    if subject.role == "canary":
        arm, day, unit, outage_slice, bins = found.answers.keys
        by_day = grouped([arm, day, unit, bins], found.answers.counts)
        by_time = grouped([arm, outage_slice >> extent.outage_bits, bins], found.answers.counts)
        latencies = Latencies.of(latency_sums(by_day), by_time)
    uncopied = found.windows.counts[found.windows.keys[0] < extent.copies_due, 1]
    return Aggregates(
        generation=subject.generation,
        extent=extent,
        totals={**totals, "counts": found.counts},
        outages=pieces.counts,
        long_outages=outages(pieces, extent.longer_bits).counts,
        latencies=latencies,
        calls=found.calls,
        dropped=found.dropped,
        uncopied=int(uncopied.sum()),
        busiest=int(found.windows.counts[:, 0].max(initial=0)),
        segments=tuple(segment.name for segment in subject.segments),
    )


def outages(slices: KeyedCounts, bits: int) -> KeyedCounts:
    """Outage slices, or stretches of them, joined to stretches of 2^bits."""
    return grouped([slices.keys[0] >> bits], slices.counts[:, :4])
