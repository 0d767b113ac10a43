"""Judgements by labels, computed from sums over all pairs and from the pairs that can change a
bound."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from mlplatform.rollouts.cache.pair import (
    Pairs,
    immature,
    is_drawn,
    labelled,
    outcome_seen,
    pairs_of,
)
from mlplatform.rollouts.cache.pair_counts import HIGHEST
from mlplatform.rollouts.verdicts.basis import OutcomeBasis
from mlplatform.rollouts.verdicts.delays import (
    ArrivedShare,
    DelayCurve,
    arrived_share,
    counted_curve,
)
from mlplatform.rollouts.verdicts.facts import Integers
from mlplatform.rollouts.verdicts.hidden_outcomes import Floats, PartialOutcomes
from mlplatform.rollouts.verdicts.outcomes import (
    LABELS,
    LabelledClasses,
    LabelledNumbers,
    Outcomes,
)
from mlplatform.rollouts.verdicts.statistics import ClusterSums


@dataclass(frozen=True, slots=True, eq=False)
class PairAges:
    """Pairs by age: one element per step of event time that has pairs, oldest first.

    Args:
        age_ms: present age of the pairs, in milliseconds, a multiple of the step.
        pairs: number of pairs of each age.
        seen: number of those whose outcome is known or may still become known.
        labelled: number of those with label 0, and of those with label 1.
        delays: for label 0 and for label 1, rows of (delay in steps, number of labels), delays
            ascending.
    """

    basis: OutcomeBasis
    last_ms: int
    age_ms: Integers
    pairs: Integers
    seen: Integers
    labelled: tuple[Integers, Integers]
    delays: tuple[Integers, Integers]

    @classmethod
    def of(cls, ages: Integers, delays: tuple[Integers, Integers], basis: OutcomeBasis) -> PairAges:
        """Pairs by their age now, from counts as `pair_counts.read_ages` and `read_delays` return
        them."""
        step, pairs, seen, *labels = ages.T
        return cls(
            basis=basis,
            last_ms=int(step[-1] + 1) * basis.step_ms - 1 if len(step) else 0,
            age_ms=basis.age_ms(step * basis.step_ms),
            pairs=pairs,
            seen=seen,
            labelled=(labels[0], labels[1]),
            delays=delays,
        )

    @property
    def requests(self) -> int:
        return int(self.pairs.sum())

    @property
    def immature(self) -> int:
        return int((self.seen - self._mature).sum())

    @property
    def _mature(self) -> Integers:
        """The number of pairs of each age whose outcome no longer changes by waiting."""
        young = self.age_ms < self.basis.maturity_ms
        return np.where(young, self.labelled[0] + self.labelled[1], self.seen)

    @property
    def _mature_ages(self) -> tuple[Integers, Integers | None]:
        """Ages of the mature pairs, with the number of pairs of each age. Where steps are of 1 ms,
        each pair has an element of its own and no numbers are given: only sums in one order are
        equal to the bit."""
        if self.basis.step_ms == 1:
            return np.repeat(self.age_ms, self._mature), None
        return self.age_ms, self._mature

    def curves(self) -> tuple[DelayCurve | None, dict[str, ArrivedShare]]:
        """The delay curve of positive labels, if any has come, and the share of either label that
        has come."""
        positive, arrived_shares = None, dict[str, ArrivedShare]()
        there = self.seen > 0
        for value, name in enumerate(LABELS):
            steps, events = self.delays[value].T
            without = (self.seen - self.labelled[value])[there]
            curve = counted_curve(self.age_ms[there], without, steps * self.basis.step_ms, events)
            if (found := arrived_share(curve, *self._mature_ages)) is not None:
                arrived_shares[name] = found
                positive = curve if value == 1 else positive
        return positive, arrived_shares


def outcomes_of(
    ages: PairAges,
    telling: Callable[[int], Pairs],
    writers: list[str],
    is_labelled_after: Callable[[int], bool],
) -> Outcomes:
    """Outcomes of the pairs, by the labels that have come.

    Args:
        telling: returns the pairs that may change a bound, given the number of pairs that may be
            alerts.
        writers: names of the writers; pairs refer to them by position.
        is_labelled_after: tells whether any label arrived after a given event time, until now.
    """
    basis, (curve, arrived_shares) = ages.basis, ages.curves()
    kept = ages.requests - ages.immature
    alerts = round(basis.capacity * kept)
    rows = _telling(telling(alerts), basis, alerts, _ranks(writers))
    seen = outcome_seen(rows)
    share = np.ones(len(rows))
    if curve is not None:
        share = curve.share(basis.age_ms(rows["event_ms"]))
    return Outcomes(
        requests=PartialOutcomes(
            unit=rows["unit"],
            positive=seen & (rows["label"] == 1),
            seen=seen,
            chance=np.where(rows["chance"] > 0.0, rows["chance"], seen),
            guess=np.clip(rows["score"], 0.0, 1.0),
            came=np.where(share > 0, share, 1.0),
        ),
        challenger=rows["copy"],
        champion=rows["score"],
        immature=ages.immature,
        silent=not is_labelled_after(ages.last_ms),
        arrived_shares=arrived_shares,
        others=kept - len(rows),
    )


def classes_of(
    ages: PairAges, of_units: list[int], is_labelled_after: Callable[[int], bool]
) -> LabelledClasses:
    """Outcomes of the pairs of a model of classes, by the labels that have come.

    Args:
        of_units: numbers of `ClusterSums`.
    """
    return LabelledClasses(
        wrong=ClusterSums.of(np.array(of_units)),
        immature=ages.immature,
        silent=not is_labelled_after(ages.last_ms),
    )


def numbers_of(
    ages: PairAges,
    portions: Iterable[Pairs],
    writers: list[str],
    is_labelled_after: Callable[[int], bool],
) -> LabelledNumbers:
    """Outcomes of the pairs of a model of numbers, by the labels that have come."""
    rows = np.concatenate([pairs_of([]), *(rows[labelled(rows)] for rows in portions)])
    rows = rows[_order(rows, _ranks(writers))]
    return LabelledNumbers(
        unit=rows["unit"],
        challenger=rows["copy"],
        champion=rows["score"],
        labels=rows["truth"],
        immature=ages.immature,
        silent=not is_labelled_after(ages.last_ms),
    )


def _telling(rows: Pairs, basis: OutcomeBasis, alerts: int, ranks: Integers) -> Pairs:
    """The pairs that can change a bound, in the order of the log."""
    rows = rows[~immature(rows, basis)]
    rows = rows[_order(rows, ranks)]
    seen = outcome_seen(rows)
    tells = ~seen | is_drawn(rows) | (seen & (rows["label"] == 1))
    for name in HIGHEST:
        tells[_highest(rows[name], alerts)] = True
    found: Pairs = rows[tells]
    return found


def _highest(scores: Floats, count: int) -> Integers:
    """Indices of the `count` highest scores; of equal scores the first come first."""
    if not count:
        return np.zeros(0, dtype=np.int64)
    least = np.partition(scores, -count)[-count] if count < len(scores) else -np.inf
    above = np.flatnonzero(scores > least)
    return np.concatenate((above, np.flatnonzero(scores == least)[: count - len(above)]))


def _order(rows: Pairs, ranks: Integers) -> Integers:
    """Indices that sort pairs by (event_ms, writer, seq)."""
    return np.lexsort((rows["seq"], ranks[rows["writer"]], rows["event_ms"]))


def _ranks(writers: list[str]) -> Integers:
    """The rank of each writer by its name, in the order of their places."""
    ranks = np.zeros(len(writers), dtype=np.int64)
    ranks[sorted(range(len(writers)), key=writers.__getitem__)] = np.arange(len(writers))
    return ranks
