"""What is judged by labels, from pairs that are read some at a time.

Of all requests that both arms scored, only those are held at once that change a bound: positives,
those whose outcome is hidden or was drawn, and as many of the highest scores of either arm as
people can look at. Of the others their number, their ages and delays are enough.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mlplatform.rollouts.cache.pairs import COPY_RIGHT, HIDES, NO_LABEL, PAIR, RIGHT, Pairs
from mlplatform.rollouts.verdicts.basis import OutcomeBasis
from mlplatform.rollouts.verdicts.delays import DelayCurve, LabelsCome, delay_curve, labels_come
from mlplatform.rollouts.verdicts.facts import Flags, Integers
from mlplatform.rollouts.verdicts.hidden_outcomes import PartialOutcomes
from mlplatform.rollouts.verdicts.outcomes import LABELS, LabelledPairs, Outcomes

Reading = Callable[[], Iterable[Pairs]]
"""Begins at the first pair again each time."""


def outcomes_of(
    reading: Reading,
    writers: list[str],
    basis: OutcomeBasis,
    is_labelled_after: Callable[[int], bool],
) -> Outcomes:
    """What the labels that have come say of the pairs.

    Args:
        writers: whose places the pairs hold.
        is_labelled_after: whether any label arrived after an event time, until now.
    """
    ages = _Ages.of(reading(), basis)
    curve, come = ages.curves(basis.now_event_ms)
    kept = ages.requests - ages.immature
    rows = _telling(reading(), basis, round(basis.capacity * kept), _ranks(writers))
    seen, _ = _known(rows, basis)
    share = np.ones(len(rows))
    if curve is not None:
        share = curve.share(basis.now_event_ms - rows["event_ms"])
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
        come=come,
        others=kept - len(rows),
    )


def labelled_pairs_of(
    reading: Reading,
    writers: list[str],
    basis: OutcomeBasis,
    is_labelled_after: Callable[[int], bool],
) -> LabelledPairs:
    """The labelled pairs of classes or numbers; of classes, only whether each is right is kept."""
    labelled, immature, last_ms = [np.zeros(0, dtype=PAIR)], 0, 0
    for rows in reading():
        known = rows["label"] != NO_LABEL
        young = basis.now_event_ms - rows["event_ms"] < basis.maturity_ms
        labelled.append(rows[known])
        immature += int((~known & young).sum())
        last_ms = max(last_ms, int(rows["event_ms"].max()))
    rows = np.concatenate(labelled)
    rows = rows[_order(rows, _ranks(writers))]
    if basis.task == "classes":
        challenger, champion = (rows["flags"] & COPY_RIGHT) > 0, (rows["flags"] & RIGHT) > 0
        truth = np.ones(len(rows), dtype=np.bool_)
    else:
        challenger, champion, truth = rows["copy"], rows["score"], rows["truth"]
    return LabelledPairs(
        unit=rows["unit"],
        challenger=challenger,
        champion=champion,
        labels=truth,
        immature=immature,
        silent=not is_labelled_after(last_ms),
    )


@dataclass(frozen=True, slots=True)
class _Ages:
    """Columns of all pairs, by event time.

    Args:
        seen: the outcome is, or may still come to be. mature: and can no longer change by waiting.
        label, arrived_ms: of the last label.
    """

    event_ms: Integers
    seen: Flags
    mature: Flags
    label: npt.NDArray[np.int8]
    arrived_ms: Integers

    @classmethod
    def of(cls, portions: Iterable[Pairs], basis: OutcomeBasis) -> _Ages:
        parts = []
        for rows in (np.zeros(0, dtype=PAIR), *portions):
            seen, immature = _known(rows, basis)
            parts.append((rows["event_ms"].copy(), seen, seen & ~immature, rows["label"].copy(),
                          rows["arrived_ms"].copy()))  # fmt: skip
        columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
        order = np.argsort(columns[0], kind="stable")
        return cls(*(column[order] for column in columns))

    @property
    def requests(self) -> int:
        return len(self.event_ms)

    @property
    def immature(self) -> int:
        return int((self.seen & ~self.mature).sum())

    @property
    def last_ms(self) -> int:
        return int(self.event_ms[-1]) if len(self.event_ms) else 0

    def curves(self, now_ms: int) -> tuple[DelayCurve | None, dict[str, LabelsCome]]:
        """The delays of positive labels, where any has come, and how many of either have come."""
        age_ms, positive = now_ms - self.event_ms, None
        come: dict[str, LabelsCome] = {}
        for value, name in enumerate(LABELS):
            late_ms = np.maximum(self.arrived_ms - self.event_ms, 0)
            delay_ms = np.where(self.label == value, late_ms, -1)
            curve = delay_curve(age_ms[self.seen], delay_ms[self.seen])
            if (found := labels_come(curve, age_ms[self.mature])) is not None:
                come[name] = found
                positive = curve if value == 1 else positive
        return positive, come


def _known(rows: Pairs, basis: OutcomeBasis) -> tuple[Flags, Flags]:
    """Whose outcome is seen, unless it is immature; and which of them are."""
    labelled = rows["label"] != NO_LABEL
    seen = ((rows["flags"] & HIDES) == 0) | (labelled & (rows["chance"] == 0.0))
    young = basis.now_event_ms - rows["event_ms"] < basis.maturity_ms
    return seen, seen & ~labelled & young


def _telling(portions: Iterable[Pairs], basis: OutcomeBasis, alerts: int, ranks: Integers) -> Pairs:
    """The pairs that change a bound, in the order of the log."""
    nothing = np.zeros(0, dtype=PAIR)
    telling, highest = [nothing], {"score": nothing, "copy": nothing}
    for portion in portions:
        seen, immature = _known(portion, basis)
        drawn = (portion["chance"] > 0) & (portion["chance"] < 1)
        rows = portion[~immature]
        telling.append(portion[~immature & (~seen | drawn | (seen & (portion["label"] == 1)))])
        for name, best in highest.items():
            some = (
                rows if len(best) < alerts else rows[rows[name] >= best[name].min(initial=np.inf)]
            )
            both = np.concatenate((best, some))
            order = np.lexsort((both["seq"], ranks[both["writer"]], both["event_ms"], -both[name]))
            highest[name] = both[order[:alerts]]
    found = np.concatenate((*telling, *highest.values()))
    found = found[_order(found, ranks)]
    same = (found["seq"][1:] == found["seq"][:-1]) & (found["writer"][1:] == found["writer"][:-1])
    return found[np.concatenate(([True], ~same))] if len(found) else found


def _order(rows: Pairs, ranks: Integers) -> Integers:
    """Places by (event_ms, writer, seq)."""
    return np.lexsort((rows["seq"], ranks[rows["writer"]], rows["event_ms"]))


def _ranks(writers: list[str]) -> Integers:
    """The rank of each writer's place: that of its name among the names."""
    ranks = np.zeros(len(writers), dtype=np.int64)
    ranks[sorted(range(len(writers)), key=writers.__getitem__)] = np.arange(len(writers))
    return ranks
